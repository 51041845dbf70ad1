"""Rates of a confusion table, written once for any leading shape: groups, classes and bootstrap replicates.

Counts are (..., K, 4) sums of sample weights: true positives, false positives, false negatives, true negatives of each
of K one-vs-rest classes (K = 1 for a binary task). A ratio with denominator 0 is NaN, never 0.

``convention="fairgrpo"`` follows the published tables of FairGRPO, not its equations alone: accuracy is one-vs-rest a
class, classes absent from a group are left out of the mean over classes, and F1 and FDR are 0 for a class that is never
predicted.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fairloss.metrics.inputs import Floats, Predictions

__all__ = [
    "CONVENTIONS",
    "RATES",
    "Convention",
    "confusion_columns",
    "confusion_counts",
    "mean_over_classes",
    "rates",
    "ratio",
]

Convention = Literal["standard", "fairgrpo"]
CONVENTIONS = ("standard", "fairgrpo")
# Larger is better for these; for positive_rate and prevalence neither direction is.
RATES = {
    "accuracy": True,
    "tpr": True,
    "tnr": True,
    "fpr": False,
    "fnr": False,
    "precision": True,
    "fdr": False,
    "f1": True,
    "balanced_accuracy": True,
    "positive_rate": True,
    "prevalence": True,
}


def confusion_counts(pred: Predictions, ids: NDArray[np.int64], num_groups: int, weight: Floats) -> Floats:
    """(G, K, 4) weighted counts of each group; samples with id -1 are left out."""
    counts = np.zeros((num_groups, pred.target.shape[1], 4))
    row = (ids + 1) * 4  # row 0 holds the unknown
    for k in range(counts.shape[1]):
        cell = row + _cell(pred.target[:, k], pred.decided[:, k])
        flat = np.bincount(cell, weights=weight, minlength=4 * (num_groups + 1))
        counts[:, k] = flat.reshape(-1, 4)[1:]
    return counts


def confusion_columns(pred: Predictions) -> Floats:
    """(N, K * 4) indicator columns; weights times these are the counts."""
    n, k = pred.target.shape
    cells = _cell(pred.target, pred.decided)
    return np.asarray((cells[:, :, None] == np.arange(4)).reshape(n, k * 4), dtype=np.float64)


def _cell(target: NDArray[np.bool_], decided: NDArray[np.bool_]) -> NDArray[np.int64]:
    # true positive 0, false positive 1, false negative 2, true negative 3
    return np.where(target, np.where(decided, 0, 2), np.where(decided, 1, 3))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Numerator over denominator, NaN where the denominator is 0."""
    defined = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)


def rates(name: str, counts: Floats, *, convention: Convention = "standard") -> Floats:
    """(..., K, 4) counts to (..., K) values of the rate ``name``; NaN where undefined.

    Raises:
        ValueError: an unknown name or convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention: {convention!r} was given; accepted are {', '.join(CONVENTIONS)}")
    tp, fp, fn, tn = (counts[..., i] for i in range(4))
    n = tp + fp + fn + tn
    if name == "accuracy":
        value = ratio(tp + tn, n)
    elif name == "tpr":
        value = ratio(tp, tp + fn)
    elif name == "fnr":
        value = ratio(fn, tp + fn)
    elif name == "fpr":
        value = ratio(fp, fp + tn)
    elif name == "tnr":
        value = ratio(tn, fp + tn)
    elif name == "precision":
        value = ratio(tp, tp + fp)
    elif name == "fdr":
        value = ratio(fp, tp + fp)
    elif name == "f1":
        value = ratio(2 * tp, 2 * tp + fp + fn)
    elif name == "balanced_accuracy":
        value = (ratio(tp, tp + fn) + ratio(tn, fp + tn)) / 2
    elif name == "positive_rate":
        value = ratio(tp + fp, n)
    elif name == "prevalence":
        value = ratio(tp + fn, n)
    else:
        raise ValueError(f"metric: {name!r} was given; accepted are {', '.join(RATES)}")
    if convention == "fairgrpo":
        if name in ("fdr", "f1"):
            value = np.where(tp + fp > 0, value, 0.0)
        value = np.where(tp + fn > 0, value, np.nan)
    return value


def mean_over_classes(values: Floats) -> Floats:
    """Mean over the last axis of the values that are defined; NaN where none is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))
