"""Demographic parity and equalized odds, softened: gaps between the groups' mean predicted probabilities.

Hard rates are step functions of the logits; their soft versions average the predicted probability instead of counting
predictions above a threshold. Papers: demographic parity as in Dwork et al. 2012, equalized odds as in Hardt et al. 2016.
A group without positives (negatives) takes no part in the true (false) positive rate; others' code counts its rate as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sum
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import option_names, options_of
from fairloss.groups.ids import (
    AttributeReduction,
    check_groups,
)
from fairloss.losses.gaps import check_gap_options, gap_of_means
from fairloss.losses.tasks import Task, check_range, check_task, resolve_task

__all__ = ["DemographicParityLoss", "EqualizedOddsLoss", "demographic_parity", "equalized_odds"]

OddsAggregation = Literal["mean", "worst_case"]
_KINDS = "'binary', 'multiclass' or 'multilabel'"


def _positive_probabilities(
    input: Tensor, target: Tensor, task: Task, positive_class: int | None, *, by_label: bool
) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of every class treated as the positive one, each (N, C').

    The labels' range is checked where the loss is ``by_label``.
    """
    kind = resolve_task(input, target, task)
    if kind == "tokens":
        raise ValueError(expected("task", _KINDS, "'tokens'"))
    if by_label:
        check_range(input, target, kind, auto=task == "auto")
    wide = input.to(statistics_dtype(input.dtype))
    if kind == "multiclass":
        probabilities = torch.softmax(wide, 1)
        if target.dtype.is_floating_point:
            labels = target.to(wide.dtype)
        else:
            classes = torch.arange(input.shape[1], device=input.device)
            labels = (target.unsqueeze(1) == classes).to(wide.dtype)
    else:
        columns = input.shape[1] if kind == "multilabel" else 1
        probabilities, labels = torch.sigmoid(wide).reshape(-1, columns), target.to(wide.dtype).reshape(-1, columns)
    if positive_class is None:
        return probabilities, labels
    if kind == "binary":
        raise ValueError(expected("positive_class", "None for a binary task, which has one", positive_class))
    if positive_class >= input.shape[1]:
        raise ValueError(
            expected("positive_class", f"one of the classes or labels 0 .. {input.shape[1] - 1}", positive_class)
        )
    return probabilities[:, positive_class, None], labels[:, positive_class, None]


def _rate_gaps(
    sums: Tensor,
    weights: Tensor,
    num_groups: tuple[int, ...],
    smoothing: float | None,
    attribute_reduction: AttributeReduction,
) -> Tensor:
    """(C',) gaps between groups of the rates sums / weights, (G, C'); groups of weight 0 take no part."""
    absent = weights == 0
    means = sums / weights.masked_fill(absent, 1.0)
    return gap_of_means(means, absent, num_groups, smoothing=smoothing, attribute_reduction=attribute_reduction)


def demographic_parity(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    positive_class: int | None = None,
    smoothing: float | None = None,
    task: Task = "auto",
    attribute_reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Gap between groups of the soft positive rate as a function; see :class:`DemographicParityLoss`.

    Example:
        >>> logits, target = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0, 1, 1])
        >>> demographic_parity(logits, target, torch.tensor([0, 0, 1]), num_groups=2)
        tensor(0.3808)
    """
    sizes = _check_options(num_groups, positive_class, smoothing, attribute_reduction, process_group)
    p, _ = _positive_probabilities(input, target, task, positive_class, by_label=False)
    ids = check_groups(groups, sizes, p.shape[0], device=p.device)
    sums, counts = ids.totals(p, process_group)
    return _rate_gaps(sums, counts.unsqueeze(1), sizes, smoothing, attribute_reduction).mean()


def equalized_odds(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    agg: OddsAggregation = "mean",
    positive_class: int | None = None,
    smoothing: float | None = None,
    task: Task = "auto",
    attribute_reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Gaps between groups of the soft true and false positive rates as a function; see :class:`EqualizedOddsLoss`.

    Example:
        >>> logits, target = torch.tensor([0.0, 2.0, 2.0, 2.0]), torch.tensor([1, 1, 0, 0])
        >>> equalized_odds(logits, target, torch.tensor([0, 1, 0, 1]), num_groups=2)
        tensor(0.1904)
    """
    sizes = _check_options(num_groups, positive_class, smoothing, attribute_reduction, process_group)
    checks.choice("agg", agg, ("mean", "worst_case"))
    p, labels = _positive_probabilities(input, target, task, positive_class, by_label=True)
    ids = check_groups(groups, sizes, p.shape[0], device=p.device)
    # Both rates at once: columns of the positives, then of the negatives, and their weights beside them.
    positives = p * labels
    columns = torch.cat([positives, p - positives, labels, 1 - labels], 1)
    sums = all_reduce_sum(ids.sum(columns), process_group)
    rates, weights = sums.chunk(2, 1)
    gaps = _rate_gaps(rates, weights.detach(), sizes, smoothing, attribute_reduction).reshape(2, -1)
    return (gaps.mean(0) if agg == "mean" else gaps.amax(0)).mean()


