"""From bootstrap replicates to the groups and comparisons of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fairloss.groups.encode import GroupEncoding
from fairloss.groups.labels import lookalikes
from fairloss.metrics.arrays import Ints
from fairloss.metrics.rates import mean_over_classes
from fairloss.metrics.undefined import undefined_labels
from fairloss.report.arguments import KINDS, Kind, Resampling
from fairloss.report.bootstrap import Draws
from fairloss.report.comparisons import Comparisons, value_range
from fairloss.report.intervals import centered_interval, percentile_interval
from fairloss.report.results import AttributeReport, Group, GroupEstimate, count_of, metric_title
from fairloss.report.sample import Sample, effective_patients

__all__ = ["attribute_report", "overall_estimates"]


def overall_estimates(
    draws: Mapping[str, Draws], sample: Sample, how: Resampling, kinds: Mapping[str, Kind] = KINDS
) -> dict[str, GroupEstimate]:
    """Metric to estimate over all samples, from the draws of one group that holds them all."""
    everyone = np.zeros(len(sample), dtype=np.int64)
    return {m: _estimates(d, _Sizes(sample, everyone, 1, m), how, kinds[m])[0] for m, d in draws.items()}


class _Sizes:
    """How much the groups' values of a metric rest on: (G,) samples, patients, effective patients, positives."""

    def __init__(self, sample: Sample, ids: Ints, num_groups: int, metric: str = "") -> None:
        counted, self.weighted = sample.counted(metric), sample.weighted
        at = ids >= 0 if counted is None else counted & (ids >= 0)
        of, patient = ids[at], sample.patient[at]
        self.samples = np.bincount(of, minlength=num_groups)
        self.patients = effective_patients(of, num_groups, patient, np.ones(len(of))).astype(np.int64)
        self.effective = sample.effective(ids, num_groups, counted) if self.weighted else self.patients.astype(float)
        self.positives: Ints | None = None
        self.confusion: Ints | None = None
        if sample.pred is not None and sample.pred.task == "binary":
            positive, each = sample.pred.target[at, 0], np.arange(len(of))
            self.positives = np.bincount(of[positive], minlength=num_groups)
            cell = 4 * of + np.where(positive, 2, 0) + ~sample.pred.decided[at, 0]
            self.confusion = np.bincount(cell, minlength=4 * num_groups).reshape(-1, 4)[:, [2, 0, 3, 1]]
            sides = [(of[side], num_groups, each[side], sample.weight[at][side]) for side in (positive, ~positive)]
            self.effective_sides = np.array([effective_patients(*side) for side in sides])

    def too_few(self, g: int, least: int) -> str:
        """What group ``g`` has too little of to be judged; "" where it has enough."""
        samples, people = int(self.samples[g]), int(self.patients[g])
        if self.effective[g] < least:
            found, worth = count_of(people, "patient") if people != samples else count_of(samples, "sample"), "{:.1f}"
            amounts = [self.effective[g]]
        elif self.positives is not None and self.effective_sides[:, g].min() < 10:
            positives = int(self.positives[g])
            found = f"{count_of(positives, 'positive')} and {count_of(samples - positives, 'negative')}"
            amounts, worth = list(self.effective_sides[:, g]), "{:.1f} and {:.1f}"
        else:
            return ""
        return f"{found}, worth {worth.format(*amounts)} of equal weight" if self.weighted else found


def _estimates(found: Draws, sizes: _Sizes, how: Resampling, kind: Kind) -> list[GroupEstimate]:
    """The groups' values and percentile intervals; the rule of three where replicates do not vary."""
    values, drawn = found.values, found.drawn
    low, high = percentile_interval(drawn, how.level)
    if found.bias.any():
        low, high = centered_interval(values, drawn, how.level, found.bias)
        low, high = np.maximum(kind.low, low), np.minimum(kind.high, high)
    slack = mean_over_classes(np.where(np.isnan(found.by_class), np.nan, found.slack(value_range(kind), how.level)))
    low = np.maximum(np.minimum(kind.low, low), low - slack)
    high = np.minimum(np.maximum(kind.high, high), high + slack)
    bounds = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    counts = zip(sizes.samples.tolist(), sizes.patients.tolist(), sizes.effective.tolist(), strict=True)
    few = sizes.effective < how.min_group_size
    if found.by_class.shape[1] == 1 and how.min_group_size:
        few = few | (found.trials[:, 0] < 10)  # a sensitivity needs ten positives; an accuracy none
    return [GroupEstimate(*b, *n, bool(f)) for b, n, f in zip(bounds, counts, few, strict=True)]


