"""Sums and counts by group without atomics: the Triton side of :mod:`fairloss.ops.segments`.

Every program compares its rows' slots with a block of groups and adds what matches; programs over other rows write rows of
their own, which are added in a fixed order. ``index_add`` on a GPU adds in the order in which threads arrive.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fairloss.core.dtypes import statistics_dtype
from fairloss.ops.dispatch import LAUNCH_OPTIONS

__all__ = ["LOOKUP_BLOCK", "blocks", "lookup", "totals"]

ROWS = 1024
"""Rows a program, until there are ``MAX_PROGRAMS`` of them."""
MAX_PROGRAMS = 256
LOOKUP_BLOCK = 1024


@triton.jit(do_not_specialize=["n", "steps", "groups", "column_tiles"])
def segment_kernel(values, slots, counts, sums, n, steps, groups, columns, column_tiles, WIDE: tl.constexpr,
                   BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_F: tl.constexpr):  # fmt: skip
    """(programs, G) counts and (programs, G, F) sums of values; rows are added across lanes once, at the end."""
    program = tl.program_id(0).to(tl.int64) // column_tiles
    tile = tl.program_id(0) % column_tiles
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    f = tile.to(tl.int64) * BLOCK_F + tl.arange(0, BLOCK_F)
    count = tl.zeros((BLOCK_N, BLOCK_G), WIDE)
    total = tl.zeros((BLOCK_N, BLOCK_G, BLOCK_F), WIDE)
    for step in range(steps):
        row = (program * steps + step) * BLOCK_N + tl.arange(0, BLOCK_N)
        slot = tl.load(slots + row, mask=row < n, other=-1)
        inside = (row[:, None] < n) & (f[None, :] < columns)
        v = tl.load(values + row[:, None] * columns + f[None, :], mask=inside, other=0.0).to(WIDE)
        mine = slot[:, None] == g[None, :]
        count += tl.where(mine, 1.0, 0.0).to(WIDE)
        total += tl.where(mine[:, :, None], v[:, None, :], 0.0)
    if tile == 0:
        tl.store(counts + program * groups + g, tl.sum(count, 0), mask=g < groups)
    out = sums + program * groups * columns + (g.to(tl.int64)[:, None] * columns + f[None, :])
    tl.store(out, tl.sum(total, 0), mask=(g[:, None] < groups) & (f[None, :] < columns))


@triton.jit(do_not_specialize=["groups", "total"])
def lookup_kernel(table, slots, out, groups, columns, total, BLOCK: tl.constexpr):
    """Each row's entries of the table, 0 where its slot is no group."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, column = at // columns, at % columns
    slot = tl.load(slots + row, mask=at < total, other=-1)
    known = (slot >= 0) & (slot < groups)
    tl.store(out + at, tl.load(table + slot * columns + column, mask=known, other=0.0), mask=at < total)


def blocks(columns: int) -> dict[str, int]:
    """The tile for values of that many columns."""
    if columns == 1:
        return {"BLOCK_N": 128, "BLOCK_G": 16, "BLOCK_F": 1}
    return {"BLOCK_N": 16, "BLOCK_G": 8, "BLOCK_F": 32 if columns > 8 else 8}


def totals(values: Tensor, slots: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Sums (G, F) and counts (G,) in the dtype of the values, for contiguous (N, F) values and (N,) slots."""
    n, columns = values.shape
    dtype = statistics_dtype(values.dtype)
    b = blocks(columns)
    programs = min(triton.cdiv(n, ROWS), MAX_PROGRAMS)
    steps = triton.cdiv(n, programs * b["BLOCK_N"])
    counts = torch.empty(programs, groups, dtype=dtype, device=values.device)
    sums = torch.empty(programs, groups, columns, dtype=dtype, device=values.device)
    # On the grid's first axis, the one that may be longer than 65,535.
    column_tiles = triton.cdiv(columns, b["BLOCK_F"])
    grid = (programs * column_tiles, triton.cdiv(groups, b["BLOCK_G"]))
    wide = tl.float64 if dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(values):
        segment_kernel[grid](
            values, slots, counts, sums, n, steps, groups, columns, column_tiles, WIDE=wide, **b, **LAUNCH_OPTIONS
        )
    if programs > 1:
        sums, counts = sums.sum(0, keepdim=True), counts.sum(0, keepdim=True)
    return sums[0].to(values.dtype), counts[0].to(values.dtype)


def lookup(table: Tensor, slots: Tensor) -> Tensor:
    """Rows (N, F) of the contiguous table (G, F), 0 where a slot is no group."""
    out = torch.empty(slots.shape[0], table.shape[1], dtype=table.dtype, device=table.device)
    if out.numel() > 0:
        with torch.cuda.device_of(table):
            lookup_kernel[(triton.cdiv(out.numel(), LOOKUP_BLOCK),)](
                table, slots, out, *table.shape, out.numel(), BLOCK=LOOKUP_BLOCK, **LAUNCH_OPTIONS
            )
    return out
