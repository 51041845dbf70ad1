"""GroupThresholds against every combination of thresholds on small sets, and against counting by hand."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from fairloss.postprocess import GroupThresholds

GAPS = ("tpr_gap", "fpr_gap", "positive_rate_gap", "accuracy_gap")


def small_set(rng, n, groups):
    """Scores with ties; every group has both labels."""
    g = np.arange(n) % groups
    y = rng.integers(0, 2, n)
    y[: 2 * groups] = np.repeat([0, 1], groups)
    return np.round(np.clip(rng.normal(0.35 + 0.3 * y + 0.1 * g / groups, 0.2), 0, 1), 1), y, g


def confusion(decided, y):
    tn, fp, fn, tp = confusion_matrix(y, decided, labels=[0, 1]).ravel()
    return tp, fp, tp + fn, tn + fp


class Every:
    """All decisions by one threshold per group: their rates and objectives, from scikit-learn's counts of each group."""

    def __init__(self, score, y, g):
        of = [
            np.array([confusion(score[g == k] >= t, y[g == k]) for t in (2.0, *np.unique(score[g == k]))], dtype=float)
            for k in np.unique(g)
        ]
        tp, fp, positives, negatives = (np.array(list(product(*(rows[:, i] for rows in of)))) for i in range(4))
        n = positives + negatives
        self.rates = np.stack([tp / positives, fp / negatives, (tp + fp) / n, (tp + negatives - fp) / n])  # (4, B, G)
        self.gaps = dict(zip(GAPS, np.ptp(self.rates, axis=2), strict=True))
        tp, fp, positives, negatives, n = (x.sum(axis=1) for x in (tp, fp, positives, negatives, n))
        self.accuracy = (tp + negatives - fp) / n
        self.balanced_accuracy = (tp / positives + 1 - fp / negatives) / 2
        self.f1 = 2 * tp / (tp + fp + positives)
        self.cost = fp + 4 * (positives - tp)


def rates(decided, y, g):
    found = []
    for k in np.unique(g):
        tp, fp, positives, negatives = confusion(decided[g == k], y[g == k])
        n = positives + negatives
        found.append((tp / positives, fp / negatives, (tp + fp) / n, (tp + negatives - fp) / n))
    return np.array(found)


def gaps(decided, y, g):
    return dict(zip(GAPS, np.ptp(rates(decided, y, g), axis=0), strict=True))


def objective(name, decided, y):
    return {
        "accuracy": (decided == y).mean(),
        "balanced_accuracy": balanced_accuracy_score(y, decided),
        "f1": f1_score(y, decided, zero_division=0),
    }[name]


@pytest.mark.parametrize("close", GAPS)
@pytest.mark.parametrize("groups", [2, 3])
def test_smallest_gap_within_the_budget_is_that_of_all_combinations(close, groups, rng):
    for _ in range(6):
        score, y, g = small_set(rng, 12 * groups, groups)
        budget = float(rng.choice([0.0, 0.02, 0.05, 0.1]))
        before = score >= 0.5
        every = Every(score, y, g)
        kept = every.accuracy >= objective("accuracy", before, y) - budget - 1e-12
        kept &= every.balanced_accuracy >= objective("balanced_accuracy", before, y) - budget - 1e-12
        best = every.gaps[close][kept].min()
        fitted = GroupThresholds.fit(score, y, g, close=close, budget=budget, standard_errors=0)
        decided = fitted.predict(score, g)
        assert fitted.exact
        assert gaps(decided, y, g)[close] == pytest.approx(best, abs=1e-9)
        assert objective("accuracy", decided, y) >= objective("accuracy", before, y) - budget - 1e-12
        assert objective("balanced_accuracy", decided, y) >= objective("balanced_accuracy", before, y) - budget - 1e-12


@pytest.mark.parametrize("close", ["tpr_gap", "positive_rate_gap"])
def test_budget_counts_against_a_reference_that_the_common_threshold_may_not_keep(close, rng):
    seen = set()
    for _ in range(8):
        score, y, g = small_set(rng, 30, 2)
        every = Every(score, y, g)
        best = every.accuracy.max(), every.balanced_accuracy.max()
        reference = tuple(float(b - rng.choice([0.0, 0.04, 0.1])) for b in best)
        kept = (every.accuracy >= reference[0] - 0.02 - 1e-9) & (every.balanced_accuracy >= reference[1] - 0.02 - 1e-9)
        options = {"close": close, "budget": 0.02, "standard_errors": 0, "reference": reference}
        seen.add(bool(kept.any()))
        if not kept.any():
            with pytest.raises(ValueError, match=r"reference: expected figures .* come within 0\.02 of"):
                GroupThresholds.fit(score, y, g, **options)
            continue
        decided = GroupThresholds.fit(score, y, g, **options).predict(score, g)
        assert gaps(decided, y, g)[close] == pytest.approx(every.gaps[close][kept].min(), abs=1e-9)
    assert True in seen


