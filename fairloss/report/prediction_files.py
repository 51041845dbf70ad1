"""CSV files of predictions, read and checked row by row; every error is one line that says where."""

from __future__ import annotations

import argparse
import csv
import math
import shlex
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairloss.groups.labels import is_unknown, may_be_missing

if TYPE_CHECKING:
    from fairloss.groups.encode import GroupEncoding

__all__ = ["InputError", "check_same_samples", "match_rows", "read_predictions", "unknown_lines"]

_IGNORED = "\0ignored"  # no cell is this
_ZERO_ONE = {"false": 0, "true": 1}


class InputError(Exception):
    """Wrong input: one line for the user."""


def read_predictions(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Columns of one file, checked row by row; lines are counted as a text editor does, from 1."""
    for text in arguments.bins:
        if text.rpartition("=")[0] not in arguments.group:
            raise InputError(f"--bins {text}: no column of --group, which are {', '.join(arguments.group)}")
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
                    header = [name.strip() for name in header]  # as the cells are
                    break
            else:
                raise InputError(f"{path}: the file is empty; a header is needed")
            for name in wanted:
                if header.count(name) != 1:
                    problem = "no column" if name not in header else "more than one column"
                    cure = _of_header(header) if name not in header else ""
                    raise InputError(f"{path}: {problem} {name!r}; the columns are {', '.join(header)}{cure}")
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
        packed = path.suffix in (".gz", ".zip", ".xlsx", ".parquet")
        cure = f"make it a CSV file first, it ends in {path.suffix}" if packed else "save it as UTF-8"
        raise InputError(f"{path}: not a UTF-8 file ({error}); {cure}") from None
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
        "groups": {name: _labels(columns[name], name, path, arguments) for name in arguments.group},
        "patient": cells(arguments.patient, _filled),
        "id": cells(getattr(arguments, "id", None), _filled),
    }


def _of_header(header: list[str]) -> str:
    """What to do with a file whose first line is not the header looked for, where the line shows it."""
    if header[0].startswith(("#", "sep=")):
        return f"; take out the line {','.join(header)!r} before the header"
    marks = {";": "semicolons", "\t": "tabs", "|": "bars"}
    found = next((word for mark, word in marks.items() if len(header) == 1 and mark in header[0]), None)
    return "" if found is None else f"; it is separated by {found}: save it separated by commas, with decimal points"


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
    if _is_number(text) and float(text) in (0, 1):  # 1.0000 as well
        return int(float(text))
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
        raise InputError(
            f"{path}, line {line}: {column!r} is {text!r}; a score must be a finite number{_of_score(text)}"
        )
    return int(value) if whole and text.lstrip("+-").isdigit() else value  # labels 1 and 2 are whole numbers


def _of_score(text: str) -> str:
    if text.endswith("%") and _is_number(text[:-1]):
        return "; divide percentages by 100"
    return "; write a decimal point" if _is_number(text.replace(",", ".")) and "," in text else ""


def _labels(cells: list[str], column: str, path: Path, arguments: argparse.Namespace) -> GroupEncoding:
    from fairloss.groups.encode import GroupLabelWarning, read_labels

    def flag(option: str, value: Any) -> str:
        if option == "bins":
            return f"--bins {shlex.quote(column)}={'none' if value is None else ','.join(map(str, value))}"
        return " ".join(f"--{option} {shlex.quote(f'{column}={label}')}" for label in value)

    options = {name: _of_column(getattr(arguments, name), column, arguments.group) for name in ("unknown", "known")}
    bins = _of_column(arguments.bins, column, arguments.group)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GroupLabelWarning)  # the report and the comparison say so themselves
            edges: Any = (
                "raise" if not bins else None if bins[-1] == "none" else [_edge(e) for e in bins[-1].split(",")]
            )
            found = read_labels(cells, f"column {column!r}", **options, bins=edges, cells=True, option=flag)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if (found.ids < 0).all():
        raise InputError(f"{path}: every row of {column!r} is unknown; a group is needed")
    return found


def _of_column(given: list[str], column: str, columns: list[str]) -> list[str]:
    """What an option says of a column: "COLUMN=TEXT" is of that one, "TEXT" of all."""
    own = [text.removeprefix(f"{column}=") for text in given if text.startswith(f"{column}=")]
    return own + [text for text in given if not any(text.startswith(f"{c}=") for c in columns)]


def _edge(text: str) -> float:
    return float(text) if "." in text else int(text)


def unknown_lines(groups: dict[str, GroupEncoding]) -> list[str]:
    """One line for each attribute that is unknown in some rows: in how many."""
    lines = []
    for name, encoding in groups.items():
        count = int((encoding.ids < 0).sum())
        if count:
            rows = f"{count} of {len(encoding.ids)} rows"
            lines.append(f"{name}: unknown (empty, -1 or --unknown) in {rows}, which are in the overall values only")
    return lines


def _filled(text: str, path: Path, line: int, column: str) -> str:
    if is_unknown(text) or may_be_missing(text):
        raise InputError(f"{path}, line {line}: {column!r} is {text!r}; an id is needed")
    return text


def match_rows(table: dict[str, Any], first: dict[str, Any], path: Path, arguments: argparse.Namespace) -> None:
    """Bring the rows of ``table`` into the order of the first file's ids."""
    index = {v: i for i, v in enumerate(table["id"])}
    if len(index) < len(table["id"]) or len(set(first["id"])) < len(first["id"]):
        raise InputError(f"{path}: an id in {arguments.id!r} is repeated, here or in {arguments.file[0]}")
    if set(index) != set(first["id"]):
        other = sorted(set(index) ^ set(first["id"]))[0]
        alike = any(_same(other, v) for v in {*index, *first["id"]} - {other})
        hint = "; ids are texts, so that 1 and 1.0 differ: write them alike" if alike else ""
        raise InputError(f"{path}: id {other!r} is not in both this file and {arguments.file[0]}{hint}")
    order = [index[v] for v in first["id"]]
    for key in ("target", "score", "patient"):
        if table[key] is not None:
            table[key] = [table[key][i] for i in order]
    table["groups"] = {name: of._replace(ids=of.ids[order]) for name, of in table["groups"].items()}


def check_same_samples(table: dict[str, Any], first: dict[str, Any], path: Path, arguments: argparse.Namespace) -> None:
    """Refuse a file whose labels, groups or patients differ from the first file's."""
    name = arguments.file[0]
    if len(table["target"]) != len(first["target"]):
        raise InputError(f"{path}: {len(table['target'])} rows, {name} has {len(first['target'])}; the same are needed")
    columns = [(arguments.target, table["target"], first["target"])]
    columns += [(g, *(t["groups"][g].decode(t["groups"][g].ids) for t in (table, first))) for g in arguments.group]
    if arguments.patient is not None:
        columns.append((arguments.patient, table["patient"], first["patient"]))
    for column, here, there in columns:
        for row, (a, b) in enumerate(zip(here, there, strict=True), start=1):
            if a != b:
                hint = "" if arguments.id is not None else "; match rows with --id, if they are in another order"
                raise InputError(f"{path}, row {row}: {column!r} is {a!r}, in {name} {b!r}{hint}")
