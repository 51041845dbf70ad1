"""Arbitrary group labels to integer ids and back; NumPy alone, so that the metrics share it without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairloss.core.checks import expected

__all__ = ["UNKNOWN", "GroupEncoding", "encode_groups", "is_known", "number_labels"]

UNKNOWN = -1
"""The id of a sample whose group is not known."""


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
    labels: Iterable[Any], *, categories: Sequence[Any] | None = None, unknown: Iterable[Any] = ()
) -> GroupEncoding:
    """Number arbitrary group labels 0, 1, ..., with -1 for unknown.

    Without ``categories`` a pandas categorical keeps its own order, and all else is sorted (by type and value where
    types are mixed), so that the ids do not depend on the order of the samples. ``None``, NaN, ``pandas.NA`` and NaT
    are unknown, and so are the number -1, as everywhere here (unless ``categories`` lists it), and every label in
    ``unknown``.

    Args:
        labels: N labels: strings, numbers, booleans, a pandas series or categorical, a tensor.
        categories: the labels of ids 0, 1, ...; fixes the ids across data splits.
        unknown: further labels to be read as unknown, for example ``["", "N/A"]``.

    Returns:
        The ids, (N,) int64, and the label of each id.

    Raises:
        TypeError: ``labels`` or ``unknown`` is no sequence.
        ValueError: one string in place of a sequence; ``labels`` is not one-dimensional; ``categories`` repeats a label, or a
            label is not among them.

    Example:
        >>> codes = encode_groups(["F", "M", None, "F"])
        >>> codes.ids.tolist(), codes.labels
        ([0, 1, -1, 0], ('F', 'M'))
        >>> codes.decode([1, -1])
        ['M', None]
    """
    listed = categories is not None and any(isinstance(c, (int, float)) and c == UNKNOWN for c in categories)
    return number_labels(labels, categories=categories, unknown=unknown, minus_one=listed)


def number_labels(
    labels: Iterable[Any],
    *,
    categories: Sequence[Any] | None = None,
    unknown: Iterable[Any] = (),
    minus_one: bool = True,
) -> GroupEncoding:
    """:func:`encode_groups` of any labels: ``minus_one`` says whether -1 is one, as it is of the classes -1 and 1."""
    if isinstance(unknown, (str, bytes)):
        raise ValueError(expected("unknown", "a sequence of labels", "one string", f"pass [{unknown!r}]"))
    if not isinstance(unknown, Iterable):
        raise TypeError(expected("unknown", "a sequence of labels", type(unknown).__name__))
    values, own_order = _as_list(labels)
    missing = _hashable("unknown", unknown) | (set() if minus_one else {UNKNOWN})
    known = [is_known(v) and v not in missing for v in values]
    if categories is None:
        present = {v for v, k in zip(values, known, strict=True) if k}
        order = own_order if own_order is not None else _sorted(present)
    else:
        order = list(categories)
    names = tuple(v for v in order if is_known(v) and v not in missing)
    if len(set(names)) != len(names):
        raise ValueError(expected("categories", "different labels", f"one repeated in {list(names)}"))
    index = {name: i for i, name in enumerate(names)}
    ids = np.full(len(values), UNKNOWN, dtype=np.int64)
    for i, (value, named) in enumerate(zip(values, known, strict=True)):
        if named:
            if value not in index:
                wanted = f"labels among the categories {list(names)}"
                raise ValueError(
                    expected("labels", wanted, f"{value!r} at position {i}", "add it to categories or to unknown=")
                )
            ids[i] = index[value]
    return GroupEncoding(ids, names)


def _as_list(labels: Any) -> tuple[list[Any], list[Any] | None]:
    """Python values of the labels, and the categories of a pandas categorical."""
    if isinstance(labels, (str, bytes)):
        raise ValueError(expected("labels", "a sequence of labels", "one string"))
    if not isinstance(labels, Iterable) and not hasattr(labels, "__array__"):
        raise TypeError(expected("labels", "a sequence of labels", type(labels).__name__))
    dtype_categories = getattr(getattr(labels, "dtype", None), "categories", None)
    own_order = None if dtype_categories is None else list(dtype_categories)
    if hasattr(labels, "detach"):  # a tensor, without importing torch
        labels = labels.detach().cpu().numpy()
    if hasattr(labels, "ndim") and labels.ndim != 1:
        raise ValueError(expected("labels", "one-dimensional labels", f"{labels.ndim} dimensions"))
    values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    # NumPy scalars inside lists and object arrays equal their Python twins but print and sort differently.
    values = [v.item() if isinstance(v, np.generic) else v for v in values]
    _hashable("labels", values)
    return values, own_order


def _hashable(name: str, values: Iterable[Any]) -> set[Any]:
    try:
        return set(values)
    except TypeError as error:
        raise ValueError(expected(name, "hashable labels (strings, numbers, ...)", error)) from None


def is_known(value: Any) -> bool:
    """Whether ``value`` is none of the objects that mean missing: None, NaN, NaT, ``pandas.NA``."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return False
    return bool(value == value)  # NaN differs from itself


def _sorted(values: set[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=lambda v: (type(v).__name__, str(v)))
