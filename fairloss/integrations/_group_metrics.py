"""``compute_metrics`` of a Trainer: accuracies of groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fairloss.core.checks import expected
from fairloss.metrics.scores import outside, sums_to_one

if TYPE_CHECKING:
    import torch

__all__ = ["argmax_for_metrics", "group_metrics"]


def argmax_for_metrics(logits: Any, labels: Any) -> torch.Tensor:
    """``preprocess_logits_for_metrics``: the likeliest of several classes, so that no evaluation keeps (N, T, V) logits."""
    first: torch.Tensor = logits[0] if isinstance(logits, tuple | list) else logits
    return first.argmax(-1)


def group_metrics(
    prediction: Any,
    *,
    num_groups: int,
    group_names: Sequence[str] | None = None,
    shift_labels: bool = False,
    ignore_index: int = -100,
    logits: bool | None = None,
) -> dict[str, float]:
    """Accuracy, each group's, the worst and the gap, from what a Trainer gives to ``compute_metrics``.

    Args:
        prediction: an ``EvalPrediction`` with ``label_ids=(labels, groups)``. Predictions are logits (N,), (N, 1), (N, C),
            (N, L) of L labels or (N, T, V), or what :func:`argmax_for_metrics` leaves of them, (N,) or (N, T). An answer of
            several tokens is right where all of them are; several labels are read as in :func:`fairloss.metrics.group_metric`.
        num_groups: number of groups.
        group_names: of the groups, for the keys; default ``group_0``, ...
        shift_labels: as in :class:`FairTrainerMixin`.
        ignore_index: labels that count for nothing; of several labels also NaN.
        logits: whether floating predictions are logits (cut at 0) or probabilities (at 0.5). None takes logits; True and None
            warn where they all lie in [0, 1].

    Returns:
        ``accuracy``, ``accuracy_NAME`` for every group with samples, ``worst_accuracy``, ``max_accuracy_gap`` (NaN with fewer
        than two groups).

    Raises:
        ValueError: ``label_ids`` is not (labels, groups); names that do not fit; group ids out of range.

    Example:
        >>> from types import SimpleNamespace
        >>> labels, groups = np.array([0, 1, 1]), np.array([0, 0, 1])
        >>> scores = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
        >>> p = SimpleNamespace(predictions=scores, label_ids=(labels, groups))
        >>> group_metrics(p, num_groups=2)["max_accuracy_gap"]
        0.5
    """
    from fairloss.metrics import group_mean, group_metric

    names = [f"group_{g}" for g in range(num_groups)] if group_names is None else list(group_names)
    if len(names) != num_groups:
        raise ValueError(expected("group_names", f"{num_groups} names, num_groups", len(names)))
    if not isinstance(prediction.label_ids, tuple | list) or len(prediction.label_ids) != 2:
        cure = "keep the groups with FairTrainerMixin or TrainingArguments(label_names=['labels', 'groups'])"
        raise ValueError(expected("prediction", "label_ids=(labels, groups)", "labels alone", cure))
    labels, groups = (np.asarray(ids) for ids in prediction.label_ids)
    wanted = f"groups in label_ids that are integers 0 .. {num_groups - 1}, or -1 for unknown"
    if groups.dtype.kind not in "biu":
        raise ValueError(expected("prediction", wanted, groups.dtype))
    outside = groups[(groups < -1) | (groups >= num_groups)]
    if outside.size:
        raise ValueError(expected("prediction", wanted, outside.flat[0]))
    scores = prediction.predictions
    scores = np.asarray(scores[0] if isinstance(scores, tuple | list) else scores)
    if scores.dtype.kind == "f" and scores.ndim < 3:
        are_logits = _are_logits(scores, labels.ndim) if logits is None else logits
        result = group_metric("accuracy", labels, scores, groups, logits=are_logits, ignore_index=ignore_index)
    else:
        scores = scores.argmax(-1) if scores.ndim == labels.ndim + 1 else scores
        if shift_labels:
            scores, labels = scores[:, :-1], labels[:, 1:]
        valid = labels != ignore_index
        right = (scores == labels) | ~valid
        correct = np.where(valid.reshape(len(labels), -1).any(1), right.reshape(len(labels), -1).all(1), np.nan)
        result = group_mean(correct, groups, name="accuracy")
    of_group = {f"accuracy_{names[int(g)]}": v for g, v in result.to_dict().items()}
    return {"accuracy": result.overall, **of_group, "worst_accuracy": result.worst(), "max_accuracy_gap": result.gap()}


def _are_logits(scores: np.ndarray, dimensions: int) -> bool:
    """Whether (N,) or (N, C) predictions are logits: all but rows that sum to 1, whose largest is the same."""
    scores = scores.astype(np.float64)
    rows = scores.ndim > dimensions and scores.shape[1] > 1 and outside(scores) is None
    return not (rows and sums_to_one(scores))
