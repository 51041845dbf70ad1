"""FairGRPO advantages in three launches: the Triton side of :mod:`fairloss.ops.advantages`.

1. *score*: every program standardises its prompts and keeps six sums a cell, float64, in its own row of a table;
2. *weigh*: one program adds the rows in a fixed order and turns the sums into weights and the batch's deviation;
3. *apply*: scores times weights, and, on request, the masked (B, L) broadcast beside it.

No atomics: the same rewards give the same bits. The device code is :mod:`fairloss.ops.advantages_device_triton`.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fairloss.ops.advantages import MAX_CELLS, MAX_ROLLOUTS, Setting, programs, table_blocks
from fairloss.ops.advantages_device_triton import apply_kernel, score_kernel, weigh_kernel
from fairloss.ops.dispatch import LAUNCH_OPTIONS

__all__ = ["apply", "score", "weigh"]


def score_blocks(rollouts: int, num_domains: int, width: int) -> dict[str, int]:
    """Tile of the first launch; few sizes, so that few kernels are compiled."""
    block_r = next(size for size in (8, 64, MAX_ROLLOUTS) if rollouts <= size)
    block_c = 32 if (num_domains + 1) * width <= 32 else 128 if (num_domains + 1) * width <= 128 else MAX_CELLS
    return {"BLOCK_Q": max(1, min(32, 2048 // max(block_r, block_c))), "BLOCK_R": block_r, "CELLS": block_c}


def weigh_blocks(num_domains: int, width: int, parts: int) -> dict[str, int]:
    """Tile of the second launch."""
    bd, bw = table_blocks(num_domains, width)
    cells = bd * bw
    return {
        "BD": bd,
        "BW": bw,
        "CHUNK": min(parts, max(1, 4096 // cells)),
        "BITS": 8 if cells <= 16 else 4,
        "num_warps": 4 if cells <= 128 else 8,
    }


APPLY_BLOCKS = {False: {"BLOCK_B": 256, "BLOCK_L": 1}, True: {"BLOCK_B": 4, "BLOCK_L": 1024}}
"""Tile of the third launch, without and with a mask."""


def score(rewards: Tensor, domains: Tensor, slots: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """Launch 1: scores (Q, R) and (programs, 6, D + 1, W) sums, float64."""
    q, r = rewards.shape
    n = programs(setting.num_domains, setting.width)
    scores = torch.empty_like(rewards)
    partials = torch.empty(n, 6, setting.num_domains + 1, setting.width, dtype=torch.float64, device=rewards.device)
    blocks = score_blocks(r, setting.num_domains, setting.width)
    steps = triton.cdiv(q, n * blocks["BLOCK_Q"])
    with torch.cuda.device_of(rewards):
        score_kernel[(n,)](
            rewards, domains, slots, scores, partials, q, steps, r,
            DOMAINS=setting.num_domains, GROUPS=setting.num_groups, WIDTH=setting.width, EPS=setting.eps,
            **blocks, **LAUNCH_OPTIONS,
        )  # fmt: skip
    return scores, partials


def weigh(
    partials: Tensor,
    past: Tensor | None,
    share: Tensor | None,
    mean: Tensor | None,
    shift: Tensor | None,
    setting: Setting,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Launch 2: table, counts, means, totals, batch and the factor of the weighted scores, all float64."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float64, device=partials.device)

    d, g, w = setting.num_domains, setting.num_groups, setting.width
    table, counts, means = empty(d + 1, w), empty(d, w), empty(d, w)
    totals, batch, factor = empty(3, d, g + 1), empty(3, d, g + 1), empty(1)
    p = setting.reward_power
    negative = 0 if p != int(p) else 1 if int(p) % 2 == 0 else -1
    with torch.cuda.device_of(partials):
        weigh_kernel[(1,)](
            partials,
            *(partials if x is None else x for x in (past, share, mean, shift)),
            table, counts, means, totals, batch, factor,
            DOMAINS=d, GROUPS=g, WIDTH=w, PROGRAMS=partials.shape[0], HAS_PAST=past is not None,
            HAS_SHIFT=shift is not None, SHIFT=setting.shift, DECAY=setting.decay, INCLUDE=setting.include_batch,
            VARIANT=setting.variant, NORMALIZE=setting.batch_normalize, MAX_RATIO=setting.max_ratio,
            SIZE_POWER=setting.size_power, REWARD_POWER=p, NEGATIVE_REWARD=negative, EPS=setting.eps,
            **weigh_blocks(d, w, partials.shape[0]), **LAUNCH_OPTIONS,
        )  # fmt: skip
    return table, counts, means, totals, batch, factor


def apply(
    scores: Tensor, domains: Tensor, slots: Tensor, table: Tensor, factor: Tensor, mask: Tensor | None, setting: Setting
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch 3: advantages (Q, R), weights (Q,), and tokens (Q R, L), empty without a mask."""
    q, r = scores.shape
    rows = q * r
    length = 0 if mask is None else mask.shape[1]
    advantages, weights = torch.empty_like(scores), scores.new_empty(q)
    tokens = scores.new_empty(rows if mask is not None else 0, length)
    blocks = APPLY_BLOCKS[mask is not None]
    grid = (triton.cdiv(rows, blocks["BLOCK_B"]), max(1, triton.cdiv(length, blocks["BLOCK_L"])))
    with torch.cuda.device_of(scores):
        apply_kernel[grid](
            scores, domains, slots, table, factor, scores if mask is None else mask, advantages, weights, tokens, rows, r,
            length, DOMAINS=setting.num_domains, GROUPS=setting.num_groups, WIDTH=setting.width,
            HAS_MASK=mask is not None, **blocks, **LAUNCH_OPTIONS,
        )  # fmt: skip
    return advantages, weights, tokens
