"""One-dimensional optimal transport between every group's values and all values.

On the line the optimal coupling is monotone, so W_p^p is an integral over quantiles: the j-th smallest of a group's n values
holds the quantiles (j-1)/n .. j/n, and what all N values put there is a difference of prefix sums of the sorted values. One
sort serves all groups; the cost is O(N log N) whatever their number, in float64 and about the mean, and nothing depends on
the values but numbers: no loop over groups, no wait for the device.

"All values" are those of known group: an unknown sample is in no group term, so it moves no distance.

Reference: Peyre and Cuturi, *Computational Optimal Transport*, 2019, section 2.6.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LineStatistics", "line_statistics", "wasserstein_to_all", "wasserstein_to_sample"]


class _Quantiles(NamedTuple):
    """The values about their mean, sorted, and once more by group; the unknown have zeros."""

    x: Tensor  # (N,) sorted
    y: Tensor  # (M,) sorted within groups
    rows: Tensor  # (M,) group of y plus 1, 0 where unknown; ascending
    place: Tensor  # (M,) how many of x lie below y
    share: Tensor  # (M,) size of y's group, in units of that of all
    ends: Tensor  # (M, 2) y holds its group's quantiles between these, in units of 1 / N
    prefix: Tensor  # (N + 2,) sums of x before each place; the last two are equal
    below: Tensor  # (M, 2) N times the integral of x's quantile function up to the ends
    total: Tensor  # () known samples, float64

    @classmethod
    def of(cls, x: Tensor, y: Tensor, rows: Tensor, place: Tensor, total: Tensor) -> _Quantiles:
        start = torch.searchsorted(rows, rows)
        share = (torch.searchsorted(rows, rows, right=True) - start) / total
        ranks = torch.arange(rows.shape[0] + 1, dtype=torch.float64, device=rows.device).as_strided(
            (len(rows), 2), (1, 1)
        )
        ends = (ranks - start.unsqueeze(1)) / share.unsqueeze(1)
        prefix = torch.nn.functional.pad(x, (1, 1)).cumsum(0)
        return cls(x, y, rows, place, share, ends, prefix, _mass_below(prefix, ends), total)

    def variance(self) -> Tensor:
        """Of x, a scalar."""
        return torch.dot(self.x, self.x) / self.total

    def squares(self, offset: Tensor) -> Tensor:
        """(M,) terms whose mean over a group is W_2^2 less the variance, plus ``offset``."""
        # W_2^2 = Var + mean over the group of y (y - 2 times the mean of all values at y's quantiles)
        twice = torch.addcmul(self.y, self.below[:, 1] - self.below[:, 0], self.share, value=-2)
        return torch.addcmul(offset, self.y, twice)


def _mass_below(prefix: Tensor, t: Tensor) -> Tensor:
    """N times the integral of the quantile function from 0 to t / N."""
    k = t.to(torch.int64)
    if prefix.requires_grad:  # the gradient of unfold has no rule under vmap
        low, high = prefix[:-1][k], prefix[1:][k]
    else:
        low, high = prefix.unfold(0, 2, 1)[k].unbind(-1)
    return torch.lerp(low, high, t - k)


def _about_mean(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) float64 values about the mean of the ``known`` ones, NaN elsewhere, and how many are known."""
    # Small batches cost by the number of operations, not by their size. 0 / 0 is NaN where a value is unknown.
    total = known.sum(dtype=torch.float64)
    x = torch.addcdiv(values, total, known, value=0)
    # About the mean: W is the same, and squares lose no digits.
    center = x.detach().nansum(dtype=torch.float64)
    return torch.addcdiv(x, center.unsqueeze(0), total.unsqueeze(0), value=-1), total


def _quantiles(values: Tensor, ids: Tensor, known: Tensor) -> _Quantiles:
    x, total = _about_mean(values, known)
    x, order = torch.sort(x, stable=True)  # NaN comes last
    x = x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    # Regroup the sorted values; within a group they stay sorted.
    ids, place = torch.sort(ids.index_select(0, order), stable=True)
    return _Quantiles.of(x, x.index_select(0, place), ids + 1, place, total)


