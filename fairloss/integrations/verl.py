"""FairGRPO inside verl: registers ``algorithm.adv_estimator=fair_grpo`` and brings it what verl does not hand an estimator.

A function in verl's registry gets rewards, mask and prompt ids, not the rows' columns. So three places around it are
wrapped, none of their code copied:

- the v1 trainers (``PPOTrainer._compute_advantage``, verl's default): the columns are fetched from TransferQueue, where the
  agent loop puts every column of the data set; rows that only pad the batch are left out of all statistics, and of a
  rollout with several outputs the last is scored, as verl does for GRPO;
- the legacy ``compute_advantage``, called in ``RayPPOTrainer.fit``: the columns are those of the ``DataProto``;
- both trainers' checkpoints, for the history, which belongs to the trainer. The authors' fork keeps it in module globals.

verl's modules are wrapped when they are imported, so that worker processes import no trainer for this. Made for verl 0.9;
what does not fit another version is left as it is, and refused with the reason once ``fair_grpo`` is used.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from fairloss.core.checks import expected
from fairloss.integrations import _trainers
from fairloss.integrations._after_import import after_import
from fairloss.integrations._verl_state import ROWS, STATE_FILE, FairGRPOState

try:
    import verl  # noqa: F401
except ImportError as error:
    raise ImportError("fairloss.integrations.verl needs verl: pip install 'fairloss[verl]'") from error

__all__ = ["NAME", "STATE_FILE", "FairGRPOState", "fair_grpo"]

NAME = "fair_grpo"
_TRAINER: ContextVar[Any] = ContextVar("fairloss_verl_trainer", default=None)
_UNFIT: list[str] = []
_MARK = "_wrapped_by_fairloss"


def fair_grpo(
    token_level_rewards: Tensor, response_mask: Tensor, index: Any = None, config: Any = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """The estimator in verl's registry: advantages and returns, (B, L), of the rows that are being worked on.

    Args:
        token_level_rewards: (B, L), summed to one reward per row.
        response_mask: (B, L).
        index: (B,) ``uid`` of each row's prompt, in any order.
        config: ``config.algorithm``; its options were read when the trainer was made.

    Raises:
        RuntimeError: called outside the trainers that this module knows, without ``FairGRPOState.rows``.
        ValueError: the rows have no ``uid``; and as :class:`FairGRPOState`.
    """
    rows = ROWS.get()
    if rows is None:
        reason = f" ({'; '.join(_UNFIT)})" if _UNFIT else ""
        raise RuntimeError(
            f"fair_grpo: verl hands an estimator neither groups nor domains, and this call came neither from a v1 trainer nor "
            f"from RayPPOTrainer.fit through the compute_advantage that fairloss wraps; {_versions()}{reason}. "
            f"Set trainer.use_v1=True, load fairloss before the trainer (VERL_USE_EXTERNAL_MODULES={__name__}), or, in a loop "
            f"of your own, make state = FairGRPOState.from_config(config.algorithm) once and call compute_advantage within "
            f"`with state.rows(batch.non_tensor_batch):`"
        )
    if index is None:
        cure = "give rollouts of one prompt one uid, as verl's trainers do"
        raise ValueError(expected("fair_grpo", "a batch with a column uid", None, cure))
    advantages = rows.state.advantages(token_level_rewards, response_mask, list(index))
    return advantages, advantages.clone()


def _state(trainer: Any) -> FairGRPOState | None:
    """The trainer's state, made from its configuration; None if it uses another estimator."""
    algorithm = trainer.config.algorithm
    if not _is_fair(algorithm.get("adv_estimator", None)):
        return None
    state: FairGRPOState | None = trainer.__dict__.get("_fair_grpo")
    if state is None:
        state = trainer._fair_grpo = FairGRPOState.from_config(algorithm)
    return state


def _is_fair(estimator: Any) -> bool:
    return bool(getattr(estimator, "value", estimator) == NAME)


def _versions() -> str:
    return _trainers.versions("verl", "this", "0.9")


