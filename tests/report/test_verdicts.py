"""Verdicts in words: what they say, what they rest on, how often they are wrong; sizes against statsmodels and R."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

import fairloss.report as fr
from benchmarks.verdicts import gap_of, shares
from fairloss.report.words import legend


@pytest.mark.parametrize(
    ("rates", "ratio", "level", "power", "n"),
    [  # statsmodels 0.15, samplesize_proportions_2indep_onetail; the first is also in R's help of power.prop.test (76.7)
        ((0.5, 0.75), 1, 0.95, 0.9, 77),
        ((0.8, 0.9), 1, 0.95, 0.8, 199),
        ((0.8, 0.9), 3, 0.95, 0.8, 125),
        ((0.9, 0.8), 3, 0.95, 0.8, 139),
        ((0.95, 0.9), 0.5, 0.9, 0.9, 699),
        ((0.1, 0.3), 1, 0.99, 0.95, 140),
        ((0.65, 0.75), 1, 0.95, 0.8, 329),
    ],
)
def test_sizes_are_those_of_statsmodels_and_r(rates, ratio, level, power, n):
    assert fr.sample_size(rates[0], other_rate=rates[1], ratio=ratio, level=level, power=power) == n
    assert fr.sample_size(rates[0], other_rate=rates[1], ratio=ratio, level=level, power=power, share=0.5) in (
        2 * n - 1,
        2 * n,
    )
    if ratio == 1:  # rounded up in both groups, one less may do in one
        assert n - 1 <= fr.sample_size(rates[0], other_rate=rates[1], other_size=n, level=level, power=power) <= n


def test_a_size_beside_a_given_group_has_the_power(rng):
    n = fr.sample_size(0.8, other_rate=0.9, other_size=1000)
    a, b = rng.binomial(n, 0.8, 20_000) / n, rng.binomial(1000, 0.9, 20_000) / 1000
    both = (a * n + b * 1000) / (n + 1000)
    z = np.abs(a - b) / np.sqrt(both * (1 - both) * (1 / n + 1 / 1000))
    assert (z > stats.norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize(
    ("rates", "options", "message"),
    [
        ((0.9, 0.9), {}, "other_rate: expected a rate other than the group's, got 0.9"),
        ((1.1, 0.9), {}, "rate: .*<= 1"),
        ((0.8, 0.9), {"ratio": 0}, "ratio: .*> 0"),
        ((0.8, 0.9), {"share": 0.0}, "share: .*> 0"),
        ((0.8, 0.9), {"level": 95}, "level: .*95"),
        ((0.8, 0.9), {"power": 0.2}, "power: .*0.2"),
        ((0.85, 0.9), {"other_size": 100}, "other_size: .*power of 0.8, got 100; both groups need more patients"),
    ],
)
def test_a_size_that_does_not_exist_is_refused(rates, options, message):
    with pytest.raises(ValueError, match=message):
        fr.sample_size(rates[0], other_rate=rates[1], **options)


def of_accuracy(rates, sizes, **options):
    right = np.concatenate([np.arange(n) < round(p * n) for p, n in zip(rates, sizes, strict=True)])
    groups = np.repeat(np.array(["A", "B", "C"])[: len(sizes)], sizes)
    y = np.ones(len(right), dtype=int)
    options = {"metrics": ["accuracy"], "num_replicates": 400} | options
    return fr.FairnessReport.from_predictions(y, right.astype(int), groups, **options)


@pytest.mark.parametrize(
    ("rates", "sizes", "verdict", "words"),
    [
        ((0.9, 0.7), (1000, 1000), "shown", "shown"),
        ((0.96, 0.94), (6000, 6000), "shown", "shown, and to be smaller than 0.05"),
        ((0.9, 0.9), (2000, 2000), "smaller", "shown to be smaller than 0.05"),
        ((0.9, 0.87), (700, 700), "not shown", "not shown (a gap of 0.05 would be, mostly)"),
        ((1.0, 1.0), (100, 100), "not shown", "not shown"),
        ((0.9, 0.5), (1000, 6), "too few", "too few to judge (about "),
    ],
)
def test_verdicts_in_words(rates, sizes, verdict, words):
    found = of_accuracy(rates, sizes)
    gap = found["group"].gap("accuracy")
    assert gap.verdict == verdict
    assert gap.words.startswith(words)
    assert gap.clear == (verdict == "shown")
    assert f"| {gap.words} |" in found.to_markdown()
    data = json.loads(json.dumps(found.to_dict()))["attributes"]["group"]["gaps"]["accuracy"]
    assert (data["verdict"], data["words"]) == (verdict, gap.words)
    row = found.to_frame().query("kind == 'gap'").iloc[0]
    assert (row.verdict, row.words) == (verdict, gap.words)
    assert gap.words in found.to_html()


def test_missing_patients_are_those_of_the_formula():
    """Beside a large group: (z + z_power)^2 p q / d^2 of the small one, less what the large one's noise takes."""
    gap = of_accuracy((0.85, 0.9), (60, 20_000), num_replicates=4000)["group"].gap("accuracy")
    ((label, more),) = gap.missing
    allowed = (0.05 / (stats.norm.ppf(0.975) + stats.norm.ppf(0.8))) ** 2
    assert label == "A"
    assert more + 60 == pytest.approx(0.85 * 0.15 / (allowed - 0.09 / 20_000), rel=0.06)
    assert f"about {fr.results.round_up(more)} more patients of group A needed for a gap of 0.05" in gap.words
    # Two small groups both lack some.
    gap = of_accuracy((0.85, 0.9), (60, 60), num_replicates=4000)["group"].gap("accuracy")
    assert [label for label, _ in gap.missing] == ["A", "B"]
    assert gap.missing[0][1] + 60 == pytest.approx(0.85 * 0.15 / (allowed / 2), rel=0.06)


