"""The command line: what it prints and writes, and one clear line with exit code 2 for wrong input."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import fairloss.report as fr
from fairloss.report.cli import main

COLUMNS = ["--target", "y", "--score", "p", "--group", "sex"]


def predictions(seed=0, n=200):
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    y, sex, age = fixed.integers(0, 2, n), fixed.choice(["F", "M"], n), fixed.choice(["old", "young"], n)
    p = np.clip(0.25 + 0.5 * y + 0.3 * rng.standard_normal(n), 0, 1).round(3)
    return [
        {"id": f"s{i}", "y": int(y[i]), "p": float(p[i]), "sex": sex[i], "age": age[i], "person": i // 2}
        for i in range(n)
    ]


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "predictions.csv", predictions())


def fails(capsys, *arguments):
    """The one line of an error with exit code 2."""
    assert main(list(map(str, arguments))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fairloss: error: ")
    assert err.count("\n") == 1
    return err


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
    assert json.loads(numbers.read_text()) == expected
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
    assert "line 5: the group 'sex' is empty; pass --unknown" in error
    options = ["--unknown", "", "--unknown", "N/A", "--json", str(out), "--replicates", "100"]
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
        (lambda r: r[7].update(sex=" "), "line 9: the group 'sex' is empty"),
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
        ("binary.csv", b"\xff\xfe\x00\x01", "not a UTF-8 file"),
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
    assert "id 's150' is not in both" in fails(capsys, "compare", file, short, *COLUMNS, "--id", "id")
    assert "got 'acc'" in fails(capsys, "compare", file, write(tmp_path / "b.csv", predictions(1)), *COLUMNS,
                                     "--metric", "acc")  # fmt: skip
    rows = predictions()
    rows[1]["id"] = rows[0]["id"]
    assert "is repeated" in fails(capsys, "compare", file, write(tmp_path / "c.csv", rows), *COLUMNS, "--id", "id")


def test_cells_that_are_minus_one_or_nan_are_unknown(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = predictions()
    for row, cell in zip(rows, ("-1", "NaN", "nan", "-1.0", "none"), strict=False):
        row["sex"] = cell
    first, out = write(tmp_path / "a.csv", rows), tmp_path / "a.json"
    second = write(
        tmp_path / "b.csv", [{**new, "sex": old["sex"]} for old, new in zip(rows, predictions(1), strict=True)]
    )
    options = [*COLUMNS, "--unknown", "none", "--replicates", "100", "--json", str(out)]
    line = "sex: unknown (-1, NaN or --unknown) in 5 of 200 rows, which are in the overall values only\n"
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
    # Without such cells nothing is said; other words remain labels.
    rows = predictions()
    rows[0]["sex"] = "NA"
    assert main(["report", write(tmp_path / "c.csv", rows), *options]) == 0
    assert "unknown (" not in capsys.readouterr().out
    assert [g["label"] for g in json.loads(out.read_text())["attributes"]["sex"]["groups"]] == ["F", "M", "NA"]
    for row in rows:
        row["sex"] = "-1"
    assert "every row of 'sex' is unknown" in fails(capsys, "report", write(tmp_path / "d.csv", rows), *COLUMNS)


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


def test_help_imports_little():
    code = (
        "import sys; from fairloss.report.cli import main\n"
        "try: main(['report', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'scipy', 'pandas', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--threshold" in done.stdout


def test_the_whole_command_leaves_torch_out(file):
    code = (
        f"import sys; from fairloss.report.cli import main; main(['report', {file!r}, *{COLUMNS!r}, '--replicates', '100'])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("command", ["report", "compare"])
def test_files_are_written_before_a_closed_pipe_ends_the_command(command, file, tmp_path):
    out = tmp_path / "out.json"
    files = [file] if command == "report" else [file, write(tmp_path / "other.csv", predictions(1))]
    code = "from fairloss.report.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    arguments = [command, *map(str, files), *COLUMNS, "--replicates", "100", "--json", str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        process.stdout.close()
        process.wait()
    assert json.loads(out.read_text())


def test_quotes_and_leading_blank_lines(tmp_path, capsys):
    path, out = tmp_path / "a.csv", tmp_path / "a.json"
    rows = b'0,0.2,"a, b"\r\n1,0.9,"two\r\nlines ""so"""\r\n' * 20
    path.write_bytes(b"\xef\xbb\xbf\r\n \r\n" + b"y,p,sex\r\n" + rows)
    assert main(["report", str(path), *COLUMNS, "--replicates", "100", "--json", str(out)]) == 0
    groups = json.loads(out.read_text())["attributes"]["sex"]["groups"]
    assert [(g["label"], g["samples"]) for g in groups] == [("a, b", 20), ('two\r\nlines "so"', 20)]
    capsys.readouterr()
    path.write_bytes(b"\n\ny,p,sex\n1,2\n")
    assert "line 4: 2 cells" in fails(capsys, "report", path, *COLUMNS)


