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

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group, gather_rows, gather_rows_with_gradient
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import per_sample, real, same_device, shaped
from fairloss.groups.ids import (
    ATTRIBUTE_REDUCTIONS,
    AttributeReduction,
    GroupIds,
    check_groups,
    check_num_groups,
    reduce_attributes,
)
from fairloss.groups.memory import GroupMemory, check_memory
from fairloss.losses.parts import WeightingParts, weighting_parts
from fairloss.ops.capped_weights import capped_weights
from fairloss.ops.sinkhorn import sinkhorn_divergences
from fairloss.ops.transport import LineStatistics, line_statistics

__all__ = ["FISLoss", "FISVariant", "Reference", "fis", "fis_weights"]

FISVariant = Literal["default", "paper", "released"]
Transport = Literal["exact", "geomloss"]
Reference = tuple[Tensor, Tensor]

_EPS = 1e-12


def _check_options(
    c: float,
    temperature: float,
    group_temperature: float | None,
    max_weight: float | None,
    variant: str,
    right_asymptote: float,
    transport: str,
    blur: float,
) -> None:
    checks.number("c", c, minimum=0, maximum=1)
    checks.number("temperature", temperature, above=0)
    if group_temperature is not None:
        checks.number("group_temperature", group_temperature, above=0)
    if max_weight is not None:
        checks.number("max_weight", max_weight, minimum=1)
    checks.choice("variant", variant, ("default", "paper", "released"))
    checks.number("right_asymptote", right_asymptote, above=0)
    checks.number("blur", blur, above=0)
    if checks.choice("transport", transport, ("exact", "geomloss")) == "geomloss" and variant != "released":
        raise ValueError(expected("transport", "'exact' but for variant='released'", "'geomloss'"))


def _signed_scores(line: LineStatistics, o: Tensor, temperature: float) -> Tensor:
    """(G,): sign(mean_g - mean) o_g / (T Var + eps), raised to the largest one among the groups that do no worse."""
    means, present = line.means, line.sizes > 0
    # Means that differ by rounding are equal, lest the order of the batch decide the sign.
    sign = means.sign() * (means.abs() > 1e-10 * line.variance.sqrt())
    scores = sign * o / (temperature * line.variance + _EPS)
    no_worse = (means <= means.unsqueeze(1)) & present  # (G, G)
    raised = torch.where(no_worse, scores, -torch.inf).amax(1)
    return torch.where(present, raised, 0.0)


def _group_part(scores: Tensor, sizes: Tensor, ids: GroupIds, variant: FISVariant, cap: float) -> Tensor:
    """(G,) scores and (G,) samples per group -> s^G per sample, (N,), in float64."""
    if variant == "default":
        return ids.lookup(capped_weights(scores, sizes, cap), 1.0)
    if variant == "released":
        # Softmax over samples; an unknown one gets the mean of the known.
        known = sizes.sum()
        return ids.lookup(capped_weights(scores, sizes, math.inf), 1.0) / torch.where(
            known > 0, known, ids.column.shape[0]
        )
    present = (sizes > 0).to(scores.dtype)
    return ids.lookup(capped_weights(scores, present, math.inf), 1.0) / present.sum().clamp(min=1)


def _compared(x: Tensor, ids: GroupIds, memory: GroupMemory | None, reference: Any) -> tuple[Tensor, GroupIds]:
    """The values and ids that distances are taken on: the batch, a given sample, or memory and batch."""
    check_memory(memory, ids.sizes, device=x.device)
    if reference is not None:
        found = checked_reference(reference, x, ids.sizes)
        if memory is not None:
            raise ValueError(expected("reference", "None beside a memory", "a pair"))
        return found
    if memory is None:
        return x.detach(), ids
    values, ids_ = _with_batch(x, ids, memory.rows())
    return values, GroupIds(ids_, ids.sizes)


def checked_reference(reference: Any, x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, GroupIds]:
    """Values, detached, and ids of other samples beside those of a batch ``x``."""
    if not isinstance(reference, tuple) or len(reference) != 2:
        cure = "a fairloss.GroupMemory is given as memory="
        raise TypeError(expected("reference", "a pair (values, groups)", type(reference).__name__, cure))
    values = per_sample("reference[0]", reference[0])
    same_device("reference[0]", values, "values", x)
    return values.detach(), check_groups(reference[1], sizes, len(values), device=values.device, name="reference[1]")


def _with_batch(x: Tensor, ids: GroupIds, held: Reference) -> Reference:
    """Values and (N, 1) ids of a memory's rows and the batch."""
    return torch.cat([held[0].to(x.dtype), x.detach()]), torch.cat([held[1], ids.ids])


