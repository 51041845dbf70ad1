"""Rewards of prompts as rows of a matrix or as one flat vector: the only two reductions that FairGRPO needs, for both."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import same_device

INFINITE = "rewards: an infinite reward was given; accepted are finite ones, and NaN for unscorable"

__all__ = ["Flat", "Layout", "Rows", "as_rewards", "layout_of"]


class Layout(Protocol):
    """Sums and extremes over the rollouts of a prompt, and the way back from prompts to rollouts."""

    prompts: int

    def total(self, x: Tensor) -> Tensor:
        """Sum over each prompt's rollouts, (P,)."""
        ...

    def largest(self, x: Tensor) -> Tensor:
        """Largest over each prompt's rollouts, (P,)."""
        ...

    def spread(self, per_prompt: Tensor) -> Tensor:
        """Each prompt's value beside each of its rollouts, broadcastable to the rewards."""
        ...


class Rows:
    """(Q, R): one row a prompt."""

    def __init__(self, prompts: int) -> None:
        self.prompts = prompts

    def total(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.sum(1)

    def largest(self, x: Tensor) -> Tensor:  # noqa: D102
        # A column of -inf, so that a matrix without columns has a largest element, too.
        return torch.cat([x, x.new_full((x.shape[0], 1), -torch.inf)], 1).amax(1)

    def spread(self, per_prompt: Tensor) -> Tensor:  # noqa: D102
        return per_prompt.unsqueeze(1)


class Flat:
    """(B,) with prompt ids: B slots for at most B prompts, in order of first appearance; unused slots stay empty.

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

    def total(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.new_zeros(self.prompts).index_add(0, self.index, x)

    def largest(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.new_full((self.prompts,), -torch.inf).scatter_reduce(0, self.index, x, "amax")

    def spread(self, per_prompt: Tensor) -> Tensor:  # noqa: D102
        return per_prompt[self.index]


def as_rewards(rewards: Tensor, prompt_ids: Tensor | None) -> Tensor:
    """Rewards, detached, in float32 at least, once their shape and that of the prompt ids fit.

    Raises:
        TypeError: not tensors, complex rewards, or prompt ids that are not integers.
        ValueError: rewards that are not (Q, R), or (B,) with (B,) prompt ids; on the CPU infinite ones.
    """
    if not isinstance(rewards, Tensor):
        raise TypeError(f"rewards: a tensor is needed, {type(rewards).__name__} was given")
    if rewards.dtype.is_complex:
        raise TypeError(f"rewards: real numbers are needed, {rewards.dtype} was given")
    if prompt_ids is None:
        if rewards.ndim != 2:
            raise ValueError(
                f"rewards: shape (Q, R), one row a prompt, is needed, {tuple(rewards.shape)} was given; "
                f"flat (B,) rewards need prompt_ids"
            )
    else:
        if not isinstance(prompt_ids, Tensor) or prompt_ids.dtype.is_floating_point or prompt_ids.dtype.is_complex:
            given = prompt_ids.dtype if isinstance(prompt_ids, Tensor) else type(prompt_ids).__name__
            raise TypeError(f"prompt_ids: a tensor of integers is needed, {given} was given")
        if rewards.ndim != 1 or prompt_ids.shape != rewards.shape:
            raise ValueError(
                f"prompt_ids: with them, rewards and prompt_ids are both (B,); "
                f"{tuple(rewards.shape)} and {tuple(prompt_ids.shape)} were given"
            )
        same_device("prompt_ids", prompt_ids, "rewards", rewards)
    # Shown at once where that costs no wait for a device; :func:`fairloss.policy.checks.check_means` looks elsewhere.
    on_host = rewards.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_host and rewards.dtype.is_floating_point and bool(torch.isinf(rewards).any()):
        raise ValueError(INFINITE)
    return rewards.detach().to(statistics_dtype(rewards.dtype))


def layout_of(rewards: Tensor, prompt_ids: Tensor | None) -> Layout:
    """The layout of validated rewards."""
    return Rows(rewards.shape[0]) if prompt_ids is None else Flat(prompt_ids)
