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

from typing import NamedTuple

import torch
from torch import Tensor

from fairloss import _checks
from fairloss.distributed import ProcessGroup, all_reduce_sum, check_process_group
from fairloss.groups import check_groups, single_attribute
from fairloss.policy.core import Clusters, Options, Result, fair_grpo_core, lift
from fairloss.policy.layout import INFINITE, Flat, Layout, as_rewards, layout_of

__all__ = [
    "VARIANTS",
    "Prepared",
    "check_mask",
    "check_means",
    "check_options",
    "fair_grpo_advantages",
    "lowest_reward",
    "prepare",
]

VARIANTS = ("default", "paper", "released")


class Prepared(NamedTuple):
    """A validated batch: rewards in their layout, and one id a prompt."""

    rewards: Tensor
    layout: Layout
    domains: Tensor
    groups: Tensor
    """(P,), -1 = unknown."""


def check_options(
    size_power: float,
    reward_power: float,
    max_ratio: float | None,
    batch_normalize: bool,
    variant: str,
    eps: float,
    reward_shift: str | float | None,
) -> tuple[Options, str | float | None]:
    """The options, validated."""
    if reward_shift is not None and reward_shift != "min":
        if isinstance(reward_shift, str):
            raise ValueError(f"reward_shift: {reward_shift!r} was given; accepted are None, 'min' and a number")
        reward_shift = _checks.number("reward_shift", reward_shift)
    options = Options(
        size_power=_checks.number("size_power", size_power, minimum=0),
        reward_power=_checks.number("reward_power", reward_power, minimum=0),
        max_ratio=None if max_ratio is None else _checks.number("max_ratio", max_ratio, minimum=1),
        batch_normalize=bool(batch_normalize),
        variant=_checks.choice("variant", variant, VARIANTS),
        eps=_checks.number("eps", eps, above=0),
    )
    return options, reward_shift


def prepare(
    rewards: Tensor,
    groups: Tensor,
    domains: Tensor | None,
    prompt_ids: Tensor | None,
    *,
    num_groups: int,
    num_domains: int,
    validate: bool,
) -> Prepared:
    """Validated rewards and one id a prompt; flat ids, one a rollout, are joined by prompt."""
    rewards = as_rewards(rewards, prompt_ids)
    n = rewards.shape[0]
    ids = check_groups(groups, (num_groups,), n, like=rewards)[:, 0]
    if domains is None:
        if num_domains > 1:
            raise ValueError(f"domains: needed, because num_domains={num_domains}")
        places = torch.zeros_like(ids)
    else:
        places = check_groups(domains, (num_domains,), n, like=rewards, name="domains")[:, 0]
    layout = layout_of(rewards, prompt_ids)
    if isinstance(layout, Flat):
        ids = _join(ids, layout, "groups", validate)
        places = _join(places, layout, "domains", validate)
    return Prepared(rewards, layout, places, ids)


def check_mask(mask: Tensor | None, rewards: Tensor) -> None:
    """Raise unless ``mask`` is None or (B, L) real numbers or bools, a row a rollout."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype.is_complex:
        given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask: a tensor of bools or numbers is needed, {given} was given")
    _checks.same_device("mask", mask, "rewards", rewards)
    if mask.ndim != 2 or mask.shape[0] != rewards.numel():
        raise ValueError(
            f"mask: shape (B, L) with a row for each of the {rewards.numel()} rollouts is needed, {tuple(mask.shape)} was given"
        )


def _join(ids: Tensor, layout: Flat, name: str, validate: bool) -> Tensor:
    """(B,) ids of rollouts -> (P,) ids of prompts; -1 in empty slots and where a prompt's rollouts disagree."""
    high = ids.new_full((layout.prompts,), -2).scatter_reduce(0, layout.index, ids, "amax")
    low = ids.new_full((layout.prompts,), 2**62).scatter_reduce(0, layout.index, ids, "amin")
    if validate and bool(((high != low) & (high > -2)).any()):
        raise ValueError(f"{name}: rollouts of one prompt have different ids; all rollouts of a prompt share one")
    return torch.where((high == low) & (high > -2), high, -1)


