"""How biased is a max-min gap of small groups, and which interval covers the true one? A simulation of accuracies.

    python benchmarks/gap_intervals.py [--trials 400]     prints the tables; the other benchmarks run it with fewer

Each trial draws right and wrong answers for groups of known accuracy, and puts the gap, the bias-corrected gap, the
report's interval and the plain percentile interval against the true gap. More tables, printed alone: gaps of mean recalls and
of weighted accuracies; the difference of two models' gaps; calibration gaps and equity-scaled AUCs of groups that are alike.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import norm

from fairloss.metrics import gap
from fairloss.metrics.predictions import as_predictions
from fairloss.report import FairnessReport, gap_difference_test
from fairloss.report.bootstrap import bootstrap_groups
from fairloss.report.intervals import corrected_gap, gap_interval
from fairloss.report.sample import read_sample

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
# Accuracies of the groups under either model, and the groups' size.
DIFFERENCES = {
    "6 groups of 100: all 0.98, all 0.70": ([0.98] * 6, [0.7] * 6, 100),
    "10 groups of 60: all 0.95, all 0.75": ([0.95] * 10, [0.75] * 10, 60),
    "6 groups of 100: all 0.80 in both": ([0.8] * 6, [0.8] * 6, 100),
    "2 groups of 300: 0.9 and 0.7, then 0.9 and 0.8": ([0.9, 0.7], [0.9, 0.8], 300),
    "3 groups of 1,000: 0.9, 0.8, 0.7, then 0.9, 0.85, 0.8": ([0.9, 0.8, 0.7], [0.9, 0.85, 0.8], 1000),
    "6 groups of 300: five 0.9 and one 0.7, then 0.85": ([0.9] * 5 + [0.7], [0.9] * 5 + [0.85], 300),
}
# Recalls of the classes in each group, about so many samples of each; or one accuracy a group, and the spread of log-weights.
MEANS: dict[str, tuple[list[list[float]], list[int], float]] = {
    "2 groups, 3 classes of 50, equal": ([[0.8] * 3] * 2, [50] * 2, 0),
    "2 groups, 8 classes of 30, equal": ([[0.8] * 8] * 2, [30] * 2, 0),
    "2 groups, 5 classes of 50, 15 points apart": ([[0.7] * 5, [0.85] * 5], [50] * 2, 0),
    "2 groups, 5 classes of 50, apart in two, either way": (
        [[0.6, 0.9, 0.8, 0.8, 0.8], [0.9, 0.6, 0.8, 0.8, 0.8]],
        [50] * 2,
        0,
    ),
    "4 groups, 3 classes of 60, one group 15 points below": ([[0.85] * 3] * 3 + [[0.7] * 3], [60] * 4, 0),
    "3 groups, 4 classes of 300, 300 and 10, 20 points apart": ([[0.9] * 4, [0.7] * 4, [0.8] * 4], [300, 300, 10], 0),
    "2 groups of 200, worth 157, equal": ([[0.8], [0.8]], [200] * 2, 0.5),
    "2 groups of 200, worth 81, 10 points apart": ([[0.85], [0.95]], [200] * 2, 1),
    "2 groups of 200, worth 36, equal": ([[0.8], [0.8]], [200] * 2, 1.5),
}
ALIKE = {"1,000 and 100": [1000, 100], "1,000 and 40": [1000, 40], "6 of 100": [100] * 6}


def simulate(truth: list[float], sizes: list[int], trials: int, seed: int = 0) -> list[float]:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(truth)), sizes)
    chance = np.repeat(truth, sizes)
    true = max(truth) - min(truth)
    found = []
    for trial in range(trials):
        right = (rng.random(len(groups)) < chance).astype(int)
        sample, _ = read_sample(as_predictions(np.ones(len(groups), dtype=int), right), {}, len(groups), None, None, [])
        rng_of_draws = np.random.default_rng(trial)
        draws = bootstrap_groups(
            sample, groups, len(truth), metrics=("accuracy",), num_replicates=400, rng=rng_of_draws
        )
        values, drawn = draws["accuracy"].values, draws["accuracy"].drawn
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


def means(recalls: list[list[float]], sizes: list[int], spread: float, trials: int) -> list[float]:
    """True mean gap, bias of the gap and of the corrected one, coverage of the gap and of the groups' values, width."""
    truth, classes = np.array(recalls), len(recalls[0])
    true = float(np.ptp(truth, axis=0).mean())
    groups = np.repeat(np.arange(len(sizes)), np.array(sizes) * classes)
    found = []
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        y = rng.integers(0, classes, len(groups))
        right = rng.random(len(groups)) < truth[groups, y]
        answer = np.where(right, y, (y + rng.integers(1, classes, len(groups))) % classes if classes > 1 else 1)
        if classes == 1:
            y, answer = np.ones_like(y), right.astype(int)
        (a,) = FairnessReport.from_predictions(
            y, answer, groups, task="multiclass" if classes > 1 else "binary", metrics=["tpr"],
            sample_weight=np.exp(spread * rng.standard_normal(len(groups))), num_replicates=400, seed=trial,
        ).attributes  # fmt: skip
        e = a.gap("tpr").estimate
        inside = [
            k.metrics["tpr"].low <= t.mean() <= k.metrics["tpr"].high for k, t in zip(a.groups, truth, strict=True)
        ]
        covered = e.low - 1e-12 <= true <= e.high + 1e-12
        found.append([e.value - true, a.gap("tpr").corrected - true, covered, np.mean(inside), e.high - e.low])
    return [true, *np.mean(found, axis=0).tolist()]


