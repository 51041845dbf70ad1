"""FairGRPO with memory: the module around :func:`fairloss.fair_grpo_advantages`, with history and group discovery.

The authors' code keeps its history in module globals: never reset, not saved, shared by every run of a process, and rebuilt
as a list for every row. Here it is the module's state (:mod:`fairloss.policy.history`), its size fixed.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.groups.ids import single_attribute
from fairloss.ops.fair_grpo_setting import Options, Variant
from fairloss.policy.discovery import ClusterRule, Discovery, Proposal, ReleasedDiscovery
from fairloss.policy.history import History, RewardHistory
from fairloss.policy.prepare import Batch, check_mask, check_means, check_options, prepare_batch
from fairloss.policy.rewards import Flat, lowest_reward, shift_to_zero
from fairloss.policy.weights import Clusters, Result, compute_advantages

__all__ = ["FairGRPOAdvantage", "GroupRow"]


class GroupRow(NamedTuple):
    """One line of :meth:`FairGRPOAdvantage.table`."""

    domain: int
    """The domain's id."""
    group: str
    """The id, "unknown", or "cluster k"."""
    prompts: float
    """Prompts that the weight rests on."""
    mean_reward: float
    """Of their rollouts."""
    weight: float
    """Relative to the average informative prompt's; of the variants "paper" and "released", 1 / T as printed."""


