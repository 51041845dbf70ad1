"""The named gaps of scores: ranking and calibration in each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from fairloss.core.checks import choice
from fairloss.core.options import given_options, with_options
from fairloss.metrics.calibration import Strategy
from fairloss.metrics.disparity import Penalty
from fairloss.metrics.gap_options import SCORE_GAP_OPTIONS, SCORE_OPTIONS, SHARED, ScoreGapOptions, ScoreOptions
from fairloss.metrics.gaps import gap_of
from fairloss.metrics.per_group import group_metric

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["auc_gap", "calibration_gap", "equity_scaled_auc"]


@with_options(SCORE_GAP_OPTIONS, ScoreGapOptions, *SHARED)
def auc_gap(y_true: Any, y_score: Any, groups: Any, **options: Unpack[ScoreGapOptions]) -> float:
    """max_g AUC_g - min_g AUC_g; 0 means that all groups are ranked equally well.

    Args:
        y_true: (N,) labels of two classes, (N,) classes, or (N, L).
        y_score: (N,) scores or (N, 2) probabilities; (N, C) probabilities, with the mean of one-vs-rest areas; (N, L).
        groups: as in :func:`fairloss.metrics.group_metric`.
        options: by keyword.

    Returns:
        A fraction; NaN where fewer than two groups have an area, as one with one class only has none.

    Raises:
        ValueError: as :func:`fairloss.metrics.max_accuracy_gap`.

    Note:
        Pairs are compared within each group. A model can rank every group perfectly and still place one group's
        scores above the other's, which the gap does not see.

    Example:
        >>> auc_gap([0, 1, 0, 1], [0.1, 0.9, 0.6, 0.4], ["F", "F", "M", "M"])
        1.0
    """
    return gap_of(("auc",), "gap", y_true, y_score, groups, given_options(options, SCORE_GAP_OPTIONS))


@with_options(SCORE_OPTIONS, ScoreOptions, *SHARED)
def equity_scaled_auc(
    y_true: Any,
    y_score: Any,
    groups: Any,
    *,
    penalty: Penalty = "mean_abs",
    ddof: int | None = None,
    **options: Unpack[ScoreOptions],
) -> float:
    """AUC / (1 + penalty for differences between groups' AUCs); the AUC itself means no difference.

    Args:
        y_true: as in :func:`auc_gap`.
        y_score: as there.
        groups: as in :func:`fairloss.metrics.group_metric`.
        penalty: ``"mean_abs"`` (FairDi, equation 4), ``"sum_abs"`` (FairVision), ``"std"`` (FairMedFM, ``ddof=0``),
            ``"max_abs"`` or ``"gap"``; see :func:`fairloss.metrics.equity_scaled`.
        ddof: needed with ``penalty="std"``.
        options: by keyword.

    Returns:
        A fraction; NaN where no group has an area.

    Raises:
        ValueError: as :func:`fairloss.metrics.max_accuracy_gap` and :func:`fairloss.metrics.equity_scaled`.

    Example:
        >>> round(equity_scaled_auc([0, 1, 0, 1], [0.1, 0.9, 0.6, 0.4], ["F", "F", "M", "M"]), 6)
        0.5
    """
    result = group_metric("auc", y_true, y_score, groups, **given_options(options, SCORE_OPTIONS))
    return result.equity_scaled(penalty=penalty, ddof=ddof)


@with_options(SCORE_GAP_OPTIONS, ScoreGapOptions, *SHARED)
def calibration_gap(
    y_true: Any,
    y_score: Any,
    groups: Any,
    *,
    measure: Literal["ece", "mean_abs"] = "ece",
    score_bins: int | Sequence[float] = 10,
    strategy: Strategy = "uniform",
    **options: Unpack[ScoreGapOptions],
) -> float:
    """max_g e_g - min_g e_g of a calibration error; 0 means that all groups are calibrated equally well, or badly.

    Args:
        y_true: (N,) labels of two classes, or classes with (N, C) scores.
        y_score: (N,), (N, 2) or (N, C) probabilities in [0, 1].
        groups: as in :func:`fairloss.metrics.group_metric`.
        measure: ``"ece"``, binned, or ``"mean_abs"``, the mean of |score - label| (FairMedFM's printed formula).
        score_bins: number of bins, or their edges.
        strategy: ``"uniform"`` or ``"quantile"`` bins, the same for every group, or each group's own score
            ``"range"`` (FairMedFM's code: errors in different bins).
        options: by keyword.

    Returns:
        A fraction; NaN with fewer than two groups.

    Raises:
        ValueError: scores outside [0, 1], an unknown measure or strategy.

    Example:
        >>> round(calibration_gap([0, 1, 0, 1], [0.0, 1.0, 0.3, 0.7], ["F", "F", "M", "M"]), 6)
        0.3
    """
    choice("measure", measure, ("ece", "mean_abs"))
    metric = "ece" if measure == "ece" else "mean_abs_calibration_error"
    given = given_options(options, SCORE_GAP_OPTIONS)
    return gap_of((metric,), "gap", y_true, y_score, groups, given, score_bins=score_bins, strategy=strategy)
