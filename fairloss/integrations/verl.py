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
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from fairloss.integrations._after_import import after_import
from fairloss.integrations._verl_state import ROWS, STATE_FILE, FairGRPOState

try:
    import verl as _verl
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
        token_level_rewards: (B, L), summed to one reward a row.
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
        raise ValueError("fair_grpo: the batch has no uid; give rollouts of one prompt one uid, as verl's trainers do")
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
    return f"verl {getattr(_verl, '__version__', 'of unknown version')} is installed, this was made for 0.9"


def _wrap(
    owner: Any, name: str, first: tuple[str, ...], make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Replace ``owner.name`` by ``make(original)``, if its first parameters are these."""
    original = getattr(owner, name, None)
    if getattr(original, _MARK, False):
        return
    where = f"{getattr(owner, '__qualname__', owner.__name__)}.{name}"
    if original is None:
        _UNFIT.append(f"{where} is missing")
        return
    found = tuple(inspect.signature(original).parameters)
    if found[: len(first)] != first:
        _UNFIT.append(f"{where} takes {found}, {first} is needed")
        return
    wrapped = wraps(original)(make(original))
    setattr(wrapped, _MARK, True)
    setattr(owner, name, wrapped)


def _wrap_trainer(cls: type) -> None:
    """What both trainers share: early errors, saving, resuming."""

    def make_init(original: Callable[..., Any]) -> Callable[..., Any]:
        def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            if _is_fair(config.algorithm.get("adv_estimator", None)):
                self._fair_grpo = FairGRPOState.from_config(config.algorithm)
            original(self, config, *args, **kwargs)

        return __init__

    def make_save(original: Callable[..., Any]) -> Callable[..., Any]:
        def _save_checkpoint(self: Any, *args: Any, **kwargs: Any) -> Any:
            # First, since the original ends with the mark of a complete checkpoint and its callback.
            state = _state(self)
            if state is not None:
                state.save(Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}")
            return original(self, *args, **kwargs)

        return _save_checkpoint

    def make_load(original: Callable[..., Any]) -> Callable[..., Any]:
        def _load_checkpoint(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            state = _state(self)
            step = getattr(self, "global_steps", 0)  # 0: nothing was resumed
            if state is not None and step > 0:
                options = self.config.trainer
                folder = Path(options.default_local_dir) / f"global_step_{step}"
                folder = Path(options.resume_from_path) if options.resume_mode == "resume_path" else folder
                try:
                    state.load(folder)
                except FileNotFoundError as error:
                    warnings.warn(f"{error}: FairGRPO's history starts anew", stacklevel=2)
            return result

        return _load_checkpoint

    _wrap(cls, "__init__", ("self", "config"), make_init)
    _wrap(cls, "_save_checkpoint", ("self",), make_save)
    _wrap(cls, "_load_checkpoint", ("self",), make_load)


def _wrap_v1(module: ModuleType) -> None:
    """``verl.trainer.ppo.v1.trainer_base``."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _compute_advantage(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
            state = _state(self)
            if state is None:
                return original(self, batch, metrics)
            columns: Mapping[str, Any] = {}
            if state.fields:
                data = module.tq.kv_batch_get(
                    keys=batch.keys, partition_id=batch.partition_id, select_fields=state.fields
                )
                columns = {name: _column(data[name], len(batch.keys)) for name in state.fields if name in data.keys()}  # noqa: SIM118
            padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
            with state.rows(columns, sessions=[_session(key) for key in batch.keys], padding=padding):
                result = original(self, batch, metrics)
            metrics.update(state.metrics)
            return result

        return _compute_advantage

    _wrap(module.PPOTrainer, "_compute_advantage", ("self", "batch", "metrics"), make)
    _wrap_trainer(module.PPOTrainer)


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

    def make_advantage(original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def compute_advantage(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            trainer = _TRAINER.get()
            if not _is_fair(given["adv_estimator"]) or trainer is None or ROWS.get() is not None:
                return original(*args, **kwargs)
            state = _state(trainer)
            assert state is not None
            with state.rows(given["data"].non_tensor_batch):
                return original(*args, **kwargs)

        return compute_advantage

    def make_fit(original: Callable[..., Any]) -> Callable[..., Any]:
        def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
            token = _TRAINER.set(self if _state(self) is not None else None)
            try:
                return original(self, *args, **kwargs)
            finally:
                _TRAINER.reset(token)

        return fit

    def make_metrics(original: Callable[..., Any]) -> Callable[..., Any]:
        def compute_data_metrics(*args: Any, **kwargs: Any) -> Any:
            trainer = _TRAINER.get()
            state = None if trainer is None else _state(trainer)
            return original(*args, **kwargs) | ({} if state is None else state.metrics)

        return compute_data_metrics

    before = module.compute_advantage
    _wrap(module, "compute_advantage", ("data", "adv_estimator"), make_advantage)
    # Copies that modules took by `from ... import` before this one was loaded.
    for other in list(sys.modules.values()):
        names: dict[str, Any] = getattr(other, "__dict__", {})
        if names.get("compute_advantage") is before:
            names["compute_advantage"] = module.compute_advantage
    _wrap(module, "compute_data_metrics", ("batch",), make_metrics)
    _wrap(module.RayPPOTrainer, "fit", ("self",), make_fit)
    _wrap_trainer(module.RayPPOTrainer)


def _register(module: ModuleType) -> None:
    """``verl.trainer.ppo.core_algos``."""
    module.register_adv_est(NAME)(fair_grpo)


after_import("verl.trainer.ppo.core_algos", _register)
after_import("verl.trainer.ppo.ray_trainer", _wrap_legacy)
after_import("verl.trainer.ppo.v1.trainer_base", _wrap_v1)
