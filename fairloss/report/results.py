"""What a report is made of: estimates, groups, comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["AttributeReport", "Estimate", "Gap", "Group", "counted", "label"]

_UPPER = ("auc", "tpr", "tnr", "fpr", "fnr", "fdr", "f1", "ece", "bce")


def label(metric: str) -> str:
    """A metric's name for people."""
    return metric.upper() if metric in _UPPER else metric.replace("_", " ")


def counted(n: int, noun: str) -> str:
    """``1 sample``, ``2 samples``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """One group: its counts and its value of every metric."""

    label: Any
    samples: int
    patients: int
    positives: int | None
    metrics: dict[str, Estimate]
    small: bool


@dataclass(frozen=True)
class Gap:
    """One comparison of the groups of an attribute.

    Attributes:
        name: key of the comparison: a metric's name for its max - min, else ``equalized_odds``,
            ``demographic_parity_ratio`` or ``equity_scaled_auc``.
        title: in words.
        estimate: value and interval.
        corrected: bias-corrected value (NaN where none is defined).
        best: label of the best group (for a rate without direction the highest); None where all are alike, and for
            comparisons of two rates.
        worst: label of the worst group (the lowest), or None.
    """

    name: str
    title: str
    estimate: Estimate
    corrected: float
    best: Any = None
    worst: Any = None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes "no difference"; False where the comparison has no such point."""
        if self.name == "equity_scaled_auc":
            return False
        e = self.estimate  # to three decimals, so that no interval that reads 0.000 is marked
        return round(e.high, 3) < 1 if self.name == "demographic_parity_ratio" else round(e.low, 3) > 0


@dataclass(frozen=True)
class AttributeReport:
    """Groups and gaps of one attribute or intersection."""

    name: str
    groups: tuple[Group, ...]
    gaps: tuple[Gap, ...]
    unknown: int

    def gap(self, name: str) -> Gap:
        """The comparison of that name.

        Raises:
            KeyError: there is none.
        """
        for found in self.gaps:
            if found.name == name:
                return found
        raise KeyError(f"{name!r}: the comparisons are {', '.join(g.name for g in self.gaps)}")
