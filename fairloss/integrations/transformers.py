"""Group-fair criteria inside the ``Trainer`` of transformers: group columns, gradient accumulation, checkpoints, metrics.

The Trainer hands its ``compute_loss_func`` no column but the labels, drops columns that the model does not take, and divides
a loss by the accumulation steps, or does not, depending on the model's signature. The mixin therefore overrides four methods
and copies the code of none: ``get_batch_samples``, to count what an update consists of, ``compute_loss``, to take the groups
from the batch and to scale each micro-batch's loss by its part of the update, and the pair that saves and loads the
optimizer, for the criterion's memory. Tried with transformers 5.23.

Scale: a term that is a mean over samples or tokens is weighted by the micro-batch's share of the samples or tokens (class
weights included) of the whole update. A mean of unequal micro-batches' means would be another quantity.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fairloss.core.checks import expected
from fairloss.core.tensor_checks import tensor
from fairloss.integrations import _trainers
from fairloss.integrations._group_metrics import argmax_for_metrics, group_metrics
from fairloss.integrations._trainers import listed
from fairloss.language import shift_labels as shifted

if TYPE_CHECKING:
    FairTrainer: Any

__all__ = ["FairTrainer", "FairTrainerMixin", "argmax_for_metrics", "group_metrics"]

STATE_FILE = "fair_loss.safetensors"

# What the mixin relies on: each method's parameters, the first ones of which must be these.
_METHODS = {
    "get_batch_samples": ("self", "epoch_iterator", "num_batches", "device"),
    "compute_loss": ("self", "model", "inputs", "return_outputs"),
    "prediction_step": ("self", "model", "inputs", "prediction_loss_only"),
    "_save_optimizer_and_scheduler": ("self", "output_dir"),
    "_load_optimizer_and_scheduler": ("self", "checkpoint"),
}


class FairTrainerMixin:
    """A criterion of (logits, labels, groups) for a ``Trainer``; put it first: ``class Mine(FairTrainerMixin, Trainer)``.

    ``FairTrainer`` is that class for transformers' own trainer.

    Args:
        *args: the trainer's.
        fair_loss: the criterion, called as ``fair_loss(logits, labels, groups)``: :class:`fairloss.FairCrossEntropyLoss`, or a
            module of one's own that returns a mean over the samples. Under several processes give it
            ``process_group=torch.distributed.group.WORLD``; with a memory that is required.
        group_column: column with each sample's group id, an integer; -1 = unknown.
        label_column: column with the labels.
        shift_labels: for logits of tokens, (N, T, V): True for a causal language model whose labels are its input ids, False
            where position t is labeled by position t.
        **kwargs: the trainer's.

    Raises:
        ImportError: the trainer is not one that the mixin fits.
        TypeError, ValueError: naming the argument, the column or the setting.

    Note:
        The model is called without labels and groups, so that it computes no loss of its own. ``label_names`` becomes
        (labels, groups), which keeps both columns and hands both to ``compute_metrics`` (:func:`group_metrics` is one).
        With ``return_parts`` the criterion's task term is exact at any accumulation, and its gap, an unbiased estimate with a
        :class:`fairloss.GroupMemory`, is weighted by the known samples; another criterion is weighted as a whole, by targets.
        The memory advances in training alone, is saved with the optimizer (``fair_loss.safetensors``; not with
        ``save_only_model``) and restored on resuming.
    """

    # The Trainer is to divide by the accumulation steps, whatever the model's signature; compute_loss multiplies first.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        *args: Any,
        fair_loss: nn.Module,
        group_column: str = "groups",
        label_column: str = "labels",
        shift_labels: bool | None = None,
        **kwargs: Any,
    ) -> None:
        base: Any = super()
        versions = _trainers.versions("transformers", "FairTrainerMixin", "5.23")
        _trainers.check_methods("FairTrainerMixin", base, _METHODS, "Trainer", versions)
        bound = _trainers.arguments_of(base, args, kwargs)
        self._fair_columns = label_column, group_column
        _check_criterion(fair_loss)
        self._check_arguments(bound)
        base.__init__(*args, **kwargs)
        this: Any = self
        if this.args.world_size > 1 and fair_loss.state_dict() and getattr(fair_loss, "process_group", None) is None:
            wanted = f"a criterion whose memory is the same on all {this.args.world_size} processes"
            cure = "make it with process_group=torch.distributed.group.WORLD"
            raise ValueError(expected("fair_loss", wanted, "no process_group", cure))
        this.label_names = [label_column, group_column]
        this.model_accepts_loss_kwargs = False  # what versions without loss_is_scaled_for_ga go by
        self.fair_loss = fair_loss.to(this.accelerator.device)
        self._fair_shift = shift_labels
        self._fair_parts = "return_parts" in inspect.signature(fair_loss.forward).parameters
        self._fair_totals: Tensor | None = None

    def _check_arguments(self, bound: Mapping[str, Any]) -> None:
        label, group = self._fair_columns
        args = bound.get("args")
        named = getattr(args, "label_names", None)
        if named is not None and list(named) != [label, group]:
            cure = f"leave it out, or set TrainingArguments(label_names=[{label!r}, {group!r}])"
            raise ValueError(expected("args", f"label_names of {label!r} and {group!r}", named, cure))
        smoothing = getattr(args, "label_smoothing_factor", 0)
        if smoothing:
            raise ValueError(
                expected("args", "label_smoothing_factor=0", smoothing, "fair_loss has a label_smoothing of its own")
            )
        if bound.get("compute_loss_func") is not None:
            raise ValueError(expected("compute_loss_func", "None", "a function", "fair_loss takes its place"))
        if args is not None and not args.remove_unused_columns:
            return  # the collator may make the column; each batch is checked
        cure = "name it with group_column; where the data collator makes it, set TrainingArguments(remove_unused_columns=False)"
        for name in ("train_dataset", "eval_dataset"):
            data = bound.get(name)
            if getattr(data, "format", {}).get("type") != "custom":  # a transform may make it, too
                _trainers.check_columns(name, data, [group], cure)
                _trainers.check_ids(name, data, group)

    def _take(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Labels, aligned with the logits, groups, and what is left for the model."""
        rest = dict(inputs)
        label, group = self._fair_columns
        for column in (group, label):
            if rest.get(column) is None:
                cure = (
                    f"it must be in the data set, pass the data collator, and not be dropped: "
                    f"TrainingArguments(label_names=[{label!r}, {group!r}]), which FairTrainerMixin sets, or "
                    f"remove_unused_columns=False"
                )
                raise ValueError(expected("inputs", f"a batch with a column {column!r}", listed(rest), cure))
        labels, groups = rest.pop(label), rest.pop(group)
        for column, given in ((label, labels), (group, groups)):
            tensor(
                f"column {column!r}", given, "a tensor from the collator (fairloss.encode_groups numbers group labels)"
            )
        if self._fair_shift and labels.ndim == 2:
            labels = shifted(labels, ignore_index=getattr(self.fair_loss, "ignore_index", -100))
        return labels, groups, rest

    def _norms(self, labels: Tensor, groups: Tensor) -> Tensor:
        """(2,): what the task term's mean divides by, and the samples that enter the group term."""
        loss: Any = self.fair_loss
        valid = torch.ones_like(labels[:, 0] if labels.ndim > 1 else labels, dtype=torch.bool)
        amount = valid
        if not labels.dtype.is_floating_point:
            amount = labels != getattr(loss, "ignore_index", -100)
            valid = amount if amount.ndim == 1 else amount.flatten(1).any(1)
            weight = getattr(loss, "weight", None)
            if isinstance(weight, Tensor) and getattr(loss, "task", "") not in ("binary", "multilabel"):
                amount = torch.where(amount, weight.to(labels.device)[torch.where(amount, labels, 0)], 0.0)
        known = (groups >= 0 if groups.dtype != torch.bool else torch.ones_like(groups)).reshape(len(groups), -1).any(1)
        return torch.stack([amount.sum().double(), (known & valid).sum().double()])

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The trainer's, and the targets and known samples of the update that these micro-batches make up."""
        base: Any = super()
        this: Any = self
        samples, items = base.get_batch_samples(epoch_iterator, num_batches, device)
        norms = [self._norms(*self._take(batch)[:2]).to(device) for batch in samples]
        if norms:
            self._fair_totals = torch.stack(norms).sum(0).float()
            if this.args.world_size > 1:
                self._fair_totals = this.accelerator.reduce(self._fair_totals, "sum")
        return samples, items

    def _shares(self, labels: Tensor, groups: Tensor) -> Tensor:
        """(2,) factors of task and group term: the micro-batch's parts of its update, in units of the accumulation steps."""
        this: Any = self
        norms = self._norms(labels, groups).float()
        # A global loss is the same on every process.
        everywhere = getattr(self.fair_loss, "process_group", None) is not None
        if everywhere and this.args.world_size > 1:
            norms = this.accelerator.reduce(norms, "sum")
        assert self._fair_totals is not None
        shares: Tensor = norms / self._fair_totals.clamp(min=torch.finfo(torch.float32).tiny)
        if getattr(self.fair_loss, "reduction", "mean") == "sum":
            shares[0] = 1.0
        # A process's own loss is averaged with the others', hence the factor.
        factor: int = this.current_gradient_accumulation_steps * (1 if everywhere else this.args.world_size)
        return shares * factor

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The criterion's loss of a batch; in training scaled for the update, see the module."""
        labels, groups, rest = self._take(inputs)
        outputs = model(**rest)
        if isinstance(outputs, Tensor):
            outputs = {"logits": outputs}
        elif not isinstance(outputs, Mapping):
            outputs = {"logits": outputs[0]}
        logits = outputs["logits"]
        if logits.ndim == 3 and labels.ndim == 2 and self._fair_shift is None:
            cure = (
                "say FairTrainer(..., shift_labels=True) where the labels are the input ids of a causal language model, or "
                "shift_labels=False where position t is labeled by position t"
            )
            raise ValueError(expected("shift_labels", "True or False for logits of tokens", None, cure))
        self.fair_loss.train(model.training)
        shares = None
        if model.training and self._fair_totals is not None:
            shares = self._shares(labels, groups)
        if self._fair_parts:
            parts = self.fair_loss(logits, labels, groups, return_parts=True)
            loss = parts.loss
            if shares is not None:
                loss = shares[0] * parts.task + shares[1] * (parts.loss - parts.task)
        else:
            loss = self.fair_loss(logits, labels, groups)
            loss = loss if shares is None else shares[0] * loss
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """The trainer's; labels without groups are an error, where the trainer would leave out loss and metrics.

        Of a model's outputs only tensors are kept: a cache, which transformers 5.24 returns as ``cache``, cannot be gathered.
        """
        base: Any = super()
        label, group = self._fair_columns
        if inputs.get(label) is not None:
            self._take(inputs)
        else:
            inputs = {k: v for k, v in inputs.items() if k != group}
        loss, outputs, labels = base.prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignore_keys)
        if isinstance(outputs, tuple) and any(isinstance(output, Tensor) for output in outputs):
            tensors = tuple(output for output in outputs if isinstance(output, Tensor))
            outputs = tensors if len(tensors) > 1 else tensors[0]
        return loss, outputs, labels

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        base: Any = super()
        this: Any = self
        base._save_optimizer_and_scheduler(output_dir)
        if self.fair_loss.state_dict() and this.args.should_save:
            _trainers.save_state(self.fair_loss, Path(output_dir) / STATE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        base: Any = super()
        base._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.fair_loss.state_dict():
            path = Path(checkpoint) / STATE_FILE
            _trainers.load_state(self.fair_loss, path, "the memory of fair_loss starts empty")


def _check_criterion(fair_loss: Any) -> None:
    if not isinstance(fair_loss, nn.Module):
        raise TypeError(expected("fair_loss", "a module", type(fair_loss).__name__))
    if next(fair_loss.parameters(), None) is not None:
        cure = "the trainer's optimizer would not see them; make them the model's"
        raise ValueError(expected("fair_loss", "a module without parameters", type(fair_loss).__name__, cure))
    if getattr(fair_loss, "reduction", "mean") == "none":
        raise ValueError(
            expected("fair_loss", "reduction='mean' or 'sum'", "'none', which gives no scalar to train on")
        )


def __getattr__(name: str) -> Any:
    return _trainers.trainer_class(globals(), name, "FairTrainer", FairTrainerMixin, "transformers", "Trainer")
