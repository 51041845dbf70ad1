"""The tables of `benchmarks.people`: guarded cuts, intervals over sets, tests over seeds."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.fairness_report import bounds, interval

GUARD = 0.01
FIRST = 10  # the first of the seeds that are shown; on those before it everything was chosen
RECOMMENDED = "cross-fitted thresholds"
AGAIN = "plain, trained again"
LOSS = {"positive_rate_gap": "DemographicParity", "tpr_gap": "EqualOpportunity"}
SHOWN = {  # in the picture, from above, as a reader calls them
    "cross-fitted thresholds": "cross-fitted thresholds, group told",
    "cross-fitted thresholds, estimated groups": "cross-fitted thresholds, group estimated",
    "DemographicParity": "fairloss while training, no group",
    "OxonFair, accuracy": "OxonFair",
    "ThresholdOptimizer, accuracy": "fairlearn ThresholdOptimizer",
    "fairret": "fairret",
    "ExponentiatedGradient": "fairlearn ExponentiatedGradient",
    "plain, all data": "more data alone",
}
NAMES = {"positive_rate_gap": "positive rate", "tpr_gap": "TPR", "accuracy_gap": "accuracy"}
FIGURES = ("accuracy", "balanced_accuracy", "auc")


def by_seed(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """(set, arm, target) -> its rows in the order of the seeds."""
    found = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["seed"]):
        found[row["set"], row["arm"], row["target"]].append(row)
    for (name, arm, _), plain in list(found.items()):
        if arm == "plain":  # the mean of all trainings of a split, where there are several
            again = [rows for key, rows in found.items() if key[0] == name and key[1].startswith(AGAIN)]
            keys = (
                [key for key, value in plain[0].items() if isinstance(value, float) and key in again[0][0]]
                if again
                else []
            )
            of = [{row["seed"]: row for row in rows} for rows in again]
            found[name, arm, ""] = [
                row | {k: float(np.mean([row[k], *(o[row["seed"]][k] for o in of if row["seed"] in o)])) for k in keys}
                for row in plain
            ]
    return {key: rows for key, rows in found.items() if not key[1].startswith(AGAIN)}


def compared(rows: dict[Any, list[dict[str, Any]]], target: str) -> list[str]:
    """The sets on which plain training has a gap: two points or more above that of permuted groups."""
    sets = sorted({key[0] for key in rows})

    def excess(name: str) -> float:
        return float(np.mean([row[target] - row[f"floor_{target}"] for row in rows[name, "plain", ""]]))

    return [name for name in sets if excess(name) >= 0.02]


def corrected_p(values: np.ndarray, test_to_train: float = 0.2 / 0.6) -> float:
    """One-sided p of mean > 0 over resampled splits (Nadeau and Bengio, Machine Learning 52, 2003); 0: the paired t-test."""
    n = len(values)
    if n < 2 or values.std(ddof=1) == 0:
        return float(values.mean() <= 0)
    t = values.mean() / np.sqrt((1 / n + test_to_train) * values.var(ddof=1))
    return float(stats.t.sf(t, n - 1))


def compare(plain: list[dict[str, Any]], own: list[dict[str, Any]], target: str) -> dict[str, Any]:
    """One arm on one set: cut, changes, whether the guard holds, whether it is shown to be broken, p of halving."""
    before, after = (np.array([row[target] for row in part]) for part in (plain, own))
    differences = {k: np.array([o[k] - p[k] for o, p in zip(own, plain, strict=True)]) for k in FIGURES}
    changes = {k: float(values.mean()) for k, values in differences.items()}
    holds = min(changes[k] for k in FIGURES[:2]) >= -GUARD
    broken = min(corrected_p(-differences[k] - GUARD) for k in FIGURES[:2]) < 0.05
    halved = [corrected_p(before / 2 - after, ratio) if holds else 1.0 for ratio in (0.0, 0.2 / 0.6)]
    cut = float(1 - after.mean() / before.mean()) if holds else 0.0
    return {"cut": cut, "holds": holds, "broken": broken and not holds, "paired": halved[0], "p": halved[1], **changes}


def summary(rows: list[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    """A line per arm, best first."""
    seeds = by_seed(rows)
    sets, every = compared(seeds, target), sorted({key[0] for key in seeds})
    arms = sorted({arm for (_, arm, t) in seeds if t in ("", target)} - {"plain"})
    lines = []
    for arm in arms:
        found = {}
        for name in every:
            own = seeds.get((name, arm, target)) or seeds[name, arm, ""]
            plain = {row["seed"]: row for row in seeds[name, "plain", ""]}
            found[name] = compare([plain[row["seed"]] for row in own], own, target) | {"seeds": len(own)}
        of = [found[name] for name in sets]
        cuts = [one["cut"] for one in of]
        mean, low, high = bounds(cuts)
        lines.append(
            {
                "arm": arm,
                "cut": mean,
                "low": low,
                "high": high,
                "all": np.mean([one["cut"] for one in found.values()]),
                "guard": f"{sum(one['holds'] for one in of)} of {len(sets)} ({sum(one['broken'] for one in of)})",
                "halved": sum(one["paired"] < 0.05 for one in of),
                "halved, corrected": sum(one["p"] < 0.05 for one in of),
                "p": {name: found[name]["p"] for name in sets},
                "seeds": min(one["seeds"] for one in of),
                "cuts": dict(zip(sets, cuts, strict=True)),
                **{k: 100 * float(np.mean([one[k] for one in of])) for k in FIGURES},
            }
        )
    for name in sets:  # Holm's correction over the arms, set by set
        for line, p in zip(lines, holm([line["p"][name] for line in lines]), strict=True):
            line["corrected"] = line.get("corrected", 0) + (p < 0.05)
    ours = next((line["cuts"] for line in lines if line["arm"] == RECOMMENDED), None)
    for line in lines:
        line["less"] = "" if ours is None else interval([ours[name] - line["cuts"][name] for name in sets])
    return sorted(lines, key=lambda line: -line["cut"])


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction (Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return list(corrected)


def shown(rows: list[dict[str, Any]], *, hidden: bool = False) -> list[dict[str, Any]]:
    """The rows of the seeds on which nothing was chosen, the group among the network's inputs or not."""
    return [row for row in rows if row["seed"] >= FIRST and row.get("hidden", False) == hidden]


