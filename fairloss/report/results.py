"""What a report and a comparison of models are made of, as data; pages, plots and tables read these, and know no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "AttributeReport",
    "Estimate",
    "Gap",
    "GapDifference",
    "Group",
    "GroupEstimate",
    "ModelComparison",
    "ReportData",
    "count_of",
    "metric_title",
]

_UPPER = ("auc", "tpr", "tnr", "fpr", "fnr", "fdr", "f1", "ece", "bce")


def metric_title(metric: str) -> str:
    """A metric's name for people."""
    return metric.upper() if metric in _UPPER else metric.replace("_", " ")


def count_of(n: int, noun: str) -> str:
    """``1 sample``, ``2 samples``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupEstimate(Estimate):
    """A value with its interval, and how much it rests on.

    Attributes:
        samples: with a value.
        patients: of these samples.
        effective: Kish's effective number of these patients; where weights do not differ, their number.
        few: whether these are too few to judge.
    """

    samples: int
    patients: int
    effective: float
    few: bool


@dataclass(frozen=True)
class Group:
    """One group: its counts and its value of every metric; ``small`` where it is too small to judge by any of them."""

    label: Any
    samples: int
    patients: int
    effective: float
    positives: int | None
    metrics: dict[str, GroupEstimate]
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


@dataclass(frozen=True)
class ReportData:
    """The numbers of a report, which page, plots, tables and terminal read.

    Attributes:
        overall: metric to estimate over all samples.
        attributes: one report per attribute, then the intersections.
        warnings: in words: small groups, undefined values.
        settings: what the numbers rest on (samples, threshold, replicates, level, seed, ...).
    """

    overall: dict[str, GroupEstimate]
    attributes: tuple[AttributeReport, ...]
    warnings: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> AttributeReport:
        for found in self.attributes:
            if found.name == name:
                return found
        raise KeyError(f"{name!r}: the attributes are {', '.join(a.name for a in self.attributes)}")


@dataclass(frozen=True)
class GapDifference:
    """Result of :func:`fairloss.report.gap_difference_test`.

    Attributes:
        metric: whose gap is compared.
        gap_a: of the first model.
        gap_b: of the second model.
        difference: gap_b - gap_a; negative where the second model is fairer.
        low: lower end of the difference's interval.
        high: upper end.
        p_value: two-sided.
    """

    metric: str
    gap_a: float
    gap_b: float
    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class ModelComparison:
    """One model among several on the same samples.

    Attributes:
        name: of the model.
        overall: metric to value over all samples.
        gaps: metric to (gap, low, high), as in the fairness report.
        corrected: metric to the bias-corrected gap.
        against_first: metric to the difference to the first model; empty for the first.
        warnings: in words, as the fairness report's: small groups, undefined values.
    """

    name: str
    overall: dict[str, float]
    gaps: dict[str, tuple[float, float, float]]
    corrected: dict[str, float]
    against_first: dict[str, GapDifference]
    warnings: tuple[str, ...] = ()
