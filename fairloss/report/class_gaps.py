"""Intervals of a mean over classes of gaps: of each class's gap over the groups that have it.

The mean of K gaps is a mean of differences between K pairs of groups, those of each class's largest difference. As for one
gap, which pairs those are is not known: a class keeps all that may be its widest, judged at the simultaneous studentized
quantile of the module :mod:`fairloss.report.intervals`. The mean of gaps is too large by at most the mean over classes of the
largest deviation among a class's pairs, and too small by at most that of the largest deviation downwards; their percentiles
over the replicates make the interval. Where each class has one widest pair, that is the percentile interval of a mean of
differences, whose noise the mean over classes reduces; where groups are alike, it is the simultaneous one.

A tiny group would widen the interval downwards, too. The gap without the noisier pairs is at most the gap, so that its lower
end is one of the gap: the highest of five lower ends is taken, from the least noisy fifth of the pairs to all of them, with
one quantile for the five. A pair of which a replicate has lost the class deviates by nothing in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fairloss.metrics.arrays import Bools, Floats
from fairloss.metrics.disparity import Statistic
from fairloss.metrics.gaps import gap_over_groups
from fairloss.metrics.rates import mean_over_classes
from fairloss.report.bootstrap import Draws
from fairloss.report.intervals import pairs_of_groups

__all__ = [
    "ClassNoise",
    "class_noise",
    "classes_compared",
    "corrected_mean_gap",
    "mean_difference",
    "mean_gap",
    "mean_gap_interval",
]

_SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)  # of the pairs, the least noisy first


class ClassNoise(NamedTuple):
    """The gaps of K classes and, from R replicates, how far they may be from the truth.

    Attributes:
        gaps: (5, K) of the least noisy fifth of the pairs, of two fifths, ..., of all.
        above: (5, R, K) how much too large they may be.
        below: (R, K) how much too small the last one may be.
    """

    gaps: Floats
    above: Floats
    below: Floats


def mean_gap(parts: Sequence[Draws], statistic: Statistic = "gap") -> float:
    """The functions' value: of each class the widest gap, or smallest ratio, of the ``parts``, and the mean over classes."""
    values = [p.by_class for p in parts]
    return float(gap_over_groups(values, statistic, over_classes=None, convention="standard"))


def classes_compared(parts: Sequence[Draws]) -> Bools:
    """(K,) which classes at least two groups have, in each of the ``parts``."""
    return np.asarray(np.all([(~np.isnan(p.by_class)).sum(axis=0) > 1 for p in parts], axis=0))


def class_noise(parts: Sequence[Draws], level: float, scale: float = 1.0) -> ClassNoise:
    """Of the compared classes' gaps, each the widest one of the ``parts`` (TPR and FPR, say); see the module."""
    found = [_of_class(parts, k, level, scale) for k in np.flatnonzero(classes_compared(parts)).tolist()]
    gaps, above, below = (np.stack(each, axis=-1) for each in zip(*found, strict=True))
    return ClassNoise(gaps, above, below)


def _of_class(parts: Sequence[Draws], k: int, level: float, scale: float) -> tuple[Floats, Floats, Floats]:
    differences, deviations, slacks = [], [], []
    for part in parts:
        kept = ~np.isnan(part.by_class[:, k])
        values, drawn, slack = (
            part.by_class[kept, k],
            part.drawn_by_class[:, kept, k],
            part.slack(scale, level)[kept, k],
        )
        i, j = pairs_of_groups(len(values))
        differences.append(values[i] - values[j])
        deviations.append(np.nan_to_num(drawn[:, i] - drawn[:, j] - differences[-1]))
        slacks.append(slack[i] + slack[j])
    difference, slack = np.concatenate(differences), np.concatenate(slacks)
    deviation = np.concatenate(deviations, axis=1)
    error = deviation.std(axis=0)
    studentized = np.abs(deviation) * np.where(error > 1e-12, 1 / np.maximum(error, 1e-12), 0.0)
    gaps, above = [], []
    for most in np.quantile(error + slack, _SHARES, method="higher"):
        few = error + slack <= most
        reach = float(np.quantile(studentized[:, few].max(axis=1), level)) * error + slack
        widest = few & (difference + reach >= (difference - reach)[few].max())
        gaps.append(difference[few].max())
        above.append((deviation[:, widest] + slack[widest]).max(axis=1))
    return np.array(gaps), np.array(above), (slack[widest] - deviation[:, widest]).max(axis=1)


def mean_gap_interval(parts: Sequence[Draws], level: float, scale: float = 1.0) -> tuple[float, float]:
    """The interval of the mean over classes of gaps; NaN where no class is compared."""
    if not classes_compared(parts).any():
        return float("nan"), float("nan")
    found, tail = class_noise(parts, level, scale), (1 - level) / 2
    gaps, above = found.gaps.mean(axis=1), found.above.mean(axis=2)  # (5,), (5, R)
    size = np.maximum(1e-12, np.quantile(above, 1 - tail, axis=1))
    low = gaps - size * np.quantile((above / size[:, None]).max(axis=0), 1 - tail)
    return max(0.0, float(low.max())), float(gaps[-1] + np.quantile(found.below.mean(axis=1), 1 - tail))


def corrected_mean_gap(parts: Sequence[Draws]) -> float:
    """The bias-corrected mean over classes, as :func:`fairloss.report.intervals.corrected_gap` of one gap."""
    kept = classes_compared(parts)
    if not kept.any():
        return float("nan")
    gaps, drawn = [], []
    for part in (p.of_classes(kept) for p in parts):
        values, defined = part.by_class, ~np.isnan(part.by_class)
        gaps.append(np.where(defined, values, -np.inf).max(axis=0) - np.where(defined, values, np.inf).min(axis=0))
        low, high = (np.where(defined, part.drawn_by_class, end) for end in (np.inf, -np.inf))
        drawn.append(high.max(axis=1) - low.min(axis=1))  # NaN where a group that is compared has lost the class
    each, replicates = np.max(gaps, axis=0), np.max(drawn, axis=0)
    mean = each.mean()
    squares = (mean + mean_over_classes(replicates - each)) ** 2
    known = squares[~np.isnan(squares)]
    return float(np.sqrt(max(0.0, 2 * mean**2 - known.mean()))) if len(known) else float("nan")


def mean_difference(a: Draws, b: Draws, level: float) -> tuple[float, float, float]:
    """Interval of mean gap of b - that of a, over groups and classes that both have, and its p-value, at least 2 / (R + 1).

    The p-value is twice the share of the replicates whose deviations reach 0.
    """
    if not classes_compared([a]).any():
        return float("nan"), float("nan"), float("nan")
    of_a, of_b = (class_noise([model], level) for model in (a, b))
    difference, tail = float(of_b.gaps[-1].mean() - of_a.gaps[-1].mean()), (1 - level) / 2
    above = (of_b.above[-1] + of_a.below).mean(axis=1)
    below = (of_b.below + of_a.above[-1]).mean(axis=1)
    beyond = min((above >= difference).sum(), (below >= -difference).sum())
    low, high = difference - np.quantile(above, 1 - tail), difference + np.quantile(below, 1 - tail)
    return float(low), float(high), float(min(1.0, 2 * (1 + beyond) / (len(above) + 1)))
