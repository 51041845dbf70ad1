"""Intervals by bootstrap over patients, for many methods and seeds at once, and plain words about what differs.

A resample draws patients, not images, within every group (both eyes of a patient stay together, and no group comes
out empty). All methods are evaluated on the same resamples, so that differences are paired. The spread between seeds
is reported apart: an interval over patients says how far the test set can be trusted, not how far one training run
can, so that a difference gets an interval over seeds as well. A gap of noisy figures is positive even where the groups
are alike, so that a small gap sits low in its own percentile interval; ``fairloss.report.FairnessReport`` has intervals
of single gaps that allow for that, these are made for comparing methods on the same patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
LOWER_IS_BETTER = ("gap", "loss", "error", "skew", "ece")


@dataclass(frozen=True)
class Estimate:
    """A figure: mean over seeds, percentile interval over patients, and what every seed gave."""

    value: float
    low: float
    high: float
    per_seed: Floats = field(repr=False)
    samples: Floats = field(repr=False)

    @classmethod
    def of(cls, table: Floats, level: float = 0.95) -> Estimate:
        """From a (1 + resamples, seeds) table whose first row is the data themselves."""
        samples = table[1:].mean(axis=1)
        tail = 50 * (1 - level)
        known = samples[np.isfinite(samples)]
        low, high = np.percentile(known, [tail, 100 - tail]) if known.size else (np.nan, np.nan)
        return cls(float(table[0].mean()), float(low), float(high), table[0].copy(), samples)

    @property
    def seed_std(self) -> float:
        """Standard deviation between seeds (ddof 1), NaN for one seed."""
        return float(self.per_seed.std(ddof=1)) if self.per_seed.size > 1 else float("nan")

    def text(self, digits: int = 3) -> str:
        """``0.812 [0.790, 0.833]``."""
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def overlaps(self, other: Estimate) -> bool:
        """Whether the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high

    def as_dict(self) -> dict[str, Any]:
        """Value, interval and seeds, without the resamples."""
        return {"value": self.value, "low": self.low, "high": self.high, "per_seed": self.per_seed.tolist()}


