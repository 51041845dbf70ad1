"""Calibration: bins, groups, what has no weight."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

import fairloss.metrics as fm
from fairloss.metrics.arrays import round_as
from fairloss.metrics.calibration import bin_index, uniform_index
from fairloss.metrics.predictions import as_predictions
from fairloss.report import FairnessReport
from fairloss.report.sums import Cells, MetricsOfPredictions, sums_of
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
    own = fm.group_metric("ece", y, s, group, score_bins=2, strategy="range").values
    assert own[0] == pytest.approx(oracle.ece(y[:3], s[:3], [0, 0.1, 0.2]))
    assert own[1] == pytest.approx(oracle.ece(y[3:], s[3:], [0.35, 0.675, 1.0]))
    shared = fm.group_metric("ece", y, s, group, score_bins=2, strategy="quantile").values
    assert shared[0] == pytest.approx(oracle.ece(y[:3], s[:3], [0, 0.2, 1.0]))


@pytest.mark.parametrize("bins", [*range(1, 60), 100, 1000, 12_345])
def test_bins_by_arithmetic_are_those_by_search(bins):
    edges = np.arange(bins + 1) / bins
    near = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1).clip(max=1)])
    scores = np.concatenate([near, [0.0, -0.0, 5e-324, 1.0], np.random.default_rng(bins).random(2000)])
    for precision in ("float64", "float32"):
        rounded = round_as(edges, precision)
        kept = (
            scores if precision == "float64" else round_as(np.concatenate([scores, *_neighbours(rounded)]), precision)
        )
        assert (uniform_index(kept, rounded[1:-1]) == bin_index(kept, rounded[1:-1])).all(), precision


def _neighbours(edges):
    return [np.nextafter(np.float32(edges), np.float32(to)).astype(float) for to in (0, 1)]


def ece_of_hundredths(y, hundredths, bins=10):
    """By hand, in whole numbers: a score of k / 100 is in bin b where 100 b < bins k <= 100 (b + 1)."""
    sums = {}
    for label, k in zip(y, hundredths, strict=True):
        b = max(0, -(-bins * k // 100) - 1)
        sums[b] = sums.get(b, 0) + k - 100 * label
    return sum(map(abs, sums.values())) / (100 * len(y))


KINDS = {
    "list": list,
    "float64": lambda s: np.array(s),
    "float32": lambda s: np.array(s, dtype=np.float32),
    "float16": lambda s: np.array(s, dtype=np.float16),
    "tensor": lambda s: torch.tensor(s),
    "bfloat16": lambda s: torch.tensor(s, dtype=torch.bfloat16),
}


def test_a_score_on_an_edge_by_hand():
    for kind in KINDS.values():
        assert fm.expected_calibration_error([1, 0], kind([0.3, 0.25])) == pytest.approx(0.225, abs=2e-3)
    assert fm.expected_calibration_error([1, 0], [0.3, 0.25]) == pytest.approx(0.225, abs=1e-15)


@pytest.mark.parametrize("bins", [5, 10, 20, 25, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_two_decimals_fall_into_the_bins_of_their_decimals(kind, bins):
    rng = np.random.default_rng(bins)
    tolerance = {"float16": 5e-4, "bfloat16": 4e-3}.get(kind, 1e-7)
    for _ in range(40):
        k, y, g = rng.integers(0, 101, 100), rng.integers(0, 2, 100), rng.integers(0, 2, 100)
        if kind == "bfloat16":
            k = k // 10 * 10  # eight bits do not tell hundredths apart
        score = KINDS[kind]((k / 100).tolist())
        groups = [ece_of_hundredths(y[g == j], k[g == j].tolist(), bins) for j in (0, 1)]
        whole = ece_of_hundredths(y, k.tolist(), bins)
        found = fm.group_metric("ece", y, score, g, score_bins=bins)
        assert [*found.values, found.overall] == pytest.approx([*groups, whole], abs=tolerance)
        assert fm.expected_calibration_error(y, score, bins=bins) == pytest.approx(whole, abs=tolerance)
        edges = np.arange(bins + 1) / bins
        assert fm.expected_calibration_error(y, score, bins=edges) == pytest.approx(whole, abs=tolerance)
        assert fm.calibration_gap(y, score, g, score_bins=bins) == pytest.approx(
            abs(groups[0] - groups[1]), abs=2 * tolerance
        )


@pytest.mark.parametrize("strategy", ["uniform", "range", "quantile"])
def test_samples_of_weight_zero_set_no_edge(strategy, rng):
    for _ in range(50):
        n = int(rng.integers(4, 40))
        y, s, g = rng.integers(0, 2, n), rng.integers(20, 80, n) / 100, rng.integers(0, 2, n)
        s[[0, -1]] = 0.0, 1.0
        w = rng.integers(0, 3, n)
        w[[0, -1]] = 0
        w[[1, 2]] = 1
        rows = np.repeat(np.arange(n), w)
        options = {"strategy": strategy, "undefined": "omit"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fm.UndefinedGroupWarning)
            found = fm.group_metric("ece", y, s, g, sample_weight=w, score_bins=4, **options)
            expected = fm.group_metric("ece", y[rows], s[rows], g[rows], score_bins=4, **options)
        assert found.overall == pytest.approx(expected.overall, abs=1e-12)
        assert {k: v for k, v in found.to_dict().items() if v == v} == pytest.approx(expected.to_dict(), abs=1e-12)
        alone = fm.expected_calibration_error(y, s, bins=4, strategy=strategy, sample_weight=w)
        assert alone == pytest.approx(expected.overall, abs=1e-12)


@pytest.mark.parametrize("strategy", ["range", "quantile"])
def test_bins_of_the_scores_own_are_those_of_their_decimals(strategy):
    rng = np.random.default_rng(1)
    for _ in range(200):
        low = int(rng.integers(0, 40))
        k, y = rng.integers(low, low + 50, 100), rng.integers(0, 2, 100)
        k[:2] = low, low + 50
        double, single = (
            fm.expected_calibration_error(y, (k / 100).astype(t), bins=5, strategy=strategy) for t in (float, "float32")
        )
        assert single == pytest.approx(double, abs=1e-7)
        if strategy == "range":
            sums = [(k[b] / 100 - y[b]).sum() for b in range_bins(k, low)]
            assert double == pytest.approx(sum(map(abs, sums)) / 100)


def range_bins(k, low):
    """Masks of five bins between low and low + 50 hundredths, in whole numbers."""
    return [(k > low + 10 * b if b else k >= low) & (k <= low + 10 * (b + 1)) for b in range(5)]


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_the_report_bins_as_the_function_does(kind):
    rng = np.random.default_rng(2)
    k, y, g = rng.integers(0, 101, 400), rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    score = (k / 100).astype(kind)
    found = FairnessReport.from_predictions(y, score, g, metrics=["ece"], num_replicates=100)
    by_hand = [ece_of_hundredths(y[g == j], k[g == j].tolist()) for j in (0, 1)]
    assert [group.metrics["ece"].value for group in found["group"].groups] == pytest.approx(by_hand, abs=1e-7)
    # Replicates are binned alike: their middle lies above the value by the noise of the bins alone.
    pred = as_predictions(y, score)
    drawn = MetricsOfPredictions(pred, ["ece"], np.ones(400), "standard", set())
    cells = Cells.made(np.zeros(400, dtype=np.int64), 1, np.arange(400), 400)
    (ece,) = drawn.from_sums(sums_of(drawn.columns, cells, np.ones(400)).sum(axis=0))
    assert ece == pytest.approx(ece_of_hundredths(y, k.tolist()), abs=1e-7)


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
                m: fm.group_metric(m, y, s, ids, sample_weight=weights, score_bins=bins)
                for m in ("ece", "brier", "bce")
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
        assert found["ece"].counts.tolist() == [int(((ids == g) & (w > 0)).sum()) for g in found["ece"].labels]
        assert found["ece"].positives.tolist() == [int(y[(ids == g) & (w > 0)].sum()) for g in found["ece"].labels]
