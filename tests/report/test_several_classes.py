"""Reports and comparisons of several classes: gaps of each class where it is, the functions' values, intervals that cover."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, false_positive_rate, true_positive_rate

import fairloss.metrics as fm
import fairloss.report as fr
from tests.metrics.test_classes_in_common import two_clinics

pytestmark = pytest.mark.filterwarnings("ignore::fairloss.metrics.undefined.UndefinedGroupWarning")


def answers(rng, recalls, size):
    """(labels, answers, groups) with the given recalls (G, K), and about ``size`` samples of each class in each group."""
    recalls = np.asarray(recalls)
    groups, classes = recalls.shape
    n = groups * classes * size
    y, g = rng.integers(0, classes, n), np.repeat(np.arange(groups), classes * size)
    wrong = (y + rng.integers(1, classes, n)) % classes
    return y, np.where(rng.random(n) < recalls[g, y], y, wrong), g


def test_a_class_that_one_group_lacks_makes_no_gap():
    y, p, g = two_clinics()
    report = fr.FairnessReport.from_predictions(y, p, {"clinic": g}, metrics=["tpr", "f1"], num_replicates=200)
    gap = report["clinic"].gap("tpr")
    assert gap.estimate.value == gap.estimate.low == gap.corrected == pytest.approx(0, abs=1e-12)
    assert gap.estimate.high < 0.1
    assert not gap.clear
    assert (gap.worst, gap.best) == (None, None)
    assert "clinic: TPR, F1 undefined in A (class glaucoma), left out of the comparison." in report.warnings
    assert "mean of each class's gap, over the groups that have the class" in report.to_markdown()
    a, b = (k.metrics["tpr"] for k in report["clinic"].groups)
    assert (a.value, b.value) == (pytest.approx(0.9), pytest.approx(0.8))
    assert b.low < 0.8 < b.high < 0.88
    with pytest.warns(fm.UndefinedGroupWarning, match=r"tpr is undefined in group\(s\) A \(class glaucoma\): left out"):
        first, second = fr.compare_models(y, {"a": p, "b": y}, g, metrics=["tpr"], num_replicates=200)
    assert first.gaps["tpr"][0] == pytest.approx(0, abs=1e-12)
    assert second.against_first["tpr"].difference == pytest.approx(0, abs=1e-12)
    assert second.against_first["tpr"].p_value > 0.5


@pytest.mark.parametrize("seed", range(4))
def test_gaps_are_those_of_the_functions_and_of_fairlearn(seed):
    rng = np.random.default_rng(seed)
    y, p, g = answers(rng, rng.uniform(0.4, 0.9, (3, 4)), 40)
    y[(g == 2) & (y == 3)] = 0
    metrics = ["accuracy", "tpr", "fpr", "fdr", "f1"]
    report = fr.FairnessReport.from_predictions(y, p, g, metrics=metrics, num_replicates=100)
    (found,) = report.attributes
    models = fr.compare_models(y, {"a": p, "b": y}, g, metrics=metrics, num_replicates=100)
    functions = {
        "accuracy": fm.max_accuracy_gap,
        "tpr": fm.equal_opportunity_difference,
        "fpr": fm.false_positive_rate_difference,
        "fdr": fm.predictive_parity_difference,
        "equalized_odds": fm.equalized_odds_difference,
        "f1": lambda *a: fm.group_metric("f1", *a).gap(),
    }
    for name, function in functions.items():
        e = found.gap(name).estimate
        assert e.value == pytest.approx(function(y, p, g)), name
        assert e.low <= e.value <= e.high, name
        if name != "equalized_odds":
            assert models[0].gaps[name] == (e.value, e.low, e.high)
    odds, tpr = [], []
    for c in range(4):
        there = g < 2 if c == 3 else g >= 0  # group 2 has no sample of class 3, of which it has false positives
        gaps = [
            MetricFrame(metrics=rate, y_true=y[at] == c, y_pred=p[at] == c, sensitive_features=g[at]).difference()
            for rate, at in ((true_positive_rate, there), (false_positive_rate, g >= 0))
        ]
        tpr.append(gaps[0])
        odds.append(max(gaps))
    assert found.gap("equalized_odds").estimate.value == pytest.approx(np.mean(odds))
    assert found.gap("tpr").estimate.value == pytest.approx(np.mean(tpr))


def test_areas_and_ratios_are_those_of_the_functions(rng):
    y, g = rng.integers(0, 3, 300), rng.integers(0, 3, 300)
    y[(g == 1) & (y == 2)] = 0
    scores = rng.dirichlet(np.ones(3), 300) + 0.4 * np.eye(3)[y]
    scores /= scores.sum(axis=1, keepdims=True)
    (found,) = fr.FairnessReport.from_predictions(y, scores, g, metrics=["auc"], num_replicates=100).attributes
    assert found.gap("auc").estimate.value == pytest.approx(fm.auc_gap(y, scores, g))
    scaled = found.gap("equity_scaled_auc").estimate
    assert scaled.value == pytest.approx(fm.equity_scaled_auc(y, scores, g))
    assert scaled.low <= scaled.value <= scaled.high
    labels, p = rng.integers(0, 2, (300, 3)), rng.random((300, 3)) ** [0.5, 1, 2]
    (found,) = fr.FairnessReport.from_predictions(labels, p, g, num_replicates=100).attributes
    for name, function in (
        ("demographic_parity_ratio", fm.demographic_parity_ratio),
        ("positive_rate", fm.demographic_parity_difference),
        ("accuracy", fm.max_accuracy_gap),
    ):
        e = found.gap(name).estimate
        assert e.value == pytest.approx(function(labels, p, g)), name
        assert e.low <= e.value <= e.high, name


def test_a_replicate_that_has_lost_a_class_is_of_the_same_quantity():
    """One sample of the hard class in B: without it B's recall would jump from 0.5 to 0.95 in a third of the replicates."""
    y = np.array(["easy"] * 100 + ["hard"] * 100 + ["easy"] * 100 + ["hard"])
    p, g = y.copy(), np.repeat(["A", "B"], [200, 101])
    p[:5] = p[200:205] = "hard"
    p[-1] = "easy"
    p[100:150] = "easy"
    report = fr.FairnessReport.from_predictions(y, p, g, metrics=["tpr"], task="multiclass", num_replicates=400)
    b = report["group"].groups[1].metrics["tpr"]
    assert b.value == pytest.approx(0.475)
    # The easy class moves half of its own noise; the hard one, of which there is one sample, all that it may.
    assert b.high - b.value > 0.25
    assert b.low <= b.value <= b.high <= 1
    assert (
        "group: TPR undefined in over 5% of the bootstrap replicates of B, whose intervals there are rough."
        in report.warnings
    )


