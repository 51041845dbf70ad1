"""The sums behind every soft Dice loss, streamed over blocks of pixels.

Whatever is pooled afterwards (classes, samples, groups), a soft Dice loss needs three numbers per sample and class: sum p t,
sum p^2 and sum t^2 (or sum p and sum t, where its denominator is not squared). One pass over the pixels gives them, and the
cross-entropy beside them; the backward recomputes each block's probabilities, so that nothing of the logits' size is kept but
their gradient. The loop over blocks lives in custom ops, which torch.compile treats as leaves.
:mod:`fairloss.ops.dice_sums_triton` reads the logits once forward and once backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairloss.core.dtypes import statistics_dtype
from fairloss.ops.derivatives import gradient_with_graph, needs_plain_form
from fairloss.ops.dispatch import use_triton

__all__ = ["dice_sums", "probability_sums"]

# Elements a block. On the CPU small enough that the passes over it stay in the cache; elsewhere a block costs some thirty
# launches whatever its size.
_BLOCK_CPU, _BLOCK_GPU = 1 << 18, 1 << 24

MAX_CLASSES = 256
"""Classes that the Triton kernel takes."""


def dice_sums(
    logits: Tensor,
    target: Tensor,
    with_nll: bool,
    *,
    sigmoid: bool = False,
    squared: bool = True,
    ignored: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Per-sample sums of a segmentation.

    Args:
        logits: (B, C, P).
        target: (B, P) int64 ids in 0 .. C-1, or (B, C, P) floating, which gets no gradient.
        with_nll: also sum the cross-entropy over pixels (with ``sigmoid`` the binary one, over channels too); zeros otherwise.
        sigmoid: p is the sigmoid of each channel, not the softmax over them.
        squared: squares in the last two sums.
        ignored: (B, P) bool, pixels that count for nothing; their ids must be in range all the same.

    Returns:
        (B, 3, C) sums of p t, p^2 and t^2 over pixels, and (B,) sums of the cross-entropy; float32 (float64 for float64
        logits).

    Raises:
        RuntimeError: the backend is "triton" and the kernel cannot run (:mod:`fairloss.ops.dispatch`).
    """
    if needs_plain_form():
        return _plain(logits, target, with_nll, sigmoid, squared, ignored)
    obstacle = _obstacle(logits, sigmoid, squared, ignored)
    triton = use_triton("dice_sums", logits.device, obstacle, dtype=logits.dtype, size=logits.numel())
    sums, nll = dice_sums_op(logits, target, with_nll, triton, sigmoid, squared, ignored)
    return sums, nll


