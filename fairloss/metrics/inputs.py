"""Predictions, labels and group labels of any usual kind as NumPy arrays, checked before any work.

Lists, NumPy arrays, pandas series and tensors are read; a tensor is detached and moved through its own methods, so that
torch is never imported here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.groups.encode import GroupEncoding, encode_groups, number_labels

__all__ = [
    "Floats",
    "Predictions",
    "as_groups",
    "as_numbers",
    "as_predictions",
    "as_scores",
    "as_weight",
    "cross_groups",
    "to_array",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
TASKS = ("auto", "binary", "multiclass", "multilabel")


@dataclass(frozen=True)
class Predictions:
    """One-vs-rest view of a set of predictions.

    Attributes:
        task: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        target: (N, K) bool; K = 1 for a binary task.
        decided: (N, K) bool, the hard decisions.
        score: (N, K) float64, or None where labels alone were given.
        classes: the K classes' labels.
    """

    task: str
    target: Bools
    decided: Bools
    score: Floats | None
    classes: tuple[Any, ...]

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
        return Predictions(self.task, self.target[index], self.decided[index], score, self.classes)


def to_array(values: Any, name: str) -> NDArray[Any]:
    """``values`` as an array; a tensor is detached first, bfloat16 widened."""
    if values is None:
        raise TypeError(f"{name}: None was given; a list, an array, a pandas series or a tensor is needed")
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{name}: one string was given; a sequence is needed")
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if "bfloat16" in str(values.dtype):
            values = values.float()
        values = values.numpy()
    elif hasattr(values, "to_numpy"):
        values = values.to_numpy()
    elif not isinstance(values, np.ndarray) and isinstance(values, Iterable) and not hasattr(values, "__array__"):
        values = list(values)
    try:
        array = np.asarray(values)
        if array.dtype.kind == "c":
            raise TypeError(f"{name}: complex values were given; numbers or labels are needed")
        if array.dtype.kind in "US" and isinstance(values, list) and not all(isinstance(v, str) for v in values):
            return np.asarray(values, dtype=object)  # else NumPy would make a label "nan" or "None" of a missing one
        return array
    except ValueError as error:
        raise ValueError(
            f"{name}: rows of unequal length were given; a rectangular array is needed ({error})"
        ) from None


def as_numbers(values: Any, name: str) -> Floats:
    """Float64 numbers of any shape, NaN among them."""
    array = to_array(values, name)
    try:
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: numbers are needed, {array.dtype} values were given") from None


def as_scores(values: Any, name: str) -> Floats:
    """Finite float64 numbers of any shape."""
    array = as_numbers(values, name)
    if not np.isfinite(array).all():
        position = int(np.flatnonzero(~np.isfinite(array).ravel())[0])
        raise ValueError(f"{name}: {array.ravel()[position]} at position {position}; finite numbers are needed")
    return array


def as_weight(sample_weight: Any, n: int) -> Floats:
    """(N,) non-negative weights, ones by default."""
    if sample_weight is None:
        return np.ones(n)
    weight = as_scores(sample_weight, "sample_weight")
    if weight.shape != (n,):
        raise ValueError(f"sample_weight: shape {weight.shape} was given, ({n},) is needed")
    if (weight < 0).any():
        raise ValueError(f"sample_weight: {weight.min()} was given; weights must not be negative")
    return weight


def as_groups(groups: Any, n: int) -> GroupEncoding:
    """Ids and labels of one attribute; -1, None and NaN are unknown, and a :class:`GroupEncoding` is taken as it is."""
    if isinstance(groups, GroupEncoding):
        encoding = groups
    elif isinstance(groups, Mapping):
        encoding = cross_groups(groups)
    else:
        array = None if hasattr(getattr(groups, "dtype", None), "categories") else to_array(groups, "groups")
        if array is not None and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array is not None and array.ndim != 1:
            raise ValueError(
                f"groups: shape {array.shape} was given; one attribute (N,) is needed (several: pass a mapping of "
                "names to attributes, which is read as their intersection)"
            )
        if array is not None and array.dtype.kind in "biu":
            labels, ids = _distinct(array)
            if array.dtype.kind == "i" and labels.size and labels[0] < -1:
                raise ValueError(f"groups: {labels[0]} is no group; accepted are -1 for unknown and ids from 0")
            known = labels[labels != -1] if array.dtype.kind == "i" else labels
            shift = len(labels) - len(known)
            encoding = GroupEncoding(ids - shift, tuple(known.tolist()))
        else:
            encoding = encode_groups(groups if array is None else array)
    if encoding.ids.shape != (n,):
        raise ValueError(f"groups: {len(encoding.ids)} labels were given for {n} samples")
    return encoding


def _distinct(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Distinct values in order, and the place of each entry among them; integers of a narrow range need no sort."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, -1)
    if not 0 <= high - low <= max(len(array), 1 << 16) or max(abs(low), abs(high)) >= 1 << 62:
        labels, ids = np.unique(array, return_inverse=True)
        return labels, ids.astype(np.int64).ravel()
    offset = array.astype(np.int64) - low
    present = np.bincount(offset) > 0
    return (np.flatnonzero(present) + low).astype(array.dtype), (np.cumsum(present) - 1)[offset]


def cross_groups(attributes: Mapping[str, Any], *, separator: str = " & ") -> GroupEncoding:
    """Intersection of several attributes as one attribute, with labels such as ``"F & 60+"``.

    Only the combinations that occur are groups. A sample with an unknown attribute is in no group. Where two would have
    the same label, theirs are written in quotes: ``"'A & B' & 'C'"``.

    Args:
        attributes: names to (N,) group labels.
        separator: text between the labels of a combination.

    Returns:
        Ids, (N,) int64, -1 for unknown, and the label of each id.

    Raises:
        ValueError: no attribute, attributes of different lengths, or combinations that cannot be told apart.

    Example:
        >>> codes = cross_groups({"sex": ["F", "M", "F"], "age": ["60+", "60+", None]})
        >>> codes.ids.tolist(), codes.labels
        ([0, 1, -1], ('F & 60+', 'M & 60+'))
    """
    if not isinstance(attributes, Mapping):
        raise TypeError(f"attributes: a mapping of names to labels is needed, {type(attributes).__name__} was given")
    if not attributes:
        raise ValueError("attributes: none was given; a mapping of names to group labels is needed")
    encodings = [as_groups(v, len(to_array(v, name))) for name, v in _plain(attributes).items()]
    lengths = {len(e.ids) for e in encodings}
    if len(lengths) != 1:
        raise ValueError(f"attributes: different lengths {sorted(lengths)} were given")
    known = np.all([e.ids >= 0 for e in encodings], axis=0)
    code = np.zeros(lengths.pop(), dtype=np.int64)
    for e in encodings:
        code = code * max(e.num_groups, 1) + np.where(known, e.ids, 0)
    present, inverse = np.unique(code[known], return_inverse=True)
    ids = np.full(len(code), -1, dtype=np.int64)
    ids[known] = inverse
    combinations = []
    for value in present.tolist():
        parts = []
        for e in reversed(encodings):
            value, digit = divmod(value, max(e.num_groups, 1))
            parts.append(e.labels[digit])
        combinations.append(parts[::-1])
    names = [separator.join(map(str, parts)) for parts in combinations]
    count = Counter(names)
    names = [
        separator.join(map(repr, parts)) if count[name] > 1 else name
        for parts, name in zip(combinations, names, strict=True)
    ]
    if len(set(names)) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise ValueError(f"attributes: two combinations of {', '.join(map(str, attributes))} would be called {twice}")
    return GroupEncoding(ids, tuple(names))


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    # An encoding is decoded, so that its labels, not its ids, name the combinations.
    return {k: v.decode(v.ids) if isinstance(v, GroupEncoding) else v for k, v in attributes.items()}


def as_predictions(
    y_true: Any,
    y_pred: Any,
    *,
    task: str = "auto",
    threshold: float = 0.5,
    strict: bool = False,
    labels: Sequence[Any] | None = None,
    labels_matter: bool = True,
) -> Predictions:
    """Read labels and predictions; see :func:`fairloss.metrics.group_metric` for what is accepted.

    ``y_true`` may be None where ``labels_matter`` is false.
    """
    if task not in TASKS:
        raise ValueError(f"task: {task!r} was given; accepted are {', '.join(TASKS)}")
    threshold = _finite(threshold)
    pred = _unboxed(to_array(y_pred, "y_pred"))
    if pred.ndim == 0:
        raise ValueError("y_pred: one value was given; a prediction a sample is needed")
    if pred.dtype.kind == "f" and pred.dtype.itemsize < 8:
        threshold = float(np.float32(threshold))  # a float32 score written 0.7 is not below a threshold written 0.7
    if y_true is None and not labels_matter:
        true = _any_labels(pred, task, labels)
    else:
        true = _unboxed(to_array(y_true, "y_true"))
    if true.ndim == 0 or len(true) != len(pred):
        raise ValueError(f"y_true and y_pred: {true.shape} and {pred.shape} were given; one row a sample is needed")
    if len(true) == 0:
        raise ValueError("y_true: no sample was given")
    if true.ndim == 2 and true.shape[1] == 1:
        true = true[:, 0]
    if true.ndim == 1 and pred.ndim == 2 and pred.shape[1] == 1:
        pred = pred[:, 0]
    if task == "auto":
        task = _infer_task(true, pred)
    if task == "binary":
        if true.ndim != 1 or pred.ndim != 1:
            raise ValueError(f"y_pred: shape {pred.shape} was given for a binary task; (N,) is needed")
        target, score = _zero_one(true, "y_true")[:, None], as_scores(pred, "y_pred")[:, None]
        return Predictions(task, target, _decide(score, threshold, strict), score, (1,))
    if task == "multilabel":
        if true.ndim != 2 or true.shape != pred.shape:
            raise ValueError(f"y_true and y_pred: {true.shape} and {pred.shape} were given; (N, labels) is needed")
        score = as_scores(pred, "y_pred")
        names = tuple(labels) if labels is not None else tuple(range(true.shape[1]))
        if len(names) != true.shape[1]:
            raise ValueError(f"labels: {len(names)} names were given for {true.shape[1]} labels")
        return Predictions(task, _zero_one(true, "y_true"), _decide(score, threshold, strict), score, names)
    return _multiclass(true, pred, labels)


def _unboxed(array: NDArray[Any]) -> NDArray[Any]:
    """Python numbers in an object array, as a data frame's column of mixed origin holds them, as a numeric array."""
    if array.dtype.kind != "O" or not array.size or not all(isinstance(v, (Real, np.bool_)) for v in array.ravel()):
        return array
    return np.asarray(array.tolist())


