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
    """The values about their mean, sorted, and once more by group; the unknown come last, as zeros."""

    x: Tensor  # (N,) sorted
    y: Tensor  # (N,) sorted within groups
    slots: Tensor  # (N,) group of y, G where unknown
    place: Tensor  # (N,) where y stands in x
    n: Tensor  # (N,) size of y's group
    low: Tensor  # (N,) y holds its group's quantiles low / (n N) to high / (n N), exact integers
    high: Tensor
    below_low: Tensor  # (N,) N times the integral of x's quantile function up to them
    below_high: Tensor
    sizes: Tensor  # (G,) int64
    total: Tensor  # () known samples, at least 1

    def below(self, position: Tensor) -> Tensor:
        return _mass_below(self.x, torch.nn.functional.pad(self.x.cumsum(0), (1, 0)), position, self.n)

    def sums(self, terms: Tensor) -> Tensor:
        """(N, ...) -> (G, ...)."""
        zeros = terms.new_zeros((self.sizes.shape[0] + 1, *terms.shape[1:]))
        return zeros.index_add(0, self.slots, terms)[:-1]


def _mass_below(x: Tensor, prefix: Tensor, position: Tensor, n: Tensor) -> Tensor:
    """N times the integral of the quantile function of x from 0 to position / (n N)."""
    k = torch.div(position, n, rounding_mode="floor")
    part = (position % n).to(x.dtype) / n
    return torch.addcmul(prefix.index_select(0, k), part, x.index_select(0, k.clamp(max=x.shape[0] - 1)))


def _quantiles(values: Tensor, ids: Tensor, num_groups: int) -> _Quantiles:
    # Small batches cost by the number of operations, not by their size: there is no operation here that could be spared.
    unknown = ids < 0
    slots = ids.masked_fill(unknown, num_groups)
    counts = slots.new_zeros(num_groups + 1).index_add(0, slots, torch.ones_like(slots))
    sizes = counts[:-1]
    n_all = sizes.sum()
    total = n_all.clamp(min=1)
    x = values.to(torch.float64)
    # About the mean: W is the same, and squares lose no digits.
    x = x - x.detach().masked_fill(unknown, 0.0).sum() / total
    x, order = torch.sort(x.masked_fill(unknown, torch.inf), stable=True)
    slots = slots.index_select(0, order)
    x = x.masked_fill(slots == num_groups, 0.0)
    # Regroup the sorted values; within a group they stay sorted.
    slots, place = torch.sort(slots, stable=True)
    n = counts.index_select(0, slots)
    rank = torch.arange(slots.shape[0], device=slots.device) - (counts.cumsum(0) - counts).index_select(0, slots)
    low = n_all * rank
    high = low + n_all
    below_high = _mass_below(x, torch.nn.functional.pad(x.cumsum(0), (1, 0)), high, n)
    # The lower bound of a value's quantiles is the upper one of its group's value before.
    below_low = torch.nn.functional.pad(below_high[:-1], (1, 0)).masked_fill(rank == 0, 0.0)
    return _Quantiles(x, x.index_select(0, place), slots, place, n, low, high, below_low, below_high, sizes, total)


class LineStatistics(NamedTuple):
    """Per group, (G,), and of all known samples; float64, 0 where absent."""

    squared: Tensor
    """W_2^2 between the group's values and all values."""
    means: Tensor
    """Of the group, about the mean of all."""
    variance: Tensor
    """Of all, a scalar."""
    sizes: Tensor


def line_statistics(values: Tensor, ids: Tensor, num_groups: int) -> LineStatistics:
    """W_2^2 to all values with what the same sort gives besides; arguments as :func:`wasserstein_to_all`."""
    q = _quantiles(values, ids, num_groups)
    sums = q.sums(torch.stack([q.y, q.y * q.y, q.y * (q.below_high - q.below_low)], 1))
    own, variance = sums[:, :2] / q.sizes.clamp(min=1).unsqueeze(1), torch.dot(q.x, q.x) / q.total
    squared = (own[:, 1] + variance - 2 * sums[:, 2] / q.total).clamp(min=0)
    return LineStatistics(_where_apart(squared, q), own[:, 0], variance, q.sizes.to(torch.float64))


def _where_apart(distances: Tensor, q: _Quantiles) -> Tensor:
    # A group that is all there is: exactly 0, and so is its gradient.
    return distances.masked_fill((q.sizes == 0) | (q.sizes == q.total), 0.0)


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
    if p == 2:
        return line_statistics(values, ids, num_groups).squared
    q = _quantiles(values, ids, num_groups)
    return _where_apart(_absolute(q), q)  # how many values lie below y is its place in the sort


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
    n_all = known.sum()
    total = n_all.clamp(min=1)
    x, y = values.to(torch.float64), sample.to(torch.float64)
    center = x.detach().masked_fill(~known, 0.0).sum() / total
    ranked, _ = torch.sort((x - center).masked_fill(~known, torch.inf))
    x = ranked.masked_fill(ranked == torch.inf, 0.0)
    slots = ids.masked_fill(ids < 0, num_groups)
    counts = slots.new_zeros(num_groups + 1).index_add(0, slots, torch.ones_like(slots))
    y, order = torch.sort(y - center, stable=True)
    slots, regrouped = torch.sort(slots[order], stable=True)
    y = y[regrouped].masked_fill(slots == num_groups, 0.0)
    n = counts[slots]
    low = n_all * (torch.arange(slots.shape[0], device=slots.device) - (counts.cumsum(0) - counts)[slots])
    high = low + n_all
    prefix = torch.nn.functional.pad(x.cumsum(0), (1, 0))
    below_low, below_high = (_mass_below(x, prefix, position, n) for position in (low, high))
    place = torch.searchsorted(ranked.detach(), y.detach())
    q = _Quantiles(x, y, slots, place, n, low, high, below_low, below_high, counts[:-1], total)
    if p == 2:
        moments = q.sums(torch.stack([y * y, y * (below_high - below_low) / total], 1))
        own, both = moments[:, 0] / q.sizes.clamp(min=1), moments[:, 1]
        distances = (own + torch.dot(x, x) / total - 2 * both).clamp(min=0)
    else:
        distances = _absolute(q)
    return distances.masked_fill((q.sizes == 0) | (n_all == 0), 0.0)


def _absolute(q: _Quantiles) -> Tensor:
    """(G,) integrals of |Q_g - Q|: among the quantiles of y those of values below y come first."""
    cut = torch.minimum(torch.maximum(q.place * q.n, q.low), q.high)
    width = (2 * cut - q.low - q.high).to(q.x.dtype) / q.n
    return q.sums(q.y * width - 2 * q.below(cut) + q.below_low + q.below_high) / q.total
