"""Does it work? Every classifier method of the library beside what people use without it, on ten tasks.

Nine rendered tasks and the diabetes study, five seeds, the same tuning budget for all: three settings of one option on two
seeds, chosen by the worst group's accuracy on validation data (see fairness_runs). Friedman and Nemenyi with tasks as blocks
and seeds averaged within; paired differences from plain training over tasks.

python benchmarks/fairness.py --workers 2   # about half an hour of processor time, resumable: run it again to go on
python benchmarks/fairness.py --quick       # seconds; only shows that all of it works
python benchmarks/fairness.py --save        # no training: writes results/fairness.json, pictures and the page's tables
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.fairness_data import FULL, QUICK, TASKS
from benchmarks.fairness_methods import METHODS, YARDSTICKS
from benchmarks.fairness_runs import Log, complete, run_unit


def train_all(args: argparse.Namespace) -> None:
    """Every unit (task, method) that is not finished; ``--workers`` at a time."""
    units = [
        (task, method, args.sizes, args.cache, args.log)
        for task in args.tasks
        for method in (*args.methods, *YARDSTICKS)
    ]
    start, finished = time.perf_counter(), 0

    def report(task: str, method: str, runs: int, seconds: float) -> None:
        nonlocal finished
        finished += 1
        if runs:
            print(
                f"{finished}/{len(units)} {task}, {method}: {runs} runs, {seconds:.0f} s "
                f"({time.perf_counter() - start:.0f} s since the start)", flush=True,
            )  # fmt: skip

    if args.workers == 1:
        for unit in units:
            report(*run_unit(*unit))
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, mp_context=spawn) as pool:
        for done in as_completed([pool.submit(run_unit, *unit) for unit in units]):
            report(*done.result())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two tasks, a few steps; only shows that all of it works")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each (1)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="default: all")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument(
        "--out", type=Path, default=Path("out") / "fairness", help="finished runs, rendered data, report"
    )
    parser.add_argument(
        "--save", action="store_true", help="write the finished tasks into the repository; trains nothing"
    )
    parser.add_argument("--cost", action="store_true", help="time every method beside plain training, nothing else")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"argument --workers: {args.workers} was given, at least 1 is needed")
    if args.quick and args.save:
        parser.error("argument --save: not with --quick, whose figures mean nothing")
    args.sizes = QUICK if args.quick else FULL
    args.tasks = args.tasks or list(args.sizes.tasks)
    args.cache, args.log = args.out / "data", args.out / ("quick.jsonl" if args.quick else "runs.jsonl")
    torch.set_num_threads(1)
    if args.cost:
        from benchmarks.fairness_cost import measure

        print(measure(args.sizes, args.cache, args.out / "cost.json"))
        return
    if not args.save:
        train_all(args)
    log = Log(args.log, args.sizes)
    finished = tuple(task for task in args.sizes.tasks if complete(log, task, args.sizes))
    if len(finished) < 2:
        print(
            f"{len(log.found)} runs in {args.log}; the report needs two tasks with all methods, {len(finished)} are finished"
        )
        return
    from benchmarks.fairness_report import write

    write(log, replace(args.sizes, tasks=finished), args.cache, args.out, save=args.save)


if __name__ == "__main__":
    main()
