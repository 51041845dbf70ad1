"""Photographs at equal compute: the page shows its results file; every arm's control has its steps, members and data."""

import numpy as np
from scipy import stats

from benchmarks.fairness_compute import ARMS, RESULTS, TODAY, differences, table
from benchmarks.fairness_data import RENDERED
from benchmarks.fairness_report import PAGE, fill, interval, read_rows


def test_the_page_shows_the_results_file():
    page = PAGE.read_text(encoding="utf-8")
    assert fill(page, {"compute": table(read_rows(RESULTS))}) == page


def test_controls_train_as_long_on_the_same_data():
    for arm in ARMS.values():
        if arm.loss is not None or arm.balanced:
            control = ARMS[arm.control]
            assert control.loss is None
            assert (control.members, control.times, control.all_data) == (arm.members, arm.times, arm.all_data)


def test_differences_are_means_over_seeds_in_points(rng):
    rows = []
    for task in RENDERED:
        for seed in range(2):
            rows.append({"task": task, "seed": seed, "arm": TODAY, "worst": 0.5})
            rows.append({"task": task, "seed": seed, "arm": "x", "worst": 0.5 + 0.01 * seed})
    np.testing.assert_allclose(differences(rows, "x", TODAY, "worst"), np.full(9, 0.5))


def test_interval_is_the_t_interval_over_tasks(rng):
    values = rng.normal(1.0, 2.0, 9)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert interval(values) == f"{values.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
    assert interval(values[:1]) == f"{values[0]:+.2f}"
