"""The report as one self-contained HTML page: tables, plots as inline SVG, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import io
import re
import warnings
from typing import Any

from fairloss.core.extras import require
from fairloss.report.plots import plot_gaps, plot_groups
from fairloss.report.results import ReportData
from fairloss.report.tables import Table, legend, settings_line, tables

__all__ = ["as_html"]

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff; margin: 2rem auto; max-width: 76rem;
       padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p.basis { color: #566070; margin: 0 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e3e7ec; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { background: #f4f6f8; }
td small { color: #6b7480; display: block; }
th, td { vertical-align: top; }
tr.small td { color: #8a8f98; } tr.clear td:first-child { border-left: 4px solid #c8640f; }
ul.warnings { background: #fff6ec; border-left: 4px solid #c8640f; padding: .6rem 1rem .6rem 2rem; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; } figcaption { color: #566070; font-size: .85rem; }
footer { margin-top: 3rem; color: #566070; font-size: .85rem; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; } th:first-child { background: #f4f6f8; }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  body { font-size: 9pt; margin: 0; max-width: none; padding: 0; } .scroll { overflow: visible; }
  table { font-size: 7pt; width: 100%; } th, td { padding: .15rem .25rem; white-space: normal; }
  th:first-child, td:first-child { position: static; } tr, figure { break-inside: avoid; }
  h2, h3 { break-after: avoid; } th, ul.warnings, tr.clear td { print-color-adjust: exact; }
}
"""


def as_html(report: ReportData) -> str:
    """The page's text."""
    require("matplotlib")
    title = html.escape(str(report.settings["title"]))
    parts = [f"<h1>{title}</h1>", f'<p class="basis">{html.escape(settings_line(report))}</p>']
    if report.warnings:
        items = "".join(f"<li>{html.escape(w)}</li>" for w in report.warnings)
        parts.append(f'<ul class="warnings">{items}</ul>')
    every = tables(report)
    parts += ["<h2>Overall</h2>", _table(every[0])]
    for position, attribute in enumerate(report.attributes):
        groups, gaps = every[1 + 2 * position : 3 + 2 * position]
        parts += [
            f"<h2>{html.escape(groups.title)}</h2>",
            _table(groups, "small"),
            _plot(
                plot_groups(report, attribute=attribute.name),
                "Values and intervals of the groups; dashed: over all samples; open: too few to judge.",
            ),
            "<h3>Comparisons</h3>",
            _table(gaps, "clear"),
            _plot(
                plot_gaps(report, attribute=attribute.name),
                "Clear (a marked row, an orange band): the interval excludes equality.",
            ),
        ]
    parts.append(_footer(report))
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _footer(report: ReportData) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in legend(report))
    return f"<footer><h2>How to read this</h2><ul>{items}</ul></footer>"


def _table(table: Table, mark: str = "") -> str:
    head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in table.header)
    lines = []
    for row, marked in zip(table.rows, table.marked, strict=True):
        cells = "".join(f"<td>{_cell(c)}</td>" for c in row)
        lines.append(f'<tr class="{mark}">{cells}</tr>' if marked else f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _cell(text: str) -> str:
    # The interval in smaller type: the value should be read first. Nothing leaves here unescaped, labels least of all.
    match = re.fullmatch(r"(-?[0-9.]+) (\[[-0-9., ]+\](?: \(!\))?)", text)
    return f"{html.escape(match[1])} <small>{html.escape(match[2])}</small>" if match else html.escape(text)


def _plot(figure: Any, caption: str) -> str:
    text = io.StringIO()
    # Text stays text: the browser has glyphs that matplotlib's font lacks, of which matplotlib warns. Fixed ids: the page
    # is the same twice.
    settings = {"svg.hashsalt": "fairloss", "svg.fonttype": "none"}
    with require("matplotlib").rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+|Matplotlib currently does not support", UserWarning)
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{html.escape(caption)}</figcaption></figure>"
