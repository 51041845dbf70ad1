"""Checks shared by the torchmetrics classes: shapes, group ids, labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fairloss.core.checks import expected, integer
from fairloss.core.tensor_checks import whole

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("torchmetrics is needed here: pip install 'fairloss[torchmetrics]'") from error

__all__ = ["Grouped"]


class Grouped(Metric):
    """A metric of (preds, target, groups) with a fixed number of groups."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, num_groups: int, *, validate_args: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_groups = integer("num_groups", num_groups, minimum=1)
        self.validate_args = validate_args

    def _check(self, preds: Tensor, target: Tensor, groups: Tensor, classes: int) -> None:
        if groups.ndim != 1 or len(preds) != len(groups) or len(target) != len(groups):
            shapes = f"shapes {tuple(preds.shape)}, {tuple(target.shape)}, {tuple(groups.shape)}"
            raise ValueError(expected("preds, target, groups", "one row per sample and (N,) groups", shapes))
        whole("groups", groups, "group ids")
        if not self.validate_args or not len(groups):
            return
        low, high = int(groups.min()), int(groups.max())
        if low < -1 or high >= self.num_groups:
            wanted = f"ids -1 (unknown) .. {self.num_groups - 1}"
            raise ValueError(expected("groups", wanted, low if low < -1 else high))
        if preds.is_floating_point() and not bool(preds.isfinite().all()):
            raise ValueError(expected("preds", "finite scores", "NaN or infinity"))
        if not bool(((target >= 0) & (target < classes)).all()):
            raise ValueError(expected("target", f"labels 0 .. {classes - 1}", f"{target.min()} .. {target.max()}"))

    def _check_probabilities(self, preds: Tensor, cure: str = "") -> None:
        if self.validate_args and len(preds) and not bool(((preds >= 0) & (preds <= 1)).all()):
            raise ValueError(expected("preds", "probabilities in [0, 1]", f"{preds.min()} .. {preds.max()}", cure))

    def _add(self, name: str, amount: Tensor) -> None:
        """Add to a state whose name is not known to Python."""
        setattr(self, name, getattr(self, name) + amount)
