"""CSV files of predictions, read and checked row by row; every error is one line that says where."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["InputError", "check_same_samples", "match_rows", "read_predictions", "unknown_lines"]

_UNKNOWN = ("-1", "-1.0", "nan")  # as -1 and NaN in the library, in any case; more by --unknown
_IGNORED = "\0ignored"  # no cell is this
_ZERO_ONE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


class InputError(Exception):
    """Wrong input: one line for the user."""


def read_predictions(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Columns of one file, checked row by row; lines are counted as a text editor does, from 1."""
    wanted = [arguments.target, arguments.score, *arguments.group]
    wanted += [c for c in (arguments.patient, getattr(arguments, "id", None)) if c is not None]
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    lines: list[int] = []
    start = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)  # else an open quote takes in the rest of the file
            header: list[str] = []
            for header in reader:
                start = reader.line_num + 1
                if len(header) > 1 or "".join(header).strip():
                    break
            else:
                raise InputError(f"{path}: the file is empty; a header is needed")
            for name in wanted:
                if header.count(name) != 1:
                    problem = "no column" if name not in header else "more than one column"
                    raise InputError(f"{path}: {problem} {name!r}; the columns are {', '.join(header)}")
            at = {name: header.index(name) for name in wanted}
            for row in reader:
                start = reader.line_num + 1
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(f"{path}, line {reader.line_num}: {len(row)} cells, the header has {len(header)}")
                for name, position in at.items():
                    columns[name].append(row[position].strip())
                lines.append(reader.line_num)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 file ({error})") from None
    except csv.Error as error:
        raise InputError(f'{path}, line {start}: a row that is no CSV ({error}); is a quote (") left open?') from None
    if not lines:
        raise InputError(f"{path}: no row after the header")

    def cells(name: str | None, read: Callable[..., Any]) -> list[Any] | None:
        at = None if name is None else zip(columns[name], lines, strict=True)
        return None if at is None else [read(text, path, line, name) for text, line in at]

    named, ignored = getattr(arguments, "positive", None), getattr(arguments, "ignore_index", None)
    target, positive = _targets(columns[arguments.target], named, ignored)
    names = {v for v in target if isinstance(v, str)} - {_IGNORED}
    texts = bool(names) and not any(map(_is_number, columns[arguments.score]))
    return {
        "target": target if named is not None else cells(arguments.target, partial(_label, ignored=ignored)),
        "score": columns[arguments.score]
        if texts
        else cells(arguments.score, partial(_score, whole=named is not None)),
        "reading": {"positive": positive, "ignore_index": None if ignored is None else _IGNORED},
        "groups": {name: _labels(columns[name], name, path, lines, arguments.unknown) for name in arguments.group},
        "patient": cells(arguments.patient, _filled),
        "id": cells(getattr(arguments, "id", None), _filled),
    }


def _targets(cells: list[str], positive: str | None, ignored: str | None) -> tuple[list[Any], Any]:
    """The labels and the positive one as numbers, where all are numbers, else as the texts that they are."""
    kept = [text for text in cells if ignored is None or not _same(text, ignored)]
    read = _value if all(map(_is_number, [*kept, *([] if positive is None else [positive])])) else str
    values = [_IGNORED if ignored is not None and _same(text, ignored) else read(text) for text in cells]
    return values, None if positive is None else read(positive)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _value(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() else value


def _same(text: str, other: str) -> bool:
    """Whether two cells say the same: -1 and -1.0 do."""
    return text == other or (_is_number(text) and _is_number(other) and float(text) == float(other))


def _label(text: str, path: Path, line: int, column: str, *, ignored: str | None) -> int | str:
    if ignored is not None and _same(text, ignored):
        return _IGNORED
    if text.lower() not in _ZERO_ONE:
        cure = "name the positive label with --positive, or one that is not known with --ignore-index"
        raise InputError(f"{path}, line {line}: {column!r} is {text!r}; a label must be 0 or 1; {cure}")
    return _ZERO_ONE[text.lower()]


def _score(text: str, path: Path, line: int, column: str, *, whole: bool) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}, line {line}: {column!r} is {text!r}; a score must be a finite number")
    return int(value) if whole and text.lstrip("+-").isdigit() else value  # labels 1 and 2 are whole numbers


def _labels(values: list[str], column: str, path: Path, lines: list[int], unknown: list[str]) -> list[str | None]:
    if "" in values and "" not in unknown:
        line = lines[values.index("")]
        raise InputError(
            f'{path}, line {line}: the group {column!r} is empty; pass --unknown "" to leave such rows out of the groups'
        )
    labels = [None if v in unknown or v.lower() in _UNKNOWN else v for v in values]
    if not any(v is not None for v in labels):
        raise InputError(f"{path}: every row of {column!r} is unknown; a group is needed")
    return labels


def unknown_lines(groups: dict[str, list[str | None]]) -> list[str]:
    """One line for each attribute that is unknown in some rows: in how many."""
    lines = []
    for name, labels in groups.items():
        if None in labels:
            rows = f"{labels.count(None)} of {len(labels)} rows"
            lines.append(f"{name}: unknown (-1, NaN or --unknown) in {rows}, which are in the overall values only")
    return lines


def _filled(text: str, path: Path, line: int, column: str) -> str:
    if not text:
        raise InputError(f"{path}, line {line}: {column!r} is empty")
    return text


def match_rows(table: dict[str, Any], first: dict[str, Any], path: Path, arguments: argparse.Namespace) -> None:
    """Bring the rows of ``table`` into the order of the first file's ids."""
    index = {v: i for i, v in enumerate(table["id"])}
    if len(index) < len(table["id"]) or len(set(first["id"])) < len(first["id"]):
        raise InputError(f"{path}: an id in {arguments.id!r} is repeated, here or in {arguments.file[0]}")
    if set(index) != set(first["id"]):
        other = sorted(set(index) ^ set(first["id"]))[0]
        raise InputError(f"{path}: id {other!r} is not in both this file and {arguments.file[0]}")
    order = [index[v] for v in first["id"]]
    for key in ("target", "score", "patient"):
        if table[key] is not None:
            table[key] = [table[key][i] for i in order]
    table["groups"] = {name: [values[i] for i in order] for name, values in table["groups"].items()}


def check_same_samples(table: dict[str, Any], first: dict[str, Any], path: Path, arguments: argparse.Namespace) -> None:
    """Refuse a file whose labels, groups or patients differ from the first file's."""
    name = arguments.file[0]
    if len(table["target"]) != len(first["target"]):
        raise InputError(f"{path}: {len(table['target'])} rows, {name} has {len(first['target'])}; the same are needed")
    columns = [(arguments.target, table["target"], first["target"])]
    columns += [(g, table["groups"][g], first["groups"][g]) for g in arguments.group]
    if arguments.patient is not None:
        columns.append((arguments.patient, table["patient"], first["patient"]))
    for column, here, there in columns:
        for row, (a, b) in enumerate(zip(here, there, strict=True), start=1):
            if a != b:
                hint = "" if arguments.id is not None else "; match rows with --id, if they are in another order"
                raise InputError(f"{path}, row {row}: {column!r} is {a!r}, in {name} {b!r}{hint}")
