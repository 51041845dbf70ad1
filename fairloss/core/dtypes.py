"""The dtype that statistics are accumulated in."""

from __future__ import annotations

import torch

__all__ = ["statistics_dtype"]


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything narrower is accumulated in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
