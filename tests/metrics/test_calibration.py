"""Calibration: bins, groups, what has no weight."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import fairloss.metrics as fm
from fairloss.metrics.calibration import bin_index, uniform_index
from tests.oracles import metrics as oracle

Y, P = [1, 0, 1, 0], [0.9, 0.2, 0.4, 0.6]


@pytest.mark.parametrize(
    "function",
    [fm.brier_score, fm.binary_cross_entropy, fm.mean_absolute_calibration_error],
    ids=lambda f: f.__name__,
)
def test_no_weight_at_all_is_undefined(function):
    assert math.isnan(function(Y, P, sample_weight=[0, 0, 0, 0]))


def test_calibration_gaps_compare_the_same_bins():
    """FairMedFM and MEDFAIR bin each group on its own range of scores."""
    y, p, g = [0, 1, 0, 1], [0.1, 0.4, 0.6, 0.9], ["F", "F", "M", "M"]
    own = fm.calibration_gap(y, p, g, strategy="range")
    same = fm.calibration_gap(y, p, g)
    edges = np.linspace(0, 1, 11)
    from tests.oracles.metrics import ece

    assert same == pytest.approx(abs(ece([0, 1], [0.1, 0.4], edges) - ece([0, 1], [0.6, 0.9], edges)))
    assert own != same or own == pytest.approx(same)


def test_bins():
    y, s = [0, 1, 1, 1, 0, 1], [0.0, 0.1, 0.2, 0.35, 0.6, 1.0]
    for strategy, edges in {
        "uniform": np.linspace(0, 1, 6),
        "range": np.linspace(0, 1, 6),
        "quantile": [0, 0.1, 0.35, 1.0],
    }.items():
        bins = len(edges) - 1
        assert fm.expected_calibration_error(y, s, bins=bins, strategy=strategy) == pytest.approx(
            oracle.ece(y, s, edges)
        )
        assert fm.expected_calibration_error(y, s, bins=edges) == pytest.approx(oracle.ece(y, s, edges))
    group = ["a", "a", "a", "b", "b", "b"]
    own = fm.group_metric("ece", y, s, group, bins=2, strategy="range").values
    assert own[0] == pytest.approx(oracle.ece(y[:3], s[:3], [0, 0.1, 0.2]))
    assert own[1] == pytest.approx(oracle.ece(y[3:], s[3:], [0.35, 0.675, 1.0]))
    shared = fm.group_metric("ece", y, s, group, bins=2, strategy="quantile").values
    assert shared[0] == pytest.approx(oracle.ece(y[:3], s[:3], [0, 0.2, 1.0]))


@pytest.mark.parametrize("bins", [*range(1, 60), 100, 1000, 12_345])
def test_bins_by_arithmetic_are_those_by_search(bins):
    edges = np.linspace(0, 1, bins + 1)
    near = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1).clip(max=1)])
    scores = np.concatenate([near, [0.0, -0.0, 5e-324, 1.0], np.random.default_rng(bins).random(2000)])
    assert (uniform_index(scores, bins) == bin_index(scores, edges[1:-1])).all()


@pytest.mark.parametrize("seed", range(12))
def test_calibration_of_groups_against_loops(seed):
    rng = np.random.default_rng(seed)
    n, size = int(rng.integers(2, 60)), int(rng.integers(1, 4))
    ids, y, s = rng.integers(-1, size, n), rng.integers(0, 2, n), rng.integers(0, 21, n) / 20
    weights = None if seed % 3 else rng.integers(0, 3, n)
    w = np.ones(n) if weights is None else weights.astype(float)
    for bins in (1, 4, 10, [0.0, 0.3, 0.35, 1.0]):
        edges = np.linspace(0, 1, bins + 1) if isinstance(bins, int) else bins
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fm.UndefinedGroupWarning)
            found = {
                m: fm.group_metric(m, y, s, ids, sample_weight=weights, bins=bins) for m in ("ece", "brier", "bce")
            }
        for i, g in enumerate(found["ece"].labels):
            at = (ids == g) & (w > 0)
            rows = np.repeat(np.flatnonzero(at), w[at].astype(int))  # a weight is a number of repetitions
            if not len(rows):
                assert all(np.isnan(f.values[i]) for f in found.values())
                continue
            expected = {
                "ece": oracle.ece(y[rows].tolist(), s[rows].tolist(), edges),
                "brier": np.mean([(a - b) ** 2 for a, b in zip(s[rows], y[rows], strict=True)]),
                "bce": np.mean([min(100.0, -np.log(p)) if p > 0 else 100.0 for p in np.where(y, s, 1 - s)[rows]]),
            }
            for name, value in expected.items():
                assert found[name].values[i] == pytest.approx(value, abs=1e-12), name
        assert found["ece"].counts.tolist() == [int((ids == g).sum()) for g in found["ece"].labels]
        assert found["ece"].positives.tolist() == [int(y[ids == g].sum()) for g in found["ece"].labels]
