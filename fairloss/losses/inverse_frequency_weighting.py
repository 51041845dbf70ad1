"""Inverse-frequency weighting: rare groups' losses count for more.

Paper: Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis* (GR-LoRA), eq 8:
w_g = min(N / N_g, w_max) and L = sum_g w_g mean_{i in g} l_i. Difference: by default the weights divide by the constant
wbar = sum_g (N_g / N) w_g, so that the loss is linear in the samples (micro-batches, gradient accumulation and several
processes add up to the full batch) and keeps the scale of the mean loss; eq 8 averages within each group of the batch, so
that its value depends on which groups a batch happens to hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import per_sample
from fairloss.groups.ids import (
    ATTRIBUTE_REDUCTIONS,
    AttributeReduction,
    GroupTable,
    check_group_counts,
    check_groups,
    reduce_attributes,
    sum_by_attribute,
)
from fairloss.losses.parts import WeightingParts, weighting_parts

__all__ = ["InverseFrequencyWeighting", "WeightingVariant", "inverse_frequency_weighting", "inverse_frequency_weights"]

WeightingVariant = Literal["default", "paper"]
Normalize = Literal["constant", "batch"]


def inverse_frequency_weights(
    group_counts: Sequence[float] | Tensor, *, max_weight: float = 10.0, mean_one: bool = True
) -> Tensor:
    """w_g = min(N / N_g, max_weight), by default divided by their mean over samples wbar = sum_g (N_g / N) w_g.

    Args:
        group_counts: training-set counts per group, (G,); a group of count 0 gets ``max_weight``.
        max_weight: the cap w_max >= 1, before the division.
        mean_one: divide by wbar.

    Returns:
        (G,) float64 weights.

    Example:
        >>> inverse_frequency_weights([80, 20], mean_one=False)
        tensor([1.2500, 5.0000], dtype=torch.float64)
        >>> inverse_frequency_weights([80, 20])
        tensor([0.6250, 2.5000], dtype=torch.float64)
    """
    max_weight = checks.number("max_weight", max_weight, minimum=1)
    (counts,) = check_group_counts(group_counts)
    weights = (counts.sum() / counts).clamp(max=max_weight)
    return weights / (counts / counts.sum() * weights).sum() if mean_one else weights


def inverse_frequency_weighting(
    values: Tensor,
    groups: Tensor,
    *,
    group_counts: GroupTable,
    max_weight: float = 10.0,
    normalize: Normalize = "constant",
    variant: WeightingVariant = "default",
    attribute_reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
    return_parts: bool = False,
) -> Tensor | WeightingParts:
    """Weighted mean of per-sample losses as a function; see :class:`InverseFrequencyWeighting`.

    Example:
        >>> losses = torch.tensor([1.0, 3.0])
        >>> inverse_frequency_weighting(losses, torch.tensor([0, 1]), group_counts=[80, 20])
        tensor(4.0625)
    """
    weights = _group_weights(group_counts, max_weight, normalize, variant, attribute_reduction, process_group)
    sizes = tuple(len(part) for part in weights)
    return _weighted(
        values, groups, torch.cat(weights), sizes, normalize, variant, attribute_reduction, process_group, return_parts
    )


def _group_weights(
    group_counts: GroupTable,
    max_weight: float,
    normalize: str,
    variant: str,
    attribute_reduction: str,
    process_group: ProcessGroup | None,
) -> list[Tensor]:
    """The weights by group of each attribute, with all options checked."""
    checks.choice("variant", variant, ("default", "paper"))
    checks.choice("normalize", normalize, ("constant", "batch"))
    checks.choice("attribute_reduction", attribute_reduction, ATTRIBUTE_REDUCTIONS)
    if variant == "paper" and normalize == "batch":
        raise ValueError(
            expected("normalize", "'constant' with variant='paper'", "'batch'", "eq 8 divides by no weights")
        )
    check_process_group(process_group)
    mean_one = variant == "default" and normalize == "constant"
    counts = check_group_counts(group_counts)
    return [inverse_frequency_weights(part, max_weight=max_weight, mean_one=mean_one) for part in counts]


def _weighted(
    values: Tensor,
    groups: Tensor,
    weights: Tensor,
    sizes: tuple[int, ...],
    normalize: Normalize,
    variant: WeightingVariant,
    attribute_reduction: AttributeReduction,
    process_group: ProcessGroup | None,
    return_parts: bool,
) -> Tensor | WeightingParts:
    """The loss for given weights, (G,)."""
    per_sample("values", values)
    ids = check_groups(groups, sizes, values.shape[0], device=values.device)
    v = values.to(statistics_dtype(values.dtype))
    weights = weights.to(v)
    if variant == "paper":
        sums, counts = ids.totals(v, process_group)
        loss = sum_by_attribute(weights * sums / counts.clamp(min=1), sizes, attribute_reduction)
        return weighting_parts(loss, sums, counts, weights, sizes) if return_parts else loss
    table = torch.nn.functional.pad(weights, (1, 0), value=1.0)  # the first row is that of the unknown
    w = table[ids.rows()].reshape(-1, len(sizes))
    norm = w.sum(0) if normalize == "batch" else w.new_full((len(sizes),), v.shape[0])
    total, norm = all_reduce_sums([(w * v.unsqueeze(1)).sum(0), norm], process_group)
    # An empty batch: 0, connected to the graph.
    loss = reduce_attributes(total / torch.where(norm > 0, norm, 1.0), attribute_reduction)
    if not return_parts:
        return loss
    task, n = all_reduce_sums([v.detach().sum(), v.new_full((), v.shape[0])], process_group)
    sums, counts = ids.totals(v.detach(), process_group)
    return weighting_parts(loss, sums, counts, weights, sizes, task=task / n.clamp(min=1))


class InverseFrequencyWeighting(ConstantsModule):
    """Mean of per-sample losses, each weighted by the inverse frequency of its group.

    w_g = min(N / N_g, max_weight);  default: mean_i (w_{g_i} / wbar) l_i with the constant wbar = sum_g (N_g / N) w_g, so
    that the weights have mean 1 over the training set and unknown samples weigh 1.

    Args:
        group_counts: training-set counts per group, (G,), those of known samples; for several attributes one list each.
        max_weight: cap on N / N_g, >= 1 (default 10).
        normalize: ``"constant"``: by wbar, linear in the samples. ``"batch"``: sum_i w_i l_i / sum_i w_i over the batch.
        variant: ``"default"``, or ``"paper"``: eq 8 to the letter, sum_g w_g mean_{i in g} l_i; unknown samples take no part.
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Shape:
        - values: (N,) floating, any per-sample loss
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 values); with ``return_parts=True`` a
          :class:`fairloss.functional.WeightingParts`, whose weights are those by group

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        An absent group contributes nothing. Gradient flows to the values; the weights are constants.

    Example:
        >>> weighting = InverseFrequencyWeighting([80, 20])
        >>> weighting(torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        tensor(4.0625)

    References:
        Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, eq 8.

    Reference:
        fairness-aware LoRA 2025, eq 8: https://arxiv.org/abs/2512.03477

    See Also:
        :class:`FairCrossEntropyLoss`, :class:`BalancedGroupSampler`, :class:`GroupDROLoss`
    """

    weights: Tensor

    def __init__(
        self,
        group_counts: GroupTable,
        *,
        max_weight: float = 10.0,
        normalize: Normalize = "constant",
        variant: WeightingVariant = "default",
        attribute_reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        weights = _group_weights(group_counts, max_weight, normalize, variant, attribute_reduction, process_group)
        self.num_groups = tuple(len(part) for part in weights)
        self.normalize, self.variant, self.process_group = normalize, variant, process_group
        self.attribute_reduction = attribute_reduction
        self.register_constant("weights", torch.cat(weights))

    def forward(self, values: Tensor, groups: Tensor, *, return_parts: bool = False) -> Tensor | WeightingParts:
        """Loss of a batch, with ``return_parts=True`` beside its terms; see the class."""
        return _weighted(
            values, groups, self.weights, self.num_groups, self.normalize, self.variant, self.attribute_reduction,
            self.process_group, return_parts,
        )  # fmt: skip

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, normalize={self.normalize!r}, variant={self.variant!r}"
