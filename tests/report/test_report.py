"""The fairness report: replicates against naive oracles, honest intervals, less biased gaps, every output form."""

import html
import json
import re
import tracemalloc

import numpy as np
import pandas as pd
import pytest

import fairloss.metrics as fm
import fairloss.report as fr
from fairloss.report.terminal import print_report
from tests.report.samples import data

METRICS = ("accuracy", "auc", "tpr", "fpr", "fdr", "f1", "positive_rate", "ece")


def test_values_are_those_of_the_metrics(report):
    y, s, _ = data(600, effect=0.15)
    sex = np.where(np.arange(600) % 2, "F", "M").astype(object)
    sex[:10] = None
    found = report["sex"]
    assert found.unknown == 10
    assert set(report.overall) == set(METRICS) - {"fpr", "fdr"} | {"tnr", "precision", "npv", "prevalence"}
    for metric in report.overall:
        expected = fm.group_metric(metric, y, s, sex)
        assert [grp.metrics[metric].value for grp in found.groups] == pytest.approx(expected.values)
        assert report.overall[metric].value == pytest.approx(expected.overall)
        assert found.gap(metric).estimate.value == pytest.approx(expected.gap())
        for estimate in [grp.metrics[metric] for grp in found.groups]:
            assert estimate.low <= estimate.value <= estimate.high or metric == "ece"
    assert found.gap("equalized_odds").estimate.value == pytest.approx(fm.equalized_odds_difference(y, s, sex))
    assert found.gap("demographic_parity_ratio").estimate.value == pytest.approx(fm.demographic_parity_ratio(y, s, sex))
    assert found.gap("equity_scaled_auc").estimate.value == pytest.approx(fm.equity_scaled_auc(y, s, sex))
    assert [grp.samples for grp in found.groups] == [np.sum(sex == "F"), np.sum(sex == "M")]
    assert {a.name for a in report.attributes} == {"sex", "age", "sex & age"}
    for attribute in report.attributes:
        for gap in attribute.gaps:
            e = gap.estimate
            if not np.isnan(e.low):
                assert e.low <= e.value <= e.high, gap
    with pytest.raises(KeyError, match="the attributes are sex, age"):
        report["race"]
    with pytest.raises(KeyError, match="the comparisons are accuracy"):
        found.gap("dice")


def test_small_groups_are_warned_of(report):
    assert any("<unstated> has 4 samples, too few to judge" in w for w in report.warnings)
    assert [g.small for g in report["age"].groups] == [False, False, False, True]
    assert not any(g.small for g in report["sex"].groups)


def test_same_seed_same_report():
    y, s, g = data(100)
    one, two, other = (fr.FairnessReport.from_predictions(y, s, g, num_replicates=100, seed=k) for k in (1, 1, 2))
    assert json.dumps(one.to_dict()) == json.dumps(two.to_dict()) != json.dumps(other.to_dict())


def test_dict_frame_and_markdown(report):
    found = report.to_dict()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["attributes"]["sex"]["gaps"]["accuracy"]["worst"] in ("F", "M")
    frame = report.to_frame()
    assert isinstance(frame, pd.DataFrame)
    row = frame[(frame.attribute == "sex") & (frame.group == "F") & (frame.metric == "auc")]
    assert row.value.item() == found["attributes"]["sex"]["groups"][0]["metrics"]["auc"]["value"]
    assert set(frame.kind) == {"overall", "group", "gap"}
    markdown = report.to_markdown()
    assert "| F | 295 |" in markdown
    assert "## sex & age: comparisons" in markdown
    assert "- age: <unstated> has 4 samples" in markdown


