"""The :class:`fairloss.training.FairnessMonitor` as a callback of transformers' Trainer and of Lightning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from fairloss.core.checks import expected
from fairloss.training.monitor import FairnessMonitor

__all__ = ["lightning_callback", "trainer_callback"]

_LOGGED = ("accuracy", "tpr", "fpr", "positive_rate", "auc")


def _figures(monitor: FairnessMonitor) -> dict[str, float]:
    """Overall figures and gaps, what a logger takes; the monitor warns on the way."""
    snapshot = monitor.compute()
    found = {f"fair/{name}": value for name, value in snapshot.overall.items()}
    found |= {f"fair/gap_{name}": snapshot.gap(name) for name in _LOGGED}
    return {name: value for name, value in found.items() if value == value}  # without the undefined


def trainer_callback(monitor: FairnessMonitor, *, group_column: str = "groups", label_column: str = "labels") -> Any:
    """A ``TrainerCallback`` that shows the monitor every evaluation.

    After each evaluation it calls the model once more on its batches, without labels and groups, counts the logits,
    puts ``fair/...`` into the trainer's log history, and lets the monitor warn. Works with any ``Trainer`` whose batches hold
    both columns (``FairTrainer``'s do; else ``remove_unused_columns=False``).

    Args:
        monitor: what counts; under several processes with ``process_group=torch.distributed.group.WORLD``.
        group_column: column of the group ids.
        label_column: column of the labels.

    Raises:
        ImportError: transformers is not installed.

    Example::

        trainer.add_callback(trainer_callback(FairnessMonitor(num_groups=2)))
    """
    from transformers import TrainerCallback

    class Monitored(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model, batches = kwargs["model"], kwargs["eval_dataloader"]
            monitor.reset()
            training = model.training
            model.eval()
            with torch.no_grad():
                for batch in batches:
                    if group_column not in batch or label_column not in batch:
                        cure = "pass remove_unused_columns=False"
                        raise ValueError(
                            expected(
                                "eval_dataset", f"columns {label_column!r} and {group_column!r}", list(batch), cure
                            )
                        )
                    inputs = {k: v.to(args.device) for k, v in batch.items() if k not in (group_column, label_column)}
                    output = model(**inputs)
                    logits = output["logits"] if isinstance(output, Mapping) else output.logits
                    groups, labels = (batch[name].to(logits.device) for name in (group_column, label_column))
                    monitor.update(logits, labels, groups)
            model.train(training)
            state.log_history.append({**_figures(monitor), "step": state.global_step})

    return Monitored()


def lightning_callback(monitor: FairnessMonitor) -> Any:
    """A Lightning ``Callback`` that shows the monitor every validation epoch.

    ``validation_step`` must return a mapping with ``"logits"``, ``"target"`` and ``"groups"``. At the end of the epoch the
    module logs ``fair/...``, and the monitor warns.

    Args:
        monitor: what counts; under several processes with ``process_group=torch.distributed.group.WORLD``.

    Raises:
        ImportError: lightning is not installed.

    Example::

        Trainer(callbacks=[lightning_callback(FairnessMonitor(num_groups=2))])
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        from lightning.pytorch import Callback

    class Monitored(Callback):
        def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            monitor.reset()

        def on_validation_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            needed = ("logits", "target", "groups")
            if not isinstance(outputs, Mapping) or any(name not in outputs for name in needed):
                got = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
                raise ValueError(expected("validation_step", "a mapping with 'logits', 'target' and 'groups'", got))
            monitor.update(*(outputs[name].detach() for name in needed))

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                pl_module.log_dict(_figures(monitor))

    return Monitored()