@pytest.mark.parametrize("command", ["report", "compare"])
def test_labels_that_the_terminal_cannot_write(command, tmp_path, monkeypatch):
    rows = [{**r, "sex": "Zürich" if r["sex"] == "F" else "北京"} for r in predictions()]
    rows[0]["sex"] = "ö"  # a small group: its label is in a warning of the comparison
    files = [write(tmp_path / name, rows) for name in ("ä.csv", "b.csv")[: 1 if command == "report" else 2]]
    code = "from fairloss.report.cli import main; import sys; sys.exit(main(sys.argv[1:]))"

    def run(*arguments, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return subprocess.run([sys.executable, "-c", code, command, *arguments], capture_output=True, check=False)

    done = run(*files, *COLUMNS, "--replicates", "100", PYTHONIOENCODING="ascii", COLUMNS="200")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"Warning: sex: \xf6 has 1 sample" in done.stdout
    done = run(*["ü.csv", "v.csv"][: len(files)], *COLUMNS)
    assert done.returncode == 2
    assert rb"\xfc.csv: No such file" in done.stderr
    chosen = run(*files, *COLUMNS, "--replicates", "100", PYTHONIOENCODING="ascii:replace")
    assert b"Warning: sex: ? has 1 sample" in chosen.stdout


def test_a_column_named_like_an_intersection(tmp_path, capsys):
    path = write(tmp_path / "a.csv", [{**r, "sex & age": "x"} for r in predictions()])
    options = ["report", path, *COLUMNS, "--group", "age", "--group", "sex & age", "--replicates", "100"]
    assert "got 'sex & age', which is also that of" in fails(capsys, *options)
    assert main([*options, "--no-intersections"]) == 0


def test_glyphs_that_the_font_lacks(tmp_path, capsys):
    rows = [{**r, "sex": {"F": "北京", "M": "🙂 עברית"}[r["sex"]]} for r in predictions()]
    path, page = write(tmp_path / "a.csv", rows), tmp_path / "a.html"
    assert main(["report", path, *COLUMNS, "--replicates", "100", "--html", str(page)]) == 0
    assert capsys.readouterr().err == ""
    drawn = "".join(re.findall("<svg.*?</svg>", page.read_text(encoding="utf-8"), re.DOTALL))
    assert re.search("<text[^>]*>北京</text>", drawn)
    assert re.search("<text[^>]*>🙂 עברית</text>", drawn)


@pytest.mark.parametrize("name", ["front", "front."])
def test_a_plot_without_a_suffix(file, tmp_path, capsys, name):
    other = write(tmp_path / "other.csv", predictions(1))
    arguments = ["compare", file, other, *COLUMNS, "--replicates", "100", "--plot"]
    assert main([*arguments, str(tmp_path / name)]) == 0
    assert f"wrote {tmp_path / 'front.png'}\n" in capsys.readouterr().out
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / name).exists()
    (tmp_path / "taken.png").mkdir()
    assert "taken.png: no file can be written there" in fails(capsys, *arguments, tmp_path / "taken")
    assert "no file can be written there" in fails(capsys, *arguments, tmp_path)


def test_the_footnote_is_true_of_models_alike(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    same = write(tmp_path / "same.csv", predictions())
    assert main(["compare", file, same, *COLUMNS, "--replicates", "100"]) == 0
    out = capsys.readouterr().out
    assert "predictions *" in out
    assert "same *" in out
    assert "no other model is at least as good in both and better in one." in out


@pytest.mark.parametrize("command", ["report", "compare"])
def test_wrong_numbers_and_scales(command, file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    percent = write(tmp_path / "percent.csv", [{**r, "p": 87.3 * r["p"]} for r in predictions()])
    files = [percent] if command == "report" else [file, percent]
    assert re.search("seed: .*-1", fails(capsys, command, *files, *COLUMNS, "--seed", -1))
    assert "min_group_size: " in fails(capsys, command, *files, *COLUMNS, "--min-group-size", -1)
    for value, message in [("abc", "a number"), ("inf", "a finite number")]:
        with pytest.raises(SystemExit):
            main([command, *files, *COLUMNS, "--threshold", value])
        err = capsys.readouterr().err
        assert re.search(f"argument --threshold: .*({value}.*{message}|{message}.*{value})", err)
    line = "Scores reach 87.3: are they percentages? Decisions were made at 0.5."
    assert main([command, *files, *COLUMNS, "--group", "age", "--replicates", "100"]) == 0
    assert capsys.readouterr().out.count(("Warning: " if command == "report" else "Warning: percent: ") + line) == 1
    assert main([command, *files, *COLUMNS, "--replicates", "100", "--threshold", "40"]) == 0
    assert "percentages" not in capsys.readouterr().out
