"""Every public metric on hostile predictions: the naive loops' value, or an error that names the argument."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st

from fairloss import metrics
from tests import oracles_metrics as oracle
from tests.fuzz_batches import Fields, close, fuzz, refused, same

ARGUMENTS = (
    "y_true|y_pred|y_score|groups|sample_weight|threshold|task|values|labels|scores|score_a|score_b|overall|a and b|a:|b:"
    "|performance|disparity|attributes|patients|undefined|is undefined in"
)
SPOILS = (
    "none", "scalar", "short", "text", "letters", "nan", "inf", "negative", "two", "deeper", "ragged", "empty", "complex",
    "object",
)  # fmt: skip
CONTAINERS = ("list", "array", "tensor", "series", "float32", "object")


def predictions():
    """Seeded labels, scores with ties, groups with unknown ones, weights."""
    return Fields(
        {
            "seed": range(2**31),
            "n": (1, 2, 3, 5, 9, 14),
            "truth": ("mixed", "mixed", "ones", "zeros"),
            "group": ("mixed", "mixed", "absent", "unknown", "one", "singletons"),
            "container": CONTAINERS,
            "weighted": (None, "random", "some_zero"),
            "spoil": (None,) * 14 + SPOILS,
            "argument": range(10),
        }
    )


def arrays_of(p):
    rng = np.random.default_rng(p["seed"])
    n = p["n"]
    y = {"mixed": rng.integers(0, 2, n), "ones": np.ones(n, int), "zeros": np.zeros(n, int)}[p["truth"]]
    g = {
        "mixed": rng.integers(-1, 3, n),
        "absent": rng.integers(-1, 2, n),
        "unknown": np.full(n, -1),
        "one": np.full(n, 2),
        "singletons": np.arange(n),
    }[p["group"]]
    w = {None: None, "random": rng.random(n) + 0.1, "some_zero": rng.integers(0, 2, n).astype(float)}[p["weighted"]]
    return {"y_true": y, "y_score": np.round(rng.random(n), 1), "groups": g, "sample_weight": w}


def contained(x, kind):
    if x is None or kind == "array":
        return x
    if kind == "list":
        return x.tolist()
    if kind == "tensor":
        return torch.from_numpy(x.copy())
    if kind == "series":
        return pd.Series(x, index=np.arange(len(x))[::-1])
    if kind == "float32":
        return x.astype(np.float32) if x.dtype.kind == "f" else x
    return x.astype(object)


def spoilt(x, how, rng):
    """``x`` with something wrong; None where that cannot be done to it."""
    x = np.asarray(x)
    if how in ("none", "scalar", "text", "object"):
        return {"none": None, "scalar": 1, "text": "abc", "object": object()}[how]
    if how == "short":
        return x[:-1]
    if how == "empty":
        return x[:0]
    if how == "letters":
        return [*"abcdefghijklmnop"[: len(x)]]
    if how == "deeper":
        return x[None, None]
    if how == "ragged":
        return [[1.0], *([[1.0, 2.0]] * max(len(x) - 1, 1))]
    if how == "complex":
        return x.astype(complex) + 1j
    out = x.astype(float).copy()
    out[int(rng.integers(len(out)))] = {"nan": math.nan, "inf": math.inf, "negative": -5.0, "two": 2.5}[how]
    return out


def call(function, *args, **kwargs):
    """Warnings are errors, but for the one that names undefined groups."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", metrics.UndefinedGroupWarning)
        return function(*args, **kwargs)


def numbers(result):
    if not isinstance(result, (float, np.ndarray, metrics.GroupMetric)):
        return np.zeros(0)
    return np.asarray(result.values if isinstance(result, metrics.GroupMetric) else result, dtype=float)


