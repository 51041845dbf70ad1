"""The one training loop of the fairness benchmark; a method changes the loss, the draw of the batches or what is averaged.

Every method takes the same number of optimiser steps on batches of the same size, from the same first weights a seed, and
ends with the weights of its last step: no early stopping, so that validation data choose the setting and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from .fairness_data import PATCH, SIDE, Fold, Part

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (embedding, logits, label, group) -> scalar
Batches = Iterator[Tensor]
WIDTH = 32  # of the embedding
LEARNING_RATE = {"rendered": 1e-2, "diabetes": 4e-3}


class Network(nn.Module):
    """An encoder to 32 numbers and a linear head.

    Photographs: a convolution of 6 x 6 patches to 16 channels, with stride 6 (as a product with the patches cut beforehand),
    and a hidden layer; the diabetes study: the hidden layer alone.
    """

    def __init__(self, task: str) -> None:
        super().__init__()
        if task == "diabetes":
            self.encoder = nn.Sequential(nn.Linear(10, WIDTH), nn.ReLU())
        else:
            places = (SIDE // PATCH) ** 2
            self.encoder = nn.Sequential(
                nn.Linear(3 * PATCH**2, 16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * places, WIDTH), nn.ReLU()
            )
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        return z, self.head(z)


def shuffled(fold: Fold, batch: int, generator: torch.Generator) -> Batches:
    """Batches without end: each epoch a new order, the last incomplete batch left out."""
    n = len(fold.train)
    while True:
        yield from torch.randperm(n, generator=generator)[: n - n % batch].split(batch)


def repeated(epochs: Any) -> Batches:
    """Batches of a sampler, epoch after epoch."""
    while True:
        for rows in epochs:
            yield torch.as_tensor(rows)


def train(
    fold: Fold,
    seed: int,
    steps: int,
    batch: int,
    *,
    loss: Loss | None = None,
    batches: Batches | None = None,
    rate: float = 1.0,
    average: dict[str, float] | None = None,
    parameters: Sequence[nn.Parameter] = (),
) -> Network:
    """Train the network.

    Args:
        fold: training data.
        seed: of first weights and order.
        steps: of the optimiser.
        batch: samples of one.
        loss: of (embedding, logits, label, group); ``None``: cross-entropy.
        batches: of row numbers; ``None``: shuffled epochs.
        rate: factor of the learning rate.
        average: ``{"start": s}``: mean weights of all steps after the share s, at a constant rate; ``{"decay": d}``:
            moving average.
        parameters: of the loss, trained along.
    """
    torch.manual_seed(seed)
    network = Network(fold.task)
    generator = torch.Generator().manual_seed(seed)
    batches = shuffled(fold, batch, generator) if batches is None else batches
    peak = rate * LEARNING_RATE["diabetes" if fold.task == "diabetes" else "rendered"]
    groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "weight_decay": 0.01}]
    if parameters:
        groups.append({"params": list(parameters), "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=peak, fused=True)
    schedule: Any = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps)
    averaged, start = None, steps
    if average is not None:
        decay = average.get("decay")
        averaged = AveragedModel(network, multi_avg_fn=None if decay is None else get_ema_multi_avg_fn(decay))
        start = 0 if decay is not None else int(average["start"] * steps)
    for step in range(steps):
        if average is not None and "start" in average and step == start:
            schedule = SWALR(optimizer, swa_lr=peak / 5, anneal_epochs=max(1, steps // 20))
        rows = next(batches)
        y, g = fold.train.y[rows], fold.train.g[rows]
        z, logits = network(fold.train.x.index_select(0, rows))
        value = F.cross_entropy(logits, y) if loss is None else loss(z, logits, y, g)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        if averaged is not None and step >= start:
            averaged.update_parameters(network)
    return network if averaged is None else averaged.module


@torch.no_grad()
def embed(network: Network, part: Part) -> Tensor:
    """The encoder's output, (N, 32)."""
    return network.encoder(part.x)


@torch.no_grad()
def scores(network: Network, part: Part) -> NDArray[np.float64]:
    """Probability of class 1."""
    return network.head(embed(network, part)).softmax(1)[:, 1].double().numpy()
