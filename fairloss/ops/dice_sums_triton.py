"""The sums behind soft Dice as two Triton kernels behind :mod:`fairloss.ops.dice_sums`: each reads the logits once.

A program owns a stretch of one sample's pixels and walks along it with all classes of a few pixels at a time. Its sums stay
in registers, a partial one per lane, and are added across lanes once, at the end; programs write rows of their own, which are
added in a fixed order. NaN reaches its sample's sums and its pixel's gradient, as in the eager form.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairloss.ops.dispatch import LAUNCH_OPTIONS

__all__ = ["backward", "blocks", "forward"]

STEPS, MAX_PROGRAMS = 16, 2048
"""Tiles per program, until a sample has ``MAX_PROGRAMS`` of them."""


def blocks(classes: int) -> dict[str, int]:
    """Classes and pixels of a tile; few sizes, so that few kernels are compiled.

    In a tile of one warp the sums over classes need no barrier; more classes than that would not fit its registers.
    """
    wide = next(size for size in (2, 4, 16, 64, 256) if classes <= size)
    tile, warps = (512, 1) if wide <= 16 else (2048, 8)
    return {"BLOCK_CLASSES": wide, "BLOCK_PIXELS": tile // wide, "num_warps": warps}


@triton.jit
def _log_softmax(logits, at, inside):
    """(C, P) log-probabilities; 0 probability where there is no class, 1 / C where there is no pixel."""
    x = tl.load(logits + at, mask=inside, other=float("-inf")).to(tl.float32)
    top = tl.max(x, 0)
    # Outside the image a whole column is -inf; a pixel whose logits all are is NaN, as it should be.
    e = tl.exp(x - top[None, :])
    return (x - top[None, :]) - tl.log(tl.sum(e, 0))[None, :]


@triton.jit
def _target(target, sample, c, pixel, inside, classes, pixels, SOFT: tl.constexpr):
    """(C, P) target, one-hot where it holds ids; 0 outside."""
    if SOFT:
        at = sample * classes * pixels + c[:, None] * pixels + pixel[None, :]
        return tl.load(target + at, mask=inside, other=0.0).to(tl.float32)
    ids = tl.load(target + sample * pixels + pixel, mask=pixel < pixels, other=-1)
    return tl.where(ids[None, :] == c[:, None], 1.0, 0.0)


@triton.jit(do_not_specialize=["programs", "steps"])
def dice_forward_kernel(logits, target, sums, nlls, classes, pixels, sample_stride, class_stride, pixel_stride,
                        programs, steps, SOFT: tl.constexpr, WITH_NLL: tl.constexpr,
                        BLOCK_CLASSES: tl.constexpr, BLOCK_PIXELS: tl.constexpr):  # fmt: skip
    """Per program: (3, C) sums of p t, p^2 and t^2, and the cross-entropy."""
    row = tl.program_id(0).to(tl.int64)
    sample, program = row // programs, row % programs
    c = tl.arange(0, BLOCK_CLASSES)
    inter = tl.zeros((BLOCK_CLASSES, BLOCK_PIXELS), tl.float32)
    predicted = tl.zeros((BLOCK_CLASSES, BLOCK_PIXELS), tl.float32)
    true = tl.zeros((BLOCK_CLASSES, BLOCK_PIXELS), tl.float32)
    entropy = tl.zeros((BLOCK_CLASSES, BLOCK_PIXELS), tl.float32)
    for step in range(steps):
        pixel = (program * steps + step) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
        inside = (c < classes)[:, None] & (pixel < pixels)[None, :]
        at = sample * sample_stride + c.to(tl.int64)[:, None] * class_stride + pixel[None, :] * pixel_stride
        logp = _log_softmax(logits, at, inside)
        p = tl.where(inside, tl.exp(logp), 0.0)
        t = _target(target, sample, c.to(tl.int64), pixel, inside, classes, pixels, SOFT)
        inter += p * t
        predicted += p * p
        true += t * t
        if WITH_NLL:
            # A probability of 0 and a target of 0 contribute 0, not 0 * -inf.
            entropy += tl.where(t == 0, 0.0, t * logp)
    out = sums + row * 3 * classes + c
    tl.store(out, tl.sum(inter, 1), mask=c < classes)
    tl.store(out + classes, tl.sum(predicted, 1), mask=c < classes)
    tl.store(out + 2 * classes, tl.sum(true, 1), mask=c < classes)
    if WITH_NLL:
        tl.store(nlls + row, -tl.sum(tl.sum(entropy, 1), 0))


@triton.jit(do_not_specialize=["tiles"])
def dice_backward_kernel(grad_sums, grad_nll, logits, target, out, classes, pixels, sample_stride, class_stride, pixel_stride,
                         tiles, SOFT: tl.constexpr, WITH_NLL: tl.constexpr,
                         BLOCK_CLASSES: tl.constexpr, BLOCK_PIXELS: tl.constexpr):  # fmt: skip
    """The gradient of the logits, (B, C, P) side by side."""
    sample = tl.program_id(0).to(tl.int64) // tiles
    c = tl.arange(0, BLOCK_CLASSES)
    pixel = (tl.program_id(0) % tiles).to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    inside = (c < classes)[:, None] & (pixel < pixels)[None, :]
    at = sample * sample_stride + c.to(tl.int64)[:, None] * class_stride + pixel[None, :] * pixel_stride
    p = tl.exp(_log_softmax(logits, at, inside))
    t = _target(target, sample, c.to(tl.int64), pixel, inside, classes, pixels, SOFT)
    table = grad_sums + sample * 3 * classes + c
    g_inter = tl.load(table, mask=c < classes, other=0.0)
    g_square = tl.load(table + classes, mask=c < classes, other=0.0)
    g_p = t * g_inter[:, None] + 2.0 * p * g_square[:, None]
    # Classes past the end have p = 0 exactly.
    value = (g_p - tl.sum(g_p * p, 0)[None, :]) * p
    if WITH_NLL:
        # sum_c t_c (p - onehot_c): the target of a pixel need not sum to 1.
        value += (p * tl.sum(t, 0)[None, :] - t) * tl.load(grad_nll + sample)
    place = out + (sample * classes * pixels + c.to(tl.int64)[:, None] * pixels + pixel[None, :])
    tl.store(place, value.to(out.dtype.element_ty), mask=inside)


def forward(logits: Tensor, target: Tensor, with_nll: bool) -> tuple[Tensor, Tensor]:
    """Sums (B, 3, C) and cross-entropies (B,), float32."""
    samples, classes, pixels = logits.shape
    b: dict[str, Any] = blocks(classes)
    tiles = triton.cdiv(pixels, b["BLOCK_PIXELS"])
    steps = max(STEPS, triton.cdiv(tiles, MAX_PROGRAMS))
    programs = triton.cdiv(tiles, steps)
    sums = torch.empty(samples, programs, 3, classes, dtype=torch.float32, device=logits.device)
    nlls = torch.empty(samples, programs, dtype=torch.float32, device=logits.device)
    soft = target.dtype.is_floating_point
    if sums.numel() > 0:
        with torch.cuda.device_of(logits):
            dice_forward_kernel[(programs * samples,)](
                logits, target.contiguous(), sums, nlls, classes, pixels, *logits.stride(), programs, steps,
                SOFT=soft, WITH_NLL=with_nll, **b, **LAUNCH_OPTIONS,
            )  # fmt: skip
    return sums.sum(1), nlls.sum(1) if with_nll else nlls.new_zeros(samples)


def backward(grad_sums: Tensor, grad_nll: Tensor, logits: Tensor, target: Tensor, with_nll: bool, out: Tensor) -> None:
    """Write the gradient of the logits into ``out``, contiguous in their dtype."""
    samples, classes, pixels = logits.shape
    if out.numel() == 0:
        return
    b: dict[str, Any] = blocks(classes)
    tiles, soft = triton.cdiv(pixels, b["BLOCK_PIXELS"]), target.dtype.is_floating_point
    with torch.cuda.device_of(logits):
        dice_backward_kernel[(tiles * samples,)](
            grad_sums.contiguous(), grad_nll.contiguous(), logits, target.contiguous(), out,
            classes, pixels, *logits.stride(), tiles, SOFT=soft, WITH_NLL=with_nll, **b, **LAUNCH_OPTIONS,
        )  # fmt: skip
