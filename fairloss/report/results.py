"""What a report and a comparison of models are made of, as data; pages, plots and tables read these, and know no more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "AttributeReport",
    "Contrast",
    "Estimate",
    "Gap",
    "GapDifference",
    "Group",
    "GroupEstimate",
    "ModelComparison",
    "ReportData",
    "Verdict",
    "count_of",
    "metric_heading",
    "metric_title",
    "round_up",
]

Verdict = Literal["shown", "smaller", "not shown", "too few"]
_UPPER = ("auc", "tpr", "tnr", "fpr", "fnr", "npv", "fdr", "f1", "ece", "bce")
_CLINICAL = {"tpr": "sensitivity (TPR)", "tnr": "specificity (TNR)", "precision": "PPV (precision)"}


def metric_title(metric: str) -> str:
    """A metric's name for people."""
    return metric.upper() if metric in _UPPER else metric.replace("_", " ")


def metric_heading(metric: str) -> str:
    """A metric's name above a column: the clinician's and, where they differ, the engineer's."""
    return _CLINICAL.get(metric) or metric_title(metric)


def round_up(n: int) -> int:
    """``n`` to two digits, upwards: more would feign a precision that a forecast has not."""
    step = 10 ** max(0, len(str(n)) - 2)
    return int(-(-n // step) * step)


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
        detectable: smallest difference from the best known other group that would be shown with a probability of 0.8.
    """

    samples: int
    patients: int
    effective: float
    few: bool
    detectable: float = float("nan")


@dataclass(frozen=True)
class Group:
    """One group: its counts and its value of every metric; ``small`` where it is too small to judge by any of them.

    ``confusion`` are the samples by outcome, TP, FP, FN and TN, of a binary task.
    """

    label: Any
    samples: int
    patients: int
    effective: float
    positives: int | None
    metrics: dict[str, GroupEstimate]
    small: bool
    confusion: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Gap:
    """One comparison of the groups of an attribute.

    Attributes:
        name: key of the comparison: a metric's name for its max - min, else ``equalized_odds``,
            ``demographic_parity_ratio`` or ``equity_scaled_auc``.
        title: in words.
        estimate: value and interval.
        corrected: bias-corrected value (NaN where none is defined).
        best: label of the best group (of a rate without direction, see ``directed``, the highest); None where all are
            alike, and for comparisons of two rates.
        worst: label of the worst group (the lowest), or None.
        margin: largest gap that is of no concern; NaN where none was given.
        at_most: upper bound of the gap, at risk 1 - level: the gap is shown to be smaller than anything above it.
        missing: (group, patients) that are needed besides these for a gap of the margin to be shown with a probability of 0.8;
            () where these would do, None where that is not known or of no interest.
        left_out: labels of groups too small to judge, which take no part.
        judged: whether two groups at least are large enough to judge; else all take part, and nothing is shown.
        directed: whether a value is better than another: not so of positive rates, prevalences, and functions of which it
            was not said; these are lower or higher.
    """

    name: str
    title: str
    estimate: Estimate
    corrected: float
    best: Any = None
    worst: Any = None
    margin: float = float("nan")
    at_most: float = float("nan")
    missing: tuple[tuple[Any, int], ...] | None = None
    left_out: tuple[Any, ...] = ()
    judged: bool = True
    directed: bool = True

    @property
    def clear(self) -> bool:
        """Whether the interval of groups that can be judged excludes "no difference"; False where there is no such point."""
        if self.name == "equity_scaled_auc" or not self.judged:
            return False
        e = self.estimate  # to three decimals, so that no interval that reads 0.000 is marked
        return round(e.high, 3) < 1 if self.name == "demographic_parity_ratio" else round(e.low, 3) > 0

    @property
    def small(self) -> bool:
        """Whether the gap is shown to be smaller than the margin."""
        return self.judged and self.at_most < self.margin

    @property
    def verdict(self) -> Verdict | None:
        """``"shown"``, ``"smaller"`` (than the margin), ``"not shown"``, ``"too few"`` to judge; None where none applies."""
        if self.name == "equity_scaled_auc" or self.estimate.low != self.estimate.low:
            return None
        if not self.judged:
            return "too few"
        return "shown" if self.clear else "smaller" if self.small else "not shown"

    @property
    def words(self) -> str:
        """The verdict in words; "" where none applies."""
        if self.verdict == "shown":
            return f"shown, and to be smaller than {self.margin:g}" if self.small else "shown"
        if self.verdict == "smaller":
            return f"shown to be smaller than {self.margin:g}"
        if self.verdict is None:
            return ""
        text = "not shown" if self.judged else "too few to judge"
        if self.missing:
            several = len(self.missing) - 2
            who = [f"{round_up(n)} more patients of group {g}" for g, n in self.missing[:2]]
            who += [f"more of {count_of(several, 'other group')}"] if several > 0 else []
            text += f" (about {', '.join(who)} needed for a gap of {self.margin:g})"
        elif self.judged and self.missing is not None:
            text += f" (a gap of {self.margin:g} would be, mostly)"
        return text


@dataclass(frozen=True)
class Contrast:
    """A group beside the reference group: its value less the reference's, and divided by it, each judged by itself."""

    metric: str
    group: Any
    difference: Estimate
    ratio: Estimate


@dataclass(frozen=True)
class AttributeReport:
    """Groups and gaps of one attribute or intersection; with a reference group, the others' contrasts to it."""

    name: str
    groups: tuple[Group, ...]
    gaps: tuple[Gap, ...]
    unknown: int
    reference: Any = None
    contrasts: tuple[Contrast, ...] = ()

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
        findings: of several labels (columns), the report of each by its name; what is above are means over them.
    """

    overall: dict[str, GroupEstimate]
    attributes: tuple[AttributeReport, ...]
    warnings: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    findings: dict[str, ReportData] = field(default_factory=dict)

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
