"""The weights of Fair Identity Scaling; the method, its paper and its variants are in :mod:`fairloss.losses.fis`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import given_options, with_options
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
from fairloss.ops.capped_weights import NOTHING, capped_shares
from fairloss.ops.sinkhorn import sinkhorn_divergences
from fairloss.ops.transport import LineStatistics, line_statistics

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "FIS_OPTIONS",
    "FISOptions",
    "FISVariant",
    "FISWeightOptions",
    "Reference",
    "Transport",
    "checked_options",
    "checked_reference",
    "compared_samples",
    "fis_weights",
    "scaled_weights",
    "weighted_mean",
    "with_batch",
]

FISVariant = Literal["default", "paper", "released"]
Transport = Literal["exact", "geomloss"]
Reference = tuple[Tensor, Tensor]


class FISWeightOptions(TypedDict, total=False):
    """Keyword arguments of :func:`fis_weights`; see :class:`FISLoss`."""

    c: float
    temperature: float
    group_temperature: float | None
    max_weight: float | None
    variant: FISVariant
    right_asymptote: float
    transport: Transport
    blur: float
    memory: GroupMemory | None


class FISOptions(FISWeightOptions, total=False):
    """Keyword arguments of :class:`FISLoss` and :func:`fis`."""

    attribute_reduction: AttributeReduction
    process_group: ProcessGroup | None


WEIGHT_OPTIONS: FISWeightOptions = {
    "c": 0.5,
    "temperature": 1.0,
    "group_temperature": None,
    "max_weight": 10.0,
    "variant": "default",
    "right_asymptote": 2.0,
    "transport": "exact",
    "blur": 0.1,
    "memory": None,
}
FIS_OPTIONS: FISOptions = {**WEIGHT_OPTIONS, "attribute_reduction": "mean", "process_group": None}

_EPS = 1e-12


def checked_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What is given and the defaults, checked."""
    o = given_options(options, defaults)
    checks.number("c", o["c"], minimum=0, maximum=1)
    checks.number("temperature", o["temperature"], above=0)
    if o["group_temperature"] is not None:
        checks.number("group_temperature", o["group_temperature"], above=0)
    if o["max_weight"] is not None:
        checks.number("max_weight", o["max_weight"], minimum=1)
    checks.choice("variant", o["variant"], get_args(FISVariant))
    checks.number("right_asymptote", o["right_asymptote"], above=0)
    checks.number("blur", o["blur"], above=0)
    if checks.choice("transport", o["transport"], get_args(Transport)) == "geomloss" and o["variant"] != "released":
        raise ValueError(expected("transport", "'exact' but for variant='released'", "'geomloss'"))
    checks.choice("attribute_reduction", o.get("attribute_reduction", "mean"), ATTRIBUTE_REDUCTIONS)
    check_process_group(o.get("process_group"))
    return o


def _signed_scores(line: LineStatistics, squared: Tensor, temperature: float, unit: float) -> Tensor:
    """(G + 1,): sign(mean_g - mean) o_g / (T Var + eps), raised to the largest one among the groups that do no worse.

    o is half of ``squared``; times ``unit``. Absent groups have the score -inf, so that they raise nobody. Nobody does as
    badly as the unknown of the last place, whose score is ``NOTHING``; where nobody is known it is 0.
    """
    # Means that differ by rounding are equal, lest the order of the batch decide the sign.
    unequal = torch.addcmul(line.variance, line.means, line.means, value=-1e20) < 0
    scores = squared.copysign(line.means) / torch.rsub(line.variance, 2 * _EPS / unit, alpha=-2 * temperature / unit)
    scores = torch.where(unequal, scores, line.zero)
    return scores.masked_fill(line.means > line.means.unsqueeze(1), NOTHING).amax(1)


def _unlike_default(o: Tensor, line: LineStatistics, own: GroupIds, variant: FISVariant) -> Tensor:
    """(G + 1,) distances over the temperature -> s^G per sample, (N,) float64, of the paper or of the released code."""
    if variant == "released":  # softmax over samples; an unknown one gets the mean of the known
        shares = torch.softmax(o[line.ids], 0)
        return torch.where(line.known, shares, 1 / torch.where(line.total > 0, line.total, len(shares)))
    present = own.sum(o.new_ones(len(own.ids))) > 0
    number = present.sum()
    table = torch.softmax(torch.where(present, o[:-1], NOTHING), 0)
    return own.lookup(table * number, 1.0) / number.clamp(min=1)


def compared_samples(x: Tensor, ids: GroupIds, memory: GroupMemory | None, reference: Any) -> tuple[Tensor, GroupIds]:
    """The values and ids that distances are taken on: the batch, a given sample, or memory and batch."""
    check_memory(memory, ids.sizes, device=x.device)
    if reference is not None:
        found = checked_reference(reference, x, ids.sizes)
        if memory is not None:
            raise ValueError(expected("reference", "None beside a memory", "a pair"))
        return found
    if memory is None:
        return x.detach(), ids
    values, ids_ = with_batch(x, ids, memory.rows())
    return values, GroupIds(ids_, ids.sizes)


def checked_reference(reference: Any, x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, GroupIds]:
    """Values, detached, and ids of other samples beside those of a batch ``x``."""
    if not isinstance(reference, tuple) or len(reference) != 2:
        cure = "a fairloss.GroupMemory is given as memory="
        raise TypeError(expected("reference", "a pair (values, groups)", type(reference).__name__, cure))
    values = per_sample("reference[0]", reference[0])
    same_device("reference[0]", values, "values", x)
    return values.detach(), check_groups(reference[1], sizes, len(values), device=values.device, name="reference[1]")


