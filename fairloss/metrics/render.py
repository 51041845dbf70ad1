"""The report as plain data, as a data frame, as Markdown and as lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fairloss.metrics._results import label

if TYPE_CHECKING:
    from fairloss.metrics._results import Estimate
    from fairloss.metrics.report import FairnessReport

__all__ = ["as_dict", "as_frame", "as_markdown", "number", "settings_line", "show", "tables"]

Table = tuple[str, list[str], list[list[str]]]


def number(value: float) -> str:
    """Three decimals, or "n/a"."""
    return "n/a" if value != value else f"{value:.3f}"


def show(estimate: Estimate) -> str:
    """``0.812 [0.790, 0.834]``, or "n/a"."""
    if estimate.value != estimate.value:
        return "n/a"
    if estimate.low != estimate.low:
        return number(estimate.value)
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if value != value or value in (float("inf"), float("-inf")) else value
    return value if isinstance(value, (str, int, bool)) or value is None else str(value)


def _interval(estimate: Estimate) -> dict[str, Any]:
    return {"value": _plain(estimate.value), "low": _plain(estimate.low), "high": _plain(estimate.high)}


def as_dict(report: FairnessReport) -> dict[str, Any]:
    """Plain data for JSON."""
    return {
        "settings": {k: _plain(v) for k, v in report.settings.items()},
        "overall": {m: _interval(e) for m, e in report.overall.items()},
        "attributes": {
            a.name: {
                "unknown": a.unknown,
                "groups": [
                    {
                        "label": _plain(g.label),
                        "samples": g.samples,
                        "patients": g.patients,
                        "positives": g.positives,
                        "small": g.small,
                        "metrics": {m: _interval(e) for m, e in g.metrics.items()},
                    }
                    for g in a.groups
                ],
                "gaps": {
                    gap.name: {
                        "title": gap.title,
                        **_interval(gap.estimate),
                        "corrected": _plain(gap.corrected),
                        "best": _plain(gap.best),
                        "worst": _plain(gap.worst),
                    }
                    for gap in a.gaps
                },
            }
            for a in report.attributes
        },
        "warnings": list(report.warnings),
    }


def as_frame(report: FairnessReport) -> Any:
    """One row a value (pandas)."""
    from fairloss.metrics._extras import require

    pandas = require("pandas")
    columns = ["attribute", "kind", "group", "metric", "value", "low", "high", "corrected", "samples", "patients"]
    rows: list[tuple[Any, ...]] = []
    nan = float("nan")
    n, people = report.settings.get("samples"), report.settings.get("patients")
    for m, e in report.overall.items():
        rows.append((None, "overall", None, m, e.value, e.low, e.high, nan, n, people))
    for a in report.attributes:
        for g in a.groups:
            for m, e in g.metrics.items():
                rows.append((a.name, "group", g.label, m, e.value, e.low, e.high, nan, g.samples, g.patients))
        for gap in a.gaps:
            e = gap.estimate
            rows.append((a.name, "gap", None, gap.name, e.value, e.low, e.high, gap.corrected, None, None))
    return pandas.DataFrame(rows, columns=columns)


def tables(report: FairnessReport) -> list[Table]:
    """(title, header, rows) of every table, as text."""
    metrics = list(report.overall)
    found: list[Table] = [("Overall", ["samples", *map(label, metrics)], [])]
    found[0][2].append([str(report.settings.get("samples", "")), *[show(report.overall[m]) for m in metrics]])
    for a in report.attributes:
        rows = []
        for g in a.groups:
            name = f"{g.label} (!)" if g.small else str(g.label)
            positives = "" if g.positives is None else str(g.positives)
            rows.append([name, str(g.samples), positives, *[show(g.metrics[m]) for m in metrics]])
        title = a.name if not a.unknown else f"{a.name} ({a.unknown} of unknown group left out)"
        found.append((title, ["group", "samples", "positives", *map(label, metrics)], rows))
        gap_rows = [
            [
                gap.title,
                show(gap.estimate),
                "" if gap.corrected != gap.corrected else number(gap.corrected),
                "" if gap.worst is None else str(gap.worst),
                "" if gap.best is None else str(gap.best),
            ]
            for gap in a.gaps
        ]
        found.append(
            (
                f"{a.name}: comparisons",
                ["comparison", "value", "bias-corrected", "worst / lowest", "best / highest"],
                gap_rows,
            )
        )
    return found


def settings_line(report: FairnessReport) -> str:
    """What the numbers rest on, in one line."""
    s = report.settings
    level = f"{100 * s['level']:g}"
    rule = f"decision: {s['decision']}, threshold {s['threshold']:g}; " if "decision" in s else ""
    return (
        f"{s['samples']} samples of {s['patients']} patients; {rule}{level}% intervals from {s['replicates']} bootstrap "
        "replicates over patients, stratified by group."
    )


def as_markdown(report: FairnessReport) -> str:
    """Markdown tables."""
    lines = [f"# {report.settings['title']}", "", settings_line(report), ""]
    for title, header, rows in tables(report):
        lines += [f"## {title}", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        lines.append("")
    if report.warnings:
        lines += ["## Warnings", "", *[f"- {w}" for w in report.warnings], ""]
    return "\n".join(lines)
