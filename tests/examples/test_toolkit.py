"""The examples' toolkit: bootstrap over patients against closed forms and scikit-learn, words, tables, pictures."""

import argparse
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from common import intervals, plots, toolkit
from fairloss import metrics


def test_weighted_auc_equals_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, 200) / 12.0  # many ties
    labels = rng.random(200) < scores
    weights = rng.integers(0, 4, (7, 200)).astype(np.float32)
    expected = [roc_auc_score(labels, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(intervals.weighted_auc(labels, scores, weights), expected, atol=1e-12)


def test_auc_without_positives_is_nan_and_left_out_of_the_gap():
    labels, groups = np.array([0, 1, 0, 1, 0, 0]), np.array([0, 0, 1, 1, 2, 2])
    found = intervals.PatientBootstrap(range(6), groups, 3, resamples=20).of_scores(labels, [0.1, 0.9, 0.2, 0.8, 0, 1])
    assert np.isnan(found["auc:2"].value)
    assert found["auc:0"].value == found["auc:1"].value == 1.0
    assert found["gap_auc"].value == 0.0


def test_interval_is_as_wide_as_the_cluster_variance_says():
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(400), 2)
    both_eyes = np.repeat(rng.random(400) < 0.8, 2).astype(float)  # eyes agree: 400 observations, not 800
    found = intervals.PatientBootstrap(patient, np.zeros(800, int), 1, resamples=4000).of_values(both_eyes)["accuracy"]
    p = both_eyes.mean()
    width = 2 * 1.96 * np.sqrt(p * (1 - p) / 400)
    assert found.value == pytest.approx(p)
    assert found.high - found.low == pytest.approx(width, rel=0.06)


def test_resamples_keep_patients_together_and_groups_at_their_size():
    patient, groups = np.array([5, 5, 7, 8, 9, 9]), np.array([0, 0, 0, 1, -1, -1])
    boot = intervals.PatientBootstrap(patient, groups, 2, resamples=50)
    assert (boot.weights[0] == 1).all()
    assert (boot.weights[:, 0] == boot.weights[:, 1]).all()
    assert (boot.weights[:, 4] == 1).all()  # the only patient of unknown group
    assert (boot.weights[:, 3] == 1).all()
    assert (boot.weights[:, 0] + boot.weights[:, 2] == 2).all()  # two patients in group 0
    assert len(np.unique(boot.weights[:, 0])) == 3


def test_group_figures_gap_worst_and_shares():
    groups = np.array([0, 0, 0, 0, 1, 1, -1])
    values = np.array([[1, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0]], dtype=float)
    plain = intervals.PatientBootstrap(range(7), groups, 2, resamples=10).of_values(values, "dice")
    assert plain["dice:0"].per_seed.tolist() == [0.75, 1.0]
    assert plain["dice:1"].per_seed.tolist() == [0.5, 0.0]
    assert plain["gap_dice"].per_seed.tolist() == [0.25, 1.0]
    assert plain["worst_dice"].value == 0.25
    assert plain["dice"].value == pytest.approx(np.mean([4 / 7, 4 / 7]))
    assert plain["gap_dice"].seed_std == pytest.approx(np.std([0.25, 1.0], ddof=1))
    shared = intervals.PatientBootstrap(range(7), groups, 2, shares=(0.9, 0.1), resamples=10).of_values(values, "dice")
    assert shared["dice"].per_seed == pytest.approx([0.9 * 0.75 + 0.1 * 0.5, 0.9])


def test_bad_shapes_and_a_patient_in_two_groups_are_refused():
    with pytest.raises(ValueError, match="one patient are in different groups"):
        intervals.PatientBootstrap([1, 1], [0, 1], 2)
    boot = intervals.PatientBootstrap([1, 2], [0, 1], 2, resamples=3)
    with pytest.raises(ValueError, match="values: shape"):
        boot.of_values(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="patients, groups"):
        intervals.PatientBootstrap([1, 2, 3], [0, 1], 2)


@pytest.fixture
def results():
    rng = np.random.default_rng(2)
    groups = np.repeat([0, 1], 300)
    labels = rng.integers(0, 2, 600)
    boot = intervals.PatientBootstrap(np.arange(600), groups, 2, resamples=200)

    def scores(noise_1, seed):
        noise = np.random.default_rng(seed).normal(0, 1, (3, 600)) * np.where(groups, noise_1, 0.4)
        return 0.5 + (labels - 0.5) + noise

    return {
        "ERM": boot.evaluate(labels, scores(1.5, 0)),
        "fair": boot.evaluate(labels, scores(0.4, 0)),
        "same": boot.evaluate(labels, scores(1.5, 0)),
    }


def test_compare_says_what_overlaps_and_what_does_not(results):
    fair, same = intervals.compare(results, "gap_accuracy")
    assert "fair, gap_accuracy: better than ERM" in fair
    assert "do not overlap" in fair
    assert "3 of 3 seeds" in fair
    assert "not to be told apart from ERM" in same
    assert "intervals overlap" in same
    assert "worse" not in fair + same
    worse = intervals.compare(results, "worst_accuracy", baseline="fair")[0]
    assert "ERM, worst_accuracy: worse than fair" in worse


def test_compare_doubts_what_other_seeds_may_not_repeat():
    def runs(*per_seed):  # each image counts alike in every resample, so that patients leave no doubt
        values = np.repeat(np.array(per_seed)[:, None], 200, axis=1)
        return {
            "auc": intervals.PatientBootstrap(np.arange(200), np.zeros(200, int), 1, resamples=20).of_values(values)[
                "accuracy"
            ]
        }

    steady, shaky = intervals.compare(
        {"ERM": runs(0.5, 0.5, 0.5), "steady": runs(0.6, 0.61, 0.62), "shaky": runs(0.9, 0.48, 0.45)}, "auc"
    )
    assert "better than ERM (" in steady
    assert "over seeds [+0.085, +0.135]" in steady  # 0.11 +- 4.303 * 0.01 / sqrt(3)
    assert "better than ERM in these runs, which other seeds may not repeat (" in shaky
    assert "1 of 3 seeds" in shaky
    assert "over seeds" not in intervals.compare({"ERM": runs(0.5), "one": runs(0.6)}, "auc")[0]


def test_tables_json_and_pictures(results, tmp_path, capsys):
    metrics = ["accuracy", "gap_accuracy"]
    rows = toolkit.result_rows(results, metrics)
    toolkit.print_table("Title", ["method", *metrics], rows)
    shown = capsys.readouterr().out
    assert results["fair"]["accuracy"].text() in shown
    markdown = toolkit.markdown_table(["method", *metrics], [*rows, ["x", 0.25, 3]])
    assert len(markdown.splitlines()) == 6
    assert "| x | 0.250 | 3 |" in markdown
    toolkit.save_json(tmp_path / "r.json", {"results": results, "n": np.int64(3)})
    assert json.loads((tmp_path / "r.json").read_text())["results"]["ERM"]["accuracy"]["value"] == pytest.approx(
        results["ERM"]["accuracy"].value
    )
    for i, draw in enumerate((plots.plot_groups, plots.plot_comparison)):
        assert draw(tmp_path / f"{i}.png", results, ["a", "b"]).stat().st_size > 10_000
    assert plots.plot_trade_off(tmp_path / "t.png", results, metric="auc").stat().st_size > 10_000
    assert plots.metric_label("gap_auc") == "AUC gap"


def test_arguments_seeds_and_devices(tmp_path):
    parser = toolkit.argument_parser("what", name="thing", seeds=7, data_dir="folder")
    args = parser.parse_args(["--tiny", "--out", str(tmp_path / "a" / "b"), "--amp", "bf16"])
    assert (args.seeds, args.tiny, args.data_dir) == (7, True, None)
    assert toolkit.prepare(args) == torch.device("cpu")
    assert args.out.is_dir()
    with toolkit.autocast(args):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    args.amp = "fp16"
    with pytest.raises(SystemExit, match="fp16"):
        toolkit.prepare(args)
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="no CUDA device"):
            toolkit.prepare(argparse.Namespace(device="cuda", amp="none", out=tmp_path))
    with pytest.raises(SystemExit):
        parser.parse_args(["--seeds", "0"])
    first = (toolkit.seed_everything(3).random(), torch.rand(1).item())
    assert first == (toolkit.seed_everything(3).random(), torch.rand(1).item())
    assert list(toolkit.progress([1, 2], "steps")) == [1, 2]


def test_figures_equal_the_library_s_metrics():
    rng = np.random.default_rng(4)
    groups, labels, scores = rng.integers(0, 3, 300), rng.integers(0, 2, 300), rng.random(300).round(2)
    found = intervals.PatientBootstrap(np.arange(300), groups, 3, resamples=5).evaluate(labels, scores)
    assert found["gap_accuracy"].value == pytest.approx(metrics.max_accuracy_gap(labels, scores, groups))
    assert found["gap_auc"].value == pytest.approx(metrics.auc_gap(labels, scores, groups))
    by_group = metrics.group_metric("accuracy", labels, scores, groups).values
    assert found["worst_accuracy"].value == pytest.approx(metrics.worst(by_group))
