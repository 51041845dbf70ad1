"""What FairGRPO's kernels are compiled for: the method's options, sizes of the tables, and the limits of what they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

__all__ = [
    "FORGOTTEN",
    "HALF",
    "HISTORIES",
    "MAX_CELLS",
    "MAX_ROLLOUTS",
    "MEAN_FLOOR",
    "RECENT",
    "ROUNDING",
    "SCALE_BLOCKS",
    "SHIFTS",
    "VARIANTS",
    "WEIGHT_CEILING",
    "History",
    "Options",
    "RewardShift",
    "Setting",
    "Variant",
    "noise",
    "obstacle",
    "programs",
    "score_blocks",
    "setting_of",
    "table_blocks",
    "weight_blocks",
]

Variant = Literal["default", "paper", "released"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
History = Literal["cumulative", "ema", "batch"]
HISTORIES: tuple[History, ...] = get_args(History)
RewardShift = Literal["auto", "min"]
SHIFTS: tuple[RewardShift, ...] = get_args(RewardShift)

MAX_CELLS = 512
"""Cells of the padded table that one program can weigh (:func:`table_blocks`)."""
MAX_ROLLOUTS = 1024

MEAN_FLOOR = 1e-12
"""Below this a mean reward counts as zero. Such a group has earned nothing, so none of its prompts is informative and its
weight, while finite, multiplies zeros."""
ROUNDING = 1e-6
"""A shifted mean that is smaller than this part of the shift is rounding noise: 0."""
WEIGHT_CEILING = 1e30
HALF = 0.5 * (1 - 1e-9)
"""Where counts that have decayed reach half of their sum, whatever their rounding."""
RECENT = 100.0
"""Prompts of a cell after which what is known of how many of them are informative counts half."""
FORGOTTEN = 1e-100
"""Fewer informative prompts than this, after decay, are none: what is left of the other sums would soon be rounding."""


def noise(variant: Variant, dtype: torch.dtype) -> float:
    """Rewards of a prompt whose spread is at most this part of the largest in size are equal: four to eight units in their
    last place, which sums of a few rewards round by. 0 for the formulas of others, where any difference counts.
    """
    return 4 * torch.finfo(dtype).eps if variant == "default" else 0.0


class Options(NamedTuple):
    """The choices of the method; :func:`fairloss.fair_grpo_advantages` says what each means."""

    size_power: float = 0.5
    reward_power: float = 1.0
    max_ratio: float | None = 10.0
    batch_normalize: bool = True
    reward_shift: RewardShift | float = "auto"
    variant: Variant = "default"
    eps: float = 1e-6


class Setting(NamedTuple):
    """What is compiled into the kernels: sizes, the choices of the method, and what a batch does to the past."""

    num_domains: int
    num_groups: int
    width: int
    options: Options = Options()
    history: History = "cumulative"
    half_life: float = 1000.0
    """Prompts after which the past of "ema" counts half."""
    include_batch: bool = True
    """Whether the batch counts in the totals that its own weights rest on."""
    by_history: bool = False
    """Whether weights and deviation are scaled by the informative prompts of those totals; else by the batch's."""

    def flat(self) -> tuple[list[int], list[float]]:
        """As two lists: custom ops take no named tuples."""
        o = self.options
        shift = -1 if isinstance(o.reward_shift, float) else SHIFTS.index(o.reward_shift)
        choices = [VARIANTS.index(o.variant), HISTORIES.index(self.history), shift]
        choices += [int(x) for x in (o.batch_normalize, self.include_batch, self.by_history)]
        amount = o.reward_shift if isinstance(o.reward_shift, float) else 0.0
        numbers = [o.size_power, o.reward_power, o.max_ratio or 0.0, amount, o.eps, self.half_life]
        return [self.num_domains, self.num_groups, self.width, *choices], numbers


def setting_of(whole: Sequence[int], real: Sequence[float]) -> Setting:
    """The setting behind :meth:`Setting.flat`."""
    domains, groups, width, variant, history, shift, normalize, include, by_history = whole
    size_power, reward_power, max_ratio, amount, eps, half_life = real
    reward_shift = amount if shift < 0 else SHIFTS[shift]
    options = Options(
        size_power, reward_power, max_ratio or None, bool(normalize), reward_shift, VARIANTS[variant], eps
    )
    return Setting(domains, groups, width, options, HISTORIES[history], half_life, bool(include), bool(by_history))


def table_blocks(num_domains: int, width: int) -> tuple[int, int]:
    """Rows and columns of the table as padded in the kernels."""
    return _padded(num_domains + 1, (2, 8, 64)), _padded(width, (8, 64, 256))


def _padded(size: int, blocks: tuple[int, ...]) -> int:
    # A loop and no next(generator), which torch 2.6 cannot trace.
    for block in blocks:
        if size <= block:
            return block
    return size


def programs(num_domains: int, width: int) -> int:
    """Programs of the first launch, whatever the batch: the order of the sums depends on nothing but the table's size."""
    rows, columns = table_blocks(num_domains, width)
    return 64 if rows * columns <= 128 else 16


def score_blocks(rollouts: int, num_domains: int, width: int) -> dict[str, int]:
    """Tile of the first launch; few sizes, so that few kernels are compiled."""
    block_r = next(size for size in (8, 64, MAX_ROLLOUTS) if rollouts <= size)
    block_c = 32 if (num_domains + 1) * width <= 32 else 128 if (num_domains + 1) * width <= 128 else MAX_CELLS
    return {"BLOCK_Q": max(1, min(32, 2048 // max(block_r, block_c))), "BLOCK_R": block_r, "CELLS": block_c}


def weight_blocks(num_domains: int, width: int, parts: int) -> dict[str, int]:
    """Tile of the second launch."""
    rows, columns = table_blocks(num_domains, width)
    cells = rows * columns
    chunk, bits, warps = min(parts, max(1, 4096 // cells)), 8 if cells <= 16 else 4, 4 if cells <= 128 else 8
    return {"BD": rows, "BW": columns, "CHUNK": chunk, "BITS": bits, "num_warps": warps}


SCALE_BLOCKS = {False: {"BLOCK_B": 256, "BLOCK_L": 1}, True: {"BLOCK_B": 4, "BLOCK_L": 1024}}
"""Tile of the third launch, without and with a mask."""


def obstacle(rewards: Tensor, num_domains: int, width: int, own_scores: bool = False) -> str | None:
    """Why the kernels do not take this batch, None where they do."""
    if own_scores:
        return "scores were given; the kernel computes GRPO's"
    if rewards.ndim != 2:
        return "the rewards are flat with prompt_ids; the kernel takes rows (Q, R), padded with NaN"
    if rewards.dtype not in (torch.float32, torch.float64):
        return f"the rewards are {rewards.dtype}; the kernel takes float32 and float64"
    if rewards.numel() == 0:
        return "the batch is empty"
    if rewards.shape[1] > MAX_ROLLOUTS:
        return f"a prompt has {rewards.shape[1]} rollouts; the kernel takes up to {MAX_ROLLOUTS}"
    rows, columns = table_blocks(num_domains, width)
    if rows * columns > MAX_CELLS:
        return f"{num_domains} domains of {width} columns fill {rows} x {columns} cells; the kernel takes up to {MAX_CELLS}"
    return None
