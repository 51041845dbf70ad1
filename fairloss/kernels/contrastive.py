"""The cross-group contrastive loss of every anchor as one streaming op: memory linear in anchors plus keys.

Anchors are taken in blocks of rows, so that a block times all keys stays within a fixed budget; no N x M matrix ever
exists. The forward pass keeps each anchor's logsumexp over its negatives and its number of positives, O(N); the backward
pass recomputes the similarities block by block. The op is opaque to torch.compile: a Python loop over N in a traced graph
would be specialised at every N.

With s_ia = z_i.k_a / T, the positives P(i) and the negatives N(i) of :mod:`fairloss.losses.contrastive`:

    lse_i = logsumexp_{a in N(i)} s_ia          loss_i = mean_{p in P(i)} softplus(lse_i - s_ip)
    d loss_i / d s_ip = -sigma(lse_i - s_ip) / |P(i)|
    d loss_i / d s_ia = exp(s_ia - lse_i) sum_p sigma(lse_i - s_ip) / |P(i)|
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrastive_losses"]

# Similarities a block: on CPU a few arrays of this size stay in the cache, on a GPU a block should fill the device.
_BLOCK_CPU, _BLOCK_GPU = 1 << 19, 1 << 24


class _Block(NamedTuple):
    rows: slice
    similarities: Tensor  # (B, M), divided by the temperature
    positives: Tensor  # (B, M) bool
    negatives: Tensor  # (B, M) bool


def _blocks(
    anchors: Tensor,
    keys: Tensor,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    temperature: float,
    margin: float,
    ignore_label: int,
) -> Iterator[_Block]:
    n, m = anchors.shape[0], keys.shape[0]
    budget = _BLOCK_CPU if anchors.device.type == "cpu" else _BLOCK_GPU
    size = max(1, min(n, budget // max(m, 1)))
    taking_part = key_labels != ignore_label  # (M,)
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        similarities = anchors[rows] @ keys.T
        same = labels[rows, None] == key_labels
        negatives = (similarities > margin).logical_and_(~same).logical_and_(taking_part)
        cross = torch.zeros_like(same)
        for column in range(groups.shape[1]):
            own, other = groups[rows, column, None], key_groups[:, column]
            cross |= (own != other).logical_and_(own >= 0).logical_and_(other >= 0)
        # An anchor never meets itself: its own row has its label and its groups.
        positives = same.logical_and_(cross).logical_and_(taking_part)
        yield _Block(rows, similarities.div_(temperature), positives, negatives)


@torch.library.custom_op("fairloss::contrastive_losses", mutates_args=())
def contrastive_losses(
    anchors: Tensor,
    keys: Tensor,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    grad_keys: int,
    temperature: float,
    margin: float,
    ignore_label: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, logsumexp over negatives and number of positives of every anchor.

    Args:
        anchors: (N, D) rows of norm 1, float32 or float64.
        keys: (M, D), same dtype. An anchor may be among the keys: its own row is neither positive nor negative.
        labels: (N,) int64.
        key_labels: (M,) int64.
        groups: (N, K) int64, -1 = unknown.
        key_groups: (M, K) int64.
        grad_keys: the first ``grad_keys`` keys receive a gradient; those of a queue come last and receive none.
        temperature: T > 0.
        margin: a key of another label is a negative where its cosine is greater.
        ignore_label: keys of this label are no positives and no negatives; anchors of this label have loss 0.

    Returns:
        losses (N,), 0 without positives; logsumexp (N,), -inf without negatives; positives (N,), counts in the same
        dtype. The gradient flows through the losses alone.
    """
    losses, lse, counts = (anchors.new_zeros(anchors.shape[0]) for _ in range(3))
    with torch.autocast(anchors.device.type, enabled=False):
        for rows, s, positives, negatives in _blocks(
            anchors, keys, labels, key_labels, groups, key_groups, temperature, margin, ignore_label
        ):
            lse[rows] = torch.logsumexp(s.masked_fill(~negatives, -torch.inf), dim=1)
            counts[rows] = positives.sum(1).to(s.dtype)
            x = torch.sub(lse[rows, None], s, out=s).masked_fill_(positives.logical_not_(), -torch.inf)
            # torch's own threshold, 20, is where softplus(x) - x = 2e-9: too early for float64.
            losses[rows] = F.softplus(x, threshold=40).sum(1) / counts[rows].clamp(min=1)
    return losses, lse, counts


@contrastive_losses.register_fake
def _(
    anchors: Tensor,
    keys: Tensor,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    grad_keys: int,
    temperature: float,
    margin: float,
    ignore_label: int,
) -> tuple[Tensor, Tensor, Tensor]:
    n = anchors.shape[0]
    return anchors.new_empty(n), anchors.new_empty(n), anchors.new_empty(n)


@torch.library.custom_op("fairloss::contrastive_losses_backward", mutates_args=())
def contrastive_losses_backward(
    grad: Tensor,
    anchors: Tensor,
    keys: Tensor,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    lse: Tensor,
    counts: Tensor,
    grad_keys: int,
    temperature: float,
    margin: float,
    ignore_label: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of anchors and keys for the gradient (N,) of the losses, from the saved logsumexp and counts."""
    grad_anchors, grad_of_keys = torch.empty_like(anchors), torch.zeros_like(keys)
    scale = grad / (counts.clamp(min=1) * temperature)  # (N,)
    with torch.autocast(anchors.device.type, enabled=False):
        for rows, s, positives, negatives in _blocks(
            anchors, keys, labels, key_labels, groups, key_groups, temperature, margin, ignore_label
        ):
            x = torch.sub(lse[rows, None], s, out=s)
            pull = torch.sigmoid(x).masked_fill_(positives.logical_not_(), 0)
            # Masked after the exponential, which is infinite where an anchor has no negatives; nothing differentiates it.
            push = x.neg_().exp_().masked_fill_(negatives.logical_not_(), 0).mul_(pull.sum(1, keepdim=True))
            grad_s = push.sub_(pull).mul_(scale[rows, None])  # (B, M)
            grad_anchors[rows] = grad_s @ keys
            grad_of_keys[:grad_keys].addmm_(grad_s[:, :grad_keys].T, anchors[rows])
    return grad_anchors, grad_of_keys


@contrastive_losses_backward.register_fake
def _(
    grad: Tensor,
    anchors: Tensor,
    keys: Tensor,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    lse: Tensor,
    counts: Tensor,
    grad_keys: int,
    temperature: float,
    margin: float,
    ignore_label: int,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(anchors), torch.empty_like(keys)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, lse, counts = output
    ctx.save_for_backward(*inputs[:6], lse, counts)
    ctx.options = inputs[6:]


def _backward(ctx: Any, grad: Tensor, grad_lse: Tensor, grad_counts: Tensor) -> tuple[Tensor | None, ...]:
    grads = contrastive_losses_backward(grad, *ctx.saved_tensors, *ctx.options)
    return (*grads, *[None] * 8)


contrastive_losses.register_autograd(_backward, setup_context=_setup_context)