def judge(function, arguments, p, check, may_pass=()):
    """Run a valid example against ``check(result)``, or a spoilt one against the error that it must raise."""
    names = list(arguments)
    kind = p["container"]
    given = {k: v if k == "groups" else contained(v, "array" if kind == "float32" and k == "sample_weight" else kind)
             for k, v in arguments.items()}  # fmt: skip
    name = names[p["argument"] % len(names)]
    if p["spoil"] is not None:
        given[name] = spoilt(
            np.ones(p["n"]) if arguments[name] is None else arguments[name],
            p["spoil"],
            np.random.default_rng(p["seed"]),
        )
    before = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in given.items()}
    if p["spoil"] is None:
        check(call(function, **given))
    else:
        try:
            result = call(function, **given)
        except (ValueError, TypeError) as error:
            refused(error, ARGUMENTS)
        else:
            assert (name, p["spoil"]) in may_pass or (name, "*") in may_pass, f"{name} {p['spoil']} gave {result}"
            assert not np.isinf(numbers(result)).any()
    assert all(same(given[k], before[k]) for k in given if isinstance(given[k], np.ndarray))


def by_group(arrays, value):
    """Values of the groups present; without weight none is."""
    w = arrays["sample_weight"] if arrays["sample_weight"] is not None else np.ones(len(arrays["y_true"]))
    found = []
    for g in sorted(set(arrays["groups"].tolist()) - {-1}):
        at = arrays["groups"] == g
        found.append(value(arrays["y_true"][at], arrays["y_score"][at], w[at]))
    return found


def rate_of(name):
    return lambda y, s, w: oracle.rate(name, y, (s >= 0.5).astype(int), w)


def gap_of(values):
    defined = [v for v in values if not math.isnan(v)]
    return max(defined) - min(defined) if len(defined) > 1 else math.nan


def ratio_of(values):
    defined = [v for v in values if not math.isnan(v)]
    return min(defined) / max(defined) if len(defined) > 1 and max(defined) > 0 else math.nan


# Any label is a group (letters, 2.5, one string a sample); NaN is an unknown one; weights may be left out; classes may be
# letters, where labels and predictions are of one kind; bools and whole numbers are scores.
LENIENT = {("groups", how) for how in ("letters", "nan", "inf", "two", "negative", "complex")} | {
    ("sample_weight", how) for how in ("none", "two")
}
RATES = {
    "max_accuracy_gap": lambda a: gap_of(by_group(a, rate_of("accuracy"))),
    "demographic_parity_difference": lambda a: gap_of(by_group(a, rate_of("positive_rate"))),
    "demographic_parity_ratio": lambda a: ratio_of(by_group(a, rate_of("positive_rate"))),
    "equal_opportunity_difference": lambda a: gap_of(by_group(a, rate_of("tpr"))),
    "false_positive_rate_difference": lambda a: gap_of(by_group(a, rate_of("fpr"))),
    "predictive_parity_difference": lambda a: gap_of(by_group(a, rate_of("fdr"))),
    "equalized_odds_difference": lambda a: nan_max([gap_of(by_group(a, rate_of(r))) for r in ("tpr", "fpr")]),
    "equalized_odds_ratio": lambda a: -nan_max([-ratio_of(by_group(a, rate_of(r))) for r in ("tpr", "fpr")]),
}


def nan_max(values):
    return math.nan if any(map(math.isnan, values)) else max(values)


@pytest.mark.parametrize("name", RATES)
@fuzz(*(f"fairloss.metrics.{name}" for name in RATES), p=predictions())
def test_gap_of_rates(name, p):
    a = arrays_of(p)
    arguments = {"y_true": a["y_true"], "y_pred": a["y_score"], "groups": a["groups"]}
    arguments["sample_weight"] = a["sample_weight"]
    # Scores of any size are compared with the threshold; a score of 2.5 beside whole labels is a wrong answer of another kind.
    may_pass = LENIENT | {("y_pred", how) for how in ("two", "negative", "letters")}
    may_pass |= {("y_true", how) for how in ("letters", "negative", "two")}  # read as classes
    if name.startswith("demographic"):
        may_pass |= {("y_true", "none")}

    def check(result):
        assert close(result, RATES[name](a)), (result, RATES[name](a))

    judge(getattr(metrics, name), arguments, p, check, may_pass)


def auc_of(y, s, w):
    return oracle.auc(y, s, w)


