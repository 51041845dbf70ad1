"""FairGRPO on tensors: rewards, ids and the totals of the past -> advantages; nothing here waits for the device.

Three steps, each of which reads the rewards at most once:

1. *score_prompts*: GRPO's score of every rollout within its prompt, then six sums for every (domain, group) cell;
2. *cell_weights*: a weight for every cell, from the cells' sums alone (a table of a few dozen numbers);
3. *scale_scores*: score times the weight of the prompt's cell, over the batch's standard deviation, which follows from the
   sums of step 1 and the weights of step 2.

Because everything between the scores and the advantages is a sum over cells, several processes need one all-reduce of
the sums, and the kernels of :mod:`fairloss.ops.advantages` take one launch per step.

Cells: ``num_domains + 1`` rows, the last for prompts of unknown domain, by ``width`` columns: the ``num_groups`` explicit
groups, one for prompts of unknown group, then the discovered clusters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairloss.core.distributed import ProcessGroup, all_reduce_sum
from fairloss.ops import advantages as fused
from fairloss.ops.dispatch import use_triton
from fairloss.ops.fair_grpo_setting import MEAN_FLOOR, ROUNDING, WEIGHT_CEILING, Options, Setting, fixed_shift, obstacle
from fairloss.ops.segments import segment_sums
from fairloss.policy.rewards import Layout, Rows, centered

__all__ = ["Clusters", "Result", "add_shift", "cell_index", "cell_weights", "compute_advantages", "score_prompts"]

PROMPTS, ROLLOUTS, REWARD, INFORMATIVE, SCORE, SCORE_SQUARED = range(6)


class Clusters(NamedTuple):
    """Discovered groups: each one's share of its domain's unknown prompts and its mean reward, both (D, K) float64."""

    share: Tensor
    mean: Tensor


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
    """(3, D, G + 1) prompts, rollouts and sum of rewards, the past included, float64."""
    batch: Tensor
    """(3, D, G + 1) the same of this batch alone, over all ranks."""
    tokens: Tensor | None = None
    """(B, L) with a mask: each rollout's advantage where its mask is not 0."""


class Scores(NamedTuple):
    """GRPO's scores of a batch."""

    scores: Tensor
    """As the rewards."""
    informative: Tensor
    """(P,) bool: do the prompt's rewards differ."""
    rollouts: Tensor
    """(P,) scorable rollouts, in the dtype of the rewards."""


def score_prompts(rewards: Tensor, layout: Layout, eps: float) -> Scores:
    """GRPO's score (r - mean) / (std + eps) within each prompt, ddof 1.

    A prompt with one scorable rollout, or with exactly equal rewards, scores 0: rounding noise over ``eps`` is no signal.
    NaN rewards score 0 and enter nothing.
    """
    deviations, counts = centered(rewards, layout)
    std = (layout.sum(deviations.square()) / (counts - 1).clamp(min=1)).sqrt()
    highest, minus_lowest = (layout.max(torch.where(torch.isnan(x), -torch.inf, x)) for x in (rewards, -rewards))
    informative = highest > -minus_lowest
    scores = torch.where(layout.to_rollouts(informative), deviations / (layout.to_rollouts(std) + eps), 0.0)
    return Scores(scores, informative, counts)


def cell_index(domains: Tensor, slots: Tensor, num_domains: int, num_groups: int, width: int) -> Tensor:
    """(P,) cell of each prompt from its domain (-1 = unknown) and its column."""
    return torch.where(domains < 0, num_domains * width + num_groups, domains.clamp(min=0) * width + slots)


def _sum_by_cell(
    rewards: Tensor,
    layout: Layout,
    scored: Scores,
    cells: Tensor,
    shape: tuple[int, int],
    process_group: ProcessGroup | None,
) -> Tensor:
    """(6, D + 1, W) float64 sums over prompts, of all ranks."""
    wide = scored.scores.to(torch.float64)
    per_prompt = torch.stack(
        [
            (scored.rollouts > 0).to(torch.float64),
            scored.rollouts.to(torch.float64),
            layout.sum(torch.nan_to_num(rewards.to(torch.float64), nan=0.0, posinf=torch.inf, neginf=-torch.inf)),
            scored.informative.to(torch.float64),
            layout.sum(wide),
            layout.sum(wide.square()),
        ],
        dim=1,
    )  # (P, 6)
    sums = segment_sums(per_prompt, cells, shape[0] * shape[1])
    return all_reduce_sum(sums, process_group).T.reshape(6, *shape)


