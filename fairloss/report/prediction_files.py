"""Files of predictions: their columns as the labels, scores, groups and patients that a report is made of.

Every error is one line that says where. What was guessed of a file (separator, encoding, decimal mark, percentages, which
column of probabilities is of which class) is said in ``FilePredictions.notes``, which the report shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import expected
from fairloss.groups.encode import EachBins, EachLabels, GroupEncoding, as_argument
from fairloss.groups.labels import is_unknown
from fairloss.metrics.arrays import Floats
from fairloss.report.file_bytes import InputError
from fairloss.report.file_labels import finding, groups_of, ids_of, labels_and_scores, same_cell
from fairloss.report.file_numbers import decimal_mark, is_number, numbers, pointed
from fairloss.report.file_table import Column, read_table

__all__ = [
    "FileColumns",
    "FileForm",
    "FilePredictions",
    "as_names",
    "check_same_samples",
    "match_rows",
    "read_predictions",
    "unknown_lines",
]


class FileColumns(NamedTuple):
    """Which columns of a file are what, by their names.

    Attributes:
        target: the true labels; several are findings, each with a score of its own.
        score: scores or decisions; several beside one target are the classes' probabilities.
        values: per-sample values in place of labels and scores.
        groups: attributes.
        patients: ids.
        sample_weight: weights.
        id: of the samples, by which files are matched.
    """

    target: Sequence[str] = ()
    score: Sequence[str] = ()
    values: Sequence[str] = ()
    groups: Sequence[str] = ()
    patients: str | None = None
    sample_weight: str | None = None
    id: str | None = None

    def check(self, *, target: str = "target", score: str = "score", values: str = "values") -> None:
        """Raise unless there are labels with scores, or values, and groups; the arguments name them in the error."""
        given = [name for name, of in ((target, self.target), (score, self.score), (values, self.values)) if of]
        if given not in ([target, score], [values]):
            wanted = f"{target} and {score}" + f", or {values}" * bool(values)
            raise InputError(expected("columns", wanted, " and ".join(given) or "neither"))
        if len(self.target) > 1 and len(self.target) != len(self.score):
            got = f"{len(self.target)} of {target}, {len(self.score)} of {score}"
            raise InputError(expected(score, "one column for each finding", got))
        if not self.groups:
            raise InputError(expected("groups", "at least one column", "none"))


class FileForm(NamedTuple):
    """How a file is read; None is guessed.

    Attributes:
        separator: one character, ``"tab"`` or ``"space"``.
        decimal: ``"."`` or ``","``.
        encoding: a codec of Python.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class FilePredictions:
    """What a file holds, ready for a report.

    Attributes:
        name: of the file.
        y_true: (N,) labels, or (N, L) of 0, 1 and NaN; None where there are values.
        y_score: (N,) scores or decisions, (N, C) or (N, L) probabilities.
        values: name to (N,) numbers.
        groups: name to ids and labels.
        patients: (N,) ids as texts, or None.
        sample_weight: (N,) or None.
        id: (N,) texts, or None.
        reading: the options ``positive``, ``labels`` and ``ignore_index`` as the labels are written here.
        notes: what was guessed of the file, in words.
        sha256: of the file.
    """

    name: str
    y_true: NDArray[Any] | None
    y_score: NDArray[Any] | None
    values: dict[str, Floats]
    groups: dict[str, GroupEncoding]
    patients: Column | None
    sample_weight: Floats | None
    id: Column | None
    reading: dict[str, Any]
    notes: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(next(iter(self.groups.values())).ids)

    @property
    def said(self) -> list[str]:
        """The notes as one line at most."""
        return [f"{self.name}: {', '.join(self.notes)}."] if self.notes else []

    def take(self, order: NDArray[Any]) -> FilePredictions:
        """The rows at ``order``."""

        def column(of: Column | None) -> Column | None:
            return None if of is None else of._replace(codes=of.codes[order])

        return replace(
            self,
            y_true=None if self.y_true is None else self.y_true[order],
            y_score=None if self.y_score is None else self.y_score[order],
            values={name: v[order] for name, v in self.values.items()},
            groups={name: of._replace(ids=of.ids[order]) for name, of in self.groups.items()},
            patients=column(self.patients),
            sample_weight=None if self.sample_weight is None else self.sample_weight[order],
            id=column(self.id),
        )