def ece_of(y, s, w):
    return oracle.ece(y, s, np.linspace(0, 1, 11), w) if w.sum() else math.nan


def equity(a):
    values = [v for v in by_group(a, auc_of) if not math.isnan(v)]
    w = a["sample_weight"] if a["sample_weight"] is not None else np.ones(len(a["y_true"]))
    overall = oracle.auc(a["y_true"], a["y_score"], w)
    return overall / (1 + np.mean([abs(overall - v) for v in values])) if values else math.nan


SCORED = {
    "auc_gap": lambda a: gap_of(by_group(a, auc_of)),
    "equity_scaled_auc": equity,
    "calibration_gap": lambda a: gap_of(by_group(a, ece_of)),
}


@pytest.mark.parametrize("name", SCORED)
@fuzz(*(f"fairloss.metrics.{name}" for name in SCORED), p=predictions())
def test_gap_of_scores(name, p):
    a = arrays_of(p)
    p = {**p, "container": "array"} if p["container"] == "float32" else p  # a bin's edge is not the rounded edge
    may_pass = LENIENT if name == "calibration_gap" else LENIENT | {("y_score", how) for how in ("two", "negative")}

    def check(result):
        assert close(result, SCORED[name](a)), (result, SCORED[name](a))

    judge(getattr(metrics, name), a, p, check, may_pass)


@fuzz(
    "fairloss.metrics.group_metric",
    "fairloss.metrics.GroupMetric",
    "fairloss.metrics.METRICS",
    "fairloss.metrics.UndefinedGroupWarning",
    p=predictions(),
    name=st.sampled_from([*metrics.METRICS, "nonsense"]),
)
def test_group_metric(p, name):
    a = arrays_of(p)
    arguments = {"y_true": a["y_true"], "y_pred": a["y_score"], "groups": a["groups"]}
    arguments["sample_weight"] = a["sample_weight"]
    if name == "nonsense":
        with pytest.raises(ValueError, match="metric"):
            metrics.group_metric(name, **arguments)
        return
    may_pass = LENIENT | {("y_pred", how) for how in ("two", "negative", "letters")}
    may_pass |= {("y_true", how) for how in ("letters", "negative", "two")}
    may_pass |= {("y_true", "none")} if name == "positive_rate" else set()

    def check(result):
        assert result.labels == tuple(sorted(set(a["groups"].tolist()) - {-1}))
        assert result.counts.tolist() == [int((a["groups"] == g).sum()) for g in result.labels]
        if name in ("accuracy", "tpr", "tnr", "fpr", "fnr", "precision", "fdr", "f1", "positive_rate", "prevalence"):
            assert all(close(x, y) for x, y in zip(result.values, by_group(a, rate_of(name)), strict=True))
        assert np.all(np.isnan(result.values) | (result.values >= 0))
        assert name == "bce" or np.all(np.isnan(result.values) | (result.values <= 1 + 1e-12))
        assert close(result.gap(), gap_of(result.values.tolist()))

    judge(lambda **kw: metrics.group_metric(name, **kw), arguments, p, check, may_pass)


def mean_of(each):
    def value(y, s, w):
        return sum(wi * each(yi, si) for yi, si, wi in zip(y, s, w, strict=True)) / sum(w) if sum(w) else math.nan

    return value


def nll(y, s):
    p = s if y else 1 - s
    return min(100.0, -math.log(p)) if p else 100.0


ALONE = {
    "auc": oracle.auc,
    "expected_calibration_error": ece_of,
    "mean_absolute_calibration_error": mean_of(lambda y, s: abs(s - y)),
    "binary_cross_entropy": mean_of(nll),
    "brier_score": mean_of(lambda y, s: (s - y) ** 2),
}