def fis_weights(
    values: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    c: float = 0.5,
    temperature: float = 1.0,
    group_temperature: float | None = None,
    max_weight: float | None = 10.0,
    variant: FISVariant = "default",
    right_asymptote: float = 2.0,
    transport: Transport = "exact",
    blur: float = 0.1,
    memory: GroupMemory | None = None,
    reference: Reference | None = None,
    distances: Tensor | None = None,
) -> Tensor:
    """The weights w_i of :class:`FISLoss`, (N,): detached, except that ``"released"`` keeps the individual part's gradient.

    Of K attributes (N, K). ``distances``, (G,), replaces the transport distances by given ones; other arguments are those of
    :class:`FISLoss`. A memory is read and left as it is.

    Example:
        >>> losses = torch.tensor([0.1, 0.2, 0.9, 1.2])
        >>> fis_weights(losses, torch.tensor([0, 0, 1, 1]), num_groups=2)
        tensor([0.4433, 0.4719, 1.4362, 1.6485])
    """
    sizes = check_num_groups(num_groups)
    _check_options(c, temperature, group_temperature, max_weight, variant, right_asymptote, transport, blur)
    x = per_sample("values", values).to(statistics_dtype(values.dtype))
    ids = check_groups(groups, sizes, x.shape[0], device=x.device)
    compared, compared_ids = _compared(x, ids, memory, reference)
    if distances is not None:
        shaped("distances", real("distances", distances, "a tensor of one distance per group"), (sum(sizes),))
        same_device("distances", distances, "values", x)
    cap = math.inf if max_weight is None else max_weight
    if variant == "default":
        individual = capped_weights(x.detach().to(torch.float64) / temperature, None, cap).to(x.dtype)
    else:
        individual = torch.softmax((x if variant == "released" else x.detach()) / temperature, 0)
    scale = right_asymptote if variant == "released" else 1.0
    if c == 0:  # no distance is needed
        return scale * (individual if len(sizes) == 1 else individual.unsqueeze(1).expand(-1, len(sizes)))
    group_temperature = temperature if group_temperature is None else group_temperature
    given = [None] * len(sizes) if distances is None else distances.detach().to(torch.float64).split(list(sizes))
    parts = []
    for k, o in enumerate(given):
        own, others = (GroupIds(both.ids[:, k : k + 1], sizes[k : k + 1]) for both in (ids, compared_ids))
        line = line_statistics(compared, others.column, sizes[k])
        if o is None and transport == "geomloss":
            samples = [compared[others.column == g] for g in range(sizes[k])]
            o = sinkhorn_divergences([(sample, torch.cat(samples)) for sample in samples], blur).to(torch.float64)
        o = line.squared / 2 if o is None else o
        scores = _signed_scores(line, o, group_temperature) if variant == "default" else o / group_temperature
        counts = line.sizes if compared_ids is ids else own.sum(scores.new_ones(x.shape[0]))
        parts.append(_group_part(scores, counts, own, variant, cap).to(x.dtype))
    by_group = parts[0] if len(parts) == 1 else torch.stack(parts, 1)
    individual = individual if len(parts) == 1 else individual.unsqueeze(1)
    return (scale * (1 - c)) * individual + (scale * c) * by_group


def fis(
    values: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    c: float = 0.5,
    temperature: float = 1.0,
    group_temperature: float | None = None,
    max_weight: float | None = 10.0,
    variant: FISVariant = "default",
    right_asymptote: float = 2.0,
    transport: Transport = "exact",
    blur: float = 0.1,
    memory: GroupMemory | None = None,
    reference: Reference | None = None,
    attribute_reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
    return_parts: bool = False,
) -> Tensor | WeightingParts:
    """Fair Identity Scaling as a function; see :class:`FISLoss`.

    Example:
        >>> losses = torch.tensor([0.1, 0.2, 0.9, 1.2])
        >>> fis(losses, torch.tensor([0, 0, 1, 1]), num_groups=2)
        tensor(0.8524)
    """
    check_process_group(process_group)
    sizes = check_num_groups(num_groups)
    _check_options(c, temperature, group_temperature, max_weight, variant, right_asymptote, transport, blur)
    checks.choice("attribute_reduction", attribute_reduction, ATTRIBUTE_REDUCTIONS)
    x = per_sample("values", values).to(statistics_dtype(values.dtype))
    ids = check_groups(groups, sizes, x.shape[0], device=x.device)
    check_memory(memory, sizes, device=x.device)
    if process_group is not None:
        ids = ids.gathered(process_group)
        x = gather_rows_with_gradient(x, process_group)
        if reference is not None:
            reference = gather_rows(reference[0], process_group), gather_rows(reference[1], process_group)
    step = None if memory is None or reference is not None else memory.begin()
    if memory is not None and step is not None:
        memory.push(x, ids.ids, step=step)
        reference, memory = _with_batch(x, ids, memory.rows(step=step)), None
    weights = fis_weights(
        x, ids.ids, num_groups=sizes, c=c, temperature=temperature, group_temperature=group_temperature,
        max_weight=max_weight, variant=variant, right_asymptote=right_asymptote, transport=transport, blur=blur,
        memory=memory, reference=reference,
    )  # fmt: skip
    if len(sizes) == 1:
        loss = torch.dot(weights, x) / max(x.shape[0], 1)
    else:
        loss = reduce_attributes((weights * x.unsqueeze(1)).sum(0) / max(x.shape[0], 1), attribute_reduction)
    if not return_parts:
        return loss
    sums, counts = ids.totals(x.detach())
    return weighting_parts(loss, sums, counts, weights, sizes, task=x.mean() if len(x) else x.sum())


