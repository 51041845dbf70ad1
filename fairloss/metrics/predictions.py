"""Labels and predictions as one-vs-rest tables: which task they are of, the scores, and the decisions.

Every path that shows a number reads its input here. Two classes are binary, in whatever form they come, and an input
that can be read in two ways is refused with the argument that settles it. :mod:`fairloss.metrics.scores` has what is
checked of probabilities and logits, :mod:`fairloss.metrics.classes` the two labels of a binary task.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import choice, expected, flag, number
from fairloss.groups.encode import number_labels
from fairloss.groups.labels import lookalikes
from fairloss.metrics.arrays import Bools, Floats, Ints, as_array, as_finite, as_weights, precision_of
from fairloss.metrics.classes import Pair, class_pair, is_zero_one, not_zero_one
from fairloss.metrics.labels import any_labels, column_labels, known_labels, same_length, unboxed
from fairloss.metrics.scores import (
    LIKE_PROBABILITIES,
    class_log_odds,
    outside,
    positive_column,
    refuse_probabilities,
    sigmoid,
    sums_to_one,
)

__all__ = [
    "BINARY_OPTIONS",
    "READING_OPTIONS",
    "SCORED",
    "Predictions",
    "ReadingOptions",
    "Task",
    "as_predictions",
    "same_length",
]

Task = Literal["auto", "binary", "multiclass", "multilabel"]
SCORED = ("auc", "ece", "mean_abs_calibration_error", "bce", "brier")


class ReadingOptions(TypedDict, total=False):
    """Keyword arguments of every metric that say how labels and predictions are read.

    Attributes:
        task: ``"auto"``, ``"binary"``, ``"multiclass"`` or ``"multilabel"``. ``"auto"`` takes two classes as binary,
            also in two columns.
        labels: the classes, in the order of the columns of scores; more than occur, where a site lacks some. By default those
            that a frame's columns are named after.
        positive: which of two labels is the positive one; not needed for 0 and 1.
        logits: whether the scores are logits, of which sigmoid or softmax is taken, in float64. True beside rows that sum
            to 1 raises, and beside scores that all lie in [0, 1] it warns.
        ignore_index: a label that is not known. A sample of it is left out; in (N, L) labels that label alone, as is NaN.
    """

    task: Task
    labels: Sequence[Any] | None
    positive: Any
    logits: bool
    ignore_index: Any


BINARY_OPTIONS = {"labels": None, "positive": None, "logits": False, "ignore_index": None}
READING_OPTIONS = {"task": "auto", **BINARY_OPTIONS}
"""Defaults of :class:`ReadingOptions`, and of those that a binary metric takes."""


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
        known: (N, K) bool, False where a label is ignored; None where all are known.
        log_odds: (N, K) of scores given as logits; they rank.
        scale: smallest and largest score where decisions at the default threshold would be made on scores outside [0, 1].
    """

    task: str
    target: Bools
    decided: Bools
    score: Floats | None
    classes: tuple[Any, ...]
    precision: str = "float64"
    known: Bools | None = None
    log_odds: Floats | None = None
    scale: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.target)

    @property
    def ranking(self) -> Floats:
        """(N, K) what an AUC ranks by."""
        ranked = self.score if self.log_odds is None else self.log_odds
        assert ranked is not None
        return ranked

    def correct(self) -> Floats:
        """(N,) 1 where the decision is right; over labels, the share of right ones."""
        same = self.target == self.decided
        if self.task == "multiclass":  # an answer outside the classes has an empty row and is wrong
            return np.asarray(same.all(axis=1), dtype=np.float64)
        return np.asarray(same.mean(axis=1), dtype=np.float64)

    def take(self, index: NDArray[Any]) -> Predictions:
        """The samples at ``index``."""
        parts = {k: getattr(self, k) for k in ("target", "decided", "score", "known", "log_odds")}
        return replace(self, **{k: v[index] for k, v in parts.items() if v is not None})

    def label(self, k: int) -> Predictions:
        """One of several labels by itself, a binary task."""
        parts = {name: getattr(self, name) for name in ("target", "decided", "score", "known", "log_odds")}
        columns = {name: v[:, [k]] for name, v in parts.items() if v is not None}
        return replace(self, task="binary", classes=(1,), **columns)

    def weights(self, sample_weight: Any) -> Floats:
        """(N,) weights, 0 where no label of a sample is known."""
        weight = as_weights(sample_weight, len(self))
        return weight if self.known is None else weight * self.known.any(axis=1)

    def check(self, metric: str) -> None:
        """Raise unless the predictions are what ``metric`` is made of: scores, decisions on their scale, probabilities."""
        if metric not in SCORED:
            if self.scale is not None and metric != "prevalence":
                wanted = "scores in [0, 1] for decisions at 0.5"
                cure = "pass logits=True for logits" if self.scale[0] < 0 else "divide percentages by 100"
                cure += ", or threshold= (another than 0.5) on the scale of the scores"
                raise ValueError(expected("y_pred", wanted, _range(self.scale), cure))
        elif self.score is None:
            raise ValueError(expected("y_pred", f"scores, which {metric} needs", "classes"))
        elif metric != "auc" or self.task == "multiclass":
            self.check_probabilities(metric)

    def check_probabilities(self, metric: str) -> None:
        """Raise unless the scores are probabilities, of several classes that sum to 1."""
        assert self.score is not None
        low_high = outside(self.score)
        if low_high is not None:
            cure = "pass logits=True where they are logits"
            wanted = f"probabilities in [0, 1], which {metric} needs"
            raise ValueError(expected("y_score", wanted, _range(low_high), cure))
        if self.task == "multiclass" and not sums_to_one(self.score):
            sums = self.score.sum(axis=1)
            cure = "pass logits=True where they are logits, or divide each row by its sum"
            wanted = f"probabilities whose rows sum to 1, which {metric} needs"
            raise ValueError(expected("y_score", wanted, f"sums {sums.min():g} .. {sums.max():g}", cure))


