"""``python -m mutation``: sample, run and score; a run that was stopped goes on where it was."""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path

from mutation.run import Reach, again, run
from mutation.sample import STRATA, draw
from mutation.score import table

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Parse the options; sample, run and print the score."""
    parser = argparse.ArgumentParser(prog="python -m mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="mutants per stratum (default 40, in eight strata)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample; each has a folder of results (default 1)")
    parser.add_argument("--coverage", type=Path, required=True, help="coverage data with one context per test")
    parser.add_argument("--times", type=Path, required=True, help="JUnit file of the same run")
    parser.add_argument("--results", type=Path, required=True, help="folder of the results, one line per mutant")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the mutants (default 1)")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of tests per mutant (default 20)")
    parser.add_argument("--again", nargs="+", metavar="TESTS", help="run the survivors once more, against these tests")
    parser.add_argument("--score", action="store_true", help="only print the score of the results")
    args = parser.parse_args()
    drawn = {stratum: draw(ROOT, stratum, args.count, args.seed) for stratum in STRATA}
    mutants = [mutant for found, _ in drawn.values() for mutant in found]
    results = args.results / f"seed-{args.seed}"
    results.mkdir(parents=True, exist_ok=True)
    if args.again:
        again(mutants, ROOT, sorted(results.glob("*.jsonl")), args.again)
    elif not args.score:
        reach = Reach(ROOT, args.coverage, args.times)
        fork = multiprocessing.get_context("fork")  # they share what was drawn; nothing has started a thread yet
        shards = [
            fork.Process(target=run, args=(mutants[n :: args.jobs], ROOT, reach, results / f"{n}.jsonl", args.budget))
            for n in range(args.jobs)
        ]
        for shard in shards:
            shard.start()
        for shard in shards:
            shard.join()
        if any(shard.exitcode for shard in shards):
            raise SystemExit("a process that ran mutants failed")
    print(table(sorted(results.glob("*.jsonl")), {stratum: size for stratum, (_, size) in drawn.items()}))


if __name__ == "__main__":
    main()
