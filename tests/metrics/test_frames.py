"""Columns and frames of pandas, polars and pyarrow as groups, labels, scores and values."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score

import fairloss.metrics as fm
from fairloss.report import FairnessReport, compare_models

DATA = {
    "y": [1, 0, 1, 0, 1, 1, 0, 0] * 10,
    "p": [0.9, 0.2, 0.4, 0.6, 0.7, 0.8, 0.3, 0.1] * 10,
    "sex": ["F", "M", None, "F", "M", "M", "F", "M"] * 10,
    "code": [0, 1, 1, None, 2, 0, 1, 2] * 10,
    "half": [0.5, None, 1.5, 0.5, 0.5, 1.5, 1.5, 0.5] * 10,
    "smoker": [True, False, None, True, False, True, False, False] * 10,
}
ATTRIBUTES = ("sex", "code", "half", "smoker")


def pyarrow_chunks():
    pa = pytest.importorskip("pyarrow")
    half = pa.table({k: v[:40] for k, v in DATA.items()})
    return pa.concat_tables([half, half])


FRAMES = {
    "pandas": lambda: pd.DataFrame(DATA),
    "pandas objects": lambda: pd.DataFrame(DATA, dtype=object),
    "pandas nullable": lambda: pd.DataFrame(DATA).convert_dtypes(),
    "polars": lambda: pytest.importorskip("polars").DataFrame(DATA),
    "pyarrow": lambda: pytest.importorskip("pyarrow").table(DATA),
    "pyarrow batch": lambda: pytest.importorskip("pyarrow").RecordBatch.from_pydict(DATA),
    "pyarrow chunks": pyarrow_chunks,
}


@pytest.fixture(params=FRAMES, name="frame")
def _frame(request):
    return FRAMES[request.param]()


def columns(frame, *names):
    """A frame of these columns."""
    return frame[list(names)] if hasattr(frame, "iloc") or not hasattr(frame, "schema") else frame.select(list(names))


def test_columns_are_what_lists_are(frame):
    for name in ATTRIBUTES:
        wanted = fm.group_metric("accuracy", DATA["y"], DATA["p"], DATA[name])
        for groups in (frame[name], columns(frame, name), {name: frame[name]}):
            found = fm.group_metric("accuracy", frame["y"], frame["p"], groups)
            assert list(map(repr, found.labels)) == list(map(repr, wanted.labels))
            assert found.to_dict() == wanted.to_dict()
            assert found.counts.tolist() == wanted.counts.tolist()
            assert fm.max_accuracy_gap(frame["y"], columns(frame, "p"), groups) == wanted.gap()


def test_a_frame_of_attributes_is_their_intersection(frame):
    names = ["sex", "smoker"]
    wanted = fm.cross_groups({n: DATA[n] for n in names})
    for found in (fm.cross_groups(columns(frame, *names)), fm.cross_groups({n: frame[n] for n in names})):
        assert found.labels == wanted.labels == ("F & False", "F & True", "M & False", "M & True")
        assert found.ids.tolist() == wanted.ids.tolist()
    assert fm.group_metric("accuracy", frame["y"], frame["p"], columns(frame, *names)).labels == wanted.labels
    three = [*names, "code"]
    reports = [
        FairnessReport.from_predictions(frame["y"], frame["p"], groups, num_replicates=100).to_dict()
        for groups in (columns(frame, *three), {n: DATA[n] for n in three})
    ]
    assert reports[0] == reports[1]
    assert list(reports[0]["attributes"])[:4] == [*three, "sex & smoker"]
    found = [
        compare_models(frame["y"], {"A": frame["p"]}, groups, metrics=["accuracy"], num_replicates=100)[0].gaps
        for groups in (columns(frame, *names), {n: DATA[n] for n in names})
    ]
    assert found[0] == found[1]


def test_scores_of_several_classes_are_a_frame(frame):
    both, sex = np.array([DATA["p"], DATA["y"]], dtype=float).T, np.array(DATA["sex"])
    found = fm.group_metric(
        lambda y, s: float(s[:, 0].sum() - y.sum()), frame["y"], columns(frame, "p", "y"), frame["sex"]
    )
    assert found.to_dict() == pytest.approx({g: both[sex == g, 0].sum() - both[sex == g, 1].sum() for g in "FM"})


VALUES = [1.0, None, 1.5, 0.5, 0.5, 1.5, 1.5, 0.5] * 10


@pytest.mark.parametrize(
    "kind",
    [
        list,
        np.array,
        lambda v: np.array(v, dtype=float),
        pd.Series,
        lambda v: pd.Series(v, dtype="Float64"),
        lambda v: pytest.importorskip("polars").Series(v),
        lambda v: pytest.importorskip("pyarrow").array(v),
        lambda v: pytest.importorskip("pyarrow").chunked_array([v[:7], v[7:]]),
    ],
    ids=["list", "objects", "array", "pandas", "nullable", "polars", "pyarrow", "chunks"],
)
def test_values_that_are_missing_are_left_out(kind):
    wanted = {"F": (1.0 + 0.5 + 1.5) / 3, "M": (0.5 + 1.5 + 0.5) / 3}
    values = kind(VALUES)
    assert fm.group_mean(values, DATA["sex"]).to_dict() == pytest.approx(wanted)
    report = FairnessReport.from_values({"dice": values}, DATA["sex"], num_replicates=100)
    assert {g.label: g.metrics["dice"].value for g in report["group"].groups} == pytest.approx(wanted)
    with pytest.raises((TypeError, ValueError), match=r"y_pred: "):
        fm.group_metric("auc", DATA["y"], values, DATA["sex"])


@pytest.mark.parametrize(
    "values", [["0.9", "0.7"], [0.9, "x"], np.array(["0.9", "0.7"]), pd.to_datetime(["2020", "2021"])]
)
def test_texts_and_times_are_no_values(values):
    """A column of texts is a file that was read wrongly, even where each text is a number."""
    with pytest.raises(TypeError, match="values: expected numbers"):
        fm.group_mean(values, ["a", "b"])
    with pytest.raises(TypeError, match="dice: expected numbers"):
        FairnessReport.from_values({"dice": values}, ["a", "b"])


def test_categories_keep_their_order():
    order, values = ["low", "middle", "high", "none of it"], ["high", "low", None, "middle"]
    polars = pytest.importorskip("polars")
    for groups in (
        pd.Series(pd.Categorical(values, categories=order)),
        pd.Categorical(values, categories=order),
        polars.Series(values, dtype=polars.Enum(order)),
        polars.DataFrame({"size": polars.Series(values, dtype=polars.Enum(order))}),
    ):
        found = fm.group_mean([1.0, 2.0, 3.0, 4.0], groups)
        assert found.labels == tuple(order)
        np.testing.assert_array_equal(found.values, [2.0, 4.0, 1.0, math.nan])
    assert fm.group_mean([1.0] * 4, polars.Series(values, dtype=polars.Categorical)).labels == ("high", "low", "middle")
    pyarrow = pytest.importorskip("pyarrow")
    assert fm.group_mean([1.0] * 4, pyarrow.array(values).dictionary_encode()).labels == ("high", "low", "middle")


def test_frames_that_are_not_read_yet_and_columns_of_one_name():
    lazy = pytest.importorskip("polars").DataFrame(DATA).lazy()
    with pytest.raises(TypeError, match=r"y_true: .*LazyFrame; call its \.collect\(\)"):
        fm.max_accuracy_gap(lazy, DATA["p"], DATA["sex"])
    with pytest.raises(TypeError, match=r"groups: .*LazyFrame; call its \.collect\(\)"):
        fm.max_accuracy_gap(DATA["y"], DATA["p"], lazy)
    twice = pd.DataFrame([["F", "M"]] * 80, columns=["sex", "sex"])
    with pytest.raises(ValueError, match="groups: .*different names.*'sex', 'sex'"):
        fm.max_accuracy_gap(DATA["y"], DATA["p"], twice)
    with pytest.raises(ValueError, match="groups: .*different names"):
        FairnessReport.from_predictions(DATA["y"], DATA["p"], twice)


@pytest.mark.parametrize("form", ["array", "objects", "tensor"])
def test_columns_of_an_array_are_attributes_as_those_of_a_frame(form):
    rng = np.random.default_rng(0)
    y, d, codes = rng.integers(0, 2, 300), rng.integers(0, 2, 300), rng.integers(0, 3, (300, 2))
    names = codes.astype(str).astype(object)
    groups = {"array": codes, "objects": names, "tensor": pytest.importorskip("torch").from_numpy(codes)}[form]
    oracle = MetricFrame(metrics=accuracy_score, y_true=y, y_pred=d, sensitive_features=codes)
    found = fm.group_metric("accuracy", y, d, groups)
    assert found.to_dict() == pytest.approx({f"{a} & {b}": v for (a, b), v in oracle.by_group.items()})
    assert fm.max_accuracy_gap(y, d, groups) == pytest.approx(oracle.difference())
    assert list(fm.stratified_metric("accuracy", y, d, y, control=groups)) == list(found.labels)
    report = FairnessReport.from_predictions(y, d, groups, num_replicates=100)
    assert [a.name for a in report.attributes] == ["0", "1", "0 & 1"]


def test_an_array_that_may_be_one_hot_is_refused_with_both_readings():
    codes = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    for groups in (codes, codes.astype(int), codes.astype(bool)):
        with pytest.raises(ValueError, match=r"groups: .*argmax\(axis=1\) if it is one-hot, a mapping .* attributes"):
            fm.max_accuracy_gap([1] * 6, [1] * 6, groups)
    assert fm.max_accuracy_gap([1] * 6, [1, 1, 0] * 2, codes[:, :1]) == 0.5


def in_frame(kind, table, names):
    """(N, C) ``table`` as a frame with columns of these names."""
    if kind == "pandas":
        return pd.DataFrame(table, columns=names)
    columns = {str(name): table[:, c] for c, name in enumerate(names)}
    return getattr(pytest.importorskip(kind), {"polars": "DataFrame", "pyarrow": "table"}[kind])(columns)


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize("classes", [[0, 1], ["no", "yes"], [0, 1, 2], ["b", "c", "a"], [10, 9, 2]])
def test_columns_named_after_classes_are_theirs_in_any_order(kind, classes, rng):
    """The second of two columns was read as the positive one, and of several each by its place."""
    n = 60
    table = rng.dirichlet(np.ones(len(classes)), n)
    y, g = np.array(classes)[rng.integers(0, len(classes), n)], rng.integers(0, 2, n)
    positive = {"positive": classes[1]} if len(classes) == 2 else {}
    right = np.array(classes)[table.argmax(axis=1)] == y
    for order in (slice(None), slice(None, None, -1)):
        score = in_frame(kind, table[:, order], classes[order])
        assert fm.group_metric("accuracy", y, score, g, **positive).overall == pytest.approx(np.mean(right))
        (found,) = compare_models(y, {"m": score}, g, metrics=["accuracy"], num_replicates=100, **positive)
        assert found.overall["accuracy"] == pytest.approx(np.mean(right))
        assert fm.group_metric("accuracy", y, score, g, labels=classes[order], **positive).overall == np.mean(right)
        if kind == "pandas" and classes[order] == list(range(len(classes))):
            continue  # numbered, as pandas does where no names are given
        with pytest.raises(ValueError, match="labels: expected the order of the columns of y_pred"):
            fm.group_metric("accuracy", y, score, g, labels=classes[order][::-1], **positive)
    ignored = np.where(np.arange(n) % 5 == 0, "?" if isinstance(classes[0], str) else -7, y)
    found = fm.group_metric("accuracy", ignored, score, g, ignore_index=ignored[0].item(), **positive)
    assert found.overall == pytest.approx(np.mean(right[np.arange(n) % 5 > 0]))
    at = y == classes[0]  # a site that lacks the others
    some = in_frame(kind, table[at][:, ::-1], classes[::-1])
    assert fm.group_metric("accuracy", y[at], some, g[at], **positive).overall == np.mean(right[at])


@pytest.mark.parametrize(
    ("labels", "names"), [([3.0, 8.0], [3, 8]), ([3, 8], ["3.0", "8.0"]), ([False, True], ["0", "1"])]
)
def test_labels_and_columns_may_be_written_differently(labels, names, rng):
    p, g = rng.random(30), [0, 1] * 15
    y = np.array(labels)[rng.integers(0, 2, 30)]
    score = pd.DataFrame({names[1]: p, names[0]: 1 - p})
    wanted = fm.max_accuracy_gap((y == labels[1]).astype(int), p, g)
    assert fm.max_accuracy_gap(y, score, g, positive=labels[1]) == wanted
    assert fm.demographic_parity_difference(None, score, g, positive=labels[1], task="binary") == pytest.approx(
        abs(np.mean(p[::2] >= 0.5) - np.mean(p[1::2] >= 0.5))
    )


def test_columns_that_are_only_numbered_are_no_classes(rng):
    score, g = pd.DataFrame(rng.dirichlet(np.ones(2), 20)), [0, 1] * 10
    y = np.ones(20, dtype=int)  # of labels 1 and 2
    right = np.mean(score[1] < 0.5)
    assert fm.group_metric("accuracy", y, score, g, positive=2).overall == right
    assert fm.group_metric("accuracy", y, score, g, positive=2, labels=[1, 2]).overall == right


def test_labels_in_another_order_than_their_scores_are_refused(rng):
    names = ["edema", "effusion", "nodule"]
    y, score, g = rng.integers(0, 2, (40, 3)), rng.random((40, 3)), [0, 1] * 20
    frames = pd.DataFrame(y, columns=names), pd.DataFrame(score, columns=names)
    assert fm.auc_gap(*frames, g) == fm.auc_gap(y, score, g) == fm.auc_gap(y, frames[1], g)
    with pytest.raises(ValueError, match=r"y_true: expected the order of the columns of y_pred, \['edema'"):
        fm.auc_gap(frames[0][names[::-1]], frames[1], g)
