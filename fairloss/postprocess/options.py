"""The options of a fit of thresholds, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.metrics.arrays import as_finite
from fairloss.postprocess.choice import check_bounds

__all__ = ["Gap", "Maximize", "binary_labels", "check_fit_options"]

Gap = Literal["tpr_gap", "fpr_gap", "positive_rate_gap", "accuracy_gap", "equalized_odds_gap"]
Maximize = Literal["accuracy", "balanced_accuracy", "f1"]


def binary_labels(y: Any) -> NDArray[np.bool_]:
    """(N,) whether labels 0 and 1 are 1."""
    array = as_finite(y, "y")
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise ValueError(expected("y", "(N,) labels 0 and 1", f"shape {array.shape}, values {np.unique(array)[:5]}"))
    return np.asarray(array == 1)


def check_fit_options(
    close: str | None,
    budget: float,
    standard_errors: float,
    maximize: str,
    costs: Any,
    subject_to: Any,
    common: float | None,
    per_group: bool,
    shrink: float,
    reference: tuple[float, float] | None = None,
) -> tuple[tuple[float, ...] | None, dict[str, float]]:
    """Check the options of :meth:`GroupThresholds.fit`, which need no scores: the costs, and the bounds."""
    if (close is None) == (subject_to is None):
        given = "neither" if close is None else "both"
        raise ValueError(expected("close", "one of close= and subject_to=", given, "subject_to={} bounds nothing"))
    if close is not None:
        checks.choice("close", close, get_args(Gap))
    checks.number("budget", budget, minimum=0, maximum=1)
    checks.number("standard_errors", standard_errors, minimum=0)
    checks.choice("maximize", maximize, get_args(Maximize))
    checks.flag("per_group", per_group)
    if shrink and not per_group:
        raise ValueError(expected("shrink", "0 beside per_group=False", shrink))
    checks.number("shrink", shrink, minimum=0)
    if common is not None:
        checks.number("common", common)
    if reference is not None:
        if close is None:
            raise ValueError(expected("reference", "close= beside it, whose budget counts against it", "subject_to="))
        if not isinstance(reference, (tuple, list)) or len(reference) != 2:
            raise ValueError(expected("reference", "(accuracy, balanced_accuracy)", repr(reference)))
        for value in reference:
            checks.number("reference", value, minimum=0, maximum=1)
    if not isinstance(subject_to, Mapping | None):
        raise TypeError(expected("subject_to", 'a mapping such as {"tpr_gap": 0.05}', repr(subject_to)))
    check_bounds(subject_to or {})
    if costs is None:
        return None, dict(subject_to or {})
    if not isinstance(costs, (tuple, list)) or len(costs) != 2:
        raise ValueError(expected("costs", "those of a false positive and a false negative, (1, 5) say", costs))
    if close is not None and common is not None:
        cure = "pass subject_to= for the smallest costs under a bound, or common=None to start from the threshold with these"
        raise ValueError(expected("costs", "None beside close=, which they take no part in", costs, cure))
    return tuple(checks.number("costs", cost, minimum=0) for cost in costs), dict(subject_to or {})
