"""One metric in every group of one attribute: the values behind all gaps.

The values of a group where the metric is undefined (no positives for a true-positive rate, one class for an AUC) are
NaN, with one warning that names the groups: fairlearn and torchmetrics report 0 there, which reads as "maximally
unfair" or "perfectly fair" depending on the rate.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import choice, expected
from fairloss.groups.encode import GroupEncoding
from fairloss.metrics import disparity
from fairloss.metrics.arrays import Bools, Floats, Ints, as_array, as_groups, as_values, as_weights
from fairloss.metrics.calibration import (
    Strategy,
    bin_edges,
    binned_error,
    binned_errors,
    sample_errors,
    top_label,
    weighted_mean,
)
from fairloss.metrics.predictions import Predictions, Task, as_predictions, same_length
from fairloss.metrics.ranking import auc_by_group
from fairloss.metrics.rates import RATES, Convention, Rate, confusion_counts, mean_over_classes, rates, ratio

__all__ = ["METRICS", "GroupMetric", "Metric", "UndefinedGroupWarning", "group_mean", "group_metric"]

Undefined = Literal["omit", "raise"]
Metric = Literal[Rate, "auc", "ece", "mean_abs_calibration_error", "bce", "brier"]
_SMALLER_IS_BETTER = ("fpr", "fnr", "fdr", "ece", "mean_abs_calibration_error", "bce", "brier")
# For positive_rate and prevalence neither direction is better.
METRICS: dict[Metric, bool] = {name: name not in _SMALLER_IS_BETTER for name in get_args(Metric)}
"""Names that :func:`group_metric` takes, and whether larger is better."""


class UndefinedGroupWarning(UserWarning):
    """A metric has no value in some group, which is left out of every comparison."""


@dataclass(frozen=True)
class GroupMetric:
    """A metric's value in each group, with the counts that say how far to trust it.

    Attributes:
        name: of the metric.
        labels: of the groups; the order of all that follows.
        values: (G,) float64, NaN where undefined.
        counts: (G,) samples of each group.
        positives: (G,) positive labels of each group (binary tasks; else empty).
        overall: the value over all samples, those of unknown group included.
        higher_is_better: direction of the metric.
    """

    name: str
    labels: tuple[Any, ...]
    values: Floats
    counts: Ints
    overall: float
    higher_is_better: bool = True
    positives: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype)

    @property
    def undefined(self) -> tuple[Any, ...]:
        """Labels of the groups without a value, those without a sample among them."""
        return tuple(label for label, v in zip(self.labels, self.values, strict=True) if np.isnan(v))

    def gap(self, *, method: disparity.Method = "between_groups", reference: Any = None) -> float:
        """Max - min over groups; or the largest difference from the overall value, or from a ``reference`` group's.

        ``method`` and ``reference`` are those of :func:`fairloss.metrics.max_accuracy_gap`.
        """
        return disparity.gap(self.values, baseline=self._baseline(method, reference))

    def ratio(self, *, method: disparity.Method = "between_groups", reference: Any = None) -> float:
        """Min / max over groups; or the smallest ratio to the overall value, or to a ``reference`` group's, or its inverse."""
        return disparity.ratio(self.values, baseline=self._baseline(method, reference))

    def _baseline(self, method: disparity.Method, reference: Any) -> float | None:
        place = disparity.reference_of(method, reference, self.labels)
        if place is not None:
            return float(self.values[place])
        return self.overall if method == "to_overall" else None

    def worst(self) -> float:
        """The worst group's value."""
        return disparity.worst(self.values, higher_is_better=self.higher_is_better)

    def std(self, *, ddof: int) -> float:
        """Standard deviation over groups."""
        return disparity.group_std(self.values, ddof=ddof)

    def equity_scaled(self, *, penalty: disparity.Penalty, ddof: int | None = None) -> float:
        """Overall value scaled down by differences between groups."""
        return disparity.equity_scaled(self.overall, self.values, penalty=penalty, ddof=ddof)

    def to_dict(self) -> dict[Any, float]:
        """Label to value."""
        return dict(zip(self.labels, self.values.tolist(), strict=True))


