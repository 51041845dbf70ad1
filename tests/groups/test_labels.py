"""What labels of groups mean: missing, perhaps missing, alike, numbers that are codes or quantities, and their order."""

from __future__ import annotations

import datetime
import decimal
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import fairloss.metrics as fm
from fairloss.groups.encode import GroupLabelWarning, encode_groups
from fairloss.groups.labels import sorted_labels
from tests.oracles import labels as oracle

TEXTS = ["nan", "NaN", "None", "<NA>", "NaT", "NA", "N/A", "NULL", "#N/A"]


def read(*arguments, **options):
    """The encoding, and the one warning on labels that look alike, or ""."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        codes = encode_groups(*arguments, **options)
    assert len(caught) <= 1
    return codes, "".join(str(w.message) for w in caught)


@pytest.mark.parametrize(
    "missing",
    [
        None,
        math.nan,
        np.nan,
        np.float32("nan"),
        pd.NA,
        pd.NaT,
        np.datetime64("NaT"),
        decimal.Decimal("NaN"),
        "",
        " ",
        -1,
    ],
    ids=repr,
)
def test_what_is_missing_is_unknown(missing):
    values = np.empty(3, dtype=object)
    values[:] = ["F", missing, "M"]
    for given in (["F", missing, "M"], values, pd.Series(["F", missing, "M"], dtype=object)):
        codes = encode_groups(given)
        assert (codes.ids.tolist(), codes.labels) == ([0, -1, 1], ("F", "M"))


def test_what_is_masked_is_unknown():
    numbers = np.ma.array([0, 1, 1], mask=[False, False, True])
    assert encode_groups(numbers).ids.tolist() == [0, 1, -1]
    assert encode_groups(np.ma.array(["F", "M", "X"], mask=[0, 0, 1])).labels == ("F", "M")
    assert fm.group_mean(np.ma.array([1.0, 5.0, 9.0], mask=[0, 1, 0]), ["F", "F", "M"]).to_dict() == {
        "F": 1.0,
        "M": 9.0,
    }


@pytest.mark.parametrize("text", [*TEXTS, "null", "n/a", "NONE", " NA "])
def test_a_text_that_may_mean_missing_is_asked_for(text):
    """ "None" is an insurance, "NA" is Namibia; the same texts are what is missing in a file."""
    with pytest.raises(ValueError, match="^labels: .*unknown=.* known=") as error:
        encode_groups(["F", text, "M"])
    assert repr(text) in str(error.value)
    assert encode_groups(["F", text, "M"], unknown=[text]).ids.tolist() == [0, -1, 1]
    for named in ({"known": [text]}, {"categories": ["F", text, "M"]}):
        codes = encode_groups(["F", text, "M"], **named)
        assert (codes.decode(codes.ids), codes.num_groups) == (["F", text, "M"], 3)
    with pytest.raises(ValueError, match=f"known: .*unknown.*{text.strip()}"):
        encode_groups(["F", text], known=[text], unknown=[text])


def test_missing_values_that_numpy_made_texts_are_asked_for():
    y, p = [1, 0, 1] * 100, [1, 0, 0] * 100
    groups = ["F", "M", math.nan] * 100
    assert fm.max_accuracy_gap(y, p, groups) == 0.0
    with pytest.raises(ValueError, match=r"groups: .*'nan'.*unknown=\['nan'\]"):
        fm.max_accuracy_gap(y, p, np.array(groups))
    assert fm.max_accuracy_gap(y, p, np.array(groups), unknown=["nan"]) == 0.0
    assert fm.max_accuracy_gap(y, p, np.array(groups), known=["nan"]) == 1.0


def test_minus_one_is_unknown_or_a_value_but_not_both():
    assert encode_groups([0, -1, 1]).ids.tolist() == [0, -1, 1]
    assert encode_groups(["F", "-1", "-1.0"]).labels == ("F",)
    assert encode_groups([0, -1], known=[-1]).labels == (-1, 0)
    for likert in ([-2, -1, 0, 1, 2], np.array([-2.0, 0.5]), ["-2", "0"]):
        with pytest.raises(ValueError, match=r"-2.* unknown=\[-2.*known=\[-2"):
            encode_groups(likert)
    assert encode_groups([-2, -1, 0], known=[-2, -1]).labels == (-2, -1, 0)
    # With bins, numbers below 0 are ordinary; -1 beside them may be one.
    assert encode_groups([-2.5, 0.5], bins=[0]).ids.tolist() == [0, 1]
    assert encode_groups([40, -1, 70], bins=[65]).ids.tolist() == [0, -1, 1]
    with pytest.raises(ValueError, match=r"unknown=\[-1\].*known=\[-1\]"):
        encode_groups([-2.5, -1.0, 3.0], bins=[0])
    assert encode_groups([-2.5, -1.0, 3.0], bins=[0], known=[-1]).ids.tolist() == [0, 0, 1]
    assert encode_groups([-2.5, -1.0, 3.0], bins=[0], unknown=[-1]).ids.tolist() == [0, -1, 1]


AGES = list(range(18, 68))


@pytest.mark.parametrize(
    "ages",
    [
        pd.Series(AGES),
        pd.Series(AGES, dtype="Int64"),
        pd.Series([*AGES, None]),
        pd.Series(map(str, AGES)),
        pd.Index(AGES),
        np.array(AGES) + 0.5,
        np.array([*AGES, math.nan]),
        [a + 0.25 for a in AGES],
        [f"{a}.5" for a in AGES],
        torch.tensor(AGES).float(),
    ],
    ids=lambda a: f"{type(a).__name__} {getattr(a, 'dtype', '')}",
)
def test_a_quantity_is_no_group(ages):
    with pytest.raises(ValueError, match=r"at most 12 numbers, got 50.*bins=\[\d+, \d+\].*bins=None.*codes"):
        encode_groups(ages)
    assert encode_groups(ages, bins=None).num_groups == 50
    values = [float(a) for a in (ages.tolist() if hasattr(ages, "tolist") else ages) if a is not None and a == a]
    codes = encode_groups(ages, bins=[40, 65])
    assert codes.ids.tolist()[:50] == [sum(v >= e for e in (40, 65)) for v in values]
    assert codes.labels in (("<40", "40-64", "65+"), ("<40", "40 to <65", "65+"))
    y = [i % 2 for i in range(len(ages))]
    with pytest.raises(ValueError, match="groups: .*bins="):
        fm.max_accuracy_gap(y, y, ages)
    with pytest.raises(ValueError, match=r"groups: .*numbers.*; bins="):
        fm.group_metric("accuracy", y, y, ages)
    with pytest.raises(ValueError, match=r"control: .*encode_groups\(\.\.\., bins="):
        fm.stratified_metric("accuracy", y, y, y, control=ages)
    assert fm.group_metric("accuracy", y, y, codes).labels == codes.labels
    assert fm.group_metric("accuracy", y, y, ages, bins=[40, 65]).labels == codes.labels
    assert fm.max_accuracy_gap(y, y, {"age": ages}, bins={"age": [40, 65]}) == 0.0


@pytest.mark.parametrize(
    "codes",
    [
        AGES,
        np.array(AGES),
        torch.tensor(AGES),
        pd.Series(AGES[:12]),
        pd.Series(pd.Categorical(AGES)),
        pd.Series([f"{a:03d}" for a in AGES]),
        pd.Series([f"{a}E5" for a in AGES]),
        encode_groups(pd.Series(AGES), bins=None).ids,
    ],
    ids=lambda a: f"{type(a).__name__} {getattr(a, 'dtype', '')} {len(a)}",
)
def test_ids_and_codes_are_groups(codes):
    """Ids that encode_groups and intersect_groups return are integers of an array or a tensor; text codes are texts."""
    assert encode_groups(codes).num_groups == len(codes)
    assert fm.group_metric("accuracy", [1] * len(codes), [1] * len(codes), codes).counts.tolist() == [1] * len(codes)


def test_bands():
    assert encode_groups([39, 40, 64, 65], bins=[40, 65]).ids.tolist() == [0, 1, 1, 2]
    assert encode_groups([1, 2, 3], bins=[2, 3]).labels == ("<2", "2", "3+")
    assert encode_groups([0.1, 0.5], bins=[0.25, 0.5]).labels == ("<0.25", "0.25 to <0.5", "0.5+")
    assert encode_groups([20, None, "33", math.nan], bins=np.array([30])).ids.tolist() == [0, -1, 1, -1]
    assert encode_groups([20], bins=[40, 65]).num_groups == 3  # the same ids in every split of the data
    assert encode_groups([70, 20], bins=[40, 65], categories=["65+", "40-64", "<40"]).ids.tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"labels: .*numbers.*'refused'.*unknown=\['refused'\]"):
        encode_groups([20, "refused"], bins=[40])
    for bins in ([], [3, 3], [5, 2], [math.nan], ["40"], [True]):
        with pytest.raises(ValueError, match=r"bins: .*increasing numbers"):
            encode_groups([1, 2], bins=bins)
    for bins in ("auto", 40, {"age": [40]}):
        with pytest.raises(TypeError, match=r"bins: .*\[40, 65\]"):
            encode_groups([1, 2], bins=bins)


def test_codes_that_missing_ones_have_made_floats_are_integers_again():
    for given in (
        np.array([0.0, 1.0, np.nan]),
        pd.Series([0, 1, None]),
        [0.0, 1.0, None],
        torch.tensor([0.0, 1.0, math.nan]),
    ):
        codes = encode_groups(given)
        assert (codes.ids.tolist(), list(map(repr, codes.labels))) == ([0, 1, -1], ["0", "1"])
        assert list(map(repr, fm.group_metric("accuracy", [1, 0, 1], [1, 0, 1], given).labels)) == ["0", "1"]
    assert list(map(repr, encode_groups([0.0, 0.5, 1.0]).labels)) == ["0.0", "0.5", "1.0"]
    with pytest.raises(ValueError, match=r"below 2\*\*53.*texts"):  # two of which would be one
        encode_groups(np.array([2.0**53, np.nan]))


@pytest.mark.parametrize(
    ("labels", "shown", "groups"),
    [
        (["F", "f", "M"], ["'F'", "'f'"], 3),
        (["F", "F ", "M"], ["'F'", "'F '"], 3),
        (["New York", "new york"], ["'New York'"], 2),
        (["caf\u00e9", "cafe\u0301"], ["'café'"], 2),
        (["Y\u00a0Z", "Y Z"], ["'Y Z'"], 2),
        ([0, "0", 1], ["'0', 0"], 3),
        ([0, 0.0, 1], ["0, 0.0"], 2),
        ([True, 1, 0], ["1, True"], 2),
        (["True", True, False], ["'True', True"], 3),
        ([1.5, "1.5"], ["'1.5', 1.5"], 2),
        ([1, "1.0"], ["'1.0', 1"], 2),
    ],
)
def test_labels_that_look_alike_give_one_warning(labels, shown, groups):
    codes, text = read(labels)
    assert codes.num_groups == groups
    assert text.startswith("labels: ")
    for each in shown:
        assert each in text
    with pytest.warns(GroupLabelWarning, match="^groups: "):
        fm.group_metric("accuracy", [1] * len(labels), [1] * len(labels), labels)
    assert read(labels * 3)[1] == text


@pytest.mark.parametrize(
    "labels", [["F", "M"], ["01", "1"], [1, 2, "a"], [0.5, 5], ["F", None, ""], [True, False], [b"F", "F"]]
)
def test_other_labels_give_none(labels):
    assert read(labels)[1] == ""


def test_a_number_and_true_are_one_group_and_it_is_the_number():
    codes, text = read([True, 1, 1.0, 0])
    assert list(map(repr, codes.labels)) == ["0", "1"]
    assert "1, 1.0, True" in text


@pytest.mark.parametrize(
    "order",
    [
        ["<40", "40-59", "60-99", "100+"],
        ["<40", "40-59", "60-99", "100+", "refused", "unsure"],
        ["under 40", "40 to 64", "65 and over"],
        ["≤ 9", "10\u201319", "20\u201399", "≥ 100"],
        ["[-5, 0)", "[0, 5)", "[5, 20)", "[20, 100)"],
        ["up to 5 years", "6-11 years", "12-17 years", "over 17 years"],
        ["1", "2", "10", "100"],
        [0.5, 1, 2, 10, "1", "2", "10", "a"],
        ["BMI <25", "BMI 25-29.9", "BMI 30+"],
        ["ward 2", "ward 10", "ward 10b"],
        ["A1", "A2", "A10", "B1"],
        ["M", "f"],
        ["2019-12", "2020-2", "2020-10"],
    ],
    ids=lambda o: ", ".join(map(str, o[:2])),
)
def test_bands_and_numbers_are_sorted_by_value(order, rng):
    for _ in range(5):
        assert sorted_labels([order[i] for i in rng.permutation(len(order))]) == order
    assert read(order[::-1])[0].labels == tuple(order)


def test_numbers_of_any_size():
    codes, text = read([10**400, 1, "1", float("inf")])
    assert (codes.ids.tolist(), text[:7]) == ([1, 0, 3, 2], "labels:")
    assert encode_groups([float("inf"), 1.0], bins=[2]).labels == ("<2", "2+")
    for many in ([float("inf"), *np.linspace(0, 1, 30)], pd.Series([10**30 + i for i in range(20)], dtype=object)):
        with pytest.raises(ValueError, match=r"bins=\[40, 65\] cuts"):
            encode_groups(many)


def test_options_may_be_read_once():
    assert encode_groups(["a", "b"], categories=(c for c in "ba")).ids.tolist() == [1, 0]
    attributes = {"sex": ["NA", "F"], "country": ["ZA", "NA"]}
    assert fm.cross_groups(attributes, unknown=iter(["NA"])).ids.tolist() == [-1, -1]
    with pytest.raises(ValueError, match="known: .*always unknown"):
        encode_groups(["a", None], known=[None])


def test_times_are_labels():
    days = pd.Series(pd.to_datetime(["2020-02-01", None, "2020-01-01"]))
    codes = encode_groups(days)
    assert codes.ids.tolist() == [1, -1, 0]
    assert codes.labels == (datetime.datetime(2020, 1, 1), datetime.datetime(2020, 2, 1))


def test_scalars_of_other_libraries_are_their_values():
    """Tensors in a list are different objects even where they are equal."""
    codes = encode_groups([torch.tensor(1), torch.tensor(0), torch.tensor(1)])
    assert (codes.ids.tolist(), codes.labels) == ([1, 0, 1], (0, 1))
    assert encode_groups([np.str_("F"), "F"]).labels == ("F",)
    assert encode_groups([np.array(1), np.array(0)]).labels == (0, 1)


def test_labels_without_an_order_are_refused():
    for bad in ({"F", "M"}, {"F": 0}):
        with pytest.raises(TypeError, match="labels: .*sequence"):
            encode_groups(bad)
    for option in ("unknown", "known", "categories"):
        with pytest.raises(TypeError, match=rf"{option}: .*sequence of labels.*(dict|\{{'sex')"):
            encode_groups(["F"], **{option: {"sex": ["F"]}})


def test_each_attribute_has_its_own_options():
    data = {"country": ["NA", "ZA", "NA"], "sex": ["NA", "F", "M"], "age": [30, 70, -1]}
    with pytest.raises(ValueError, match=r"groups\['country'\]: .*unknown=\{'country': \['NA'\]\}"):
        fm.cross_groups(data)
    options = {"known": {"country": ["NA"]}, "unknown": {"sex": ["NA"]}}
    assert fm.cross_groups(data, bins={"age": [65]}, **options).labels == ("ZA & F & 65+",)
    frame = pd.DataFrame(data)
    assert fm.cross_groups(frame[["country", "sex"]], **options).labels == ("NA & M", "ZA & F")
    with pytest.raises(ValueError, match="bins: .*'country', 'sex', 'age'.*'year'"):
        fm.cross_groups(data, bins={"year": [2000]}, **options)
    assert fm.cross_groups({"age": frame["age"]}).labels == (30, 70)  # one attribute keeps its labels


@pytest.mark.parametrize("seed", range(40))
def test_encoding_equals_a_loop(seed, rng):
    pool = ["F", "M", "f", "", None, math.nan, "NA", "-1", -1, 0, 1, 2.5, "1", "<40", "40-59", True, *range(20, 33)]
    some = rng.choice(len(pool), int(rng.integers(1, 6)) if seed % 2 else 20)
    labels = [pool[i] for i in some for _ in range(int(rng.integers(1, 3)))]
    options = {"unknown": [["NA"], [0, "F"], []][seed % 3], "known": [[], ["NA"], ["-1"]][seed % 3]}
    options["bins"] = ["raise", None, [21, 25]][seed % 4 % 3]
    try:
        wanted = oracle.groups(labels, **options)
    except oracle.Refused:
        with pytest.raises(ValueError, match="^labels: "):
            read(labels, **options)
        return
    codes, _ = read(labels, **options)
    found = (
        codes.decode(codes.ids) if not isinstance(options["bins"], list) else [i if i >= 0 else None for i in codes.ids]
    )
    assert found == wanted
