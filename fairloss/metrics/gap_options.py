"""The options of metrics per group and of the named gaps, written once: their types, defaults and meanings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from fairloss.groups.encode import LABEL_RULES, LabelRules
from fairloss.metrics.calibration import Strategy
from fairloss.metrics.disparity import Method
from fairloss.metrics.predictions import READING_OPTIONS, ReadingOptions
from fairloss.metrics.rates import Convention
from fairloss.metrics.undefined import Undefined

__all__ = [
    "GAP_OPTIONS",
    "METRIC_OPTIONS",
    "ODDS_OPTIONS",
    "SCORE_GAP_OPTIONS",
    "SCORE_OPTIONS",
    "SHARED",
    "VALUE_OPTIONS",
    "Agg",
    "GapOptions",
    "MetricOptions",
    "OddsOptions",
    "OverClasses",
    "RatioOptions",
    "ScoreGapOptions",
    "ScoreOptions",
    "ValueOptions",
]

OverClasses = Literal["mean_gap", "max_gap", "gap_of_mean"]
Agg = Literal["worst_case", "mean", "score"]


class ValueOptions(LabelRules, total=False):
    """Keyword arguments of every figure per group.

    Attributes:
        sample_weight: (N,) non-negative weights, by default all 1; an integer weight equals that many repetitions.
        undefined: ``"omit"`` leaves undefined values out with one warning, which names groups and classes; ``"raise"``
            raises.
    """

    sample_weight: Any
    undefined: Undefined


class ScoreOptions(ReadingOptions, ValueOptions, total=False):
    """Those of every metric of predictions."""


class RateOptions(ScoreOptions, total=False):
    """Those of decisions.

    Attributes:
        threshold: a score is a positive decision where ``score >= threshold`` (0.5) ...
        strict: ... or where ``score > threshold``. Scores of float32 or less are compared in float32.
        convention: ``"standard"`` or ``"fairgrpo"`` (see :mod:`fairloss.metrics.rates`).
    """

    threshold: float
    strict: bool
    convention: Convention


class MetricOptions(RateOptions, total=False):
    """Those of one metric per group.

    Attributes:
        score_bins: for ``ece``: number of bins, or their edges.
        strategy: for ``ece``: bins of ``"uniform"`` width on [0, 1] or of equal mass (``"quantile"``), the same for all
            groups; or on each group's own score ``"range"`` (FairMedFM's code).
    """

    score_bins: int | Sequence[float]
    strategy: Strategy


class ComparisonOptions(TypedDict, total=False):
    """What groups are compared with.

    Attributes:
        method: compare groups with one another (``"between_groups"``) or each with all samples (``"to_overall"``): the
            largest |v_g - v|, and of ratios the smallest v_g / v or v / v_g, where v is the rate of all samples, those
            of unknown group included.
        reference: label of a group that every other is compared with, in the same way, in place of one another.
        control: (N,) labels of any kind, or a mapping of names to them: groups are compared within each of these strata
            ("to_overall": with all samples of the stratum), and the value of the stratum that is worst is returned.
            Samples of unknown stratum are left out. :func:`fairloss.metrics.stratified_metric` has every stratum.
    """

    method: Method
    reference: Any
    control: Any


class ScoreGapOptions(ScoreOptions, ComparisonOptions, total=False):
    """Keyword arguments of every gap of scores."""


class GapOptions(RateOptions, ComparisonOptions, total=False):
    """All keyword arguments of a named gap of rates; :func:`fairloss.metrics.max_accuracy_gap` says what each means.

    Attributes:
        over_classes: with several classes, the ``"mean_gap"`` (the mean over classes of each class's value, which of
            equalized odds is that of its two gaps), the ``"max_gap"`` (the class of the largest gap or smallest
            ratio), or the ``"gap_of_mean"`` (rates are averaged over classes first); by default the first, and the
            last with ``convention="fairgrpo"``.
    """

    over_classes: OverClasses | None


class RatioOptions(GapOptions, total=False):
    """Those of a ratio of two rates.

    Attributes:
        agg: the ``"worst_case"`` of the two, or their ``"mean"``.
    """

    agg: Literal["worst_case", "mean"]


class OddsOptions(GapOptions, total=False):
    """Those of a difference of two rates.

    Attributes:
        agg: the ``"worst_case"`` of the two, their ``"mean"``, or the ``"score"`` 1 - mean, where higher is better.
    """

    agg: Agg


VALUE_OPTIONS = {"sample_weight": None, **LABEL_RULES, "undefined": "omit"}
SCORE_OPTIONS = {"sample_weight": None, **READING_OPTIONS, **VALUE_OPTIONS}
_RATE = {"sample_weight": None, "threshold": 0.5, "strict": False, "convention": "standard", **SCORE_OPTIONS}
METRIC_OPTIONS = {**_RATE, "score_bins": 10, "strategy": "uniform"}
_COMPARISON = {"method": "between_groups", "reference": None, "control": None}
SCORE_GAP_OPTIONS = {**SCORE_OPTIONS, **_COMPARISON}
GAP_OPTIONS = {**_RATE, **_COMPARISON, "over_classes": None}
ODDS_OPTIONS = {"agg": "worst_case", **GAP_OPTIONS}
"""Defaults of the options of that name; of a gap of two rates, last."""
SHARED = (ComparisonOptions, RateOptions, ValueOptions, LabelRules, ReadingOptions)
"""Where the meanings of options stand that several kinds of metrics have."""