def _check_options(
    num_groups: int | Sequence[int],
    positive_class: int | None,
    smoothing: float | None,
    attribute_reduction: str,
    process_group: ProcessGroup | None,
) -> tuple[int, ...]:
    if positive_class is not None:
        checks.integer("positive_class", positive_class, minimum=0)
    return check_gap_options(num_groups, smoothing, attribute_reduction, process_group)


class _ParityLoss(nn.Module):
    """Options that both losses hold."""

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        positive_class: int | None = None,
        smoothing: float | None = None,
        task: Task = "auto",
        attribute_reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = _check_options(num_groups, positive_class, smoothing, attribute_reduction, process_group)
        self.positive_class, self.smoothing = positive_class, smoothing
        self.task = check_task(task)
        if task == "tokens":
            raise ValueError(expected("task", _KINDS, "'tokens'"))
        self.attribute_reduction, self.process_group = attribute_reduction, process_group

    def extra_repr(self) -> str:
        return f"num_groups={self.num_groups}, positive_class={self.positive_class}, task={self.task!r}"


class DemographicParityLoss(_ParityLoss):
    """Gap between groups of the soft positive rate.

    r_g = mean_{i in g} p_i with p the predicted probability of the positive class; loss = max_g r_g - min_g r_g over the
    groups present; for several classes (one against the rest) or labels the mean of their gaps. 0 means equal rates. The
    target gives the shape of the task and nothing else.

    Args:
        num_groups: number of groups; a tuple for several attributes.
        positive_class: the class or label whose rate counts; ``None``: the mean over them. Not for binary tasks.
        smoothing: t > 0 replaces max and min by softmax(+-r/t)-weighted averages.
        task: ``"auto"``, ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Shape:
        - input: logits (N,), (N, 1) or (N, C), float16 to float64 (computed in float32 at least)
        - target: (N,) or (N, C)
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 logits)

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        Absent groups take no part; fewer than two present give 0. Where prevalence differs between groups a perfect
        classifier has a loss above 0. For batches too small to hold the groups, pass the probabilities to
        :func:`fairloss.functional.group_gap` with a memory.

    Example:
        >>> loss = DemographicParityLoss(2)
        >>> loss(torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
        tensor(0.3808)

    References:
        Dwork et al., *Fairness Through Awareness*, 2012.
    """

    _OPTIONS = option_names(demographic_parity)

    def forward(self, input: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return demographic_parity(input, target, groups, **options_of(self, self._OPTIONS))


class EqualizedOddsLoss(_ParityLoss):
    """Gaps between groups of the soft true and false positive rates.

    TPR_g = mean of p over the positives of g, FPR_g over its negatives; loss = mean (or larger) of max_g TPR_g - min_g TPR_g
    and the same for FPR; for several classes (one against the rest) or labels the mean over them. 0 means equal rates.

    Args:
        num_groups: number of groups; a tuple for several attributes.
        agg: ``"mean"`` of the two gaps, or ``"worst_case"``, the larger one.
        positive_class: multiclass: the class that counts as positive; ``None``: the mean over classes.
        smoothing: t > 0 replaces max and min by softmax(+-r/t)-weighted averages.
        task: ``"auto"``, ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Shape:
        - input: logits (N,), (N, 1) or (N, C), float16 to float64 (computed in float32 at least)
        - target: (N,) or (N, C); fractions count as that much of a positive
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 logits)

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        A group without positives is out of the TPR term, one without negatives out of the FPR term; a term with fewer than
        two groups is 0. A perfect classifier has loss 0, whatever the prevalences.

    Example:
        >>> loss = EqualizedOddsLoss(2)
        >>> loss(torch.tensor([0.0, 2.0, 2.0, 2.0]), torch.tensor([1, 1, 0, 0]), torch.tensor([0, 1, 0, 1]))
        tensor(0.1904)

    References:
        Hardt et al., *Equality of Opportunity in Supervised Learning*, 2016.
    """

    _OPTIONS = option_names(equalized_odds)

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        agg: OddsAggregation = "mean",
        positive_class: int | None = None,
        smoothing: float | None = None,
        task: Task = "auto",
        attribute_reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            num_groups,
            positive_class=positive_class,
            smoothing=smoothing,
            task=task,
            attribute_reduction=attribute_reduction,
            process_group=process_group,
        )
        checks.choice("agg", agg, ("mean", "worst_case"))
        self.agg: OddsAggregation = agg

    def forward(self, input: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return equalized_odds(input, target, groups, **options_of(self, self._OPTIONS))