class FISLoss(ConstantsModule):
    """Fair Identity Scaling: a mean of per-sample losses with larger weights where the model does worse.

    value = mean_i w_i l_i,  w_i = (1 - c) s^I_i + c s^G_{g_i}. By default both parts have mean 1: s^I is proportional to
    exp(l_i / T), s^G to exp(sign(mean_g - mean) o_g / (T Var(l))) with o_g = W_2^2(losses of g, all losses) / 2, and no weight
    exceeds ``max_weight``. With equal losses it is their mean; 0 means that all losses are 0.

    Args:
        num_groups: number of groups; a tuple for several attributes, which have a value each.
        c: share of the group part in [0, 1]: 0 weighs by individual loss alone, 1 by group alone.
        temperature: T > 0 of the individual part, in units of the losses. Small values approach the maximum.
        group_temperature: T of the group part, dimensionless (default variant); ``None``: as ``temperature``.
        max_weight: largest weight in either part of the default variant, >= 1; ``None``: no cap.
        variant: ``"default"``; ``"paper"``: eq 1, unsigned, uncapped, each part summing to 1; ``"released"``: the authors'
            code. The last two shrink as 1/N.
        right_asymptote: the released code's factor; used by ``variant="released"`` alone.
        transport: of ``variant="released"``: ``"exact"`` distances, or ``"geomloss"``: that package's, as in the
            authors' code (one call per group, not compiled).
        blur: geomloss's.
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
        >>> losses = torch.tensor([0.1, 0.2, 0.9, 1.2])
        >>> FISLoss(num_groups=2)(losses, torch.tensor([0, 0, 1, 1]))
        tensor(0.8524)

    References:
        Masroor et al., *Fair Distillation: Teaching Fairness from Biased Teachers in Medical Imaging*, eq 1.
        Luo et al., *FairVision: Equitable Deep Learning for Eye Disease Screening via Fair Identity Scaling*.
    """

    _OPTIONS = option_names(fis, without=("reference", "return_parts"))

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        c: float = 0.5,
        temperature: float = 1.0,
        group_temperature: float | None = None,
        max_weight: float | None = 10.0,
        variant: FISVariant = "default",
        right_asymptote: float = 2.0,
        transport: Transport = "exact",
        blur: float = 0.1,
        memory: GroupMemory | None = None,
        attribute_reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = check_num_groups(num_groups)
        _check_options(c, temperature, group_temperature, max_weight, variant, right_asymptote, transport, blur)
        checks.choice("attribute_reduction", attribute_reduction, ATTRIBUTE_REDUCTIONS)
        check_memory(memory, self.num_groups)
        check_process_group(process_group)
        self.c, self.temperature, self.group_temperature, self.max_weight = (
            c,
            temperature,
            group_temperature,
            max_weight,
        )
        self.variant, self.right_asymptote, self.transport, self.blur = variant, right_asymptote, transport, blur
        self.memory, self.attribute_reduction, self.process_group = memory, attribute_reduction, process_group

    def forward(
        self, values: Tensor, groups: Tensor, *, reference: Reference | None = None, return_parts: bool = False
    ) -> Tensor | WeightingParts:
        """Loss of a batch, with ``return_parts=True`` beside its terms; see the class."""
        options = options_of(self, self._OPTIONS)
        return fis(values, groups, reference=reference, return_parts=return_parts, **options)

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"num_groups={self.num_groups}, c={self.c}, temperature={self.temperature}, "
            f"max_weight={self.max_weight}, variant={self.variant!r}"
        )
