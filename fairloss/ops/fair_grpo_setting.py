"""What FairGRPO's kernels are compiled for: the method's options, sizes of the tables, and the limits of what they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

__all__ = [
    "MAX_CELLS",
    "MAX_ROLLOUTS",
    "SCALE_BLOCKS",
    "VARIANTS",
    "Options",
    "Setting",
    "Variant",
    "fixed_shift",
    "obstacle",
    "programs",
    "score_blocks",
    "setting_of",
    "table_blocks",
    "weight_blocks",
]

Variant = Literal["default", "paper", "released"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

MAX_CELLS = 512
"""Cells of the padded table that one program can weigh (:func:`table_blocks`)."""
MAX_ROLLOUTS = 1024

MEAN_FLOOR = 1e-12
"""Below this a mean reward counts as zero. Such a group has earned nothing, so none of its prompts is informative and its
weight, while finite, multiplies zeros."""
ROUNDING = 1e-6
"""A shifted mean that is smaller than this part of the shift is rounding noise: 0."""
WEIGHT_CEILING = 1e30


class Options(NamedTuple):
    """The choices of the method; :func:`fairloss.fair_grpo_advantages` says what each means."""

    size_power: float = 0.5
    reward_power: float = 1.0
    max_ratio: float | None = 10.0
    batch_normalize: bool = True
    reward_shift: Literal["min"] | float | None = None
    variant: Variant = "default"
    eps: float = 1e-6


class Setting(NamedTuple):
    """What is compiled into the kernels."""

    num_domains: int
    num_groups: int
    width: int
    options: Options
    decay: float
    include_batch: bool

    def flat(self) -> tuple[list[int], list[float]]:
        """As two lists: custom ops take no named tuples."""
        o = self.options
        sizes = [self.num_domains, self.num_groups, self.width]
        choices = [int(self.include_batch), int(o.batch_normalize), VARIANTS.index(o.variant)]
        return sizes + choices, [self.decay, fixed_shift(o), o.size_power, o.reward_power, o.max_ratio or 0.0, o.eps]


def setting_of(whole: Sequence[int], real: Sequence[float]) -> Setting:
    """The setting behind :meth:`Setting.flat`."""
    domains, groups, width, include, normalize, variant = whole
    decay, shift, size_power, reward_power, max_ratio, eps = real
    options = Options(size_power, reward_power, max_ratio or None, bool(normalize), shift, VARIANTS[variant], eps)
    return Setting(domains, groups, width, options, decay, bool(include))


def fixed_shift(options: Options) -> float:
    """What is added to mean rewards where that does not depend on the rewards."""
    return options.reward_shift if isinstance(options.reward_shift, float) else 0.0


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


def obstacle(rewards: Tensor, num_domains: int, width: int) -> str | None:
    """Why the kernels do not take this batch, None where they do."""
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