def lowest_reward(rewards: Tensor, process_group: ProcessGroup | None) -> Tensor:
    """Smallest scorable reward of all ranks, float64; +inf where there is none."""
    flat = rewards.reshape(-1).to(torch.float64)
    low = torch.where(torch.isnan(flat), torch.inf, flat)
    low = torch.cat([low, low.new_full((1,), torch.inf)]).amin()
    if process_group is None:
        return low
    # A sum of one-hot rows, so that the one collective that the library uses also gives a minimum.
    world = torch.distributed.get_world_size(process_group)
    rows = low.new_zeros(world)
    rows[torch.distributed.get_rank(process_group)] = low.clamp(max=1e300)
    low = all_reduce_sum(rows, process_group).amin()
    return torch.where(low < 1e300, low, torch.inf)


def check_means(result: Result, shift: Tensor | float, reward_power: float) -> None:
    """Refuse infinite rewards, and negative mean rewards where the method divides by them; waits for the device once.

    Raises:
        ValueError: naming the domain and group, and what to do.
    """
    counts, means, totals = result.counts, lift(result.means, shift), result.totals
    domain_means = lift(torch.where(totals[1].sum(1) > 0, totals[2].sum(1) / totals[1].sum(1), 0.0), shift)
    domain_known = totals[1].sum(1) > 0
    infinite = ~torch.isfinite(totals[2]).all()
    negative = ((counts > 0) & (means < 0)).any() | (domain_known & (domain_means < 0)).any()
    if not bool(infinite | (negative & (reward_power != 0))):
        return
    if bool(infinite):
        raise ValueError(INFINITE)
    bad = torch.where((counts > 0) & (means < 0), means, torch.inf)
    if bool(torch.isfinite(bad).any()):
        cell = int(bad.argmin())
        domain, group = divmod(cell, bad.shape[1])
        what = f"group {group} of domain {domain}" if group < totals.shape[2] - 1 else f"a cluster of domain {domain}"
        mean = float(bad.reshape(-1)[cell])
    else:
        domain = int(torch.where(domain_known, domain_means, torch.inf).argmin())
        what, mean = f"domain {domain}", float(domain_means[domain])
    raise ValueError(
        f"rewards: the mean reward of {what} is {mean:.4g}; FairGRPO divides by mean rewards, so a negative one would turn "
        f"the gradient around. Give rewards >= 0 (0 / 1 for wrong / right in place of -1 / 1, penalties such as KL outside "
        f"the reward), or reward_shift='min' or a number that lifts them, or reward_power=0 to leave means out"
    )


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
    reward_shift: str | float | None = None,
    variant: str = "default",
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
        validate: refuse infinite rewards, negative means and prompts with two ids. Costs one wait for the device; without
            it, negative means count as zero, and prompts with two ids as unknown.
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
    num_domains = _checks.integer("num_domains", num_domains, minimum=1)
    check_process_group(process_group)
    options, lift = check_options(size_power, reward_power, max_ratio, batch_normalize, variant, eps, reward_shift)
    batch = prepare(
        rewards, groups, domains, prompt_ids, num_groups=num_groups, num_domains=num_domains, validate=validate
    )
    check_mask(mask, batch.rewards)
    if past is not None and not isinstance(past, Tensor):
        raise TypeError(f"past: a tensor is needed, {type(past).__name__} was given")
    if past is not None and past.shape != (3, num_domains, num_groups + 1):
        raise ValueError(f"past: shape (3, {num_domains}, {num_groups + 1}) is needed, {tuple(past.shape)} was given")
    with torch.no_grad():
        shift: Tensor | float = 0.0
        if lift == "min":
            lowest = lowest_reward(batch.rewards, process_group)
            shift = torch.where(torch.isfinite(lowest), -lowest, 0.0)
        elif lift is not None:
            shift = float(lift)
        slots = torch.where(batch.groups < 0, num_groups, batch.groups)
        found: Clusters | None = None
        if clusters is not None:
            if not isinstance(clusters, tuple) or [isinstance(t, Tensor) for t in clusters] != [True] * 3:
                raise TypeError("clusters: three tensors (labels, share, mean) are needed")
            labels, share, mean = clusters
            found = Clusters(share.to(torch.float64), mean.to(torch.float64))
            slots = torch.where((batch.groups < 0) & (labels >= 0), num_groups + 1 + labels, slots)
        result = fair_grpo_core(
            batch.rewards,
            batch.domains,
            slots,
            None if past is None else past.to(torch.float64),
            num_domains=num_domains,
            num_groups=num_groups,
            options=options,
            layout=batch.layout,
            clusters=found,
            shift=shift,
            process_group=process_group,
            mask=mask,
        )
        if validate:
            check_means(result, shift, options.reward_power)
    return result.advantages if result.tokens is None else result.tokens
