"""FairGRPO advantages of rows of rewards as three ops, each one Triton launch; the eager code is in fairloss.policy.weights.

The ops divide the work as the eager code does: what several processes have to add up lies between the first and the second.
They exist for the kernels alone; where those do not run, the eager code is plain tensor code, which torch.compile fuses.
Each takes its setting as the two lists of :meth:`fairloss.ops.fair_grpo_setting.Setting.flat`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairloss.ops.fair_grpo_setting import Setting, programs, setting_of

__all__ = ["cell_weights", "scale_scores", "score_prompts"]


def _empty_scores(rewards: Tensor, s: Setting) -> tuple[Tensor, Tensor]:
    shape = (programs(s.num_domains, s.width), 6, s.num_domains + 1, s.width)
    scores = torch.empty_like(rewards, memory_format=torch.contiguous_format)
    return scores, rewards.new_empty(shape, dtype=torch.float64)


@torch.library.custom_op("fairloss::fair_grpo_score_prompts", mutates_args=())
def score_prompts(
    rewards: Tensor, domains: Tensor, slots: Tensor, whole: Sequence[int], real: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """GRPO's scores (Q, R) and partial sums by cell, (programs, 6, D + 1, W) float64, to be added over the first axis."""
    from fairloss.ops import advantages_triton

    setting = setting_of(whole, real)
    scores, sums = _empty_scores(rewards, setting)
    ids = domains.contiguous(), slots.contiguous()
    advantages_triton.score_prompts(rewards.contiguous(), *ids, scores, sums, setting)
    return scores, sums


score_prompts.register_fake(
    lambda rewards, domains, slots, whole, real: _empty_scores(rewards, setting_of(whole, real))
)


def _empty_weights(sums: Tensor, s: Setting) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    d, g, w = s.num_domains, s.num_groups, s.width
    shapes = ((d + 1, w), (d, w), (d, w), (3, d, g + 1), (3, d, g + 1), (1,))
    table, counts, means, totals, batch, factor = (sums.new_empty(shape) for shape in shapes)
    return table, counts, means, totals, batch, factor


@torch.library.custom_op("fairloss::fair_grpo_cell_weights", mutates_args=())
def cell_weights(
    sums: Tensor,
    past: Tensor | None,
    share: Tensor | None,
    mean: Tensor | None,
    shift: Tensor | None,
    whole: Sequence[int],
    real: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Table (D + 1, W), counts and means (D, W), totals and batch (3, D, G + 1), factor (1,): float64."""
    from fairloss.ops import advantages_triton

    setting = setting_of(whole, real)
    outputs = _empty_weights(sums, setting)
    inputs = [None if x is None else x.contiguous() for x in (past, share, mean, shift)]
    advantages_triton.cell_weights(sums.contiguous(), inputs, outputs, setting)
    return outputs


cell_weights.register_fake(
    lambda sums, past, share, mean, shift, whole, real: _empty_weights(sums, setting_of(whole, real))
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
    outputs = _empty_advantages(scores, mask)
    ids = domains.contiguous(), slots.contiguous()
    advantages_triton.scale_scores(scores, *ids, table, factor, mask, outputs, setting_of(whole, real))
    return outputs


scale_scores.register_fake(
    lambda scores, domains, slots, table, factor, mask, whole, real: _empty_advantages(scores, mask)
)
