"""Friedman, Nemenyi and paired t against SciPy and by hand."""

import numpy as np
import pytest
from scipy import stats

from fairloss.metrics import friedman_nemenyi, paired_t_test


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 6])
def test_friedman_equals_scipy(seed, decimals):
    scores = np.round(np.random.default_rng(seed).random((9, 4)), decimals)
    result = friedman_nemenyi(scores)
    expected = stats.friedmanchisquare(*scores.T)
    assert result.statistic == pytest.approx(expected.statistic)
    assert result.p_value == pytest.approx(expected.pvalue)
    up, down = friedman_nemenyi(scores), friedman_nemenyi(-scores, higher_is_better=False)
    np.testing.assert_array_equal(up.mean_ranks, down.mean_ranks)


def test_textbook_critical_values():
    # Demsar 2006, table 5: q_0.05 for k = 3 .. 10 methods. Its entries are studentized ranges of three decimals over
    # sqrt(2), rounded again: 0.0005 / sqrt(2) + 0.0005.
    published = [2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    rng = np.random.default_rng(0)
    found = [friedman_nemenyi(rng.random((5, k))).q_alpha for k in range(3, 11)]
    assert found == pytest.approx(published, abs=8.6e-4)


def test_nemenyi_and_cliques():
    scores = np.tile([0.9, 0.8, 0.7, 0.1], (30, 1))
    result = friedman_nemenyi(scores, names=["a", "b", "c", "d"])
    assert result.mean_ranks.tolist() == [1, 2, 3, 4]
    assert result.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 30)), abs=1e-3)
    assert result.better_than("a") == ["c", "d"] if result.critical_difference > 1 else ["b", "c", "d"]
    assert result.significant
    few = friedman_nemenyi(scores[:8], names=["a", "b", "c", "d"])
    assert few.critical_difference == pytest.approx(1.6583, abs=1e-3)
    assert few.cliques() == [("a", "b"), ("b", "c"), ("c", "d")]
    assert few.better_than("a") == ["c", "d"]
    assert (few.p_values < 0.05).tolist() == (
        np.abs(few.mean_ranks[:, None] - few.mean_ranks) > few.critical_difference
    ).tolist()
    equal = friedman_nemenyi(np.ones((5, 3)), names=["a", "b", "c"])
    assert (equal.statistic, equal.p_value) == (0, 1)
    assert equal.better_than("a") == []
    assert equal.cliques() == [("a", "b", "c")]


@pytest.mark.parametrize("seed", range(5))
def test_paired_t_equals_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(7), rng.random(7)
    result, expected = paired_t_test(a, b), stats.ttest_rel(a, b)
    assert result.statistic == pytest.approx(expected.statistic)
    assert result.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert result.interval == pytest.approx((interval.low, interval.high))
    assert result.cohens_d == pytest.approx(result.statistic / np.sqrt(7))


@pytest.mark.parametrize("scale", [2.0**-30, 1.0, 2.0**30])
def test_differences_equal_but_for_rounding_are_equal(scale):
    a, b = scale * np.array([0.9, 0.8, 0.7, 0.6]), scale * np.array([0.8, 0.7, 0.6, 0.5])
    assert (a - b).std() > 0
    result = paired_t_test(a, b)
    assert (result.statistic, result.cohens_d, result.p_value) == (np.inf, np.inf, 0)
    assert result.interval == (result.difference, result.difference)
    assert paired_t_test(b, a).statistic == -np.inf
    none = paired_t_test(scale * np.array([0.1 + 0.2, 0.5]), scale * np.array([0.3, 0.5]))
    assert np.isnan([none.statistic, none.cohens_d]).all()
    assert none.p_value == 1
    assert paired_t_test([5e-324, 0, 5e-324, 0, 0], [0.0] * 5).p_value == 1  # no division by an underflow
    # A spread a thousand times that of rounding is one.
    spread = paired_t_test(a, b + scale * 1e-12 * np.arange(4))
    assert 0 < spread.p_value < 1e-20
    for found in (result, none, spread):
        assert {type(v) for v in (*found.interval, found.statistic, found.p_value, found.cohens_d)} == {float}


def test_degenerate_and_bad_input():
    assert paired_t_test([1, 2], [1, 2]).p_value == 1
    assert paired_t_test([2, 3], [1, 2]).p_value == 0
    for call, message in [
        (lambda: friedman_nemenyi([[1, 2], [1, 2]]), "scores: .*shape"),
        (lambda: friedman_nemenyi(np.ones((3, 3)), alpha=2), "alpha: .*2"),
        (lambda: friedman_nemenyi(np.ones((3, 3)), names=["a", "a", "b"]), "names:"),
        (lambda: paired_t_test([1], [1]), "a and b"),
        (lambda: paired_t_test([1, 2], [1, 3], level=0), "level: .*0"),
        (lambda: friedman_nemenyi(np.ones((3, 3)), names="abc").better_than("x"), "name: .*'x'"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
