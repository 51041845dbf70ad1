"""Labels and predictions as arrays of one row per sample, before they are read as classes or scores."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import expected
from fairloss.groups.encode import number_labels
from fairloss.groups.labels import number_in
from fairloss.metrics.arrays import Bools, as_floats
from fairloss.metrics.classes import is_zero_one, not_zero_one

__all__ = ["any_labels", "column_labels", "known_labels", "same_length", "unboxed"]


def same_length(true: NDArray[Any], pred: NDArray[Any]) -> None:
    """Raise unless both have one row per sample, and there is one."""
    if true.ndim == 0 or pred.ndim == 0 or len(true) != len(pred):
        raise ValueError(expected("y_true and y_pred", "one row per sample", f"shapes {true.shape} and {pred.shape}"))
    if len(true) == 0:
        raise ValueError(expected("y_true", "at least one sample", "no sample"))


def unboxed(array: NDArray[Any]) -> NDArray[Any]:
    """Python numbers in an object array, as a data frame's column of mixed origin holds them, as a numeric array."""
    kinds = set(map(type, array.flat)) if array.dtype.kind == "O" else set()
    if not kinds or not all(issubclass(kind, (Real, np.bool_, Decimal)) for kind in kinds):
        return array
    return array.astype(np.float64) if Decimal in kinds else np.asarray(array.tolist())


def column_names(values: Any) -> list[Any] | None:
    """Those of a frame of several columns; None of anything else, and where they are but numbered."""
    if isinstance(values, np.ndarray) or not hasattr(values, "shape"):
        return None
    names = getattr(values, "column_names", getattr(values, "columns", None))
    return None if names is None or len(names) < 2 or list(names) == list(range(len(names))) else list(names)


def column_labels(y_true: Any, true: NDArray[Any], y_pred: Any, labels: Sequence[Any] | None) -> Sequence[Any] | None:
    """The classes of a frame's columns: ``labels``, or the columns' names where the labels of (N,) ``true`` are among them.

    Raises:
        ValueError: the same names in another order in ``labels``, or in the columns of ``y_true``.
    """
    names = column_names(y_pred)
    if names is None:
        return labels
    written = _written(names)
    for name, other in (("labels", labels), ("y_true", column_names(y_true))):
        if other is not None and sorted(_written(other)) == sorted(written) and _written(other) != written:
            raise ValueError(expected(name, f"the order of the columns of y_pred, {names}", list(other)))
    if labels is not None or true.ndim != 1:
        return labels
    known = number_labels(true).labels
    seen = dict(zip(_written(known), known, strict=True))
    if not set(seen) <= set(written):
        return None
    numbers = true.dtype.kind in "biuf"
    found = [seen[w] if w in seen else number_in(w) if numbers else n for w, n in zip(written, names, strict=True)]
    return None if None in found else found


def _written(labels: Sequence[Any]) -> list[str]:
    """As the names of a frame's columns may write them; 8.0 as 8, bools as 0 and 1."""
    texts = [{"False": "0", "True": "1"}.get(str(v), str(v)) for v in labels]
    return [t if (n := number_in(t)) is None else f"{n:.12g}" for t in texts]


def known_labels(
    true: NDArray[Any], pred: NDArray[Any], ignore_index: Any
) -> tuple[NDArray[Any], NDArray[Any], Bools | None]:
    """Labels and predictions with what is ignored filled in, and (N, K) where the labels are known; None for everywhere.

    An ignored sample takes the row of the first that is not, so that what is read of it cannot matter.
    """
    if true.ndim == 2:
        true = as_floats(true, "y_true") if true.dtype.kind in "fO" else true
        known = ~np.isnan(true) if true.dtype.kind == "f" else np.ones(true.shape, dtype=bool)
    elif ignore_index is None:
        return true, pred, None
    else:
        known = np.ones(true.shape, dtype=bool)
    if ignore_index is not None:
        same = true == ignore_index if true.dtype.kind in "biuf" else [v == ignore_index for v in true.tolist()]
        known &= ~np.asarray(same, dtype=bool)
    if known.all():
        return true, pred, None
    if true.ndim == 2:
        return np.where(known, true, 0), pred, known
    if not known.any():
        raise ValueError(expected("y_true", "at least one label that is not ignored", f"{ignore_index!r} alone"))
    rows = np.where(known, np.arange(len(true)), int(known.argmax()))
    return unboxed(true[rows]), unboxed(pred[rows]), known[:, None]


def any_labels(pred: NDArray[Any], task: str, labels: Sequence[Any] | None, positive: Any) -> NDArray[Any]:
    """Labels in place of those that were not given, with which ``pred`` is read as it would be beside its own.

    Raises:
        TypeError: several columns, which labels alone tell from one another.
        ValueError: whole numbers that may be classes or scores.
    """
    columns = pred.shape[1] if pred.ndim == 2 else 1
    if task == "auto" and columns > 1:
        cure = "pass the labels, or task='binary', 'multiclass' or 'multilabel'"
        raise TypeError(expected("y_true", "labels beside predictions of several columns", None, cure))
    true = np.empty(len(pred), dtype=object)
    if positive is not None:
        true[:] = [positive] * len(pred)
        return unboxed(true)
    numbers = pred.dtype.kind in "biuf"
    if task == "auto" and numbers and len(pred) and not is_zero_one(pred):
        values = pred.astype(np.float64).ravel()
        if np.isfinite(values).all() and (values == np.floor(values)).all():
            wanted = "scores or decisions 0 and 1 where y_true is None"
            cure = "pass task='multiclass' for classes, task='binary' for scores"
            raise ValueError(expected("y_pred", wanted, repr(not_zero_one(pred)), cure))
    if task == "multilabel":
        return np.zeros(pred.shape)
    if task == "binary" or (task == "auto" and numbers):
        return np.zeros(len(pred), dtype=np.int64)
    classes = labels if labels is not None else range(columns) if columns > 1 else number_labels(pred.ravel()).labels
    if not len(classes):
        raise ValueError(expected("y_pred", "at least one class", "none"))
    true[:] = [classes[0]] * len(pred)
    return unboxed(true)