def test_models_are_compared_over_the_classes_that_both_define(rng):
    y, a, g = answers(rng, [[0.8] * 3, [0.7] * 3], 60)
    b = np.where(a == 2, 0, a)
    b[g == 0] = a[g == 0]  # never says 2 in group 1: no false discovery rate there
    with pytest.warns(fm.UndefinedGroupWarning, match=r"fdr is undefined in group\(s\) 1 \(class 2\) \(b\): left out"):
        found = fr.gap_difference_test(y, a, b, g, metric="fdr", num_replicates=100)
    fdr = [[[np.mean(y[(g == k) & (m == c)] != c) for k in (0, 1)] for c in (0, 1)] for m in (a, b)]
    gaps = [np.mean([abs(u - v) for u, v in of_classes]) for of_classes in fdr]
    assert [found.gap_a, found.gap_b] == pytest.approx(gaps)
    assert found.low <= found.difference <= found.high
    # Labels that one model alone gives are no class of the other.
    odd = np.where(rng.random(len(y)) < 0.05, 7, a)
    assert np.isfinite(fr.gap_difference_test(y, a, odd, g, metric="tpr", num_replicates=100).p_value)


def test_fairgrpo_tables_keep_their_means(rng):
    y, p, g = answers(rng, [[0.8] * 3, [0.7] * 3], 30)
    y[(g == 1) & (y == 2)] = 0
    report = fr.FairnessReport.from_predictions(y, p, g, metrics=["f1"], convention="fairgrpo", num_replicates=100)
    expected = fm.group_metric("f1", y, p, g, convention="fairgrpo")
    assert report["group"].gap("f1").estimate.value == pytest.approx(np.ptp(expected.values))
    assert not any("class" in w for w in report.warnings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recalls", "size"),
    [
        ([[0.8] * 3] * 2, 50),
        ([[0.8] * 8] * 2, 30),
        ([[0.7] * 5, [0.85] * 5], 50),
        ([[0.7, 0.9, 0.8, 0.7, 0.9], [0.9, 0.7, 0.8, 0.8, 0.8]], 50),
        ([[0.85] * 3] * 3 + [[0.7] * 3], 60),
    ],
)
def test_intervals_of_mean_gaps_cover(recalls, size):
    trials, true, covered, values = 120, np.ptp(recalls, axis=0).mean(), [], []
    for seed in range(trials):
        y, p, g = answers(np.random.default_rng(seed), recalls, size)
        (found,) = fr.FairnessReport.from_predictions(
            y, p, g, task="multiclass", metrics=["tpr"], num_replicates=300, seed=seed
        ).attributes
        e = found.gap("tpr").estimate
        covered.append(e.low <= true + 1e-12 and true <= e.high)
        for group, row in zip(found.groups, recalls, strict=True):
            values.append(group.metrics["tpr"].low <= np.mean(row) <= group.metrics["tpr"].high)
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)
    assert np.mean(values) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / len(values))


@pytest.mark.slow
def test_size_and_power_of_the_difference_of_mean_gaps():
    def rejected(second):
        count = 0
        for seed in range(100):
            rng = np.random.default_rng(seed)
            y, a, g = answers(rng, [[0.9] * 3, [0.6] * 3], 80)
            right = rng.random(len(y)) < np.asarray(second)[g, y]
            b = np.where(right, y, (y + rng.integers(1, 3, len(y))) % 3)
            count += fr.gap_difference_test(y, a, b, g, metric="tpr", num_replicates=300, seed=seed).p_value < 0.05
        return count / 100

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rejected([[0.9] * 3, [0.6] * 3]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)
        assert rejected([[0.8] * 3, [0.8] * 3]) > 0.6