class FairGRPOAdvantage(nn.Module):
    r"""FairGRPO advantages whose group sizes and mean rewards run over past batches.

    The formula, what 0 means, and the options that are not listed here are those of :func:`fairloss.fair_grpo_advantages`;
    this module adds the past to N and rbar, and finds groups for prompts without a label.

    Args:
        num_groups: number of groups of the one attribute (join several with ``fairloss.intersect_groups``).
        num_domains: number of domains; groups are nested in them.
        history: "cumulative", everything since the start, this batch included; "ema", the past times ``decay`` per step;
            "batch", this batch alone.
        decay: factor per step of "ema".
        discover_groups: None, or "kmeans" to form groups of the prompts whose group is -1, within their domain, by how
            their rollouts are rewarded. It runs on the host, through scikit-learn, and waits for the device.
        num_clusters: "silhouette" (1 to 3; 1 if no split is clear, or if the prompts differ by no more than chance),
            "elbow" (the released rule, which nearly always returns 3), or a fixed number.
        num_features: quantiles of a prompt's rewards that are clustered.
        reservoir_size: prompts per domain that the clustering remembers.
        seed: of the clustering.
        reward_shift: a number, or "min": minus the lowest reward ever seen.
        variant: "released" has a discovery of its own (``num_clusters``, ``num_features``, ``reservoir_size`` and ``seed``
            do not apply), whose memory grows.

    Attributes:
        history: the :class:`RewardHistory`; ``history.totals()`` is what the function takes as ``past``.
        last: all tables of the last call (:class:`fairloss.policy.weights.Result`), None before the first.

    Note:
        A call in training mode advances the history once, whether or not gradients are enabled; in ``eval()`` the batch
        counts for its own weights and is forgotten. ``update`` then ``scale`` do the same in two steps, for callers that see
        rewards before they need advantages. A call that raises changes nothing. State follows the device and never the
        dtype, is saved with ``state_dict`` bit for bit, and is not broadcast by DistributedDataParallel: with a
        ``process_group`` each rank brings its own, whole prompts, and the state stays equal on all ranks. Without one, give
        every rank the whole batch.

    Example:
        >>> fair = FairGRPOAdvantage(num_groups=2)
        >>> rewards = torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0]])
        >>> fair(rewards, torch.tensor([0, 0, 1]))[:, 2]
        tensor([ 0.2141, -0.6423,  2.7249])
        >>> [(row.group, row.prompts, row.mean_reward, round(row.weight, 2)) for row in fair.table()]
        [('0', 2.0, 0.75, 0.48), ('1', 1.0, 0.25, 2.04)]

    Reference:
        Dai et al., FairGRPO: Fair Reinforcement Learning for Equitable Clinical Reasoning, 2025.
    """

    last: Result | None

    def __init__(
        self,
        num_groups: int,
        *,
        num_domains: int = 1,
        history: History = "cumulative",
        decay: float = 0.99,
        discover_groups: Literal["kmeans"] | None = None,
        num_clusters: ClusterRule | int = "silhouette",
        num_features: int = 8,
        reservoir_size: int = 512,
        seed: int = 0,
        max_ratio: float | None = 10.0,
        batch_normalize: bool = True,
        size_power: float = 0.5,
        reward_power: float = 1.0,
        reward_shift: Literal["min"] | float | None = None,
        variant: Variant = "default",
        eps: float = 1e-6,
        validate: bool = True,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = single_attribute(num_groups, "FairGRPOAdvantage")
        self.num_domains = checks.integer("num_domains", num_domains, minimum=1)
        self.options = check_options(
            Options(size_power, reward_power, max_ratio, batch_normalize, reward_shift, variant, eps)
        )
        check_process_group(process_group)
        self.validate, self.process_group = checks.flag("validate", validate), process_group
        self.history = RewardHistory(self.num_groups, num_domains=self.num_domains, mode=history, decay=decay)
        self.discovery: Discovery | ReleasedDiscovery | None = None
        # Made in any case, so that its options are checked.
        discovery = Discovery(self.num_domains, num_clusters, num_features, reservoir_size, seed, mode=history)
        if discover_groups is not None:
            checks.choice("discover_groups", discover_groups, ("kmeans",))
            if variant == "released" and history != "cumulative":
                cure = "the released discovery keeps every prompt; variant='default' forgets"
                raise ValueError(expected("history", "'cumulative' with variant='released'", repr(history), cure))
            self.discovery = ReleasedDiscovery(self.num_domains) if variant == "released" else discovery
        self.last = None

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, num_domains={self.num_domains}, {self.options}"

    def forward(
        self,
        rewards: Tensor,
        groups: Tensor,
        domains: Tensor | None = None,
        *,
        prompt_ids: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Advantages of a batch, which counts for its own weights and, in training mode, is remembered.

        Args:
            rewards: (Q, R), NaN where a rollout is missing or could not be scored, or (B,) with ``prompt_ids``.
            groups: (Q,) or (B,) ids, -1 = unknown.
            domains: (Q,) or (B,) ids; may be left out with one domain.
            prompt_ids: (B,) integers, equal for rollouts of one prompt.
            mask: (B, L), the tokens of each rollout in the order of ``rewards.flatten()``.

        Returns:
            Advantages in the shape of ``rewards``, or (B, L) with ``mask``; float32 at least.
        """
        result = self._run(rewards, groups, domains, prompt_ids, include=True, store=self.training, mask=mask)
        return result.advantages if result.tokens is None else result.tokens

    def update(
        self, rewards: Tensor, groups: Tensor, domains: Tensor | None = None, *, prompt_ids: Tensor | None = None
    ) -> None:
        """Remember a batch (in any mode); arguments as ``forward``."""
        self._run(rewards, groups, domains, prompt_ids, include=True, store=True)

    def scale(
        self, rewards: Tensor, groups: Tensor, domains: Tensor | None = None, *, prompt_ids: Tensor | None = None
    ) -> Tensor:
        """Advantages from what is remembered alone, which stays as it is; arguments as ``forward``.

        A group that was never remembered weighs as much as the informative prompts of the others do on average.
        """
        return self._run(rewards, groups, domains, prompt_ids, include=False, store=False).advantages

    def prompt_weights(
        self, rewards: Tensor, groups: Tensor, domains: Tensor | None = None, *, prompt_ids: Tensor | None = None
    ) -> Tensor:
        """As ``forward``, but returns the (Q,) weight of each prompt, for trainers that bring advantages of their own.

        With ``prompt_ids``, one a prompt in order of first appearance, then as many more as there are rollouts left.
        """
        return self._run(rewards, groups, domains, prompt_ids, include=True, store=self.training).weights

    @torch.no_grad()
    def _run(
        self,
        rewards: Tensor,
        groups: Tensor,
        domains: Tensor | None,
        prompt_ids: Tensor | None,
        *,
        include: bool,
        store: bool,
        mask: Tensor | None = None,
    ) -> Result:
        sizes = {"num_groups": self.num_groups, "num_domains": self.num_domains}
        batch = prepare_batch(rewards, groups, domains, prompt_ids, **sizes, validate=self.validate)
        check_mask(mask, batch.rewards)
        slots = torch.where(batch.groups < 0, self.num_groups, batch.groups)
        proposal, clusters = None, None
        if self.discovery is not None:
            proposal, slots = self._discover(self.discovery, batch, slots, include)
            clusters = Clusters(proposal.share, proposal.mean)
        shift, lowest = self._shift(batch, include)
        result = compute_advantages(
            batch.rewards,
            batch.domains,
            slots,
            **sizes,
            options=self.options,
            layout=batch.layout,
            past=self.history.totals(),
            decay=self.history.factor,
            include_batch=include,
            clusters=clusters,
            lowest_shift=shift,
            process_group=self.process_group,
            mask=mask,
        )
        if self.validate:
            check_means(result, batch, self.options, shift, self.process_group)
        if store:
            self.history.advance(result.batch, lowest)
            if self.discovery is not None and proposal is not None:
                self.discovery.commit(proposal)
        # Tokens may be large; the advantages are the caller's to edit in place.
        self.last = result._replace(tokens=None, advantages=result.advantages.clone())
        return result

    def _shift(self, batch: Batch, include: bool) -> tuple[Tensor | None, Tensor]:
        """What ``reward_shift="min"`` adds to mean rewards, and the batch's lowest reward for the history."""
        if self.options.reward_shift != "min":
            return None, self.history.lowest
        lowest = lowest_reward(batch.rewards, self.process_group)
        bound = self.history.lowest
        if include:
            bound = lowest if self.history.mode == "batch" else torch.minimum(bound, lowest)
        return shift_to_zero(bound), lowest

    def _discover(
        self, discovery: Discovery | ReleasedDiscovery, batch: Batch, slots: Tensor, include: bool
    ) -> tuple[Proposal, Tensor]:
        """Clusters of the prompts without a group, and the columns of all prompts."""
        rewards = batch.layout.padded(batch.rewards) if isinstance(batch.layout, Flat) else batch.rewards
        scorable = (~torch.isnan(rewards)).any(1)
        wanted = (batch.groups < 0) & (batch.domains >= 0) & scorable
        proposal = discovery.propose(
            rewards[wanted], batch.domains[wanted], include=include, process_group=self.process_group
        )
        slots = slots.clone()
        slots[wanted] = self.num_groups + 1 + proposal.labels
        return proposal, slots

    def table(self) -> list[GroupRow]:
        """Prompts, mean reward and weight of each group in the last call, for logs; waits for the device.

        Explicit groups never seen are left out, as are clusters of domains in which no prompt was without a group.
        """
        if self.last is None:
            return []
        last, rows = self.last, []
        counts, means, table, seen = (t.tolist() for t in (last.counts, last.means, last.table, last.totals[0]))
        for domain in range(self.num_domains):
            for column, (count, mean) in enumerate(zip(counts[domain], means[domain], strict=True)):
                name = str(column) if column < self.num_groups else f"cluster {column - self.num_groups - 1}"
                if column == self.num_groups:  # whose prompts are in clusters where groups are discovered
                    name, count = "unknown", seen[domain][column] if self.discovery is None else 0
                if count > 0:
                    rows.append(GroupRow(domain, name, count, mean, table[domain][column]))
        return rows

    def __getstate__(self) -> dict[str, Any]:
        # A process group cannot be pickled or copied, and its ranks are those of another run.
        return {**self.__dict__, "process_group": None}