@pytest.mark.parametrize("name", ALONE)
@fuzz(*(f"fairloss.metrics.{name}" for name in ALONE), p=predictions())
def test_scores_alone(name, p):
    a = arrays_of(p)
    p = {**p, "container": "array"} if p["container"] == "float32" else p
    arguments = {k: a[k] for k in ("y_true", "y_score", "sample_weight")}
    w = a["sample_weight"] if a["sample_weight"] is not None else np.ones(p["n"])
    may_pass = LENIENT | ({("y_score", how) for how in ("two", "negative")} if name == "auc" else set())

    def check(result):
        expected = ALONE[name](a["y_true"], a["y_score"], w)
        assert close(result, expected), (result, expected)

    judge(getattr(metrics, name), arguments, p, check, may_pass)


@fuzz("fairloss.metrics.best_f1_threshold", p=predictions())
def test_best_f1_threshold(p):
    a = arrays_of({**p, "weighted": None})
    p = {**p, "container": "array"} if p["container"] == "float32" else p
    arguments = {"y_true": a["y_true"], "y_score": a["y_score"]}
    if p["spoil"] is None and not a["y_true"].any():
        with pytest.raises(ValueError, match="y_true"):
            metrics.best_f1_threshold(**arguments)
        return

    def check(result):
        assert result == oracle.f1_best_threshold(a["y_true"], a["y_score"])

    judge(metrics.best_f1_threshold, arguments, p, check, {("y_score", "two"), ("y_score", "negative")})


@fuzz("fairloss.metrics.group_mean", p=predictions())
def test_group_mean(p):
    a = arrays_of(p)
    arguments = {"values": a["y_score"], "groups": a["groups"], "sample_weight": a["sample_weight"]}
    p = {**p, "container": "array"} if p["container"] == "float32" else p

    def check(result):
        expected = by_group(a, mean_of(lambda y, s: s))
        assert all(close(x, y) for x, y in zip(result.values, expected, strict=True))

    may_pass = LENIENT | {("values", how) for how in ("two", "negative", "nan", "empty")}
    judge(metrics.group_mean, arguments, p, check, may_pass)


FLOATS = st.one_of(st.floats(-1e150, 1e150), st.sampled_from((math.nan, math.inf, -math.inf)))
ODD = st.sampled_from([None, "abc", object(), [[1.0, 2.0]], [1, "x"], [None, 1.0], 3.0, [1j], [[1.0], [1.0, 2.0]]])
VALUES = st.one_of(
    st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=5), st.lists(FLOATS, max_size=5), ODD
)


def defined(values):
    return [v for v in values if not math.isnan(v)]


SUMMARIES = {
    "gap": (metrics.gap, lambda v: max(v) - min(v), 2),
    "worst": (metrics.worst, min, 1),
    "group_std": (lambda v: metrics.group_std(v, ddof=1), lambda v: float(np.std(v, ddof=1)), 2),
    "error_skew": (metrics.error_skew, None, 2),
    "equity_scaled": (
        lambda v: metrics.equity_scaled(0.5, v, penalty="sum_abs"),
        lambda v: 0.5 / (1 + sum(abs(0.5 - x) for x in v)),
        1,
    ),
    "performance_scaled_disparity": (
        lambda v: metrics.performance_scaled_disparity(0.5, v, reduce="max"),
        lambda v: (max(v) - min(v)) / 0.5,
        2,
    ),
}


@pytest.mark.parametrize("name", SUMMARIES)
@fuzz(*(f"fairloss.metrics.{name}" for name in SUMMARIES), values=VALUES)
def test_summaries(name, values):
    function, expected, least = SUMMARIES[name]
    try:
        found = call(function, values)
    except (ValueError, TypeError) as error:
        refused(error, "values")
        wrong = not isinstance(values, list) or not all(isinstance(v, float) for v in values)
        wrong = wrong or any(map(math.isinf, values)) or (name == "error_skew" and max(defined(values)) > 1)
        if not wrong:
            raise
        return
    kept = defined([math.nan if v is None else v for v in values])
    if len(kept) < least:
        assert math.isnan(found)
    elif name == "error_skew":
        assert found >= 1
    elif max(map(abs, kept)) < 1e100:
        assert close(found, expected(kept), rel=1e-6), (found, expected(kept))