def read_predictions(
    path: str | Path,
    columns: FileColumns,
    form: FileForm,
    *,
    positive: Any = None,
    labels: Sequence[Any] | None = None,
    ignore_index: Any = None,
    unknown: EachLabels = (),
    known: EachLabels = (),
    bins: EachBins = "raise",
    option: Callable[[str, Any], str] = as_argument,
) -> FilePredictions:
    """The columns of one file, checked cell by cell; lines are counted as a text editor does, from 1.

    ``positive``, ``labels`` and ``ignore_index`` are as they are written in the file; ``option`` writes an option of groups
    in an error.
    """
    positive, ignore_index = (None if v is None else str(v) for v in (positive, ignore_index))
    labels = None if labels is None else [str(label) for label in labels]
    wanted = [*columns.target, *columns.score, *columns.values, *columns.groups]
    wanted += [c for c in (columns.patients, columns.sample_weight, columns.id) if c is not None]
    table = read_table(path, wanted, separator=form.separator, encoding=form.encoding)
    in_bands = [c for c in columns.groups if _own(bins, c, "raise") not in ("raise", None)]
    many = [c for c in columns.groups if len(table.columns[c].cells) > 12 and _all_numbers(table.columns[c])]
    weight = [] if columns.sample_weight is None else [columns.sample_weight]
    numeric = dict.fromkeys([*columns.target, *columns.score, *columns.values, *weight, *in_bands, *many])
    mark = decimal_mark(table, list(numeric), form.decimal)
    if mark == ",":
        for name in {*columns.target, *columns.groups}:
            of = table.columns[name]
            if _all_numbers(of):
                table.columns[name] = of._replace(cells=[pointed(cell, mark) for cell in of.cells])
    y_true = y_score = None
    reading: dict[str, Any] = {}
    if len(columns.target) > 1:
        y_true = np.stack([finding(table, c, positive, ignore_index) for c in columns.target], axis=1)
        y_score = np.stack([numbers(table, c, mark, noun="score") for c in columns.score], axis=1)
        reading = {"labels": list(columns.target), "task": "multilabel"}
    elif columns.target:
        given = {"positive": positive, "labels": labels, "ignore_index": ignore_index}
        y_true, y_score, reading = labels_and_scores(table, columns.target[0], columns.score, mark, **given)
    groups = {}
    for name in columns.groups:
        own = {"unknown": _own(unknown, name, ()), "known": _own(known, name, ()), "bins": _own(bins, name, "raise")}
        groups[name] = groups_of(table, name, own, option)
    return FilePredictions(
        table.name,
        y_true,
        y_score,
        {c: numbers(table, c, mark, noun="value", blank=True) for c in columns.values},
        groups,
        ids_of(table, columns.patients),
        None if columns.sample_weight is None else numbers(table, columns.sample_weight, mark, noun="weight"),
        ids_of(table, columns.id),
        reading,
        tuple(dict.fromkeys(table.notes)),
        table.sha256,
    )


def as_names(columns: str | Sequence[str] | None) -> list[str]:
    """One name, several or none as a list."""
    return [] if columns is None else [columns] if isinstance(columns, str) else list(columns)


def _own(option: Any, column: str, default: Any) -> Any:
    return option.get(column, default) if isinstance(option, Mapping) else option


def _all_numbers(column: Column) -> bool:
    return all(is_number(cell) or is_number(cell, ",") for cell in column.cells if not is_unknown(cell))


def unknown_lines(groups: Mapping[str, GroupEncoding]) -> list[str]:
    """One line for each attribute that is unknown in some rows: in how many."""
    lines = []
    for name, encoding in groups.items():
        count = int((encoding.ids < 0).sum())
        if count:
            rows = f"{count} of {len(encoding.ids)} rows"
            lines.append(f"{name}: unknown (empty, -1 or --unknown) in {rows}, which are in the overall values only")
    return lines


def match_rows(file: FilePredictions, first: FilePredictions, column: str) -> FilePredictions:
    """The file with its rows in the order of the first file's ids, which are in ``column``."""
    assert file.id is not None
    assert first.id is not None
    if len(file.id.cells) < len(file) or len(first.id.cells) < len(first):
        raise InputError(f"{file.name}: an id in {column!r} is repeated, here or in {first.name}")
    index = {cell: row for row, cell in enumerate(file.id.texts())}
    given = first.id.texts()
    if set(index) != set(given):
        other = sorted(set(index) ^ set(given))[0]
        alike = next((v for v in {*index, *given} - {other} if same_cell(other, v)), None)
        hint = "" if alike is None else f"; ids are texts, so that {other} and {alike} differ: write them alike"
        raise InputError(f"{file.name}: id {other!r} is not in both this file and {first.name}{hint}")
    return file.take(np.array([index[cell] for cell in given]))


def check_same_samples(file: FilePredictions, first: FilePredictions, columns: FileColumns) -> None:
    """Refuse a file whose labels, groups or patients differ from the first file's."""
    if len(file) != len(first):
        raise InputError(f"{file.name}: {len(file)} rows, {first.name} has {len(first)}; the same are needed")
    pairs: list[tuple[str, Any, Any]] = []
    for k, name in enumerate(columns.target):
        here, there = (np.reshape(np.asarray(t.y_true), (len(t), -1))[:, k].tolist() for t in (file, first))
        pairs.append((name, here, there))
    for g in columns.groups:
        here, there = (t.groups[g].decode(t.groups[g].ids) for t in (file, first))
        pairs.append((g, here, there))
    if file.sample_weight is not None and first.sample_weight is not None:
        pairs.append((str(columns.sample_weight), file.sample_weight.tolist(), first.sample_weight.tolist()))
    if file.patients is not None and first.patients is not None:
        pairs.append((str(columns.patients), file.patients.texts(), first.patients.texts()))
    for column, here, there in pairs:
        for row, (a, b) in enumerate(zip(here, there, strict=True), start=1):
            if a != b and not (a != a and b != b):
                hint = "" if columns.id is not None else "; match rows with --id, if they are in another order"
                raise InputError(f"{file.name}, row {row}: {column!r} is {a!r}, in {first.name} {b!r}{hint}")
