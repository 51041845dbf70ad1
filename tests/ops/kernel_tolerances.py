"""How far the kernels may be from the float64 oracle, by op and dtype; inputs are rounded before the oracle sees them.

``value`` is |out - ref| / |ref| of a scalar, or ||out - ref|| / ||ref|| of a tensor; ``gradient`` is of the latter kind.
float16 and bfloat16 gradients are stored in that dtype; those of the contrastive loss pass through tiles of bfloat16: one part
in 256 a term.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Tolerance(NamedTuple):
    value: float
    gradient: float


TOLERANCES = {
    ("contrastive", torch.float32): Tolerance(2e-6, 2e-5),
    ("contrastive", torch.float16): Tolerance(2e-6, 5e-3),
    ("contrastive", torch.bfloat16): Tolerance(2e-6, 1e-2),
    ("advantages", torch.float32): Tolerance(1e-5, 0.0),
    ("advantages", torch.float64): Tolerance(1e-10, 0.0),
    ("likelihood", torch.float32): Tolerance(1e-6, 2e-6),
    ("likelihood", torch.bfloat16): Tolerance(1e-6, 4e-3),
    ("likelihood", torch.float16): Tolerance(1e-6, 5e-4),
    ("dice", torch.float32): Tolerance(2e-6, 5e-6),
    ("dice", torch.bfloat16): Tolerance(2e-6, 4e-3),
    ("dice", torch.float16): Tolerance(2e-6, 5e-4),
    ("segments", torch.float32): Tolerance(1e-6, 1e-6),
    ("segments", torch.float64): Tolerance(1e-14, 1e-14),
    ("segments", torch.bfloat16): Tolerance(5e-3, 5e-3),
    ("segments", torch.float16): Tolerance(1e-3, 1e-3),
}


def tolerance(op: str, dtype: torch.dtype) -> Tolerance:
    return TOLERANCES[op, dtype]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """||found - expected|| / ||expected||; the norm of ``found`` where nothing but the oracle's rounding is expected."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    norm = float(expected.norm())
    return float((found - expected).norm()) / norm if norm > 1e-12 else float(found.norm())
