"""FairGRPO on tensors: rewards, ids and the totals of the past -> advantages; nothing here waits for the device.

Three steps, each of which reads the rewards at most once:

1. *scores*: GRPO's score of every rollout within its prompt, then six sums for every (domain, group) cell;
2. *cell_weights*: a weight for every cell, from the cells' sums alone (a table of a few dozen numbers);
3. *scaling*: score times the weight of the prompt's cell, over the standard deviation of weighted scores, which follows
   from the sums of step 1 and the weights of step 2.

Because everything between the scores and the advantages is a sum over cells, several processes need one all-reduce of
the sums, and the kernels of :mod:`fairloss.ops.advantages` take one launch per step.

Cells: ``num_domains + 1`` rows, the last for prompts of unknown domain, by ``width`` columns: the ``num_groups`` explicit
groups, one for prompts of unknown group, then the discovered clusters. What is remembered has the first two alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor

from fairloss.core.distributed import ProcessGroup, all_reduce_sums
from fairloss.ops import advantages as fused
from fairloss.ops.dispatch import use_triton
from fairloss.ops.fair_grpo_setting import (
    FORGOTTEN,
    HALF,
    MEAN_FLOOR,
    RECENT,
    ROUNDING,
    WEIGHT_CEILING,
    History,
    Options,
    Setting,
    obstacle,
)
from fairloss.ops.segments import segment_sums
from fairloss.policy.rewards import Rows, Scores

__all__ = ["Clusters", "Past", "Result", "add_shift", "cell_index", "cell_weights", "compute_advantages", "divisor"]

PROMPTS, ROLLOUTS, REWARD, INFORMATIVE, SIGNAL, SQUARED, SINCE = range(7)
"""Prompts, scorable rollouts, sum of rewards; informative prompts, their rollouts, sum of their squared scores; and the
prompts that the last three are of, which in the totals all fade."""


class Past(NamedTuple):
    """What is remembered of earlier batches."""

    totals: Tensor
    """(7, D + 1, G + 1) float64, the sums of :data:`PROMPTS` to :data:`SINCE`."""
    lowest: Tensor
    """() float64: the lowest reward ever seen, +inf before the first."""


class Clusters(NamedTuple):
    """Discovered groups, (D, K) float64: what each cluster has of its domain's unknown prompts, and its mean reward."""

    share: Tensor
    mean: Tensor
    informative: Tensor
    """Each one's share of the informative ones among those prompts."""


class Result(NamedTuple):
    """What one step yields."""

    advantages: Tensor
    """As the rewards."""
    weights: Tensor
    """(P,) weight of each prompt."""
    table: Tensor
    """(D + 1, W) weight of each cell, float64."""
    counts: Tensor
    """(D, W) prompts that each weight rests on, float64."""
    means: Tensor
    """(D, W) mean reward that each weight rests on, float64, before any shift."""
    totals: Tensor
    """(7, D + 1, G + 1) float64 sums as :class:`Past`, this batch included where it counts for its own weights."""
    batch: Tensor
    """(7, D + 1, G + 1) the same of this batch alone, over all ranks."""
    lowest: Tensor
    """() float64: the batch's lowest reward, over all ranks."""
    shift: Tensor
    """() float64: what was added to mean rewards."""
    tokens: Tensor | None = None
    """(B, L) with a mask: each rollout's advantage where its mask is not 0."""


def cell_index(domains: Tensor, slots: Tensor, num_domains: int, num_groups: int, width: int) -> Tensor:
    """(P,) cell of each prompt from its domain (-1 = unknown) and its column."""
    return torch.where(domains < 0, num_domains * width + num_groups, domains.clamp(min=0) * width + slots)


def _sum_by_cell(rewards: Rows, scored: Scores, own: bool, cells: Tensor, shape: tuple[int, int]) -> Tensor:
    """(6, D + 1, W) float64 sums over prompts; ``own``: the scores are not those of the rewards."""
    x = rewards.values
    rollouts = rewards.sum((~torch.isnan(x)).to(torch.float64)) if own else scored.rollouts.to(torch.float64)
    informative = scored.informative.to(torch.float64)
    per_prompt = torch.stack(
        [
            (rollouts > 0).to(torch.float64),
            rollouts,
            rewards.sum(torch.nan_to_num(x.to(torch.float64), nan=0.0, posinf=torch.inf, neginf=-torch.inf)),
            informative,
            informative * scored.rollouts,
            rewards.sum(scored.scores.to(torch.float64).square()),
        ],
        dim=1,
    )  # (P, 6)
    return segment_sums(per_prompt, cells, shape[0] * shape[1]).T.reshape(6, *shape)


