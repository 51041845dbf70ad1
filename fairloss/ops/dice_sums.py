"""The sums behind every soft Dice loss, streamed over blocks of pixels.

Whatever is pooled afterwards (classes, samples, groups), a soft Dice loss with squared denominators needs three numbers a
sample and class: sum p t, sum p^2 and sum t^2. One pass over the pixels gives them, and the cross-entropy beside them; the
backward recomputes each block's softmax, so that nothing of the logits' size is kept but their gradient. The loop over
blocks lives in custom ops, which torch.compile treats as leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fairloss.core.dtypes import statistics_dtype

# Elements a block: small enough that the passes over it stay in the cache.
_BLOCK = 1 << 18


def _blocks(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    """Several small samples, or pixels of a large one."""
    samples = max(1, _BLOCK // max(1, logits.shape[1] * logits.shape[2]))
    pixels = max(1, _BLOCK // max(1, logits.shape[1]))
    for first in range(0, logits.shape[0], samples):
        for start in range(0, logits.shape[2], pixels):
            yield slice(first, first + samples), slice(start, start + pixels)


def _block_target(target: Tensor, samples: slice, pixels: slice, like: Tensor) -> Tensor:
    """(k, C, n) target of a block: one-hot where the target holds ids."""
    if target.dtype.is_floating_point:
        return target[samples, :, pixels].to(like.dtype, copy=True)
    # max(0, 1 - |c - t|) is vectorized arithmetic, four times as fast as a scatter or a comparison.
    classes = torch.arange(like.shape[1], dtype=like.dtype, device=like.device).unsqueeze(1)
    return torch.sub(classes, target[samples, pixels].to(like.dtype).unsqueeze(1)).abs_().neg_().add_(1).clamp_(min=0)


@torch.library.custom_op("fairloss::dice_sums", mutates_args=())
def dice_sums(logits: Tensor, target: Tensor, with_nll: bool) -> tuple[Tensor, Tensor]:
    """Per-sample sums of a segmentation.

    Args:
        logits: (B, C, P).
        target: (B, P) int64 ids in 0 .. C-1, or (B, C, P) floating.
        with_nll: also sum the cross-entropy over pixels; zeros otherwise.

    Returns:
        (B, 3, C) sums of p t, p^2 and t^2 over pixels, p = softmax over classes, and (B,) sums of the cross-entropy;
        float32 (float64 for float64 logits).
    """
    dtype = statistics_dtype(logits.dtype)
    sums = torch.zeros(logits.shape[0], 3, logits.shape[1], dtype=dtype, device=logits.device)
    nll = torch.zeros(logits.shape[0], dtype=dtype, device=logits.device)
    for samples, pixels in _blocks(logits):
        x = logits[samples, :, pixels]
        p = torch.log_softmax(x, 1, dtype=dtype) if with_nll else torch.softmax(x, 1, dtype=dtype)
        t = _block_target(target, samples, pixels, p)
        if with_nll:
            # A probability of 0 and a target of 0 contribute 0, not 0 * -inf.
            nll[samples] -= torch.where(t == 0, 0.0, p * t).sum((1, 2))
            p.exp_()
        sums[samples, 2] += (t.square() if target.dtype.is_floating_point else t).sum(2)
        sums[samples, 0] += t.mul_(p).sum(2)
        sums[samples, 1] += p.square_().sum(2)
    return sums, nll


@dice_sums.register_fake
def _(logits: Tensor, target: Tensor, with_nll: bool) -> tuple[Tensor, Tensor]:
    dtype = statistics_dtype(logits.dtype)
    shape = (logits.shape[0], 3, logits.shape[1])
    return logits.new_empty(shape, dtype=dtype), logits.new_empty(logits.shape[0], dtype=dtype)


@torch.library.custom_op("fairloss::dice_sums_backward", mutates_args=())
def _dice_sums_backward(grad_sums: Tensor, grad_nll: Tensor, logits: Tensor, target: Tensor, with_nll: bool) -> Tensor:
    """Gradient for the logits, in their dtype; the target gets none."""
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    for samples, pixels in _blocks(logits):
        p = torch.softmax(logits[samples, :, pixels], 1, dtype=grad_sums.dtype)
        t = _block_target(target, samples, pixels, p)
        g_inter, g_square = grad_sums[samples, 0].unsqueeze(2), grad_sums[samples, 1].unsqueeze(2)
        kept = t.clone() if with_nll else t
        g_p = t.mul_(g_inter).addcmul_(p, g_square, value=2.0)
        g_p.sub_((g_p * p).sum(1, keepdim=True))
        if with_nll:
            # sum_c t_c (p - onehot_c): the target of a pixel need not sum to 1.
            mass = kept.sum(1, keepdim=True) if target.dtype.is_floating_point else 1.0
            out[samples, :, pixels] = g_p.mul_(p).addcmul_(p * mass - kept, grad_nll[samples].reshape(-1, 1, 1))
        else:
            place = out[samples, :, pixels]
            torch.mul(g_p, p, out=place) if place.dtype == p.dtype else place.copy_(g_p.mul_(p))
    return out


@_dice_sums_backward.register_fake
def _(grad_sums: Tensor, grad_nll: Tensor, logits: Tensor, target: Tensor, with_nll: bool) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
    logits, target, ctx.with_nll = inputs
    ctx.save_for_backward(logits, target)


def _backward(ctx: Any, grad_sums: Tensor, grad_nll: Tensor) -> tuple[Tensor, None, None]:
    logits, target = ctx.saved_tensors
    return _dice_sums_backward(grad_sums, grad_nll, logits, target, ctx.with_nll), None, None


dice_sums.register_autograd(_backward, setup_context=_setup_context)
