"""The named gaps of rates between groups, made from one table: differences and ratios, each with its formula and source.

Definitions follow fairlearn where it defines the value. For more than one class each rate is one-vs-rest. Undefined
rates are left out and named in a warning, never read as 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, get_args

import numpy as np

from fairloss.core.checks import choice, expected
from fairloss.metrics.arrays import Floats, as_array, as_groups, as_weights
from fairloss.metrics.per_group import Undefined, class_values, report_undefined
from fairloss.metrics.predictions import Task, as_predictions
from fairloss.metrics.rates import Convention, mean_over_classes

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "GapOptions",
    "OverClasses",
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equal_opportunity_difference",
    "equal_opportunity_ratio",
    "equalized_odds_difference",
    "equalized_odds_ratio",
    "false_positive_rate_difference",
    "gap_over_groups",
    "max_accuracy_gap",
    "predictive_parity_difference",
]

OverClasses = Literal["mean_gap", "max_gap", "gap_of_mean"]
Agg = Literal["worst_case", "mean", "score"]
Statistic = Literal["gap", "ratio"]
_Gap = TypeVar("_Gap", bound=Callable[..., float])


class GapOptions(TypedDict, total=False):
    """Keyword arguments that every named gap takes.

    Attributes:
        sample_weight: (N,) non-negative weights; by default all 1.
        threshold: a score is a positive decision where ``score >= threshold`` (0.5) ...
        strict: ... or where ``score > threshold``.
        task: ``"auto"``, ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        labels: the classes, in the order of the columns of scores.
        over_classes: with several classes, the ``"mean_gap"`` (the mean over classes of each class's value, which of
            equalized odds is that of its two gaps), the ``"max_gap"`` (the class of the largest gap or smallest
            ratio), or the ``"gap_of_mean"`` (rates are averaged over classes first); by default the first, and the
            last with ``convention="fairgrpo"``.
        convention: ``"standard"`` or ``"fairgrpo"`` (see :mod:`fairloss.metrics.rates`).
        undefined: ``"omit"`` leaves undefined values out with one warning; ``"raise"`` raises.
    """

    sample_weight: Any
    threshold: float
    strict: bool
    task: Task
    labels: Sequence[Any] | None
    over_classes: OverClasses | None
    convention: Convention
    undefined: Undefined


_DEFAULTS: GapOptions = {
    "sample_weight": None,
    "threshold": 0.5,
    "strict": False,
    "task": "auto",
    "labels": None,
    "over_classes": None,
    "convention": "standard",
    "undefined": "omit",
}


class NamedGap(Protocol):
    """What every function of the table is to a type checker."""

    __name__: str

    def __call__(self, y_true: Any, y_pred: Any, groups: Any, **options: Unpack[GapOptions]) -> float:
        """The gap."""


def gap_over_groups(
    values: Sequence[Floats],
    statistic: Statistic = "gap",
    *,
    agg: Agg = "worst_case",
    over_classes: OverClasses | None,
    convention: Convention,
) -> float:
    """Gap (max - min) or ratio (min / max) over groups of the (G, K) values of each rate, joined by ``agg``, then over classes.

    A class for which one of the rates has no gap has no value, and is left out.
    """
    how = over_classes or ("gap_of_mean" if convention == "fairgrpo" else "mean_gap")
    choice("over_classes", how, get_args(OverClasses))
    if how == "gap_of_mean":
        values = [mean_over_classes(v)[:, None] for v in values]
    each = np.array([[_gap_of_class(column[~np.isnan(column)], statistic) for column in v.T] for v in values])
    if agg == "worst_case":
        joined = each.max(axis=0) if statistic == "gap" else each.min(axis=0)
    else:
        joined = each.mean(axis=0) if agg == "mean" else 1 - each.mean(axis=0)
    if how != "max_gap" or np.isnan(joined).all():
        return float(mean_over_classes(joined))
    return float(np.nanmax(joined) if statistic == "gap" and agg != "score" else np.nanmin(joined))


def _gap_of_class(v: Floats, statistic: Statistic) -> float:
    if len(v) < 2:
        return float("nan")
    if statistic == "gap":
        return float(v.max() - v.min())
    return float(v.min() / v.max()) if v.max() > 0 else float("nan")


def _gap_of(
    rates: tuple[str, ...],
    statistic: Statistic,
    y_true: Any,
    y_pred: Any,
    groups: Any,
    options: GapOptions,
    agg: Agg = "worst_case",
) -> float:
    """The gap of the rates, after one warning for each that is undefined somewhere; called by the public functions alone."""
    unknown = set(options) - set(_DEFAULTS)
    if unknown:
        raise TypeError(expected(min(unknown), f"an option among {', '.join(_DEFAULTS)}", "another"))
    o: GapOptions = {**_DEFAULTS, **options}
    if y_true is None and as_array(y_pred, "y_pred").ndim != 1:
        raise TypeError(expected("y_true", "labels beside predictions of several columns", None))
    pred = as_predictions(
        y_true,
        y_pred,
        task=o["task"],
        threshold=o["threshold"],
        strict=o["strict"],
        labels=o["labels"],
        labels_matter=rates != ("positive_rate",),
    )
    encoding, weight = as_groups(groups, len(pred)), as_weights(o["sample_weight"], len(pred))
    found = []
    for rate in rates:
        values = class_values(rate, pred, encoding.ids, encoding.num_groups, weight, convention=o["convention"])
        # FairGRPO's convention drops absent classes on purpose: only a group without any class has no value.
        whole = np.all if o["convention"] == "fairgrpo" else np.any
        report_undefined(rate, encoding, np.asarray(whole(np.isnan(values), axis=1)), o["undefined"], depth=4)
        found.append(values)
    return gap_over_groups(found, statistic, agg=agg, over_classes=o["over_classes"], convention=o["convention"])


def _show_options(function: _Gap) -> _Gap:
    """``function`` with :class:`GapOptions` written into its signature and its documentation in place of ``**options``."""
    signature = inspect.signature(function)
    kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    types = {name: getattr(kind, "__forward_arg__", kind) for name, kind in GapOptions.__annotations__.items()}
    listed = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
        for name, default in _DEFAULTS.items()
    ]
    function.__signature__ = signature.replace(parameters=[*kept, *listed])  # type: ignore[attr-defined]
    meanings = inspect.cleandoc(GapOptions.__doc__ or "").partition("Attributes:\n")[2]
    text = inspect.cleandoc(function.__doc__ or "")
    function.__doc__ = text.replace("    options: :class:`GapOptions`, by keyword.", meanings)
    return function


def _named_gap(name: str, rates: tuple[str, ...], meaning: str, *, example: str, source: str) -> NamedGap:
    """The function ``name``: the largest difference, or the smallest ratio, over groups of the ``rates``."""
    statistic: Statistic = "ratio" if name.endswith("_ratio") else "gap"

    def gap(y_true: Any, y_pred: Any, groups: Any, **options: Unpack[GapOptions]) -> float:
        return _gap_of(rates, statistic, y_true, y_pred, groups, options)

    labels = "(N,) labels 0 and 1, (N,) classes, or (N, L) of 0 and 1"
    if rates == ("positive_rate",):
        labels += """; or None with (N,) predictions,
        since labels play no part (``task`` says what whole numbers other than 0 and 1 are)"""
    gap.__name__ = gap.__qualname__ = name
    gap.__doc__ = f"""{meaning}