def tables(rows: list[dict[str, Any]]) -> str:
    """All targets, then those of networks that were not shown the group, as Markdown."""
    parts = []
    for hidden in (False, True):
        for target, title in NAMES.items():
            lines = summary(shown(rows, hidden=hidden), target)
            what = f"{title[0].upper() + title[1:]} gap{', group hidden from the network' if hidden else ''}"
            parts.append(f"\n**{what}**\n")
            names = "guarded cut [95 %] | all sets | guard holds (broken) | halved (corrected; Holm)"
            parts.append(f"| arm | {names} | recommended less this | accuracy | balanced | AUC | seeds |")
            parts.append("| :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: |")
            for line in lines:
                cut = f"{line['cut']:.2f} [{line['low']:.2f}, {line['high']:.2f}]"
                changes = [f"{line[k]:+.2f}" for k in FIGURES]
                less = "" if line["arm"] == RECOMMENDED else line["less"]
                halved = f"{line['halved']} ({line['halved, corrected']}; {line['corrected']})"
                cells = [line["arm"], cut, f"{line['all']:.2f}", line["guard"], halved, less, *changes, line["seeds"]]
                parts.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(parts)


def picture(rows: list[dict[str, Any]]) -> Any:
    """Guarded cuts with their intervals, an axis per target (matplotlib)."""
    from matplotlib.figure import Figure

    rows = shown(rows)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    found = {arm for _, arm, _ in by_seed(rows)}
    order = [arm for arm in SHOWN if arm in found][::-1]
    for axis, (target, title) in zip(axes, NAMES.items(), strict=False):
        lines = {line["arm"]: line for line in summary(rows, target)}
        for y, arm in enumerate(order):
            line = lines[LOSS[target] if arm in LOSS.values() else arm]
            ours = "cross-fitted" in arm
            axis.plot([line["low"], line["high"]], [y, y], color="C0" if ours else "0.6", linewidth=2)
            axis.plot(line["cut"], y, "o" if ours else "s", color="C0" if ours else "0.4")
        axis.axvline(0, color="0.8", zorder=0)
        axis.set_title({"positive rate": "Who is called positive", "TPR": "Who is found (sensitivity)"}[title])
        axis.set_xlabel("share of the gap taken away, guard kept")
        axis.set_xlim(-0.2, 1)
    axes[0].set_yticks(range(len(order)), [SHOWN[arm] for arm in order])
    return figure