def _join_unknown(sums: Tensor, num_groups: int) -> Tensor:
    """(>= 3, D + 1, W) sums -> (3, D, G + 1): discovered clusters and the rest of the unknown join in one column."""
    known = sums[:3, :-1]
    return torch.cat([known[..., :num_groups], known[..., num_groups:].sum(-1, keepdim=True)], dim=-1)


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
    if isinstance(shift, float) and shift == 0:
        return means
    shifted = means + shift
    size = shift.abs() if isinstance(shift, Tensor) else abs(shift)
    return torch.where(shifted.abs() <= ROUNDING * size, 0.0, shifted)


def _cell_statistics(totals: Tensor, num_groups: int, clusters: Clusters | None) -> tuple[Tensor, Tensor]:
    """Counts and mean rewards of the cells that a weight can rest on, (D, W); the column of the unknown counts 0."""
    counts, means = totals[0].clone(), _ratio(totals[2], totals[1])
    pool = counts[:, num_groups:].clone()
    counts[:, num_groups] = 0.0
    if clusters is not None:
        counts = torch.cat([counts, clusters.share * pool], dim=1)
        means = torch.cat([means, clusters.mean], dim=1)
    return counts, means


def cell_weights(
    totals: Tensor, counts: Tensor, means: Tensor, sums: Tensor, shift: Tensor | float, options: Options
) -> Tensor:
    """(D + 1, W) weights from the totals (3, D, G + 1), the cells' counts and means (D, W) and the batch's sums (6, D + 1, W).

    Cells with no past, the column of the unknown and the row of unknown domains weigh as much as the informative prompts
    of known cells do on average.
    """
    domain_count = totals[0].sum(1, keepdim=True)
    domain_mean = _ratio(totals[2].sum(1, keepdim=True), totals[1].sum(1, keepdim=True))
    domain_mean, means = add_shift(domain_mean, shift), add_shift(means, shift)
    known = counts > 0
    filled = torch.where(known, counts, 1.0)
    prompts = torch.where(known, sums[INFORMATIVE, :-1], 0.0)
    # Without an informative prompt all scores are 0; the weights still compare groups, over the prompts that are there.
    prompts = torch.where(prompts.sum() > 0, prompts, torch.where(known, sums[PROMPTS, :-1], 0.0))
    if options.variant == "default":

        def log_temperature(n: Tensor, mean: Tensor) -> Tensor:
            return options.size_power * n.log() + options.reward_power * mean.clamp(min=MEAN_FLOOR).log()

        log_t = log_temperature(domain_count.clamp(min=1e-300), domain_mean) + log_temperature(filled, means)
        weights = torch.exp(-log_t)
        if options.max_ratio is not None:
            weights = weights.minimum(options.max_ratio * _weighted_median(weights, prompts))
        average = _average(weights, prompts)
        weights = (weights / torch.where(average > 0, average, 1.0)).clamp(max=WEIGHT_CEILING)
    else:
        t_domain = domain_count.pow(options.size_power) * domain_mean.pow(options.reward_power)
        t_group = filled.pow(options.size_power) * means.pow(options.reward_power)
        if options.variant == "released":
            factor = t_domain.clamp(min=options.eps) * t_group
            # Where dividing would give no finite number, the authors' code leaves the score as it is.
            weights = torch.where(factor.abs() > 0, 1 / torch.where(factor.abs() > 0, factor, 1.0), 1.0)
        else:
            weights = 1 / torch.nan_to_num(t_domain * t_group, nan=0.0).clamp(min=options.eps)
    # After the default's scaling this mean is 1 but for rounding; where nothing is informative, it multiplies zeros.
    neutral = _average(weights, prompts)
    neutral = torch.ones_like(neutral) if options.variant == "default" else torch.where(neutral > 0, neutral, 1.0)
    weights = torch.where(known, weights, neutral)
    return torch.cat([weights, neutral.expand(1, weights.shape[1])])


def _weighted_median(values: Tensor, counts: Tensor) -> Tensor:
    """The lower median of ``values``, each repeated ``counts`` times; the smallest where all counts are 0."""
    ordered, order = values.reshape(-1).sort()
    below = counts.reshape(-1)[order].cumsum(0)
    position = (below < below[-1] / 2).sum().clamp(max=ordered.numel() - 1)
    return ordered.gather(0, position.reshape(1)).squeeze(0)


