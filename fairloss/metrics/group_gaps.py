"""What the named gaps share: the options they all take, values a group and class, and the reduction of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from fairloss.metrics.inputs import Floats, as_groups, as_predictions, as_weight, to_array
from fairloss.metrics.per_group import Undefined, class_values, report_undefined
from fairloss.metrics.rates import Convention, mean_over_classes

__all__ = ["GapOptions", "Options", "OverClasses", "rate_values", "read_options", "spread", "spread_of"]

OverClasses = Literal["mean_gap", "max_gap", "gap_of_mean"]


class GapOptions(TypedDict, total=False):
    """Keyword arguments that every named gap takes.

    Attributes:
        sample_weight: (N,) non-negative weights; by default all 1.
        threshold: a score is a positive decision where ``score >= threshold`` (0.5) ...
        strict: ... or where ``score > threshold``.
        task: ``"auto"``, ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        labels: the classes, in the order of the columns of scores.
        over_classes: with several classes, the ``"mean_gap"`` or ``"max_gap"`` of the classes' gaps, or the
            ``"gap_of_mean"`` rate; by default the first, and the last with ``convention="fairgrpo"``.
        convention: ``"standard"`` or ``"fairgrpo"`` (see :mod:`fairloss.metrics.rates`).
        undefined: ``"omit"`` leaves undefined values out with one warning; ``"raise"`` raises.
    """

    sample_weight: Any
    threshold: float
    strict: bool
    task: str
    labels: Sequence[Any] | None
    over_classes: OverClasses | None
    convention: Convention
    undefined: Undefined


class Options(NamedTuple):
    """:class:`GapOptions` with its defaults."""

    sample_weight: Any = None
    threshold: float = 0.5
    strict: bool = False
    task: str = "auto"
    labels: Sequence[Any] | None = None
    over_classes: OverClasses | None = None
    convention: Convention = "standard"
    undefined: Undefined = "omit"


def read_options(options: GapOptions) -> Options:
    """The options, or an error that names the one that does not exist."""
    unknown = set(options) - set(Options._fields)
    if unknown:
        raise TypeError(f"{min(unknown)}: no such option; accepted are {', '.join(Options._fields)}")
    return Options(**options)


def rate_values(metrics: tuple[str, ...], y_true: Any, y_pred: Any, groups: Any, options: Options) -> list[Floats]:
    """(G, K) values of each metric, after one warning for each that is undefined somewhere."""
    o = options
    if y_true is None and to_array(y_pred, "y_pred").ndim != 1:
        raise TypeError("y_true: None was given with predictions of several columns; the labels are needed")
    matter = metrics != ("positive_rate",)
    pred = as_predictions(
        y_true, y_pred, task=o.task, threshold=o.threshold, strict=o.strict, labels=o.labels, labels_matter=matter
    )
    encoding, weight = as_groups(groups, len(pred)), as_weight(o.sample_weight, len(pred))
    found = []
    for metric in metrics:
        values = class_values(metric, pred, encoding.ids, encoding.num_groups, weight, convention=o.convention)
        # FairGRPO's convention drops absent classes on purpose: only a group without any class has no value.
        whole = np.all if o.convention == "fairgrpo" else np.any
        missing = np.asarray(whole(np.isnan(values), axis=1))
        report_undefined(metric, encoding, missing, o.undefined, depth=4)
        found.append(values)
    return found


def spread(values: Floats, options: Options, statistic: Literal["gap", "ratio"] = "gap") -> float:
    """Gap (max - min) or ratio (min / max) over groups of (G, K) values, reduced over classes."""
    how = options.over_classes or ("gap_of_mean" if options.convention == "fairgrpo" else "mean_gap")
    if how not in ("mean_gap", "max_gap", "gap_of_mean"):
        raise ValueError(f"over_classes: {how!r} was given; accepted are mean_gap, max_gap, gap_of_mean")
    if how == "gap_of_mean":
        values = mean_over_classes(values)[:, None]
    each = np.array([_one_class(column[~np.isnan(column)], statistic) for column in values.T])
    if how != "max_gap" or np.isnan(each).all():
        return float(mean_over_classes(each))
    return float(np.nanmax(each) if statistic == "gap" else np.nanmin(each))


def _one_class(v: Floats, statistic: str) -> float:
    if len(v) < 2:
        return float("nan")
    if statistic == "gap":
        return float(v.max() - v.min())
    return float(v.min() / v.max()) if v.max() > 0 else float("nan")


def spread_of(
    metric: str, y_true: Any, y_pred: Any, groups: Any, options: Options, statistic: Literal["gap", "ratio"] = "gap"
) -> float:
    """Gap or ratio over groups of one rate."""
    return spread(rate_values((metric,), y_true, y_pred, groups, options)[0], options, statistic)
