"""Arbitrary group labels to integer ids and back; NumPy alone, so that the metrics share it without torch.

What a label means, :mod:`fairloss.groups.labels` says; every path that takes labels of groups comes through here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairloss.core.arrays import as_array, frame_columns
from fairloss.core.checks import expected
from fairloss.groups import labels as rules
from fairloss.groups.labels import is_known

__all__ = [
    "LABEL_RULES",
    "UNKNOWN",
    "Bins",
    "EachBins",
    "EachLabels",
    "GroupEncoding",
    "GroupLabelWarning",
    "LabelRules",
    "as_argument",
    "encode_groups",
    "number_labels",
    "read_labels",
]

UNKNOWN = -1
"""The id of a sample whose group is not known."""

_PYTHONS = {str, int, float, bool, type(None)}

Ints = NDArray[np.int64]
Bins = Sequence[float] | None | Literal["raise"]
EachLabels = Iterable[Any] | Mapping[Any, Iterable[Any]]
"""Labels for every attribute, or each attribute's own by its name."""
EachBins = Bins | Mapping[Any, Bins]
"""Likewise the edges of bands."""


class LabelRules(TypedDict, total=False):
    """Keyword arguments of whatever takes labels of groups; of several attributes, for all or a mapping of names to each one's.

    Attributes:
        unknown: labels of groups that mean unknown, beside None, NaN, empty texts and -1; see :func:`fairloss.encode_groups`.
            With a mapping of attributes, labels of all or a mapping of their names to each one's.
        known: labels that name a group although they look missing, such as "NA", likewise.
        bins: edges that cut the groups' numbers into bands, ``[40, 65]``, or None for codes, likewise.
    """

    unknown: EachLabels
    known: EachLabels
    bins: EachBins


LABEL_RULES: dict[str, Any] = {"unknown": (), "known": (), "bins": "raise"}
"""Defaults of :class:`LabelRules`."""


class GroupLabelWarning(UserWarning):
    """Labels of groups look alike."""


class GroupEncoding(NamedTuple):
    """Ids and the label behind each id, as :func:`encode_groups` returns them.

    Attributes:
        ids: (N,) int64, 0 .. ``num_groups`` - 1, or -1 for unknown. ``torch.from_numpy`` takes them as they are.
        labels: the label of id 0, of id 1, ...; its length is the number of groups.
    """

    ids: NDArray[np.int64]
    labels: tuple[Any, ...]

    @property
    def num_groups(self) -> int:
        """Number of groups, those without a sample included."""
        return len(self.labels)

    def decode(self, ids: ArrayLike, *, unknown: Any = None) -> list[Any]:
        """Labels of ``ids`` (integers of any shape, flattened); ``unknown`` stands for -1.

        Raises:
            ValueError: an id outside -1 .. ``num_groups`` - 1.
        """
        flat = np.asarray(ids).ravel()
        bad = flat[(flat < UNKNOWN) | (flat >= self.num_groups)]
        if bad.size:
            raise ValueError(expected("ids", f"ids -1 .. {self.num_groups - 1}", bad[0]))
        return [unknown if i == UNKNOWN else self.labels[i] for i in flat.tolist()]


def encode_groups(
    labels: Iterable[Any],
    *,
    categories: Sequence[Any] | None = None,
    unknown: Iterable[Any] = (),
    known: Iterable[Any] = (),
    bins: Bins = "raise",
) -> GroupEncoding:
    """Number arbitrary group labels 0, 1, ..., with -1 for unknown.

    Without ``categories`` a pandas categorical and a polars Enum keep their own order, and all else is sorted (numbers
    and bands such as "<40", "40-59" by value), so that the ids do not depend on the order of the samples. ``None``, NaN,
    ``pandas.NA``, NaT, empty texts and -1 are unknown, and so is every label in ``unknown``. Codes that missing ones have
    made 0.0, 1.0 are 0, 1 again.

    Args:
        labels: N labels: strings, numbers, booleans; a list, an array, a tensor, a column of pandas, polars or pyarrow.
        categories: the labels of ids 0, 1, ...; fixes the ids across data splits. None of them is unknown.
        unknown: further labels to be read as unknown. Texts that may mean missing or name a group (nan, None, NaT, NA,
            <NA>, N/A, NULL, #N/A, in any case) raise unless they are in ``unknown``, ``known`` or ``categories``.
        known: labels that name a group although they look missing: ``["None"]`` (an insurance), ``["NA"]`` (Namibia).
        bins: edges that cut numbers into bands: ``[40, 65]`` makes <40, 40-64 and 65+, or "40 to <65" where values are not
            whole; all bands are groups. None: numbers are codes, not quantities. By default more than 12 values raise
            where they are no integers, or are a frame's column.

    Returns:
        The ids, (N,) int64, and the label of each id.

    Raises:
        TypeError: ``labels`` or an option is no sequence.
        ValueError: one string in place of a sequence; ``labels`` is not one-dimensional; ``categories`` repeats a label, or a
            label is not among them; a text that may mean missing; a quantity; numbers below 0 that may be codes of unknown;
            edges that do not increase, or labels for them that are no numbers.

    Warns:
        GroupLabelWarning: labels may mean the same: they differ in case, blanks or type alone, or a letter is short for a word.

    Example:
        >>> codes = encode_groups(["F", "M", None, "F"])
        >>> codes.ids.tolist(), codes.labels
        ([0, 1, -1, 0], ('F', 'M'))
        >>> codes.decode([1, -1])
        ['M', None]
        >>> encode_groups([34, 61, 70, None], bins=[40, 65]).labels
        ('<40', '40-64', '65+')
    """
    return read_labels(labels, "labels", categories=categories, unknown=unknown, known=known, bins=bins)


