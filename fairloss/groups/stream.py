"""Shares of the groups in the stream of samples that a loss sees, whatever sampler draws it, and the estimates they allow.

A training set's counts are not those of the stream where a sampler balances it, and a stream changes: so the counts behind
the shares decay, by half every 10,000 samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fairloss.groups.ids import GroupTable, check_group_counts

__all__ = ["HALF_LIFE", "attribute_sums", "by_attribute", "check_shares", "decayed", "estimate_scale"]

HALF_LIFE = 10_000
"""Samples of known group after which what was counted before counts half."""


def by_attribute(function: Callable[[Tensor], Tensor], table: Tensor, sizes: Sequence[int]) -> Tensor:
    """``function`` of each attribute's part of a (G,) table, joined again."""
    if len(sizes) == 1:
        return function(table)
    return torch.cat([function(part) for part in table.split(list(sizes))])


def attribute_sums(table: Tensor, sizes: Sequence[int]) -> Tensor:
    """(G,): beside each group's entry the sum over the groups of its attribute."""
    return by_attribute(lambda part: part.sum().expand_as(part), table, sizes)


def decayed(sums: Tensor, new: Tensor, n: Tensor) -> Tensor:
    """``sums`` after ``n`` more samples, with what those add."""
    return sums * torch.exp2(n.to(sums.dtype) / -HALF_LIFE) + new.to(sums.dtype)


def check_shares(shares: GroupTable | None, sizes: tuple[int, ...]) -> Tensor | None:
    """Given shares of the groups in the stream, in any unit, as a float64 tensor (G,); they sum to 1 in each attribute."""
    if shares is None:
        return None
    table = torch.cat(check_group_counts(shares, sizes, name="shares"))
    return table / attribute_sums(table, sizes)


def estimate_scale(counts: Tensor, stream: Tensor, sizes: Sequence[int], max_weight: float) -> Tensor:
    """min(1 / pi_g, max_weight) / n, (G,), in the dtype of ``counts``.

    Times a batch's sums it is S_g = sum_{i in g} v_i / (n pi_g), unbiased at any batch size: its mean over the micro-batches
    of an epoch is the group's mean, while a mean of batch means weighs a sample by the luck of its batch. The cap is for a
    group that a stream shows for the first time: one in 6,000 samples would weigh 6,000 times.

    Args:
        counts: the batch's, n their sum.
        stream: shares pi_g, or counts that they are read off.
        sizes: of the attributes.
        max_weight: cap on 1 / pi_g.
    """
    inverse = (attribute_sums(stream, sizes) / stream.clamp(min=torch.finfo(stream.dtype).tiny)).clamp(max=max_weight)
    # Detached, so that backward needs nothing derived from state that is updated in place.
    return (inverse.to(counts.dtype) / attribute_sums(counts, sizes).clamp(min=1)).detach()
