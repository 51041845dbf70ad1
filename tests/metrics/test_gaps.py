"""The gaps made from a table are functions like any other: named, signed, documented, pickled, and blamed where called."""

import doctest
import inspect
import pickle
import re

import numpy as np
import pytest

import fairloss.metrics as fm

GAPS = [
    fm.max_accuracy_gap,
    fm.equal_opportunity_difference,
    fm.equal_opportunity_ratio,
    fm.false_positive_rate_difference,
    fm.predictive_parity_difference,
    fm.demographic_parity_difference,
    fm.demographic_parity_ratio,
    fm.equalized_odds_difference,
    fm.equalized_odds_ratio,
]


@pytest.mark.parametrize("gap", GAPS, ids=lambda gap: gap.__name__)
def test_a_gap_is_a_documented_function(gap):
    assert getattr(fm, gap.__qualname__) is gap
    assert gap.__name__ == gap.__qualname__
    assert pickle.loads(pickle.dumps(gap)) is gap
    parameters = inspect.signature(gap).parameters
    assert list(parameters)[:3] == ["y_true", "y_pred", "groups"]
    rest = list(parameters.values())[3:]
    assert {p.kind for p in rest} == {inspect.Parameter.KEYWORD_ONLY}
    assert set(fm.GapOptions.__annotations__) == {p.name for p in rest} - {"agg"}
    assert ("agg" in parameters) == gap.__name__.startswith("equalized_odds")
    text = inspect.getdoc(gap)
    assert all(f"    {name}: " in text for name in parameters)
    assert f"; {int('ratio' in gap.__name__)} means" in text
    assert re.search(r"^Reference: .*\b(19|20)\d\d\b", text, flags=re.MULTILINE)
    assert doctest.DocTestParser().get_examples(text)


@pytest.mark.parametrize("gap", GAPS, ids=lambda gap: gap.__name__)
def test_a_warning_points_at_the_caller_and_a_wrong_option_is_named(gap):
    y, g = [1, 0, 1, 0, 1, 0], list("aabbcc")
    with pytest.warns(fm.UndefinedGroupWarning, match=r"in group\(s\) c: ") as caught:
        gap(y, y, g, sample_weight=[1, 1, 1, 1, 0, 0])
    assert {w.filename for w in caught} == {__file__}
    for wrong in {"normalise", "agg"} - set(inspect.signature(gap).parameters):
        with pytest.raises(TypeError, match=wrong):
            gap(y, y, g, **{wrong: "mean"})


def test_a_reference_is_a_group_and_goes_with_between_groups_alone():
    y, p, g = [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], list("aabbcc")
    assert fm.equal_opportunity_difference(y, p, g, reference="b") == 0.5
    assert fm.equal_opportunity_ratio(y, p, g, reference="b") == 0.0  # c's 0 over 0.5; a's inverse is 0.5
    with pytest.raises(ValueError, match=r"reference: expected a group among \['a', 'b', 'c'\], got 'd'"):
        fm.equal_opportunity_difference(y, p, g, reference="d")
    with pytest.raises(ValueError, match="reference: expected None with method='to_overall'"):
        fm.equal_opportunity_difference(y, p, g, reference="b", method="to_overall")
    with pytest.raises(ValueError, match="method: expected one of 'between_groups', 'to_overall', got 'overall'"):
        fm.equal_opportunity_difference(y, p, g, method="overall")


def test_a_group_compared_with_itself_alone_has_no_gap():
    for options in ({}, {"method": "to_overall"}, {"reference": "a"}):
        assert np.isnan(fm.max_accuracy_gap([1, 0], [1, 1], ["a", "a"], **options))
        assert np.isnan(fm.demographic_parity_ratio(None, [1, 1], ["a", "a"], **options))


def test_an_undefined_reference_gives_no_gap_rather_than_a_gap_to_zero():
    y, p, g = [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1], list("aabccb")
    with pytest.warns(fm.UndefinedGroupWarning, match=r"tpr is undefined in group\(s\) c"):
        assert np.isnan(fm.equal_opportunity_difference(y, p, g, reference="c"))


def test_a_stratum_without_a_comparison_is_left_out_and_named():
    """In the north a is at 1 and b at 1/2; in the south there is a alone; one sample has no stratum."""
    y, p, g = [1] * 6, [1, 1, 0, 1, 0, 0], list("aabbab")
    control = ["north"] * 4 + ["south", None]
    with pytest.warns(fm.UndefinedGroupWarning, match=r"groups by tpr is undefined in control stratum\(s\) south"):
        assert fm.equal_opportunity_difference(y, p, g, control=control) == 0.5
    with pytest.raises(ValueError, match="south"):
        fm.equal_opportunity_difference(y, p, g, control=control, undefined="raise")
    with pytest.raises(ValueError, match="control: expected one label for each of 6 samples, got 2 labels"):
        fm.equal_opportunity_difference(y, p, g, control=["north", "south"])


def test_an_undefined_group_of_a_stratum_is_named_with_it():
    y, p, g = [1, 1, 1, 1, 0, 1], [1, 0, 1, 0, 1, 1], list("abbaca")
    control = ["north"] * 2 + ["south"] * 4
    with pytest.warns(
        fm.UndefinedGroupWarning, match=r"^tpr is undefined in group\(s\) c \(control south\): "
    ) as caught:
        assert fm.equal_opportunity_difference(y, p, g, control=control) == 1.0
    assert [w.filename for w in caught] == [__file__]


def test_the_worst_stratum_is_the_largest_gap_the_smallest_ratio_and_the_smallest_score():
    """Gaps of TPR 1/2 in the north and 1 in the south; FPR are alike."""
    y, p, g = [1, 1, 1, 1, 0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 1, 0, 0, 0], list("aabbababab")
    control = ["north"] * 6 + ["south"] * 4
    assert fm.equalized_odds_difference(y, p, g, control=control) == 1.0
    assert fm.equalized_odds_difference(y, p, g, control=control, agg="mean") == 0.5
    assert fm.equalized_odds_difference(y, p, g, control=control, agg="score") == 0.5
    assert fm.equal_opportunity_ratio(y, p, g, control=control) == 0.0
