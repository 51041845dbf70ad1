"""How often does the report say "shown", "shown to be smaller than 0.05" and "not shown"? A simulation of known accuracies.

    python benchmarks/verdicts.py [--trials 400]     prints the table of docs/report.md

A small group beside one of 1,000, or as many in both. Where the groups are equal, "shown" is a false alarm; where they lie 5
points or more apart, "smaller than 0.05" is one. The last column is what Fleiss's formula says of the chance to be shown.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from fairloss.report import FairnessReport
from fairloss.report.results import Gap
from fairloss.report.verdicts import chance_to_be_shown

PACKAGES = ()
SIZES = (30, 50, 100, 200, 500, 1000)
TRUTHS = ((0.90, 0.90), (0.85, 0.90), (0.80, 0.90))


def gap_of(rates: tuple[float, ...], sizes: tuple[int, ...], seed: int, replicates: int = 400) -> Gap:
    """The accuracy gap that the report finds in one draw of right and wrong answers."""
    rng = np.random.default_rng(seed)
    right = np.concatenate([rng.random(n) < p for p, n in zip(rates, sizes, strict=True)]).astype(int)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    report = FairnessReport.from_predictions(
        np.ones_like(right), right, groups, metrics=["accuracy"], num_replicates=replicates, seed=seed
    )
    return report.attributes[0].gap("accuracy")


def shares(rates: tuple[float, ...], sizes: tuple[int, ...], trials: int, replicates: int = 400) -> dict[str, float]:
    """How often each verdict is given; ``small`` counts "shown, and to be smaller" as well."""
    gaps = [gap_of(rates, sizes, seed, replicates) for seed in range(trials)]
    counts = Counter(gap.verdict for gap in gaps)
    found = {str(verdict): count / trials for verdict, count in counts.items()}
    return {"shown": 0.0, "not shown": 0.0, **found, "small": sum(gap.small for gap in gaps) / trials}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    print(
        "| accuracies | patients | shown | smaller than 0.05 | not shown | shown, by formula |\n" + "| --- " * 6 + "|"
    )
    cases = [((n, 1000), rates) for rates in TRUTHS for n in SIZES]
    cases += [((n, n), rates) for rates in TRUTHS for n in (100, 500)]
    for sizes, rates in cases:
        found = shares(rates, sizes, trials)
        formula = chance_to_be_shown(*rates, *sizes, 0.95) if rates[0] != rates[1] else 0.05
        print(
            f"| {rates[0]:.2f} and {rates[1]:.2f} | {sizes[0]:,} and {sizes[1]:,} | {found['shown']:.1%} | "
            f"{found['small']:.1%} | {found['not shown']:.1%} | {formula:.0%} |"
        )


if __name__ == "__main__":
    main()
