"""Numbers in cells: which decimal mark a file has, and percentages.

A file has one decimal mark. It is taken from all columns of numbers at once: "0,7" can only be a decimal comma (no number
of thousands begins with 0), "1.234,5" likewise, "1,234" alone may be either and is refused.
"""

from __future__ import annotations

import re

import numpy as np

from fairloss.metrics.arrays import Floats
from fairloss.report.file_bytes import InputError
from fairloss.report.file_table import Table

__all__ = ["decimal_mark", "is_number", "number_of", "numbers", "pointed"]

_EXPONENT = r"(?:[eE][+-]?\d+)?"
_PATTERN = {
    mark: re.compile(
        rf"(?=[+-]?{re.escape(mark)}?\d)"
        rf"[+-]?(?:\d+|[1-9]\d{{0,2}}(?:{re.escape(thousands)}\d{{3}})+)?(?:{re.escape(mark)}\d*)?{_EXPONENT}",
        re.ASCII,
    )
    for mark, thousands in ((".", ","), (",", "."))
}
_WORD = {".": "decimal points", ",": "decimal commas"}


def _fits(cell: str, mark: str) -> bool:
    return _PATTERN[mark].fullmatch(cell) is not None


def is_number(cell: str, mark: str = ".") -> bool:
    """Whether the cell writes a finite number."""
    return _fits(cell, mark) and abs(number_of(cell, mark)) < float("inf")


def pointed(cell: str, mark: str) -> str:
    """A number of that decimal mark as Python writes it; any other cell as it is."""
    if not _fits(cell, mark):
        return cell
    return cell.replace(",", "") if mark == "." else cell.replace(".", "").replace(",", ".")


def number_of(cell: str, mark: str) -> float:
    """The number that a cell is."""
    return float(pointed(cell, mark))


def decimal_mark(table: Table, columns: list[str], given: str | None) -> str:
    """The decimal mark of the file, from its ``columns`` of numbers; appends to the notes a guess other than the point.

    Raises:
        InputError: numbers that can be read in two ways, columns of different marks.
    """
    if given is not None:
        if given not in _PATTERN:
            raise InputError(f'decimal: expected "." or ",", got {given!r}')
        return given
    sure: dict[str, str] = {}  # mark to the first column that has it
    either: dict[str, str] = {}  # column to a cell of it that may be read either way
    for column in columns:
        cells = [cell.rstrip("% ") for cell in table.columns[column].cells]
        cells = [c for c in cells if ("," in c or "." in c) and (_fits(c, ".") or _fits(c, ","))]
        only = [mark for mark in _PATTERN if any(not _fits(c, "," if mark == "." else ".") for c in cells)]
        for mark in only:
            sure.setdefault(mark, column)
        if cells and not only:
            either[column] = cells[0]
    if len(sure) > 1:
        first, second = (f"{column!r} has {_WORD[mark]}" for mark, column in sure.items())
        raise InputError(
            f"{table.name}: {first}, {second}; write the numbers of a file in one way, or name it: decimal="
        )
    mark = next(iter(sure), "")
    for column, cell in either.items():
        if ("," in cell and not mark) or ("." in cell and mark == ","):
            comma = f'{number_of(cell, ","):g} (decimal comma: decimal=",")'
            point = f'{number_of(cell, "."):g} (decimal point: decimal=".")'
            raise InputError(f"{table.name}: {column!r} is {cell!r}, which may be {comma} or {point}")
    if mark == ",":
        table.notes.append("decimal commas")
    return mark or "."


def numbers(table: Table, column: str, mark: str, *, noun: str, blank: bool = False) -> Floats:
    """(N,) numbers of a column; percentages are divided by 100, an empty cell is NaN where ``blank``.

    Raises:
        InputError: a cell that is no finite number, percentages beside other numbers.
    """
    cells, codes = table.columns[column]
    percent = [cell.endswith("%") for cell in cells]
    if any(percent):
        other = next((i for i, c in enumerate(cells) if c and not percent[i] and is_number(c, mark)), None)
        if other is not None and number_of(cells[other], mark) != 0:
            given = f"{cells[percent.index(True)]!r} and {cells[other]!r}"
            cure = "write all with %, or none"
            raise InputError(f"{table.where(table.columns[column].at(other))}: {column!r} has {given}; {cure}")
        table.notes.append(f"{column}: percentages, divided by 100")
    found: list[float] = []
    missing = "; leave the cell empty where there is none" if blank else ""
    for place, cell in enumerate(cells):
        text = cell[:-1].rstrip() if percent[place] else cell
        if not cell and blank:
            found.append(float("nan"))
        elif is_number(text, mark) and not (percent[place] and "e" in text.lower()):
            # Two places in the text, so that 85% is 0.85.
            found.append(float(pointed(text, mark) + "e-2" * percent[place]))
        else:
            where = table.where(table.columns[column].at(place))
            raise InputError(
                f"{where}: {column!r} is {cell!r}; a {noun} must be a finite number{_cure(text, mark)}" + missing
            )
    return np.array(found)[codes]


def _cure(text: str, mark: str) -> str:
    other = "," if mark == "." else "."
    if is_number(text, other):
        return f"; the file has {_WORD[mark]} (decimal= names them)"
    return ""
