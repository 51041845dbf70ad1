"""Summaries of a metric's values over groups: how far apart they are, and the worst of them.

Every function takes the values themselves (a list, an array, or what ``group_metric`` returns), so that each works for
any metric. NaN values (a group where the metric is undefined) are left out; a comparison of fewer than two defined
values is NaN, never 0.

References: FairDi, equations 4 to 6 and 9 to 10; FairMedFM, appendix C; FairGRPO, equations 7 to 11. The papers use
one name for several formulas: FairDi's equity scaling takes the mean of absolute differences for the AUC and their sum
for Dice, FairMedFM's the population standard deviation; FairGRPO prints the population standard deviation in
equation 11, but its tables follow the sample one. Hence ``penalty`` and ``ddof`` have no default here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from fairloss.core.checks import choice, expected
from fairloss.metrics.arrays import Floats, as_values

__all__ = [
    "Method",
    "Statistic",
    "equity_scaled",
    "error_skew",
    "gap",
    "group_std",
    "performance_scaled_disparity",
    "ratio",
    "reference_of",
    "spread",
    "worst",
]

Statistic = Literal["gap", "ratio"]
Method = Literal["between_groups", "to_overall"]
Penalty = Literal["mean_abs", "sum_abs", "max_abs", "std", "gap"]


def _defined(values: Any, at_least: int = 2) -> Floats | None:
    array = as_values(values, "values", "group")
    array = array[~np.isnan(array)]
    return array if len(array) >= at_least else None


def _check_ddof(ddof: int) -> None:
    if ddof not in (0, 1):
        raise ValueError(expected("ddof", "0 (population) or 1 (sample)", repr(ddof)))


def reference_of(method: Method, reference: Any, labels: Sequence[Any]) -> int | None:
    """The place of the group that the others are compared with; None without a ``reference``.

    Raises:
        ValueError: an unknown method, a reference that is no group, or one beside ``method="to_overall"``.
    """
    choice("method", method, get_args(Method))
    if reference is None:
        return None
    if method == "to_overall":
        wanted = "None with method='to_overall', which compares with all samples"
        raise ValueError(expected("reference", wanted, repr(reference), "leave out one of the two"))
    for place, label in enumerate(labels):
        same = label == reference  # an array where the reference is one, pandas.NA where it is that
        if isinstance(same, (bool, np.bool_)) and same:
            return place
    raise ValueError(expected("reference", f"a group among {list(labels)}", repr(reference)))


def gap(values: Any, *, baseline: float | None = None) -> float:
    """max_g v_g - min_g v_g, or with a baseline max_g |v_g - baseline|; 0 means that all groups have the same value.

    Args:
        values: (G,) one value per group; NaN is left out. Of a :class:`fairloss.metrics.per_group.GroupMetric` its own
            ``gap()``, class by class.
        baseline: a value with which every group is compared (that over all samples, a reference group's) in place of
            the other groups.

    Returns:
        The gap, NaN with fewer than two defined values, or where the baseline is NaN.

    Note:
        In small samples the gap of an estimate is biased upwards: it is positive even where all groups are alike.
        :class:`fairloss.report.FairnessReport` puts a bias-corrected estimate beside it.

    Example:
        >>> gap([0.75, 0.5, float("nan")]), gap([0.75, 0.5], baseline=0.625)
        (0.25, 0.125)
    """
    if baseline is None and hasattr(values, "by_class"):
        return float(values.gap())
    return float(spread(as_values(values, "values", "group")[:, None], "gap", baseline)[0])


def ratio(values: Any, *, baseline: float | None = None) -> float:
    """min_g v_g / max_g v_g, or with a baseline the smallest v_g / baseline or baseline / v_g; 1 means the same value.

    Args:
        values: (G,) one value >= 0 per group; NaN is left out.
        baseline: as of :func:`gap`.

    Returns:
        The ratio, in [0, 1]; NaN with fewer than two defined values, where all are 0, or where the baseline is NaN.

    Raises:
        ValueError: a negative value, of which no ratio has a meaning.

    Example:
        >>> ratio([0.75, 0.5, 1.0]), ratio([0.75, 0.5], baseline=1.0)
        (0.5, 0.5)
    """
    if baseline is None and hasattr(values, "by_class"):
        return float(values.ratio())
    return float(spread(as_values(values, "values", "group")[:, None], "ratio", baseline)[0])


def spread(values: Floats, statistic: Statistic, baseline: Floats | float | None = None) -> Floats:
    """(..., K) gaps or ratios over G of the (..., G, K) values, to one another or to the (..., K) baseline."""
    if baseline is None:
        base = np.fmax.reduce(values, axis=-2, keepdims=True, initial=np.nan)
    else:
        base = np.atleast_1d(np.asarray(baseline, dtype=np.float64))[..., None, :]
    if statistic == "gap":
        found = np.fmax.reduce(np.abs(values - base), axis=-2, initial=np.nan)
    else:
        low, high = np.minimum(values, base), np.maximum(values, base)
        if (low < 0).any():
            raise ValueError(expected("values", "values >= 0, of which there is a ratio", np.nanmin(low)))
        parts = np.divide(low, high, out=np.full(high.shape, np.nan), where=high > 0)
        found = np.fmin.reduce(parts, axis=-2, initial=np.nan)
    return np.where((~np.isnan(values)).sum(axis=-2) >= 2, found, np.nan)


def worst(values: Any, *, higher_is_better: bool = True) -> float:
    """The worst defined value: the minimum, or the maximum where smaller is better; NaN with none.

    Example:
        >>> worst([0.75, 0.5]), worst([0.1, 0.3], higher_is_better=False)
        (0.5, 0.3)
    """
    v = _defined(values, 1)
    if v is None:
        return float("nan")
    return float(v.min() if higher_is_better else v.max())


def group_std(values: Any, *, ddof: int) -> float:
    """Standard deviation over groups, sqrt(sum_g (v_g - mean)^2 / (G - ddof)); 0 means no difference.

    Args:
        values: (G,) one value per group; NaN is left out.
        ddof: 0 for the population's (FairMedFM, FairDi's MeanPSD), 1 for the sample's (FairGRPO's tables).

    Returns:
        The standard deviation, NaN with fewer than two defined values.

    Raises:
        ValueError: ``ddof`` is neither 0 nor 1.

    Example:
        >>> group_std([0.6, 0.8], ddof=0), round(group_std([0.6, 0.8], ddof=1), 4)
        (0.1, 0.1414)
    """
    _check_ddof(ddof)
    v = _defined(values)
    return float("nan") if v is None else float(v.std(ddof=ddof))


def error_skew(values: Any) -> float:
    """max_g (1 - v_g) / min_g (1 - v_g), the largest error over the smallest; 1 means that all groups have the same.

    Args:
        values: (G,) values with 1 as the best (accuracy, AUC, Dice) in [0, 1]; NaN is left out.

    Returns:
        The ratio; infinite where only some groups are perfect, 1 where all are, NaN with fewer than two values.

    Raises:
        ValueError: a value above 1, whose error would be negative.

    Reference: FairMedFM, appendix C.2 ("Skew").

    Example:
        >>> round(error_skew([0.9, 0.8]), 12)
        2.0
    """
    v = _defined(values)
    if v is None:
        return float("nan")
    if v.max() > 1:
        raise ValueError(expected("values", "values <= 1", v.max(), "give fractions, not percent"))
    error = 1 - v
    if error.max() == 0:
        return 1.0
    return float("inf") if error.min() == 0 else float(error.max() / error.min())


def equity_scaled(overall: float, values: Any, *, penalty: Penalty, ddof: int | None = None) -> float:
    """Overall value over one plus a penalty for differences between groups, v / (1 + penalty); v itself means none.

    ``penalty`` is ``"mean_abs"`` mean_g |v - v_g| (FairDi's ES-AUC, equation 4), ``"sum_abs"`` sum_g |v - v_g|
    (FairVision, FairSeg, FairDi's ES-Dice, equations 9 to 10), ``"std"`` the standard deviation over groups (FairMedFM
    with ``ddof=0``, FairGRPO's tables with ``ddof=1``), ``"max_abs"`` or ``"gap"``.

    Args:
        overall: the value over all samples, as a fraction.
        values: (G,) one value per group, as fractions; NaN is left out.
        penalty: see above. It has no default, because published tables disagree.
        ddof: needed with ``penalty="std"``.

    Returns:
        The scaled value; NaN where no group has a value (fewer than two for ``"std"`` and ``"gap"``).

    Raises:
        ValueError: an unknown penalty, or ``ddof`` missing, or given where it has no meaning.

    Note:
        Percentages would make the penalty a hundred times as large: divide by 100 first.

    Example:
        >>> round(equity_scaled(0.8, [0.9, 0.7], penalty="mean_abs"), 6)
        0.727273
        >>> round(equity_scaled(0.8, [0.9, 0.7], penalty="sum_abs"), 6)
        0.666667
    """
    choice("penalty", penalty, get_args(Penalty))
    if (penalty == "std") != (ddof is not None):
        raise ValueError(expected("ddof", "0 or 1 with penalty='std', else None", f"{ddof!r} with penalty={penalty!r}"))
    v = _defined(values, 2 if penalty in ("std", "gap") else 1)
    if v is None or np.isnan(overall):
        return float("nan")
    if ddof is not None:
        amount = group_std(v, ddof=ddof)
    elif penalty == "gap":
        amount = gap(v)
    else:
        difference = np.abs(overall - v)
        amount = {"mean_abs": difference.mean(), "sum_abs": difference.sum(), "max_abs": difference.max()}[penalty]
    return float(overall / (1 + amount))


def performance_scaled_disparity(
    overall: float, values: Any, *, reduce: Literal["mean", "max"], ddof: int = 0
) -> float:
    """Disparity in units of the overall value; 0 means no difference.

    ``"mean"``: standard deviation over groups / overall (FairDi's MeanPSD, equation 5, population form).
    ``"max"``: (max_g v_g - min_g v_g) / overall (MaxPSD, equation 6).

    Args:
        overall: the value over all samples.
        values: (G,) one value per group; NaN is left out.
        reduce: ``"mean"`` or ``"max"``.
        ddof: for ``"mean"``; FairDi's tables follow 0.

    Returns:
        The disparity; NaN with fewer than two defined values or an overall value of 0.

    Raises:
        ValueError: an unknown ``reduce`` or ``ddof``.

    Example:
        >>> round(performance_scaled_disparity(0.8, [0.9, 0.7], reduce="max"), 6)
        0.25
    """
    choice("reduce", reduce, ("mean", "max"))
    _check_ddof(ddof)
    disparity = group_std(values, ddof=ddof) if reduce == "mean" else gap(values)
    return disparity / overall if overall != 0 else float("nan")
