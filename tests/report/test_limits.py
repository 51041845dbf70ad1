"""Limits for continuous integration, and the section of a model card."""

from __future__ import annotations

import numpy as np
import pytest

import fairloss.report as fr
from fairloss.report.cli import main
from tests.report.command import COLUMNS, fails, predictions, write


@pytest.fixture
def unfair(tmp_path):
    """Sensitivity .9 in F and .6 in M; 8 samples of X."""
    rows = predictions(n=400)
    for i, row in enumerate(rows):
        row["sex"], row["y"] = ("F", "M")[i % 2], i // 2 % 2
        row["p"] = 0.9 if row["y"] and (i // 4) % 10 < (9 if row["sex"] == "F" else 6) else 0.1
    for row in rows[:8]:
        row["sex"], row["p"] = "X", 0.1
    return write(tmp_path / "unfair.csv", rows)


def run(capsys, *arguments):
    code = main([*map(str, arguments), "--replicates", "200"])
    return code, capsys.readouterr()


def test_a_gap_beyond_its_limit_is_exit_code_1(unfair, capsys):
    code, out = run(capsys, "report", unfair, *COLUMNS, "--max-gap", "tpr=.05", "--min", "sensitivity=.8,accuracy=.5")
    assert code == 1
    gap, low = out.err.splitlines()
    assert gap.startswith("fairloss: breach: sex: sensitivity (TPR) gap 0.3")
    assert "] is above 0.05 (shown; worst M, best F)" in gap
    assert low.startswith("fairloss: breach: sex: sensitivity (TPR) of M 0.59")
    assert "] is below 0.8 (shown)" in low
    assert "X" not in out.err  # too few to be held against a limit
    assert "sensitivity (TPR)" in out.out  # the report itself is printed all the same


def test_a_breach_that_chance_may_have_made_is_said_to_be_one(unfair, capsys):
    code, out = run(capsys, "report", unfair, *COLUMNS, "--max-gap", "tpr=.25")
    assert code == 1
    assert "is above 0.25 (not shown, the interval reaches 0.25; worst M, best F)" in out.err


def test_kept_limits_are_exit_code_0(unfair, capsys):
    code, out = run(capsys, "report", unfair, *COLUMNS, "--max-gap", "tpr=.6,fpr=.05", "--min", "tpr=.3")
    assert (code, out.err) == (0, "")


def test_limits_that_nothing_can_be_held_against_are_breaches(file, capsys):
    code, out = run(capsys, "report", file, *COLUMNS, "--max-gap", "tpr=.9", "--min-group-size", "1000")
    assert code == 1
    assert out.err == (
        "fairloss: breach: tpr: nothing can be held against 0.9: all groups are too few to judge or undefined\n"
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--max-gap", "recall=.05"], "max_gap: expected metrics of the report, accuracy, "),
        (["--min", "equalized_odds=.05"], "minimum: expected metrics of the report"),
        (["--margin", "recall=.05"], "margin: .*recall"),
        (["--margin", "0"], "margin: .*> 0"),
        (["--margin", ".05", "--margin", "tpr=.1"], "--margin: expected one number, or"),
        (["--max-gap", "tpr=-1"], "max_gap.*>= 0"),
    ],
)
def test_wrong_limits_are_wrong_input(file, capsys, option, message):
    import re

    assert re.search(message, fails(capsys, "report", file, *COLUMNS, "--replicates", "100", *option))


def test_a_limit_without_a_number_is_refused(file, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["report", file, *COLUMNS, "--max-gap", "tpr"])
    assert stopped.value.code == 2
    assert "expected a number, got 'tpr'" in capsys.readouterr().err


def test_margins_and_the_name_of_the_model_reach_the_report(file, capsys, tmp_path):
    card = tmp_path / "card.md"
    options = ["--margin", "tpr=.3", "--model-name", "net 7", "--model-card", card]
    code, out = run(capsys, "report", file, *COLUMNS, *options)
    assert code == 0
    assert f"wrote {card}" in out.out
    text = card.read_text()
    assert "- Model: net 7" in text
    assert "tpr 0.3" in text


def test_a_model_card_has_what_tripod_asks_for():
    rng = np.random.default_rng(0)
    y, sex = rng.integers(0, 2, 600), np.array(["F", "M"], dtype=object)[rng.integers(0, 2, 600)]
    score = np.clip(0.25 + 0.5 * y + 0.3 * rng.standard_normal(600), 0, 1)
    sex[:5] = "X|Y"
    report = fr.FairnessReport.from_predictions(y, score, {"sex": sex}, num_replicates=200)
    text = report.to_model_card()
    f = report["sex"].groups[0]
    e = f.metrics["tpr"]
    assert text.startswith("## Performance in subgroups\n")
    assert f"| sex: F | {f.patients} | {f.positives} | " in text
    assert f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" in text
    assert "| sex: X\\|Y (!) | 5 | " in text
    assert "- sex: X|Y has 5 samples, too few to judge." in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1  # a table
    values = fr.FairnessReport.from_values({"dice": score}, sex, num_replicates=100).to_model_card()
    assert "| group | patients | dice |" in values
