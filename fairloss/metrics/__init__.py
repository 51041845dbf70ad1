"""Fairness metrics in NumPy; importing them imports no torch.

Names are resolved on first use, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairloss.metrics.aggregate import aggregate_disparity as aggregate_disparity
    from fairloss.metrics.aggregate import hierarchical_mean as hierarchical_mean
    from fairloss.metrics.calibration import best_f1_threshold as best_f1_threshold
    from fairloss.metrics.calibration import binary_cross_entropy as binary_cross_entropy
    from fairloss.metrics.calibration import brier_score as brier_score
    from fairloss.metrics.calibration import expected_calibration_error as expected_calibration_error
    from fairloss.metrics.calibration import mean_absolute_calibration_error as mean_absolute_calibration_error
    from fairloss.metrics.disparity import equity_scaled as equity_scaled
    from fairloss.metrics.disparity import error_skew as error_skew
    from fairloss.metrics.disparity import gap as gap
    from fairloss.metrics.disparity import group_std as group_std
    from fairloss.metrics.disparity import performance_scaled_disparity as performance_scaled_disparity
    from fairloss.metrics.disparity import worst as worst
    from fairloss.metrics.gaps import GapOptions as GapOptions
    from fairloss.metrics.gaps import demographic_parity_difference as demographic_parity_difference
    from fairloss.metrics.gaps import demographic_parity_ratio as demographic_parity_ratio
    from fairloss.metrics.gaps import equal_opportunity_difference as equal_opportunity_difference
    from fairloss.metrics.gaps import equalized_odds_difference as equalized_odds_difference
    from fairloss.metrics.gaps import equalized_odds_ratio as equalized_odds_ratio
    from fairloss.metrics.gaps import false_positive_rate_difference as false_positive_rate_difference
    from fairloss.metrics.gaps import max_accuracy_gap as max_accuracy_gap
    from fairloss.metrics.gaps import predictive_parity_difference as predictive_parity_difference
    from fairloss.metrics.inputs import cross_groups as cross_groups
    from fairloss.metrics.per_group import METRICS as METRICS
    from fairloss.metrics.per_group import GroupMetric as GroupMetric
    from fairloss.metrics.per_group import UndefinedGroupWarning as UndefinedGroupWarning
    from fairloss.metrics.per_group import group_mean as group_mean
    from fairloss.metrics.per_group import group_metric as group_metric
    from fairloss.metrics.ranking import auc as auc
    from fairloss.metrics.scored import auc_gap as auc_gap
    from fairloss.metrics.scored import calibration_gap as calibration_gap
    from fairloss.metrics.scored import equity_scaled_auc as equity_scaled_auc
    from fairloss.metrics.segmentation import dice as dice
    from fairloss.metrics.segmentation import iou as iou
    from fairloss.metrics.significance import friedman_nemenyi as friedman_nemenyi
    from fairloss.metrics.significance import paired_t_test as paired_t_test

_MODULES = {
    "inputs": ["cross_groups"],
    "aggregate": ["aggregate_disparity", "hierarchical_mean"],
    "calibration": [
        "best_f1_threshold",
        "binary_cross_entropy",
        "brier_score",
        "expected_calibration_error",
        "mean_absolute_calibration_error",
    ],
    "disparity": ["equity_scaled", "error_skew", "gap", "group_std", "performance_scaled_disparity", "worst"],
    "gaps": [
        "GapOptions",
        "demographic_parity_difference",
        "demographic_parity_ratio",
        "equal_opportunity_difference",
        "equalized_odds_difference",
        "equalized_odds_ratio",
        "false_positive_rate_difference",
        "max_accuracy_gap",
        "predictive_parity_difference",
    ],
    "scored": ["auc_gap", "calibration_gap", "equity_scaled_auc"],
    "per_group": ["METRICS", "GroupMetric", "UndefinedGroupWarning", "group_mean", "group_metric"],
    "ranking": ["auc"],
    "segmentation": ["dice", "iou"],
    "significance": ["friedman_nemenyi", "paired_t_test"],
}
_HOME = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