def difference(first: list[float], second: list[float], size: int, trials: int) -> list[float]:
    """True difference of the gaps, its coverage by interval and by percentiles, and the share of p-values up to 0.05."""
    true = max(second) - min(second) - max(first) + min(first)
    groups = np.repeat(np.arange(len(first)), size)
    found = []
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        y, shared, own = rng.integers(0, 2, len(groups)), rng.random(len(groups)), rng.random(len(groups))
        noise = np.where(rng.random(len(groups)) < 0.5, shared, own)
        a, b = (np.where(u < np.array(p)[groups], y, 1 - y) for u, p in ((shared, first), (noise, second)))
        test = gap_difference_test(y, a, b, groups, num_replicates=400, seed=trial)
        right = np.stack([a == y, b == y], 1).astype(float)
        drawn = []
        for _ in range(400):
            at = (rng.integers(0, size, (len(first), size)) + size * np.arange(len(first))[:, None]).ravel()
            means = right[at].reshape(len(first), size, 2).mean(1)
            drawn.append(np.ptp(means[:, 1]) - np.ptp(means[:, 0]))
        low, high = np.quantile(drawn, [0.025, 0.975])
        found.append([test.low - 1e-9 <= true <= test.high + 1e-9, low <= true <= high, test.p_value <= 0.05])
    return [true, *np.mean(found, axis=0).tolist()]


def alike(sizes: list[int], trials: int) -> list[float]:
    """Of calibrated, equal groups: the share of clear calibration gaps; the coverage of the equity-scaled AUC."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    clear = covered = 0
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        p = rng.random(len(groups))
        calibrated = (rng.random(len(groups)) < p).astype(int)
        report = FairnessReport.from_predictions(
            calibrated, p, groups, metrics=["ece"], num_replicates=400, seed=trial, min_group_size=0
        )
        clear += report.attributes[0].gaps[0].clear
        y = rng.integers(0, 2, len(groups))
        score = 1 / (1 + np.exp(-rng.standard_normal(len(groups)) - 1.2 * y))
        report = FairnessReport.from_predictions(y, score, groups, metrics=["auc"], num_replicates=400, seed=trial)
        (scaled,) = (g.estimate for g in report.attributes[0].gaps if g.name == "equity_scaled_auc")
        covered += scaled.low <= norm.cdf(1.2 / np.sqrt(2)) <= scaled.high
    return [clear / trials, covered / trials]


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
    print(
        "\n| recalls, weights | true gap | bias of the gap | bias, corrected | covered | group values covered | width |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (recalls, sizes, spread) in MEANS.items():
        true, raw, corrected, covered, inside, width = means(recalls, sizes, spread, trials)
        print(f"| {name} | {true:.2f} | {raw:+.3f} | {corrected:+.3f} | {covered:.1%} | {inside:.1%} | {width:.3f} |")
    print("\n| models | true difference | covered | covered, percentile | p <= 0.05 |")
    print("| --- | --- | --- | --- | --- |")
    for name, case in DIFFERENCES.items():
        true, held, percentile, small = difference(*case, trials)
        print(f"| {name} | {true:+.2f} | {held:.1%} | {percentile:.1%} | {small:.1%} |")
    print("\n| equal groups | calibration gap clear | equity-scaled AUC covered |\n| --- | --- | --- |")
    for name, sizes in ALIKE.items():
        clear, covered = alike(sizes, trials)
        print(f"| {name} | {clear:.1%} | {covered:.1%} |")


if __name__ == "__main__":
    main()
