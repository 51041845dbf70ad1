"""Labels and predictions as one-vs-rest tables: which task they are of, the scores, and the decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import choice, expected, number
from fairloss.groups.encode import number_labels
from fairloss.metrics.arrays import Bools, Floats, Ints, as_array, as_finite, precision_of

__all__ = ["Predictions", "Task", "as_predictions", "same_length"]

Task = Literal["auto", "binary", "multiclass", "multilabel"]


@dataclass(frozen=True)
class Predictions:
    """One-vs-rest view of a set of predictions.

    Attributes:
        task: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        target: (N, K) bool; K = 1 for a binary task.
        decided: (N, K) bool, the hard decisions.
        score: (N, K) float64, or None where labels alone were given.
        classes: the K classes' labels.
        precision: the type that the scores were given in; bins are cut in it.
    """

    task: str
    target: Bools
    decided: Bools
    score: Floats | None
    classes: tuple[Any, ...]
    precision: str = "float64"

    def __len__(self) -> int:
        return len(self.target)

    def correct(self) -> Floats:
        """(N,) 1 where the decision is right; over labels, the share of right ones."""
        same = self.target == self.decided
        if self.task == "multiclass":  # an answer outside the classes has an empty row and is wrong
            return np.asarray(same.all(axis=1), dtype=np.float64)
        return np.asarray(same.mean(axis=1), dtype=np.float64)

    def take(self, index: NDArray[Any]) -> Predictions:
        """The samples at ``index``."""
        score = None if self.score is None else self.score[index]
        return replace(self, target=self.target[index], decided=self.decided[index], score=score)


def same_length(true: NDArray[Any], pred: NDArray[Any]) -> None:
    """Raise unless both have one row per sample."""
    if true.ndim == 0 or pred.ndim == 0 or len(true) != len(pred):
        raise ValueError(expected("y_true and y_pred", "one row per sample", f"shapes {true.shape} and {pred.shape}"))


def as_predictions(
    y_true: Any,
    y_pred: Any,
    *,
    task: Task = "auto",
    threshold: float = 0.5,
    strict: bool = False,
    labels: Sequence[Any] | None = None,
    labels_matter: bool = True,
) -> Predictions:
    """Read labels and predictions; see :func:`fairloss.metrics.group_metric` for what is accepted.

    ``y_true`` may be None where ``labels_matter`` is false.
    """
    choice("task", task, get_args(Task))
    threshold = number("threshold", threshold)
    pred = _unboxed(as_array(y_pred, "y_pred"))
    precision = precision_of(y_pred, pred)
    if pred.ndim == 0:
        raise ValueError(expected("y_pred", "one prediction per sample", "one value"))
    if pred.dtype.kind == "f" and pred.dtype.itemsize < 8:
        threshold = float(np.float32(threshold))  # a float32 score written 0.7 is not below a threshold written 0.7
    if y_true is None and not labels_matter:
        true = _any_labels(pred, task, labels)
    else:
        true = _unboxed(as_array(y_true, "y_true"))
    same_length(true, pred)
    if len(true) == 0:
        raise ValueError(expected("y_true", "at least one sample", "no sample"))
    true = true[:, 0] if true.ndim == 2 and true.shape[1] == 1 else true
    pred = pred[:, 0] if true.ndim == 1 and pred.ndim == 2 and pred.shape[1] == 1 else pred
    kind = _task_of(true, pred) if task == "auto" else task
    if kind == "multiclass":
        return replace(_multiclass(true, pred, labels), precision=precision)
    if kind == "binary":
        if true.ndim != 1 or pred.ndim != 1:
            raise ValueError(expected("y_pred", "shape (N,) for a binary task", f"shape {pred.shape}"))
        true, pred, classes = true[:, None], pred[:, None], (1,)
    else:
        if true.ndim != 2 or true.shape != pred.shape:
            shapes = f"shapes {true.shape} and {pred.shape}"
            raise ValueError(expected("y_true and y_pred", "shapes (N, labels) for a multilabel task", shapes))
        classes = _class_names(labels, true.shape[1])
    target, score = _zero_one(true), as_finite(pred, "y_pred")
    decided = np.asarray(score > threshold if strict else score >= threshold)
    return Predictions(kind, target, decided, score, classes, precision)


def _unboxed(array: NDArray[Any]) -> NDArray[Any]:
    """Python numbers in an object array, as a data frame's column of mixed origin holds them, as a numeric array."""
    if array.dtype.kind != "O" or not array.size or not all(isinstance(v, (Real, np.bool_)) for v in array.ravel()):
        return array
    return np.asarray(array.tolist())


