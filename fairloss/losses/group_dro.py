"""Group distributionally robust optimisation: groups weighted by an adversary that follows their losses.

Paper: Sagawa et al. 2019, *Distributionally Robust Neural Networks for Group Shifts*, algorithm 1. Differences of the
default: a group's loss is estimated by Lhat_g = sum_{i in g} l_i / (n pi_g), unbiased at any batch size and 0 when the
group is absent, where the released code takes the batch mean, so that at batch 2 a rare group's q grows with how often it
is seen, not with how it fares; q moves by the losses' distance from their running mean, so that equal losses leave it where
it is; and groups never seen share no weight. ``variant="released"`` is the authors' code, but that q stays in validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.state import StatefulModule, Step, real_device
from fairloss.core.tensor_checks import floating, per_sample, same_device
from fairloss.groups.ids import (
    ATTRIBUTE_REDUCTIONS,
    AttributeReduction,
    GroupTable,
    check_group_counts,
    check_groups,
    check_num_groups,
    group_tables,
    sum_by_attribute,
)
from fairloss.groups.stream import attribute_sums, by_attribute, check_shares, decayed, estimate_scale
from fairloss.losses.parts import WeightingParts, weighting_parts

__all__ = ["GroupDROLoss", "group_dro"]

GroupDROVariant = Literal["default", "released"]


class _State(NamedTuple):
    """What moves with every step, each (G,)."""

    log_q: Tensor
    seen: Tensor
    losses: Tensor


def group_dro(
    values: Tensor,
    groups: Tensor,
    *,
    q: Tensor,
    shares: Tensor | None = None,
    max_weight: float = 20.0,
    process_group: ProcessGroup | None = None,
    return_parts: bool = False,
) -> Tensor | WeightingParts:
    """sum_g q_g Lhat_g for given group weights; :class:`GroupDROLoss` keeps them and moves them.

    Args:
        values: (N,) per-sample losses.
        groups: (N,) integer or bool ids, -1 = unknown.
        q: (G,) weights; no gradient flows to them.
        shares: (G,) group shares pi_g; Lhat_g = min(1 / pi_g, max_weight) sum_{i in g} l_i / n, n the known samples.
            ``None``: Lhat_g is the batch's mean.
        max_weight: cap on 1 / pi_g, >= 1.
        process_group: sums over its ranks.
        return_parts: the loss with its terms.

    Returns:
        A scalar in float32 (float64 for float64 values), or a :class:`fairloss.functional.WeightingParts`.

    Example:
        >>> losses, groups = torch.tensor([1.0, 1.0, 4.0, 2.0]), torch.tensor([0, 0, 1, 1])
        >>> group_dro(losses, groups, q=torch.tensor([0.25, 0.75]))
        tensor(2.5000)
    """
    per_sample("values", values)
    checks.number("max_weight", max_weight, minimum=1)
    check_process_group(process_group)
    floating("q", q, "(G,)", 1)
    same_device("q", q, "values", values)
    if shares is not None:
        if floating("shares", shares, "(G,)", 1).shape != q.shape:
            raise ValueError(expected("shares", f"the shape of q, {tuple(q.shape)}", tuple(shares.shape)))
        same_device("shares", shares, "values", values)
    ids = check_groups(groups, q.shape[0], values.shape[0], device=values.device)
    sums, counts = ids.totals(values.to(statistics_dtype(values.dtype)), process_group)
    if shares is None:
        scale = 1 / counts.clamp(min=1)
    else:
        scale = estimate_scale(counts, shares.detach(), ids.sizes, max_weight)
    loss = (q.detach().to(sums) * scale * sums).sum()
    return weighting_parts(loss, sums, counts, q, ids.sizes) if return_parts else loss


class GroupDROLoss(StatefulModule):
    """Group DRO: sum_g q_g Lhat_g with weights q that grow with the groups' losses.

    Lhat_g = sum_{i in g} l_i / (n pi_g), with n the known samples of the batch and pi_g the group's share of the stream of
    samples. In training, before the value is taken:

        log q_g += step_size * (sum_{i in g} (l_i - c) / (n pi_g) + adjustment_g / sqrt(N_g)),    q = softmax(log q)

    over the groups ever seen, c being the running mean loss: a softmax ignores what is added to all alike, and so groups
    with equal losses keep equal weights, however often each is drawn. Several attributes have a state each.

    Args:
        num_groups: number of groups; a tuple for several attributes.
        step_size: eta > 0 of the exponentiated-gradient step (default 0.01).
        adjustment: C >= 0 of the generalisation adjustment C / sqrt(N_g), one number or one per group; needs
            ``group_counts``.
        group_counts: training-set counts per group, (G,), N_g of the adjustment and nothing else; for several attributes one
            list each.
        shares: the groups' shares pi_g of the stream that is trained on, (G,), in any unit. By default they are counted: from
            the samples seen, this batch included, whatever sampler draws them, half of the count (and of c) being forgotten
            every 10,000 samples.
        max_weight: cap on 1 / pi_g in value, gradient and step, >= 1: a group seen for the first time would weigh as much as
            the stream before it (default 20).
        variant: ``"default"`` as above; ``"released"``: batch means without c, all groups from the first step on, and the
            adjustment in the value as well.
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Attributes:
        log_q: (G,) float64 state.
        seen: (G,) float64 state, the decaying count of samples.
        losses: (G,) float64 state, the decaying sum of their losses.

    Shape:
        - values: (N,) floating, any per-sample loss
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 values); with ``return_parts=True`` a
          :class:`fairloss.functional.WeightingParts`, whose weights are q

    Raises:
        TypeError, ValueError: naming the argument, before any change of state.

    Note:
        The state moves in training mode with gradients enabled, once per call, also under activation checkpointing; within
        :func:`fairloss.frozen` the value is that of training with q as it stands. In eval mode the value is the mean of the
        batch's group means, weighted by q over the groups present (alike where q gives them no weight): a validation set has
        its own shares. Unknown samples take no part: add their task loss if they should count. An absent group contributes
        0. In expectation over batches the group that does worse gains the most weight; q remembers, so that a single batch
        need not show it. The value is on the scale of a mean loss.

    Example:
        >>> loss = GroupDROLoss(2, step_size=0.5)
        >>> value = loss(torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> loss.q
        tensor([0.2689, 0.7311], dtype=torch.float64)
        >>> value
        tensor(2.4621)

    References:
        Sagawa et al., *Distributionally Robust Neural Networks for Group Shifts*, algorithm 1.

    Reference:
        Sagawa et al. 2019, algorithm 1: https://arxiv.org/abs/1911.08731

    See Also:
        :class:`FISLoss`, :class:`InverseFrequencyWeighting`, :class:`GroupBatchSampler`
    """

    log_q: Tensor
    seen: Tensor
    losses: Tensor
    shares: Tensor | None
    adjustments: Tensor

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        step_size: float = 0.01,
        adjustment: float | GroupTable = 0.0,
        group_counts: GroupTable | None = None,
        shares: GroupTable | None = None,
        max_weight: float = 20.0,
        variant: GroupDROVariant = "default",
        attribute_reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = check_num_groups(num_groups)
        self.step_size = checks.number("step_size", step_size, above=0)
        self.max_weight = checks.number("max_weight", max_weight, minimum=1)
        self.variant = checks.choice("variant", variant, ("default", "released"))
        checks.choice("attribute_reduction", attribute_reduction, ATTRIBUTE_REDUCTIONS)
        check_process_group(process_group)
        self.attribute_reduction, self.process_group = attribute_reduction, process_group
        if self.variant == "released" and shares is not None:
            raise ValueError(expected("shares", "None with variant='released', which takes batch means", shares))
        self.register_constant("adjustments", _adjustments(adjustment, group_counts, self.num_groups, self.variant))
        self.register_constant("shares", check_shares(shares, self.num_groups))
        for name in _State._fields:
            self.register_state(name, (sum(self.num_groups),), torch.float64, counted=True)

    @property
    def q(self) -> Tensor:
        """Current weights, (G,) float64, sum 1 in each attribute (all 0 before its first group is seen)."""
        return self._weights(self.log_q, self.seen)

    def _weights(self, log_q: Tensor, seen: Tensor) -> Tensor:
        if self.variant == "released":
            return by_attribute(lambda part: torch.softmax(part, 0), log_q, self.num_groups)
        alone = by_attribute(lambda part: torch.softmax(part, 0), log_q.masked_fill(seen == 0, -1e300), self.num_groups)
        return torch.where(seen > 0, alone, 0.0)

    def forward(self, values: Tensor, groups: Tensor, *, return_parts: bool = False) -> Tensor | WeightingParts:
        """Loss of a batch, with ``return_parts=True`` beside its terms; see the class."""
        per_sample("values", values)
        same_device("values", values, "the loss", self.log_q, "criterion.to(device)")
        ids = check_groups(groups, self.num_groups, values.shape[0], device=values.device)
        sums, counts = ids.totals(values.to(statistics_dtype(values.dtype)), self.process_group)
        means = 1 / counts.clamp(min=1)
        if self.training:
            step = self.begin()
            state = self._stepped(sums.detach(), counts, step)
            if step is not None:
                self.end(step, **state._asdict())
            if self._frozen:
                state = state._replace(log_q=self.log_q)
            weights, scale = self._weights(state.log_q, state.seen), means
            if self.variant == "default":
                stream = state.seen if self.shares is None else self.shares
                scale = estimate_scale(counts, stream, self.num_groups, self.max_weight)
        else:
            weights, scale = self.q, means
            if self.variant == "default":  # over the groups present, alike where q gives none of them a weight
                here = (counts > 0).to(weights.dtype)
                weights = here * weights
                weights = torch.where(attribute_sums(weights, self.num_groups) > 0, weights, here)
                weights = weights / attribute_sums(weights, self.num_groups).clamp(min=1e-30)
        terms = scale * sums
        if self.variant == "released":
            terms = terms + self.adjustments.to(terms)
        loss = sum_by_attribute(weights.to(terms) * terms, self.num_groups, self.attribute_reduction)
        return weighting_parts(loss, sums, counts, weights, self.num_groups) if return_parts else loss

    def _stepped(self, sums: Tensor, counts: Tensor, step: Step | None) -> _State:
        """The state after a batch; nothing of it is kept here."""
        old = _State(*(self.base(name, step) for name in _State._fields))
        sizes, sums, counts = self.num_groups, sums.to(self.log_q), counts.to(self.log_q)
        n = attribute_sums(counts, sizes)
        # A group that stays away for long is still one that was seen.
        seen = torch.maximum(decayed(old.seen, counts, n), old.seen.clamp(max=1e-30))
        losses = decayed(old.losses, sums, n)
        if self.variant == "released":
            move = sums / counts.clamp(min=1)
        else:
            mean = attribute_sums(losses, sizes) / attribute_sums(seen, sizes).clamp(min=1e-30)
            stream = seen if self.shares is None else self.shares
            move = (sums - mean * counts) * estimate_scale(counts, stream, sizes, self.max_weight)
        log_q = old.log_q + self.step_size * (move + self.adjustments)
        # The largest is brought back to 0: only differences matter, and nothing grows without bound.
        log_q = by_attribute(lambda part: part - part.amax(), log_q, sizes)
        # A batch with a loss of NaN or infinity (half precision overflows) is no step at all: q would stay NaN.
        finite = torch.isfinite(log_q).all()
        moved = zip((log_q, seen, losses), old, strict=True)
        return _State(*(torch.where(finite, new, was) for new, was in moved))

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, step_size={self.step_size}, variant={self.variant!r}"


def _adjustments(
    adjustment: float | GroupTable, group_counts: GroupTable | None, sizes: tuple[int, ...], variant: str
) -> Tensor:
    """C_g / sqrt(N_g), (G,) float64."""
    if isinstance(adjustment, Sequence) or getattr(adjustment, "ndim", 0) > 0:  # a list, a tensor or an array
        table = torch.cat(group_tables(adjustment, sizes, "adjustment"))  # type: ignore[arg-type]
        if not bool((torch.isfinite(table) & (table >= 0)).all()):
            raise ValueError(expected("adjustment", "finite numbers >= 0", table.tolist()))
    else:
        number = checks.number("adjustment", adjustment, minimum=0)
        table = torch.full((sum(sizes),), number, dtype=torch.float64, device=real_device())
    counts = None if group_counts is None else torch.cat(check_group_counts(group_counts, sizes))
    if not bool((table > 0).any()):
        return table
    if counts is None:
        raise ValueError(expected("group_counts", "counts for the adjustment C / sqrt(N_g)", None))
    if variant == "released" and not bool((table > 0).all()):
        cure = "the released code drops the adjustment where one is 0: pass 0.0 for that, or variant='default'"
        raise ValueError(expected("adjustment", "numbers > 0 with variant='released'", table.tolist(), cure))
    return table / counts.clamp(min=1).sqrt()
