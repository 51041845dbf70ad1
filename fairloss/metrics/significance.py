"""Are the differences between methods more than chance? Friedman and Nemenyi over data sets, paired t over runs.

Friedman's test ranks k methods within each of N data sets and asks whether the mean ranks could be equal; Nemenyi's
post-hoc test calls two methods different where their mean ranks differ by the critical difference
q_alpha sqrt(k (k + 1) / (6 N)), with q_alpha the studentized range quantile over sqrt(2).

Reference: Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006; used by FairDi and
FairMedFM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairloss.core.checks import expected, number
from fairloss.metrics.arrays import Floats, as_finite

__all__ = ["FriedmanNemenyi", "PairedTTest", "friedman_nemenyi", "paired_t_test"]


@dataclass(frozen=True)
class FriedmanNemenyi:
    """Result of :func:`friedman_nemenyi`.

    Attributes:
        names: of the k methods.
        mean_ranks: (k,) 1 is best.
        ranks: (N, k) ranks within each data set, ties averaged.
        statistic: Friedman's chi-squared, corrected for ties, k - 1 degrees of freedom.
        p_value: of the statistic.
        f_statistic: Iman and Davenport's F, less conservative.
        f_p_value: of F.
        critical_difference: of mean ranks, at ``alpha``.
        q_alpha: the quantile in it.
        p_values: (k, k) Nemenyi p-values of each pair, 1 on the diagonal.
        alpha: the level.
    """

    names: tuple[str, ...]
    mean_ranks: Floats
    ranks: Floats
    statistic: float
    p_value: float
    f_statistic: float
    f_p_value: float
    critical_difference: float
    q_alpha: float
    p_values: Floats
    alpha: float

    @property
    def significant(self) -> bool:
        """Whether Friedman's test rejects equal ranks; only then does the post-hoc test mean anything."""
        return self.p_value < self.alpha

    def better_than(self, name: str) -> list[str]:
        """Methods that ``name`` significantly outranks; none where Friedman's test does not reject.

        Raises:
            ValueError: an unknown name.
        """
        if name not in self.names:
            raise ValueError(expected("name", f"one of {', '.join(map(str, self.names))}", repr(name)))
        if not self.significant:
            return []
        lead = self.mean_ranks - self.mean_ranks[self.names.index(name)]
        return [n for n, d in zip(self.names, lead, strict=True) if d > self.critical_difference]

    def cliques(self) -> list[tuple[str, ...]]:
        """Largest sets of methods that do not differ significantly, best first: the bars of the diagram."""
        order = np.argsort(self.mean_ranks, kind="stable")
        ranks = self.mean_ranks[order]
        found: list[tuple[int, int]] = []
        for start in range(len(order)):
            stop = int(np.searchsorted(ranks, ranks[start] + self.critical_difference, side="right")) - 1
            if stop > start and (not found or stop > found[-1][1]):
                found.append((start, stop))
        return [tuple(self.names[i] for i in order[a : b + 1]) for a, b in found]


