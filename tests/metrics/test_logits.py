"""Logits: ranks, decisions and probabilities of ``logits=True``, and the refusal of scores that are not said to be any."""

from __future__ import annotations

import numpy as np
import pytest

import fairloss.metrics as fm
from fairloss import report as fr

sklearn = pytest.importorskip("sklearn.metrics")
special = pytest.importorskip("scipy.special")


def test_auc_of_two_logits_is_that_of_their_difference():
    z, y = np.array([[5, 4], [-5, -6], [0, 1], [-10, -9]] * 20), [0, 0, 1, 1] * 20
    assert fm.group_metric("auc", y, z, ["a"] * 80, logits=True).overall == 1.0
    with pytest.raises(ValueError, match="logits=True"):
        fm.group_metric("auc", y, z, ["a"] * 80)


def test_decisions_of_logits_are_made_at_zero():
    y, z, g = [1, 1, 0, 0], [0.3, 0.4, -1.0, -2.0], ["a", "a", "b", "b"]
    assert fm.group_metric("accuracy", y, z, g, logits=True).to_dict() == {"a": 1.0, "b": 1.0}
    with pytest.raises(ValueError, match=r"y_pred: .*-2 .. 0.4; pass logits=True .*threshold="):
        fm.group_metric("accuracy", y, z, g)
    assert fm.group_metric("accuracy", y, z, g, threshold=0.0).overall == 1.0
    assert fm.group_metric("prevalence", y, z, g).overall == fm.auc(y, z) - 0.5  # neither needs a decision
    with pytest.raises(ValueError, match="logits: .*decisions"):
        fm.group_metric("accuracy", y, y, g, logits=True)
    with pytest.raises(ValueError, match="logits: .*sum to 1"):
        fm.group_metric("accuracy", y, np.eye(2)[y], g, logits=True)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_logits_are_the_probabilities_of_their_softmax(kind, classes, rng):
    n = 200
    z = rng.normal(0, 3, (n, classes)).astype(kind)
    y, g, w = rng.integers(0, max(classes, 2), n), rng.integers(0, 3, n), rng.random(n)
    exact = z.astype(np.float64)
    p = special.expit(exact) if classes == 1 else special.softmax(exact, axis=1)
    names = ["accuracy", "tpr", "auc", "ece", "brier"]
    for name in names:
        found = fm.group_metric(name, y, z, g, sample_weight=w, logits=True)
        np.testing.assert_allclose(found.values, fm.group_metric(name, y, p, g, sample_weight=w).values, atol=1e-12)
    if classes > 2:
        expected = [sklearn.roc_auc_score(y == c, p[:, c], sample_weight=w) for c in range(classes)]
        assert fm.group_metric("auc", y, z, [0] * n, sample_weight=w, logits=True).overall == pytest.approx(
            np.mean(expected), abs=1e-12
        )
    logits = fr.FairnessReport.from_predictions(y, z, g, logits=True, num_replicates=100).to_frame()
    probabilities = fr.FairnessReport.from_predictions(y, p, g, num_replicates=100).to_frame()
    np.testing.assert_allclose(logits["value"], probabilities["value"], atol=1e-12)
    one, two = (fr.compare_models(y, {"m": s}, g, num_replicates=100, logits=s is z)[0] for s in (z, p))
    assert one.overall == pytest.approx(two.overall, abs=1e-12)


LIKE_PROBABILITIES = "logits: expected False for probabilities, got True beside scores that all lie in"


@pytest.mark.parametrize("path", ["function", "metric", "area", "calibration", "strata", "report", "comparison"])
def test_logits_that_look_like_probabilities_are_warned_of(path, rng):
    y, p, g = rng.integers(0, 2, 60), rng.random(60), rng.integers(0, 2, 60)
    call = {
        "function": lambda z: fm.max_accuracy_gap(y, z, g, logits=True),
        "metric": lambda z: fm.group_metric("tpr", y, z, g, logits=True).gap(),
        "area": lambda z: fm.auc(y, z, logits=True),
        "calibration": lambda z: fm.expected_calibration_error(y, z, logits=True),
        "strata": lambda z: fm.stratified_metric("tpr", y, z, g, control=[0] * 60, logits=True)[0].gap(),
        "report": lambda z: fr.FairnessReport.from_predictions(y, z, g, logits=True, num_replicates=100).overall,
        "comparison": lambda z: fr.compare_models(y, {"m": z}, g, logits=True, num_replicates=100)[0].overall,
    }[path]
    with pytest.warns(UserWarning, match=LIKE_PROBABILITIES) as warned:
        found = call(p)
    assert len(warned) == 1
    q = p.copy()
    q[p.argmax()] = 1.5  # one logit outside [0, 1], and the same decisions and ranks
    if path not in ("calibration", "report"):
        assert found == call(q)
    with pytest.warns(UserWarning, match=LIKE_PROBABILITIES):  # two columns that do not sum to 1, and three
        fm.group_metric("accuracy", y, np.stack([p, 0.3 * p], axis=1), g, logits=True)
    with pytest.warns(UserWarning, match=LIKE_PROBABILITIES):
        fm.group_metric("accuracy", y, np.stack([p, 0.3 * p, p], axis=1), g, logits=True)
    assert fm.group_metric("accuracy", [1], [0.2], [0], logits=True).overall == 1  # one score says nothing


