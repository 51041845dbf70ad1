"""Groups of samples: missing labels, intersections, encodings, categories that nobody has."""

from __future__ import annotations

import numpy as np
import pytest

import fairloss.metrics as fm
from fairloss.groups.encode import GroupLabelWarning, _distinct_integers, encode_groups
from fairloss.report import FairnessReport, compare_models

Y, S, G = [1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], ["F", "F", "M", "M"]


def test_missing_labels_in_lists_stay_missing():
    for missing in (None, float("nan")):
        assert fm.group_metric("accuracy", Y, S, ["F", missing, "M", "M"]).labels == ("F", "M")
    with pytest.raises(ValueError, match="y_true: .*nan"):
        fm.group_metric("accuracy", ["a", float("nan")], ["a", "b"], [0, 1])


def test_numbers_are_cut_into_bands_by_every_function_of_groups(rng):
    """bins= means the groups' bands everywhere; a calibration error's bins are score_bins=."""
    n = 200
    y, s, age, c = rng.integers(0, 2, n), rng.random(n), rng.uniform(20, 80, n), rng.integers(0, 2, n)
    bands = np.where(age < 40, "<40", np.where(age < 65, "40 to <65", "65+"))
    calls = {
        "metric": lambda g, **o: fm.group_metric("ece", y, s, g, score_bins=5, **o).to_dict(),
        "function": lambda g, **o: fm.group_metric(lambda a, b: float(np.mean(b)), y, s, g, **o).to_dict(),
        "strata": lambda g, **o: fm.stratified_metric("tpr", y, s, g, control=c, **o)[1].to_dict(),
        "mean": lambda g, **o: fm.group_mean(s, g, **o).to_dict(),
        "gap": lambda g, **o: fm.equalized_odds_difference(y, s, g, **o),
        "auc": lambda g, **o: fm.auc_gap(y, s, g, **o),
        "scaled": lambda g, **o: fm.equity_scaled_auc(y, s, g, **o),
        "calibration": lambda g, **o: fm.calibration_gap(y, s, g, score_bins=[0, 0.3, 1], **o),
    }
    for call in calls.values():
        expected = call(bands)
        assert call(age, bins=[40, 65]) == expected
        assert call({"age": age}, bins={"age": [40, 65]}) == expected
        with pytest.raises(ValueError, match=r"got 200 different numbers .*; bins=\[.* cuts them into bands"):
            call(age)
        with pytest.raises(TypeError, match=r"bins: expected edges of bands.*got 15; .*score_bins="):
            call(age, bins=15)
    with pytest.raises(TypeError, match="score_bins: expected an option among"):
        fm.max_accuracy_gap(y, s, bands, score_bins=5)


@pytest.mark.parametrize(
    "rule", [{"bins": [40, 65]}, {"unknown": ["F"]}, {"known": ["NA"]}, {"unknown": {"sex": ["F"]}}]
)
def test_encoded_groups_are_not_read_again(rule):
    codes = encode_groups(G)
    for call in (
        lambda o: fm.group_metric("accuracy", Y, S, codes, **o).gap(),
        lambda o: fm.group_mean(S, codes, **o).gap(),
        lambda o: fm.max_accuracy_gap(Y, S, codes, **o),
        lambda o: fm.auc_gap(Y, S, codes, **o),
        lambda o: compare_models(Y, {"m": S}, codes, num_replicates=100, **o)[0].gaps["accuracy"][0],
        lambda o: FairnessReport.from_predictions(Y, S, codes, num_replicates=100, **o)["group"].gap("accuracy").best,
    ):
        assert call({"bins": None, "unknown": []}) == call({})
        with pytest.raises(ValueError, match=f"{next(iter(rule))}: .*encoded groups.*; pass it to encode_groups"):
            call(rule)


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
    labels, ids = _distinct_integers(array)
    expected, inverse = np.unique(array, return_inverse=True)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(ids, inverse)
    assert labels.dtype == array.dtype
    assert ids.dtype == np.int64


def test_combinations_keep_labels_of_their_own():
    crossed = fm.cross_groups({"a": ["A & B", "A", "D"], "b": ["C", "B & C", "E"]})
    assert [crossed.labels[i] for i in crossed.ids] == ["'A & B' & 'C'", "'A' & 'B & C'", "D & E"]
    with pytest.warns(GroupLabelWarning, match=r"groups\['a'\]: .*'1', 1"):
        numbers = fm.cross_groups({"a": [1, "1", 2], "b": ["x"] * 3})
    assert [numbers.labels[i] for i in numbers.ids] == ["1 & 'x'", "'1' & 'x'", "2 & x"]
    taken = {"a": ["A & B", "A", "'A & B'"], "b": ["C", "B & C", "'C'"]}
    with pytest.raises(ValueError, match="attributes: .* a, b .*two called 'A & B' & 'C'"):
        fm.cross_groups(taken)


def test_attributes_are_named_in_a_mapping():
    with pytest.raises(TypeError, match="attributes"):
        fm.cross_groups(["F", "M"])