@fuzz(
    "fairloss.metrics.dice",
    "fairloss.metrics.iou",
    seed=st.integers(0, 2**31),
    n=st.integers(0, 3),
    pixels=st.integers(0, 5),
    spoil=st.sampled_from((None,) * 6 + ("half", "negative", "nan", "shape", "flat", "none", "text", "classes")),
)
def test_overlap(seed, n, pixels, spoil):
    rng = np.random.default_rng(seed)
    true, pred = rng.integers(0, 3, (2, n, pixels))
    functions = (metrics.dice, metrics.iou)
    if spoil is not None and n and pixels:
        bad = {
            "half": pred + 0.5,
            "negative": pred - 9,
            "nan": np.where(pred == pred[0, 0], math.nan, pred),
            "shape": pred[:, :-1],
            "flat": pred[0],
            "none": None,
            "text": "ab",
            "classes": pred + 3,
        }[spoil]
        for function in functions:
            with pytest.raises((ValueError, TypeError), match="y_true|y_pred"):
                call(function, true, bad, num_classes=3)
        return
    for function in functions:
        found = call(function, true, pred, num_classes=3)
        assert found.shape == (n, 3)
        for i in range(n):
            for c in range(3):
                a, b = true[i] == c, pred[i] == c
                both, size = int((a & b).sum()), int(a.sum() + b.sum())
                bottom = size if function is metrics.dice else size - both
                top = 2 * both if function is metrics.dice else both
                assert close(found[i, c], top / bottom if bottom else math.nan)


@fuzz(
    "fairloss.metrics.cross_groups",
    seed=st.integers(0, 2**31),
    n=st.integers(0, 6),
    spoil=st.sampled_from((None, None, "none", "empty", "lengths", "text", "deeper", "list")),
)
def test_cross_groups(seed, n, spoil):
    rng = np.random.default_rng(seed)
    sex = [["F", "M", None][i] for i in rng.integers(0, 3, n)]
    age = [[0, 1, -1][i] for i in rng.integers(0, 3, n)]
    bad = {
        "none": None,
        "empty": {},
        "lengths": {"a": sex, "b": [*age, 1]},
        "text": {"a": "text"},
        "deeper": {"a": [[1, 2]]},
        "list": ["F", "M"],
    }
    if spoil is not None:
        with pytest.raises((ValueError, TypeError), match=r"attributes|groups|a:|one string"):
            call(metrics.cross_groups, bad[spoil])
        return
    codes = call(metrics.cross_groups, {"sex": sex, "age": age})
    for s, a, i in zip(sex, age, codes.ids.tolist(), strict=True):
        assert (i < 0) == (s is None or a == -1)
        assert i < 0 or codes.labels[i] == f"{s} & {a}"


NESTED = st.dictionaries(
    st.sampled_from("AB"),
    st.dictionaries(
        st.sampled_from("xy"),
        st.dictionaries(st.sampled_from("fm"), st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=2),
        max_size=2,
    ),
    max_size=2,
)


@fuzz(
    "fairloss.metrics.aggregate_disparity",
    "fairloss.metrics.hierarchical_mean",
    values=st.one_of(NESTED, st.sampled_from([None, 3, "ab", [1.0], {"A": 1.0}, {"A": {"x": "text"}}, {"A": None}])),
    order=st.sampled_from(("disparity_first", "average_first", "nonsense")),
)
def test_averages(values, order):
    for function in (lambda v: metrics.aggregate_disparity(v, order=order), metrics.hierarchical_mean):
        try:
            found = call(function, values)
        except (ValueError, TypeError) as error:
            refused(error, "values|order")
            continue
        assert math.isnan(found) or -1e-12 <= found <= 1 + 1e-12


