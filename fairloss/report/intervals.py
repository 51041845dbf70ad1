"""Intervals of group values, of max-min gaps, and of the difference of two models' gaps, from bootstrap replicates.

The percentile interval of a max-min gap is no confidence interval: replicates add noise to noise, so that it lies too
high and, for equal groups, never contains 0. The interval here is simultaneous over all pairs of groups, studentized as
Tukey's: with q the ``level`` quantile of max_ij |(v*_i - v*_j) - (v_i - v_j)| / se_ij, it runs from
max_ij (v_i - v_j - q se_ij), at least 0, to max_ij (v_i - v_j + q se_ij). In large samples it covers the true gap with
probability of at least ``level``, whatever the groups' true values, and a tiny group widens it upwards without hiding a
difference between large ones. A group whose replicates are all alike (everything right, say, or one patient) is given
the uncertainty 3 / n that the rule of three gives an event never seen in n trials. Of shares the errors downwards and
upwards are the arms of Wilson's intervals at q (Newcombe's interval of a difference), with the trials that the replicates'
variance has: with 29 of 30 right, symmetric errors would show a difference from 900 of 1,000 that is none.

The bias-corrected gap is sqrt(max(0, 2 gap^2 - mean(gap*^2))): noise adds to the square of a gap, once to the estimate and
twice to a replicate, so extrapolating the square back to no noise removes it (exactly so, in expectation and before the
floor, for two groups and for any number of equal ones). The report does not let it leave the interval.

A calibration error is too large on average, more so in small groups: a sum of absolute values keeps the noise of every bin.
Values known to be biased upwards by 0 to ``bias`` widen the interval on the side where the bias may be.

The difference of two models' gaps is bounded by pairs of pairs. Let t be the difference between i - j under b and k - l under
a. With i - j the pair of the largest true difference under b, gap_b - gap_a is at most t, whatever k - l; with k - l that
of a, at least t, whatever i - j. Which pairs those are is not known: all count that may be. One studentized quantile serves
the pairs of either model and t, so that the interval holds where the two models are noisy to different degrees, which
percentiles of resampled differences of gaps do not: noise widens a gap, and the noisier model's more. The p-value is the
risk at which the interval just reaches 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairloss.metrics.arrays import Floats

_MOST_PAIRS = 105  # of fifteen groups

__all__ = [
    "arms",
    "centered_interval",
    "corrected_gap",
    "gap_difference",
    "gap_interval",
    "pairs_of_groups",
    "percentile_interval",
    "unseen",
    "weighting_slack",
]


def percentile_interval(drawn: Floats, level: float) -> tuple[Floats, Floats]:
    """Equal-tailed percentiles over the first axis, of the replicates that are defined."""
    tail = (1 - level) / 2
    flat = drawn.reshape(len(drawn), -1)
    bounds = np.full((2, flat.shape[1]), np.nan)
    for j in range(flat.shape[1]):
        column = flat[:, j]
        column = column[~np.isnan(column)]
        if len(column):
            bounds[:, j] = np.quantile(column, [tail, 1 - tail])
    low, high = bounds.reshape(2, *drawn.shape[1:])
    return low, high


def _range(values: Floats) -> Floats:
    """Range over the last axis of the defined values; NaN with fewer than two."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)
    few = (~np.isnan(values)).sum(axis=-1) < 2
    high = np.where(np.isnan(values), -np.inf, values).max(axis=-1)
    low = np.where(np.isnan(values), np.inf, values).min(axis=-1)
    return np.where(few, np.nan, high - np.where(few, 0.0, low))


def unseen(values: Floats, drawn: Floats, trials: Floats, scale: float = 1.0) -> Floats:
    """(G, ...) 3 / n of ``scale``, at most all of it, where replicates (R, G, ...) do not vary; 0 elsewhere."""
    varies = np.nanmax(np.abs(drawn - values), axis=0, initial=0.0, where=~np.isnan(drawn)) > 1e-12
    return np.where(varies, 0.0, scale * np.minimum(1.0, 3.0 / np.maximum(trials, 1.0)))


def weighting_slack(values: Floats, drawn: Floats, trials: Floats, level: float, *, rate: bool) -> Floats:
    """(G, ...) how much wider than percentiles the interval of a weighted value should be.

    Few heavy samples are in nearly all replicates, or happen to agree: percentiles are too narrow. A ``rate`` needs at least
    Wilson's interval of the effective number of ``trials``, other values Student's t for the normal quantile.
    """
    from scipy import special

    low, high = percentile_interval(drawn, level)
    n, z = np.maximum(trials, 1.0), special.ndtri((1 + level) / 2)
    if rate:
        wilson = _wilson(values, n, float(z))
        slack = np.maximum(low - wilson[0], wilson[1] - high)
    else:
        free = np.maximum(n - 1, 0.1)
        slack = (special.stdtrit(free, (1 + level) / 2) / z * np.sqrt(n / free) - 1) * (high - low) / 2
    return np.asarray(np.maximum(0.0, slack))


