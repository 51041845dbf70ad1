"""Tables in files, as the texts of their cells: CSV in the forms that people have, and Parquet.

Python's ``csv`` does the parsing, strictly and by lines: pandas fills a row that is too short without a word, drops cells of
one that is too long, and cannot say in which line of the file a cell stands. Which separator a file has is not sniffed: it
is the one under which the header holds the columns asked for, and two of them are refused. A column is kept as its
distinct cells and a code for each row, which is a tenth of a list of texts.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fairloss.core.checks import expected
from fairloss.core.extras import require
from fairloss.metrics.arrays import Ints
from fairloss.report.file_bytes import Content, InputError, encoding_of, read_bytes

__all__ = ["Column", "Table", "read_table"]

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
_NAMED = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";"}
_CHUNK = 20_000


class Column(NamedTuple):
    """A column of N cells.

    Attributes:
        cells: its different texts, without blanks around them, in the order in which they first occur.
        codes: (N,) the place of each row's text among them.
    """

    cells: list[str]
    codes: Ints

    def at(self, cell: int) -> int:
        """The first row that has the cell of that place."""
        return int(np.argmax(self.codes == cell))

    def texts(self) -> list[str]:
        """The N cells."""
        return list(map(self.cells.__getitem__, self.codes.tolist()))


class Table(NamedTuple):
    """The columns asked for, of N rows.

    Attributes:
        name: of the file, for messages.
        columns: by their names.
        lines: (N,) in which line of the file each row ends, from 1; None where there are no lines.
        notes: what was guessed of the file, in words.
        sha256: of the file as it was given.
    """

    name: str
    columns: dict[str, Column]
    lines: Ints | None
    notes: list[str]
    sha256: str

    def where(self, row: int) -> str:
        """Of a row, for messages: the file and the line."""
        return f"{self.name}, " + (f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}")


def read_table(
    path: str | Path,
    wanted: Sequence[str],
    *,
    separator: str | None = None,
    encoding: str | None = None,
) -> Table:
    """The columns ``wanted`` of a file, or of standard input for "-".

    A file may be packed (gzip, bzip2, xz, a zip of one file), begin with comments ("#") or with Excel's line "sep=;", and
    have blanks around its cells.

    Args:
        path: CSV or Parquet.
        wanted: names of columns.
        separator: one character, ``"tab"`` or ``"space"``; guessed by default.
        encoding: a codec of Python; guessed by default.

    Raises:
        InputError: no such file or column, no row, a row that does not fit the header, two ways to read it.
        ImportError: pyarrow, which reads Parquet, is not installed.
    """
    content = read_bytes(path)
    digest = hashlib.sha256(content.given).hexdigest()
    wanted = list(dict.fromkeys(wanted))
    if content.parquet:
        columns, lines = _parquet(content, wanted), None
    else:
        columns, lines = _csv(content, wanted, separator, encoding)
    if not len(next(iter(columns.values())).codes):
        raise InputError(f"{content.name}: no row after the header")
    return Table(content.name, columns, lines, content.notes, digest)


def _csv(
    content: Content, wanted: list[str], separator: str | None, encoding: str | None
) -> tuple[dict[str, Column], Ints]:
    name = content.name
    header, mark, reader, start = _opened(content, wanted, separator, encoding_of(content, encoding))
    take = itemgetter(*[header.index(column) for column in wanted], 0)
    index = [defaultdict[str, int](int) for _ in wanted]
    for each in index:
        each.default_factory = each.__len__
    codes, lines = [array("i") for _ in wanted], array("i")
    stray: list[int] = []  # lines that begin with "#" and are no row
    marked = empty = 0
    last = start + reader.line_num
    try:
        while True:
            rows: list[Any] = []
            for row in reader:
                last = start + reader.line_num
                if not any(row):
                    empty += len(row) > 1
                    continue
                if len(row) != len(header):
                    if len(row) == 1 and not row[0].strip():
                        continue
                    if row[0].lstrip().startswith("#"):
                        stray.append(last)
                        continue
                    if len(row) < len(header) or "".join(row[len(header) :]).strip():
                        raise InputError(_ragged(f"{name}, line {last}", row, header, mark))
                rows.append(take(row))
                lines.append(last)
                if len(rows) == _CHUNK:
                    break
            for texts, each, code in zip(zip(*rows, strict=True), index, codes, strict=False):
                code.extend(map(each.__getitem__, texts))
            marked += sum(row[-1].startswith("#") for row in rows)
            if len(rows) < _CHUNK:
                break
    except csv.Error as error:
        raise InputError(_no_csv(name, last + 1, error)) from None
    if stray and marked:
        raise InputError(f"{name}, line {stray[0]}: a comment (#) or a row cut off? Other rows begin with # as well")
    content.notes.extend([f"comment lines (#) left out: {len(stray)}"] * bool(stray))
    content.notes.extend([f"rows without any cell left out: {empty}"] * bool(empty))
    found = {c: _stripped(list(i), np.array(k, dtype=np.int64)) for c, i, k in zip(wanted, index, codes, strict=True)}
    return found, np.array(lines, dtype=np.int64)


def _no_csv(name: str, line: int, error: csv.Error) -> str:
    return f'{name}, line {line}: a row that is no CSV ({error}); is a quote (") left open?'


def _ragged(where: str, row: list[str], header: list[str], mark: str) -> str:
    cure = ""
    if len(row) == len(header) + 1:
        cure = "; is the first cell a row's name, as R writes it, whose column has no name in the header?"
    if mark == "," and len(row) > len(header):
        cure += "; decimal commas need quotes, or semicolons as separators"
    return f"{where}: {len(row)} cells, the header has {len(header)}{cure}"


def _opened(content: Content, wanted: list[str], separator: str | None, codec: str) -> tuple[list[str], str, Any, int]:
    """Header, separator, the reader behind the header, and in which line it begins to count."""
    name = content.name

    def lines_of_text() -> Iterator[str]:
        return iter(io.TextIOWrapper(io.BytesIO(content.data), encoding=codec, newline=""))

    start, comments, named = 0, list[str](), ""
    for line in lines_of_text():
        text = line.strip()
        sep = re.fullmatch(r'"?sep=(.)"?[\r\n]*', line.lstrip())
        if sep and not named:
            named = sep[1]
        elif text.startswith("#"):
            comments.append(text.lstrip("# "))
        elif text.strip(" ,;\t|"):
            break
        start += 1
    else:
        raise InputError(f"{name}: the file is empty; a header is needed")
    if separator is not None:
        separator = _NAMED.get(separator, separator)
        if len(separator) != 1 or separator in '"\r\n':
            raise InputError(expected("separator", "one character, tab or space", repr(separator)))
    marks = [m for m in (separator, named) if m][:1] or list(_SEPARATORS)
    read: dict[str, tuple[list[str], Any]] = {}
    failed = ""
    for mark in marks:
        # Strict: else an open quote takes in the rest of the file.
        reader = csv.reader(
            islice(lines_of_text(), start, None), delimiter=mark, strict=True, skipinitialspace=mark != "\t"
        )
        try:
            read[mark] = [cell.strip() for cell in next(reader)], reader
        except csv.Error as error:
            failed = failed or _no_csv(name, start + 1, error)
    fits = [mark for mark, (header, _) in read.items() if all(header.count(c) == 1 for c in wanted)]
    if len(fits) > 1:
        found = " or ".join(_SEPARATORS.get(m, repr(m)) for m in fits)
        raise InputError(f"{name}: separated by {found}? The header fits either; separator= names one")
    if not fits and comments:  # as NumPy writes it, the header is a comment
        for mark in marks:
            header = [cell.strip() for cell in comments[-1].split(mark)]
            if all(header.count(c) == 1 for c in wanted):
                lines = islice(lines_of_text(), start, None)
                reader = csv.reader(lines, delimiter=mark, strict=True, skipinitialspace=mark != "\t")
                content.notes.append("header in a comment line (#)")
                return header, _said(content, mark, separator), reader, start
    if not fits:
        if failed:
            raise InputError(failed)
        mark = max(read, key=lambda m: (m != " ") * len(read[m][0]))
        header = read[mark][0]
        column = next(c for c in wanted if header.count(c) != 1)
        problem = "more than one column" if column in header else "no column"
        by = "" if len(header) > 1 else "; separator= names what lies between them"
        raise InputError(f"{name}: {problem} {column!r}; the columns are {', '.join(header)}{by}")
    content.notes.extend([f"comment lines (#) before the header left out: {len(comments)}"] * bool(comments))
    header, reader = read[fits[0]]
    return header, _said(content, fits[0], separator), reader, start


def _said(content: Content, mark: str, given: str | None) -> str:
    """The separator, which is noted where nobody gave it and it is not the usual one."""
    if given is None and mark != ",":
        content.notes.append(f"separated by {_SEPARATORS.get(mark, repr(mark))}")
    return mark


def _stripped(cells: list[str], codes: Ints) -> Column:
    """The column with blanks around its cells taken away."""
    index: dict[str, int] = {}
    places = np.array([index.setdefault(cell.strip(), len(index)) for cell in cells], dtype=np.int64)
    return Column(list(index), places[codes] if len(cells) else codes)


def _parquet(content: Content, wanted: list[str]) -> dict[str, Column]:
    file = require("pyarrow.parquet", "pyarrow")
    try:
        header = list(file.read_schema(io.BytesIO(content.data)).names)
        for column in wanted:
            if header.count(column) != 1:
                problem = "more than one column" if column in header else "no column"
                raise InputError(f"{content.name}: {problem} {column!r}; the columns are {', '.join(header)}")
        table = file.read_table(io.BytesIO(content.data), columns=wanted)
        found = {column: _of_arrow(table.column(column)) for column in wanted}
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors are among these
        if isinstance(error, InputError):
            raise
        raise InputError(f"{content.name}: {' '.join(str(error).split())}") from None
    content.notes.append("Parquet")
    return found


def _of_arrow(column: Any) -> Column:
    """The column's values as they are written, a missing one and NaN as an empty cell."""
    if hasattr(column.type, "value_type") and hasattr(column.type, "index_type"):  # categories
        column = column.cast(column.type.value_type)
    if str(column.type) == "halffloat":
        column = column.cast("float")
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if hasattr(encoded, "combine_chunks") else encoded
    values = encoded.dictionary.to_numpy(zero_copy_only=False)  # a float32 is written as one: 0.7
    cells = ["" if v is None or v != v else v.decode() if isinstance(v, bytes) else str(v) for v in values]
    codes = encoded.indices.fill_null(len(cells)).to_numpy(zero_copy_only=False)
    return _stripped([*cells, ""] if encoded.indices.null_count else cells, codes.astype(np.int64))