class PatientBootstrap:
    """Resamples of one test set, drawn once and used for every method.

    Args:
        patients: (N,) any labels; the images of one patient are drawn together.
        groups: (N,) ids 0 .. ``num_groups`` - 1, or -1 for unknown (in the overall figures alone).
        num_groups: number of groups.
        shares: weight of every group in the overall figures, for a test set that holds the groups in other shares than
            the population does. Default: every image counts once.
        resamples: number of bootstrap resamples.
        level: coverage of the intervals.
        seed: of the resampling.
    """

    def __init__(
        self,
        patients: ArrayLike,
        groups: ArrayLike,
        num_groups: int,
        *,
        shares: Sequence[float] | None = None,
        resamples: int = 1000,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        names, patient = np.unique(np.asarray(patients), return_inverse=True)
        self.groups = np.asarray(groups)
        if patient.shape != self.groups.shape:
            raise ValueError(f"patients, groups: {patient.shape} and {self.groups.shape} differ")
        self.num_groups, self.level = num_groups, level
        of_patient = np.full(len(names), -1)
        of_patient[patient] = self.groups
        if not np.array_equal(of_patient[patient], self.groups):
            raise ValueError("groups: the images of one patient are in different groups")
        rng = np.random.default_rng(seed)
        drawn = np.ones((1 + resamples, len(names)), dtype=np.float32)  # the first row: the data themselves
        for g in range(-1, num_groups):
            members = np.flatnonzero(of_patient == g)
            if members.size:
                drawn[1:, members] = rng.multinomial(members.size, np.full(members.size, 1 / members.size), resamples)
        self.weights = drawn[:, patient]  # (1 + resamples, N): how often each image was drawn
        self.rows = [np.flatnonzero(self.groups == g) for g in range(num_groups)]
        self.importance = np.ones(self.groups.size, dtype=np.float32)
        if shares is not None:
            self.importance[self.groups < 0] = 0
            for rows, share in zip(self.rows, shares, strict=True):
                self.importance[rows] = share / max(rows.size, 1)

    def of_values(self, values: ArrayLike, name: str = "accuracy") -> dict[str, Estimate]:
        """Overall mean, each group's, the worst and the gap of values where higher is better, (N,) or (seeds, N).

        Keys: ``name``, ``name:0``, ``name:1``, ..., ``worst_name``, ``gap_name``.
        """
        table = np.atleast_2d(np.asarray(values, dtype=np.float32))
        self._check("values", table)

        def mean(rows: Any, weights: NDArray[np.float32]) -> Floats:
            total = weights.sum(axis=1, dtype=np.float64)[:, None]
            with np.errstate(invalid="ignore"):  # a group without an image: NaN, left out below
                return (weights @ table[:, rows].T) / total

        overall = mean(slice(None), self.weights * self.importance)
        return self._summary(name, overall, [mean(rows, self.weights[:, rows]) for rows in self.rows])

    def of_scores(self, labels: ArrayLike, scores: ArrayLike) -> dict[str, Estimate]:
        """The same for the AUC of a score, (N,) or (seeds, N), against 0/1 labels (N,)."""
        y, table = np.asarray(labels).astype(bool), np.atleast_2d(np.asarray(scores, dtype=np.float64))
        self._check("scores", table)

        def auc(rows: Any, weights: NDArray[np.float32]) -> Floats:
            return np.stack([weighted_auc(y[rows], s[rows], weights) for s in table], axis=1)

        overall = auc(slice(None), self.weights * self.importance)
        return self._summary("auc", overall, [auc(rows, self.weights[:, rows]) for rows in self.rows])

    def evaluate(self, labels: ArrayLike, scores: ArrayLike, threshold: float = 0.5) -> dict[str, Estimate]:
        """Accuracy at ``score >= threshold`` and AUC, with groups, worst and gap of each."""
        table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
        correct = (table >= threshold) == np.asarray(labels).astype(bool)
        return {**self.of_values(correct), **self.of_scores(labels, table)}

    def _check(self, name: str, table: NDArray[Any]) -> None:
        if table.ndim != 2 or table.shape[1] != self.groups.size:
            raise ValueError(f"{name}: shape {table.shape} was given; (seeds, {self.groups.size}) is needed")

    def _summary(self, name: str, overall: Floats, by_group: list[Floats]) -> dict[str, Estimate]:
        stacked = np.stack([table for table in by_group if np.isfinite(table[0]).all()] or [overall * np.nan])
        tables = {name: overall, **{f"{name}:{g}": table for g, table in enumerate(by_group)}}
        tables |= {f"worst_{name}": stacked.min(axis=0), f"gap_{name}": stacked.max(axis=0) - stacked.min(axis=0)}
        estimates = {key: Estimate.of(np.asarray(table, dtype=np.float64), self.level) for key, table in tables.items()}
        estimates[f"gap_{name}"] = self._around_gap(estimates[f"gap_{name}"], stacked)
        return estimates

    def _around_gap(self, gap: Estimate, stacked: Floats) -> Estimate:
        """The gap's interval as the fairness report's: percentiles of resampled gaps lie too high (noise widens a gap).

        The mean over seeds of range(a) and of range(b) differ by no more than that of range(a - b), so the quantile of
        the latter for resampled minus observed group values, (groups, 1 + resamples, seeds), is a radius that covers.
        """
        spread = (np.ptp(stacked[:, 1:] - stacked[:, :1], axis=0)).mean(axis=1)
        known = spread[np.isfinite(spread)]
        radius = float(np.quantile(known, self.level)) if known.size else float("nan")
        return replace(gap, low=max(0.0, gap.value - radius), high=gap.value + radius)


def weighted_auc(labels: NDArray[np.bool_], scores: Floats, weights: NDArray[np.float32]) -> Floats:
    """AUC of one score under many weightings: labels and scores (N,), weights (B, N); ties count half; (B,)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0]) if scores.size else np.zeros(0, dtype=int)
    if not starts.size:
        return np.full(len(weights), np.nan)
    sorted_weights = weights[:, order].astype(np.float64)
    y = labels[order]
    positive = np.add.reduceat(sorted_weights * y, starts, axis=1)
    negative = np.add.reduceat(sorted_weights * ~y, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.divide((positive * below).sum(axis=1), pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def difference(a: Estimate, b: Estimate, level: float = 0.95) -> Estimate:
    """a - b, paired by resample (and by seed, where both have as many).

    Percentiles of resampled differences; of gaps they hold where both methods' groups are about equally noisy or clearly
    apart, as in the examples. ``fairloss.report.gap_difference_test`` holds without that, for one model each.
    """
    seeds = a.per_seed - b.per_seed if a.per_seed.size == b.per_seed.size else np.array([a.value - b.value])
    table = np.concatenate([[a.value - b.value], a.samples - b.samples])[:, None]
    e = Estimate.of(table, level)
    return Estimate(e.value, e.low, e.high, seeds, e.samples)


def over_seeds(delta: Estimate, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of a paired difference over seeds: what other training runs may give; NaN for one seed."""
    n = delta.per_seed.size
    if n < 2:
        return float("nan"), float("nan")
    radius = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) * delta.seed_std / n**0.5
    centre = float(delta.per_seed.mean())
    return centre - radius, centre + radius


def compare(
    results: Mapping[str, Mapping[str, Estimate]], metric: str, *, baseline: str = "ERM", digits: int = 3
) -> list[str]:
    """One plain sentence a method: better or worse than ``baseline`` on ``metric``, or not to be told apart.

    A method is called better or worse only if the paired difference's interval over patients excludes 0, and without
    reserve only if that over seeds does so, too; the sentence also says whether the two methods' intervals overlap and
    in how many seeds the difference has that sign.
    """
    lower = any(word in metric for word in LOWER_IS_BETTER)
    sentences = []
    base = results[baseline][metric]
    for method, estimates in results.items():
        if method == baseline:
            continue
        estimate, delta = estimates[metric], difference(estimates[metric], base)
        low, high = over_seeds(delta)
        if not (delta.low > 0 or delta.high < 0):
            verdict = f"not to be told apart from {baseline}"
        else:
            verdict = f"{'better' if (delta.value < 0) == lower else 'worse'} than {baseline}"
            if not (low > 0 or high < 0):
                verdict += " in these runs, which other seeds may not repeat"
        overlap = "intervals overlap" if estimate.overlaps(base) else "intervals do not overlap"
        same = int((np.sign(delta.per_seed) == np.sign(delta.value)).sum())
        repeated = "" if np.isnan(low) else f", over seeds [{low:+.{digits}f}, {high:+.{digits}f}]"
        sentences.append(
            f"{method}, {metric}: {verdict} ({estimate.text(digits)} against {base.text(digits)}, {overlap}; paired "
            f"difference {delta.value:+.{digits}f} [{delta.low:+.{digits}f}, {delta.high:+.{digits}f}]{repeated}, "
            f"that way in {same} of {delta.per_seed.size} seeds)"
        )
    return sentences