def with_batch(x: Tensor, ids: GroupIds, held: Reference) -> Reference:
    """Values and (N, 1) ids of a memory's rows and the batch."""
    return torch.cat([held[0].to(x.dtype), x.detach()]), torch.cat([held[1], ids.ids])


def scaled_weights(
    x: Tensor,
    ids: GroupIds,
    compared: tuple[Tensor, GroupIds],
    o: Mapping[str, Any],
    scale: float = 1.0,
    distances: Tensor | None = None,
) -> Tensor:
    """``scale`` times the weights of checked arguments, (N,) or (N, K)."""
    n, sizes, variant, temperature = x.shape[0], ids.sizes, o["variant"], o["temperature"]
    c = o["c"] if o["c"] > 1e-99 else 0.0  # is divided by
    group_temperature = temperature if o["group_temperature"] is None else o["group_temperature"]
    given = [None] * len(sizes) if distances is None else (2 * distances.detach().to(torch.float64)).split(list(sizes))
    lines = []  # of each attribute: statistics of what is compared, those of the batch's groups, scores or distances
    attributes = zip(given, ids.by_attribute, compared[1].by_attribute, strict=True)
    for squared, own, others in attributes if c > 0 else ():  # else no distance is needed
        line = line_statistics(compared[0], others.column, others.sizes[0])
        if squared is None and o["transport"] == "geomloss":
            samples = [compared[0][others.column == g] for g in range(others.sizes[0])]
            found = sinkhorn_divergences([(sample, torch.cat(samples)) for sample in samples], o["blur"])
            squared = 2 * found.to(torch.float64)
        squared = line.squared if squared is None else F.pad(squared, (0, 1), value=-torch.inf)
        if variant == "default":
            scores = _signed_scores(line, squared, group_temperature, temperature)
        else:
            scores = squared / (2 * group_temperature)
        if variant != "default" or compared[1] is not ids:  # groups that are not among what is compared
            scores = scores[:-1].masked_fill(line.means[:-1] == -torch.inf, 0.0)
            scores = F.pad(scores, (0, 1), value=NOTHING)
        if compared[1] is not ids:
            wrong = (line.known & ~compared[0].isfinite()).any()  # those of the batch show in the individual part
            known = own.column >= 0
            line = line._replace(ids=own.column, known=known, total=known.sum(dtype=torch.float64))
            scores = scores.masked_fill(wrong, torch.nan)
        lines.append((line, own, scores))
    if variant != "default":
        scale *= o["right_asymptote"] if variant == "released" else 1.0
        individual = torch.softmax((x if variant == "released" else x.detach()) / temperature, 0)
        parts = [_unlike_default(scores, line, own, variant).to(x.dtype) for line, own, scores in lines]
        weights = [(scale * (1 - c)) * individual + (scale * c) * part for part in parts]
        base = scale * individual
    else:
        logits = torch.stack([x.detach(), *(scores[line.ids] for line, _, scores in lines)]).to(torch.float64)
        logits = logits if temperature == 1 else logits / temperature
        cap = math.inf if o["max_weight"] is None else o["max_weight"]
        shares = capped_shares(logits, [n, *(line.total for line, _, _ in lines)], cap)
        base = shares[0] * (scale * n) if c == 0 else shares[0]  # without lines it is the weight
        weights = []
        for share, (line, _, _) in zip(shares[1:], lines, strict=True):
            # c (1 - known + total s^G) + (1 - c) n s^I: an unknown sample has share 0 and group weight 1.
            less = torch.add(line.known, base, alpha=-n * (1 - c) / c)
            less = torch.addcmul(less, share, line.total, value=-1)
            weights.append(torch.rsub(less, scale * c, alpha=scale * c).to(x.dtype))
    weights = weights or [base.to(x.dtype)] * len(sizes)
    return weights[0] if len(sizes) == 1 else torch.stack(weights, 1)


@with_options(WEIGHT_OPTIONS, FISWeightOptions)
def fis_weights(
    values: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    reference: Reference | None = None,
    distances: Tensor | None = None,
    **options: Unpack[FISWeightOptions],
) -> Tensor:
    """The weights w_i of :class:`FISLoss`, (N,): detached, except that ``"released"`` keeps the individual part's gradient.

    Of K attributes (N, K). ``distances``, (G,), replaces the transport distances by given ones; other arguments are those of
    :class:`FISLoss`. A memory is read and left as it is.

    Example:
        >>> losses = torch.tensor([0.1, 0.2, 0.9, 1.2])
        >>> fis_weights(losses, torch.tensor([0, 0, 1, 1]), num_groups=2)
        tensor([0.4433, 0.4719, 1.4362, 1.6485])
    """
    sizes, o = check_num_groups(num_groups), checked_options(options, WEIGHT_OPTIONS)
    x = per_sample("values", values).to(statistics_dtype(values.dtype))
    ids = check_groups(groups, sizes, x.shape[0], device=x.device)
    compared = compared_samples(x, ids, o["memory"], reference)
    if distances is not None:
        shaped("distances", real("distances", distances, "a tensor of one distance per group"), (sum(sizes),))
        same_device("distances", distances, "values", x)
    return scaled_weights(x, ids, compared, o, distances=distances)


def weighted_mean(
    x: Tensor, ids: GroupIds, compared: tuple[Tensor, GroupIds], o: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """The loss of checked arguments, and 1 / N times the weights."""
    weights = scaled_weights(x, ids, compared, o, 1 / max(x.shape[0], 1))
    if len(ids.sizes) == 1:
        return torch.dot(weights, x), weights
    by_attribute = (weights * x.unsqueeze(1)).sum(0)
    return reduce_attributes(by_attribute, o["attribute_reduction"]), weights
