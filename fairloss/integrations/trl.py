"""FairGRPO inside TRL: a mixin for ``GRPOTrainer`` that multiplies TRL's advantages by each prompt's fair weight.

TRL offers no hook for advantages, and a reward function cannot do it: a factor on a prompt's rewards cancels when they are
standardised, and a reward function sees its own process alone. The mixin therefore wraps two methods of the trainer and
copies none of their code: ``_calculate_rewards``, for rewards, groups and domains of all processes, and
``_generate_and_score_completions``, whose ``"advantages"`` it reweighs. Whatever TRL computes before (``scale_rewards``,
several reward functions and their weights, either aggregation) and after (every ``loss_type``, Liger's fused loss in the
versions that have it) stays TRL's. Tried with TRL 1.16; another version whose methods do not fit is refused.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from fairloss.integrations._trainers import arguments_of, check_columns, check_methods

if TYPE_CHECKING:
    from fairloss.policy import FairGRPOAdvantage, GroupDROAdvantage

    FairGRPOTrainer: Any

__all__ = ["FairGRPOMixin", "FairGRPOTrainer"]

STATE_FILE = "fair_grpo.safetensors"

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
    groups: Tensor
    domains: Tensor | None


class FairGRPOMixin:
    """Fair advantages for a ``GRPOTrainer``; put it first: ``class Trainer(FairGRPOMixin, GRPOTrainer)``.

    ``FairGRPOTrainer`` is that class for TRL's own trainer.

    Args:
        *args: the trainer's.
        fair: a :class:`fairloss.FairGRPOAdvantage` or :class:`fairloss.policy.GroupDROAdvantage`, without process group:
            the mixin gathers rewards and ids itself, so that its state is the same on all processes.
        group_column: column of the data sets with each prompt's group, an integer; -1 or None = unknown.
        domain_column: column with each prompt's domain; None for one domain.
        group_names: names of the groups in the logs.
        domain_names: names of the domains in the logs.
        **kwargs: the trainer's.

    Raises:
        ImportError: TRL's trainer is not one that the mixin fits.
        ValueError: a data set lacks a column, or ``remove_unused_columns`` would drop it.

    Note:
        The weight is the same for all completions of a prompt; the batch is then divided by its standard deviation over all
        processes where ``fair.batch_normalize`` (``fair.options`` for FairGRPO) says so. The history advances once a
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
        **kwargs: Any,
    ) -> None:
        base: Any = super()
        check_methods("FairGRPOMixin", base, _METHODS, trainer="GRPOTrainer", versions=_versions())
        if fair.process_group is not None:
            raise ValueError("fair: give it no process_group; the trainer gathers rewards and groups itself")
        self._fair_columns = tuple(c for c in (group_column, domain_column) if c is not None)
        bound = arguments_of(base, args, kwargs)
        advice = "Name the columns with group_column and domain_column"
        for name in ("train_dataset", "eval_dataset"):
            check_columns(name, bound.get(name), self._fair_columns, user="FairGRPO", advice=advice)
        self._check_kept(bound.get("args"))
        base.__init__(*args, **kwargs)
        this: Any = self
        self.fair = fair.to(this.accelerator.device)
        self._fair_names = group_names, domain_names
        self._fair_scored: _Scored | None = None

    def _check_kept(self, config: Any) -> None:
        if getattr(config, "remove_unused_columns", False):
            raise ValueError(
                f"args: remove_unused_columns=True drops the columns {', '.join(map(repr, self._fair_columns))} before the "
                f"trainer sees them; set remove_unused_columns=False, the default of GRPOConfig"
            )

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        base: Any = super()
        trainer: Any = self
        # Checked before anything is gathered: a process that stops here would leave the others waiting.
        ids = [_ids(inputs, column) for column in self._fair_columns]
        rewards: Tensor = base._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        gathered = [trainer.accelerator.gather(torch.tensor(i, device=rewards.device)) for i in ids]
        if rewards.ndim != 2 or any(len(g) != len(rewards) for g in gathered):
            raise RuntimeError(
                f"FairGRPOMixin: rewards of shape {tuple(rewards.shape)} from TRL for {len(gathered[0])} completions; "
                f"{_versions()}"
            )
        weights = trainer.reward_weights.to(rewards.device)
        total = (rewards * weights).nansum(1)
        total[torch.isnan(rewards).all(1)] = torch.nan
        self._fair_scored = _Scored(total, gathered[0], gathered[1] if len(gathered) > 1 else None)
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
        rewards, groups = scored.rewards.view(-1, size), scored.groups.view(-1, size)
        domains = None if scored.domains is None else scored.domains.view(-1, size)
        for ids in (groups, domains):
            if ids is not None and not bool((ids == ids[:, :1]).all()):
                raise RuntimeError(f"FairGRPOMixin: the completions of a prompt do not stand together; {_versions()}")
        prompt_groups = groups[:, 0]
        prompt_domains = None if domains is None else domains[:, 0]
        self.fair.train(training)
        weights = self.fair.prompt_weights(rewards, prompt_groups, prompt_domains)
        everyone = trainer.accelerator.gather(own)
        advantages = everyone * weights.to(everyone.dtype).repeat_interleave(size)
        if _normalizes(self.fair):
            # Unscorable completions have advantage 0 and are no part of the batch.
            kept = advantages[~torch.isnan(scored.rewards)].double()
            std = kept.std() if len(kept) > 1 else kept.new_zeros(())
            advantages = advantages / (std + 1e-6).to(advantages.dtype)
        start = trainer.accelerator.process_index * len(own)
        output["advantages"] = advantages[start : start + len(own)].clone()
        self._log_fair(rewards, weights, prompt_groups, prompt_domains, advantages, "train" if training else "eval")
        return output

    def _log_fair(
        self, rewards: Tensor, weights: Tensor, groups: Tensor, domains: Tensor | None, advantages: Tensor, mode: str
    ) -> None:
        """Each group's mean reward and weight, and the advantages as they are used."""
        trainer: Any = self
        places = torch.zeros_like(groups) if domains is None else domains
        cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
        means = rewards.nanmean(1).tolist()
        for domain, group, mean, weight in zip(places.tolist(), groups.tolist(), means, weights.tolist(), strict=True):
            cells.setdefault((domain, group), []).append((mean, weight))
        group_names, domain_names = self._fair_names
        for (domain, group), values in sorted(cells.items()):
            name = _name(group, "group", group_names)
            if domains is not None:
                name = f"{_name(domain, 'domain', domain_names)}/{name}"
            scored = [mean for mean, _ in values if mean == mean]
            metrics = trainer._metrics[mode]
            if scored:
                metrics[f"fair/reward/{name}"].append(sum(scored) / len(scored))
            metrics[f"fair/weight/{name}"].append(sum(weight for _, weight in values) / len(values))
        logged = trainer._logs["advantages"]
        for _ in range(min(len(logged), len(advantages))):
            logged.pop()
        logged.extend(advantages.tolist())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        base: Any = super()
        trainer: Any = self
        base._save_checkpoint(model, trial)
        if trainer.args.should_save:
            from safetensors.torch import save_file

            folder = Path(trainer._get_output_dir(trial=trial)) / f"checkpoint-{trainer.state.global_step}"
            save_file(self.fair.state_dict(), folder / STATE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        base: Any = super()
        base._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = Path(checkpoint) / STATE_FILE
        if path.exists():
            from safetensors.torch import load_file

            self.fair.load_state_dict(load_file(path))
        else:
            warnings.warn(f"{path} is not there: FairGRPO's history starts anew", stacklevel=2)


def _normalizes(fair: Any) -> bool:
    return bool(fair.options.batch_normalize if hasattr(fair, "options") else fair.batch_normalize)


def _name(id_: int, what: str, names: Sequence[str] | None) -> str:
    if id_ < 0:
        return f"{what}_unknown"
    return f"{what}_{id_}" if names is None else str(names[id_])


def _versions() -> str:
    import trl

    return f"TRL {trl.__version__} is installed, FairGRPOMixin was made for 1.16"


def _ids(inputs: list[dict[str, Any]], column: str) -> list[int]:
    """The ids of one column, None read as -1."""
    ids = []
    for row in inputs:
        if column not in row:
            raise ValueError(
                f"inputs: the rows have no column {column!r}, only {', '.join(map(repr, row))}; does the data set have it, "
                f"and is remove_unused_columns False?"
            )
        value = row[column]
        value = value.item() if hasattr(value, "item") else value
        if value is not None and not isinstance(value, Integral):
            raise TypeError(
                f"column {column!r}: an integer id is needed, -1 or None for unknown, {value!r} was given; "
                f"fairloss.encode_groups makes ids of names"
            )
        ids.append(-1 if value is None else int(value))
    return ids


def __getattr__(name: str) -> Any:
    if name != "FairGRPOTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        base: Any = importlib.import_module("trl").GRPOTrainer
    except ImportError as error:
        raise ImportError("FairGRPOTrainer needs TRL: pip install 'fairloss[trl]'") from error
    trainer = type("FairGRPOTrainer", (FairGRPOMixin, base), {"__module__": __name__, "__doc__": FairGRPOMixin.__doc__})
    globals()[name] = trainer
    return trainer
