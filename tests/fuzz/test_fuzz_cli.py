"""Hostile CSV files through the command line: exit code 0, or 2 and one line on standard error; never a traceback."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import lzma
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from fairloss.report.cli import main
from fairloss.report.file_bytes import InputError
from fairloss.report.prediction_files import FileColumns, FileForm, read_predictions
from tests.fuzz.drawing import fuzz, refused

FOLDER = Path(tempfile.mkdtemp(prefix="fairloss-fuzz-"))
CELLS = {
    "y": ("0", "1", "1.0", "true", "FALSE", "2", "", "nan", "0.5", "-1", "NA", " 1 ", "é", "\x00", "1e400"),
    "p": (
        "0.5",
        "0",
        "1",
        "0.25",
        "1e-300",
        "1e308",
        "-0",
        "nan",
        "inf",
        "",
        "abc",
        "0,5",
        "1_0",
        "\u0661",
        "0x1",
        "1e999",
    ),
    "g": ("F", "M", "F", "M", "", "unknown", "é", "a,b", '"', "x\ny", "  ", "=1+1", "\ud7ff", "nan", "None"),
}


@st.composite
def files(draw):
    """A table and what is done to it, as bytes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    rows = draw(st.sampled_from((0, 1, 2, 5, 40)))
    dirt = draw(st.sampled_from((0.0, 0.0, 0.02, 0.3)))
    header = ["y", "p", "g"]
    table = [[cell(rng, name, dirt) for name in header] for _ in range(rows)]
    shape = draw(st.sampled_from(("plain",) * 6 + SHAPES))
    if shape == "no_column":
        header = ["y", "score", "g"]
    elif shape == "two_columns":
        header = ["y", "p", "p"]
    elif shape == "empty_names":
        header = ["", "", ""]
    elif shape == "spaces":
        header = [" y", "p ", "g"]
    elif shape == "ragged" and table:
        table[int(rng.integers(rows))].append("1")
    elif shape == "short" and table:
        table[int(rng.integers(rows))].pop()
    elif shape == "blank":
        table.insert(int(rng.integers(rows + 1)), [])
    text = io.StringIO()
    quoting = draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    ends = draw(st.sampled_from(("\n", "\r\n", "\r")))
    csv.writer(text, quoting=quoting, lineterminator=ends).writerows([header, *table])
    encoding = draw(st.sampled_from(("utf-8",) * 4 + ("utf-8-sig", "latin-1", "utf-16")))
    data = text.getvalue().encode(encoding, errors="replace")
    if shape == "nothing":
        return b""
    if shape == "header_only":
        return b"y,p,g\n"
    if shape == "open_quote":
        return data + b'1,0.5,"F'
    if shape == "stray_quote":
        return data.replace(b"F", b'F"F"', 1)
    if shape == "null":
        return data.replace(b"0", b"\x00", 1)
    if shape == "semicolons":
        return data.replace(b",", b";")
    if shape == "long_cell":
        return data + b'1,0.5,"' + b"F" * 140_000 + b'"\n'
    if shape == "noise":
        return bytes(rng.integers(0, 256, 60, dtype=np.uint8))
    if shape == "no_newline":
        return data.rstrip(b"\r\n")
    if shape == "twice":
        return data + data
    return data


SHAPES = (
    "no_column", "two_columns", "empty_names", "spaces", "ragged", "short", "blank", "nothing", "header_only", "open_quote",
    "stray_quote", "null", "semicolons", "long_cell", "noise", "no_newline", "twice",
)  # fmt: skip


def cell(rng, name, dirt):
    clean = {"y": ("0", "1"), "p": ("0.5", "0", "1", "0.25", "0.75"), "g": ("F", "M")}[name]
    choices = CELLS[name] if rng.random() < dirt else clean
    return choices[int(rng.integers(len(choices)))]


@fuzz(data=files(), unknown=st.sampled_from(([], [""], ["F", ""])))
def test_reading(data, unknown):
    path = FOLDER / "read.csv"
    path.write_bytes(data)
    columns = FileColumns(["y"], ["p"], groups=["g"])
    try:
        table = read_predictions(path, columns, FileForm(), unknown=unknown)
    except InputError as error:
        refused(error, re.escape(str(path)))
        return
    assert len(table.y_true) == len(table.y_score) == len(table) > 0
    assert set(table.y_true.tolist()) <= {0, 1}
    assert np.isfinite(table.y_score).all()
    assert not set(map(str, table.groups["g"].labels)) & set(unknown)


SCORES = st.builds(
    lambda whole, digits, minus: f"{'-' * minus}{whole}" + (f".{digits}" if digits else ""),
    st.sampled_from((0, 0, 0, 1, 3, 12, 1234)),
    st.text("0123456789", max_size=4),
    st.booleans(),
)
LABELS = st.sampled_from(("F", "M", "a,b", "a;b", 'say "x"', "#1", "é", "two words", "x\ty", "a|b", "-", "90+"))


@fuzz(
    rows=st.lists(st.tuples(st.sampled_from("01"), SCORES, LABELS), min_size=1, max_size=12),
    separator=st.sampled_from(",;\t|"),
    mark=st.sampled_from(".,"),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
    ends=st.sampled_from(("\n", "\r\n", "\r")),
    encoding=st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252")),
    before=st.sampled_from(("", "sep", "# a comment; of two, parts", "\n")),
    pack=st.sampled_from((bytes, gzip.compress, bz2.compress, lzma.compress)),
)
def test_forms_give_the_same_table_or_are_refused(rows, separator, mark, quoting, ends, encoding, before, pack):
    """No form of a table is read as another table; what is refused can be read in two ways."""
    text = io.StringIO()
    text.write({"": "", "sep": f"sep={separator}"}.get(before, before) + (ends if before else ""))
    table = [["y", "p", "g"], *([y, p.replace(".", mark), g] for y, p, g in rows)]
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=ends).writerows(table)
    path = FOLDER / "form.csv"
    path.write_bytes(pack(text.getvalue().encode(encoding)))
    columns = FileColumns(["y"], ["p"], groups=["g"])
    either = all(re.fullmatch(r"-?[1-9]\d{0,2}\.\d{3}", p) or "." not in p for _, p, _ in rows)
    if mark == "," and either and any("." in p for _, p, _ in rows):
        with pytest.raises(InputError, match="which may be"):
            read_predictions(path, columns, FileForm())
        return
    found = read_predictions(path, columns, FileForm())
    assert found.y_true.tolist() == [int(y) for y, _, _ in rows]
    assert found.y_score.tolist() == [float(p) for _, p, _ in rows]
    assert found.groups["g"].decode(found.groups["g"].ids) == [g for _, _, g in rows]


def run(argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of undefined groups; the report prints them in words
        code = main(argv)
    return code, out.getvalue(), err.getvalue()


@fuzz(examples=0.05, data=files(), other=files(), command=st.sampled_from(("report", "compare", "same")))
def test_commands(data, other, command):
    first, second = FOLDER / "first.csv", FOLDER / "second.csv"
    first.write_bytes(data)
    second.write_bytes(data if command == "same" else other)
    names = [str(first)] if command == "report" else [str(first), str(second)]
    argv = ["report" if command == "report" else "compare", *names, "--target", "y", "--score", "p", "--group", "g"]
    code, out, err = run([*argv, "--replicates", "100"])
    assert code in (0, 2)
    if code == 2:
        assert err.startswith("fairloss: error: ")
        assert err.count("\n") == 1, repr(err)
        assert not out
    else:
        assert not err
        assert out
