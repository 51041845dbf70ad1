"""Labels that are not known: NaN or ``ignore_index`` in (N, L) labels, ``ignore_index`` in (N,) labels."""

from __future__ import annotations

import numpy as np
import pytest

import fairloss.metrics as fm
from fairloss import report as fr

sklearn = pytest.importorskip("sklearn.metrics")


def masked(rng, n=120, labels=4):
    y, s, g = rng.integers(0, 2, (n, labels)).astype(float), rng.random((n, labels)), rng.integers(0, 3, n)
    y[rng.random((n, labels)) < 0.3] = np.nan
    y[0] = np.nan  # a sample of which nothing is known
    return y, s, g


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("accuracy", lambda y, s, w: sklearn.accuracy_score(y, s >= 0.5, sample_weight=w)),
        ("tpr", lambda y, s, w: sklearn.recall_score(y, s >= 0.5, sample_weight=w)),
        ("fdr", lambda y, s, w: 1 - sklearn.precision_score(y, s >= 0.5, sample_weight=w)),
        ("positive_rate", lambda y, s, w: np.average(s >= 0.5, weights=w)),
        ("auc", lambda y, s, w: sklearn.roc_auc_score(y, s, sample_weight=w)),
    ],
)
def test_a_masked_label_is_left_out_of_its_own_column(name, score, weighted, rng):
    y, s, g = masked(rng)
    w = rng.random(len(y)) if weighted else None
    found = fm.group_metric(name, y, s, g, sample_weight=w)
    weight = np.ones(len(y)) if w is None else w

    def of(at):
        known = [at & ~np.isnan(y[:, k]) for k in range(y.shape[1])]
        return [score(y[m, k], s[m, k], weight[m]) for k, m in enumerate(known)]

    columns = np.array([of(g == i) for i in found.labels])
    np.testing.assert_allclose(found.values, columns.mean(axis=1), atol=1e-12)
    assert found.overall == pytest.approx(np.mean(of(np.ones(len(y), dtype=bool))), abs=1e-12)
    uncertain = np.where(np.isnan(y), -1, y).astype(int)
    again = fm.group_metric(name, uncertain, s, g, sample_weight=w, ignore_index=-1)
    np.testing.assert_array_equal(again.values, found.values)
    report = fr.FairnessReport.from_predictions(y, s, g, sample_weight=w, metrics=[name], num_replicates=100)
    assert [e.metrics[name].value for e in report["group"].groups] == pytest.approx(found.values.tolist(), abs=1e-12)
    # By default groups that are too small are left out of the gap.
    options = {"metrics": [name], "num_replicates": 100, "min_group_size": 0}
    one = fr.compare_models(y, {"m": s}, g, sample_weight=w, **options)[0]
    assert one.overall[name] == pytest.approx(found.overall, abs=1e-12)
    assert one.gaps[name][0] == pytest.approx(np.ptp(columns, axis=0).mean(), abs=1e-12)


def test_a_label_of_minus_one_is_refused_unless_it_is_named(rng):
    y, s, g = masked(rng)
    with pytest.raises(ValueError, match="y_true: .*-1"):
        fm.group_metric("accuracy", np.where(np.isnan(y), -1, y), s, g)


@pytest.mark.parametrize(
    ("y", "ignored"),
    [([0, 1, -1, 1, 0, -1], -1), ([0, 1, 255, 1, 0, 255], 255), (["n", "y", "?", "y", "n", "?"], "?")],
)
def test_an_ignored_sample_is_left_out(y, ignored):
    s, g = np.array([0.2, 0.9, 7.0, 0.4, 0.6, np.pi]), ["a", "a", "a", "b", "b", "b"]
    options = {"positive": "y"} if ignored == "?" else {}
    kept = [0, 1, 3, 4]
    plain = ([int(v in (1, "y")) for v in y], s, np.array(g))
    for name in ("accuracy", "auc", "ece", "tpr"):
        found = fm.group_metric(name, y, s, g, ignore_index=ignored, **options)
        expected = fm.group_metric(name, *(np.asarray(v)[kept] for v in plain))
        np.testing.assert_array_equal(found.values, expected.values)
        assert found.overall == expected.overall
        assert found.counts.tolist() == [2, 2]
    for function in (fm.auc, fm.brier_score, fm.binary_cross_entropy, fm.best_f1_threshold):
        found = function(y, s, ignore_index=ignored, **options)
        assert found == function(np.asarray(plain[0])[kept], s[kept])
    assert fm.max_accuracy_gap(y, s, g, ignore_index=ignored, **options) == 1.0
    with pytest.raises(ValueError, match="y_true: .*not ignored"):
        fm.auc([ignored] * 3, [0.1, 0.2, 0.3], ignore_index=ignored)


def test_classes_with_ignored_samples():
    y, p, g = [0, 1, 2, -100, 2, -100], [0, 2, 2, 9, 1, 0], [0, 0, 0, 0, 1, 1]
    found = fm.group_metric("accuracy", y, p, g, ignore_index=-100)
    assert found.to_dict() == {0: 2 / 3, 1: 0.0}
    assert found.overall == 0.5
    scores = np.eye(3)[[0, 2, 2, 0, 1, 0]]
    assert fm.group_metric("accuracy", y, scores, g, ignore_index=-100).to_dict() == {0: 2 / 3, 1: 0.0}


def test_samples_without_weight_set_no_range_and_no_threshold():
    y, s, w = [0, 1, 1, 0], [0.2, 0.6, 0.7, 0.99], [1, 1, 1, 0]
    for bins in (2, 3, 7):
        options = {"bins": bins, "strategy": "range"}
        found = fm.expected_calibration_error(y, s, sample_weight=w, **options)
        assert found == fm.expected_calibration_error(y[:3], s[:3], **options)
    assert fm.best_f1_threshold([0, 0, 1], [0.1, 0.5, 0.9], sample_weight=[1, 0, 1]) == 0.9
