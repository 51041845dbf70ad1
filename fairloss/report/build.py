"""From bootstrap replicates to the groups and comparisons of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fairloss.groups.encode import GroupEncoding
from fairloss.groups.labels import lookalikes
from fairloss.metrics import disparity
from fairloss.metrics.arrays import Floats, Ints
from fairloss.metrics.rates import mean_over_classes
from fairloss.metrics.undefined import undefined_labels
from fairloss.report.arguments import KINDS, Kind, Resampling
from fairloss.report.bootstrap import Draws
from fairloss.report.class_gaps import class_noise, classes_compared, corrected_mean_gap, mean_gap, mean_gap_interval
from fairloss.report.intervals import centered_interval, corrected_gap, gap_interval, percentile_interval
from fairloss.report.results import AttributeReport, Estimate, Gap, Group, GroupEstimate, count_of, metric_title
from fairloss.report.sample import Sample, effective_patients

__all__ = ["attribute_report", "overall_estimates"]

_TITLES = {
    "accuracy": "accuracy gap",
    "auc": "AUC gap",
    "tpr": "equal opportunity difference (TPR)",
    "fpr": "false positive rate difference",
    "fdr": "predictive parity difference (FDR)",
    "positive_rate": "demographic parity difference",
    "ece": "calibration gap (ECE)",
}
_NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


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
        if sample.pred is not None and sample.pred.task == "binary":
            positive, each = sample.pred.target[at, 0], np.arange(len(of))
            self.positives = np.bincount(of[positive], minlength=num_groups)
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
    slack = mean_over_classes(np.where(np.isnan(found.by_class), np.nan, found.slack(_scale(kind), how.level)))
    low = np.maximum(np.minimum(kind.low, low), low - slack)
    high = np.minimum(np.maximum(kind.high, high), high + slack)
    bounds = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    counts = zip(sizes.samples.tolist(), sizes.patients.tolist(), sizes.effective.tolist(), strict=True)
    few = [bool(sizes.too_few(g, how.min_group_size)) for g in range(len(values))]
    return [GroupEstimate(*b, *n, f) for b, n, f in zip(bounds, counts, few, strict=True)]


def attribute_report(
    name: str,
    encoding: GroupEncoding,
    draws: Mapping[str, Draws],
    sample: Sample,
    how: Resampling,
    notes: list[str],
    kinds: Mapping[str, Kind] = KINDS,
) -> AttributeReport:
    """Groups and comparisons of one attribute; appends what the reader should be warned of to ``notes``."""
    ids, num_groups = encoding.ids, encoding.num_groups
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
        for m, estimate in values.items():
            if estimate.few and not reason:
                few = sizes[m].too_few(g, how.min_group_size)
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
        groups.append(Group(label, *counts, positives, values, bool(reason)))
    gaps = []
    for m, d in draws.items():
        gaps.append(_gap(m, _TITLES.get(m, f"{metric_title(m)} gap"), [d], encoding.labels, how.level, kinds[m]))
    gaps += [] if sample.pred is None else _combined(draws, encoding.labels, how.level)
    return AttributeReport(name, tuple(groups), tuple(gaps), int((ids < 0).sum()))


def _names(metrics: Sequence[str]) -> str:
    return ", ".join(map(metric_title, metrics))


def _scale(kind: Kind) -> float:
    return kind.high - kind.low if np.isfinite(kind.high) else 1.0


def _gap(
    name: str, title: str, parts: Sequence[Draws], labels: tuple[Any, ...], level: float, kind: Kind = KINDS["tpr"]
) -> Gap:
    """The gap over groups of a metric; of two the larger one; of several classes the mean over classes of theirs."""
    value = mean_gap(parts)
    low = high = corrected = float("nan")
    if parts[0].by_class.shape[1] > 1:
        (low, high), corrected = mean_gap_interval(parts, level, _scale(kind)), corrected_mean_gap(parts)
    elif value == value:
        # Of two gaps each takes half the risk; the larger one lies between the larger ends.
        each = level if len(parts) == 1 else (1 + level) / 2
        bounds = [gap_interval(p.values, p.drawn, each, p.slack(_scale(kind), each)[:, 0], p.bias) for p in parts]
        low, high = np.max(bounds, axis=0).tolist()
        corrected = float(np.max([corrected_gap(p.values, p.drawn) for p in parts]))
    best = worst = None
    shared = parts[0].common.values
    # Two groups at least, and not all alike: else naming one as the worst would mislead.
    if len(parts) == 1 and disparity.gap(shared) > 1e-12 * max(1.0, float(np.nanmax(np.abs(shared), initial=0.0))):
        top, bottom = labels[int(np.nanargmax(shared))], labels[int(np.nanargmin(shared))]
        best, worst = (top, bottom) if kind.higher_is_better else (bottom, top)
    high = min(kind.high - kind.low, high) if high == high else high
    # Extrapolation goes too far where one tiny group makes most of the noise: not below what the data exclude.
    corrected = float(np.minimum(np.maximum(corrected, low), high))
    return Gap(name, title, Estimate(value, low, high), corrected, best, worst)


def _combined(draws: Mapping[str, Draws], labels: tuple[Any, ...], level: float) -> list[Gap]:
    """Comparisons of two rates, or of a rate's ratio."""
    gaps = []
    if "tpr" in draws and "fpr" in draws:
        gaps.append(_gap("equalized_odds", "equalized odds difference", [draws["tpr"], draws["fpr"]], labels, level))
    if "positive_rate" in draws:
        ratio = _parity_ratio(draws["positive_rate"], level)
        gaps.append(Gap("demographic_parity_ratio", "demographic parity ratio", ratio, float("nan")))
    if "auc" in draws:
        scaled = _equity_scaled(draws["auc"].common, level)
        gaps.append(Gap("equity_scaled_auc", "equity-scaled AUC (mean_abs)", scaled, float("nan")))
    return gaps


