"""Comparing models: the report's intervals for every model's gaps, one set of draws for all, tests that keep their size."""

import math

import numpy as np
import pytest

import fairloss.metrics as fm
import fairloss.report as fr
from tests.report.test_report import data

sklearn = pytest.importorskip("sklearn.metrics")


def test_comparing_models():
    y, s, g = data(400)
    same = fr.gap_difference_test(y, s, s, g, num_replicates=200)
    assert (same.difference, same.p_value) == (0, 1)
    worse = np.where(g == 0, 1 - s, s)
    found = fr.gap_difference_test(y, s, worse, g, metric="auc", num_replicates=200)
    assert found.gap_b == pytest.approx(fm.auc_gap(y, worse, g))
    assert found.difference == pytest.approx(found.gap_b - fm.auc_gap(y, s, g))
    assert found.p_value == 1 / 201
    assert found.low > 0
    three = fr.compare_models(y, {"a": s, "b": worse, "c": s}, g, num_replicates=100)
    assert [m.name for m in three] == ["a", "b", "c"]
    assert three[0].against_first == {}
    assert three[2].gaps == three[0].gaps  # the same draws for every model
    with pytest.raises(ValueError, match="scores: .*model"):
        fr.compare_models(y, {}, g)
    assert fr.pareto_front([0.9, 0.9, 0.8], [0.1, 0.1, 0.1]).tolist() == [True, True, False]


def test_gaps_of_compared_models_are_the_reports():
    y, s, g = data(300, groups=3)
    names = ("accuracy", "auc", "tpr", "fpr", "ece", "positive_rate")
    models = {"a": s, "exact": np.where(y, 0.999, 0.001), "wrong in one": np.where(y == (g != 0), 0.999, 0.001)}
    found = fr.compare_models(y, models, g, metrics=names, num_replicates=150, level=0.9, seed=3)
    for model, score in zip(found, models.values(), strict=True):
        report = fr.FairnessReport.from_predictions(
            y, score, g, metrics=names, num_replicates=150, level=0.9, seed=3, intersections=False
        )
        for m in names:
            expected = report["group"].gap(m)
            e = expected.estimate
            assert model.gaps[m] == (e.value, e.low, e.high), m
            assert model.corrected[m] == expected.corrected, m
        assert model.warnings == report.warnings
    # No replicate of these varies: the rule of three gives the intervals their width, and none leaves [0, 1].
    value, low, high = found[1].gaps["accuracy"]
    assert (value, low) == (0, 0)
    assert 0.02 < high < 0.1
    value, low, high = found[2].gaps["accuracy"]
    assert (value, high) == (1, 1)
    assert 0.9 < low < 0.98


def test_compared_models_warn_of_groups_that_are_small_or_undefined():
    y, s, g = data(200, groups=2)
    g = np.array(["F", "M"], dtype=object)[g]
    g[:8], y[:8] = "X", 1
    never = np.where(g == "M", 0.0, s)  # without a positive decision in M: no false discovery rate
    metrics = ("accuracy", "fpr", "fdr")
    with pytest.warns(fm.UndefinedGroupWarning) as warned:
        found = fr.compare_models(y, {"a": s, "b": never}, g, metrics=metrics, num_replicates=100)
    assert [str(w.message) for w in warned] == [
        "fpr is undefined in group(s) X: left out",
        "fdr is undefined in group(s) M (b): left out",
    ]
    assert warned[0].filename == __file__
    assert found[0].warnings == (
        "group: X has 8 samples, too few to judge.",
        "group: FPR undefined in X, left out of the comparison.",
        "group: X left out of the comparisons of accuracy, FDR, being too small to judge.",
    )
    assert "group: FDR undefined in M, left out of the comparison." in found[1].warnings
    large = fr.compare_models(y, {"a": s}, {"sex": g}, metrics=["accuracy"], num_replicates=100, min_group_size=1000)
    assert [w.split(" has ")[0] for w in large[0].warnings] == ["sex: F", "sex: M", "sex: X"]
    # A category that nobody has is no group.
    codes = fm.cross_groups({"sex": g})
    codes = codes._replace(labels=("E", *codes.labels, "Y"), ids=codes.ids + 1)
    same = fr.compare_models(y, {"a": s}, codes, metrics=["accuracy"], num_replicates=100)
    assert (
        same[0].gaps == fr.compare_models(y[8:], {"a": s[8:]}, g[8:], metrics=["accuracy"], num_replicates=100)[0].gaps
    )
    assert same[0].warnings[0] == "group: X has 8 samples, too few to judge."


