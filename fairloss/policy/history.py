"""What FairGRPO remembers of past batches: three numbers per (domain, group) cell, whatever the number of steps."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.state import StatefulModule
from fairloss.core.tensor_checks import floating, same_device, shaped

__all__ = ["History", "RewardHistory"]

History = Literal["batch", "cumulative", "ema"]


class RewardHistory(StatefulModule):
    """Prompts, rollouts and sum of rewards of every domain and group, the unknown of a domain last.

    ``"cumulative"`` counts in int64 and sums in float64, so that it is exact; ``"ema"`` multiplies the past by ``decay``
    before each batch is added, so that counts and sums keep a common weighting of the steps; ``"batch"`` holds the last
    batch alone. Memory and time a step do not depend on the number of steps. The authors' code keeps every reward vector.

    Args:
        num_groups: number of groups.
        num_domains: number of domains.
        mode: "batch", "cumulative" or "ema".
        decay: factor per step of "ema", in (0, 1).
    """

    counts: Tensor
    """(2, D, G + 1): prompts and rollouts; int64, under "ema" float64."""
    sums: Tensor
    """(D, G + 1) float64: sum of rewards."""
    lowest: Tensor
    """() float64: the lowest reward ever seen, +inf before the first."""

    def __init__(
        self, num_groups: int, *, num_domains: int = 1, mode: History = "cumulative", decay: float = 0.99
    ) -> None:
        super().__init__()
        self.mode = checks.choice("history", mode, get_args(History))
        self.decay = checks.number("decay", decay, above=0, below=1)
        dtype = torch.float64 if mode == "ema" else torch.int64
        self.register_state("counts", (2, num_domains, num_groups + 1), dtype)
        self.register_state("sums", (num_domains, num_groups + 1), torch.float64)
        self.register_state("lowest", (), torch.float64, fill=torch.inf)

    @property
    def factor(self) -> float:
        """What the past is multiplied by when a batch is added."""
        return {"batch": 0.0, "cumulative": 1.0, "ema": self.decay}[self.mode]

    def totals(self) -> Tensor:
        """(3, D, G + 1) float64: prompts, rollouts and sum of rewards."""
        return torch.cat([self.counts.to(torch.float64), self.sums.unsqueeze(0)])

    @torch.no_grad()
    def advance(self, batch: Tensor, lowest: Tensor) -> None:
        """Add a batch's totals, (3, D, G + 1) float64, and its lowest reward.

        A batch whose sums are not finite (an infinite reward where nobody looked) is passed over: it would stay for good.

        Raises:
            TypeError, ValueError: naming the argument; nothing has changed then.
        """
        for name, tensor, shape in (("batch", batch, (3, *self.sums.shape)), ("lowest", lowest, ())):
            same_device(name, shaped(name, floating(name, tensor), shape), "the history", self.sums)
        sound = torch.isfinite(batch).all()
        batch = torch.where(sound, batch, 0.0)
        lowest = torch.where(sound & (lowest > -torch.inf), lowest, torch.inf)
        if self.mode == "batch":
            self.counts.zero_()
            self.sums.zero_()
            self.lowest.fill_(torch.inf)
        elif self.mode == "ema":
            self.counts.mul_(self.decay)
            self.sums.mul_(self.decay)
        self.counts.add_(batch[:2].to(self.counts.dtype))
        self.sums.add_(batch[2])
        self.lowest.copy_(torch.minimum(self.lowest, lowest))