Args:
    y_true: {labels}.
    y_pred: (N,) scores or decisions, (N, C) scores or (N,) classes, or (N, L).
    groups: (N,) labels of any kind, or a mapping of names to attributes, read as their intersection; None, NaN and
        -1 are unknown and left out.
    options: :class:`GapOptions`, by keyword.

Returns:
    {_RANGES[statistic]}

Raises:
    TypeError: an unknown option.
    ValueError: shapes that do not fit, labels other than the accepted, an undefined value with ``undefined="raise"``.

Reference: {source}

Example:
    >>> {name}({example})
    0.5
"""
    return _show_options(gap)


_RANGES = {
    "gap": "A fraction; NaN where fewer than two groups have a value.",
    "ratio": "A ratio in [0, 1]; NaN where fewer than two groups have a value, or all values are 0.",
}
_GU = "Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, 2025, eq 1."
_HARDT = "Hardt, Price and Srebro, *Equality of Opportunity in Supervised Learning*, 2016."
_CHOULDECHOVA = "Chouldechova, *Fair Prediction with Disparate Impact*, 2017."

max_accuracy_gap = _named_gap(
    "max_accuracy_gap",
    ("accuracy",),
    "max_g accuracy_g - min_g accuracy_g; 0 means equal accuracy.",
    example='[1, 0, 1, 1], [1, 0, 0, 1], ["F", "F", "M", "M"]',
    source=_GU,
)
equal_opportunity_difference = _named_gap(
    "equal_opportunity_difference",
    ("tpr",),
    "max_g TPR_g - min_g TPR_g; 0 means that positives are found alike in all groups.",
    example='[1, 1, 1, 1], [1, 1, 0, 1], ["F", "F", "M", "M"]',
    source=_HARDT,
)
equal_opportunity_ratio = _named_gap(
    "equal_opportunity_ratio",
    ("tpr",),
    "min_g TPR_g / max_g TPR_g; 1 means that positives are found alike in all groups.",
    example='[1, 1, 1, 1], [1, 1, 0, 1], ["F", "F", "M", "M"]',
    source=_HARDT,
)
false_positive_rate_difference = _named_gap(
    "false_positive_rate_difference",
    ("fpr",),
    "max_g FPR_g - min_g FPR_g; 0 means that negatives raise false alarms alike in all groups.",
    example='[0, 0, 0, 0], [1, 1, 0, 1], ["F", "F", "M", "M"]',
    source=_CHOULDECHOVA,
)
predictive_parity_difference = _named_gap(
    "predictive_parity_difference",
    ("fdr",),
    "max_g FDR_g - min_g FDR_g, the gap of the precision 1 - FDR; 0 means positive decisions equally often right.",
    example='[1, 1, 1, 0], [1, 1, 1, 1], ["F", "F", "M", "M"]',
    source=_CHOULDECHOVA,
)
demographic_parity_difference = _named_gap(
    "demographic_parity_difference",
    ("positive_rate",),
    "max_g P(decision = 1 | g) - min_g P(decision = 1 | g); 0 means equal positive rates.",
    example='None, [1, 1, 0, 1], ["F", "F", "M", "M"]',
    source="Dwork et al., *Fairness Through Awareness*, 2012.",
)
demographic_parity_ratio = _named_gap(
    "demographic_parity_ratio",
    ("positive_rate",),
    "min_g P(decision = 1 | g) / max_g P(decision = 1 | g); 1 means equal positive rates.",
    example='None, [1, 1, 0, 1], ["F", "F", "M", "M"]',
    source="Feldman et al., *Certifying and Removing Disparate Impact*, 2015 (the four-fifths rule).",
)


@_show_options
def equalized_odds_difference(
    y_true: Any,
    y_pred: Any,
    groups: Any,
    *,
    agg: Agg = "worst_case",
    **options: Unpack[GapOptions],
) -> float:
    """The larger, or the mean, of the gaps in TPR and in FPR; 0 means equal error rates in all groups.

    ``"worst_case"`` and ``"mean"`` are fairlearn's; ``"score"`` is FairMedFM's 1 - mean, where higher is better. (Its
    equation 1 is the mean gap; its code and Table 2 give one minus that.) AIF360's average odds difference is signed, so
    that the two gaps cancel; it is not offered.

    Args:
        y_true: as in :func:`max_accuracy_gap`.
        y_pred: as there.
        groups: as there.
        agg: ``"worst_case"`` max(TPR gap, FPR gap); ``"mean"`` of the two; ``"score"`` 1 - mean, higher is better.
        options: :class:`GapOptions`, by keyword.

    Returns:
        A fraction; NaN where one of the two gaps is undefined (half of equalized odds can look fair). A class of several
        for which one is undefined is left out.

    Raises:
        ValueError: as :func:`max_accuracy_gap`.

    Reference: Hardt, Price and Srebro, *Equality of Opportunity in Supervised Learning*, 2016.

    Example:
        >>> y, p, g = [1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 0, 0], ["F", "F", "M", "M", "F", "M"]
        >>> equalized_odds_difference(y, p, g), equalized_odds_difference(y, p, g, agg="score")
        (0.5, 0.75)
    """
    choice("agg", agg, get_args(Agg))
    return _gap_of(("tpr", "fpr"), "gap", y_true, y_pred, groups, options, agg)


@_show_options
def equalized_odds_ratio(
    y_true: Any,
    y_pred: Any,
    groups: Any,
    *,
    agg: Literal["worst_case", "mean"] = "worst_case",
    **options: Unpack[GapOptions],
) -> float:
    """The smaller, or the mean, of the ratios min_g / max_g of TPR and of FPR; 1 means equal error rates in all groups.

    Args:
        y_true: as in :func:`max_accuracy_gap`.
        y_pred: as there.
        groups: as there.
        agg: ``"worst_case"`` min(TPR ratio, FPR ratio); ``"mean"`` of the two.
        options: :class:`GapOptions`, by keyword.

    Returns:
        A ratio in [0, 1]; NaN where one of the two ratios is undefined. A class of several for which one is undefined is
        left out.

    Raises:
        ValueError: as :func:`max_accuracy_gap`.

    Reference: Hardt, Price and Srebro, *Equality of Opportunity in Supervised Learning*, 2016.

    Example:
        >>> y, p, g = [1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1], ["F", "F", "M", "M", "F", "M"]
        >>> equalized_odds_ratio(y, p, g), equalized_odds_ratio(y, p, g, agg="mean")
        (0.5, 0.75)
    """
    choice("agg", agg, ("worst_case", "mean"))
    return _gap_of(("tpr", "fpr"), "ratio", y_true, y_pred, groups, options, agg)