def test_comparing_models_over_one_group_or_none():
    y, s, _ = data(100)
    for groups, warning in (
        (["F"] * 100, "group: only F occurs, so there is nothing to compare."),
        ([None] * 100, "group: accuracy defined in fewer than two groups, so there is no gap."),
    ):
        models = fr.compare_models(y, {"a": s, "b": 1 - s}, groups, metrics=["accuracy"], num_replicates=100)
        assert all(np.isnan(m.gaps["accuracy"]).all() for m in models)
        assert np.isnan(models[1].against_first["accuracy"].p_value)
        assert models[0].warnings == (warning,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_replicates": 0}, "num_replicates: .*100, got 0"),
        ({"num_replicates": 1}, "num_replicates: .*got 1"),
        ({"num_replicates": -5}, "num_replicates: .*got -5"),
        ({"level": 95}, "level: .*95"),
        ({"level": 0.0}, r"level: .*0\.0"),
    ],
)
def test_comparing_models_refuses_wrong_resampling(change, message):
    y, s, g = data(100)
    with pytest.raises(ValueError, match=message):
        fr.compare_models(y, {"a": s}, g, **change)
    with pytest.raises(ValueError, match=message):
        fr.gap_difference_test(y, s, s, g, **change)


def test_undefined_models_are_not_on_the_front():
    nan = float("nan")
    assert fr.pareto_front([0.9, nan, 0.8, 0.99], [0.1, 0.0, 0.2, nan]).tolist() == [True, False, False, False]
    assert fr.pareto_front([nan], [0.1]).tolist() == [False]
    for performance, disparity, name in (([np.inf], [0.1], "performance"), ([0.5], [-np.inf], "disparity")):
        with pytest.raises(ValueError, match=f"{name}: .*an infinite value"):
            fr.pareto_front(performance, disparity)


@pytest.mark.slow
def test_size_of_the_gap_difference_test():
    rng = np.random.default_rng(0)
    truth, size, trials = [0.75, 0.85, 0.85], 200, 200
    g = np.repeat(np.arange(3), size)
    y = np.ones(len(g), dtype=int)
    rejected = 0
    for _ in range(trials):
        a, b = ((rng.random(len(g)) < np.repeat(truth, size)).astype(float) for _ in range(2))
        rejected += fr.gap_difference_test(y, a, b, g, num_replicates=300).p_value < 0.05
    assert rejected / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scores": [[0.1, 0.9] * 20]}, TypeError, "scores: .*mapping.*list"),
        ({"scores": np.ones((2, 40))}, TypeError, "scores: .*mapping.*ndarray"),
        ({"scores": {}}, ValueError, "scores: .*model"),
        ({"metrics": []}, ValueError, "metrics: "),
        ({"metrics": "auc"}, TypeError, "metrics: .*names.*'auc'"),
        ({"min_group_size": "a"}, TypeError, "min_group_size: .*an integer, got 'a'"),
        ({"num_replicates": 200.5}, TypeError, "num_replicates: .*an integer, got 200.5"),
        ({"seed": -1}, ValueError, "seed: .*0, got -1"),
    ],
)
def test_arguments_are_named(change, error, message):
    arguments = {"scores": {"a": [0.1, 0.9] * 20}, "num_replicates": 100} | change
    with pytest.raises(error, match=message):
        fr.compare_models([0, 1] * 20, groups=[0, 0, 1, 1] * 10, **arguments)


def test_scores_that_are_no_probabilities_are_refused_where_they_are_cut_at_one_half():
    y, g, s = [0, 1] * 20, [0, 0, 1, 1] * 10, np.array([0.1, 0.9] * 20)
    with pytest.raises(ValueError, match="y_pred: .* 10 .. 90; divide percentages by 100.*threshold"):
        fr.compare_models(y, {"a": s, "b": 100 * s}, g, num_replicates=100)
    first, second = fr.compare_models(y, {"a": s, "b": 100 * s}, g, metrics=["auc"], num_replicates=100)
    assert first.overall == second.overall


def test_comparison_without_a_known_group():
    scores = [0.9, 0.2, 0.4, 0.6]
    found = fr.gap_difference_test([1, 0, 1, 0], scores, scores, [-1] * 4, num_replicates=100)
    assert math.isnan(found.gap_a)
    assert math.isnan(found.p_value)


def test_areas_under_decisions_are_left_out(rng):
    y, g = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    score = np.clip(0.5 * y + 0.25 + 0.3 * rng.standard_normal(200), 0, 1)
    models = {"scores": score, "decisions": (score >= 0.5).astype(int)}
    for model in fr.compare_models(y, models, g, num_replicates=100):
        assert list(model.gaps) == ["accuracy", "tpr", "fpr"]
        assert "Decisions were given, not scores, by decisions: AUC is left out." in model.warnings
    for metric in ("auc", "ece"):
        with pytest.raises(
            ValueError, match=f"scores: .*of every model, for {metric}, got decisions of decisions alone"
        ):
            fr.compare_models(y, models, g, num_replicates=100, metrics=["accuracy", metric])
    assert "auc" in fr.compare_models(y, {"scores": score}, g, num_replicates=100)[0].gaps
    del models["scores"]
    area = fr.compare_models(y, models, g, num_replicates=100, metrics=["auc"])[0].overall["auc"]
    assert area == pytest.approx(sklearn.roc_auc_score(y, models["decisions"]))
    classes = rng.choice(["a", "b", "c"], (3, 200))
    found = fr.compare_models(classes[0], {"m": classes[1], "n": classes[2]}, g, num_replicates=100)
    assert list(found[0].gaps) == ["accuracy", "tpr", "fpr"]