def _wrap(owner: Any, name: str, first: tuple[str, ...], around: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by ``around(original, ...)``, if its first parameters are these."""
    original = getattr(owner, name, None)
    if getattr(original, _MARK, False):
        return
    why = _trainers.misfit(owner, name, first)
    if original is None or why is not None:
        _UNFIT.append(f"{getattr(owner, '__qualname__', owner.__name__)}.{why}")
        return
    wrapped = wraps(original)(lambda *args, **kwargs: around(original, *args, **kwargs))
    setattr(wrapped, _MARK, True)
    setattr(owner, name, wrapped)


def _wrap_trainer(cls: type) -> None:
    """What both trainers share: early errors, saving, resuming."""
    _wrap(cls, "__init__", ("self", "config"), _init)
    _wrap(cls, "_save_checkpoint", ("self",), _save_checkpoint)
    _wrap(cls, "_load_checkpoint", ("self",), _load_checkpoint)


def _init(original: Callable[..., Any], trainer: Any, config: Any, *args: Any, **kwargs: Any) -> None:
    if _is_fair(config.algorithm.get("adv_estimator", None)):
        trainer._fair_grpo = FairGRPOState.from_config(config.algorithm)
    original(trainer, config, *args, **kwargs)


def _save_checkpoint(original: Callable[..., Any], trainer: Any, *args: Any, **kwargs: Any) -> Any:
    # First, since the original ends with the mark of a complete checkpoint and its callback.
    state = _state(trainer)
    if state is not None:
        state.save(Path(trainer.config.trainer.default_local_dir) / f"global_step_{trainer.global_steps}")
    return original(trainer, *args, **kwargs)


def _load_checkpoint(original: Callable[..., Any], trainer: Any, *args: Any, **kwargs: Any) -> Any:
    result = original(trainer, *args, **kwargs)
    state = _state(trainer)
    step = getattr(trainer, "global_steps", 0)  # 0: nothing was resumed
    if state is not None and step > 0:
        options = trainer.config.trainer
        folder = Path(options.default_local_dir) / f"global_step_{step}"
        try:
            state.load(Path(options.resume_from_path) if options.resume_mode == "resume_path" else folder)
        except FileNotFoundError as error:
            warnings.warn(f"{error}: FairGRPO's history starts anew", stacklevel=3)
    return result


def _wrap_v1(module: ModuleType) -> None:
    """``verl.trainer.ppo.v1.trainer_base``."""
    around = partial(_advantage_of_v1, module)
    _wrap(module.PPOTrainer, "_compute_advantage", ("self", "batch", "metrics"), around)
    _wrap_trainer(module.PPOTrainer)


def _advantage_of_v1(
    module: ModuleType, original: Callable[..., Any], trainer: Any, batch: Any, metrics: dict[str, Any]
) -> Any:
    state = _state(trainer)
    if state is None:
        return original(trainer, batch, metrics)
    columns: Mapping[str, Any] = {}
    if state.fields:
        data = module.tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=state.fields)
        columns = {name: _column(data[name], len(batch.keys)) for name in state.fields if name in data.keys()}  # noqa: SIM118
    padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
    with state.rows(columns, sessions=[_session(key) for key in batch.keys], padding=padding):
        result = original(trainer, batch, metrics)
    metrics.update(state.metrics)
    return result


def _column(values: Any, size: int) -> list[Any]:
    """A column of a TensorDict, one value a row; the same value in all rows may come as that value alone."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return list(values) if isinstance(values, list) else [values] * size


def _session(key: str) -> tuple[str, int]:
    """A row's key in TransferQueue, ``{uid}_{session}_{index}``: the rollout, and the row's place in it."""
    session, _, index = key.rpartition("_")
    if not session or not index.isdecimal():
        raise RuntimeError(f"fair_grpo: keys of rows end in the number of the output, {key!r} was given; {_versions()}")
    return session, int(index)


def _wrap_legacy(module: ModuleType) -> None:
    """``verl.trainer.ppo.ray_trainer``."""
    before = module.compute_advantage
    _wrap(module, "compute_advantage", ("data", "adv_estimator"), _advantage_of_legacy)
    # Copies that modules took by `from ... import` before this one was loaded.
    for other in list(sys.modules.values()):
        names: dict[str, Any] = getattr(other, "__dict__", {})
        if names.get("compute_advantage") is before:
            names["compute_advantage"] = module.compute_advantage
    _wrap(module, "compute_data_metrics", ("batch",), _data_metrics)
    _wrap(module.RayPPOTrainer, "fit", ("self",), _fit)
    _wrap_trainer(module.RayPPOTrainer)


def _advantage_of_legacy(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    given = inspect.signature(original).bind(*args, **kwargs).arguments
    trainer = _TRAINER.get()
    state = None if trainer is None or not _is_fair(given["adv_estimator"]) else _state(trainer)
    if state is None or ROWS.get() is not None:
        return original(*args, **kwargs)
    with state.rows(given["data"].non_tensor_batch):
        return original(*args, **kwargs)


def _fit(original: Callable[..., Any], trainer: Any, *args: Any, **kwargs: Any) -> Any:
    token = _TRAINER.set(trainer if _state(trainer) is not None else None)
    try:
        return original(trainer, *args, **kwargs)
    finally:
        _TRAINER.reset(token)


def _data_metrics(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    trainer = _TRAINER.get()
    state = None if trainer is None else _state(trainer)
    return original(*args, **kwargs) | ({} if state is None else state.metrics)


def _register(module: ModuleType) -> None:
    """``verl.trainer.ppo.core_algos``."""
    module.register_adv_est(NAME)(fair_grpo)


after_import("verl.trainer.ppo.core_algos", _register)
after_import("verl.trainer.ppo.ray_trainer", _wrap_legacy)
after_import("verl.trainer.ppo.v1.trainer_base", _wrap_v1)
