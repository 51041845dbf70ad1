"""Many patients are drawn as random groups of them, and areas come from histograms: the same intervals, in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from fairloss.metrics.predictions import as_predictions
from fairloss.report import FairnessReport, compare_models, resampling, sums
from fairloss.report.bootstrap import bootstrap_groups
from fairloss.report.progress import Progress
from fairloss.report.sample import read_sample

METRICS = ("accuracy", "tpr", "auc", "ece")


def people(rng, patients=4000):
    """Labels, scores, groups and patients of one to four samples each, whose scores go together."""
    visits = rng.integers(1, 5, patients)
    patient = np.repeat(np.arange(patients), visits)
    y = (rng.random(len(patient)) < 0.4).astype(int)
    score = 1 / (1 + np.exp(-(2 * y - 1 + rng.normal(0, 0.7, patients)[patient] + rng.normal(0, 0.8, len(patient)))))
    return y, score, (patient % 3 == 0).astype(int), patient


def drawn(y, s, g, patients, *, replicates=400, seed=0, metrics=METRICS, weight=None):
    sample, _ = read_sample(as_predictions(y, s), {}, len(y), patients, weight, [])
    return bootstrap_groups(sample, g, 2, metrics=metrics, num_replicates=replicates, rng=np.random.default_rng(seed))


def linear_errors(y, s, patient):
    """Standard errors by linearization over patients, of accuracy, TPR and AUC (placements, as DeLong)."""
    right, positive = (s >= 0.5) == y, y == 1
    ranks = rankdata(s)
    below = (ranks[positive] - rankdata(s[positive])) / (~positive).sum()
    above = 1 - (ranks[~positive] - rankdata(s[~positive])) / positive.sum()
    area = below.mean()
    influence = {
        "accuracy": (right - right.mean()) / len(y),
        "tpr": np.where(positive, (s >= 0.5) - (s >= 0.5)[positive].mean(), 0) / positive.sum(),
        "auc": np.zeros(len(y)),
    }
    influence["auc"][positive] = (below - area) / positive.sum()
    influence["auc"][~positive] = (above - area) / (~positive).sum()
    return {m: np.sqrt((np.bincount(patient, weights=v) ** 2).sum()) for m, v in influence.items()}


def test_random_groups_vary_as_patients_do(monkeypatch, rng):
    y, s, g, patient = people(rng)
    one_by_one = drawn(y, s, g, patient, replicates=4000)
    monkeypatch.setattr(resampling, "UNITS", 400)
    several = [drawn(y, s, g, patient, seed=k) for k in range(25)]
    errors = [linear_errors(y[g == k], s[g == k], np.unique(patient[g == k], return_inverse=True)[1]) for k in (0, 1)]
    for m in METRICS:
        spread = np.array([d[m].drawn.std(axis=0) for d in several])  # (25, G)
        ratio = spread / one_by_one[m].drawn.std(axis=0)
        # Each is off by sqrt(1 / 800) for its groups and sqrt(1 / 800) for its replicates: 5 %; their mean by a fifth.
        assert np.abs(ratio.mean(axis=0) - 1).max() < 0.045, m
        assert 0.02 < ratio.std(axis=0).max() < 0.1, m
        for k in (0, 1):
            if m in errors[k]:
                assert spread[:, k].mean() == pytest.approx(errors[k][m], rel=0.04)
                assert one_by_one[m].drawn[:, k].std() == pytest.approx(errors[k][m], rel=0.04)
        # The ends of the intervals, within the error of 400 replicates (0.12 standard errors) over the 25.
        ends = np.quantile(one_by_one[m].drawn, [0.025, 0.975], axis=0)
        found = np.mean([np.quantile(d[m].drawn, [0.025, 0.975], axis=0) for d in several], axis=0)
        assert np.abs(found - ends).max() < 0.2 * spread.mean(axis=0).max(), m
        np.testing.assert_array_equal(several[0][m].by_class, one_by_one[m].by_class)


def test_units_are_random_groups_of_equal_size_within_a_stratum(rng):
    strata = rng.permutation(np.repeat([0, 1, 2], [12_001, 5000, 7]))
    units = resampling.units_of(strata, np.random.default_rng(0))
    assert units.sizes == [5000, 5000, 7]
    members = np.bincount(units.of)
    assert len(members) == len(units) == 10_007
    assert set(members[:5000]) == {2, 3}
    assert (members[5000:] == 1).all()
    for k, (first, last) in enumerate([(0, 5000), (5000, 10_000), (10_000, 10_007)]):
        assert set(strata[(units.of >= first) & (units.of < last)]) == {k}
    # Neighbours are as often together as chance has it: about once in 5,000 times.
    inside = units.of[strata == 0]
    assert (inside[1:] == inside[:-1]).sum() < 15
    assert (units.of == resampling.units_of(strata, np.random.default_rng(0)).of).all()
    assert (units.of != resampling.units_of(strata, np.random.default_rng(1)).of).any()


def test_areas_of_histograms_are_those_of_the_samples(monkeypatch, rng):
    y, s, g, patient = people(rng)
    assert len(np.unique(s)) > 2 * sums._BINS
    w = rng.integers(1, 4, len(y)).astype(float)
    found = drawn(y, s, g, patient, weight=w, metrics=["auc"], replicates=20)["auc"]
    monkeypatch.setattr(sums, "_BINS", 10**9)  # a bin per different score
    exact = drawn(y, s, g, patient, weight=w, metrics=["auc"], replicates=20)["auc"]
    np.testing.assert_allclose(found.drawn, exact.drawn, rtol=0, atol=2e-5)
    spread = exact.drawn.std(axis=0)
    assert np.abs((found.drawn - exact.drawn).std(axis=0) / spread).max() < 2e-3
    # And these are scikit-learn's of the samples drawn.
    strata = resampling.strata_of(patient, g)
    units = resampling.units_of(strata, np.random.default_rng(0))
    (counts,) = resampling.resampling_counts(units.sizes, 20, np.random.default_rng(0))
    for r in range(20):
        weight = counts[units.of[patient], r] * w
        assert exact.drawn_overall[r] == pytest.approx(roc_auc_score(y, s, sample_weight=weight), abs=1e-12)
        for k in (0, 1):
            expected = roc_auc_score(y[g == k], s[g == k], sample_weight=weight[g == k])
            assert exact.drawn[r, k] == pytest.approx(expected, abs=1e-12)


def test_a_rare_class_whose_scores_lie_close_together(monkeypatch, rng):
    """Edges are quantiles of either class: 1 % of positives in the last per mille of the scores keep their order."""
    y = (np.arange(40_000) % 100 == 0).astype(int)
    s = np.where(y == 1, 0.999 + 0.001 * rng.random(40_000), rng.random(40_000))
    g = np.arange(40_000) % 2
    found = drawn(y, s, g, None, metrics=["auc"], replicates=30)["auc"]
    monkeypatch.setattr(sums, "_BINS", 10**9)
    exact = drawn(y, s, g, None, metrics=["auc"], replicates=30)["auc"]
    np.testing.assert_allclose(found.drawn, exact.drawn, rtol=0, atol=1e-6)
    assert np.nanmax(np.abs((found.drawn - exact.drawn).std(axis=0) / exact.drawn.std(axis=0))) < 0.01


def test_memory_does_not_grow_with_samples_times_replicates(rng):
    n = 120_000
    y, s = rng.integers(0, 2, n), rng.random(n)
    groups = {"a": rng.integers(0, 2, n), "b": rng.integers(0, 3, n)}
    tracemalloc.start()
    report = FairnessReport.from_predictions(y, s, groups, num_replicates=100, patients=np.arange(n) // 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6  # a count a sample and replicate would be 96 MB, and there were four such arrays
    assert report.overall["auc"].value == pytest.approx(roc_auc_score(y, s), abs=1e-12)


def test_many_patients_are_drawn_alike_for_every_model_and_seed(monkeypatch, rng):
    monkeypatch.setattr(resampling, "UNITS", 300)
    y, s, g, patient = people(rng, 1500)
    options = {"patients": patient, "num_replicates": 100, "metrics": ["accuracy"]}
    same = compare_models(y, {"a": s, "b": s.copy()}, g, **options)[1].against_first["accuracy"]
    assert (same.difference, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-12)
    first, again, other = (
        FairnessReport.from_predictions(y, s, g, seed=seed, **options).overall["accuracy"] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_progress_says_a_share_and_the_time_left(capsys):
    times = iter([0, 1, 2.5, 3, 12.5, 20])
    progress = Progress(100, shown=True, clock=lambda: next(times))
    for amount in (10, 10, 10, 20):
        progress.advance(amount)
    assert capsys.readouterr().err == "bootstrap: 50%, about 12 s left\n"  # 12.5 s for one half
    progress.close()
    silent = Progress(100, shown=False, clock=lambda: 1e9)
    silent.advance(50)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_one_line_that_goes_away(capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    times = iter([0, 1, 2.5, 2.8, 3.2])
    progress = Progress(100, shown=True, clock=lambda: next(times))
    for amount in (25, 25, 0, 30):
        progress.advance(amount)
    progress.close()
    assert capsys.readouterr().err == (
        "\rbootstrap: 50%, about 2 s left  \rbootstrap: 80%, about 1 s left  \r" + " " * 50 + "\r"
    )
