"""Equalized odds: gaps in the true-positive and in the false-positive rate, taken together.

``agg="worst_case"`` and ``"mean"`` are fairlearn's; ``"score"`` is FairMedFM's 1 - mean, where higher is better. (Its
equation 1 is the mean gap; its code and Table 2 give one minus that.) AIF360's average odds difference is signed, so
that the two gaps cancel; it is not offered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fairloss.metrics.group_gaps import GapOptions, rate_values, read_options, spread

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["equalized_odds_difference", "equalized_odds_ratio"]

Agg = Literal["worst_case", "mean", "score"]


def equalized_odds_difference(
    y_true: Any,
    y_pred: Any,
    groups: Any,
    *,
    agg: Agg = "worst_case",
    **options: Unpack[GapOptions],
) -> float:
    """The larger, or the mean, of the gaps in TPR and in FPR; 0 means equal error rates in all groups.

    Args:
        y_true: (N,) labels 0 and 1, (N,) classes, or (N, L) of 0 and 1.
        y_pred: (N,) scores or decisions, (N, C) scores or (N,) classes, or (N, L).
        groups: (N,) group labels, or a mapping of names to attributes, read as their intersection.
        agg: ``"worst_case"`` max(TPR gap, FPR gap); ``"mean"`` of the two; ``"score"`` 1 - mean, higher is better.
        options: :class:`GapOptions`, by keyword.

    Returns:
        A fraction; NaN where one of the two gaps is undefined (half of equalized odds can look fair).

    Raises:
        ValueError: as :func:`fairloss.metrics.max_accuracy_gap`.

    Example:
        >>> y, p, g = [1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 0, 0], ["F", "F", "M", "M", "F", "M"]
        >>> equalized_odds_difference(y, p, g), equalized_odds_difference(y, p, g, agg="score")
        (0.5, 0.75)
    """
    if agg not in ("worst_case", "mean", "score"):
        raise ValueError(f"agg: {agg!r} was given; accepted are worst_case, mean, score")
    read = read_options(options)
    gaps = [spread(values, read) for values in rate_values(("tpr", "fpr"), y_true, y_pred, groups, read)]
    if agg == "worst_case":
        return float(np.max(gaps))
    mean = float(np.mean(gaps))
    return mean if agg == "mean" else 1 - mean


def equalized_odds_ratio(y_true: Any, y_pred: Any, groups: Any, **options: Unpack[GapOptions]) -> float:
    """The smaller of min_g TPR_g / max_g TPR_g and min_g FPR_g / max_g FPR_g; 1 means equal error rates.

    Args:
        y_true: (N,) labels 0 and 1, (N,) classes, or (N, L) of 0 and 1.
        y_pred: (N,) scores or decisions, (N, C) scores or (N,) classes, or (N, L).
        groups: (N,) group labels, or a mapping of names to attributes, read as their intersection.
        options: :class:`GapOptions`, by keyword.

    Returns:
        A ratio in [0, 1]; NaN where one of the two ratios is undefined.

    Raises:
        ValueError: as :func:`fairloss.metrics.max_accuracy_gap`.

    Example:
        >>> equalized_odds_ratio([1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1], ["F", "F", "M", "M", "F", "M"])
        0.5
    """
    read = read_options(options)
    rates = rate_values(("tpr", "fpr"), y_true, y_pred, groups, read)
    return float(np.min([spread(values, read, "ratio") for values in rates]))
