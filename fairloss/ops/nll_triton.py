"""The streamed likelihood as two Triton kernels behind :mod:`fairloss.ops.nll`: each reads the logits once.

Forward: a program walks along its rows with a maximum and a sum of exponentials per lane, which costs one exponential a logit
and no exchange between lanes until the end. Backward: the softmax from the saved statistics, no reduction at all. Rows that
are ignored are not read. NaN reaches the row's loss and gradient, as in the eager form.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairloss.ops.dispatch import LAUNCH_OPTIONS

__all__ = ["backward", "blocks", "forward"]

_TILE = 4096
_LOWEST = tl.constexpr(-3.4028234663852886e38)
_OUT_OF_RANGE = tl.constexpr(-1.0)
"""Stands in place of a row's sum of exponentials where its target is no class."""


def blocks(classes: int) -> dict[str, int]:
    """Rows and classes of a tile; few sizes, so that few kernels are compiled."""
    wide = next((size for size in (16, 64, 256, 1024) if classes <= size), _TILE)
    return {"BLOCK_ROWS": _TILE // wide, "BLOCK_CLASSES": wide, "num_warps": 8}


@triton.jit
def _rows(target, rows, inner, outer_stride, inner_stride, ignore, BLOCK_ROWS: tl.constexpr):
    """Numbers of a program's rows, where each starts, its target, and whether it counts."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    label = tl.load(target + row, mask=row < rows, other=0)
    counts = (row < rows) & (label != ignore)
    return row, (row // inner) * outer_stride + (row % inner) * inner_stride, label, counts


@triton.jit(do_not_specialize=["rows", "inner", "ignore"])
def nll_forward_kernel(logits, target, losses, tops, totals, rows, inner, outer_stride, inner_stride, classes, ignore,
                       BLOCK_ROWS: tl.constexpr, BLOCK_CLASSES: tl.constexpr):  # fmt: skip
    """Losses, largest logits and sums of exponentials, (rows,)."""
    row, start, label, counts = _rows(target, rows, inner, outer_stride, inner_stride, ignore, BLOCK_ROWS)
    # Finite, so that no difference is inf - inf; a logit of -inf adds 0 either way.
    top = tl.full((BLOCK_ROWS, BLOCK_CLASSES), _LOWEST, tl.float32)
    total = tl.zeros((BLOCK_ROWS, BLOCK_CLASSES), tl.float32)
    read = classes * tl.max(counts.to(tl.int32), 0)  # nothing of a block of ignored rows
    for first in range(0, read, BLOCK_CLASSES):
        c = first + tl.arange(0, BLOCK_CLASSES)
        inside = counts[:, None] & (c < classes)[None, :]
        x = tl.load(logits + (start[:, None] + c[None, :]), mask=inside, other=float("-inf")).to(tl.float32)
        above = x - top
        e = tl.exp(-tl.abs(above))
        total = tl.where(above > 0, total * e + 1.0, total + e)
        top = tl.maximum(top, x)
    highest = tl.max(top, 1)
    normalizer = tl.sum(total * tl.exp(top - highest[:, None]), 1)
    known = (label >= 0) & (label < classes)
    picked = tl.load(logits + (start + label), mask=counts & known, other=float("nan")).to(tl.float32)
    loss = tl.log(normalizer) + (highest - picked)
    tl.store(losses + row, tl.where(counts, loss, 0.0), mask=row < rows)
    tl.store(tops + row, highest, mask=row < rows)
    tl.store(totals + row, tl.where(counts & (known == 0), _OUT_OF_RANGE, normalizer), mask=row < rows)


@triton.jit(do_not_specialize=["rows", "inner", "ignore"])
def nll_backward_kernel(grad, logits, target, tops, totals, out, rows, inner, outer_stride, inner_stride, classes, ignore,
                        BLOCK_ROWS: tl.constexpr, BLOCK_CLASSES: tl.constexpr):  # fmt: skip
    """(softmax - onehot) g, (rows, classes) side by side."""
    row, start, label, counts = _rows(target, rows, inner, outer_stride, inner_stride, ignore, BLOCK_ROWS)
    top = tl.load(tops + row, mask=counts, other=0.0)
    total = tl.load(totals + row, mask=counts, other=1.0)
    g = tl.load(grad + row, mask=counts, other=0.0)
    c = tl.program_id(1) * BLOCK_CLASSES + tl.arange(0, BLOCK_CLASSES)
    x = tl.load(
        logits + (start[:, None] + c[None, :]), mask=counts[:, None] & (c < classes)[None, :], other=float("-inf")
    ).to(tl.float32)
    p = tl.exp(x - top[:, None]) / total[:, None]
    value = (p - tl.where(c[None, :] == label[:, None], 1.0, 0.0)) * g[:, None]
    value = tl.where(counts[:, None], value, 0.0)
    at = out + (row[:, None] * classes + c[None, :])
    tl.store(at, value.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (c < classes)[None, :])


def _strided(logits: Tensor) -> tuple[Tensor, tuple[int, int, int, int, int]]:
    """The logits with two leading axes, and rows, rows of the inner axis, both strides, classes."""
    x = logits
    while x.ndim < 3:
        x = x.unsqueeze(0)
    x = x.flatten(0, -3)
    return x, (x.shape[0] * x.shape[1], x.shape[1], x.stride(0), x.stride(1), x.shape[2])


def forward(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, largest logits and sums of exponentials in the shape of the contiguous target, float32."""
    losses, tops, totals = (torch.empty(target.shape, dtype=torch.float32, device=logits.device) for _ in range(3))
    if target.numel() == 0:
        return losses, tops, totals
    x, sizes = _strided(logits)
    b: dict[str, Any] = blocks(sizes[-1])
    grid = (triton.cdiv(sizes[0], b["BLOCK_ROWS"]),)
    with torch.cuda.device_of(logits):
        nll_forward_kernel[grid](x, target, losses, tops, totals, *sizes, ignore_index, **b, **LAUNCH_OPTIONS)
    # Such a row's loss is NaN besides.
    torch._assert_async((totals != _OUT_OF_RANGE.value).all(), f"target: expected classes 0 .. {sizes[-1] - 1}")
    return losses, tops, totals


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, tops: Tensor, totals: Tensor, ignore_index: int, out: Tensor
) -> None:
    """Write the gradient of the logits into ``out``, contiguous in their dtype."""
    if out.numel() == 0:
        return
    x, sizes = _strided(logits)
    b: dict[str, Any] = blocks(sizes[-1])
    grid = (triton.cdiv(sizes[0], b["BLOCK_ROWS"]), triton.cdiv(sizes[-1], b["BLOCK_CLASSES"]))
    with torch.cuda.device_of(logits):
        nll_backward_kernel[grid](grad, x, target, tops, totals, out, *sizes, ignore_index, **b, **LAUNCH_OPTIONS)
