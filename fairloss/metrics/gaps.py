"""The named gaps of rates between groups, made from one table: differences and ratios, each with its formula and source.

Definitions follow fairlearn where it defines the value. For more than one class each rate is one-vs-rest. Undefined
rates are left out and named in a warning, never read as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np

from fairloss.core.checks import choice
from fairloss.core.options import given_options, with_options
from fairloss.groups.encode import LABEL_RULES
from fairloss.metrics import disparity
from fairloss.metrics.arrays import Floats
from fairloss.metrics.disparity import Statistic
from fairloss.metrics.gap_options import (
    GAP_OPTIONS,
    ODDS_OPTIONS,
    SHARED,
    Agg,
    GapOptions,
    OddsOptions,
    OverClasses,
    RatioOptions,
)
from fairloss.metrics.per_group import class_values
from fairloss.metrics.predictions import READING_OPTIONS, as_predictions
from fairloss.metrics.rates import Convention, common_classes, mean_over_classes
from fairloss.metrics.strata import as_strata
from fairloss.metrics.undefined import Undefined, classes_named, report_undefined

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
    "gap_of",
    "gap_over_groups",
    "max_accuracy_gap",
    "predictive_parity_difference",
]


class NamedGap(Protocol):
    """What every function of the table is to a type checker."""

    __name__: str

    def __call__(self, y_true: Any, y_pred: Any, groups: Any, **options: Unpack[GapOptions]) -> float:
        """The gap."""


class OddsDifference(Protocol):
    """A difference of two rates."""

    __name__: str

    def __call__(self, y_true: Any, y_pred: Any, groups: Any, **options: Unpack[OddsOptions]) -> float:
        """The difference."""


class OddsRatio(Protocol):
    """A ratio of two rates."""

    __name__: str

    def __call__(self, y_true: Any, y_pred: Any, groups: Any, **options: Unpack[RatioOptions]) -> float:
        """The ratio."""


def gap_over_groups(
    values: Sequence[Floats],
    statistic: Statistic = "gap",
    *,
    agg: Agg = "worst_case",
    over_classes: OverClasses | None,
    convention: Convention,
    baselines: Sequence[Floats] | None = None,
) -> Floats:
    """Gaps or ratios over groups of the (..., G, K) values of each rate, joined by ``agg``, then over classes.

    Groups are compared with one another, or with the (..., K) ``baselines`` of each rate. A class for which one of the
    rates has no gap has no value, and is left out; the ``"gap_of_mean"`` takes the classes that every group has (with
    FairGRPO's convention each group's own).
    """
    how = over_classes or ("gap_of_mean" if convention == "fairgrpo" else "mean_gap")
    choice("over_classes", how, get_args(OverClasses))
    bases: Sequence[Floats | None] = baselines or [None] * len(values)
    if how == "gap_of_mean":
        own = convention == "fairgrpo"
        shared = [np.where(own | common_classes(v), 0.0, np.nan) for v in values]
        bases = [b if b is None else mean_over_classes(b + s)[..., None] for b, s in zip(bases, shared, strict=True)]
        values = [mean_over_classes(v + s[..., None, :])[..., None] for v, s in zip(values, shared, strict=True)]
    each = [disparity.spread(v, statistic, b) for v, b in zip(values, bases, strict=True)]
    if agg == "worst_case":
        joined = reduce(np.maximum if statistic == "gap" else np.minimum, each)
    else:
        joined = np.mean(each, axis=0) if agg == "mean" else 1 - np.mean(each, axis=0)
    return _worst(joined, statistic, agg) if how == "max_gap" else mean_over_classes(joined)


def _worst(gaps: Floats, statistic: Statistic, agg: Agg) -> Floats:
    """The largest gap, smallest ratio or smallest score that is defined, over the last axis; NaN where none is."""
    extreme = np.fmin if statistic == "ratio" or agg == "score" else np.fmax
    return np.asarray(extreme.reduce(gaps, axis=-1, initial=np.nan))


def gap_of(
    metrics: tuple[str, ...],
    statistic: Statistic,
    y_true: Any,
    y_pred: Any,
    groups: Any,
    options: Mapping[str, Any],
    **how: Any,
) -> float:
    """The gap of the metrics, after one warning for each that is undefined somewhere; called by the public functions alone."""
    o = {**ODDS_OPTIONS, **options}
    choice("undefined", o["undefined"], get_args(Undefined))
    choice("agg", o["agg"], get_args(Agg) if statistic == "gap" else ("worst_case", "mean"))
    reading = {name: o[name] for name in ("threshold", "strict", *READING_OPTIONS)}
    pred = as_predictions(y_true, y_pred, labels_matter=metrics != ("positive_rate",), **reading)
    labels = {rule: o[rule] for rule in LABEL_RULES}
    strata, weight = as_strata(groups, o["control"], len(pred), **labels), pred.weights(o["sample_weight"])
    reference = disparity.reference_of(o["method"], o["reference"], strata.groups.labels)
    found: list[Floats] = []  # of each metric (S, G, K)
    baselines: list[Floats] = []  # of each metric (S, K)
    for metric in metrics:
        of = class_values(metric, pred, weight, convention=o["convention"], **how)
        values = of(strata.cells.ids, strata.cells.num_groups)
        classes = classes_named(pred, o["convention"])
        report_undefined(metric, strata.cells, values, o["undefined"], classes=classes, depth=4)
        found.append(strata.by_group(values))
        if reference is not None:
            baselines.append(found[-1][:, reference])
        elif o["method"] == "to_overall":
            baselines.append(of(strata.control.ids, strata.control.num_groups))
    join: Any = {"agg": o["agg"], "over_classes": o["over_classes"], "convention": o["convention"]}
    gaps = gap_over_groups(found, statistic, **join, baselines=baselines)
    if o["control"] is not None:
        name = f"a comparison of groups by {' and '.join(metrics)}"
        report_undefined(name, strata.control, gaps[:, None], o["undefined"], of="control stratum(s)", depth=4)
    return float(_worst(gaps, statistic, o["agg"]))


def _named_gap(
    name: str,
    rates: tuple[str, ...],
    formula: str,
    same: str,
    *,
    example: str,
    source: str,
    more: str = "",
    options: type[Any] = GapOptions,
) -> Any:
    """The function ``name``: the largest difference, or the smallest ratio, over groups of the ``rates``."""
    statistic: Statistic = "ratio" if name.endswith("_ratio") else "gap"

    defaults = GAP_OPTIONS if len(rates) == 1 else ODDS_OPTIONS

    def gap(y_true: Any, y_pred: Any, groups: Any, **options: Any) -> float:
        return gap_of(rates, statistic, y_true, y_pred, groups, given_options(options, defaults))

    labels = "(N,) labels 0 and 1, or two others with ``positive``; (N,) classes; or (N, L) of 0 and 1"
    if rates == ("positive_rate",):
        labels += """; or None with (N,) predictions,
        since labels play no part (``task`` says what whole numbers other than 0 and 1 are)"""
    left_out = "\n    A class of several for which one of the two is undefined is left out." * (len(rates) > 1)
    call, _, value = example.partition(" -> ")
    gap.__name__ = gap.__qualname__ = name
    gap.__doc__ = f"""{formula}; {int(statistic == "ratio")} means {same}.
{more}
Args:
    y_true: {labels}.
    y_pred: (N,) scores or decisions, or (N, 2) probabilities, of two classes; (N, C) scores or (N,) classes; (N, L).
    groups: (N,) labels of any kind; or several attributes, as a mapping, a frame or (N, K) columns, read as their
        intersection; None, NaN and -1 are unknown and left out.
    options: by keyword.

