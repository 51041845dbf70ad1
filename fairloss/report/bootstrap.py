"""Stratified bootstrap over patients of every metric in every group at once.

Each replicate draws the patients of each group with replacement, as many as there are, and a patient's samples come
along together. Groups with patients in common (age bands or scanners over several visits) are one stratum, whose
patients are drawn as a whole, so that their groups' sizes vary: a stratum for every combination of groups would often
hold a single patient, who is then in every replicate, and intervals would be too narrow.

Rates, calibration errors and means are functions of sums over samples, so a block of replicates is one product of
resampling counts with per-sample columns; an AUC is one sort and cumulative sums.

A mean over classes keeps the values of each class. A replicate in which a class vanishes from a group changes the group's
mean by the mean change of the classes that are left, so that point value and replicates are of the same classes.
Intervals are in :mod:`fairloss.report.intervals`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fairloss.metrics.arrays import Bools, Floats, Ints
from fairloss.metrics.calibration import bin_edges, bin_index, sample_errors, top_label
from fairloss.metrics.per_group import class_values
from fairloss.metrics.predictions import Predictions
from fairloss.metrics.ranking import weighted_auc
from fairloss.metrics.rates import RATES, Convention, common_classes, confusion_columns, mean_over_classes, rates, ratio
from fairloss.report.intervals import unseen, weighting_slack
from fairloss.report.sample import Sample

__all__ = ["Draws", "bootstrap_groups"]

_BLOCK = 2_000_000  # resampling counts at a time: 16 MB, about a cache


@dataclass(frozen=True)
class Draws:
    """One metric: values and bootstrap replicates of G groups and K classes; K is 1 unless it is a mean over classes.

    Attributes:
        by_class: (G, K) point values.
        overall_by_class: (K,) point values over all samples.
        drawn_by_class: (R, G, K) replicates.
        drawn_overall_by_class: (R, K) replicates.
        bias: (G,) how much too large a value may be on average, 0 where it is unbiased.
        trials: (G, K) independent trials behind the values.
        disjoint: whether the classes' trials are of different samples.
        weighted: whether samples are.
        rate: whether the value is a share of decisions.
    """

    by_class: Floats
    overall_by_class: Floats
    drawn_by_class: Floats
    drawn_overall_by_class: Floats
    bias: Floats
    trials: Floats
    disjoint: bool
    weighted: bool
    rate: bool

    @cached_property
    def values(self) -> Floats:
        """(G,) means over the classes that a group has."""
        return mean_over_classes(self.by_class)

    @cached_property
    def overall(self) -> float:
        """Mean over classes, of all samples."""
        return float(mean_over_classes(self.overall_by_class))

    @cached_property
    def drawn(self) -> Floats:
        """(R, G) replicates of the means."""
        return _about(self.by_class, self.drawn_by_class)

    @cached_property
    def drawn_overall(self) -> Floats:
        """(R,) replicates of the mean of all samples."""
        return _about(self.overall_by_class, self.drawn_overall_by_class)

    def of_classes(self, kept: Bools | Ints) -> Draws:
        """The same of the classes ``kept``, a mask or places."""
        arrays = ("by_class", "overall_by_class", "drawn_by_class", "drawn_overall_by_class", "trials")
        return replace(self, **{name: getattr(self, name)[..., kept] for name in arrays})

    def where(self, kept: Bools) -> Draws:
        """The same, undefined outside the ``kept`` (G, K) groups and classes."""
        return replace(self, by_class=np.where(kept, self.by_class, np.nan))

    @property
    def common(self) -> Draws:
        """The same of the classes that every group has."""
        return self.of_classes(common_classes(self.by_class))

    @property
    def still(self) -> Bools:
        """(G, K) which values no replicate changes."""
        return ~np.isnan(self.by_class) & (unseen(self.by_class, self.drawn_by_class, self.trials) > 0)

    def slack(self, scale: float, level: float) -> Floats:
        """(G, K) how much further than their replicates the values may be from the truth, at most ``scale``.

        That is the rule of three where no replicate changes a value (classes of different samples share the three events
        that it allows a group), and where samples are weighted what :func:`weighting_slack` says.
        """
        found = unseen(self.by_class, self.drawn_by_class, self.trials, scale)
        if self.disjoint:
            found /= np.maximum(1, (found > 0).sum(axis=1, keepdims=True))
        if self.weighted:
            more = weighting_slack(self.by_class, self.drawn_by_class, self.trials, level, rate=self.rate)
            found = np.minimum(scale, np.maximum(found, more))
        return found


def _about(values: Floats, drawn: Floats) -> Floats:
    """Means over the last axis of replicates: the mean of the values, changed by the mean change of the classes still there."""
    if values.shape[-1] == 1:
        return drawn[..., 0]
    return np.asarray(mean_over_classes(values) + mean_over_classes(drawn - values))


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

    def from_sums(self, sums: Floats) -> list[Floats]:
        """(..., 2 M) sums of weighted columns to M means (..., 1)."""
        m = len(self.metrics)
        return [ratio(sums[..., i, None], sums[..., m + i, None]) for i in range(m)]


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

    def from_sums(self, sums: Floats) -> list[Floats]:
        """(..., C) sums of weighted columns to the values (..., K) of each metric; those of an AUC are left out."""
        n, found = sums[..., :1], []
        for name in self.metrics:
            if name == "accuracy" and self.pred.task == "multiclass" and self.convention == "standard":
                found.append(ratio(sums[..., self.where["correct"]], n))
            elif name in RATES:
                counts = sums[..., self.where["counts"]].reshape(*sums.shape[:-1], self.pred.target.shape[1], 4)
                found.append(self.joined(rates(name, counts, convention=self.convention)))
            elif name == "ece":
                found.append(ratio(np.abs(sums[..., self.where[name]]).sum(axis=-1, keepdims=True), n))
            else:
                found.append(sums[..., :0] if name == "auc" else ratio(sums[..., self.where[name]], n))
        return found

    def joined(self, values: Floats) -> Floats:
        """(..., K) values of the classes; in FairGRPO's convention their mean (..., 1), whichever classes there are."""
        return mean_over_classes(values)[..., None] if self.convention == "fairgrpo" else values

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
        """(r, K) areas of the samples ``at``."""
        score, target = self.pred.ranking[at], self.pred.target[at]
        known = None if self.pred.known is None else self.pred.known[at]
        areas = [
            weighted_auc(score[:, k], target[:, k], weight if known is None else weight * known[:, k])
            for k in range(score.shape[1])
        ]
        return self.joined(np.stack(areas, axis=-1))