def as_argument(option: str, value: Any) -> str:
    """How an option is written in a call."""
    return f"{option}={value!r}"


def read_labels(
    labels: Any,
    name: str,
    *,
    categories: Sequence[Any] | None = None,
    unknown: EachLabels = (),
    known: EachLabels = (),
    bins: EachBins = "raise",
    cells: bool = False,
    option: Callable[[str, Any], str] = as_argument,
) -> GroupEncoding:
    """:func:`encode_groups` for callers that call the labels ``name`` and write an ``option`` in their own way.

    ``cells`` are the texts of a file's column, which are numbers if all known ones are.
    """
    edges = None if bins is None or (isinstance(bins, str) and bins == "raise") else rules.check_edges(bins)
    missing, named = _listed("unknown", unknown), _listed("known", known)
    if missing & named:
        raise ValueError(expected("known", "labels that are not in unknown", repr(next(iter(missing & named)))))
    if not all(map(is_known, named)):
        raise ValueError(expected("known", "labels that name a group", "None or NaN, which is always unknown"))
    if categories is not None:
        if isinstance(categories, (AbstractSet, Mapping)):
            raise TypeError(expected("categories", "a sequence of labels, in the order of the ids", repr(categories)))
        categories = list(categories) if isinstance(categories, Iterator) else categories  # it is read twice
        named |= _listed("categories", categories)
    given, places, own_order, column = _distinct_labels(labels, name)
    # A masked array is one of numbers, but not of ids alone.
    ids = type(labels) is np.ndarray and labels.dtype.kind in "iu" and bool(given) and given[0] >= UNKNOWN
    plain = not (missing or named or cells) and edges is None and categories is None
    if ids and plain:  # nothing to check label by label
        absent = int(given[0] == UNKNOWN)
        return GroupEncoding(places - absent, tuple(given[absent:]))
    rest = [v for v in given if is_known(v) and v not in missing and v not in named]
    free = [v for v in rest if not rules.is_unknown(v)]
    rules.check_texts(free, name, option)
    rules.check_negative(rest, name, edges is not None, option)
    if bins is not None and edges is None and categories is None and own_order is None:
        rules.check_quantity(free, name, column or cells, option)
    at = [
        i for i, v in enumerate(given) if is_known(v) and v not in missing and (v in named or not rules.is_unknown(v))
    ]
    kept = [given[i] for i in at]
    if edges is not None:
        order, new = rules.cut(kept, edges, name, option)
    else:
        new = rules.codes(kept, cells, name)
        order = rules.sorted_labels(set(new)) if own_order is None else new
    if categories is not None:
        order = [c for c in categories if is_known(c) and c not in missing]
        if len(set(order)) != len(order):
            raise ValueError(expected("categories", "different labels", f"one repeated in {order}"))
        strange = next((k for k, label in enumerate(new) if label not in order), None)
        if strange is not None:
            wanted, cure = f"labels among the categories {order}", "add it to categories or to unknown="
            position = int(np.flatnonzero(places == at[strange])[0])
            raise ValueError(expected(name, wanted, f"{new[strange]!r} at position {position}", cure))
    elif alike := "" if edges is not None else rules.lookalikes(kept if not cells else new):
        warnings.warn(f"{name}: {alike}", GroupLabelWarning, stacklevel=3)
    return _numbered(given, places, at, new, order)


def number_labels(labels: Iterable[Any]) -> GroupEncoding:
    """Ids of labels that are no groups, classes or patients: missing objects are -1, all else is as it stands."""
    given, places, own_order, _ = _distinct_labels(labels, "labels")
    at = [i for i, v in enumerate(given) if is_known(v)]
    kept = [given[i] for i in at]
    try:
        order = kept if own_order is not None else sorted(set(kept))
    except TypeError:
        order = sorted(set(kept), key=lambda v: (type(v).__name__, str(v)))
    return _numbered(given, places, at, kept, order)


