"""What a group label means: which are unknown, which may be, which look alike, which are quantities, how they are sorted.

These rules are on the distinct labels of an attribute, as Python values; :mod:`fairloss.groups.encode` applies them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from numbers import Real
from typing import Any

from fairloss.core.checks import expected

__all__ = [
    "check_edges",
    "check_negative",
    "check_quantity",
    "check_texts",
    "codes",
    "cut",
    "is_known",
    "is_unknown",
    "lookalikes",
    "may_be_missing",
    "number_in",
    "sorted_labels",
]

Option = Callable[[str, Any], str]
"""Writes an option and its value as the user would give them: in a call, or in a command."""
_MOST_CODES = 12  # numbers with more values are a quantity, unless the user says that they are codes
_MISSING_TEXTS = frozenset(("nan", "none", "<na>", "nat", "na", "n/a", "null", "#n/a", "#na", "-nan"))
# No leading zeros ("007" is a code), no exponent ("1E5" is one as well).
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")
_NUMBERS = re.compile(r"(?<![\w.)\]])-\d+(?:\.\d+)?|\d+(?:\.\d+)?")
_BELOW = re.compile(r"[<≤]=?|\b(?:less than|under|below|up to|younger)\b", re.IGNORECASE)
_ABOVE = re.compile(r"[>≥]=?|\+|\b(?:and|or)? *(?:more than|more|over|above|older|plus)\b", re.IGNORECASE)
_BETWEEN = re.compile(r"[-\u2013\u2014\u2212,()[\]]|\.\.|\b(?:to|than|and)\b", re.IGNORECASE)


def is_known(value: Any) -> bool:
    """Whether ``value`` is none of the objects that mean missing: None, NaN, NaT, ``pandas.NA``."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return False
    return bool(value == value)  # NaN differs from itself


def is_unknown(value: Any) -> bool:
    """Whether ``value`` is an unknown group: an object that means missing, an empty cell, -1 as a number or as text."""
    value = _text(value)
    if isinstance(value, str):
        return value.strip() in ("", "-1", "-1.0")
    return not is_known(value) or (isinstance(value, (Real, Decimal)) and value == -1)


def may_be_missing(value: Any) -> bool:
    """Whether ``value`` is a text that stands for a missing value in some file, and for a group in another."""
    value = _text(value)
    return isinstance(value, str) and value.strip().casefold() in _MISSING_TEXTS


