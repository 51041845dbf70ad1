"""The cross-group contrastive loss as tiles: Triton kernels behind :mod:`fairloss.ops.contrastive`.

A program owns a block of anchors (in the backward pass also a block of keys) and walks over the other side, a tile of
similarities at a time; what leaves the chip is O(N): logsumexp, counts and sums of pulls. Few blocks against a long other side
are split into parts of it, whose results are added in a fixed order. The inverse norms multiply the products, so that
half-precision rows enter the matrix units exactly. Similarities accumulate in float32; float32 rows use IEEE products, never
tf32. The tiles of gradients are rounded to bfloat16 for half-precision rows (float16 would flush the weights of a mean over
many anchors to zero). No atomics: the same input gives the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairloss.ops.contrastive_rows_triton import project
from fairloss.ops.dispatch import LAUNCH_OPTIONS

__all__ = ["Blocks", "backward", "blocks", "forward"]

HALF_TILE = tl.bfloat16
"""What the tiles of gradients of half-precision rows are rounded to: float16 lacks the range."""
FLOAT32_PRODUCTS = "ieee"
"""How float32 rows are multiplied on NVIDIA cards: "ieee", or "tf32x3", three products on the matrix units."""
PROGRAMS, LEAST_TILES = 256, 8
"""Programs that a launch should have, and tiles that a part of the other side has at least."""


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


@triton.jit
def _cosines(own, other, own_norm, other_norm, rows, cols, dim,
             OWN: tl.constexpr, OTHER: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """(OWN, OTHER) tile of cosines; the pointers are those of the tile's first rows, ``rows`` and ``cols`` what is left."""
    row, col = tl.arange(0, OWN)[:, None], tl.arange(0, OTHER)[None, :]
    products = tl.zeros((OWN, OTHER), tl.float32)
    for start in range(0, dim, INNER):
        inner = start + tl.arange(0, INNER)
        a = tl.load(own + (row * dim + inner[None, :]), mask=(row < rows) & (inner[None, :] < dim), other=0.0)
        b = tl.load(other + (col * dim + inner[:, None]), mask=(col < cols) & (inner[:, None] < dim), other=0.0)
        products = tl.dot(a, b, products, input_precision=PRECISION)
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


@triton.jit
def _joined(tops, totals, counts, at, inside, n, parts, OWN: tl.constexpr):
    """Logsumexp over negatives and count of positives of the anchors ``at``, from the parts of the keys in order."""
    top = tl.full((OWN,), float("-inf"), tl.float32)
    total = tl.zeros((OWN,), tl.float32)
    count = tl.zeros((OWN,), tl.float32)
    for part in range(parts):
        place = tl.cast(part, tl.int64) * n + at
        other = tl.load(tops + place, mask=inside, other=float("-inf"))
        higher = tl.maximum(top, other)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        other_total = tl.load(totals + place, mask=inside, other=0.0)
        total = total * tl.exp(top - base) + other_total * tl.exp(other - base)
        top = higher
        count += tl.load(counts + place, mask=inside, other=0.0)
    empty = total == 0  # not "total > 0", which NaN fails
    return tl.where(empty, float("-inf"), top + tl.log(tl.where(empty, 1.0, total))), count


