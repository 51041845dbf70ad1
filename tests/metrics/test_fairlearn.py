"""Every named gap, with every method, reference, control attribute, way of joining rates and weight, is fairlearn's.

The oracle is ``fairlearn.metrics.MetricFrame``; reference groups, which it does not have, are compared by hand from its
table of groups.
"""

import itertools

import numpy as np
import pytest
from fairlearn import metrics as fl
from sklearn.metrics import accuracy_score, precision_score, roc_auc_score

import fairloss.metrics as fm
from tests.oracles import metrics as oracle


def false_discovery_rate(y, d, sample_weight=None):
    return 1 - precision_score(y, d, sample_weight=sample_weight)


def calibration_error(y, s, sample_weight=None):
    return oracle.ece(y, s, np.linspace(0, 1, 11), np.ones(len(y)) if sample_weight is None else sample_weight)


# Each gap's name in the library, the rates it compares and whether it is a ratio of them.
GAPS = {
    "max_accuracy_gap": (accuracy_score,),
    "demographic_parity_difference": (fl.selection_rate,),
    "demographic_parity_ratio": (fl.selection_rate,),
    "equal_opportunity_difference": (fl.true_positive_rate,),
    "equal_opportunity_ratio": (fl.true_positive_rate,),
    "false_positive_rate_difference": (fl.false_positive_rate,),
    "predictive_parity_difference": (false_discovery_rate,),
    "equalized_odds_difference": (fl.true_positive_rate, fl.false_positive_rate),
    "auc_gap": (roc_auc_score,),
    "calibration_gap": (calibration_error,),
    "equalized_odds_ratio": (fl.true_positive_rate, fl.false_positive_rate),
}


def draw(seed, groups=3, strata=2, n=240):
    """Labels, decisions, groups, strata and weights; every group of every stratum has all four cells of its table."""
    rng = np.random.default_rng(seed)
    cells = list(itertools.product(range(groups), range(strata), (0, 1), (0, 1)))
    g, c, y, d = np.array(cells + [cells[i] for i in rng.integers(0, len(cells), n)]).T
    flip = rng.random(len(d)) < 0.3 * g / groups
    flip[: len(cells)] = False
    order = rng.permutation(len(d))
    g, c = np.array(["F", "M", "X", "Z"])[g[order]], np.array(["north", "south", "west"])[c[order]]
    return y[order], np.where(flip, 1 - d, d)[order], g, c, rng.random(len(d)) + 0.1


def from_fairlearn(name, y, d, g, *, control=None, weight=None, method="between_groups", reference=None, agg=None):
    """The value per stratum, then that of the worst stratum."""
    rates = {f.__name__: f for f in GAPS[name]}
    frame = fl.MetricFrame(
        metrics=rates,
        y_true=y,
        y_pred=d,
        sensitive_features=g,
        control_features=control,
        sample_params={r: {"sample_weight": weight} for r in rates} if weight is not None else None,
    )
    is_ratio = name.endswith("ratio")
    if reference is None:
        found = frame.ratio(method=method) if is_ratio else frame.difference(method=method)
        each = np.atleast_2d(np.asarray(found, dtype=float))  # (strata, rates)
    else:
        tables = [frame.by_group] if control is None else [frame.by_group.loc[c] for c in np.unique(control)]
        each = np.array(
            [
                [
                    min(min(v / t[r][reference], t[r][reference] / v) for v in t[r])
                    if is_ratio
                    else max(abs(v - t[r][reference]) for v in t[r])
                    for r in rates
                ]
                for t in tables
            ]
        )
    if agg == "score":
        return (1 - each.mean(axis=1)).min()
    joined = each.mean(axis=1) if agg == "mean" else each.min(axis=1) if is_ratio else each.max(axis=1)
    return joined.min() if is_ratio else joined.max()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("controlled", [False, True], ids=["all", "control"])
@pytest.mark.parametrize(
    "comparison", [{}, {"method": "to_overall"}, {"reference": "M"}], ids=["between", "overall", "reference"]
)
@pytest.mark.parametrize("name", GAPS)
def test_a_gap_is_fairlearns(name, comparison, controlled, weighted, seed):
    y, d, g, c, w = draw(seed)
    if name in ("auc_gap", "calibration_gap"):
        d = np.clip(d / 2 + np.linspace(0.1, 0.45, len(d)), 0, 1)
    control, weight = c if controlled else None, w if weighted else None
    ways = [None] if len(GAPS[name]) == 1 else ["worst_case", "mean", "score"][: 2 if name.endswith("ratio") else 3]
    for agg in ways:
        options = {} if agg is None else {"agg": agg}
        ours = getattr(fm, name)(y, d, g, control=control, sample_weight=weight, **comparison, **options)
        theirs = from_fairlearn(name, y, d, g, control=control, weight=weight, agg=agg, **comparison)
        assert ours == pytest.approx(theirs, abs=1e-12), agg


@pytest.mark.parametrize("name", [n for n in GAPS if hasattr(fl, n)])
@pytest.mark.parametrize("method", ["between_groups", "to_overall"])
def test_a_gap_is_the_function_of_the_same_name(name, method):
    y, d, g, _, w = draw(7)
    ours = getattr(fm, name)(y, d, g, method=method, sample_weight=w)
    assert ours == pytest.approx(
        getattr(fl, name)(y, d, sensitive_features=g, method=method, sample_weight=w), abs=1e-12
    )


def test_unknown_groups_count_in_the_overall_rate_alone():
    y, d, g, _, _ = draw(3)
    g = g.astype(object)
    g[::7] = None
    known = np.array([label is not None for label in g])
    by_group = fl.MetricFrame(
        metrics=fl.true_positive_rate, y_true=y[known], y_pred=d[known], sensitive_features=g[known]
    ).by_group
    ours = fm.equal_opportunity_difference(y, d, g, method="to_overall")
    assert ours == pytest.approx(np.abs(by_group - fl.true_positive_rate(y, d)).max(), abs=1e-12)
    assert fm.equal_opportunity_difference(y, d, g) == pytest.approx(by_group.max() - by_group.min(), abs=1e-12)
