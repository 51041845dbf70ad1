"""FairGRPO inside TRL: a mixin for ``GRPOTrainer`` that multiplies advantages by each prompt's fair weight.

TRL offers no hook for advantages, and a reward function cannot do it: a factor on a prompt's rewards cancels when they are
standardized, and a reward function sees its own process alone. The mixin therefore wraps two methods of the trainer and
copies none of their code: ``_calculate_rewards``, for rewards, groups and domains of all processes, and
``_generate_and_score_completions``, whose ``"advantages"`` it replaces. They are computed from the rewards as TRL's options
say (``scale_rewards``, several reward functions and their weights, either aggregation), and not from TRL's advantages: those
of equal rewards are rounding noise, 6e-4 at .1, which a division by a deviation makes full-size. What comes after
(every ``loss_type``, Liger's fused loss in the versions that have it) stays TRL's. Tried with TRL 1.16; another version whose
methods do not fit is refused.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.integrations import _trainers
from fairloss.integrations._labels import Labels
from fairloss.integrations._trainers import Cell, listed
from fairloss.policy.rewards import Rows

if TYPE_CHECKING:
    from fairloss.policy import FairGRPOAdvantage, GroupDROAdvantage

    FairGRPOTrainer: Any

__all__ = ["FairGRPOMixin", "FairGRPOTrainer"]

STATE_FILE = "fair_grpo.safetensors"
_EPS = 1e-4  # TRL's, beside every standard deviation

# What the mixin relies on: each method's parameters, the first ones of which must be these.
_METHODS = {
    "_calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("self", "inputs"),
    "_save_checkpoint": ("self", "model", "trial"),
    "_load_optimizer_and_scheduler": ("self", "checkpoint"),
}


class _Scored(NamedTuple):
    """Rewards and ids of one generation batch, of all processes, one row a completion."""

    rewards: Tensor
    """(B, F), of each reward function; NaN where it gave none."""
    ids: list[Tensor]
    """Groups, and domains where there is a column of them."""


class FairGRPOMixin:
    """Fair advantages for a ``GRPOTrainer``; put it first: ``class Trainer(FairGRPOMixin, GRPOTrainer)``.

    ``FairGRPOTrainer`` is that class for TRL's own trainer.

    Args:
        *args: the trainer's.
        fair: a :class:`fairloss.FairGRPOAdvantage` or :class:`fairloss.policy.GroupDROAdvantage`, without process group:
            the mixin gathers rewards and ids itself, so that its state is the same on all processes.
        group_column: column of the data sets with each prompt's group: one of ``group_names``, or an id from 0; None, NaN,
            ``""`` and -1 = unknown.
        domain_column: column with each prompt's domain, likewise; None for one domain.
        group_names: what the groups of ids 0, 1, ... are called in the column and in the logs.
        domain_names: what the domains are called there.
        fairness_reward: what fairness looks at where there are several reward functions: the name of one, or a weight for
            each; a completion that one of them gives no reward to is left out. None: the mean, by TRL's ``reward_weights``,
            of the functions that answer for every completion. One that leaves out a completion of a known group which
            another rewards is dropped for good, with a warning, and what is remembered starts anew. What is learnt from is
            TRL's sum of rewards in any case.
        **kwargs: the trainer's.

    Raises:
        ImportError: TRL's trainer is not one that the mixin fits.
        ValueError: a data set lacks a column, or ``remove_unused_columns`` would drop it; the names are not one for each
            group or domain; ``fairness_reward`` is no reward function's name; in training, a group or domain that is
            not among them.

    Note:
        The weight is the same for all completions of a prompt, and equal rewards have advantage 0. Weighted advantages are
        divided by their standard deviation over the run's informative prompts where ``batch_normalize`` of ``fair`` says so,
        unless ``scale_rewards="none"`` asks for advantages that are not scaled. The history advances once a
        generation batch, whatever the gradient accumulation and ``num_iterations``, in training and not in evaluation; it is
        saved with every checkpoint (``fair_grpo.safetensors``) and restored on resuming. The log holds each group's mean
        reward and weight in the batch, ``fair/reward/...`` and ``fair/weight/...``, and the reweighted advantages.

    Reference:
        Dai et al., FairGRPO: Fair Reinforcement Learning for Equitable Clinical Reasoning, 2025.
    """

    def __init__(
        self,
        *args: Any,
        fair: FairGRPOAdvantage | GroupDROAdvantage,
        group_column: str = "group",
        domain_column: str | None = None,
        group_names: Sequence[str] | None = None,
        domain_names: Sequence[str] | None = None,
        fairness_reward: str | Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        base: Any = super()
        _trainers.check_methods("FairGRPOMixin", base, _METHODS, "GRPOTrainer", _versions())
        if fair.process_group is not None:
            cure = "the trainer gathers rewards and groups itself"
            raise ValueError(expected("fair", "a module without process_group", fair.process_group, cure))
        labels = [(group_column, Labels("group", group_names, fair.num_groups, "group_names"))]
        if domain_column is not None:
            # GroupDRO has no domains and takes any.
            number = getattr(fair, "num_domains", len(domain_names or ()) or 2**31)
            labels.append((domain_column, Labels("domain", domain_names, number, "domain_names")))
        self._fair_labels = labels
        self._fair_columns = tuple(column for column, _ in labels)
        bound = _trainers.arguments_of(base, args, kwargs)
        cure = "name the columns with group_column and domain_column"
        for name in ("train_dataset", "eval_dataset"):
            _trainers.check_columns(name, bound.get(name), self._fair_columns, cure)
        if getattr(bound.get("args"), "remove_unused_columns", False):
            dropped = f"True, which drops {listed(self._fair_columns)} before the trainer sees them"
            raise ValueError(expected("args", "remove_unused_columns=False, the default of GRPOConfig", dropped))
        base.__init__(*args, **kwargs)
        this: Any = self
        self.fair = fair.to(this.accelerator.device)
        self._fair_reward = _named_rewards(fairness_reward, this.reward_func_names)
        self._fair_dropped: list[str] = []
        self._fair_scored: _Scored | None = None

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        base: Any = super()
        trainer: Any = self
        # Checked before anything is gathered: a process that stops here would leave the others waiting.
        ids = [_ids(inputs, column, labels) for column, labels in self._fair_labels]
        rewards: Tensor = base._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        gathered = [trainer.accelerator.gather(torch.tensor(i, device=rewards.device)) for i in ids]
        if rewards.ndim != 2 or any(len(g) != len(rewards) for g in gathered):
            raise RuntimeError(
                f"FairGRPOMixin: rewards of shape {tuple(rewards.shape)} from TRL for {len(gathered[0])} completions; "
                f"{_versions()}"
            )
        self._fair_scored = _Scored(rewards, gathered)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        base: Any = super()
        trainer: Any = self
        self._fair_scored = None
        output: dict[str, Any] = base._generate_and_score_completions(inputs)
        scored, own = cast("_Scored | None", self._fair_scored), output.get("advantages")
        if scored is None or own is None or own.shape != (len(inputs),):
            raise RuntimeError(f"FairGRPOMixin: this trainer scores completions in another way; {_versions()}")
        training = bool(trainer.model.training)
        size = trainer.num_generations if training else trainer.num_generations_eval
        by_function, ids = scored.rewards.unflatten(0, (-1, size)), [i.view(-1, size) for i in scored.ids]
        if not all(bool((i == i[:, :1]).all()) for i in ids):
            raise RuntimeError(f"FairGRPOMixin: the completions of a prompt do not stand together; {_versions()}")
        weighted = by_function * trainer.reward_weights.to(by_function.device)
        rewards = torch.where(weighted.isnan().all(2), torch.nan, weighted.nansum(2))
        scores = torch.where(rewards.isnan(), torch.nan, self._fair_scores(by_function, rewards))
        prompts = [i[:, 0] for i in ids]
        looked_at = self._looked_at(by_function, prompts[0], training)
        self.fair.train(training)
        found, weights = self.fair.weigh_scores(looked_at, *prompts, scores=scores)
        if trainer.scale_rewards == "none":
            found = scores.nan_to_num() * weights.unsqueeze(1)
        advantages = found.flatten().to(own.dtype)
        start = trainer.accelerator.process_index * len(own)
        output["advantages"] = advantages[start : start + len(own)].clone()
        places = [0] * len(rewards) if len(prompts) == 1 else prompts[1].tolist()
        cells = list(zip(places, prompts[0].tolist(), strict=True))
        self._log_fair("train" if training else "eval", cells, looked_at.nanmean(1), weights, advantages)
        return output

    def _fair_scores(self, by_function: Tensor, rewards: Tensor) -> Tensor:
        """What TRL's options make of (Q, R, F) rewards and of (Q, R), their sum; exactly 0 where a prompt's are equal."""
        trainer: Any = self
        if trainer.multi_objective_aggregation == "normalize_then_sum":
            each = by_function.movedim(2, 0).flatten(0, 1)  # (F * Q, R)
            each = Rows(each).scores(_EPS).scores.unflatten(0, (by_function.shape[2], -1))
            scores: Tensor = (each * trainer.reward_weights.to(each.device).view(-1, 1, 1)).sum(0)
            return scores / (_std(scores[~rewards.isnan()]) + _EPS)
        scored = Rows(rewards).scores(_EPS)
        if trainer.scale_rewards == "group":
            return scored.scores
        scores = torch.where(scored.informative.unsqueeze(1), Rows(rewards).centered()[0], 0.0)
        return scores if trainer.scale_rewards == "none" else scores / (_std(rewards[~rewards.isnan()]) + _EPS)

    def _looked_at(self, by_function: Tensor, groups: Tensor, training: bool) -> Tensor:
        """(Q, R) rewards of (Q, R, F) ones that fairness looks at, NaN where a completion has none; (Q,) groups."""
        trainer: Any = self
        names, answered = trainer.reward_func_names, ~by_function.isnan()
        scorable = answered.any(2, keepdim=True)
        weights = trainer.reward_weights if self._fair_reward is None else self._fair_reward
        weights = weights.to(by_function.device, by_function.dtype)
        if self._fair_reward is None:
            forms_groups = (groups >= 0) | (getattr(self.fair, "discovery", None) is not None)
            left_out = (~answered & scorable & forms_groups.view(-1, 1, 1)).any(1).any(0).tolist()
            found = [name for name, out in zip(names, left_out, strict=True) if out and name not in self._fair_dropped]
            if training and found:
                self._drop(found)
            kept = [name not in self._fair_dropped for name in names]
            if any(kept):
                weights = weights * torch.tensor(kept, device=weights.device)
            else:  # No function answers for all: what each completion has.
                weights = weights * answered
        full = (answered | (weights == 0)).all(2, keepdim=True) & scorable
        weights = torch.where(full, weights, torch.nan)
        return (by_function.nan_to_num() * weights).sum(2) / weights.abs().sum(2).clamp(min=1e-12)

    def _drop(self, names: list[str]) -> None:
        trainer: Any = self
        self._fair_dropped += names
        self.fair.reset()
        rest = listed(name for name in trainer.reward_func_names if name not in self._fair_dropped)
        looks = f"at {rest}" if rest != listed([]) else "at the mean of those that answer"
        warnings.warn(
            f"{listed(names)} gave no reward to completions of known groups that others rewarded: FairGRPO now looks {looks}, "
            f"and starts its history anew. Say what it should look at with fairness_reward=, one of "
            f"{listed(trainer.reward_func_names)} or a weight for each",
            stacklevel=2,
        )

    def _log_fair(self, mode: str, cells: list[Cell], rewards: Tensor, weights: Tensor, advantages: Tensor) -> None:
        """Each group's mean reward and weight, and the advantages as they are used."""
        trainer: Any = self
        names = [labels.name for _, labels in self._fair_labels]
        for what, values in (("reward", rewards), ("weight", weights)):
            for (domain, group), mean in _trainers.means_by_cell(cells, values.tolist()).items():
                name = names[0](group) if len(names) == 1 else f"{names[1](domain)}/{names[0](group)}"
                trainer._metrics[mode][f"fair/{what}/{name}"].append(mean)
        logged = trainer._logs["advantages"]
        for _ in range(min(len(logged), len(advantages))):
            logged.pop()
        logged.extend(advantages.tolist())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        base: Any = super()
        trainer: Any = self
        base._save_checkpoint(model, trial)
        if trainer.args.should_save:
            folder = Path(trainer._get_output_dir(trial=trial)) / f"checkpoint-{trainer.state.global_step}"
            dropped = {"dropped": json.dumps(self._fair_dropped)}
            _trainers.save_state(self.fair, folder / STATE_FILE, dropped | self._described())

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        base: Any = super()
        base._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            path, otherwise = Path(checkpoint) / STATE_FILE, "FairGRPO's history starts anew"
            written = _trainers.load_state(self.fair, path, otherwise, self._described())
            self._fair_dropped = json.loads(written.get("dropped", "[]"))

    def _described(self) -> dict[str, str]:
        """What a saved history is of: names or number of groups and of domains."""
        return {f"{labels.what}s": labels.described() for _, labels in self._fair_labels}


