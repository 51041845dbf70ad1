"""Variance between groups of the mean loss: the regulariser of FairLoRA.

Paper: Sukumaran et al., *FairLoRA: Unpacking Bias Mitigation in Vision Models with Fairness-Driven Low-Rank Adaptation*,
Var[L_s]. The variance is over the groups present, each counting once whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import per_sample
from fairloss.groups.ids import (
    ATTRIBUTE_REDUCTIONS,
    AttributeReduction,
    check_groups,
    check_num_groups,
    reduce_attributes,
)

__all__ = ["LossVarianceLoss", "loss_variance"]


def loss_variance(
    values: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    attribute_reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Variance of the group means as a function; see :class:`LossVarianceLoss`.

    Example:
        >>> loss_variance(torch.tensor([1.0, 1.0, 3.0]), torch.tensor([0, 0, 1]), num_groups=2)
        tensor(1.)
    """
    sizes = check_num_groups(num_groups)
    checks.choice("attribute_reduction", attribute_reduction, ATTRIBUTE_REDUCTIONS)
    check_process_group(process_group)
    per_sample("values", values)
    ids = check_groups(groups, sizes, values.shape[0], device=values.device)
    v = values.to(statistics_dtype(values.dtype))
    sums, counts = ids.totals(v, process_group)
    means = sums / counts.clamp(min=1)
    variances = []
    for m, count in zip(means.split(sizes), counts.split(sizes), strict=True):
        here = (count > 0).to(v.dtype)
        number = here.sum().clamp(min=1)
        center = (m * here).sum() / number
        variances.append(((m - center).square() * here).sum() / number)
    return reduce_attributes(torch.stack(variances), attribute_reduction)


class LossVarianceLoss(ConstantsModule):
    """Variance between groups of the mean of a per-sample value.

    loss = (1/P) sum_g (m_g - mbar)^2 over the P groups present, m_g = mean_{i in g} v_i, mbar their unweighted mean. 0
    means equal means.

    Args:
        num_groups: number of groups; a tuple for several attributes.
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Shape:
        - values: (N,) floating, any per-sample loss
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 values)

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        Absent groups take no part; fewer than two present groups give 0. Gradient flows to every known sample.

    Example:
        >>> LossVarianceLoss(2)(torch.tensor([1.0, 1.0, 3.0]), torch.tensor([0, 0, 1]))
        tensor(1.)

    References:
        Sukumaran et al., *FairLoRA: Unpacking Bias Mitigation in Vision Models with Fairness-Driven Low-Rank Adaptation*.

    Reference:
        FairLoRA 2024: https://arxiv.org/abs/2410.17358

    See Also:
        :class:`MaxAccGapLoss`, :class:`GroupDROLoss`
    """

    _OPTIONS = option_names(loss_variance)

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        attribute_reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = check_num_groups(num_groups)
        checks.choice("attribute_reduction", attribute_reduction, ATTRIBUTE_REDUCTIONS)
        check_process_group(process_group)
        self.attribute_reduction, self.process_group = attribute_reduction, process_group

    def forward(self, values: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return loss_variance(values, groups, **options_of(self, self._OPTIONS))

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, attribute_reduction={self.attribute_reduction!r}"
