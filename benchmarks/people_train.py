"""The network of the study on real people, its penalties, and what decisions are measured by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

TARGETS = ("positive_rate_gap", "tpr_gap", "accuracy_gap")


def network(
    x: np.ndarray,
    y: np.ndarray,
    group: np.ndarray,
    seed: int,
    *,
    penalty: Any = None,
    weights: np.ndarray | None = None,
    watch: Callable[[Callable[[torch.Tensor], torch.Tensor]], None] | None = None,
    steps: int = 150,
    classes: int = 1,
) -> nn.Module:
    """One hidden layer of 64, Adam, batches of 512.

    ``penalty(logits, target, groups)`` is added to the cross-entropy; rows are drawn in proportion to ``weights``;
    ``watch(function)`` is given the present network, as a function of measurements, after every tenth step.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    data, target = torch.from_numpy((x - mean) / std), torch.from_numpy(y)
    ids = torch.from_numpy(group)
    body = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, classes))
    optimizer = torch.optim.Adam(body.parameters(), lr=3e-3, weight_decay=1e-4)
    drawn = None if weights is None else torch.from_numpy(weights).double()
    for step in range(1, steps + 1):
        if drawn is None:
            rows = torch.randint(len(data), (512,), generator=generator)
        else:
            rows = torch.multinomial(drawn, 512, replacement=True, generator=generator)
        logits = body(data[rows]).squeeze(1)
        loss = (
            F.binary_cross_entropy_with_logits(logits, target[rows].float())
            if classes == 1
            else F.cross_entropy(logits, target[rows])
        )
        if penalty is not None:
            loss = loss + penalty(logits, target[rows], ids[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if watch is not None and step % 10 == 0:
            with torch.no_grad():
                watch(lambda rows: body((rows - torch.from_numpy(mean)) / torch.from_numpy(std)))
    with torch.no_grad():  # the standardization becomes part of the first layer
        first = body[0]
        first.weight /= torch.from_numpy(std)
        first.bias -= first.weight @ torch.from_numpy(mean)
    return body


def logits_of(model: Callable[..., torch.Tensor], x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).squeeze(1).double().numpy()


def measured(decided: np.ndarray, score: np.ndarray, y: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, AUC of the score, and the gaps, by counting."""
    found = {
        "accuracy": float((decided == y).mean()),
        "balanced_accuracy": float((decided[y == 1].mean() + (~decided[y == 0]).mean()) / 2),
        "auc": float(roc_auc_score(y, score)),
    }
    rates = [decided[group == g].mean() for g in np.unique(group)]
    tprs = [decided[(group == g) & (y == 1)].mean() for g in np.unique(group) if ((group == g) & (y == 1)).any()]
    accuracies = [(decided == y)[group == g].mean() for g in np.unique(group)]
    for name, values in (("positive_rate_gap", rates), ("tpr_gap", tprs), ("accuracy_gap", accuracies)):
        found[name] = float(max(values) - min(values))
    found["worst_accuracy"] = float(min(accuracies))
    return found
