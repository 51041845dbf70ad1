"""The report as tables of text, which pages, Markdown and terminal lay out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fairloss.report.results import (
    AttributeReport,
    Estimate,
    Gap,
    ReportData,
    count_of,
    metric_heading,
)

__all__ = [
    "AttributeTables",
    "Table",
    "extremes",
    "format_estimate",
    "format_value",
    "group_title",
    "one_each",
    "overall_table",
    "tables",
]


class Table(NamedTuple):
    """A table as text; ``marked`` are the rows of small groups, or of clear comparisons."""

    title: str
    header: list[str]
    rows: list[list[str]]
    marked: list[bool]


class AttributeTables(NamedTuple):
    """The tables of an attribute; None where there is none."""

    groups: Table
    outcomes: Table | None
    detectable: Table | None
    comparisons: Table
    differences: Table | None
    ratios: Table | None

    def all(self) -> list[Table]:
        """Those that there are."""
        return [table for table in self if table is not None]


def format_value(value: float) -> str:
    """Three decimals, or "n/a"."""
    return "n/a" if value != value else f"{value:.3f}"


def format_estimate(estimate: Estimate) -> str:
    """``0.812 [0.790, 0.834]``, or "n/a"."""
    if estimate.value != estimate.value:
        return "n/a"
    if estimate.low != estimate.low:
        return format_value(estimate.value)
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def group_title(attribute: AttributeReport, name: Any, metric: str = "") -> str:
    """The label of a group as it is shown, marked where there is too little to judge it (by ``metric``); "" for None."""
    if name is None:
        return ""
    found = next(g for g in attribute.groups if g.label == name)
    few = found.metrics[metric].few if metric in found.metrics else found.small
    return f"{name} (!)" if few else str(name)


def overall_table(report: ReportData) -> Table:
    """Values over all samples."""
    cells = _counts(report, report.settings) + [format_estimate(e) for e in report.overall.values()]
    return Table("Overall", [*_count_headings(report), *map(metric_heading, report.overall)], [cells], [False])


def tables(report: ReportData) -> list[AttributeTables]:
    """Of each attribute its groups, their counts, and its comparisons."""
    return [
        AttributeTables(
            _groups(report, a), _outcomes(a), _detectable(report, a), _comparisons(a), *_contrasts(report, a)
        )
        for a in report.attributes
    ]


def _count_headings(report: ReportData) -> list[str]:
    counts = ["samples"] if one_each(report) else ["samples", "patients"]
    return [*counts, "effective n"] if report.settings["weighted"] else counts


def _counts(report: ReportData, of: Mapping[str, Any]) -> list[str]:
    counts = ["samples"] if one_each(report) else ["samples", "patients"]
    return [str(of[c]) for c in counts] + ([f"{of['effective']:.1f}"] if report.settings["weighted"] else [])


def _groups(report: ReportData, a: AttributeReport) -> Table:
    title = a.name if not a.unknown else f"{a.name} ({count_of(a.unknown, 'sample')} of unknown group left out)"
    with_positives = any(g.positives is not None for g in a.groups)
    rows = []
    for g in a.groups:
        positives = [str(g.positives)] if with_positives else []
        cells = [format_estimate(e) + (" (!)" if e.few and not g.small else "") for e in g.metrics.values()]
        rows.append([group_title(a, g.label), *_counts(report, vars(g)), *positives, *cells])
    header = ["group", *_count_headings(report), *["positives"] * with_positives, *map(metric_heading, report.overall)]
    return Table(title, header, rows, [g.small for g in a.groups])


def _outcomes(a: AttributeReport) -> Table | None:
    """TP, FP, FN and TN of the groups of a binary task, and what the rates are made of."""
    rows = []
    for g in a.groups:
        if g.confusion is None:
            return None
        tp, fp, fn, tn = g.confusion
        shares = [(tp, tp + fn), (tn, fp + tn), (tp, tp + fp), (tn, fn + tn), (tp + fn, g.samples)]
        cells = map(str, g.confusion)
        rows.append([group_title(a, g.label), *cells, *[f"{part}/{whole}" for part, whole in shares]])
    header = ["group", "TP", "FP", "FN", "TN", "sensitivity", "specificity", "PPV", "NPV", "prevalence"]
    return Table(f"{a.name}: counts", header, rows, [g.small for g in a.groups])


def _detectable(report: ReportData, a: AttributeReport) -> Table | None:
    if len(a.groups) < 2:
        return None
    rows = [[group_title(a, g.label), *[format_value(e.detectable) for e in g.metrics.values()]] for g in a.groups]
    header = ["group", *map(metric_heading, report.overall)]
    return Table(f"{a.name}: smallest differences that could be seen", header, rows, [g.small for g in a.groups])


def _comparisons(a: AttributeReport) -> Table:
    out = {gap.left_out for gap in a.gaps}
    common = out.pop() if len(out) == 1 else ()
    rows = [
        [
            gap.title + ("" if gap.left_out == common else _without(gap.left_out)),
            format_estimate(gap.estimate),
            "" if gap.corrected != gap.corrected else format_value(gap.corrected),
            gap.words,
            extremes(a, gap),
        ]
        for gap in a.gaps
    ]
    header = ["comparison", "value", "bias-corrected", "verdict", "groups"]
    return Table(f"{a.name}: comparisons{_without(common)}", header, rows, [gap.clear for gap in a.gaps])


def _contrasts(report: ReportData, a: AttributeReport) -> tuple[Table | None, Table | None]:
    """Differences from the reference group, and ratios to it."""
    if a.reference is None:
        return None, None
    cells = {(c.group, c.metric): c for c in a.contrasts}
    others = [g for g in a.groups if g.label != a.reference]
    small, header = [g.small for g in others], ["group", *map(metric_heading, report.overall)]
    found = []
    for of, title in (("difference", "differences from"), ("ratio", "ratios to")):
        rows = [
            [group_title(a, g.label), *[format_estimate(getattr(cells[g.label, m], of)) for m in report.overall]]
            for g in others
        ]
        found.append(Table(f"{a.name}: {title} {a.reference}", header, rows, small))
    return found[0], found[1]


def _without(labels: Sequence[Any]) -> str:
    return f" (without {', '.join(map(str, labels))}, too small to judge)" if labels else ""


def extremes(attribute: AttributeReport, gap: Gap) -> str:
    """Which groups lie furthest apart: ``worst F, best M``, or ``lowest F, highest M``; "" where none is named."""
    if gap.worst is None:
        return ""
    low, high = ("worst", "best") if gap.directed else ("lowest", "highest")
    worst, best = (group_title(attribute, g, gap.name) for g in (gap.worst, gap.best))
    return f"{low} {worst}, {high} {best}"


def one_each(report: ReportData) -> bool:
    """Whether each sample is a patient of its own."""
    return bool(report.settings["samples"] == report.settings["patients"])