def _over_deviation(advantages: Tensor, table: Tensor, sums: Tensor, options: Options) -> Tensor:
    """Weighted scores over their standard deviation in the batch, which the sums of scores and the weights give."""
    n = sums[ROLLOUTS].sum()
    mean = (table * sums[SCORE]).sum() / n.clamp(min=1)
    square = (table.square() * sums[SCORE_SQUARED]).sum()
    # Scores have zero mean within each prompt, so nothing cancels in this difference.
    std = ((square - n * mean.square()).clamp(min=0) / (n - 1).clamp(min=1)).sqrt()
    if options.variant == "paper":
        return advantages * torch.where(std > 0, 1 / torch.where(std > 0, std, 1.0), 0.0).to(advantages.dtype)
    return advantages / (std + options.eps).to(advantages.dtype)


def compute_advantages(
    rewards: Tensor,
    domains: Tensor,
    slots: Tensor,
    *,
    num_domains: int,
    num_groups: int,
    options: Options,
    layout: Layout | None = None,
    past: Tensor | None = None,
    decay: float = 1.0,
    include_batch: bool = True,
    clusters: Clusters | None = None,
    lowest_shift: Tensor | None = None,
    process_group: ProcessGroup | None = None,
    mask: Tensor | None = None,
) -> Result:
    """Advantages of one batch; the pure function under :class:`fairloss.FairGRPOAdvantage`.

    Args:
        rewards: (Q, R) floating, NaN for a rollout that is missing or could not be scored; or (B,) with a flat ``layout``.
        domains: (P,) int64, -1 = unknown; P = Q, or B slots of which the last may be empty.
        slots: (P,) int64: 0 .. G-1 the explicit groups, G = unknown, G + 1 + k the discovered cluster k.
        num_domains: D.
        num_groups: G.
        options: the method's choices.
        layout: None for rows.
        past: (3, D, G + 1) float64, prompts, rollouts and sum of rewards before this batch.
        decay: factor on ``past`` before the batch is added.
        include_batch: whether the batch counts in the totals that its own weights rest on.
        clusters: share and mean reward of the K discovered clusters of each domain.
        lowest_shift: () float64, what ``reward_shift="min"`` adds to mean rewards; None for the options' number.
        process_group: sums run over all its ranks, each of which holds its own prompts.
        mask: (B, L), a row per rollout: also return ``tokens``.
    """
    width = num_groups + 1 + (0 if clusters is None else clusters.share.shape[1])
    unfit = obstacle(rewards, num_domains, width)
    if use_triton("fair_grpo_advantages", rewards.device, unfit, dtype=rewards.dtype, size=rewards.numel()):
        numbers = Setting(num_domains, num_groups, width, options, decay, include_batch).flat()
        scores, sums = fused.score_prompts(rewards, domains, slots, *numbers)
        if process_group is not None:
            sums = all_reduce_sum(sums.sum(0, keepdim=True), process_group)
        share, mean = (None, None) if clusters is None else clusters
        table, counts, means, totals, batch, factor = fused.cell_weights(
            sums, past, share, mean, lowest_shift, *numbers
        )
        advantages, weights, tokens = fused.scale_scores(scores, domains, slots, table, factor, mask, *numbers)
        return Result(advantages, weights, table, counts, means, totals, batch, None if mask is None else tokens)
    layout = layout if layout is not None else Rows(rewards.shape[0])
    cells = cell_index(domains, slots, num_domains, num_groups, width)
    scored = score_prompts(rewards, layout, options.eps)
    sums = _sum_by_cell(rewards, layout, scored, cells, (num_domains + 1, width), process_group)
    batch = _join_unknown(sums, num_groups)
    totals = batch if past is None else past * decay + batch if include_batch else past
    counts, means = _cell_statistics(totals, num_groups, clusters)
    shift = fixed_shift(options) if lowest_shift is None else lowest_shift
    table = cell_weights(totals, counts, means, sums, shift, options)
    weights = table.reshape(-1)[cells].to(rewards.dtype)
    advantages = scored.scores * layout.to_rollouts(weights)
    if options.batch_normalize:
        advantages = _over_deviation(advantages, table, sums, options)
    tokens = None if mask is None else torch.where(mask != 0, advantages.reshape(-1, 1), 0.0)
    return Result(advantages, weights, table, counts, means, totals, batch, tokens)
