"""Rendered photographs at equal compute: what training longer, on all data, and in threes does, with and without groups.

    python -m benchmarks.fairness_compute          # resumes; seeds as far as --seeds
    python -m benchmarks.fairness_compute --save   # writes the table of docs/what-helps-when.md

Nine rendered tasks (`benchmarks.fairness_data`). Every group-aware arm stands beside plain training of the same number of
optimizer steps on the same photographs. Settings are fixed: a weight of 0.3, no choice is made.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

import fairloss as fl
from benchmarks.fairness_data import FULL, RENDERED, Fold, Part, folds
from benchmarks.fairness_report import PAGE, fill, interval, read_rows
from benchmarks.fairness_train import Batches, Loss, Network, repeated, shuffled, train

RESULTS = Path(__file__).parent / "results" / "fairness_compute.jsonl"
TODAY = "plain"  # training data alone, 200 steps


class Arm(NamedTuple):
    """``members`` networks of ``times`` 200 steps, the mean of their logits; ``all_data``: with the validation photographs."""

    control: str
    members: int = 1
    times: int = 5
    all_data: bool = True
    loss: Callable[[Fold, int], Loss] | None = None
    balanced: bool = False  # the last third of the steps on batches with equal numbers of (label, group)


def odds(direction: Any = "both", late: bool = False) -> Callable[[Fold, int], Loss]:
    """Cross-entropy + 0.3 EqualizedOdds; ``late``: from the second half of the steps on."""

    def make(fold: Fold, steps: int) -> Loss:
        criterion = fl.EqualizedOddsLoss(fold.num_groups, direction=direction)
        done = [0]

        def loss(z: torch.Tensor, logits: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            done[0] += 1
            task = F.cross_entropy(logits, y)
            return task if late and done[0] <= steps // 2 else task + 0.3 * criterion(logits, y, g)

        return loss

    return make


def moments(fold: Fold, steps: int) -> Loss:
    """Cross-entropy + 0.3 MomentAlignment: the groups' embeddings alike within a label."""
    criterion = fl.MomentAlignmentLoss(fold.num_groups, num_classes=2)
    return lambda z, logits, y, g: F.cross_entropy(logits, y) + 0.3 * criterion(z, y, g)


LONG, LONG_THREE = "plain, all data, 5 x the steps", "three plain, all data, 5 x the steps"
ARMS: dict[str, Arm] = {
    TODAY: Arm(TODAY, times=1, all_data=False),
    "plain, all data": Arm(TODAY, times=1),
    "plain, 5 x the steps": Arm(TODAY, all_data=False),
    LONG: Arm(LONG),
    "EqualizedOdds, all data, 5 x the steps": Arm(LONG, loss=odds()),
    LONG_THREE: Arm(LONG_THREE, members=3),
    "three EqualizedOdds, all data, 5 x the steps": Arm(LONG_THREE, members=3, loss=odds()),
    "idea: EqualizedOdds, raising the worst group alone": Arm(LONG, loss=odds("raise")),
    "idea: EqualizedOdds from the second half on": Arm(LONG, loss=odds(late=True)),
    "idea: last third on balanced batches": Arm(LONG, balanced=True),
    "idea: MomentAlignment within a label": Arm(LONG, loss=moments),
}


def joined(a: Part, b: Part) -> Part:
    both = [torch.cat([getattr(a, k), getattr(b, k)]) for k in ("x", "y", "g")]
    return Part(*both, *(np.concatenate([getattr(a, k), getattr(b, k)]) for k in ("patient", "weight")))