@fuzz(
    "fairloss.metrics.pareto_front",
    "fairloss.metrics.paired_t_test",
    a=st.one_of(st.lists(st.floats(-1e6, 1e6), max_size=5), st.lists(FLOATS, max_size=5), ODD),
    b=st.one_of(st.lists(st.floats(-1e6, 1e6), max_size=5), ODD),
)
def test_pairs(a, b):
    for function in (metrics.pareto_front, metrics.paired_t_test):
        try:
            found = call(function, a, b)
        except (ValueError, TypeError) as error:
            refused(error, "performance|disparity|a and b|a:|b:")
            continue
        assert len(a) == len(b)
        if function is metrics.pareto_front:
            p, d = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
            for i, kept in enumerate(found):
                better = [j for j in range(len(p)) if p[j] >= p[i] and d[j] <= d[i] and (p[j] > p[i] or d[j] < d[i])]
                assert kept == (not better and not math.isnan(p[i]) and not math.isnan(d[i]))
        else:
            assert close(found.difference, float(np.mean(np.subtract(a, b))), rel=1e-6, abs_=1e-6)
            assert 0 <= found.p_value <= 1
            assert found.interval[0] <= found.interval[1]


@fuzz(
    "fairloss.metrics.friedman_nemenyi",
    "fairloss.metrics.plot_critical_difference",
    examples=0.02,
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 5)),
    spoil=st.sampled_from((None, None, "nan", "inf", "text", "none")),
)
def test_friedman(seed, shape, spoil):
    scores = np.random.default_rng(seed).integers(0, 4, shape) / 4
    if spoil is not None or shape[0] < 2 or shape[1] < 3:
        bad = {"text": "ab", "none": None}.get(spoil, scores)
        if spoil in ("nan", "inf") and scores.size:
            scores.ravel()[0] = float(spoil)
        elif spoil in ("nan", "inf"):
            return
        with pytest.raises((ValueError, TypeError), match="scores"):
            call(metrics.friedman_nemenyi, bad)
        return
    found = call(metrics.friedman_nemenyi, scores)
    assert found.mean_ranks.sum() == pytest.approx(shape[1] * (shape[1] + 1) / 2)
    assert 0 <= found.p_value <= 1
    assert np.all((found.p_values >= 0) & (found.p_values <= 1))
    assert found.critical_difference > 0
    assert metrics.plot_critical_difference(found).axes


@fuzz(
    "fairloss.metrics.compare_models",
    "fairloss.metrics.gap_difference_test",
    "fairloss.metrics.plot_pareto",
    examples=0.1,
    p=predictions(),
)
def test_comparisons(p):
    a = arrays_of({**p, "weighted": None})
    arguments = {"y_true": a["y_true"], "score_a": a["y_score"], "score_b": a["y_score"][::-1], "groups": a["groups"]}

    def check(result):
        assert close(result.gap_a, gap_of(by_group(a, rate_of("accuracy"))))
        assert math.isnan(result.p_value) or 0 < result.p_value <= 1

    may_pass = LENIENT | {(name, how) for name in ("score_a", "score_b") for how in ("two", "negative", "letters")}
    may_pass |= {("y_true", how) for how in ("letters", "negative", "two")}
    judge(
        lambda **kw: metrics.gap_difference_test(**kw, num_replicates=100), arguments, p, check,
        may_pass | {(n, h) for n, h in may_pass},
    )  # fmt: skip


@fuzz("fairloss.metrics.FairnessReport", examples=0.02, p=predictions())
def test_report(p):
    a = arrays_of({**p, "weighted": None})
    arguments = {"y_true": a["y_true"], "y_score": a["y_score"], "groups": a["groups"]}

    def check(report):
        found = report.attributes[0]
        values = [g.metrics["accuracy"].value for g in found.groups]
        assert all(close(x, y) for x, y in zip(values, by_group(a, rate_of("accuracy")), strict=True))
        assert report.to_markdown()
        assert report.to_dict()["overall"]["accuracy"]["value"] == report.overall["accuracy"].value

    def run(**kw):
        return metrics.FairnessReport.from_predictions(**kw, num_replicates=100)

    if p["spoil"] is None and (a["groups"] < 0).all():
        with pytest.raises(ValueError, match="groups|attribute"):
            call(run, **arguments)
        return
    names = LENIENT | {("y_score", how) for how in ("two", "negative", "letters")}
    names |= {("y_true", how) for how in ("letters", "negative", "two")}
    judge(run, arguments, p, check, names)
