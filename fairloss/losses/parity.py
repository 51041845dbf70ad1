"""Demographic parity, equal opportunity and equalized odds, softened: gaps between the groups' mean predicted probabilities.

Hard rates are step functions of the logits; their soft versions average the predicted probability instead of counting
predictions above a threshold. Papers: demographic parity as in Dwork et al. 2012, equal opportunity and equalized odds as in
Hardt et al. 2016. A group without positives (negatives) takes no part in the true (false) positive rate; others' code counts
its rate as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor

from fairloss.core import checks
from fairloss.core.options import options_of, with_options
from fairloss.core.state import ConstantsModule
from fairloss.groups.ids import check_num_groups
from fairloss.losses.gaps import GapOptions
from fairloss.losses.rates import PARITY_OPTIONS, ParityOptions, Rate, checked_options, gaps_of_rates

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "DemographicParityLoss",
    "EqualOpportunityLoss",
    "EqualizedOddsLoss",
    "ParityOptions",
    "demographic_parity",
    "equal_opportunity",
    "equalized_odds",
]

OddsAggregation = Literal["mean", "worst_case"]


class OddsOptions(ParityOptions, total=False):
    """Keyword arguments of :class:`EqualizedOddsLoss`."""

    agg: OddsAggregation


ODDS_OPTIONS: OddsOptions = {"agg": "mean", **PARITY_OPTIONS}


def _checked(options: Mapping[str, Any], defaults: Mapping[str, Any] = PARITY_OPTIONS) -> dict[str, Any]:
    o = checked_options(options, defaults)
    checks.choice("agg", o.get("agg", "mean"), get_args(OddsAggregation))
    return o


def _loss(
    input: Tensor, target: Tensor, groups: Tensor, rate: Rate, sizes: tuple[int, ...], o: Mapping[str, Any]
) -> Tensor:
    gaps = gaps_of_rates(input, target, groups, rate, sizes, o)
    if rate == "tpr and fpr":
        gaps = gaps.mean(0) if o["agg"] == "mean" else gaps.amax(0)
    return gaps.mean()


@with_options(PARITY_OPTIONS, ParityOptions)
def demographic_parity(
    input: Tensor, target: Tensor, groups: Tensor, *, num_groups: int | Sequence[int], **options: Unpack[ParityOptions]
) -> Tensor:
    """Gap between groups of the soft positive rate as a function; see :class:`DemographicParityLoss`.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0, 1, 1])
        >>> demographic_parity(logits, target, torch.tensor([0, 0, 1]), num_groups=2)
        tensor(0.3808)
    """
    return _loss(input, target, groups, "all", check_num_groups(num_groups), _checked(options))


@with_options(PARITY_OPTIONS, ParityOptions)
def equal_opportunity(
    input: Tensor, target: Tensor, groups: Tensor, *, num_groups: int | Sequence[int], **options: Unpack[ParityOptions]
) -> Tensor:
    """Gap between groups of the soft true positive rate as a function; see :class:`EqualOpportunityLoss`.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([0.0, 2.0, 2.0, 2.0]), torch.tensor([1, 1, 0, 0])
        >>> equal_opportunity(logits, target, torch.tensor([0, 1, 0, 1]), num_groups=2)
        tensor(0.3808)
    """
    return _loss(input, target, groups, "tpr", check_num_groups(num_groups), _checked(options))


@with_options(ODDS_OPTIONS, OddsOptions)
def equalized_odds(
    input: Tensor, target: Tensor, groups: Tensor, *, num_groups: int | Sequence[int], **options: Unpack[OddsOptions]
) -> Tensor:
    """Gaps between groups of the soft true and false positive rates as a function; see :class:`EqualizedOddsLoss`.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([0.0, 2.0, 2.0, 2.0]), torch.tensor([1, 1, 0, 0])
        >>> equalized_odds(logits, target, torch.tensor([0, 1, 0, 1]), num_groups=2)
        tensor(0.1904)
    """
    o = _checked(options, ODDS_OPTIONS)
    return _loss(input, target, groups, "tpr and fpr", check_num_groups(num_groups), o)


class _ParityLoss(ConstantsModule):
    """What all three do."""

    _RATE: Rate

    def __init__(self, num_groups: int | Sequence[int], o: Mapping[str, Any]) -> None:
        super().__init__()
        self.num_groups, self._options = check_num_groups(num_groups), tuple(o)
        for name, value in o.items():
            setattr(self, name, value)

    def forward(self, input: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return _loss(input, target, groups, self._RATE, self.num_groups, options_of(self, self._options))

    def extra_repr(self) -> str:
        return f"num_groups={self.num_groups}, positive_class={self.positive_class}, task={self.task!r}"


@with_options(PARITY_OPTIONS, ParityOptions, GapOptions)
class DemographicParityLoss(_ParityLoss):
    """Gap between groups of the soft positive rate.

    r_g = mean_{i in g} p_i with p the predicted probability of the positive class; loss = max_g r_g - min_g r_g over the
    groups present; for several classes (one against the rest) or labels the mean of their gaps. 0 means equal rates. The
    target gives the shape of the task and nothing else.

    Args:
        num_groups: number of groups; a tuple for several attributes.
        options: by keyword.

    Shape:
        - input: logits (N,), (N, 1) or (N, C), float16 to float64 (computed in float32 at least)
        - target: (N,) or (N, C)
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 logits)

    Raises:
        TypeError, ValueError: naming the argument, before any work or change of state.

    Note:
        Under ``"raise"`` the worst group is the one of the lowest rate (of the highest false positive rate). For several
        classes or labels a memory is ``GroupMemory((num_groups,) * classes, ...)``. Absent groups take no part; fewer than two
        present give 0. Where prevalence differs between groups a perfect classifier has a loss above 0.

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

    _RATE = "all"

    def __init__(self, num_groups: int | Sequence[int], **options: Unpack[ParityOptions]) -> None:
        super().__init__(num_groups, _checked(options))


@with_options(PARITY_OPTIONS, ParityOptions)
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

    _RATE = "tpr"

    def __init__(self, num_groups: int | Sequence[int], **options: Unpack[ParityOptions]) -> None:
        super().__init__(num_groups, _checked(options))


@with_options(ODDS_OPTIONS, OddsOptions)
class EqualizedOddsLoss(_ParityLoss):
    """Gaps between groups of the soft true and false positive rates.

    TPR_g = mean of p over the positives of g, FPR_g over its negatives; loss = mean (or larger) of max_g TPR_g - min_g TPR_g
    and the same for FPR; for several classes (one against the rest) or labels the mean over them. 0 means equal rates.

    Args, shapes, errors: those of :class:`EqualOpportunityLoss`, and

    Args:
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

    _RATE = "tpr and fpr"

    def __init__(self, num_groups: int | Sequence[int], **options: Unpack[OddsOptions]) -> None:
        super().__init__(num_groups, _checked(options, ODDS_OPTIONS))