def _infer_task(true: NDArray[Any], pred: NDArray[Any]) -> str:
    if true.ndim == 2:
        return "multilabel"
    if pred.ndim == 2:
        return "multiclass"
    if _is_zero_one(true) and pred.dtype.kind in "biuf":
        if pred.dtype.kind in "iu" and not _is_zero_one(pred):
            raise ValueError(
                "y_pred: whole numbers other than 0 and 1 beside labels 0 and 1 may be classes or scores; say which: "
                "task='multiclass' or task='binary'"
            )
        return "binary"
    if pred.dtype.kind == "f" and bool((pred != np.floor(pred)).any()):
        # Scores, which are nobody's classes: read as classes, all would be wrong answers.
        other = next(v for v in true.ravel().tolist() if v not in (0, 1))
        raise ValueError(
            f"y_true: {other!r} was given beside scores (N,); 0 and 1 are needed (several classes: (N, C) scores, or the "
            "predicted classes)"
        )
    return "multiclass"


def _any_labels(pred: NDArray[Any], task: str, labels: Sequence[Any] | None) -> NDArray[Any]:
    """Labels in place of those that were not given, with which ``pred`` is read as it would be beside its own.

    Raises:
        TypeError: several columns, which labels alone tell from one another.
        ValueError: whole numbers that may be classes or scores.
    """
    columns = pred.shape[1] if pred.ndim == 2 else 1
    if task == "auto" and columns > 1:
        raise TypeError(
            "y_true: None was given with predictions of several columns; the labels are needed, or task='multiclass' or "
            "'multilabel'"
        )
    numbers = pred.dtype.kind in "biuf"
    if task == "auto" and numbers and len(pred) and not _is_zero_one(pred):
        values = pred.astype(np.float64).ravel()
        if np.isfinite(values).all() and (values == np.floor(values)).all():
            other = next(v for v in pred.ravel().tolist() if v not in (0, 1))
            raise ValueError(
                f"y_pred: {other!r} was given without y_true, and may be a class or a score; pass task='multiclass' for "
                "classes, task='binary' for scores"
            )
    if task in ("binary", "multilabel") or (task == "auto" and numbers):
        return np.zeros(pred.shape)
    classes = labels if labels is not None else range(columns) if columns > 1 else number_labels(pred.ravel()).labels
    if not len(classes):
        raise ValueError("y_pred: no class was given")
    true = np.empty(len(pred), dtype=object)
    true[:] = [classes[0]] * len(pred)
    return true


