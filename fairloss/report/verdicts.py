"""What a gap's interval says in words, the patients that a decision needs, and the smallest difference that could be seen.

A gap is *shown* where its interval excludes "no difference". It is *shown to be smaller than the margin* where the one-sided
upper bound of every pair of groups lies below it: two one-sided tests of each pair at risk 1 - level. Each pair that may be
as far apart as the margin has to be excluded, so that the largest bound needs no correction for the number of pairs
(intersection-union). *Not shown* is all else: these data cannot tell.

With two groups' standard errors s_g and s_h, a difference d is found with probability ``power`` where
d >= (z + z_power) sqrt(s_g^2 + s_h^2), z the two-sided normal quantile of the level, its risk shared by all pairs of groups.
Solved for d this is the smallest detectable difference; solved for the group's number of patients, of whom s^2 is the
reciprocal, the patients that are missing.

References: Schuirmann, J Pharmacokinet Biopharm 1987 (two one-sided tests); Berger, Technometrics 1982
(intersection-union); Fleiss, Levin and Paik, *Statistical Methods for Rates and Proportions*, 2003, chapter 4 (sizes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from fairloss.core.checks import expected, integer, number
from fairloss.metrics.arrays import Bools, Floats
from fairloss.report.bootstrap import Draws
from fairloss.report.intervals import pairs_of_groups, skewed_errors

__all__ = [
    "POWER",
    "chance_to_be_shown",
    "detectable_differences",
    "missing_patients",
    "sample_size",
    "upper_bound",
    "variances",
]

POWER = 0.8
_MOST = 100_000_000


def _quantile(level: float, groups: int = 2) -> float:
    """Two-sided normal quantile, the risk shared by all pairs of groups."""
    pairs = max(1, groups * (groups - 1) // 2)
    return NormalDist().inv_cdf(1 - (1 - level) / (2 * pairs))


def chance_to_be_shown(a: float, b: float, n: float, m: float, level: float) -> float:
    """Chance that the two-sided test finds rates a of n and b of m different; the formula behind Fleiss's sizes."""
    both = (a * n + b * m) / (n + m)
    null, true = math.sqrt(both * (1 - both) * (1 / n + 1 / m)), math.sqrt(a * (1 - a) / n + b * (1 - b) / m)
    reach = abs(a - b) - _quantile(level) * null
    return NormalDist().cdf(reach / true) if true > 0 else float(reach > 0)


def sample_size(
    rate: float,
    *,
    other_rate: float,
    other_size: int | None = None,
    ratio: float = 1.0,
    share: float = 1.0,
    level: float = 0.95,
    power: float = POWER,
) -> int:
    """How many patients a group needs for its rate to be told from another group's: Fleiss's formula for two proportions.

    ``n = (z sqrt((r + 1) p q) + z_power sqrt(r p1 q1 + p2 q2))^2 / (r (p1 - p2)^2)``, p the rate of both together.

    Args:
        rate: of the group, in [0, 1].
        other_rate: of the group that it is compared with.
        other_size: how many patients that group has; by default ``ratio`` times as many.
        ratio: patients of the other group for each patient of this one; not used with ``other_size``.
        share: of the patients who count: the prevalence, for a sensitivity; 1 - prevalence, for a specificity.
        level: of the two-sided interval.
        power: chance that the difference is shown.

    Returns:
        Patients of the group, rounded up.

    Raises:
        ValueError: equal rates, numbers out of range, or another group that is too small for any number of patients here.

    Reference: Fleiss, Levin and Paik, *Statistical Methods for Rates and Proportions*, 2003, eq. 4.14 and 4.18.

    Example:
        >>> sample_size(0.5, other_rate=0.75, power=0.9)  # R: power.prop.test(p1 = .50, p2 = .75, power = .90)
        77
        >>> sample_size(0.80, other_rate=0.90, share=0.1, other_size=20_000)  # a sensitivity, where a tenth are ill
        910
    """
    a, b = number("rate", rate, minimum=0, maximum=1), number("other_rate", other_rate, minimum=0, maximum=1)
    if a == b:
        raise ValueError(expected("other_rate", "a rate other than the group's", other_rate))
    r, of = number("ratio", ratio, above=0), number("share", share, above=0, maximum=1)
    number("level", level, above=0, below=1)
    number("power", power, minimum=0.5, below=1)
    if other_size is None:
        both = (a + r * b) / (1 + r)
        spread = _quantile(level) * math.sqrt((r + 1) * both * (1 - both))
        spread += NormalDist().inv_cdf(power) * math.sqrt(r * a * (1 - a) + b * (1 - b))
        return max(1, math.ceil(spread**2 / (r * (a - b) ** 2) / of - 1e-9))
    others = integer("other_size", other_size, minimum=1) * of
    if chance_to_be_shown(a, b, _MOST * of, others, level) < power:
        cure = "both groups need more patients: pass ratio="
        raise ValueError(expected("other_size", f"enough patients for a power of {power:g}", other_size, cure))
    low, high = 1, _MOST
    while low < high:  # the chance grows with the size
        middle = (low + high) // 2
        low, high = (
            (low, middle) if chance_to_be_shown(a, b, middle * of, others, level) >= power else (middle + 1, high)
        )
    return low


