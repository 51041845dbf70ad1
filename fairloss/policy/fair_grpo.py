"""FairGRPO with memory: the module around :func:`fairloss.fair_grpo_advantages`, with history and group discovery.

The authors' code keeps its history in module globals: never reset, not saved, shared by every run of a process, and rebuilt
as a list for every row. Here it is the module's state (:mod:`fairloss.policy.history`), its size fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.core.state import ConstantsModule
from fairloss.groups.ids import single_attribute
from fairloss.ops.fair_grpo_setting import Options, RewardShift, Setting, Variant
from fairloss.policy.discovery import ClusterRule, Discovery, Proposal, ReleasedDiscovery
from fairloss.policy.history import History, RewardHistory
from fairloss.policy.prepare import (
    Batch,
    check_mask,
    check_options,
    check_result,
    check_scores,
    prepare_batch,
    warn_of_one_prompt,
    warn_of_shift,
)
from fairloss.policy.weights import Past, Result, compute_advantages

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


class FairGRPOAdvantage(ConstantsModule):
    r"""FairGRPO advantages whose group sizes and mean rewards run over past batches.

    The formula, what 0 means, and the options that are not listed here are those of :func:`fairloss.fair_grpo_advantages`;
    this module adds the past, and finds groups for prompts without a label. Weights have mean 1, and advantages deviation 1,
    over the informative prompts of the run so far, as many of each group as its last prompts (half of them the last 100) let
    expect; before the first of them both are those of GRPO. So a prompt's advantage does not depend on which prompts share
    its batch.

    Args:
        num_groups: number of groups of the one attribute (join several with ``fairloss.intersect_groups``).
        num_domains: number of domains; groups are nested in them (default 1).
        history: what N and mean rewards rest on: "cumulative", everything since the start, this batch included; "ema", a
            past that fades by half every ``half_life`` prompts; "batch", this batch alone, which then scales weights and
            advantages as well (a batch of one prompt gets one warning).
        half_life: of "ema" (default 1000).
        discover_groups: None, or "kmeans" to form groups of the prompts whose group is -1, within their domain, by how
            their rollouts are rewarded. It runs on the host, through scikit-learn, and waits for the device.
        num_clusters: "silhouette" (1 to 3; 1 if no split is clear, or if the prompts differ by no more than chance),
            "elbow" (the released rule, which nearly always returns 3), or a fixed number.
        num_features: quantiles of a prompt's rewards that are clustered (default 8).
        reservoir_size: prompts per domain that the clustering remembers (default 512).
        seed: of the clustering (default 0).
        reward_shift: as there, with the lowest reward ever seen, and one warning for "auto".
        variant: "paper" and "released" divide by the batch's deviation. "released" has a discovery of its own
            (``num_clusters``, ``num_features``, ``reservoir_size`` and ``seed`` do not apply), whose memory grows.

    Attributes:
        history: the :class:`RewardHistory`; ``history.totals()`` is what the function takes as ``past``.
        last: all tables of the last call (:class:`fairloss.policy.weights.Result`), None before the first.

    Note:
        A call in training mode advances the history once, whether or not gradients are enabled. In ``eval()`` advantages come
        from what is remembered alone, as those of ``scale``, so that any split of a batch has the same ones (with
        ``history="batch"`` and the variants "paper" and "released" the batch counts for its own weights and is forgotten).
        ``update`` then ``scale`` do the same in two steps, for callers that see rewards before they need advantages. A call
        that raises changes nothing. State follows the device and never the dtype, is saved with ``state_dict`` bit for bit,
        and is not broadcast by DistributedDataParallel: with a ``process_group`` each rank brings its own, whole prompts,
        and the state stays equal on all ranks. Without one, give every rank the whole batch.

    Example:
        >>> fair = FairGRPOAdvantage(num_groups=2)
        >>> rewards = torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0]])
        >>> fair(rewards, torch.tensor([0, 0, 1]))[:, 2]
        tensor([ 0.2141, -0.6423,  2.7249])
        >>> [(row.group, row.prompts, row.mean_reward, round(row.weight, 2)) for row in fair.table()]
        [('0', 2.0, 0.75, 0.48), ('1', 1.0, 0.25, 2.04)]

    Reference:
        FairGRPO 2025, eqs 1-2: https://arxiv.org/abs/2510.19893

    See Also:
        :class:`GroupDROAdvantage`, :func:`fair_grpo_policy_loss`
    """

    last: Result | None

    def __init__(
        self,
        num_groups: int,
        *,
        num_domains: int = 1,
        history: History = "cumulative",
        half_life: float = 1000.0,
        discover_groups: Literal["kmeans"] | None = None,
        num_clusters: ClusterRule | int = "silhouette",
        num_features: int = 8,
        reservoir_size: int = 512,
        seed: int = 0,
        max_ratio: float | None = 10.0,
        batch_normalize: bool = True,
        size_power: float = 0.5,
        reward_power: float = 1.0,
        reward_shift: RewardShift | float = "auto",
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
        self.history = RewardHistory(self.num_groups, num_domains=self.num_domains, mode=history, half_life=half_life)
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
        self._warned: set[str] = set()

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, num_domains={self.num_domains}, {self.options}"

    def forward(
        self,
        rewards: Tensor,
        groups: Tensor,
        domains: Tensor | None = None,
        *,
        prompt_ids: Tensor | None = None,
        rollout_ids: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Advantages of a batch, which, in training mode, counts for its own weights and is remembered.

        Args:
            rewards: (Q, R), NaN where a rollout is missing or could not be scored, or (B,) with ``prompt_ids``.
            groups: (Q,) or (B,) ids, -1 = unknown.
            domains: (Q,) or (B,) ids; may be left out with one domain.
            prompt_ids: (B,) integers, equal for rollouts of one prompt.
            rollout_ids: (B,) integers, equal for the rows of one rollout of a prompt.
            mask: (B, L), the tokens of each row in the order of ``rewards.flatten()``.

        Returns:
            Advantages in the shape of ``rewards``, or (B, L) with ``mask``; float32 at least.
        """
        batch = self._prepare(rewards, groups, domains, prompt_ids, rollout_ids)
        result = self._run(batch, include=self._moves or not self._by_history, store=self._moves, mask=mask)
        return result.advantages if result.tokens is None else result.tokens

    def update(
        self,
        rewards: Tensor,
        groups: Tensor,
        domains: Tensor | None = None,
        *,
        prompt_ids: Tensor | None = None,
        rollout_ids: Tensor | None = None,
    ) -> None:
        """Remember a batch (in any mode); arguments as ``forward``."""
        self._run(self._prepare(rewards, groups, domains, prompt_ids, rollout_ids), include=True, store=True)

    def scale(
        self,
        rewards: Tensor,
        groups: Tensor,
        domains: Tensor | None = None,
        *,
        prompt_ids: Tensor | None = None,
        rollout_ids: Tensor | None = None,
    ) -> Tensor:
        """Advantages from what is remembered alone, which stays as it is; arguments as ``forward``.

        A group that was never remembered weighs as much as the informative prompts of the others do on average.
        """
        batch = self._prepare(rewards, groups, domains, prompt_ids, rollout_ids)
        return self._run(batch, include=False, store=False).advantages

    def weigh_scores(
        self,
        rewards: Tensor,
        groups: Tensor,
        domains: Tensor | None = None,
        *,
        scores: Tensor,
        prompt_ids: Tensor | None = None,
        rollout_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As ``forward``, for trainers with scores of their own, or with rewards that fairness does not look at.

        Args:
            rewards: what group means rest on.
            groups: as ``forward``.
            domains: as ``forward``.
            scores: as ``rewards``: what is weighted in place of GRPO's scores, with mean 0 within each prompt, exactly 0 where
                a prompt has no signal, NaN where a rollout has no score.
            prompt_ids: as ``forward``.
            rollout_ids: as ``forward``.

        Returns:
            The advantages, and the (Q,) weight of each prompt: with ``prompt_ids`` in order of first appearance, then as many
            more as there are rows left.
        """
        batch = self._prepare(rewards, groups, domains, prompt_ids, rollout_ids)
        scores = check_scores(scores, batch.rewards.values)
        result = self._run(batch, include=self._moves or not self._by_history, store=self._moves, scores=scores)
        return result.advantages, result.weights

    @property
    def _by_history(self) -> bool:
        return self.options.variant == "default" and self.history.mode != "batch"

    @property
    def _moves(self) -> bool:
        return self.training and not self.history._frozen

    def _prepare(self, *arguments: Any) -> Batch:
        sizes = {"num_groups": self.num_groups, "num_domains": self.num_domains}
        return prepare_batch(*arguments, **sizes, validate=self.validate)

    @torch.no_grad()
    def _run(
        self, batch: Batch, *, include: bool, store: bool, mask: Tensor | None = None, scores: Tensor | None = None
    ) -> Result:
        check_mask(mask, batch.rewards.values)
        slots = torch.where(batch.groups < 0, self.num_groups, batch.groups)
        proposal, clusters, width = None, None, self.num_groups + 1
        if self.discovery is not None:
            proposal, slots = self._discover(self.discovery, batch, slots, include)
            clusters = proposal.clusters
            width += clusters.mean.shape[1]
        history = self.history
        setting = Setting(
            self.num_domains, self.num_groups, width, self.options, history.mode, history.half_life, include,
            self._by_history,
        )  # fmt: skip
        result = compute_advantages(
            batch.rewards,
            batch.domains,
            slots,
            setting,
            past=Past(history.totals(), history.lowest),
            clusters=clusters,
            scores=scores,
            process_group=self.process_group,
            mask=mask,
        )
        if self.validate and check_result(result, batch, self.options, self.process_group):
            self._once("shift", lambda: warn_of_shift(result))
        if not self._by_history:
            self._once("one prompt", lambda: warn_of_one_prompt(batch, self.options, self.process_group))
        if store:
            history.advance(result.batch, result.lowest)
            if self.discovery is not None and proposal is not None:
                self.discovery.commit(proposal)
        # Tokens may be large; the advantages are the caller's to edit in place.
        self.last = result._replace(tokens=None, advantages=result.advantages.clone())
        return result

    def _once(self, what: str, warn: Callable[[], object]) -> None:
        if what not in self._warned and warn() is not False:
            self._warned.add(what)

    def _discover(
        self, discovery: Discovery | ReleasedDiscovery, batch: Batch, slots: Tensor, include: bool
    ) -> tuple[Proposal, Tensor]:
        """Clusters of the prompts without a group, and the columns of all prompts."""
        rewards = batch.rewards.padded()
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