def _versions() -> str:
    return _trainers.versions("trl", "FairGRPOMixin", "1.16")


def _named_rewards(asked: str | Sequence[float] | None, names: Sequence[str]) -> Tensor | None:
    """A weight for each reward function, None where none was asked for."""
    if asked is None:
        return None
    if isinstance(asked, str):
        if list(names).count(asked) != 1:
            raise ValueError(expected("fairness_reward", f"the name of one of {listed(names)}", repr(asked)))
        return torch.tensor([float(name == asked) for name in names])
    weights = [checks.number("fairness_reward", weight) for weight in asked]
    if len(weights) != len(names) or not any(weights):
        raise ValueError(expected("fairness_reward", f"a weight for each of {listed(names)}, not all 0", asked))
    return torch.tensor(weights)


def _std(values: Tensor) -> Tensor:
    """Standard deviation, 0 of fewer than two."""
    return values.double().std().to(values.dtype) if len(values) > 1 else values.new_zeros(())


def _ids(inputs: list[dict[str, Any]], column: str, labels: Labels) -> list[int]:
    """The ids of one column."""
    for row in inputs:
        if column not in row:
            cure = "does the data set have it, and is remove_unused_columns False?"
            raise ValueError(expected("inputs", f"rows with a column {column!r}", listed(row), cure))
    return [labels.id(row[column], f"column {column!r}") for row in inputs]


def __getattr__(name: str) -> Any:
    return _trainers.trainer_class(globals(), name, "FairGRPOTrainer", FairGRPOMixin, "trl", "GRPOTrainer")
