"""The cross-group contrastive loss of every anchor as one streaming op: memory linear in anchors plus keys.

Anchors are taken in blocks of rows, so that a block times all keys stays within a fixed budget; no N x M matrix ever
exists. The forward pass keeps each anchor's logsumexp over its negatives and its number of positives, O(N); the backward
pass recomputes the similarities block by block. The op is opaque to torch.compile: a Python loop over N in a traced graph
would be specialized at every N.

With s_ia = z_i.k_a / T, the positives P(i) and the negatives N(i) of :mod:`fairloss.losses.cross_group_contrastive`:

    lse_i = logsumexp_{a in N(i)} s_ia          loss_i = mean_{p in P(i)} softplus(lse_i - s_ip)
    d loss_i / d s_ip = -sigma(lse_i - s_ip) / |P(i)|
    d loss_i / d s_ia = exp(s_ia - lse_i) sum_p sigma(lse_i - s_ip) / |P(i)|

Rows are scaled to norm 1 inside, in float32 at least: half-precision rows then never exist in a rounded unit form, and
each gradient is rounded once. :mod:`fairloss.ops.contrastive_triton` runs the same op as tiles on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fairloss.core.dtypes import statistics_dtype
from fairloss.ops.dispatch import use_triton

__all__ = ["contrastive_losses"]

# Similarities a block. On CPU a block costs some forty operations whatever its size, and threads meet after each: blocks of a
# few megabytes. On a GPU a block should fill the device.
_BLOCK_CPU, _BLOCK_GPU = 1 << 20, 1 << 24

MAX_DIM = 1024
"""Columns that the Triton kernel takes."""


class _Block(NamedTuple):
    rows: slice
    similarities: Tensor  # (B, M), divided by the temperature
    not_positive: Tensor  # (B, M) bool
    not_negative: Tensor  # (B, M) bool


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
    ignored = key_labels == ignore_label  # (M,)
    columns = torch.where(ignored.unsqueeze(1), -1, key_groups).unbind(1)  # nobody's positives
    known = [column >= 0 for column in columns]
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        similarities = (anchors[rows] / temperature) @ keys.T
        same = labels[rows, None] == key_labels
        not_negative = (similarities <= margin / temperature).logical_or_(same).logical_or_(ignored)
        cross = None
        for own, other, other_known in zip(groups[rows].unsqueeze(2).unbind(1), columns, known, strict=True):
            differs = (own != other).logical_and_(own >= 0).logical_and_(other_known)
            cross = differs if cross is None else cross.logical_or_(differs)
        assert cross is not None
        # An anchor never meets itself: its own row has its label and its groups.
        yield _Block(rows, similarities, cross.logical_and_(same).logical_not_(), not_negative)


def normalize_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of norm 1 and the inverse norms, (N, 1); a row of zeros stays zero, with inverse norm 0 and no gradient."""
    x = x.to(dtype)
    # By the largest entry first: squares of 1e-25 are 0 in float32, those of 1e25 infinite. The result does not depend on
    # this scale, so it needs no gradient.
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    dead = largest < torch.finfo(dtype).tiny
    y = x / torch.where(dead, 1.0, largest)
    inverse = torch.where(dead, 0.0, torch.where(dead, 1.0, (y * y).sum(dim=1, keepdim=True)).rsqrt())
    return y * inverse, torch.where(dead, 0.0, inverse / torch.where(dead, 1.0, largest))


