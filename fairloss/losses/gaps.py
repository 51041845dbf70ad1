"""Gaps between groups: the largest minus the smallest of the group means, hard or smooth, on a batch or on a memory and it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import given_options, with_options
from fairloss.core.tensor_checks import per_sample
from fairloss.groups.ids import (
    ATTRIBUTE_REDUCTIONS,
    AttributeReduction,
    GroupIds,
    check_groups,
    check_num_groups,
    reduce_attributes,
)
from fairloss.groups.memory import GroupMemory, check_memory, check_memory_type
from fairloss.ops import segments

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "GAP_OPTIONS",
    "Direction",
    "GapOptions",
    "check_gap_options",
    "gap_of_means",
    "gap_of_values",
    "group_gap",
    "means_with_memory",
]

Direction = Literal["both", "raise"]
"""Which ends of a gap move: both (the papers'), or the worse one alone."""


class GapOptions(TypedDict, total=False):
    """Keyword arguments of every gap.

    Attributes:
        smoothing: t > 0 replaces max and min by averages of the groups' means m weighted by softmax(+-m/t), which stay inside
            [min, max] and tend to them as t -> 0; ``None`` is the hard gap.
        direction: ``"both"``: the gradient moves the largest and the smallest mean; ``"raise"``: the worse of them alone, so
            that the gap closes by the worst group's gain (with smoothing every group moves towards the better).
        memory: a :class:`fairloss.GroupMemory`, so that small batches are ranked on more than themselves. It takes the batch
            in when it is in training mode and gradients are enabled.
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.
    """

    smoothing: float | None
    direction: Direction
    memory: GroupMemory | None
    attribute_reduction: AttributeReduction
    process_group: ProcessGroup | None


GAP_OPTIONS: GapOptions = {
    "smoothing": None,
    "direction": "both",
    "memory": None,
    "attribute_reduction": "mean",
    "process_group": None,
}


def check_gap_options(o: Mapping[str, Any]) -> None:
    """Check what every gap takes, but for the memory, whose groups are the loss's business."""
    if o["smoothing"] is not None:
        checks.number("smoothing", o["smoothing"], above=0)
    checks.choice("direction", o["direction"], get_args(Direction))
    checks.choice("attribute_reduction", o["attribute_reduction"], ATTRIBUTE_REDUCTIONS)
    check_memory_type(o["memory"])
    check_process_group(o["process_group"])


def gap_of_means(means: Tensor, absent: Tensor, num_groups: tuple[int, ...], o: Mapping[str, Any]) -> Tensor:
    """Largest minus smallest of the present groups' means: one gap per attribute, reduced over attributes.

    (G,) means give a scalar, (G, C) means the gaps of C columns at once; ``absent`` is broadcast to them. Fewer than two
    present groups of an attribute: 0, and the gradient is 0. Under ``"raise"`` the gradient is that of the smallest mean
    alone (with smoothing, of the means at the weights that they have in it); where the largest is the worst, negate them.
    """
    if len(num_groups) == 1:
        return _gap(means, absent, o["smoothing"], o["direction"])
    pieces = zip(means.split(num_groups), absent.split(num_groups), strict=True)
    gaps = torch.stack([_gap(m, away, o["smoothing"], o["direction"]) for m, away in pieces])
    return reduce_attributes(gaps, o["attribute_reduction"])


def _gap(m: Tensor, absent: Tensor, smoothing: float | None, direction: Direction) -> Tensor:
    """One attribute's gap, (G, ...) -> (...)."""
    if smoothing is None:
        return _hard_gap(m, absent, direction)
    # A softmax over nothing is NaN: where no group is present all stand in with their zeros.
    absent = absent & ~absent.all(0)
    # The weights fall where a mean rises: with their gradient the smallest mean would rise by lowering others.
    ends = m if direction == "both" else m.detach()
    upper = torch.softmax((ends / smoothing).masked_fill(absent, -torch.inf), 0)
    lower = torch.softmax((-ends / smoothing).masked_fill(absent, -torch.inf), 0)
    gap = (upper * ends).sum(0) - (lower * ends).sum(0)
    if direction == "both":
        return gap
    return gap + (torch.where(gap > 0, -lower, 0.0) * (m - ends)).sum(0)  # plus an exact 0 that carries the gradient


def _hard_gap(m: Tensor, absent: Tensor, direction: Direction) -> Tensor:
    """The same; groups that tie share the gradient. Its slope is spelled out, which takes a third of autograd's steps."""
    fixed = m.detach()
    top, shares = _ends(torch.stack([fixed, -fixed]).masked_fill(absent, -torch.inf))
    gap, (best, worst) = top.sum(0).clamp(min=0), shares.unbind(0)
    # Under "raise" no group is worse than itself.
    slope = best - worst if direction == "both" else torch.where(gap > 0, -worst, 0.0)
    return gap + (slope * (m - fixed)).sum(0)  # plus an exact 0 that carries the gradient


def _ends(m: Tensor) -> tuple[Tensor, Tensor]:
    """Of means and minus the means, (2, G, ...), minus infinity where absent: the largest, and the groups' shares in it."""
    top = m.amax(1, keepdim=True)
    # Where no group is present the infinities tie: shares that meet no sample.
    ties = m == top
    return top.squeeze(1), ties / ties.sum(1, keepdim=True, dtype=m.dtype)


def gap_of_values(
    values: Tensor,
    ids: GroupIds,
    o: Mapping[str, Any],
    *,
    higher_is_better: bool = True,
    valid: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """:func:`group_gap` of arguments already checked, with (N,) values in the dtype of the statistics.

    ``valid``, (N,) bool, leaves out samples; ``rows`` are ``ids.rows(valid)``, given where the values left out are finite.
    """
    memory, process_group = o["memory"], o["process_group"]
    if rows is None:
        rows = ids.rows(valid)
        if len(ids.sizes) == 1:
            values = values.masked_fill(rows == 0, 0.0)  # 0 times infinity would be no 0
    alone = memory is None and process_group is None and len(ids.sizes) == 1
    hard = alone and o["smoothing"] is None and o["direction"] == "both"
    each = values.detach() if hard else ids.per_attribute(values)
    totals = segments.row_totals(each, rows, sum(ids.sizes), valid if len(ids.sizes) == 1 else None)
    sums, counts = all_reduce_sums(totals, process_group)
    counts = counts.detach()
    if hard:
        # The gap is linear in the values once its groups are known: backward then passes no sum by group.
        means = sums / counts  # NaN where absent, and there alone: a NaN among the values reaches the gap through them
        ends = torch.stack([means, -means]).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        best, worst = _ends(ends)[1].unbind(0)
        by_group = torch.nn.functional.pad((best - worst) / counts, (1, 0))
        return torch.dot(by_group[rows], values)
    if memory is None:
        means, absent = sums / counts.clamp(min=1), counts == 0
    else:
        known = ids if valid is None else ids.known(valid)
        means, absent = means_with_memory(values, known, sums, counts, memory, process_group)
    return gap_of_means(means if higher_is_better else -means, absent, ids.sizes, o)


def means_with_memory(
    values: Tensor,
    ids: GroupIds,
    sums: Tensor,
    counts: Tensor,
    memory: GroupMemory,
    process_group: ProcessGroup | None,
) -> tuple[Tensor, Tensor]:
    """Means and absence over memory and batch, whose ``sums`` and ``counts`` are given; the memory takes the batch in.

    Their gradient is that of S_g, an estimate from the batch's sums.
    """
    step = memory.begin()
    if step is not None:
        memory.push(values, ids.ids, process_group=process_group, step=step)
    held_sums, held_counts = memory.totals(step=step)
    union = counts + held_counts
    scale = memory.scale(counts, step=step)
    # Plus an exact 0 that carries the gradient.
    return (sums.detach() + held_sums) / union.clamp(min=1) + scale * (sums - sums.detach()), union == 0


@with_options(GAP_OPTIONS, GapOptions)
def group_gap(
    values: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    higher_is_better: bool | None = None,
    **options: Unpack[GapOptions],
) -> Tensor:
    """Gap between the largest and the smallest group mean of any per-sample value.

    gap = max_g m_g - min_g m_g over the groups present, m_g = mean_{i in g} v_i. 0 means that all groups' means are equal.

    Args:
        values: (N,) floating: an accuracy, a loss, a Dice score.
        groups: (N,) integer or bool ids, -1 = unknown; (N, K) for K attributes.
        num_groups: number of groups; a tuple of K numbers for K attributes.
        higher_is_better: which of the ends is the worse one; needed, and used, by ``direction="raise"``.
        options: by keyword.

    Returns:
        A scalar in float32 (float64 for float64 values).

    Raises:
        TypeError, ValueError: naming the argument; nothing has changed then.

    Note:
        Absent groups take no part; with fewer than two present (memory included) the gap is 0 and ``backward()`` works.
        Gradient flows through the means of the largest and smallest groups, ties sharing it, or with smoothing through all.
        Second derivatives are there, too; with a memory they are those of its estimate.

    Example:
        >>> values = torch.tensor([1.0, 0.0, 1.0, 1.0])
        >>> group_gap(values, torch.tensor([0, 0, 1, 1]), num_groups=3)
        tensor(0.5000)
    """
    sizes, o = check_num_groups(num_groups), given_options(options, GAP_OPTIONS)
    check_gap_options(o)
    if higher_is_better is not None:
        checks.flag("higher_is_better", higher_is_better)
    elif o["direction"] == "raise":
        cure = "True for accuracies, False for losses"
        raise ValueError(expected("higher_is_better", "True or False with direction='raise'", None, cure))
    per_sample("values", values)
    check_memory(o["memory"], sizes, device=values.device)
    ids = check_groups(groups, sizes, values.shape[0], device=values.device)
    return gap_of_values(
        values.to(statistics_dtype(values.dtype)), ids, o, higher_is_better=higher_is_better is not False
    )
