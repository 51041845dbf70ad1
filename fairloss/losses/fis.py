"""Fair Identity Scaling: samples and groups with large losses weigh more.

Each sample's weight mixes an individual part, a softmax of its own loss, with a group part, a softmax of its group's
transport distance to all losses. Paper: Masroor et al., *Fair Distillation*, eq 1, after Luo et al., *FairVision*.

Where the default differs from eq 1 (``variant="paper"``), and why:

- Weights have mean 1 over the batch; eq 1's sum to 1 over it, so that the loss would shrink as 1/N.
- No weight exceeds ``max_weight``; uncapped, two mislabeled images can hold 99.9% of the batch. What the cap takes away
  goes to the others in proportion to their weights (clipping and rescaling once would hand it back).
- The distance measures difference, not disadvantage: a merely *better* group would be weighted up. It is signed by whether
  the group's mean loss is above or below the mean of all, and divided by the variance of the losses, so that the weights
  do not change when the losses are scaled. Shape counts in the distance as well as location, so among three groups the
  raw score need not follow the means; a group's score is therefore the largest one among the groups that do no worse:
  a group that does worse never gets the smaller weight. With two groups this changes nothing.

Where the authors' released code (``variant="released"``) differs from eq 1: the group part's softmax runs over *samples*, so
that a group's mass follows its frequency; both parts are multiplied by a constant (``right_asymptote``); the gradient runs
through the individual weights, which gives easy samples a negative coefficient; its id -1 indexes the last group, where
here an unknown sample's group part is the mean one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fairloss.core.distributed import gather_rows, gather_rows_with_gradient
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import options_of, with_options
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import per_sample
from fairloss.groups.ids import check_groups, check_num_groups
from fairloss.groups.memory import check_memory
from fairloss.losses.fis_weights import (
    FIS_OPTIONS,
    FISOptions,
    FISVariant,
    Reference,
    checked_options,
    compared_samples,
    fis_weights,
    weighted_mean,
    with_batch,
)
from fairloss.losses.parts import WeightingParts, weighting_parts

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FISLoss", "FISVariant", "fis", "fis_weights"]


@with_options(FIS_OPTIONS, FISOptions)
def fis(
    values: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    reference: Reference | None = None,
    return_parts: bool = False,
    **options: Unpack[FISOptions],
) -> Tensor | WeightingParts:
    """Fair Identity Scaling as a function; see :class:`FISLoss`.

    Example:
        >>> import torch
        >>> losses = torch.tensor([0.1, 0.2, 0.9, 1.2])
        >>> fis(losses, torch.tensor([0, 0, 1, 1]), num_groups=2)
        tensor(0.8524)
    """
    sizes, o = check_num_groups(num_groups), checked_options(options, FIS_OPTIONS)
    return _of_batch(values, groups, sizes, o, reference, return_parts)


def _of_batch(
    values: Tensor,
    groups: Tensor,
    sizes: tuple[int, ...],
    o: Mapping[str, Any],
    reference: Reference | None,
    return_parts: bool,
) -> Tensor | WeightingParts:
    x = per_sample("values", values).to(statistics_dtype(values.dtype))
    ids = check_groups(groups, sizes, x.shape[0], device=x.device)
    memory, process_group = o["memory"], o["process_group"]
    check_memory(memory, sizes, device=x.device)
    if process_group is not None:
        ids = ids.gathered(process_group)
        x = gather_rows_with_gradient(x, process_group)
        if reference is not None:
            reference = gather_rows(reference[0], process_group), gather_rows(reference[1], process_group)
    step = None if memory is None or reference is not None else memory.begin()
    if memory is not None and step is not None:
        memory.push(x, ids.ids, step=step)
        reference, memory = with_batch(x, ids, memory.rows(step=step)), None
    compared = compared_samples(x, ids, memory, reference)
    loss, weights = weighted_mean(x, ids, compared, o)
    if not return_parts:
        return loss
    sums, counts = ids.totals(x.detach())
    weights = weights * max(len(x), 1)
    return weighting_parts(loss, sums, counts, weights, sizes, task=x.mean() if len(x) else x.sum())


@with_options(FIS_OPTIONS, FISOptions)
class FISLoss(ConstantsModule):
    """Fair Identity Scaling: a mean of per-sample losses with larger weights where the model does worse.

    value = mean_i w_i l_i,  w_i = (1 - c) s^I_i + c s^G_{g_i}. By default both parts have mean 1: s^I is proportional to
    exp(l_i / T), s^G to exp(sign(mean_g - mean) o_g / (T Var(l))) with o_g = W_2^2(losses of g, all losses) / 2, and no weight
    exceeds ``max_weight``. With equal losses it is their mean; 0 means that all losses are 0.

    Args:
        num_groups: number of groups; a tuple for several attributes, which have a value each.
        c: share of the group part in [0, 1]: 0 weighs by individual loss alone, 1 by group alone (default 0.5).
        temperature: T > 0 of the individual part, in units of the losses. Small values approach the maximum (default 1).
        group_temperature: T of the group part, dimensionless (default variant); ``None``: as ``temperature``.
        max_weight: largest weight in either part of the default variant, >= 1; ``None``: no cap.
        variant: ``"default"``; ``"paper"``: eq 1, unsigned, uncapped, each part summing to 1; ``"released"``: the authors'
            code. The last two shrink as 1/N.
        right_asymptote: the released code's factor; used by ``variant="released"`` alone (default 2).
        transport: of ``variant="released"``: ``"exact"`` distances, or ``"geomloss"``: that package's, as in the
            authors' code (one call per group, not compiled).
        blur: geomloss's (default 0.1).
        memory: a :class:`fairloss.GroupMemory`: the distances are taken on memory and batch, and the memory takes the batch
            in when it is in training mode and gradients are enabled.
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples, gathered (lengths are exchanged, which waits for the
            device); see :mod:`fairloss.core.distributed`.

    Shape:
        - values: (N,) per-sample losses >= 0 (cross-entropy, Dice loss, a sequence's nll), float16 to float64
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - reference: ``None``, or (values, groups) of other samples, on which the distances are taken; not beside a memory
        - output: scalar, float32 (float64 for float64 values); with ``return_parts=True`` a
          :class:`fairloss.functional.WeightingParts`, whose weights are w, (N,) or (N, K)

    Raises:
        TypeError, ValueError: naming the argument, before any work or change of state.

    Note:
        Absent groups change nothing; a sample of unknown group has group weight 1 and enters no distance. Weights are
        detached, so the gradient is that of a weighted mean (``"released"`` keeps its own). Compiles as one graph.

    Example:
        >>> import torch
        >>> losses = torch.tensor([0.1, 0.2, 0.9, 1.2])
        >>> FISLoss(num_groups=2)(losses, torch.tensor([0, 0, 1, 1]))
        tensor(0.8524)

    References:
        Masroor et al., *Fair Distillation: Teaching Fairness from Biased Teachers in Medical Imaging*, eq 1.
        Luo et al., *FairVision: Equitable Deep Learning for Eye Disease Screening via Fair Identity Scaling*.

    Reference:
        FairDi 2024, eq 1: https://arxiv.org/abs/2411.11939
        FairVision 2023, code: https://arxiv.org/abs/2310.02492

    See Also:
        :class:`FairDistillationLoss`, :class:`GroupDROLoss`, :class:`GroupMemory`
    """

    def __init__(self, num_groups: int | Sequence[int], **options: Unpack[FISOptions]) -> None:
        super().__init__()
        self.num_groups = check_num_groups(num_groups)
        o = checked_options(options, FIS_OPTIONS)
        check_memory(o["memory"], self.num_groups)
        for name, value in o.items():
            setattr(self, name, value)

    def forward(
        self, values: Tensor, groups: Tensor, *, reference: Reference | None = None, return_parts: bool = False
    ) -> Tensor | WeightingParts:
        """Loss of a batch, with ``return_parts=True`` beside its terms; see the class."""
        o = options_of(self, tuple(FIS_OPTIONS))
        return _of_batch(values, groups, self.num_groups, o, reference, return_parts)

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"num_groups={self.num_groups}, c={self.c}, temperature={self.temperature}, "
            f"max_weight={self.max_weight}, variant={self.variant!r}"
        )