def _by_group(ids: Ints, num_groups: int) -> tuple[Ints, list[slice]]:
    """The samples in order of their groups, unknown ones last, and the slice of each group."""
    rows = np.where(ids < 0, num_groups, ids)
    order = np.argsort(rows, kind="stable")
    starts = np.searchsorted(rows[order], np.arange(num_groups + 2))
    return order, [slice(int(a), int(b)) for a, b in pairwise(starts)]


def bootstrap_groups(
    sample: Sample,
    ids: Ints,
    num_groups: int,
    *,
    metrics: Sequence[str],
    num_replicates: int,
    rng: np.random.Generator,
    convention: Convention = "standard",
) -> dict[str, Draws]:
    """Point values and replicates of the predictions' ``metrics``, or of the values, in the groups ``ids``; see the module."""
    order, slices = _by_group(ids, num_groups)
    strata, weight, patient = _strata(sample.patient, ids), sample.weight[order], sample.patient[order]
    source: _Means | _Metrics
    if sample.pred is None:
        source = _Means(sample.values, order)
        sums = np.stack([weight[s] @ source.columns[s] for s in slices])
        points, overall = source.from_sums(sums[:-1]), source.from_sums(sums.sum(axis=0))
    else:
        source = _Metrics(sample.pred.take(order), metrics, weight, convention)
        of = [class_values(m, sample.pred, sample.weight, convention=convention) for m in metrics]
        points = [source.joined(values(ids, num_groups)) for values in of]
        overall = [source.joined(values(np.zeros_like(ids), 1))[0] for values in of]
    drawn = [np.empty((num_replicates, *values.shape)) for values in points]
    drawn_overall = [np.empty((num_replicates, values.shape[1])) for values in points]
    start = 0
    for counts in resampling_counts(strata, num_replicates, rng):
        w = counts[:, patient] * weight
        rows = slice(start, start + len(w))
        sums = np.stack([w[:, s] @ source.columns[s] for s in slices], axis=1)  # (r, G + 1, C)
        found = zip(source.metrics, source.from_sums(sums[:, :-1]), source.from_sums(sums.sum(axis=1)), strict=True)
        for m, (name, of_groups, of_all) in enumerate(found):
            if name == "auc" and isinstance(source, _Metrics):
                of_all = source.auc(slice(None), w)
                areas = [source.auc(s, w[:, s]) for s in slices[:-1]]  # none where no group is known
                of_groups = np.stack(areas, axis=1) if areas else np.empty((len(w), 0, of_all.shape[1]))
            drawn[m][rows], drawn_overall[m][rows] = of_groups, of_all
        start += len(w)
    result = {}
    for m, name in enumerate(source.metrics):
        bias = np.zeros(num_groups)
        if name == "ece" and isinstance(source, _Metrics):
            bias = np.array([source.ece_bias(s, weight[s], patient[s]) for s in slices[:-1]])
        trials = sample.trials(name, ids, num_groups, points[m].shape[1])
        kind = {
            "disjoint": sample.pred is not None and sample.pred.task == "multiclass",
            "weighted": sample.weighted,
            "rate": sample.pred is not None and name in RATES,
        }
        result[name] = Draws(points[m], overall[m], drawn[m], drawn_overall[m], bias, trials, **kind)
    return result
