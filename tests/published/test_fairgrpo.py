"""FairGRPO's Tables 2 and 5 to 17 recomputed by the library from their own cells and from rebuilt samples."""

import re
from itertools import groupby

import numpy as np
import pytest

import fairloss.metrics as fm
from tests.published.tables import SLACK, box, gap_points, hits, rows, spread_points

GROUPS = rows("fairgrpo_tables5_17")
BLOCKS = [list(b) for _, b in groupby(GROUPS, key=lambda r: (r["table"], r["dataset"], r["attribute"]))]
TABLE2 = rows("fairgrpo_table2")
SMALL = rows("fairgrpo_small_groups")

CELLS = {"sigma": 429, "delta": 567, "table 2 disparities": 90, "table 2 ES": 24, "table 2 means": 6, "small": 130}
CONTRADICTIONS = {"table 2 disparities": 1, "table 2 ES": 2}

# Table 2's columns: source column, statistic, ddof, factor (percent or fraction).
DISPARITIES = {
    "PP": ("FDR", "gap", None, 100),
    "EOD": ("TPR", "gap", None, 100),
    "FPR_diff": ("FPR", "gap", None, 100),
    "sigma_F1": ("F1", "std", 1, 1),
    "dF1": ("F1", "gap", None, 1),
    "sigma_Acc": ("Acc", "std", 1, 100),
    "dAcc": ("Acc", "gap", None, 100),
}


def boxes(block, column):
    return [box(r[column]) for r in block]


def test_layout():
    assert (len(GROUPS), len(BLOCKS)) == (429, 143)
    # Disparities are printed once a block; the transcription repeats them on each row.
    for block in BLOCKS:
        for column in ("sigma_Acc", "sigma_F1", "sigma_TPR", "dAcc", "dF1", "dTPR", "dFPR"):
            assert len({r[column] for r in block}) == 1


@pytest.mark.parametrize(("ddof", "found"), [(1, 429), (0, 57)])
def test_every_sigma_is_a_sample_standard_deviation(ddof, found):
    fits = 0
    for block in BLOCKS:
        for column in ("Acc", "F1", "TPR"):
            outputs = [fm.group_std(v, ddof=ddof) for v in spread_points(boxes(block, column))]
            fits += hits(block[0][f"sigma_{column}"], outputs)
    assert fits == found
    if ddof == 1:
        assert fits == CELLS["sigma"]


def test_every_delta_is_a_gap():
    fits = missing = 0
    for block in BLOCKS:
        for column in ("Acc", "F1", "TPR", "FPR"):
            printed = block[0][f"d{column}"]
            if not printed:
                missing += 1
                continue
            assert hits(printed, [fm.gap(v) for v in gap_points(boxes(block, column))])
            fits += 1
    assert (fits, missing) == (CELLS["delta"], 5)


def nested(method, column, points=None):
    """Data set -> attribute -> group values (or, with ``points``, the values at those points of the boxes)."""
    found = {}
    for block in BLOCKS:
        first = block[0]
        if (first["model"], first["method"]) == (method["model"], method["method"]):
            values = points(boxes(block, column)) if points else {r["group"]: float(r[column]) for r in block}
            found.setdefault(first["dataset"], {})[first["attribute"]] = values
    assert len(found) == 6
    return found


def extreme(method, column, statistic, ddof, largest):
    """The aggregate at the inputs that make every attribute's disparity smallest, or largest."""

    def measure(values):
        return fm.gap(values) if statistic == "gap" else fm.group_std(values, ddof=ddof)

    def points(bounds):
        candidates = gap_points(bounds) if statistic == "gap" else spread_points(bounds)
        return (max if largest else min)(candidates, key=measure)

    # COVID-BLUES has no table of groups: every answer was unreadable, and it counts with disparity 0.
    return fm.aggregate_disparity(
        nested(method, column, points), statistic=statistic, ddof=ddof, missing={"COVID-BLUES": 0.0}
    )


def test_table_2_disparities():
    missed = []
    for method in TABLE2:
        for name, (column, statistic, ddof, factor) in DISPARITIES.items():
            outputs = [factor * extreme(method, column, statistic, ddof, largest) for largest in (False, True)]
            if not hits(method[name], outputs):
                missed.append((method["model"], method["method"], name))
            (checked,) = rows(
                "fairgrpo_table2_recomputed", model=method["model"], method=method["method"], quantity=name
            )
            assert outputs == pytest.approx([float(checked["lo"]), float(checked["hi"])], rel=5e-6)
    assert missed == [("Qwen", "GRPO+RS", "PP")]
    assert len(TABLE2) * len(DISPARITIES) - len(missed) == CELLS["table 2 disparities"]
    assert len(missed) == CONTRADICTIONS["table 2 disparities"]