def _unit_keys(keys: Tensor, grad_keys: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Unit keys and the inverse norms of the first ``grad_keys``; the others are a queue's, unit rows as they are."""
    z, inverse = normalize_rows(keys[:grad_keys], dtype)
    return (z if grad_keys == keys.shape[0] else torch.cat([z, keys[grad_keys:].to(dtype)])), inverse


def _of_rows(grad: Tensor, z: Tensor, inverse: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient of unit rows to that of the rows they came from."""
    return ((grad - (grad * z).sum(dim=1, keepdim=True) * z) * inverse).to(dtype)


def _obstacle(anchors: Tensor) -> str | None:
    """Why the kernel does not take these rows, None where it does."""
    if anchors.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the rows are {anchors.dtype}; the kernel takes float32, bfloat16 and float16"
    if anchors.shape[1] > MAX_DIM:
        return f"the rows have {anchors.shape[1]} columns; the kernel takes up to {MAX_DIM}"
    return None


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
        anchors: (N, D) floating rows of any norm.
        keys: (M, D) floating, see ``grad_keys``. An anchor may be among the keys: its own row is neither positive nor
            negative. The kernel rounds keys of a wider dtype than the anchors to theirs.
        labels: (N,) int64.
        key_labels: (M,) int64.
        groups: (N, K) int64, -1 = unknown.
        key_groups: (M, K) int64.
        grad_keys: the first ``grad_keys`` keys are rows of any norm and receive a gradient; those of a queue come last, have
            norm 1 and receive none.
        temperature: T > 0.
        margin: a key of another label is a negative where its cosine is greater.
        ignore_label: keys of this label are no positives and no negatives; anchors of this label have loss 0.

    Returns:
        losses (N,), 0 without positives; logsumexp (N,), -inf without negatives; positives (N,), counts; float32, or float64
        for float64 anchors. The gradient flows through the losses alone.

    Raises:
        RuntimeError: the backend is "triton" and the kernel cannot run (:mod:`fairloss.ops.dispatch`).
    """
    pairs = anchors.shape[0] * keys.shape[0]
    triton = use_triton("contrastive_losses", anchors.device, _obstacle(anchors), dtype=anchors.dtype, size=pairs)
    if triton and anchors.dtype != torch.float16 and anchors.numel() > 0:
        shared = keys is anchors  # one process, no queue
        anchors = _within_range(anchors, anchors.shape[0])
        keys = anchors if shared else _within_range(keys, grad_keys)
    losses, lse, counts, _ = contrastive_losses_op(
        anchors, keys, labels, key_labels, groups, key_groups, grad_keys, temperature, margin, ignore_label, triton
    )
    return losses, lse, counts


def _within_range(rows: Tensor, count: int) -> Tensor:
    """The first ``count`` rows times powers of two that bring their largest entries to 0.5 .. 1.

    The kernel squares entries in float32: those of 1e25 would be infinite, those of 1e-25 zero. Cosines do not depend on
    the factor, which is therefore a constant of the gradient, and a power of two rounds nothing.
    """
    largest = rows.detach().abs().amax(1, keepdim=True).to(torch.float32)
    exponent = torch.frexp(largest).exponent.clamp(-120, 120)
    own = torch.arange(rows.shape[0], device=rows.device).unsqueeze(1) < count
    factor = torch.where(own & torch.isfinite(largest) & (largest > 0), torch.exp2(-exponent.to(torch.float32)), 1.0)
    return rows * factor.to(rows.dtype)


@torch.library.custom_op("fairloss::contrastive_losses", mutates_args=())
def contrastive_losses_op(
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
    triton: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`contrastive_losses`; the kernel's backward pass also needs the (N,) sums of the positives' pulls."""
    dtype = statistics_dtype(anchors.dtype)
    if triton and anchors.shape[0] > 0:
        from fairloss.ops import contrastive_triton

        arguments: list[Any] = [
            x.contiguous() for x in (anchors, keys.to(anchors.dtype), labels, key_labels, groups, key_groups)
        ]
        arguments += [grad_keys, temperature, margin, ignore_label]
        return contrastive_triton.forward(*arguments)
    losses, lse, counts, pulls = (anchors.new_zeros(anchors.shape[0], dtype=dtype) for _ in range(4))
    with torch.autocast(anchors.device.type, enabled=False):
        z, k = normalize_rows(anchors, dtype)[0], _unit_keys(keys, grad_keys, dtype)[0]
        for rows, s, not_positive, not_negative in _blocks(
            z, k, labels, key_labels, groups, key_groups, temperature, margin, ignore_label
        ):
            lse[rows] = torch.logsumexp(s.masked_fill(not_negative, -torch.inf), dim=1)
            counts[rows] = (keys.shape[0] - not_positive.sum(1)).to(s.dtype)
            x = torch.sub(lse[rows, None], s, out=s).masked_fill_(not_positive, -torch.inf)
            # torch's own threshold, 20, is where softplus(x) - x = 2e-9: too early for float64.
            losses[rows] = F.softplus(x, threshold=40).sum(1) / counts[rows].clamp(min=1)
    return losses, lse, counts, pulls


@contrastive_losses_op.register_fake
def _(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, dtype = anchors.shape[0], statistics_dtype(anchors.dtype)
    a, b, c, d = (anchors.new_empty(n, dtype=dtype) for _ in range(4))
    return a, b, c, d


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
    pulls: Tensor,
    grad_keys: int,
    temperature: float,
    margin: float,
    ignore_label: int,
    triton: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of anchors and keys for the gradient (N,) of the losses, from the saved statistics of the anchors."""
    if triton and anchors.shape[0] > 0:
        from fairloss.ops import contrastive_triton

        grad_anchors = torch.empty_like(anchors, memory_format=torch.contiguous_format)
        grad_of_keys = torch.zeros_like(keys, memory_format=torch.contiguous_format)
        arguments: list[Any] = [
            x.contiguous() for x in (grad, anchors, keys.to(anchors.dtype), labels, key_labels, groups, key_groups)
        ]
        arguments += [lse, counts, pulls, grad_anchors, grad_of_keys[:grad_keys], temperature, margin, ignore_label]
        contrastive_triton.backward(*arguments)
        return grad_anchors, grad_of_keys
    dtype = statistics_dtype(anchors.dtype)
    (z, norms), (k, key_norms) = normalize_rows(anchors, dtype), _unit_keys(keys, grad_keys, dtype)
    grad_z, grad_k = torch.empty_like(z), torch.zeros_like(k[:grad_keys])
    scale = grad / (counts.clamp(min=1) * temperature)  # (N,)
    with torch.autocast(anchors.device.type, enabled=False):
        for rows, s, not_positive, not_negative in _blocks(
            z, k, labels, key_labels, groups, key_groups, temperature, margin, ignore_label
        ):
            x = torch.sub(lse[rows, None], s, out=s)
            pull = torch.sigmoid(x).masked_fill_(not_positive, 0)
            # Masked after the exponential, which is infinite where an anchor has no negatives; nothing differentiates it.
            push = x.neg_().exp_().masked_fill_(not_negative, 0).mul_(pull.sum(1, keepdim=True))
            grad_s = push.sub_(pull).mul_(scale[rows, None])  # (B, M)
            grad_z[rows] = grad_s @ k
            grad_k.addmm_(grad_s[:, :grad_keys].T, z[rows])
    grad_of_keys = torch.zeros_like(keys, memory_format=torch.contiguous_format)
    grad_of_keys[:grad_keys] = _of_rows(grad_k, k[:grad_keys], key_norms, keys.dtype)
    return _of_rows(grad_z, z, norms, anchors.dtype), grad_of_keys


@contrastive_losses_backward.register_fake
def _(grad: Tensor, anchors: Tensor, keys: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(anchors, memory_format=torch.contiguous_format),
        torch.empty_like(keys, memory_format=torch.contiguous_format),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    _, lse, counts, pulls = output
    ctx.save_for_backward(*inputs[:6], lse, counts, pulls)
    ctx.options = inputs[6:]


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    grads = contrastive_losses_backward(grad, *ctx.saved_tensors, *ctx.options)
    return (*grads, *[None] * 9)


contrastive_losses_op.register_autograd(_backward, setup_context=_setup_context)