def _plain(
    logits: Tensor, target: Tensor, with_nll: bool, sigmoid: bool, squared: bool, ignored: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same by operations that have every derivative, with tensors of the logits' size kept."""
    x = logits.to(statistics_dtype(logits.dtype))
    t = _plain_target(x, target)
    logp = F.logsigmoid(x) if sigmoid else torch.log_softmax(x, 1)
    p, entropy = logp.exp(), (-logp * t).masked_fill(t == 0, 0.0)
    if sigmoid:
        entropy = F.softplus(x) - x * t
    if ignored is not None:
        p, t, entropy = (part.masked_fill(ignored.unsqueeze(1), 0.0) for part in (p, t, entropy))
    sums = _sums_of(p, t, squared)
    return sums, entropy.sum((1, 2)) if with_nll else sums.new_zeros(logits.shape[0])


def _plain_target(x: Tensor, target: Tensor) -> Tensor:
    """(B, C, P) target in the dtype of ``x``, of ids or as it is."""
    classes = torch.arange(x.shape[1], device=x.device).unsqueeze(1)
    return (target.detach() if target.dtype.is_floating_point else classes == target.unsqueeze(1)).to(x.dtype)


def _sums_of(p: Tensor, t: Tensor, squared: bool) -> Tensor:
    """(B, 3, C) sums over pixels of p t, p^2 and t^2 (p and t, not ``squared``)."""
    return torch.stack([(p * t).sum(2), (p * p if squared else p).sum(2), (t * t if squared else t).sum(2)], 1)


def probability_sums(p: Tensor, target: Tensor, *, squared: bool, ignored: Tensor | None) -> tuple[Tensor, Tensor]:
    """As :func:`dice_sums` of (B, C, P) probabilities, whose gradient needs no exponentials."""
    p = p.to(statistics_dtype(p.dtype))
    t = _plain_target(p, target)
    if ignored is not None:
        p, t = (part.masked_fill(ignored.unsqueeze(1), 0.0) for part in (p, t))
    sums = _sums_of(p, t, squared)
    return sums, sums.new_zeros(p.shape[0])


def _obstacle(logits: Tensor, sigmoid: bool, squared: bool, ignored: Tensor | None) -> str | None:
    """Why the kernel does not take these logits, None where it does."""
    if sigmoid or not squared or ignored is not None:
        return "the kernel takes a softmax, squared denominators and no ignored pixels"
    if logits.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the logits are {logits.dtype}; the kernel takes float32, bfloat16 and float16"
    if logits.shape[1] > MAX_CLASSES:
        return f"there are {logits.shape[1]} classes; the kernel takes up to {MAX_CLASSES}"
    return None


def _blocks(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    """Several small samples, or pixels of a large one."""
    block = _BLOCK_CPU if logits.device.type == "cpu" else _BLOCK_GPU
    samples = max(1, block // max(1, logits.shape[1] * logits.shape[2]))
    pixels = max(1, block // max(1, logits.shape[1]))
    for first in range(0, logits.shape[0], samples):
        for start in range(0, logits.shape[2], pixels):
            yield slice(first, first + samples), slice(start, start + pixels)


def _block_target(target: Tensor, samples: slice, pixels: slice, classes: Tensor) -> Tensor:
    """(k, C, n) target of a block, a copy; ``classes`` are 0 .. C-1 in the dtype of the statistics."""
    if target.dtype.is_floating_point:
        return target[samples, :, pixels].to(classes.dtype, copy=True)
    ids = target[samples, pixels].unsqueeze(1)
    return (_one_hot_on_cpu if target.device.type == "cpu" else _one_hot)(ids, classes.unsqueeze(1))


def _one_hot(ids: Tensor, classes: Tensor) -> Tensor:
    """Of bools, in one launch."""
    return classes == ids


def _one_hot_on_cpu(ids: Tensor, classes: Tensor) -> Tensor:
    """max(0, 1 - |c - t|): vectorized arithmetic, four times as fast as a scatter or a comparison."""
    return torch.sub(classes, ids.to(classes.dtype)).abs_().neg_().add_(1).clamp_(min=0)


@torch.library.custom_op("fairloss::dice_sums", mutates_args=())
def dice_sums_op(
    logits: Tensor, target: Tensor, with_nll: bool, triton: bool, sigmoid: bool, squared: bool, ignored: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As :func:`dice_sums`."""
    if triton:
        from fairloss.ops import dice_sums_triton

        return dice_sums_triton.forward(logits, target, with_nll)
    dtype, soft = statistics_dtype(logits.dtype), target.dtype.is_floating_point
    sums = torch.zeros(logits.shape[0], 3, logits.shape[1], dtype=dtype, device=logits.device)
    nll = torch.zeros(logits.shape[0], dtype=dtype, device=logits.device)
    classes = torch.arange(logits.shape[1], dtype=dtype, device=logits.device)
    for samples, pixels in _blocks(logits):
        x = logits[samples, :, pixels]
        t = _block_target(target, samples, pixels, classes)
        out = None if ignored is None else ignored[samples, pixels].unsqueeze(1)
        if sigmoid:
            x = x.to(dtype)
            p = x.sigmoid()
            entropy = F.softplus(x).sub_(t * x) if with_nll else None
        else:
            p = torch.log_softmax(x, 1, dtype=dtype) if with_nll else torch.softmax(x, 1, dtype=dtype)
            # A probability of 0 and a target of 0 contribute 0, not 0 * -inf.
            entropy = (p * t).masked_fill_(t == 0, 0.0).neg_() if with_nll else None
            p = p.exp_() if with_nll else p
        if out is not None:
            p, t = p.masked_fill_(out, 0.0), t.masked_fill(out, 0)
            entropy = None if entropy is None else entropy.masked_fill_(out, 0.0)
        if entropy is not None:
            nll[samples].add_(entropy.sum((1, 2)))
        t_sums = (t.square() if soft and squared else t).sum(2, dtype=dtype)
        inter = torch.mul(t, p, out=None if t.dtype == torch.bool else t).sum(2)
        sums[samples].add_(torch.stack([inter, (p.square_() if squared else p).sum(2), t_sums], 1))
    return sums, nll


def _empty(logits: Tensor) -> tuple[Tensor, Tensor]:
    dtype = statistics_dtype(logits.dtype)
    shape = (logits.shape[0], 3, logits.shape[1])
    return logits.new_empty(shape, dtype=dtype), logits.new_empty((logits.shape[0],), dtype=dtype)


dice_sums_op.register_fake(lambda logits, *_: _empty(logits))


@torch.library.custom_op("fairloss::dice_sums_backward", mutates_args=())
def _dice_sums_backward(
    grad_sums: Tensor,
    grad_nll: Tensor,
    logits: Tensor,
    target: Tensor,
    with_nll: bool,
    triton: bool,
    sigmoid: bool,
    squared: bool,
    ignored: Tensor | None,
) -> Tensor:
    """Gradient for the logits, in their dtype; the target gets none."""
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if triton:
        from fairloss.ops import dice_sums_triton

        dice_sums_triton.backward(grad_sums, grad_nll, logits, target, with_nll, out)
        return out
    classes = torch.arange(logits.shape[1], dtype=grad_sums.dtype, device=logits.device)
    for samples, pixels in _blocks(logits):
        x = logits[samples, :, pixels]
        p = x.to(grad_sums.dtype).sigmoid() if sigmoid else torch.softmax(x, 1, dtype=grad_sums.dtype)
        t = _block_target(target, samples, pixels, classes)
        g_inter, g_square = grad_sums[samples, 0].unsqueeze(2), grad_sums[samples, 1].unsqueeze(2)
        g_p = torch.mul(t, g_inter)
        g_p = g_p.addcmul_(p, g_square, value=2.0) if squared else g_p.add_(g_square)
        place = out[samples, :, pixels]
        g_nll = grad_nll[samples].reshape(-1, 1, 1)
        if sigmoid:
            g_x = g_p.mul_(p).mul_(1 - p)
            place.copy_(g_x.add_(p.sub_(t.to(p.dtype)).mul_(g_nll)) if with_nll else g_x)
        else:
            from_all = (g_p * p).sum(1, keepdim=True)
            if with_nll:
                # sum_c t_c (p - onehot_c): the target of a pixel need not sum to 1.
                from_all.sub_(t.sum(1, keepdim=True) * g_nll if target.dtype.is_floating_point else g_nll)
                torch.addcmul(g_p.sub_(from_all).mul_(p), t, g_nll, value=-1.0, out=place)
            else:
                torch.mul(g_p.sub_(from_all), p, out=place)
        if ignored is not None:
            place.masked_fill_(ignored[samples, pixels].unsqueeze(1), 0.0)
    return out


_dice_sums_backward.register_fake(
    lambda grad_sums, grad_nll, logits, *_: torch.empty_like(logits, memory_format=torch.contiguous_format)
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, target, ctx.with_nll, ctx.triton, ctx.sigmoid, ctx.squared, ignored = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, target, ignored)


def _backward(ctx: Any, grad_sums: Tensor | None, grad_nll: Tensor | None) -> tuple[Tensor | None, ...]:
    logits, target, ignored = ctx.saved_tensors
    with_nll = ctx.with_nll and grad_nll is not None
    if grad_sums is None and not with_nll:
        return (None,) * 7
    if torch.is_grad_enabled():  # under create_graph=True
        found = gradient_with_graph(
            lambda x: _plain(x, target, with_nll, ctx.sigmoid, ctx.squared, ignored), [logits], [grad_sums, grad_nll]
        )
        return (*found, *[None] * 6)
    like_sums, like_nll = _empty(logits)
    grad_sums = torch.zeros_like(like_sums) if grad_sums is None else grad_sums
    grad_nll = like_nll if grad_nll is None else grad_nll  # not read then
    how = (with_nll, ctx.triton, ctx.sigmoid, ctx.squared, ignored)
    return (_dice_sums_backward(grad_sums, grad_nll, logits, target, *how), *(None,) * 6)


dice_sums_op.register_autograd(_backward, setup_context=_setup_context)
