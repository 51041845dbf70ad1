"""Softmax shares whose weights, the share times the number of samples, stay under a cap."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairloss.core.tensor_checks import on_host

__all__ = ["NOTHING", "capped_shares"]

NOTHING = -1e200
"""The logit of an entry that takes no part: minus infinity but where all entries have it, whose shares are then no NaN."""


def capped_shares(logits: Tensor, totals: list[Tensor | int], cap: float) -> Tensor:
    """Softmax of each row of (R, N) float64 ``logits``, no share above ``cap / total`` of its row.

    With weights w = total * share of mean 1 over the ``total`` entries above ``NOTHING``: w_i = min(cap, lam exp(logit_i))
    with the lam that makes the mean 1, found on the sorted logits. With the k largest at the cap, log lam = log(total - k cap)
    - logsumexp(the rest), and k is the smallest number whose next weight stays below. The cap is at least 1; ``math.inf``
    is no cap.
    """
    shares = torch.softmax(logits, 1)
    if cap == math.inf:
        return shares
    # Most batches need no cap, and where a look at the shares waits for no device it spares the sort.
    if logits.shape[1] and on_host(logits):
        largest = shares.amax(1).unbind()
        if all(float(share) * float(total) <= cap for share, total in zip(largest, totals, strict=True)):
            return shares
    return _by_sorting(logits, cap)


def _by_sorting(logits: Tensor, cap: float) -> Tensor:
    included = ~(logits <= -1e100)  # whatever temperature divided them; NaN shows
    n = included.sum(1, keepdim=True)
    largest, _ = logits.sort(1, descending=True)
    rest = torch.logcumsumexp(largest.flip(1), 1).flip(1)  # from each place on
    left = n - cap * torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
    log_lam = torch.log(left.clamp(min=1e-9)) - rest
    over = (left > 0) & (log_lam + largest > math.log(cap) + 1e-9)
    # Once the next weight stays below the cap, all later ones do: the first place that fits is the number of those over.
    k = over.sum(1, keepdim=True).clamp(max=max(logits.shape[1] - 1, 0))
    factor = log_lam.gather(1, k) if logits.shape[1] else log_lam.new_zeros(k.shape)
    weights = torch.exp((logits + factor).clamp(max=math.log(cap)))
    return torch.where(included, weights, 0.0) / n.clamp(min=1)
