"""From runs to results: figures a method and task, differences from plain training, Friedman and Nemenyi over tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.metrics import friedman_nemenyi, paired_t_test

from .fairness_data import RENDERED, Sizes, fundus, group_names, test_set
from .fairness_methods import EQUAL_DATA, METHODS, PLAIN, RESAMPLING, SAME_RATE, YARDSTICKS, setting_text
from .fairness_runs import Log, Record

METRICS = ("accuracy", "worst_accuracy", "gap_accuracy", "auc", "worst_auc", "es_auc")
LOWER_IS_BETTER = ("gap_accuracy",)
RANKED = ("accuracy", "worst_accuracy", "gap_accuracy", "es_auc")
CRITERION = (
    "worst group's accuracy on validation data, mean of the tuning seeds; then overall accuracy; then the weaker"
)
ALPHA = 0.05

Results = dict[str, Any]


def figures(test: dict[str, Any]) -> dict[str, float | None]:
    """The metrics of one seed."""
    groups, areas = test["groups"], test.get("auc_groups")
    return {
        "accuracy": test["overall"],
        "worst_accuracy": min(groups),
        "gap_accuracy": max(groups) - min(groups),
        "auc": test.get("auc"),
        "worst_auc": None if areas is None else min(areas),
        "es_auc": test.get("es_auc"),
    }


def of_task(log: Log, task: str, method: str, sizes: Sizes) -> dict[str, Any]:
    """Seed by seed and their mean, with the chosen settings."""
    records: list[Record] = [log.found["final", task, method, None, seed] for seed in sizes.seeds]
    by_seed = [figures(r["test"]) for r in records]
    per_seed = {m: [f[m] for f in by_seed] for m in METRICS}
    mean = {m: None if v[0] is None else float(np.mean(np.asarray(v, dtype=float))) for m, v in per_seed.items()}
    groups = np.mean([r["test"]["groups"] for r in records], axis=0).tolist()
    texts = [] if method in YARDSTICKS else [setting_text(METHODS[method].settings[i]) for i in records[0]["setting"]]
    return {"chosen": texts, **mean, "groups": groups, "per_seed": per_seed}


def plain_gap(log: Log, task: str, sizes: Sizes, cache: Path, *, resamples: int) -> dict[str, float]:
    """Gap of plain training with its interval over patients, mean over seeds."""
    y, g, patient, _ = test_set(task, sizes, cache)
    found = []
    for seed in sizes.seeds:
        score = np.asarray(log.found["final", task, PLAIN, None, seed]["scores"])
        found.append((score >= 0.5).astype(int))
    from common import intervals

    shares = fundus.TASKS[task].shares if task in RENDERED else None
    bootstrap = intervals.PatientBootstrap(patient, g, len(group_names(task)), shares=shares, resamples=resamples)
    gap = bootstrap.of_values(np.stack(found) == y)["gap_accuracy"]
    return {"value": gap.value, "low": gap.low, "high": gap.high}


def table(methods: dict[str, Any], metric: str, names: list[str], tasks: list[str]) -> NDArray[np.float64]:
    """(tasks, methods), seeds averaged; means that differ by their summation's rounding alone are equal, so that they tie."""
    return np.array([[methods[n]["tasks"][t][metric] for n in names] for t in tasks], dtype=np.float64).round(9)


def holm(p: dict[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values."""
    adjusted, running = {}, 0.0
    for i, name in enumerate(sorted(p, key=lambda n: p[n])):
        running = max(running, min(1.0, (len(p) - i) * p[name]))
        adjusted[name] = running
    return adjusted


def against(methods: dict[str, Any], baseline: str, tasks: list[str], metric: str) -> dict[str, dict[str, Any]]:
    """Paired differences of every method from ``baseline`` over tasks: mean, interval, Holm's p, tasks better and worse."""
    names = [n for n in methods if n != baseline and methods[n]["tasks"][tasks[0]][metric] is not None]
    base = table(methods, metric, [baseline], tasks)[:, 0]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        values = table(methods, metric, [name], tasks)[:, 0]
        test = paired_t_test(values, base)
        difference = sign * (values - base)
        found[name] = {
            "difference": test.difference, "low": test.interval[0], "high": test.interval[1], "p": test.p_value,
            "better": int((difference > 0).sum()), "worse": int((difference < 0).sum()),
        }  # fmt: skip
    for name, p in holm({n: f["p"] for n, f in found.items()}).items():
        found[name]["holm"] = p
    return found


def ranks(methods: dict[str, Any], tasks: list[str], metric: str) -> dict[str, Any]:
    """Friedman and Nemenyi over the methods that have the metric."""
    names = [n for n in methods if methods[n]["tasks"][tasks[0]][metric] is not None]
    result = friedman_nemenyi(
        table(methods, metric, names, tasks), higher_is_better=metric not in LOWER_IS_BETTER, alpha=ALPHA, names=names
    )
    return {
        "names": names,
        "mean_ranks": dict(zip(names, result.mean_ranks.tolist(), strict=True)),
        "statistic": result.statistic,
        "p_value": result.p_value,
        "f_p_value": result.f_p_value,
        "critical_difference": result.critical_difference,
        "better_than": {n: better for n in names if (better := result.better_than(n))},
    }


def summarise(log: Log, sizes: Sizes, cache: Path, cost: Path, *, resamples: int = 1000) -> Results:
    """Everything that tables and pictures are made of."""
    tasks = list(sizes.tasks)
    methods: dict[str, Any] = {}
    seconds = json.loads(cost.read_text())["seconds"] if cost.exists() else {}
    step = {n: 1000 * t / sizes.steps for n, t in seconds.items()}  # milliseconds
    for name, arm in METHODS.items():
        by_task = {task: of_task(log, task, name, sizes) for task in tasks}
        mean = {
            m: None if by_task[tasks[0]][m] is None else float(np.mean([by_task[t][m] for t in tasks])) for m in METRICS
        }
        methods[name] = {
            "ours": arm.ours, "option": arm.option, "settings": [setting_text(s) for s in arm.settings],
            "runs": {"tuning": len(arm.settings) * len(sizes.tune_seeds), "final": len(sizes.seeds)},
            "time": step[name] / step[PLAIN] if step else None, "step_ms": step.get(name), "mean": mean, "tasks": by_task,
        }  # fmt: skip
    about = {}
    for task in tasks:
        about[task] = {
            "groups": list(group_names(task)),
            "gap": plain_gap(log, task, sizes, cache, resamples=resamples),
            "equal_data": of_task(log, task, EQUAL_DATA, sizes) if task in RENDERED else None,
            "same_rate": of_task(log, task, SAME_RATE, sizes),
        }
    with_yardstick = {**methods, SAME_RATE: {"tasks": {task: about[task]["same_rate"] for task in tasks}}}
    fixed = {k: v for k, v in vars(sizes).items() if k != "tasks"}
    return {
        "sizes": fixed,
        "criterion": CRITERION,
        "runs": sum(key[1] in tasks for key in log.found),
        "tasks": about,
        "methods": methods,
        "against": {
            PLAIN: {metric: against(methods, PLAIN, tasks, metric) for metric in RANKED},
            RESAMPLING: {metric: against(methods, RESAMPLING, tasks, metric) for metric in RANKED},
            SAME_RATE: {metric: against(with_yardstick, SAME_RATE, tasks, metric) for metric in RANKED},
        },
        "friedman": {metric: ranks(methods, tasks, metric) for metric in RANKED},
    }