@triton.jit(do_not_specialize=["n", "m", "ignore", "parts", "span"])
def walk_kernel(anchors, keys, anchor_norms, key_norms, labels, key_labels, groups, key_groups, tops, totals, counts,
                losses, pulls, n, m, dim, ignore, inverse_temperature, margin, parts, span, SECOND: tl.constexpr,
                ATTRIBUTES: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, INNER: tl.constexpr,
                PRECISION: tl.constexpr):  # fmt: skip
    """Over one part of the keys: maximum and sum of exponentials of the negatives and count of positives, (parts, n) each.

    ``SECOND``: the positives' terms against the finished logsumexp, (parts, n).
    """
    first = tl.program_id(0).to(tl.int64) * OWN
    part = tl.program_id(1)
    rows = _left(n, first, OWN)
    row, col = tl.arange(0, OWN), tl.arange(0, OTHER)
    norm = tl.load(anchor_norms + first + row, mask=row < rows, other=0.0)
    label = tl.load(labels + first + row, mask=row < rows, other=0)
    top = tl.full((OWN,), float("-inf"), tl.float32)
    total = tl.zeros((OWN,), tl.float32)
    count = tl.zeros((OWN,), tl.float32)
    loss = tl.zeros((OWN,), tl.float32)
    pulled = tl.zeros((OWN,), tl.float32)
    if SECOND:
        lse, _ = _joined(tops, totals, counts, first + row, row < rows, n, parts, OWN)
    for step in range(part * span, tl.minimum((part + 1) * span, tl.cdiv(m, OTHER))):
        start = tl.cast(step, tl.int64) * OTHER
        cols = _left(m, start, OTHER)
        key_norm = tl.load(key_norms + start + col, mask=col < cols, other=0.0)
        key_label = tl.load(key_labels + start + col, mask=col < cols, other=0)
        cosines = _cosines(
            anchors + first * dim, keys + start * dim, norm, key_norm, rows, cols, dim, OWN, OTHER, INNER, PRECISION
        )
        takes_part = ((col < cols) & (key_label != ignore))[None, :]
        positive, negative = _relations(
            cosines, label, key_label, groups + first * ATTRIBUTES, key_groups + start * ATTRIBUTES, rows, cols,
            takes_part, margin, ATTRIBUTES, OWN, OTHER,
        )  # fmt: skip
        if SECOND:
            x = lse[:, None] - cosines * inverse_temperature
            e = tl.exp(-tl.abs(x))
            # log(1 + e) with the rounding of 1 + e divided out, so that small terms are not lost.
            u = 1.0 + e
            log1p = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
            loss += tl.sum(tl.where(positive, tl.maximum(x, 0.0) + log1p, 0.0), 1)
            pulled += tl.sum(tl.where(positive, tl.where(x >= 0, 1.0, e) / u, 0.0), 1)
        else:
            s = tl.where(negative, cosines * inverse_temperature, float("-inf"))
            higher = tl.maximum(top, tl.max(s, 1))
            base = tl.where(higher == float("-inf"), 0.0, higher)
            total = total * tl.exp(top - base) + tl.sum(tl.exp(s - base[:, None]), 1)
            top = higher
            count += tl.sum(tl.where(positive, 1.0, 0.0), 1)
    at = part.to(tl.int64) * n + first + row
    if SECOND:
        tl.store(losses + at, loss, mask=row < rows)
        tl.store(pulls + at, pulled, mask=row < rows)
    else:
        tl.store(tops + at, top, mask=row < rows)
        tl.store(totals + at, total, mask=row < rows)
        tl.store(counts + at, count, mask=row < rows)


@triton.jit(do_not_specialize=["n", "parts"])
def join_kernel(tops, totals, counts, losses, pulls, out_losses, out_lses, out_counts, out_pulls, n, parts,
                OWN: tl.constexpr):  # fmt: skip
    """The parts' results, (parts, n), to one per anchor."""
    at = tl.program_id(0).to(tl.int64) * OWN + tl.arange(0, OWN)
    lse, count = _joined(tops, totals, counts, at, at < n, n, parts, OWN)
    loss = tl.zeros((OWN,), tl.float32)
    pulled = tl.zeros((OWN,), tl.float32)
    for part in range(parts):
        place = tl.cast(part, tl.int64) * n + at
        loss += tl.load(losses + place, mask=at < n, other=0.0)
        pulled += tl.load(pulls + place, mask=at < n, other=0.0)
    tl.store(out_losses + at, loss / tl.maximum(count, 1.0), mask=at < n)
    tl.store(out_lses + at, lse, mask=at < n)
    tl.store(out_counts + at, count, mask=at < n)
    tl.store(out_pulls + at, pulled, mask=at < n)


