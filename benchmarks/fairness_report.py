"""Tables and pictures of the fairness benchmark, and the page that holds the tables between markers.

<!-- begin: methods -->
... written by ``python benchmarks/fairness.py --save`` ...
<!-- end: methods -->
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from .fairness_data import Sizes
from .fairness_methods import PLAIN
from .fairness_runs import Log
from .fairness_summary import RANKED, Results, summarise

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "what-helps-when.md"
RESULTS = ROOT / "benchmarks" / "results" / "fairness.json"
IMAGES = ROOT / "docs" / "img"
LABELS = {
    "accuracy": "accuracy",
    "worst_accuracy": "worst group's accuracy",
    "gap_accuracy": "accuracy gap",
    "es_auc": "ES-AUC",
}


def write(log: Log, sizes: Sizes, cache: Path, out: Path, *, save: bool) -> Results:
    """Summarise finished runs; print the tables; write pictures and JSON to ``out``, with ``save`` to the repository."""
    results = summarise(log, sizes, cache, out / "cost.json")
    # As it will be read again: what the tables show follows from the file alone.
    results = json.loads(json.dumps(_rounded(results)))
    parts = tables(results)
    print("\n\n".join(parts.values()))
    images = IMAGES if save else out
    for name, figure in pictures(results).items():
        figure.savefig(images / f"fairness-{name}.png", dpi=110)
    if save:
        from .harness import save as save_json

        save_json("fairness", results, packages=("fairlearn",))
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")
    else:
        (out / "fairness.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def fill(page: str, parts: dict[str, str]) -> str:
    """The page with every table put between its markers."""
    for name, text in parts.items():
        pattern = re.compile(rf"(<!-- begin: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"page: no markers for {name!r}")
        page = pattern.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)
    return page


def tables(results: Results) -> dict[str, str]:
    """Every table in Markdown, by the name of its markers."""
    return {
        "tasks": _tasks(results), "methods": _methods(results), "plain": _plain(results), "by-task": _by_task(results),
        "settings": _settings(results), "tests": _tests(results),
    }  # fmt: skip


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "| :-- " + "| --: " * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _name(results: Results, name: str) -> str:
    return name if results["methods"][name]["ours"] else f"*{name}*"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def by_rank(results: Results, metric: str = "worst_accuracy") -> list[str]:
    """Methods, best mean rank first."""
    mean = results["friedman"][metric]["mean_ranks"]
    return sorted(mean, key=lambda n: mean[n])


def _tasks(results: Results) -> str:
    rows = []
    for task, about in results["tasks"].items():
        plain, gap, equal = results["methods"][PLAIN]["tasks"][task], about["gap"], about["equal_data"]
        groups = ", ".join(f"{n} {v:.3f}" for n, v in zip(about["groups"], plain["groups"], strict=True))
        row = [task, groups, f"{gap['value']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}]"]
        rows.append([*row, *(_number(equal and equal[m]) for m in ("worst_accuracy", "gap_accuracy"))])
    header = [
        "task",
        "plain: accuracy of every group",
        "plain: gap [95 %]",
        "equal data: worst group",
        "equal data: gap",
    ]
    return _markdown(header, rows)


def _methods(results: Results) -> str:
    metrics = ("accuracy", "worst_accuracy", "gap_accuracy", "auc", "worst_auc", "es_auc")
    rows = []
    for name in by_rank(results):
        method = results["methods"][name]
        ranks = [results["friedman"][m]["mean_ranks"].get(name) for m in ("worst_accuracy", "es_auc")]
        cells = [*(_number(method["mean"][m]) for m in metrics), *(_number(r, 1) for r in ranks)]
        rows.append([_name(results, name), *cells, _number(method["time"], 1)])
    header = [
        "method",
        "accuracy",
        "worst group",
        "gap",
        "AUC",
        "worst AUC",
        "ES-AUC",
        "rank, worst group",
        "rank, ES-AUC",
    ]
    return _markdown([*header, "time"], rows)


def _difference(found: dict[str, Any]) -> str:
    text = f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
    return f"**{text}**" if found["holm"] < 0.05 else text


def _plain(results: Results) -> str:
    table = results["against"][PLAIN]
    rows = []
    for name in by_rank(results):
        if name == PLAIN:
            continue
        worst, resampled = table["worst_accuracy"][name], results["against"]["Resampling"]["worst_accuracy"].get(name)
        cells = [_difference(worst), f"{worst['better']}", _difference(table["accuracy"][name])]
        cells += [_difference(table["gap_accuracy"][name])]
        cells += [_difference(table["es_auc"][name]) if name in table["es_auc"] else ""]
        rows.append([_name(results, name), *cells, _difference(resampled) if resampled else ""])
    n = len(results["tasks"])
    header = [
        "method",
        "worst group",
        f"better in, of {n}",
        "accuracy",
        "gap",
        "ES-AUC",
        "worst group, against *Resampling*",
    ]
    return _markdown(header, rows)


def _by_task(results: Results) -> str:
    tasks = list(results["tasks"])
    base = results["methods"][PLAIN]["tasks"]
    rows = []
    for name in by_rank(results):
        if name == PLAIN:
            continue
        cells = []
        for task in tasks:
            found = results["methods"][name]["tasks"][task]["per_seed"]["worst_accuracy"]
            seeds = np.array(found) - np.array(base[task]["per_seed"]["worst_accuracy"])
            text = f"{100 * seeds.mean():+.1f}"
            agree = len(seeds) > 1 and (abs(np.sign(seeds).sum()) == len(seeds))
            cells.append(f"**{text}**" if agree else text)
        rows.append([_name(results, name), *cells])
    return _markdown(["method", *tasks], rows)


def _settings(results: Results) -> str:
    rows = []
    for name, method in results["methods"].items():
        chosen = [t for task in method["tasks"].values() for t in task["chosen"]]
        tried = ", ".join(f"{s} ({chosen.count(s)})" for s in method["settings"])
        runs = method["runs"]
        rows.append([_name(results, name), method["option"], tried, f"{runs['tuning']} + {runs['final']}"])
    return _markdown(["method", "option", "tried (chosen)", "runs a task"], rows)


def _tests(results: Results) -> str:
    rows = []
    for metric in RANKED:
        found = results["friedman"][metric]
        row = [LABELS[metric], str(len(found["names"])), f"{found['statistic']:.1f}", f"{found['p_value']:.2g}"]
        rows.append([*row, f"{found['critical_difference']:.2f}", str(sum(map(len, found["better_than"].values())))])
    return _markdown(["metric", "methods", "Friedman's chi2", "p", "critical difference", "pairs that differ"], rows)


def pictures(results: Results) -> dict[str, Any]:
    """Critical differences, accuracy against worst group, and gains by task."""
    from .fairness_pictures import critical_difference, gains, trade_off

    return {
        "critical-difference": critical_difference(results),
        "trade-off": trade_off(results),
        "gains": gains(results),
    }
