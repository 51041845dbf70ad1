"""What the metrics accept, conventions, and clear errors for what they do not."""

import math

import numpy as np
import pandas as pd
import pytest

import fairloss.metrics as fm
from fairloss.report import FairnessReport, compare_models
from tests.oracles import metrics as oracle

Y, S, G = [1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], ["F", "F", "M", "M"]
P = [0.9, 0.2, 0.4, 0.6]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1, 0, 2, 0], S, G), {"task": "binary"}, r"y_true: .*\b2\b"),
        ((Y, [0.9, float("nan"), 0.4, 0.1], G), {}, "y_pred: .*nan"),
        ((Y, S[:3], G), {}, r"y_true and y_pred: .*\(4,\) and \(3,\)"),
        ((Y, S, G[:3]), {}, r"groups: .*\b3\b"),
        ((Y, S, [0, 1, -5, 0]), {}, "groups: .*-5"),
        ((Y, S, np.zeros((4, 2))), {}, r"groups: .*\(4, 2\)"),
        ((Y, S, G), {"sample_weight": [1, 1, 1, -1]}, "sample_weight: .*-1"),
        ((Y, S, G), {"sample_weight": [1, 1]}, "sample_weight: .*shape"),
        ((Y, S, G), {"sample_weight": [1, 1e308, 1e308, 1]}, r"sample_weight: .*finite sum, got weights up to 1e\+308"),
        ((Y, S, G), {"threshold": float("nan")}, "threshold: .*nan"),
        ((Y, S, G), {"task": "regression"}, "task: .*'regression'"),
        ((Y, S, G), {"convention": "other"}, "convention: .*'other'"),
        ((Y, S, G), {"undefined": "zero"}, "undefined: .*'zero'"),
        (([], [], []), {}, "no sample"),
        ((["a", "b"], np.eye(2), [0, 1]), {"labels": ["a", "c"]}, "y_true: .*'b'"),
        (([0, 1], np.eye(2), [0, 1]), {"labels": ["a"]}, r"labels: .*\b1\b"),
    ],
)
def test_errors_name_the_argument(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fm.group_metric("accuracy", *arguments, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strict": "no"}, "strict: expected True or False, got 'no'"),
        ({"labels": "ab"}, "labels: expected a sequence of classes.*got 'ab'"),
        ({"labels": {0, 1}}, "labels: expected a sequence of classes, in the order"),
        ({"labels": {0: "no", 1: "yes"}}, "labels: expected a sequence of classes"),
        ({"labels": 2}, "labels: expected a sequence of classes.*got 2"),
    ],
)
def test_options_of_another_type_are_refused(options, message):
    for call in (
        lambda: fm.max_accuracy_gap(Y, S, G, **options),
        lambda: fm.group_metric("accuracy", Y, S, G, **options),
        lambda: FairnessReport.from_predictions(Y, S, G, num_replicates=100, **options),
        lambda: compare_models(Y, {"m": S}, G, num_replicates=100, **options),
    ):
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize(
    "bins", [0, -1, 2.5, True, "auto", [0, float("nan"), 1], [1, 0], [0.5], ["a", "b"], None, [[0, 1]]]
)
def test_bins_of_scores_are_a_number_or_edges(bins):
    calls = {
        "bins": lambda: fm.expected_calibration_error(Y, S, bins=bins),
        "score_bins": lambda: fm.group_metric("ece", Y, S, G, score_bins=bins),
        "score_bins:": lambda: fm.calibration_gap(Y, S, G, score_bins=bins, strategy="range"),
    }
    for name, call in calls.items():
        with pytest.raises((TypeError, ValueError), match=f"^{name}.* expected "):
            call()


def test_no_sample_is_refused_by_functions_as_well():
    with pytest.raises(ValueError, match="y_true: expected at least one sample, got no sample"):
        fm.group_metric(lambda y, p: 0.0, [], [], [])