def _text(value: Any) -> Any:
    """Bytes, as NumPy and HDF5 hold texts, as a text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def number_in(value: Any) -> Any:
    """The number that ``value`` is, or that it writes as a text; None where there is none, as in a bool."""
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            return None
        return float(text) if "." in text else int(text)
    return None if isinstance(value, bool) or not isinstance(value, (Real, Decimal)) else value


def check_edges(bins: Any) -> list[float]:
    """The edges of bands: increasing numbers."""
    if isinstance(bins, (str, bytes, Mapping)) or not isinstance(bins, Iterable):
        cure = "a calibration error's bins are score_bins=" if isinstance(bins, int) else ""
        raise TypeError(expected("bins", "edges of bands, such as [40, 65], or None for codes", repr(bins), cure))
    given = [e.item() if hasattr(e, "item") else e for e in bins]
    edges: list[Any] = [None if isinstance(e, str) else number_in(e) for e in given]
    if not edges or not all(e is not None and math.isfinite(e) for e in edges) or edges != sorted(set(edges)):
        raise ValueError(expected("bins", "increasing numbers, such as [40, 65]", repr(given)))
    return edges


def _band_labels(edges: Sequence[float], *, whole: bool) -> list[str]:
    """Labels of the bands that ``edges`` cut, each from its edge to below the next: "<40", "40-64", "65+".

    Where not all values are ``whole`` numbers, the middle ones are "40 to <65".
    """
    whole = whole and all(float(e).is_integer() for e in edges)
    middle = []
    for low, high in pairwise(edges):
        last = int(high) - 1 if whole else high
        middle.append(f"{low:.12g} to <{high:.12g}" if not whole else f"{int(low)}-{last}" if last > low else f"{last}")
    return [f"<{edges[0]:.12g}", *middle, f"{edges[-1]:.12g}+"]


def sorted_labels(labels: Iterable[Any]) -> list[Any]:
    """The labels in an order that does not depend on that of the samples.

    Numbers come first, by value; then texts, of which those that differ in their numbers alone, such as bands ("<40", "40-59",
    "100+") and "site 2", "site 10", are sorted by these.
    """
    labels = list(labels)
    if not any(isinstance(v, str) for v in labels):
        try:
            return sorted(labels)
        except TypeError:
            pass
    return sorted(labels, key=_place)


def _place(label: Any) -> tuple[Any, ...]:
    if isinstance(label, str):
        return (1, *_text_place(label), label)
    if isinstance(label, Real):
        return (0, label)
    return (2, type(label).__name__, str(label))


def _text_place(text: str) -> tuple[Any, ...]:
    """What is left of a text without its numbers, and the numbers; one number may be an end of a range without the other."""
    numbers = [float(n) for n in _NUMBERS.findall(text)]
    if not numbers:
        return text, ()
    rest = _NUMBERS.sub(" ", text)
    below, above = _BELOW.search(rest), _ABOVE.search(rest)
    rest = " ".join(_BETWEEN.sub(" ", _ABOVE.sub(" ", _BELOW.sub(" ", rest))).split())
    if len(numbers) == 1:
        low, high = (-math.inf if below else numbers[0]), (math.inf if above else numbers[0])
        numbers = [low, high]
    return rest, tuple(numbers)


def lookalikes(labels: Iterable[Any], what: str = "groups") -> str:
    """A sentence on labels that may mean the same: "F", "f", "F ", "Female"; 0, "0", 0.0; "" where none do.

    These are labels that differ in case, blanks or type alone, and a letter beside the one word that begins with it.
    """
    found: dict[str, list[Any]] = {}
    labels = list(labels)
    for label in labels:
        for key in _looks(label):
            found.setdefault(key, []).append(label)
    # True looks like 1 and like "True": a set of labels may come up twice.
    alike = list(dict.fromkeys(", ".join(sorted(map(repr, same))) for same in found.values() if len(same) > 1))
    short = _initials(labels)
    if not alike and not short:
        return ""
    more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
    same = f"some labels differ in case, blanks or type alone: {'; '.join(alike[:3])}{more}" if alike else ""
    initial = f"some labels may be short for others: {', '.join(short[:4])}" if short else ""
    return (
        f"{'; '.join(filter(None, (same, initial)))}; they are different {what}, unless they are equal numbers: write them "
        "alike where they mean the same"
    )


def _initials(labels: list[Any]) -> list[str]:
    """Single letters beside the one word of three letters or more that begins with them: 'F' and 'Female'."""
    texts = [v.strip() for v in labels if isinstance(v, str)]
    words: dict[str, list[str]] = {}
    for text in texts:
        if len(text) > 2 and text.isalpha():
            words.setdefault(text[0].casefold(), []).append(text)
    found = [(v, words.get(v.casefold(), [])) for v in texts if len(v) == 1 and v.isalpha()]
    return [f"{v!r} and {w[0]!r}" for v, w in found if len({each.casefold() for each in w}) == 1]


def _looks(label: Any) -> set[str]:
    if isinstance(label, bool):
        return {str(label).casefold(), str(int(label))}
    number = number_in(label)
    if number is not None:
        whole = isinstance(number, int) or float(number).is_integer()
        return {str(int(number) if whole else float(number))}
    # Compatible forms of one character (a no-break space, a composed accent) look alike as well; a byte order mark is unseen.
    shown = unicodedata.normalize("NFKC", label).casefold() if isinstance(label, str) else repr(label)
    return {"".join(c for c in shown if not c.isspace() and unicodedata.category(c) != "Cf")}


def check_texts(labels: list[Any], name: str, option: Option) -> None:
    """Raise for texts that may be missing."""
    doubtful = [v for v in labels if may_be_missing(v)]
    if doubtful:
        cure = f"{option('unknown', doubtful)} if it means missing, {option('known', doubtful)} if it names a group"
        raise ValueError(expected(name, "labels that can be read one way", ", ".join(map(repr, doubtful)), cure))


def check_negative(labels: list[Any], name: str, cut: bool, option: Option) -> None:
    """-1 is unknown: beside other numbers below 0 it may be a value, and these may be codes of unknown."""
    negative = sorted(n for n in map(number_in, labels) if n is not None and n < 0)
    if all(n == -1 for n in negative) or (cut and -1 not in negative):
        return
    shown = [-1] if cut else [n for n in negative if n != -1][:3]
    cure = f"{option('unknown', shown)} if it means unknown, {option('known', shown)} if it is a value like others"
    raise ValueError(expected(name, "ids or codes from 0, and -1 for unknown", negative[0], cure))


def check_quantity(labels: list[Any], name: str, column: bool, option: Option) -> None:
    """Many numbers that are no integers, or are a ``column`` of a frame or file, are ages rather than codes."""
    numbers = {n for n in map(number_in, labels) if n is not None}
    if len(numbers) <= _MOST_CODES or not (column or any(not isinstance(n, int) for n in numbers)):
        return
    low, high = float(min(numbers)), float(max(numbers))
    thirds = [float(f"{low + (high - low) * k / 3:.2g}") for k in (1, 2)]
    if not low < thirds[0] < thirds[1] < high < math.inf:
        thirds = [40.0, 65.0]  # an example
    edges = [int(e) if e.is_integer() else e for e in thirds]
    cure = f"{option('bins', edges)} cuts them into bands, {option('bins', None)} takes them as codes, not quantities"
    got = f"{len(numbers)} different numbers between {low:g} and {high:g}"
    raise ValueError(expected(name, f"labels of groups, or at most {_MOST_CODES} numbers", got, cure))


def cut(values: list[Any], edges: list[float], name: str, option: Option) -> tuple[list[Any], list[Any]]:
    """The labels of all bands, and the band of each value."""
    numbers = [number_in(v) for v in values]
    if None in numbers:
        other = values[numbers.index(None)]
        wanted, cure = "numbers, which bins cuts", f"{option('unknown', [other])} leaves it out"
        raise ValueError(expected(name, wanted, repr(other), cure))
    bands = _band_labels(edges, whole=all(float(n).is_integer() for n in numbers))
    return bands, [bands[bisect_right(edges, n)] for n in numbers]


def codes(values: list[Any], cells: bool, name: str) -> list[Any]:
    """The values; what missing codes have made 0.0, 1.0, and a file's texts of numbers, are integers again."""
    numbers = [number_in(v) for v in values]
    values = numbers if cells and None not in numbers else values
    floats = [v for v in values if isinstance(v, float)]
    if not all(v.is_integer() for v in floats):
        return values
    if max(map(abs, floats), default=0) >= 2**53:
        raise ValueError(expected(name, "codes below 2**53", max(floats, key=abs), "pass such codes as texts"))
    # Python takes True for 1: beside numbers it is one.
    kinds = (bool, float) if any(n is not None for n in numbers) else float
    return [int(v) if isinstance(v, kinds) else v for v in values]