Returns:
    {_RANGES[statistic]}{left_out}

Raises:
    TypeError: an unknown option.
    ValueError: shapes that do not fit, labels other than the accepted, a ``reference`` that is no group, an undefined
        value with ``undefined="raise"``.

Reference: {source}

Example:
    >>> {call.replace("f(", f"{name}(")}
    {value}
"""
    return with_options(defaults, options, GapOptions, *SHARED)(gap)


_RANGES = {
    "gap": """In [0, 1]: 0 means the same rate in all groups, 1 that one group's rate is 1 and that of another (or all) is 0;
    NaN where fewer than two groups have a value.""",
    "ratio": """In [0, 1]: 1 means the same rate in all groups, 0 that a group's rate is 0 where that of another is not; NaN
    where fewer than two groups have a value, or all values are 0.""",
}
_GU = "Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, 2025, eq 1."
_HARDT = "Hardt, Price and Srebro, *Equality of Opportunity in Supervised Learning*, 2016."
_CHOULDECHOVA = "Chouldechova, *Fair Prediction with Disparate Impact*, 2017."
_DWORK = "Dwork et al., *Fairness Through Awareness*, 2012."
_FELDMAN = "Feldman et al., *Certifying and Removing Disparate Impact*, 2015 (the four-fifths rule)."

max_accuracy_gap: NamedGap = _named_gap(
    "max_accuracy_gap",
    ("accuracy",),
    "max_g accuracy_g - min_g accuracy_g",
    "equal accuracy",
    example='f([1, 0, 1, 1], [1, 0, 0, 1], ["F", "F", "M", "M"]) -> 0.5',
    source=_GU,
)
equal_opportunity_difference: NamedGap = _named_gap(
    "equal_opportunity_difference",
    ("tpr",),
    "max_g TPR_g - min_g TPR_g",
    "that positives are found alike in all groups",
    example='f([1, 1, 1, 1], [1, 1, 0, 1], ["F", "F", "M", "M"]) -> 0.5',
    source=_HARDT,
)
equal_opportunity_ratio: NamedGap = _named_gap(
    "equal_opportunity_ratio",
    ("tpr",),
    "min_g TPR_g / max_g TPR_g",
    "that positives are found alike in all groups",
    example='f([1, 1, 1, 1], [1, 1, 0, 1], ["F", "F", "M", "M"]) -> 0.5',
    source=_HARDT,
)
false_positive_rate_difference: NamedGap = _named_gap(
    "false_positive_rate_difference",
    ("fpr",),
    "max_g FPR_g - min_g FPR_g",
    "that negatives raise false alarms alike in all groups",
    example='f([0, 0, 0, 0], [1, 1, 0, 1], ["F", "F", "M", "M"]) -> 0.5',
    source=_CHOULDECHOVA,
)
predictive_parity_difference: NamedGap = _named_gap(
    "predictive_parity_difference",
    ("fdr",),
    "max_g FDR_g - min_g FDR_g, the gap of the precision 1 - FDR",
    "positive decisions equally often right",
    example='f([1, 1, 1, 0], [1, 1, 1, 1], ["F", "F", "M", "M"]) -> 0.5',
    source=_CHOULDECHOVA,
)
demographic_parity_difference: NamedGap = _named_gap(
    "demographic_parity_difference",
    ("positive_rate",),
    "max_g P(decision = 1 | g) - min_g P(decision = 1 | g)",
    "equal positive rates",
    example='f(None, [1, 1, 0, 1], ["F", "F", "M", "M"]) -> 0.5',
    source=_DWORK,
)
demographic_parity_ratio: NamedGap = _named_gap(
    "demographic_parity_ratio",
    ("positive_rate",),
    "min_g P(decision = 1 | g) / max_g P(decision = 1 | g)",
    "equal positive rates",
    example='f(None, [1, 1, 0, 1], ["F", "F", "M", "M"]) -> 0.5',
    source=_FELDMAN,
)
equalized_odds_difference: OddsDifference = _named_gap(
    "equalized_odds_difference",
    ("tpr", "fpr"),
    "The larger, or the mean, of the gaps in TPR and in FPR",
    "equal error rates in all groups",
    more="""
``"worst_case"`` and ``"mean"`` are fairlearn's; ``"score"`` is FairMedFM's 1 - mean, where 1 means equal error rates. (Its
equation 1 is the mean gap; its code and Table 2 give one minus that.) AIF360's average odds difference is signed, so
that the two gaps cancel; it is not offered.
""",
    example='f([1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 0, 0], list("FFMMFM"), agg="score") -> 0.75',
    source=_HARDT,
    options=OddsOptions,
)
equalized_odds_ratio: OddsRatio = _named_gap(
    "equalized_odds_ratio",
    ("tpr", "fpr"),
    "The smaller, or the mean, of the ratios min_g / max_g of TPR and of FPR",
    "equal error rates in all groups",
    example='f([1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1], list("FFMMFM"), agg="mean") -> 0.75',
    source=_HARDT,
    options=RatioOptions,
)
