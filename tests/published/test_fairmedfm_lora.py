"""FairMedFM's Table 2 and the fairness-aware LoRA paper's tables, recomputed by the library."""

import numpy as np
import pytest

import fairloss.metrics as fm
from tests.published.tables import box, gap_points, hits, rows, spread_points

CELLS = {"FairMedFM 2": 8 + 7 + 5 * 4, "LoRA 1": 25, "LoRA 2": 6, "LoRA 3": 4}
CONTRADICTIONS = {"FairMedFM 2": 1}

FAIRMEDFM = rows("fairmedfm_table2")
LORA = rows("lora_tables")
SAMPLES = rows("lora_samples_rle")
NAMES = ["NonHispanic", "Hispanic", "Unknown"]


def test_fairmedfm_table_2():
    fits, missed = 0, []
    for row in FAIRMEDFM:
        groups, overall = [box(row["female"], 0.01), box(row["male"], 0.01)], box(row["avg"], 0.01)
        gaps, spreads = gap_points(groups), spread_points(groups)
        assert hits(row["delta"], [fm.gap(v) for v in gaps], 0.01)
        fits += 1
        scaled = [fm.equity_scaled(a, v, penalty="std", ddof=0) for a in overall for v in spreads]
        if hits(row["es"], scaled, 0.01):
            fits += 1
        else:
            missed.append(row["method"])
        if row["task"] == "SEG":
            assert hits(row["std"], [fm.group_std(v, ddof=0) for v in spreads], 0.01)
            # Skew is monotone in each of the two values on either side of equality.
            corners = [fm.error_skew([f, m]) for f in groups[0] for m in groups[1]]
            assert hits(row["skew"], [*corners, *[fm.error_skew(v) for v in gaps]])
            fits += 2
    assert missed == ["LoRA + Resampling"]
    assert (fits, len(missed)) == (CELLS["FairMedFM 2"], CONTRADICTIONS["FairMedFM 2"])


@pytest.mark.parametrize(("penalty", "ddof", "found"), [("mean_abs", None, 5), ("std", 1, 0), ("gap", None, 0)])
def test_other_readings_of_fairmedfm_do_not_fit(penalty, ddof, found):
    fits = 0
    for row in FAIRMEDFM:
        if row["task"] == "CLS":
            groups, overall = [box(row["female"], 0.01), box(row["male"], 0.01)], box(row["avg"], 0.01)
            points = [*gap_points(groups), *spread_points(groups)]
            fits += hits(
                row["es"], [fm.equity_scaled(a, v, penalty=penalty, ddof=ddof) for a in overall for v in points], 0.01
            )
    assert fits == found


def samples(method):
    """Sample-level labels rebuilt from the only counts that give all printed accuracies."""
    found = [r for r in SAMPLES if r["method"] == method]
    counts = [int(r["count"]) for r in found]
    return [np.repeat([r[c] for r in found], counts) for c in ("y_true", "y_pred", "group")]


def rebuilt(correct, totals):
    """The same from printed totals and correct counts."""
    groups = np.repeat(NAMES, totals)
    right = np.concatenate([np.arange(n) < c for c, n in zip(correct, totals, strict=True)])
    return np.ones(len(groups), dtype=int), right.astype(int), groups


def test_lora_table_1():
    cells = 0
    for row in LORA:
        if row["table"] != "T1":
            continue
        y, answers, groups = samples(row["method"])
        y, answers = y.astype(int), answers.astype(int)
        assert len(y) == 2000
        result = fm.group_metric("accuracy", y, answers, groups)
        for name in NAMES:
            assert result.counts[result.labels.index(name)] == int(row[f"n_{name}"])
            assert hits(row[f"acc_{name}"], [result.to_dict()[name]], 0.01)
            cells += 1
        assert hits(row["overall_acc"], [result.overall], 0.01)
        gap = fm.max_accuracy_gap(y, answers, groups)
        assert hits(row["max_acc_gap"], [gap], 0.01)
        assert gap == pytest.approx(float(row["gap_recomputed"]) / 100, abs=5e-9)
        cells += 2
    assert cells == CELLS["LoRA 1"]


def test_lora_table_2():
    cells = 0
    counts = {"FR-LoRA 0.1": (978, 41, 56), "FR-LoRA 0.5": (971, 44, 56), "FR-LoRA 1.0": (967, 42, 58)}
    for row in LORA:
        if row["table"] == "T2":
            y, answers, groups = rebuilt(counts[row["method"]], (1816, 76, 108))
            assert hits(row["overall_acc"], [fm.group_metric("accuracy", y, answers, groups).overall], 0.01)
            assert hits(row["max_acc_gap"], [fm.max_accuracy_gap(y, answers, groups)], 0.01)
            cells += 2
    assert cells == CELLS["LoRA 2"]


def test_lora_table_3_ethnicity():
    cells = 0
    for row in LORA:
        if row["table"] == "T3" and row["attribute"] == "Ethnicity":
            y, answers, groups = samples(row["method"])
            y, answers = y.astype(int), answers.astype(int)
            assert hits(row["overall_acc"], [fm.group_metric("accuracy", y, answers, groups).overall], 0.01)
            assert hits(row["max_acc_gap"], [fm.max_accuracy_gap(y, answers, groups)], 0.01)
            cells += 2
    assert cells == CELLS["LoRA 3"]
