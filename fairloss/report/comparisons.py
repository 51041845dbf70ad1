"""Comparisons of the groups of an attribute, from bootstrap replicates: gaps, combined gaps, ratios, and their verdicts.

Groups too small to judge take no part where two others are left: that such a group is the worst may be chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from fairloss.metrics import disparity
from fairloss.metrics.arrays import Bools, Floats
from fairloss.report.arguments import KINDS, Kind, Resampling
from fairloss.report.bootstrap import Draws
from fairloss.report.class_gaps import class_noise, classes_compared, corrected_mean_gap, mean_gap, mean_gap_interval
from fairloss.report.intervals import centered_interval, corrected_gap, gap_interval, skewed_errors
from fairloss.report.results import Contrast, Estimate, Gap, Group, metric_title
from fairloss.report.verdicts import are_shares, detectable_differences, missing_patients, upper_bound, variances

__all__ = ["Comparisons", "judged_groups", "value_range"]

_TITLES = {
    "accuracy": "accuracy gap",
    "auc": "AUC gap",
    "tpr": "equal opportunity difference (sensitivity, TPR)",
    "tnr": "specificity difference (1 - FPR)",
    "fpr": "false positive rate difference",
    "precision": "predictive parity difference (PPV)",
    "fdr": "predictive parity difference (FDR)",
    "positive_rate": "demographic parity difference",
    "ece": "calibration gap (ECE)",
}
_NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


def difference_and_ratio(pair: Draws, level: float, kind: Kind) -> tuple[Estimate, Estimate]:
    """The first group's value less the second's, with Newcombe's interval of shares; and their ratio, by percentiles.

    A ratio has no interval where a replicate of either group is 0 or none varies.
    """
    values, drawn = pair.values, pair.drawn
    if np.isnan(values).any():
        return _NOTHING, _NOTHING
    z, value = NormalDist().inv_cdf((1 + level) / 2), float(values[0] - values[1])
    deviation = drawn[:, 0] - drawn[:, 1] - value
    error = np.full(2, deviation[~np.isnan(deviation)].std())
    down, up = skewed_errors(values, drawn, error, z) if are_shares(pair) else (error, error)
    slack, most = float(pair.slack(value_range(kind), level).mean(axis=1).sum()), kind.high - kind.low
    low, high = value - z * down[0] - slack - pair.bias[0], value + z * up[0] + slack + pair.bias[1]
    difference = Estimate(value, max(-most, float(low)), min(most, float(high)))
    if not values[1] > 0:
        return difference, _NOTHING
    share, ends = float(values[0] / values[1]), (float("nan"), float("nan"))
    known = ~np.isnan(drawn).any(axis=1)
    if not pair.still.any() and (drawn[known] > 0).all():
        tail = (1 - level) / 2
        ends = tuple(np.quantile(drawn[known, 0] / drawn[known, 1], [tail, 1 - tail]).tolist())
    return difference, Estimate(share, *ends)


def value_range(kind: Kind) -> float:
    """High - low of the metric's values; 1 where there is no end."""
    return kind.high - kind.low if np.isfinite(kind.high) else 1.0


def judged_groups(draws: Draws, few: Bools) -> Draws:
    """The same without the ``few`` groups, where two others have a value; else as it is."""
    if not few.any() or (~few & ~np.isnan(draws.values)).sum() < 2:
        return draws
    kept = ~few[:, None]
    drawn = np.where(kept, draws.drawn_by_class, np.nan)
    return replace(draws.where(kept), drawn_by_class=drawn)


