"""Files in the forms that people have: each read as the plain one, or refused with what to do; command and function alike."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fairloss.report import FairnessReport, compare_models
from fairloss.report.cli import main
from tests.report.command import fails

WILD = Path(__file__).parents[1] / "data" / "wild"
PLAIN = [line.split(",") for line in (WILD / "plain.csv").read_text().splitlines()[1:]]
Y, P = [int(row[0]) for row in PLAIN], [float(row[1]) for row in PLAIN]
SEX, AGE, PATIENT = ([row[k] for row in PLAIN] for k in (2, 3, 4))
QUICK = {"num_replicates": 100}
FLAGS = {
    "target": "--target", "score": "--score", "values": "--value", "patients": "--patient", "sample_weight": "--weights",
    "positive": "--positive", "labels": "--labels", "ignore_index": "--ignore-index", "separator": "--separator",
    "decimal": "--decimal", "encoding": "--encoding",
}  # fmt: skip


def flags(groups, options):
    """The command's arguments for the function's."""
    found = [part for g in groups for part in ("--group", g)]
    for name, value in options.items():
        if name == "bins":
            found += ["--bins", *(f"{c}={','.join(map(str, edges))}" for c, edges in value.items())]
        elif name == "higher_is_better":
            found += [part for c in value for part in ("--lower-is-better", c)]
        elif name == "logits":
            found.append("--logits")
        else:
            found += [FLAGS[name], ",".join(value) if isinstance(value, list) else value]
    return [*found, "--replicates", "100"]


def both(name, groups, tmp_path, capsys, **options):
    """The report of a file, by the function, after the command has given the same."""
    report = FairnessReport.from_file(WILD / name, groups, **options, **QUICK)
    out = tmp_path / "out.json"
    assert main(["report", str(WILD / name), *flags(groups, options), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert json.loads(out.read_text()) == report.to_dict()
    for note in report.settings["read_as"]:
        assert "".join(note.split()) in "".join(printed.split())
    assert report.settings["source"] == str(WILD / name)
    assert re.fullmatch("[0-9a-f]{64}", report.settings["sha256"])
    return report


def numbers(report):
    """All but where the numbers come from."""
    found = report.to_dict()
    for name in ("source", "sha256", "read_as", "title"):
        found["settings"].pop(name, None)
    return found


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("plain.csv", []),
        ("semicolons_and_decimal_commas.csv", ["separated by semicolons", "decimal commas"]),
        ("tabs.tsv", ["separated by tabs"]),
        ("utf16_tabs.txt", ["encoding UTF-16, by its mark", "separated by tabs"]),
        ("byte_order_mark.csv", []),
        ("packed.csv.gz", ["unpacked from gzip"]),
        ("sep_line.csv", ["separated by semicolons", "decimal commas"]),
        ("comments.csv", ["comment lines (#) before the header left out: 2"]),
        ("percent.csv", ["p: percentages, divided by 100"]),
        ("four_decimals.csv", []),
        ("blanks_around.csv", []),
        ("header_in_comment.csv", ["header in a comment line (#)"]),
        ("table.parquet", ["Parquet"]),
    ],
)
def test_forms_of_one_table(name, notes, tmp_path, capsys):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    options = {"target": "y", "score": "p", "patients": "patient", "bins": {"age": [40, 65]}}
    report = both(name, ["sex", "age"], tmp_path, capsys, **options)
    groups = {"sex": SEX, "age": [int(a) for a in AGE]}
    plain = FairnessReport.from_predictions(Y, P, groups, bins={"age": [40, 65]}, patients=PATIENT, **QUICK)
    assert numbers(report) == numbers(plain)
    assert list(report.settings["read_as"]) == notes


def test_latin_1(tmp_path, capsys):
    report = both("latin1.csv", ["sex"], tmp_path, capsys, target="y", score="p")
    assert [g.label for g in report["sex"].groups] == ["männlich", "weiblich"]
    assert re.fullmatch(r"encoding Windows-1252 .* byte 0xe4 in line 3 .*", report.settings["read_as"][0])
    given = both("latin1.csv", ["sex"], tmp_path, capsys, target="y", score="p", encoding="latin-1")
    assert numbers(given) == numbers(report)
    assert not given.settings["read_as"]


def test_labels_that_are_words(tmp_path, capsys):
    report = both("yes_no.csv", ["sex"], tmp_path, capsys, target="y", score="p", positive="yes")
    assert numbers(report) == numbers(FairnessReport.from_predictions(Y, P, {"sex": SEX}, **QUICK))


def test_probabilities_of_several_classes(tmp_path, capsys):
    rows = [line.split(",") for line in (WILD / "classes.csv").read_text().splitlines()[1:]]
    scores = ["p_nevus", "p_benign", "p_melanoma"]
    report = both("classes.csv", ["sex"], tmp_path, capsys, target="diagnosis", score=scores)
    columns = np.array([[float(v) for v in row[1:4]] for row in rows])
    ordered = columns[:, [1, 2, 0]]  # benign, melanoma, nevus
    right = ordered.argmax(axis=1) == [["benign", "melanoma", "nevus"].index(row[0]) for row in rows]
    assert report.overall["accuracy"].value == pytest.approx(right.mean(), abs=1e-12)
    assert "p_nevus nevus, p_benign benign, p_melanoma melanoma" in report.settings["read_as"][0]
    swapped = both(
        "classes.csv",
        ["sex"],
        tmp_path,
        capsys,
        target="diagnosis",
        score=scores,
        labels=["benign", "melanoma", "nevus"],
    )
    wrong = columns.argmax(axis=1) == [["benign", "melanoma", "nevus"].index(row[0]) for row in rows]
    assert swapped.overall["accuracy"].value == pytest.approx(wrong.mean(), abs=1e-12)


@pytest.mark.parametrize("names", [["p0", "p1", "p2"], ["p_0", "p_1", "p_2"], ["a", "b", "c"]])
def test_classes_that_are_numbers(tmp_path, names):
    path = tmp_path / "a.csv"
    path.write_text(f"y,{','.join(names)},g\n" + "0,.8,.1,.1,F\n1,.1,.8,.1,M\n2,.1,.2,.7,F\n2,.7,.2,.1,M\n" * 5)
    report = FairnessReport.from_file(path, "g", target="y", score=names, **QUICK)
    assert report.overall["accuracy"].value == 0.75
    path.write_text(path.read_text().replace(",".join(names), "q1,q2,q3"))
    with pytest.raises(ValueError, match=r"which column of q1, q2, q3 .*labels= names them"):
        FairnessReport.from_file(path, "g", target="y", score=["q1", "q2", "q3"], **QUICK)


def test_findings_with_blanks(tmp_path, capsys):
    options = {"target": ["edema", "effusion"], "score": ["p_edema", "p_effusion"]}
    report = both("findings.csv", ["sex"], tmp_path, capsys, **options)
    rows = [line.split(",") for line in (WILD / "findings.csv").read_text().splitlines()[1:]]
    rates = []
    for k in (0, 1):
        kept = [row for row in rows if row[k]]
        positive = [row for row in kept if row[k] == "1"]
        rates.append(sum(float(row[2 + k]) >= 0.5 for row in positive) / len(positive))
        assert len(kept) < len(rows)
    assert report.overall["tpr"].value == pytest.approx(np.mean(rates), abs=1e-12)
    # And a report a finding, of the rows in which it is known.
    for k, name in enumerate(options["target"]):
        kept = [row for row in rows if row[k]]
        y, p, sex = [int(r[k]) for r in kept], [float(r[2 + k]) for r in kept], [r[4] for r in kept]
        alone = FairnessReport.from_predictions(y, p, {"sex": sex}, **QUICK)
        found = report.findings[name]
        assert found.to_dict()["attributes"] == alone.to_dict()["attributes"]
        assert found.to_dict()["overall"] == alone.to_dict()["overall"]
        assert f"# Fairness report: {name}\n" in report.to_markdown()
        assert report.to_html().count(f"<h1>Fairness report: {name}</h1>") == 1
    assert main(["report", str(WILD / "findings.csv"), *flags(["sex"], options)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Fairness report: ") == 2
    assert printed.count("ECE: expected calibration error") == printed.count("AUC: chance") == 1
    page = report.to_html()
    assert page.count("AUC: chance that") == page.count("ECE: expected") == 1
    assert page.count("</body>") == page.count("<body") == 1
    frame = report.to_frame()
    assert list(dict.fromkeys(frame["finding"])) == [None, "edema", "effusion"]
    assert (frame["finding"] == "edema").sum() == len(report.findings["edema"].to_frame())
    only = FairnessReport.from_predictions([[1, np.nan], [0, np.nan]] * 20, [[0.5, 0.5]] * 40, ["a", "b"] * 20, **QUICK)
    assert list(only.findings) == ["0"]
    assert "1: no label is known." in only.warnings
    coded = FairnessReport.from_predictions([[1, 1], [0, 1]] * 20, [[0.5, 0.5]] * 40, [1, 2] * 20, **QUICK).to_frame()
    assert {type(v) for v in coded["group"].dropna()} == {int}


def test_per_sample_values(tmp_path, capsys):
    options = {"values": ["dice", "hausdorff"], "higher_is_better": {"hausdorff": False}}
    report = both("values.csv", ["sex"], tmp_path, capsys, **options)
    rows = [line.replace(",", ".").split(";") for line in (WILD / "values.csv").read_text().splitlines()[1:]]
    dice = [float(row[0]) for row in rows if row[0]]
    assert report.overall["dice"].value == pytest.approx(np.mean(dice), abs=1e-12)
    assert report.overall["dice"].samples == len(dice) < len(rows)
    by_sex = {s: np.mean([float(row[1]) for row in rows if row[2] == s]) for s in "FM"}
    assert report["sex"].gap("hausdorff").worst == max(by_sex, key=by_sex.get)
    with pytest.raises(ValueError, match="threshold"):
        FairnessReport.from_file(WILD / "values.csv", "sex", values="dice", threshold=0.3)


def test_weights(tmp_path, capsys):
    report = both(
        "weights.csv", ["sex"], tmp_path, capsys, target="y", score="p", sample_weight="w", patients="patient"
    )
    weight = np.array([1 + k % 3 for k in range(len(Y))])
    right = (np.array(P) >= 0.5) == np.array(Y)
    assert report.overall["accuracy"].value == pytest.approx((right * weight).sum() / weight.sum(), abs=1e-12)


def test_raw_ages_are_refused_at_once_with_what_to_do(tmp_path, capsys):
    arguments = ["--target", "y", "--score", "p", "--group", "age"]
    start = time.process_time()
    error = fails(capsys, "report", WILD / "raw_ages.csv", *arguments)
    assert time.process_time() - start < 1
    assert "300 different numbers between 18 and 92.75; --bins age=" in error
    with pytest.raises(ValueError, match=r"bins=\{'age': \[43, 68\]\}"):
        FairnessReport.from_file(WILD / "raw_ages.csv", "age", target="y", score="p")
    report = both("raw_ages.csv", ["age"], tmp_path, capsys, target="y", score="p", bins={"age": [40, 65]})
    assert [g.label for g in report["age"].groups] == ["<40", "40 to <65", "65+"]


def test_bands_are_sorted_and_lookalikes_named_once(tmp_path, capsys):
    report = both("bands.csv", ["age"], tmp_path, capsys, target="y", score="p")
    assert [g.label for g in report["age"].groups] == ["<40", "40-59", "60-99", "100+"]
    report = both("lookalikes.csv", ["sex"], tmp_path, capsys, target="y", score="p")
    assert {g.label for g in report["sex"].groups} == {"F", "f", "Female", "M", "m", "Male"}  # "F " is F
    named = [w for w in report.warnings if "'F', 'f'" in w]
    assert len(named) == 1
    assert "'F' and 'Female'" in named[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yes_no.csv", "line 2: 'y' is 'yes'; a label must be 0 or 1; name the positive label with {positive}"),
        ("thousands_or_decimals.csv", 'may be 8.852 (decimal comma: {decimal}",") or 8852 (decimal point'),
        ("sheet.xlsx", "an Excel file; save the sheet as CSV"),
        ("row_names.txt", "line 2: 6 cells, the header has 5; is the first cell a row's name, as R writes it"),
        ("classes.csv", "no column 'y'; the columns are diagnosis, p_nevus"),
    ],
)
def test_files_that_are_refused_with_what_to_do(name, message, capsys):
    flag, argument = (
        message.replace("{positive}", p).replace("{decimal}", d)
        for p, d in (("--positive", "--decimal "), ("positive=", "decimal="))
    )
    assert flag in fails(capsys, "report", WILD / name, "--target", "y", "--score", "p", "--group", "sex")
    with pytest.raises(ValueError, match=re.escape(argument)):
        FairnessReport.from_file(WILD / name, "sex", target="y", score="p")


def test_the_cures_cure(tmp_path, capsys):
    name = "thousands_or_decimals.csv"
    small = both(name, ["sex"], tmp_path, capsys, target="y", score="p", decimal=",", logits=True)
    large = both(name, ["sex"], tmp_path, capsys, target="y", score="p", decimal=".", logits=True)
    assert small.overall["auc"].value == large.overall["auc"].value


def test_standard_input(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((WILD / "packed.csv.gz").read_bytes())))
    out = tmp_path / "out.json"
    arguments = ["--target", "y", "--score", "p", "--group", "sex", "--replicates", "100", "--json", str(out)]
    assert main(["report", "-", *arguments]) == 0
    found = json.loads(out.read_text())
    plain = FairnessReport.from_predictions(Y, P, {"sex": SEX}, **QUICK)
    assert found["settings"]["source"] == "standard input"
    assert found["attributes"] == plain.to_dict()["attributes"]


def test_ids_as_whole_numbers_and_as_floats_are_matched_and_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    files, out = [str(WILD / "whole_ids.csv"), str(WILD / "float_ids.csv")], tmp_path / "out.json"
    columns = ["--target", "y", "--score", "p", "--group", "sex", "--id", "id", "--replicates", "100"]
    assert main(["compare", *files, *columns, "--json", str(out)]) == 0
    assert "float_ids.csv: id: ids such as 40.0 read as whole numbers.\n" in capsys.readouterr().out
    other = [round(1 - p, 2) for p in P]
    expected = compare_models(Y, {"a": P, "b": other}, SEX, **QUICK)[1]
    assert json.loads(out.read_text())["sex"][1]["gaps"]["accuracy"] == list(expected.gaps["accuracy"])
    twice = tmp_path / "twice.csv"
    twice.write_text((WILD / "whole_ids.csv").read_text() + "1.0,1,0.5,F\n")
    assert "'id' has both '1' and '1.0'; write them alike" in fails(capsys, "compare", files[0], twice, *columns)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"y,p,sex\n1,0.5,F\n1,85%,M\n", "line 2: 'p' has '85%' and '0.5'; write all with %, or none"),
        (b"y;p;q;sex\n1;0,5;0.5;F\n", "'p' has decimal commas, 'q' has decimal points"),
        (b"y,p,sex\n1,0,5,F\n", "4 cells, the header has 3; is the first cell a row's name"),
        (b"y,p,sex\n1,1_0,F\n", "'p' is '1_0'; a score must be a finite number"),
        (b"y,p,sex\n1,0.5,\xc3\xa9\n1,0.5,\xe9\n", "not a UTF-8 file (byte 0xe9 in line 3)"),
        (b"y,p,sex\n# note\n#1,0.5,F\n", "line 2: a comment (#) or a row cut off?"),
        (b"\x1f\x8b\x08\x00", "Compressed file ended"),
        (b"PAR1 is no table", "Parquet"),
    ],
)
def test_two_readings_and_damage(content, message, tmp_path):
    if content.startswith(b"PAR1"):
        pytest.importorskip("pyarrow")
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    scores = ["p", "q"] if b"q" in content.split(b"\n")[0] else ["p"]
    with pytest.raises(ValueError, match=re.escape(message)):
        FairnessReport.from_file(path, "sex", target="y", score=scores)


def test_classes_as_decisions(tmp_path):
    for name, classes in (("words", ["benign", "nevus", "other"]), ("numbers", [0, 1, 2])):
        path = tmp_path / f"{name}.csv"
        pairs = [(0, 0), (1, 1), (2, 2), (2, 1)] * 10
        path.write_text("y,p,g\n" + "".join(f"{classes[a]},{classes[b]},{'FM'[b % 2]}\n" for a, b in pairs))
        report = FairnessReport.from_file(path, "g", target="y", score="p", **QUICK)
        assert report.settings["task"] == "multiclass"
        assert report.overall["accuracy"].value == 0.75
    # Labels that may be one, or none, are no further class.
    for third, message in [
        ("Nevus", "'Nevus', 'nevus'"),
        ("", "'y' is ''; a label is needed"),
        ("NA", "'y' is 'NA'; a label"),
    ]:
        path.write_text("y,p,g\n" + f"nevus,benign,F\nbenign,benign,M\nother,nevus,F\n{third},nevus,M\n" * 10)
        with pytest.raises(ValueError, match=message):
            FairnessReport.from_file(path, "g", target="y", score="p")
    kept = FairnessReport.from_file(path, "g", target="y", score="p", ignore_index="NA", **QUICK)
    assert kept.settings["samples"] == 30
    # A third label beside decisions of two is a mistake, or --labels says that it is none.
    path.write_text("y,p,g\n" + "0,1,F\n1,1,M\n2,0,F\n" * 10)
    with pytest.raises(ValueError, match=r"line 4: 'y' is '2'; a label must be 0 or 1"):
        FairnessReport.from_file(path, "g", target="y", score="p")
    named = FairnessReport.from_file(path, "g", target="y", score="p", labels=[0, 1, 2], **QUICK)
    assert named.overall["accuracy"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize("pair", [("False", "True"), ("false", "TRUE"), ("0", "True"), ("0", "1.0")])
def test_labels_and_decisions_that_are_truth_values(tmp_path, pair):
    path = tmp_path / "a.csv"
    path.write_text("y,p,g\n" + "".join(f"{pair[k % 2]},{k % 3 == 0},{'FM'[k % 5 > 1]}\n" for k in range(60)))
    report = FairnessReport.from_file(path, "g", target="y", score="p", **QUICK)
    y, p = np.arange(60) % 2, np.arange(60) % 3 == 0
    assert report.overall["accuracy"].value == pytest.approx((y == p).mean())
    path.write_text(path.read_text().replace("True", "yes").replace("False", "no"))
    with pytest.raises(ValueError, match=r"name the positive label with positive=|p.* must be a finite number"):
        FairnessReport.from_file(path, "g", target="y", score="p")


def test_weights_that_differ_between_files_are_refused(tmp_path, capsys):
    other = tmp_path / "other.csv"
    other.write_text((WILD / "weights.csv").read_text().replace(",1\n", ",2\n", 1))
    columns = ["--target", "y", "--score", "p", "--group", "sex", "--weights", "w"]
    assert re.search(
        "row [0-9]+: 'w' is 2.0, in .*weights.csv 1.0", fails(capsys, "compare", WILD / "weights.csv", other, *columns)
    )


def test_too_many_groups_to_compare_are_refused_at_once(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("y,p,id,a,b\n" + "".join(f"{k % 2},0.{k % 9},P{k},a{k % 20},b{k % 19}\n" for k in range(3000)))
    start = time.process_time()
    error = fails(capsys, "report", path, "--target", "y", "--score", "p", "--group", "id")
    assert time.process_time() - start < 1
    assert "at most 200 groups, got 3000 different labels, such as 'P0'; leave it out where it is an id" in error
    with pytest.raises(ValueError, match="at most 200 groups"):
        compare_models([0, 1] * 150, {"a": [0.5] * 300}, [f"P{k}" for k in range(300)])
    report = FairnessReport.from_file(path, ["a", "b"], target="y", score="p", **QUICK)
    assert [a.name for a in report.attributes] == ["a", "b"]
    assert "a & b: 380 combinations are too many to compare, and are left out." in report.warnings


def test_rows_between_comments_and_without_cells(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("y,p,sex\n" + "1,0.9,F\n0,0.2,M\n" * 10 + "# half time\n,,\n\n" + "0,0.7,F\n1,0.1,M\n" * 10)
    report = FairnessReport.from_file(path, "sex", target="y", score="p", **QUICK)
    assert report.settings["samples"] == 40
    assert report.overall["accuracy"].value == 0.5
    assert report.settings["read_as"] == ("comment lines (#) left out: 1", "rows without any cell left out: 1")


def test_parquet_with_missing_values_and_categories(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(
        {
            "y": [True, False] * 20,
            "p": np.tile(np.array([0.7, 0.2, 0.1, 0.6], dtype=np.float32), 10),
            "sex": pandas.Categorical(["F", "M", None, "F"] * 10),
            "site": pandas.array([1, None, 2, 1] * 10, dtype="Int64"),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    options = {"target": "y", "score": "p", "threshold": 0.7, "intersections": False, **QUICK}
    report = FairnessReport.from_file(tmp_path / "a.parquet", ["sex", "site"], **options)
    assert [g.label for g in report["site"].groups] == [1, 2]
    assert [report[a].unknown for a in ("sex", "site")] == [10, 10]
    assert report.overall["accuracy"].value == 0.75  # 0.7 of float32 is at least 0.7


def test_pyarrow_is_named_where_it_is_needed(monkeypatch, capsys):
    for module in [m for m in sys.modules if m.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    columns = ["--target", "y", "--score", "p", "--group", "sex"]
    assert "pip install 'pyarrow'" in fails(capsys, "report", WILD / "table.parquet", *columns)


def test_every_file_of_the_folder_is_in_a_test():
    text = Path(__file__).read_text()
    assert len(list(WILD.iterdir())) >= 20
    for file in WILD.iterdir():
        assert file.name in text