def _over_ranks(sums: Tensor, lowest: Tensor, process_group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """Sums and lowest reward of all ranks, in one collective: the lowest ones travel as a sum of one-hot rows."""
    if process_group is None:
        return sums, lowest
    rows = lowest.new_zeros(torch.distributed.get_world_size(process_group))
    rows[torch.distributed.get_rank(process_group)] = lowest.clamp(max=1e300)
    sums, rows = all_reduce_sums([sums, rows], process_group)
    low = rows.amin()
    return sums, torch.where(low < 1e300, low, torch.inf)


def _join_unknown(sums: Tensor, num_groups: int) -> Tensor:
    """(6, D + 1, W) sums -> (7, D + 1, G + 1): discovered clusters and the rest of the unknown join in one column."""
    joined = torch.cat([sums[..., :num_groups], sums[..., num_groups:].sum(-1, keepdim=True)], dim=-1)
    return torch.cat([joined, joined[:1]])


def advanced(past: Tensor, batch: Tensor, history: History, half_life: float) -> Tensor:
    """(7, D + 1, G + 1) totals once a batch is added.

    Under "ema" prompts, rollouts and rewards fade with every prompt. What is known of informative prompts fades with every
    prompt of the same cell: so it follows a group that no longer has any, and a rare group keeps as much of a past.
    """
    if history == "batch":
        return batch
    kept = past[:INFORMATIVE]
    if history == "ema":
        kept = kept * torch.exp2(-batch[PROMPTS].sum() / half_life)
    return torch.cat([kept, past[INFORMATIVE:] * torch.exp2(-batch[PROMPTS] / RECENT)]) + batch


def _of_history(totals: Tensor) -> Tensor:
    """(3, D + 1, G + 1) informative prompts, their rollouts and squared scores among all prompts, at the recent rates."""
    return totals[INFORMATIVE:SINCE] * _ratio(totals[PROMPTS], totals[SINCE])


def _split_unknown(sums: Tensor, num_groups: int, clusters: Clusters | None) -> Tensor:
    """(3, D + 1, G + 1) sums of informative prompts -> (3, D + 1, W): what clusters have of the unknown column."""
    if clusters is None:
        return sums
    placed = torch.nn.functional.pad(sums[:, :-1, num_groups:] * clusters.informative, (0, 0, 0, 1))
    rest = sums[..., num_groups:] - placed.sum(-1, keepdim=True)
    return torch.cat([sums[..., :num_groups], rest, placed], dim=-1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    positive = b > 0
    return torch.where(positive, a / torch.where(positive, b, 1.0), 0.0)


def _average(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of ``values``, each repeated ``counts`` times; where that is 0 a value may be infinite."""
    return _ratio(torch.where(counts > 0, values * counts, 0.0).sum(), counts.sum())


def add_shift(means: Tensor, shift: Tensor | float) -> Tensor:
    """Mean rewards (or rewards) plus ``shift``, 0 where nothing but rounding is left of the sum.

    In float32 -0.1 is less than -0.1, and decayed sums round at every step: a mean that should be 0 would be -1e-9, which
    turns the gradient around, or 1e-9, which is as small as to outweigh everything.
    """
    shifted = means + shift
    size = shift.abs() if isinstance(shift, Tensor) else abs(shift)
    return torch.where(shifted.abs() <= ROUNDING * size, 0.0, shifted)


def _shift(options: Options, bound: Tensor) -> Tensor:
    """What is added to mean rewards, where ``bound`` is the lowest reward."""
    if isinstance(options.reward_shift, float):
        return torch.full_like(bound, options.reward_shift)
    shift = torch.where(torch.isfinite(bound), -bound, 0.0)
    return shift.clamp(min=0) if options.reward_shift == "auto" else shift


def _cell_statistics(totals: Tensor, num_groups: int, clusters: Clusters | None) -> tuple[Tensor, Tensor]:
    """Counts and mean rewards of the cells that a weight can rest on, (D, W); the column of the unknown counts 0."""
    counts, means = totals[PROMPTS, :-1], _ratio(totals[REWARD, :-1], totals[ROLLOUTS, :-1])
    counts = torch.cat([counts[:, :num_groups], torch.zeros_like(counts[:, num_groups:])], dim=1)
    if clusters is None:
        return counts, means
    found = clusters.share * totals[PROMPTS, :-1, num_groups:]
    return torch.cat([counts, found], dim=1), torch.cat([means, clusters.mean], dim=1)


def cell_weights(
    totals: Tensor, counts: Tensor, means: Tensor, informative: Tensor, shift: Tensor, options: Options
) -> Tensor:
    """(D + 1, W) weights from the totals (7, D + 1, G + 1), the cells' counts and means (D, W), and the informative prompts
    (D, W) that they are scaled by.

    Cells with no past, the column of the unknown and the row of unknown domains weigh as much as the informative prompts
    of known cells do on average.
    """
    domain_count = totals[PROMPTS, :-1].sum(1, keepdim=True)
    domain_mean = _ratio(totals[REWARD, :-1].sum(1, keepdim=True), totals[ROLLOUTS, :-1].sum(1, keepdim=True))
    domain_mean, means = add_shift(domain_mean, shift), add_shift(means, shift)
    known = counts > 0
    filled = torch.where(known, counts, 1.0)
    prompts = torch.where(known, informative, 0.0)
    some = prompts.sum() > FORGOTTEN
    if options.variant == "default":

        def log_temperature(n: Tensor, mean: Tensor) -> Tensor:
            return options.size_power * n.log() + options.reward_power * mean.clamp(min=MEAN_FLOOR).log()

        log_t = log_temperature(domain_count.clamp(min=1e-300), domain_mean) + log_temperature(filled, means)
        weights = torch.exp(-log_t)
        if options.max_ratio is not None:
            weights = weights.minimum(options.max_ratio * _weighted_median(weights, prompts))
        average = _average(weights, prompts)
        weights = (weights / torch.where(average > 0, average, 1.0)).clamp(max=WEIGHT_CEILING)
        weights = torch.where(some, weights, 1.0)
        neutral = torch.ones_like(average)
    else:
        t_domain = domain_count.pow(options.size_power) * domain_mean.pow(options.reward_power)
        t_group = filled.pow(options.size_power) * means.pow(options.reward_power)
        if options.variant == "released":
            factor = t_domain.clamp(min=options.eps) * t_group
            # Where dividing would give no finite number, the authors' code leaves the score as it is.
            weights = torch.where(factor.abs() > 0, 1 / torch.where(factor.abs() > 0, factor, 1.0), 1.0)
        else:
            weights = 1 / torch.nan_to_num(t_domain * t_group, nan=0.0).clamp(min=options.eps)
        neutral = _average(weights, prompts)
        neutral = torch.where(neutral > 0, neutral, 1.0)
    weights = torch.where(known, weights, neutral)
    return torch.cat([weights, neutral.expand(1, weights.shape[1])])


def _weighted_median(values: Tensor, counts: Tensor) -> Tensor:
    """The lower median of ``values``, each repeated ``counts`` times."""
    ordered, order = values.reshape(-1).sort()
    below = counts.reshape(-1)[order].cumsum(0)
    position = (below < below[-1] * HALF).sum().clamp(max=ordered.numel() - 1)
    return ordered.gather(0, position.reshape(1)).squeeze(0)


def divisor(prompts: Tensor, rollouts: Tensor, squares: Tensor, eps: float) -> Tensor:
    """Standard deviation (ddof 1) + eps of scores whose mean is 0 within each prompt, from sums that may have decayed.

    Below one prompt what is left of it is divided by as much of R - 1; 1 without any.
    """
    std = (squares / (rollouts - prompts.clamp(max=1)).clamp(min=1e-300)).sqrt()
    return torch.where(prompts > FORGOTTEN, std + eps, 1.0)


def _divisor_in_batch(table: Tensor, sums: Tensor, options: Options) -> Tensor:
    """Standard deviation of the batch's weighted scores, which its sums (6, D + 1, W) and the weights give."""
    std = ((table.square() * sums[SQUARED]).sum() / (sums[ROLLOUTS].sum() - 1).clamp(min=1)).sqrt()
    return torch.where(std > 0, std, torch.inf) if options.variant == "paper" else std + options.eps


def compute_advantages(
    rewards: Rows,
    domains: Tensor,
    slots: Tensor,
    setting: Setting,
    *,
    past: Past | None = None,
    clusters: Clusters | None = None,
    scores: Tensor | None = None,
    process_group: ProcessGroup | None = None,
    mask: Tensor | None = None,
) -> Result:
    """Advantages of one batch; the pure function under :class:`fairloss.FairGRPOAdvantage`.

    Args:
        rewards: floating rewards and their layout.
        domains: (P,) int64, -1 = unknown; P = Q, or B slots of which the last may be empty.
        slots: (P,) int64: 0 .. G-1 the explicit groups, G = unknown, G + 1 + k the discovered cluster k.
        setting: sizes, the method's choices, and what the batch does to the past.
        past: what is remembered; None for nothing.
        clusters: the K discovered clusters of each domain.
        scores: as the rewards, in place of GRPO's scores; NaN where there is none.
        process_group: sums run over all its ranks, each of which holds its own prompts.
        mask: (B, L), a row per rollout: also return ``tokens``.
    """
    num_domains, num_groups, width, options = setting[:4]
    x = rewards.values
    unfit = obstacle(x, num_domains, width, scores is not None)
    if use_triton("fair_grpo_advantages", x.device, unfit, dtype=x.dtype, size=x.numel()):
        numbers = setting.flat()
        score, sums, lows = fused.score_prompts(x, domains, slots, *numbers)
        if process_group is not None:
            sums, low = _over_ranks(sums.sum(0, keepdim=True), lows.amin(), process_group)
            lows = low.reshape(1)
        found = fused.cell_weights(sums, lows, list(past or ()), list(clusters or ()), *numbers)
        table, counts, means, totals, batch, lowest, shift, factor = found
        advantages, weights, tokens = fused.scale_scores(score, domains, slots, table, factor, mask, *numbers)
        made = None if mask is None else tokens
        return Result(advantages, weights, table, counts, means, totals, batch, lowest, shift, made)
    cells = cell_index(domains, slots, num_domains, num_groups, width)
    scored = rewards.scores(options.eps, options.variant) if scores is None else rewards.given(scores)
    sums = _sum_by_cell(rewards, scored, scores is not None, cells, (num_domains + 1, width))
    sums, lowest = _over_ranks(sums, rewards.lowest(), process_group)
    batch = _join_unknown(sums, num_groups)
    totals, bound = batch, lowest
    if past is not None:
        if setting.include_batch:
            totals = advanced(past.totals, batch, setting.history, setting.half_life)
            bound = lowest if setting.history == "batch" else torch.minimum(past.lowest, lowest)
        else:
            totals, bound = past
    counts, means = _cell_statistics(totals, num_groups, clusters)
    shift = _shift(options, bound)
    signal = _split_unknown(_of_history(totals), num_groups, clusters) if setting.by_history else sums[INFORMATIVE:]
    informative = signal[0, :-1]
    if not setting.by_history:
        # Without an informative prompt all scores are 0; the weights still compare groups, over the prompts that are there.
        known = counts > 0
        there = torch.where(known, informative, 0.0).sum() > 0
        informative = torch.where(there, informative, sums[PROMPTS, :-1])
    table = cell_weights(totals, counts, means, informative, shift, options)
    weights = table.reshape(-1)[cells].to(x.dtype)
    advantages = scored.scores * rewards.to_rollouts(weights)
    if options.batch_normalize:
        if setting.by_history:
            std = divisor(signal[0].sum(), signal[1].sum(), (table.square() * signal[2]).sum(), options.eps)
        else:
            std = _divisor_in_batch(table, sums, options)
        advantages = advantages / std.to(advantages.dtype)
    advantages = rewards.to_rows(advantages)
    tokens = None if mask is None else torch.where(mask != 0, advantages.reshape(-1, 1), 0.0)
    return Result(advantages, weights, table, counts, means, totals, batch, lowest, shift, tokens)