def test_the_smallest_difference_that_can_be_seen_is_that_of_the_formula():
    found = of_accuracy((0.8, 0.9), (100, 1000), num_replicates=4000)["group"]
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * np.sqrt(0.16 / 100 + 0.09 / 1000)
    assert [g.metrics["accuracy"].detectable for g in found.groups] == pytest.approx([expected] * 2, rel=0.04)


def test_margins_are_by_metric_and_read():
    y = np.tile([0, 1], 600)
    score = np.where(np.arange(1200) % 10 < 8, y, 1 - y).astype(float)
    groups = np.repeat(["A", "B"], 600)
    options = {"metrics": ["accuracy", "tpr", "fpr"], "num_replicates": 200}
    found = fr.FairnessReport.from_predictions(y, score, groups, margin={"accuracy": 0.2, "tpr": 0.01}, **options)
    assert found.settings["margins"] == {"accuracy": 0.2, "tpr": 0.01, "fpr": 0.05}
    words = {gap.name: gap.words for gap in found["group"].gaps}
    assert words["accuracy"] == "shown to be smaller than 0.2"
    assert "needed for a gap of 0.01" in words["tpr"]
    assert "needed for a gap of 0.01" in words["equalized_odds"]
    for margin, message in (({"recall": 0.1}, "margin: .*'recall'"), (0, "margin: .*> 0"), ({"tpr": -1}, "tpr.*> 0")):
        with pytest.raises(ValueError, match=message):
            fr.FairnessReport.from_predictions(y, score, groups, margin=margin, **options)
    years = fr.FairnessReport.from_values({"years": 40 * score}, groups, num_replicates=100)
    assert years["group"].gap("years").words in ("not shown", "shown")  # a twentieth of what?
    years = fr.FairnessReport.from_values({"years": 40 * score}, groups, num_replicates=100, margin={"years": 10})
    assert years["group"].gap("years").words == "shown to be smaller than 10"


def test_small_groups_are_not_the_headline():
    found = of_accuracy((0.9, 0.88, 0.2), (400, 400, 10))
    gap = found["group"].gap("accuracy")
    assert (gap.worst, gap.left_out) == ("B", ("C",))
    assert gap.estimate.value == pytest.approx(0.02)
    assert "group: C left out of the comparisons, being too small to judge." in found.warnings
    whole = of_accuracy((0.9, 0.88, 0.2), (400, 400, 10), min_group_size=0)["group"].gap("accuracy")
    assert (whole.worst, whole.left_out) == ("C", ())
    assert whole.estimate.value == pytest.approx(0.7)


def test_a_metric_needs_ten_of_what_it_counts():
    """Two thousand patients without a negative: an accuracy can be judged, a specificity cannot."""
    y = np.repeat([1, 1, 0], [1000, 995, 5])
    groups = np.repeat(["A", "B"], 1000)
    decided = np.where(np.arange(2000) % 10 < 8, y, 1 - y)
    found = fr.FairnessReport.from_predictions(
        y, decided, groups, metrics=["accuracy", "tpr"], num_replicates=200, min_group_size=30
    )
    assert [gap.verdict for gap in found["group"].gaps] == ["smaller"] * 2


TRIALS = 100


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(30, 1000), (100, 100), (500, 1000)])
def test_equal_groups_are_seldom_shown_to_differ(sizes):
    assert shares((0.9, 0.9), sizes, TRIALS)["shown"] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / TRIALS)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(30, 1000), (200, 1000), (1000, 1000)])
def test_a_gap_of_the_margin_is_seldom_shown_to_be_smaller(sizes):
    assert shares((0.85, 0.9), sizes, TRIALS)["small"] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / TRIALS)


def test_what_the_page_says_of_gaps_that_are_not_shown_holds():
    """The sentence, and the simulation of it; equal groups are seldom shown to differ."""
    lines = legend(of_accuracy((0.9, 0.9), (100, 100)))
    assert (
        "Not shown: these data cannot tell. It does not mean that the groups are alike: where one group's accuracy is 0.90 "
        "and another's 0.80, this is not shown in more than half of samples of 30 patients beside 1,000. Only a gap shown to "
        "be smaller than the margin is known to be small." in lines
    )
    assert shares((0.9, 0.9), (30, 1000), TRIALS, 200)["shown"] <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / TRIALS)
    few, many = (shares((0.8, 0.9), (n, 1000), TRIALS, 200) for n in (30, 200))
    assert few["not shown"] > 0.5
    assert many["shown"] > 0.8
    assert max(few["small"], many["small"]) < 0.05  # never "small" where it is ten points


@pytest.mark.slow
def test_the_missing_patients_would_do():
    """With as many more as are named, a gap of the margin is shown in four of five trials."""
    gap = gap_of((0.85, 0.9), (200, 4000), seed=1)
    ((_, more),) = gap.missing
    found = shares((0.85, 0.9), (200 + more, 4000), TRIALS)
    assert found["shown"] == pytest.approx(0.8, abs=0.12)