def are_shares(part: Draws) -> bool:
    """Whether the values are shares of independent trials of equal weight."""
    return part.rate and not part.weighted and part.by_class.shape[1] == 1


def upper_bound(parts: Sequence[Draws], level: float, scale: float) -> float:
    """The gap is below this, at risk 1 - ``level``: the largest one-sided bound of a pair of groups in any of the ``parts``."""
    z, found = NormalDist().inv_cdf(level), [-math.inf]
    for part in parts:
        kept = np.flatnonzero(~np.isnan(part.values))
        if len(kept) < 2:
            return float("nan")
        values, drawn, bias = part.values[kept], part.drawn[:, kept], part.bias[kept]
        slack = part.slack(scale, max(0.0, 2 * level - 1))[kept, 0]
        i, j = pairs_of_groups(len(kept))
        difference, error = values[i] - values[j], np.zeros(len(i))
        reach = np.zeros(len(i))
        for pair, (g, h) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
            deviation = drawn[:, g] - drawn[:, h] - difference[pair]
            deviation = deviation[~np.isnan(deviation)]
            if len(deviation):
                error[pair] = deviation.std()
                reach[pair] = max(z * error[pair], -float(np.quantile(deviation, 1 - level)))
        if are_shares(part):
            reach = z * skewed_errors(values, drawn, error, z)[1]
        found.append(float((difference + reach + slack[i] + slack[j] + bias[j]).max()))
    return max(found)


def variances(part: Draws, few: Bools, patients: Floats) -> Floats:
    """(G,) variances of the groups' values; where a group is too small to know its own, those of the others by size."""
    own = np.array([np.var(d[~np.isnan(d)]) if (~np.isnan(d)).any() else np.nan for d in part.drawn.T])
    trials = np.maximum(1.0, np.nan_to_num(part.trials.min(axis=1)))
    known = ~few & (own > 1e-12) & ~np.isnan(part.values)
    if not known.any():
        known = (own > 1e-12) & ~np.isnan(part.values)
        if not known.any():
            return np.full(len(own), np.nan)
    each = float((own * trials**2)[known].sum() / trials[known].sum())  # of one trial
    return np.where(known, own, np.where(patients > 0, each / trials, np.nan))


def detectable_differences(variance: Floats, level: float) -> Floats:
    """(G,) smallest difference of each group from the best known other one that is shown with a probability of 0.8."""
    found, z = np.full(len(variance), np.nan), _quantile(level, len(variance)) + NormalDist().inv_cdf(POWER)
    for g in range(len(variance)):
        others = np.delete(variance, g)
        if not np.isnan(others).all():
            found[g] = z * math.sqrt(variance[g] + np.nanmin(others)) if variance[g] == variance[g] else np.nan
    return found


def missing_patients(
    variance: Floats, patients: Floats, labels: Sequence[Any], margin: float, level: float
) -> tuple[tuple[Any, int], ...] | None:
    """Who lacks how many patients for a gap of ``margin`` to be shown with a probability of 0.8, most first; None if unknown.

    The noisiest group is compared with the best known one; where that has itself too few, every group is taken to half of
    the variance that is allowed.
    """
    if np.isnan(variance).all():
        return None
    allowed = (margin / (_quantile(level, len(variance)) + NormalDist().inv_cdf(POWER))) ** 2
    best = float(np.nanmin(variance))
    target = allowed - best if best <= allowed / 2 else allowed / 2
    more = np.ceil(patients * (variance / target - 1))
    if np.nanmax(variance) + best <= allowed:
        return ()
    lacking = [(label, int(n)) for label, n in zip(labels, more.tolist(), strict=True) if n > 0]
    return tuple(sorted(lacking, key=lambda each: -each[1]))