def test_other_tasks(rng):
    y, g = rng.integers(0, 3, 300), rng.integers(0, 2, 300)
    p = rng.dirichlet(np.ones(3), 300)
    p[np.arange(300), y] += 0.5
    p /= p.sum(axis=1, keepdims=True)
    multiclass = fr.FairnessReport.from_predictions(y, p, {"g": g}, num_replicates=100)
    # A mean over classes of positive rates is one over their number, whatever the model does.
    assert set(multiclass.overall) == set(METRICS) - {"positive_rate"}
    for metric in multiclass.overall:
        expected = fm.group_metric(metric, y, p, g)
        assert [k.metrics[metric].value for k in multiclass["g"].groups] == pytest.approx(expected.values)
        assert multiclass.overall[metric].low < expected.overall < multiclass.overall[metric].high or metric == "ece"
    labels = fr.FairnessReport.from_predictions(y, p.argmax(axis=1), g, num_replicates=100)
    assert "auc" not in labels.overall
    assert labels["group"].gap("accuracy").estimate.value == multiclass["g"].gap("accuracy").estimate.value
    t = rng.integers(0, 2, (300, 4))
    multilabel = fr.FairnessReport.from_predictions(t, rng.random((300, 4)), g, num_replicates=100)
    assert "ece" not in multilabel.overall
    logits = fr.FairnessReport.from_predictions(y == 1, rng.standard_normal(300), g, threshold=0.0, num_replicates=100)
    assert "ece" not in logits.overall
    assert any("no probabilities" in w for w in logits.warnings)
    decisions = fr.FairnessReport.from_predictions(y == 1, rng.integers(0, 2, 300), g, num_replicates=100)
    assert any("not scores" in w for w in decisions.warnings)
    frame = pd.DataFrame({"sex": g, "age": 1 - g, "site": rng.integers(0, 2, 300)})
    three = fr.FairnessReport.from_predictions(y == 1, p[:, 1], frame, num_replicates=100)
    names = [a.name for a in three.attributes]
    assert names == ["sex", "age", "site", "sex & age", "sex & site", "age & site", "sex & age & site"]
    convention = fr.FairnessReport.from_predictions(
        y, p, g, num_replicates=100, convention="fairgrpo", metrics=("accuracy", "fdr")
    )
    expected = fm.group_metric("accuracy", y, p, g, convention="fairgrpo")
    assert convention["group"].gap("accuracy").estimate.value == pytest.approx(expected.gap())


def test_undefined_values_are_shown_as_such():
    y, s, g = data(200)
    y[g == 2] = 0
    found = fr.FairnessReport.from_predictions(y, s, g, num_replicates=100)
    assert np.isnan(found["group"].groups[2].metrics["tpr"].value)
    assert any("AUC, TPR undefined in 2" in w for w in found.warnings)
    assert found.to_dict()["attributes"]["group"]["groups"][2]["metrics"]["tpr"]["value"] is None
    assert "n/a" in found.to_markdown()
    assert "undefined" in [t.get_text() for axis in found.plot().axes for t in axis.texts]
    assert found["group"].gap("tpr").estimate.value == pytest.approx(
        fm.gap(fm.group_metric("tpr", y[g < 2], s[g < 2], g[g < 2]))
    )


def test_one_group_and_rare_positives():
    y, s, _ = data(60)
    alone = fr.FairnessReport.from_predictions(y, s, ["all"] * 60, num_replicates=100)
    gap = alone["group"].gap("accuracy")
    assert np.isnan([gap.estimate.value, gap.estimate.low, gap.corrected]).all()
    assert not gap.clear
    assert "group: only all occurs, so there is nothing to compare." in alone.warnings
    assert "n/a" in alone.to_markdown()
    assert "undefined" in alone.to_html()
    y[:] = 0
    y[:2] = 1
    rare = fr.FairnessReport.from_predictions(y, s, [0] * 30 + [1] * 30, num_replicates=100)
    assert any("AUC, TPR undefined in over 5% of the bootstrap replicates of 0" in w for w in rare.warnings)


