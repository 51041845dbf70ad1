"""AUC: ties, weights, groups, many groups, against pairs and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

import fairloss.metrics as fm
from fairloss.metrics.predictions import Predictions
from fairloss.metrics.ranking import auc_by_group, weighted_auc
from tests.oracles import metrics as oracle


def ranked(target, score):
    return Predictions("multilabel", target, target, score, tuple(range(target.shape[1])))


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
        found = auc_by_group(ranked(y, s), ids, size, w)
        for g, k in np.ndindex(found.shape):
            at = ids == g
            expected = oracle.auc(y[at, k].tolist(), s[at, k].tolist(), w[at].tolist())
            np.testing.assert_allclose(found[g, k], expected, rtol=0, atol=1e-12)
            if w.min() == w.max() == 1:  # counts of pairs are exact, and both ways divide them
                assert np.array_equal(found[g, k], weighted_auc(s[at, k], y[at, k], w[None, at])[0], equal_nan=True)


def test_auc_of_more_groups_than_16_bits_count():
    ids = np.array([0, 0, 70_000, 70_000, -1, 4464, 4464])  # 70,000 is 4,464 in 16 bits
    y, s = np.array([0, 1, 0, 1, 1, 1, 0], dtype=bool)[:, None], np.array([0.1, 0.2, 0.2, 0.1, 0.9, 0.5, 0.5])[:, None]
    found = auc_by_group(ranked(y, s), ids, 70_001, np.ones(7))[:, 0]
    assert found[[0, 4464, 70_000]].tolist() == [1.0, 0.5, 0.0]
    assert np.isnan(found).sum() == 70_001 - 3


def test_auc_without_weights_is_scikit_learns(rng):
    sklearn = pytest.importorskip("sklearn.metrics")
    for n in (2, 10, 300):
        y, s = np.arange(n) % 2, rng.integers(0, 7, n) / 7
        assert fm.auc(y, s) == pytest.approx(sklearn.roc_auc_score(y, s), abs=1e-14)
    assert np.isnan(fm.auc([1, 1], [0.2, 0.3]))