def test_the_order_of_the_equations_does_not_give_table_2():
    fits = 0
    for method in TABLE2:
        for name, (column, statistic, _, factor) in DISPARITIES.items():
            value = fm.aggregate_disparity(
                nested(method, column),
                statistic=statistic,
                ddof=0 if statistic == "std" else None,
                order="average_first",
            )
            fits += hits(method[name], [factor * value])
    assert fits <= 2  # of 91, by chance


def with_std(mean, sigma):
    """Two values of this mean and sample standard deviation."""
    return [mean - sigma / np.sqrt(2), mean + sigma / np.sqrt(2)]


def test_table_2_equity_scaled_columns():
    missed, fits = [], 0
    for method in TABLE2:
        for column, sigma, scaled, factor in [
            ("Acc", "sigma_Acc", "Acc_ES", 0.01),
            ("F1", "sigma_F1", "F1_ES", 1.0),
        ]:
            outputs = [
                fm.equity_scaled(v, with_std(v, s), penalty="std", ddof=1)
                for v in box(method[column], factor)
                for s in box(method[sigma], factor)
            ]
            if hits(method[scaled], outputs, factor):
                fits += 1
            else:
                missed.append((method["model"], method["method"], scaled))
    assert missed == [("Qwen", "GRPO+RS", "Acc_ES"), ("MedGemma", "GRPO+DRO", "F1_ES")]
    assert (fits, len(missed)) == (CELLS["table 2 ES"], CONTRADICTIONS["table 2 ES"])


def test_table_2_means_mix_two_averages():
    fits = {"Acc": [], "F1": []}
    for method in TABLE2:
        (e,) = rows("fairgrpo_table2_acc_f1", model=method["model"], method=method["method"])
        for column, covid, factor in [("Acc", 0.5, 100), ("F1", 0.0, 1)]:
            mean = factor * fm.hierarchical_mean(nested(method, column), missing={"COVID-BLUES": covid})
            assert mean == pytest.approx(float(e[f"{column}_groupmean"]), rel=5e-6)
            half = factor * max(b[1] - b[0] for b in (box(r[column]) for r in GROUPS)) / 2
            if hits(method[column], [mean - half, mean + half]):
                fits[column].append((method["model"], method["method"]))
    no_discovery = [("MedGemma", "Re++"), ("MedGemma", "FairGRPO_ND")]
    assert fits["Acc"] == no_discovery
    assert fits["F1"] == sorted([("Qwen", "GRPO+RS"), *no_discovery, ("MedGemma", "GRPO+DRO")], key=TABLE_ORDER)
    assert len(fits["Acc"]) + len(fits["F1"]) == CELLS["table 2 means"]


def TABLE_ORDER(key):
    return [(m["model"], m["method"]) for m in TABLE2].index(key)


def multilabel(counts):
    """(y_true, y_pred) indicator matrices with the given one-vs-rest counts of each class."""
    true, pred = [], []
    start = 0
    for _, tp, fp, fn, tn in counts:
        tp, fp, fn, tn = map(int, (tp, fp, fn, tn))
        n = tp + fp + fn + tn
        y, d = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
        y[start : start + tp + fn] = 1
        d[start : start + tp] = 1
        d[np.flatnonzero(y == 0)[:fp]] = 1
        start += tp + fn
        true.append(y)
        pred.append(d)
    return np.stack(true, axis=1), np.stack(pred, axis=1)


def test_smallest_groups_from_their_samples():
    cells = 0
    for row in SMALL:
        if row["y_true"]:
            y, answers = list(row["y_true"]), list(row["y_pred"])
        else:  # several findings may be named in one answer: only the counts of each class are unique
            y, answers = multilabel(re.findall(r"(\w):tp=(\d+),fp=(\d+),fn=(\d+),tn=(\d+)", row["class_counts"]))
            assert (y.sum(axis=1) == 1).all()
        for column, metric in {"Acc": "accuracy", "F1": "f1", "TPR": "tpr", "FPR": "fpr", "FDR": "fdr"}.items():
            result = fm.group_metric(metric, y, answers, [row["group"]] * len(y), convention="fairgrpo")
            low, high = box(row[column])
            assert low - SLACK <= result.values[0] <= high + SLACK, (row["table"], row["dataset"], column)
            cells += 1
    assert cells == CELLS["small"]