def _task_of(true: NDArray[Any], pred: NDArray[Any]) -> str:
    if true.ndim == 2:
        return "multilabel"
    if pred.ndim == 2:
        return "multiclass"
    if _is_zero_one(true) and pred.dtype.kind in "biuf":
        if pred.dtype.kind in "iu" and not _is_zero_one(pred):
            wanted, cure = "scores or classes 0 and 1", "say which they are: task='multiclass' or task='binary'"
            raise ValueError(expected("y_pred", wanted, "other whole numbers beside labels 0 and 1", cure))
        return "binary"
    if pred.dtype.kind == "f" and bool((pred != np.floor(pred)).any()):
        # Scores, which are nobody's classes: read as classes, all would be wrong answers.
        cure = "for several classes pass (N, C) scores, or the predicted classes"
        raise ValueError(expected("y_true", "0 and 1 beside scores (N,)", repr(_not_zero_one(true)), cure))
    return "multiclass"


def _any_labels(pred: NDArray[Any], task: Task, labels: Sequence[Any] | None) -> NDArray[Any]:
    """Labels in place of those that were not given, with which ``pred`` is read as it would be beside its own.

    Raises:
        TypeError: several columns, which labels alone tell from one another.
        ValueError: whole numbers that may be classes or scores.
    """
    columns = pred.shape[1] if pred.ndim == 2 else 1
    if task == "auto" and columns > 1:
        cure = "pass the labels, or task='multiclass' or 'multilabel'"
        raise TypeError(expected("y_true", "labels beside predictions of several columns", None, cure))
    numbers = pred.dtype.kind in "biuf"
    if task == "auto" and numbers and len(pred) and not _is_zero_one(pred):
        values = pred.astype(np.float64).ravel()
        if np.isfinite(values).all() and (values == np.floor(values)).all():
            wanted = "scores or decisions 0 and 1 where y_true is None"
            cure = "pass task='multiclass' for classes, task='binary' for scores"
            raise ValueError(expected("y_pred", wanted, repr(_not_zero_one(pred)), cure))
    if task in ("binary", "multilabel") or (task == "auto" and numbers):
        return np.zeros(pred.shape)
    classes = labels if labels is not None else range(columns) if columns > 1 else number_labels(pred.ravel()).labels
    if not len(classes):
        raise ValueError(expected("y_pred", "at least one class", "none"))
    true = np.empty(len(pred), dtype=object)
    true[:] = [classes[0]] * len(pred)
    return true


def _is_zero_one(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "biuf" and bool(np.isin(values, (0, 1)).all())


def _not_zero_one(values: NDArray[Any]) -> Any:
    return next(v for v in values.ravel().tolist() if v not in (0, 1))


def _zero_one(true: NDArray[Any]) -> Bools:
    true = as_finite(true, "y_true") if true.dtype.kind == "O" else true
    if not _is_zero_one(true):
        raise ValueError(expected("y_true", "labels 0 and 1", repr(_not_zero_one(true))))
    return true.astype(bool)


def _class_names(labels: Sequence[Any] | None, columns: int) -> tuple[Any, ...]:
    names = tuple(range(columns) if labels is None else labels)
    if len(names) != columns:
        raise ValueError(expected("labels", f"a name for each of {columns} columns", f"{len(names)} names"))
    return names


def _multiclass(true: NDArray[Any], pred: NDArray[Any], labels: Sequence[Any] | None) -> Predictions:
    if true.ndim != 1:
        raise ValueError(expected("y_true", "shape (N,) for a multiclass task", f"shape {true.shape}"))
    if pred.ndim > 2:
        raise ValueError(expected("y_pred", "(N,) labels or (N, classes) scores", f"shape {pred.shape}"))
    score = None
    if pred.ndim == 2:
        score = as_finite(pred, "y_pred")
        classes = _class_names(labels, pred.shape[1])
        answers = score.argmax(axis=1)
    else:  # an answer that is no class of the data ("unparsable") may be among these: it has no positives
        classes = number_labels([*true.tolist(), *pred.tolist()]).labels if labels is None else tuple(labels)
        answers = _positions(pred, classes)
    if true.dtype.kind == "f" and not np.isfinite(true).all():
        raise ValueError(expected("y_true", "classes", true[~np.isfinite(true)][0]))
    truth = _positions(true, classes)
    if (truth < 0).any():
        raise ValueError(expected("y_true", f"classes among {list(classes)}", repr(true[truth < 0].tolist()[0])))
    columns = np.arange(len(classes))
    return Predictions("multiclass", truth[:, None] == columns, answers[:, None] == columns, score, classes)


def _positions(values: NDArray[Any], classes: Sequence[Any]) -> Ints:
    """The place of each value among the classes; -1 where it is none of them."""
    index = {c: i for i, c in enumerate(classes)}
    if len(index) != len(classes):
        raise ValueError(expected("labels", "different classes", f"one repeated in {list(classes)}"))
    return np.array([index.get(v, -1) for v in values.tolist()], dtype=np.int64)
