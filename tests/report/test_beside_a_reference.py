"""A reference group, groups within another attribute's values, and decisions at a given specificity."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_curve

import fairloss.metrics as fm
import fairloss.report as fr
from fairloss.report.cli import main
from tests.report.command import COLUMNS, fails
from tests.report.samples import data


def test_differences_and_ratios_to_a_reference_group():
    y, s, g = data(900, effect=0.1)
    names = np.array(["A", "B", "C"])[g]
    found = fr.FairnessReport.from_predictions(y, s, {"x": names}, reference={"x": "B"}, num_replicates=2000)["x"]
    values = fm.group_metric("tpr", y, s, names).to_dict()
    n = {k: int(y[names == k].sum()) for k in "ABC"}
    assert {c.group for c in found.contrasts} == {"A", "C"}
    for c in (c for c in found.contrasts if c.metric == "tpr"):
        p, q = values[c.group], values["B"]
        assert c.difference.value == pytest.approx(p - q)
        # Newcombe's interval, from Wilson's of the two sensitivities.
        ends = [
            stats.binomtest(round(v * k), k).proportion_ci(method="wilson") for v, k in ((p, n[c.group]), (q, n["B"]))
        ]
        low = p - q - np.hypot(p - ends[0].low, ends[1].high - q)
        high = p - q + np.hypot(ends[0].high - p, q - ends[1].low)
        assert (c.difference.low, c.difference.high) == (pytest.approx(low, abs=0.008), pytest.approx(high, abs=0.008))
        # Katz's interval of a relative risk.
        assert c.ratio.value == pytest.approx(p / q)
        error = 1.96 * np.sqrt((1 - p) / (p * n[c.group]) + (1 - q) / (q * n["B"]))
        assert (c.ratio.low, c.ratio.high) == (
            pytest.approx(p / q * np.exp(-error), abs=0.02),
            pytest.approx(p / q * np.exp(error), abs=0.02),
        )


def test_differences_cover_the_truth():
    inside = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        g = np.repeat([0, 1], [40, 400])
        right = (rng.random(440) < np.where(g == 0, 0.9, 0.8)).astype(int)
        found = fr.FairnessReport.from_predictions(
            np.ones(440, dtype=int), right, g, metrics=["accuracy"], reference=1, num_replicates=200, seed=seed
        )
        ((contrast,),) = [a.contrasts for a in found.attributes]
        inside += contrast.difference.low <= 0.1 <= contrast.difference.high
    assert 90 <= inside <= 100


def test_what_has_no_replicates_has_no_certain_difference():
    g = np.repeat(["A", "B"], [40, 400])
    right = np.where(g == "A", 1, np.arange(440) % 5 > 0).astype(int)
    found = fr.FairnessReport.from_predictions(
        np.ones(440, dtype=int), right, g, metrics=["accuracy"], reference="B", num_replicates=200
    )["group"]
    (c,) = found.contrasts
    assert c.difference.low < c.difference.value - 3 / 40  # the rule of three
    assert np.isnan([c.ratio.low, c.ratio.high]).all()


def test_contrasts_are_in_every_form():
    y, s, g = data(300)
    found = fr.FairnessReport.from_predictions(y, s, {"x": g}, reference={"x": 1}, num_replicates=100)
    c = found["x"].contrasts[0]
    text = f"{c.difference.value:.3f} [{c.difference.low:.3f}, {c.difference.high:.3f}]"
    assert "## x: differences from 1" in found.to_markdown()
    assert "## x: ratios to 1" in found.to_markdown()
    assert text in found.to_markdown()
    assert "x: differences from 1</h3>" in found.to_html()
    first = json.loads(json.dumps(found.to_dict()))["attributes"]["x"]
    assert (first["reference"], first["contrasts"][0]["difference"]["value"]) == (1, c.difference.value)
    frame = found.to_frame()
    assert set(frame.kind) == {"overall", "group", "difference", "ratio", "gap"}
    assert frame[frame.kind == "ratio"].iloc[0].value == c.ratio.value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": {"age": 1}}, "reference: expected one of 'x', 'z', .*got 'age'"),
        ({"reference": {"x": 7}}, r"reference\['x'\]: expected one of 0, 1, 2, got 7"),
        ({"reference": 1}, "reference: expected a group for each attribute"),
        ({"within": "age"}, "within: expected one of 'x', 'z', got 'age'"),
        ({"at_specificity": 1.0}, "at_specificity: .*< 1"),
        ({"at_specificity": 0.9, "threshold": 0.3}, "threshold: expected none beside at_specificity"),
    ],
)
def test_wrong_options_are_refused(options, message):
    y, s, g = data(120)
    with pytest.raises(ValueError, match=message):
        fr.FairnessReport.from_predictions(y, s, {"x": g, "z": g // 2}, num_replicates=100, **options)


def test_groups_within_another_attribute_are_those_of_its_samples_alone():
    y, s, g = data(600)
    sex = np.array(["F", "M"])[g % 2].astype(object)
    site = np.where(np.arange(600) % 3, "n", "s")
    sex[:9] = None
    sex[(site == "s") & (sex == "M")] = "F"  # no men there
    options = {"num_replicates": 100, "intersections": False}
    found = fr.FairnessReport.from_predictions(y, s, {"sex": sex, "site": site}, within="site", **options)
    assert [a.name for a in found.attributes] == ["sex", "site", "sex within site n", "sex within site s"]
    for label in "ns":
        at = site == label
        alone = fr.FairnessReport.from_predictions(y[at], s[at], {"sex": sex[at]}, **options)["sex"]
        inside = found[f"sex within site {label}"]
        assert [g.label for g in inside.groups] == [g.label for g in alone.groups]
        assert [g.metrics["auc"].value for g in inside.groups] == [g.metrics["auc"].value for g in alone.groups]
        assert inside.unknown == alone.unknown == sum(v is None for v in sex[at])
        expected = fm.stratified_metric("auc", y, s, sex, control=site)[label].gap()
        gap = inside.gap("auc").estimate.value
        assert gap == pytest.approx(expected) or np.isnan([gap, expected]).all()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("specificity", [0.5, 0.9, 0.95])
def test_the_threshold_of_a_specificity_is_the_curves(strict, specificity):
    y, s, g = data(500)
    s = s.round(2)  # ties
    found = fr.FairnessReport.from_predictions(
        y, s, {"x": g}, at_specificity=specificity, strict=strict, num_replicates=100
    )
    fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
    best = np.flatnonzero(1 - fpr >= specificity - 1e-12)[-1]
    assert found.overall["tnr"].value == pytest.approx(1 - fpr[best])
    assert found.overall["tpr"].value == pytest.approx(tpr[best])
    decided = s > found.settings["threshold"] if strict else s >= found.settings["threshold"]
    at = g == 1
    assert found["x"].groups[1].metrics["tpr"].value == pytest.approx(decided[at & (y == 1)].mean())
    assert f"a specificity of {specificity:g} over all" in found.to_markdown()


def test_decisions_have_no_threshold_to_take():
    y, s, g = data(100)
    with pytest.raises(ValueError, match="at_specificity: expected scores of two classes"):
        fr.FairnessReport.from_predictions(y, s > 0.5, g, at_specificity=0.9, num_replicates=100)


def test_on_the_command_line(file, tmp_path, capsys):
    out = tmp_path / "a.json"
    options = [
        "--group",
        "age",
        "--reference",
        "sex=F",
        "--within",
        "age",
        "--at-specificity",
        "0.8",
        "--json",
        str(out),
    ]
    assert main(["report", file, *COLUMNS, *options, "--replicates", "100"]) == 0
    capsys.readouterr()
    found = json.loads(out.read_text())
    assert found["settings"]["at_specificity"] == 0.8
    assert "sex within age old" in found["attributes"]
    assert found["attributes"]["sex"]["reference"] == "F"
    assert "--reference: expected COLUMN=LABEL" in fails(capsys, "report", file, *COLUMNS, "--reference", "F")
