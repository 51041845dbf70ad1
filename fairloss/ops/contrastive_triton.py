"""The cross-group contrastive loss as tiles: Triton kernels behind :mod:`fairloss.ops.contrastive`.

A program owns a block of anchors (in the backward pass also a block of keys) and walks over the other side, a tile of
similarities at a time; what leaves the chip is O(N): logsumexp, counts and sums of pulls. The rows come in as they are and
the inverse norms multiply the products, so that half-precision rows enter the matrix units exactly. Similarities accumulate
in float32; float32 rows use IEEE products, never tf32. The tiles of gradients are rounded to bfloat16 for half-precision
rows (float16 would flush the weights of a mean over many anchors to zero). No atomics: the same input gives the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairloss.ops.dispatch import LAUNCH_OPTIONS

__all__ = ["Blocks", "backward", "blocks", "forward"]


class Blocks(NamedTuple):
    """Sizes of the tiles of one launch."""

    own: int
    other: int
    inner: int
    """Columns of the embeddings that one step of a similarity takes."""
    out: int
    """Columns of the gradient that one program of the backward pass owns."""
    warps: int
    stages: int


def blocks(dtype: torch.dtype, dim: int) -> Blocks:
    """The tiles for rows of ``dtype`` and length ``dim``; every value it returns is compiled ahead of time in the tests."""
    if dtype == torch.float32:
        return Blocks(64, 32, 16, 32 if dim <= 32 else 64, 8, 2)
    return Blocks(64, 64, 32 if dim <= 32 else 64, 64 if dim <= 64 else 128 if dim <= 128 else 256, 8, 2)


@triton.jit(do_not_specialize=["rows", "unit_from"])
def inverse_norms_kernel(x, out, rows, unit_from, dim, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """1 / |x_i|, 0 for a row of zeros, 1 from the row ``unit_from`` on."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    squares = tl.zeros((BLOCK_ROWS,), tl.float32)
    for start in range(0, dim, BLOCK_DIM):
        column = start + tl.arange(0, BLOCK_DIM)
        inside = (row[:, None] < rows) & (column[None, :] < dim)
        v = tl.load(x + row[:, None] * dim + column[None, :], mask=inside, other=0.0).to(tl.float32)
        squares += tl.sum(v * v, 1)
    dead = squares == 0
    inverse = tl.where(dead, 0.0, 1.0 / tl.sqrt(tl.where(dead, 1.0, squares)))
    tl.store(out + row, tl.where(row < unit_from, inverse, 1.0), mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def project_kernel(grad, x, norms, out, rows, dim, BLOCK_ROWS: tl.constexpr, BLOCK_DIM: tl.constexpr):
    """The gradient of a unit row z to that of the row x it came from: (g - (g.z) z) / |x|."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    norm = tl.load(norms + row, mask=row < rows, other=0.0)
    along = tl.zeros((BLOCK_ROWS,), tl.float32)
    for start in range(0, dim, BLOCK_DIM):
        column = start + tl.arange(0, BLOCK_DIM)
        inside = (row[:, None] < rows) & (column[None, :] < dim)
        at = row[:, None] * dim + column[None, :]
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        along += tl.sum(tl.load(grad + at, mask=inside, other=0.0) * v, 1)
    along *= norm * norm
    for start in range(0, dim, BLOCK_DIM):
        column = start + tl.arange(0, BLOCK_DIM)
        inside = (row[:, None] < rows) & (column[None, :] < dim)
        at = row[:, None] * dim + column[None, :]
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + at, mask=inside, other=0.0)
        tl.store(out + at, ((g - along[:, None] * v) * norm[:, None]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _cosines(own, other, own_norm, other_norm, rows, cols, dim,
             OWN: tl.constexpr, OTHER: tl.constexpr, INNER: tl.constexpr):  # fmt: skip
    """(OWN, OTHER) tile of cosines; the pointers are those of the tile's first rows, ``rows`` and ``cols`` what is left."""
    row, col = tl.arange(0, OWN)[:, None], tl.arange(0, OTHER)[None, :]
    products = tl.zeros((OWN, OTHER), tl.float32)
    for start in range(0, dim, INNER):
        inner = start + tl.arange(0, INNER)
        a = tl.load(own + (row * dim + inner[None, :]), mask=(row < rows) & (inner[None, :] < dim), other=0.0)
        b = tl.load(other + (col * dim + inner[:, None]), mask=(col < cols) & (inner[:, None] < dim), other=0.0)
        products = tl.dot(a, b, products, input_precision="ieee")
    # In this order the tile is the same with the sides exchanged, so that both passes see the same negatives.
    return products * (own_norm[:, None] * other_norm[None, :])


@triton.jit
def _relations(cosines, labels, other_labels, groups, other_groups, rows, cols, takes_part, margin,
               ATTRIBUTES: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr):  # fmt: skip
    """Which pairs of a tile are positives and which are negatives. Both relations are the same from either side."""
    row, col = tl.arange(0, OWN), tl.arange(0, OTHER)
    same = labels[:, None] == other_labels[None, :]
    cross = tl.zeros((OWN, OTHER), tl.int1)
    for k in tl.static_range(ATTRIBUTES):
        a = tl.load(groups + (row * ATTRIBUTES + k), mask=row < rows, other=-1)
        b = tl.load(other_groups + (col * ATTRIBUTES + k), mask=col < cols, other=-1)
        cross = cross | ((a[:, None] != b[None, :]) & (a[:, None] >= 0) & (b[None, :] >= 0))
    # Not "cosines > margin", which NaN fails: it has to reach the loss.
    return same & cross & takes_part, ((cosines <= margin) == 0) & (same == 0) & takes_part


@triton.jit
def _left(total, first, BLOCK: tl.constexpr):
    """How many of a block's rows exist, as int32 (the whole may hold more than int32 counts elements)."""
    return tl.minimum(total - first, BLOCK).to(tl.int32)


@triton.jit(do_not_specialize=["n", "m", "ignore"])
def forward_kernel(anchors, keys, anchor_norms, key_norms, labels, key_labels, groups, key_groups,
                   losses, lses, counts, pulls, n, m, dim, ignore, inverse_temperature, margin,
                   ATTRIBUTES: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, INNER: tl.constexpr):  # fmt: skip
    """Two walks over the keys: logsumexp over negatives and count of positives; then the positives' terms against it."""
    first = tl.program_id(0).to(tl.int64) * OWN
    rows = _left(n, first, OWN)
    row, col = tl.arange(0, OWN), tl.arange(0, OTHER)
    norm = tl.load(anchor_norms + first + row, mask=row < rows, other=0.0)
    label = tl.load(labels + first + row, mask=row < rows, other=0)
    top = tl.full((OWN,), float("-inf"), tl.float32)
    total = tl.zeros((OWN,), tl.float32)
    count = tl.zeros((OWN,), tl.float32)
    for step in range(tl.cdiv(m, OTHER)):
        start = tl.cast(step, tl.int64) * OTHER
        cols = _left(m, start, OTHER)
        key_norm = tl.load(key_norms + start + col, mask=col < cols, other=0.0)
        key_label = tl.load(key_labels + start + col, mask=col < cols, other=0)
        cosines = _cosines(
            anchors + first * dim, keys + start * dim, norm, key_norm, rows, cols, dim, OWN, OTHER, INNER
        )
        takes_part = ((col < cols) & (key_label != ignore))[None, :]
        positive, negative = _relations(
            cosines, label, key_label, groups + first * ATTRIBUTES, key_groups + start * ATTRIBUTES, rows, cols,
            takes_part, margin, ATTRIBUTES, OWN, OTHER,
        )  # fmt: skip
        s = tl.where(negative, cosines * inverse_temperature, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(s - base[:, None]), 1)
        top = higher
        count += tl.sum(tl.where(positive, 1.0, 0.0), 1)
    empty = total == 0  # not "total > 0", which NaN fails
    lse = tl.where(empty, float("-inf"), top + tl.log(tl.where(empty, 1.0, total)))
    loss = tl.zeros((OWN,), tl.float32)
    pulled = tl.zeros((OWN,), tl.float32)
    for step in range(tl.cdiv(m, OTHER)):
        start = tl.cast(step, tl.int64) * OTHER
        cols = _left(m, start, OTHER)
        key_norm = tl.load(key_norms + start + col, mask=col < cols, other=0.0)
        key_label = tl.load(key_labels + start + col, mask=col < cols, other=0)
        cosines = _cosines(
            anchors + first * dim, keys + start * dim, norm, key_norm, rows, cols, dim, OWN, OTHER, INNER
        )
        takes_part = ((col < cols) & (key_label != ignore))[None, :]
        positive, negative = _relations(
            cosines, label, key_label, groups + first * ATTRIBUTES, key_groups + start * ATTRIBUTES, rows, cols,
            takes_part, margin, ATTRIBUTES, OWN, OTHER,
        )  # fmt: skip
        x = lse[:, None] - cosines * inverse_temperature
        e = tl.exp(-tl.abs(x))
        # log(1 + e) with the rounding of 1 + e divided out, so that small terms are not lost.
        u = 1.0 + e
        log1p = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
        loss += tl.sum(tl.where(positive, tl.maximum(x, 0.0) + log1p, 0.0), 1)
        pulled += tl.sum(tl.where(positive, tl.where(x >= 0, 1.0, e) / u, 0.0), 1)
    inside = row < rows
    tl.store(losses + first + row, loss / tl.maximum(count, 1.0), mask=inside)
    tl.store(lses + first + row, lse, mask=inside)
    tl.store(counts + first + row, count, mask=inside)
    tl.store(pulls + first + row, pulled, mask=inside)


@triton.jit
def _statistics(lses, pulls, counts, grad, at, inside, inverse_temperature):
    """What the backward pass needs of anchors: logsumexp, sum of pulls, and the factor of all their terms."""
    lse = tl.load(lses + at, mask=inside, other=0.0)
    pulled = tl.load(pulls + at, mask=inside, other=0.0)
    count = tl.load(counts + at, mask=inside, other=1.0)
    scale = tl.load(grad + at, mask=inside, other=0.0) * inverse_temperature / tl.maximum(count, 1.0)
    return lse, pulled, scale


@triton.jit(do_not_specialize=["n_own", "n_other", "ignore"])
def backward_kernel(own, other, own_norms, other_norms, labels, other_labels, groups, other_groups,
                    grad, lses, counts, pulls, out, n_own, n_other, dim, ignore, inverse_temperature, margin,
                    OF_KEYS: tl.constexpr, ATTRIBUTES: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
                    INNER: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Gradient of the unit rows of one side, (n_own, dim) float32; ``own`` are anchors, or keys with ``OF_KEYS``."""
    first = tl.program_id(0).to(tl.int64) * OWN
    rows = _left(n_own, first, OWN)
    row, col = tl.arange(0, OWN), tl.arange(0, OTHER)
    wide = tl.program_id(1) * OUT + tl.arange(0, OUT)[None, :]
    norm = tl.load(own_norms + first + row, mask=row < rows, other=0.0)
    label = tl.load(labels + first + row, mask=row < rows, other=0)
    acc = tl.zeros((OWN, OUT), tl.float32)
    if not OF_KEYS:
        lse, pulled, scale = _statistics(lses, pulls, counts, grad, first + row, row < rows, inverse_temperature)
    for step in range(tl.cdiv(n_other, OTHER)):
        start = tl.cast(step, tl.int64) * OTHER
        cols = _left(n_other, start, OTHER)
        other_norm = tl.load(other_norms + start + col, mask=col < cols, other=0.0)
        other_label = tl.load(other_labels + start + col, mask=col < cols, other=0)
        cosines = _cosines(own + first * dim, other + start * dim, norm, other_norm, rows, cols, dim, OWN, OTHER, INNER)
        if OF_KEYS:
            takes_part = ((row < rows) & (label != ignore))[:, None] & (col < cols)[None, :]
        else:
            takes_part = ((col < cols) & (other_label != ignore))[None, :]
        positive, negative = _relations(
            cosines, label, other_label, groups + first * ATTRIBUTES, other_groups + start * ATTRIBUTES, rows, cols,
            takes_part, margin, ATTRIBUTES, OWN, OTHER,
        )  # fmt: skip
        if OF_KEYS:
            o_lse, o_pulled, o_scale = _statistics(
                lses, pulls, counts, grad, start + col, col < cols, inverse_temperature
            )
            x = o_lse[None, :] - cosines * inverse_temperature
            # An anchor without negatives has none here either, should a product at the margin be rounded otherwise.
            negative = negative & (o_lse > float("-inf"))[None, :]
            push = tl.exp(tl.where(negative, -x, float("-inf"))) * o_pulled[None, :]
            factor = other_norm * o_scale
        else:
            x = lse[:, None] - cosines * inverse_temperature
            push = tl.exp(tl.where(negative, -x, float("-inf"))) * pulled[:, None]
            factor = other_norm
        e = tl.exp(-tl.abs(x))
        pull = tl.where(x >= 0, 1.0, e) / (1.0 + e)
        weight = (push - tl.where(positive, pull, 0.0)) * factor[None, :]
        values = tl.load(
            other + start * dim + (col[:, None] * dim + wide), mask=(col[:, None] < cols) & (wide < dim), other=0.0
        )
        acc = tl.dot(weight.to(TILE), values.to(TILE), acc, input_precision="ieee")
    if not OF_KEYS:
        acc *= scale[:, None]
    tl.store(out + first * dim + (row[:, None] * dim + wide), acc, mask=(row[:, None] < rows) & (wide < dim))


FLOAT32_PRODUCTS = "ieee"
"""How float32 rows are multiplied on NVIDIA cards: "ieee", or "tf32x3", three products on the matrix units."""
ROW_BLOCKS: dict[str, Any] = {"BLOCK_ROWS": 16, "BLOCK_DIM": 128, "num_warps": 4}
HALF_TILE = tl.bfloat16
"""What the tiles of gradients of half-precision rows are rounded to: float16 lacks the range."""


def _inverse_norms(x: Tensor, unit_from: int) -> Tensor:
    """(N,) inverse norms; rows from ``unit_from`` on count as unit rows."""
    out = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    if x.shape[0] > 0:
        grid = (triton.cdiv(x.shape[0], ROW_BLOCKS["BLOCK_ROWS"]),)
        inverse_norms_kernel[grid](x, out, x.shape[0], unit_from, x.shape[1], **ROW_BLOCKS, **LAUNCH_OPTIONS)
    return out


def _project(grad: Tensor, x: Tensor, norms: Tensor, out: Tensor) -> None:
    rows = grad.shape[0]
    grid = (triton.cdiv(rows, ROW_BLOCKS["BLOCK_ROWS"]),)
    project_kernel[grid](grad, x, norms, out, rows, x.shape[1], **ROW_BLOCKS, **LAUNCH_OPTIONS)


def forward(
    anchors: Tensor,
    keys: Tensor,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    grad_keys: int,
    temperature: float,
    margin: float,
    ignore: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, logsumexps, counts of positives and sums of pulls, each (N,) float32, for contiguous rows of one dtype."""
    n, dim = anchors.shape
    losses, lses, counts, pulls = (torch.empty(n, dtype=torch.float32, device=anchors.device) for _ in range(4))
    b = blocks(anchors.dtype, dim)
    with torch.cuda.device_of(anchors):
        norms, key_norms = _inverse_norms(anchors, n), _inverse_norms(keys, grad_keys)
        forward_kernel[(triton.cdiv(n, b.own),)](
            anchors, keys, norms, key_norms, labels, key_labels, groups, key_groups, losses, lses, counts, pulls,
            n, keys.shape[0], dim, ignore, 1 / temperature, margin,
            ATTRIBUTES=groups.shape[1], OWN=b.own, OTHER=b.other, INNER=b.inner,
            num_warps=b.warps, num_stages=b.stages, **LAUNCH_OPTIONS,
        )  # fmt: skip
    return losses, lses, counts, pulls


def backward(
    grad: Tensor,
    anchors: Tensor,
    keys: Tensor,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    lses: Tensor,
    counts: Tensor,
    pulls: Tensor,
    grad_anchors: Tensor,
    grad_keys: Tensor,
    temperature: float,
    margin: float,
    ignore: int,
) -> None:
    """Write the gradients of the anchors, and of the first rows of the keys, as many as ``grad_keys`` has."""
    dim = anchors.shape[1]
    b = blocks(anchors.dtype, dim)
    tile = tl.float32 if anchors.dtype == torch.float32 else HALF_TILE
    with torch.cuda.device_of(anchors):
        norms = _inverse_norms(anchors, anchors.shape[0])
        key_norms = _inverse_norms(keys, grad_keys.shape[0])
        of_anchors = (anchors, keys, norms, key_norms, labels, key_labels, groups, key_groups)
        of_keys = (keys, anchors, key_norms, norms, key_labels, labels, key_groups, groups)
        for target, pairs in ((grad_anchors, of_anchors), (grad_keys, of_keys)):
            (own, other, own_norms), rows = pairs[:3], target.shape[0]
            if rows == 0:
                continue
            of_unit_rows = torch.empty(rows, dim, dtype=torch.float32, device=own.device)
            backward_kernel[(triton.cdiv(rows, b.own), triton.cdiv(dim, b.out))](
                *pairs, grad, lses, counts, pulls, of_unit_rows, rows, other.shape[0], dim, ignore, 1 / temperature, margin,
                OF_KEYS=pairs is of_keys, ATTRIBUTES=groups.shape[1], OWN=b.own, OTHER=b.other, INNER=b.inner, OUT=b.out,
                TILE=tile, num_warps=b.warps, num_stages=b.stages, **LAUNCH_OPTIONS,
            )  # fmt: skip
            _project(of_unit_rows, own, own_norms, target)
