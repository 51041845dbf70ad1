"""What FairGRPO takes and refuses: options, batches, and mean rewards that it cannot divide by."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, all_reduce_sum
from fairloss.core.tensor_checks import same_device
from fairloss.groups.ids import check_groups
from fairloss.ops.segments import segment_sums
from fairloss.policy.rewards import INFINITE, Flat, Layout, as_rewards, layout_of
from fairloss.policy.weights import Options, Result, cell_index, lift

__all__ = ["VARIANTS", "Prepared", "check_clusters", "check_mask", "check_means", "check_options", "prepare"]

VARIANTS = ("default", "paper", "released")


class Prepared(NamedTuple):
    """A validated batch: rewards in their layout, and one id a prompt."""

    rewards: Tensor
    layout: Layout
    domains: Tensor
    groups: Tensor
    """(P,), -1 = unknown."""
    conflicts: dict[str, Tensor]
    """Of "groups" and "domains", () bool: do rollouts of one prompt have different ids; empty where that was looked at."""


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
        reward_shift = checks.number("reward_shift", reward_shift)
    options = Options(
        size_power=checks.number("size_power", size_power, minimum=0),
        reward_power=checks.number("reward_power", reward_power, minimum=0),
        max_ratio=None if max_ratio is None else checks.number("max_ratio", max_ratio, minimum=1),
        batch_normalize=bool(batch_normalize),
        variant=checks.choice("variant", variant, VARIANTS),
        eps=checks.number("eps", eps, above=0),
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
    ids = check_groups(groups, num_groups, n, like=rewards).column
    if domains is None:
        if num_domains > 1:
            raise ValueError(f"domains: needed, because num_domains={num_domains}")
        places = torch.zeros_like(ids)
    else:
        places = check_groups(domains, num_domains, n, like=rewards, name="domains").column
    layout, conflicts = layout_of(rewards, prompt_ids), {}
    if isinstance(layout, Flat):
        ids, conflicts["groups"] = _join(ids, layout)
        # Without domains all are 0, those of the empty slots, too, in which nothing is counted.
        if domains is not None:
            places, conflicts["domains"] = _join(places, layout)
    if not validate:
        conflicts = {}
    elif rewards.device.type == "cpu":
        # Shown before any work where that costs no wait for a device; elsewhere check_means looks.
        _refuse_conflicts({name: bool(conflict) for name, conflict in conflicts.items()})
        conflicts = {}
    return Prepared(rewards, layout, places, ids, conflicts)


def check_clusters(clusters: Any, batch: Prepared, num_domains: int) -> tuple[Tensor, Tensor, Tensor]:
    """(labels, share, mean) of discovered groups, with their shapes, dtypes, device and the labels' range checked."""
    if not isinstance(clusters, tuple) or [isinstance(t, Tensor) for t in clusters] != [True] * 3:
        raise TypeError("clusters: three tensors (labels, share, mean) are needed")
    labels, share, mean = clusters
    for name, table in (("share", share), ("mean", mean)):
        if table.ndim != 2 or table.shape != (num_domains, mean.shape[-1]) or not table.dtype.is_floating_point:
            raise ValueError(
                f"clusters: {name} of shape ({num_domains}, K), floating, is needed, {tuple(table.shape)} ({table.dtype}) "
                "was given"
            )
        same_device(f"clusters: {name}", table, "rewards", batch.rewards)
    prompts, k = len(batch.groups), mean.shape[1]
    return check_groups(labels, k, prompts, like=batch.rewards, name="clusters: labels").column, share, mean