class Comparisons:
    """What is said of the ``groups`` by comparing them."""

    def __init__(
        self,
        groups: Sequence[Group],
        draws: Mapping[str, Draws],
        how: Resampling,
        kinds: Mapping[str, Kind],
        margins: Mapping[str, float],
    ) -> None:
        self.all, self.given, self.how, self.kinds, self.margins = groups, draws, how, kinds, margins
        self.labels = tuple(g.label for g in groups)
        self.few = {m: np.array([g.metrics[m].few for g in groups], dtype=bool) for m in draws}
        self.draws = {m: judged_groups(d, self.few[m]) for m, d in draws.items()}
        self.patients = {m: np.array([g.metrics[m].patients for g in groups], dtype=float) for m in draws}
        self.variances = {m: variances(d, self.few[m], self.patients[m]) for m, d in draws.items()}

    def groups(self) -> tuple[Group, ...]:
        """The groups, with the smallest differences that could be seen."""
        if len(self.all) < 2:
            return tuple(self.all)
        found = {
            m: np.minimum(detectable_differences(v, self.how.level), self.kinds[m].high - self.kinds[m].low)
            for m, v in self.variances.items()
        }
        return tuple(
            replace(g, metrics={m: replace(e, detectable=float(found[m][i])) for m, e in g.metrics.items()})
            for i, g in enumerate(self.all)
        )

    def gaps(self) -> list[Gap]:
        """Of each metric the gap, with its verdict."""
        return [self._judged(m, _TITLES.get(m, f"{metric_title(m)} gap"), [m]) for m in self.draws]

    def combined(self) -> list[Gap]:
        """Comparisons of two rates, or of a rate's ratio."""
        gaps, level = [], self.how.level
        errors = next((m for m in ("fpr", "tnr") if m in self.draws), None)
        if "tpr" in self.draws and errors is not None:
            gaps.append(self._judged("equalized_odds", "equalized odds difference", ["tpr", errors]))
        if "positive_rate" in self.draws:
            ratio = _parity_ratio(self.draws["positive_rate"], level)
            found = Gap("demographic_parity_ratio", "demographic parity ratio", ratio, float("nan"))
            gaps.append(replace(found, **self._basis(["positive_rate"])))
        if "auc" in self.draws:
            scaled = _equity_scaled(self.draws["auc"].common, level)
            found = Gap("equity_scaled_auc", "equity-scaled AUC (mean_abs)", scaled, float("nan"))
            gaps.append(replace(found, **self._basis(["auc"])))
        return gaps

    def contrasts(self, reference: Any) -> tuple[Contrast, ...]:
        """Of each metric and other group the difference from the reference group and the ratio to it."""
        found, r = [], self.labels.index(reference)
        for m, d in self.given.items():
            for g, label in enumerate(self.labels):
                if g != r:
                    pair = replace(d, **{k: getattr(d, k)[[g, r]] for k in ("by_class", "bias", "trials")})
                    pair = replace(pair, drawn_by_class=d.drawn_by_class[:, [g, r]])
                    found.append(Contrast(m, label, *difference_and_ratio(pair, self.how.level, self.kinds[m])))
        return tuple(found)

    def _basis(self, metrics: Sequence[str]) -> dict[str, Any]:
        """Who takes part: the labels left out, and whether two groups or more can be judged."""
        out, judged = np.zeros(len(self.all), dtype=bool), True
        for m in metrics:
            few, there = self.few[m], ~np.isnan(self.given[m].values)
            judged &= bool((~few & there).sum() > 1)
            out |= there & np.isnan(self.draws[m].values)
        return {"left_out": tuple(g for g, lost in zip(self.labels, out, strict=True) if lost), "judged": judged}

    def _judged(self, name: str, title: str, metrics: Sequence[str]) -> Gap:
        """The gap of a metric, of two the larger one."""
        kind, level = self.kinds[metrics[0]], self.how.level
        margin = self.margins.get(name, min(self.margins.get(m, float("nan")) for m in metrics))
        parts = [self.draws[m] for m in metrics]
        basis, found = self._basis(metrics), _gap(name, title, parts, self.labels, level, kind)
        if parts[0].by_class.shape[1] > 1:
            at_most = mean_gap_interval(parts, max(0.0, 2 * level - 1), value_range(kind))[1]
        else:
            at_most = upper_bound(parts, level, value_range(kind))
        found = replace(found, margin=margin, at_most=min(at_most, kind.high - kind.low), **basis)
        if found.verdict not in ("not shown", "too few") or not margin > 0:
            return found
        lacking = []
        for m in metrics:
            variance = np.where(np.isnan(self.draws[m].values), np.nan, self.variances[m])
            lacking.append(missing_patients(variance, self.patients[m], self.labels, margin, level))
        known = [who for who in lacking if who is not None]
        return replace(found, missing=max(known, key=lambda who: who[0][1] if who else 0, default=None))


def _gap(
    name: str, title: str, parts: Sequence[Draws], labels: tuple[Any, ...], level: float, kind: Kind = KINDS["tpr"]
) -> Gap:
    """The gap over groups of a metric; of two the larger one; of several classes the mean over classes of theirs."""
    value = mean_gap(parts)
    low = high = corrected = float("nan")
    if parts[0].by_class.shape[1] > 1:
        (low, high), corrected = mean_gap_interval(parts, level, value_range(kind)), corrected_mean_gap(parts)
    elif value == value:
        # Of two gaps each takes half the risk; the larger one lies between the larger ends.
        each = level if len(parts) == 1 else (1 + level) / 2
        bounds = [
            gap_interval(p.values, p.drawn, each, p.slack(value_range(kind), each)[:, 0], p.bias, shares=are_shares(p))
            for p in parts
        ]
        low, high = np.max(bounds, axis=0).tolist()
        corrected = float(np.max([corrected_gap(p.values, p.drawn) for p in parts]))
    best = worst = None
    shared = parts[0].common.values
    # Two groups at least, and not all alike: else naming one as the worst would mislead.
    if len(parts) == 1 and disparity.gap(shared) > 1e-12 * max(1.0, float(np.nanmax(np.abs(shared), initial=0.0))):
        top, bottom = labels[int(np.nanargmax(shared))], labels[int(np.nanargmin(shared))]
        best, worst = (bottom, top) if kind.higher_is_better is False else (top, bottom)
    high = min(kind.high - kind.low, high) if high == high else high
    # Extrapolation goes too far where one tiny group makes most of the noise: not below what the data exclude.
    corrected = float(np.minimum(np.maximum(corrected, low), high))
    return Gap(
        name, title, Estimate(value, low, high), corrected, best, worst, directed=kind.higher_is_better is not None
    )


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
    low, high = map(
        np.asarray, gap_interval(rate.values, rate.drawn, level, rate.slack(1.0, level)[:, 0], shares=are_shares(rate))
    )
    return low, high
