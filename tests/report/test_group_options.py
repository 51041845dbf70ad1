"""unknown, known and bins: the same groups from functions, report, comparison and command line, or the same refusal."""

from __future__ import annotations

import csv
import io
import json
import warnings

import numpy as np
import pandas as pd
import pytest

import fairloss.metrics as fm
from fairloss.groups.encode import GroupLabelWarning
from fairloss.report import FairnessReport, compare_models, gap_difference_test
from fairloss.report.cli import main
from tests.report.command import COLUMNS, fails, write

FEW = ["--replicates", "100"]


def rows(rng, **columns):
    """60 rows of labels, scores, and columns repeated to that length."""
    y = rng.integers(0, 2, 60)
    p = np.clip(0.3 + 0.4 * y + 0.3 * rng.standard_normal(60), 0, 1).round(3)
    given = {name: [v[i % len(v)] for i in range(60)] for name, v in columns.items()}
    return [{"y": int(y[i]), "p": float(p[i]), **{k: v[i] for k, v in given.items()}} for i in range(60)]


def of_library(path, attributes, **options):
    """The file's report by pandas, which decides nothing, and the library."""
    table = pd.read_csv(path, keep_default_na=False)
    report = FairnessReport.from_predictions(table["y"], table["p"], table[attributes], num_replicates=100, **options)
    return json.loads(json.dumps(report.to_dict()))


