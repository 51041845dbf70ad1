"""A metric in the groups of each stratum, and metrics that are more than a number, as scikit-learn and fairlearn have them."""

import numpy as np
import pytest
import sklearn.metrics as sk
from fairlearn.metrics import MetricFrame

import fairloss.metrics as fm
from tests.metrics.test_fairlearn import draw
from tests.oracles import metrics as oracle

RATES = {
    "accuracy": sk.accuracy_score,
    "tpr": sk.recall_score,
    "precision": sk.precision_score,
    "f1": sk.f1_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "auc": sk.roc_auc_score,
    "brier": sk.brier_score_loss,
}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("by_name", [True, False], ids=["name", "function"])
@pytest.mark.parametrize("name", RATES)
def test_values_gaps_and_ratios_of_every_stratum_are_fairlearns(name, by_name, weighted):
    y, d, g, c, w = draw(11)
    options = {"sample_weight": w} if weighted else {}
    frame = MetricFrame(
        metrics=RATES[name], y_true=y, y_pred=d, sensitive_features=g, control_features=c, sample_params=options
    )
    found = fm.stratified_metric(name if by_name else RATES[name], y, d, g, control=c, **options)
    assert list(found) == ["north", "south"]
    for stratum, result in found.items():
        table = frame.by_group[stratum]
        assert result.to_dict() == pytest.approx(table.to_dict(), abs=1e-12)
        assert result.overall == pytest.approx(frame.overall[stratum], abs=1e-12)
        for method in ("between_groups", "to_overall"):
            assert result.gap(method=method) == pytest.approx(frame.difference(method=method)[stratum], abs=1e-12)
            assert result.ratio(method=method) == pytest.approx(frame.ratio(method=method)[stratum], abs=1e-12)
        assert result.gap(reference="M") == pytest.approx(np.abs(table - table["M"]).max(), abs=1e-12)
        lowest = np.minimum(table / table["M"], table["M"] / table).min()
        assert result.ratio(reference="M") == pytest.approx(lowest, abs=1e-12)
        assert result.counts.tolist() == [int(((c == stratum) & (g == label)).sum()) for label in result.labels]


def test_classes_are_read_over_all_samples_so_that_a_stratum_of_two_is_not_binary():
    y, d, c = [0, 1, 0, 1, 0, 2, 2, 1], [0, 1, 1, 1, 0, 2, 1, 1], ["north"] * 4 + ["south"] * 4
    g = list("abababab")
    with pytest.warns(fm.UndefinedGroupWarning, match=r"a \(control north\) \(classes 1, 2\)") as caught:
        north = fm.stratified_metric("tpr", y, d, g, control=c)["north"]
    assert [w.filename for w in caught] == [__file__]
    assert north.by_class.shape == (2, 3)
    assert north.to_dict() == {"a": 0.5, "b": 1.0}  # class 0 in a, class 1 in b


def test_strata_of_several_attributes_are_their_intersection_and_unknown_ones_are_left_out():
    y, g = [1, 1, 1, 1, 1], list("ababa")
    control = {"clinic": ["n", "n", "s", "s", "s"], "year": [1, 1, 2, 2, None]}
    found = fm.stratified_metric("tpr", y, [1, 0, 1, 1, 0], g, control=control)
    assert {stratum: result.to_dict() for stratum, result in found.items()} == {
        "n & 1": {"a": 1.0, "b": 0.0},
        "s & 2": {"a": 1.0, "b": 1.0},
    }
    assert fm.stratified_metric("tpr", y, y, g, control=[None] * 5) == {}


def test_a_confusion_matrix_is_kept_per_group_and_has_no_gap():
    y, d, g, c, _ = draw(5)
    result = fm.group_metric(sk.confusion_matrix, y, d, g)
    assert np.array_equal(result.overall, sk.confusion_matrix(y, d))
    for label, value in result.to_dict().items():
        assert np.array_equal(value, sk.confusion_matrix(y[g == label], d[g == label]))
    strata = fm.stratified_metric(sk.confusion_matrix, y, d, g, control=c)
    at = (g == "F") & (c == "south")
    assert np.array_equal(strata["south"].to_dict()["F"], sk.confusion_matrix(y[at], d[at]))
    assert result.undefined == ()
    for compare in (result.gap, result.ratio, result.worst, lambda: result.std(ddof=1), lambda: fm.gap(result)):
        with pytest.raises(TypeError, match=r"metric: expected one number per group.*, got ndarray; pass a function"):
            compare()
    with pytest.raises(TypeError, match="values: expected numbers, got ndarray values"):
        fm.worst(result.values)


def test_matrices_of_different_shapes_are_not_read_as_numbers():
    """The last group has one class only; an unknown one is in the overall matrix alone."""
    y, g = np.array([0, 1, 1, 1, 0]), ["a", "a", "b", "b", None]
    result = fm.group_metric(lambda y, d: np.array([(y == c).sum() for c in np.unique(y)]), y, y, g)
    assert [v.shape for v in result.values] == [(2,), (1,)]
    assert result.overall.sum() == 5


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5), True, 1], ids=["float32", "0-d", "bool", "int"])
def test_a_number_of_any_kind_is_one(value):
    result = fm.group_metric(lambda y, d: value, [0, 1], [0, 1], ["a", "b"])
    assert result.values.dtype == np.float64
    assert result.values.tolist() == [float(value)] * 2


def test_a_function_that_returns_nothing_is_refused():
    with pytest.raises(TypeError, match="metric: expected a function that returns a value, got None"):
        fm.group_metric(lambda y, d: None, [0, 1], [0, 1], ["a", "b"])


def test_a_wrong_option_is_named():
    with pytest.raises(TypeError, match="thresold"):
        fm.stratified_metric("tpr", [1, 1], [1, 1], [0, 1], control=[0, 0], thresold=0.3)


@pytest.mark.parametrize("strategy", ["uniform", "quantile", "range"])
def test_bins_are_one_for_all_strata_so_that_the_gap_is_the_worst_of_them(strategy):
    y, d, g, c, w = draw(13)
    s = np.clip(d / 2 + np.linspace(0.1, 0.45, len(d)), 0, 1)
    strata = fm.stratified_metric("ece", y, s, g, control=c, strategy=strategy, sample_weight=w)
    gap = fm.calibration_gap(y, s, g, control=c, strategy=strategy, sample_weight=w)
    assert gap == max(result.gap() for result in strata.values())
    if strategy == "quantile":
        edges = np.concatenate([[0], np.quantile(s, np.arange(1, 10) / 10), [1]])
        unweighted = fm.stratified_metric("ece", y, s, g, control=c, score_bins=edges)["south"].values
        at = (c == "south") & (g == "F")
        assert unweighted[0] == pytest.approx(oracle.ece(y[at], s[at], edges, np.ones(at.sum())))


def test_a_gap_of_scores_is_blamed_where_it_is_called():
    with pytest.warns(fm.UndefinedGroupWarning, match=r"auc is undefined in group\(s\) b") as caught:
        fm.auc_gap([0, 1, 1, 1], [0.1, 0.2, 0.3, 0.4], list("aabb"))
    assert [w.filename for w in caught] == [__file__]
