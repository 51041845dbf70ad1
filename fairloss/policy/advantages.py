"""FairGRPO advantages as a function: GRPO's, scaled so that rare and hard groups count more.

Dai et al., "FairGRPO: Fair Reinforcement Learning for Equitable Clinical Reasoning", eqs 1 and 2. With s GRPO's score
within a prompt, N the prompts seen and rbar the mean reward of a domain g and of a group within it,

    T_g = sqrt(N_g) rbar_g,    T_(group, g) = sqrt(N_(group, g)) rbar_(group, g),    A = s / (T_g T_(group, g)) / std(batch).

Where we differ from the paper and from the authors' code, each of which is one argument away:

- The weight 1 / (T_g T_group) is capped at ``max_ratio`` times the median weight of the informative prompts: uncapped, one
  success in a rare group can hold three quarters of the batch's signal. It is then scaled to mean 1 over those prompts,
  because it shrinks as 1 / N and would be overtaken by the eps of the last division (output deviation 0.5 after 10,000 steps).
- ``"paper"``: eq 2 to the letter, 1 / max(T_g T_group, eps), no cap.
- ``"released"``: the authors' code clamps T_g alone, leaves a score as it is where T_group is 0, and divides by std + eps.
- Exactly equal rewards score 0 everywhere; the authors' code divides rounding noise by eps.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.groups.ids import single_attribute
from fairloss.ops.fair_grpo_setting import Options, Variant
from fairloss.policy.prepare import check_clusters, check_mask, check_means, check_options, check_past, prepare_batch
from fairloss.policy.rewards import lowest_reward, shift_to_zero
from fairloss.policy.weights import Clusters, compute_advantages

__all__ = ["fair_grpo_advantages"]


def fair_grpo_advantages(
    rewards: Tensor,
    groups: Tensor,
    domains: Tensor | None = None,
    *,
    num_groups: int,
    num_domains: int = 1,
    prompt_ids: Tensor | None = None,
    past: Tensor | None = None,
    clusters: tuple[Tensor, Tensor, Tensor] | None = None,
    max_ratio: float | None = 10.0,
    batch_normalize: bool = True,
    size_power: float = 0.5,
    reward_power: float = 1.0,
    reward_shift: Literal["min"] | float | None = None,
    variant: Variant = "default",
    eps: float = 1e-6,
    validate: bool = True,
    process_group: ProcessGroup | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """FairGRPO advantages of one batch, without state.

        A_qi = w_q s_qi / (std + eps),    w_q proportional to 1 / ((N_d N_dg)^size_power (rbar_d rbar_dg)^reward_power)

    s is GRPO's (r - mean) / (std + eps) within the prompt (ddof 1), d and g the prompt's domain and group, N counts prompts
    and rbar averages rewards, std is the batch's over all scorable rollouts (ddof 1). 0 means no signal: all rollouts of
    the prompt earned the same. Powers (0, 0) without ``batch_normalize`` give GRPO exactly. All rollouts of a prompt share
    one positive weight, so their advantages sum to zero.

    Args:
        rewards: (Q, R), one row of rollouts a prompt, NaN where a rollout is missing or could not be scored: left out of
            every statistic, advantage 0. Or (B,) with ``prompt_ids``, for prompts with different numbers of rollouts.
        groups: (Q,) ids 0 .. num_groups-1, or (B,), the same for all rollouts of a prompt. -1 = unknown: counts for its
            domain, forms no group, and weighs as much as the informative prompts of known groups do on average.
        domains: (Q,) or (B,) ids of domains (data sets, modalities, tasks); groups are nested in them. -1 = unknown.
            May be left out with one domain, whose factor then cancels.
        num_groups: number of groups of the one attribute.
        num_domains: number of domains.
        prompt_ids: (B,) integers, equal for rollouts of one prompt, in any order.
        past: (3, num_domains, num_groups + 1) float64, what earlier batches add to N and rbar: prompts, scorable rollouts
            and sum of rewards of each domain and group, the unknown last; as ``FairGRPOAdvantage.history.totals()``.
        clusters: (labels, share, mean): for the unknown prompts, (P,) cluster of each (-1 = none), and, (num_domains, K),
            each cluster's share of its domain's unknown prompts and its mean reward.
        max_ratio: cap on a weight, in units of the median weight of the informative prompts; None for no cap.
        batch_normalize: divide by the batch's standard deviation.
        size_power: exponent of N; 0 leaves sizes out.
        reward_power: exponent of the mean rewards; 0 leaves them out.
        reward_shift: added to the mean rewards that enter weights: a number, or "min" for minus the lowest reward.
        variant: "default", "paper" or "released" (the module's first lines say where they differ); ``max_ratio`` is the
            default's alone.
        eps: added to both standard deviations.
        validate: refuse infinite rewards, means that are negative, or 0 among negative rewards, and prompts with two ids.
            Costs one wait for the device (some more where rewards are negative); without it, negative means count as zero,
            and prompts with two ids as unknown.
        process_group: statistics run over all its ranks, each of which holds its own, whole prompts.
        mask: (B, L) bool or 0/1, the tokens of each rollout in the order of ``rewards.flatten()``: return (B, L), each
            rollout's advantage on its tokens and 0 elsewhere.

    Returns:
        Advantages in the shape of ``rewards``, or (B, L) with ``mask``; float32 (float64 for float64 rewards), no gradient.

    Raises:
        TypeError: rewards, groups, domains or prompt_ids of another kind.
        ValueError: shapes, ids or options out of range; with ``validate`` the above.

    Note:
        Half-precision rewards are computed in float32. With ``validate=False`` nothing waits for the device and the whole
        compiles with ``fullgraph=True``. A group that is absent, or was never seen, changes nothing.

    Example:
        >>> rewards = torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0]])
        >>> fair_grpo_advantages(rewards, torch.tensor([0, 0, 1]), num_groups=2)[:, 2]
        tensor([ 0.2141, -0.6423,  2.7249])

    Reference:
        Dai et al., FairGRPO: Fair Reinforcement Learning for Equitable Clinical Reasoning, 2025, eqs 1 and 2.
    """
    num_groups = single_attribute(num_groups, "fair_grpo_advantages")
    num_domains = checks.integer("num_domains", num_domains, minimum=1)
    check_process_group(process_group)
    options = check_options(Options(size_power, reward_power, max_ratio, batch_normalize, reward_shift, variant, eps))
    batch = prepare_batch(
        rewards, groups, domains, prompt_ids, num_groups=num_groups, num_domains=num_domains, validate=validate
    )
    check_mask(mask, batch.rewards)
    past = check_past(past, num_domains, num_groups)
    with torch.no_grad():
        shift = shift_to_zero(lowest_reward(batch.rewards, process_group)) if options.reward_shift == "min" else None
        slots = torch.where(batch.groups < 0, num_groups, batch.groups)
        found: Clusters | None = None
        if clusters is not None:
            labels, found = check_clusters(clusters, batch, num_domains)
            slots = torch.where((batch.groups < 0) & (labels >= 0), num_groups + 1 + labels, slots)
        result = compute_advantages(
            batch.rewards,
            batch.domains,
            slots,
            num_domains=num_domains,
            num_groups=num_groups,
            options=options,
            layout=batch.layout,
            past=past,
            clusters=found,
            lowest_shift=shift,
            process_group=process_group,
            mask=mask,
        )
        if validate:
            check_means(result, batch, options, shift, process_group)
    return result.advantages if result.tokens is None else result.tokens
