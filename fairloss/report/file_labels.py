"""Labels, scores, groups and ids of a file's columns, from their different cells; which column of scores is of which class."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.groups.encode import GroupEncoding, GroupLabelWarning, read_labels
from fairloss.groups.labels import is_unknown, lookalikes, may_be_missing
from fairloss.metrics.arrays import Floats
from fairloss.report.file_bytes import InputError
from fairloss.report.file_numbers import is_number, number_of, numbers
from fairloss.report.file_table import Column, Table

__all__ = ["finding", "groups_of", "ids_of", "labels_and_scores", "same_cell"]

_IGNORED = "\0ignored"  # no cell is this
_ZERO_ONE = {"false": 0, "true": 1}
_CURE = "name the positive label with positive=, or one that is not known with ignore_index="


def same_cell(text: str, other: str) -> bool:
    """Whether two cells say the same: -1 and -1.0 do."""
    return text == other or (is_number(text) and is_number(other) and number_of(text, ".") == number_of(other, "."))


def _value(text: str) -> float | int:
    value = number_of(text, ".")
    return int(value) if value.is_integer() else value


def labels_and_scores(
    table: Table,
    target: str,
    score: Sequence[str],
    mark: str,
    *,
    positive: str | None,
    labels: Sequence[str] | None,
    ignore_index: str | None,
) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    """Labels and scores as :func:`fairloss.metrics.group_metric` takes them, and the options that say how.

    Labels are numbers where all are, else the texts that they are.
    """
    cells, codes = table.columns[target]
    ignored = [ignore_index is not None and same_cell(cell, ignore_index) for cell in cells]
    kept = [cell for cell, left_out in zip(cells, ignored, strict=True) if not left_out]
    given = [*([] if positive is None else [positive]), *(labels or ())]
    read: Callable[[str], Any] = _value if all(map(is_number, [*kept, *given])) else str
    values = [_IGNORED if left_out else read(cell) for cell, left_out in zip(cells, ignored, strict=True)]
    reading: dict[str, Any] = {
        "positive": None if positive is None else read(positive),
        "ignore_index": None if ignore_index is None else _IGNORED,
    }
    named = None if labels is None else [read(label) for label in labels]
    decisions = _decisions(table, score, [v for v in values if v is not _IGNORED], named, positive, mark)
    as_zero_one = (
        positive is None and named is None and len(score) == 1 and (decisions is None or decisions.dtype == bool)
    )
    if as_zero_one:
        values = [_zero_one(table, target, k, left_out, "0 or 1") for k, left_out in enumerate(ignored)]
    else:
        for place, cell in enumerate(cells):
            if not ignored[place] and (not cell or may_be_missing(cell)) and cell not in given:
                where = table.where(table.columns[target].at(place))
                cure = "ignore_index= leaves such rows out, labels= names it as a class"
                raise InputError(f"{where}: {target!r} is {cell!r}; a label is needed; {cure}")
    if len(score) > 1:
        classes = list(dict.fromkeys(v for v in values if v is not _IGNORED))
        reading["labels"] = named or _order_of(table, score, classes)
        if classes and len(reading["labels"]) != len(score):
            raise InputError(f"{table.name}: {len(score)} columns of scores, {len(reading['labels'])} labels")
        scores = np.stack([numbers(table, c, mark, noun="score") for c in score], axis=1)
    elif decisions is not None:
        scores, reading["labels"] = decisions, named
    else:
        scores, reading["labels"] = numbers(table, score[0], mark, noun="score"), named
    return _array(values)[codes], scores, reading


def _array(values: list[Any]) -> NDArray[Any]:
    return np.array(values, dtype=object if any(isinstance(v, str) for v in values) else None)


def _decisions(
    table: Table, score: Sequence[str], values: list[Any], named: list[Any] | None, positive: str | None, mark: str
) -> NDArray[Any] | None:
    """Decisions in place of scores: truth values, texts where labels are, whole numbers beside several or named labels."""
    cells, codes = table.columns[score[0]]
    if len(score) == 1 and positive is None and named is None and all(cell.lower() in _ZERO_ONE for cell in cells):
        return np.array([cell.lower() == "true" for cell in cells])[codes]
    texts, numeric = any(isinstance(v, str) for v in values), [is_number(cell, mark) for cell in cells]
    if len(score) > 1 or (texts and any(numeric)):
        return None
    if texts:
        if positive is None and named is None:
            if len(set(values)) < 3:
                return None
            alike = lookalikes([*values, *set(cells).difference(values)])
            if alike:
                raise InputError(f"{table.name}: {alike}, or name the classes: labels=")
        return _array(list(cells))[codes]
    if not all(numeric) or not all(re.fullmatch(r"[+-]?\d+", cell) for cell in cells):
        return None
    whole = [int(cell) for cell in cells]
    several = len(set(values)) > 2 and bool(set(whole) - {0, 1}) and all(isinstance(v, int) for v in values)
    return np.array(whole)[codes] if positive is not None or named is not None or several else None


def _order_of(table: Table, score: Sequence[str], classes: list[Any]) -> list[Any]:
    """The class of each column of scores: the one in its name, else its place among classes 0, 1, ...

    Raises:
        InputError: neither says.
    """
    stem = commonprefix(list(score))  # noqa: RUF071 (of texts, not of paths)
    stem = stem.rstrip("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    digits = [re.fullmatch(r"(.*?)(\d+)", name) for name in score]
    ends = [list(score), [name[len(stem) :] for name in score]]
    if all(digits) and len({m[1] for m in digits if m}) == 1:
        ends.append([m[2] for m in digits if m])
    whole = all(isinstance(c, int) for c in classes)
    for names in ends:
        if len(set(names)) == len(names) and {str(c) for c in classes} <= set(names):
            found = [int(n) if whole and n.isdigit() else n for n in names]
            pairs = ", ".join(f"{column} {label}" for column, label in zip(score, found, strict=True))
            table.notes.append(f"classes by the names of the columns ({pairs})")
            return found
    numbered = any(all(n.isdigit() for n in names) for names in ends)
    if whole and set(classes) <= set(range(len(score))) and not numbered:
        table.notes.append(f"columns {', '.join(score)} are of the classes 0 .. {len(score) - 1} in this order")
        return list(range(len(score)))
    some = ", ".join(map(str, sorted(classes, key=str)[:8]))
    raise InputError(
        f"{table.name}: which column of {', '.join(score)} is of which class of {some}? labels= names them in order"
    )


def _zero_one(table: Table, column: str, place: int, ignored: bool, wanted: str) -> int | str:
    text = table.columns[column].cells[place]
    if ignored:
        return _IGNORED
    if is_number(text) and number_of(text, ".") in (0, 1):  # 1.0000 as well
        return int(number_of(text, "."))
    if text.lower() not in _ZERO_ONE:
        where = table.where(table.columns[column].at(place))
        raise InputError(f"{where}: {column!r} is {text!r}; a label must be {wanted}; {_CURE}")
    return _ZERO_ONE[text.lower()]


def finding(table: Table, column: str, positive: str | None, ignore_index: str | None) -> Floats:
    """(N,) 0 and 1 of one of several findings, NaN where a cell is empty or ``ignore_index``."""
    cells, codes = table.columns[column]
    left_out = [not cell or (ignore_index is not None and same_cell(cell, ignore_index)) for cell in cells]
    found: list[float] = []
    others = {
        cell
        for cell, out in zip(cells, left_out, strict=True)
        if not out and positive and not same_cell(cell, positive)
    }
    if len(others) > 1:
        given = ", ".join(map(repr, sorted(others)))
        raise InputError(f"{table.name}: {column!r} has {given} beside {positive!r}; a finding has two labels; {_CURE}")
    for place, cell in enumerate(cells):
        if left_out[place]:
            found.append(np.nan)
        elif positive is not None:
            found.append(float(same_cell(cell, positive)))
        else:
            found.append(float(_zero_one(table, column, place, False, "0, 1 or empty")))
    return np.array(found)[codes]


def groups_of(table: Table, column: str, options: dict[str, Any], option: Callable[[str, Any], str]) -> GroupEncoding:
    """Ids and labels of an attribute."""
    cells, codes = table.columns[column]

    def written(key: str, value: Any) -> str:
        return option(key, {column: value})

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GroupLabelWarning)  # the report and the comparison say so themselves
            found = read_labels(cells, f"column {column!r}", **options, cells=True, option=written)
    except ValueError as error:
        raise InputError(f"{table.name}: {error}") from None
    ids = found.ids[codes]
    if (ids < 0).all():
        raise InputError(f"{table.name}: every row of {column!r} is unknown; a group is needed")
    return GroupEncoding(ids, found.labels)


def ids_of(table: Table, column: str | None) -> Column | None:
    """A column of ids, each of which is there; 1 and 1.0 beside each other are refused.

    Ids that all are whole numbers with a decimal point are written without it.
    """
    if column is None:
        return None
    cells, codes = table.columns[column]
    for place, text in enumerate(cells):
        if is_unknown(text) or may_be_missing(text):
            where = table.where(table.columns[column].at(place))
            raise InputError(f"{where}: {column!r} is {text!r}; an id is needed")
    short = [re.sub(r"\.0+$", "", cell) if re.fullmatch(r"(0|[1-9]\d*)\.0+", cell) else cell for cell in cells]
    if len(set(short)) < len(short):
        first: dict[str, str] = {}
        one, other = next((first[s], c) for s, c in zip(short, cells, strict=True) if first.setdefault(s, c) != c)
        raise InputError(f"{table.name}: {column!r} has both {one!r} and {other!r}; write them alike, if they are one")
    if short != cells:
        table.notes.append(f"{column}: ids such as {next(c for c in cells if c not in short)} read as whole numbers")
    order = sorted(range(len(short)), key=short.__getitem__)  # as ids given as an array are numbered
    return Column([short[k] for k in order], np.argsort(order)[codes])