def test_more_errors():
    with pytest.raises(ValueError, match="metric: .*'?accuracy'?.*'acc'|metric: .*'acc'.*accuracy"):
        fm.group_metric("acc", Y, S, G)
    with pytest.raises(ValueError, match="y_pred: .*scores.*auc"):
        fm.group_metric("auc", ["a", "b", "a", "c"], ["a", "b", "b", "b"], G)
    with pytest.raises(ValueError, match=r"y_score: .*probabilities in \[0, 1\].*1\.5"):
        fm.expected_calibration_error(Y, [1.5, 0, 0, 0])
    with pytest.raises(ValueError, match="bins: .*0"):
        fm.expected_calibration_error(Y, S, bins=0)
    with pytest.raises(ValueError, match="strategy: .*'width'"):
        fm.expected_calibration_error(Y, S, strategy="width")
    with pytest.raises(ValueError, match="measure: .*'max'"):
        fm.calibration_gap(Y, S, G, measure="max")
    with pytest.raises(ValueError, match="y_true: .*positive label"):
        fm.best_f1_threshold([0, 0], [0.1, 0.2])
    with pytest.raises(ValueError, match="agg: .*'sum'"):
        fm.equalized_odds_difference(Y, S, G, agg="sum")
    with pytest.raises(ValueError, match="over_classes: .*'all'"):
        fm.max_accuracy_gap(Y, S, G, over_classes="all")
    with pytest.raises(TypeError, match="y_true: .*None"):
        fm.demographic_parity_difference(None, np.eye(4), G)
    with pytest.raises(TypeError, match="y_pred: .*None"):
        fm.group_metric("auc", Y, None, G)
    with pytest.raises(ValueError, match="ddof: .*None"):
        fm.equity_scaled(0.5, [0.4, 0.6], penalty="std")
    with pytest.raises(ValueError, match="ddof: .*1"):
        fm.equity_scaled(0.5, [0.4, 0.6], penalty="gap", ddof=1)
    with pytest.raises(ValueError, match="ddof: .*2"):
        fm.group_std([0.4, 0.6], ddof=2)
    with pytest.raises(ValueError, match="not percent"):
        fm.error_skew([90.0, 80.0])
    with pytest.raises(TypeError):
        fm.group_std([0.4, 0.6])  # explicit on purpose: published tables disagree
    with pytest.raises(ValueError, match="hard decisions"):
        fm.dice([[0.5, 1.0]], [[0.0, 1.0]])
    with pytest.raises(ValueError, match=r"y_true and y_pred: .*\(2,\) and \(2,\)"):
        fm.dice([1, 0], [1, 0])


def test_threshold_rule():
    rule = {"threshold": 0.5}
    assert fm.group_metric("positive_rate", Y, S, G, **rule).to_dict() == {"F": 1.0, "M": 0.0}
    assert fm.group_metric("positive_rate", Y, S, G, strict=True, **rule).to_dict() == {"F": 0.5, "M": 0.0}
    # A float32 score equal to the threshold stays equal to it.
    scores = np.array(S, dtype=np.float32)
    t = fm.best_f1_threshold(Y, scores)
    assert t in scores.astype(np.float64)
    # Written alike, compared alike: float32 scores are set against the threshold's float32 value.
    for kind in (np.float32, np.float64):
        scores = np.array([0.7, 0.7], dtype=kind)
        assert fm.group_metric("positive_rate", [0, 1], scores, [0, 0], threshold=0.7).overall == 1
        assert fm.group_metric("positive_rate", [0, 1], scores, [0, 0], threshold=0.7, strict=True).overall == 0


@pytest.mark.parametrize("seed", range(5))
def test_best_f1_threshold(seed):
    rng = np.random.default_rng(seed)
    y, s = rng.integers(0, 2, 50), np.round(rng.random(50), 1)
    assert fm.best_f1_threshold(y, s) == oracle.f1_best_threshold(y.tolist(), s.tolist())


