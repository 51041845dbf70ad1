"""Fair Identity Scaling: samples and groups with large losses weigh more.

Each sample's weight mixes an individual part, a softmax of its own loss, with a group part, a softmax of its group's
transport distance to all losses. Paper: Masroor et al., *Fair Distillation*, eq 1, after Luo et al., *FairVision*.

Where the default differs from eq 1 (``variant="paper"``), and why:

- Weights have mean 1 over the batch; eq 1's sum to 1 over it, so that the loss would shrink as 1/N.
- No weight exceeds ``max_weight``; uncapped, two mislabelled images can hold 99.9% of the batch. What the cap takes away
  goes to the others in proportion to their weights (clipping and rescaling once would hand it back).
- The distance measures difference, not disadvantage: a merely *better* group would be weighed up. It is signed by whether
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
from typing import Literal

import torch
from torch import Tensor, nn

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, check_process_group, gather_rows, gather_rows_with_gradient
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import per_sample, same_device
from fairloss.groups.ids import GroupIds, check_groups, single_attribute
from fairloss.groups.memory import GroupMemory
from fairloss.ops.transport import LineStatistics, line_statistics

__all__ = ["FISLoss", "Reference", "Variant", "fis", "fis_weights"]

Variant = Literal["default", "paper", "released"]
Reference = tuple[Tensor, Tensor] | GroupMemory

_EPS = 1e-12


def _mean_one(logits: Tensor, counts: Tensor | None, cap: float) -> Tensor:
    """Weights proportional to exp(logits), of mean 1 over entries that stand for ``counts`` samples each, none above ``cap``.

    w_i = min(cap, lam exp(logit_i)) with the lam that makes the mean 1, found on the sorted logits: with the k largest at
    the cap, log lam = log(n - cap * their samples) - logsumexp(the rest), and k is the smallest number whose next weight
    stays below. 0 where the count is 0; ``None`` counts 1 each.
    """
    # Most batches need no cap, and where a look at the weights waits for no device it spares the sort.
    look = logits.device.type == "cpu" and not torch.compiler.is_compiling()
    if cap == math.inf or (look and logits.shape[0]):
        weights = _uncapped(logits, counts)
        if cap == math.inf or bool(weights.amax() <= cap):
            return weights
    return _capped(logits, torch.ones_like(logits) if counts is None else counts, cap)


def _uncapped(logits: Tensor, counts: Tensor | None) -> Tensor:
    if counts is None:
        return torch.softmax(logits, 0) * logits.shape[0]
    absent = counts == 0
    odds = logits.masked_fill(absent, -torch.inf)
    odds = torch.exp(odds - odds.amax())
    return (odds * (counts.sum() / torch.dot(odds, counts))).masked_fill(absent, 0.0)


def _capped(logits: Tensor, counts: Tensor, cap: float) -> Tensor:
    included = counts > 0
    largest, order = logits.masked_fill(~included, -torch.inf).sort(descending=True)
    samples = counts[order]
    rest = torch.logcumsumexp((largest + torch.log(samples)).flip(0), 0).flip(0)  # from each place on
    left = counts.sum() - cap * (samples.cumsum(0) - samples)
    log_lam = torch.log(left.clamp(min=1e-9)) - rest
    over = (left > 0) & (log_lam + largest > math.log(cap) + 1e-9)
    # Once the next weight stays below the cap, all later ones do: the first place that fits is the number of those over.
    k = over.sum().clamp(max=max(logits.shape[0] - 1, 0)).unsqueeze(0)
    factor = log_lam.gather(0, k) if logits.shape[0] > 0 else log_lam.new_zeros(1)
    return torch.where(included, torch.exp((logits + factor).clamp(max=math.log(cap))), 0.0)


def _signed_scores(line: LineStatistics, o: Tensor, temperature: float) -> Tensor:
    """(G,): sign(mean_g - mean) o_g / (T Var + eps), raised to the largest one among the groups that do no worse."""
    means, present = line.means, line.sizes > 0
    # Means that differ by rounding are equal, lest the order of the batch decide the sign.
    sign = means.sign() * (means.abs() > 1e-10 * line.variance.sqrt())
    scores = sign * o / (temperature * line.variance + _EPS)
    no_worse = (means <= means.unsqueeze(1)) & present  # (G, G)
    raised = torch.where(no_worse, scores, -torch.inf).amax(1)
    return torch.where(present, raised, 0.0)


def _group_part(scores: Tensor, sizes: Tensor, ids: GroupIds, variant: Variant, cap: float) -> Tensor:
    """(G,) scores and (G,) samples a group -> s^G a sample, (N,), in float64."""
    if variant == "default":
        return ids.lookup(_mean_one(scores, sizes, cap), 1.0)
    if variant == "released":
        # Softmax over samples; an unknown one gets the mean of the known.
        known = sizes.sum()
        n = ids.ids.shape[0]
        return ids.lookup(_mean_one(scores, sizes, math.inf), 1.0) / torch.where(known > 0, known, n)
    present = (sizes > 0).to(scores.dtype)
    return ids.lookup(_mean_one(scores, present, math.inf), 1.0) / present.sum().clamp(min=1)


def fis_weights(
    losses: Tensor,
    groups: Tensor,
    *,
    num_groups: int,
    c: float = 0.5,
    temperature: float = 1.0,
    group_temperature: float | None = None,
    max_weight: float | None = 10.0,
    variant: Variant = "default",
    right_asymptote: float = 2.0,
    reference: Reference | None = None,
    distances: Tensor | None = None,
) -> Tensor:
    """The weights w_i of :class:`FISLoss`, (N,): detached, except that ``"released"`` keeps the individual part's gradient.

    ``distances``, (num_groups,), replaces the transport distances by given ones; other arguments are those of
    :class:`FISLoss`.

    Example:
        >>> losses = torch.tensor([0.1, 0.2, 0.9, 1.2])
        >>> fis_weights(losses, torch.tensor([0, 0, 1, 1]), num_groups=2)
        tensor([0.4433, 0.4719, 1.4362, 1.6485])
    """
    size = _check(num_groups, c, temperature, group_temperature, max_weight, variant, right_asymptote)
    per_sample("losses", losses)
    ids = check_groups(groups, size, losses.shape[0], like=losses)
    return _weights(
        losses.to(statistics_dtype(losses.dtype)), ids, size, c, temperature, group_temperature, max_weight,
        variant, right_asymptote, reference, distances,
    )  # fmt: skip


def _weights(
    x: Tensor, ids: GroupIds, size: int, c: float, temperature: float, group_temperature: float | None,
    max_weight: float | None, variant: Variant, right_asymptote: float,
    reference: Reference | None, distances: Tensor | None,
) -> Tensor:  # fmt: skip
    """As :func:`fis_weights` on checked scalars, values and (N, 1) ids."""
    group_temperature = temperature if group_temperature is None else group_temperature
    cap = math.inf if max_weight is None else max_weight
    if distances is not None and (not isinstance(distances, Tensor) or distances.shape != (size,)):
        given = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
        raise ValueError(f"distances: shape ({size},), one a group, is needed, {given} was given")
    if distances is not None:
        same_device("distances", distances, "losses", x)
    values, value_ids = _reference_of(x, ids.ids, size, reference)
    scale = right_asymptote if variant == "released" else 1.0
    if variant == "default":
        individual = _mean_one(x.detach().to(torch.float64) / temperature, None, cap).to(x.dtype)
    else:
        individual = torch.softmax((x if variant == "released" else x.detach()) / temperature, 0)
    if c == 0:  # no distance is needed
        return scale * individual
    line = line_statistics(values, value_ids, size)
    o = line.squared / 2 if distances is None else distances.detach().to(torch.float64)
    if variant == "default":
        scores = _signed_scores(line, o, group_temperature)
    else:
        scores = o / group_temperature
    sizes = line.sizes if reference is None else ids.sum(scores.new_ones(ids.ids.shape[0]))
    group_part = _group_part(scores, sizes, ids, variant, cap).to(x.dtype)
    return (scale * (1 - c)) * individual + (scale * c) * group_part


def _reference_of(x: Tensor, ids: Tensor, num_groups: int, reference: Reference | None) -> tuple[Tensor, Tensor]:
    """The values and (M, 1) ids that distances are taken on: the batch, a given batch, or memory and batch."""
    if reference is None:
        return x.detach(), ids
    if isinstance(reference, GroupMemory):
        if reference.num_groups != num_groups:
            raise ValueError(f"reference: the memory has {reference.num_groups} groups, num_groups is {num_groups}")
        same_device("reference", reference.values, "losses", x)
        slot = torch.arange(reference.capacity, device=ids.device)
        group = torch.arange(num_groups, device=ids.device).unsqueeze(1)
        held = torch.where(slot < reference.seen.unsqueeze(1), group, -1)
        values = torch.cat([reference.values.reshape(-1).to(x.dtype), x.detach()])
        return values, torch.cat([held.reshape(-1, 1), ids])
    if not isinstance(reference, tuple) or len(reference) != 2:
        raise TypeError(
            f"reference: a pair (losses, groups) or a fairloss.GroupMemory is needed, {type(reference).__name__} was given"
        )
    values, groups = reference
    per_sample("reference[0]", values)
    same_device("reference[0]", values, "losses", x)
    return values.detach(), check_groups(groups, num_groups, values.shape[0], like=values, name="reference[1]").ids


def _check(
    num_groups: int,
    c: float,
    temperature: float,
    group_temperature: float | None,
    max_weight: float | None,
    variant: str,
    right_asymptote: float,
) -> int:
    size = single_attribute(num_groups, "FISLoss")
    checks.number("c", c, minimum=0, maximum=1)
    checks.number("temperature", temperature, above=0)
    if group_temperature is not None:
        checks.number("group_temperature", group_temperature, above=0)
    if max_weight is not None:
        checks.number("max_weight", max_weight, minimum=1)
    checks.choice("variant", variant, ("default", "paper", "released"))
    checks.number("right_asymptote", right_asymptote, above=0)
    return size


def fis(
    losses: Tensor,
    groups: Tensor,
    *,
    num_groups: int,
    c: float = 0.5,
    temperature: float = 1.0,
    group_temperature: float | None = None,
    max_weight: float | None = 10.0,
    variant: Variant = "default",
    right_asymptote: float = 2.0,
    reference: Reference | None = None,
    distances: Tensor | None = None,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Fair Identity Scaling as a function; see :class:`FISLoss`.

    Example:
        >>> losses = torch.tensor([0.1, 0.2, 0.9, 1.2])
        >>> fis(losses, torch.tensor([0, 0, 1, 1]), num_groups=2)
        tensor(0.8524)
    """
    size = _check(num_groups, c, temperature, group_temperature, max_weight, variant, right_asymptote)
    check_process_group(process_group)
    per_sample("losses", losses)
    ids = check_groups(groups, size, losses.shape[0], like=losses)
    x = losses.to(statistics_dtype(losses.dtype))
    if process_group is not None:
        x, ids = gather_rows_with_gradient(x, process_group), ids.gathered(process_group)
        if isinstance(reference, tuple):
            reference = (gather_rows(reference[0], process_group), gather_rows(reference[1], process_group))
    weights = _weights(
        x, ids, size, c, temperature, group_temperature, max_weight, variant, right_asymptote, reference,
        distances,
    )  # fmt: skip
    if isinstance(reference, GroupMemory) and reference.training and torch.is_grad_enabled():
        reference.push(x, ids.column)
    return torch.dot(weights, x) / max(x.shape[0], 1)


