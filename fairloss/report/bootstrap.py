"""Stratified bootstrap over patients of every metric in every group at once.

Each replicate draws the patients of each group with replacement, as many as there are, and a patient's samples come
along together. Groups with patients in common (age bands or scanners over several visits) are one stratum, whose
patients are drawn as a whole, so that their groups' sizes vary: a stratum for every combination of groups would often
hold a single patient, who is then in every replicate, and intervals would be too narrow.

Very many patients are drawn as units of several (:mod:`fairloss.report.resampling`). Every metric is a function of sums over
samples (:mod:`fairloss.report.sums`), which are added up once by group and unit, so that a block of replicates is one
product of these with how often each unit was drawn; the user's functions alone (:mod:`fairloss.report.functions`) are called
on the rows of every replicate.

A mean over classes keeps the values of each class. A replicate in which a class vanishes from a group changes the group's
mean by the mean change of the classes that are left, so that point value and replicates are of the same classes.
Intervals are in :mod:`fairloss.report.intervals`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from fairloss.metrics.arrays import Bools, Floats, Ints
from fairloss.metrics.per_group import class_values
from fairloss.metrics.rates import RATES, Convention, common_classes, mean_over_classes
from fairloss.report.intervals import unseen, weighting_slack
from fairloss.report.resampling import resampling_counts, strata_of, units_of
from fairloss.report.sample import Sample
from fairloss.report.sums import Areas, Cells, MeansOfValues, MetricsOfPredictions, areas_by_group, sums_of

__all__ = ["Draws", "bootstrap_groups"]


@dataclass(frozen=True)
class Draws:
    """One metric: values and bootstrap replicates of G groups and K classes; K is 1 unless it is a mean over classes.

    Attributes:
        by_class: (G, K) point values.
        overall_by_class: (K,) point values over all samples.
        drawn_by_class: (R, G, K) replicates.
        drawn_overall_by_class: (R, K) replicates; NaN of the user's functions, of which nobody needs them.
        bias: (G,) how much too large a value may be on average, 0 where it is unbiased.
        trials: (G, K) independent trials behind the values.
        disjoint: whether the classes' trials are of different samples.
        weighted: whether samples are.
        rate: whether the value is a share of decisions, or of a function that never leaves [0, 1].
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


def _within_one(*values: Floats) -> bool:
    """Whether no value that is defined lies outside [0, 1]."""
    return not any(((v < 0) | (v > 1)).any() for v in values)


def bootstrap_groups(
    sample: Sample,
    ids: Ints,
    num_groups: int,
    *,
    metrics: Sequence[str],
    num_replicates: int,
    rng: np.random.Generator,
    convention: Convention = "standard",
    names: Sequence[str] = (),
    advance: Callable[[float], None] = lambda replicates: None,
) -> dict[str, Draws]:
    """Point values and replicates of the predictions' ``metrics``, or of the values, in the groups ``ids``; see the module.

    ``names`` are the groups' in errors of functions; ``advance`` is told how many more replicates are done.
    """
    weight, patient = sample.weight, sample.patient
    units = units_of(strata_of(patient, ids), rng)
    unit = units.of[patient]
    cells = Cells.made(ids, num_groups, unit, len(units))
    source: MeansOfValues | MetricsOfPredictions
    own, calls = sample.functions, len(sample.functions.of) * num_groups  # of functions, a replicate
    names = names or [f"group {g}" for g in range(max(1, num_groups))]
    if sample.pred is None:
        source = MeansOfValues(sample.values)
    else:
        source = MetricsOfPredictions(sample.pred, metrics, weight, convention, {"auc", *own.of})
    table = sums_of(source.columns, cells, weight)
    if isinstance(source, MeansOfValues):
        sums = np.stack([table[rows].sum(axis=0) for rows in cells.rows])
        points, overall = source.from_sums(sums[:-1]), source.from_sums(sums.sum(axis=0))
    else:
        made = partial(class_values, pred=source.pred, weight=weight, convention=convention)
        of = [partial(own.by_group, m, names=names) if m in own.of else made(m) for m in metrics]
        points = [source.joined(values(ids, num_groups)) for values in of]
        overall = [source.joined(values(np.zeros_like(ids), 1))[0] for values in of]
    apart: dict[str, list[Callable[[Floats], Floats]]] = {}  # what is no function of sums, of each group
    if isinstance(source, MetricsOfPredictions) and "auc" in metrics:
        everyone = Areas(source.pred, slice(None), unit, len(units), weight)
        apart["auc"] = [*areas_by_group(source.pred, cells, weight, ids)]
    for name in own.of:
        rows_of = [np.flatnonzero(ids == g) for g in range(num_groups)]
        apart[name] = [
            own.of_draws(name, at, cells.of[at] - rows.start, where, partial(advance, 1 / calls))
            for at, rows, where in zip(rows_of, cells.rows, names, strict=False)
        ]
    drawn = [np.empty((num_replicates, *values.shape)) for values in points]
    drawn_overall = [np.empty((num_replicates, values.shape[1])) for values in points]
    start = 0
    for counts in resampling_counts(units.sizes, num_replicates, rng):
        rows = slice(start, start + counts.shape[1])
        parts = [cells.drawn(counts, g) for g in range(num_groups + 1)]
        sums = np.stack(
            [part.T @ table[at] for part, at in zip(parts, cells.rows, strict=True)], axis=1
        )  # (r, G + 1, C)
        found = zip(source.metrics, source.from_sums(sums[:, :-1]), source.from_sums(sums.sum(axis=1)), strict=True)
        for m, (name, of_groups, of_all) in enumerate(found):
            if name in apart and isinstance(source, MetricsOfPredictions):
                each = [source.joined(values(part)) for values, part in zip(apart[name], parts, strict=False)]
                of_groups = np.stack(each, axis=1) if each else drawn[m][rows]  # of no known group there is none
                of_all = source.joined(everyone(counts)) if name == "auc" else np.full(overall[m].shape, np.nan)
            drawn[m][rows], drawn_overall[m][rows] = of_groups, of_all
        start = rows.stop
        if not calls:  # which say so themselves
            advance(counts.shape[1])
    result = {}
    for m, name in enumerate(source.metrics):
        bias = np.zeros(num_groups)
        if name == "ece" and isinstance(source, MetricsOfPredictions):
            bias = source.ece_bias(ids, num_groups, weight, patient)
        trials = sample.trials(name, ids, num_groups, points[m].shape[1])
        kind = {
            "disjoint": sample.pred is not None and sample.pred.task == "multiclass",
            "weighted": sample.weighted,
            "rate": _within_one(points[m], drawn[m]) if name in own.of else sample.pred is not None and name in RATES,
        }
        result[name] = Draws(points[m], overall[m], drawn[m], drawn_overall[m], bias, trials, **kind)
    return result
