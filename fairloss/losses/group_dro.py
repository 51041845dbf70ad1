"""Group distributionally robust optimisation: groups weighted by an adversary that follows their losses.

Paper: Sagawa et al. 2019, *Distributionally Robust Neural Networks for Group Shifts*, algorithm 1. Differences of the
default: a group's loss is estimated by Lhat_g = sum_{i in g} l_i / (n pi_g), unbiased at any batch size and 0 when the
group is absent, where the released code takes the batch mean, so that at batch 2 a rare group's q grows with how often it
is seen, not with how it fares; and groups never seen share no weight. ``variant="released"`` is the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.state import StatefulModule
from fairloss.core.tensor_checks import floating, per_sample, same_device
from fairloss.groups.ids import check_group_counts, check_groups, estimate_scale, group_shares, single_attribute

__all__ = ["GroupDROLoss", "group_dro"]

GroupDROVariant = Literal["default", "released"]


def _estimates(sums: Tensor, counts: Tensor, shares: Tensor | None) -> Tensor:
    """(G,) loss of each group, 0 where absent: batch means, or with shares sum_{i in g} l_i / (n pi_g)."""
    if shares is None:
        return sums / counts.clamp(min=1)
    # Detached, so that backward needs nothing derived from state that is updated in place.
    return sums * estimate_scale(counts, shares).detach()


def group_dro(
    values: Tensor,
    groups: Tensor,
    *,
    q: Tensor,
    shares: Tensor | None = None,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """sum_g q_g Lhat_g for given group weights; :class:`GroupDROLoss` keeps them and moves them.

    Args:
        values: (N,) per-sample losses.
        groups: (N,) integer or bool ids, -1 = unknown.
        q: (G,) weights; no gradient flows to them.
        shares: (G,) group shares pi_g, positive; Lhat_g = sum_{i in g} l_i / (n pi_g), n the known samples. ``None``:
            Lhat_g is the batch's mean.
        process_group: sums over its ranks.

    Returns:
        A scalar in float32 (float64 for float64 values).

    Example:
        >>> losses, groups = torch.tensor([1.0, 1.0, 4.0, 2.0]), torch.tensor([0, 0, 1, 1])
        >>> group_dro(losses, groups, q=torch.tensor([0.25, 0.75]))
        tensor(2.5000)
    """
    per_sample("values", values)
    check_process_group(process_group)
    floating("q", q, "(G,)", 1)
    same_device("q", q, "values", values)
    if shares is not None:
        if floating("shares", shares, "(G,)", 1).shape != q.shape:
            raise ValueError(expected("shares", f"the shape of q, {tuple(q.shape)}", tuple(shares.shape)))
        same_device("shares", shares, "values", values)
    ids = check_groups(groups, q.shape[0], values.shape[0], device=values.device)
    v = values.to(statistics_dtype(values.dtype))
    sums, counts = ids.totals(v, process_group)
    return (q.detach().to(v) * _estimates(sums, counts, None if shares is None else shares.to(v))).sum()


class GroupDROLoss(StatefulModule):
    """Group DRO: sum_g q_g Lhat_g with weights q that grow with the groups' losses.

    In training, before the value is taken: log q_g += step_size * (Lhat_g + adjustment / sqrt(N_g)), then q = softmax(log q)
    over the groups ever seen. Lhat_g = sum_{i in g} l_i / (n pi_g), n the known samples of the batch, pi_g the group's share
    from ``group_counts``, else among all samples seen, this batch included.

    Args:
        num_groups: number of groups of the one attribute.
        step_size: eta > 0 of the exponentiated-gradient step.
        adjustment: C >= 0 of the generalisation adjustment C / sqrt(N_g); needs ``group_counts``.
        group_counts: training-set counts per group, (G,).
        variant: ``"default"`` as above; ``"released"``: batch means and all groups from the first step on.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Attributes:
        log_q: (G,) float64 state.
        seen: (G,) int64 state, samples of each group seen so far.

    Shape:
        - values: (N,) floating, any per-sample loss
        - groups: (N,) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 values)

    Raises:
        TypeError, ValueError: naming the argument, before any change of state.

    Note:
        The state moves in training mode with gradients enabled, once per call; in eval mode the value uses q as it stands, in
        which a group never trained on has no weight (before the first training step all groups present weigh alike).
        Unknown samples take no part: add their task loss if they should count. An absent group contributes 0. In
        expectation over batches the group that does worse gains the most weight; q remembers, so that a single batch need
        not show it. The value is on the scale of a mean loss.

    Example:
        >>> loss = GroupDROLoss(2, step_size=0.5, group_counts=[50, 50])
        >>> value = loss(torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> loss.q
        tensor([0.2689, 0.7311], dtype=torch.float64)
        >>> value
        tensor(2.4621)

    References:
        Sagawa et al., *Distributionally Robust Neural Networks for Group Shifts*, algorithm 1.
    """

    log_q: Tensor
    seen: Tensor
    counts: Tensor | None

    def __init__(
        self,
        num_groups: int,
        *,
        step_size: float = 0.01,
        adjustment: float = 0.0,
        group_counts: Sequence[float] | Tensor | None = None,
        variant: GroupDROVariant = "default",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = single_attribute(num_groups, "GroupDROLoss")
        self.step_size = checks.number("step_size", step_size, above=0)
        self.adjustment = checks.number("adjustment", adjustment, minimum=0)
        self.variant = checks.choice("variant", variant, ("default", "released"))
        check_process_group(process_group)
        self.process_group = process_group
        counts = None if group_counts is None else check_group_counts(group_counts, self.num_groups)
        self.register_constant("counts", counts)
        if counts is None and self.adjustment > 0:
            raise ValueError(expected("group_counts", "counts for the adjustment C / sqrt(N_g)", None))
        self.register_state("log_q", torch.zeros(self.num_groups, dtype=torch.float64))
        self.register_state("seen", torch.zeros(self.num_groups, dtype=torch.int64))

    @property
    def q(self) -> Tensor:
        """Current weights, (G,) float64, sum 1 (all 0 before the first group is seen)."""
        return self._weights(self.seen)

    def _weights(self, seen: Tensor) -> Tensor:
        if self.variant == "released":
            return torch.softmax(self.log_q, 0)
        return torch.where(seen > 0, torch.softmax(self.log_q.masked_fill(seen == 0, -1e300), 0), 0.0)

    def forward(self, values: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        per_sample("values", values)
        same_device("values", values, "the loss", self.log_q)
        ids = check_groups(groups, self.num_groups, values.shape[0], device=values.device)
        v = values.to(statistics_dtype(values.dtype))
        sums, counts = ids.totals(v, self.process_group)
        seen = self.seen + counts.to(torch.int64)
        shares = None
        if self.variant == "default":
            shares = group_shares(self.counts if self.counts is not None else seen.to(torch.float64)).to(v)
        losses = _estimates(sums, counts, shares)
        if self.training and torch.is_grad_enabled():
            self._step(losses.detach().to(torch.float64), seen)
            weights = self._weights(self.seen)
        else:
            # Before the first step no group has a weight, and a mean of nothing would pass for a perfect loss.
            here = counts > 0
            alike = here / here.sum().clamp(min=1)
            weights = torch.where(self.seen.sum() > 0, self._weights(self.seen), alike.to(torch.float64))
        return (weights.to(v) * losses).sum()

    def _step(self, losses: Tensor, seen: Tensor) -> None:
        with torch.no_grad():
            if self.counts is not None and self.adjustment > 0:
                losses = losses + self.adjustment / self.counts.clamp(min=1).sqrt()
            moved = self.log_q + self.step_size * losses
            # A batch with a loss of NaN or infinity (half precision overflows) is no step at all: q would stay NaN.
            finite = torch.isfinite(moved).all()
            self.seen.copy_(torch.where(finite, seen, self.seen))
            # The largest is brought back to 0: only differences matter, and nothing grows without bound.
            self.log_q.copy_(torch.where(finite, moved - moved.amax(), self.log_q))

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, step_size={self.step_size}, variant={self.variant!r}"
