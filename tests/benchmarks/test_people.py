"""The study on real people: its page shows its results file; cuts, guard and tests are what they are called."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.fairness_report import PAGE, fill, read_rows
from benchmarks.people import RESULTS
from benchmarks.people_arms import PARTS, Split, split
from benchmarks.people_data import People, bands, table
from benchmarks.people_penalties import PENALTIES
from benchmarks.people_tables import by_seed, compared, corrected_p, holm, shown, summary, tables
from benchmarks.people_train import measured


def row(name, seed, arm, target="", **figures):
    plain = {
        "accuracy": 0.8,
        "balanced_accuracy": 0.7,
        "auc": 0.8,
        "positive_rate_gap": 0.2,
        "tpr_gap": 0.2,
        "accuracy_gap": 0.1,
    }
    floors = {"floor_positive_rate_gap": 0.02, "floor_tpr_gap": 0.19, "floor_accuracy_gap": 0.0}
    return {"set": name, "seed": seed, "arm": arm, "target": target, "seconds": 1.0, **plain, **floors, **figures}


def test_the_page_shows_the_results_file():
    page = PAGE.read_text(encoding="utf-8")
    assert fill(page, {"people": tables(read_rows(RESULTS))}) == page


def test_a_cut_counts_where_the_guard_holds():
    rows = [row("a", s, "plain") for s in range(3)] + [row("b", s, "plain") for s in range(3)]
    rows += [row("a", s, "x", "positive_rate_gap", positive_rate_gap=0.05) for s in range(3)]
    rows += [row("b", s, "x", "positive_rate_gap", positive_rate_gap=0.0, balanced_accuracy=0.68) for s in range(3)]
    (line,) = summary(rows, "positive_rate_gap")
    assert line["cuts"] == {"a": pytest.approx(0.75), "b": 0.0}
    assert line["cut"] == pytest.approx(0.375)
    assert line["guard"] == "1 of 2 (1)"
    assert line["balanced_accuracy"] == pytest.approx(-1.0)


def test_sets_without_a_gap_beyond_permuted_groups_are_left_out():
    rows = [row("a", 0, "plain"), row("b", 0, "plain", floor_positive_rate_gap=0.19)]
    assert compared(by_seed(rows), "positive_rate_gap") == ["a"]
    assert compared(by_seed(rows), "tpr_gap") == []


def test_corrected_p_is_the_t_test_with_more_variance(rng):
    values = rng.normal(0.3, 1.0, 10)
    assert corrected_p(values, test_to_train=0.0) == pytest.approx(
        stats.ttest_1samp(values, 0, alternative="greater").pvalue
    )
    assert corrected_p(values) > corrected_p(values, test_to_train=0.0)


def test_plain_is_the_mean_of_its_trainings():
    rows = [row("a", s, "plain", tpr_gap=0.2 + s) for s in range(2)]
    rows += [row("a", s, f"plain, trained again {k}", tpr_gap=0.3 + s) for s in range(2) for k in (1, 2, 3)]
    (found,) = by_seed(rows).values()
    assert [r["tpr_gap"] for r in found] == pytest.approx([0.275, 1.275])
    assert found[0]["floor_tpr_gap"] == 0.19


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])


def test_measured_counts_by_hand():
    decided = np.array([1, 1, 0, 0, 1, 0], dtype=bool)
    y = np.array([1, 0, 1, 0, 1, 1], dtype=bool)
    found = measured(decided, decided + 0.0, y, np.array(["a", "a", "a", "b", "b", "b"]))
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["positive_rate_gap"] == pytest.approx(2 / 3 - 1 / 3)
    assert found["tpr_gap"] == pytest.approx(0.0)
    assert found["accuracy_gap"] == pytest.approx(2 / 3 - 1 / 3)


def test_splits_share_no_row_and_bands_are_named_by_their_ends():
    people = People(np.zeros((50, 1)), np.zeros(50), np.zeros(50), np.zeros(1, bool))
    parts = split(people, 3)
    assert sorted(np.concatenate(parts)) == list(range(50))
    assert [len(part) for part in parts] == [30, 10, 10]
    assert bands(np.array([39, 40, 64, 65]), 40, 65).tolist() == ["< 40", "40-64", "40-64", ">= 65"]


def test_seeds_of_the_choice_are_not_shown():
    rows = [row("a", 9, "plain"), row("a", 10, "plain"), row("a", 11, "plain") | {"hidden": True}]
    assert shown(rows) == rows[1:2]
    assert shown(rows, hidden=True) == rows[2:]


def test_columns_that_say_the_group_are_known_and_hidden():
    frame = pd.DataFrame({"num_age": [30.0, 50.0, 70.0], "fac_race": ["a", "b", "a"], "language": [1.0, 2.0, 4.0]})
    people = table(frame, pd.Series([0, 1, 0]), np.array(["x", "y", "x"]), "age")
    assert people.says_group.tolist() == [True, False, False, False]
    assert Split(people, 0, hidden=True).x.tolist() == people.x[:, 1:].tolist()
    by_race = table(frame, pd.Series([0, 1, 0]), np.array(["x", "y", "x"]), "race")
    assert by_race.says_group.tolist() == [False, False, True, True]


@pytest.mark.examples
def test_every_arm_runs_on_made_up_people(rng, monkeypatch):
    monkeypatch.setattr("benchmarks.people_rivals.oxonfair", lambda *_, **__: lambda score, group: score >= 0)
    monkeypatch.setattr("benchmarks.people_rivals.fairret", lambda _: PENALTIES["DemographicParity"][1])
    group = rng.integers(0, 2, 600)
    x = rng.standard_normal((600, 4)).astype(np.float32)
    y = (x[:, 0] + 0.8 * group + rng.standard_normal(600) > 0.5).astype(np.int64)
    made_up = Split(People(x, y, np.array(["a", "b"])[group], np.array([True, False, False, False])), 0)
    found = [arm for part in PARTS.values() for arm in part(made_up, 0)]
    assert len({name for name, *_ in found}) == 33
    assert all(0 <= figures["accuracy"] <= 1 for _, _, figures, _ in found)
