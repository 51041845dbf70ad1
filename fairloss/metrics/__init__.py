"""Fairness metrics in NumPy; importing them imports no torch."""

from fairloss.groups.encode import GroupLabelWarning
from fairloss.metrics.aggregate import aggregate_disparity, hierarchical_mean
from fairloss.metrics.arrays import cross_groups
from fairloss.metrics.calibration import (
    best_f1_threshold,
    binary_cross_entropy,
    brier_score,
    expected_calibration_error,
    mean_absolute_calibration_error,
)
from fairloss.metrics.disparity import (
    equity_scaled,
    error_skew,
    gap,
    group_std,
    performance_scaled_disparity,
    ratio,
    worst,
)
from fairloss.metrics.gaps import (
    GapOptions,
    demographic_parity_difference,
    demographic_parity_ratio,
    equal_opportunity_difference,
    equal_opportunity_ratio,
    equalized_odds_difference,
    equalized_odds_ratio,
    false_positive_rate_difference,
    max_accuracy_gap,
    predictive_parity_difference,
)
from fairloss.metrics.per_group import (
    METRICS,
    GroupMetric,
    UndefinedGroupWarning,
    group_mean,
    group_metric,
    stratified_metric,
)
from fairloss.metrics.predictions import ReadingOptions
from fairloss.metrics.ranking import auc
from fairloss.metrics.scored import auc_gap, calibration_gap, equity_scaled_auc
from fairloss.metrics.segmentation import dice, iou
from fairloss.metrics.significance import friedman_nemenyi, paired_t_test

__all__ = [
    "METRICS",
    "GapOptions",
    "GroupLabelWarning",
    "GroupMetric",
    "ReadingOptions",
    "UndefinedGroupWarning",
    "aggregate_disparity",
    "auc",
    "auc_gap",
    "best_f1_threshold",
    "binary_cross_entropy",
    "brier_score",
    "calibration_gap",
    "cross_groups",
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "dice",
    "equal_opportunity_difference",
    "equal_opportunity_ratio",
    "equalized_odds_difference",
    "equalized_odds_ratio",
    "equity_scaled",
    "equity_scaled_auc",
    "error_skew",
    "expected_calibration_error",
    "false_positive_rate_difference",
    "friedman_nemenyi",
    "gap",
    "group_mean",
    "group_metric",
    "group_std",
    "hierarchical_mean",
    "iou",
    "max_accuracy_gap",
    "mean_absolute_calibration_error",
    "paired_t_test",
    "performance_scaled_disparity",
    "predictive_parity_difference",
    "ratio",
    "stratified_metric",
    "worst",
]