def arms(values: Floats, drawn: Floats, z: float) -> tuple[Floats, Floats]:
    """(G,) standard errors of shares downwards and upwards: arms of Wilson's interval at ``z``, over z.

    Near 0 and 1 they differ: with 29 of 30 right, the truth may lie at 25, not at 30. The number of trials is the one that the
    replicates' variance has, which knows of patients.
    """
    known = ~np.isnan(drawn)
    spread = np.where(known, drawn - _mean(drawn), 0.0)
    variance = (spread**2).sum(axis=0) / np.maximum(1, known.sum(axis=0))
    skewed = (variance > 1e-12) & (values > 0) & (values < 1)
    n = np.where(skewed, values * (1 - values) / np.where(skewed, variance, 1.0), 1.0)
    low, high = _wilson(values, n, z)
    error = np.sqrt(variance)
    return np.where(skewed, (values - low) / z, error), np.where(skewed, (high - values) / z, error)


def _wilson(values: Floats, n: Floats, z: float) -> tuple[Floats, Floats]:
    """Wilson's interval of shares of ``n`` trials."""
    center = (values + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(np.maximum(0.0, values * (1 - values)) / n + z**2 / (4 * n**2))
    return np.asarray(center - half), np.asarray(center + half)


def pairs_of_groups(groups: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ordered pairs of groups: i - j and j - i are two."""
    i, j = np.triu_indices(groups, k=1)
    return np.concatenate([i, j]), np.concatenate([j, i])


def _studentized(deviation: Floats, i: NDArray[np.int64], j: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Standard errors of all differences i - j, and the (R,) largest of their studentized deviations; undefined ones are 0."""
    half = len(i) // 2
    error, largest = np.zeros(half), np.zeros(len(deviation))
    for pair in range(half):
        difference = deviation[:, i[pair]] - deviation[:, j[pair]]
        defined = ~np.isnan(difference)
        if defined.any():
            error[pair] = difference[defined].std()
        if error[pair] > 1e-12:
            scaled = np.where(defined, np.abs(difference), 0.0) / error[pair]
            np.maximum(largest, scaled, out=largest)
    return np.tile(error, 2), largest


def _mean(drawn: Floats) -> Floats:
    """Mean over the first axis of the replicates that are defined."""
    known = ~np.isnan(drawn)
    return np.asarray(np.where(known, drawn, 0.0).sum(axis=0) / np.maximum(1, known.sum(axis=0)))


def _deviation(values: Floats, drawn: Floats, bias: Floats) -> Floats:
    """Replicates less what they scatter about: the values, or their own mean where resampling adds to a bias."""
    return np.asarray(drawn - np.where(bias > 0, _mean(drawn), values))


def gap_interval(
    values: Floats,
    drawn: Floats,
    level: float,
    slack: Floats | None = None,
    bias: Floats | None = None,
    *,
    shares: bool = False,
) -> tuple[float, float]:
    """Interval of max - min over groups of (G,) values from (R, G) replicates; see the module's text.

    ``slack`` (G,) is how much further than their replicates the values may be from the truth; ``bias`` (G,) how much too
    large they may be on average; ``shares`` whether they are shares of independent trials.
    """
    kept = ~np.isnan(values)
    if kept.sum() < 2:
        return float("nan"), float("nan")
    v, d = values[kept], drawn[:, kept]
    over, slack = (np.zeros(len(v)) if extra is None else extra[kept] for extra in (bias, slack))
    i, j = pairs_of_groups(len(v))
    error, largest = _studentized(_deviation(v, d, over), i, j)
    q, difference = float(np.quantile(largest, level)), v[i] - v[j]
    below, above = skewed_errors(v, d, error, q) if shares else (error, error)
    low = difference - over[i] - q * below - slack[i] - slack[j]
    high = difference + over[j] + q * above + slack[i] + slack[j]
    return max(0.0, float(low.max())), float(high.max())


def skewed_errors(values: Floats, drawn: Floats, error: Floats, z: float) -> tuple[Floats, Floats]:
    """Standard errors downwards and upwards of all differences i - j of shares, whose symmetric ones are ``error``."""
    i, j = pairs_of_groups(len(values))
    down, up = arms(values, drawn, max(z, 1e-6))
    own = np.array([np.nanstd(column) if not np.isnan(column).all() else 0.0 for column in drawn.T])
    symmetric = np.maximum(1e-12, np.hypot(own[i], own[j]))
    return error * np.hypot(down[i], up[j]) / symmetric, error * np.hypot(up[i], down[j]) / symmetric


def _across(spread_a: Floats, spread_b: Floats, i: NDArray[np.int64], j: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Standard errors (2P, 2P) of the differences between a pair of b and one of a, and the (R,) largest studentized ones."""
    p = len(i) // 2
    of_a, of_b = (np.nan_to_num(spread[:, i[:p]] - spread[:, j[:p]]) for spread in (spread_a, spread_b))
    mixed = of_b.T @ of_a / len(of_a) - np.outer(of_b.mean(axis=0), of_a.mean(axis=0))
    total = of_b.var(axis=0)[:, None] + of_a.var(axis=0)
    same, opposite = (np.sqrt(np.maximum(0.0, total + sign * 2 * mixed)) for sign in (-1, 1))
    error = np.block([[same, opposite], [opposite, same]])
    scale = np.where(error[:p] > 1e-12, error[:p], np.inf)
    largest = np.zeros(len(of_a))
    block = max(1, 500_000 // p**2)
    for start in range(0, len(of_a), block):
        at = slice(start, start + block)
        b, a = of_b[at, :, None], of_a[at, None]
        scaled = np.concatenate([b - a, b + a], axis=2) / scale
        largest[at] = np.abs(scaled).max(axis=(1, 2))
    return error, largest


def gap_difference(
    a: tuple[Floats, Floats, Floats], b: tuple[Floats, Floats, Floats], level: float
) -> tuple[float, float, float]:
    """Interval of gap_b - gap_a and its p-value, each model as (G,) values, (R, G) replicates, (G,) bias; see the module.

    The groups that are defined in both models are compared; NaN where these are fewer than two. The smallest p-value is
    1 / (R + 1).
    """
    kept = ~np.isnan(a[0]) & ~np.isnan(b[0])
    if kept.sum() < 2:
        return float("nan"), float("nan"), float("nan")
    (va, da, ba), (vb, db, bb) = ((v[kept], d[:, kept], o[kept]) for v, d, o in (a, b))
    i, j = pairs_of_groups(len(va))
    x, y = va[i] - va[j], vb[i] - vb[j]
    spread_a, spread_b = _deviation(va, da, ba), _deviation(vb, db, bb)
    error_a, largest_a = _studentized(spread_a, i, j)
    error_b, largest_b = _studentized(spread_b, i, j)
    if len(i) <= 2 * _MOST_PAIRS:
        error, largest = _across(spread_a, spread_b, i, j)
        between, above, below = y[:, None] - x, bb[j][:, None] + ba[i], bb[i][:, None] + ba[j]
    else:  # pairs of pairs are too many: each pair is compared with itself alone, which is as valid and wider
        error, largest = _studentized(spread_b - spread_a, i, j)
        between, above, below = y - x, bb[j] + ba[i], bb[i] + ba[j]
    largest = np.maximum(largest, np.maximum(largest_a, largest_b))

    def interval(q: float) -> tuple[float, float]:
        may_be_a = x + ba[j] + q * error_a >= (x - ba[i] - q * error_a).max() - 1e-12
        may_be_b = y + bb[j] + q * error_b >= (y - bb[i] - q * error_b).max() - 1e-12
        low, high = between - below - q * error, between + above + q * error
        if between.ndim > 1:  # (pairs of b, pairs of a)
            low, high = low.max(axis=0), high.min(axis=1)
        return float(low[may_be_a].min()), float(high[may_be_b].max())

    low, high = interval(float(np.quantile(largest, level)))
    # The interval grows with q: the replicates beyond the last q that leaves 0 out are the risk.
    ordered = np.sort(largest)
    first, last = 0, len(ordered)
    while first < last:
        middle = (first + last) // 2
        ends = interval(float(ordered[middle]))
        if ends[0] > 1e-12 or ends[1] < -1e-12:
            first = middle + 1
        else:
            last = middle
    return low, high, (len(ordered) - first + 1) / (len(ordered) + 1)


def centered_interval(value: Floats, drawn: Floats, level: float, bias: Floats | float = 0.0) -> tuple[Floats, Floats]:
    """Interval of values that are too large by 0 to ``bias``: the scatter of (R, ...) replicates about their own mean."""
    low, high = percentile_interval(drawn - _mean(drawn), level)
    return np.asarray(value - bias + low), np.asarray(value + high)


def corrected_gap(values: Floats, drawn: Floats) -> float:
    """Bias-corrected max - min over groups of (G,) values from (R, G) replicates; see the module's text."""
    gap = float(_range(values))
    squares = _range(np.where(np.isnan(values), np.nan, drawn)) ** 2
    squares = squares[~np.isnan(squares)]
    if np.isnan(gap) or not len(squares):
        return float("nan")
    return float(np.sqrt(max(0.0, 2 * gap**2 - squares.mean())))
