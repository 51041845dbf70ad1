"""One metric in every group of one attribute: the values behind all gaps.

The values of a group where the metric is undefined (no positives for a true-positive rate, one class for an AUC) are
NaN, with one warning that names the groups: fairlearn and torchmetrics report 0 there, which reads as "maximally
unfair" or "perfectly fair" depending on the rate. Where a group lacks some of several classes, its value is the mean over
those it has; comparisons of groups leave these classes out, and the warning names them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import choice, expected
from fairloss.core.options import given_options, with_options
from fairloss.groups.encode import LABEL_RULES
from fairloss.metrics.arrays import Bools, Floats, Ints, as_array, as_groups, as_values, as_weights
from fairloss.metrics.calibration import (
    Strategy,
    bin_edges,
    bin_index,
    binned_error,
    binned_errors,
    sample_errors,
    top_label,
    uniform_index,
    weighted_mean,
)
from fairloss.metrics.gap_options import METRIC_OPTIONS, SHARED, VALUE_OPTIONS, MetricOptions, ValueOptions
from fairloss.metrics.group_result import GroupMetric, group_result
from fairloss.metrics.labels import same_length
from fairloss.metrics.predictions import READING_OPTIONS, Predictions, as_predictions
from fairloss.metrics.ranking import auc_by_group
from fairloss.metrics.rates import (
    RATES,
    Convention,
    Rate,
    confusion_cells,
    confusion_counts,
    mean_over_classes,
    rates,
    ratio,
)
from fairloss.metrics.strata import Strata, as_strata
from fairloss.metrics.undefined import Undefined, UndefinedGroupWarning, classes_named, report_undefined

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "METRICS",
    "GroupMetric",
    "Metric",
    "UndefinedGroupWarning",
    "called",
    "check_weighted",
    "group_mean",
    "group_metric",
    "is_number",
    "stratified_metric",
]

Metric = Literal[Rate, "auc", "ece", "mean_abs_calibration_error", "bce", "brier"]
_SMALLER_IS_BETTER = ("fpr", "fnr", "fdr", "ece", "mean_abs_calibration_error", "bce", "brier")
# For positive_rate and prevalence neither direction is better.
METRICS: dict[Metric, bool] = {name: name not in _SMALLER_IS_BETTER for name in get_args(Metric)}
"""Names that :func:`group_metric` takes, and whether larger is better."""


_shown = with_options(METRIC_OPTIONS, MetricOptions, *SHARED)


@_shown
def group_metric(
    metric: Metric | Callable[..., Any], y_true: Any, y_pred: Any, groups: Any, **options: Unpack[MetricOptions]
) -> GroupMetric:
    """The value of ``metric`` in every group.

    Args:
        metric: a name among ``accuracy, tpr, tnr, fpr, fnr, precision, npv, fdr, f1, balanced_accuracy, positive_rate,
            prevalence, auc, ece, mean_abs_calibration_error, bce, brier``, or a function of (y_true, y_pred) and, where
            weights are given, ``sample_weight=``, as in scikit-learn. What it returns other than one number (a confusion
            matrix) is kept in ``values`` and ``overall`` as it is; of these there is no gap.
        y_true: (N,) labels of two classes (binary); (N,) classes (multi-class); (N, L) of 0 and 1 (multi-label). None with
            ``"positive_rate"``, in which they play no part: ``y_pred`` is then read as it would be beside labels, and
            ``task`` is needed for whole numbers other than 0 and 1 and for several columns.
        y_pred: (N,) scores, decisions 0 and 1 or labels, or (N, 2) probabilities that sum to 1, of which [:, 1] is the
            positive class's (binary); (N, C) scores, whose largest decides, or (N,) classes, where an answer outside the
            classes is wrong and a prediction of none of them (multi-class); (N, L) scores or decisions (multi-label).
        groups: (N,) labels of any kind, a :class:`fairloss.groups.encode.GroupEncoding`; or several attributes, as a
            mapping, a frame or (N, K) columns, read as their intersection. None, NaN and -1 are unknown: in
            ``overall``, in no group.
        options: by keyword.

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
    return _measured(metric, y_true, y_pred, groups, None, options)[None]


