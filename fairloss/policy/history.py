"""What FairGRPO remembers of past batches: seven numbers per (domain, group) cell, whatever the number of steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.state import StatefulModule
from fairloss.core.tensor_checks import floating, same_device, shaped
from fairloss.ops.fair_grpo_setting import HISTORIES, History
from fairloss.policy.weights import INFORMATIVE, advanced

__all__ = ["History", "RewardHistory"]


class RewardHistory(StatefulModule):
    """Sums over the prompts of every domain and group; the last column are unknown groups, the last row unknown domains.

    N and the mean rewards rest on prompts, rollouts and the sum of rewards: under ``"cumulative"`` of everything, counted
    in int64 and summed in float64, so that it is exact; under ``"ema"`` of a past that fades by half every ``half_life``
    prompts; under ``"batch"`` of the last batch alone. What weights are scaled by is how many of a cell's prompts are
    informative (their rollouts differ in reward), with how many rollouts and which squared scores: these sums fade by half
    every 100 prompts of the cell, since those of the whole run would drift as the policy improves. Memory and time per step
    do not depend on the number of steps. The authors' code keeps every reward vector.

    Args:
        num_groups: number of groups.
        num_domains: number of domains.
        mode: "cumulative", "ema" or "batch".
        half_life: prompts, of any group, after which the past of "ema" counts half.
    """

    counts: Tensor
    """(2, D + 1, G + 1): prompts and rollouts; int64, under "ema" float64."""
    sums: Tensor
    """(D + 1, G + 1) float64: sum of rewards."""
    signal: Tensor
    """(4, D + 1, G + 1) float64: informative prompts, their rollouts, sum of their squared scores, and prompts; all fade."""
    lowest: Tensor
    """() float64: the lowest reward ever seen, +inf before the first."""

    def __init__(
        self, num_groups: int, *, num_domains: int = 1, mode: History = "cumulative", half_life: float = 1000.0
    ) -> None:
        super().__init__()
        checks.choice("history", mode, HISTORIES)
        self.mode: History = mode
        self.half_life = checks.number("half_life", half_life, above=0)
        shape, wide = (num_domains + 1, num_groups + 1), torch.float64
        self.register_state("counts", (2, *shape), wide if mode == "ema" else torch.int64)
        self.register_state("sums", shape, wide)
        self.register_state("signal", (4, *shape), wide)
        self.register_state("lowest", (), wide, fill=torch.inf)

    def totals(self) -> Tensor:
        """(7, D + 1, G + 1) float64: prompts, rollouts, sum of rewards, and ``signal``."""
        return torch.cat([self.counts.to(torch.float64), self.sums.unsqueeze(0), self.signal])

    def set_extra_state(self, state: Any) -> None:  # noqa: D102
        try:
            super().set_extra_state(state)
        except ValueError as error:
            why = "a history of fairloss 0.1 holds no informative prompts and cannot be read: start a new one"
            raise ValueError(f"{error}; {why}") from error

    @torch.no_grad()
    def advance(self, batch: Tensor, lowest: Tensor) -> None:
        """Add a batch's totals, (7, D + 1, G + 1) float64, and its lowest reward.

        A batch whose sums are not finite (an infinite reward where nobody looked) is passed over: it would stay for good.

        Raises:
            TypeError, ValueError: naming the argument; nothing has changed then.
        """
        for name, tensor, shape in (("batch", batch, (7, *self.sums.shape)), ("lowest", lowest, ())):
            same_device(name, shaped(name, floating(name, tensor), shape), "the history", self.sums)
        sound = torch.isfinite(batch).all()
        batch = torch.where(sound, batch, 0.0)
        lowest = torch.where(sound & (lowest > -torch.inf), lowest, torch.inf)
        totals = advanced(self.totals(), batch, self.mode, self.half_life)
        if self.mode == "ema":
            self.counts.copy_(totals[:2])
            self.sums.copy_(totals[2])
        else:  # Exactly.
            keep = int(self.mode == "cumulative")
            self.counts.mul_(keep).add_(batch[:2].to(torch.int64))
            self.sums.mul_(keep).add_(batch[2])
        self.signal.copy_(totals[INFORMATIVE:])
        self.lowest.copy_(lowest if self.mode == "batch" else torch.minimum(self.lowest, lowest))
