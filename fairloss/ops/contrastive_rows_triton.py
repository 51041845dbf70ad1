"""Rows before and after the tiles of :mod:`fairloss.ops.contrastive_triton`: scale and norm, and the gradient through them."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairloss.ops.dispatch import LAUNCH_OPTIONS

__all__ = ["ROW_BLOCKS", "prepare", "project"]

_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
ROW_BLOCKS: dict[str, Any] = {"BLOCK_ROWS": 16, "BLOCK_DIM": 128, "num_warps": 4}


@triton.jit(do_not_specialize=["rows"])
def prepare_kernel(x, out, norms, scales, rows, dim, UNIT: tl.constexpr, SCALE: tl.constexpr,
                   BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):  # fmt: skip
    """Rows in the dtype of ``out`` and their inverse norms: 0 for a row of zeros, 1 for ``UNIT`` rows.

    With ``SCALE`` times a power of two that brings the largest entry to 1 .. 2: squares of 1e25 are infinite in float32,
    those of 1e-25 zero. Cosines do not depend on it, and it rounds nothing.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    scale = tl.full((BLOCK_ROWS,), 1.0, tl.float32)
    dead = row < 0
    if SCALE:
        largest = tl.zeros((BLOCK_ROWS,), tl.float32)
        for start in range(0, dim, BLOCK_DIM):
            column = start + tl.arange(0, BLOCK_DIM)
            inside = (row[:, None] < rows) & (column[None, :] < dim)
            v = tl.load(x + row[:, None] * dim + column[None, :], mask=inside, other=0.0).to(tl.float32)
            largest = tl.maximum(largest, tl.max(tl.abs(v), 1))
        exponent = largest.to(tl.int32, bitcast=True) >> 23
        scale = (tl.minimum(tl.maximum(254 - exponent, 1), 254) << 23).to(tl.float32, bitcast=True)
        dead = largest < _TINY
    squares = tl.zeros((BLOCK_ROWS,), tl.float32)
    for start in range(0, dim, BLOCK_DIM):
        column = start + tl.arange(0, BLOCK_DIM)
        inside = (row[:, None] < rows) & (column[None, :] < dim)
        at = row[:, None] * dim + column[None, :]
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * scale[:, None]
        tl.store(out + at, v.to(out.dtype.element_ty), mask=inside)
        squares += tl.sum(v * v, 1)
    dead = dead | (squares == 0)
    inverse = tl.where(dead, 0.0, 1.0 / tl.sqrt(tl.where(dead, 1.0, squares)))
    if UNIT:
        inverse = tl.full((BLOCK_ROWS,), 1.0, tl.float32)
    tl.store(norms + row, inverse, mask=row < rows)
    tl.store(scales + row, scale, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "parts"])
def project_kernel(grad, x, norms, scales, out, rows, dim, parts, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """The parts (parts, rows, dim) of the gradient of unit rows z, added, to that of the rows: (g - (g.z) z) / |x|."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    norm = tl.load(norms + row, mask=row < rows, other=0.0)
    scale = tl.load(scales + row, mask=row < rows, other=0.0)
    along = tl.zeros((BLOCK_ROWS,), tl.float32)
    for start in range(0, dim, BLOCK_DIM):
        column = start + tl.arange(0, BLOCK_DIM)
        inside = (row[:, None] < rows) & (column[None, :] < dim)
        at = row[:, None] * dim + column[None, :]
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        along += tl.sum(_added(grad, at, inside, rows, dim, parts) * v, 1)
    along *= norm * norm
    for start in range(0, dim, BLOCK_DIM):
        column = start + tl.arange(0, BLOCK_DIM)
        inside = (row[:, None] < rows) & (column[None, :] < dim)
        at = row[:, None] * dim + column[None, :]
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        g = _added(grad, at, inside, rows, dim, parts)
        # The two factors one after the other: their product may leave float32 where the result does not.
        value = (g - along[:, None] * v) * norm[:, None] * scale[:, None]
        tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _added(grad, at, inside, rows, dim, parts):
    """Entries of the gradient, added over its parts in order."""
    g = tl.load(grad + at, mask=inside, other=0.0)
    for part in range(1, parts):
        g += tl.load(grad + tl.cast(part, tl.int64) * rows * dim + at, mask=inside, other=0.0)
    return g


def prepare(anchors: Tensor, keys: Tensor, held: Tensor | None, shared: bool, rows: Tensor, norms: Tensor) -> None:
    """Fill ``rows``, in the dtype of the anchors, and ``norms``, (2, R): inverse norms of the rows, and their scales.

    The rows are the batch's keys, those held, and the anchors where these are not ``shared`` with the keys.
    """
    first = 0
    with torch.cuda.device_of(anchors):
        for x, unit in ((keys, False), (held, True), (None if shared else anchors, False)):
            if x is None or x.shape[0] == 0:
                continue
            last = first + x.shape[0]
            prepare_kernel[(triton.cdiv(x.shape[0], ROW_BLOCKS["BLOCK_ROWS"]),)](
                x.contiguous(), rows[first:last], norms[0, first:last], norms[1, first:last], *x.shape,
                UNIT=unit, SCALE=not unit and x.dtype != torch.float16, **ROW_BLOCKS, **LAUNCH_OPTIONS,
            )  # fmt: skip
            first = last


def project(grad: Tensor, x: Tensor, norms: Tensor, out: Tensor) -> None:
    """Write the gradient of the rows that ``x``, with norms and scales (2, ...), was prepared from, (parts, R, D) added up."""
    parts, rows, dim = grad.shape
    if rows > 0:
        grid = (triton.cdiv(rows, ROW_BLOCKS["BLOCK_ROWS"]),)
        project_kernel[grid](grad, x, norms[0], norms[1], out, rows, dim, parts, **ROW_BLOCKS, **LAUNCH_OPTIONS)
