"""Plots of a report and of comparisons (matplotlib, the ``report`` extra); each returns a figure and shows nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fairloss.core.checks import expected
from fairloss.core.extras import require
from fairloss.metrics.significance import FriedmanNemenyi
from fairloss.report.compare import pareto_front
from fairloss.report.results import ReportData, metric_heading

__all__ = ["plot_critical_difference", "plot_gaps", "plot_groups", "plot_pareto"]

_BLUE, _GRAY, _ORANGE = "#1f5fa8", "#8a8f98", "#c8640f"
_MARKS = {"shown": ("D", _ORANGE), "smaller": ("s", _BLUE)}
_OTHERS = ("demographic_parity_ratio", "equity_scaled_auc")  # no gaps


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    # The object-oriented interface leaves pyplot's global state and the user's backend alone.
    figure_module = require("matplotlib.figure")
    figure = figure_module.Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _literal(text: object) -> str:
    # Between two dollars matplotlib reads mathematics; labels such as "$30k-$60k" mean dollars.
    return str(text).replace("$", r"\$")


def plot_groups(report: ReportData, *, attribute: str | None = None, metrics: Sequence[str] | None = None) -> Any:
    """Each group's value and interval, one panel per metric; the dashed line is the value over all samples.

    Args:
        report: the report.
        attribute: name of the attribute; the first by default.
        metrics: some of the report's metrics; all by default.

    Returns:
        A ``matplotlib.figure.Figure``. Open markers are groups too small to judge.

    Raises:
        KeyError: an unknown attribute.
    """
    found = report.attributes[0] if attribute is None else report[attribute]
    names = list(metrics) if metrics is not None else list(report.overall)
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    count = len(found.groups)
    longest = max(len(str(g.label)) for g in found.groups)
    figure, axes = _figure(2.6 * columns + 0.075 * longest, rows * (0.95 + 0.3 * count), columns, rows)
    for axis, name in zip(axes.ravel(), names, strict=False):
        axis.axvline(report.overall[name].value, color=_GRAY, linestyle="--", linewidth=1)
        for row, group in enumerate(found.groups):
            e = group.metrics[name]
            if e.value != e.value:
                axis.text(0.5, row, "undefined", color=_GRAY, ha="center", va="center", transform=_rows(axis))
                continue
            color = _GRAY if e.few else _BLUE
            axis.plot([e.low, e.high], [row, row], color=color, linewidth=2, alpha=0.6, solid_capstyle="butt")
            axis.plot(e.value, row, "o", color=color, markersize=6, markerfacecolor="white" if e.few else color)
        axis.set_xlim(_scale(report, name))
        axis.set_title(_literal(metric_heading(name)), fontsize=10)
        axis.set_ylim(count - 0.4, -0.6)
        first = axis in axes[:, 0]
        axis.set_yticks(range(count), [_literal(g.label) for g in found.groups] if first else [""] * count)
        axis.grid(axis="x", alpha=0.25)
        axis.tick_params(labelsize=8)
        axis.locator_params(axis="x", nbins=5)
    for axis in axes.ravel()[len(names) :]:
        axis.set_visible(False)
    return figure


def _scale(report: ReportData, metric: str) -> tuple[float, float]:
    """Of a metric, the same over all attributes: what is longer is so on every picture."""
    found = [group.metrics[metric] for a in report.attributes for group in a.groups] + [report.overall[metric]]
    ends = [v for e in found for v in (e.value, e.low, e.high) if v == v] or [0.0, 1.0]
    low, high = min(ends), max(ends)
    edge = 0.05 * (high - low) or 0.05
    return low - edge, high + edge


def _rows(axis: Any) -> Any:
    return require("matplotlib.transforms").blended_transform_factory(axis.transAxes, axis.transData)


def plot_gaps(report: ReportData, *, attribute: str | None = None) -> Any:
    """Every gap with its interval (filled) and its bias-corrected value (bar); ratios and scaled values are left out.

    Args:
        report: the report.
        attribute: name of the attribute; the first by default.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        KeyError: an unknown attribute.
    """
    found = report.attributes[0] if attribute is None else report[attribute]
    gaps = [g for g in found.gaps if g.name not in _OTHERS]
    figure, axes = _figure(7.2, 1.0 + 0.32 * len(gaps))
    axis = axes[0, 0]
    for row, gap in enumerate(gaps):
        e = gap.estimate
        if e.value != e.value:
            axis.text(0.02, row, "undefined", color=_GRAY, va="center", transform=_rows(axis))
            continue
        marker, color = _MARKS.get(gap.verdict or "", ("o", _GRAY))
        axis.plot([e.low, e.high], [row, row], color=color, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axis.plot(e.value, row, marker, color=color, markersize=7, markerfacecolor="white" if marker == "o" else color)
        axis.plot([gap.corrected] * 2, [row - 0.28, row + 0.28], color="black", linewidth=1.5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(gaps)), [_literal(g.title) for g in gaps])
    axis.set_ylim(len(gaps) - 0.4, -0.6)
    if report.settings["task"] == "values":
        axis.set_xlim(left=-0.01 * (axis.get_xlim()[1] or 1.0))
    else:  # one scale for all attributes
        ends = [g.estimate.high for a in report.attributes for g in a.gaps if g.name not in _OTHERS]
        axis.set_xlim(-0.01, max([0.1, *(1.05 * high for high in ends if high == high)]))
    text = "mark: gap, band: interval, bar: bias-corrected\ndiamond: shown, square: small, open: not shown"
    axis.set_xlabel(text, fontsize=8)
    axis.grid(axis="x", alpha=0.25)
    axis.tick_params(labelsize=8)
    return figure


def plot_critical_difference(result: FriedmanNemenyi, *, title: str = "") -> Any:
    """Critical-difference diagram: methods on the axis of mean ranks, bars join those that do not differ.

    Args:
        result: of :func:`fairloss.metrics.friedman_nemenyi`.
        title: above the diagram.

    Returns:
        A ``matplotlib.figure.Figure``. Without a significant Friedman test one bar joins all methods.
    """
    k = len(result.names)
    order = np.argsort(result.mean_ranks, kind="stable")
    left, right = order[: -(-k // 2)], order[-(-k // 2) :]
    cliques = result.cliques() if result.significant else [tuple(result.names[i] for i in order)]
    lines = max(len(left), len(right))
    depth = 0.6 + 0.34 * len(cliques)
    figure, axes = _figure(7.0, 1.2 + 0.3 * lines + 0.28 * len(cliques))
    axis = axes[0, 0]
    axis.set_axis_off()
    margin = 0.3 * k
    axis.set_xlim(1 - margin, k + margin)
    axis.set_ylim(depth + 0.55 * lines + 0.1, -1.5)
    axis.plot([1, k], [0, 0], color="black", linewidth=1)
    for rank in range(1, k + 1):
        axis.plot([rank, rank], [-0.12, 0], color="black", linewidth=1)
        if k <= 15 or rank % 2:  # the numbers of many methods would touch
            axis.text(rank, -0.2, str(rank), ha="center", va="bottom", fontsize=9)
    axis.plot([1, 1 + result.critical_difference], [-0.95, -0.95], color="black", linewidth=2)
    axis.text(1 + result.critical_difference / 2, -1.02, f"CD = {result.critical_difference:.2f}", ha="center",
              va="bottom", fontsize=9)  # fmt: skip
    for side, members in ((1 - 0.05 * k, left), (k + 0.05 * k, right[::-1])):
        for line, i in enumerate(members):
            mean = float(result.mean_ranks[i])
            y = depth + 0.55 * line
            axis.plot([mean, mean, side], [0, y, y], color=_GRAY, linewidth=0.8)
            axis.text(side, y, f" {_literal(result.names[i])} ({mean:.2f}) ", ha="right" if side < 1 else "left", va="center",
                      fontsize=9)  # fmt: skip
    for position, clique in enumerate(cliques):
        ranks = [float(result.mean_ranks[result.names.index(n)]) for n in clique]
        bar = 0.3 + 0.3 * position
        axis.plot([min(ranks) - 0.04, max(ranks) + 0.04], [bar, bar], color=_BLUE, linewidth=4, solid_capstyle="round")
    verdict = "" if result.significant else " (not significant)"
    axis.set_title(f"{_literal(title)}   Friedman p = {result.p_value:.2g}{verdict}".strip(), fontsize=9, loc="left")
    return figure


def plot_pareto(
    performance: Sequence[float],
    disparity: Sequence[float],
    names: Sequence[str],
    *,
    performance_label: str = "accuracy",
    disparity_label: str = "gap",
) -> Any:
    """Models by performance and gap; the line joins those that no other model dominates.

    Args:
        performance: (k,) larger is better.
        disparity: (k,) smaller is better.
        names: (k,) of the models.
        performance_label: of the vertical axis.
        disparity_label: of the horizontal axis.

    Returns:
        A ``matplotlib.figure.Figure``; the best corner is the upper left one.

    Raises:
        ValueError: different lengths.
    """
    if len(names) != len(performance):
        raise ValueError(expected("names", f"{len(performance)} names, one per model", len(names)))
    front = pareto_front(performance, disparity)
    p, d = np.asarray(performance, dtype=np.float64), np.asarray(disparity, dtype=np.float64)
    figure, axes = _figure(5.2, 3.8)
    axis = axes[0, 0]
    order = np.flatnonzero(front)[np.argsort(d[front], kind="stable")]
    axis.step(d[order], p[order], where="post", color=_BLUE, linewidth=1, alpha=0.7)
    axis.plot(d[front], p[front], "o", color=_BLUE, label="not dominated")
    if (~front).any():
        axis.plot(d[~front], p[~front], "o", color=_GRAY, markerfacecolor="white", label="dominated")
    for name, x, y in zip(names, d, p, strict=True):
        axis.annotate(_literal(name), (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axis.margins(0.2)
    axis.set_xlabel(f"{_literal(disparity_label)} (smaller is fairer)", fontsize=9)
    axis.set_ylabel(f"{_literal(performance_label)} (larger is better)", fontsize=9)
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=8)
    return figure