def test_expected_threshold_is_the_mean_under_estimated_groups(rng):
    score, y, g = small_set(rng, 60, 3)
    fitted = GroupThresholds.fit(score, y, g, close="tpr_gap", budget=0.2, standard_errors=0)
    told = np.eye(3)[g]
    np.testing.assert_array_equal(score >= fitted.expected(told, [0, 1, 2]), fitted.predict(score, g))
    half = np.full((60, 2), 0.5)
    np.testing.assert_allclose(fitted.expected(half, [2, "new"]), (fitted.thresholds[2] + fitted.common) / 2)
    for wrong in (told[:, :2], 2 * told, np.array([[-1.0, 1.0, 1.0]])):
        with pytest.raises(ValueError, match=r"probabilities: expected \(N, 3\) of rows that sum to 1"):
            fitted.expected(wrong, [0, 1, 2])


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("maximize", ["accuracy", "balanced_accuracy", "f1"])
def test_best_decision_under_a_gap_is_that_of_all_combinations(gap, maximize, rng):
    for groups in (2, 2, 3):
        score, y, g = small_set(rng, 12 * groups, groups)
        bound = float(rng.choice([0.05, 0.2]))
        every = Every(score, y, g)
        reached = getattr(every, maximize)[every.gaps[gap] <= bound + 1e-12]
        if not len(reached):
            with pytest.raises(ValueError, match=r"subject_to: .*smallest that can be had"):
                GroupThresholds.fit(score, y, g, maximize=maximize, subject_to={gap: bound})
            continue
        fitted = GroupThresholds.fit(score, y, g, maximize=maximize, subject_to={gap: bound})
        decided = fitted.predict(score, g)
        assert fitted.exact
        assert objective(maximize, decided, y) == pytest.approx(max(reached), abs=1e-12)
        assert gaps(decided, y, g)[gap] <= bound + 1e-12


def test_costs_under_a_gap_are_the_smallest_of_all_combinations(rng):
    score, y, g = small_set(rng, 24, 2)

    every = Every(score, y, g)
    decided = GroupThresholds.fit(score, y, g, costs=(1.0, 4.0), subject_to={"fpr_gap": 0.1}).predict(score, g)
    cost = (decided & (y == 0)).sum() + 4 * (~decided & (y == 1)).sum()
    assert cost == every.cost[every.gaps["fpr_gap"] <= 0.1 + 1e-12].min()


def test_floors_hold_in_every_group_and_the_rest_is_the_best(rng):
    score, y, g = small_set(rng, 30, 3)
    bounds = {"tpr_min": 0.6, "positive_rate_max": 0.9}

    every = Every(score, y, g)
    allowed = (every.rates[0] >= 0.6 - 1e-12).all(axis=1) & (every.rates[2] <= 0.9 + 1e-12).all(axis=1)
    decided = GroupThresholds.fit(score, y, g, subject_to=bounds).predict(score, g)
    found = rates(decided, y, g)
    assert (found[:, 0] >= 0.6).all()
    assert (found[:, 2] <= 0.9).all()
    assert (decided == y).mean() == pytest.approx(every.accuracy[allowed].max())


def test_equalized_odds_bound_holds_and_is_best_where_the_points_are_few(rng):
    score, y, g = small_set(rng, 24, 2)
    every = Every(score, y, g)
    inside = np.maximum(every.gaps["tpr_gap"], every.gaps["fpr_gap"]) <= 0.15 + 1e-12
    fitted = GroupThresholds.fit(score, y, g, subject_to={"equalized_odds_gap": 0.15})
    assert max(fitted.attained.gaps[name] for name in GAPS[:2]) <= 0.15 + 1e-12
    assert fitted.attained.accuracy == pytest.approx(every.accuracy[inside].max())


