"""Real people: what closes a gap of decisions, under a guard of accuracy and balanced accuracy.

    python -m benchmarks.people            # resumes from benchmarks/results/people.jsonl
    python -m benchmarks.people --save     # the tables of docs/what-helps-when.md from that file

Nine sets (`benchmarks.people_data`), a fresh 60/20/20 split for each seed, a network of one hidden layer of 64. Seeds 0 to 9
are for choosing recipes and budgets, by their test parts as well; seeds 10 to 19 are shown, and were run once, everything
being fixed. Within a seed, settings are chosen on validation or out-of-fold scores.

Every arm is compared on the test part with plain training on the training part (`plain`, the mean of five trainings). The
guard: over the seeds of a set, mean accuracy and mean balanced accuracy lie within one point of plain training's. A cut is
the share of plain training's gap that an arm takes away; the guarded cut of a set is 0 where the guard fails.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.fairness_report import PAGE, fill, read_rows
from benchmarks.people_arms import PARTS, Split
from benchmarks.people_data import SETS
from benchmarks.people_tables import FIRST, picture, tables

RESULTS = Path(__file__).parent / "results" / "people.jsonl"


def run(path: Path, seeds: range, names: list[str], parts: list[str], hidden: bool) -> None:
    done = {(row["set"], row["seed"], row["arm"]) for row in read_rows(path) if row.get("hidden", False) == hidden}
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for seed in seeds:
            for name in names:
                if (name, seed, part) in done:
                    continue
                started = time.perf_counter()
                rows = [
                    {"set": name, "seed": seed, "arm": arm, "target": target, "seconds": round(seconds, 2), **figures}
                    | ({"hidden": True} if hidden else {})
                    for arm, target, figures, seconds in PARTS[part](Split(SETS[name](), seed, hidden=hidden), seed)
                ]
                with path.open("a", encoding="utf-8") as out:  # a part of a split is written whole or not at all
                    out.write("".join(json.dumps(row) + "\n" for row in rows))
                print(part, name, seed, f"{time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs=2, default=(FIRST, FIRST + 10), metavar=("FIRST", "END"))
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--hidden", action="store_true", help="the network is not shown the group")
    parser.add_argument("--save", action="store_true", help="write the page's tables from the results file")
    args = parser.parse_args()
    if args.save:
        rows = read_rows(args.out)
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), {"people": tables(rows)}), encoding="utf-8")
        picture(rows).savefig(PAGE.parent / "img" / "people.png", dpi=120)
    else:
        torch.set_num_threads(1)
        run(args.out, range(*args.seeds), args.sets, args.parts, args.hidden)


if __name__ == "__main__":
    main()
