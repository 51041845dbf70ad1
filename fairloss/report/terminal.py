"""The report and the comparison for a terminal: tables of rich where it is installed, else Markdown."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from fairloss.report.markdown import as_markdown
from fairloss.report.results import Estimate, GapDifference, ModelComparison, ReportData, metric_title
from fairloss.report.tables import format_estimate, format_value, overall_table, tables
from fairloss.report.words import findings, legend, provenance, settings_line

__all__ = ["print_comparison", "print_report"]


def _console() -> Any:
    if importlib.util.find_spec("rich") is None:
        return None
    from rich.console import Console

    return Console(highlight=False)


def print_report(report: ReportData) -> None:
    """Print the report to the standard output, and those of its findings; what they mean once, at the end."""
    console, every = _console(), (report, *report.findings.values())
    if console is None:
        print(*map(as_markdown, every), sep="\n")
        return
    for each in every:
        _print_tables(console, each)
    made = [f"{name}: {text}" for name, text in provenance(report)]
    console.print(*legend(report), *made, sep="\n", style="dim", markup=False)


def _print_tables(console: Any, report: ReportData) -> None:
    console.print(report.settings["title"], style="bold", markup=False)
    console.print(settings_line(report), style="dim", markup=False)
    for name, found in findings(report):
        console.print(f"{name}:", style="bold", markup=False)
        console.print(*found, sep="\n", markup=False)
    everything = overall_table(report)
    for of in tables(report):
        groups, gaps = of.groups, of.comparisons
        # Metrics down and groups across, as many groups a table as the terminal holds.
        overall = dict(zip(everything.header, everything.rows[0], strict=True))
        columns = [["all", *[overall.get(h, "") for h in groups.header[1:]]], *groups.rows]
        widths = [max(len(column[0]), 15) + 3 for column in columns]
        for part in _parts(widths, console.width - 18):
            table = _table(groups.title)
            table.add_column("", no_wrap=True)
            for i in part:
                table.add_column(_text(columns[i][0]), justify="right", no_wrap=True)
            for r, name in enumerate(groups.header[1:], start=1):
                table.add_row(name, *[_text(columns[i][r].replace(" [", "\n[")) for i in part])
            console.print(table)
        table = _table(gaps.title)
        for name in gaps.header:
            numeric = name in ("value", "bias-corrected")
            table.add_column(name, justify="right" if numeric else "left", no_wrap=name == "value")
        for row, clear in zip(gaps.rows, gaps.marked, strict=True):
            table.add_row(*map(_text, row), style="bold" if clear else None)
        console.print(table)
    for warning in report.warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False)


def print_comparison(found: Mapping[str, Sequence[ModelComparison]], metrics: Sequence[str], front: Any) -> None:
    """Print each attribute's comparison of models; ``front`` maps an attribute to which models are not dominated."""
    header = ["model", "metric", "overall", "gap", "corrected", "difference to first", "p"]
    console = _console()
    for attribute, models in found.items():
        rows = []
        for model, best in zip(models, front[attribute], strict=True):
            for i, m in enumerate(metrics):
                rows.append(
                    [
                        (model.name + (" *" if best else "")) if i == 0 else "",
                        metric_title(m),
                        format_value(model.overall[m]),
                        format_estimate(Estimate(*model.gaps[m])),
                        format_value(model.corrected[m]),
                        *_against(model.against_first.get(m)),
                    ]
                )
        if console is None:
            print(f"## {attribute}\n\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
            print("\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n")
            continue
        table = _table(attribute)
        for name in header:
            table.add_column(name, justify="left" if name in ("model", "metric") else "right")
        for row in rows:
            table.add_row(*map(_text, row))
        console.print(table)
    best = "no other model is at least as good in both and better in one"
    print(f"* on the front of {metric_title(metrics[0])} against its gap: {best}.")


def _against(test: GapDifference | None) -> tuple[str, str]:
    """The difference to the first model, and its p-value."""
    if test is None:
        return "", ""
    if test.difference != test.difference:
        return "n/a", "n/a"
    return f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}]", f"{test.p_value:.3g}"


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for i, width in enumerate(widths):
        if parts[-1] and sum(widths[j] for j in parts[-1]) + width > room:
            parts.append([])
        parts[-1].append(i)
    return parts


def _table(title: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=_text(title, "bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def _text(content: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(content, style=style)  # taken literally: "[0.1, 0.2]" is no markup