class FISLoss(nn.Module):
    """Fair Identity Scaling: a mean of per-sample losses with larger weights where the model does worse.

    value = mean_i w_i l_i,  w_i = (1 - c) s^I_i + c s^G_{g_i}. By default both parts have mean 1: s^I is proportional to
    exp(l_i / T), s^G to exp(sign(mean_g - mean) o_g / (T Var(l))) with o_g = W_2^2(losses of g, all losses) / 2, and no weight
    exceeds ``max_weight``. With equal losses it is their mean; 0 means that all losses are 0.

    Args:
        num_groups: number of groups of the one attribute.
        c: share of the group part in [0, 1]: 0 weighs by individual loss alone, 1 by group alone.
        temperature: T > 0 of the individual part, in units of the losses. Small values approach the maximum.
        group_temperature: T of the group part, dimensionless (default variant); ``None``: as ``temperature``.
        max_weight: largest weight in either part of the default variant, >= 1; ``None``: no cap.
        variant: ``"default"``; ``"paper"``: eq 1, unsigned, uncapped, each part summing to 1; ``"released"``: the authors'
            code. The last two shrink as 1/N.
        right_asymptote: the released code's factor; used by ``variant="released"`` alone.
        process_group: makes the loss that of all its ranks' samples, gathered (lengths are exchanged, which waits for the
            device); see :mod:`fairloss.core.distributed`.

    Shape:
        - losses: (N,) per-sample losses >= 0 (cross-entropy, Dice loss, a sequence's nll), float16 to float64
        - groups: (N,) integer or bool ids, -1 = unknown
        - reference: ``None``, or (losses, groups) of other samples on which the distances are taken, or a
          :class:`fairloss.GroupMemory`: they are then taken on memory and batch, and the memory takes the batch in when it
          is in training mode and gradients are enabled
        - output: scalar, float32 (float64 for float64 losses)

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

    def __init__(
        self,
        num_groups: int,
        c: float = 0.5,
        temperature: float = 1.0,
        group_temperature: float | None = None,
        max_weight: float | None = 10.0,
        variant: Variant = "default",
        right_asymptote: float = 2.0,
        *,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = _check(num_groups, c, temperature, group_temperature, max_weight, variant, right_asymptote)
        check_process_group(process_group)
        self.c, self.temperature, self.group_temperature = c, temperature, group_temperature
        self.max_weight, self.variant, self.right_asymptote = max_weight, variant, right_asymptote
        self.process_group = process_group

    def forward(self, losses: Tensor, groups: Tensor, reference: Reference | None = None) -> Tensor:
        """Loss of a batch; see the class."""
        return fis(
            losses, groups, num_groups=self.num_groups, c=self.c, temperature=self.temperature,
            group_temperature=self.group_temperature, max_weight=self.max_weight, variant=self.variant,
            right_asymptote=self.right_asymptote, reference=reference, process_group=self.process_group,
        )  # fmt: skip

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"num_groups={self.num_groups}, c={self.c}, temperature={self.temperature}, "
            f"max_weight={self.max_weight}, variant={self.variant!r}"
        )
