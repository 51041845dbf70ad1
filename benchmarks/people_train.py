"""The network of the study on real people, its penalties, and what decisions are measured by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

from fairloss import DemographicParityLoss
from fairloss.functional import group_gap, sample_likelihood

TARGETS = ("positive_rate_gap", "tpr_gap")


def network(
    x: np.ndarray,
    y: np.ndarray,
    group: np.ndarray,
    seed: int,
    *,
    penalty: Any = None,
    steps: int = 150,
    classes: int = 1,
) -> nn.Module:
    """One hidden layer of 64, Adam, batches of 512; ``penalty(logits, target, groups)`` is added to the cross-entropy."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    data, target = torch.from_numpy((x - mean) / std), torch.from_numpy(y)
    ids = torch.from_numpy(group)
    body = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, classes))
    optimizer = torch.optim.Adam(body.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(steps):
        rows = torch.randint(len(data), (512,), generator=generator)
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
    with torch.no_grad():  # the standardization becomes part of the first layer
        first = body[0]
        first.weight /= torch.from_numpy(std)
        first.bias -= first.weight @ torch.from_numpy(mean)
    return body


def logits_of(model: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).squeeze(1).double().numpy()


def penalty_of(target: str, weight: float, num_groups: int) -> Callable[..., torch.Tensor]:
    """A soft positive-rate gap, or the gap of the soft true-positive rate, times the weight."""
    if target == "positive_rate_gap":
        parity = DemographicParityLoss(num_groups)
        return lambda logits, y, groups: weight * parity(logits, y, groups)

    def on_positives(logits: torch.Tensor, y: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        likelihood = sample_likelihood(logits, y).prob
        return weight * group_gap(likelihood, torch.where(y == 1, groups, -1), num_groups=num_groups)

    return on_positives


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
