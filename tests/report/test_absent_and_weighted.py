"""Samples without a value or a weight are absent, and where weights differ Kish's effective number decides."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

import fairloss.metrics as fm
import fairloss.report as fr
from fairloss.report.sample import effective_patients
from fairloss.report.terminal import print_report
from tests.report.samples import data


def kish(w):
    return sum(w) ** 2 / sum(v * v for v in w)


def test_values_that_are_not_there_are_no_samples(rng):
    v = np.full(200, np.nan)
    v[0:6:2], v[1::2] = 1.0, rng.uniform(0.6, 0.9, 100)
    report = fr.FairnessReport.from_values({"dice": v}, {"site": ["A", "B"] * 100}, num_replicates=200)
    a, b = report["site"].groups
    e = a.metrics["dice"]
    assert (a.samples, a.patients, a.effective, a.small, e.few) == (3, 3, 3, True, True)
    assert (e.value, e.low, e.high) == (1, 0, 1)  # three of three: the rule of three says nothing
    assert (b.samples, b.small) == (100, False)
    assert report.settings["samples"] == report.overall["dice"].samples == 103
    assert "97 of 200 samples without a value of dice." in report.warnings
    assert "site: A has 3 samples, too few to judge." in report.warnings
    frame = report.to_frame()
    assert frame[frame.group == "A"].samples.tolist() == [3]


def test_each_value_has_its_own_count():
    rng = np.random.default_rng(0)
    cup, disc, g = rng.uniform(0.5, 0.9, 120), rng.uniform(0.5, 0.9, 120), np.repeat(["A", "B"], 60)
    cup[4:60] = np.nan
    patients = np.arange(120) // 2
    report = fr.FairnessReport.from_values({"cup": cup, "disc": disc}, g, patients=patients, num_replicates=100)
    a, b = report["group"].groups
    assert (a.samples, a.small, b.small) == (60, False, False)
    assert [(a.metrics[m].samples, a.metrics[m].patients, a.metrics[m].few) for m in ("cup", "disc")] == [
        (4, 2, True),
        (60, 30, False),
    ]
    assert "group: A has 2 patients with a value of cup, too few to judge." in report.warnings
    markdown = report.to_markdown()
    assert any("(!)" in line and line.startswith("| A |") for line in markdown.splitlines())
    gaps = {gap.name: gap for gap in report["group"].gaps}
    assert gaps["cup"].verdict == "too few"
    assert "worst A (!), best B" in markdown or "worst B, best A (!)" in markdown
    assert "(!)" in report.to_html()
    report.plot()


def test_samples_without_weight_are_not_there():
    y, s, _ = data(300, groups=1)
    g = np.array(["F"] * 106 + ["M"] * 194)
    w = np.ones(300)
    w[106:286] = 0
    patients = np.arange(300)
    report = fr.FairnessReport.from_predictions(
        y, s, {"sex": g}, sample_weight=w, patients=patients, num_replicates=200
    )
    there = w > 0
    plain = fr.FairnessReport.from_predictions(
        y[there], s[there], {"sex": g[there]}, patients=patients[there], num_replicates=200
    )
    one, other = report.to_dict(), plain.to_dict()  # every number of a report without these rows, intervals among them
    assert one["attributes"] == other["attributes"]
    assert one["overall"] == other["overall"]
    m = report["sex"].groups[1]
    assert (m.samples, m.effective, m.small) == (14, 14, True)
    assert report.warnings[0] == "180 samples of weight 0 left out."
    assert not report.settings["weighted"]
    models = fr.compare_models(y, {"a": s}, {"sex": g}, sample_weight=w, num_replicates=100)
    assert "sex: M has 14 samples, too few to judge." in models[0].warnings
    with pytest.raises(ValueError, match="sample_weight: expected a weight > 0, got none"):
        fr.FairnessReport.from_predictions(y, s, g, sample_weight=np.zeros(300))
    with pytest.raises(ValueError, match="dice: expected a value with a weight > 0"):
        fr.FairnessReport.from_values({"dice": [np.nan, 0.5] * 20}, [0, 1] * 20, sample_weight=[1, 0] * 20)


def test_one_heavy_sample_is_one_sample():
    w, y = np.ones(100), np.arange(200) % 2
    w[0] = 1e6
    report = fr.FairnessReport.from_predictions(
        y, y, np.repeat(["A", "B"], 100), metrics=["accuracy"], num_replicates=200,
        sample_weight=np.concatenate([w, np.ones(100)]),
    )  # fmt: skip
    a, b = report["group"].groups
    e = a.metrics["accuracy"]
    assert a.effective == pytest.approx(kish(w), abs=1e-6)
    assert (e.value, e.low, e.high, a.small) == (1, pytest.approx(0, abs=1e-3), 1, True)
    assert (b.effective, b.small, b.metrics["accuracy"].low) == (100, False, pytest.approx(0.963, abs=0.001))
    assert report["group"].gap("accuracy").estimate.high == pytest.approx(1, abs=1e-3)
    assert "group: A has 100 samples, worth 1.0 of equal weight, too few to judge." in report.warnings
    # Nor does it matter that one of the light ones is wrong, which makes replicates vary.
    s = y.copy()
    s[50] = 1
    report = fr.FairnessReport.from_predictions(
        y, s, np.repeat(["A", "B"], 100), metrics=["accuracy"], num_replicates=200,
        sample_weight=np.concatenate([w, np.ones(100)]),
    )  # fmt: skip
    assert report["group"].groups[0].metrics["accuracy"].low < 0.3


def test_every_form_of_a_report_says_that_it_is_weighted(capsys, monkeypatch, rng):
    monkeypatch.setenv("COLUMNS", "200")
    y, s, g = data(200, groups=2)
    w = rng.random(200) + 0.1
    options = {"num_replicates": 100, "metrics": ["accuracy", "tpr"]}
    report = fr.FairnessReport.from_predictions(y, s, g, sample_weight=w, **options)
    print_report(report)
    line = f"200 samples, each taken as one patient, weighted: worth {kish(w):.1f} of equal weight."
    for text in (capsys.readouterr().out, report.to_markdown(), report.to_html()):
        assert line in text
        assert "effective n" in text
        assert f"{kish(w[g == 0]):.1f}" in text
    found = json.loads(json.dumps(report.to_dict()))
    assert (found["settings"]["weighted"], found["settings"]["effective"]) == (True, pytest.approx(kish(w)))
    assert [k["effective"] for k in found["attributes"]["group"]["groups"]] == pytest.approx(
        [kish(w[g == k]) for k in (0, 1)]
    )
    assert report.to_frame().query("kind == 'group'").effective.iloc[0] == pytest.approx(kish(w[g == 0]))
    models = fr.compare_models(y, {"a": s}, g, sample_weight=w, **options)
    assert f"Weighted: 200 samples, worth {kish(w):.1f} of equal weight." in models[0].warnings
    # Equal weights, whatever they are, change nothing and are none.
    same = fr.FairnessReport.from_predictions(y, s, g, sample_weight=np.full(200, 0.1), **options)
    plain = fr.FairnessReport.from_predictions(y, s, g, **options)
    assert not same.settings["weighted"]
    assert "effective n" not in same.to_markdown()
    for a, b in zip(same["group"].groups, plain["group"].groups, strict=True):
        assert (a.samples, a.effective, a.small) == (b.samples, b.effective, b.small)


def test_effective_number_of_patients_against_loops(rng):
    for _ in range(20):
        n = int(rng.integers(1, 60))
        ids, patient, w = (
            rng.integers(-1, 3, n),
            rng.integers(0, 20, n),
            rng.exponential(1, n) * 10.0 ** rng.integers(-200, 200),
        )
        found = effective_patients(ids, 3, patient, w)
        for g in range(3):
            means = [w[(ids == g) & (patient == p)].mean() for p in set(patient[ids == g].tolist())]
            expected = kish([m / max(means) for m in means]) if means else 0
            assert found[g] == pytest.approx(expected, abs=1e-8)


def test_undefined_values_have_no_interval_anywhere():
    """Whatever has no value has no low, high or corrected value either, in any report or comparison."""
    checked = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n, classes = int(rng.integers(4, 60)), int(rng.integers(2, 4))
        y, g = rng.integers(0, classes, n), rng.integers(-1, 3, n)
        p = rng.dirichlet(np.ones(classes), n)
        y[g == 0], p[g == 1] = 0, np.eye(classes)[0]
        if not (g >= 0).any():
            continue
        score, w = (p[:, 1] if classes == 2 else p), None if seed % 2 else rng.exponential(1, n)
        options = {"num_replicates": 100, "sample_weight": w}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fm.UndefinedGroupWarning)
            task = "binary" if classes == 2 else "multiclass"
            labels = {} if classes == 2 else {"labels": range(classes)}
            report = fr.FairnessReport.from_predictions(y, score, g, task=task, **labels, **options)
            models = (
                fr.compare_models(y, {"a": score, "b": score[::-1]}, g, **options) if y.max() == classes - 1 else []
            )
        estimates = [*report.overall.values()]
        estimates += [e for a in report.attributes for k in a.groups for e in k.metrics.values()]
        estimates += [gap.estimate for a in report.attributes for gap in a.gaps]
        triples = [(e.value, e.low, e.high) for e in estimates]
        triples += [(gap.estimate.value, gap.corrected) for a in report.attributes for gap in a.gaps]
        for model in models:
            triples += [*model.gaps.values(), *[(model.gaps[m][0], model.corrected[m]) for m in model.gaps]]
            triples += [(d.difference, d.low, d.high, d.p_value) for d in model.against_first.values()]
        for value, *rest in triples:
            if np.isnan(value):
                checked += 1
                assert np.isnan(rest).all()
    assert checked > 20


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "accuracy"), [(0.5, [0.8, 0.8]), (1.0, [0.95, 0.85]), (1.5, [0.8, 0.7])])
def test_intervals_of_weighted_groups_cover(spread, accuracy):
    """Log-normal weights: 200 samples are worth 157, 81 and 36."""
    g, trials = np.repeat([0, 1], 200), 150
    values, gaps = [], []
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        w = np.exp(spread * rng.standard_normal(400))
        right = (rng.random(400) < np.array(accuracy)[g]).astype(int)
        (found,) = fr.FairnessReport.from_predictions(
            np.ones(400, int), right, g, metrics=["accuracy"], sample_weight=w, num_replicates=300, seed=seed
        ).attributes
        for group, truth in zip(found.groups, accuracy, strict=True):
            e = group.metrics["accuracy"]
            values.append(e.low <= truth <= e.high)
        e = found.gap("accuracy").estimate
        gaps.append(e.low <= accuracy[0] - accuracy[1] + 1e-12 and accuracy[0] - accuracy[1] <= e.high)
    assert np.mean(values) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / (2 * trials))
    assert np.mean(gaps) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_comparison_of_samples_without_a_known_group_has_overall_values_alone():
    found = fr.compare_models([1, 0, 1, 0], {"a": [0.2, 0.4, 0.9, 0.1]}, [None] * 4, num_replicates=100)
    assert found[0].overall["auc"] == 0.75
    assert np.isnan(found[0].gaps["auc"]).all()
