"""What the losses on per-sample values share: any (N,) values will do, a loss, an accuracy, a Dice score."""

from __future__ import annotations

from torch import Tensor

from fairloss.core.distributed import ProcessGroup, all_reduce_sums
from fairloss.groups.ids import segment_totals

__all__ = ["check_values", "global_sums"]


def check_values(values: Tensor, name: str = "values") -> None:
    """Raise unless ``values`` is a floating tensor of shape (N,)."""
    if not isinstance(values, Tensor) or not values.dtype.is_floating_point:
        given = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name}: a floating-point tensor is needed, {given} was given")
    if values.ndim != 1:
        raise ValueError(f"{name}: shape (N,), one value a sample, is needed, {tuple(values.shape)} was given")


def global_sums(
    values: Tensor, ids: Tensor, num_groups: tuple[int, ...], process_group: ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """Sums by group of (N,) values and counts by group, each (G,), over all ranks."""
    sums, counts = all_reduce_sums(segment_totals(values, ids, num_groups), process_group)
    return sums, counts.detach()