def group_metric(
    metric: Metric | Callable[..., float],
    y_true: Any,
    y_pred: Any,
    groups: Any,
    *,
    sample_weight: Any = None,
    threshold: float = 0.5,
    strict: bool = False,
    task: Task = "auto",
    labels: Sequence[Any] | None = None,
    convention: Convention = "standard",
    undefined: Undefined = "omit",
    bins: int | Sequence[float] = 10,
    strategy: Strategy = "uniform",
) -> GroupMetric:
    """The value of ``metric`` in every group.

    Args:
        metric: a name among ``accuracy, tpr, tnr, fpr, fnr, precision, fdr, f1, balanced_accuracy, positive_rate,
            prevalence, auc, ece, mean_abs_calibration_error, bce, brier``, or a function of (y_true, y_pred) and, where
            weights are given, ``sample_weight=``, as in scikit-learn.
        y_true: (N,) labels 0 and 1 (binary); (N,) classes (multi-class); (N, L) of 0 and 1 (multi-label). None with
            ``"positive_rate"``, in which they play no part: ``y_pred`` is then read as it would be beside labels, and
            ``task`` is needed for whole numbers other than 0 and 1 and for several columns.
        y_pred: (N,) scores or 0/1 decisions (binary); (N, C) scores, whose largest decides, or (N,) classes, where an
            answer outside the classes is wrong and a prediction of none of them (multi-class); (N, L) (multi-label).
        groups: (N,) labels of any kind, a :class:`fairloss.groups.encode.GroupEncoding`, or a mapping of names to attributes,
            which is read as their intersection. None, NaN and -1 are unknown: in ``overall``, in no group.
        sample_weight: (N,) non-negative weights; an integer weight equals that many repetitions.
        threshold: a score is a positive decision where ``score >= threshold`` ...
        strict: ... or where ``score > threshold``. Scores of float32 or less are compared in float32.
        task: ``"auto"``, ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        labels: the classes, in the order of the columns of scores.
        convention: ``"standard"``, or ``"fairgrpo"`` (see :mod:`fairloss.metrics.rates`).
        undefined: ``"omit"`` gives NaN and one warning; ``"raise"`` an error.
        bins: for ``ece``: number of bins, or their edges.
        strategy: for ``ece``: bins of ``"uniform"`` width on [0, 1] or of equal mass (``"quantile"``), the same for all
            groups; or on each group's own score ``"range"`` (FairMedFM's code).

    Returns:
        Values, counts and the overall value. Rates of a multi-class or multi-label task are means over the classes
        (one-vs-rest) where they are defined; accuracy is the share of right answers.

    Raises:
        ValueError: shapes that do not fit, labels or scores outside what the metric takes, an unknown name, or an
            undefined value with ``undefined="raise"``.

    Example:
        >>> result = group_metric("accuracy", [1, 0, 1, 1], [0.9, 0.2, 0.4, 0.8], ["F", "F", "M", "M"])
        >>> result.to_dict(), result.overall, result.gap()
        ({'F': 1.0, 'M': 0.5}, 0.75, 0.5)
    """
    choice("undefined", undefined, get_args(Undefined))
    if callable(metric):
        return _from_callable(metric, y_true, y_pred, groups, sample_weight, undefined)
    pred = as_predictions(
        y_true, y_pred, task=task, threshold=threshold, strict=strict, labels=labels,
        labels_matter=metric != "positive_rate",
    )  # fmt: skip
    encoding, weight = as_groups(groups, len(pred)), as_weights(sample_weight, len(pred))
    of = partial(class_values, metric, pred, weight=weight, convention=convention, bins=bins, strategy=strategy)
    values = mean_over_classes(of(ids=encoding.ids, num_groups=encoding.num_groups))
    overall = mean_over_classes(of(ids=np.zeros_like(encoding.ids), num_groups=1))
    report_undefined(metric, encoding, np.isnan(values), undefined)
    return _result(metric, encoding, values, float(overall[0]), METRICS[metric], None if y_true is None else pred)


def group_mean(
    values: Any,
    groups: Any,
    *,
    sample_weight: Any = None,
    name: str = "mean",
    higher_is_better: bool = True,
    undefined: Undefined = "omit",
) -> GroupMetric:
    """Mean of any per-sample value (Dice, IoU, a loss) in every group.

    Args:
        values: (N,) numbers; NaN (a Dice of two empty masks) is left out.
        groups: as in :func:`group_metric`.
        sample_weight: (N,) non-negative weights.
        name: of the value.
        higher_is_better: its direction.
        undefined: ``"omit"`` or ``"raise"``.

    Returns:
        Means, counts (of samples with a value) and the overall mean.

    Raises:
        ValueError: values that are not one number a sample.

    Example:
        >>> group_mean([0.9, 0.7, 0.6], ["a", "a", "b"]).gap()
        0.2
    """
    choice("undefined", undefined, get_args(Undefined))
    array = as_values(values, "values", "sample")
    encoding, weight = as_groups(groups, len(array)), as_weights(sample_weight, len(array))
    defined = ~np.isnan(array)
    array, weight, ids = array[defined], weight[defined], encoding.ids[defined]
    means = weighted_means(array, ids, encoding.num_groups, weight)
    counts = np.bincount(ids[ids >= 0], minlength=encoding.num_groups)
    result = GroupMetric(name, encoding.labels, means, counts, weighted_mean(array, weight), higher_is_better)
    report_undefined(name, encoding, np.isnan(means), undefined)
    return result


