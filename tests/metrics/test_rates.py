"""Rates by group: undefined ones, several classes."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fairloss.metrics as fm
from tests.oracles import metrics as oracle

G = ["F", "F", "M", "M"]
RATE = fm.demographic_parity_difference


def test_an_undefined_rate_is_not_a_number():
    """fairlearn gives a group without positives a TPR of 0: an equalized-odds difference of 0.5 or 1 from nothing."""
    y, p, g = [1, 1, 0, 0], [1, 1, 0, 0], ["F", "F", "M", "M"]
    with pytest.warns(fm.UndefinedGroupWarning, match="tpr is undefined in group"):
        assert math.isnan(fm.equal_opportunity_difference(y, p, g))
    with pytest.warns(fm.UndefinedGroupWarning):
        assert math.isnan(fm.equalized_odds_difference(y, p, g))
    with pytest.warns(fm.UndefinedGroupWarning):
        assert math.isnan(fm.auc_gap(y, p, g))
    with pytest.raises(ValueError, match="tpr is undefined"):
        fm.equal_opportunity_difference(y, p, g, undefined="raise")


def test_labels_and_predictions_are_not_exchanged(rng):
    """FairVision's multi-class gaps pass predictions for labels: three random classifiers got the same gap."""
    y, g = rng.integers(0, 3, 600), rng.integers(0, 2, 600)
    gaps = {fm.demographic_parity_difference(y, rng.integers(0, 3, 600), g) for _ in range(3)}
    assert len(gaps) == 3
    constant = np.zeros(600, dtype=int)
    assert fm.demographic_parity_difference(y, constant, g) == 0


def test_fairgrpo_convention():
    y, g = list("AAABBBCC") + list("AAAB"), ["x"] * 8 + ["y"] * 4
    answers = [*"AAXBAAAA", "A", None, "A", "A"]  # C never predicted; an X and a None are no class
    for name in ("accuracy", "tpr", "fpr", "f1", "fdr"):
        found = fm.group_metric(name, y, answers, g, convention="fairgrpo").to_dict()
        expected = {
            "x": oracle.fairgrpo_macro(name, y[:8], answers[:8]),
            "y": oracle.fairgrpo_macro(name, y[8:], answers[8:]),
        }
        assert found == pytest.approx(expected), name
    difference = fm.predictive_parity_difference(y, answers, g, convention="fairgrpo")
    assert difference == pytest.approx(
        abs(oracle.fairgrpo_macro("fdr", y[:8], answers[:8]) - oracle.fairgrpo_macro("fdr", y[8:], answers[8:]))
    )
    # Outside the convention a class without predictions has no false discovery rate.
    with pytest.warns(fm.UndefinedGroupWarning):
        fm.predictive_parity_difference(y, answers, g)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "options"),
    [
        (["a", "b", "a", "b"], ["a", "b", "b", "b"], {"positive": "b"}),
        (["a", "b", "a", "b"], ["a", "b", "b", "b"], {"labels": ["a", "b", "c"]}),
        (["a", "b", "a", "b"], ["a", "b", None, "?"], {"labels": ["a", "b"]}),
        ([1, 2, 1, 2], [1, 2, 2, 2], {"task": "multiclass"}),
        ([1, 2, 1, 2], [1.0, 2.0, 2.0, 2.0], {"task": "multiclass"}),
        ([0, 1, 0, 1], [0, 1, 1, 1], {"task": "multiclass"}),
        ([0, 1, 0, 1], [0, 1, 1, 1], {}),
        ([False, True, False, True], [False, True, True, True], {}),
        ([0, 1, 0, 1], [0.2, 0.7, 0.8, 0.9], {}),
        ([0, 1, 0, 1], [-2, 1, 3, 0], {"task": "binary", "threshold": 2}),
        ([0, 1, 0, 1], [-2.5, 1.0, 3.0, 0.0], {"threshold": 1.0}),
    ],
)
def test_positive_rates_without_labels_are_those_with_labels(y_true, y_pred, options):
    assert RATE(None, y_pred, G, **options) == RATE(y_true, y_pred, G, **options)
    ratio = fm.demographic_parity_ratio
    assert ratio(None, y_pred, G, **options) == pytest.approx(ratio(y_true, y_pred, G, **options), nan_ok=True)
    found = fm.group_metric("positive_rate", None, y_pred, G, **options)
    assert found.to_dict() == fm.group_metric("positive_rate", y_true, y_pred, G, **options).to_dict()
    assert len(found.positives) == 0


def test_positive_rates_of_classes_by_hand():
    # a: 1/2 of F, 0 of M; b: 1/2 of F, 1 of M; c: 0.
    labels = ["a", "b", "c"]
    assert RATE(None, ["a", "b", "b", "b"], G, labels=labels) == pytest.approx(1 / 3)
    boxed = np.array(["a", "b", "b", "b"], dtype=object)
    assert RATE(None, boxed, G, labels=labels, over_classes="max_gap") == 0.5
    found = fm.group_metric("positive_rate", None, ["a", "b", "b", "b"], G, labels=labels)
    assert found.to_dict() == pytest.approx({"F": 1 / 3, "M": 1 / 3})


def test_positive_rates_that_need_to_be_told_what_they_are_of():
    for whole in ([1, 2, 2, 2], [0.0, -1.0, 3.0, 0.0]):
        for function in (RATE, lambda *a: fm.group_metric("positive_rate", *a)):
            with pytest.raises(ValueError, match="y_pred: .*task='multiclass'"):
                function(None, whole, G)
    with pytest.raises(ValueError, match="y_pred: .*inf"):
        RATE(None, [1.0, float("inf"), 0.0, 2.0], G)
    with pytest.raises(ValueError, match="y_pred: .*class"):
        RATE(None, [None] * 4, G)
    scores = np.array([[0.6, 0.7, 0.1], [0.2, 0.7, 0.8], [0.1, 0.1, 0.3], [0.9, 0.2, 0.1]])
    with pytest.raises(TypeError, match="y_true: .*None"):
        fm.group_metric("positive_rate", None, scores, G)
    for task, y_true in (("multiclass", [0, 1, 2, 0]), ("multilabel", np.zeros((4, 3)))):
        found = fm.group_metric("positive_rate", None, scores, G, task=task)
        assert found.to_dict() == fm.group_metric("positive_rate", y_true, scores, G, task=task).to_dict()
