"""Checks shared by the torchmetrics classes: shapes, group ids, labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

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
        if num_groups < 1:
            raise ValueError(f"num_groups: {num_groups} was given; at least one group is needed")
        self.num_groups = num_groups
        self.validate_args = validate_args

    def _check(self, preds: Tensor, target: Tensor, groups: Tensor, classes: int) -> None:
        if groups.ndim != 1 or len(preds) != len(groups) or len(target) != len(groups):
            raise ValueError(
                f"preds, target, groups: {tuple(preds.shape)}, {tuple(target.shape)}, {tuple(groups.shape)} were given; "
                "one row a sample and (N,) groups are needed"
            )
        if groups.is_floating_point() or groups.is_complex():
            raise TypeError(f"groups: {groups.dtype} was given; integer ids are needed")
        if not self.validate_args or not len(groups):
            return
        low, high = int(groups.min()), int(groups.max())
        if low < -1 or high >= self.num_groups:
            bad = low if low < -1 else high
            raise ValueError(f"groups: {bad} was given; accepted are -1 (unknown) .. {self.num_groups - 1}")
        if preds.is_floating_point() and not bool(preds.isfinite().all()):
            raise ValueError("preds: NaN or infinity was given; finite scores are needed")
        if not bool(((target >= 0) & (target < classes)).all()):
            raise ValueError(f"target: {target.min()} .. {target.max()} was given; accepted are 0 .. {classes - 1}")
