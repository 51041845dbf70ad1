"""FairGRPO advantages as a function: GRPO's, scaled so that rare and hard groups count more.

Dai et al., "FairGRPO: Fair Reinforcement Learning for Equitable Clinical Reasoning", eqs 1 and 2. With s GRPO's score
within a prompt, N the prompts seen and rbar the mean reward of a domain g and of a group within it,

    T_g = sqrt(N_g) rbar_g,    T_(group, g) = sqrt(N_(group, g)) rbar_(group, g),    A = s / (T_g T_(group, g)) / std(batch).

Where we differ from the paper and from the authors' code, each of which is one argument away:

- The weight 1 / (T_g T_group) is capped at ``max_ratio`` times the median weight of the informative prompts: uncapped, one
  success in a rare group can hold three quarters of the batch's signal. It is then scaled to mean 1 over those prompts,
  because it shrinks as 1 / N and would be overtaken by the eps of the last division (output deviation 0.5 after 10,000 steps).
- Median, mean and std run over the informative prompts of the history, where there is one: over those of the batch, a prompt
  that is alone in its batch would weigh 1, and FairGRPO would be GRPO.
- ``"paper"``: eq 2 to the letter, 1 / max(T_g T_group, eps), no cap.
- ``"released"``: the authors' code clamps T_g alone, leaves a score as it is where T_group is 0, and divides by std + eps.
- Exactly equal rewards score 0 everywhere; the authors' code divides rounding noise by eps. By default rewards that differ by
  no more than 4 eps of their dtype times the largest in size (5e-7 of it in float32) are equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.groups.ids import single_attribute
from fairloss.ops.fair_grpo_setting import Options, RewardShift, Setting, Variant
from fairloss.policy.prepare import (
    check_clusters,
    check_mask,
    check_options,
    check_past,
    check_result,
    prepare_batch,
    warn_of_one_prompt,
    warn_of_shift,
)
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
    rollout_ids: Tensor | None = None,
    past: Tensor | None = None,
    clusters: tuple[Tensor, Tensor, Tensor] | None = None,
    max_ratio: float | None = 10.0,
    batch_normalize: bool = True,
    size_power: float = 0.5,
    reward_power: float = 1.0,
    reward_shift: RewardShift | float = "auto",
    variant: Variant = "default",
    eps: float = 1e-6,
    validate: bool = True,
    process_group: ProcessGroup | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """FairGRPO advantages of one batch, without state.

        A_qi = w_q s_qi / (std + eps),    w_q proportional to 1 / ((N_d N_dg)^size_power (rbar_d rbar_dg)^reward_power)

    s is GRPO's (r - mean) / (std + eps) within the prompt (ddof 1), d and g the prompt's domain and group, N counts prompts
    and rbar averages rewards, std is that of w s (ddof 1): over the batch's scorable rollouts, or, with a ``past``, over the
    rollouts of informative prompts (whose rewards differ), past and present. 0 means no signal: all rollouts of
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
        rollout_ids: (B,) integers, equal for the rows of one rollout of a prompt (turns, say), which count once, have one
            reward, and get one advantage; None where every row is a rollout.
        past: (7, num_domains + 1, num_groups + 1) float64, what earlier batches add, as
            ``FairGRPOAdvantage.history.totals()``: prompts, scorable rollouts and sum of rewards of each domain and group,
            the unknown last; informative prompts, their rollouts and squared scores, and prompts, as far as not faded.
            None: the batch stands alone, and a batch of one prompt, whose weight is 1, gets a warning.
        clusters: (labels, share, mean): for the unknown prompts, (P,) cluster of each (-1 = none), and, (num_domains, K),
            each cluster's share of its domain's unknown prompts and its mean reward.
        max_ratio: cap on a weight, in units of the median weight of the informative prompts; None for no cap.
        batch_normalize: divide by the standard deviation.
        size_power: exponent of N; 0 leaves sizes out.
        reward_power: exponent of the mean rewards; 0 leaves them out.
        reward_shift: added to the mean rewards that enter weights: a number; "auto", minus the lowest reward if that is
            negative, with a warning; or "min", minus the lowest reward.
        variant: "default", "paper" or "released" (the module's first lines say where they differ); ``max_ratio`` is the
            default's alone.
        eps: added to both standard deviations.
        validate: refuse infinite rewards, prompts with two ids, and, where ``reward_shift`` is a number, means that are
            negative, or 0 among negative rewards. Costs one wait for the device (some more where rewards are negative);
            without it, negative means count as zero, and prompts with two ids as unknown.
        process_group: statistics run over all its ranks, each of which holds its own, whole prompts.
        mask: (B, L) bool or 0/1, the tokens of each row in the order of ``rewards.flatten()``: return (B, L), each
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
    sizes = {"num_groups": num_groups, "num_domains": num_domains}
    batch = prepare_batch(rewards, groups, domains, prompt_ids, rollout_ids, **sizes, validate=validate)
    check_mask(mask, batch.rewards.values)
    before = check_past(past, num_domains, num_groups)
    by_history = before is not None and variant == "default"
    with torch.no_grad():
        slots = torch.where(batch.groups < 0, num_groups, batch.groups)
        found: Clusters | None = None
        if clusters is not None:
            labels, found = check_clusters(clusters, batch, num_domains)
            slots = torch.where((batch.groups < 0) & (labels >= 0), num_groups + 1 + labels, slots)
        width = num_groups + 1 + (0 if found is None else found.mean.shape[1])
        setting = Setting(num_domains, num_groups, width, options, by_history=by_history)
        result = compute_advantages(
            batch.rewards,
            batch.domains,
            slots,
            setting,
            past=before,
            clusters=found,
            process_group=process_group,
            mask=mask,
        )
        if validate and check_result(result, batch, options, process_group):
            warn_of_shift(result)
    if not by_history:
        warn_of_one_prompt(batch, options, process_group)
    return result.advantages if result.tokens is None else result.tokens
