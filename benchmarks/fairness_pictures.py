"""The benchmark's three pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from common import plots
from fairloss.metrics import friedman_nemenyi, plot_critical_difference

from .fairness_methods import PLAIN
from .fairness_summary import ALPHA, table

OURS, THEIRS = plots.COLOURS[0], plots.COLOURS[4]


def critical_difference(results: dict[str, Any]) -> Any:
    """Mean ranks by the worst group's accuracy, tasks as blocks."""
    names, tasks = list(results["methods"]), list(results["tasks"])
    scores = table(results["methods"], "worst_accuracy", names, tasks)
    ranked = friedman_nemenyi(scores, alpha=ALPHA, names=names)
    return plot_critical_difference(ranked, title=f"Worst group's accuracy, {len(tasks)} tasks")


def trade_off(results: dict[str, Any]) -> Any:
    """Difference from plain training in overall accuracy against that of the worst group, means over tasks."""
    fig, ax = plots.figure(9.0, 6.0)
    found = results["against"][PLAIN]
    points = {PLAIN: (0.0, 0.0)}
    for name, worst in found["worst_accuracy"].items():
        overall = found["accuracy"][name]
        points[name] = (worst["difference"], overall["difference"])
    for name, (x, y) in points.items():
        ours = results["methods"][name]["ours"]
        ax.plot(x, y, "o" if ours else "s", color=OURS if ours else THEIRS, markersize=7, zorder=3)
    _label(ax, points)
    ax.axhline(0, color="black", lw=0.8)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_xlabel("worst group's accuracy less plain training's (means over tasks)")
    ax.set_ylabel("overall accuracy less plain training's")
    ax.plot([], [], "o", color=OURS, label="of this library")
    ax.plot([], [], "s", color=THEIRS, label="without it")
    ax.legend(loc="center left")
    return fig


def _label(ax: Any, points: dict[str, tuple[float, float]]) -> None:
    """Names in a column beside the axes, in the order of the points' heights, each with a thin line to its point."""
    order = sorted(points, key=lambda n: points[n][1])
    for name, y in zip(order, np.linspace(0.0, 1.0, len(order)), strict=True):
        ax.annotate(
            name, points[name], xytext=(1.06, y), textcoords="axes fraction", fontsize=8.5, va="center",
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "#888888", "shrinkB": 4, "relpos": (0, 0.5)},
        )  # fmt: skip


def gains(results: dict[str, Any]) -> Any:
    """Every method's difference from plain training in the worst group's accuracy, task by task."""
    tasks = list(results["tasks"])
    mean = results["friedman"]["worst_accuracy"]["mean_ranks"]
    names = sorted((n for n in mean if n != PLAIN), key=lambda n: mean[n])
    base = table(results["methods"], "worst_accuracy", [PLAIN], tasks)
    values = 100 * (table(results["methods"], "worst_accuracy", names, tasks) - base).T
    fig, ax = plots.figure(9.5, 0.32 * len(names) + 1.8)
    limit = float(np.percentile(np.abs(values), 95))
    shown = ax.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            colour = "white" if abs(value) > 0.65 * limit else "black"
            ax.text(j, i, f"{value:+.1f}", ha="center", va="center", fontsize=8, color=colour)
    ax.set_xticks(range(len(tasks)), tasks, rotation=25, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), names)
    for text, name in zip(ax.get_yticklabels(), names, strict=True):
        text.set_color(OURS if results["methods"][name]["ours"] else THEIRS)
    ax.grid(visible=False)
    ax.tick_params(length=0, labelsize=9)
    fig.colorbar(shown, ax=ax, label="points of worst group's accuracy above plain", shrink=0.8)
    return fig
