"""The gaps made from a table are functions like any other: named, signed, documented, pickled, and blamed where called."""

import doctest
import inspect
import pickle
import re

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
    with pytest.raises(TypeError, match="normalise"):
        gap(y, y, g, normalise=True)
