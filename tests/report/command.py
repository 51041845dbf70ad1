"""Predictions in files for the command line, and its errors."""

import csv

import numpy as np

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


def fails(capsys, *arguments):
    """The one line of an error with exit code 2."""
    assert main(list(map(str, arguments))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fairloss: error: ")
    assert err.count("\n") == 1
    return err
