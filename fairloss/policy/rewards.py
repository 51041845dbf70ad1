"""Rewards of prompts as rows of a matrix or as one flat vector: the values, and the two reductions that advantages need."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairloss.core.checks import expected
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import all_inside, on_host, real, same_device, whole
from fairloss.ops.fair_grpo_setting import Variant, noise

__all__ = ["FINITE", "Flat", "Rows", "Scores", "check_rewards", "torn_rollout"]

FINITE = "finite rewards, and NaN for a rollout that could not be scored"


class Scores(NamedTuple):
    """Scores of a batch's rollouts."""

    scores: Tensor
    """As the rewards."""
    informative: Tensor
    """(P,) bool: do the prompt's rewards differ."""
    rollouts: Tensor
    """(P,) scorable rollouts, in the dtype of the rewards."""


class Rows:
    """(Q, R) rewards, one row per prompt, NaN where a rollout is missing or could not be scored."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.prompts = values.shape[0]

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

    def to_rows(self, x: Tensor) -> Tensor:
        """Values of rollouts -> of the rows as they were given."""
        return x

    def padded(self) -> Tensor:
        """(P, R) with NaN."""
        return self.values

    def centered(self) -> tuple[Tensor, Tensor]:
        """Rewards minus their prompt's mean, 0 where NaN, and each prompt's number of scorable rollouts."""
        scorable = ~torch.isnan(self.values)
        values = torch.where(scorable, self.values, 0.0)
        counts = self.sum(scorable.to(values.dtype))
        means = self.sum(values) / counts.clamp(min=1)
        return torch.where(scorable, values - self.to_rollouts(means), 0.0), counts

    def scores(self, eps: float, variant: Variant = "default") -> Scores:
        """GRPO's score (r - mean) / (std + eps) within each prompt, ddof 1.

        A prompt with one scorable rollout, or with rewards that are equal up to :func:`~fairloss.ops.fair_grpo_setting.noise`,
        scores 0: rounding over ``eps`` is no signal. NaN rewards score 0 and enter nothing.
        """
        deviations, counts = self.centered()
        std = (self.sum(deviations.square()) / (counts - 1).clamp(min=1)).sqrt()
        x = self.values
        highest, minus_lowest = (self.max(torch.where(torch.isnan(v), -torch.inf, v)) for v in (x, -x))
        part = noise(variant, x.dtype)
        # Infinite rewards, where nobody looked, are no rounding; without a rollout the difference is -inf.
        size = torch.maximum(highest.abs(), minus_lowest.abs()).clamp(max=torch.finfo(x.dtype).max)
        informative = highest + minus_lowest > part * size
        scores = torch.where(self.to_rollouts(informative), deviations / (self.to_rollouts(std) + eps), 0.0)
        return Scores(scores, informative, counts)

    def given(self, scores: Tensor) -> Scores:
        """Scores from elsewhere, NaN where there is none; a prompt with nothing but 0 is not informative."""
        scorable = ~torch.isnan(scores)
        scores = torch.where(scorable, scores, 0.0)
        return Scores(scores, self.max(scores.abs()) > 0, self.sum(scorable.to(scores.dtype)))

    def lowest(self) -> Tensor:
        """Smallest scorable reward, () float64; +inf where there is none."""
        low = torch.where(torch.isnan(self.values), torch.inf, self.values).reshape(-1)
        return torch.cat([low, low.new_full((1,), torch.inf)]).amin().to(torch.float64)


class Flat(Rows):
    """(B,) rewards with prompt ids: B slots for at most B prompts, in order of first appearance, then empty ones.

    No shape depends on the ids, so nothing waits for the device. With rollout ids the first row of a rollout holds its
    reward, the others NaN.
    """

    def __init__(self, values: Tensor, prompt_ids: Tensor, rollout_ids: Tensor | None = None) -> None:
        super().__init__(values)
        self.index = _by_appearance(prompt_ids)
        self.first: Tensor | None = None
        """(B,) place of the first row of each row's rollout."""
        self.torn: Tensor | None = None
        """() bool: do rows of one rollout differ in their reward."""
        if rollout_ids is not None:
            # Ids of rollouts may start anew in every prompt.
            place = torch.arange(self.prompts, device=values.device)
            rollout = _by_appearance(_by_appearance(rollout_ids) + self.prompts * self.index)
            start = torch.full_like(place, self.prompts).scatter_reduce(0, rollout, place, "amin")
            self.first = start[rollout]
            theirs = values[self.first]
            self.torn = ((values != theirs) & ~(torch.isnan(values) & torch.isnan(theirs))).any()
            self.values = torch.where(place == self.first, values, torch.nan)

    def sum(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.new_zeros(self.prompts).index_add(0, self.index, x)

    def max(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.new_full((self.prompts,), -torch.inf).scatter_reduce(0, self.index, x, "amax")

    def to_rollouts(self, per_prompt: Tensor) -> Tensor:  # noqa: D102
        return per_prompt[self.index]

    def to_rows(self, x: Tensor) -> Tensor:  # noqa: D102
        return x if self.first is None else x[self.first]

    def padded(self) -> Tensor:
        """(P, R) with NaN, R the largest number of rows of a prompt; waits for the device."""
        order = torch.argsort(self.index, stable=True)
        index = self.index[order]
        counts = torch.bincount(index, minlength=self.prompts)
        place = torch.arange(len(index), device=index.device) - (counts.cumsum(0) - counts)[index]
        padded = self.values.new_full((self.prompts, int(counts.max()) if len(index) else 0), torch.nan)
        padded[index, place] = self.values[order]
        return padded


def _by_appearance(ids: Tensor) -> Tensor:
    """(B,) integers -> 0, 1, ... by the order in which they appear."""
    position = torch.arange(ids.shape[0], device=ids.device)
    order = torch.argsort(ids, stable=True)
    ordered = ids[order]
    new = torch.ones_like(position, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    by_id = torch.empty_like(position).scatter(0, order, new.cumsum(0) - 1)
    # From the order of the ids to that of their first places; ids that do not occur come last.
    first = torch.full_like(position, ids.shape[0]).scatter_reduce(0, by_id, position, "amin")
    return torch.empty_like(position).scatter(0, torch.argsort(first, stable=True), position)[by_id]


def check_rewards(rewards: Tensor, prompt_ids: Tensor | None = None, rollout_ids: Tensor | None = None) -> Rows:
    """Rewards, detached, in float32 at least, once their shape and those of the ids fit.

    Raises:
        TypeError: not tensors, complex rewards, or ids that are not integers.
        ValueError: rewards that are not (Q, R), or (B,) with (B,) prompt ids; rollout ids without prompt ids; on the CPU
            infinite rewards, and rows of one rollout that differ.
    """
    real("rewards", rewards)
    if prompt_ids is None:
        if rewards.ndim != 2:
            cure = "flat (B,) rewards need prompt_ids"
            raise ValueError(expected("rewards", "shape (Q, R), one row per prompt", tuple(rewards.shape), cure))
        if rollout_ids is not None:
            cure = "in (Q, R) rewards every rollout has one place"
            raise ValueError(expected("rollout_ids", "flat (B,) rewards with prompt_ids", "rollout_ids alone", cure))
    for name, ids in (("prompt_ids", prompt_ids), ("rollout_ids", rollout_ids)):
        if ids is not None:
            whole(name, ids, name.replace("_", " "))
            if rewards.ndim != 1 or ids.shape != rewards.shape:
                given = f"{tuple(ids.shape)} for rewards of shape {tuple(rewards.shape)}"
                raise ValueError(expected(name, "shape (B,), and rewards of the same", given))
            same_device(name, ids, "rewards", rewards)
    # Shown at once where that costs no wait for a device; :func:`fairloss.policy.prepare.check_result` looks elsewhere.
    host = on_host(rewards)
    if host:
        all_inside("rewards", rewards, ~torch.isinf(rewards), FINITE)
    values = rewards.detach().to(statistics_dtype(rewards.dtype))
    if prompt_ids is None:
        return Rows(values)
    found = Flat(values, prompt_ids, rollout_ids)
    if host and found.torn is not None and bool(found.torn):
        raise ValueError(torn_rollout())
    return found


def torn_rollout() -> str:
    """The error about a rollout whose rows differ."""
    cure = "give each row the rollout's reward (of turns: their sum), or leave rollout_ids out if rows are rollouts"
    return expected(
        "rewards", "one reward for all rows of a rollout", "rows of one rollout that differ in theirs", cure
    )
