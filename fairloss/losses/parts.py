"""What a weighting loss did with a batch, so that a log needs no second computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fairloss.groups.ids import sum_by_attribute

__all__ = ["WeightingParts", "weighting_parts"]


class WeightingParts(NamedTuple):
    """A weighting loss and what it consists of; all but ``loss`` is detached.

    Attributes:
        loss: the value, a scalar.
        task: the same without weights, a scalar.
        means: (G,) the groups' means in the batch, 0 where absent; of several attributes one after the other.
        counts: (G,) the groups' samples in the batch.
        weights: the weights, (G,) by group or (N,) by sample, as the loss says.
    """

    loss: Tensor
    task: Tensor
    means: Tensor
    counts: Tensor
    weights: Tensor


def weighting_parts(
    loss: Tensor, sums: Tensor, counts: Tensor, weights: Tensor, sizes: Sequence[int], task: Tensor | None = None
) -> WeightingParts:
    """The parts from the groups' sums of values and counts, (G,); ``task`` is the known samples' mean where none is given."""
    if task is None:
        task = sum_by_attribute(sums, sizes) / sum_by_attribute(counts, sizes).clamp(min=1)
    means = sums / counts.clamp(min=1)
    return WeightingParts(loss, task.detach(), means.detach(), counts.detach(), weights.detach())
