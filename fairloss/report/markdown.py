"""The report as Markdown: whole, or as the section of a model card."""

from __future__ import annotations

from fairloss.report.results import ReportData, count_of, metric_heading
from fairloss.report.tables import format_estimate, group_title, overall_table, tables
from fairloss.report.words import NOT_SHOWN, findings, legend, provenance, settings_line

__all__ = ["as_markdown", "as_model_card"]

_CARD = ("auc", "tpr", "tnr", "precision", "npv", "ece")  # what papers report of a model that decides


def as_markdown(report: ReportData) -> str:
    """Markdown tables."""
    lines = [f"# {_line(report.settings['title'])}", "", settings_line(report), ""]
    lines += [f"- {name}: {_line(text)}" for name, text in provenance(report)]
    lines += ["", "## What was found", ""]
    for name, found in findings(report):
        lines += [f"- {_line(name)}: {_line(' '.join(found))}"]
    lines.append("")
    for title, header, rows, _ in [overall_table(report), *(t for a in tables(report) for t in a.all())]:
        head = " | ".join(map(_markdown_cell, header))
        lines += [f"## {_line(title)}", "", f"| {head} |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rows]
        lines.append("")
    if report.warnings:
        lines += ["## Warnings", "", *[f"- {_line(w)}" for w in report.warnings], ""]
    lines += ["## How to read this", "", *[f"- {line}" for line in legend(report)], ""]
    return "\n".join(lines)


def as_model_card(report: ReportData) -> str:
    """The section of a model card: who was measured, values and intervals of the groups, what differs, what is not known."""
    kept = [m for m in (*_CARD, *report.settings.get("functions", ())) if m in report.overall] or list(report.overall)
    positives = "positives" in tables(report)[0].groups.header
    header = ["group", "patients", *["positives"] * positives, *map(metric_heading, kept)]
    lines = ["## Performance in subgroups", "", f"{settings_line(report)} (TRIPOD+AI, item 23a.)", ""]
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    s, overall = report.settings, [format_estimate(report.overall[m]) for m in kept]
    of_all = [str(sum(g.positives or 0 for g in report.attributes[0].groups))] if positives else []
    if positives and report.attributes[0].unknown:
        of_all = [""]
    lines.append("| " + " | ".join(["all", str(s["patients"]), *of_all, *overall]) + " |")
    single = [a for a in report.attributes if " & " not in a.name] or report.attributes
    for a in single:
        for g in a.groups:
            cells = [f"{a.name}: {group_title(a, g.label)}", str(g.patients), *[str(g.positives)] * positives]
            cells += [format_estimate(g.metrics[m]) + " (!)" * (g.metrics[m].few and not g.small) for m in kept]
            lines.append("| " + " | ".join(map(_markdown_cell, cells)) + " |")
    lines += ["", "### Differences between groups", ""]
    lines += [f"- {_line(name)}: {_line(' '.join(found))}" for name, found in findings(report)]
    lines += ["", "### What these data cannot tell", ""]
    unknown = [f"{a.name}: {count_of(a.unknown, 'sample')} of unknown group left out" for a in single if a.unknown]
    lines += [f"- {_line(text)}" for text in [*unknown, *report.warnings]]
    least = f"fewer than {s['min_group_size']} patients, or ten of what a metric counts"
    lines += [f"- (!): {least}, too few to judge.", f"- {NOT_SHOWN}", ""]
    lines += [f"- {name}: {_line(text)}" for name, text in provenance(report)]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())  # a label with a line break would end its heading or row


def _markdown_cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