@pytest.mark.parametrize("threshold", [50, -1, 1.5])
def test_a_threshold_that_no_probability_reaches_is_refused(threshold, rng):
    y, p, g = rng.integers(0, 2, 60), rng.random(60), rng.integers(0, 2, 60)
    z = np.log(p / (1 - p))
    for score, logits in ((p, False), (np.stack([1 - p, p], axis=1), False), (z, True)):
        options = {"threshold": threshold, "logits": logits}
        for call in (
            lambda s, o: fm.equalized_odds_difference(y, s, g, **o),
            lambda s, o: fm.group_metric("positive_rate", y, s, g, **o),
            lambda s, o: fr.FairnessReport.from_predictions(y, s, g, num_replicates=100, **o),
            lambda s, o: fr.compare_models(y, {"m": s}, g, num_replicates=100, **o),
        ):
            with pytest.raises(ValueError, match=rf"threshold: .*in \[0, 1\], got {threshold} beside scores 0.*0\.9"):
                call(score, options)
    assert fm.max_accuracy_gap(y, 100 * p, g, threshold=50) == fm.max_accuracy_gap(y, p, g)
    assert fm.max_accuracy_gap(y, z, g, threshold=threshold) >= 0  # scores of another scale


def test_logits_rank_where_probabilities_are_rounded_to_one():
    y, z = [0, 1, 0, 1], [40.0, 41.0, 42.0, 43.0]
    assert fm.auc(y, z, logits=True) == sklearn.roc_auc_score(y, z) == 0.75
    columns = np.stack([np.zeros(4), z], axis=1)
    assert fm.auc(y, columns, logits=True) == 0.75
    three = np.c_[columns, [1.0, 2.0, 3.0, 9.0]]
    found = fm.group_metric("auc", [0, 1, 0, 2], three, [0] * 4, logits=True).overall
    odds = np.stack([three[:, c] - special.logsumexp(np.delete(three, c, 1), axis=1) for c in range(3)], axis=1)
    assert found == pytest.approx(
        np.mean([sklearn.roc_auc_score(np.array([0, 1, 0, 2]) == c, odds[:, c]) for c in range(3)])
    )


def test_multilabel_logits(rng):
    y, z = rng.integers(0, 2, (50, 3)), rng.normal(0, 2, (50, 3))
    found = fm.group_metric("accuracy", y, z, [0] * 50, logits=True)
    assert found.overall == pytest.approx(np.mean((z > 0) == y))
    with pytest.raises(ValueError, match="y_pred: .*logits=True"):
        fm.group_metric("accuracy", y, z, [0] * 50)
    assert fm.auc_gap(y, z, [0, 1] * 25) == fm.auc_gap(y, z, [0, 1] * 25, logits=True)


def test_an_auc_over_classes_needs_probabilities(rng):
    y, z = rng.integers(0, 3, 60), rng.normal(0, 2, (60, 3))
    for scores, message in ((z, r"\[0, 1\].*auc"), (rng.random((60, 3)), "sum to 1.*auc")):
        for call in (fm.auc_gap, fm.equity_scaled_auc, fm.calibration_gap):
            with pytest.raises(ValueError, match=message.replace("auc", "logits=True")):
                call(y, scores, [0, 1] * 30)
        with pytest.raises(ValueError, match=message):
            fm.group_metric("auc", y, scores, [0, 1] * 30)
    assert fm.max_accuracy_gap(y, z, [0] * 30 + [1] * 30) == pytest.approx(
        abs(np.mean((z.argmax(1) == y)[:30]) - np.mean((z.argmax(1) == y)[30:]))
    )


def test_the_best_threshold_of_logits_is_the_one_that_decides(rng):
    y, z = rng.integers(0, 2, 40), rng.normal(0, 3, 40)
    t = fm.best_f1_threshold(y, z, logits=True)
    f1 = fm.group_metric("f1", y, z, [0] * 40, logits=True, threshold=t).overall
    assert f1 == pytest.approx(max(sklearn.f1_score(y, z >= cut) for cut in z))