def _range(low_high: tuple[float, float]) -> str:
    return f"{low_high[0]:g} .. {low_high[1]:g}"


def as_predictions(
    y_true: Any,
    y_pred: Any,
    *,
    task: Task = "auto",
    threshold: float = 0.5,
    strict: bool = False,
    labels: Sequence[Any] | None = None,
    positive: Any = None,
    logits: bool = False,
    ignore_index: Any = None,
    labels_matter: bool = True,
) -> Predictions:
    """Read labels and predictions; see :func:`fairloss.metrics.group_metric` for what is accepted.

    ``y_true`` may be None where ``labels_matter`` is false.
    """
    choice("task", task, get_args(Task))
    threshold, strict, logits = number("threshold", threshold), flag("strict", strict), flag("logits", logits)
    pred = unboxed(as_array(y_pred, "y_pred"))
    precision = precision_of(y_pred, pred)
    if isinstance(labels, (str, bytes, Set, Mapping)) or not (labels is None or isinstance(labels, Iterable)):
        raise TypeError(expected("labels", "a sequence of classes, in the order of the columns", repr(labels)))
    labels = None if labels is None else tuple(labels)
    for name, label in (("positive", positive), ("ignore_index", ignore_index)):
        if np.ndim(label) or isinstance(label, (set, dict)):
            raise TypeError(expected(name, "one label", repr(label)))
    if pred.ndim == 2 and not pred.shape[1]:
        raise ValueError(expected("y_pred", "a column of scores", f"shape {pred.shape}"))
    if pred.ndim == 0:
        raise ValueError(expected("y_pred", "one prediction per sample", "one value"))
    if y_true is None and not labels_matter:
        true = any_labels(pred, task, labels, positive)
    else:
        true = unboxed(as_array(y_true, "y_true"))
    same_length(true, pred)
    true = true[:, 0] if true.ndim == 2 and true.shape[1] == 1 else true
    pred = pred[:, 0] if true.ndim == 1 and pred.ndim == 2 and pred.shape[1] == 1 else pred
    true, pred, known = known_labels(true, pred, ignore_index)
    labels = column_labels(y_true, true, y_pred, labels)
    pair = class_pair(true, pred, labels, positive, task, logits=logits) if true.ndim == 1 and pred.ndim < 3 else None
    if pair is not None:
        found = _binary(true, pred, pair, logits)
    elif task == "multilabel" or (task == "auto" and true.ndim == 2):
        if positive is not None:
            raise ValueError(expected("positive", "None for several labels, which are 0 and 1", repr(positive)))
        found = _multilabel(true, pred, labels, task, logits)
    elif task == "binary":
        raise ValueError(expected("y_pred", "shape (N,) or (N, 2) for a binary task", f"shape {pred.shape}"))
    else:
        found = _multiclass(true, pred, labels, logits)
    _warn_of_lookalikes(found["classes"] if pair is None else (*pair.other, pair.positive))
    if logits and len(pred) > 1 and outside(pred) is None:
        warnings.warn(LIKE_PROBABILITIES, stacklevel=4)
    if "decided" not in found:
        level = threshold
        if not logits and pred.dtype.kind == "f" and pred.dtype.itemsize < 8:
            level = float(np.float32(threshold))  # a float32 score written 0.7 is not below a threshold written 0.7
        score = found["score"]
        found["decided"] = score > level if strict else score >= level
        found["scale"] = _scale(score, threshold, logits)
    elif threshold != 0.5:
        why = "y_pred holds labels" if pred.ndim == 1 else "the largest score decides among several classes"
        raise ValueError(expected("threshold", "0.5, which plays no part", threshold, why))
    if known is not None:
        found["known"] = np.broadcast_to(known, found["target"].shape)
    return Predictions(**found, precision="float64" if logits else precision)


def _warn_of_lookalikes(classes: Sequence[Any]) -> None:
    if any(isinstance(v, str) for v in classes) and (alike := lookalikes(classes, "classes")):
        warnings.warn(f"y_true and y_pred: {alike}", stacklevel=5)


