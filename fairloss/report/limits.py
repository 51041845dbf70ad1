"""Limits that a report is held against, in continuous integration: the largest gap and the lowest value of a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fairloss.core.checks import expected, number
from fairloss.report.results import Estimate, ReportData, metric_heading
from fairloss.report.tables import extremes, format_estimate

__all__ = ["Breach", "find_breaches"]

_NAMES = {"sensitivity": "tpr", "specificity": "tnr", "ppv": "precision"}
_SAME_GAP = {"fpr": "tnr", "tnr": "fpr", "fdr": "precision", "precision": "fdr", "fnr": "tpr"}  # 1 - the other


@dataclass(frozen=True)
class Breach:
    """A limit that is not kept.

    Attributes:
        attribute: over which; "" for a limit that nothing could be held against.
        metric: of the gap or value.
        group: whose value is too low; None for a gap.
        estimate: the gap, or the group's value.
        limit: that was set.
        shown: whether the whole interval lies beyond the limit.
        where: which groups lie furthest apart.
        finding: of several labels, whose report it is; "" for their mean.
    """

    attribute: str
    metric: str
    group: Any
    estimate: Estimate
    limit: float
    shown: bool
    where: str = ""
    finding: str = ""

    def __str__(self) -> str:
        return f"{self.finding}: {self._words}" if self.finding else self._words

    @property
    def _words(self) -> str:
        if not self.attribute:
            return f"{self.metric}: nothing can be held against {self.limit:g}: all groups are too few to judge or undefined"
        of, side = ("gap", "above") if self.group is None else (f"of {self.group}", "below")
        verdict = "shown" if self.shown else f"not shown, the interval reaches {self.limit:g}"
        where = f"; {self.where}" if self.where else ""
        value = format_estimate(self.estimate)
        return (
            f"{self.attribute}: {metric_heading(self.metric)} {of} {value} is {side} {self.limit:g} ({verdict}{where})"
        )


def find_breaches(report: ReportData, max_gap: Mapping[str, float], minimum: Mapping[str, float]) -> list[Breach]:
    """What of the report is beyond the limits; groups too small to judge are held against none.

    Raises:
        ValueError: a metric that the report has not, a limit that is no finite number.
    """
    found = []
    for name, limit in max_gap.items():
        number(f"max_gap[{name!r}]", limit, minimum=0)
        found += _gaps(report, _metric("max_gap", name, report, gap=True), limit)
    for name, limit in minimum.items():
        number(f"minimum[{name!r}]", limit)
        found += _values(report, _metric("minimum", name, report, gap=False), limit)
    for name, finding in report.findings.items():
        gaps = {k: v for k, v in max_gap.items() if _has(finding, k, gap=True)}
        lows = {k: v for k, v in minimum.items() if _has(finding, k, gap=False)}
        found += [replace(breach, finding=name) for breach in find_breaches(finding, gaps, lows)]
    return found


def _has(report: ReportData, name: str, *, gap: bool) -> bool:
    try:
        return bool(_metric("", name, report, gap=gap))
    except ValueError:
        return False


def _metric(option: str, name: str, report: ReportData, *, gap: bool) -> str:
    names = [*report.overall]
    if gap and any(g.name == "equalized_odds" for a in report.attributes for g in a.gaps):
        names.append("equalized_odds")
    metric = _NAMES.get(name.lower(), name)
    if gap and metric not in names:
        metric = _SAME_GAP.get(metric, metric)
    if metric not in names:
        raise ValueError(expected(option, f"metrics of the report, {', '.join(names)}", repr(name)))
    return metric


def _gaps(report: ReportData, metric: str, limit: float) -> list[Breach]:
    found, judged = [], False
    for a in report.attributes:
        gap = a.gap(metric)
        if gap.judged and gap.estimate.value == gap.estimate.value:
            judged = True
            if gap.estimate.value > limit:
                shown = gap.estimate.low > limit
                found.append(Breach(a.name, metric, None, gap.estimate, limit, shown, extremes(a, gap)))
    return found if judged else [_nothing(metric, limit)]


def _values(report: ReportData, metric: str, limit: float) -> list[Breach]:
    found, judged = [], False
    for a in report.attributes:
        for group in a.groups:
            e = group.metrics[metric]
            if not e.few and e.value == e.value:
                judged = True
                if e.value < limit:
                    found.append(Breach(a.name, metric, group.label, e, limit, e.high < limit))
    return found if judged else [_nothing(metric, limit)]


def _nothing(metric: str, limit: float) -> Breach:
    nan = float("nan")
    return Breach("", metric, None, Estimate(nan, nan, nan), limit, False)
