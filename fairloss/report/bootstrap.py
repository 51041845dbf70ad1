"""Stratified bootstrap over patients of every metric in every group at once.

Each replicate draws the patients of each group with replacement, as many as there are, and a patient's samples come
along together. Groups with patients in common (age bands or scanners over several visits) are one stratum, whose
patients are drawn as a whole, so that their groups' sizes vary: a stratum for every combination of groups would often
hold a single patient, who is then in every replicate, and intervals would be too narrow.

Rates, calibration errors and means are functions of sums over samples, so a block of replicates is one product of
resampling counts with per-sample columns; an AUC is one sort and cumulative sums.
Intervals are in :mod:`fairloss.report.intervals`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import choice, expected
from fairloss.groups.encode import number_labels
from fairloss.groups.labels import is_unknown, may_be_missing
from fairloss.metrics.arrays import Floats, Ints, as_array
from fairloss.metrics.calibration import bin_edges, bin_index, sample_errors, top_label
from fairloss.metrics.per_group import METRICS, class_values
from fairloss.metrics.predictions import Predictions
from fairloss.metrics.ranking import weighted_auc
from fairloss.metrics.rates import RATES, Convention, confusion_columns, mean_over_classes, rates, ratio

__all__ = ["Replicates", "bootstrap_groups", "bootstrap_means", "patient_codes"]

_BLOCK = 2_000_000  # resampling counts at a time: 16 MB, about a cache


@dataclass(frozen=True)
class Replicates:
    """Point values and bootstrap replicates of M metrics in G groups.

    Attributes:
        metrics: the M names.
        values: (M, G) point values.
        overall: (M,) point values over all samples.
        drawn: (R, M, G) replicates.
        drawn_overall: (R, M) replicates.
        bias: (M, G) how much too large a value may be on average, 0 where it is unbiased.
    """

    metrics: tuple[str, ...]
    values: Floats
    overall: Floats
    drawn: Floats
    drawn_overall: Floats
    bias: Floats


def patient_codes(patients: Any, n: int) -> Ints:
    """(N,) patient 0 .. P - 1 of each sample; each sample its own where ``patients`` is None.

    Raises:
        ValueError: a missing id, or not one id a sample.
    """
    if patients is None:
        return np.arange(n, dtype=np.int64)
    array = as_array(patients, "patients")
    if array.shape != (n,):
        raise ValueError(expected("patients", f"one id per sample, ({n},)", f"shape {array.shape}"))
    codes, ids = number_labels(array)
    missing = [i for i, v in enumerate(ids) if is_unknown(v) or may_be_missing(v)]
    lost = np.flatnonzero((codes < 0) | np.isin(codes, missing))
    if lost.size:
        given = repr(ids[codes[lost[0]]]) if codes[lost[0]] >= 0 else "none"
        cure = "a sample whose patient is not known needs an id of its own"
        raise ValueError(expected("patients", "one id per sample", f"{given} at position {lost[0]}", cure))
    return codes


def _strata(patient: Ints, ids: Ints) -> Ints:
    """(P,) stratum of each patient: the patient's group, or all the groups that patients join together."""
    num_groups = int(ids.max()) + 1
    known = ids >= 0
    p, g = np.divmod(np.unique(patient[known] * num_groups + ids[known]), num_groups)
    stratum = np.arange(num_groups)
    found = np.full(int(patient.max()) + 1, num_groups)  # patients of unknown groups only: one more stratum
    while True:  # each patient takes the smallest number of its groups, and each group that of its patients
        np.minimum.at(found, p, stratum[g])
        joined = stratum.copy()
        np.minimum.at(joined, g, found[p])
        if (joined == stratum).all():
            return np.unique(found, return_inverse=True)[1].astype(np.int64)
        stratum = joined


