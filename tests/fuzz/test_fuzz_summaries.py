"""Every public statistic of values and scores that are already computed: summaries of groups, averages, model comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import strategies as st

from fairloss import metrics, report
from tests.fuzz.drawing import close, fuzz, refused
from tests.fuzz.predictions import call

FLOATS = st.one_of(st.floats(-1e150, 1e150), st.sampled_from((math.nan, math.inf, -math.inf)))
ODD = st.sampled_from([None, "abc", object(), [[1.0, 2.0]], [1, "x"], [None, 1.0], 3.0, [1j], [[1.0], [1.0, 2.0]]])
VALUES = st.one_of(
    st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=5), st.lists(FLOATS, max_size=5), ODD
)


def defined(values):
    return [v for v in values if not math.isnan(v)]


SUMMARIES = {
    "gap": (metrics.gap, lambda v: max(v) - min(v), 2),
    "ratio": (metrics.ratio, lambda v: min(v) / max(v) if max(v) > 0 else math.nan, 2),
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
        wrong = wrong or (name == "ratio" and min(defined(values)) < 0)
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
    "fairloss.report.sample_size",
    rate=st.one_of(st.floats(-0.2, 1.2), FLOATS, ODD),
    other_rate=st.one_of(st.floats(0, 1), ODD),
    other_size=st.one_of(st.none(), st.integers(-3, 10_000), ODD),
    share=st.one_of(st.floats(0.01, 1), FLOATS, ODD),
)
def test_sample_size(rate, other_rate, other_size, share):
    try:
        found = report.sample_size(rate, other_rate=other_rate, other_size=other_size, share=share)
    except (ValueError, TypeError) as error:
        refused(error, "rate|other_rate|other_size|share")
        return
    assert found >= 1
    assert 0 <= rate <= 1
    assert rate != other_rate


@fuzz(
    "fairloss.report.pareto_front",
    "fairloss.metrics.paired_t_test",
    a=st.one_of(st.lists(st.floats(-1e6, 1e6), max_size=5), st.lists(FLOATS, max_size=5), ODD),
    b=st.one_of(st.lists(st.floats(-1e6, 1e6), max_size=5), ODD),
)
def test_pairs(a, b):
    for function in (report.pareto_front, metrics.paired_t_test):
        try:
            found = call(function, a, b)
        except (ValueError, TypeError) as error:
            refused(error, "performance|disparity|a and b|a:|b:")
            continue
        assert len(a) == len(b)
        if function is report.pareto_front:
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
    "fairloss.report.plot_critical_difference",
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
    assert report.plot_critical_difference(found).axes