def test_what_a_reader_is_told(report, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    y, s, g = data(200)
    s[g == 2] = 1 - s[g == 2]
    names = np.array(["a\nb", "c", "d|e"], dtype=object)[g]
    small = np.flatnonzero(g == 2)[5:]
    y, s, names = (np.delete(v, small) for v in (y, s, names))
    names[0] = None
    patients = np.arange(len(y)) // 2
    found = fr.FairnessReport.from_predictions(
        y, s, names, patients=patients, metrics=["accuracy", "tpr"], num_replicates=100, threshold=0.4, strict=True
    )
    print_report(found)
    terminal, markdown, page = capsys.readouterr().out, found.to_markdown(), html.unescape(found.to_html())
    first, _, tiny = found["group"].groups
    basis = (
        f"{len(y)} samples of {len(set(patients))} patients. A score above 0.4 is a positive decision. In brackets: 95%"
    )
    for text in (terminal, markdown, page):
        assert basis in text
        assert "sensitivity (TPR): the share of the positives that are called positive." in text
        assert "fewer than 30 patients, or fewer than ten positives or negatives, too few to judge" in text
        assert "1 sample of unknown group left out" in text
        assert "equity-scaled" not in text
        assert "ECE" not in text
    # The worst group is too small to be called so, and is not.
    assert min(found["group"].groups, key=lambda g: g.metrics["accuracy"].value).label == "d|e"
    gap = found["group"].gap("accuracy")
    assert (gap.worst, gap.left_out) == ("c", ("d|e",))
    for text in (terminal, markdown, page):
        assert "d|e left out of the comparisons, being too small to judge." in text
    assert re.search(
        rf"samples +{len(y)} +{first.samples} .*\n *patients +{len(set(patients))} +{first.patients} ", terminal
    )
    # Rows stay rows.
    assert f"| a b | {first.samples} | {first.patients} | {first.positives} | " in markdown
    assert f"| d\\|e (!) | {tiny.samples} | {tiny.patients} | " in markdown
    assert '<th scope="row">d|e (!)</th>' in page
    assert (
        "600 samples, each taken as one patient. A score of at least 0.5 is a positive decision."
        in report.to_markdown()
    )
    three = fr.FairnessReport.from_predictions(np.arange(60) % 3, np.eye(3)[np.arange(60) % 3], ["F", "M"] * 30,
                                               num_replicates=100)  # fmt: skip
    assert "The class with the largest score is the decision." in three.to_markdown()
    assert "threshold" not in three.to_markdown()
    values = fr.FairnessReport.from_values({"auc": y}, names, num_replicates=100).to_markdown()
    assert "AUC:" not in values  # no AUC, whatever its name


def test_equal_groups_have_no_worst():
    y = np.tile([0, 1, 1, 1], 50)
    found = fr.FairnessReport.from_predictions(y, 0.9 * y, np.repeat(["F", "M"], 100), num_replicates=100)
    gap = found["group"].gap("accuracy")
    assert (gap.estimate.value, gap.best, gap.worst) == (0, None, None)
    plain = found.to_dict()["attributes"]["group"]["gaps"]["accuracy"]
    assert (plain["best"], plain["worst"]) == (None, None)
    assert "| accuracy gap | 0.000 [0.000, 0.060] | 0.000 | not shown |" in found.to_markdown()
    assert '<th scope="row">accuracy gap</th>' in found.to_html()
    found.to_frame()
    # A difference of rounding is none, at any scale.
    values = {"one": [0.1 + 0.2, 0.3] * 30, "large": [3e9 * (0.1 + 0.2), 9e8] * 30, "other": [0.3, 0.3001] * 30}
    gaps = fr.FairnessReport.from_values(values, ["F", "M"] * 30, num_replicates=100)["group"].gaps
    assert [gap.worst for gap in gaps] == [None, None, "F"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_replicates": 10}, "num_replicates: .*got 10"),
        ({"level": 95}, "level: .*95"),
        ({"metrics": ["acc"]}, "metrics: .*got 'acc'"),
        ({"groups": {}}, "groups: .*attribute"),
        ({"groups": {"sex": [None] * 100}}, "every sample of 'sex' is unknown"),
        ({"patients": [1, 2]}, r"patients: .*\(2,\)"),
        ({"metrics": []}, "metrics: "),
        ({"metrics": "accuracy"}, "metrics: .*names.*'accuracy'"),
        ({"metrics": 3}, r"metrics: .*names.*\b3\b"),
        ({"metrics": [["accuracy"]]}, r"metrics: .*got \['accuracy'\]"),
        ({"min_group_size": "a"}, "min_group_size: .*integer, got 'a'"),
        ({"min_group_size": -1}, "min_group_size: .*got -1"),
        ({"num_replicates": 200.5}, "num_replicates: .*integer, got 200.5"),
        ({"level": "a"}, "level: .*number, got 'a'"),
        ({"seed": -1}, "seed: .*0, got -1"),
        ({"seed": None}, "seed: .*integer, got None"),
        ({"groups": {"a": [0] * 100, "b": [0] * 100, "a & b": [0] * 100}}, "groups: .*'a & b', .*intersections=False"),
        ({"groups": {"a": [0] * 100, "b": [0] * 100, "c": [0] * 100, "a & b": [0] * 100}}, "groups: .*got 'a & b'"),
        (
            {"groups": {"a & b": [0] * 100, "a": [0] * 100, "b & c": [0] * 100, "c": [0] * 100}},
            "groups: .*got 'a & b & c', .* of 'a', 'b & c'",
        ),
        ({"groups": {1: [0] * 100, "1": [0] * 100}}, r"groups: .*different names, got \[1, '1'\]"),
    ],
)
def test_errors(change, message):
    y, s, g = data(100)
    arguments = {"groups": g, "num_replicates": 100} | change
    with pytest.raises((TypeError, ValueError), match=message):
        fr.FairnessReport.from_predictions(y, s, **arguments)


