"""Differentiable group-fairness losses for PyTorch, FairGRPO advantages, and fairness metrics.

Public names are resolved on first use (PEP 562): ``import fairloss`` and ``fairloss.metrics`` import no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fairloss._version import __version__

if TYPE_CHECKING:
    from fairloss.groups import intersect_groups as intersect_groups
    from fairloss.labels import encode_groups as encode_groups
    from fairloss.memory import GroupMemory as GroupMemory

# Public name -> the module that defines it.
_HOME = {
    "GroupMemory": "fairloss.memory",
    "encode_groups": "fairloss.labels",
    "intersect_groups": "fairloss.groups",
}
_SUBMODULES = ("functional", "integrations", "metrics", "policy")

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"fairloss.{name}")
    else:
        raise AttributeError(f"module 'fairloss' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_SUBMODULES])