def _is_zero_one(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "biuf" and bool(np.isin(values, (0, 1)).all())


def _zero_one(values: NDArray[Any], name: str) -> Bools:
    if values.dtype.kind == "O":
        values = as_scores(values, name)
    if not _is_zero_one(values):
        other = next(v for v in values.ravel().tolist() if v not in (0, 1))
        raise ValueError(f"{name}: {other!r} was given; 0 and 1 are accepted")
    return values.astype(bool)


def _finite(threshold: Any) -> float:
    if not isinstance(threshold, Real):
        raise TypeError(f"threshold: {threshold!r} was given; a number is needed")
    if not math.isfinite(threshold):
        raise ValueError(f"threshold: {threshold} was given; a finite number is needed")
    return float(threshold)


def _decide(score: Floats, threshold: float, strict: bool) -> Bools:
    return np.asarray(score > threshold if strict else score >= threshold)


def _multiclass(true: NDArray[Any], pred: NDArray[Any], labels: Sequence[Any] | None) -> Predictions:
    score = None
    if true.ndim != 1:
        raise ValueError(f"y_true: shape {true.shape} was given for a multiclass task; (N,) is needed")
    if pred.ndim == 2:
        score = as_scores(pred, "y_pred")
        classes = tuple(labels) if labels is not None else tuple(range(pred.shape[1]))
        if len(classes) != pred.shape[1]:
            raise ValueError(f"labels: {len(classes)} classes were given for {pred.shape[1]} columns of y_pred")
        decided = np.zeros(score.shape, dtype=bool)
        decided[np.arange(len(score)), score.argmax(axis=1)] = True
    elif pred.ndim == 1:
        if labels is not None:
            classes = tuple(labels)
        else:  # an answer that is no class of the data ("unparsable") may be among these: it has no positives
            classes = number_labels([*true.tolist(), *pred.tolist()]).labels
        codes = _codes(pred, classes)
        decided = codes[:, None] == np.arange(len(classes))
    else:
        raise ValueError(f"y_pred: shape {pred.shape} was given; (N,) labels or (N, classes) scores are needed")
    if true.dtype.kind == "f" and not np.isfinite(true).all():
        raise ValueError(f"y_true: {true[~np.isfinite(true)][0]} was given; a class is needed")
    truth = _codes(true, classes)
    if (truth < 0).any():
        bad = true[truth < 0].tolist()[0]
        raise ValueError(f"y_true: {bad!r} is not among the classes {list(classes)}")
    return Predictions("multiclass", truth[:, None] == np.arange(len(classes)), decided, score, classes)


def _codes(values: NDArray[Any], classes: Sequence[Any]) -> NDArray[np.int64]:
    index = {c: i for i, c in enumerate(classes)}
    if len(index) != len(classes):
        raise ValueError(f"labels: a class is repeated in {list(classes)}")
    return np.array([index.get(v, -1) for v in values.tolist()], dtype=np.int64)
