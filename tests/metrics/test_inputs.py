"""What the metrics accept, conventions, and clear errors for what they do not."""

import warnings

import numpy as np
import pytest

import fairloss.metrics as fm
from fairloss.groups.encode import encode_groups
from fairloss.metrics.calibration import bin_index, uniform_index
from fairloss.metrics.inputs import _distinct
from fairloss.metrics.ranking import auc_by_group, weighted_auc
from tests.oracles import metrics as oracle

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


@pytest.mark.parametrize("seed", range(20))
def test_auc_of_groups_against_pairs(seed):
    rng = np.random.default_rng(seed)
    n, size = int(rng.integers(1, 80)), int(rng.integers(1, 5))
    ids = rng.integers(-1 if seed % 2 else 0, size, n)
    y, s = rng.integers(0, 2, (n, 2)).astype(bool), rng.integers(-2, 3, (n, 2)) / 2 * rng.choice([1.0, -1.0], (n, 2))
    y[ids == 1, 0] = True  # one class only
    for w in (np.ones(n), np.full(n, 0.1), rng.integers(0, 3, n).astype(float), np.zeros(n)):
        found = auc_by_group(s, y, ids, size, w)
        for g, k in np.ndindex(found.shape):
            at = ids == g
            expected = oracle.auc(y[at, k].tolist(), s[at, k].tolist(), w[at].tolist())
            np.testing.assert_allclose(found[g, k], expected, rtol=0, atol=1e-12)
            if w.min() == w.max() == 1:  # counts of pairs are exact, and both ways divide them
                assert np.array_equal(found[g, k], weighted_auc(s[at, k], y[at, k], w[None, at])[0], equal_nan=True)


def test_auc_of_more_groups_than_16_bits_count():
    ids = np.array([0, 0, 70_000, 70_000, -1, 4464, 4464])  # 70,000 is 4,464 in 16 bits
    y, s = np.array([0, 1, 0, 1, 1, 1, 0], dtype=bool)[:, None], np.array([0.1, 0.2, 0.2, 0.1, 0.9, 0.5, 0.5])[:, None]
    found = auc_by_group(s, y, ids, 70_001, np.ones(7))[:, 0]
    assert found[[0, 4464, 70_000]].tolist() == [1.0, 0.5, 0.0]
    assert np.isnan(found).sum() == 70_001 - 3


def test_auc_without_weights_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for n in (2, 10, 300):
        y, s = np.arange(n) % 2, rng.integers(0, 7, n) / 7
        assert fm.auc(y, s) == pytest.approx(sklearn.roc_auc_score(y, s), abs=1e-14)
    assert np.isnan(fm.auc([1, 1], [0.2, 0.3]))


@pytest.mark.parametrize("bins", [*range(1, 60), 100, 1000, 12_345])
def test_bins_by_arithmetic_are_those_by_search(bins):
    edges = np.linspace(0, 1, bins + 1)
    near = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1).clip(max=1)])
    scores = np.concatenate([near, [0.0, -0.0, 5e-324, 1.0], np.random.default_rng(bins).random(2000)])
    assert (uniform_index(scores, bins) == bin_index(scores, edges[1:-1])).all()


@pytest.mark.parametrize("seed", range(12))
def test_calibration_of_groups_against_loops(seed):
    rng = np.random.default_rng(seed)
    n, size = int(rng.integers(2, 60)), int(rng.integers(1, 4))
    ids, y, s = rng.integers(-1, size, n), rng.integers(0, 2, n), rng.integers(0, 21, n) / 20
    weights = None if seed % 3 else rng.integers(0, 3, n)
    w = np.ones(n) if weights is None else weights.astype(float)
    for bins in (1, 4, 10, [0.0, 0.3, 0.35, 1.0]):
        edges = np.linspace(0, 1, bins + 1) if isinstance(bins, int) else bins
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fm.UndefinedGroupWarning)
            found = {
                m: fm.group_metric(m, y, s, ids, sample_weight=weights, bins=bins) for m in ("ece", "brier", "bce")
            }
        for i, g in enumerate(found["ece"].labels):
            at = (ids == g) & (w > 0)
            rows = np.repeat(np.flatnonzero(at), w[at].astype(int))  # a weight is a number of repetitions
            if not len(rows):
                assert all(np.isnan(f.values[i]) for f in found.values())
                continue
            expected = {
                "ece": oracle.ece(y[rows].tolist(), s[rows].tolist(), edges),
                "brier": np.mean([(a - b) ** 2 for a, b in zip(s[rows], y[rows], strict=True)]),
                "bce": np.mean([min(100.0, -np.log(p)) if p > 0 else 100.0 for p in np.where(y, s, 1 - s)[rows]]),
            }
            for name, value in expected.items():
                assert found[name].values[i] == pytest.approx(value, abs=1e-12), name
        assert found["ece"].counts.tolist() == [int((ids == g).sum()) for g in found["ece"].labels]
        assert found["ece"].positives.tolist() == [int(y[ids == g].sum()) for g in found["ece"].labels]


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


def test_combinations_keep_labels_of_their_own():
    crossed = fm.cross_groups({"a": ["A & B", "A", "D"], "b": ["C", "B & C", "E"]})
    assert [crossed.labels[i] for i in crossed.ids] == ["'A & B' & 'C'", "'A' & 'B & C'", "D & E"]
    numbers = fm.cross_groups({"a": [1, "1", 2], "b": ["x"] * 3})
    assert [numbers.labels[i] for i in numbers.ids] == ["1 & 'x'", "'1' & 'x'", "2 & x"]
    taken = {"a": ["A & B", "A", "'A & B'"], "b": ["C", "B & C", "'C'"]}
    with pytest.raises(ValueError, match="attributes: two combinations of a, b would be called 'A & B' & 'C'"):
        fm.cross_groups(taken)
