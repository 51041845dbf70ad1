"""The report as plain data, as a data frame, as Markdown and as lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from fairloss.core.extras import require
from fairloss.report.results import AttributeReport, Estimate, GroupEstimate, ReportData, count_of, metric_title

__all__ = [
    "as_dict",
    "as_frame",
    "as_markdown",
    "format_estimate",
    "format_value",
    "group_title",
    "legend",
    "plain_data",
    "settings_line",
    "tables",
]


class Table(NamedTuple):
    """A table as text; ``marked`` are the rows of small groups, or of clear comparisons."""

    title: str
    header: list[str]
    rows: list[list[str]]
    marked: list[bool]


_MEANINGS = {
    "accuracy": "share of right decisions",
    "auc": "chance that a positive has a higher score than a negative, 0.5 by guessing",
    "tpr": "sensitivity, the share of the positives that are called positive",
    "tnr": "specificity, the share of the negatives that are called negative",
    "fpr": "1 - specificity, the share of the negatives that are called positive",
    "fnr": "1 - sensitivity, the share of the positives that are called negative",
    "precision": "positive predictive value, the share of the positive decisions that are right",
    "fdr": "1 - positive predictive value, the share of the positive decisions that are wrong",
    "f1": "harmonic mean of TPR and positive predictive value",
    "balanced_accuracy": "mean of sensitivity and specificity",
    "positive_rate": "share that is called positive, rightly or wrongly",
    "prevalence": "share of the positives",
    "ece": "expected calibration error, how far predicted probabilities lie from what is seen, on average",
}


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


def plain_data(value: Any) -> Any:
    """``value`` as what JSON can hold: None stands for NaN and infinity, text for what JSON does not know."""
    if isinstance(value, dict):
        return {k: plain_data(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool)) or value is None else str(value)


def as_dict(report: ReportData) -> dict[str, Any]:
    """Plain data for JSON."""
    attributes = {}
    for a in report.attributes:
        gaps = {}
        for found in a.gaps:
            gap = asdict(found)
            name, title, estimate = gap.pop("name"), gap.pop("title"), gap.pop("estimate")
            gaps[name] = {"title": title, **estimate, **gap, "verdict": found.verdict, "words": found.words}
        attributes[a.name] = {"unknown": a.unknown, "groups": [asdict(g) for g in a.groups], "gaps": gaps}
    overall = {m: asdict(e) for m, e in report.overall.items()}
    parts = {"settings": report.settings, "overall": overall, "attributes": attributes, "warnings": report.warnings}
    return {name: plain_data(value) for name, value in parts.items()}


def as_frame(report: ReportData) -> Any:
    """One row per value (pandas)."""
    pandas = require("pandas")
    columns = ["attribute", "kind", "group", "metric", "value", "low", "high", "corrected", "samples", "patients"]
    columns += ["effective", "detectable", "verdict", "words"]
    rows: list[tuple[Any, ...]] = []
    nan = float("nan")
    parts: list[tuple[Any, str, Any, dict[str, GroupEstimate]]] = [(None, "overall", None, report.overall)]
    for a in report.attributes:
        parts += [(a.name, "group", g.label, g.metrics) for g in a.groups]
        for *where, metrics in parts:
            for m, e in metrics.items():
                rows.append(
                    (
                        *where,
                        m,
                        e.value,
                        e.low,
                        e.high,
                        nan,
                        e.samples,
                        e.patients,
                        e.effective,
                        e.detectable,
                        None,
                        None,
                    )
                )
        for gap in a.gaps:
            found = gap.estimate
            ends = (found.value, found.low, found.high, gap.corrected)
            rows.append((a.name, "gap", None, gap.name, *ends, None, None, None, nan, gap.verdict, gap.words))
        parts = []
    frame = pandas.DataFrame(rows, columns=columns)
    frame["group"] = pandas.Series([row[2] for row in rows], dtype=object)  # else None makes floats of integer labels
    return frame


def group_title(attribute: AttributeReport, name: Any, metric: str = "") -> str:
    """The label of a group as it is shown, marked where there is too little to judge it (by ``metric``); "" for None."""
    if name is None:
        return ""
    found = next(g for g in attribute.groups if g.label == name)
    few = found.metrics[metric].few if metric in found.metrics else found.small
    return f"{name} (!)" if few else str(name)


def tables(report: ReportData) -> list[Table]:
    """All over the samples; then of each attribute its groups, and its comparisons."""
    s, metrics = report.settings, list(report.overall)
    counts = ["samples"] if _one_each(report) else ["samples", "patients"]
    titles = [*counts, "effective n"] if s["weighted"] else counts

    def row(of: Any, estimates: Mapping[str, GroupEstimate], small: bool) -> list[str]:
        worth = [f"{of['effective']:.1f}"] if s["weighted"] else []
        cells = (format_estimate(e) + (" (!)" if e.few and not small else "") for e in estimates.values())
        return [*[str(of[c]) for c in counts], *worth, *cells]

    # All samples are never too few: what is small are groups.
    found = [Table("Overall", [*titles, *map(metric_title, metrics)], [row(s, report.overall, True)], [False])]
    for a in report.attributes:
        rows = [[group_title(a, g.label), *row(vars(g), g.metrics, g.small)] for g in a.groups]
        header = ["group", *titles, *map(metric_title, metrics)]
        if any(g.positives is not None for g in a.groups):
            header.insert(1 + len(titles), "positives")
            for cells, g in zip(rows, a.groups, strict=True):
                cells.insert(1 + len(titles), str(g.positives))
        title = a.name if not a.unknown else f"{a.name} ({count_of(a.unknown, 'sample')} of unknown group left out)"
        found.append(Table(title, header, rows, [g.small for g in a.groups]))
        rows = [
            [
                gap.title,
                format_estimate(gap.estimate),
                "" if gap.corrected != gap.corrected else format_value(gap.corrected),
                gap.words,
                group_title(a, gap.worst, gap.name),
                group_title(a, gap.best, gap.name),
            ]
            for gap in a.gaps
        ]
        header = ["comparison", "value", "bias-corrected", "verdict", "lowest or worst", "highest or best"]
        found.append(Table(f"{a.name}: comparisons", header, rows, [gap.clear for gap in a.gaps]))
    return found


def settings_line(report: ReportData) -> str:
    """What the numbers rest on, in one line."""
    s = report.settings
    if _one_each(report):
        size, drawn = f"{s['samples']} samples, each taken as one patient", "samples"
    else:
        size, drawn = f"{s['samples']} samples of {s['patients']} patients", "patients"
    if s["weighted"]:
        size += f", weighted: worth {s['effective']:.1f} of equal weight"
    rule = ""
    if s["task"] == "multiclass":
        rule = "The class with the largest score is the decision. "
    elif "decision" in s:
        side = "above" if s["decision"] == "score > threshold" else "of at least"
        rule = f"A score {side} {s['threshold']:g} is a positive decision. "
    return (
        f"{size}. {rule}In brackets: {100 * s['level']:g}% intervals from {s['replicates']} bootstrap replicates over "
        f"{drawn}, stratified by group."
    )


def legend(report: ReportData) -> list[str]:
    """What the metrics and comparisons of the report mean, a sentence each."""
    values = report.settings["task"] == "values"
    names = {gap.name for a in report.attributes for gap in a.gaps}
    lines = [] if values else [f"{metric_title(m)}: {_MEANINGS[m]}." for m in report.overall if m in _MEANINGS]
    lines.append(
        "A gap or difference is the largest minus the smallest group value; 0 means that the groups are alike. Those of "
        "small groups are too large on average: the bias-corrected value allows for that."
    )
    if report.settings["task"] in ("multiclass", "multilabel") and report.settings["convention"] == "standard":
        lines.append(
            "Rates and areas are means over classes. A gap of them is the mean of each class's gap, over the groups that have "
            "the class; equalized odds likewise."
        )
    if report.settings["weighted"]:
        lines.append(
            "Samples are weighted. The effective n is the number of samples of equal weight that would tell as much, and "
            "decides what is too few to judge."
        )
    if "ece" in names:
        lines.append(
            "A calibration error (ECE) is too large on average, too, the more the smaller the group; the lower ends of its "
            "intervals allow for that."
        )
    if "equalized_odds" in names:
        lines.append("The equalized odds difference is the larger of the differences in TPR and in FPR.")
    if "demographic_parity_ratio" in names:
        lines.append("The demographic parity ratio is the smallest over the largest positive rate; 1 means alike.")
    if "equity_scaled_auc" in names:
        lines.append(
            "The equity-scaled AUC is the AUC over one plus the mean absolute difference of the groups' AUCs from it."
        )
    least = f"fewer than {report.settings['min_group_size']} {'samples' if _one_each(report) else 'patients'}"
    few = least if values else f"{least}, or fewer than ten positives or negatives"
    lines.append(f"(!): {few}, too few to judge. Such groups take no part in comparisons where two others are left.")
    lines.append(
        "Shown: the interval excludes equality. Shown to be smaller: at the same level, no two groups are as far apart."
    )
    lines.append(
        "Not shown: these data cannot tell. It does not mean that the groups are alike: where one group's accuracy is 0.90 "
        "and another's 0.80, this is not shown in more than half of samples of 30 patients beside 1,000. Only a gap shown to "
        "be smaller than the margin is known to be small."
    )
    lines.append(
        "The patients that are needed, and the smallest differences that could be seen, are those of a test that finds such a "
        "gap with a probability of 0.8."
    )
    lines.append("Each comparison is judged by itself; among many, some are shown by chance.")
    s = report.settings
    source = f" from {s['source']}" if "source" in s else ""
    lines.append(f"Made{source} on {s['date']} by fairloss {s['version']}, seed {s['seed']}.")
    if s.get("read_as"):
        lines.append(f"The file was read as: {', '.join(s['read_as'])}.")
    return lines


def as_markdown(report: ReportData) -> str:
    """Markdown tables."""
    lines = [f"# {_line(report.settings['title'])}", "", settings_line(report), ""]
    for title, header, rows, _ in tables(report):
        head = " | ".join(map(_markdown_cell, header))
        lines += [f"## {_line(title)}", "", f"| {head} |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rows]
        lines.append("")
    if report.warnings:
        lines += ["## Warnings", "", *[f"- {_line(w)}" for w in report.warnings], ""]
    lines += ["## How to read this", "", *[f"- {line}" for line in legend(report)], ""]
    return "\n".join(lines)


def _one_each(report: ReportData) -> bool:
    return bool(report.settings["samples"] == report.settings["patients"])


def _line(text: str) -> str:
    return " ".join(text.split())  # a label with a line break would end its heading or row


def _markdown_cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
