"""A batch as FairGRPO works on it, and what FairGRPO refuses: options, ids, infinite rewards, means it cannot divide by."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sum
from fairloss.core.tensor_checks import floating, real, same_device, shaped, tensor
from fairloss.groups.ids import check_groups
from fairloss.ops.fair_grpo_setting import SHIFTS, VARIANTS, Options
from fairloss.ops.segments import segment_sums
from fairloss.policy.rewards import FINITE, Flat, Rows, check_rewards, torn_rollout
from fairloss.policy.weights import Clusters, Past, Result, add_shift, cell_index

__all__ = [
    "Batch",
    "check_clusters",
    "check_mask",
    "check_options",
    "check_past",
    "check_result",
    "check_scores",
    "prepare_batch",
    "warn_of_one_prompt",
    "warn_of_shift",
]


class Batch(NamedTuple):
    """A checked batch: rewards in their layout, and one id per prompt."""

    rewards: Rows
    domains: Tensor
    groups: Tensor
    """(P,), -1 = unknown."""
    conflicts: dict[str, Tensor]
    """Of "groups", "domains" and "rewards", () bool: do rows of one prompt have different ids, or rows of one rollout
    different rewards; empty where that was looked at."""


def check_options(options: Options) -> Options:
    """The options, each checked by its name."""
    shift = options.reward_shift
    if isinstance(shift, str):
        checks.choice("reward_shift", shift, SHIFTS)
    else:
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
    rollout_ids: Any = None,
    *,
    num_groups: int,
    num_domains: int = 1,
    validate: bool = False,
) -> Batch:
    """Checked rewards and one id per prompt; flat ids, one per row, are joined by prompt."""
    checked = check_rewards(rewards, prompt_ids, rollout_ids)
    n, device = checked.prompts, checked.values.device
    ids = check_groups(groups, num_groups, n, device=device).column
    if domains is None:
        if num_domains > 1:
            raise ValueError(expected("domains", f"ids for num_domains={num_domains}", None))
        places = torch.zeros_like(ids)
    else:
        places = check_groups(domains, num_domains, n, device=device, name="domains").column
    conflicts = {}
    if isinstance(checked, Flat):
        ids, conflicts["groups"] = _join_by_prompt(ids, checked)
        # Without domains all are 0, those of the empty slots, too, in which nothing is counted.
        if domains is not None:
            places, conflicts["domains"] = _join_by_prompt(places, checked)
        if checked.torn is not None:
            conflicts["rewards"] = checked.torn
    if not validate:
        conflicts = {}
    elif device.type == "cpu":
        # Shown before any work where that costs no wait for a device; elsewhere check_result looks.
        _refuse_conflicts({name: bool(conflict) for name, conflict in conflicts.items()})
        conflicts = {}
    return Batch(checked, places, ids, conflicts)


def check_clusters(clusters: Any, batch: Batch, num_domains: int) -> tuple[Tensor, Clusters]:
    """Labels of the prompts, and discovered groups, with their shapes, dtypes, device and the labels' range checked."""
    if not isinstance(clusters, tuple) or len(clusters) != 3:
        raise TypeError(expected("clusters", "three tensors (labels, share, mean)", type(clusters).__name__))
    labels, share, mean = clusters
    for name, table in (("mean", mean), ("share", share)):
        floating(f"clusters: {name}", table, f"({num_domains}, K)", 2)
        shaped(f"clusters: {name}", table, (num_domains, mean.shape[1]))
        same_device(f"clusters: {name}", table, "rewards", batch.rewards.values)
    prompts, k = len(batch.groups), mean.shape[1]
    ids = check_groups(labels, k, prompts, device=batch.rewards.values.device, name="clusters: labels").column
    share = share.to(torch.float64)
    return ids, Clusters(share, mean.to(torch.float64), share)


def check_past(past: Any, num_domains: int, num_groups: int) -> Past | None:
    """Past totals in float64, None for none."""
    if past is None:
        return None
    shape = (7, num_domains + 1, num_groups + 1)
    cure = "as FairGRPOAdvantage.history.totals()"
    totals = shaped("past", tensor("past", past, f"a tensor of shape {shape}"), shape, cure=cure).to(torch.float64)
    return Past(totals, totals.new_full((), math.inf))


def check_mask(mask: Any, rewards: Tensor) -> None:
    """Raise unless ``mask`` is None or (B, L) real numbers or bools, a row for each reward."""
    if mask is None:
        return
    real("mask", mask, "a tensor of bools or numbers")
    same_device("mask", mask, "rewards", rewards)
    if mask.ndim != 2 or mask.shape[0] != rewards.numel():
        wanted = f"shape (B, L) with a row for each of the {rewards.numel()} rewards"
        raise ValueError(expected("mask", wanted, tuple(mask.shape)))


def check_scores(scores: Any, rewards: Tensor) -> Tensor:
    """Scores in the shape, dtype and on the device of checked rewards."""
    same_device("scores", floating("scores", scores), "rewards", rewards)
    return shaped("scores", scores, tuple(rewards.shape)).detach().to(rewards.dtype)


def _join_by_prompt(ids: Tensor, layout: Flat) -> tuple[Tensor, Tensor]:
    """(B,) ids of rows -> (P,) ids of prompts, -1 in empty slots and where rows disagree; whether any do."""
    high = ids.new_full((layout.prompts,), -2).scatter_reduce(0, layout.index, ids, "amax")
    low = ids.new_full((layout.prompts,), 2**62).scatter_reduce(0, layout.index, ids, "amin")
    taken = high > -2
    return torch.where((high == low) & taken, high, -1), ((high != low) & taken).any()