def test_one_threshold_for_all_is_the_best_of_all(rng):
    score, y, g = small_set(rng, 40, 2)
    single = [score >= t for t in (2.0, *np.unique(score))]
    fitted = GroupThresholds.fit(score, y, g, subject_to={"tpr_gap": 0.2}, per_group=False)
    best = max((d == y).mean() for d in single if gaps(d, y, g)["tpr_gap"] <= 0.2 + 1e-12)
    assert set(fitted.thresholds.values()) == {fitted.common}  # unknown groups get it as well
    with pytest.raises(ValueError, match="shrink: expected 0 beside per_group=False"):
        GroupThresholds.fit(score, y, g, subject_to={}, per_group=False, shrink=3.0)
    assert (fitted.predict(score, g) == y).mean() == pytest.approx(best)
    closed = GroupThresholds.fit(score, y, g, close="tpr_gap", budget=0.05, standard_errors=0, per_group=False)
    before = score >= 0.5
    kept = [
        gaps(d, y, g)["tpr_gap"]
        for d in single
        if (d == y).mean() >= (before == y).mean() - 0.05 - 1e-12
        and balanced_accuracy_score(y, d) >= balanced_accuracy_score(y, before) - 0.05 - 1e-12
    ]
    assert closed.attained.gaps["tpr_gap"] == pytest.approx(min(kept))


def test_budget_counts_the_standard_error_of_the_paired_difference(rng):
    g = rng.integers(0, 2, 600)
    y = (rng.random(600) < np.where(g == 1, 0.6, 0.3)).astype(int)
    score = np.clip(rng.normal(0.35 + 0.25 * y + 0.1 * g, 0.2), 0, 1)
    before = score >= 0.5
    reached = []
    for errors in (0.0, 1.0, 2.0):
        fitted = GroupThresholds.fit(score, y, g, close="positive_rate_gap", budget=0.02, standard_errors=errors)
        decided = fitted.predict(score, g)
        change = (decided == y).astype(float) - (before == y)
        assert change.mean() - errors * change.std() / np.sqrt(600) >= -0.02 - 1e-12
        of = [change[y == label] for label in (0, 1)]
        error = np.sqrt(sum(c.var() / len(c) for c in of)) / 2
        assert np.mean([c.mean() for c in of]) - errors * error >= -0.02 - 1e-12
        reached.append(fitted.attained.gaps["positive_rate_gap"])
    assert reached[0] <= reached[1] <= reached[2]
    assert reached[0] < reached[2]


def test_attained_is_what_scikit_learn_counts(rng):
    score, y, g = small_set(rng, 60, 3)
    fitted = GroupThresholds.fit(score, y, g, close="tpr_gap")
    decided = fitted.predict(score, g)
    assert fitted.attained.accuracy == pytest.approx((decided == y).mean())
    assert fitted.attained.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, decided))
    assert fitted.attained.gaps == pytest.approx(gaps(decided, y, g))
    assert fitted.attained_by_common.gaps == pytest.approx(gaps(score >= 0.5, y, g))


def test_unknown_and_unseen_groups_get_the_common_threshold(rng):
    score, y, g = small_set(rng, 60, 2)
    names = np.array(["F", "M"], dtype=object)[g]
    names[:6] = None
    fitted = GroupThresholds.fit(score, y, names, close="tpr_gap", budget=0.1)
    assert set(fitted.thresholds) == {"F", "M"}
    assert fitted.predict([0.5, 0.49], [None, None]).tolist() == [True, False]
    with pytest.warns(UserWarning, match="no threshold was fitted for 'X'"):
        assert fitted.predict([0.5, 0.49], ["X", "X"]).tolist() == [True, False]
    one = GroupThresholds.fit(score, y, names, subject_to={"tpr_gap": 0.1})
    known = np.array([name is not None for name in names])
    again = GroupThresholds.fit(score[known], y[known], names[known], subject_to={"tpr_gap": 0.1})
    assert one.thresholds == again.thresholds


