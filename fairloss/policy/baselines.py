"""The advantages that FairGRPO is compared with: GRPO, RLOO, REINFORCE++, GRPO with resampling and with GroupDRO.

GRPO (Shao et al. 2024) standardizes rewards within a prompt; RLOO (Ahmadian et al. 2024) subtracts the mean of the prompt's
other rollouts; REINFORCE++ (Hu 2025) standardizes over the whole batch. The two fairness baselines of the FairGRPO paper act
on GRPO: resampling (Puyol-Anton et al. 2021) draws every group equally often, GroupDRO (Sagawa et al. 2019) moves weight to
the groups that do worst. The paper gives no formulas for the two; ours are in the docstrings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, all_reduce_sum, check_process_group
from fairloss.core.state import StatefulModule
from fairloss.groups.ids import GroupIds, check_group_counts, check_groups, single_attribute
from fairloss.policy.prepare import check_scores, prepare_batch
from fairloss.policy.rewards import check_rewards
from fairloss.policy.weights import divisor

__all__ = [
    "GroupDROAdvantage",
    "grpo_advantages",
    "reinforce_pp_advantages",
    "resampling_weights",
    "rloo_advantages",
]

Baseline = Literal["batch", "prompt"]
Scale = Literal["std", "none"]


@torch.no_grad()
def grpo_advantages(
    rewards: Tensor,
    *,
    prompt_ids: Tensor | None = None,
    rollout_ids: Tensor | None = None,
    scale: Scale = "std",
    eps: float = 1e-6,
) -> Tensor:
    """GRPO: (r - mean) / (std + eps) within each prompt, ddof 1; 0 where all rollouts of a prompt earned the same.

    Args:
        rewards: (Q, R), NaN where a rollout is missing or could not be scored (advantage 0), or (B,) with ``prompt_ids``.
        prompt_ids: (B,) integers, equal for rollouts of one prompt.
        rollout_ids: (B,) integers, equal for the rows of one rollout of a prompt, which count once and have one reward.
        scale: "std", or "none" for r - mean (Dr. GRPO).
        eps: added to the standard deviation.

    Returns:
        Advantages in the shape of ``rewards``, float32 at least.

    Raises:
        TypeError, ValueError: as :func:`fairloss.fair_grpo_advantages`.

    Example:
        >>> grpo_advantages(torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 0]]))
        tensor([[ 0.5000, -1.5000,  0.5000,  0.5000],
                [ 0.0000,  0.0000,  0.0000,  0.0000]])

    Reference:
        Shao et al., DeepSeekMath, 2024.
    """
    checks.choice("scale", scale, get_args(Scale))
    eps = checks.number("eps", eps, above=0)
    given = check_rewards(rewards, prompt_ids, rollout_ids)
    return given.to_rows(given.scores(eps).scores if scale == "std" else given.centered()[0])


@torch.no_grad()
def rloo_advantages(rewards: Tensor, *, prompt_ids: Tensor | None = None, rollout_ids: Tensor | None = None) -> Tensor:
    """RLOO: each reward minus the mean of the prompt's other rollouts; 0 for a prompt's only rollout.

    Arguments, result and errors are those of :func:`grpo_advantages`.

    Example:
        >>> rloo_advantages(torch.tensor([[1.0, 0, 1, 1]]))
        tensor([[ 0.3333, -1.0000,  0.3333,  0.3333]])

    Reference:
        Ahmadian et al., Back to Basics: Revisiting REINFORCE-Style Optimization, 2024.
    """
    given = check_rewards(rewards, prompt_ids, rollout_ids)
    deviations, counts = given.centered()
    others = torch.where(counts > 1, counts / (counts - 1).clamp(min=1), 0.0)
    return given.to_rows(deviations * given.to_rollouts(others))


@torch.no_grad()
def reinforce_pp_advantages(
    rewards: Tensor,
    *,
    prompt_ids: Tensor | None = None,
    rollout_ids: Tensor | None = None,
    baseline: Baseline = "batch",
    eps: float = 1e-6,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """REINFORCE++: (r - mean) / (std + eps) over the whole batch, ddof 1.

    Args:
        rewards: as :func:`grpo_advantages`.
        prompt_ids: as :func:`grpo_advantages`; flat rewards need them for ``baseline="prompt"`` or ``rollout_ids`` alone.
        rollout_ids: as :func:`grpo_advantages`.
        baseline: "batch", or "prompt" to subtract each prompt's mean before the batch is standardized (the paper's variant
            for several rollouts per prompt).
        eps: added to the standard deviation.
        process_group: mean and deviation run over all its ranks.

    Returns:
        Advantages in the shape of ``rewards``, float32 at least; 0 for NaN rewards.

    Example:
        >>> reinforce_pp_advantages(torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 0]]))[0]
        tensor([ 1.2076, -0.7246,  1.2076,  1.2076])

    Reference:
        Hu, REINFORCE++: A Simple and Efficient Approach for Aligning Large Language Models, 2025.
    """
    checks.choice("baseline", baseline, get_args(Baseline))
    eps = checks.number("eps", eps, above=0)
    check_process_group(process_group)
    free = baseline == "batch" and prompt_ids is None and rollout_ids is None
    if free and isinstance(rewards, Tensor) and rewards.ndim == 1:
        prompt_ids = torch.arange(len(rewards), device=rewards.device)
    given = check_rewards(rewards, prompt_ids, rollout_ids)
    scorable = ~torch.isnan(given.values)
    values = given.centered()[0] if baseline == "prompt" else torch.where(scorable, given.values, 0.0)
    wide = values.to(torch.float64)
    n, total = all_reduce_sum(torch.stack([scorable.sum().to(torch.float64), wide.sum()]), process_group)
    mean = total / n.clamp(min=1)
    square = all_reduce_sum(torch.where(scorable, (wide - mean).square(), 0.0).sum(), process_group)
    std = (square / (n - 1).clamp(min=1)).sqrt()
    return given.to_rows(torch.where(scorable, (wide - mean) / (std + eps), 0.0).to(values.dtype))


def resampling_weights(groups: Tensor, *, num_groups: int, power: float = 1.0) -> Tensor:
    """Sampling weight of each example, 1 / N_g^power: with power 1 every group is drawn equally often.

    For ``torch.utils.data.WeightedRandomSampler``: GRPO on prompts drawn so is the paper's "GRPO + resampling". 0 never
    occurs. Multiplied onto GRPO advantages the weights have the same expectation without changing the sampler.

    Args:
        groups: (N,) ids of the training set, -1 = unknown.
        num_groups: number of groups.
        power: 0 for no resampling, 1 for equal groups.

    Returns:
        (N,) float32 weights with mean 1 over known examples; unknown ones weigh 1.

    Raises:
        TypeError, ValueError: ids or options out of range.

    Example:
        >>> resampling_weights(torch.tensor([0, 0, 0, 1]), num_groups=2)
        tensor([0.6667, 0.6667, 0.6667, 2.0000])

    Reference:
        Puyol-Anton et al., Fairness in Cardiac MR Image Analysis, 2021.
    """
    size = single_attribute(num_groups, "resampling_weights")
    power = checks.number("power", power, minimum=0)
    n = groups.shape[0] if isinstance(groups, Tensor) and groups.ndim else 0
    ids = check_groups(groups, size, n)
    counts = ids.sum(ids.ids.new_ones(n, dtype=torch.float64))
    weights = torch.where(counts > 0, counts.clamp(min=1).pow(-power), 0.0)
    mean = (weights * counts).sum() / counts.sum().clamp(min=1)
    return ids.lookup(weights / torch.where(mean > 0, mean, 1.0), 1.0).to(torch.float32)


class GroupDROAdvantage(StatefulModule):
    """GRPO advantages under GroupDRO: weight moves to the groups whose rewards are lowest.

        L_g = -sum_{q in g} rbar_q / (n pi_g),    log q_g += step_size L_g,    w_q = q_g / pi_g for a prompt q of group g

    with rbar_q a prompt's mean reward, n the batch's known prompts and pi_g the group's share of those seen so far, so that
    L_g is unbiased at any batch size and sum_i w_i A_i / n is GroupDRO's sum_g q_g (mean of group g's A). Softmax runs over
    groups ever seen. Unknown prompts weigh 1.

    Args:
        num_groups: number of groups of the one attribute.
        step_size: eta.
        group_counts: training-set counts per group, for the shares.
        batch_normalize: divide by the standard deviation (ddof 1) + eps, as FairGRPO does: over the informative prompts so far,
            which fade by half every 1,000 prompts. Within a batch of one prompt the weights would cancel.
        eps: added to standard deviations.
        process_group: sums run over all its ranks.

    Note:
        A call in training mode advances the state, whether or not gradients are enabled; in ``eval()`` it is read alone.

    Example:
        >>> dro = GroupDROAdvantage(2, step_size=1.0)
        >>> advantages = dro(torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0]]), torch.tensor([0, 1]))
        >>> dro.weights()
        tensor([0.7551, 1.2449])

    Reference:
        Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, 2019.
    """

    log_q: Tensor
    seen: Tensor
    signal: Tensor
    """(3,) float64: informative prompts, their rollouts, sum of their squared weighted scores."""
    counts: Tensor | None

    def __init__(
        self,
        num_groups: int,
        *,
        step_size: float = 0.01,
        group_counts: Sequence[float] | Tensor | None = None,
        batch_normalize: bool = True,
        eps: float = 1e-6,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = single_attribute(num_groups, "GroupDROAdvantage")
        self.step_size = checks.number("step_size", step_size, minimum=0)
        self.eps = checks.number("eps", eps, above=0)
        self.batch_normalize = checks.flag("batch_normalize", batch_normalize)
        check_process_group(process_group)
        self.process_group = process_group
        self.register_state("log_q", (self.num_groups,), torch.float64)
        self.register_state("seen", (self.num_groups,), torch.int64)
        self.register_state("signal", (3,), torch.float64)
        self.counts = None
        if group_counts is not None:
            self.register_constant("counts", check_group_counts(group_counts, self.num_groups)[0])

    def _shares(self, seen: Tensor) -> Tensor:
        counts = (self.counts if self.counts is not None else seen).to(torch.float64)
        return counts / counts.sum().clamp(min=1e-300)

    def weights(self) -> Tensor:
        """(G,) weight q_g / pi_g of a prompt of each group, 0 for groups never seen."""
        present = self.seen > 0
        q = torch.softmax(torch.where(present, self.log_q, -torch.inf), 0)
        shares = self._shares(self.seen)
        return torch.where(present, q / torch.where(shares > 0, shares, 1.0), 0.0).to(torch.float32)

    def forward(
        self,
        rewards: Tensor,
        groups: Tensor,
        domains: Tensor | None = None,
        *,
        prompt_ids: Tensor | None = None,
        rollout_ids: Tensor | None = None,
    ) -> Tensor:
        """Weighted GRPO advantages in the shape of ``rewards``; arguments as :func:`fairloss.fair_grpo_advantages`.

        ``domains`` is accepted, so that the module can take FairGRPO's place, and not used.
        """
        return self.weigh_scores(rewards, groups, scores=None, prompt_ids=prompt_ids, rollout_ids=rollout_ids)[0]

    @torch.no_grad()
    def weigh_scores(
        self,
        rewards: Tensor,
        groups: Tensor,
        domains: Tensor | None = None,
        *,
        scores: Tensor | None,
        prompt_ids: Tensor | None = None,
        rollout_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As ``forward`` with scores in place of GRPO's, and the weights: :meth:`fairloss.FairGRPOAdvantage.weigh_scores`."""
        batch = prepare_batch(rewards, groups, None, prompt_ids, rollout_ids, num_groups=self.num_groups)
        given = batch.rewards
        scored = given.scores(self.eps) if scores is None else given.given(check_scores(scores, given.values))
        moves = self.training and not self._frozen
        if moves:
            counts = given.sum((~torch.isnan(given.values)).to(torch.float64))
            self._advance(given.sum(torch.nan_to_num(given.values.to(torch.float64))), counts, batch.groups)
        ids = GroupIds(batch.groups.unsqueeze(1), (self.num_groups,))
        weights = ids.lookup(self.weights().to(given.values.dtype), 1.0)
        advantages = scored.scores * given.to_rollouts(weights)
        if self.batch_normalize:
            signal = self.signal
            if moves:
                prompts = (scored.rollouts > 0).to(torch.float64)
                informative = scored.informative.to(torch.float64)
                squares = advantages.to(torch.float64).square().sum()
                sums = [prompts.sum(), informative.sum(), (informative * scored.rollouts).sum(), squares]
                number, batch_signal = all_reduce_sum(torch.stack(sums), self.process_group).split([1, 3])
                signal = self.signal * torch.exp2(-number / 1000.0) + batch_signal
                self.signal.copy_(signal)
            advantages = advantages / divisor(signal[0], signal[1], signal[2], self.eps).to(advantages.dtype)
        return given.to_rows(advantages), weights

    def _advance(self, totals: Tensor, counts: Tensor, groups: Tensor) -> None:
        known = GroupIds(torch.where(counts > 0, groups, -1).unsqueeze(1), (self.num_groups,))
        per_prompt = torch.stack([(counts > 0).to(torch.float64), -totals / counts.clamp(min=1)], dim=1)
        present, losses = all_reduce_sum(known.sum(per_prompt), self.process_group).T
        sound = torch.isfinite(losses).all()  # an infinite reward would stay in q for good
        present, losses = torch.where(sound, present, 0.0), torch.where(sound, losses, 0.0)
        self.seen.add_(present.to(torch.int64))
        shares = self._shares(self.seen)
        expected = present.sum() * shares
        self.log_q.add_(
            self.step_size * torch.where(expected > 0, losses / torch.where(expected > 0, expected, 1.0), 0.0)
        )
