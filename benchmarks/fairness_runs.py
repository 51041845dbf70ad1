"""Runs of the fairness benchmark: tuning, the choice of a setting, the final runs; one line of JSON a finished run.

Per task and method: every setting on the tuning seeds, judged on validation data; the chosen setting on the final seeds,
whose models alone ever see the test data, once. The criterion is the same for all: the worst group's accuracy on validation
data, averaged over the tuning seeds; then the overall accuracy; then the weaker setting. In the diabetes study every fold
chooses for itself, from its own patients.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fairloss.metrics import group_metric

from .fairness_data import RENDERED, Part, Sizes, folds, test_set
from .fairness_methods import EQUAL_DATA, METHODS, PLAIN, SAME_RATE, YARDSTICKS, Fitted, plain

Record = dict[str, Any]
SCORES_KEPT = (PLAIN, *YARDSTICKS)  # whose test scores are stored, for intervals over patients


def digest(sizes: Sizes) -> int:
    """Of everything a run depends on but the code; runs of another one are not reused."""
    settings = {name: method.settings for name, method in METHODS.items()}
    fixed = {k: v for k, v in vars(sizes).items() if k not in ("tune_seeds", "seeds", "tasks")}
    return zlib.crc32(json.dumps([settings, fixed], sort_keys=True).encode())


class Log:
    """Finished runs, in a file that several processes may append to."""

    def __init__(self, path: Path, sizes: Sizes) -> None:
        self.path, self.digest = path, digest(sizes)
        self.found: dict[tuple[Any, ...], Record] = {}
        self.read()

    def read(self) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that was killed
                continue
            if record["digest"] == self.digest:
                self.found[self.key(record)] = record

    @staticmethod
    def key(record: Record) -> tuple[Any, ...]:
        tuned = record["setting"] if record["phase"] == "tune" else None
        return record["phase"], record["task"], record["method"], tuned, record["seed"]

    def add(self, record: Record) -> Record:
        record = {"digest": self.digest, **record}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.found[self.key(record)] = record
        return record


def decisions(model: Fitted, part: Part, score: NDArray[np.float64]) -> NDArray[np.int64]:
    return (score >= 0.5).astype(np.int64) if model.decide is None else model.decide(part, score)


def accuracies(y: Any, decided: Any, g: Any, weight: Any) -> dict[str, Any]:
    """Overall accuracy (groups weighted as in the population) and every group's."""
    found = group_metric("accuracy", y, decided, g, sample_weight=weight)
    return {"overall": found.overall, "groups": found.values.tolist()}


def validate(model: Fitted, part: Part) -> dict[str, Any]:
    return accuracies(part.y.numpy(), decisions(model, part, model.score(part)), part.g.numpy(), part.weight)


def choose(tuned: Sequence[Sequence[dict[str, Any]]]) -> int:
    """Index of the chosen setting, given for every setting the validation figures of the tuning seeds."""
    keys = [
        (np.mean([min(f["groups"]) for f in figures]), np.mean([f["overall"] for f in figures])) for figures in tuned
    ]
    return max(range(len(keys)), key=lambda i: (*(round(float(k), 12) for k in keys[i]), -i))


def tune_and_finish(task: str, method: str, sizes: Sizes, cache: Path, log: Log) -> Iterator[Record]:
    """All runs of one method on one task; those in the log are not repeated."""
    arm = METHODS[method]
    tuned: list[list[list[dict[str, Any]]]] = []  # by setting, seed, fold
    for index, setting in enumerate(arm.settings):
        tuned.append([])
        for seed in sizes.tune_seeds:
            record = log.found.get(("tune", task, method, index, seed))
            if record is None:
                valid, seconds = [], 0.0
                for fold in folds(task, seed, sizes, cache):
                    start = time.process_time()
                    model = arm.fit(fold, setting, seed, sizes)
                    seconds += time.process_time() - start
                    valid.append(validate(model, fold.valid))
                ran = {"phase": "tune", "task": task, "method": method, "setting": index, "seed": seed}
                record = log.add({**ran, "valid": valid, "seconds": seconds})
                yield record
            tuned[-1].append(record["valid"])
    num_folds = len(tuned[0][0])
    chosen = [choose([[seed[k] for seed in setting] for setting in tuned]) for k in range(num_folds)]
    for seed in sizes.seeds:
        record = log.found.get(("final", task, method, None, seed))
        if record is None or record["setting"] != chosen:
            models = []
            start = time.process_time()
            for fold, index in zip(folds(task, seed, sizes, cache), chosen, strict=True):
                models.append((fold.test, arm.fit(fold, arm.settings[index], seed, sizes)))
            seconds = time.process_time() - start
            yield log.add(final(task, method, seed, chosen, models, sizes, cache, seconds))


def yardstick(name: str, task: str, sizes: Sizes, cache: Path, log: Log) -> Iterator[Record]:
    """Plain training that is not tuned; on groups of equal size (rendered tasks alone) or as they are."""
    if name == EQUAL_DATA and task not in RENDERED:
        return
    for seed in sizes.seeds:
        if ("final", task, name, None, seed) not in log.found:
            start = time.process_time()
            data = folds(task, seed, sizes, cache, equal=name == EQUAL_DATA)
            models = [(fold.test, plain(fold, 1.0, seed, sizes)) for fold in data]
            yield log.add(final(task, name, seed, [], models, sizes, cache, time.process_time() - start))


def final(
    task: str,
    method: str,
    seed: int,
    chosen: list[int],
    models: list[tuple[Part, Fitted]],
    sizes: Sizes,
    cache: Path,
    seconds: float,
) -> Record:
    """The test figures of one seed; the folds' predictions are pooled."""
    score = [model.score(part) for part, model in models]
    decided = np.concatenate([decisions(model, part, s) for (part, model), s in zip(models, score, strict=True)])
    y, g, _, weight = test_set(task, sizes, cache)
    pooled = np.concatenate(score)
    record: Record = {
        "phase": "final", "task": task, "method": method, "setting": chosen, "seed": seed, "seconds": seconds,
        "test": accuracies(y, decided, g, weight),
    }  # fmt: skip
    if models[0][1].decide is None:
        auc = group_metric("auc", y, pooled, g, sample_weight=weight)
        record["test"] |= {
            "auc": auc.overall, "auc_groups": auc.values.tolist(), "es_auc": auc.equity_scaled(penalty="mean_abs"),
        }  # fmt: skip
    if method in SCORES_KEPT:
        record["scores"] = np.round(pooled, 4).tolist()
    return record


def run_unit(task: str, method: str, sizes: Sizes, cache: Path, path: Path) -> tuple[str, str, int, float]:
    """One method on one task in one process with one thread: task, method, new runs, seconds."""
    torch.set_num_threads(1)
    start, log = time.perf_counter(), Log(path, sizes)
    run = (lambda *a: yardstick(method, *a)) if method in YARDSTICKS else (lambda t, *a: tune_and_finish(t, method, *a))
    units = run(task, sizes, cache, log)
    done = sum(1 for _ in units)
    return task, method, done, time.perf_counter() - start


def complete(log: Log, task: str, sizes: Sizes) -> bool:
    """Whether all final runs of the task are in the log."""
    names = [*METHODS, SAME_RATE, *([EQUAL_DATA] if task in RENDERED else [])]
    return all(("final", task, name, None, seed) in log.found for name in names for seed in sizes.seeds)
