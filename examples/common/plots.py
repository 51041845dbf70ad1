"""The two pictures every comparison needs: each group's figure with intervals, and accuracy against gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .intervals import Estimate

# Okabe and Ito's colours: told apart by colour-blind readers, too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

Results = Mapping[str, Mapping[str, Estimate]]


def figure(width: float = 8.0, height: float = 4.5, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display and with the examples' fonts."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({
        "font.size": 11, "axes.titlesize": 12, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "legend.frameon": False,
    })  # fmt: skip
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained")


def save(fig: Any, path: Path, *, dpi: int = 150) -> Path:
    """Write the figure as PNG (or what the path ends in) and forget it."""
    import matplotlib.pyplot as plt

    fig.savefig(path, dpi=dpi)
    plt.close(fig)
    return path


def draw_groups(
    ax: Any, results: Results, groups: Sequence[str], *, metric: str = "accuracy", chance: float | None = 0.5
) -> None:
    """Bars: one cluster a method, one bar a group, intervals over patients as whiskers."""
    methods = list(results)
    width = 0.8 / len(groups)
    everything = []
    for g, name in enumerate(groups):
        estimates = [results[m][f"{metric}:{g}"] for m in methods]
        value, low, high = (np.array([getattr(e, k) for e in estimates]) for k in ("value", "low", "high"))
        everything += [low, high]
        at = np.arange(len(methods)) + (g - (len(groups) - 1) / 2) * width
        whiskers = np.abs(np.stack([value - low, high - value]))
        ax.bar(at, value, width * 0.92, color=COLOURS[g % len(COLOURS)], label=name)
        ax.errorbar(at, value, yerr=whiskers, fmt="none", ecolor="#222222", elinewidth=1.2, capsize=2.5)
    lowest, highest = np.nanmin(everything), np.nanmax(everything)
    floor = chance if chance is not None and lowest > chance + 0.02 else 0.0
    ax.set_ylim(floor, highest + 0.05 * (highest - floor))
    ax.set_xticks(range(len(methods)), methods)
    ax.set_ylabel(metric_label(metric) + (f" (axis from {floor:g}, chance)" if floor else ""))
    ax.grid(axis="x", visible=False)
    # Above the axes: never on a bar.
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(len(groups), 4), borderaxespad=0.2)


def draw_trade_off(ax: Any, results: Results, *, metric: str = "accuracy", gap: str | None = None) -> None:
    """Scatter: overall ``metric`` (up is better) against the gap between groups (left is better), with intervals."""
    gap = gap or f"gap_{metric}"
    for i, (method, estimates) in enumerate(results.items()):
        x, y = estimates[gap], estimates[metric]
        ax.errorbar(
            x.value, y.value,
            xerr=np.abs([[x.value - x.low], [x.high - x.value]]), yerr=np.abs([[y.value - y.low], [y.high - y.value]]),
            fmt=MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], markersize=8,
            elinewidth=1.1, capsize=2.5, alpha=0.9, label=method,
        )  # fmt: skip
    ax.set_xlabel(f"{metric_label(gap)} (left is fairer)")
    ax.set_ylabel(f"overall {metric_label(metric)}")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def plot_comparison(
    path: Path, results: Results, groups: Sequence[str], *, metric: str = "accuracy", title: str = "",
    chance: float | None = 0.5,
) -> Path:  # fmt: skip
    """Both pictures side by side in one PNG."""
    fig, (left, right) = figure(max(11.0, 1.3 * len(results) + 6.5), 4.6, columns=2)
    draw_groups(left, results, groups, metric=metric, chance=chance)
    draw_trade_off(right, results, metric=metric)
    if len(results) > 4:
        left.set_xticks(range(len(results)), list(results), rotation=20, ha="right", rotation_mode="anchor")
    if title:
        fig.suptitle(title, x=0.01, ha="left")
    return save(fig, path)


def plot_groups(path: Path, results: Results, groups: Sequence[str], **options: Any) -> Path:
    """The bars alone, as PNG; options as :func:`draw_groups`."""
    fig, ax = figure(max(7.0, 1.2 * len(results) + 2), 4.4)
    draw_groups(ax, results, groups, **options)
    return save(fig, path)


def plot_trade_off(path: Path, results: Results, **options: Any) -> Path:
    """The scatter alone, as PNG; options as :func:`draw_trade_off`."""
    fig, ax = figure(7.0, 4.4)
    draw_trade_off(ax, results, **options)
    return save(fig, path)


def metric_label(metric: str) -> str:
    """How a key is called in a picture: ``gap_accuracy`` is the "accuracy gap"."""
    if metric.startswith("gap_"):
        return f"{metric_label(metric[4:])} gap"
    if metric.startswith("worst_"):
        return f"worst group's {metric_label(metric[6:])}"
    return {"auc": "AUC", "dice": "Dice", "iou": "IoU"}.get(metric, metric)
