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

from fairloss.metrics.arrays import Floats, as_array
from fairloss.metrics.calibration import bin_edges, bin_index, sample_errors, top_label
from fairloss.metrics.per_group import METRICS, class_values
from fairloss.metrics.predictions import Predictions
from fairloss.metrics.ranking import weighted_auc
from fairloss.metrics.rates import RATES, confusion_columns, mean_over_classes, rates, ratio

__all__ = [
    "Replicates",
    "bootstrap_groups",
    "bootstrap_means",
    "patient_codes",
]

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


def patient_codes(patients: Any, n: int) -> NDArray[np.int64]:
    """(N,) patient 0 .. P - 1 of each sample; each sample its own where ``patients`` is None.

    Raises:
        ValueError: a missing id, or not one id a sample.
    """
    if patients is None:
        return np.arange(n, dtype=np.int64)
    from fairloss.groups.encode import number_labels

    array = as_array(patients, "patients")
    if array.shape != (n,):
        raise ValueError(f"patients: shape {array.shape} was given, ({n},) is needed")
    if array.dtype.kind in "biuUS":
        return np.unique(array, return_inverse=True)[1].astype(np.int64).ravel()
    codes = number_labels(array).ids
    if (codes < 0).any():
        raise ValueError(f"patients: no id was given at position {int(np.flatnonzero(codes < 0)[0])}")
    return codes


def _strata(patient: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
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


def resampling_counts(
    strata: NDArray[np.int64], num_replicates: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
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


class _Evaluator:
    """Values of all metrics for blocks of sample weights; columns are laid out once."""

    def __init__(self, pred: Predictions, metrics: Sequence[str], weight: Floats, options: dict[str, Any]) -> None:
        self.pred, self.metrics, self.options = pred, tuple(metrics), options
        self.convention = options.get("convention", "standard")
        columns: list[Floats] = []
        self.where: dict[str, slice] = {}
        scored = [m for m in self.metrics if m not in RATES and m != "auc"]
        p, o = top_label(pred) if scored else (weight, weight)

        def add(name: str, block: Floats) -> None:
            start = sum(c.shape[1] for c in columns)
            columns.append(block)
            self.where[name] = slice(start, start + block.shape[1])

        add("n", np.ones((len(pred), 1)))
        if any(m in RATES for m in self.metrics):
            add("counts", confusion_columns(pred))
        if "accuracy" in self.metrics:
            add("correct", pred.correct()[:, None])
        for name in scored:
            if name == "ece":
                # Bins stay those of the data at hand: a replicate does not move them.
                strategy = options.get("strategy", "uniform")
                edges = bin_edges(p, weight, options.get("bins", 10), strategy)
                inside = bin_index(p, edges)[:, None] == np.arange(len(edges) + 1)
                add(name, inside * (p - o)[:, None])
            else:
                add(name, sample_errors(name, p, o)[:, None])
        self.columns = np.concatenate(columns, axis=1)

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

    def ece_bias(self, at: slice, weight: Floats, patient: NDArray[np.int64]) -> float:
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
        assert self.pred.score is not None
        score, target = self.pred.score[at], self.pred.target[at]
        areas = [weighted_auc(score[:, k], target[:, k], weight) for k in range(score.shape[1])]
        return mean_over_classes(np.stack(areas, axis=-1))


def bootstrap_groups(
    pred: Predictions,
    ids: NDArray[np.int64],
    num_groups: int,
    *,
    metrics: Sequence[str],
    weight: Floats,
    patient: NDArray[np.int64],
    num_replicates: int,
    rng: np.random.Generator,
    options: dict[str, Any],
) -> Replicates:
    """Point values and replicates of ``metrics`` in the groups ``ids``; see the module's text."""
    unknown = [m for m in metrics if m not in METRICS]
    if unknown:
        raise ValueError(f"metrics: {unknown[0]!r} was given; accepted are {', '.join(METRICS)}")
    zeros = np.zeros_like(ids)
    point = [mean_over_classes(class_values(m, pred, ids, num_groups, weight, **options)) for m in metrics]
    overall = [mean_over_classes(class_values(m, pred, zeros, 1, weight, **options))[0] for m in metrics]
    # Samples in order of their groups, unknown ones last: a group is a slice.
    order = np.argsort(np.where(ids < 0, num_groups, ids), kind="stable")
    ordered = ids[order]
    evaluator = _Evaluator(pred.take(order), metrics, weight[order], options)
    starts = np.searchsorted(np.where(ordered < 0, num_groups, ordered), np.arange(num_groups + 2))
    slices = [slice(int(a), int(b)) for a, b in pairwise(starts)]
    patient = patient[order]
    drawn = np.empty((num_replicates, len(metrics), num_groups))
    drawn_overall = np.empty((num_replicates, len(metrics)))
    at = 0
    for counts in resampling_counts(_strata(patient, ordered), num_replicates, rng):
        w = counts[:, patient] * weight[order]
        rows = slice(at, at + len(w))
        sums = np.stack([w[:, s] @ evaluator.columns[s] for s in slices], axis=1)  # (r, G + 1, C)
        drawn[rows] = np.swapaxes(evaluator.from_sums(sums[:, :num_groups]), 1, 2)
        drawn_overall[rows] = evaluator.from_sums(sums.sum(axis=1))
        if "auc" in metrics:
            m = list(metrics).index("auc")
            for g, s in enumerate(slices[:num_groups]):
                drawn[rows, m, g] = evaluator.auc(s, w[:, s])
            drawn_overall[rows, m] = evaluator.auc(slice(0, len(order)), w)
        at += len(w)
    values, bias = np.array(point), np.zeros((len(metrics), num_groups))
    if "ece" in metrics:
        m = list(metrics).index("ece")
        for g, s in enumerate(slices[:num_groups]):
            bias[m, g] = evaluator.ece_bias(s, weight[order][s], patient[s])
    return Replicates(tuple(metrics), values, np.array(overall), drawn, drawn_overall, bias)


def bootstrap_means(
    values: Mapping[str, Floats],
    ids: NDArray[np.int64],
    num_groups: int,
    *,
    weight: Floats,
    patient: NDArray[np.int64],
    num_replicates: int,
    rng: np.random.Generator,
) -> Replicates:
    """Point values and replicates of the means of (N,) values; NaN values are left out."""
    table = np.stack([np.asarray(v, dtype=np.float64) for v in values.values()], axis=1)  # (N, M)
    defined = ~np.isnan(table)
    columns = np.concatenate([np.where(defined, table, 0.0), defined], axis=1)
    m = table.shape[1]

    def means(sums: Floats) -> Floats:
        return ratio(sums[..., :m], sums[..., m:])

    members = [ids == g for g in range(num_groups)]

    def sums(w: Floats) -> Floats:  # (r, N) -> (r, G, 2 M)
        return np.stack([w[:, at] @ columns[at] for at in members], axis=1)

    drawn = np.empty((num_replicates, m, num_groups))
    drawn_overall = np.empty((num_replicates, m))
    start = 0
    for counts in resampling_counts(_strata(patient, ids), num_replicates, rng):
        w = counts[:, patient] * weight
        rows = slice(start, start + len(w))
        drawn[rows] = np.swapaxes(means(sums(w)), 1, 2)
        drawn_overall[rows] = means(w @ columns)
        start += len(w)
    point = means(sums(weight[None]))[0].T
    return Replicates(tuple(values), point, means(weight @ columns), drawn, drawn_overall, np.zeros_like(point))
