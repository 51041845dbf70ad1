"""Soft and hard figures of every group over a pass of the data, in memory that does not grow with it."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sum, check_process_group
from fairloss.core.state import StatefulModule
from fairloss.groups.ids import check_groups, single_attribute
from fairloss.losses.tasks import resolve_task
from fairloss.metrics.arrays import Floats
from fairloss.metrics.rates import mean_over_classes, ratio
from fairloss.training.snapshot import FairnessWarning, Snapshot

__all__ = ["FairnessMonitor"]


class FairnessMonitor(StatefulModule):
    """Counts what a classifier does in every group, and says in words where a penalty has gone astray.

    ``update`` takes a batch, ``compute`` returns a :class:`fairloss.training.Snapshot` of all batches since ``reset``. Memory:
    O(groups x classes x (classes + bins)). It takes no part in the gradient.

    Args:
        num_groups: number of groups of the one attribute.
        num_classes: C >= 2; 2 for one logit per sample.
        bins: of the histograms of log-odds behind the AUC.
        reference: a snapshot of the same model trained without a penalty, on the same validation data; ``compute`` warns of
            what has become worse. Without one it warns of classes that are never predicted alone.
        process_group: sums over its ranks.

    Shape:
        - input: (N,) or (N, 1) logits of two classes, or (N, C) logits
        - target: (N,) labels 0 .. C - 1; ``-100`` is left out
        - groups: (N,) ids, -1 = unknown: such samples are in no group, and in the overall figures

    Example:
        >>> monitor = FairnessMonitor(num_groups=2)
        >>> logits = torch.tensor([2.0, -1.0, 1.0, -2.0])
        >>> monitor.update(logits, torch.tensor([1, 0, 0, 0]), torch.tensor([0, 0, 1, 1]))
        >>> monitor.compute().accuracy.tolist()
        [1.0, 0.5]
    """

    counts: Tensor
    soft: Tensor
    confidence: Tensor
    histogram: Tensor

    def __init__(
        self,
        num_groups: int,
        *,
        num_classes: int = 2,
        bins: int = 200,
        reference: Snapshot | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = single_attribute(num_groups, "FairnessMonitor")
        self.num_classes = checks.integer("num_classes", num_classes, minimum=2)
        self.bins = checks.integer("bins", bins, minimum=2)
        if reference is not None and not isinstance(reference, Snapshot):
            raise TypeError(expected("reference", "a Snapshot, what compute() returns", type(reference).__name__))
        check_process_group(process_group)
        self.reference, self.process_group = reference, process_group
        g, c = self.num_groups + 1, self.num_classes  # the last row is of unknown group
        scored = 1 if c == 2 else c
        self.register_state("counts", (g, c, c), torch.float64)  # by group, label, decision
        self.register_state("soft", (g, c), torch.float64)  # sums of the label's probability
        self.register_state("confidence", (g,), torch.float64)
        self.register_state("histogram", (g, scored, 2, bins), torch.float64)  # not of, of the class

    @torch.no_grad()
    def update(self, input: Tensor, target: Tensor, groups: Tensor) -> None:
        """Count a batch.

        Raises:
            TypeError, ValueError: shapes, dtypes, labels or ids that do not fit, NaN logits; nothing is counted then.
        """
        kind = resolve_task(input, target, "binary" if input.ndim == 1 or input.shape[-1] == 1 else "multiclass")
        classes = 2 if kind == "binary" else input.shape[1]
        if classes != self.num_classes:
            raise ValueError(expected("input", f"logits of {self.num_classes} classes", f"{classes}"))
        ids = check_groups(groups, self.num_groups, input.shape[0], device=input.device).column
        logits = input.double() if input.ndim == 2 else input.double().unsqueeze(1)
        labels = target.reshape(-1).long() if target.dtype == torch.bool else target.reshape(-1)
        if not bool(((labels == labels.round()) & (labels < classes) & ((labels >= 0) | (labels == -100))).all()):
            raise ValueError(expected("target", f"labels 0 .. {classes - 1}, or -100", "others"))
        if kind == "binary":
            positive = logits.squeeze(1).sigmoid()
            probability, decided = torch.stack([1 - positive, positive], 1), (logits.squeeze(1) >= 0).long()
        else:
            probability, decided = logits.softmax(1), logits.argmax(1)
        if bool(probability.isnan().any()):
            raise ValueError(expected("input", "logits without NaN, and without inf beside other classes", "others"))
        kept = labels != -100
        if not bool(kept.any()):
            return
        probability, decided, labels, ids = probability[kept], decided[kept], labels[kept].long(), ids[kept]
        row = torch.where(ids < 0, self.num_groups, ids).to(self.counts.device)
        labels, decided, probability = (t.to(self.counts.device) for t in (labels, decided, probability))
        cell = row * classes + labels
        self.counts.view(-1).index_add_(0, cell * classes + decided, torch.ones_like(probability[:, 0]))
        self.soft.view(-1).index_add_(0, cell, probability.gather(1, labels.unsqueeze(1)).squeeze(1))
        self.confidence.index_add_(0, row, probability.amax(1))
        scored = probability[:, 1:] if classes == 2 else probability
        of_class = (
            labels.unsqueeze(1) == torch.arange(classes - scored.shape[1], classes, device=labels.device)
        ).long()
        column = torch.arange(scored.shape[1], device=labels.device)
        # By log-odds: of probabilities that are all small, as those of a rare class, or all near 1, few bins would be used.
        bin_ = ((scored.logit() / 4).sigmoid() * self.bins).long().clamp(max=self.bins - 1)
        slot = ((row.unsqueeze(1) * scored.shape[1] + column) * 2 + of_class) * self.bins + bin_
        self.histogram.view(-1).index_add_(0, slot.reshape(-1), torch.ones_like(scored).reshape(-1))

    def compute(self) -> Snapshot:
        """The figures so far; warns (:class:`fairloss.training.FairnessWarning`) of what is wrong with them."""
        sums = (self.counts, self.soft, self.confidence, self.histogram)
        counts, soft, confidence, histogram = (all_reduce_sum(t, self.process_group).cpu().numpy() for t in sums)
        snapshot = _snapshot(counts, soft, confidence, histogram)
        for sentence in snapshot.warnings(self.reference):
            warnings.warn(sentence, FairnessWarning, stacklevel=2)
        return snapshot

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, num_classes={self.num_classes}, bins={self.bins}"


def _auc(histogram: Floats) -> Floats:
    """(..., 2, B) counts of samples not of and of the class -> (...) areas; pairs in one bin count half."""
    others, own = histogram[..., 0, :], histogram[..., 1, :]
    below = others.cumsum(axis=-1) - others / 2
    return ratio((own * below).sum(axis=-1), own.sum(axis=-1) * others.sum(axis=-1))


def _snapshot(counts: Floats, soft: Floats, confidence: Floats, histogram: Floats) -> Snapshot:
    def figures(counts: Floats, soft: Floats, confidence: Floats, histogram: Floats) -> dict[str, Floats]:
        """Of (G, ...) tables, each (G,)."""
        labels, predicted = counts.sum(axis=2), counts.sum(axis=1)
        right, n = np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2))
        recall, soft_recall = ratio(right, labels), ratio(soft, labels)
        fpr = ratio(predicted - right, n[:, None] - labels)
        two = counts.shape[1] == 2
        none = np.full(len(n), np.nan)
        return {
            "samples": n,
            "accuracy": ratio(right.sum(axis=1), n),
            "soft_accuracy": ratio(soft.sum(axis=1), n),
            "tpr": recall[:, 1] if two else mean_over_classes(recall),
            "soft_tpr": soft_recall[:, 1] if two else mean_over_classes(soft_recall),
            "fpr": fpr[:, 1] if two else mean_over_classes(fpr),
            "positive_rate": ratio(predicted[:, 1], n) if two else none,
            "soft_positive_rate": ratio(soft[:, 1] + labels[:, 0] - soft[:, 0], n) if two else none,
            "auc": mean_over_classes(_auc(histogram)),
            "confidence": ratio(confidence, n),
            "balanced_accuracy": mean_over_classes(recall),
        }

    groups = figures(counts[:-1], soft[:-1], confidence[:-1], histogram[:-1])
    whole = figures(*(t.sum(axis=0, keepdims=True) for t in (counts, soft, confidence, histogram)))
    groups.pop("balanced_accuracy")
    all_counts = np.concatenate([counts[:-1], counts.sum(axis=0, keepdims=True)])
    return Snapshot(
        **groups,
        predicted=all_counts.sum(axis=1),
        labels=all_counts.sum(axis=2),
        overall={name: float(whole[name][0]) for name in ("accuracy", "balanced_accuracy", "auc")},
    )
