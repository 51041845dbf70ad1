"""The named gaps of one rate: each is a difference over groups.

Definitions follow fairlearn where it defines the value. For more than one class each rate is one-vs-rest. Undefined
rates are left out and named in a warning, never read as 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fairloss.metrics.group_gaps import GapOptions, read_options, spread_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equal_opportunity_difference",
    "false_positive_rate_difference",
    "max_accuracy_gap",
    "predictive_parity_difference",
]


def max_accuracy_gap(y_true: Any, y_pred: Any, groups: Any, **options: Unpack[GapOptions]) -> float:
    """max_g accuracy_g - min_g accuracy_g (the LoRA paper's equation 1); 0 means equal accuracy.

    Args:
        y_true: (N,) labels 0 and 1, (N,) classes, or (N, L) of 0 and 1.
        y_pred: (N,) scores or decisions, (N, C) scores or (N,) classes, or (N, L).
        groups: (N,) labels of any kind, or a mapping of names to attributes, read as their intersection; None, NaN and
            -1 are unknown and left out.
        options: :class:`GapOptions`, by keyword.

    Returns:
        A fraction; NaN where fewer than two groups have a value.

    Raises:
        ValueError: shapes that do not fit, labels other than the accepted, an undefined value with ``"raise"``.

    Example:
        >>> max_accuracy_gap([1, 0, 1, 1], [1, 0, 0, 1], ["F", "F", "M", "M"])
        0.5
    """
    return spread_of("accuracy", y_true, y_pred, groups, read_options(options))


def equal_opportunity_difference(y_true: Any, y_pred: Any, groups: Any, **options: Unpack[GapOptions]) -> float:
    """max_g TPR_g - min_g TPR_g; 0 means that positives are found alike in all groups.

    Args:
        y_true: (N,) labels 0 and 1, (N,) classes, or (N, L) of 0 and 1.
        y_pred: (N,) scores or decisions, (N, C) scores or (N,) classes, or (N, L).
        groups: (N,) group labels, or a mapping of names to attributes, read as their intersection.
        options: :class:`GapOptions`, by keyword.

    Returns:
        A fraction; NaN where fewer than two groups have a value.

    Raises:
        ValueError: as :func:`max_accuracy_gap`.

    Example:
        >>> equal_opportunity_difference([1, 1, 1, 1], [1, 1, 0, 1], ["F", "F", "M", "M"])
        0.5
    """
    return spread_of("tpr", y_true, y_pred, groups, read_options(options))


def false_positive_rate_difference(y_true: Any, y_pred: Any, groups: Any, **options: Unpack[GapOptions]) -> float:
    """max_g FPR_g - min_g FPR_g; 0 means that negatives raise false alarms alike in all groups.

    Args:
        y_true: (N,) labels 0 and 1, (N,) classes, or (N, L) of 0 and 1.
        y_pred: (N,) scores or decisions, (N, C) scores or (N,) classes, or (N, L).
        groups: (N,) group labels, or a mapping of names to attributes, read as their intersection.
        options: :class:`GapOptions`, by keyword.

    Returns:
        A fraction; NaN where fewer than two groups have a value.

    Raises:
        ValueError: as :func:`max_accuracy_gap`.

    Example:
        >>> false_positive_rate_difference([0, 0, 0, 0], [1, 1, 0, 1], ["F", "F", "M", "M"])
        0.5
    """
    return spread_of("fpr", y_true, y_pred, groups, read_options(options))


def predictive_parity_difference(y_true: Any, y_pred: Any, groups: Any, **options: Unpack[GapOptions]) -> float:
    """max_g FDR_g - min_g FDR_g; 0 means that a positive decision is right equally often in all groups.

    Args:
        y_true: (N,) labels 0 and 1, (N,) classes, or (N, L) of 0 and 1.
        y_pred: (N,) scores or decisions, (N, C) scores or (N,) classes, or (N, L).
        groups: (N,) group labels, or a mapping of names to attributes, read as their intersection.
        options: :class:`GapOptions`, by keyword.

    Returns:
        A fraction; NaN where fewer than two groups have a value.

    Raises:
        ValueError: as :func:`max_accuracy_gap`.

    Note:
        The false discovery rate is 1 - precision, so the gap of the precision is the same.

    Example:
        >>> predictive_parity_difference([1, 1, 1, 0], [1, 1, 1, 1], ["F", "F", "M", "M"])
        0.5
    """
    return spread_of("fdr", y_true, y_pred, groups, read_options(options))


def demographic_parity_difference(y_true: Any, y_pred: Any, groups: Any, **options: Unpack[GapOptions]) -> float:
    """max_g P(decision = 1 | g) - min_g P(decision = 1 | g); 0 means equal positive rates.

    Args:
        y_true: (N,) labels 0 and 1, (N,) classes, or (N, L) of 0 and 1; or None with
            (N,) predictions, since labels play no part (``task`` says what whole numbers other than 0 and 1 are).
        y_pred: (N,) scores or decisions, (N, C) scores or (N,) classes, or (N, L).
        groups: (N,) group labels, or a mapping of names to attributes, read as their intersection.
        options: :class:`GapOptions`, by keyword.

    Returns:
        A fraction; NaN where fewer than two groups have a value.

    Raises:
        ValueError: as :func:`max_accuracy_gap`.

    Example:
        >>> demographic_parity_difference(None, [1, 1, 0, 1], ["F", "F", "M", "M"])
        0.5
    """
    return spread_of("positive_rate", y_true, y_pred, groups, read_options(options))


def demographic_parity_ratio(y_true: Any, y_pred: Any, groups: Any, **options: Unpack[GapOptions]) -> float:
    """min_g P(decision = 1 | g) / max_g P(decision = 1 | g); 1 means equal positive rates.

    Args:
        y_true: (N,) labels 0 and 1, (N,) classes, or (N, L) of 0 and 1; or None with
            (N,) predictions, since labels play no part (``task`` says what whole numbers other than 0 and 1 are).
        y_pred: (N,) scores or decisions, (N, C) scores or (N,) classes, or (N, L).
        groups: (N,) group labels, or a mapping of names to attributes, read as their intersection.
        options: :class:`GapOptions`, by keyword.

    Returns:
        A ratio in [0, 1]; NaN where fewer than two groups have a rate, or all rates are 0.

    Raises:
        ValueError: as :func:`max_accuracy_gap`.

    Example:
        >>> demographic_parity_ratio(None, [1, 1, 0, 1], ["F", "F", "M", "M"])
        0.5
    """
    return spread_of("positive_rate", y_true, y_pred, groups, read_options(options), "ratio")
