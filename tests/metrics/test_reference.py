"""The metrics against what the authors' released code, scikit-learn and fairlearn return."""

import json
import subprocess
import sys
from pathlib import Path

import fairlearn.metrics as fl
import numpy as np
import pytest
import sklearn.metrics as sk

import fairloss.metrics as fm

DATA = Path(__file__).parents[1] / "data"
EXPECTED = json.loads((DATA / "reference_metrics.json").read_text())
ARRAYS = np.load(DATA / "reference_metrics.npz")
NAMES = {"acc": "accuracy", "auc": "auc", "tpr": "tpr", "tnr": "tnr", "bce": "bce", "ece": "ece"}


def case(name):
    return ARRAYS[f"{name}_y"], ARRAYS[f"{name}_s"], ARRAYS[f"{name}_g"]


@pytest.mark.parametrize("name", ["cls0", "cls1", "cls2"])
def test_fairmedfm_per_group(name):
    y, s, g = case(name)
    compared = 0
    best = fm.best_f1_threshold(y, s)
    for key, expected in EXPECTED[name]["fairmedfm_sub"].items():
        short, _, at = key.partition("@")
        # The released code finds the threshold with ">=" and applies it with ">".
        threshold = best if at == "best_f1" else 0.5
        tolerance = 1e-7 if short in ("ece", "bce") else 1e-9
        if short in ("tp", "fp", "fn", "tn"):
            rate = {"tp": "tpr", "fn": "fnr", "fp": "fpr", "tn": "tnr"}[short]
            result = fm.group_metric(rate, y, s, g, threshold=threshold, strict=True)
            base = result.positives if short in ("tp", "fn") else result.counts - result.positives
            actual = result.values * base
        else:
            result = fm.group_metric(NAMES[short], y, s, g, threshold=threshold, strict=True, strategy="range")
            actual = result.values
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=key)
        compared += 1
    assert compared == 20


@pytest.mark.parametrize("name", ["cls0", "cls1", "cls2"])
def test_fairmedfm_summaries(name):
    y, s, g = case(name)
    e = EXPECTED[name]["fairmedfm"]
    rule = {"threshold": fm.best_f1_threshold(y, s), "strict": True}
    ece = fm.group_metric("ece", y, s, g, strategy="range")
    bce = fm.group_metric("bce", y, s, g)
    auc = fm.group_metric("auc", y, s, g)
    exact = {
        "overall-auc": auc.overall,
        "worst-auc": auc.worst(),
        "auc-gap": fm.auc_gap(y, s, g),
        "overall-acc": fm.group_metric("accuracy", y, s, g, **rule).overall,
        "acc-gap": fm.max_accuracy_gap(y, s, g, **rule),
        "eod": fm.equalized_odds_difference(y, s, g, agg="score", **rule),
        "eo": fm.equal_opportunity_difference(y, s, g, **rule),
    }
    rounded = {
        "overall-ece": ece.overall,
        "ece-gap": fm.calibration_gap(y, s, g, strategy="range"),
        "overall-bce": bce.overall,
        "bce-gap": bce.gap(),
    }
    assert set(exact) | set(rounded) == set(e)
    for key, value in exact.items():
        assert value == pytest.approx(e[key], abs=1e-9), key
    for key, value in rounded.items():
        assert value == pytest.approx(e[key], abs=1e-7), key


@pytest.mark.parametrize("name", ["cls0", "cls1", "cls2"])
def test_fairvision_and_fairlearn(name):
    y, s, g = case(name)
    e = EXPECTED[name]["fairvision"]
    accuracy, auc = fm.group_metric("accuracy", y, s, g), fm.group_metric("auc", y, s, g)
    assert accuracy.equity_scaled(penalty="sum_abs") == pytest.approx(e["es_acc"], abs=1e-9)
    assert fm.equity_scaled_auc(y, s, g, penalty="sum_abs") == pytest.approx(e["es_auc"], abs=1e-9)
    psd = [fm.performance_scaled_disparity(auc.overall, auc, reduce=r) for r in ("mean", "max")]
    assert psd == pytest.approx(e["psd"], abs=1e-9)
    e = EXPECTED[name]["fairlearn"]
    found = {
        "dpd": fm.demographic_parity_difference(y, s, g),
        "dpr": fm.demographic_parity_ratio(y, s, g),
        "eod": fm.equalized_odds_difference(y, s, g),
        "eod_mean": fm.equalized_odds_difference(y, s, g, agg="mean"),
        "eor": fm.equalized_odds_ratio(y, s, g),
        "eopp": fm.equal_opportunity_difference(y, s, g),
    }
    assert found == pytest.approx(e, abs=1e-9)