def friedman_nemenyi(
    scores: Any, *, higher_is_better: bool = True, alpha: float = 0.05, names: Sequence[str] | None = None
) -> FriedmanNemenyi:
    """Friedman's test over data sets, and Nemenyi's critical difference between methods.

    Args:
        scores: (N, k) one row per data set, one column per method; N >= 2, k >= 3.
        higher_is_better: whether rank 1 goes to the largest score.
        alpha: level of the critical difference.
        names: of the methods; ``0, 1, ...`` by default.

    Returns:
        Ranks, both statistics and their p-values, the critical difference and the pairs' p-values.

    Raises:
        ValueError: a shape or names that do not fit, a level outside (0, 1).

    Note:
        The chi-squared distribution is an approximation that needs about N > 10 or k > 5; the F statistic is better in
        smaller studies.

    Example:
        >>> result = friedman_nemenyi([[0.9, 0.8, 0.7], [0.8, 0.7, 0.9], [0.9, 0.7, 0.6]], names=["A", "B", "C"])
        >>> result.mean_ranks.round(3).tolist(), round(result.statistic, 3), round(result.critical_difference, 3)
        ([1.333, 2.333, 2.333], 2.0, 1.913)
    """
    from scipy import stats

    table = as_finite(scores, "scores")
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 3:
        raise ValueError(expected("scores", "at least 2 data sets by 3 methods", f"shape {table.shape}"))
    number("alpha", alpha, above=0, below=1)
    n, k = table.shape
    labels = tuple(str(i) for i in range(k)) if names is None else tuple(names)
    if len(set(labels)) != k or len(labels) != k:
        raise ValueError(expected("names", f"{k} different names", list(labels)))
    ranks = stats.rankdata(-table if higher_is_better else table, axis=1)
    mean = ranks.mean(axis=0)
    # Sums of squares within and between, so that ties need no separate correction.
    between = n * float(((mean - (k + 1) / 2) ** 2).sum())
    within = float(((ranks - (k + 1) / 2) ** 2).sum()) / (n * (k - 1))
    chi2 = between / within if within > 0 else 0.0
    p_chi2 = float(stats.chi2.sf(chi2, k - 1))
    denominator = n * (k - 1) - chi2
    f = (n - 1) * chi2 / denominator if denominator > 0 else float("inf")
    p_f = float(stats.f.sf(f, k - 1, (k - 1) * (n - 1)))
    scale = np.sqrt(k * (k + 1) / (6 * n))
    q = float(stats.studentized_range.isf(alpha, k, np.inf) / np.sqrt(2))
    z = np.abs(mean[:, None] - mean[None, :]) / scale
    pairs = np.clip(stats.studentized_range.sf(z * np.sqrt(2), k, np.inf), 0, 1)
    np.fill_diagonal(pairs, 1.0)
    return FriedmanNemenyi(
        labels, mean, np.asarray(ranks, dtype=np.float64), chi2, p_chi2, f, p_f, float(q * scale), q, pairs, alpha
    )


@dataclass(frozen=True)
class PairedTTest:
    """Result of :func:`paired_t_test`.

    Attributes:
        difference: mean of a - b.
        statistic: t, with n - 1 degrees of freedom.
        p_value: two-sided.
        interval: of the mean difference, at ``level``.
        cohens_d: mean difference over the standard deviation of differences (d_z, ddof 1).
        n: pairs.
        level: of the interval.
    """

    difference: float
    statistic: float
    p_value: float
    interval: tuple[float, float]
    cohens_d: float
    n: int
    level: float


def paired_t_test(a: Any, b: Any, *, level: float = 0.95) -> PairedTTest:
    """Two-sided paired t-test of per-run values of two methods, with Cohen's d.

    Args:
        a: (n,) values of one method, n >= 2, for example one per random seed.
        b: (n,) values of the other on the same runs.
        level: of the interval of the mean difference.

    Returns:
        The difference, t, p, interval and effect size. Where all differences are equal, but for rounding, t and d are
        infinite and p is 0 (NaN, NaN and 1 where all are zero).

    Raises:
        ValueError: different lengths, fewer than two pairs, a level outside (0, 1).

    Example:
        >>> result = paired_t_test([0.82, 0.84, 0.81, 0.85], [0.80, 0.81, 0.80, 0.82])
        >>> round(result.difference, 4), round(result.statistic, 3), round(result.p_value, 4), round(result.cohens_d, 3)
        (0.0225, 4.7, 0.0182, 2.35)
    """
    from scipy import stats

    x, y = as_finite(a, "a"), as_finite(b, "b")
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(expected("a and b", "two equal (n,) of at least two", f"shapes {x.shape} and {y.shape}"))
    number("level", level, above=0, below=1)
    d = x - y
    n, mean, sd = len(d), float(d.mean()), float(d.std(ddof=1))
    # 0.9 - 0.8 and 0.8 - 0.7 differ in their last bits: what rounding can do is no spread, and no difference.
    float64 = np.finfo(np.float64)
    rounding = float(float64.tiny + 8 * float64.eps * max(np.abs(x).max(), np.abs(y).max()))
    if sd <= rounding:
        extreme = float(np.sign(mean)) * float("inf") if abs(mean) > rounding else float("nan")
        return PairedTTest(mean, extreme, 1.0 if extreme != extreme else 0.0, (mean, mean), extreme, n, level)
    error = sd / float(np.sqrt(n))
    half = float(stats.t.isf((1 - level) / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean / error), n - 1))
    return PairedTTest(mean, mean / error, p, (mean - half, mean + half), mean / sd, n, level)
