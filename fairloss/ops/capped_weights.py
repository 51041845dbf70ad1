"""Softmax weights of mean 1 under a cap."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairloss.core.tensor_checks import on_host

__all__ = ["capped_weights"]


def capped_weights(logits: Tensor, counts: Tensor | None, cap: float) -> Tensor:
    """Weights proportional to exp(logits), of mean 1 over entries that stand for ``counts`` samples each, none above ``cap``.

    w_i = min(cap, lam exp(logit_i)) with the lam that makes the mean 1, found on the sorted logits: with the k largest at
    the cap, log lam = log(n - cap * their samples) - logsumexp(the rest), and k is the smallest number whose next weight
    stays below. 0 where the count is 0; ``None`` counts 1 each. The cap is at least 1; ``math.inf`` is no cap.
    """
    # Most batches need no cap, and where a look at the weights waits for no device it spares the sort.
    if cap == math.inf or (on_host(logits) and logits.shape[0]):
        weights = _uncapped(logits, counts)
        if cap == math.inf or bool(weights.amax() <= cap):
            return weights
    return _by_sorting(logits, torch.ones_like(logits) if counts is None else counts, cap)


def _uncapped(logits: Tensor, counts: Tensor | None) -> Tensor:
    if counts is None:
        return torch.softmax(logits, 0) * logits.shape[0]
    absent = counts == 0
    odds = logits.masked_fill(absent, -torch.inf)
    odds = torch.exp(odds - odds.amax())
    return (odds * (counts.sum() / torch.dot(odds, counts))).masked_fill(absent, 0.0)


def _by_sorting(logits: Tensor, counts: Tensor, cap: float) -> Tensor:
    included = counts > 0
    largest, order = logits.masked_fill(~included, -torch.inf).sort(descending=True)
    samples = counts[order]
    rest = torch.logcumsumexp((largest + torch.log(samples)).flip(0), 0).flip(0)  # from each place on
    left = counts.sum() - cap * (samples.cumsum(0) - samples)
    log_lam = torch.log(left.clamp(min=1e-9)) - rest
    over = (left > 0) & (log_lam + largest > math.log(cap) + 1e-9)
    # Once the next weight stays below the cap, all later ones do: the first place that fits is the number of those over.
    k = over.sum().clamp(max=max(logits.shape[0] - 1, 0)).unsqueeze(0)
    factor = log_lam.gather(0, k) if logits.shape[0] > 0 else log_lam.new_zeros(1)
    return torch.where(included, torch.exp((logits + factor).clamp(max=math.log(cap))), 0.0)