def _equity_scaled(auc: Draws, level: float) -> Estimate:
    kept = ~np.isnan(auc.values)
    if kept.sum() < 2:  # with one area the scaled one would be the plain one: nothing was compared
        return _NOTHING

    def scaled(overall: float, values: Floats) -> float:
        return disparity.equity_scaled(overall, values, penalty="mean_abs")

    drawn = np.array([scaled(o, v) for o, v in zip(auc.drawn_overall, auc.drawn, strict=True)])
    value = scaled(auc.overall, auc.values)
    # The mean of |overall - group| keeps the noise of every group: where all are alike it is too large by this much.
    apart = auc.drawn_overall[:, None] - auc.drawn
    apart = apart[:, (~np.isnan(apart)).any(axis=0)]
    noise = float(np.sqrt(2 / np.pi) * np.nanstd(apart, axis=0).mean()) if apart.size else 0.0
    penalty = max(0.0, auc.overall / value - 1 - noise) if value > 0 else 0.0
    low, high = centered_interval(np.array(value), drawn, level)
    high = np.minimum(1.0, high + auc.overall / (1 + penalty) - value)
    if auc.still.any():
        return Estimate(value, float("nan"), float("nan"))  # a group whose replicates do not vary is not thereby known
    return Estimate(value, max(0.0, float(low)) if low == low else float(low), float(high))


def _parity_ratio(rate: Draws, level: float) -> Estimate:
    """Smallest over largest of the positive rates, exp(-gap) of their logarithms, whose interval is that of a gap.

    Where a group's replicates do not vary, or reach a rate of 0, logarithms say nothing. The ratio is 1 - gap / largest
    with the largest at most 1, hence between 0 and 1 less the lower end of the difference, and clear where that is.
    """
    value = mean_gap([rate], "ratio")
    if value != value:
        return _NOTHING
    several, ends = rate.by_class.shape[1] > 1, []
    for k in np.flatnonzero(classes_compared([rate]) & (np.nan_to_num(rate.by_class).max(axis=0) > 0)):
        one = rate.of_classes(np.array([k]))
        if one.still.any() or (one.drawn == 0).any():
            ends.append((np.zeros(len(one.drawn) if several else ()), 1 - _bounds(one, level, several)[0]))
        else:
            of, drawn = np.log(one.by_class), np.log(one.drawn_by_class)
            logarithms = replace(one, by_class=of, drawn_by_class=drawn, rate=False)
            low, high = _bounds(logarithms, level, several)
            ends.append((np.exp(-high), np.exp(-low)))
    low, high = np.mean(ends, axis=0)
    if several:
        low, high = np.quantile(low, (1 - level) / 2), np.quantile(high, (1 + level) / 2)
    return Estimate(value, float(low), min(1.0, float(high)))


def _bounds(rate: Draws, level: float, several: bool) -> tuple[Floats, Floats]:
    """Ends of a gap's interval; of one class among several (R,) bounds, whose means over classes make the interval."""
    if several:
        found = class_noise([rate], level)
        return found.gaps[-1] - found.above[-1, :, 0], found.gaps[-1] + found.below[:, 0]
    low, high = map(np.asarray, gap_interval(rate.values, rate.drawn, level, rate.slack(1.0, level)[:, 0]))
    return low, high
