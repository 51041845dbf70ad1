"""A batch as FairGRPO works on it, and what FairGRPO refuses: options, ids, infinite rewards, means it cannot divide by."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sum
from fairloss.core.tensor_checks import floating, real, same_device, shaped, tensor
from fairloss.groups.ids import check_groups
from fairloss.ops.fair_grpo_setting import VARIANTS, Options, fixed_shift
from fairloss.ops.segments import segment_sums
from fairloss.policy.rewards import FINITE, Flat, Layout, check_rewards, layout_of
from fairloss.policy.weights import Clusters, Result, add_shift, cell_index

__all__ = ["Batch", "check_clusters", "check_mask", "check_means", "check_options", "check_past", "prepare_batch"]


class Batch(NamedTuple):
    """A checked batch: rewards in their layout, and one id per prompt."""

    rewards: Tensor
    layout: Layout
    domains: Tensor
    groups: Tensor
    """(P,), -1 = unknown."""
    conflicts: dict[str, Tensor]
    """Of "groups" and "domains", () bool: do rollouts of one prompt have different ids; empty where that was looked at."""


def check_options(options: Options) -> Options:
    """The options, each checked by its name."""
    shift = options.reward_shift
    if isinstance(shift, str):
        checks.choice("reward_shift", shift, ("min",))
    elif shift is not None:
        shift = checks.number("reward_shift", shift)
    checks.choice("variant", options.variant, VARIANTS)
    return Options(
        size_power=checks.number("size_power", options.size_power, minimum=0),
        reward_power=checks.number("reward_power", options.reward_power, minimum=0),
        max_ratio=None if options.max_ratio is None else checks.number("max_ratio", options.max_ratio, minimum=1),
        batch_normalize=checks.flag("batch_normalize", options.batch_normalize),
        reward_shift=shift,
        variant=options.variant,
        eps=checks.number("eps", options.eps, above=0),
    )


def prepare_batch(
    rewards: Any,
    groups: Any,
    domains: Any,
    prompt_ids: Any,
    *,
    num_groups: int,
    num_domains: int = 1,
    validate: bool = False,
) -> Batch:
    """Checked rewards and one id per prompt; flat ids, one per rollout, are joined by prompt."""
    rewards = check_rewards(rewards, prompt_ids)
    n = rewards.shape[0]
    ids = check_groups(groups, num_groups, n, device=rewards.device).column
    if domains is None:
        if num_domains > 1:
            raise ValueError(expected("domains", f"ids for num_domains={num_domains}", None))
        places = torch.zeros_like(ids)
    else:
        places = check_groups(domains, num_domains, n, device=rewards.device, name="domains").column
    layout, conflicts = layout_of(rewards, prompt_ids), {}
    if isinstance(layout, Flat):
        ids, conflicts["groups"] = _join_by_prompt(ids, layout)
        # Without domains all are 0, those of the empty slots, too, in which nothing is counted.
        if domains is not None:
            places, conflicts["domains"] = _join_by_prompt(places, layout)
    if not validate:
        conflicts = {}
    elif rewards.device.type == "cpu":
        # Shown before any work where that costs no wait for a device; elsewhere check_means looks.
        _refuse_conflicts({name: bool(conflict) for name, conflict in conflicts.items()})
        conflicts = {}
    return Batch(rewards, layout, places, ids, conflicts)


def check_clusters(clusters: Any, batch: Batch, num_domains: int) -> tuple[Tensor, Clusters]:
    """Labels of the prompts, and discovered groups, with their shapes, dtypes, device and the labels' range checked."""
    if not isinstance(clusters, tuple) or len(clusters) != 3:
        raise TypeError(expected("clusters", "three tensors (labels, share, mean)", type(clusters).__name__))
    labels, share, mean = clusters
    for name, table in (("mean", mean), ("share", share)):
        floating(f"clusters: {name}", table, f"({num_domains}, K)", 2)
        shaped(f"clusters: {name}", table, (num_domains, mean.shape[1]))
        same_device(f"clusters: {name}", table, "rewards", batch.rewards)
    prompts, k = len(batch.groups), mean.shape[1]
    ids = check_groups(labels, k, prompts, device=batch.rewards.device, name="clusters: labels").column
    return ids, Clusters(share.to(torch.float64), mean.to(torch.float64))


def check_past(past: Any, num_domains: int, num_groups: int) -> Tensor | None:
    """Past totals in float64, None for none."""
    if past is None:
        return None
    shape = (3, num_domains, num_groups + 1)
    return shaped("past", tensor("past", past, f"a tensor of shape {shape}"), shape).to(torch.float64)


def check_mask(mask: Any, rewards: Tensor) -> None:
    """Raise unless ``mask`` is None or (B, L) real numbers or bools, a row for each rollout."""
    if mask is None:
        return
    real("mask", mask, "a tensor of bools or numbers")
    same_device("mask", mask, "rewards", rewards)
    if mask.ndim != 2 or mask.shape[0] != rewards.numel():
        wanted = f"shape (B, L) with a row for each of the {rewards.numel()} rollouts"
        raise ValueError(expected("mask", wanted, tuple(mask.shape)))


