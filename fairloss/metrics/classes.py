"""Whether labels and predictions are of two classes, and which of the two is the positive one.

"Two classes" means that y_true, predicted labels and declared ``labels=`` together have at most two values and that there
are at most two columns of scores. 0 and 1 need nothing; of any other pair ``positive=`` names the positive label, for
nothing in the data says whether "case" or "control", 1 or 2, is looked for, nor whether a third class is only missing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import expected
from fairloss.groups.encode import number_labels
from fairloss.groups.labels import is_known
from fairloss.metrics.arrays import Bools

__all__ = ["Pair", "class_pair", "is_zero_one", "not_zero_one"]


@dataclass(frozen=True)
class Pair:
    """The two labels of a binary task.

    Attributes:
        positive: the positive label.
        other: the labels that are not, one at most.
        column: of the positive class, where there are two.
        decisions: whether the predictions are labels of the pair, not scores.
    """

    positive: Any
    other: tuple[Any, ...]
    column: int = 1
    decisions: bool = False

    def is_positive(self, values: NDArray[Any], name: str) -> Bools:
        """(N,) True where the label is the positive one; one outside the pair is refused."""
        if values.dtype.kind in "biuf" and not isinstance(self.positive, str):
            found = np.asarray(values == self.positive)
            wrong = ~found & ~np.isin(values, self.other) if self.other != (0,) else ~found & (values != 0)
            if not wrong.any():
                return found
            stranger = values[wrong][0].item()
        else:
            table = {**dict.fromkeys(self.other, False), self.positive: True}
            listed = [table.get(v) for v in values.tolist()]
            if None not in listed:
                return np.array(listed, dtype=bool)
            stranger = values[listed.index(None)]
        wanted = " or ".join(repr(v) for v in (*self.other, self.positive))
        cure = "map it to one of them, or pass task='multiclass' and no positive="
        raise ValueError(expected(name, f"{wanted}, two classes", repr(stranger), cure))


def is_zero_one(values: NDArray[Any]) -> bool:
    """Whether there are no values but 0 and 1."""
    if values.dtype.kind not in "iuf":
        return values.dtype.kind == "b"
    return bool(((values == 0) | (values == 1)).all())


def not_zero_one(values: NDArray[Any]) -> Any:
    """The first value that is neither 0 nor 1."""
    return next(v for v in values.ravel().tolist() if v not in (0, 1))


def class_pair(
    true: NDArray[Any], pred: NDArray[Any], labels: Sequence[Any] | None, positive: Any, task: str, *, logits: bool
) -> Pair | None:
    """The pair where (N,) labels and (N,) or (N, C) predictions are of two classes; None where they are of several.

    Raises:
        ValueError: a pair other than 0 and 1 without ``positive``, or what can be read in two ways.
    """
    if task in ("multiclass", "multilabel"):
        if positive is not None:
            raise ValueError(expected("positive", f"None with task={task!r}", repr(positive), "leave one of them out"))
        return None
    columns = pred.shape[1] if pred.ndim == 2 else 1
    values = {0, 1} if labels is None and positive is None and is_zero_one(true) else _named(true)
    values |= set(() if labels is None else labels)
    zero_one = values <= {0, 1} and not any(isinstance(v, str) for v in values)
    are_labels = pred.ndim == 1 and _are_labels(pred, values, positive, zero_one, task, logits)
    declared, predicted = set(values), _distinct(pred) if are_labels else set()
    _refuse_strangers(pred, declared, predicted)
    values = values | predicted
    if positive is not None and positive not in declared:
        declared.add(positive)
        if len(declared) > 2:
            raise ValueError(expected("positive", f"one of {_listed(declared - {positive})}", repr(positive)))
        values = values | declared
    zero_one = zero_one and positive in (None, 0, 1)
    if len(values) > 2 or columns > 2:
        _refuse_several(true, pred, values, positive, task, columns, are_labels)
        return None
    if positive is None and not zero_one:
        named = _listed(values)
        cure = "pass positive=, or labels= with all classes where these are some of several"
        raise ValueError(expected("positive", f"the positive one of the labels {named}", None, cure))
    positive = 1 if positive is None else positive
    other = tuple((values | ({0, 1} if zero_one else set())) - {positive})
    if logits and (are_labels or (pred.ndim == 1 and _decided(pred))):
        raise ValueError(expected("logits", "False beside decisions", True))
    column = _column(labels, other, positive, zero_one) if columns == 2 else 1
    return Pair(positive, other, column, are_labels)


def _named(true: NDArray[Any]) -> set[Any]:
    """The labels; a missing one is refused."""
    if true.dtype.kind in "fO":
        missing = next((v for v in true.tolist() if not is_known(v)), 0)
        if not is_known(missing):
            raise ValueError(expected("y_true", "a label for each sample", missing, "leave such samples out"))
    return _distinct(true)


def _distinct(values: NDArray[Any]) -> set[Any]:
    """The values that are not missing."""
    return set(number_labels(values).labels)


def _are_labels(pred: NDArray[Any], values: set[Any], positive: Any, zero_one: bool, task: str, logits: bool) -> bool:
    """Whether (N,) predictions are labels, where they are not scores.

    Raises:
        ValueError: numbers that may be either.
    """
    if pred.dtype.kind not in "biuf":
        return True
    if any(isinstance(v, str) for v in (*values, positive)) or logits:
        return False
    if zero_one and (positive is None or (positive == 1 and is_zero_one(pred))):
        if task == "auto" and pred.dtype.kind in "iu" and not is_zero_one(pred):
            wanted, cure = "scores or classes 0 and 1", "say which they are: task='multiclass' or task='binary'"
            raise ValueError(expected("y_pred", wanted, "other whole numbers beside labels 0 and 1", cure))
        return False
    if pred.dtype.kind in "iu":
        return True
    if bool((pred != np.floor(pred)).any()) or not np.isfinite(pred).all():
        return False
    if positive is None:
        return True
    seen = _distinct(pred)
    if not seen <= values | {positive} and not (positive in seen and len(seen) == 2):
        return False
    if is_zero_one(pred) and bool(((pred == positive) != (pred >= 0.5)).any()):
        cure = "pass labels as integers, or scores of the positive label that are not all 0 or 1"
        given = f"floating numbers or bools 0 and 1 beside positive={positive!r}"
        raise ValueError(expected("y_pred", "labels or scores that can be told apart", given, cure))
    return True


def _decided(pred: NDArray[Any]) -> bool:
    return is_zero_one(pred) and (pred.dtype.kind != "f" or bool((pred != pred[0]).any()))


def _refuse_strangers(pred: NDArray[Any], declared: set[Any], predicted: set[Any]) -> None:
    """Texts beside numbers are another coding of the classes; read as classes, every answer would be wrong."""
    kinds, others = {_kind(v) for v in declared}, {_kind(v) for v in predicted}
    if kinds == {"texts"} and pred.ndim == 1 and pred.dtype.kind in "biuf" and len(declared) > 2:
        wanted, given = "the predicted classes, or (N, C) scores, beside labels that are texts", "numbers (N,)"
    elif kinds and others and not kinds & others:
        wanted, given = f"{min(kinds)} as in y_true", f"{min(others)} such as {min(predicted)!r}"
    else:
        return
    raise ValueError(expected("y_pred", wanted, given, "code labels and predictions alike"))


def _kind(label: Any) -> str:
    return (
        "texts"
        if isinstance(label, str)
        else "numbers"
        if isinstance(label, Real)
        else f"{type(label).__name__} values"
    )


def _refuse_several(
    true: NDArray[Any], pred: NDArray[Any], values: set[Any], positive: Any, task: str, columns: int, are_labels: bool
) -> None:
    """Raise where more than two classes are no classes of several."""
    if columns > 2 and (positive is not None or task == "binary"):
        name = "positive" if positive is not None else "y_pred"
        raise ValueError(expected(name, "at most two columns of a binary task", f"{columns} columns"))
    if positive is not None:
        cure = "leave positive= out for several classes, or map the others to one label"
        raise ValueError(expected("positive", "two classes", f"{positive!r} among {_listed(values)}", cure))
    if columns > 2:
        return
    scores = pred.ndim == 1 and not are_labels
    if task == "binary" or scores:
        # Scores, which are nobody's classes: read as classes, all would be wrong answers.
        numbers = true.dtype.kind in "biuf" and not is_zero_one(true)
        given = repr(not_zero_one(true)) if numbers else _listed(values)
        cure = "for several classes pass (N, C) scores, or the predicted classes"
        raise ValueError(expected("y_true", "0 and 1 beside scores (N,)", given, cure))


def _column(labels: Sequence[Any] | None, other: tuple[Any, ...], positive: Any, zero_one: bool) -> int:
    """Which of two columns is the positive class's: that of ``labels``, else the last.

    Raises:
        ValueError: sorted labels, the usual order of the columns, would make it the first.
    """
    if labels is not None:
        if len(labels) != 2:
            raise ValueError(expected("labels", "a name for each of 2 columns", f"{len(labels)} names"))
        if len(set(labels)) != 2:
            raise ValueError(expected("labels", "different classes", f"one repeated in {list(labels)}"))
        return list(labels).index(positive)
    order = list(number_labels([*other, positive]).labels)
    if len(order) == 2 and order[1] == positive:
        return 1
    wanted = f"the order of y_pred's two columns, of which {positive!r} would be the last, or the first as labels sort"
    raise ValueError(expected("labels", wanted, None, f"pass labels=[..., {positive!r}] or [{positive!r}, ...]"))


def _listed(values: set[Any]) -> str:
    """Labels in order, the first few of many."""
    labels = number_labels(list(values)).labels
    return ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")
