"""Demographic parity, equal opportunity and equalized odds, softened: gaps between the groups' mean predicted probabilities.

Hard rates are step functions of the logits; their soft versions average the predicted probability instead of counting
predictions above a threshold. Papers: demographic parity as in Dwork et al. 2012, equal opportunity and equalized odds as in
Hardt et al. 2016. A group without positives (negatives) takes no part in the true (false) positive rate; others' code counts
its rate as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.groups.ids import AttributeReduction
from fairloss.groups.memory import GroupMemory, check_memory_type
from fairloss.losses.gaps import Direction
from fairloss.losses.rates import check_parity_options, check_parity_task, gaps_of_rates
from fairloss.losses.tasks import Task, check_task

__all__ = [
    "DemographicParityLoss",
    "EqualOpportunityLoss",
    "EqualizedOddsLoss",
    "demographic_parity",
    "equal_opportunity",
    "equalized_odds",
]

OddsAggregation = Literal["mean", "worst_case"]


def demographic_parity(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    positive_class: int | None = None,
    smoothing: float | None = None,
    direction: Direction = "both",
    memory: GroupMemory | None = None,
    task: Task = "auto",
    ignore_index: int = -100,
    attribute_reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Gap between groups of the soft positive rate as a function; see :class:`DemographicParityLoss`.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0, 1, 1])
        >>> demographic_parity(logits, target, torch.tensor([0, 0, 1]), num_groups=2)
        tensor(0.3808)
    """
    return gaps_of_rates(
        input, target, groups, "all", num_groups=num_groups, positive_class=positive_class, smoothing=smoothing,
        direction=direction, memory=memory, task=task, ignore_index=ignore_index,
        attribute_reduction=attribute_reduction, process_group=process_group,
    ).mean()  # fmt: skip