def check_mask(mask: Tensor | None, rewards: Tensor) -> None:
    """Raise unless ``mask`` is None or (B, L) real numbers or bools, a row a rollout."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype.is_complex:
        given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask: a tensor of bools or numbers is needed, {given} was given")
    same_device("mask", mask, "rewards", rewards)
    if mask.ndim != 2 or mask.shape[0] != rewards.numel():
        raise ValueError(
            f"mask: shape (B, L) with a row for each of the {rewards.numel()} rollouts is needed, {tuple(mask.shape)} was given"
        )


def _join(ids: Tensor, layout: Flat) -> tuple[Tensor, Tensor]:
    """(B,) ids of rollouts -> (P,) ids of prompts, -1 in empty slots and where rollouts disagree; whether any do."""
    high = ids.new_full((layout.prompts,), -2).scatter_reduce(0, layout.index, ids, "amax")
    low = ids.new_full((layout.prompts,), 2**62).scatter_reduce(0, layout.index, ids, "amin")
    taken = high > -2
    return torch.where((high == low) & taken, high, -1), ((high != low) & taken).any()


def _refuse_conflicts(conflicts: dict[str, bool]) -> None:
    for name, conflict in conflicts.items():
        if conflict:
            raise ValueError(f"{name}: rollouts of one prompt have different ids; all rollouts of a prompt share one")


def check_means(
    result: Result,
    batch: Prepared,
    shift: Tensor | float,
    reward_power: float,
    process_group: ProcessGroup | None,
) -> None:
    """Refuse what :func:`prepare` left to look at, infinite rewards, and means that the method cannot divide by.

    The last are negative ones, and means of exactly 0 among negative rewards, whose weight has no bound; a group that
    earned 0 throughout is fine. Waits for the device once, more often where rewards are negative. With a process group,
    all ranks decide about means by the same numbers, as none may leave the others waiting.

    Raises:
        ValueError: naming the domain and group, and what to do.
    """
    if _sound(result, batch, shift, process_group):
        return
    counts, rollouts, num_groups = result.counts, result.totals[1].sum(1), result.totals.shape[2] - 1
    means = torch.where(counts > 0, lift(result.means, shift), torch.inf)
    domain_means = lift(result.totals[2].sum(1) / rollouts, shift)
    domain_means = torch.where(rollouts > 0, domain_means, torch.inf)
    infinite = ~torch.isfinite(result.totals[2]).all()
    # A cluster's mean is its past's, which may have been 0 throughout; its domain is looked at.
    zero = (means[:, :num_groups] == 0).any() | (domain_means == 0).any()
    negative = (means < 0).any() | (domain_means < 0).any()
    flags = torch.stack([infinite, zero, negative, *batch.conflicts.values()]).tolist()
    _refuse_conflicts(dict(zip(batch.conflicts, flags[3:], strict=True)))
    if flags[0]:
        raise ValueError(INFINITE)
    if reward_power == 0 or not any(flags[1:3]):
        return
    bad, bad_domains = means < 0, domain_means < 0
    if flags[1]:
        below = _negative_rewards(batch, shift, len(means), num_groups, process_group) > 0
        bad[:, :num_groups] |= (means[:, :num_groups] == 0) & below[:, :num_groups]
        bad_domains |= (domain_means == 0) & below.any(1)
    if bool(bad.any()):
        means = torch.where(bad, means, torch.inf)
        cell = int(means.argmin())
        domain, group = divmod(cell, means.shape[1])
        what = f"group {group} of domain {domain}" if group < num_groups else f"a cluster of domain {domain}"
        mean = float(means[domain, group])
    elif bool(bad_domains.any()):
        domain = int(torch.where(bad_domains, domain_means, torch.inf).argmin())
        what, mean = f"domain {domain}", float(domain_means[domain])
    else:
        return
    raise ValueError(
        f"rewards: the mean reward of {what} is {mean + 0.0:.4g}; FairGRPO divides by mean rewards, so a negative one "
        f"would turn the gradient around, and one of 0 among negative rewards gives a weight without bound. Give rewards "
        f">= 0 (0 / 1 for wrong / right in place of -1 / 1, penalties such as KL outside the reward), or "
        f"reward_shift='min' or a number that lifts them, or reward_power=0 to leave means out"
    )


def _sound(result: Result, batch: Prepared, shift: Tensor | float, process_group: ProcessGroup | None) -> bool:
    """Whether a quick look finds nothing to refuse, as in nearly every batch."""
    means = lift(result.means, shift)
    if process_group is None:
        doubtful = (lift(batch.rewards, shift) < 0).any()
    else:  # The other ranks' rewards are not known here, and all have to go on alike.
        doubtful = ((result.totals[1] > 0) & (means[:, : result.totals.shape[2]] == 0)).any()
    for conflict in batch.conflicts.values():
        doubtful = doubtful | conflict
    low, high, doubt = torch.stack([*torch.aminmax(means), doubtful.to(means.dtype)]).tolist()
    # Where no cell is below 0, no domain is. Both comparisons fail for NaN.
    return low >= 0 and high < math.inf and not doubt


def _negative_rewards(
    batch: Prepared, shift: Tensor | float, num_domains: int, num_groups: int, process_group: ProcessGroup | None
) -> Tensor:
    """(D, G + 1) rewards of the batch, of all ranks, that are below 0 after the shift, the unknown groups' last."""
    below = batch.layout.total((lift(batch.rewards, shift) < 0).to(torch.float64))
    slots = torch.where(batch.groups < 0, num_groups, batch.groups)
    cells = cell_index(batch.domains, slots, num_domains, num_groups, num_groups + 1)
    sums = segment_sums(below.unsqueeze(1), cells, (num_domains + 1) * (num_groups + 1))
    return all_reduce_sum(sums, process_group).reshape(num_domains + 1, num_groups + 1)[:num_domains]
