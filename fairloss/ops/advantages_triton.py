"""FairGRPO advantages in three launches: the Triton side of :mod:`fairloss.ops.advantages`.

1. *score_prompts*: every program standardizes its prompts and keeps six sums per cell, float64, in its own row of a table;
2. *cell_weights*: one program adds the rows in a fixed order and turns the sums into weights and the batch's deviation;
3. *scale_scores*: scores times weights, and, on request, the masked (B, L) broadcast beside it.

No atomics: the same rewards give the same bits. The device code is :mod:`fairloss.ops.advantages_device_triton`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from fairloss.ops.advantages_device_triton import cell_weights_kernel, scale_scores_kernel, score_prompts_kernel
from fairloss.ops.dispatch import LAUNCH_OPTIONS
from fairloss.ops.fair_grpo_setting import MAX_CELLS, MAX_ROLLOUTS, Setting, fixed_shift, table_blocks

__all__ = ["cell_weights", "scale_scores", "score_prompts"]


def score_blocks(rollouts: int, num_domains: int, width: int) -> dict[str, int]:
    """Tile of the first launch; few sizes, so that few kernels are compiled."""
    block_r = next(size for size in (8, 64, MAX_ROLLOUTS) if rollouts <= size)
    block_c = 32 if (num_domains + 1) * width <= 32 else 128 if (num_domains + 1) * width <= 128 else MAX_CELLS
    return {"BLOCK_Q": max(1, min(32, 2048 // max(block_r, block_c))), "BLOCK_R": block_r, "CELLS": block_c}


def weight_blocks(num_domains: int, width: int, parts: int) -> dict[str, int]:
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


SCALE_BLOCKS = {False: {"BLOCK_B": 256, "BLOCK_L": 1}, True: {"BLOCK_B": 4, "BLOCK_L": 1024}}
"""Tile of the third launch, without and with a mask."""


def score_prompts(
    rewards: Tensor, domains: Tensor, slots: Tensor, scores: Tensor, sums: Tensor, setting: Setting
) -> None:
    """Launch 1: fills scores (Q, R) and sums (programs, 6, D + 1, W)."""
    q, r = rewards.shape
    blocks = score_blocks(r, setting.num_domains, setting.width)
    steps = triton.cdiv(q, len(sums) * blocks["BLOCK_Q"])
    with torch.cuda.device_of(rewards):
        score_prompts_kernel[(len(sums),)](
            rewards, domains, slots, scores, sums, q, steps, r,
            DOMAINS=setting.num_domains, GROUPS=setting.num_groups, WIDTH=setting.width, EPS=setting.options.eps,
            **blocks, **LAUNCH_OPTIONS,
        )  # fmt: skip


def cell_weights(sums: Tensor, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor], setting: Setting) -> None:
    """Launch 2: fills table, counts, means, totals, batch and the factor of the weighted scores, all float64.

    ``inputs`` are past totals, share and mean of the clusters, and the shift, each or None.
    """
    o = setting.options
    negative = 0 if o.reward_power != int(o.reward_power) else 1 if int(o.reward_power) % 2 == 0 else -1
    with torch.cuda.device_of(sums):
        cell_weights_kernel[(1,)](
            sums, *(sums if x is None else x for x in inputs), *outputs,
            DOMAINS=setting.num_domains, GROUPS=setting.num_groups, WIDTH=setting.width, PROGRAMS=len(sums),
            HAS_PAST=inputs[0] is not None, HAS_SHIFT=inputs[3] is not None, SHIFT=fixed_shift(o),
            DECAY=setting.decay, INCLUDE=setting.include_batch, VARIANT=o.variant, NORMALIZE=o.batch_normalize,
            MAX_RATIO=o.max_ratio or 0.0, SIZE_POWER=o.size_power, REWARD_POWER=o.reward_power,
            NEGATIVE_REWARD=negative, EPS=o.eps,
            **weight_blocks(setting.num_domains, setting.width, len(sums)), **LAUNCH_OPTIONS,
        )  # fmt: skip


def scale_scores(
    scores: Tensor,
    domains: Tensor,
    slots: Tensor,
    table: Tensor,
    factor: Tensor,
    mask: Tensor | None,
    outputs: Sequence[Tensor],
    setting: Setting,
) -> None:
    """Launch 3: fills advantages (Q, R), weights (Q,), and tokens (Q R, L), empty without a mask."""
    rows, length = scores.numel(), outputs[2].shape[1]
    blocks = SCALE_BLOCKS[mask is not None]
    grid = (triton.cdiv(rows, blocks["BLOCK_B"]), max(1, triton.cdiv(length, blocks["BLOCK_L"])))
    with torch.cuda.device_of(scores):
        scale_scores_kernel[grid](
            scores, domains, slots, table, factor, scores if mask is None else mask, *outputs, rows, scores.shape[1],
            length, DOMAINS=setting.num_domains, GROUPS=setting.num_groups, WIDTH=setting.width,
            HAS_MASK=mask is not None, **blocks, **LAUNCH_OPTIONS,
        )  # fmt: skip
