"""``fairloss compare``: models side by side, what it refuses and warns of, what its plot says."""

from __future__ import annotations

import json
import re

import pytest

import fairloss.report as fr
from fairloss.report.cli import main
from tests.report.command import COLUMNS, fails, predictions, write


def test_compare(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    other = write(tmp_path / "other.csv", predictions(1))
    numbers, plot = tmp_path / "out.json", tmp_path / "front.svg"
    arguments = ["compare", file, other, *COLUMNS, "--group", "age", "--replicates", "150"]
    assert main([*arguments, "--json", str(numbers), "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert "predictions" in out
    assert "other" in out
    assert plot.read_text().startswith("<?xml")
    found = json.loads(numbers.read_text())
    assert list(found) == ["sex", "age"]
    rows, second = predictions(), predictions(1)
    y, sex = [r["y"] for r in rows], [r["sex"] for r in rows]
    expected = fr.gap_difference_test(
        y, [r["p"] for r in rows], [r["p"] for r in second], sex, metric="auc", num_replicates=150
    )
    test = found["sex"][1]["against_first"]["auc"]
    assert (test["difference"], test["p_value"]) == (expected.difference, expected.p_value)
    # Rows in another order are matched by an id column, and refused without.
    shuffled = write(tmp_path / "shuffled.csv", predictions(1)[::-1])
    assert main(["compare", file, shuffled, *arguments[3:], "--id", "id", "--json", str(numbers)]) == 0
    assert json.loads(numbers.read_text())["sex"][1]["gaps"] == found["sex"][1]["gaps"]
    capsys.readouterr()
    assert "match rows with --id" in fails(capsys, "compare", file, shuffled, *COLUMNS)


def test_compare_refuses_other_samples(file, tmp_path, capsys):
    short = write(tmp_path / "short.csv", predictions()[:150])
    assert "150 rows" in fails(capsys, "compare", file, short, *COLUMNS)
    assert "at least two files" in fails(capsys, "compare", file, *COLUMNS)
    assert "a file is given twice" in fails(capsys, "compare", file, file, *COLUMNS)
    codes = [
        write(tmp_path / f"{i}.csv", [r | {"id": f"{i}{k}"} for k, r in enumerate(predictions())]) for i in ("", "00")
    ]
    assert "ids are texts, so that 0 and 000 differ" in fails(capsys, "compare", *codes, *COLUMNS, "--id", "id")
    assert "id 's150' is not in both" in fails(capsys, "compare", file, short, *COLUMNS, "--id", "id")
    assert "got 'acc'" in fails(capsys, "compare", file, write(tmp_path / "b.csv", predictions(1)), *COLUMNS,
                                     "--metric", "acc")  # fmt: skip
    rows = predictions()
    rows[1]["id"] = rows[0]["id"]
    assert "is repeated" in fails(capsys, "compare", file, write(tmp_path / "c.csv", rows), *COLUMNS, "--id", "id")


def test_compare_with_an_attribute_of_one_group(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    files = [write(tmp_path / f"{s}.csv", [{**r, "site": "here"} for r in predictions(s)]) for s in (0, 1)]
    numbers, plot = tmp_path / "a.json", tmp_path / "a.svg"
    arguments = ["compare", *files, *COLUMNS, "--group", "site", "--replicates", "100", "--json", str(numbers)]
    assert main([*arguments, "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert "Warning: site: only here occurs, so there is nothing to compare.\n" in out
    assert "nan" not in out.replace(str(tmp_path), "")
    found = json.loads(numbers.read_text())
    assert found["site"][0]["gaps"]["accuracy"] == [None] * 3
    assert found["sex"][0]["gaps"]["accuracy"][0] > 0
    plot.unlink()
    one = [*arguments[:3], "--target", "y", "--score", "p", "--group", "site", "--plot", plot]
    assert "over site no model has a gap in accuracy to draw" in fails(capsys, *one)
    assert not plot.exists()


def test_compare_warns_of_small_and_undefined_groups(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    files = []
    for seed in (0, 1):
        rows = predictions(seed)
        for i in range(8):
            rows[i].update(sex="X", y=1)
        for row in rows:  # the second model's decisions are all negative in M
            row["p"] = 0.0 if seed and row["sex"] == "M" else row["p"]
        files.append(write(tmp_path / f"m{seed}.csv", rows))
    arguments = ["compare", *files, *COLUMNS, "--replicates", "100", "--metric", "fdr", "--metric", "fpr"]
    assert main(arguments) == 0  # and no Python warning, which would be an error here
    out, err = capsys.readouterr()
    assert not err
    lines = [line for line in out.splitlines() if line.startswith("Warning: ")]
    assert "Warning: sex: X has 8 samples, too few to judge." in lines
    assert "Warning: m1: sex: FDR undefined in M, left out of the comparison." in lines
    assert "Warning: sex: FPR undefined in X, left out of the comparison." in lines
    assert len(set(lines)) == len(lines)
    assert main([*arguments, "--min-group-size", "150"]) == 0
    assert "Warning: sex: F has " in capsys.readouterr().out


def test_compare_refuses_other_patients_and_wrong_resampling(file, tmp_path, capsys):
    other = predictions(1)
    assert main(["compare", file, write(tmp_path / "same.csv", other), *COLUMNS, "--patient", "person"]) == 0
    capsys.readouterr()
    other[2]["person"] = 77
    other = write(tmp_path / "other.csv", other)
    error = fails(capsys, "compare", file, other, *COLUMNS, "--patient", "person")
    assert "row 3: 'person' is '77', in" in error
    assert "match rows with --id" in error
    for option, value, message in [
        ("--replicates", 0, "num_replicates: .*0"),
        ("--replicates", 1, r"num_replicates: .*\b1\b"),
        ("--replicates", -5, "num_replicates: .*-5"),
        ("--level", 95, r"level: .*95\.0"),
    ]:
        assert re.search(message, fails(capsys, "compare", file, other, *COLUMNS, option, value))


@pytest.mark.parametrize(
    ("metric", "label", "value"),
    [
        ("tpr", "tpr", lambda v: v),
        ("fpr", "1 - fpr", lambda v: 1 - v),
        ("ece", "1 - ece", lambda v: 1 - v),
        ("bce", "minus bce", lambda v: -v),
    ],
)
def test_plot_says_what_it_draws(file, tmp_path, capsys, monkeypatch, metric, label, value):
    from fairloss.report import plots

    seen = {}

    def plot_pareto(*arguments, **options):
        seen.update(options, arguments=arguments)
        return original(*arguments, **options)

    original = plots.plot_pareto
    monkeypatch.setattr(plots, "plot_pareto", plot_pareto)
    other, numbers = write(tmp_path / "other.csv", predictions(1)), tmp_path / "a.json"
    options = ["--metric", metric, "--plot", str(tmp_path / "a.svg"), "--json", str(numbers), "--replicates", "100"]
    assert main(["compare", file, other, *COLUMNS, *options]) == 0
    models = json.loads(numbers.read_text())["sex"]
    performance, disparity, names = seen["arguments"]
    assert seen["performance_label"] == label
    assert performance == [value(m["overall"][metric]) for m in models]
    assert (disparity, names) == ([m["gaps"][metric][0] for m in models], ["predictions", "other"])
    assert seen["disparity_label"] == f"{metric} gap over sex"


def test_the_footnote_is_true_of_models_alike(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    same = write(tmp_path / "same.csv", predictions())
    assert main(["compare", file, same, *COLUMNS, "--replicates", "100"]) == 0
    out = capsys.readouterr().out
    assert "predictions *" in out
    assert "same *" in out
    assert "no other model is at least as good in both and better in one." in out
