"""What the metrics accept, conventions, and clear errors for what they do not."""

import numpy as np
import pytest

import fairloss.metrics as fm
from fairloss.labels import encode_groups
from fairloss.metrics._inputs import _distinct
from tests import oracles_metrics as oracle

Y, S, G = [1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], ["F", "F", "M", "M"]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1, 0, 2, 0], S, G), {"task": "binary"}, "y_true: 2 was given"),
        ((Y, [0.9, float("nan"), 0.4, 0.1], G), {}, "y_pred: nan at position 1"),
        ((Y, S[:3], G), {}, r"y_true and y_pred: \(4,\) and \(3,\)"),
        ((Y, S, G[:3]), {}, "groups: 3 labels were given for 4 samples"),
        ((Y, S, [0, 1, -5, 0]), {}, "groups: -5"),
        ((Y, S, np.zeros((4, 2))), {}, r"groups: shape \(4, 2\)"),
        ((Y, S, G), {"sample_weight": [1, 1, 1, -1]}, "sample_weight: -1"),
        ((Y, S, G), {"sample_weight": [1, 1]}, "sample_weight: shape"),
        ((Y, S, G), {"threshold": float("nan")}, "threshold: nan"),
        ((Y, S, G), {"task": "regression"}, "task: 'regression'"),
        ((Y, S, G), {"convention": "other"}, "convention: 'other'"),
        ((Y, S, G), {"undefined": "zero"}, "undefined: 'zero'"),
        (([], [], []), {}, "no sample"),
        ((["a", "b"], np.eye(2), [0, 1]), {"labels": ["a", "c"]}, "y_true: 'b' is not among the classes"),
        (([0, 1], np.eye(2), [0, 1]), {"labels": ["a"]}, "labels: 1 classes were given for 2 columns"),
    ],
)
def test_errors_name_the_argument(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fm.group_metric("accuracy", *arguments, **options)


def test_more_errors():
    with pytest.raises(ValueError, match="metric: 'acc' was given; accepted are accuracy"):
        fm.group_metric("acc", Y, S, G)
    with pytest.raises(ValueError, match="auc needs scores"):
        fm.group_metric("auc", ["a", "b", "a", "b"], ["a", "b", "b", "b"], G)
    with pytest.raises(ValueError, match="probabilities are needed"):
        fm.expected_calibration_error(Y, [1.5, 0, 0, 0])
    with pytest.raises(ValueError, match="bins: 0"):
        fm.expected_calibration_error(Y, S, bins=0)
    with pytest.raises(ValueError, match="strategy: 'width'"):
        fm.expected_calibration_error(Y, S, strategy="width")
    with pytest.raises(ValueError, match="measure: 'max'"):
        fm.calibration_gap(Y, S, G, measure="max")
    with pytest.raises(ValueError, match="no positive label"):
        fm.best_f1_threshold([0, 0], [0.1, 0.2])
    with pytest.raises(ValueError, match="agg: 'sum'"):
        fm.equalized_odds_difference(Y, S, G, agg="sum")
    with pytest.raises(ValueError, match="over_classes: 'all'"):
        fm.max_accuracy_gap(Y, S, G, over_classes="all")
    with pytest.raises(TypeError, match="y_true: None"):
        fm.demographic_parity_difference(None, np.eye(4), G)
    with pytest.raises(TypeError, match="y_pred: None"):
        fm.group_metric("auc", Y, None, G)
    with pytest.raises(ValueError, match="ddof: None"):
        fm.equity_scaled(0.5, [0.4, 0.6], penalty="std")
    with pytest.raises(ValueError, match="ddof: 1"):
        fm.equity_scaled(0.5, [0.4, 0.6], penalty="gap", ddof=1)
    with pytest.raises(ValueError, match="ddof: 2"):
        fm.group_std([0.4, 0.6], ddof=2)
    with pytest.raises(ValueError, match="not percent"):
        fm.error_skew([90.0, 80.0])
    with pytest.raises(TypeError):
        fm.group_std([0.4, 0.6])  # explicit on purpose: published tables disagree
    with pytest.raises(ValueError, match="hard decisions"):
        fm.dice([[0.5, 1.0]], [[0.0, 1.0]])
    with pytest.raises(ValueError, match="equal"):
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


def test_bins():
    y, s = [0, 1, 1, 1, 0, 1], [0.0, 0.1, 0.2, 0.35, 0.6, 1.0]
    for strategy, edges in {
        "uniform": np.linspace(0, 1, 6),
        "range": np.linspace(0, 1, 6),
        "quantile": [0, 0.1, 0.35, 1.0],
    }.items():
        bins = len(edges) - 1
        assert fm.expected_calibration_error(y, s, bins=bins, strategy=strategy) == pytest.approx(
            oracle.ece(y, s, edges)
        )
        assert fm.expected_calibration_error(y, s, bins=edges) == pytest.approx(oracle.ece(y, s, edges))
    group = ["a", "a", "a", "b", "b", "b"]
    own = fm.group_metric("ece", y, s, group, bins=2, strategy="range").values
    assert own[0] == pytest.approx(oracle.ece(y[:3], s[:3], [0, 0.1, 0.2]))
    assert own[1] == pytest.approx(oracle.ece(y[3:], s[3:], [0.35, 0.675, 1.0]))
    shared = fm.group_metric("ece", y, s, group, bins=2, strategy="quantile").values
    assert shared[0] == pytest.approx(oracle.ece(y[:3], s[:3], [0, 0.2, 1.0]))


def test_ties_count_half_or_nothing():
    y, s = [0, 1, 1], [0.5, 0.5, 0.7]
    assert fm.auc(y, s) == 0.75
    assert fm.auc(y, s, ties="zero") == 0.5 == oracle.auc(y, s, tie=0.0)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_auc(seed):
    rng = np.random.default_rng(seed)
    y, s, w = rng.integers(0, 2, 40), np.round(rng.random(40), 1), rng.random(40)
    assert fm.auc(y, s, sample_weight=w) == pytest.approx(oracle.auc(y, s, w), abs=1e-12)
    assert fm.auc(y, s, sample_weight=w, ties="zero") == pytest.approx(oracle.auc(y, s, w, tie=0.0), abs=1e-12)


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


RATE = fm.demographic_parity_difference


@pytest.mark.parametrize(
    ("y_true", "y_pred", "options"),
    [
        (["a", "b", "a", "b"], ["a", "b", "b", "b"], {}),
        (["a", "b", "a", "b"], ["a", "b", None, "?"], {"labels": ["a", "b"]}),
        ([1, 2, 1, 2], [1, 2, 2, 2], {"task": "multiclass"}),
        ([1, 2, 1, 2], [1.0, 2.0, 2.0, 2.0], {"task": "multiclass"}),
        ([0, 1, 0, 1], [0, 1, 1, 1], {"task": "multiclass"}),
        ([0, 1, 0, 1], [0, 1, 1, 1], {}),
        ([False, True, False, True], [False, True, True, True], {}),
        ([0, 1, 0, 1], [0.2, 0.7, 0.8, 0.9], {}),
        ([0, 1, 0, 1], [-2, 1, 3, 0], {"task": "binary"}),
        ([0, 1, 0, 1], [-2.5, 1.0, 3.0, 0.0], {}),
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
    # a: 1/2 of F, 0 of M; b: 1/2 of F, 1 of M.
    assert RATE(None, ["a", "b", "b", "b"], G) == 0.5
    assert RATE(None, np.array(["a", "b", "b", "b"], dtype=object), G, over_classes="max_gap") == 0.5
    assert fm.group_metric("positive_rate", None, ["a", "b", "b", "b"], G).to_dict() == {"F": 0.5, "M": 0.5}


def test_positive_rates_that_need_to_be_told_what_they_are_of():
    for whole in ([1, 2, 2, 2], [0.0, -1.0, 3.0, 0.0]):
        for function in (RATE, lambda *a: fm.group_metric("positive_rate", *a)):
            with pytest.raises(ValueError, match="y_pred: .* a class or a score; pass task='multiclass' for classes"):
                function(None, whole, G)
    with pytest.raises(ValueError, match="y_pred: inf at position 1"):
        RATE(None, [1.0, float("inf"), 0.0, 2.0], G)
    with pytest.raises(ValueError, match="y_pred: no class"):
        RATE(None, [None] * 4, G)
    scores = np.array([[0.6, 0.7, 0.1], [0.2, 0.7, 0.8], [0.1, 0.1, 0.3], [0.9, 0.2, 0.1]])
    with pytest.raises(TypeError, match="y_true: None was given with predictions of several columns"):
        fm.group_metric("positive_rate", None, scores, G)
    for task, y_true in (("multiclass", [0, 1, 2, 0]), ("multilabel", np.zeros((4, 3)))):
        found = fm.group_metric("positive_rate", None, scores, G, task=task)
        assert found.to_dict() == fm.group_metric("positive_rate", y_true, scores, G, task=task).to_dict()


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


def test_missing_labels_in_lists_stay_missing():
    for missing in (None, float("nan")):
        assert fm.group_metric("accuracy", Y, S, ["F", missing, "M", "M"]).labels == ("F", "M")
    with pytest.raises(ValueError, match="y_true: nan is not among the classes"):
        fm.group_metric("accuracy", ["a", float("nan")], ["a", "b"], [0, 1])


def test_intersections_and_encodings():
    sex, age = ["F", "M", "F", "M"], ["old", "old", "young", None]
    values = fm.group_metric("accuracy", Y, S, {"sex": sex, "age": age}).to_dict()
    assert values == {"F & old": 1.0, "F & young": 0.0, "M & old": 0.0}
    codes = encode_groups(G, categories=["F", "M", "X"])
    result = fm.group_metric("accuracy", Y, S, codes)
    assert result.labels == ("F", "M", "X")
    assert result.counts.tolist() == [2, 2, 0]
    crossed = fm.cross_groups({"sex": encode_groups(sex), "age": age})
    assert crossed.labels == ("F & old", "F & young", "M & old")
    assert crossed.ids.tolist() == [0, 2, 1, -1]


def test_a_category_that_nobody_has_is_no_undefined_group():
    pandas = pytest.importorskip("pandas")
    codes = pandas.Categorical(G, categories=["F", "M", "X"])
    for groups in (codes, pandas.Series(codes), encode_groups(G, categories=["F", "M", "X"])):
        for undefined in ("omit", "raise"):  # warnings are errors here
            for found in (
                fm.group_metric("accuracy", Y, S, groups, undefined=undefined),
                fm.group_metric(lambda y, s: float(np.mean(s)), Y, S, groups, undefined=undefined),
                fm.group_mean(S, groups, undefined=undefined),
            ):
                assert np.isnan(found.values).tolist() == [False, False, True]
                assert found.undefined == ("X",)
            for gap in (fm.max_accuracy_gap, fm.equalized_odds_difference, fm.auc_gap, fm.calibration_gap):
                assert gap(Y, S, groups, undefined=undefined) == gap(Y, S, G)
    # A group that somebody is in stays undefined: without a value, without weight.
    with pytest.warns(fm.UndefinedGroupWarning, match="in group.s. M: left out"):
        fm.group_mean([0.9, 0.5, float("nan"), float("nan")], codes)
    with pytest.warns(fm.UndefinedGroupWarning, match="in group.s. M: left out"):
        fm.group_metric("accuracy", Y, S, codes, sample_weight=[1, 1, 0, 0])
    with pytest.raises(ValueError, match="tpr is undefined in group.s. M$"):
        fm.equal_opportunity_difference([1, 0, 0, 0], S, codes, undefined="raise")


def test_a_function_as_metric():
    def mean_error(y_true, y_pred, sample_weight=None):
        return float(np.average(np.abs(y_true - y_pred), weights=sample_weight))

    result = fm.group_metric(mean_error, [3.0, 1.0, 2.0], [2.0, 1.0, 4.0], [0, 0, 1])
    assert result.to_dict() == {0: 0.5, 1: 2.0}
    weighted = fm.group_metric(mean_error, [3.0, 1.0, 2.0], [2.0, 1.0, 4.0], [0, 0, 1], sample_weight=[3, 1, 1])
    assert weighted.to_dict() == {0: 0.75, 1: 2.0}


def test_dice_and_iou():
    true = np.zeros((3, 2, 4), dtype=int)
    pred = np.zeros((3, 2, 4), dtype=int)
    true[0, 0], pred[0, 0, :2] = 1, 1
    true[1], pred[1] = 1, 1
    assert fm.dice(true, pred)[:2].tolist() == [pytest.approx(2 * 2 / 6), 1.0]
    assert fm.iou(true, pred)[:2].tolist() == [0.5, 1.0]
    assert np.isnan(fm.dice(true, pred)[2])
    assert fm.iou(true, pred, empty=1.0)[2] == 1.0
    labels_true, labels_pred = np.array([[0, 1, 2, 2]]), np.array([[0, 1, 1, 2]])
    assert fm.dice(labels_true, labels_pred, num_classes=3)[0] == pytest.approx([1, 2 / 3, 2 / 3])
    assert fm.iou(labels_true, labels_pred, num_classes=3, include_background=False)[0] == pytest.approx([0.5, 0.5])
    assert fm.group_mean(fm.dice(true, pred), [0, 1, 1]).to_dict() == {0: pytest.approx(2 / 3), 1: 1.0}


def test_aggregation_orders():
    scores = {"A": {"sex": {"F": 0.8, "M": 0.6}, "age": {"o": 0.9, "y": 0.5}}, "B": {"sex": {"F": 0.5, "M": 0.9}}}
    assert fm.aggregate_disparity(scores) == pytest.approx(((0.2 + 0.4) / 2 + 0.4) / 2)
    assert fm.aggregate_disparity(scores, missing={"C": 0}) == pytest.approx(((0.2 + 0.4) / 2 + 0.4) / 3)
    assert fm.aggregate_disparity(scores, statistic="std", ddof=0) == pytest.approx(((0.1 + 0.2) / 2 + 0.2) / 2)
    for statistic, ddof in (("gap", None), ("std", 1)):
        expected = fm.aggregate_disparity(scores, statistic=statistic, ddof=ddof, missing={"C": 0})
        found = fm.aggregate_disparity(scores, statistic=statistic, missing={"C": 0}, convention="fairgrpo")
        assert found == expected
    expected = np.mean([abs(0.65 - 0.75), 0.4])
    assert fm.aggregate_disparity(scores, order="average_first") == pytest.approx(expected)
    for bad, message in [
        ({"values": {}}, "no data set"),
        ({"values": scores, "missing": {"A": 0.0}}, "'A' is among"),
        ({"values": {"A": {}}}, "'A' has no attribute"),
        ({"values": scores, "statistic": "std"}, "ddof"),
        ({"values": scores, "order": "average_first", "missing": {"C": 0}}, "missing"),
        ({"values": scores, "convention": "paper"}, "convention: 'paper'"),
        ({"values": scores, "convention": "fairgrpo", "order": "average_first"}, "which contradict it"),
        ({"values": scores, "convention": "fairgrpo", "statistic": "std", "ddof": 0}, "which contradict it"),
    ]:
        with pytest.raises(ValueError, match=message):
            fm.aggregate_disparity(bad.pop("values"), **bad)


def test_an_option_that_does_not_exist_is_named():
    with pytest.raises(TypeError, match="treshold: no such option; accepted are sample_weight, threshold"):
        fm.max_accuracy_gap([1, 0], [1, 0], ["a", "b"], treshold=0.4)


@pytest.mark.parametrize(
    "array",
    [
        np.array([3, -1, 3, 7, 0]),
        np.array([-128, 127, 5], dtype=np.int8),
        np.array([True, False, True]),
        np.array([2**63 + 5, 2**63 + 1, 2**63 + 5], dtype=np.uint64),
        np.array([-(2**62), 2**62, 0]),
        np.array([200_000, 7]),
        np.array([], dtype=np.int64),
    ],
    ids=lambda a: f"{a.dtype}-{a.size}",
)
def test_ids_of_integers_are_those_of_a_sort(array):
    labels, ids = _distinct(array)
    expected, inverse = np.unique(array, return_inverse=True)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(ids, inverse)
    assert labels.dtype == array.dtype
    assert ids.dtype == np.int64
