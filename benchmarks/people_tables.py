"""The tables of `benchmarks.people`: guarded cuts, intervals over sets, tests over seeds."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from scipy import stats

GUARD = 0.01
NAMES = {"positive_rate_gap": "positive rate", "tpr_gap": "TPR"}
FIGURES = ("accuracy", "balanced_accuracy", "auc")


def by_seed(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """(set, arm, target) -> its rows in the order of the seeds."""
    found = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["seed"]):
        found[row["set"], row["arm"], row["target"]].append(row)
    return dict(found)


def compared(rows: dict[Any, list[dict[str, Any]]], target: str) -> list[str]:
    """The sets on which plain training has a gap: two points or more above that of permuted groups."""
    sets = sorted({key[0] for key in rows})

    def excess(name: str) -> float:
        return float(np.mean([row[target] - row[f"floor_{target}"] for row in rows[name, "plain", ""]]))

    return [name for name in sets if excess(name) >= 0.02]


def corrected_p(values: np.ndarray, test_to_train: float = 0.2 / 0.6) -> float:
    """One-sided p of mean > 0 over resampled splits (Nadeau and Bengio, Machine Learning 52, 2003)."""
    n = len(values)
    if n < 2 or values.std(ddof=1) == 0:
        return float(values.mean() <= 0)
    t = values.mean() / np.sqrt((1 / n + test_to_train) * values.var(ddof=1))
    return float(stats.t.sf(t, n - 1))


def summary(rows: list[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    """A line per arm, best first."""
    seeds = by_seed(rows)
    sets = compared(seeds, target)
    arms = sorted({arm for (_, arm, t) in seeds if t in ("", target)} - {"plain"})
    lines = []
    for arm in arms:
        cuts, changes, halved, kept = [], [], [], 0
        for name in sets:
            plain = seeds[name, "plain", ""]
            own = seeds.get((name, arm, target)) or seeds[name, arm, ""]
            plain = plain[: len(own)]
            change = [np.mean([o[k] - p[k] for o, p in zip(own, plain, strict=True)]) for k in FIGURES]
            holds = min(change[:2]) >= -GUARD
            kept += holds
            before, after = (np.array([row[target] for row in part]) for part in (plain, own))
            cuts.append(1 - after.mean() / before.mean() if holds else 0.0)
            halved.append(corrected_p(before / 2 - after) if holds else 1.0)
            changes.append(change)
        mean, error = np.mean(cuts), stats.sem(cuts) if len(cuts) > 1 else float("nan")
        width = stats.t.ppf(0.975, len(cuts) - 1) * error if len(cuts) > 1 else float("nan")
        lines.append(
            {
                "arm": arm,
                "cut": mean,
                "low": mean - width,
                "high": mean + width,
                "guard": f"{kept} of {len(sets)}",
                "halved": sum(p < 0.05 for p in halved),
                "cuts": dict(zip(sets, cuts, strict=True)),
                **{k: 100 * v for k, v in zip(FIGURES, np.mean(changes, axis=0), strict=True)},
            }
        )
    return sorted(lines, key=lambda line: -line["cut"])


def tables(rows: list[dict[str, Any]]) -> str:
    """Both targets, as Markdown."""
    parts = []
    for target, title in NAMES.items():
        lines = summary(rows, target)
        parts.append(f"\n**{title[0].upper() + title[1:]} gap**\n")
        parts.append("| arm | guarded cut [95 %] | guard holds | halved | accuracy | balanced accuracy | AUC |")
        parts.append("| :-- | --: | --: | --: | --: | --: | --: |")
        for line in lines:
            cut = f"{line['cut']:.2f} [{line['low']:.2f}, {line['high']:.2f}]"
            cells = [line["arm"], cut, line["guard"], line["halved"], *(f"{line[k]:+.2f}" for k in FIGURES)]
            parts.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(parts)


def picture(rows: list[dict[str, Any]]) -> Any:
    """Guarded cuts with their intervals, an axis per target (matplotlib)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    order = [line["arm"] for line in summary(rows, "positive_rate_gap")][::-1]
    for axis, (target, title) in zip(axes, NAMES.items(), strict=True):
        lines = {line["arm"]: line for line in summary(rows, target)}
        for y, arm in enumerate(order):
            line = lines[arm]
            ours = "cross-fitted" in arm or "penalty" in arm
            axis.plot([line["low"], line["high"]], [y, y], color="C0" if ours else "0.6", linewidth=2)
            axis.plot(line["cut"], y, "o" if ours else "s", color="C0" if ours else "0.4")
        axis.axvline(0, color="0.8", zorder=0)
        axis.set_title(f"{title} gap")
        axis.set_xlabel("share of the gap taken away, guard kept")
        axis.set_xlim(-0.2, 1)
    axes[0].set_yticks(range(len(order)), order)
    return figure