def weighted_means(values: Floats, ids: Ints, num_groups: int, weight: Floats) -> Floats:
    """(G,) means of each group's values; samples with id -1 are left out."""
    sums, total = (np.bincount(ids + 1, weights=w, minlength=num_groups + 1)[1:] for w in (weight * values, weight))
    return ratio(sums, total)


def class_values(
    metric: str,
    pred: Predictions,
    ids: Ints,
    num_groups: int,
    weight: Floats,
    *,
    convention: Convention = "standard",
    bins: int | Sequence[float] = 10,
    strategy: Strategy = "uniform",
) -> Floats:
    """(G, K) values of each group and one-vs-rest class; (G, 1) for metrics that are not a mean over classes."""
    if metric == "accuracy" and pred.task == "multiclass" and convention == "standard":
        return weighted_means(pred.correct(), ids, num_groups, weight)[:, None]
    if metric in RATES:
        return rates(metric, confusion_counts(pred, ids, num_groups, weight), convention=convention)
    choice("metric", metric, tuple(METRICS))
    if pred.score is None:
        raise ValueError(expected("y_pred", f"scores, which {metric} needs", "classes"))
    if metric == "auc":
        return auc_by_group(pred.score, pred.target, ids, num_groups, weight)
    p, o = top_label(pred)
    if metric != "ece":
        return weighted_means(sample_errors(metric, p, o), ids, num_groups, weight)[:, None]
    if strategy != "range":
        edges = bin_edges(p, weight, bins, strategy, pred.precision)  # samples of unknown group move quantiles, too
        uniform = strategy == "uniform" and isinstance(bins, (int, np.integer)) and len(edges) < 1 << 16
        uniform &= pred.precision in ("float32", "float64")  # half precision may round an edge by more than a bin
        return binned_errors(p, o, ids, num_groups, weight, edges, uniform=uniform)[:, None]
    values = np.full((num_groups, 1), np.nan)
    for g in range(num_groups):
        at = (ids == g) & (weight > 0)
        if at.any():
            edges = bin_edges(p[at], weight[at], bins, "range", pred.precision)
            values[g, 0] = binned_error(p[at], o[at], weight[at], edges)
    return values


def _from_callable(
    metric: Callable[..., float], y_true: Any, y_pred: Any, groups: Any, sample_weight: Any, undefined: Undefined
) -> GroupMetric:
    true, pred = as_array(y_true, "y_true"), as_array(y_pred, "y_pred")
    same_length(true, pred)
    encoding = as_groups(groups, len(true))
    weight = None if sample_weight is None else as_weights(sample_weight, len(true))

    def value(at: Bools) -> float:
        if not at.any():
            return float("nan")
        return float(metric(true[at], pred[at], **({} if weight is None else {"sample_weight": weight[at]})))

    values = np.array([value(encoding.ids == g) for g in range(encoding.num_groups)], dtype=np.float64)
    name = getattr(metric, "__name__", "metric")
    report_undefined(name, encoding, np.isnan(values), undefined, depth=4)
    return _result(name, encoding, values, value(np.ones(len(true), dtype=bool)), True, None)


def _result(
    name: str, encoding: GroupEncoding, values: Floats, overall: float, higher: bool, pred: Predictions | None
) -> GroupMetric:
    rows, size = encoding.ids + 1, encoding.num_groups + 1  # row 0 holds the unknown
    counts = np.bincount(rows, minlength=size)[1:]
    positives = np.zeros(0, dtype=np.int64)
    if pred is not None and pred.task == "binary":
        positives = np.bincount(rows, weights=pred.target[:, 0], minlength=size)[1:].astype(np.int64)
    return GroupMetric(name, encoding.labels, values, counts, overall, higher, positives)


def report_undefined(
    name: str, encoding: GroupEncoding, missing: Bools, undefined: Undefined, *, of: str = "group(s)", depth: int = 3
) -> None:
    """One warning, or an error, that names the ``missing`` groups (G,); a category that nobody has is no group here."""
    if not missing.any():
        return
    used = np.bincount(encoding.ids + 1, minlength=encoding.num_groups + 1)[1:] > 0
    labels = [str(label) for label, bad in zip(encoding.labels, missing & used, strict=True) if bad]
    if not labels:
        return
    text = f"{name} is undefined in {of} {', '.join(labels)}"
    if undefined == "raise":
        raise ValueError(text)
    warnings.warn(f"{text}: left out", UndefinedGroupWarning, stacklevel=depth)