def test_several_attributes_are_their_intersection(rng):
    score, y, g = small_set(rng, 80, 4)
    both = {"sex": np.array(["F", "M"])[g % 2], "age": np.array(["old", "young"])[g // 2]}
    fitted = GroupThresholds.fit(score, y, both, close="tpr_gap")
    assert set(fitted.thresholds) == {"F & old", "F & young", "M & old", "M & young"}
    assert fitted.predict(score, both).shape == (80,)


def test_shrunken_thresholds_lie_towards_the_common_one_and_say_what_they_attain(rng):
    score, y, g = small_set(rng, 60, 2)
    free = GroupThresholds.fit(score, y, g, subject_to={"tpr_gap": 0.05})
    moved = GroupThresholds.fit(score, y, g, subject_to={"tpr_gap": 0.05}, shrink=30)
    for label, t in free.thresholds.items():
        assert moved.thresholds[label] == pytest.approx((30 * t + 30 * 0.5) / 60)
    assert not moved.exact
    assert moved.attained.gaps == pytest.approx(gaps(moved.predict(score, g), y, g))


def test_decisions_shifted_scores_and_module_agree(rng):
    score, y, g = small_set(rng, 60, 2)
    fitted = GroupThresholds.fit(score, y, g, close="positive_rate_gap", budget=0.1)
    ids = np.where(np.arange(60) % 7 == 0, -1, g)
    decided = fitted.predict(score, ids)
    assert (decided == (fitted.shifted(score, ids) >= 0)).all()
    module = fitted.to_module([0, 1])
    assert module(torch.from_numpy(score), torch.from_numpy(ids)).numpy().tolist() == decided.tolist()
    with pytest.raises(ValueError, match="groups: expected ids"):
        module(torch.zeros(1), torch.tensor([2]))


def test_comparison_on_new_data_has_intervals(rng):
    g = rng.integers(0, 2, 800)
    y = rng.integers(0, 2, 800)
    score = np.clip(rng.normal(0.4 + 0.2 * y + 0.15 * g, 0.15), 0, 1)
    fitted = GroupThresholds.fit(score[:400], y[:400], g[:400], close="positive_rate_gap", budget=0.05)
    common, own = fitted.compare(score[400:], y[400:], g[400:], num_replicates=200)
    change = own.against_first["positive_rate"]
    assert change.low <= change.difference <= change.high < 0
    assert common.gaps["positive_rate"][0] == pytest.approx(
        gaps(score[400:] >= 0.5, y[400:], g[400:])["positive_rate_gap"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"close": "tpr_gap", "subject_to": {}}, "close: expected one of"),
        ({}, "close: expected one of"),
        ({"close": "auc_gap"}, "close: expected one of"),
        ({"close": "tpr_gap", "budget": -0.1}, "budget: expected"),
        ({"close": "tpr_gap", "reference": 0.8}, "reference: expected"),
        ({"subject_to": {}, "reference": (0.8, 0.8)}, "reference: expected close="),
        ({"subject_to": {"recall_gap": 0.1}}, "subject_to: expected a rate"),
        ({"subject_to": {"tpr_gap": 0.1, "accuracy_gap": 0.1}}, "subject_to: expected the gap of one rate"),
        ({"subject_to": {"tpr_min": 0.99, "fpr_max": 0.0}}, "subject_to: .*tpr of at most .*fpr of at least"),
        ({"subject_to": {}, "maximize": "auc"}, "maximize: expected one of"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(change, message, rng):
    score, y, g = small_set(rng, 60, 2)
    with pytest.raises(ValueError, match=message):
        GroupThresholds.fit(score, y, g, **change)


def test_logits_beside_the_default_threshold_are_refused(rng):
    score, y, g = small_set(rng, 60, 2)
    with pytest.raises(ValueError, match=r"score: .*common=0\.0 for logits"):
        GroupThresholds.fit(10 * score - 5, y, g, close="tpr_gap")
    assert GroupThresholds.fit(10 * score - 5, y, g, close="tpr_gap", common=0.0).common == 0.0


def test_a_group_without_the_rate_is_not_compared(rng):
    score, y, g = small_set(rng, 60, 3)
    y[g == 2] = 0
    fitted = GroupThresholds.fit(score, y, g, subject_to={"tpr_gap": 0.1})
    values = [fitted.attained.rates[k]["tpr"] for k in (0, 1)]
    assert np.isnan(fitted.attained.rates[2]["tpr"])
    assert abs(values[0] - values[1]) <= 0.1 + 1e-12
    y[g == 1] = 0
    with pytest.raises(ValueError, match="attribute: expected at least two groups in which tpr is defined"):
        GroupThresholds.fit(score, y, g, subject_to={"tpr_gap": 0.1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject_to": "tpr_gap"}, "subject_to: expected a mapping"),
        ({"subject_to": {}, "costs": 3.0}, "costs: expected those of"),
        ({"close": "tpr_gap", "costs": (1, 100)}, "costs: expected None beside close="),
    ],
)
def test_options_that_would_be_ignored_or_cannot_be_read_are_refused(change, message, rng):
    score, y, g = small_set(rng, 60, 2)
    with pytest.raises((TypeError, ValueError), match=message):
        GroupThresholds.fit(score, y, g, **change)


@pytest.mark.parametrize(
    ("score", "groups", "message"),
    [
        (torch.tensor([0.5, float("nan")]), torch.tensor([0, 1]), "score: expected scores without NaN"),
        (torch.tensor([0.5, 0.2]), torch.tensor([0.0, 1.0]), "groups: expected integer ids"),
        (torch.tensor([0.5, 0.2]), torch.tensor([0, 2]), "groups: expected ids 0 .. 1"),
    ],
)
def test_the_module_decides_nothing_of_what_it_cannot_read(score, groups, message):
    module = GroupThresholds({"F": 0.4, "M": 0.5}, common=0.5).to_module(["F", "M"])
    with pytest.raises((TypeError, ValueError), match=message):
        module(score, groups)
