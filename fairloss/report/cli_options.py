"""The options of the command line that both commands have: what is in a file, how it is read, how intervals are made."""

from __future__ import annotations

import argparse
import csv
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairloss.report.file_bytes import InputError

if TYPE_CHECKING:
    from fairloss.report.prediction_files import FileColumns

__all__ = [
    "add_input_options",
    "comma_list",
    "file_columns",
    "label_options",
    "limit_list",
    "margin_of",
    "references_of",
]


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """The options of both commands that say what is in a file and how it is read, and those of the intervals."""
    columns: dict[str, Any] = {"type": comma_list, "action": "extend", "default": []}
    listed = "several with commas, or the option repeated"
    parser.add_argument("--target", **columns, metavar="COLUMN", help=f"true labels; findings: {listed}")
    parser.add_argument(
        "--score", **columns, metavar="COLUMN", help=f"scores or decisions; one per class or finding: {listed}"
    )
    parser.add_argument("--positive", metavar="LABEL", help="the positive label, where labels are not 0 and 1")
    parser.add_argument(
        "--labels", type=comma_list, metavar="LABELS", help="classes in the order of the scores' columns: a,b,c"
    )
    parser.add_argument("--logits", action="store_true", help="scores are logits, of which the sigmoid is taken")
    parser.add_argument("--ignore-index", metavar="LABEL", help="target that is not known: its rows are left out")
    parser.add_argument("--group", required=True, action="append", metavar="COLUMN", help="attribute; repeatable")
    parser.add_argument("--patient", metavar="COLUMN", help="patient ids: samples of one patient are drawn together")
    parser.add_argument("--weights", metavar="COLUMN", help="sample weights, at least 0")
    parser.add_argument(
        "--separator", metavar="CHAR", help="between cells: one character, tab or space (guessed, and said)"
    )
    parser.add_argument("--decimal", choices=[".", ","], help="decimal mark of numbers (guessed, and said)")
    parser.add_argument("--encoding", metavar="NAME", help="of the file, such as latin-1 (guessed, and said)")
    parser.add_argument(
        "--unknown",
        action="append",
        default=[],
        metavar="[COLUMN=]LABEL",
        help="group label that means unknown, as -1 and an empty cell always do; repeatable",
    )
    parser.add_argument(
        "--known",
        action="append",
        default=[],
        metavar="[COLUMN=]LABEL",
        help='group label that names a group although it looks missing, such as "NA"; repeatable',
    )
    parser.add_argument(
        "--bins",
        type=_bins,
        action="append",
        default=[],
        metavar="COLUMN=EDGES",
        help="cut a group column of numbers into bands: age=40,65; site=none takes numbers as codes; repeatable",
    )
    parser.add_argument(
        "--min-group-size", type=int, default=30, metavar="N", help="warn below N patients (default 30)"
    )
    parser.add_argument("--threshold", type=_number, default=0.5, help="a decision is score >= threshold (default 0.5)")
    parser.add_argument("--replicates", type=int, default=2000, metavar="N", help="bootstrap replicates (default 2000)")
    parser.add_argument("--level", type=_number, default=0.95, help="of the intervals (default 0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number")


def file_columns(arguments: argparse.Namespace) -> FileColumns:
    """The columns that the arguments name.

    Raises:
        InputError: neither labels and scores nor values, or both; findings without a score each.
    """
    from fairloss.report.prediction_files import FileColumns

    values = getattr(arguments, "value", [])
    columns = FileColumns(
        arguments.target, arguments.score, values, arguments.group, arguments.patient, arguments.weights,
        getattr(arguments, "id", None),
    )  # fmt: skip
    columns.check(target="--target", score="--score", values="--value" if hasattr(arguments, "value") else "")
    for text in arguments.bins:
        if text.rpartition("=")[0] not in arguments.group:
            raise InputError(f"--bins {text}: no column of --group, which are {', '.join(arguments.group)}")
    return columns


def label_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say of the labels of each group column, and how such an option is written."""

    def flag(option: str, value: Any) -> str:
        ((column, given),) = value.items()
        if option == "bins":
            return f"--bins {shlex.quote(str(column))}={'none' if given is None else ','.join(map(str, given))}"
        return " ".join(f"--{option} {shlex.quote(f'{column}={label}')}" for label in given)

    bins: dict[str, Any] = {}
    for text in arguments.bins:
        column, _, edges = text.rpartition("=")
        bins[column] = None if edges == "none" else [float(e) if "." in e else int(e) for e in edges.split(",")]
    labels = {}
    for name in ("unknown", "known"):
        given = getattr(arguments, name)
        labels[name] = {column: _of_column(given, column, arguments.group) for column in arguments.group}
    return {**labels, "bins": bins, "option": flag}


def _of_column(given: list[str], column: str, columns: list[str]) -> list[str]:
    """What an option says of a column: "COLUMN=TEXT" is of that one, "TEXT" of all."""
    own = [text.removeprefix(f"{column}=") for text in given if text.startswith(f"{column}=")]
    return own + [text for text in given if not any(text.startswith(f"{c}=") for c in columns)]


def comma_list(text: str) -> list[str]:
    """Names with commas between them; one with a comma in it stands in quotes."""
    found = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
    if not found or not all(found):
        raise argparse.ArgumentTypeError(f"expected names with commas between them, got {text!r}")
    return found


def limit_list(text: str) -> list[tuple[str, float]]:
    """``tpr=.05,auc=.02``: metrics and numbers; "" for a number alone."""
    pairs = []
    for part in comma_list(text):
        name, _, value = part.rpartition("=")
        pairs.append((name.strip(), _number(value)))
    return pairs


def margin_of(pairs: list[tuple[str, float]]) -> float | dict[str, float]:
    """One margin for all metrics, or one for each that is named.

    Raises:
        InputError: both.
    """
    if not pairs:
        return 0.05
    if len(pairs) > 1 and any(not name for name, _ in pairs):
        raise InputError("--margin: expected one number, or METRIC=NUMBER of each metric, got both")
    return dict(pairs) if pairs[0][0] else pairs[0][1]


def references_of(texts: list[str]) -> dict[str, str] | None:
    """The reference group of each column.

    Raises:
        InputError: no column.
    """
    for text in texts:
        if "=" not in text:
            raise InputError(f"--reference: expected COLUMN=LABEL, such as sex=F, got {text!r}")
    return dict(text.split("=", 1) for text in texts) or None


def _bins(text: str) -> str:
    edges = text.rpartition("=")[2]
    if "=" not in text or (edges != "none" and not all(_number(edge) < math.inf for edge in edges.split(","))):
        raise argparse.ArgumentTypeError(f"expected COLUMN=EDGES, such as age=40,65, got {text!r}")
    return text


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value
