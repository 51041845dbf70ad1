"""Ways to train a classifier on embeddings for groups: what is drawn, what is minimised, and which head answers.

ERM          mean cross-entropy
GroupDRO     ``GroupDROLoss`` on the cross-entropy of each photograph
Resampling   ERM on a ``BalancedGroupSampler``'s epochs, in which every group is as frequent as the largest
Adversarial  ERM, with an ``AdversarialGroupLoss`` that is to tell the groups apart within each label
InD          domain-independent: one head a group (``GroupHeads``); each photograph is answered by its own group's, in training
             and in testing, and one of unknown group (-1) by the mean of all heads' logits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairloss import AdversarialGroupLoss, BalancedGroupSampler, GroupDROLoss, GroupHeads

METHODS = ("ERM", "GroupDRO", "Resampling", "Adversarial", "InD")


def make_head(method: str, dim: int, num_groups: int, prototypes: Tensor | None = None) -> nn.Module:
    """A linear head or one a group, all 0 at first; with ``prototypes`` (C, D) without bias and equal to them, as CLIP-Adapt
    starts: every method then starts from the same answers.
    """
    bias = prototypes is None
    if method == "InD":
        head: nn.Module = GroupHeads(num_groups, in_features=dim, num_classes=2, bias=bias)
    else:
        head = nn.Linear(dim, 2, bias=bias)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    if prototypes is not None:
        with torch.no_grad():
            head.weight.copy_(prototypes.expand_as(head.weight))
    return head


def answer(head: nn.Module, embeddings: Tensor, group: Tensor) -> Tensor:
    """Logits (N, C); the group is only shown to heads that are one a group."""
    return head(embeddings, group) if isinstance(head, GroupHeads) else head(embeddings)


class Objective(nn.Module):
    """Loss of (logits, embeddings, labels, groups); the adversary's parameters are this module's.

    Args:
        method: one of ``METHODS``.
        counts: photographs of every group in training.
        dim: width of what the adversary reads; ``None``: it reads the logits, which is all that a linear probe can change.
        step_size: of GroupDRO.
        adjustment: of GroupDRO, FairMedFM's 1.
        adversary: strength against the encoder, FairMedFM's 0.1.
    """

    def __init__(
        self, method: str, counts: Sequence[int], *, dim: int | None = None, step_size: float = 0.01,
        adjustment: float = 1.0, adversary: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        groups = len(counts)
        self.reads_embeddings = dim is not None
        # A group that the training data do not hold has no share: it counts as one photograph.
        shares = [max(1, c) for c in counts]
        self.dro = (
            GroupDROLoss(groups, step_size=step_size, adjustment=adjustment, group_counts=shares)
            if method == "GroupDRO"
            else None
        )
        self.adversary = (
            AdversarialGroupLoss(groups, embedding_dim=dim or 2, scale=adversary, num_classes=2)
            if method == "Adversarial"
            else None
        )

    def forward(self, logits: Tensor, embeddings: Tensor, label: Tensor, group: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, label, reduction="none")
        if self.dro is not None:
            # GroupDRO knows known groups alone; the others keep their part of the mean.
            return self.dro(losses, group) + (losses * (group < 0)).sum() / len(losses)
        if self.adversary is not None:
            return losses.mean() + self.adversary(embeddings if self.reads_embeddings else logits, group, target=label)
        return losses.mean()


def batches(method: str, group: np.ndarray, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """``steps`` batches of rows, epoch after epoch: as many for every method, however long its epoch is."""
    # So large a ratio lets every group grow to the size of the largest.
    sampler = BalancedGroupSampler(group, max_ratio=float(len(group)), seed=seed) if method == "Resampling" else None
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(rows) < batch:
            epoch = torch.tensor(list(sampler)) if sampler else torch.randperm(len(group), generator=generator)
            rows = torch.cat([rows, epoch])
        yield rows[:batch]
        rows = rows[batch:]


def train(
    method: str,
    encode: Callable[[Tensor], Tensor],
    inputs: Tensor,
    label: Tensor,
    group: Tensor,
    head: nn.Module,
    objective: Objective,
    *,
    encoder: Sequence[nn.Parameter] = (),
    lr: float,
    batch: int,
    steps: int,
    seed: int,
    context: Callable[[], Any],
) -> None:
    """AdamW with weight decay 0.05 and a cosine schedule, as FairMedFM trains; ``encode`` turns inputs into embeddings."""
    learnt = [*encoder, *head.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(learnt, lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for rows in batches(method, group.cpu().numpy(), batch, steps, seed):
        rows = rows.to(label.device)
        with context():
            embeddings = encode(inputs[rows])
        logits = answer(head, embeddings.float(), group[rows])
        loss = objective(logits, embeddings.float(), label[rows], group[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