def equal_opportunity(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    positive_class: int | None = None,
    smoothing: float | None = None,
    direction: Direction = "both",
    memory: GroupMemory | None = None,
    task: Task = "auto",
    ignore_index: int = -100,
    attribute_reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Gap between groups of the soft true positive rate as a function; see :class:`EqualOpportunityLoss`.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([0.0, 2.0, 2.0, 2.0]), torch.tensor([1, 1, 0, 0])
        >>> equal_opportunity(logits, target, torch.tensor([0, 1, 0, 1]), num_groups=2)
        tensor(0.3808)
    """
    return gaps_of_rates(
        input, target, groups, "tpr", num_groups=num_groups, positive_class=positive_class, smoothing=smoothing,
        direction=direction, memory=memory, task=task, ignore_index=ignore_index,
        attribute_reduction=attribute_reduction, process_group=process_group,
    ).mean()  # fmt: skip


def equalized_odds(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    agg: OddsAggregation = "mean",
    positive_class: int | None = None,
    smoothing: float | None = None,
    direction: Direction = "both",
    memory: GroupMemory | None = None,
    task: Task = "auto",
    ignore_index: int = -100,
    attribute_reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Gaps between groups of the soft true and false positive rates as a function; see :class:`EqualizedOddsLoss`.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([0.0, 2.0, 2.0, 2.0]), torch.tensor([1, 1, 0, 0])
        >>> equalized_odds(logits, target, torch.tensor([0, 1, 0, 1]), num_groups=2)
        tensor(0.1904)
    """
    checks.choice("agg", agg, ("mean", "worst_case"))
    gaps = gaps_of_rates(
        input, target, groups, "tpr and fpr", num_groups=num_groups, positive_class=positive_class, smoothing=smoothing,
        direction=direction, memory=memory, task=task, ignore_index=ignore_index,
        attribute_reduction=attribute_reduction, process_group=process_group,
    )  # fmt: skip
    return (gaps.mean(0) if agg == "mean" else gaps.amax(0)).mean()


class _ParityLoss(ConstantsModule):
    """Options that all three hold."""

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        positive_class: int | None = None,
        smoothing: float | None = None,
        direction: Direction = "both",
        memory: GroupMemory | None = None,
        task: Task = "auto",
        ignore_index: int = -100,
        attribute_reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = check_parity_options(
            num_groups, positive_class, smoothing, direction, ignore_index, attribute_reduction, process_group
        )
        self.positive_class, self.smoothing, self.direction = positive_class, smoothing, direction
        self.task, self.ignore_index = check_task(task), ignore_index
        check_parity_task(task)
        check_memory_type(memory)
        self.memory, self.attribute_reduction, self.process_group = memory, attribute_reduction, process_group

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
        direction: ``"both"``: the highest rate falls and the lowest rises; ``"raise"``: the worst group alone moves, the
            one of the lowest positive rate or TPR, or of the highest FPR.
        memory: a :class:`fairloss.GroupMemory`, so that small batches are ranked on more than themselves:
            ``GroupMemory(num_groups, ...)``, for several classes or labels ``GroupMemory((num_groups,) * classes, ...)``.
        task: ``"auto"``, ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        ignore_index: labels of a multilabel task that count for nothing (as NaN there) where labels count.
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Shape:
        - input: logits (N,), (N, 1) or (N, C), float16 to float64 (computed in float32 at least)
        - target: (N,) or (N, C)
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 logits)

    Raises:
        TypeError, ValueError: naming the argument, before any work or change of state.

    Note:
        Absent groups take no part; fewer than two present give 0. Where prevalence differs between groups a perfect
        classifier has a loss above 0.

    Example:
        >>> import torch
        >>> loss = DemographicParityLoss(2)
        >>> loss(torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
        tensor(0.3808)

    References:
        Dwork et al., *Fairness Through Awareness*, 2012.

    Reference:
        Dwork et al. 2012: https://arxiv.org/abs/1104.3913

    See Also:
        :class:`EqualOpportunityLoss`, :class:`EqualizedOddsLoss`, :class:`DistributionAlignmentLoss`
    """

    _OPTIONS = option_names(demographic_parity)

    def forward(self, input: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return demographic_parity(input, target, groups, **options_of(self, self._OPTIONS))


class EqualOpportunityLoss(_ParityLoss):
    """Gap between groups of the soft true positive rate.

    TPR_g = mean of p over the positives of g; loss = max_g TPR_g - min_g TPR_g; for several classes (one against the rest) or
    labels the mean over them. 0 means that the positives of all groups are found alike.

    Args, shapes, errors: those of :class:`DemographicParityLoss`; targets that are fractions count as that much of a positive
    (not beside a memory), and a memory has the positives of every group and then the negatives:
    ``GroupMemory(2 * num_groups, ...)``, its shares being those of group and label together.

    Note:
        A group without positives takes no part; fewer than two give 0. A perfect classifier has loss 0, whatever the
        prevalences. Negatives have no gradient.

    Example:
        >>> import torch
        >>> loss = EqualOpportunityLoss(2)
        >>> loss(torch.tensor([0.0, 2.0, 2.0, 2.0]), torch.tensor([1, 1, 0, 0]), torch.tensor([0, 1, 0, 1]))
        tensor(0.3808)

    References:
        Hardt et al., *Equality of Opportunity in Supervised Learning*, 2016.

    Reference:
        Hardt et al. 2016: https://arxiv.org/abs/1610.02413

    See Also:
        :class:`EqualizedOddsLoss`, :class:`DemographicParityLoss`, :class:`MaxAccGapLoss`
    """

    _OPTIONS = option_names(equal_opportunity)

    def forward(self, input: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return equal_opportunity(input, target, groups, **options_of(self, self._OPTIONS))


class EqualizedOddsLoss(_ParityLoss):
    """Gaps between groups of the soft true and false positive rates.

    TPR_g = mean of p over the positives of g, FPR_g over its negatives; loss = mean (or larger) of max_g TPR_g - min_g TPR_g
    and the same for FPR; for several classes (one against the rest) or labels the mean over them. 0 means equal rates.

    Args, shapes, errors: those of :class:`EqualOpportunityLoss`, and

    Args:
        num_groups: number of groups; a tuple for several attributes.
        agg: ``"mean"`` of the two gaps, or ``"worst_case"``, the larger one.

    Note:
        A group without positives is out of the TPR term, one without negatives out of the FPR term; a term with fewer than
        two groups is 0. A perfect classifier has loss 0, whatever the prevalences.

    Example:
        >>> import torch
        >>> loss = EqualizedOddsLoss(2)
        >>> loss(torch.tensor([0.0, 2.0, 2.0, 2.0]), torch.tensor([1, 1, 0, 0]), torch.tensor([0, 1, 0, 1]))
        tensor(0.1904)

    References:
        Hardt et al., *Equality of Opportunity in Supervised Learning*, 2016.

    Reference:
        Hardt et al. 2016: https://arxiv.org/abs/1610.02413

    See Also:
        :class:`EqualOpportunityLoss`, :class:`DemographicParityLoss`, :class:`MaxAccGapLoss`
    """

    _OPTIONS = option_names(equalized_odds)

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        agg: OddsAggregation = "mean",
        positive_class: int | None = None,
        smoothing: float | None = None,
        direction: Direction = "both",
        memory: GroupMemory | None = None,
        task: Task = "auto",
        ignore_index: int = -100,
        attribute_reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            num_groups, positive_class=positive_class, smoothing=smoothing, direction=direction, memory=memory, task=task,
            ignore_index=ignore_index, attribute_reduction=attribute_reduction, process_group=process_group,
        )  # fmt: skip
        checks.choice("agg", agg, ("mean", "worst_case"))
        self.agg: OddsAggregation = agg

    def forward(self, input: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return equalized_odds(input, target, groups, **options_of(self, self._OPTIONS))