def test_multilabel():
    y = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    p = np.array([[0.9, 0.1], [0.2, 0.3], [0.6, 0.8], [0.7, 0.1]])
    result = fm.group_metric("accuracy", y, p, G)
    assert result.to_dict() == {"F": 0.75, "M": 0.75}
    assert result.overall == 0.75
    rate = fm.group_metric("positive_rate", y, p, G, labels=["a", "b"])
    assert rate.to_dict() == {"F": 0.25, "M": 0.75}
    assert fm.demographic_parity_difference(y, p, G) == pytest.approx((0.5 + 0.5) / 2)
    assert fm.demographic_parity_difference(y, p, G, over_classes="max_gap") == 0.5


def test_a_function_as_metric():
    def mean_error(y_true, y_pred, sample_weight=None):
        return float(np.average(np.abs(y_true - y_pred), weights=sample_weight))

    result = fm.group_metric(mean_error, [3.0, 1.0, 2.0], [2.0, 1.0, 4.0], [0, 0, 1])
    assert result.to_dict() == {0: 0.5, 1: 2.0}
    weighted = fm.group_metric(mean_error, [3.0, 1.0, 2.0], [2.0, 1.0, 4.0], [0, 0, 1], sample_weight=[3, 1, 1])
    assert weighted.to_dict() == {0: 0.75, 1: 2.0}


def test_an_option_that_does_not_exist_is_named():
    with pytest.raises(TypeError, match="treshold: .*sample_weight.*threshold"):
        fm.max_accuracy_gap([1, 0], [1, 0], ["a", "b"], treshold=0.4)


def test_whole_numbers_beside_zero_and_one_need_a_task():
    with pytest.raises(ValueError, match="y_pred: .*whole numbers.* task="):
        fm.group_metric("accuracy", [0, 1, 1, 0], [0, 1, 2, 2], ["a", "a", "b", "b"])
    found = fm.group_metric("accuracy", [0, 1, 1, 0], [0, 1, 2, 2], ["a", "a", "b", "b"], task="multiclass")
    assert found.values.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("boxed", [np.array(P, dtype=object), pd.Series(P, dtype=object), [*P]])
def test_numbers_in_an_object_column_are_numbers(boxed):
    """They were read as classes, and every prediction as wrong."""
    assert fm.max_accuracy_gap(Y, boxed, G) == fm.max_accuracy_gap(Y, P, G) == 1.0
    assert fm.auc(np.array(Y, dtype=object), boxed) == fm.auc(Y, P)


def test_a_third_label_beside_scores_is_refused():
    """It made the scores classes."""
    with pytest.raises(ValueError, match=r"y_true: .*\b2\b"):
        fm.max_accuracy_gap([1, 0, 2, 0], P, G)
    assert fm.max_accuracy_gap([1, 0, 2, 0], [1, 0, 2, 1], G) == 0.5


@pytest.mark.parametrize("function", [fm.auc, fm.brier_score, fm.expected_calibration_error])
def test_missing_labels_are_refused(function):
    """They were read as zeros."""
    with pytest.raises(TypeError, match="y_true: .*None"):
        function(None, P)
    assert fm.demographic_parity_difference(None, P, G) == 0.0
    without = fm.group_metric("positive_rate", None, P, G)
    assert without.counts.tolist() == [2, 2]
    assert without.positives.size == 0  # not "none of them is positive"


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_labels_that_are_no_number(bad):
    with pytest.raises(ValueError, match="y_true"):
        fm.max_accuracy_gap([1.0, 0.0, bad, 0.0], [1, 0, 1, 0], G)


def test_complex_and_single_values_are_refused():
    for bad in (np.array(P) + 1j, 0.5, object()):
        with pytest.raises((TypeError, ValueError), match="y_pred"):
            fm.max_accuracy_gap(Y, bad, G)
    with pytest.raises(TypeError, match="threshold"):
        fm.max_accuracy_gap(Y, P, G, threshold="0.5")
