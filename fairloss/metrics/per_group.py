"""One metric in every group of one attribute: the values behind all gaps.

The values of a group where the metric is undefined (no positives for a true-positive rate, one class for an AUC) are
NaN, with one warning that names the groups: fairlearn and torchmetrics report 0 there, which reads as "maximally
unfair" or "perfectly fair" depending on the rate. Where a group lacks some of several classes, its value is the mean over
those it has; comparisons of groups leave these classes out, and the warning names them.
"""

from __future__ import annotations

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
from fairloss.metrics.labels import same_length
from fairloss.metrics.predictions import READING_OPTIONS, Predictions, Task, as_predictions
from fairloss.metrics.ranking import auc_by_group
from fairloss.metrics.rates import (
    RATES,
    Convention,
    Rate,
    common_classes,
    confusion_counts,
    mean_over_classes,
    mean_over_common,
    rates,
    ratio,
)
from fairloss.metrics.undefined import Undefined, UndefinedGroupWarning, classes_named, report_undefined

__all__ = ["METRICS", "GroupMetric", "Metric", "UndefinedGroupWarning", "group_mean", "group_metric"]

Metric = Literal[Rate, "auc", "ece", "mean_abs_calibration_error", "bce", "brier"]
_READING = {"threshold": 0.5, "strict": False, **READING_OPTIONS}
_SMALLER_IS_BETTER = ("fpr", "fnr", "fdr", "ece", "mean_abs_calibration_error", "bce", "brier")
# For positive_rate and prevalence neither direction is better.
METRICS: dict[Metric, bool] = {name: name not in _SMALLER_IS_BETTER for name in get_args(Metric)}
"""Names that :func:`group_metric` takes, and whether larger is better."""