def _join_by_prompt(ids: Tensor, layout: Flat) -> tuple[Tensor, Tensor]:
    """(B,) ids of rollouts -> (P,) ids of prompts, -1 in empty slots and where rollouts disagree; whether any do."""
    high = ids.new_full((layout.prompts,), -2).scatter_reduce(0, layout.index, ids, "amax")
    low = ids.new_full((layout.prompts,), 2**62).scatter_reduce(0, layout.index, ids, "amin")
    taken = high > -2
    return torch.where((high == low) & taken, high, -1), ((high != low) & taken).any()


def _refuse_conflicts(conflicts: dict[str, bool]) -> None:
    for name, conflict in conflicts.items():
        if conflict:
            raise ValueError(expected(name, "one id for all rollouts of a prompt", "rollouts that differ in theirs"))


def check_means(
    result: Result, batch: Batch, options: Options, lowest_shift: Tensor | None, process_group: ProcessGroup | None
) -> None:
    """Refuse what :func:`prepare_batch` left to look at, infinite rewards, and means that the method cannot divide by.

    The last are negative ones, and means of exactly 0 among negative rewards, whose weight has no bound; a group that
    earned 0 throughout is fine. Waits for the device once, more often where rewards are negative. With a process group,
    all ranks decide about means by the same numbers, as none may leave the others waiting.

    Raises:
        ValueError: naming the domain and group, and what to do.
    """
    shift = fixed_shift(options) if lowest_shift is None else lowest_shift
    if _sound(result, batch, shift, process_group):
        return
    _refuse_conflicts({name: bool(conflict) for name, conflict in batch.conflicts.items()})
    if not bool(torch.isfinite(result.totals[2]).all()):
        raise ValueError(expected("rewards", FINITE, "an infinite one"))
    if options.reward_power == 0:
        return
    num_groups, rollouts = result.totals.shape[2] - 1, result.totals[1].sum(1)
    means = torch.where(result.counts > 0, add_shift(result.means, shift), torch.inf)
    domain_means = add_shift(result.totals[2].sum(1) / rollouts, shift)
    domain_means = torch.where(rollouts > 0, domain_means, torch.inf)
    bad, bad_domains = means < 0, domain_means < 0
    # A cluster's mean is its past's, which may have been 0 throughout; its domain is looked at.
    if bool((means[:, :num_groups] == 0).any() | (domain_means == 0).any()):
        below = _negative_rewards(batch, shift, len(means), num_groups, process_group) > 0
        bad[:, :num_groups] |= (means[:, :num_groups] == 0) & below[:, :num_groups]
        bad_domains |= (domain_means == 0) & below.any(1)
    if bool(bad.any()):
        domain, group = divmod(int(torch.where(bad, means, torch.inf).argmin()), means.shape[1])
        what = f"group {group} of domain {domain}" if group < num_groups else f"a cluster of domain {domain}"
        mean = float(means[domain, group])
    elif bool(bad_domains.any()):
        domain = int(torch.where(bad_domains, domain_means, torch.inf).argmin())
        what, mean = f"domain {domain}", float(domain_means[domain])
    else:
        return
    cure = (
        "FairGRPO divides by mean rewards, so a negative one would turn the gradient around, and one of 0 among negative "
        "rewards gives a weight without bound. Give rewards >= 0 (0 / 1 for wrong / right in place of -1 / 1, penalties such "
        "as KL outside the reward), or reward_shift='min' or a number that lifts them, or reward_power=0 to leave means out"
    )
    raise ValueError(expected("rewards", "mean rewards above 0", f"a mean of {mean + 0.0:.4g} for {what}", cure))


def _sound(result: Result, batch: Batch, shift: Tensor | float, process_group: ProcessGroup | None) -> bool:
    """Whether a quick look finds nothing to refuse, as in nearly every batch."""
    means = add_shift(result.means, shift)
    if process_group is None:
        doubtful = (add_shift(batch.rewards, shift) < 0).any()
    else:  # The other ranks' rewards are not known here, and all have to go on alike.
        doubtful = ((result.totals[1] > 0) & (means[:, : result.totals.shape[2]] == 0)).any()
    for conflict in batch.conflicts.values():
        doubtful = doubtful | conflict
    low, high, doubt = torch.stack([*torch.aminmax(means), doubtful.to(means.dtype)]).tolist()
    # Where no cell is below 0, no domain is. Both comparisons fail for NaN.
    return low >= 0 and high < math.inf and not doubt


def _negative_rewards(
    batch: Batch, shift: Tensor | float, num_domains: int, num_groups: int, process_group: ProcessGroup | None
) -> Tensor:
    """(D, G + 1) rewards of the batch, of all ranks, that are below 0 after the shift, the unknown groups' last."""
    below = batch.layout.sum((add_shift(batch.rewards, shift) < 0).to(torch.float64))
    slots = torch.where(batch.groups < 0, num_groups, batch.groups)
    cells = cell_index(batch.domains, slots, num_domains, num_groups, num_groups + 1)
    sums = segment_sums(below.unsqueeze(1), cells, (num_domains + 1) * (num_groups + 1))
    return all_reduce_sum(sums, process_group).reshape(num_domains + 1, num_groups + 1)[:num_domains]