@pytest.mark.parametrize("name", ["seg0", "seg1"])
def test_segmentation_summaries(name):
    dice, g = ARRAYS[f"{name}_dice"], ARRAYS[f"{name}_g"]
    e, result = EXPECTED[name]["fairmedfm"], fm.group_mean(dice, g)
    found = {
        "mean_dice": result.overall,
        "min_dice": result.worst(),
        "max_dice": result.values.max(),
        "delta_dice": result.gap(),
        "skewness_dice": fm.error_skew(result),
        "std_dice": result.std(ddof=0),
        "es_dice": result.equity_scaled(penalty="std", ddof=0),
    }
    assert found == pytest.approx(e, abs=1e-9)
    assert result.equity_scaled(penalty="sum_abs") == pytest.approx(EXPECTED[name]["fairseg_sum"], abs=1e-9)
    assert result.equity_scaled(penalty="std", ddof=1) == pytest.approx(EXPECTED[name]["fairseg_std"], abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_random_cases_match_scikit_learn_and_fairlearn(seed):
    rng = np.random.default_rng(seed)
    n, groups = int(rng.integers(60, 300)), int(rng.integers(2, 5))
    g = rng.integers(0, groups, n)
    y = rng.integers(0, 2, n)
    y[: 4 * groups], g[: 4 * groups] = np.tile([0, 1], 2 * groups), np.repeat(np.arange(groups), 4)
    s = np.round(rng.random(n), 2 if seed % 2 else 12)
    d = (s >= 0.5).astype(int)
    d[: 4 * groups : 4], s[: 4 * groups : 4] = 1, 0.75
    w = rng.random(n) if seed % 3 == 0 else None
    sk_names = {
        "accuracy": sk.accuracy_score,
        "precision": sk.precision_score,
        "tpr": sk.recall_score,
        "f1": sk.f1_score,
        "balanced_accuracy": sk.balanced_accuracy_score,
    }
    for k in range(groups):
        at = g == k
        wk = None if w is None else w[at]
        for name, reference in sk_names.items():
            ours = fm.group_metric(name, y, s, g, sample_weight=w).values[k]
            assert ours == pytest.approx(reference(y[at], d[at], sample_weight=wk), abs=1e-12), name
        for name, reference in {"auc": sk.roc_auc_score, "bce": sk.log_loss, "brier": sk.brier_score_loss}.items():
            ours = fm.group_metric(name, y, s, g, sample_weight=w).values[k]
            p = s[at] if name != "bce" else np.clip(s[at], 1e-40, 1)
            if name == "bce" and ((s[at] == 0) | (s[at] == 1)).any():
                continue  # scikit-learn cuts probabilities elsewhere
            assert ours == pytest.approx(reference(y[at], p, sample_weight=wk), abs=1e-12), name
    arguments = {"sensitive_features": g, "sample_weight": w}
    for ours, reference, extra in [
        (fm.demographic_parity_difference, fl.demographic_parity_difference, {}),
        (fm.demographic_parity_ratio, fl.demographic_parity_ratio, {}),
        (fm.equalized_odds_difference, fl.equalized_odds_difference, {}),
        (fm.equalized_odds_difference, fl.equalized_odds_difference, {"agg": "mean"}),
        (fm.equalized_odds_ratio, fl.equalized_odds_ratio, {}),
        (fm.equalized_odds_ratio, fl.equalized_odds_ratio, {"agg": "mean"}),
        (fm.equal_opportunity_ratio, fl.equal_opportunity_ratio, {}),
        (fm.equal_opportunity_difference, fl.equal_opportunity_difference, {}),
    ]:
        assert ours(y, s, g, sample_weight=w, **extra) == pytest.approx(
            reference(y, d, **arguments, **extra), abs=1e-12
        )


@pytest.mark.parametrize("seed", range(6))
def test_multiclass_matches_scikit_learn(seed):
    rng = np.random.default_rng(100 + seed)
    n, classes = 400, 4
    y, g = rng.integers(0, classes, n), rng.integers(0, 3, n)
    p = rng.dirichlet(np.ones(classes), n)
    p[np.arange(n), y] += rng.random(n)
    p /= p.sum(axis=1, keepdims=True)
    d = p.argmax(axis=1)
    for k in range(3):
        at = g == k
        assert fm.group_metric("accuracy", y, p, g).values[k] == pytest.approx(sk.accuracy_score(y[at], d[at]))
        assert fm.group_metric("f1", y, d, g).values[k] == pytest.approx(sk.f1_score(y[at], d[at], average="macro"))
        assert fm.group_metric("tpr", y, p, g).values[k] == pytest.approx(
            sk.recall_score(y[at], d[at], average="macro")
        )
        expected = sk.roc_auc_score(y[at], p[at], multi_class="ovr", average="macro")
        assert fm.group_metric("auc", y, p, g).values[k] == pytest.approx(expected)
    per_class = [fl.equalized_odds_difference(y == c, d == c, sensitive_features=g) for c in range(classes)]
    for ours, reference in [
        (fm.equalized_odds_difference, fl.equalized_odds_difference),
        (fm.equalized_odds_ratio, fl.equalized_odds_ratio),
    ]:
        for agg in ("worst_case", "mean"):
            of_classes = [reference(y == c, d == c, sensitive_features=g, agg=agg) for c in range(classes)]
            assert ours(y, p, g, agg=agg) == pytest.approx(np.mean(of_classes))
            extreme = min(of_classes) if ours is fm.equalized_odds_ratio else max(of_classes)
            assert ours(y, p, g, agg=agg, over_classes="max_gap") == pytest.approx(extreme)
    tpr = [fl.true_positive_rate_difference(y == c, d == c, sensitive_features=g) for c in range(classes)]
    assert fm.equal_opportunity_difference(y, p, g) == pytest.approx(np.mean(tpr))
    assert fm.equal_opportunity_difference(y, p, g, over_classes="max_gap") == pytest.approx(np.max(tpr))
    fpr = [fl.false_positive_rate_difference(y == c, d == c, sensitive_features=g) for c in range(classes)]
    assert fm.false_positive_rate_difference(y, p, g) == pytest.approx(np.mean(fpr))
    score = [1 - (a + b) / 2 for a, b in zip(tpr, fpr, strict=True)]
    assert fm.equalized_odds_difference(y, p, g, agg="score") == pytest.approx(np.mean(score))
    assert fm.equalized_odds_difference(y, p, g, agg="score", over_classes="max_gap") == pytest.approx(min(score))
    assert max(per_class) == pytest.approx(fm.equalized_odds_difference(y, p, g, over_classes="max_gap"))


def test_equalized_odds_of_three_classes_are_the_mean_over_classes_of_fairlearns():
    """By hand 1/2, 1/2 and 1: the mean of each rate's gaps, taken first, is 0.5."""
    y, d, g = np.array([0, 0, 1, 1, 2, 2] * 2), np.array([2, 0, 0, 0, 1, 2, 1, 0, 1, 1, 2, 2]), np.repeat([0, 1], 6)
    of_classes = [fl.equalized_odds_difference(y == c, d == c, sensitive_features=g) for c in range(3)]
    assert fm.equalized_odds_difference(y, d, g) == pytest.approx(np.mean(of_classes)) == pytest.approx(2 / 3)
    # The rates averaged over classes first: TPR 1/3 and 5/6, FPR 1/3 and 1/12.
    assert fm.equalized_odds_difference(y, d, g, over_classes="gap_of_mean") == pytest.approx(1 / 2)


def test_a_class_without_one_of_the_two_gaps_is_left_out_of_equalized_odds():
    """Only the first group has the class 2, whose TPR has no gap."""
    y, d, g = [0, 1, 2, 0, 1, 0], [0, 1, 1, 1, 1, 0], list("aaabbb")
    with pytest.warns(fm.UndefinedGroupWarning):
        found = fm.equalized_odds_difference(y, d, g)
    with pytest.warns(fm.UndefinedGroupWarning):
        binary = fm.equalized_odds_difference([0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1])
    assert found == pytest.approx((1 / 2 + 0) / 2)  # class 0: TPR 1 and 1/2; class 1: alike
    assert np.isnan(binary)


def test_importing_and_using_the_metrics_leaves_torch_out():
    code = "import sys, fairloss.metrics as m; [getattr(m, n) for n in m.__all__]; m.max_accuracy_gap([1, 0], [1, 0], [0, 1])"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
