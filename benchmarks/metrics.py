"""Metrics by group against fairlearn, scikit-learn and torchmetrics."""

from __future__ import annotations

from collections.abc import Callable

import fairlearn.metrics as fairlearn
import numpy as np
import torch
from sklearn.metrics import accuracy_score, roc_auc_score
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_calibration_error,
    binary_groups_stat_rates,
)

from benchmarks.compare import Case, Comparison
from fairloss import metrics

PACKAGES = ("fairlearn", "torchmetrics")


def draw(n: int, num_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, num_groups, n)
    truth = (rng.random(n) < 0.3 + 0.4 * groups / num_groups).astype(int)
    score = np.clip(
        0.5 + (truth - 0.5) * (0.2 + 0.3 * groups / num_groups) + 0.2 * rng.standard_normal(n), 0.001, 0.999
    )
    return truth, score, (score >= 0.5).astype(int), groups


def pair(names: dict[str, Callable[[], object]], tolerance: float) -> Case:
    ours = names["fairloss"]
    same = {
        name: (lambda: _array(ours()), lambda other=other: _array(other()), tolerance)
        for name, other in names.items()
        if name != "fairloss"
    }
    return Case(dict(names), same)


def _array(value: object) -> torch.Tensor:
    return torch.as_tensor(np.asarray(value, dtype=float))


def demographic_parity(N: int, G: int) -> Case:
    truth, _, predicted, groups = draw(N, G)
    t_pred, t_true, t_groups = (torch.from_numpy(a) for a in (predicted, truth, groups))

    def torchmetrics() -> float:
        rates = binary_groups_stat_rates(t_pred, t_true, t_groups, G)
        positive = [float(r[0] + r[1]) for r in rates.values()]
        return max(positive) - min(positive)

    return pair(
        {
            "fairloss": lambda: metrics.demographic_parity_difference(truth, predicted, groups),
            "fairlearn": lambda: fairlearn.demographic_parity_difference(truth, predicted, sensitive_features=groups),
            "torchmetrics": torchmetrics,
        },
        1e-5,
    )


def equalized_odds(N: int, G: int) -> Case:
    truth, _, predicted, groups = draw(N, G)
    return pair(
        {
            "fairloss": lambda: metrics.equalized_odds_difference(truth, predicted, groups),
            "fairlearn": lambda: fairlearn.equalized_odds_difference(truth, predicted, sensitive_features=groups),
        },
        1e-9,
    )


def accuracy(N: int, G: int) -> Case:
    truth, _, predicted, groups = draw(N, G)

    def frame() -> object:
        return fairlearn.MetricFrame(
            metrics=accuracy_score, y_true=truth, y_pred=predicted, sensitive_features=groups
        ).by_group

    return pair(
        {"fairloss": lambda: metrics.group_metric("accuracy", truth, predicted, groups), "fairlearn": frame}, 1e-9
    )


def auc(N: int, G: int) -> Case:
    truth, score, _, groups = draw(N, G)
    t_score, t_true, t_groups = (torch.from_numpy(a) for a in (score, truth, groups))

    def frame() -> object:
        return fairlearn.MetricFrame(
            metrics=roc_auc_score, y_true=truth, y_pred=score, sensitive_features=groups
        ).by_group

    def torchmetrics() -> list[float]:
        parts = [t_groups == g for g in range(G)]
        return [float(binary_auroc(t_score[mine], t_true[mine])) for mine in parts]

    return pair(
        {
            "fairloss": lambda: metrics.group_metric("auc", truth, score, groups),
            "fairlearn": frame,
            "torchmetrics": torchmetrics,
        },
        1e-5,
    )


def calibration(N: int, G: int) -> Case:
    truth, score, _, groups = draw(N, G)
    t_score, t_true, t_groups = (torch.from_numpy(a) for a in (score, truth, groups))

    def torchmetrics() -> list[float]:
        parts = [t_groups == g for g in range(G)]
        return [float(binary_calibration_error(t_score[mine], t_true[mine], n_bins=15)) for mine in parts]

    return pair(
        {
            "fairloss": lambda: metrics.group_metric("ece", truth, score, groups, score_bins=15),
            "torchmetrics": torchmetrics,
        },
        1e-4,
    )


def comparisons(quick: bool) -> list[Comparison]:
    ns, gs = ([100, 1000, 3000], []) if quick else ([1000, 10_000, 100_000], [2, 64])
    sizes = [{"N": n, "G": 4} for n in ns] + [{"N": 100_000, "G": g} for g in gs]
    fair = "fairlearn"
    words = {
        "Demographic parity difference": (
            demographic_parity,
            {
                fair: "`demographic_parity_difference`: the same",
                "torchmetrics": "max - min of `binary_groups_stat_rates`: the same, in float32",
            },
        ),
        "Equalized odds difference": (equalized_odds, {fair: "`equalized_odds_difference`: the same"}),
        "Accuracy by group": (accuracy, {fair: "`MetricFrame` of scikit-learn's `accuracy_score`: the same"}),
        "AUC by group": (
            auc,
            {
                fair: "`MetricFrame` of scikit-learn's `roc_auc_score`: the same",
                "torchmetrics": "`binary_auroc`, a call a group: the same, in float32",
            },
        ),
        "Calibration error by group": (
            calibration,
            {"torchmetrics": "`binary_calibration_error`, a call a group: the same 15 bins, in float32"},
        ),
    }
    return [
        Comparison(
            title=title,
            ours=("fairloss",),
            rivals=rivals,
            sizes=sizes,
            build=build,
            along=("N", "G"),
            note="NumPy arrays in (tensors for torchmetrics), one number or one a group out; by group, fairloss and fairlearn "
            "return the overall value as well.",
            budget_s=0.8,
            least=2,
            numpy_memory=True,
        )
        for title, (build, rivals) in words.items()
    ]
