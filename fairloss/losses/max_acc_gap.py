"""MaxAccGap: the gap between the best and the worst group's soft accuracy.

Paper: Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, eqs 5-6.
The paper's hard max and min are the default. Differences: absent groups take no part (the
paper's estimate is undefined there), ``smoothing`` and ``memory`` are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import per_sample, same_device
from fairloss.groups.ids import (
    ATTRIBUTE_REDUCTIONS,
    AttributeReduction,
    GroupIds,
    check_groups,
    check_num_groups,
    estimate_scale,
    reduce_attributes,
    single_attribute,
)
from fairloss.groups.memory import GroupMemory
from fairloss.losses.tasks import Task, TokenReduction, check_task, resolve_task, sample_likelihood

__all__ = ["MaxAccGapLoss", "check_memory", "gap_over_groups", "group_gap", "max_acc_gap"]


def gap_over_groups(
    means: Tensor,
    absent: Tensor,
    num_groups: tuple[int, ...],
    *,
    smoothing: float | None = None,
    reduction: AttributeReduction = "mean",
) -> Tensor:
    """Largest minus smallest of the present groups' means: one gap an attribute, reduced over attributes.

    (G,) means give a scalar, (G, C) means the gaps of C columns at once; ``absent`` is broadcast to them. Fewer than two
    present groups of an attribute: 0, and the gradient is 0.
    """
    if len(num_groups) == 1:
        return _gap(means, absent, smoothing)
    pieces = zip(means.split(num_groups), absent.split(num_groups), strict=True)
    return reduce_attributes(torch.stack([_gap(m, away, smoothing) for m, away in pieces]), reduction)


def _gap(m: Tensor, absent: Tensor, smoothing: float | None) -> Tensor:
    """One attribute's gap, (G, ...) -> (...)."""
    if smoothing is None:
        return _hard_gap(m, absent)
    # A softmax over nothing is NaN: where no group is present all stand in with their zeros.
    absent = absent & ~absent.all(0)
    upper = torch.softmax((m / smoothing).masked_fill(absent, -torch.inf), 0)
    lower = torch.softmax((-m / smoothing).masked_fill(absent, -torch.inf), 0)
    return (upper * m).sum(0) - (lower * m).sum(0)


def _hard_gap(m: Tensor, absent: Tensor) -> Tensor:
    """The same; groups that tie share the gradient. Its slope is spelled out, which takes a third of autograd's steps."""
    fixed = m.detach()
    high, low = fixed.masked_fill(absent, -torch.inf), fixed.masked_fill(absent, torch.inf)
    top, bottom = high.amax(0), low.amin(0)
    # Where no group is present the infinities tie: a slope that meets no sample.
    best, worst = (high == top).to(m.dtype), (low == bottom).to(m.dtype)
    slope = best / best.sum(0) - worst / worst.sum(0)
    return (top - bottom).clamp(min=0) + (slope * (m - fixed)).sum(0)  # plus an exact 0 that carries the gradient


def check_memory(memory: GroupMemory | None, num_groups: tuple[int, ...], like: Tensor | None = None) -> None:
    """Raise unless ``memory`` is None or fits the one attribute, and lies on the device of the samples ``like``."""
    if memory is None:
        return
    if not isinstance(memory, GroupMemory):
        raise TypeError(f"memory: a fairloss.GroupMemory is needed, {type(memory).__name__} was given")
    size = single_attribute(num_groups, "a memory")
    if memory.num_groups != size:
        raise ValueError(f"memory: it has {memory.num_groups} groups, num_groups is {size}")
    if like is not None:
        same_device("memory", memory.values, "the batch", like)


def _with_memory(sums: Tensor, counts: Tensor, memory: GroupMemory) -> tuple[Tensor, Tensor]:
    """Means and absence over memory and batch; their gradient is that of S_g, an estimate from the batch's sums."""
    held_sums, held_counts = memory.totals()
    union = counts + held_counts
    scale = estimate_scale(counts, memory.shares(counts))
    # Plus an exact 0 that carries the gradient.
    return (sums.detach() + held_sums) / union.clamp(min=1) + scale * (sums - sums.detach()), union == 0


