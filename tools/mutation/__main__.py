"""``python -m mutation``: sample, run and score; a run that was stopped goes on where it was."""

from __future__ import annotations

import argparse
from pathlib import Path

from mutation.run import Reach, again, run
from mutation.sample import STRATA, draw
from mutation.score import table

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Parse the options; sample, run and print the score."""
    parser = argparse.ArgumentParser(prog="python -m mutation", description=__doc__)
    parser.add_argument("--count", type=int, default=45, help="mutants a stratum (default 45, in seven strata)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", type=Path, required=True, help="coverage data with a context a test")
    parser.add_argument("--times", type=Path, required=True, help="JUnit file of the same run")
    parser.add_argument("--results", type=Path, required=True, help="folder for one line a mutant")
    parser.add_argument("--shard", default="1/1", help="'2/3' runs every third mutant from the second on")
    parser.add_argument("--budget", type=float, default=40.0, help="seconds of tests for a mutant (default 40)")
    parser.add_argument("--again", nargs="+", metavar="TESTS", help="run the survivors once more, against these tests")
    parser.add_argument("--score", action="store_true", help="only print the score of the results")
    args = parser.parse_args()
    drawn = {stratum: draw(ROOT, stratum, args.count, args.seed) for stratum in STRATA}
    args.results.mkdir(parents=True, exist_ok=True)
    if args.again:
        again([m for found, _ in drawn.values() for m in found], ROOT, sorted(args.results.glob("*.jsonl")), args.again)
    elif not args.score:
        shard, shards = map(int, args.shard.split("/"))
        mutants = [mutant for found, _ in drawn.values() for mutant in found][shard - 1 :: shards]
        reach = Reach(ROOT, args.coverage, args.times)
        run(mutants, ROOT, reach, args.results / f"{shard}-of-{shards}.jsonl", args.budget)
    print(table(sorted(args.results.glob("*.jsonl")), {stratum: size for stratum, (_, size) in drawn.items()}))


if __name__ == "__main__":
    main()
