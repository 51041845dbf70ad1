"""The command line: what it prints and writes, and one clear line with exit code 2 for wrong input."""

import hashlib
import html
import json
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import fairloss.report as fr
from fairloss.report.cli import main
from tests.report.command import COLUMNS, fails, predictions, write


def test_report(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    page, numbers = tmp_path / "out.html", tmp_path / "out.json"
    arguments = [
        *COLUMNS,
        "--group",
        "age",
        "--html",
        page,
        "--json",
        numbers,
        "--replicates",
        "200",
        "--title",
        "Mine",
    ]
    assert main(["report", file, *map(str, arguments)]) == 0
    out = capsys.readouterr().out
    rows = predictions()
    y, p = [r["y"] for r in rows], [r["p"] for r in rows]
    groups = {name: [r[name] for r in rows] for name in ("sex", "age")}
    expected = fr.FairnessReport.from_predictions(y, p, groups, num_replicates=200, title="Mine").to_dict()
    found = json.loads(numbers.read_text())
    assert found["settings"].pop("source") == str(file)
    assert found["settings"].pop("sha256") == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert found["settings"].pop("read_as") == []
    assert found == expected
    made = html.unescape(page.read_text())
    assert f"<dd>on {expected['settings']['date']} by fairloss {expected['settings']['version']}</dd>" in made
    assert f"<dd>{file}, SHA-256 {hashlib.sha256(Path(file).read_bytes()).hexdigest()}</dd>" in made
    assert "<title>Mine</title>" in page.read_text()
    size = "200 samples, each taken as one patient"
    for text in ("Mine", "sex: comparisons", "sex & age: comparisons", "accuracy gap", size):
        assert text in out
    assert f"{expected['attributes']['sex']['gaps']['accuracy']['value']:.3f} [" in out


def test_report_options(file, tmp_path, capsys):
    out = tmp_path / "a.json"
    options = ["--threshold", "0.3", "--patient", "person", "--no-intersections", "--level", "0.9", "--seed", "5"]
    assert main(["report", file, *COLUMNS, "--group", "age", *options, "--replicates", "150", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["attributes"]) == ["sex", "age"]
    assert (
        found["settings"] | {"threshold": 0.3, "patients": 100, "level": 0.9, "seed": 5, "replicates": 150}
        == (found["settings"])
    )


def test_unknown_labels(tmp_path, capsys):
    rows = predictions()
    rows[3]["sex"], rows[4]["sex"] = "", "N/A"
    path, out = write(tmp_path / "a.csv", rows), tmp_path / "a.json"
    error = fails(capsys, "report", path, *COLUMNS)
    assert "column 'sex': " in error
    assert "'N/A'; --unknown sex=N/A if it means missing, --known sex=N/A if" in error
    options = ["--unknown", "N/A", "--json", str(out), "--replicates", "100"]
    assert main(["report", path, *COLUMNS, *options]) == 0
    assert json.loads(out.read_text())["attributes"]["sex"]["unknown"] == 2


def test_terminal_width_and_no_rich(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["report", file, *COLUMNS, "--group", "age", "--replicates", "100"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 62
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "rich" else find(name, *a))
    assert main(["report", file, *COLUMNS, "--replicates", "100"]) == 0
    assert "| F | " in capsys.readouterr().out
    other = write(tmp_path / "b.csv", predictions(1))
    assert main(["compare", file, other, *COLUMNS, "--replicates", "100"]) == 0
    assert "| predictions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[2].update(p="high"), "line 4: 'p' is 'high'; a score must be a finite number"),
        (lambda r: r[2].update(p="nan"), "line 4: 'p' is 'nan'; a score must be a finite number"),
        (lambda r: r[0].update(p=""), "line 2: 'p' is ''; a score must be a finite number"),
        (lambda r: r[5].update(y=2), "line 7: 'y' is '2'; a label must be 0 or 1"),
        (lambda r: r[5].update(y="yes"), "line 7: 'y' is 'yes'; a label must be 0 or 1"),
        (lambda r: r[7].update(sex=" NA "), "--unknown sex=NA if"),
    ],
)
def test_wrong_cells(tmp_path, capsys, change, message):
    rows = predictions()
    change(rows)
    path = write(tmp_path / "a.csv", rows)
    assert message in fails(capsys, "report", path, *COLUMNS)
    good = write(tmp_path / "good.csv", predictions())
    assert message in fails(capsys, "compare", good, path, *COLUMNS)


def test_wrong_files(file, tmp_path, capsys):
    error = fails(capsys, "report", file, "--target", "label", "--score", "p", "--group", "sex")
    assert "no column 'label'; the columns are id, y, p, sex, age, person" in error
    missing = tmp_path / "none.csv"
    assert f"{missing}: No such file or directory" in fails(capsys, "report", missing, *COLUMNS)
    assert "Is a directory" in fails(capsys, "report", tmp_path, *COLUMNS)
    for name, content, message in [
        ("empty.csv", b"", "the file is empty"),
        ("header.csv", b"y,p,sex\n", "no row after the header"),
        ("ragged.csv", b"y,p,sex\n1,0.5,F\n1,0.5\n", "line 3: 2 cells, the header has 3"),
        ("twice.csv", b"y,y,p,sex\n1,1,0.5,F\n", "more than one column 'y'"),
        ("blank.csv", b"\n \n\n", "the file is empty"),
        ("binary.csv", b"\xff\xfe\x00\xd8", "not a UTF-16 file"),
        (
            "open.csv",
            b'y,p,sex\n1,0.5,F\n1,0.5,"M\n' + b"0,0.1,F\n" * 9,
            "line 3: a row that is no CSV (unexpected end",
        ),
        ("huge.csv", b'y,p,sex\n1,0.5,"F\n' + b"0,0.1,M\n" * 20_000, "line 2: a row that is no CSV (field larger"),
        ("twice.csv", b'y,p,sex\n1,0.5,"F\n0,0.1,"M\n', 'is a quote (") left open?'),
        ("head.csv", b'\ny,p,"sex\n1,0.5,F\n', "line 2: a row that is no CSV"),
        ("unknown.csv", b"y,p,sex\n1,0.5,-\n", "every row of 'sex' is unknown"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        assert message in fails(capsys, "report", path, *COLUMNS, "--unknown", "-")
    assert "no file can be written there" in fails(
        capsys, "report", file, *COLUMNS, "--html", tmp_path / "a" / "b.html"
    )
    assert "no file can be written there" in fails(capsys, "report", file, *COLUMNS, "--json", tmp_path)
    assert "got 5" in fails(capsys, "report", file, *COLUMNS, "--replicates", 5)
    assert re.search("level: .*95", fails(capsys, "report", file, *COLUMNS, "--level", 95))
    bom = tmp_path / "bom.csv"
    bom.write_bytes(b"\xef\xbb\xbfy,p,sex\r\n" + b"1,0.7,F\r\n0,0.2,M\r\n" * 20)
    assert main(["report", str(bom), *COLUMNS, "--replicates", "100"]) == 0


def test_cells_and_headers_that_other_programs_write(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_bytes(b"y, p, sex\n" + b"1.0000, 0.7, F\n0.0000, 0.2, M\n1e0, 0.4, F\n" * 20)
    assert main(["report", str(path), *COLUMNS, "--replicates", "100", "--json", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["overall"]["accuracy"]["value"] == pytest.approx(2 / 3)  # by hand: 0.7 and 0.2 are right, 0.4 is not


@pytest.mark.parametrize("arguments", [[], ["report"], ["report", "a.csv", *COLUMNS, "--threshold", "high"], ["plot"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: fairloss" in capsys.readouterr().err


def test_missing_matplotlib_is_named_before_any_work(file, tmp_path, capsys, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = fails(capsys, "report", file, *COLUMNS, "--html", tmp_path / "a.html")
    assert "pip install 'fairloss[report]'" in error
    assert main(["report", file, *COLUMNS, "--replicates", "100"]) == 0


def test_cells_that_are_minus_one_or_empty_are_unknown(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = predictions()
    for row, cell in zip(rows, ("-1", "", " ", "-1.0", "none"), strict=False):
        row["sex"] = cell
    first, out = write(tmp_path / "a.csv", rows), tmp_path / "a.json"
    second = write(
        tmp_path / "b.csv", [{**new, "sex": old["sex"]} for old, new in zip(rows, predictions(1), strict=True)]
    )
    options = [*COLUMNS, "--unknown", "none", "--replicates", "100", "--json", str(out)]
    line = "sex: unknown (empty, -1 or --unknown) in 5 of 200 rows, which are in the overall values only\n"
    assert main(["report", first, *options]) == 0
    found = json.loads(out.read_text())["attributes"]["sex"]
    assert found["unknown"] == 5
    assert [g["label"] for g in found["groups"]] == ["F", "M"]
    assert capsys.readouterr().out.count(line) == 1
    assert main(["compare", first, second, *options]) == 0
    assert capsys.readouterr().out.count(line) == 1
    labels = [None if i < 5 else row["sex"] for i, row in enumerate(rows)]
    expected = fr.compare_models(
        [r["y"] for r in rows], {"a": [r["p"] for r in rows]}, labels, metrics=["accuracy"], num_replicates=100
    )
    assert json.loads(out.read_text())["sex"][0]["gaps"]["accuracy"] == list(expected[0].gaps["accuracy"])
    # Without such cells nothing is said; what --known names is a label.
    rows = predictions()
    rows[0]["sex"] = "NA"
    path = write(tmp_path / "c.csv", rows)
    assert "--known sex=NA" in fails(capsys, "report", path, *COLUMNS)
    assert main(["report", path, *options, "--known", "NA"]) == 0
    assert "unknown (" not in capsys.readouterr().out
    assert [g["label"] for g in json.loads(out.read_text())["attributes"]["sex"]["groups"]] == ["F", "M", "NA"]
    for row in rows:
        row["sex"] = "-1"
    assert "every row of 'sex' is unknown" in fails(capsys, "report", write(tmp_path / "d.csv", rows), *COLUMNS)


@pytest.mark.parametrize("pair", [("no", "yes"), ("1", "2"), ("-1", "1.0"), ("false", "true")])
def test_the_positive_label_and_logits(pair, file, tmp_path, capsys):
    """The same numbers as from labels 0 and 1 and probabilities."""
    rows, out = predictions(), tmp_path / "a.json"
    for i, row in enumerate(rows):
        row["p"] = 0.001 + 0.998 * row["p"]
        row["t"], row["d"] = pair[row["y"]], pair[int(row["p"] >= 0.5)]
        row["z"], row["c"] = np.log(row["p"] / (1 - row["p"])), "?" if i % 7 == 0 else row["t"]
    path = write(tmp_path / "a.csv", rows)
    twice = [path, write(tmp_path / "b.csv", rows)]

    def numbers(*options, command="report"):
        files = [path] if command == "report" else twice
        given = [command, *files, *options, "--group", "sex", "--replicates", "100", "--json", str(out)]
        assert main(given) == 0
        capsys.readouterr()
        return json.loads(out.read_text())

    for command in ("report", "compare"):
        found = numbers("--target", "t", "--score", "z", "--positive", pair[1], "--logits", command=command)
        plain = numbers("--target", "y", "--score", "p", command=command)
        assert flat(found) == pytest.approx(flat(plain), abs=1e-9, nan_ok=True)
    labels = numbers("--target", "t", "--score", "d", "--positive", pair[1])
    decided = fr.FairnessReport.from_predictions(
        [r["y"] for r in rows],
        [int(r["p"] >= 0.5) for r in rows],
        {"sex": [r["sex"] for r in rows]},
        num_replicates=100,
    )
    for name in ("source", "sha256", "read_as"):
        labels["settings"].pop(name)
    assert labels == decided.to_dict()
    ignored = numbers("--target", "c", "--score", "p", "--positive", pair[1], "--ignore-index", "?")
    kept = [r for i, r in enumerate(rows) if i % 7]
    expected = fr.FairnessReport.from_predictions(
        [r["y"] for r in kept], [r["p"] for r in kept], {"sex": [r["sex"] for r in kept]}, num_replicates=100
    ).to_dict()
    for name, value in expected["overall"].items():
        assert ignored["overall"][name]["value"] == pytest.approx(value["value"], abs=1e-12)
    if pair[0] in ("no", "1"):
        error = fails(capsys, "report", path, "--target", "t", "--score", "p", "--group", "sex")
        assert "--positive" in error
    error = fails(capsys, "report", path, "--target", "y", "--score", "z", "--group", "sex")
    assert "--logits" in error
    assert "--threshold" in error
    error = fails(capsys, "report", path, "--target", "t", "--score", "p", "--group", "sex", "--positive", "maybe")
    assert "positive: " in error


def flat(values, key=""):
    if isinstance(values, dict):
        return {k: v for name, value in values.items() for k, v in flat(value, f"{key}/{name}").items()}
    if isinstance(values, list):
        return flat(dict(enumerate(values)), key)
    return {key: values} if isinstance(values, float) else {}


def test_scores_that_contradict_their_options(file, tmp_path, capsys):
    for command, files in (("report", [file]), ("compare", [file, write(tmp_path / "b.csv", predictions())])):
        assert "threshold: expected a number in [0, 1]" in fails(capsys, command, *files, *COLUMNS, "--threshold", 50)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert main([command, *files, *COLUMNS, "--logits"]) == 0
        err = capsys.readouterr().err
        assert err.startswith("fairloss: warning: logits: expected False for probabilities")
        assert err.count("\n") == 1
