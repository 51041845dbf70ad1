"""A report of several labels (findings) and the reports of each: as data, a frame, Markdown and one page."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

from fairloss.core.extras import require
from fairloss.report.markdown import as_markdown
from fairloss.report.plain import as_dict, as_frame
from fairloss.report.results import ReportData

__all__ = ["page_of_all", "to_dict", "to_frame", "to_markdown"]


def to_dict(report: ReportData) -> dict[str, Any]:
    """Plain data; with ``findings``, each one's by its name."""
    findings = {name: as_dict(of) for name, of in report.findings.items()}
    return {**as_dict(report), **({"findings": findings} if findings else {})}


def to_frame(report: ReportData) -> Any:
    """One row per value (pandas); where there are findings a first column names them, None for their mean."""
    if not report.findings:
        return as_frame(report)
    frames: dict[str | None, Any] = {
        None: as_frame(report),
        **{name: as_frame(of) for name, of in report.findings.items()},
    }
    pandas = require("pandas")
    names = [name for name, frame in frames.items() for _ in range(len(frame))]
    # Column by column: to put frames together pandas guesses their types anew, and makes floats of integer labels.
    columns = {
        c: pandas.Series([v for f in frames.values() for v in f[c]], dtype=kind)
        for c, kind in frames[None].dtypes.items()
    }
    found = pandas.DataFrame(columns)
    found.insert(0, "finding", pandas.Series(names, dtype=object))
    return found


def to_markdown(report: ReportData) -> str:
    """Markdown tables, those of each finding under a heading of its own."""
    return "\n".join(map(as_markdown, (report, *report.findings.values())))


def page_of_all(report: ReportData, as_html: Callable[[ReportData], str]) -> str:
    """The report's page, and before its last part (how to read it) the findings' tables and plots."""
    page = as_html(report)
    if not report.findings:
        return page
    found, names = [], []
    for k, (name, of) in enumerate(report.findings.items()):
        body = re.sub(r"\A.*?<body[^>]*>|</body>.*\Z", "", as_html(of), flags=re.DOTALL).partition("<footer")[0]
        found.append(f'<section id="finding-{k}">{body}</section>')
        names.append(f'<li><a href="#finding-{k}">{html.escape(name)}</a></li>')
    contents = f"<nav><h2>Findings</h2><p>Above are means over the findings.</p><ul>{''.join(names)}</ul></nav>"
    start, mark, end = page.rpartition("<footer" if "<footer" in page else "</body>")
    return "".join([start, contents, *found, mark, end])
