"""Programs of ``tests/contract/test_long_runs.py``, each in a process of its own: every memory and history at micro-batch 2."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

import fairloss
from fairloss.policy import GroupDROAdvantage

SHARES = (0.90, 0.04, 0.06)
N, CAPACITY = 2000, 100


class Everything(nn.Module):
    """A model, and every loss that remembers."""

    def __init__(self, discover: bool) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(8, 6), nn.Tanh())
        self.head = nn.Linear(6, 2)
        self.cross_entropy = fairloss.FairCrossEntropyLoss(
            3, gap_weight=0.5, memory=fairloss.GroupMemory(3, capacity=CAPACITY)
        )
        self.dro = fairloss.GroupDROLoss(3, step_size=0.01)
        self.contrastive = fairloss.CrossGroupContrastiveLoss(
            temperature=0.5, memory=fairloss.EmbeddingQueue(32, dim=6)
        )
        self.fis = fairloss.FISLoss(3, memory=fairloss.GroupMemory(3, capacity=CAPACITY))
        self.adversary = fairloss.AdversarialGroupLoss(3, embedding_dim=6, hidden_dims=(4,))
        kinds = {"discover_groups": "kmeans", "num_clusters": 2, "reservoir_size": 32} if discover else {}
        self.fair = fairloss.FairGRPOAdvantage(3, history="cumulative", **kinds)
        self.fair_ema = fairloss.FairGRPOAdvantage(3, history="ema")
        self.dro_advantage = GroupDROAdvantage(3)

    def loss(self, x, y, groups, rewards):
        z = self.model(x)
        logits = self.head(z)
        each = nn.functional.cross_entropy(logits, y, reduction="none")
        parts = [
            self.cross_entropy(logits, y, groups),
            self.dro(each, groups),
            self.contrastive(z, y, groups),
            self.fis(each, groups),
            self.adversary(z, groups),
        ]
        advantages = self.fair(rewards, groups) + self.fair_ema(rewards, groups) + self.dro_advantage(rewards, groups)
        return sum(parts) + 0.1 * (advantages.mean(1) * each).mean()


def population(seed=0):
    """Features, labels and groups; group 0 is served best, group 1 worst."""
    generator = torch.Generator().manual_seed(seed)
    counts = [round(s * N) for s in SHARES]
    groups = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))[torch.randperm(N, generator=generator)]
    y = torch.randint(0, 2, (N,), generator=generator)
    x = torch.randn(N, 8, generator=generator)
    x[:, 0] += (2 * y - 1) * torch.tensor([2.0, 0.2, 0.8])[groups]
    return x, y, groups


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def live_tensors() -> int:
    gc.collect()
    return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())


def steady(steps: int) -> None:
    """Memory use while training, and the gap of a fixed model as its memory sees it."""
    torch.manual_seed(0)
    everything = Everything(discover=False)
    optimizer = torch.optim.SGD(everything.parameters(), lr=1e-3)
    x, y, groups = population()
    fixed = nn.Linear(8, 2)
    with torch.no_grad():
        fixed.weight.zero_()
        fixed.weight[1, 0] = 1.5
    watched = fairloss.MaxAccGapLoss(3, memory=fairloss.GroupMemory(3, capacity=CAPACITY))
    with torch.no_grad():
        p = torch.softmax(fixed(x), 1).gather(1, y.unsqueeze(1)).squeeze(1)
    truth = [(p[groups == g].mean().item(), p[groups == g].std().item()) for g in range(3)]
    record: dict[str, list] = {"kib": [], "tensors": [], "blocks": [], "gaps": [], "truth": truth}
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        rows = torch.randint(0, N, (2,), generator=generator)
        rewards = (torch.rand(2, 4, generator=generator) < 0.6).float()
        optimizer.zero_grad()
        everything.loss(x[rows], y[rows], groups[rows], rewards).backward()
        optimizer.step()
        logits = fixed(x[rows]).detach().requires_grad_()
        gap = watched(logits, y[rows], groups[rows]).item()
        if step % (steps // 20) == steps // 20 - 1:
            record["tensors"].append(live_tensors())
            record["kib"].append(resident_kib())
            record["blocks"].append(sys.getallocatedblocks())
            record["gaps"].append(gap)
    print(json.dumps(record))


def resumable(folder: str, steps: int) -> None:
    """Training that writes each step's loss to the bit, and continues from its last checkpoint where there is one."""
    torch.use_deterministic_algorithms(True)
    checkpoint, log = Path(folder, "checkpoint.pt"), Path(folder, "log")
    torch.manual_seed(0)
    everything = Everything(discover=True)
    optimizer = torch.optim.AdamW(everything.parameters(), lr=1e-2)
    x, y, groups = population()
    sampler = fairloss.GroupBatchSampler(groups, batch_size=4)
    batches, start = iter(sampler), 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        everything.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        sampler.load_state_dict(saved["sampler"])
        torch.set_rng_state(saved["random"])
        batches, start = iter(sampler), saved["step"]
    with log.open("a") as out:
        for step in range(start, steps):
            rows = torch.tensor(next(batches))
            rewards = (torch.rand(4, 4) < 0.6).float()
            # Every fifth sample has no group: they are clustered.
            ids = torch.where(torch.rand(4) < 0.2, -1, groups[rows])
            optimizer.zero_grad()
            value = everything.loss(x[rows], y[rows], ids, rewards)
            value.backward()
            optimizer.step()
            out.write(f"{step} {value.item().hex()}\n")
            out.flush()
            if step % 20 == 19:
                states = {
                    "model": everything.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "sampler": sampler.state_dict(),
                    "random": torch.get_rng_state(),
                    "step": step + 1,
                }
                torch.save(states, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)  # whole or not at all


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "steady":
        steady(int(sys.argv[2]))
    else:
        resumable(sys.argv[2], int(sys.argv[3]))
