"""Numbers of any usual kind as float64 arrays, and group labels as ids, checked before any work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core.arrays import as_array, frame_columns
from fairloss.core.checks import expected
from fairloss.core.options import given_options, with_options
from fairloss.groups.encode import LABEL_RULES, GroupEncoding, LabelRules, as_argument, read_labels
from fairloss.groups.labels import is_known

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Bools",
    "Floats",
    "Ints",
    "as_array",
    "as_attributes",
    "as_finite",
    "as_floats",
    "as_groups",
    "as_values",
    "as_weights",
    "before_the_call",
    "cross_groups",
    "precision_of",
    "round_as",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def precision_of(values: Any, array: NDArray[Any]) -> str:
    """The floating type in which ``values``, read as ``array``, were given: ``"float32"``, ``"bfloat16"``, ..."""
    if array.dtype.kind != "f":
        return "float64"
    if values is not array and "bfloat16" in str(getattr(values, "dtype", "")):
        return "bfloat16"
    return f"float{8 * array.dtype.itemsize}"


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
    if array.dtype.kind in "biuf":
        return array.astype(np.float64, copy=False)
    found = array.dtype.name
    if array.dtype.kind == "O":
        found = ", ".join(sorted({type(v).__name__ for v in array.flat}))
        if "str" not in found and not any(np.ndim(v) for v in array.flat):
            array = np.array([v if is_known(v) else np.nan for v in array.flat], dtype=object).reshape(array.shape)
    try:
        if array.dtype.kind == "O" and "str" not in found:
            return array.astype(np.float64)
    except (TypeError, ValueError):
        pass
    raise TypeError(expected(name, "numbers", f"{found} values"))


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
    with np.errstate(over="ignore"):
        if np.isinf(weight.sum()):
            raise ValueError(expected("sample_weight", "weights of a finite sum", f"weights up to {weight.max():g}"))
    return weight


def as_groups(
    groups: Any,
    n: int,
    name: str = "groups",
    option: Callable[[str, Any], str] = as_argument,
    **rules: Unpack[LabelRules],
) -> GroupEncoding:
    """Ids and labels of one attribute, or of the intersection of several; a :class:`GroupEncoding` is taken as it is."""
    if isinstance(groups, GroupEncoding):
        for rule, value in rules.items():
            if (
                value is not None
                and value is not LABEL_RULES[rule]
                and not (isinstance(value, Sized) and not len(value))
            ):
                wanted = "no such option beside encoded groups"
                raise ValueError(expected(rule, wanted, repr(value), "pass it to encode_groups"))
        encoding = groups
    elif (frame := frame_columns(groups)) is not None or isinstance(groups, Mapping):
        encoding = _cross(groups if frame is None else frame, " & ", name, option, **rules)
    else:
        encoding = read_labels(groups, name, option=option, **rules)
    if encoding.ids.shape != (n,):
        raise ValueError(expected(name, f"one label for each of {n} samples", f"{len(encoding.ids)} labels"))
    return encoding


def before_the_call(option: str, value: Any) -> str:
    """How an option of labels is written that the function itself does not have."""
    return f"encode_groups(..., {option}={next(iter(value.values())) if isinstance(value, dict) else value})"


def as_attributes(
    attributes: Mapping[Any, Any],
    argument: str = "groups",
    option: Callable[[str, Any], str] = as_argument,
    **rules: Unpack[LabelRules],
) -> dict[Any, GroupEncoding]:
    """Ids and labels of each attribute; an option that is a mapping gives each attribute its own."""
    options: dict[str, Any] = {**rules}
    for key, value in rules.items():
        if isinstance(value, Iterator):
            options[key] = list(value)  # read once per attribute
        for name in value if isinstance(value, Mapping) else ():
            if name not in attributes:
                raise ValueError(expected(key, f"names of attributes among {list(attributes)}", repr(name)))
    found = {}
    for name, labels in attributes.items():
        own = {k: v.get(name, LABEL_RULES[k]) if isinstance(v, Mapping) else v for k, v in options.items()}

        def written(key: str, value: Any, name: Any = name) -> str:
            return option(key, {name: value})

        found[name] = labels
        if not isinstance(labels, GroupEncoding):
            found[name] = read_labels(labels, f"{argument}[{name!r}]", **own, option=written)
    return found


@with_options(LABEL_RULES, LabelRules)
def cross_groups(attributes: Any, *, separator: str = " & ", **options: Unpack[LabelRules]) -> GroupEncoding:
    """Intersection of several attributes as one attribute, with labels such as ``"F & 60+"``.

    Only the combinations that occur are groups. A sample with an unknown attribute is in no group. Where two would have
    the same label, theirs are written in quotes: ``"'A & B' & 'C'"``.

    Args:
        attributes: names to (N,) group labels, or a data frame.
        separator: text between the labels of a combination.
        options: by keyword.

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
    frame = frame_columns(attributes)
    if not isinstance(attributes, Mapping) and frame is None:
        raise TypeError(expected("attributes", "a mapping of names to labels", type(attributes).__name__))
    return _cross(attributes if frame is None else frame, separator, **given_options(options, LABEL_RULES))


def _cross(attributes: Mapping[Any, Any], separator: str, *reading: Any, **rules: Unpack[LabelRules]) -> GroupEncoding:
    if not attributes:
        raise ValueError(expected("attributes", "a mapping of names to labels", "an empty one"))
    encodings = list(as_attributes(attributes, *reading, **rules).values())
    lengths = {len(e.ids) for e in encodings}
    if len(lengths) != 1:
        raise ValueError(expected("attributes", "labels of one length", f"lengths {sorted(lengths)}"))
    if len(encodings) == 1:
        return encodings[0]
    ids = np.full(lengths.pop(), -1, dtype=np.int64)
    inside = np.all([e.ids >= 0 for e in encodings], axis=0)
    sizes = [max(e.num_groups, 1) for e in encodings]
    codes = np.ravel_multi_index(tuple(e.ids[inside] for e in encodings), sizes)
    present, ids[inside] = np.unique(codes, return_inverse=True)
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