def _scale(score: Floats, threshold: float, logits: bool) -> tuple[float, float] | None:
    """Smallest and largest score where they reach outside [0, 1] and the threshold was not said to be on their scale.

    Raises:
        ValueError: probabilities cut at a threshold that none can reach, or all do.
    """
    if 0 <= threshold <= 1:
        return outside(score) if threshold == 0.5 and not logits else None
    if outside(score) is None:
        given = f"{threshold:g} beside scores {score.min():g} .. {score.max():g}"
        cure = "divide a threshold in percent by 100, or pass the decisions y_pred >= threshold where scores have another scale"
        raise ValueError(expected("threshold", "a number in [0, 1] for scores in [0, 1]", given, cure))
    return None


def _binary(true: NDArray[Any], pred: NDArray[Any], pair: Pair, logits: bool) -> dict[str, Any]:
    """Parts of :class:`Predictions`: target and score of the positive class, from which decisions follow."""
    found = {"task": "binary", "target": pair.is_positive(true, "y_true")[:, None], "classes": (pair.positive,)}
    if pair.decisions:
        decided = pair.is_positive(pred, "y_pred")[:, None]
        return {**found, "decided": decided, "score": decided.astype(np.float64)}
    score, odds = as_finite(pred, "y_pred"), None
    if pred.ndim == 2:
        score, odds = positive_column(score, pair.column, logits=logits)
    else:
        score = score[:, None]
        score, odds = (sigmoid(score), score) if logits else (score, None)
    return {**found, "score": score, "log_odds": odds}


def _multilabel(
    true: NDArray[Any], pred: NDArray[Any], labels: Sequence[Any] | None, task: Task, logits: bool
) -> dict[str, Any]:
    if true.ndim != 2 or true.shape != pred.shape:
        shapes = f"shapes {true.shape} and {pred.shape}"
        cure = "pass y_true.argmax(1) where it is one-hot" if true.ndim == 2 and true.shape[1] > 1 else ""
        raise ValueError(expected("y_true and y_pred", "shapes (N, labels) for a multilabel task", shapes, cure))
    classes = _class_names(labels, true.shape[1])
    if not is_zero_one(true):
        raise ValueError(expected("y_true", "labels 0 and 1", repr(not_zero_one(true))))
    score = as_finite(pred, "y_pred")
    one_hot = task == "auto" and true.shape[1] > 1 and not logits and bool((true.sum(axis=1) == 1).all())
    if one_hot and outside(score) is None and sums_to_one(score):
        cure = "pass y_true.argmax(1) where they are classes, task='multilabel' where they are labels"
        raise ValueError(
            expected("y_true", "classes (N,) or labels (N, L)", "rows of one 1 beside rows of sum 1", cure)
        )
    odds, score = (score, sigmoid(score)) if logits else (None, score)
    target = true.astype(bool)
    return {"task": "multilabel", "target": target, "score": score, "classes": classes, "log_odds": odds}


def _class_names(labels: Sequence[Any] | None, columns: int) -> tuple[Any, ...]:
    names = tuple(range(columns) if labels is None else labels)
    if len(names) != columns:
        raise ValueError(expected("labels", f"a name for each of {columns} columns", f"{len(names)} names"))
    return names


def _multiclass(true: NDArray[Any], pred: NDArray[Any], labels: Sequence[Any] | None, logits: bool) -> dict[str, Any]:
    if true.ndim != 1:
        raise ValueError(expected("y_true", "shape (N,) for a multiclass task", f"shape {true.shape}"))
    if pred.ndim > 2:
        raise ValueError(expected("y_pred", "(N,) labels or (N, classes) scores", f"shape {pred.shape}"))
    score = odds = None
    if pred.ndim == 2:
        score = as_finite(pred, "y_pred")
        classes = _class_names(labels, pred.shape[1])
        answers = score.argmax(axis=1)
        if logits:
            refuse_probabilities(score)
            score, odds = class_log_odds(score)
    elif logits:
        raise ValueError(expected("logits", "False beside classes (N,)", True, "pass (N, classes) logits"))
    else:  # an answer that is no class of the data ("unparsable") may be among these: it has no positives
        classes = number_labels([*true.tolist(), *pred.tolist()]).labels if labels is None else tuple(labels)
        answers = _positions(pred, classes)
    if true.dtype.kind == "f" and not np.isfinite(true).all():
        raise ValueError(expected("y_true", "classes", true[~np.isfinite(true)][0]))
    truth = _positions(true, classes)
    if (truth < 0).any():
        cure = "pass labels= in the order of the columns" if score is not None and labels is None else ""
        raise ValueError(expected("y_true", f"classes among {list(classes)}", repr(true[truth < 0].tolist()[0]), cure))
    columns = np.arange(len(classes))
    found = {"target": truth[:, None] == columns, "decided": answers[:, None] == columns, "score": score}
    return {"task": "multiclass", **found, "classes": classes, "log_odds": odds}


def _positions(values: NDArray[Any], classes: Sequence[Any]) -> Ints:
    """The place of each value among the classes; -1 where it is none of them."""
    index = {c: i for i, c in enumerate(classes)}
    if len(index) != len(classes):
        raise ValueError(expected("labels", "different classes", f"one repeated in {list(classes)}"))
    return np.array([index.get(v, -1) for v in values.tolist()], dtype=np.int64)
