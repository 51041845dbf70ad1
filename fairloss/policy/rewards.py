"""Rewards of prompts as rows of a matrix or as one flat vector: the only two reductions that FairGRPO needs, for both."""

from __future__ import annotations

import torch
from torch import Tensor

from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sum
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import all_inside, on_host, real, same_device, whole

__all__ = [
    "FINITE",
    "Flat",
    "Layout",
    "Rows",
    "centered",
    "check_rewards",
    "layout_of",
    "lowest_reward",
    "shift_to_zero",
]

FINITE = "finite rewards, and NaN for a rollout that could not be scored"


class Rows:
    """(Q, R) rewards, one row per prompt: sums and extremes over a prompt's rollouts, and the way back to them."""

    def __init__(self, prompts: int) -> None:
        self.prompts = prompts

    def sum(self, x: Tensor) -> Tensor:
        """Sum over each prompt's rollouts, (P,)."""
        return x.sum(1)

    def max(self, x: Tensor) -> Tensor:
        """Largest over each prompt's rollouts, (P,)."""
        # A column of -inf, so that a matrix without columns has a largest element, too.
        return torch.cat([x, x.new_full((x.shape[0], 1), -torch.inf)], 1).amax(1)

    def to_rollouts(self, per_prompt: Tensor) -> Tensor:
        """Each prompt's value beside each of its rollouts, broadcastable to the rewards."""
        return per_prompt.unsqueeze(1)


class Flat:
    """(B,) with prompt ids, as :class:`Rows`: B slots for at most B prompts, in order of first appearance, then empty ones.

    No shape depends on the ids, so nothing waits for the device.
    """

    def __init__(self, prompt_ids: Tensor) -> None:
        self.prompts = prompt_ids.shape[0]
        position = torch.arange(self.prompts, device=prompt_ids.device)
        order = torch.argsort(prompt_ids, stable=True)
        ordered = prompt_ids[order]
        new = torch.ones_like(position, dtype=torch.bool)
        new[1:] = ordered[1:] != ordered[:-1]
        by_id = torch.empty_like(position).scatter(0, order, new.cumsum(0) - 1)
        # From the order of the ids to the order in which they appear; empty slots come last.
        first = torch.full_like(position, self.prompts).scatter_reduce(0, by_id, position, "amin")
        rank = torch.empty_like(position).scatter(0, torch.argsort(first, stable=True), position)
        self.index = rank[by_id]

    def sum(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.new_zeros(self.prompts).index_add(0, self.index, x)

    def max(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.new_full((self.prompts,), -torch.inf).scatter_reduce(0, self.index, x, "amax")

    def to_rollouts(self, per_prompt: Tensor) -> Tensor:  # noqa: D102
        return per_prompt[self.index]

    def padded(self, rewards: Tensor) -> Tensor:
        """(B,) rewards -> (P, R) with NaN, R the largest number of rollouts; waits for the device."""
        order = torch.argsort(self.index, stable=True)
        index = self.index[order]
        counts = torch.bincount(index, minlength=self.prompts)
        place = torch.arange(len(index), device=index.device) - (counts.cumsum(0) - counts)[index]
        padded = rewards.new_full((self.prompts, int(counts.max()) if len(index) else 0), torch.nan)
        padded[index, place] = rewards[order]
        return padded


Layout = Rows | Flat


def check_rewards(rewards: Tensor, prompt_ids: Tensor | None) -> Tensor:
    """Rewards, detached, in float32 at least, once their shape and that of the prompt ids fit.

    Raises:
        TypeError: not tensors, complex rewards, or prompt ids that are not integers.
        ValueError: rewards that are not (Q, R), or (B,) with (B,) prompt ids; on the CPU infinite ones.
    """
    real("rewards", rewards)
    if prompt_ids is None:
        if rewards.ndim != 2:
            cure = "flat (B,) rewards need prompt_ids"
            raise ValueError(expected("rewards", "shape (Q, R), one row per prompt", tuple(rewards.shape), cure))
    else:
        whole("prompt_ids", prompt_ids, "prompt ids")
        if rewards.ndim != 1 or prompt_ids.shape != rewards.shape:
            given = f"{tuple(prompt_ids.shape)} for rewards of shape {tuple(rewards.shape)}"
            raise ValueError(expected("prompt_ids", "shape (B,), and rewards of the same", given))
        same_device("prompt_ids", prompt_ids, "rewards", rewards)
    # Shown at once where that costs no wait for a device; :func:`fairloss.policy.prepare.check_means` looks elsewhere.
    if on_host(rewards):
        all_inside("rewards", rewards, ~torch.isinf(rewards), FINITE)
    return rewards.detach().to(statistics_dtype(rewards.dtype))


def layout_of(rewards: Tensor, prompt_ids: Tensor | None) -> Layout:
    """The layout of checked rewards."""
    return Rows(rewards.shape[0]) if prompt_ids is None else Flat(prompt_ids)


def centered(rewards: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Rewards minus their prompt's mean, 0 where NaN, and each prompt's number of scorable rollouts."""
    scorable = ~torch.isnan(rewards)
    values = torch.where(scorable, rewards, 0.0)
    counts = layout.sum(scorable.to(rewards.dtype))
    means = layout.sum(values) / counts.clamp(min=1)
    return torch.where(scorable, values - layout.to_rollouts(means), 0.0), counts


def lowest_reward(rewards: Tensor, process_group: ProcessGroup | None) -> Tensor:
    """Smallest scorable reward of all ranks, () float64; +inf where there is none."""
    flat = rewards.reshape(-1).to(torch.float64)
    low = torch.where(torch.isnan(flat), torch.inf, flat)
    low = torch.cat([low, low.new_full((1,), torch.inf)]).amin()
    if process_group is None:
        return low
    # A sum of one-hot rows, so that the one collective that the library uses also gives a minimum.
    rows = low.new_zeros(torch.distributed.get_world_size(process_group))
    rows[torch.distributed.get_rank(process_group)] = low.clamp(max=1e300)
    low = all_reduce_sum(rows, process_group).amin()
    return torch.where(low < 1e300, low, torch.inf)


def shift_to_zero(lowest: Tensor) -> Tensor:
    """What lifts the lowest reward to 0; nothing where there is none."""
    return torch.where(torch.isfinite(lowest), -lowest, 0.0)