class LineStatistics(NamedTuple):
    """Of every group and, (G + 1,), of one that never has samples, where the id -1 finds it; float64."""

    squared: Tensor
    """W_2^2 between the group's values and all values, to rounding, which may be below 0; -inf where absent."""
    means: Tensor
    """Of the group, about the mean of all; -inf where absent."""
    variance: Tensor
    """Of all, a scalar."""
    total: Tensor
    """Known samples, a scalar."""
    ids: Tensor
    """(N,) ids, -1 = unknown."""
    known: Tensor
    """(N,) bool."""
    zero: Tensor
    """0.0, a scalar."""


def line_statistics(values: Tensor, ids: Tensor, num_groups: int) -> LineStatistics:
    """W_2^2 to all values with what the same sort gives besides, not for gradients; as :func:`wasserstein_to_all`."""
    known = ids >= 0
    q = _quantiles(values, ids, known)
    variance = q.variance()
    terms = torch.stack([q.y, q.squares(variance)])
    table = terms.new_full((2, num_groups + 2), -torch.inf)
    table = table.scatter_reduce(1, q.rows.expand(2, -1), terms, "mean", include_self=False)
    return LineStatistics(table[1, 1:], table[0, 1:], variance, q.total, ids, known, q.prefix[0])


def _distances(q: _Quantiles, num_groups: int, p: int) -> Tensor:
    """(G,) W_p^p between x and each group of y, 0 where one of them is absent."""
    terms = (q.squares(q.y.new_zeros(())) if p == 2 else _absolute(q)) / (q.share * q.total)
    sums, counts = (q.y.new_zeros(num_groups + 1).index_add(0, q.rows, t)[1:] for t in (terms, torch.ones_like(q.y)))
    found = (sums + q.variance()).clamp(min=0) if p == 2 else sums
    return found.masked_fill((counts == 0) | (q.total == 0), 0.0)


def wasserstein_to_all(values: Tensor, ids: Tensor, num_groups: int, p: int) -> Tensor:
    """W_p^p between each group's values and the values of all known samples, exact and differentiable.

    Args:
        values: (N,) floating, finite.
        ids: (N,) int64 validated ids, -1 = unknown.
        num_groups: G.
        p: 1 or 2.

    Returns:
        (G,) float64, 0 where absent.
    """
    known = ids >= 0
    q = _quantiles(values.masked_fill(~known, 0.0), ids, known)  # no gradient reaches the unknown
    # A group that is all there is: exactly 0, and so is its gradient.
    alone = ((q.share == 1) & (q.rows > 0)).any()
    found = _distances(q, num_groups, p).masked_fill(alone, 0.0)
    return found.masked_fill((known & values.isnan()).any(), torch.nan)


def wasserstein_to_sample(
    values: Tensor, known: Tensor, sample: Tensor, ids: Tensor, num_groups: int, p: int
) -> Tensor:
    """W_p^p between the ``known`` values and each group of another sample, exact and differentiable in both.

    Args:
        values: (N,) floating, finite.
        known: (N,) bool.
        sample: (M,) floating, finite.
        ids: (M,) int64 validated ids, -1 = unknown.
        num_groups: G.
        p: 1 or 2.

    Returns:
        (G,) float64, 0 where a group, or every value, is absent.
    """
    total = known.count_nonzero().to(torch.float64)
    center = values.detach().masked_fill(~known, 0.0).sum(dtype=torch.float64) / total.clamp(min=1)
    ranked, _ = torch.sort((values - center.unsqueeze(0)).masked_fill(~known, torch.inf), stable=True)
    y, order = torch.sort(sample - center.unsqueeze(0), stable=True)
    rows, regrouped = torch.sort((ids + 1).index_select(0, order), stable=True)
    y = y.index_select(0, regrouped).masked_fill(rows == 0, 0.0)
    place = torch.searchsorted(ranked.detach(), y.detach())
    return _distances(_Quantiles.of(ranked.masked_fill(ranked == torch.inf, 0.0), y, rows, place, total), num_groups, p)


def _absolute(q: _Quantiles) -> Tensor:
    """(M,) shares of the groups' integrals |Q_g - Q|: among the quantiles of y those of values below y come first."""
    low, high = q.ends.unbind(1)
    cut = torch.minimum(torch.maximum(q.place.to(low.dtype), low), high)
    terms = q.y * (2 * cut - low - high) - 2 * _mass_below(q.prefix, cut) + q.below.sum(1)
    return terms * q.share
