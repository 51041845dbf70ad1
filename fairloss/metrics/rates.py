"""Rates of a confusion table, written once for any leading shape: groups, classes and bootstrap replicates.

Counts are (..., K, 4) sums of sample weights: true positives, false positives, false negatives, true negatives of each
of K one-vs-rest classes (K = 1 for a binary task). A ratio with denominator 0 is NaN, never 0.

``convention="fairgrpo"`` follows the published tables of FairGRPO, not its equations alone: accuracy is one-vs-rest per
class, classes absent from a group are left out of the mean over classes, and F1 and FDR are 0 for a class that is never
predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import choice
from fairloss.metrics.arrays import Bools, Floats, Ints
from fairloss.metrics.predictions import Predictions

__all__ = [
    "RATES",
    "Convention",
    "Rate",
    "common_classes",
    "confusion_cells",
    "confusion_counts",
    "mean_over_classes",
    "mean_over_common",
    "rates",
    "ratio",
]

Convention = Literal["standard", "fairgrpo"]
Rate = Literal[
    "accuracy", "tpr", "tnr", "fpr", "fnr", "precision", "npv", "fdr", "f1", "balanced_accuracy", "positive_rate",
    "prevalence",
]  # fmt: skip
RATES: tuple[Rate, ...] = get_args(Rate)
# Numerator and denominator; the balanced accuracy is the mean of two ratios.
_PARTS: dict[str, Callable[[Floats, Floats, Floats, Floats], tuple[Floats, Floats]]] = {
    "accuracy": lambda tp, fp, fn, tn: (tp + tn, tp + fp + fn + tn),
    "tpr": lambda tp, fp, fn, tn: (tp, tp + fn),
    "tnr": lambda tp, fp, fn, tn: (tn, fp + tn),
    "fpr": lambda tp, fp, fn, tn: (fp, fp + tn),
    "fnr": lambda tp, fp, fn, tn: (fn, tp + fn),
    "precision": lambda tp, fp, fn, tn: (tp, tp + fp),
    "npv": lambda tp, fp, fn, tn: (tn, fn + tn),
    "fdr": lambda tp, fp, fn, tn: (fp, tp + fp),
    "f1": lambda tp, fp, fn, tn: (2 * tp, 2 * tp + fp + fn),
    "positive_rate": lambda tp, fp, fn, tn: (tp + fp, tp + fp + fn + tn),
    "prevalence": lambda tp, fp, fn, tn: (tp + fn, tp + fp + fn + tn),
}


def confusion_cells(pred: Predictions) -> NDArray[np.int8]:
    """(N, K) true positive 0, false positive 1, false negative 2, true negative 3."""
    cells: NDArray[np.int8] = np.int8(3) - pred.target.view(np.int8) - 2 * pred.decided.view(np.int8)
    return cells


def confusion_counts(
    cells: NDArray[np.int8], known: Bools | None, ids: Ints, num_groups: int, weight: Floats
) -> Floats:
    """(G, K, 4) weighted counts of each group's :func:`confusion_cells`; samples with id -1 are left out."""
    counts = np.zeros((num_groups, cells.shape[1], 4))
    row = (ids + 1) * 4  # row 0 holds the unknown
    for k in range(counts.shape[1]):
        mass = weight if known is None else weight * known[:, k]
        flat = np.bincount(row + cells[:, k], weights=mass, minlength=4 * (num_groups + 1))
        counts[:, k] = flat.reshape(-1, 4)[1:]
    return counts


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Numerator over denominator, NaN where the denominator is 0."""
    defined = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)


def rates(name: str, counts: Floats, *, convention: Convention = "standard") -> Floats:
    """(..., K, 4) counts to (..., K) values of the rate ``name``; NaN where undefined.

    Raises:
        ValueError: an unknown name or convention.
    """
    choice("metric", name, RATES)
    choice("convention", convention, get_args(Convention))
    tp, fp, fn, tn = (counts[..., i] for i in range(4))
    if name == "balanced_accuracy":
        value = (ratio(tp, tp + fn) + ratio(tn, fp + tn)) / 2
    else:
        value = ratio(*_PARTS[name](tp, fp, fn, tn))
    if convention == "fairgrpo":
        if name in ("fdr", "f1"):
            value = np.where(tp + fp > 0, value, 0.0)
        value = np.where(tp + fn > 0, value, np.nan)
    return value


def mean_over_classes(values: Floats) -> Floats:
    """Mean over the last axis of the values that are defined; NaN where none is."""
    if values.shape[-1] == 1:
        return values[..., 0]
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def common_classes(values: Floats) -> Bools:
    """(..., K) which classes are defined in every group that has a value at all, of (..., G, K) values."""
    undefined = np.isnan(values)
    return np.asarray(~(undefined & ~undefined.all(axis=-1, keepdims=True)).any(axis=-2))


def mean_over_common(values: Floats) -> Floats:
    """(G,) means of (G, K) values over :func:`common_classes`, so that groups are compared over the same ones."""
    return mean_over_classes(np.where(common_classes(values), values, np.nan))