def _refuse_conflicts(conflicts: dict[str, bool]) -> None:
    for name, conflict in conflicts.items():
        if conflict and name == "rewards":
            raise ValueError(torn_rollout())
        if conflict:
            raise ValueError(expected(name, "one id for all rollouts of a prompt", "rollouts that differ in theirs"))


def warn_of_one_prompt(batch: Batch, options: Options, process_group: ProcessGroup | None) -> bool:
    """Warn where the batch, by its shape, holds one prompt and is all that weights are scaled by; whether it did."""
    alone = process_group is None or torch.distributed.get_world_size(process_group) == 1
    acts = options.variant != "default" and not options.batch_normalize
    if not alone or acts or batch.rewards.prompts != 1 or torch.compiler.is_compiling():
        return False
    wanted = "two prompts or more: weights are scaled within the batch"
    cure = "FairGRPOAdvantage(history='cumulative') scales by the run's prompts"
    warnings.warn(expected("rewards", wanted, "one, in which they cancel (plain GRPO)", cure), stacklevel=3)
    return True


def warn_of_shift(result: Result) -> None:
    """``reward_shift="auto"`` does something."""
    cure = "reward_shift=0.0 refuses them, a number shifts by that alone, reward_power=0 leaves means out"
    got = f"{float(result.lowest):.4g}, so that mean rewards are shifted by {float(result.shift):.4g} in weights"
    warnings.warn(expected("rewards", "rewards >= 0 for FairGRPO's means", got, cure), stacklevel=3)


def check_result(result: Result, batch: Batch, options: Options, process_group: ProcessGroup | None) -> bool:
    """Refuse what :func:`prepare_batch` left to look at, infinite rewards, and means that the method cannot divide by.

    The last are negative ones, and means of exactly 0 among negative rewards, whose weight has no bound; a group that
    earned 0 throughout is fine. Waits for the device once, more often where rewards are negative. With a process group,
    all ranks decide about means by the same numbers, as none may leave the others waiting.

    Returns:
        Whether ``reward_shift="auto"`` shifts.

    Raises:
        ValueError: naming the domain and group, and what to do.
    """
    means = add_shift(result.means, result.shift)
    if isinstance(options.reward_shift, str):  # No mean is below the lowest reward.
        doubtful = torch.zeros_like(result.shift, dtype=torch.bool)
    elif process_group is None:
        doubtful = (add_shift(batch.rewards.values, options.reward_shift) < 0).any()
    else:  # The other ranks' rewards are not known here, and all have to go on alike.
        doubtful = ((result.totals[1, :-1] > 0) & (means[:, : result.totals.shape[2]] == 0)).any()
    for conflict in (~torch.isfinite(result.batch[2]).all(), *batch.conflicts.values()):
        doubtful = doubtful | conflict
    # Where no cell is below 0, no domain is. Both comparisons fail for NaN.
    low, high, doubt, shift = torch.stack([*torch.aminmax(means), doubtful.to(means.dtype), result.shift]).tolist()
    if not (low >= 0 and high < math.inf and not doubt):
        _refuse_conflicts({name: bool(conflict) for name, conflict in batch.conflicts.items()})
        if not bool(torch.isfinite(result.batch[2]).all() & torch.isfinite(result.totals[2]).all()):
            raise ValueError(expected("rewards", FINITE, "an infinite one"))
        if options.reward_power != 0:
            _check_means(result, means, batch, process_group, lifted=isinstance(options.reward_shift, str))
    return bool(options.reward_shift == "auto" and shift > 0)


def _check_means(
    result: Result, means: Tensor, batch: Batch, process_group: ProcessGroup | None, *, lifted: bool
) -> None:
    num_groups, rollouts = result.totals.shape[2] - 1, result.totals[1, :-1].sum(1)
    means = torch.where(result.counts > 0, means, torch.inf)
    domain_means = add_shift(result.totals[2, :-1].sum(1) / rollouts, result.shift)
    domain_means = torch.where(rollouts > 0, domain_means, torch.inf)
    bad, bad_domains = means < 0, domain_means < 0
    # A cluster's mean is its past's, which may have been 0 throughout; its domain is looked at.
    if not lifted and bool((means[:, :num_groups] == 0).any() | (domain_means == 0).any()):
        below = _negative_rewards(batch, result.shift, len(means), num_groups, process_group) > 0
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
        "as KL outside the reward), or reward_shift='auto', 'min' or a number that lifts them, or reward_power=0 to leave "
        "means out"
    )
    raise ValueError(expected("rewards", "mean rewards above 0", f"a mean of {mean + 0.0:.4g} for {what}", cure))


def _negative_rewards(
    batch: Batch, shift: Tensor, num_domains: int, num_groups: int, process_group: ProcessGroup | None
) -> Tensor:
    """(D, G + 1) rewards of the batch, of all ranks, that are below 0 after the shift, the unknown groups' last."""
    below = batch.rewards.sum((add_shift(batch.rewards.values, shift) < 0).to(torch.float64))
    slots = torch.where(batch.groups < 0, num_groups, batch.groups)
    cells = cell_index(batch.domains, slots, num_domains, num_groups, num_groups + 1)
    sums = segment_sums(below.unsqueeze(1), cells, (num_domains + 1) * (num_groups + 1))
    return all_reduce_sum(sums, process_group).reshape(num_domains + 1, num_groups + 1)[:num_domains]