def test_resampling_sorts_by_the_block_and_holds_one_block(monkeypatch):
    y, s, g = data(3000, groups=6)
    sorts, original = [], np.argsort
    monkeypatch.setattr(np, "argsort", lambda a, *rest, **kw: (sorts.append(len(a)), original(a, *rest, **kw))[1])
    peaks = []
    for replicates in (1000, 4000):
        sorts.clear()
        tracemalloc.start()
        fr.FairnessReport.from_predictions(y, s, g, num_replicates=replicates)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        # Two for each AUC (of 6 groups, and three times of all samples) and block, and a few for the values themselves.
        blocks = -(-replicates // (2_000_000 // len(y)))
        assert len(sorts) <= 18 * blocks + 10 < replicates / 5
    assert peaks[1] < 1.2 * peaks[0]


def test_scores_that_are_no_probabilities_are_refused_where_they_are_cut_at_one_half():
    y, s, g = data(100)

    def report(score, **options):
        return fr.FairnessReport.from_predictions(y, score, g, num_replicates=100, **options)

    s[0] = 1.0
    with pytest.raises(ValueError, match="y_pred: .*0 .. 100; divide percentages by 100"):
        report(100 * s)
    with pytest.raises(ValueError, match="y_pred: .*-1 .. 3; pass logits=True"):
        report(4 * s - 1)
    report(100 * s, metrics=["auc"])
    found = report(100 * s, threshold=50)
    assert "ece" not in found.overall
    assert "The scores are no probabilities in [0, 1]: calibration is left out." in found.warnings
    # The largest score decides among classes, whatever the scale; their AUC is one of probabilities.
    columns = np.stack([50 * s, 100 - 50 * s, 0 * s], axis=1)
    report(columns, metrics=["accuracy"])
    with pytest.raises(ValueError, match="probabilities in .*auc.*logits=True"):
        report(columns)


def test_undefined_equalized_odds_have_no_interval():
    """B has no positive: its TPR, and with it the larger of the two gaps, is undefined."""
    y = [0, 1] * 50 + [0] * 100
    report = fr.FairnessReport.from_predictions(y, y, ["A"] * 100 + ["B"] * 100, num_replicates=100)
    found = report.to_dict()["attributes"]["group"]["gaps"]["equalized_odds"]
    assert [found[k] for k in ("value", "low", "high", "corrected")] == [None] * 4
    row = report.to_frame().query("metric == 'equalized_odds'")
    assert row[["value", "low", "high"]].isna().all(axis=None)
    # One that is defined keeps both ends.
    y = [0, 1] * 100
    found = fr.FairnessReport.from_predictions(y, y, ["A"] * 100 + ["B"] * 100, num_replicates=100)
    odds = found["group"].gap("equalized_odds").estimate
    assert 0 <= odds.low <= odds.value <= odds.high <= 1


def test_one_area_is_not_scaled():
    y, s, g = data(200, groups=2)
    alone = fr.FairnessReport.from_predictions(y, s, ["all"] * 200, num_replicates=100)
    y[g == 1] = 0
    half = fr.FairnessReport.from_predictions(y, s, g, num_replicates=100)
    for found in (alone, half):
        e = found["group"].gap("equity_scaled_auc").estimate
        assert np.isnan([e.value, e.low, e.high]).all()
        assert "| equity-scaled AUC (mean_abs) | n/a |" in found.to_markdown()


def test_small_groups_come_with_counts_and_warnings(rng):
    y, p, g = rng.integers(0, 2, 60), rng.random(60), np.array(["A"] * 55 + ["B"] * 5)
    report = fr.FairnessReport.from_predictions(y, p, {"site": g}, num_replicates=100)
    assert [group.samples for group in report["site"].groups] == [55, 5]
    assert report["site"].groups[1].small
    assert any("B" in note for note in report.warnings)
