"""What a replicate is made of: sums over samples by group and unit, and the metrics of such sums.

Rates, calibration errors and means are functions of sums of columns over samples. Columns are summed once by group and unit;
a replicate is their product with how often each unit was drawn. An area is one of histograms of the positives' and the
negatives' scores, which are sums as well: with a bin per different score it is exact; a group of more different scores gets
bins of equal weight of either class, 1,024 of each, in which a tie counts one half. Within a bin is less than a millionth of
an area's variance, and the replicates are moved so that they lie about the exact value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fairloss.metrics.arrays import Bools, Floats, Ints
from fairloss.metrics.calibration import bin_edges, bin_index, sample_errors, top_label
from fairloss.metrics.predictions import Predictions
from fairloss.metrics.ranking import weighted_auc
from fairloss.metrics.rates import RATES, Convention, confusion_cells, mean_over_classes, rates, ratio
from fairloss.report.resampling import numbered

__all__ = ["Areas", "Cells", "MeansOfValues", "MetricsOfPredictions", "areas_by_group", "sums_of"]

_BINS = 1024  # of either class


class Cells(NamedTuple):
    """Samples by group and unit: the pairs that occur, in order of the groups, unknown ones last.

    Attributes:
        of: (N,) the pair of each sample.
        units: (P,) the unit of each pair.
        rows: the pairs of each of the G groups, and of no group.
    """

    of: Ints
    units: Ints
    rows: list[slice]

    @classmethod
    def made(cls, ids: Ints, num_groups: int, unit: Ints, num_units: int) -> Cells:
        """Of (N,) groups and units of the samples."""
        codes = np.where(ids < 0, num_groups, ids) * num_units + unit
        pairs, of = numbered(codes)
        row, units = np.divmod(pairs, num_units)
        starts = np.searchsorted(row, np.arange(num_groups + 2)).tolist()
        return cls(of, units, [slice(a, b) for a, b in pairwise(starts)])

    def drawn(self, counts: Floats, g: int) -> Floats:
        """(P_g, r) how often the units of group ``g`` are drawn, of (U, r) counts."""
        units = self.units[self.rows[g]]
        if len(units) and units[-1] - units[0] == len(units) - 1:  # next to each other
            return counts[units[0] : units[-1] + 1]
        return counts[units]


Column = tuple[Ints | None, Floats, int]
"""Place of each sample among so many columns (all in the first for None), and what it adds there."""


def sums_of(columns: Sequence[Column], cells: Cells, weight: Floats) -> Floats:
    """(P, C) weighted sums of the columns by pair."""
    pairs, found = len(cells.units), []
    for place, value, size in columns:
        at = cells.of if place is None else cells.of * size + place
        found.append(np.bincount(at, weights=weight * value, minlength=pairs * size).reshape(pairs, size))
    return np.concatenate(found, axis=1)


class MeansOfValues:
    """Means of (N, M) values, from sums of weighted columns; NaN values are left out."""

    def __init__(self, values: Mapping[str, Floats]) -> None:
        self.metrics = tuple(values)
        known = [~np.isnan(v) for v in values.values()]
        self.columns: list[Column] = [
            *((None, np.where(k, v, 0.0), 1) for k, v in zip(known, values.values(), strict=True)),
            *((None, k.astype(np.float64), 1) for k in known),
        ]

    def from_sums(self, sums: Floats) -> list[Floats]:
        """(..., 2 M) sums of weighted columns to M means (..., 1)."""
        m = len(self.metrics)
        return [ratio(sums[..., i, None], sums[..., m + i, None]) for i in range(m)]


class MetricsOfPredictions:
    """Values of all metrics of predictions from sums of columns, which are laid out once."""

    def __init__(
        self, pred: Predictions, metrics: Sequence[str], weight: Floats, convention: Convention, apart: Set[str]
    ) -> None:
        self.pred, self.metrics, self.convention, self.apart = pred, tuple(metrics), convention, apart
        one = np.ones(len(pred))
        blocks: dict[str, list[Column]] = {"n": [(None, one, 1)]}
        scored = [m for m in self.metrics if m not in RATES and m not in apart]
        if any(m in RATES for m in self.metrics):
            cells = confusion_cells(pred)
            known = (one if pred.known is None else pred.known[:, k] for k in range(cells.shape[1]))
            blocks["counts"] = [
                (cells[:, k].astype(np.int64), value.astype(np.float64), 4) for k, value in enumerate(known)
            ]
        if "accuracy" in self.metrics and pred.task == "multiclass":
            blocks["correct"] = [(None, pred.correct(), 1)]
        p, o = top_label(pred) if scored else (one, one)
        for name in scored:
            if name == "ece":
                # Bins stay those of the data at hand: a replicate does not move them.
                edges = bin_edges(p, weight, 10, "uniform", pred.precision)
                blocks[name] = [(bin_index(p, edges), p - o, len(edges) + 1)]
            else:
                blocks[name] = [(None, sample_errors(name, p, o), 1)]
        ends = np.cumsum([sum(size for _, _, size in b) for b in blocks.values()]).tolist()
        starts = [0, *ends]
        self.where = {name: slice(a, b) for name, a, b in zip(blocks, starts, ends, strict=False)}
        self.columns = [column for block in blocks.values() for column in block]
        self.binned = blocks["ece"][0] if "ece" in blocks else None

    def from_sums(self, sums: Floats) -> list[Floats]:
        """(..., C) sums of weighted columns to the values (..., K) of each metric, none of those that are ``apart``."""
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
                found.append(sums[..., :0] if name in self.apart else ratio(sums[..., self.where[name]], n))
        return found

    def joined(self, values: Floats) -> Floats:
        """(..., K) values of the classes; in FairGRPO's convention their mean (..., 1), whichever classes there are."""
        return mean_over_classes(values)[..., None] if self.convention == "fairgrpo" else values

    def ece_bias(self, ids: Ints, num_groups: int, weight: Floats, patient: Ints) -> Floats:
        """(G,) largest bias of the groups' calibration errors.

        A bin's |d| of a sum d with standard error s is too large by at most E|N(0, s^2)| = s sqrt(2 / pi), where the bin is
        calibrated, and by little where it is not.
        """
        assert self.binned is not None
        known = ids >= 0
        group, (place, value, size) = ids[known], self.binned
        assert place is not None
        total = np.bincount(group, weights=weight[known], minlength=num_groups)
        cell = group * size + place[known]
        people = int(patient.max()) + 1
        each, of = numbered(cell * people + patient[known])  # a bin of a group, and a patient
        sums = np.bincount(of, weights=value[known] * weight[known])
        squares = np.bincount(each // people, weights=sums**2, minlength=num_groups * size).reshape(num_groups, size)
        return np.asarray(np.sqrt(2 / np.pi) * ratio(np.sqrt(squares).sum(axis=1), total)).clip(min=0)


class Areas:
    """Areas under the ROC curves of some samples and all classes, for blocks of counts of their units."""

    def __init__(self, pred: Predictions, at: Ints | slice, unit: Ints, units: int, weight: Floats) -> None:
        self.parts: list[tuple[Any, int, float]] = []
        score, target, unit, weight = pred.ranking[at], pred.target[at], unit[at], weight[at]
        known = None if pred.known is None else pred.known[at]
        for k in range(score.shape[1]):
            kept: Bools | slice = slice(None) if known is None else known[:, k]
            self.parts.append(_histogram(score[kept, k], target[kept, k], unit[kept], units, weight[kept]))

    def __call__(self, counts: Floats) -> Floats:
        """(r, K) areas of (U, r) counts."""
        return np.stack([_area(matrix @ counts, bins, shift) for matrix, bins, shift in self.parts], axis=-1)


def areas_by_group(pred: Predictions, cells: Cells, weight: Floats, ids: Ints) -> Iterator[Areas]:
    """The areas of each group, of counts of the group's units."""
    order = np.argsort(ids, kind="stable")
    ends = np.searchsorted(ids[order], np.arange(len(cells.rows))).tolist()
    for rows, (first, last) in zip(cells.rows, pairwise(ends), strict=False):
        yield Areas(pred, order[first:last], cells.of - rows.start, rows.stop - rows.start, weight)


def _histogram(score: Floats, positive: Bools, unit: Ints, units: int, weight: Floats) -> tuple[Any, int, float]:
    """(2 B, U) weights of the negatives' scores in B bins above the positives', by unit; B; what bins take from the area."""
    from scipy import sparse

    edges = np.unique(score)
    exact = len(edges) <= 2 * _BINS
    if not exact:
        edges = np.unique(np.concatenate([_quantiles(score[side], weight[side]) for side in (positive, ~positive)]))
    bins = len(edges) + 1
    place = np.searchsorted(edges, score, side="right") + bins * positive
    matrix = sparse.csr_matrix((weight, (place, unit)), shape=(2 * bins, units))
    shift = 0.0
    if not exact:
        binned = _area(np.asarray(matrix.sum(axis=1), dtype=np.float64).reshape(-1, 1), bins, 0.0)
        shift = float((weighted_auc(score, positive, weight[None]) - binned)[0])
    return matrix, bins, shift


def _quantiles(score: Floats, weight: Floats) -> Floats:
    """Scores that cut their weight into as many equal parts."""
    if not len(score):
        return score
    order = np.argsort(score)
    below = np.cumsum(weight[order])
    at = np.searchsorted(below, below[-1] * np.arange(1, _BINS) / _BINS)
    return np.asarray(score[order[at.clip(max=len(score) - 1)]])


def _area(histogram: Floats, bins: int, shift: float) -> Floats:
    """(r,) areas of (2 B, r) histograms, moved by ``shift``; NaN where one of the classes is absent."""
    negative, positive = histogram[:bins], histogram[bins:]
    below = np.cumsum(negative, axis=0)
    won = np.einsum("br,br->r", positive, below - negative / 2)
    return (ratio(won, positive.sum(axis=0) * below[-1]) + shift).clip(0, 1)
