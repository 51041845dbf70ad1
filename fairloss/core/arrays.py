"""Arrays, tensors, columns and data frames of any library as NumPy arrays, through what each offers itself.

pandas, polars and pyarrow columns and frames have ``__array__``, a tensor its own methods: none of them is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import expected

__all__ = ["as_array", "frame_columns"]


def as_array(values: Any, name: str) -> NDArray[Any]:
    """``values`` as an array; a tensor is detached first, bfloat16 widened; what is masked is NaN, or None."""
    if type(values) is np.ndarray and values.dtype.kind != "c":
        return values
    wanted = "a list, an array, a tensor, or a column or frame of pandas, polars or pyarrow"
    if values is None or isinstance(values, (str, bytes)):
        raise TypeError(expected(name, wanted, "None" if values is None else "one string"))
    _refuse_lazy(values, name)
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if "bfloat16" in str(values.dtype) else values).numpy()
    elif isinstance(values, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(values)
        values = np.array(values.data, dtype=np.float64 if values.dtype.kind in "iuf" else object)
        values[masked] = np.nan if values.dtype.kind == "f" else None
    elif not isinstance(values, np.ndarray) and isinstance(values, Iterable) and not hasattr(values, "__array__"):
        values = list(values)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(expected(name, "a rectangular array", f"rows of unequal length ({error})")) from None
    if array.dtype.kind == "c":
        raise TypeError(expected(name, "numbers or labels", "complex values"))
    if array.dtype.kind in "US" and isinstance(values, list) and not all(isinstance(v, str) for v in values):
        return np.asarray(values, dtype=object)  # else NumPy would make a label "nan" or "None" of a missing one
    return array


def _refuse_lazy(values: Any, name: str) -> None:
    """Raise for a frame that has not been computed yet."""
    if hasattr(values, "collect") and not hasattr(values, "__array__"):
        cure = "call its .collect() first"
        raise TypeError(expected(name, "values that have been computed", type(values).__name__, cure))


def frame_columns(frame: Any, name: str = "groups") -> dict[Any, Any] | None:
    """The columns of a data frame (pandas, polars, pyarrow) by their names, or of an (N, K) array; None for anything else.

    Raises:
        ValueError: two columns of one name; an array that may be one-hot codes of one attribute.
    """
    _refuse_lazy(frame, name)
    names = getattr(frame, "column_names", getattr(frame, "columns", None))  # pyarrow's own columns have no names
    if names is not None and hasattr(frame, "__getitem__") and hasattr(frame, "shape"):
        names = list(names)
        if len(set(names)) < len(names):
            raise ValueError(expected(name, "columns of different names", names))
        return {column: frame[column] for column in names}
    if getattr(frame, "ndim", 1) != 2 or frame.shape[1] < 2:
        return None
    array = as_array(frame, name)
    if array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all() and (array.sum(axis=1) <= 1).all():
        cure = "pass its argmax(axis=1) if it is one-hot, a mapping of names to columns if these are attributes"
        given = f"shape {array.shape} with no row of more than one 1"
        raise ValueError(expected(name, "columns that can be read one way", given, cure))
    return dict(enumerate(array.T))
