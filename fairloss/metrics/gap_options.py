"""The options of the named gaps, written once: their types, defaults and meanings."""

from __future__ import annotations

from typing import Any, Literal

from fairloss.metrics.disparity import Method
from fairloss.metrics.predictions import READING_OPTIONS, ReadingOptions
from fairloss.metrics.rates import Convention
from fairloss.metrics.undefined import Undefined

__all__ = ["DEFAULTS", "Agg", "GapOptions", "OddsOptions", "OverClasses", "RatioOptions"]

OverClasses = Literal["mean_gap", "max_gap", "gap_of_mean"]
Agg = Literal["worst_case", "mean", "score"]


class GapOptions(ReadingOptions, total=False):
    """Keyword arguments that every named gap takes, those of :class:`ReadingOptions` among them.

    Attributes:
        sample_weight: (N,) non-negative weights; by default all 1.
        method: compare groups with one another (``"between_groups"``) or each with all samples (``"to_overall"``): the
            largest |v_g - v|, and of ratios the smallest v_g / v or v / v_g, where v is the rate of all samples, those
            of unknown group included.
        reference: label of a group that every other is compared with, in the same way, in place of one another.
        control: (N,) labels of any kind, or a mapping of names to them: groups are compared within each of these strata
            ("to_overall": with all samples of the stratum), and the value of the stratum that is worst is returned.
            Samples of unknown stratum are left out.
        threshold: a score is a positive decision where ``score >= threshold`` (0.5) ...
        strict: ... or where ``score > threshold``.
        over_classes: with several classes, the ``"mean_gap"`` (the mean over classes of each class's value, which of
            equalized odds is that of its two gaps), the ``"max_gap"`` (the class of the largest gap or smallest
            ratio), or the ``"gap_of_mean"`` (rates are averaged over classes first); by default the first, and the
            last with ``convention="fairgrpo"``.
        convention: ``"standard"`` or ``"fairgrpo"`` (see :mod:`fairloss.metrics.rates`).
        undefined: ``"omit"`` leaves undefined values out with one warning; ``"raise"`` raises.
    """

    sample_weight: Any
    method: Method
    reference: Any
    control: Any
    threshold: float
    strict: bool
    over_classes: OverClasses | None
    convention: Convention
    undefined: Undefined


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


DEFAULTS: dict[str, Any] = {
    "agg": "worst_case",
    "sample_weight": None,
    "method": "between_groups",
    "reference": None,
    "control": None,
    "threshold": 0.5,
    "strict": False,
    **READING_OPTIONS,
    "over_classes": None,
    "convention": "standard",
    "undefined": "omit",
}
