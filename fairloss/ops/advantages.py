"""FairGRPO advantages of rows of rewards as three ops, each one Triton launch; the eager code is in fairloss.policy.weights.

1. *score_prompts*: every program standardizes its prompts and keeps six sums per cell, float64, in its own row of a table,
   and its lowest reward;
2. *cell_weights*: one program adds the rows in a fixed order, and what is remembered, and turns the sums into weights and the
   deviation of weighted scores;
3. *scale_scores*: scores times weights, and, on request, the masked (B, L) broadcast beside it.

No atomics: the same rewards give the same bits. What several processes have to add up lies between the first and the second.
The ops exist for the kernels alone; where those do not run, the eager code is plain tensor code, which torch.compile fuses.
Each takes its setting as the two lists of :meth:`fairloss.ops.fair_grpo_setting.Setting.flat`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairloss.ops.dispatch import LAUNCH_OPTIONS
from fairloss.ops.fair_grpo_setting import (
    SCALE_BLOCKS,
    Setting,
    noise,
    programs,
    score_blocks,
    setting_of,
    weight_blocks,
)

__all__ = ["cell_weights", "scale_scores", "score_prompts"]


def _empty_scores(rewards: Tensor, s: Setting) -> tuple[Tensor, Tensor, Tensor]:
    parts = programs(s.num_domains, s.width)
    scores = torch.empty_like(rewards, memory_format=torch.contiguous_format)
    sums, lows = (
        rewards.new_empty(shape, dtype=torch.float64) for shape in ((parts, 6, s.num_domains + 1, s.width), (parts,))
    )
    return scores, sums, lows


@torch.library.custom_op("fairloss::fair_grpo_score_prompts", mutates_args=())
def score_prompts(
    rewards: Tensor, domains: Tensor, slots: Tensor, whole: Sequence[int], real: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """GRPO's scores (Q, R); float64 sums by cell to be added, (programs, 6, D + 1, W), and lowest rewards, (programs,)."""
    from fairloss.ops import advantages_triton

    s = setting_of(whole, real)
    scores, sums, lows = _empty_scores(rewards, s)
    q, r = rewards.shape
    blocks = score_blocks(r, s.num_domains, s.width)
    steps = -(-q // (len(sums) * blocks["BLOCK_Q"]))
    with torch.cuda.device_of(rewards):
        advantages_triton.score_prompts_kernel[(len(sums),)](
            rewards.contiguous(), domains.contiguous(), slots.contiguous(), scores, sums, lows, q, steps, r,
            DOMAINS=s.num_domains, GROUPS=s.num_groups, WIDTH=s.width, EPS=s.options.eps,
            NOISE=noise(s.options.variant, rewards.dtype), **blocks, **LAUNCH_OPTIONS,
        )  # fmt: skip
    return scores, sums, lows


score_prompts.register_fake(
    lambda rewards, domains, slots, whole, real: _empty_scores(rewards, setting_of(whole, real))
)


def _empty_weights(sums: Tensor, s: Setting) -> list[Tensor]:
    d, g, w = s.num_domains, s.num_groups, s.width
    remembered = (7, d + 1, g + 1)
    return [sums.new_empty(shape) for shape in ((d + 1, w), (d, w), (d, w), remembered, remembered, (), (), (1,))]


@torch.library.custom_op("fairloss::fair_grpo_cell_weights", mutates_args=())
def cell_weights(
    sums: Tensor,
    lows: Tensor,
    past: Sequence[Tensor],
    clusters: Sequence[Tensor],
    whole: Sequence[int],
    real: Sequence[float],
) -> list[Tensor]:
    """Table (D + 1, W), counts and means (D, W), totals and batch (7, D + 1, G + 1), lowest reward and shift (), factor (1,).

    All float64. ``past`` and ``clusters`` are the tensors of :class:`fairloss.policy.weights.Past` and ``Clusters``, or none.
    """
    from fairloss.ops import advantages_triton

    s = setting_of(whole, real)
    o, outputs, sums = s.options, _empty_weights(sums, s), sums.contiguous()
    # A power that is no whole number has no sign for negative means.
    negative = 0 if o.reward_power != int(o.reward_power) else 1 if int(o.reward_power) % 2 == 0 else -1
    read = [x.contiguous() for x in (*(past or [sums] * 2), *(clusters or [sums] * 3))]
    with torch.cuda.device_of(sums):
        advantages_triton.cell_weights_kernel[(1,)](
            sums, lows, *read, *outputs,
            DOMAINS=s.num_domains, GROUPS=s.num_groups, WIDTH=s.width, PROGRAMS=len(sums), LOWS=len(lows),
            HAS_PAST=len(past) > 0, SHIFT=str(o.reward_shift) if isinstance(o.reward_shift, str) else "number",
            AMOUNT=0.0 if isinstance(o.reward_shift, str) else o.reward_shift, HISTORY=s.history, HALF_LIFE=s.half_life,
            INCLUDE=s.include_batch, BY_HISTORY=s.by_history, VARIANT=o.variant, NORMALIZE=o.batch_normalize,
            MAX_RATIO=o.max_ratio or 0.0, SIZE_POWER=o.size_power, REWARD_POWER=o.reward_power, NEGATIVE_REWARD=negative,
            EPS=o.eps, **weight_blocks(s.num_domains, s.width, len(sums)), **LAUNCH_OPTIONS,
        )  # fmt: skip
    return outputs


cell_weights.register_fake(
    lambda sums, lows, past, clusters, whole, real: _empty_weights(sums, setting_of(whole, real))
)


def _empty_advantages(scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    rows, length = (0, 0) if mask is None else (scores.shape[0] * scores.shape[1], mask.shape[1])
    return torch.empty_like(scores), scores.new_empty(scores.shape[0]), scores.new_empty(rows, length)


@torch.library.custom_op("fairloss::fair_grpo_scale_scores", mutates_args=())
def scale_scores(
    scores: Tensor,
    domains: Tensor,
    slots: Tensor,
    table: Tensor,
    factor: Tensor,
    mask: Tensor | None,
    whole: Sequence[int],
    real: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Advantages (Q, R), weights (Q,), and, with a mask (Q R, L), each rollout's advantage on its tokens, else empty."""
    from fairloss.ops import advantages_triton

    if mask is not None:
        # Read as it is where that is one launch; other dtypes are narrowed first.
        mask = (mask if mask.dtype in (torch.bool, torch.int64) else mask != 0).contiguous()
        mask = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
    s, outputs = setting_of(whole, real), _empty_advantages(scores, mask)
    rows, length, blocks = scores.numel(), outputs[2].shape[1], SCALE_BLOCKS[mask is not None]
    grid = (-(-rows // blocks["BLOCK_B"]), max(1, -(-length // blocks["BLOCK_L"])))
    with torch.cuda.device_of(scores):
        advantages_triton.scale_scores_kernel[grid](
            scores, domains.contiguous(), slots.contiguous(), table, factor, scores if mask is None else mask, *outputs,
            rows, scores.shape[1], length, DOMAINS=s.num_domains, GROUPS=s.num_groups, WIDTH=s.width,
            HAS_MASK=mask is not None, **blocks, **LAUNCH_OPTIONS,
        )  # fmt: skip
    return outputs


scale_scores.register_fake(
    lambda scores, domains, slots, table, factor, mask, whole, real: _empty_advantages(scores, mask)
)