def late_balance(fold: Fold, steps: int, seed: int) -> Batches:
    """Shuffled epochs, then batches with equal numbers of every (label, group)."""
    plain = shuffled(fold, FULL.batch, torch.Generator().manual_seed(seed))
    cells = fold.train.g * 2 + fold.train.y
    per_cell = FULL.batch // len(cells.unique())
    even = repeated(fl.GroupBatchSampler(cells, batch_size=FULL.batch, min_per_group=per_cell, seed=seed))
    for step in range(steps):
        yield next(plain if step < 2 * steps // 3 else even)


def figures(logits: torch.Tensor, test: Part) -> dict[str, float]:
    right = (logits.argmax(1) == test.y).double().numpy()
    groups = test.g.numpy()
    rates = [right[groups == g].mean() for g in np.unique(groups)]
    return {"overall": float((right * test.weight).sum() / test.weight.sum()), "worst": float(min(rates))}


def logits_of(network: Network, part: Part) -> torch.Tensor:
    with torch.no_grad():
        return network(part.x)[1]


def task_rows(task: str, seed: int, cache: Path, names: list[str]) -> list[dict[str, Any]]:
    fold = folds(task, seed, FULL, cache)[0]
    whole = dataclasses.replace(fold, train=joined(fold.train, fold.valid))
    rows, first = [], {}
    for name in names:
        arm = ARMS[name]
        own, steps, total = (whole if arm.all_data else fold), arm.times * FULL.steps, 0
        for member in range(arm.members):
            key = (name if arm.loss or arm.balanced else "", arm.all_data, steps, member)
            key = ("eo", *key[1:]) if arm.loss is not None and "EqualizedOdds, all data" in name else key
            if key not in first:  # the single network is the first of the three
                number = seed + 100 * member
                first[key] = logits_of(
                    train(
                        own,
                        number,
                        steps,
                        FULL.batch,
                        loss=arm.loss(own, steps) if arm.loss else None,
                        batches=late_balance(own, steps, number) if arm.balanced else None,
                    ),
                    fold.test,
                )
            total = total + first[key]
        rows.append({"task": task, "seed": seed, "arm": name, **figures(total, fold.test)})
    return rows


def differences(rows: list[dict[str, Any]], arm: str, control: str, figure: str) -> np.ndarray:
    """(tasks,) mean over the seeds of the arm minus its control, in points."""
    value = {(row["task"], row["seed"], row["arm"]): row[figure] for row in rows}
    seeds = sorted({seed for _, seed, name in value if name == arm})
    tasks = [task for task in RENDERED if all((task, seed, arm) in value for seed in seeds)]
    return 100 * np.array([np.mean([value[t, s, arm] - value[t, s, control] for s in seeds]) for t in tasks])


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of the page, the gain of the worst group against plain training as it is today and against the control."""
    lines = ["", "| arm | worst group | better in | overall | worst group against its control | control |"]
    lines.append("| :-- | --: | --: | --: | --: | :-- |")
    for name, arm in ARMS.items():
        if name == TODAY or not any(row["arm"] == name for row in rows):
            continue
        worst, overall = (differences(rows, name, TODAY, k) for k in ("worst", "overall"))
        beside = "" if arm.control in (name, TODAY) else interval(differences(rows, name, arm.control, "worst"))
        control = "" if arm.control in (name, TODAY) else arm.control
        better = f"{(worst > 0).sum()} of {len(worst)}"
        lines.append(f"| {name} | {interval(worst)} | {better} | {interval(overall)} | {beside} | {control} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=Path("out") / "fairness" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write the page's table from the results file")
    args = parser.parse_args()
    if args.save:
        PAGE.write_text(
            fill(PAGE.read_text(encoding="utf-8"), {"compute": table(read_rows(args.out))}), encoding="utf-8"
        )
        return
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        for task in RENDERED:
            done = {row["arm"] for row in read_rows(args.out) if (row["task"], row["seed"]) == (task, seed)}
            if done >= set(ARMS):
                continue
            rows = task_rows(task, seed, args.cache, list(ARMS))
            with args.out.open("a", encoding="utf-8") as out:  # a task and seed is written whole or not at all
                out.write("".join(json.dumps(row) + "\n" for row in rows))
            print(task, seed, flush=True)


if __name__ == "__main__":
    main()
