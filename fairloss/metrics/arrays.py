"""Numbers and group labels of any usual kind as NumPy arrays, checked before any work.

Lists, NumPy arrays, pandas series and tensors are read; a tensor is detached and moved through its own methods, so that
torch is never imported here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import expected
from fairloss.groups.encode import GroupEncoding, encode_groups

__all__ = [
    "Bools",
    "Floats",
    "Ints",
    "as_array",
    "as_finite",
    "as_floats",
    "as_groups",
    "as_values",
    "as_weights",
    "cross_groups",
    "precision_of",
    "round_as",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def as_array(values: Any, name: str) -> NDArray[Any]:
    """``values`` as an array; a tensor is detached first, bfloat16 widened."""
    if values is None or isinstance(values, (str, bytes)):
        given = "None" if values is None else "one string"
        raise TypeError(expected(name, "a list, an array, a pandas series or a tensor", given))
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if "bfloat16" in str(values.dtype) else values).numpy()
    elif hasattr(values, "to_numpy"):
        values = values.to_numpy()
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


def precision_of(values: Any, array: NDArray[Any]) -> str:
    """The floating type in which ``values``, read as ``array``, were given: ``"float32"``, ``"bfloat16"``, ..."""
    if "bfloat16" in str(getattr(values, "dtype", "")):
        return "bfloat16"
    return str(array.dtype) if array.dtype.kind == "f" else "float64"


def round_as(values: Any, precision: str) -> Floats:
    """``values`` as a number of that precision holds them, so that what is written alike compares alike."""
    if precision != "bfloat16":
        return np.asarray(values, dtype=precision).astype(np.float64)
    bits: NDArray[np.uint32] = np.array(values, dtype=np.float32).view(np.uint32)  # a copy, changed in place
    bits += 0x7FFF + (bits >> 16 & 1)  # to nearest, ties to even
    bits &= 0xFFFF0000
    return bits.view(np.float32).astype(np.float64)


def as_floats(values: Any, name: str) -> Floats:
    """Float64 numbers of any shape, NaN among them."""
    array = as_array(values, name)
    try:
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError):
        raise TypeError(expected(name, "numbers", f"{array.dtype} values")) from None


def as_finite(values: Any, name: str) -> Floats:
    """Finite float64 numbers of any shape."""
    array = as_floats(values, name)
    finite = np.isfinite(array)
    if not finite.all():
        position = int(np.flatnonzero(~finite.ravel())[0])
        raise ValueError(expected(name, "finite numbers", f"{array.ravel()[position]} at position {position}"))
    return array


def as_values(values: Any, name: str, each: str) -> Floats:
    """(N,) numbers, NaN where there is none; ``each`` names in the error what there is one of: "group"."""
    array = as_floats(values, name)
    if array.ndim != 1:
        raise ValueError(expected(name, f"one value per {each}, (N,)", f"shape {array.shape}"))
    if np.isinf(array).any():
        raise ValueError(expected(name, "finite numbers", "an infinite value", "NaN stands for an undefined one"))
    return array


def as_weights(sample_weight: Any, n: int) -> Floats:
    """(N,) non-negative weights, ones by default."""
    if sample_weight is None:
        return np.ones(n)
    weight = as_finite(sample_weight, "sample_weight")
    if weight.shape != (n,):
        raise ValueError(expected("sample_weight", f"shape ({n},)", f"shape {weight.shape}"))
    if (weight < 0).any():
        raise ValueError(expected("sample_weight", "weights >= 0", weight.min()))
    return weight


def as_groups(groups: Any, n: int, name: str = "groups") -> GroupEncoding:
    """Ids and labels of one attribute; -1, None and NaN are unknown, and a :class:`GroupEncoding` is taken as it is."""
    if isinstance(groups, GroupEncoding):
        encoding = groups
    elif isinstance(groups, Mapping):
        encoding = cross_groups(groups)
    elif hasattr(getattr(groups, "dtype", None), "categories"):
        encoding = encode_groups(groups)
    else:
        array = as_array(groups, name)
        array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        if array.ndim != 1:
            cure = "pass several attributes as a mapping of names to labels, which is read as their intersection"
            raise ValueError(expected(name, "one attribute, (N,)", f"shape {array.shape}", cure))
        encoding = _encode_integers(array, name) if array.dtype.kind in "biu" else encode_groups(array)
    if encoding.ids.shape != (n,):
        raise ValueError(expected(name, f"one label for each of {n} samples", f"{len(encoding.ids)} labels"))
    return encoding


def _encode_integers(array: NDArray[Any], name: str) -> GroupEncoding:
    labels, ids = _distinct(array)
    if array.dtype.kind != "i":
        return GroupEncoding(ids, tuple(labels.tolist()))
    if labels.size and labels[0] < -1:
        raise ValueError(expected(name, "ids from 0, or -1 for unknown", labels[0]))
    known = labels[labels != -1]
    return GroupEncoding(ids - (len(labels) - len(known)), tuple(known.tolist()))


def _distinct(array: NDArray[Any]) -> tuple[NDArray[Any], Ints]:
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
        TypeError: ``attributes`` is no mapping.
        ValueError: no attribute, attributes of different lengths, or combinations that cannot be told apart.

    Example:
        >>> codes = cross_groups({"sex": ["F", "M", "F"], "age": ["60+", "60+", None]})
        >>> codes.ids.tolist(), codes.labels
        ([0, 1, -1], ('F & 60+', 'M & 60+'))
    """
    if not isinstance(attributes, Mapping):
        raise TypeError(expected("attributes", "a mapping of names to labels", type(attributes).__name__))
    if not attributes:
        raise ValueError(expected("attributes", "a mapping of names to labels", "an empty one"))
    encodings = []
    for name, labels in attributes.items():
        # An encoding is decoded, so that its labels, not its ids, name the combinations.
        labels = labels.decode(labels.ids) if isinstance(labels, GroupEncoding) else labels
        encodings.append(as_groups(labels, len(as_array(labels, name))))
    lengths = {len(e.ids) for e in encodings}
    if len(lengths) != 1:
        raise ValueError(expected("attributes", "labels of one length", f"lengths {sorted(lengths)}"))
    ids = np.full(lengths.pop(), -1, dtype=np.int64)
    known = np.all([e.ids >= 0 for e in encodings], axis=0)
    sizes = [max(e.num_groups, 1) for e in encodings]
    codes = np.ravel_multi_index(tuple(e.ids[known] for e in encodings), sizes)
    present, ids[known] = np.unique(codes, return_inverse=True)
    rows = np.transpose(np.unravel_index(present, sizes)).tolist()
    combinations = [[e.labels[i] for e, i in zip(encodings, row, strict=True)] for row in rows]
    names = [separator.join(map(str, labels)) for labels in combinations]
    count = Counter(names)
    names = [
        separator.join(map(repr, labels)) if count[name] > 1 else name
        for labels, name in zip(combinations, names, strict=True)
    ]
    if len(set(names)) < len(names):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        wanted = f"labels of {', '.join(map(str, attributes))} whose combinations can be told apart"
        raise ValueError(expected("attributes", wanted, f"two called {twice}", "rename a label, or pass separator="))
    return GroupEncoding(ids, tuple(names))