@_shown
def stratified_metric(
    metric: Metric | Callable[..., Any],
    y_true: Any,
    y_pred: Any,
    groups: Any,
    *,
    control: Any,
    **options: Unpack[MetricOptions],
) -> dict[Any, GroupMetric]:
    """The value of ``metric`` in every group within each value of a control attribute: in each hospital, by sex.

    Each stratum's result is that of :func:`group_metric` on its samples alone, its ``overall`` value too; labels,
    predictions and bins are read once, over all samples.

    Args:
        metric: as in :func:`group_metric`.
        y_true: as there.
        y_pred: as there.
        groups: as there.
        control: (N,) labels of any kind, or a mapping of names to attributes, read as their intersection. Samples of
            unknown stratum are left out.
        options: by keyword.

    Returns:
        The stratum's label to its result. A group without a sample in a stratum is NaN there.

    Raises:
        ValueError: as :func:`group_metric`.

    Example:
        >>> y, p, sex, clinic = [1, 1, 1, 1], [1, 0, 1, 1], ["F", "M", "F", "M"], ["north", "north", "south", "south"]
        >>> {stratum: result.gap() for stratum, result in stratified_metric("tpr", y, p, sex, control=clinic).items()}
        {'north': 1.0, 'south': 0.0}
    """
    return _measured(metric, y_true, y_pred, groups, control, options)


@with_options(VALUE_OPTIONS, *SHARED)
def group_mean(
    values: Any,
    groups: Any,
    *,
    name: str = "mean",
    higher_is_better: bool = True,
    **options: Unpack[ValueOptions],
) -> GroupMetric:
    """Mean of any per-sample value (Dice, IoU, a loss) in every group.

    Args:
        values: (N,) numbers; NaN (a Dice of two empty masks) is left out.
        groups: as in :func:`group_metric`.
        name: of the value.
        higher_is_better: its direction.
        options: by keyword.

    Returns:
        Means, counts (of samples with a value) and the overall mean.

    Raises:
        ValueError: values that are not one number a sample.

    Example:
        >>> group_mean([0.9, 0.7, 0.6], ["a", "a", "b"]).gap()
        0.2
    """
    o = given_options(options, VALUE_OPTIONS)
    choice("undefined", o["undefined"], get_args(Undefined))
    array = as_values(values, "values", "sample")
    encoding = as_groups(groups, len(array), **{rule: o[rule] for rule in LABEL_RULES})
    weight = as_weights(o["sample_weight"], len(array))
    weight = np.where(np.isnan(array), 0.0, weight)
    array = np.where(weight > 0, array, 0.0)
    means = weighted_means(array, weight, encoding.ids, encoding.num_groups)
    report_undefined(name, encoding, means, o["undefined"])
    return group_result(name, encoding, means, np.array([weighted_mean(array, weight)]), higher_is_better, weight)


def weighted_means(values: Floats, weight: Floats, ids: Ints, num_groups: int) -> Floats:
    """(G, 1) means of each group's values; samples with id -1 are left out."""
    sums, total = (np.bincount(ids + 1, weights=w, minlength=num_groups + 1)[1:] for w in (weight * values, weight))
    return ratio(sums, total)[:, None]


def class_values(
    metric: str,
    pred: Predictions,
    weight: Floats,
    *,
    convention: Convention = "standard",
    score_bins: int | Sequence[float] = 10,
    strategy: Strategy = "uniform",
) -> Callable[[Ints, int], Floats]:
    """A function of (N,) ids and a number of groups: (G, K) values of each group and one-vs-rest class.

    There is one column for metrics that are not a mean over classes.
    """
    pred.check(choice("metric", metric, tuple(METRICS)))
    if metric == "accuracy" and pred.task == "multiclass" and convention == "standard":
        return partial(weighted_means, pred.correct(), weight)
    if metric in RATES:
        cells = confusion_cells(pred)
        return lambda ids, size: rates(
            metric, confusion_counts(cells, pred.known, ids, size, weight), convention=convention
        )
    if metric == "auc":
        return lambda ids, size: auc_by_group(pred, ids, size, weight)
    p, o = top_label(pred)
    if metric != "ece":
        return partial(weighted_means, sample_errors(metric, p, o), weight)
    if strategy != "range":
        # Samples of unknown group move quantiles as well.
        edges = bin_edges(p, weight, score_bins, strategy, pred.precision, "score_bins")
        uniform = strategy == "uniform" and isinstance(score_bins, (int, np.integer)) and len(edges) < 1 << 16
        uniform &= pred.precision in ("float32", "float64")  # half precision may round an edge by more than a bin
        index = uniform_index(p, edges) if uniform else bin_index(p, edges)
        return partial(binned_errors, index, weight * (p - o), weight, len(edges) + 1)

    def in_own_range(ids: Ints, size: int) -> Floats:
        values = np.full((size, 1), np.nan)
        for g in range(size):
            at = (ids == g) & (weight > 0)
            if at.any():
                edges = bin_edges(p[at], weight[at], score_bins, "range", pred.precision, "score_bins")
                values[g, 0] = binned_error(p[at], o[at], weight[at], edges)
        return values

    return in_own_range


