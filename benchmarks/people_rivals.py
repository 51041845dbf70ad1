"""Other packages on the same people: thresholds on given scores, and training of their own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin

from benchmarks.people_penalties import Penalty
from benchmarks.people_train import logits_of, network


def threshold_optimizer(
    score: np.ndarray, y: np.ndarray, group: np.ndarray, target: str, objective: str = "accuracy_score"
) -> Callable[..., np.ndarray]:
    """fairlearn's ThresholdOptimizer on given scores: it mixes two thresholds a group at random."""
    from fairlearn.postprocessing import ThresholdOptimizer

    class Scores(BaseEstimator):  # type: ignore[misc]
        fitted_ = True

        def fit(self, *_: Any) -> Scores:
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x[:, 0]

    constraint = {"positive_rate_gap": "demographic_parity", "tpr_gap": "true_positive_rate_parity"}[target]
    optimizer = ThresholdOptimizer(
        estimator=Scores(), constraints=constraint, objective=objective, prefit=True, predict_method="predict"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for sklearn's check of a fitted estimator
        optimizer.fit(score[:, None], y, sensitive_features=group)

    def decide(new: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.asarray(optimizer.predict(new[:, None], sensitive_features=of, random_state=0)) == 1

    return decide


def oxonfair(
    score: np.ndarray, y: np.ndarray, group: np.ndarray, target: str, *, balanced: bool = False
) -> Callable[..., np.ndarray]:
    """OxonFair's thresholds on given logits: the smallest gap whose (balanced) accuracy is half a point under that at 0."""
    from oxonfair import DeepDataDict, DeepFairPredictor
    from oxonfair.utils import group_metrics

    measure = {"positive_rate_gap": group_metrics.demographic_parity, "tpr_gap": group_metrics.equal_opportunity}[
        target
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predictor = DeepFairPredictor(y, score[:, None], group, use_actual_groups=True)
        kept = group_metrics.balanced_accuracy if balanced else group_metrics.accuracy
        right = (score >= 0) == y
        now = (right[y == 1].mean() + right[y == 0].mean()) / 2 if balanced else right.mean()
        predictor.fit(measure, kept, float(now - 0.005))

    def decide(new: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.asarray(predictor.predict(DeepDataDict(np.zeros(len(new)), new[:, None], of))).ravel() == 1

    return decide


def fairret(target: str) -> Callable[[float, int], Penalty]:
    """fairret's NormLoss, as a function of weight and number of groups."""
    from fairret.loss import NormLoss
    from fairret.statistic import PositiveRate, TruePositiveRate

    loss = NormLoss({"positive_rate_gap": PositiveRate, "tpr_gap": TruePositiveRate}[target]())

    def make(weight: float, num_groups: int) -> Penalty:
        def value(logits: torch.Tensor, y: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
            of = F.one_hot(groups, num_groups).float()
            more = () if target == "positive_rate_gap" else (y[:, None].float(),)
            found: torch.Tensor = weight * loss(logits[:, None], of, *more)
            return found

        return value

    return make


def exponentiated_gradient(s: Any, seed: int, target: str) -> tuple[np.ndarray, np.ndarray]:
    """fairlearn's reduction of the same network, gap bounded by 0.02: decisions (mixed at random), probabilities.

    It hands weights and labels to the network, which draws its batches by these weights.
    """
    from fairlearn.reductions import DemographicParity, ExponentiatedGradient, TruePositiveRateParity

    class Network(BaseEstimator, ClassifierMixin):  # type: ignore[misc]
        def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray) -> Network:
            y = np.asarray(y).astype(np.int64)
            self.classes_, weights = np.array([0, 1]), np.asarray(sample_weight, dtype=float)
            self.model_ = network(x, y, np.zeros(len(y), np.int64), seed, weights=weights)
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            return (logits_of(self.model_, x) >= 0).astype(np.int64)

    constraint = {"positive_rate_gap": DemographicParity, "tpr_gap": TruePositiveRateParity}[target]
    reduction = ExponentiatedGradient(Network(), constraint(difference_bound=0.02), max_iter=8, eps=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reduction.fit(s.x[s.both], s.y[s.both], sensitive_features=s.labels[s.both])
        x = s.x[s.test]
        return reduction.predict(x, random_state=0) == 1, reduction._pmf_predict(x)[:, 1]