def _numbered(given: list[Any], places: Ints, at: list[int], labels: list[Any], order: list[Any]) -> GroupEncoding:
    """The encoding in which ``given[at]`` have the ``labels``, and the labels their place in ``order``."""
    index = {label: i for i, label in enumerate(dict.fromkeys(order))}
    table = np.full(len(given), UNKNOWN, dtype=np.int64)
    table[at] = [index[label] for label in labels]
    return GroupEncoding(table[places], tuple(index))


def _listed(name: str, values: Any) -> set[Any]:
    if isinstance(values, (str, bytes)):
        raise ValueError(expected(name, "a sequence of labels", "one string", f"pass [{values!r}]"))
    if not isinstance(values, Iterable) or isinstance(values, Mapping):
        raise TypeError(expected(name, "a sequence of labels", type(values).__name__))
    return _hashable(name, values)


def _hashable(name: str, values: Iterable[Any]) -> set[Any]:
    try:
        return set(values)
    except TypeError as error:
        raise ValueError(expected(name, "hashable labels (strings, numbers, ...)", error)) from None


def _distinct_labels(labels: Any, name: str) -> tuple[list[Any], Ints, list[Any] | None, bool]:
    """Distinct values, the place of each label among them, the order of categories, and whether it is a frame's column."""
    if isinstance(labels, (str, bytes)):
        raise ValueError(expected(name, "a sequence of labels", "one string"))
    columns = frame_columns(labels, name)
    if columns is not None and len(columns) == 1:
        labels = next(iter(columns.values()))
    is_array = hasattr(labels, "__array__")
    if not is_array and (not isinstance(labels, Iterable) or isinstance(labels, (Mapping, AbstractSet))):
        raise TypeError(expected(name, "a sequence of labels", type(labels).__name__))
    column = hasattr(labels, "to_numpy")
    own_order = getattr(getattr(labels, "dtype", None), "categories", None)
    if isinstance(own_order, Iterable):  # of pandas, or of a polars Enum
        codes = labels.to_physical() if hasattr(labels, "to_physical") else getattr(labels, "cat", labels).codes
        codes, order = np.asarray(codes), [_plain(v) for v in own_order]
        return [*order, None], np.where(codes >= 0, codes, len(order)).astype(np.int64), order, column
    if not is_array:
        labels = list(labels)
        if not labels or not isinstance(labels[0], list):
            return *_distinct(labels, name), None, column
    array = as_array(labels, name)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1:
        cure = "pass several attributes as a mapping of names to labels" if array.ndim == 2 else ""
        raise ValueError(expected(name, "one-dimensional labels, (N,)", f"shape {array.shape}", cure))
    if array.dtype.kind in "biu":
        values, places = _distinct_integers(array)
        return values.tolist(), places, None, column
    if array.dtype.kind == "f":
        values, places = np.unique(array, return_inverse=True)
        return values.tolist(), places.astype(np.int64), None, column
    if array.dtype.kind == "M":
        array = array.astype("M8[us]")  # whose values are dates; those of nanoseconds would be numbers
    return *_distinct(array.tolist(), name), None, column


def _plain(value: Any) -> Any:
    """Scalars of NumPy, torch and pyarrow in lists equal their Python twins but print, sort or hash differently."""
    if hasattr(value, "as_py"):
        return value.as_py()
    scalar = isinstance(value, np.generic) or hasattr(value, "detach") or getattr(value, "shape", None) == ()
    return value.item() if scalar else value


def _distinct(values: list[Any], name: str) -> tuple[list[Any], Ints]:
    """Distinct values in their order, those of different types apart (True, 1 and 1.0), and the place of each."""
    if not set(map(type, values)) <= _PYTHONS:
        values = [_plain(v) for v in values]
    keys: list[Any] = values if len(set(map(type, values))) < 2 else [(type(v), v) for v in values]
    _hashable(name, keys)
    index: dict[Any, int] = {}
    places = np.array([index.setdefault(key, len(index)) for key in keys], dtype=np.int64)
    return list(index) if keys is values else [value for _, value in index], places


def _distinct_integers(array: NDArray[Any]) -> tuple[NDArray[Any], Ints]:
    """Distinct values in order, and the place of each entry among them; integers of a narrow range need no sort."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, -1)
    if not 0 <= high - low <= max(len(array), 1 << 16) or max(abs(low), abs(high)) >= 1 << 62:
        labels, ids = np.unique(array, return_inverse=True)
        return labels, ids.astype(np.int64).ravel()
    offset = array.astype(np.int64) - low
    present = np.bincount(offset) > 0
    if present.all():
        return np.arange(low, high + 1).astype(array.dtype), offset
    return (np.flatnonzero(present) + low).astype(array.dtype), (np.cumsum(present) - 1)[offset]