@triton.jit
def _statistics(lses, pulls, counts, grad, at, inside, inverse_temperature):
    """What the backward pass needs of anchors: logsumexp, sum of pulls, and the factor of all their terms."""
    lse = tl.load(lses + at, mask=inside, other=0.0)
    pulled = tl.load(pulls + at, mask=inside, other=0.0)
    count = tl.load(counts + at, mask=inside, other=1.0)
    scale = tl.load(grad + at, mask=inside, other=0.0) * inverse_temperature / tl.maximum(count, 1.0)
    return lse, pulled, scale


@triton.jit(do_not_specialize=["n_own", "n_other", "ignore", "span"])
def backward_kernel(own, other, own_norms, other_norms, labels, other_labels, groups, other_groups,
                    grad, lses, counts, pulls, out, n_own, n_other, dim, ignore, inverse_temperature, margin, span,
                    OF_KEYS: tl.constexpr, ATTRIBUTES: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
                    INNER: tl.constexpr, OUT: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Over one part of the other side: gradient of the unit rows of one, (parts, n_own, dim) float32.

    ``own`` are anchors, or keys with ``OF_KEYS``.
    """
    first = tl.program_id(0).to(tl.int64) * OWN
    rows = _left(n_own, first, OWN)
    row, col = tl.arange(0, OWN), tl.arange(0, OTHER)
    wide = tl.program_id(1) * OUT + tl.arange(0, OUT)[None, :]
    norm = tl.load(own_norms + first + row, mask=row < rows, other=0.0)
    label = tl.load(labels + first + row, mask=row < rows, other=0)
    acc = tl.zeros((OWN, OUT), tl.float32)
    if not OF_KEYS:
        lse, pulled, scale = _statistics(lses, pulls, counts, grad, first + row, row < rows, inverse_temperature)
    part = tl.program_id(2)
    for step in range(part * span, tl.minimum((part + 1) * span, tl.cdiv(n_other, OTHER))):
        start = tl.cast(step, tl.int64) * OTHER
        cols = _left(n_other, start, OTHER)
        other_norm = tl.load(other_norms + start + col, mask=col < cols, other=0.0)
        other_label = tl.load(other_labels + start + col, mask=col < cols, other=0)
        cosines = _cosines(
            own + first * dim, other + start * dim, norm, other_norm, rows, cols, dim, OWN, OTHER, INNER, PRECISION
        )
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
        acc = tl.dot(weight.to(TILE), values.to(TILE), acc, input_precision=PRECISION)
    if not OF_KEYS:
        acc *= scale[:, None]
    out += (part.to(tl.int64) * n_own + first) * dim
    tl.store(out + (row[:, None] * dim + wide), acc, mask=(row[:, None] < rows) & (wide < dim))


def _parts(own: int, other: int, b: Blocks) -> tuple[int, int]:
    """Into how many parts the other side is split, and tiles of each; of the sizes alone, so that bits repeat."""
    tiles = triton.cdiv(other, b.other)
    parts = min(triton.cdiv(PROGRAMS, triton.cdiv(own, b.own)), max(1, tiles // LEAST_TILES))
    span = max(1, triton.cdiv(tiles, parts))
    return max(1, triton.cdiv(tiles, span)), span


def _precision(dtype: torch.dtype) -> str:
    return FLOAT32_PRODUCTS if dtype == torch.float32 else "ieee"


def _sides(rows: Tensor, norms: Tensor, n: int, m: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows and inverse norms of the anchors and of the keys: the anchors are the first keys where no others follow."""
    start = m if rows.shape[0] > m else 0
    return rows[start : start + n], rows[:m], norms[0, start : start + n], norms[0, :m]


def forward(
    rows: Tensor,
    norms: Tensor,
    ids: tuple[Tensor, ...],
    losses: Tensor,
    lses: Tensor,
    counts: Tensor,
    pulls: Tensor,
    temperature: float,
    margin: float,
    ignore: int,
) -> None:
    """Write losses, logsumexps, counts of positives and sums of pulls, each (N,) float32; rows and norms as prepared.

    ``ids``: contiguous labels of anchors and keys, groups of anchors and keys.
    """
    n, m, dim = ids[0].shape[0], ids[1].shape[0], rows.shape[1]
    b = blocks(rows.dtype, dim)
    parts, span = _parts(n, m, b)
    partial = torch.empty(5, parts, n, dtype=torch.float32, device=rows.device)
    with torch.cuda.device_of(rows):
        for second in (False, True):
            walk_kernel[(triton.cdiv(n, b.own), parts)](
                *_sides(rows, norms, n, m), *ids, *partial, n, m, dim, ignore,
                1 / temperature, margin, parts, span, SECOND=second, ATTRIBUTES=ids[2].shape[1],
                OWN=b.own, OTHER=b.other, INNER=b.inner, PRECISION=_precision(rows.dtype),
                num_warps=b.warps, num_stages=b.stages, **LAUNCH_OPTIONS,
            )  # fmt: skip
        results = (losses, lses, counts, pulls)
        join_kernel[(triton.cdiv(n, b.own),)](*partial, *results, n, parts, OWN=b.own, **LAUNCH_OPTIONS)


def backward(
    rows: Tensor,
    norms: Tensor,
    ids: tuple[Tensor, ...],
    grad: Tensor,
    lses: Tensor,
    counts: Tensor,
    pulls: Tensor,
    of_anchors: Tensor,
    of_keys: Tensor | None,
    temperature: float,
    margin: float,
    ignore: int,
) -> None:
    """Write the gradients of the anchors and of the first keys; without ``of_keys`` both are the anchors'."""
    labels, key_labels, groups, key_groups = ids
    n, m, dim = labels.shape[0], key_labels.shape[0], rows.shape[1]
    b = blocks(rows.dtype, dim)
    own_keys = n if of_keys is None else of_keys.shape[0]
    anchors, keys, anchor_norms, key_norms = _sides(rows, norms, n, m)
    of_anchor = (anchors, keys, anchor_norms, key_norms, *ids)
    of_key = (keys, anchors, key_norms, anchor_norms, key_labels, labels, key_groups, groups)
    sides = ((of_anchor, n, m, *_parts(n, m, b)), (of_key, own_keys, n, *_parts(own_keys, n, b)))
    counted = [parts for *_, parts, _ in sides]
    if of_keys is None:  # both sides' parts in a row, to be added up together
        of_both = torch.empty(sum(counted), n, dim, dtype=torch.float32, device=rows.device)
        unit = list(of_both.split(counted))
    else:
        unit = [rows.new_empty(parts, count, dim, dtype=torch.float32) for _, count, _, parts, _ in sides]
    tile = tl.float32 if rows.dtype == torch.float32 else HALF_TILE
    with torch.cuda.device_of(rows):
        for (pairs, count, others, parts, span), out in zip(sides, unit, strict=True):
            if count == 0:
                continue
            backward_kernel[(triton.cdiv(count, b.own), triton.cdiv(dim, b.out), parts)](
                *pairs, grad, lses, counts, pulls, out, count, others, dim, ignore, 1 / temperature, margin, span,
                OF_KEYS=pairs is of_key, ATTRIBUTES=groups.shape[1], OWN=b.own, OTHER=b.other, INNER=b.inner, OUT=b.out,
                TILE=tile, PRECISION=_precision(rows.dtype), num_warps=b.warps, num_stages=b.stages, **LAUNCH_OPTIONS,
            )  # fmt: skip
        if of_keys is None:
            project(of_both, keys, norms, of_anchors)
        else:
            project(unit[0], anchors, norms[:, rows.shape[0] - n :], of_anchors)
            project(unit[1], keys, norms, of_keys)
