"""Tables and pictures of the fairness benchmark, and the page that holds the tables between markers.

<!-- begin: methods -->
... written by ``python benchmarks/fairness.py --save`` ...
<!-- end: methods -->
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from .fairness_data import Sizes
from .fairness_methods import PLAIN, RESAMPLING, SAME_RATE
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
    return float(f"{value:.9g}") if isinstance(value, float) else value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Of a results file with one object a line; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def bounds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % t interval, NaN for fewer than two values."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    width = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - width, mean + width


def interval(values: Sequence[float]) -> str:
    """These, in words."""
    mean, low, high = bounds(values)
    return f"{mean:+.2f}" if len(values) < 2 else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


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
        "tasks": _tasks(results), "methods": _methods(results), "plain": _plain(results), "others": _others(results),
        "by-task": _by_task(results), "settings": _settings(results), "tests": _tests(results),
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
        more = None if method["step_ms"] is None else method["step_ms"] - results["methods"][PLAIN]["step_ms"]
        rows.append([_name(results, name), *cells, _number(method["time"], 1), "" if more is None else f"{more:+.1f}"])
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
    return _markdown([*header, "time", "ms a step"], rows)


def _difference(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    text = f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
    return f"**{text}**" if found["holm"] < 0.05 else text


def _plain(results: Results) -> str:
    table = results["against"][PLAIN]
    rows = []
    for name in by_rank(results):
        if name != PLAIN:
            better = f"{table['worst_accuracy'][name]['better']}"
            cells = [_difference(table[m].get(name)) for m in RANKED]
            rows.append([_name(results, name), cells[1], better, cells[0], *cells[2:]])
    header = ["method", "worst group", f"better in, of {len(results['tasks'])}", "accuracy", "gap", "ES-AUC"]
    return _markdown(header, rows)


def _others(results: Results) -> str:
    tables = [results["against"][base]["worst_accuracy"] for base in (SAME_RATE, RESAMPLING)]
    rows = [[_name(results, name), *(_difference(t.get(name)) for t in tables)] for name in by_rank(results)]
    return _markdown(["method", "worst group, against plain at the same rate", "against *Resampling*"], rows)


def _by_task(results: Results) -> str:
    tasks = results["tasks"]
    base = {task: results["methods"][PLAIN]["tasks"][task]["per_seed"]["worst_accuracy"] for task in tasks}
    named = {_name(results, name): results["methods"][name]["tasks"] for name in by_rank(results) if name != PLAIN}
    named[f"{SAME_RATE} (no method)"] = {task: about["same_rate"] for task, about in tasks.items()}
    named["Equal data (no method)"] = {task: about["equal_data"] for task, about in tasks.items()}
    rows = []
    for name, by_task in named.items():
        cells = []
        for task, found in by_task.items():
            if found is None:
                cells.append("")
                continue
            seeds = np.array(found["per_seed"]["worst_accuracy"]) - np.array(base[task])
            text = f"{100 * seeds.mean():+.1f}"
            cells.append(f"**{text}**" if abs(np.sign(seeds).sum()) == len(seeds) else text)
        rows.append([name, *cells])
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