@dataclass(frozen=True)
class GroupMetric:
    """A metric's value in each group, with the counts that say how far to trust it.

    Attributes:
        name: of the metric.
        labels: of the groups; the order of all that follows.
        by_class: (G, K) the values of each of several classes, NaN where undefined; one column where the metric is no mean
            over classes, and with ``convention="fairgrpo"``.
        overall_by_class: (K,) over all samples, those of unknown group included.
        counts: (G,) samples of each group; without those of weight 0.
        positives: (G,) positive labels of each group (binary tasks; else empty).
        higher_is_better: direction of the metric.
    """

    name: str
    labels: tuple[Any, ...]
    by_class: Floats
    overall_by_class: Floats
    counts: Ints
    higher_is_better: bool = True
    positives: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """(G,) the values as groups are compared: means over the classes that are defined in every group."""
        return np.array(mean_over_common(self.by_class), dtype=dtype)

    @property
    def values(self) -> Floats:
        """(G,) each group's mean over the classes that it has, NaN where it has none."""
        return mean_over_classes(self.by_class)

    @property
    def overall(self) -> float:
        """The value over all samples, those of unknown group included."""
        return float(mean_over_classes(self.overall_by_class))

    @property
    def undefined(self) -> tuple[Any, ...]:
        """Labels of the groups without a value, those without a sample among them."""
        return tuple(label for label, v in zip(self.labels, self.values, strict=True) if np.isnan(v))

    def gap(self, *, method: disparity.Method = "between_groups", reference: Any = None) -> float:
        """Max - min over groups; or the largest difference from the overall value, or from a ``reference`` group's.

        ``method`` and ``reference`` are those of :func:`fairloss.metrics.max_accuracy_gap`. Of several classes, the mean of
        each one's gap over the groups that have it.
        """
        return self._mean_of(disparity.gap, method, reference)

    def ratio(self, *, method: disparity.Method = "between_groups", reference: Any = None) -> float:
        """Min / max over groups; or the smallest ratio to the overall value, or to a ``reference`` group's, or its inverse."""
        return self._mean_of(disparity.ratio, method, reference)

    def _mean_of(self, statistic: Callable[..., float], method: disparity.Method, reference: Any) -> float:
        place = disparity.reference_of(method, reference, self.labels)
        base = self.overall_by_class if place is None else self.by_class[place]
        compared = place is not None or method == "to_overall"
        pairs = zip(self.by_class.T, base, strict=True)
        each = [statistic(v, baseline=float(b) if compared else None) for v, b in pairs]
        return float(mean_over_classes(np.array(each)))

    def worst(self) -> float:
        """The worst group's value, over the classes that every group has."""
        return disparity.worst(self, higher_is_better=self.higher_is_better)

    def std(self, *, ddof: int) -> float:
        """Standard deviation over groups, over the classes that every group has."""
        return disparity.group_std(self, ddof=ddof)

    def equity_scaled(self, *, penalty: disparity.Penalty, ddof: int | None = None) -> float:
        """Overall value scaled down by differences between groups, over the classes that every group has."""
        overall = float(mean_over_classes(self.overall_by_class[common_classes(self.by_class)]))
        return disparity.equity_scaled(overall, self, penalty=penalty, ddof=ddof)

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
    positive: Any = None,
    logits: bool = False,
    ignore_index: Any = None,
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
        y_true: (N,) labels of two classes (binary); (N,) classes (multi-class); (N, L) of 0 and 1 (multi-label). None with
            ``"positive_rate"``, in which they play no part: ``y_pred`` is then read as it would be beside labels, and
            ``task`` is needed for whole numbers other than 0 and 1 and for several columns.
        y_pred: (N,) scores, decisions 0 and 1 or labels, or (N, 2) probabilities that sum to 1, of which [:, 1] is the
            positive class's (binary); (N, C) scores, whose largest decides, or (N,) classes, where an answer outside the
            classes is wrong and a prediction of none of them (multi-class); (N, L) scores or decisions (multi-label).
        groups: (N,) labels of any kind, a :class:`fairloss.groups.encode.GroupEncoding`, or a mapping of names to attributes,
            which is read as their intersection. None, NaN and -1 are unknown: in ``overall``, in no group.
        sample_weight: (N,) non-negative weights; an integer weight equals that many repetitions.
        threshold: a score is a positive decision where ``score >= threshold`` ...
        strict: ... or where ``score > threshold``. Scores of float32 or less are compared in float32.
        task: ``"auto"``, ``"binary"``, ``"multiclass"`` or ``"multilabel"``. Two classes are binary where it is "auto".
        labels: the classes, in the order of the columns of scores; more than occur, where a site lacks some.
        positive: which of two labels is the positive one; not needed for 0 and 1.
        logits: whether the scores are logits, of which sigmoid or softmax is taken, in float64.
        ignore_index: a label that is not known. A sample of it is left out; in (N, L) labels that label alone, as is NaN.
        convention: ``"standard"``, or ``"fairgrpo"`` (see :mod:`fairloss.metrics.rates`).
        undefined: ``"omit"`` gives NaN and one warning, which names groups and classes; ``"raise"`` an error.
        bins: for ``ece``: number of bins, or their edges.
        strategy: for ``ece``: bins of ``"uniform"`` width on [0, 1] or of equal mass (``"quantile"``), the same for all
            groups; or on each group's own score ``"range"`` (FairMedFM's code).

    Returns:
        Values, counts and the overall value. Rates of a multi-class or multi-label task are means over the classes
        (one-vs-rest) where they are defined; accuracy is the share of right answers. Groups are compared over classes
        that they share.

    Raises:
        ValueError: shapes that do not fit; two labels other than 0 and 1 without ``positive``; scores outside [0, 1] where
            they are cut at 0.5, or where probabilities are needed (calibration, an AUC over classes); an unknown name; an
            undefined value with ``undefined="raise"``.

    Example:
        >>> result = group_metric("accuracy", [1, 0, 1, 1], [0.9, 0.2, 0.4, 0.8], ["F", "F", "M", "M"])
        >>> result.to_dict(), result.overall, result.gap()
        ({'F': 1.0, 'M': 0.5}, 0.75, 0.5)
    """
    choice("undefined", undefined, get_args(Undefined))
    reading = {
        "threshold": threshold, "strict": strict, "task": task, "labels": labels, "positive": positive, "logits": logits,
        "ignore_index": ignore_index,
    }  # fmt: skip
    if callable(metric):
        unused = [name for name, value in reading.items() if value != _READING[name]]
        if unused:
            raise ValueError(expected(unused[0], "no such option beside a function, which gets y_pred as it is", "one"))
        return _from_callable(metric, y_true, y_pred, groups, sample_weight, undefined)
    choice("metric", metric, tuple(METRICS))
    pred = as_predictions(y_true, y_pred, labels_matter=metric != "positive_rate", **reading)
    encoding, weight = as_groups(groups, len(pred)), pred.weights(sample_weight)
    of = partial(class_values, metric, pred, weight=weight, convention=convention, bins=bins, strategy=strategy)
    values = of(ids=encoding.ids, num_groups=encoding.num_groups)
    overall = of(ids=np.zeros_like(encoding.ids), num_groups=1)
    if convention == "fairgrpo":
        values, overall = (mean_over_classes(v)[:, None] for v in (values, overall))
    report_undefined(metric, encoding, values, undefined, classes=classes_named(pred, convention))
    labelled = pred if y_true is not None and pred.task == "binary" else None
    return _result(metric, encoding, values, overall[0], METRICS[metric], weight, labelled)


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
    weight = np.where(np.isnan(array), 0.0, weight)
    array = np.where(weight > 0, array, 0.0)
    means = weighted_means(array, encoding.ids, encoding.num_groups, weight)[:, None]
    report_undefined(name, encoding, means, undefined)
    return _result(name, encoding, means, np.array([weighted_mean(array, weight)]), higher_is_better, weight)


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
    pred.check(choice("metric", metric, tuple(METRICS)))
    if metric == "accuracy" and pred.task == "multiclass" and convention == "standard":
        return weighted_means(pred.correct(), ids, num_groups, weight)[:, None]
    if metric in RATES:
        return rates(metric, confusion_counts(pred, ids, num_groups, weight), convention=convention)
    if metric == "auc":
        return auc_by_group(pred, ids, num_groups, weight)
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
        at = at if weight is None else at & (weight > 0)
        if not at.any():
            return float("nan")
        return float(metric(true[at], pred[at], **({} if weight is None else {"sample_weight": weight[at]})))

    values = np.array([[value(encoding.ids == g)] for g in range(encoding.num_groups)]).reshape(-1, 1)
    name = getattr(metric, "__name__", "metric")
    report_undefined(name, encoding, values, undefined, depth=4)
    present = np.ones(len(true)) if weight is None else weight
    return _result(name, encoding, values, np.array([value(np.ones(len(true), dtype=bool))]), True, present)


def _result(
    name: str,
    encoding: GroupEncoding,
    values: Floats,
    overall: Floats,
    higher: bool,
    weight: Floats,
    binary: Predictions | None = None,
) -> GroupMetric:
    def count(at: Bools) -> Ints:
        return np.bincount(encoding.ids[at] + 1, minlength=encoding.num_groups + 1)[1:]  # row 0 holds the unknown

    positives = np.zeros(0, dtype=np.int64) if binary is None else count(binary.target[:, 0] & (weight > 0))
    return GroupMetric(name, encoding.labels, values, overall, count(weight > 0), higher, positives)
