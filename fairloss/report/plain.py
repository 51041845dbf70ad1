"""The report as plain data and as a data frame."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from fairloss.core.extras import require
from fairloss.report.results import GroupEstimate, ReportData

__all__ = ["as_dict", "as_frame", "plain_data"]


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
        beside = {"reference": a.reference, "contrasts": [asdict(c) for c in a.contrasts]}
        attributes[a.name] = {**beside, "unknown": a.unknown, "groups": [asdict(g) for g in a.groups], "gaps": gaps}
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
        for c in a.contrasts:
            for kind, of in (("difference", c.difference), ("ratio", c.ratio)):
                rows.append(
                    (a.name, kind, c.group, c.metric, of.value, of.low, of.high, nan, None, None, None, nan, None, None)
                )
        for gap in a.gaps:
            found = gap.estimate
            ends = (found.value, found.low, found.high, gap.corrected)
            rows.append((a.name, "gap", None, gap.name, *ends, None, None, None, nan, gap.verdict, gap.words))
        parts = []
    frame = pandas.DataFrame(rows, columns=columns)
    frame["group"] = pandas.Series([row[2] for row in rows], dtype=object)  # else None makes floats of integer labels
    return frame
