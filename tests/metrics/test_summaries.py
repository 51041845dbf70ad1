"""Summaries of the groups' values: disparities, averages, what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fairloss.metrics as fm


@pytest.mark.parametrize("values", ["abc", [1.0, math.inf], [1.0, "x"], [[1.0]], 3.0, [1j, 1.0]])
def test_summaries_name_their_argument(values):
    for function in (fm.gap, fm.worst, fm.error_skew):
        with pytest.raises((TypeError, ValueError), match="values"):
            function(values)


@pytest.mark.parametrize("values", ["ab", 3, {"A": 1.0}, {"A": {"x": "text"}}, {"A": None}, None])
def test_averages_name_their_argument(values):
    for function in (fm.aggregate_disparity, fm.hierarchical_mean):
        with pytest.raises((TypeError, ValueError), match="values"):
            function(values)


def test_groups_without_a_value_average_to_nan():
    assert math.isnan(fm.hierarchical_mean({"A": {"sex": [math.nan]}}))
    assert math.isnan(fm.aggregate_disparity({"A": {"sex": {}}}, order="average_first"))


def test_one_name_one_formula():
    values, overall = [0.9, 0.8, 0.7], 0.8
    assert fm.equity_scaled(overall, values, penalty="sum_abs") == pytest.approx(0.8 / 1.2)
    assert fm.equity_scaled(overall, values, penalty="std", ddof=0) == pytest.approx(0.8 / (1 + np.std(values)))
    with pytest.raises(TypeError, match="penalty"):
        fm.equity_scaled(overall, values)
    y, p, g = [1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 0, 0], ["F", "F", "M", "M", "F", "M"]
    assert fm.equalized_odds_difference(y, p, g, agg="score") == 1 - fm.equalized_odds_difference(y, p, g, agg="mean")


def test_a_disparity_of_a_negative_value_keeps_its_sign():
    assert fm.performance_scaled_disparity(-0.8, [-0.9, -0.7], reduce="max") == pytest.approx(-0.25)
    assert np.isnan(fm.performance_scaled_disparity(0.0, [-0.1, 0.1], reduce="max"))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: fm.performance_scaled_disparity(0.8, [0.9, 0.7], reduce="max", ddof=2), "ddof"),
        (lambda: fm.group_mean([0.5, 0.5], ["a", "b"], undefined="ignore"), "undefined: .*'ignore'"),
    ],
)
def test_wrong_options_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_aggregation_orders():
    scores = {"A": {"sex": {"F": 0.8, "M": 0.6}, "age": {"o": 0.9, "y": 0.5}}, "B": {"sex": {"F": 0.5, "M": 0.9}}}
    assert fm.aggregate_disparity(scores) == pytest.approx(((0.2 + 0.4) / 2 + 0.4) / 2)
    assert fm.aggregate_disparity(scores, missing={"C": 0}) == pytest.approx(((0.2 + 0.4) / 2 + 0.4) / 3)
    assert fm.aggregate_disparity(scores, statistic="std", ddof=0) == pytest.approx(((0.1 + 0.2) / 2 + 0.2) / 2)
    for statistic, ddof in (("gap", None), ("std", 1)):
        expected = fm.aggregate_disparity(scores, statistic=statistic, ddof=ddof, missing={"C": 0})
        found = fm.aggregate_disparity(scores, statistic=statistic, missing={"C": 0}, convention="fairgrpo")
        assert found == expected
    expected = np.mean([abs(0.65 - 0.75), 0.4])
    assert fm.aggregate_disparity(scores, order="average_first") == pytest.approx(expected)
    for bad, message in [
        ({"values": {}}, "values: .*data set"),
        ({"values": scores, "missing": {"A": 0.0}}, "missing: .*'A'"),
        ({"values": {"A": {}}}, "values: .*attribute.*'A'.*missing="),
        ({"values": scores, "statistic": "std"}, "ddof"),
        ({"values": scores, "order": "average_first", "missing": {"C": 0}}, "missing"),
        ({"values": scores, "convention": "paper"}, "convention: .*'paper'"),
        ({"values": scores, "convention": "fairgrpo", "order": "average_first"}, "convention: .*average_first"),
        ({"values": scores, "convention": "fairgrpo", "statistic": "std", "ddof": 0}, "convention: .*ddof=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            fm.aggregate_disparity(bad.pop("values"), **bad)