def group_gap(
    values: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    smoothing: float | None = None,
    memory: GroupMemory | None = None,
    reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Gap between the largest and the smallest group mean of any per-sample value.

    gap = max_g m_g - min_g m_g over the groups present, m_g = mean_{i in g} v_i. With ``smoothing=t`` the max (min) is the
    average of the m_g weighted by softmax(m/t) (softmax(-m/t)): inside [min, max], and hard as t -> 0. 0 means that all
    groups' means are equal.

    Args:
        values: (N,) floating: an accuracy, a loss, a Dice score.
        groups: (N,) integer or bool ids, -1 = unknown; (N, K) for K attributes.
        num_groups: number of groups; a tuple of K numbers for K attributes.
        smoothing: t > 0, in the unit of the values; ``None`` is the hard gap.
        memory: ranks the groups on memory and batch (one attribute). It takes the batch in when it is in training mode and
            gradients are enabled.
        reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the result that of all its ranks' samples.

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
    sizes = check_num_groups(num_groups)
    if smoothing is not None:
        smoothing = checks.number("smoothing", smoothing, above=0)
    checks.choice("reduction", reduction, ATTRIBUTE_REDUCTIONS)
    check_process_group(process_group)
    per_sample("values", values)
    check_memory(memory, sizes, like=values)
    ids = check_groups(groups, sizes, values.shape[0], like=values)
    return gap_of_ids(values.to(statistics_dtype(values.dtype)), ids, smoothing, memory, reduction, process_group)


def gap_of_ids(
    v: Tensor,
    ids: GroupIds,
    smoothing: float | None,
    memory: GroupMemory | None,
    reduction: AttributeReduction,
    process_group: ProcessGroup | None,
) -> Tensor:
    """:func:`group_gap` of arguments already checked: (N,) wide values and (N, K) ids."""
    sums, counts = ids.totals(v, process_group)
    if memory is None:
        means, absent = sums / counts.clamp(min=1), counts == 0
    else:
        means, absent = _with_memory(sums, counts, memory)
    gap = gap_over_groups(means, absent, ids.sizes, smoothing=smoothing, reduction=reduction)
    if memory is not None and memory.training and torch.is_grad_enabled():
        memory.push(v, ids.column, process_group=process_group)
    return gap


def max_acc_gap(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    smoothing: float | None = None,
    memory: GroupMemory | None = None,
    task: Task = "auto",
    ignore_index: int = -100,
    token_reduction: TokenReduction = "mean",
    reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Soft MaxAccGap as a function; see :class:`MaxAccGapLoss`.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> max_acc_gap(logits, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), num_groups=2)
        tensor(0.3808)
    """
    sizes = check_num_groups(num_groups)
    if smoothing is not None:
        smoothing = checks.number("smoothing", smoothing, above=0)
    checks.choice("token_reduction", token_reduction, ("mean", "sum"))
    checks.choice("reduction", reduction, ATTRIBUTE_REDUCTIONS)
    check_process_group(process_group)
    resolve_task(input, target, task)
    check_memory(memory, sizes, like=input)
    # All ids are checked, those of samples without a likelihood included.
    ids = check_groups(groups, sizes, input.shape[0], like=input)
    likelihood = sample_likelihood(input, target, task=task, ignore_index=ignore_index, token_reduction=token_reduction)
    known = ids.known(likelihood.valid)
    return gap_of_ids(likelihood.prob, known, smoothing, memory, reduction, process_group)


class MaxAccGapLoss(nn.Module):
    """Soft MaxAccGap: the largest minus the smallest group's mean probability of the true label.

    acc_g = mean_{i in g} exp(-nll_i);  loss = max_g acc_g - min_g acc_g over the groups present. 0 means that every group
    is served equally well, 1 is the largest value.

    Args:
        num_groups: number of groups; a tuple for several attributes.
        smoothing: t > 0 replaces max and min by softmax(+-acc/t)-weighted averages; ``None`` is the paper's hard gap.
        memory: a :class:`fairloss.GroupMemory`, so that small batches are ranked on more than themselves.
        task: kind of input: ``"auto"``, ``"binary"``, ``"multiclass"``, ``"multilabel"`` or ``"tokens"``.
        ignore_index: integer targets that count for nothing.
        token_reduction: ``"mean"`` or ``"sum"`` of the token nlls of an answer.
        reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Shape:
        - input: logits (N,), (N, 1), (N, C) or (N, T, V), float16 to float64 (computed in float32 at least)
        - target: (N,), (N, C) or (N, T)
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 logits)

    Raises:
        TypeError, ValueError: naming the argument, before any work or change of state.

    Note:
        Absent groups take no part; with fewer than two present the loss is 0 and ``backward()`` works. As a training signal
        add it to a task loss: alone, it is just as happy with every group served badly. Gradient reaches the best and the
        worst group (all groups with smoothing): it lowers the best one's accuracy as readily as it raises the worst one's.

    Example:
        >>> loss = MaxAccGapLoss(num_groups=2)
        >>> loss(torch.tensor([3.0, -1.0]), torch.tensor([1, 1]), torch.tensor([0, 1]))
        tensor(0.6836)

    References:
        Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, eqs 5-6.
    """

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        smoothing: float | None = None,
        memory: GroupMemory | None = None,
        task: Task = "auto",
        ignore_index: int = -100,
        token_reduction: TokenReduction = "mean",
        reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = check_num_groups(num_groups)
        self.smoothing = None if smoothing is None else checks.number("smoothing", smoothing, above=0)
        check_memory(memory, self.num_groups)
        check_process_group(process_group)
        self.memory = memory
        self.task = check_task(task)
        self.ignore_index = checks.integer("ignore_index", ignore_index, minimum=-(2**63))
        self.token_reduction = checks.choice("token_reduction", token_reduction, ("mean", "sum"))
        self.reduction = checks.choice("reduction", reduction, ATTRIBUTE_REDUCTIONS)
        self.process_group = process_group

    def forward(self, input: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return max_acc_gap(
            input,
            target,
            groups,
            num_groups=self.num_groups,
            smoothing=self.smoothing,
            memory=self.memory,
            task=self.task,
            ignore_index=self.ignore_index,
            token_reduction=self.token_reduction,  # type: ignore[arg-type]
            reduction=self.reduction,  # type: ignore[arg-type]
            process_group=self.process_group,
        )

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, smoothing={self.smoothing}, task={self.task!r}"
