"""Two classes are binary in every form: two columns, texts, other numbers, declared labels. What fits two readings raises."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

import fairloss.metrics as fm
from fairloss import report as fr

Y = [1, 1, 0, 0] * 20
DECIDED = np.array([1, 1, 0, 0] * 10 + [1, 1, 0, 1] * 10)
G = ["a"] * 40 + ["b"] * 40
TEXTS = ["no", "yes"]


def named(values, pair):
    return [pair[v] for v in values]


def test_two_columns_are_the_positive_class_s():
    columns = np.eye(2)[DECIDED]
    assert fm.equal_opportunity_difference(Y, columns, G) == 0.0
    assert fm.false_positive_rate_difference(Y, columns, G) == 0.5
    assert fm.false_positive_rate_difference(Y, columns * 0.8 + 0.1, G, threshold=0.05) == 0.0
    assert fm.group_metric("auc", Y, columns, G).to_dict() == {"a": 1.0, "b": 0.75}
    found = fr.FairnessReport.from_predictions(Y, columns, G, num_replicates=100)
    assert found.settings["task"] == "binary"
    assert found["group"].gap("tpr").estimate.value == 0.0
    first, second = fr.compare_models(Y, {"columns": columns, "decisions": DECIDED}, G, num_replicates=100)
    assert first.gaps == second.gaps


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("strict", [False, True])
def test_two_columns_of_any_precision_are_one(kind, strict, rng):
    one = (rng.integers(0, 9, 80) / 8).astype(kind)
    columns = np.stack([1 - one, one], axis=1)
    for threshold in (0.25, 0.5, 0.75):
        options = {"threshold": threshold, "strict": strict}
        expected = fm.group_metric("accuracy", Y, one, G, **options)
        assert fm.group_metric("accuracy", Y, columns, G, **options).to_dict() == expected.to_dict()
    for function in (fm.auc, fm.expected_calibration_error, fm.brier_score, fm.best_f1_threshold):
        assert function(Y, columns) == function(Y, one)


@pytest.mark.parametrize("pair", [TEXTS, [1, 2], [-1, 1], [2.0, 7.0], [False, True], ["0", "1"]])
@pytest.mark.parametrize("box", [list, np.array, pd.Series, lambda v: np.array(v, dtype=object)])
def test_the_positive_label_is_named(pair, box):
    y, p = box(named(Y, pair)), box(named(DECIDED, pair))
    options = {} if pair == [False, True] else {"positive": pair[1]}
    for function in (fm.equal_opportunity_difference, fm.false_positive_rate_difference, fm.max_accuracy_gap):
        assert function(y, p, G, **options) == function(Y, DECIDED, G)
    assert fm.demographic_parity_difference(None, p, G, **options) == 0.25
    scores = DECIDED * 0.5 + 0.2
    assert fm.auc(y, scores, **options) == fm.auc(Y, scores)
    assert fm.brier_score(y, np.stack([1 - scores, scores], axis=1), **options) == fm.brier_score(Y, scores)
    if options:
        for call in (
            lambda: fm.max_accuracy_gap(y, p, G),
            lambda: fm.auc(y, scores),
            lambda: fm.brier_score(y, scores),
        ):
            with pytest.raises(ValueError, match=r"positive: .*pass positive=, or labels="):
                call()
    other = fm.group_metric("tpr", y, p, G, positive=pair[0]) if pair != [False, True] else None
    if other is not None:  # the negatives' rate is one minus the false-positive rate
        assert other.to_dict() == {"a": 1.0, "b": 0.5}


def test_the_positive_label_in_report_and_comparison():
    y, p = named(Y, TEXTS), named(DECIDED, TEXTS)
    with pytest.raises(ValueError, match="positive: .*positive="):
        fr.FairnessReport.from_predictions(y, p, G, num_replicates=100)
    found = fr.FairnessReport.from_predictions(y, p, G, positive="yes", num_replicates=100)
    expected = fr.FairnessReport.from_predictions(Y, DECIDED, G, num_replicates=100)
    assert found.to_dict() == expected.to_dict()
    one = fr.compare_models(y, {"m": p}, G, positive="yes", num_replicates=100)[0]
    assert one == fr.compare_models(Y, {"m": DECIDED}, G, num_replicates=100)[0]
    test = fr.gap_difference_test(y, p, p, G, positive="yes", metric="fpr", num_replicates=100)
    assert test.gap_a == 0.5


def test_declared_labels_say_that_there_are_more_classes():
    """A site may hold two of three."""
    y, p = ["AMD", "DR", "AMD", "DR"], ["AMD", "DR", "DR", "DR"]
    with pytest.raises(ValueError, match=r"positive: .*'AMD', 'DR'.*labels="):
        fm.group_metric("tpr", y, p, [0] * 4)
    with pytest.warns(fm.UndefinedGroupWarning, match="class glaucoma"):
        found = fm.group_metric("tpr", y, p, [0] * 4, labels=["AMD", "DR", "glaucoma"])
    assert found.overall == (0.5 + 1.0) / 2
    with pytest.warns(fm.UndefinedGroupWarning, match="class 2"):
        assert fm.group_metric("tpr", [0, 1, 0, 1], [0, 1, 1, 1], [0] * 4, labels=[0, 1, 2]).overall == 0.75
    assert fm.group_metric("tpr", [0, 1, 0, 1], [0, 1, 1, 1], [0] * 4, labels=[0, 1]).overall == 1.0
    # A third predicted class is one of several; each class one-vs-rest remains a task to ask for.
    with pytest.warns(fm.UndefinedGroupWarning, match="class [?]"):
        assert fm.group_metric("tpr", y, ["AMD", "DR", "?", "DR"], [0] * 4).overall == 0.75
    assert fm.group_metric("tpr", [0, 1, 0, 1], [0, 1, 1, 1], [0] * 4, task="multiclass").overall == 0.75


def test_the_order_of_two_columns():
    y = ["b", "a", "b", "a"]
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert fm.auc(y, scores, positive="b") == 1.0
    assert fm.auc(y, scores, positive="b", labels=["b", "a"]) == 0.0
    assert fm.auc(y, scores, positive="a", labels=["a", "b"]) == 1.0
    with pytest.raises(ValueError, match="labels: .*'a' would be the last.*pass labels="):
        fm.auc(y, scores, positive="a")
    with pytest.raises(ValueError, match="labels: .*2 columns.*3 names"):
        fm.auc(y, scores, positive="a", labels=["a", "b", "b"])


@pytest.mark.parametrize(
    ("y", "p", "options", "message"),
    [
        (TEXTS, ["no", "?"], {"positive": "yes"}, "positive: .*two classes.*'\\?'"),
        (TEXTS, ["no", None], {"positive": "yes"}, "y_pred: .*None"),
        ([*TEXTS, None], ["no", "yes", "no"], {"positive": "yes"}, "y_true: .*None"),
        (TEXTS, TEXTS, {"positive": "Yes"}, "positive: .*'no', 'yes'.*'Yes'"),
        (TEXTS, TEXTS, {"positive": 1}, "positive: .*'no', 'yes'.*1"),
        ([0, 1], [0, 1], {"positive": "1"}, "positive: .*0, 1.*'1'"),
        ([0, 1, 2], [0, 1, 2], {"positive": 1}, "positive: .*0, 1, 2"),
        ([0, 1], [0.2, 0.7], {"positive": 1, "task": "multiclass"}, "positive: .*task='multiclass'"),
        ([[0, 1], [1, 1]], [[0, 1], [1, 1]], {"positive": 1}, "positive: .*several labels"),
        ([1, 2], [0, 1], {"positive": 2}, "positive: .*0, 1, 2"),
        ([1, 2], [1.0, 1.0], {"positive": 2}, "y_pred: .*told apart"),
        ([0, 1], [0.0, 1.0], {"positive": 0}, "y_pred: .*told apart"),
        (["a", "b", "c"], [0, 1, 2], {}, "y_pred: .*texts.*numbers"),
        ([0, 1, 2], ["a", "b", "c"], {}, "y_pred: .*numbers.*texts"),
        ([0, 1], ["a", "b"], {}, "y_pred: .*numbers.*texts"),
        ([0, 1], [[0.5, 0.6], [0.1, 0.2]], {}, "y_pred: .*sum to 1.*logits=True.*task='multilabel'"),
        ([0, 1], [[-0.1, 1.1], [0.5, 0.5]], {}, "y_pred: .*sum to 1.*logits=True"),
        ([0, 1], [[5, 4], [-5, -6]], {}, "y_pred: .*sum to 1.*logits=True"),
        ([[1, 0], [0, 1]], [[0.3, 0.7], [0.6, 0.4]], {}, "y_true: .*argmax.*task='multilabel'"),
        ([0, 1, 2], [[0.3, 0.7]] * 3, {}, "y_true: .*labels="),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(y, p, options, message):
    with pytest.raises(ValueError, match=message):
        fm.group_metric("accuracy", y, p, [0] * len(y), **options)


@pytest.mark.parametrize("name", ["positive", "ignore_index"])
@pytest.mark.parametrize("bad", [[1], (0, 1), np.array([1, 0]), {1}])
def test_one_label_is_named_not_several(name, bad):
    """``ignore_index=[1]`` was compared with every label."""
    with pytest.raises(TypeError, match=f"{name}: .*one label"):
        fm.max_accuracy_gap([1, 0], [0.1, 0.2], ["a", "b"], **{name: bad})
    with pytest.raises(ValueError, match="y_pred: .*column"):
        fm.max_accuracy_gap([1, 0], np.zeros((2, 0)), ["a", "b"])


def test_probabilities_within_rounding_are_taken():
    for columns in ([[0.304, 0.703], [0.5, 0.5]], [[-0.0009, 1.0009], [0.2, 0.8]]):
        fm.group_metric("ece", [0, 1], columns, [0, 0])
    with pytest.raises(ValueError, match="y_pred"):
        fm.group_metric("ece", [0, 1], [[0.31, 0.71], [0.5, 0.5]], [0, 0])
    with pytest.raises(ValueError, match="y_pred"):
        fm.group_metric("ece", [0, 1], [[-0.002, 1.002], [0.5, 0.5]], [0, 0])


def test_a_threshold_that_plays_no_part_is_refused():
    scores = np.eye(3)[[0, 1, 2]]
    with pytest.raises(ValueError, match="threshold: .*largest score"):
        fm.group_metric("accuracy", [0, 1, 2], scores, [0] * 3, threshold=0.3)
    with pytest.raises(ValueError, match="threshold: .*function"):
        fm.group_metric(lambda y, p: 0.0, [0, 1], [0, 1], [0, 0], threshold=0.3)


def test_models_of_different_tasks_are_not_compared():
    y = [0, 1, 0, 1] * 10
    with pytest.raises(ValueError, match="scores: .*binary of a, multiclass of b"):
        fr.compare_models(y, {"a": y, "b": np.eye(3)[y]}, [0, 1] * 20, num_replicates=100)
    y = ["x", "y", "z", "x"] * 10
    # "?" of one model counts among the other's classes: both are means over four.
    first, second = fr.compare_models(
        y, {"a": y, "b": ["?", *y[1:]]}, ["F", "M"] * 20, metrics=["fpr"], num_replicates=100
    )
    assert first.overall["fpr"] == 0.0
    assert second.overall["fpr"] == pytest.approx((1 / 40) / 4)


@pytest.mark.parametrize(
    "labels", [["yes", "no", "Yes"], ["yes", "no", "yes "], ["yes", "\ufeffyes"], ["no", "no\u200b"]]
)
def test_classes_that_look_alike_are_warned_of(labels):
    y = np.resize(labels, 12)
    options = {"positive": labels[0]} if len(set(labels)) == 2 else {}
    with pytest.warns(UserWarning, match="y_true and y_pred: some labels differ in .* they are different classes"):
        fm.max_accuracy_gap(y, y, [0, 1] * 6, **options)


def test_decimal_scores_are_scores(rng):
    y, g = rng.integers(0, 2, 40), [0, 1] * 20
    score = rng.random(40).round(3)
    written = [Decimal(str(v)) for v in score]
    assert fm.auc_gap(y, written, g) == fm.auc_gap(y, score, g)
    assert fm.max_accuracy_gap(y, np.array(written), g) == fm.max_accuracy_gap(y, score, g)
    whole = [Decimal(int(v)) for v in y]
    assert fm.max_accuracy_gap(whole, written, g) == fm.max_accuracy_gap(y, score, g)


@pytest.mark.parametrize("kind", ["m8[s]", "M8[D]", str])
def test_predictions_that_are_nobodys_classes_are_refused(kind):
    y = np.array([0, 1, 1, 0])
    with pytest.raises(
        ValueError, match="y_pred: expected numbers as in y_true, got .*code labels and predictions alike"
    ):
        fm.max_accuracy_gap(y, y.astype(kind), [0, 0, 1, 1])
