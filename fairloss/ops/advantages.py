"""FairGRPO advantages of rows of rewards as three ops, each one Triton launch; the eager code is in fairloss.policy.weights.

The ops divide the work as the eager code does: what several processes have to add up lies between the first and the second.
They exist for the kernels alone; where those do not run, the eager code is plain tensor code, which torch.compile fuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MAX_CELLS", "MAX_ROLLOUTS", "Setting", "apply", "obstacle", "programs", "score", "weigh"]

MAX_CELLS = 512
"""Cells of the padded table that one program can weigh (:func:`table_blocks`)."""
MAX_ROLLOUTS = 1024


class Setting(NamedTuple):
    """What is compiled into the kernels: sizes and the method's choices."""

    num_domains: int
    num_groups: int
    width: int
    eps: float
    size_power: float = 0.5
    reward_power: float = 1.0
    max_ratio: float = 0.0
    """0 for no cap."""
    batch_normalize: bool = True
    variant: str = "default"
    decay: float = 1.0
    include_batch: bool = True
    shift: float = 0.0


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


def _setting(sizes: Sequence[int], numbers: Sequence[float], variant: str) -> Setting:
    d, g, w, normalize, include = sizes
    eps, size_power, reward_power, max_ratio, decay, shift = numbers
    return Setting(
        d, g, w, eps, size_power, reward_power, max_ratio, bool(normalize), variant, decay, bool(include), shift
    )


def _flat(s: Setting) -> tuple[list[int], list[float], str]:
    # Custom ops take lists of numbers, not named tuples.
    sizes = [s.num_domains, s.num_groups, s.width, int(s.batch_normalize), int(s.include_batch)]
    return sizes, [s.eps, s.size_power, s.reward_power, s.max_ratio, s.decay, s.shift], s.variant


@torch.library.custom_op("fairloss::fair_grpo_score", mutates_args=())
def _score(
    rewards: Tensor, domains: Tensor, slots: Tensor, sizes: Sequence[int], numbers: Sequence[float], variant: str
) -> tuple[Tensor, Tensor]:
    from fairloss.ops import advantages_triton

    ids = domains.contiguous(), slots.contiguous()
    return advantages_triton.score(rewards.contiguous(), *ids, _setting(sizes, numbers, variant))


@_score.register_fake
def _(
    rewards: Tensor, domains: Tensor, slots: Tensor, sizes: Sequence[int], numbers: Sequence[float], variant: str
) -> tuple[Tensor, Tensor]:
    d, _, w = sizes[:3]
    shape = (programs(d, w), 6, d + 1, w)
    scores = torch.empty_like(rewards, memory_format=torch.contiguous_format)
    return scores, rewards.new_empty(shape, dtype=torch.float64)


@torch.library.custom_op("fairloss::fair_grpo_weigh", mutates_args=())
def _weigh(
    partials: Tensor,
    past: Tensor | None,
    share: Tensor | None,
    mean: Tensor | None,
    shift: Tensor | None,
    sizes: Sequence[int],
    numbers: Sequence[float],
    variant: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    from fairloss.ops import advantages_triton

    past, share, mean, shift = (None if x is None else x.contiguous() for x in (past, share, mean, shift))
    setting = _setting(sizes, numbers, variant)
    return advantages_triton.weigh(partials.contiguous(), past, share, mean, shift, setting)


@_weigh.register_fake
def _(
    partials: Tensor,
    past: Tensor | None,
    share: Tensor | None,
    mean: Tensor | None,
    shift: Tensor | None,
    sizes: Sequence[int],
    numbers: Sequence[float],
    variant: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    d, g, w = sizes[:3]
    table, counts, means = partials.new_empty(d + 1, w), partials.new_empty(d, w), partials.new_empty(d, w)
    return table, counts, means, partials.new_empty(3, d, g + 1), partials.new_empty(3, d, g + 1), partials.new_empty(1)


@torch.library.custom_op("fairloss::fair_grpo_apply", mutates_args=())
def _apply(
    scores: Tensor,
    domains: Tensor,
    slots: Tensor,
    table: Tensor,
    factor: Tensor,
    mask: Tensor | None,
    sizes: Sequence[int],
    numbers: Sequence[float],
    variant: str,
) -> tuple[Tensor, Tensor, Tensor]:
    from fairloss.ops import advantages_triton

    if mask is not None:
        # Read as it is where that is one launch; other dtypes are narrowed first.
        mask = (mask if mask.dtype in (torch.bool, torch.int64) else mask != 0).contiguous()
        mask = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
    ids = domains.contiguous(), slots.contiguous()
    return advantages_triton.apply(scores, *ids, table, factor, mask, _setting(sizes, numbers, variant))


@_apply.register_fake
def _(
    scores: Tensor,
    domains: Tensor,
    slots: Tensor,
    table: Tensor,
    factor: Tensor,
    mask: Tensor | None,
    sizes: Sequence[int],
    numbers: Sequence[float],
    variant: str,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = 0 if mask is None else scores.shape[0] * scores.shape[1]
    tokens = scores.new_empty(rows, 0 if mask is None else mask.shape[1])
    return torch.empty_like(scores), scores.new_empty(scores.shape[0]), tokens


def score(rewards: Tensor, domains: Tensor, slots: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """GRPO's scores (Q, R) and partial sums by cell, (programs, 6, D + 1, W) float64, to be added over the first axis."""
    scores, partials = _score(rewards, domains, slots, *_flat(setting))
    return scores, partials


def weigh(
    partials: Tensor,
    past: Tensor | None,
    share: Tensor | None,
    mean: Tensor | None,
    shift: Tensor | None,
    setting: Setting,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Table (D + 1, W), counts and means (D, W), totals and batch (3, D, G + 1), factor (1,): float64."""
    table, counts, means, totals, batch, factor = _weigh(partials, past, share, mean, shift, *_flat(setting))
    return table, counts, means, totals, batch, factor


def apply(
    scores: Tensor, domains: Tensor, slots: Tensor, table: Tensor, factor: Tensor, mask: Tensor | None, setting: Setting
) -> tuple[Tensor, Tensor, Tensor]:
    """Advantages (Q, R), weights (Q,), and, with a mask (Q R, L), each rollout's advantage on its tokens, else empty."""
    advantages, weights, tokens = _apply(scores, domains, slots, table, factor, mask, *_flat(setting))
    return advantages, weights, tokens
