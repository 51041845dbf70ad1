"""Properties that hold for every metric: invariance, weights as repetition, bounds, no leak of unknown groups."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fairloss.metrics as fm
from tests.oracles import metrics as oracle

PER_GROUP = list(fm.METRICS)
UNIT = [name for name in PER_GROUP if name != "bce"]
GAPS = [
    fm.max_accuracy_gap,
    fm.demographic_parity_difference,
    fm.equal_opportunity_difference,
    fm.equalized_odds_difference,
    fm.predictive_parity_difference,
    fm.false_positive_rate_difference,
    fm.auc_gap,
    fm.calibration_gap,
]
pytestmark = pytest.mark.filterwarnings("ignore::fairloss.metrics.per_group.UndefinedGroupWarning")


@st.composite
def samples(draw, min_size=4, max_size=40):
    n = draw(st.integers(min_size, max_size))
    y = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    s = draw(st.lists(st.sampled_from([i / 8 for i in range(9)]), min_size=n, max_size=n))
    g = draw(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=n, max_size=n))
    return y, s, g


def same(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def per_group(name, y, s, g, **options):
    return fm.group_metric(name, y, s, g, **options).to_dict()


@settings(max_examples=60, deadline=None)
@given(samples())
def test_equals_the_naive_oracle(data):
    y, s, g = data
    for name in ("accuracy", "tpr", "fpr", "fdr", "precision", "f1", "positive_rate", "prevalence", "tnr", "fnr"):
        expected = oracle.by_group(
            lambda yy, ss, name=name: oracle.rate(name, yy, [int(v >= 0.5) for v in ss]), g, y, s
        )
        assert per_group(name, y, s, g) == pytest.approx(expected, nan_ok=True), name
    assert per_group("auc", y, s, g) == pytest.approx(oracle.by_group(oracle.auc, g, y, s), nan_ok=True)
    edges = np.linspace(0, 1, 11)
    expected = oracle.by_group(lambda yy, ss: oracle.ece(yy, ss, edges), g, y, s)
    assert per_group("ece", y, s, g) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(samples(), st.randoms(use_true_random=False))
def test_order_of_samples_and_names_of_groups_play_no_part(data, random):
    y, s, g = data
    order = list(range(len(y)))
    random.shuffle(order)
    shuffled = [[column[i] for i in order] for column in (y, s, g)]
    renamed = [{"a": "z", "b": "y", "c": "x", None: None}[v] for v in g]
    for name in PER_GROUP:
        original = per_group(name, y, s, g)
        assert per_group(name, *shuffled) == pytest.approx(original, nan_ok=True, abs=1e-12), name
        other = per_group(name, y, s, renamed)
        assert {"zyx"["abc".index(k)]: v for k, v in original.items()} == pytest.approx(other, nan_ok=True)
    for metric in GAPS:
        same(metric(y, s, g), metric(*shuffled))
        same(metric(y, s, g), metric(y, s, renamed))


@settings(max_examples=30, deadline=None)
@given(samples(), st.data())
def test_integer_weights_equal_repetition(data, more):
    y, s, g = data
    w = more.draw(st.lists(st.integers(0, 3), min_size=len(y), max_size=len(y)))
    if not any(w):
        w[0] = 1
    repeated = [[v for v, k in zip(column, w, strict=True) for _ in range(k)] for column in (y, s, g)]
    for name in PER_GROUP:
        for strategy in ("uniform", "quantile", "range") if name == "ece" else ("uniform",):
            kept = fm.group_metric(name, *repeated, strategy=strategy)
            if strategy == "range" and len({v for v, k in zip(s, w, strict=True) if k == 0}):
                continue  # the range itself is that of the scores given
            weighted = fm.group_metric(name, y, s, g, sample_weight=w, strategy=strategy)
            same(weighted.overall, kept.overall)
            for label, value in kept.to_dict().items():
                same(weighted.to_dict()[label], value)
    for metric in GAPS:
        same(metric(y, s, g, sample_weight=w), metric(*repeated))


@settings(max_examples=40, deadline=None)
@given(samples())
def test_bounds(data):
    y, s, g = data
    for name in UNIT:
        result = fm.group_metric(name, y, s, g)
        for value in [*result.values, result.overall]:
            assert np.isnan(value) or -1e-12 <= value <= 1 + 1e-12
        if not np.isnan(result.gap()):
            assert 0 <= result.gap() <= 1
            assert 0 <= result.std(ddof=0) <= result.gap() / 2 + 1e-12
    for metric in GAPS:
        value = metric(y, s, g)
        assert np.isnan(value) or 0 <= value <= 1
    for metric in (fm.demographic_parity_ratio, fm.equalized_odds_ratio):
        value = metric(y, s, g)
        assert np.isnan(value) or 0 <= value <= 1


@settings(max_examples=30, deadline=None)
@given(samples())
def test_a_perfect_predictor_has_no_error_gaps(data):
    y, _, g = data
    for metric in (
        fm.max_accuracy_gap,
        fm.equal_opportunity_difference,
        fm.false_positive_rate_difference,
        fm.predictive_parity_difference,
        fm.equalized_odds_difference,
        fm.auc_gap,
        fm.calibration_gap,
    ):
        value = metric(y, y, g)
        assert np.isnan(value) or value == 0


@settings(max_examples=25, deadline=None)
@given(samples(), samples(1, 20))
def test_unknown_groups_never_leak(data, noise):
    y, s, g = data
    noise_y, noise_s, _ = noise
    for unknown in (None, float("nan")):
        longer = (y + noise_y, s + noise_s, g + [unknown] * len(noise_y))
        for name in PER_GROUP:
            assert per_group(name, *longer) == pytest.approx(per_group(name, y, s, g), nan_ok=True, abs=1e-12)
        for metric in GAPS:
            same(metric(*longer), metric(y, s, g))


@settings(max_examples=20, deadline=None)
@given(samples())
def test_lists_arrays_series_and_tensors_agree(data):
    import pandas as pd

    torch = pytest.importorskip("torch")

    y, s, g = data
    ids = [-1 if v is None else "abc".index(v) for v in g]
    expected = list(per_group("auc", y, s, g).values())
    for forms in (
        (np.array(y), np.array(s), np.array(ids)),
        (pd.Series(y, dtype="Int64"), pd.Series(s), pd.Series(g, dtype="category")),
        (torch.tensor(y), torch.tensor(s, dtype=torch.bfloat16, requires_grad=True), torch.tensor(ids)),
        (torch.tensor(y)[:, None], torch.tensor(s)[:, None], torch.tensor(ids)[:, None]),
    ):
        assert list(per_group("auc", *forms).values()) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 0.99), min_size=2, max_size=6), st.floats(0.01, 1))
def test_disparity_summaries(values, overall):
    assert fm.gap(values) == max(values) - min(values)
    assert fm.worst(values) == min(values)
    assert fm.worst(values, higher_is_better=False) == max(values)
    assert fm.group_std(values, ddof=1) >= fm.group_std(values, ddof=0)
    assert fm.error_skew(values) >= 1
    for penalty in ("mean_abs", "sum_abs", "max_abs", "gap"):
        scaled = fm.equity_scaled(overall, values, penalty=penalty)
        assert 0 < scaled <= overall
        assert fm.equity_scaled(overall, [overall] * 3, penalty=penalty) == overall
    with_nan = [*values, float("nan")]
    assert fm.gap(with_nan) == fm.gap(values)
    assert fm.equity_scaled(overall, with_nan, penalty="mean_abs") == fm.equity_scaled(
        overall, values, penalty="mean_abs"
    )


@pytest.mark.parametrize("statistic", ["gap", "std", "psd"])
def test_one_group_has_no_disparity_to_speak_of(statistic):
    call = {
        "gap": lambda v: fm.gap(v),
        "std": lambda v: fm.group_std(v, ddof=0),
        "psd": lambda v: fm.performance_scaled_disparity(0.5, v, reduce="max"),
    }[statistic]
    assert np.isnan(call([0.5]))
    assert np.isnan(call([]))
    assert np.isnan(call([0.5, float("nan")]))


def test_undefined_values_are_named_once_and_left_out():
    y, s, g = [1, 1, 0, 0, 0], [0.9, 0.2, 0.1, 0.3, 0.2], ["a", "a", "a", "b", "b"]
    with pytest.warns(fm.UndefinedGroupWarning, match=r"tpr is undefined in group\(s\) b") as caught:
        result = fm.group_metric("tpr", y, s, g)
    assert len(caught) == 1
    assert result.undefined == ("b",)
    assert np.isnan(result.gap())
    assert result.positives.tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"auc is undefined in group\(s\) b"):
        fm.auc_gap(y, s, g, undefined="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fm.max_accuracy_gap(y, s, g) == pytest.approx(1 / 3)
