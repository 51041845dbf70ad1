"""CSV files of predictions, read and checked row by row; every error is one line that says where."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["InputError", "check_same_samples", "match_rows", "read_predictions", "unknown_lines"]

_UNKNOWN = ("-1", "-1.0", "nan")  # as -1 and NaN in the library, in any case; more by --unknown
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

    return {
        "target": cells(arguments.target, _label),
        "score": cells(arguments.score, _score),
        "groups": {name: _labels(columns[name], name, path, lines, arguments.unknown) for name in arguments.group},
        "patient": cells(arguments.patient, _filled),
        "id": cells(getattr(arguments, "id", None), _filled),
    }


def _label(text: str, path: Path, line: int, column: str) -> int:
    if text.lower() not in _ZERO_ONE:
        raise InputError(f"{path}, line {line}: {column!r} is {text!r}; a label must be 0 or 1")
    return _ZERO_ONE[text.lower()]


def _score(text: str, path: Path, line: int, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}, line {line}: {column!r} is {text!r}; a score must be a finite number")
    return value


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
