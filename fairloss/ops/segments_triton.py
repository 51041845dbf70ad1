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

__all__ = ["blocks", "totals"]

ROWS = 1024
"""Rows a program, until there are ``MAX_PROGRAMS`` of them."""
MAX_PROGRAMS = 256


@triton.jit(do_not_specialize=["n", "steps", "groups"])
def segment_kernel(values, slots, counts, sums, n, steps, groups, columns, WIDE: tl.constexpr,
                   BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_F: tl.constexpr):  # fmt: skip
    """(programs, G) counts and (programs, G, F) sums of values."""
    program = tl.program_id(0)
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    f = tl.program_id(2) * BLOCK_F + tl.arange(0, BLOCK_F)
    count = tl.zeros((BLOCK_G,), WIDE)
    total = tl.zeros((BLOCK_G, BLOCK_F), WIDE)
    for step in range(steps):
        row = tl.cast(program, tl.int64) * steps * BLOCK_N + step * BLOCK_N + tl.arange(0, BLOCK_N)
        slot = tl.load(slots + row, mask=row < n, other=-1)
        inside = (row[:, None] < n) & (f[None, :] < columns)
        v = tl.load(values + row[:, None] * columns + f[None, :], mask=inside, other=0.0).to(WIDE)
        mine = slot[:, None] == g[None, :]
        count += tl.sum(tl.where(mine, 1.0, 0.0).to(WIDE), 0)
        total += tl.sum(tl.where(mine[:, :, None], v[:, None, :], 0.0), 0)
    if tl.program_id(2) == 0:
        tl.store(counts + program * groups + g, count, mask=g < groups)
    out = sums + program.to(tl.int64) * groups * columns + (g[:, None] * columns + f[None, :])
    inside = (g[:, None] < groups) & (f[None, :] < columns)
    tl.store(out, total, mask=inside)


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
    grid = (programs, triton.cdiv(groups, b["BLOCK_G"]), triton.cdiv(columns, b["BLOCK_F"]))
    wide = tl.float64 if dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(values):
        segment_kernel[grid](values, slots, counts, sums, n, steps, groups, columns, WIDE=wide, **b, **LAUNCH_OPTIONS)
    if programs > 1:
        sums, counts = sums.sum(0, keepdim=True), counts.sum(0, keepdim=True)
    return sums[0].to(values.dtype), counts[0].to(values.dtype)
