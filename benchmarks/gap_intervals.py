"""How biased is a max-min gap of small groups, and which interval covers the true one? A simulation of accuracies.

    python benchmarks/gap_intervals.py [--trials 400]     prints the table; the other benchmarks run it with fewer

Each trial draws right and wrong answers for groups of known accuracy, and puts the gap, the bias-corrected gap, the
report's interval and the plain percentile interval against the true gap.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from fairloss.metrics import gap
from fairloss.metrics._inputs import as_predictions
from fairloss.metrics.bootstrap import bootstrap_groups, patient_codes
from fairloss.metrics.intervals import corrected_gap, gap_interval

PACKAGES = ()
TRIALS = 100
CASES = {
    "2 groups of 100, equal": ([0.8, 0.8], [100, 100]),
    "2 groups of 100, 10 points apart": ([0.7, 0.8], [100, 100]),
    "2 groups of 900 and 100, 20 points apart": ([0.85, 0.65], [900, 100]),
    "3 groups of 100, equal": ([0.8] * 3, [100] * 3),
    "6 groups of 100, equal": ([0.8] * 6, [100] * 6),
    "6 groups of 100, one 10 points below": ([0.8] * 5 + [0.7], [100] * 6),
    "6 groups of 1000 to 40, equal": ([0.8] * 6, [1000, 500, 300, 150, 80, 40]),
    "6 groups of 1000 to 40, the smallest 15 points below": ([0.8] * 5 + [0.65], [1000, 500, 300, 150, 80, 40]),
}


def simulate(truth: list[float], sizes: list[int], trials: int, seed: int = 0) -> list[float]:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(truth)), sizes)
    chance = np.repeat(truth, sizes)
    true = max(truth) - min(truth)
    found = []
    for trial in range(trials):
        right = (rng.random(len(groups)) < chance).astype(int)
        r = bootstrap_groups(
            as_predictions(np.ones(len(groups), dtype=int), right),
            groups,
            len(truth),
            metrics=("accuracy",),
            weight=np.ones(len(groups)),
            patient=patient_codes(None, len(groups)),
            num_replicates=400,
            rng=np.random.default_rng(trial),
            options={},
        )
        values, drawn = r.values[0], r.drawn[:, 0]
        low, high = gap_interval(values, drawn, 0.95)
        a, b = np.quantile(drawn.max(axis=1) - drawn.min(axis=1), [0.025, 0.975])
        covered = low - 1e-12 <= true <= high + 1e-12
        found.append([gap(values) - true, corrected_gap(values, drawn) - true, covered, a <= true <= b, high - low])
    return [true, *np.mean(found, axis=0).tolist()]


def extras(quick: bool) -> dict[str, object]:
    trials, names = (3, list(CASES)[:2]) if quick else (TRIALS, list(CASES))
    columns = ("true", "bias", "bias_corrected", "covered", "covered_percentile", "width")
    rows = [{"groups": name, **dict(zip(columns, simulate(*CASES[name], trials), strict=True))} for name in names]
    return {"trials": trials, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    print("| groups | true gap | bias of the gap | bias, corrected | covered | covered, percentile | width |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (truth, sizes) in CASES.items():
        true, raw, corrected, covered, percentile, width = simulate(truth, sizes, trials)
        print(
            f"| {name} | {true:.2f} | {raw:+.3f} | {corrected:+.3f} | {covered:.1%} | {percentile:.1%} | {width:.3f} |"
        )


if __name__ == "__main__":
    main()
