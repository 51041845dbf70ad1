"""Encoding of arbitrary labels to ids and back."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import fairloss
import fairloss.metrics as fm
from fairloss.groups.encode import encode_groups


def test_strings_are_sorted_and_missing_values_unknown():
    codes = encode_groups(["b", "a", None, math.nan, "b"])
    assert codes.ids.tolist() == [1, 0, -1, -1, 1]
    assert codes.labels == ("a", "b")
    assert codes.ids.dtype == np.int64


def test_order_of_samples_does_not_change_the_ids():
    labels = ["c", "a", "b", "a"]
    assert encode_groups(labels).labels == encode_groups(labels[::-1]).labels


def test_pandas_categorical_keeps_its_order_and_its_empty_categories():
    series = pd.Series(pd.Categorical(["old", None, "young"], categories=["young", "middle", "old"]))
    codes = encode_groups(series)
    assert codes.labels == ("young", "middle", "old")
    assert codes.ids.tolist() == [2, -1, 0]


@pytest.mark.parametrize("missing", [pd.NA, pd.NaT, None, np.nan, np.float32("nan")])
def test_every_kind_of_missing_is_unknown(missing):
    assert encode_groups(["a", missing]).ids.tolist() == [0, -1]


def test_numbers_booleans_and_tensors():
    assert encode_groups(np.array([3.0, np.nan, 1.0])).ids.tolist() == [1, -1, 0]
    assert encode_groups([True, False]).labels == (False, True)
    assert encode_groups(torch.tensor([5, 2, 5])).ids.tolist() == [1, 0, 1]
    assert encode_groups([np.int64(2), 2]).labels == (2,)


def test_mixed_types_have_a_fixed_order():
    assert encode_groups(["a", 1]).labels == encode_groups([1, "a"]).labels


def test_categories_fix_the_ids_and_reject_strangers():
    assert encode_groups(["M"], categories=["F", "M"]).ids.tolist() == [1]
    with pytest.raises(ValueError, match="labels: .*'X'"):
        encode_groups(["M", "X"], categories=["F", "M"])
    with pytest.raises(ValueError, match="repeated"):
        encode_groups(["M"], categories=["M", "M"])
    for unordered in ({"F", "M"}, {"F": 0, "M": 1}):
        with pytest.raises(TypeError, match="categories: expected a sequence of labels, in the order of the ids"):
            encode_groups(["M"], categories=unordered)


def test_labels_named_unknown():
    assert encode_groups(["", "a"], unknown=["", "N/A"]).ids.tolist() == [-1, 0]


def test_decode_reverses_and_refuses_bad_ids():
    codes = encode_groups(["x", None, "y"])
    assert codes.decode(codes.ids, unknown="?") == ["x", "?", "y"]
    with pytest.raises(ValueError, match=r"ids: .*\b2\b"):
        codes.decode([2])


@pytest.mark.parametrize("bad", ["abc", np.zeros((2, 2)), [["a", "b"], ["c", "d"]], [{"a"}, {"b"}]])
def test_bad_labels_are_named(bad):
    with pytest.raises(ValueError, match="^labels"):
        encode_groups(bad)


def test_empty():
    assert encode_groups([]).num_groups == 0


def test_one_string_is_no_sequence_of_unknown_labels():
    """Its characters would be taken for the labels: "N/A" would make "A" unknown."""
    with pytest.raises(ValueError, match=r"unknown: .*\['N/A'\]"):
        encode_groups(["A", "N/A"], unknown="N/A")
    with pytest.raises(TypeError, match="unknown: .*sequence of labels.*int"):
        encode_groups([1, 2], unknown=-1)


def test_minus_one_is_unknown_to_encode_groups():
    codes = fairloss.encode_groups([0, 1, -1, 0])
    assert (codes.ids.tolist(), codes.labels) == ([0, 1, -1, 0], (0, 1))
    assert fairloss.encode_groups(np.array([1.0, -1.0, np.nan])).ids.tolist() == [0, -1, -1]
    assert fairloss.encode_groups([0, -1], categories=[-1, 0]).ids.tolist() == [1, 0]
    # Classes are no groups: -1 and 1 are two of them.
    found = fm.group_metric("accuracy", [-1, 1, 1, -1], [-1, 1, -1, -1], [0, 0, 1, 1], positive=1)
    assert found.values.tolist() == [1.0, 0.5]


def test_labels_without_a_dimension_are_refused():
    with pytest.raises(TypeError, match="labels"):
        fairloss.encode_groups(None)
    with pytest.raises(ValueError, match=r"labels: .*one-dimensional.*\(\)"):
        fairloss.encode_groups(np.array("a"))


def test_group_labels_are_the_users():
    """There a label is sex and an age bracket; an empty one is a group of its own, and one with ':' raises."""
    import fairloss

    codes = fairloss.encode_groups(["M:A3", "", None, "M:A3"], unknown=[""])
    assert codes.ids.tolist() == [0, -1, -1, 0]


def test_bytes_that_may_be_missing_are_texts():
    assert encode_groups(np.array([b"F", b"", b"M"])).ids.tolist() == [0, -1, 1]
    with pytest.raises(ValueError, match=r"known=\[b'nan'\] if it names a group"):
        encode_groups(np.array([b"F", b"nan", b"M"]))
