"""Labels of groups on their way into torchmetrics classes, samplers, trainers and thresholds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics import MetricCollection

import fairloss.metrics as fm
from fairloss import BalancedGroupSampler, GroupBatchSampler, encode_groups
from fairloss.integrations import _trainers
from fairloss.integrations._labels import Labels
from fairloss.integrations.torchmetrics import AUCGap, CalibrationGap, MaxAccuracyGap
from fairloss.postprocess import GroupThresholds, cross_fit

SEX = ["F", "M", None, "F", "M", "M", "F", "M"] * 4


def batch(generator):
    score, target = torch.rand(32, generator=generator), torch.arange(32) % 3 % 2
    return score, target


@pytest.mark.parametrize("make", [MaxAccuracyGap, AUCGap, lambda n: AUCGap(n, bins=20), CalibrationGap])
def test_torchmetrics_take_what_encode_groups_returns(make, generator):
    score, target = batch(generator)
    codes = encode_groups(SEX, categories=["F", "M"])
    encoded, ids, collection = make(2), make(2), MetricCollection({"gap": make(2)})
    for at in (slice(0, 20), slice(20, 32)):
        part = encode_groups(SEX[at], categories=["F", "M"])
        encoded.update(score[at], target[at], part)
        collection.update(score[at], target[at], groups=part)
        ids.update(score[at], target[at], torch.from_numpy(codes.ids)[at])
    assert encoded.compute() == ids.compute() == collection.compute()["gap"]


@pytest.mark.parametrize("make", [MaxAccuracyGap, AUCGap, CalibrationGap])
def test_torchmetrics_refuse_ids_that_are_numbered_anew(make, generator):
    """Without categories the men of a batch without women are group 0."""
    score, target = batch(generator)
    metric = make(2)
    metric.update(score, target, encode_groups(SEX))
    with pytest.raises(ValueError, match="groups: expected 2 groups, got 1; .*categories="):
        metric.update(score[:4], target[:4], encode_groups(["M"] * 4))
    with pytest.raises(ValueError, match=r"groups: .*\('F', 'M'\) again, got \('D', 'M'\); .*categories="):
        metric.update(score[:4], target[:4], encode_groups(["M", "D"] * 2))
    for labels in (SEX, np.array(SEX, dtype=object), pd.Series(SEX)):
        with pytest.raises(TypeError, match=r"groups: .*encode_groups\(labels, categories="):
            metric.update(score, target, labels)
    with pytest.raises(TypeError, match="groups: .*integer"):
        metric.update(score, target, torch.tensor([0.0, math.nan] * 16))


def test_samplers_take_what_encode_groups_returns_and_columns_of_ids():
    codes = encode_groups(SEX)
    wanted = list(BalancedGroupSampler(codes.ids, seed=1))
    for groups in (
        codes,
        pd.Series(codes.ids),
        torch.from_numpy(codes.ids),
        codes.ids.tolist(),
        pd.DataFrame({"g": codes.ids}),
    ):
        assert list(BalancedGroupSampler(groups, seed=1)) == wanted
        assert len(GroupBatchSampler(groups, batch_size=8, min_per_group=2)) == 4
    for groups in (SEX, np.array(SEX, dtype=object), [0.0, math.nan] * 16, pd.Series([0, None] * 16)):
        with pytest.raises(TypeError, match="groups: .*encode_groups"):
            BalancedGroupSampler(groups)


@pytest.mark.parametrize(
    "missing", [None, math.nan, pd.NA, pd.NaT, "", " ", -1, -1.0, "-1", np.float32("nan")], ids=repr
)
def test_trainers_read_missing_labels_as_the_metrics_do(missing):
    labels = Labels("group", ["F", "NA"], 2, "group_names")
    assert [labels.id(v, "column") for v in ("F", "NA", missing)] == [0, 1, -1]
    assert encode_groups(["F", "NA", missing], known=["NA"]).ids.tolist() == [0, 1, -1]
    with pytest.raises(ValueError, match="column: .*'F', 'NA'.*'nan'.*group_names"):
        labels.id("nan", "column")
    with pytest.raises(ValueError, match="group_names: .*known labels"):
        Labels("group", ["F", missing], 2, "group_names")


class Column:
    def __init__(self, dtype):
        self.dtype = dtype


class Data:
    def __init__(self, dtype):
        self.features = {"groups": Column(dtype)}


@pytest.mark.parametrize("dtype", ["string", "float64"])
def test_a_column_of_texts_or_floats_is_refused_before_training(dtype):
    """The collator drops texts and makes floats of ids that are missing in some rows."""
    with pytest.raises(ValueError, match=f"train_dataset: .*'groups', got {dtype}; .*encode_groups"):
        _trainers.check_ids("train_dataset", Data(dtype), "groups")
    with pytest.raises(ValueError, match=r"eval_dataset\['b'\]: .*encode_groups"):
        _trainers.check_ids("eval_dataset", {"a": Data("int64"), "b": Data(dtype)}, "groups")
    for fine in (Data("int8"), Data("bool"), {"a": Data("int64")}, [{"groups": "F"}], None):
        _trainers.check_ids("train_dataset", fine, "groups")


def test_thresholds_name_a_cure_that_they_have(rng):
    y = rng.integers(0, 2, 200)
    score = np.clip(0.3 + 0.4 * y + 0.2 * rng.standard_normal(200), 0, 1)
    age, country = pd.Series(rng.integers(20, 80, 200)), np.array(["NA", "ZA"] * 100)
    for call in (
        lambda g: GroupThresholds.fit(score, y, g, close="tpr_gap"),
        lambda g: cross_fit(None, score[:, None], y=y, attribute=g, close="tpr_gap"),
    ):
        with pytest.raises(ValueError, match=r"attribute: .*encode_groups\(\.\.\., bins=\["):
            call(age)
        with pytest.raises(ValueError, match=r"attribute: .*encode_groups\(\.\.\., known=\['NA'\]"):
            call(country)
    fitted = GroupThresholds.fit(score, y, encode_groups(age, bins=[50]), close="tpr_gap")
    assert sorted(fitted.thresholds) == ["50+", "<50"]
    known = encode_groups(country, known=["NA"])
    assert sorted(GroupThresholds.fit(score, y, known, close="tpr_gap").thresholds) == ["NA", "ZA"]
    with pytest.raises(ValueError, match="patients: .*'nan'.*id of its own"):
        cross_fit(None, score[:, None], y=y, attribute=known, patients=np.array(["p", math.nan] * 100), close="tpr_gap")


def test_a_mapping_or_frame_is_one_attribute_or_several(rng):
    y, p = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    frame = pd.DataFrame({"sex": ["F", "M"] * 30, "age": rng.integers(20, 80, 60)})
    found = fm.group_metric("accuracy", y, p, {"sex": frame["sex"], "age": encode_groups(frame["age"], bins=[50])})
    assert fm.max_accuracy_gap(y, p, frame, bins={"age": [50]}) == found.gap()