def _measured(metric: Any, y_true: Any, y_pred: Any, groups: Any, control: Any, options: Any) -> dict[Any, GroupMetric]:
    """The result of each stratum, after one warning for what is undefined; called by the public functions alone."""
    o = given_options(options, METRIC_OPTIONS)
    choice("undefined", o["undefined"], get_args(Undefined))
    reading = {name: o[name] for name in ("threshold", "strict", *READING_OPTIONS)}
    labels = {rule: o[rule] for rule in LABEL_RULES}
    if callable(metric):
        unused = [name for name, value in reading.items() if value != METRIC_OPTIONS[name]]
        if unused:
            raise ValueError(expected(unused[0], "no such option beside a function, which gets y_pred as it is", "one"))
        name, higher, classes, binary = getattr(metric, "__name__", "metric"), True, (), None
        true, answers = as_array(y_true, "y_true"), as_array(y_pred, "y_pred")
        same_length(true, answers)
        strata, weight = as_strata(groups, control, len(true), **labels), as_weights(o["sample_weight"], len(true))
        given = None if o["sample_weight"] is None else weight
        check_weighted("metric", metric, given)
        values, overall = _of_function(metric, true, answers, strata, given)
    else:
        name, higher = choice("metric", metric, tuple(METRICS)), METRICS[metric]
        pred = as_predictions(y_true, y_pred, labels_matter=metric != "positive_rate", **reading)
        strata, weight = as_strata(groups, control, len(pred), **labels), pred.weights(o["sample_weight"])
        classes, binary = (
            classes_named(pred, o["convention"]),
            None if y_true is None or pred.task != "binary" else pred,
        )
        of = class_values(metric, pred, weight, **{key: o[key] for key in ("convention", "score_bins", "strategy")})
        values = strata.by_group(of(strata.cells.ids, strata.cells.num_groups))
        overall = of(strata.control.ids, strata.control.num_groups)
        if o["convention"] == "fairgrpo":
            values, overall = (mean_over_classes(v)[..., None] for v in (values, overall))
    cells = values.reshape(-1, values.shape[-1])
    report_undefined(name, strata.cells, cells, o["undefined"], classes=classes, depth=4)
    return {
        stratum: group_result(name, strata.groups_of(s), values[s], overall[s], higher, weight, binary)
        for s, stratum in enumerate(strata.control.labels)
    }


def check_weighted(argument: str, metric: Callable[..., Any], weight: Floats | None) -> None:
    """Raise where there are weights, and the user's function takes none."""
    try:
        parameters = inspect.signature(metric).parameters.values()
    except ValueError:  # one written in C may have no signature: its call will tell
        return
    if weight is not None and not any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters):
        given = f"{getattr(metric, '__name__', 'one')}{inspect.signature(metric)}"
        cure = "give it that argument, or leave the weights out: then every sample counts once"
        raise TypeError(expected(argument, "a function that takes sample_weight=, as there are weights", given, cure))


def called(metric: Callable[..., Any], true: NDArray[Any], pred: NDArray[Any], weight: Floats | None) -> Any:
    """What the user's function returns of some samples; NaN of none. All such calls are made here."""
    if not len(true):
        return float("nan")
    found = metric(true, pred, **({} if weight is None else {"sample_weight": weight}))
    if found is None:
        raise TypeError(expected("metric", "a function that returns a value", "None"))
    return found


def is_number(value: Any) -> bool:
    """Whether a function returned one real number, by which groups can be compared."""
    texts = (np.flexible, np.complexfloating)
    return hasattr(value, "__float__") and np.ndim(value) == 0 and not isinstance(value, texts)


def _of_function(
    metric: Callable[..., Any], true: NDArray[Any], pred: NDArray[Any], strata: Strata, weight: Floats | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(S, G, 1) values of the groups of each stratum and (S, 1) values of the strata."""

    def value(at: Bools) -> Any:
        at = at if weight is None else at & (weight > 0)
        return called(metric, true[at], pred[at], None if weight is None else weight[at])

    encodings = strata.cells, strata.control
    found = [[value(e.ids == i) for i in range(e.num_groups)] for e in encodings]
    # A matrix, a dictionary, ... stays what it is: groups have it, but cannot be compared by it.
    numbers = all(map(is_number, [*found[0], *found[1]]))
    cells, overall = (np.empty((len(each), 1), dtype=np.float64 if numbers else object) for each in found)
    for table, each in zip((cells, overall), found, strict=True):
        for row, v in zip(table, each, strict=True):
            row[0] = v
    return strata.by_group(cells), overall