def resampling_counts(strata: Ints, num_replicates: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Blocks (r, P) of how often each patient is drawn; every stratum keeps its number of patients."""
    members = [np.flatnonzero(strata == s) for s in range(int(strata.max()) + 1)]
    block = max(1, _BLOCK // len(strata))
    for start in range(0, num_replicates, block):
        r = min(block, num_replicates - start)
        counts = np.empty((r, len(strata)))
        for m in members:
            k = len(m)
            drawn = rng.integers(0, k, size=(r, k), dtype=np.int64)
            drawn += (np.arange(r) * k)[:, None]
            counts[:, m] = np.bincount(drawn.ravel(), minlength=r * k).reshape(r, k)
        yield counts


class _Means:
    """Means of (N, M) values, from sums of weighted columns; NaN values are left out."""

    def __init__(self, values: Mapping[str, Floats], order: Ints) -> None:
        self.metrics = tuple(values)
        table = np.stack([np.asarray(v, dtype=np.float64) for v in values.values()], axis=1)[order]
        defined = ~np.isnan(table)
        self.columns = np.concatenate([np.where(defined, table, 0.0), defined], axis=1)

    def from_sums(self, sums: Floats) -> Floats:
        """(..., 2 M) sums of weighted columns to (..., M) means."""
        m = len(self.metrics)
        return ratio(sums[..., :m], sums[..., m:])


class _Metrics:
    """Values of all metrics for blocks of sample weights; columns are laid out once."""

    def __init__(self, pred: Predictions, metrics: Sequence[str], weight: Floats, convention: Convention) -> None:
        self.pred, self.metrics, self.convention = pred, tuple(metrics), convention
        blocks: dict[str, Floats] = {"n": np.ones((len(pred), 1))}
        scored = [m for m in self.metrics if m not in RATES and m != "auc"]
        p, o = top_label(pred) if scored else (weight, weight)
        if any(m in RATES for m in self.metrics):
            blocks["counts"] = confusion_columns(pred)
        if "accuracy" in self.metrics:
            blocks["correct"] = pred.correct()[:, None]
        for name in scored:
            if name == "ece":
                # Bins stay those of the data at hand: a replicate does not move them.
                edges = bin_edges(p, weight, 10, "uniform", pred.precision)
                blocks[name] = (bin_index(p, edges)[:, None] == np.arange(len(edges) + 1)) * (p - o)[:, None]
            else:
                blocks[name] = sample_errors(name, p, o)[:, None]
        ends = np.cumsum([b.shape[1] for b in blocks.values()]).tolist()
        self.where = {name: slice(e - b.shape[1], e) for (name, b), e in zip(blocks.items(), ends, strict=True)}
        self.columns = np.concatenate(list(blocks.values()), axis=1)

    def from_sums(self, sums: Floats) -> Floats:
        """(..., C) sums of weighted columns to (..., M) values; an AUC is left NaN."""
        n = sums[..., 0]
        k = self.pred.target.shape[1]
        found = np.full((*sums.shape[:-1], len(self.metrics)), np.nan)
        for i, name in enumerate(self.metrics):
            if name == "accuracy" and self.pred.task == "multiclass" and self.convention == "standard":
                found[..., i] = ratio(sums[..., self.where["correct"]][..., 0], n)
            elif name in RATES:
                counts = sums[..., self.where["counts"]].reshape(*sums.shape[:-1], k, 4)
                found[..., i] = mean_over_classes(rates(name, counts, convention=self.convention))
            elif name == "ece":
                found[..., i] = ratio(np.abs(sums[..., self.where[name]]).sum(axis=-1), n)
            elif name != "auc":
                found[..., i] = ratio(sums[..., self.where[name]][..., 0], n)
        return found

    def ece_bias(self, at: slice, weight: Floats, patient: Ints) -> float:
        """Largest bias of the calibration error of the samples ``at``.

        A bin's |d| of a sum d with standard error s is too large by at most E|N(0, s^2)| = s sqrt(2 / pi), where the bin is
        calibrated, and by little where it is not.
        """
        total = weight.sum()
        if not total > 0:
            return 0.0
        columns = self.columns[at, self.where["ece"]] * weight[:, None] / total
        _, of = np.unique(patient, return_inverse=True)
        by_patient = np.zeros((int(of.max()) + 1, columns.shape[1]))
        np.add.at(by_patient, of.ravel(), columns)
        return float(np.sqrt(2 / np.pi) * np.sqrt((by_patient**2).sum(axis=0)).sum())

    def auc(self, at: slice, weight: Floats) -> Floats:
        """(r,) mean over classes of the areas of the samples ``at``."""
        score, target = self.pred.ranking[at], self.pred.target[at]
        known = None if self.pred.known is None else self.pred.known[at]
        areas = [
            weighted_auc(score[:, k], target[:, k], weight if known is None else weight * known[:, k])
            for k in range(score.shape[1])
        ]
        return mean_over_classes(np.stack(areas, axis=-1))


def _by_group(ids: Ints, num_groups: int) -> tuple[Ints, list[slice]]:
    """The samples in order of their groups, unknown ones last, and the slice of each group."""
    rows = np.where(ids < 0, num_groups, ids)
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(num_groups + 2))
    return order, [slice(int(a), int(b)) for a, b in pairwise(starts)]


def _replicates(
    source: _Means | _Metrics,
    slices: list[slice],
    strata: Ints,
    weight: Floats,
    patient: Ints,
    num_replicates: int,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """(R, M, G) and (R, M) replicates; all samples are in the order of the slices."""
    shape = (num_replicates, len(source.metrics))
    drawn, drawn_overall, start = np.empty((*shape, len(slices) - 1)), np.empty(shape), 0
    for counts in resampling_counts(strata, num_replicates, rng):
        w = counts[:, patient] * weight
        rows = slice(start, start + len(w))
        sums = np.stack([w[:, s] @ source.columns[s] for s in slices], axis=1)  # (r, G + 1, C)
        drawn[rows] = np.swapaxes(source.from_sums(sums[:, :-1]), 1, 2)
        drawn_overall[rows] = source.from_sums(sums.sum(axis=1))
        if isinstance(source, _Metrics) and "auc" in source.metrics:
            m = source.metrics.index("auc")
            for g, s in enumerate(slices[:-1]):
                drawn[rows, m, g] = source.auc(s, w[:, s])
            drawn_overall[rows, m] = source.auc(slice(None), w)
        start += len(w)
    return drawn, drawn_overall


def bootstrap_groups(
    pred: Predictions,
    ids: Ints,
    num_groups: int,
    *,
    metrics: Sequence[str],
    weight: Floats,
    patient: Ints,
    num_replicates: int,
    rng: np.random.Generator,
    convention: Convention = "standard",
) -> Replicates:
    """Point values and replicates of ``metrics`` in the groups ``ids``; see the module's text."""
    for name in metrics:
        choice("metrics", name, tuple(METRICS))

    def values_of(ids: Ints, size: int) -> Floats:
        of_classes = [class_values(m, pred, ids, size, weight, convention=convention) for m in metrics]
        return np.array([mean_over_classes(values) for values in of_classes])

    values, overall = values_of(ids, num_groups), values_of(np.zeros_like(ids), 1)[:, 0]
    order, slices = _by_group(ids, num_groups)
    strata = _strata(patient, ids)
    weight, patient = weight[order], patient[order]
    source = _Metrics(pred.take(order), metrics, weight, convention)
    drawn, drawn_overall = _replicates(source, slices, strata, weight, patient, num_replicates, rng)
    bias = np.zeros((len(metrics), num_groups))
    if "ece" in metrics:
        bias[source.metrics.index("ece")] = [source.ece_bias(s, weight[s], patient[s]) for s in slices[:-1]]
    return Replicates(tuple(metrics), values, overall, drawn, drawn_overall, bias)


def bootstrap_means(
    values: Mapping[str, Floats],
    ids: Ints,
    num_groups: int,
    *,
    weight: Floats,
    patient: Ints,
    num_replicates: int,
    rng: np.random.Generator,
) -> Replicates:
    """Point values and replicates of the means of (N,) values; NaN values are left out."""
    order, slices = _by_group(ids, num_groups)
    strata = _strata(patient, ids)
    weight, patient = weight[order], patient[order]
    source = _Means(values, order)
    drawn, drawn_overall = _replicates(source, slices, strata, weight, patient, num_replicates, rng)
    sums = np.stack([weight[s] @ source.columns[s] for s in slices])
    point, overall = source.from_sums(sums[:-1]).T, source.from_sums(sums.sum(axis=0))
    return Replicates(source.metrics, point, overall, drawn, drawn_overall, np.zeros_like(point))
