"""The report as one self-contained HTML page: tables, plots as inline SVG, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

from fairloss.core.extras import require
from fairloss.report.plots import plot_gaps, plot_groups
from fairloss.report.results import ReportData, count_of
from fairloss.report.tables import Table, overall_table, tables
from fairloss.report.words import findings, legend, provenance, settings_line

__all__ = ["as_html"]

_TEXTS = ("group", "comparison", "verdict", "groups")

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fff; --soft: #566070; --line: #e3e7ec; --head: #f4f6f8;
        --mark: #b4540a; --wash: #fff6ec; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --paper: #15191f; --soft: #a3adba; --line: #323a45; --head: #1f252d; --mark: #f0a35e;
          --wash: #2a2119; }
  figure svg { filter: invert(1) hue-rotate(180deg); }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
       max-width: 80rem; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p.basis, dl.made, figcaption, footer { color: var(--soft); } p.basis { margin: 0 0 .6rem; }
dl.made { font-size: .85rem; margin: 0 0 1rem; display: grid; grid-template-columns: max-content 1fr; gap: 0 .8rem; }
dl.made dd { margin: 0; overflow-wrap: anywhere; } dl.found dt { font-weight: 600; margin-top: .5rem; }
dl.found dd { margin: 0 0 .1rem 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .4rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { background: var(--head); min-width: 3.2rem; } tbody th { font-weight: inherit; white-space: nowrap; }
td.text, th.text { text-align: left; } td.text { min-width: 8rem; } td.number { white-space: nowrap; }
td small { color: var(--soft); display: block; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); text-align: left; }
thead th:first-child { background: var(--head); }
tr.small th, tr.small td { color: var(--soft); } tr.shown th:first-child { border-left: 4px solid var(--mark); }
details.warnings { background: var(--wash); border-left: 4px solid var(--mark); padding: .5rem 1rem; }
summary { cursor: pointer; } details ul { margin: .3rem 0; }
figure { margin: 1rem 0; overflow-x: auto; } svg { max-width: 100%; height: auto; } figcaption, footer { font-size: .85rem; }
footer { margin-top: 3rem; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; padding: 0 .75rem; } tbody th { white-space: normal; min-width: 5rem; max-width: 9rem; }
  svg { max-width: none; width: 42rem; } dl.made { display: block; } dl.made dt { float: left; margin-right: .5rem; }
}
@page { size: A4 landscape; margin: 12mm; }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --head: #eee; --mark: #b4540a; --wash: #fff; }
  body { font-size: 9pt; margin: 0; max-width: none; padding: 0; } .scroll, figure { overflow: visible; }
  figure svg { filter: none; max-height: 105mm; width: auto; max-width: 100%; }
  table { font-size: 7pt; width: 100%; } th, td { padding: .15rem .25rem; white-space: normal; }
  thead th { min-width: 0; } td.text { min-width: 0; } th:first-child, td:first-child { position: static; }
  tr, figure { break-inside: avoid; } h2, h3 { break-after: avoid; } tbody th { white-space: normal; }
  details::details-content { content-visibility: visible; display: block; }
  thead th, tr.shown th { print-color-adjust: exact; }
}
"""


def as_html(report: ReportData) -> str:
    """The page's text."""
    require("matplotlib")
    title = html.escape(str(report.settings["title"]))
    parts = [f"<h1>{title}</h1>", f'<p class="basis">{html.escape(settings_line(report))}</p>']
    parts += [_terms("made", [(name, [text]) for name, text in provenance(report)])]
    parts += ["<h2>What was found</h2>", _terms("found", findings(report)), _warnings(report)]
    parts += ["<h2>Overall</h2>", _table(overall_table(report))]
    for attribute, of in zip(report.attributes, tables(report), strict=True):
        parts += [
            f"<h2>{html.escape(of.groups.title)}</h2>",
            _table(of.groups, "small"),
            _plot(
                plot_groups(report, attribute=attribute.name),
                f"{attribute.name}: values and intervals of the groups, as in the table; dashed: over all samples; open: too "
                "few to judge. A metric has one scale on the whole page.",
            ),
            f"<h3>{html.escape(of.comparisons.title)}</h3>",
            _table(of.comparisons, "shown"),
            _plot(
                plot_gaps(report, attribute=attribute.name),
                f"{attribute.name}: gaps, as in the table: value (mark), interval (band), bias-corrected (bar). Diamond: "
                "shown; square: shown to be smaller than the margin; open circle: not shown, or too few to judge.",
            ),
        ]
        for table in (of.differences, of.ratios, of.outcomes, of.detectable):
            parts += [] if table is None else [f"<h3>{html.escape(table.title)}</h3>", _table(table, "small")]
    parts.append(_footer(report))
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _terms(kind: str, terms: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = []
    for name, texts in terms:
        lines.append(f"<dt>{html.escape(name)}</dt>" + "".join(f"<dd>{html.escape(text)}</dd>" for text in texts))
    return f'<dl class="{kind}">{"".join(lines)}</dl>'


def _warnings(report: ReportData) -> str:
    """Folded, those of an attribute together; the printed page has them all."""
    if not report.warnings:
        return ""
    names = sorted((a.name for a in report.attributes), key=len, reverse=True)
    grouped: dict[str, list[str]] = {}
    for warning in report.warnings:
        of = next((name for name in names if warning.startswith(f"{name}: ")), "")
        grouped.setdefault(of, []).append(warning.removeprefix(f"{of}: ") if of else warning)
    lists = []
    for name, found in grouped.items():
        items = "".join(f"<li>{html.escape(w)}</li>" for w in found)
        lists.append((f"<p>{html.escape(name)}</p>" if name else "") + f"<ul>{items}</ul>")
    count = count_of(len(report.warnings), "warning")
    return f'<details class="warnings"><summary>{count}</summary>{"".join(lists)}</details>'


def _footer(report: ReportData) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in legend(report))
    return f"<footer><h2>How to read this</h2><ul>{items}</ul></footer>"


def _table(table: Table, mark: str = "") -> str:
    """A first column of names heads its rows; one of counts (over all samples) does not."""
    kinds = ["text" if name in _TEXTS else "" for name in table.header]
    head = "".join(
        f'<th scope="col" class="{kind or "number"}">{html.escape(h)}</th>'
        for h, kind in zip(table.header, kinds, strict=True)
    )
    lines = []
    for row, marked in zip(table.rows, table.marked, strict=True):
        first = f'<th scope="row">{html.escape(row[0])}</th>' if kinds[0] else f"<td>{_cell(row[0])}</td>"
        rest = "".join(
            f'<td class="{kind or "number"}">{_cell(c)}</td>' for c, kind in zip(row[1:], kinds[1:], strict=True)
        )
        lines.append(f'<tr class="{mark}">{first}{rest}</tr>' if marked and mark else f"<tr>{first}{rest}</tr>")
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
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    drawn = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{html.escape(caption)}"', 1)
    return f"<figure>{drawn}<figcaption>{html.escape(caption)}</figcaption></figure>"
