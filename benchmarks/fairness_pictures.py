"""The benchmark's three pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from common import plots
from fairloss.metrics import friedman_nemenyi
from fairloss.report import plot_critical_difference

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
    """Differences from plain training in the worst group's and in overall accuracy, means over tasks with intervals."""
    found = results["against"][PLAIN]
    mean = results["friedman"]["worst_accuracy"]["mean_ranks"]
    names = sorted(found["worst_accuracy"], key=lambda n: -mean[n])
    fig, ax = plots.figure(9.0, 0.32 * len(names) + 1.2)
    rows = np.arange(len(names))
    shown = (("worst_accuracy", "worst group", "o", "black", 0.12), ("accuracy", "overall", "D", "#999999", -0.16))
    for metric, label, marker, colour, offset in shown:
        values, low, high = (
            100 * np.array([found[metric][n][key] for n in names]) for key in ("difference", "low", "high")
        )
        ax.errorbar(
            values, rows + offset, xerr=[values - low, high - values], fmt=marker, color=colour, markersize=5, lw=1.2,
            label=label,
        )  # fmt: skip
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(rows, names)
    for text, name in zip(ax.get_yticklabels(), names, strict=True):
        text.set_color(OURS if results["methods"][name]["ours"] else THEIRS)
    ax.tick_params(labelsize=9)
    ax.grid(axis="y", alpha=0.3)
    ax.set_xlabel(
        f"points of accuracy above plain training's: means over {len(results['tasks'])} tasks, 95 % intervals"
    )
    ax.legend(loc="lower right", reverse=True)
    return fig


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
