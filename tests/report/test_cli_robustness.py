"""Either command with odd files, names, terminals and numbers."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from fairloss.report.cli import main
from tests.report.command import COLUMNS, fails, predictions, write


def test_the_whole_command_leaves_torch_out(file):
    code = (
        f"import sys; from fairloss.report.cli import main; main(['report', {file!r}, *{COLUMNS!r}, '--replicates', '100'])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


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
    assert re.search("0 .. 87.3.*divide percentages by 100.*threshold", fails(capsys, command, *files, *COLUMNS))
    threshold = ["--replicates", "100", "--threshold", "40"]
    if command == "compare":  # one threshold for two scales
        assert "threshold: expected a number in [0, 1]" in fails(capsys, command, *files, *COLUMNS, *threshold)
        files = [percent, write(tmp_path / "other.csv", [{**r, "p": 80 * r["p"]} for r in predictions()])]
    assert main([command, *files, *COLUMNS, *threshold]) == 0