def attribute_report(
    name: str,
    encoding: GroupEncoding,
    draws: Mapping[str, Draws],
    sample: Sample,
    how: Resampling,
    notes: list[str],
    kinds: Mapping[str, Kind] = KINDS,
    margins: Mapping[str, float] | None = None,
    reference: Any = None,
) -> AttributeReport:
    """Groups and comparisons of one attribute; appends what the reader should be warned of to ``notes``."""
    ids, num_groups = np.maximum(encoding.ids, -1), encoding.num_groups
    whole = _Sizes(sample, ids, num_groups)
    sizes = {m: _Sizes(sample, ids, num_groups, m) if sample.values else whole for m in draws}
    estimates = {m: _estimates(d, sizes[m], how, kinds[m]) for m, d in draws.items()}
    alike = lookalikes(encoding.labels)
    if alike:
        notes.append(f"{name}: {alike}.")
    if num_groups == 1:
        notes.append(f"{name}: only {encoding.labels[0]} occurs, so there is nothing to compare.")
    missing = {m: np.isnan(d.by_class) for m, d in draws.items()}
    often = {m: np.isnan(d.drawn_by_class).mean(axis=0) > 0.05 for m, d in draws.items()}
    classes = () if sample.pred is None else sample.pred.classes
    groups = []
    for g, label in enumerate(encoding.labels):
        reason = whole.too_few(g, how.min_group_size)
        if reason:
            notes.append(f"{name}: {label} has {reason}, too few to judge.")
        values = {m: of_groups[g] for m, of_groups in estimates.items()}
        for m in values:
            few = sizes[m].too_few(g, how.min_group_size)
            if few and not reason:
                notes.append(f"{name}: {label} has {few} with a value of {metric_title(m)}, too few to judge.")
        undefined: dict[str, list[str]] = {}
        for m, lost in missing.items():
            for where in undefined_labels([label], lost[g : g + 1], classes):
                undefined.setdefault(where, []).append(m)
        notes += [
            f"{name}: {_names(m)} undefined in {where}, left out of the comparison." for where, m in undefined.items()
        ]
        rough = [m for m, rare in often.items() if (rare[g] & ~missing[m][g]).any()]
        if rough:
            notes.append(
                f"{name}: {_names(rough)} undefined in over 5% of the bootstrap replicates of {label}, whose intervals "
                "there are rough."
            )
        positives = None if whole.positives is None else int(whole.positives[g])
        counts = int(whole.samples[g]), int(whole.patients[g]), float(whole.effective[g])
        outcomes = None if whole.confusion is None else tuple(whole.confusion[g].tolist())
        groups.append(Group(label, *counts, positives, values, bool(reason), outcomes))
    compare = Comparisons(groups, draws, how, kinds, {} if margins is None else margins)
    gaps = compare.gaps() + ([] if sample.pred is None else compare.combined())
    out: dict[tuple[str, ...], list[str]] = {}
    for label in encoding.labels:
        without = tuple(g.name for g in gaps if label in g.left_out)
        if without:
            out.setdefault(without, []).append(str(label))
    for without, labels in out.items():
        of = "" if len(without) == len(gaps) else f" of {_names(without)}"
        notes.append(f"{name}: {', '.join(labels)} left out of the comparisons{of}, being too small to judge.")
    unknown, beside = int((encoding.ids == -1).sum()), () if reference is None else compare.contrasts(reference)
    return AttributeReport(name, compare.groups(), tuple(gaps), unknown, reference, beside)


def _names(metrics: Sequence[str]) -> str:
    return ", ".join(map(metric_title, metrics))
