"""Every public metric on hostile predictions: the naive loops' value, or an error that names the argument."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import strategies as st

from fairloss import metrics, report
from fairloss.report import FairnessReport
from tests.fuzz.drawing import close, fuzz
from tests.fuzz.predictions import (
    LENIENT,
    arrays_of,
    by_group,
    call,
    gap_of,
    judge,
    nan_max,
    predictions,
    rate_of,
    ratio_of,
)
from tests.oracles import metrics as oracle

RATES = {
    "max_accuracy_gap": lambda a: gap_of(by_group(a, rate_of("accuracy"))),
    "demographic_parity_difference": lambda a: gap_of(by_group(a, rate_of("positive_rate"))),
    "demographic_parity_ratio": lambda a: ratio_of(by_group(a, rate_of("positive_rate"))),
    "equal_opportunity_difference": lambda a: gap_of(by_group(a, rate_of("tpr"))),
    "equal_opportunity_ratio": lambda a: ratio_of(by_group(a, rate_of("tpr"))),
    "false_positive_rate_difference": lambda a: gap_of(by_group(a, rate_of("fpr"))),
    "predictive_parity_difference": lambda a: gap_of(by_group(a, rate_of("fdr"))),
    "equalized_odds_difference": lambda a: nan_max([gap_of(by_group(a, rate_of(r))) for r in ("tpr", "fpr")]),
    "equalized_odds_ratio": lambda a: -nan_max([-ratio_of(by_group(a, rate_of(r))) for r in ("tpr", "fpr")]),
}


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


@fuzz("fairloss.metrics.stratified_metric", p=predictions(), name=st.sampled_from(sorted(RATES)))
def test_gap_within_strata(p, name):
    a = arrays_of(p)
    control = np.random.default_rng(p["seed"] + 1).integers(-1, 3, p["n"])
    arguments = {"y_true": a["y_true"], "y_pred": a["y_score"], "groups": a["groups"], "control": control}
    arguments["sample_weight"] = a["sample_weight"]
    strata = {
        s: {k: v if v is None else v[control == s] for k, v in a.items()} for s in sorted(set(control.tolist()) - {-1})
    }
    gaps = [gap for gap in (RATES[name](part) for part in strata.values()) if not math.isnan(gap)]
    expected = (min if name.endswith("ratio") else max)(gaps, default=math.nan)
    found = call(getattr(metrics, name), **arguments)
    assert close(found, expected), (found, expected)

    def check(result):
        assert list(result) == list(strata)
        for s, part in strata.items():
            present = sorted(set(part["groups"].tolist()) - {-1})
            for g, value in zip(present, by_group(part, rate_of("tpr")), strict=True):
                assert close(result[s].to_dict()[g], value)

    may_pass = LENIENT | {("y_pred", how) for how in ("two", "negative", "letters")}
    may_pass |= {("y_true", how) for how in ("letters", "negative", "two")}
    may_pass |= {("control", how) for how in ("none", "nan", "inf", "two", "negative", "letters", "object")}
    judge(lambda **kw: metrics.stratified_metric("tpr", **kw), arguments, p, check, may_pass)


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
        present = a["groups"] if a["sample_weight"] is None else a["groups"][a["sample_weight"] > 0]
        assert result.counts.tolist() == [int((present == g).sum()) for g in result.labels]
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


@fuzz(
    "fairloss.report.compare_models",
    "fairloss.report.gap_difference_test",
    "fairloss.report.plot_pareto",
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
        lambda **kw: report.gap_difference_test(**kw, num_replicates=100), arguments, p, check,
        may_pass | {(n, h) for n, h in may_pass},
    )  # fmt: skip


@fuzz("fairloss.report.FairnessReport", examples=0.02, p=predictions())
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
        return FairnessReport.from_predictions(**kw, num_replicates=100)

    if p["spoil"] is None and (a["groups"] < 0).all():
        with pytest.raises(ValueError, match="groups|attribute"):
            call(run, **arguments)
        return
    names = LENIENT | {("y_score", how) for how in ("two", "negative", "letters")}
    names |= {("y_true", how) for how in ("letters", "negative", "two")}
    judge(run, arguments, p, check, names)
