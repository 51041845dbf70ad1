"""Calibration errors: binned, per sample, and how far groups differ in them; the F1-best threshold.

The expected calibration error (ECE) is sum_b (n_b / n) |mean score in bin b - share of positives in bin b|, which is
sum_b |sum over bin b of (score - label)| / n. Bins are closed on the right. FairMedFM's released code cuts each group's
own score range (``strategy="range"``), so its gaps compare different bins; the default here uses the same equal-width
bins on [0, 1] for every group. Edges are rounded as the scores are: a score written 0.3 lies on the edge 0.3 in float32
and in float64. The formula printed in FairMedFM (appendix C.2) is no binned error at all but the mean of |score - label|
(:func:`mean_absolute_calibration_error`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from fairloss.core.checks import choice, expected, integer
from fairloss.core.options import given_options, with_options
from fairloss.metrics.arrays import Floats, Ints, as_floats, round_as
from fairloss.metrics.predictions import (
    BINARY_OPTIONS,
    READING_OPTIONS,
    Predictions,
    ReadingOptions,
    as_predictions,
)
from fairloss.metrics.rates import ratio

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "best_f1_threshold",
    "binary_cross_entropy",
    "brier_score",
    "expected_calibration_error",
    "mean_absolute_calibration_error",
]

Strategy = Literal["uniform", "range", "quantile"]


@with_options(READING_OPTIONS, ReadingOptions)
def expected_calibration_error(
    y_true: Any,
    y_score: Any,
    *,
    bins: int | Sequence[float] = 10,
    strategy: Strategy = "uniform",
    sample_weight: Any = None,
    **options: Unpack[ReadingOptions],
) -> float:
    """Expected calibration error sum_b (n_b / n) |mean score_b - mean label_b|; 0 means calibrated in every bin.

    Args:
        y_true: (N,) labels of two classes, or (N,) classes with (N, C) scores (then the largest score is set against whether
            that class is right).
        y_score: (N,), (N, 2) or (N, C) probabilities in [0, 1].
        bins: their number, or the increasing edges themselves (scores outside fall into the outer bins).
        strategy: ``"uniform"`` equal width on [0, 1]; ``"range"`` equal width between the smallest and the largest
            score (FairMedFM's code); ``"quantile"`` equal mass.
        sample_weight: (N,) non-negative weights; an integer weight equals that many repetitions.
        options: by keyword.

    Returns:
        The error in [0, 1].

    Raises:
        ValueError: scores outside [0, 1], fewer than one bin, an unknown strategy.

    Note:
        The error of a small sample is biased upwards: compare groups of different sizes through the report's
        intervals, whose lower ends allow for it.

    Example:
        >>> round(expected_calibration_error([0, 1, 1, 1], [0.1, 0.6, 0.6, 0.9]), 6)
        0.25
    """
    pred = as_predictions(y_true, y_score, **given_options(options, READING_OPTIONS))
    p, o = top_label(pred)
    weight = pred.weights(sample_weight)
    return binned_error(p, o, weight, bin_edges(p, weight, bins, strategy, pred.precision))


@with_options(READING_OPTIONS, ReadingOptions)
def mean_absolute_calibration_error(
    y_true: Any, y_score: Any, *, sample_weight: Any = None, **options: Unpack[ReadingOptions]
) -> float:
    """Mean of |score - label| over samples, FairMedFM's printed "ECE"; 0 means certain and right everywhere.

    Args:
        y_true: (N,) labels of two classes, or classes with (N, C) scores.
        y_score: (N,), (N, 2) or (N, C) probabilities in [0, 1].
        sample_weight: (N,) non-negative weights.
        options: by keyword.

    Returns:
        The mean in [0, 1]. It measures sharpness as much as calibration: a calibrated 0.5 scores 0.5.

    Raises:
        ValueError: scores outside [0, 1].

    Example:
        >>> round(mean_absolute_calibration_error([0, 1], [0.25, 0.5]), 6)
        0.375
    """
    p, o, weight = _read(y_true, y_score, sample_weight, given_options(options, READING_OPTIONS))
    return weighted_mean(sample_errors("mean_abs_calibration_error", p, o), weight)


@with_options(BINARY_OPTIONS, ReadingOptions)
def binary_cross_entropy(
    y_true: Any, y_score: Any, *, sample_weight: Any = None, **options: Unpack[ReadingOptions]
) -> float:
    """Mean of -log(probability given to the label), logarithms cut at -100 as in torch; 0 means certain and right.

    Args:
        y_true: (N,) labels 0 and 1.
        y_score: (N,) probabilities in [0, 1].
        sample_weight: (N,) non-negative weights.
        options: by keyword.

    Returns:
        The mean, in nats.

    Raises:
        ValueError: scores outside [0, 1].

    Example:
        >>> round(binary_cross_entropy([0, 1], [0.5, 0.5]), 6)
        0.693147
    """
    p, o, weight = _read(y_true, y_score, sample_weight, {"task": "binary", **given_options(options, BINARY_OPTIONS)})
    return weighted_mean(sample_errors("bce", p, o), weight)


@with_options(READING_OPTIONS, ReadingOptions)
def brier_score(y_true: Any, y_score: Any, *, sample_weight: Any = None, **options: Unpack[ReadingOptions]) -> float:
    """Mean of (score - label)^2; 0 means certain and right everywhere.

    Args:
        y_true: (N,) labels of two classes, or classes with (N, C) scores (then of the largest score).
        y_score: (N,), (N, 2) or (N, C) probabilities in [0, 1].
        sample_weight: (N,) non-negative weights.
        options: by keyword.

    Returns:
        The mean in [0, 1].

    Raises:
        ValueError: scores outside [0, 1].

    Example:
        >>> brier_score([0, 1], [0.5, 0.5])
        0.25
    """
    p, o, weight = _read(y_true, y_score, sample_weight, given_options(options, READING_OPTIONS))
    return weighted_mean(sample_errors("brier", p, o), weight)


@with_options(BINARY_OPTIONS, ReadingOptions)
def best_f1_threshold(
    y_true: Any, y_score: Any, *, sample_weight: Any = None, **options: Unpack[ReadingOptions]
) -> float:
    """The score t for which the decisions ``score >= t`` have the largest F1; the smallest such t among ties.

    Args:
        y_true: (N,) labels 0 and 1, with at least one positive.
        y_score: (N,) scores of any range.
        sample_weight: (N,) non-negative weights.
        options: by keyword.

    Returns:
        One of the scores.

    Raises:
        ValueError: no positive label.

    Note:
        FairMedFM's code finds its threshold so, and then applies it as ``score > t`` (``strict=True``), which drops
        the samples at the threshold itself. Choose a threshold on validation data, not on the data reported.

    Example:
        >>> best_f1_threshold([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.35
    """
    pred = as_predictions(y_true, y_score, task="binary", **given_options(options, BINARY_OPTIONS))
    assert pred.score is not None
    weight = pred.weights(sample_weight)
    present = weight > 0
    weight, positive, score = weight[present], pred.target[present, 0], pred.score[present, 0]
    total = weight[positive].sum()
    if total <= 0:
        raise ValueError(expected("y_true", "at least one positive label", "none", "F1 is undefined without one"))
    values, inverse = np.unique(score, return_inverse=True)
    tp = np.bincount(inverse, weights=weight * positive, minlength=len(values))[::-1].cumsum()[::-1]
    flagged = np.bincount(inverse, weights=weight, minlength=len(values))[::-1].cumsum()[::-1]
    return float(values[np.argmax(2 * tp / (flagged + total))])


def _read(y_true: Any, y_score: Any, sample_weight: Any, reading: Mapping[str, Any]) -> tuple[Floats, Floats, Floats]:
    """(N,) confidence, outcome and weight."""
    pred = as_predictions(y_true, y_score, **reading)
    return *top_label(pred), pred.weights(sample_weight)


def weighted_mean(values: Floats, weight: Floats) -> float:
    """Weighted mean; NaN without weight."""
    total = weight.sum()
    return float((weight * values).sum() / total) if total > 0 else float("nan")


def top_label(pred: Predictions) -> tuple[Floats, Floats]:
    """(N,) confidence and (N,) outcome; of the largest score for a multi-class task."""
    if pred.score is None:
        raise ValueError(expected("y_score", "scores", "classes"))
    if pred.task == "multilabel":
        raise ValueError(
            expected("y_score", "scores of one label", f"{len(pred.classes)} labels", "take a label at a time")
        )
    pred.check_probabilities("calibration")
    score = np.clip(pred.score, 0.0, 1.0)
    if pred.task == "binary":
        return score[:, 0], pred.target[:, 0].astype(np.float64)
    return score.max(axis=1), pred.correct()


def sample_errors(metric: str, p: Floats, o: Floats) -> Floats:
    """(N,) the per-sample values whose mean is the metric."""
    if metric == "bce":  # the negative log-likelihood of each label, cut at 100
        with np.errstate(divide="ignore"):
            return -np.maximum(np.log(np.where(o > 0.5, p, 1 - p)), -100.0)
    return np.asarray((p - o) ** 2 if metric == "brier" else np.abs(p - o))


def bin_edges(
    p: Floats,
    weight: Floats,
    bins: int | Sequence[float],
    strategy: Strategy,
    precision: str = "float64",
    name: str = "bins",
) -> Floats:
    """The inner edges of the bins, rounded as scores of that ``precision``; bin b holds edge_{b-1} < score <= edge_b."""
    choice("strategy", strategy, get_args(Strategy))
    if np.ndim(bins):
        edges = as_floats(bins, name)
        if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise ValueError(expected(name, "at least two increasing edges", repr(bins)))
        return round_as(edges[1:-1], precision)
    bins = integer(name, bins, minimum=1)
    if strategy == "uniform":
        return round_as(np.arange(1, bins) / bins, precision)
    if strategy == "range":
        # The decimals that the ends were written as, and edges without the last bits of the division.
        kind = np.float32 if precision == "bfloat16" else np.dtype(precision).type
        present = p[weight > 0]
        low, high = (float(str(kind(end))) for end in ((present.min(), present.max()) if len(present) else (0, 1)))
        return round_as([float(f"{edge:.14g}") for edge in np.linspace(low, high, bins + 1)[1:-1]], precision)
    order = np.argsort(p, kind="stable")
    mass = np.cumsum(weight[order])
    wanted = mass[-1] * np.arange(1, bins) / bins
    # The slack keeps a cumulative weight that equals the wanted mass but for rounding.
    position = np.searchsorted(mass, wanted - 1e-9 * mass[-1], side="left")
    return np.asarray(p[order][np.minimum(position, len(p) - 1)])


def uniform_index(p: Floats, edges: Floats) -> Ints:
    """(N,) bin of each score in [0, 1] among bins of equal width: :func:`bin_index`, by arithmetic."""
    bins = len(edges) + 1
    index = np.minimum((p * bins).astype(np.int64), bins - 1)
    # A score at an edge belongs below it. The product of one above an edge is never rounded below it (tested at each
    # edge's neighbours), so that nothing needs to go up.
    index -= p <= np.concatenate([[-np.inf], edges])[index]
    return index


def bin_index(p: Floats, edges: Floats) -> Ints:
    """(N,) bin of each score."""
    return np.searchsorted(edges, p, side="left").astype(np.int64)


def binned_errors(index: Ints, error: Floats, weight: Floats, size: int, ids: Ints, num_groups: int) -> Floats:
    """(G, 1) :func:`binned_error` of each group in ``size`` common bins, from each sample's bin and weighted error."""
    sums = np.bincount((ids + 1) * size + index, weights=error, minlength=(num_groups + 1) * size)
    total = np.bincount(ids + 1, weights=weight, minlength=num_groups + 1)
    return ratio(np.abs(sums.reshape(-1, size)).sum(axis=1), total)[1:, None]


def binned_error(p: Floats, o: Floats, weight: Floats, edges: Floats) -> float:
    """sum_b |sum over bin b of w (p - o)| / sum w; NaN without weight."""
    total = weight.sum()
    if total <= 0:
        return float("nan")
    sums = np.bincount(bin_index(p, edges), weights=weight * (p - o), minlength=len(edges) + 1)
    return float(np.abs(sums).sum() / total)
