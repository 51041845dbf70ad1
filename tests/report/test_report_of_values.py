"""Reports of values that are computed elsewhere: directions, labels, undefined values."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fairloss.metrics as fm
import fairloss.report as fr
from tests.report.samples import data


def test_report_of_values(rng):
    g = np.repeat(["a", "b", "c", "d"], [200, 150, 100, 1])
    dice = np.clip(np.repeat([0.9, 0.85, 0.7, 0.4], [200, 150, 100, 1]) + 0.1 * rng.standard_normal(451), 0, 1)
    dice[:7] = np.nan
    years = 20 * (1 - dice)
    w = rng.random(451)
    found = fr.FairnessReport.from_values(
        {"dice": dice, "error": years},
        g,
        higher_is_better={"error": False},
        sample_weight=w,
        num_replicates=400,
        patients=[f"p{i}" for i in range(451)],
    )
    for name, values in (("dice", dice), ("error", years)):
        expected = fm.group_mean(values, g, sample_weight=w)
        assert [k.metrics[name].value for k in found["group"].groups] == pytest.approx(expected.values)
        assert found.overall[name].value == pytest.approx(expected.overall)
        # One sample of d says nothing sure; c is surely worse than a.
        gap = found["group"].gap(name)
        assert (gap.worst, gap.best, gap.clear, gap.left_out) == ("c", "a", True, ("d",))
        assert gap.estimate.value == pytest.approx(abs(expected.to_dict()["a"] - expected.to_dict()["c"]))
    assert (found["group"].groups[3].metrics["dice"].low, found["group"].groups[3].metrics["dice"].high) == (0, 1)
    assert [gap.name for gap in found["group"].gaps] == ["dice", "error"]
    known = w[7:200]
    spread = np.average((dice[7:200] - np.average(dice[7:200], weights=known)) ** 2, weights=known**2)
    error = np.sqrt(spread * (known**2).sum()) / known.sum()
    interval = found["group"].groups[0].metrics["dice"]
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(error, rel=0.15)
    assert "<svg" in found.to_html()
    assert "threshold" not in found.to_markdown()
    json.dumps(found.to_dict(), allow_nan=False)
    for bad, message in [
        ({}, "values: "),
        ({"a": [1, 2], "b": [1]}, "values: .*length"),
        ({"a": [[1], [2]]}, r"a: .*\(2, 1\)"),
        ({"a": [np.inf, 1]}, "a: .*inf"),
    ]:
        with pytest.raises(ValueError, match=message):
            fr.FairnessReport.from_values(bad, [0, 1])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"dcie": False}, ValueError, "higher_is_better: .*'dice', '1', got 'dcie'"),
        ({"dice": "no"}, TypeError, "higher_is_better: .*dice.*'no'|higher_is_better: .*'no'.*dice"),
        (None, TypeError, "higher_is_better: .*True or False"),
    ],
)
def test_directions_of_values(given, error, message):
    values, g = {"dice": [0.1, 0.2] * 30, 1: [0.1, 0.2] * 30}, ["a", "b"] * 30
    with pytest.raises(error, match=message):
        fr.FairnessReport.from_values(values, g, higher_is_better=given)
    found = fr.FairnessReport.from_values(values, g, higher_is_better={1: np.bool_(False)}, num_replicates=100)
    assert [gap.worst for gap in found["group"].gaps] == ["a", "b"]
    with pytest.raises(TypeError, match="values: .*mapping.*list"):
        fr.FairnessReport.from_values([0.1, 0.2], [0, 1])


def test_labels_in_the_frame_are_those_given():
    y, s, g = data(100)
    frame = fr.FairnessReport.from_predictions(y, s, g, num_replicates=100, metrics=["accuracy"]).to_frame()
    assert frame.group.tolist() == [None, 0, 1, 2, None]
    assert [type(v) for v in frame.group] == [type(None), int, int, int, type(None)]
    flags = fr.FairnessReport.from_predictions(y, s, g > 0, num_replicates=100, metrics=["accuracy"]).to_frame()
    assert flags.group.tolist() == [None, False, True, None]