CASES = {
    "empty": ({"g": ["F", "M", "", "F"]}, [], {}),
    "minus one": ({"g": ["F", "M", -1, "F"]}, [], {}),
    "missing text": ({"g": ["F", "NA", "M"]}, ["--unknown", "NA"], {"unknown": ["NA"]}),
    "text that names a group": ({"g": ["F", "NA", "M"]}, ["--known", "NA"], {"known": ["NA"]}),
    "of one column": (
        {"g": ["NA", "ZA"], "h": ["NA", "F", "M"]},
        ["--known", "g=NA", "--unknown", "h=NA"],
        {"known": {"g": ["NA"]}, "unknown": {"h": ["NA"]}},
    ),
    "bands": ({"g": range(20, 80)}, ["--bins", "g=40,65"], {"bins": {"g": [40, 65]}}),
    "bands of parts": ({"g": [0.5, 1.25, 2.75, ""]}, ["--bins", "g=1.5"], {"bins": {"g": [1.5]}}),
    "codes": ({"g": range(100, 115)}, ["--bins", "g=none"], {"bins": {"g": None}}),
    "few codes": ({"g": [0, 1, 2]}, [], {}),
    "codes and empty cells": ({"g": [0, 1, "", 10, 2]}, [], {}),
    "bands as texts": ({"g": ["100+", "<40", "40-59", "60-99"]}, [], {}),
    "alike": ({"g": ["F", "f", "M"]}, [], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_the_groups_of_its_frame(tmp_path, capsys, rng, case):
    columns, flags, options = CASES[case]
    path = write(tmp_path / "a.csv", rows(rng, **columns))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GroupLabelWarning)
        if case == "bands of parts" or case == "codes and empty cells":  # pandas reads such a column as texts
            table = pd.read_csv(path)
            groups = table[list(columns)]
            wanted = FairnessReport.from_predictions(table["y"], table["p"], groups, num_replicates=100, **options)
            wanted = json.loads(json.dumps(wanted.to_dict()))
        else:
            wanted = of_library(path, list(columns), **options)
    out = tmp_path / "a.json"
    groups = [part for name in columns for part in ("--group", name)]
    assert main(["report", path, "--target", "y", "--score", "p", *groups, *flags, *FEW, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    of_file = {name: found["settings"].pop(name) for name in ("source", "sha256", "read_as")}
    assert of_file["source"] == str(path)
    assert found == wanted
    other = write(tmp_path / "b.csv", pd.read_csv(path, keep_default_na=False, dtype=str).to_dict("records"))
    common = ["--target", "y", "--score", "p", *groups, *flags, *FEW, "--json", str(out)]
    assert main(["compare", path, other, *common]) == 0
    for name in columns:
        values = {g["label"]: g["metrics"]["accuracy"]["value"] for g in wanted["attributes"][name]["groups"]}
        defined = [v for v in values.values() if v is not None]
        assert json.loads(out.read_text())[name][0]["gaps"]["accuracy"][0] == pytest.approx(max(defined) - min(defined))
    assert ("blanks or type alone: 'F', 'f'" in " ".join(capsys.readouterr().out.split())) == (case == "alike")


def test_labels_of_bands_and_codes(tmp_path, rng):
    def labels(cells, *flags):
        out, path = tmp_path / "a.json", write(tmp_path / "a.csv", rows(rng, sex=cells))
        assert main(["report", path, *COLUMNS, *flags, *FEW, "--json", str(out)]) == 0
        return [g["label"] for g in json.loads(out.read_text())["attributes"]["sex"]["groups"]]

    assert labels(["100+", "<40", "40-59"]) == ["<40", "40-59", "100+"]
    assert labels(["0.0", "1.0", ""]) == labels(["0", "1", "-1"]) == labels(["1", "1.0", "0"]) == [0, 1]
    assert labels(["007", "7", "12"]) == ["007", "7", "12"]  # leading zeros are a code's
    assert labels(["10", "9", "x"]) == ["9", "10", "x"]
    assert labels([20, 50, 70], "--bins", "sex=40,65") == ["<40", "40-64", "65+"]
    assert labels([20, 50.5, 70], "--bins", "sex=40,65") == ["<40", "40 to <65", "65+"]


@pytest.mark.parametrize(
    ("cells", "flags", "message"),
    [
        (["F", "NA"], [], "column 'sex': expected labels that can be read one way, got 'NA'; --unknown sex=NA if"),
        (["F", "nan"], [], "--unknown sex=nan if it means missing, --known sex=nan if it names a group"),
        (["F", "<NA>", "None"], [], "got '<NA>', 'None'; --unknown 'sex=<NA>' --unknown sex=None if"),
        (["F", "NA"], ["--unknown", "NA", "--known", "NA"], "known: expected labels that are not in unknown, got 'NA'"),
        (range(20, 60), [], "got 40 different numbers between 20 and 59; --bins sex=33,46 cuts them"),
        (range(20, 60), [], "--bins sex=none takes them as codes"),
        ([*range(20, 60), "unsure"], [], "--bins sex=33,46"),
        ([*range(20, 60), "unsure"], ["--bins", "sex=40"], "got 'unsure'; --unknown sex=unsure leaves it out"),
        (range(20, 60), ["--bins", "age=40"], "--bins age=40: no column of --group, which are sex"),
        (range(20, 60), ["--bins", "sex=65,40"], "bins: expected increasing numbers, such as [40, 65], got [65, 40]"),
        ([-2, -1, 0, 1], [], "got -2; --unknown sex=-2 if it means unknown, --known sex=-2"),
        (["", " ", "-1"], [], "every row of 'sex' is unknown"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_the_option_to_add(tmp_path, capsys, rng, cells, flags, message):
    path = write(tmp_path / "a.csv", rows(rng, sex=cells))
    for command in (["report", path], ["compare", path, write(tmp_path / "b.csv", rows(rng, sex=cells))]):
        error = fails(capsys, *command, *COLUMNS, *flags)
        assert message in error
        assert path in error or "--bins age" in error


@pytest.mark.parametrize("bins", ["40,65", "sex=", "sex=40;65", "sex=a", "sex=inf"])
def test_bins_are_a_column_and_edges(capsys, bins):
    with pytest.raises(SystemExit) as stop:
        main(["report", "a.csv", *COLUMNS, "--bins", bins])
    assert stop.value.code == 2
    assert "--bins" in capsys.readouterr().err


def test_files_that_write_codes_differently_are_compared(tmp_path, capsys, rng):
    same = rows(rng, sex=[0, 1, -1])
    other = [{**row, "sex": {0: "0.0", 1: "1.0", -1: ""}[row["sex"]]} for row in same]
    assert main(["compare", write(tmp_path / "a.csv", same), write(tmp_path / "b.csv", other), *COLUMNS, *FEW]) == 0
    capsys.readouterr()
    other[4]["sex"] = "1.0" if same[4]["sex"] == 0 else "0.0"
    error = fails(capsys, "compare", tmp_path / "a.csv", write(tmp_path / "c.csv", other), *COLUMNS)
    assert "row 5: 'sex' is" in error


@pytest.mark.parametrize("cell", ["", "NA", "nan", "-1", "None"])
def test_missing_patients_are_no_patient(tmp_path, capsys, rng, cell):
    """All of them would be one, drawn together."""
    data = rows(rng, sex=["F", "M"], person=[*map(str, range(29)), cell])
    error = fails(capsys, "report", write(tmp_path / "a.csv", data), *COLUMNS, "--patient", "person")
    assert f"line 31: 'person' is {cell!r}; an id is needed" in error
    table = pd.DataFrame(data)
    for patients in (table["person"], table["person"].tolist(), table["person"].to_numpy(dtype=str)):
        with pytest.raises(ValueError, match="patients: .*position 29.*id of its own"):
            FairnessReport.from_predictions(table["y"], table["p"], table["sex"], patients=patients)


def test_options_of_the_library(rng):
    table = pd.DataFrame(rows(rng, country=["NA", "ZA"], sex=["F", "M", "?", "f"], age=range(20, 80)))
    y, p, attributes = table["y"], table["p"], table[["country", "sex", "age"]]
    options = {"known": {"country": ["NA"]}, "unknown": {"sex": ["?"]}, "bins": {"age": [50]}}
    with pytest.raises(ValueError, match=r"groups\['country'\]: .*known=\{'country': \['NA'\]\}"):
        FairnessReport.from_predictions(y, p, attributes)
    with pytest.raises(ValueError, match="unknown: expected names of attributes .*'race'"):
        FairnessReport.from_predictions(y, p, attributes, unknown={"race": ["?"]})
    with pytest.warns(GroupLabelWarning, match=r"groups\['sex'\]: .*'F', 'f'"):
        report = FairnessReport.from_predictions(y, p, attributes, num_replicates=100, **options)
    assert [g.label for g in report["country"].groups] == ["NA", "ZA"]
    assert [g.label for g in report["sex"].groups] == ["F", "M", "f"]
    assert [g.label for g in report["age"].groups] == ["<50", "50+"]
    assert report["sex"].unknown == 15
    assert sum(n.startswith("sex: some labels differ in case") for n in report.warnings) == 1
    with pytest.warns(GroupLabelWarning) as caught:
        models = compare_models(
            y, {"a": p, "b": 1 - p}, attributes, metrics=["accuracy"], num_replicates=100, **options
        )
    assert len([w for w in caught if w.category is GroupLabelWarning]) == 1
    with pytest.warns(GroupLabelWarning):
        gap = fm.max_accuracy_gap(y, p, attributes, **options)
    assert models[0].gaps["accuracy"][0] == gap
    with pytest.warns(GroupLabelWarning):
        test = gap_difference_test(y, p, 1 - p, attributes, num_replicates=100, **options)
    assert test.gap_a == gap
    values = FairnessReport.from_values({"v": p}, table["age"], bins=[50], num_replicates=100)
    assert [g.label for g in values["group"].groups] == ["<50", "50+"]
    mean = fm.group_mean(p, table["age"], bins=[50])
    assert [g.metrics["v"].value for g in values["group"].groups] == mean.values.tolist()


def test_one_reading_in_every_path(tmp_path, rng):
    """The plainest form of the data, groups written out by hand, through all that shows a number."""
    ages = [None if a == 33 else int(a) for a in rng.integers(20, 90, 60)]
    plain = [None if a is None else "<40" if a < 40 else "40-64" if a < 65 else "65+" for a in ages]
    data = rows(rng, age=["" if a is None else a for a in ages])
    y, p = [r["y"] for r in data], [r["p"] for r in data]
    wanted = fm.group_metric("tpr", y, p, plain).to_dict()
    forms = [
        np.array(ages, dtype=float),
        pd.Series(ages),
        pd.Series(ages, dtype="Int64"),
        ages,
        np.array(ages, dtype=object),
    ]
    for groups in forms:
        assert fm.group_metric("tpr", y, p, fm.cross_groups({"age": groups}, bins=[40, 65])).to_dict() == wanted
        assert fm.equal_opportunity_difference(y, p, groups, bins=[40, 65]) == fm.equal_opportunity_difference(
            y, p, plain
        )
        report = FairnessReport.from_predictions(y, p, {"age": groups}, bins={"age": [40, 65]}, num_replicates=100)
        assert {g.label: g.metrics["tpr"].value for g in report["age"].groups} == wanted
    text = io.StringIO()
    writer = csv.DictWriter(text, data[0])
    writer.writeheader()
    writer.writerows(data)
    path, out = tmp_path / "a.csv", tmp_path / "a.json"
    path.write_text(text.getvalue())
    columns = ["--target", "y", "--score", "p", "--group", "age", "--bins", "age=40,65"]
    assert main(["report", str(path), *columns, *FEW, "--json", str(out)]) == 0
    groups = json.loads(out.read_text())["attributes"]["age"]["groups"]
    assert {g["label"]: g["metrics"]["tpr"]["value"] for g in groups} == wanted
