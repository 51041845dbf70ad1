"""cross_fit against scikit-learn's own out-of-fold scores; splits by patient, resuming, averages."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    PredefinedSplit,
    RepeatedKFold,
    StratifiedKFold,
    cross_val_predict,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from fairloss.postprocess import GroupThresholds, cross_fit

CLOSE = {"close": "positive_rate_gap", "budget": 0.02}


@pytest.fixture
def people(rng):
    g = rng.integers(0, 2, 400)
    x = rng.standard_normal((400, 3)) + 0.8 * g[:, None]
    y = (x[:, 0] + rng.standard_normal(400) > 0.4).astype(int)
    return x, y, np.array(["F", "M"])[g]


def test_out_of_fold_scores_and_thresholds_are_scikit_learns(people):
    x, y, g = people
    folds = KFold(4, shuffle=True, random_state=1)
    fitted = cross_fit(LogisticRegression(), x, y=y, attribute=g, folds=folds, **CLOSE)
    outside = cross_val_predict(LogisticRegression(), x, y, cv=folds, method="decision_function")
    np.testing.assert_allclose(fitted.out_of_fold, outside, rtol=1e-12)
    assert fitted.thresholds.thresholds == GroupThresholds.fit(outside, y, g, common=0.0, **CLOSE).thresholds
    members = [LogisticRegression().fit(x[a], y[a]).decision_function(x) for a, _ in folds.split(x)]
    np.testing.assert_allclose(fitted.score(x), np.mean(members, axis=0), rtol=1e-12)
    shifted = np.mean(members, axis=0) - np.array([fitted.thresholds.thresholds[label] for label in g])
    assert (fitted.predict(x, g) == (shifted >= 0)).all()


def test_probabilities_are_averaged_as_logits_unless_asked(people):
    x, y, g = people
    folds = KFold(3, shuffle=True, random_state=1)
    by_logit, by_probability = (
        cross_fit(GaussianNB(), x, y=y, attribute=g, folds=folds, average=how, **CLOSE)
        for how in ("logit", "probability")
    )
    members = np.stack([GaussianNB().fit(x[a], y[a]).predict_proba(x)[:, 1] for a, _ in folds.split(x)])
    np.testing.assert_allclose(by_probability.score(x), members.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(by_logit.score(x), np.log(members / (1 - members)).mean(axis=0), rtol=1e-4, atol=1e-6)
    outside = cross_val_predict(GaussianNB(), x, y, cv=folds, method="predict_proba")[:, 1]
    np.testing.assert_allclose(expit(by_logit.out_of_fold), outside, atol=1e-6)
    assert by_logit.thresholds.common == 0.0
    assert by_probability.thresholds.common == 0.5


def test_votes_are_the_majority_of_the_members_decisions(people):
    x, y, g = people
    fitted = cross_fit(LogisticRegression(), x, y=y, attribute=g, folds=3, average="vote", **CLOSE)
    t = np.array([fitted.thresholds.thresholds[label] for label in g])
    votes = np.mean([m.decision_function(x) >= t for m in fitted.members], axis=0)
    assert (fitted.predict(x, g) == (votes >= 0.5)).all()


def test_patients_never_cross_folds(people):
    x, y, g = people
    patients = np.arange(400) // 4
    seen = []

    def fit(rows, labels, attribute):
        seen.append(np.asarray(rows))
        model = LogisticRegression().fit(x[rows], labels)
        return lambda rows: model.decision_function(x[rows])

    fitted = cross_fit(fit, np.arange(400), y=y, attribute=g, patients=patients, output="logit", **CLOSE)
    assert fitted.notes == ()
    left_out = [set(range(400)) - set(rows.tolist()) for rows in seen]
    assert sorted(i for rows in left_out for i in rows) == sorted(4 * list(range(400)))  # four times
    for rows, out in zip(seen, left_out, strict=True):
        assert not set(patients[rows]) & set(patients[list(out)])
    with pytest.raises(ValueError, match="folds: expected a splitter that keeps a patient's samples together"):
        cross_fit(LogisticRegression(), x, y=y, attribute=g, patients=patients, folds=KFold(5, shuffle=True), **CLOSE)
    cross_fit(LogisticRegression(), x, y=y, attribute=g, patients=patients, folds=GroupKFold(5), **CLOSE)
    assert "independent" in cross_fit(LogisticRegression(), x, y=y, attribute=g, **CLOSE).notes[0]


def test_repeated_folds_average_each_samples_scores(people):
    x, y, g = people
    folds = RepeatedKFold(n_splits=3, n_repeats=2, random_state=0)
    fitted = cross_fit(LogisticRegression(), x, y=y, attribute=g, folds=folds, **CLOSE)
    total = np.zeros(400)
    for a, b in folds.split(x):
        total[b] += LogisticRegression().fit(x[a], y[a]).decision_function(x[b])
    np.testing.assert_allclose(fitted.out_of_fold, total / 2, rtol=1e-12)
    assert len(fitted.members) == 6


@pytest.mark.filterwarnings("ignore:positive rates out of fold")
def test_folds_are_drawn_four_times_and_the_budget_counts_against_the_members(people):
    x, y, g = people
    fitted = cross_fit(DecisionTreeClassifier(max_depth=4, random_state=0), x, y=y, attribute=g, close="tpr_gap")
    assert len(fitted.members) == 20
    again = cross_fit(
        DecisionTreeClassifier(max_depth=4, random_state=0), x, y=y, attribute=g, close="tpr_gap", repeats=1
    )
    assert len(again.members) == 5
    assert again.reference is None
    strata = np.unique(g, return_inverse=True)[1] * 2 + y
    single, singles, tiny = np.zeros(400), [], np.finfo(np.float32).eps
    for r in range(4):
        folds = StratifiedKFold(5, shuffle=True, random_state=7919 * r)
        model = DecisionTreeClassifier(max_depth=4, random_state=0)
        for a, b in folds.split(x, strata):
            single[b] = logit(np.clip(model.fit(x[a], y[a]).predict_proba(x[b])[:, 1], tiny, 1 - tiny))
        singles.append(single.copy())
    np.testing.assert_allclose(fitted.out_of_fold, np.mean(singles, axis=0), rtol=1e-5)
    shares = np.mean([s >= 0 for s in singles])
    assert (fitted.out_of_fold >= fitted.thresholds.common).mean() == pytest.approx(shares, abs=0.01)
    accuracy = np.mean([accuracy_score(y, s >= 0) for s in singles])
    balanced = np.mean([balanced_accuracy_score(y, s >= 0) for s in singles])
    # Averaging lost more than the budget here: then the common threshold on the average is as near as can be had.
    now = fitted.out_of_fold >= fitted.thresholds.common
    nearest = accuracy_score(y, now) + 0.005, balanced_accuracy_score(y, now) + 0.005
    assert nearest < (accuracy, balanced)
    assert fitted.reference == pytest.approx(nearest, abs=1e-6)
    assert accuracy_score(y, fitted.thresholds.predict(fitted.out_of_fold, g)) >= fitted.reference[0] - 0.005 - 1e-9
    linear = cross_fit(LogisticRegression(), x, y=y, attribute=g, close="tpr_gap")  # of which it lost nothing
    singles = []
    for r in range(4):
        for a, b in StratifiedKFold(5, shuffle=True, random_state=7919 * r).split(x, strata):
            single[b] = LogisticRegression().fit(x[a], y[a]).decision_function(x[b])
        singles.append((accuracy_score(y, single >= 0), balanced_accuracy_score(y, single >= 0)))
    assert linear.reference == pytest.approx(np.mean(singles, axis=0), abs=1e-6)


def test_a_torch_loop_as_a_function_returning_a_module(people):
    x, y, g = people

    def fit(data, labels, attribute):
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 1)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(30):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(
                net(torch.as_tensor(data)).squeeze(1), torch.as_tensor(labels, dtype=torch.float32)
            ).backward()
            optimizer.step()
        return net

    data = x.astype(np.float32)
    fitted = cross_fit(fit, data, y=y, attribute=g, folds=3, **CLOSE)
    again = cross_fit(fit, torch.from_numpy(data), y=torch.from_numpy(y), attribute=g, folds=3, **CLOSE)
    np.testing.assert_array_equal(fitted.out_of_fold, again.out_of_fold)
    with torch.no_grad():
        members = np.mean([m(torch.from_numpy(data)).squeeze(1).numpy() for m in fitted.members], axis=0)
    np.testing.assert_allclose(fitted.score(data), members, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:positive rates out of fold")
def test_frames_are_indexed_by_row(people):
    x, y, g = people
    frame = pd.DataFrame(x, index=np.arange(400)[::-1], columns=list("abc"))
    one = cross_fit(LogisticRegression(), frame, y=y, attribute=pd.Series(g), folds=3, **CLOSE)
    two = cross_fit(LogisticRegression(), x, y=y, attribute=g, folds=3, **CLOSE)
    np.testing.assert_allclose(one.out_of_fold, two.out_of_fold, rtol=1e-9)


def test_a_stopped_fit_goes_on_where_it_stopped(people, tmp_path):
    x, y, g = people
    calls = []

    class Stopped(Exception):
        pass

    def fit(data, labels, attribute, stop_at=3):
        calls.append(len(data))
        if len(calls) == stop_at:
            raise Stopped
        return LogisticRegression().fit(data, labels)

    with pytest.raises(Stopped):
        cross_fit(fit, x, y=y, attribute=g, directory=tmp_path / "folds", **CLOSE)
    fitted = cross_fit(fit, x, y=y, attribute=g, directory=tmp_path / "folds", **CLOSE)
    assert len(calls) == 3 + 18  # two folds of twenty were kept
    whole = cross_fit(LogisticRegression(), x, y=y, attribute=g, **CLOSE)
    np.testing.assert_array_equal(fitted.out_of_fold, whole.out_of_fold)
    with pytest.raises(ValueError, match="directory: expected folds of these samples"):
        cross_fit(fit, x, y=y, attribute=g, seed=1, directory=tmp_path / "folds", **CLOSE)
    with pytest.raises(TypeError, match="fit: expected a model that can be saved"):
        cross_fit(
            lambda *_: lambda rows: rows[:, 0] * 3,
            x,
            y=y,
            attribute=g,
            output="logit",
            directory=tmp_path / "no",
            **CLOSE,
        )


def test_positive_rates_out_of_fold_and_averaged_are_reported(people):
    x, y, g = people
    fitted = cross_fit(LogisticRegression(), x, y=y, attribute=g, **CLOSE)
    for label in ("F", "M"):
        before, after = fitted.positive_rates[label]
        t = fitted.thresholds.thresholds[label]
        assert before == pytest.approx((fitted.out_of_fold[g == label] >= t).mean())
        assert after == pytest.approx((fitted.score(x)[g == label] >= t).mean())


def test_an_average_that_moves_positive_rates_is_warned_of(people):
    x, y, g = people

    def memorizes(rows, labels, attribute):
        known = dict(zip(rows.tolist(), labels.tolist(), strict=True))
        return lambda rows: np.array([8.0 if known.get(int(i), 0) else -1.0 + 1e-3 * x[int(i), 0] for i in rows])

    with pytest.warns(UserWarning, match=r"positive rates out of fold and by the average .*'M' 0\.000 and"):
        cross_fit(memorizes, np.arange(400), y=y, attribute=g, close="tpr_gap", budget=1.0)


@pytest.mark.parametrize(
    ("fit", "options", "message"),
    [
        (lambda *_: lambda rows: np.full(len(rows), 0.5), {}, "output: expected a word on what the scores are"),
        (lambda *_: lambda rows: rows * 3.0, {}, r"fit: expected a model with one score per sample"),
        (lambda *_: lambda rows: np.full(len(rows), 3.0), {"output": "probability"}, "output: expected probabilities"),
        (LogisticRegression(), {"folds": 1}, "folds: expected an integer >= 2"),
        (LogisticRegression(), {"average": "median"}, "average: expected one of"),
        (LogisticRegression(), {"close": None}, "close: expected one of"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(fit, options, message, people):
    x, y, g = people
    with pytest.raises(ValueError, match=message):
        cross_fit(fit, x, y=y, attribute=g, **(CLOSE | options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"close": "tprgap"}, "close: expected one of"),
        ({"close": None}, "close: expected one of close= and subject_to="),
        ({"close": None, "subject_to": {"tpr": 0.1}}, "subject_to: expected a rate"),
        ({"close": None, "subject_to": ["tpr_gap"]}, "subject_to: expected a mapping"),
        ({"budget": 2}, "budget: expected"),
        ({"repeats": 0}, "repeats: expected"),
        ({"repeats": 2, "folds": KFold(3)}, "repeats: expected None beside a splitter"),
        ({"tolerance": 0.1}, "unexpected keyword argument|tolerance"),
        ({"y": np.arange(400) % 2 + 1}, r"y: expected \(N,\) labels 0 and 1"),
        ({"y": np.zeros((400, 1))}, r"y: expected \(N,\) labels 0 and 1"),
        ({"data": np.zeros((405, 3))}, "data: expected one sample for each of 400 labels, got 405"),
        ({"data": np.zeros((395, 3))}, "data: expected one sample for each of 400 labels, got 395"),
        ({"folds": "3"}, "folds: expected an integer"),
    ],
)
def test_what_no_thresholds_can_be_fitted_with_is_refused_before_training(change, message, people):
    x, y, g = people

    def fit(data, y, attribute):
        raise AssertionError("trained")

    options = {"data": x, "y": y, "attribute": g, **CLOSE, **change}
    with pytest.raises((TypeError, ValueError), match=message):
        cross_fit(fit, options.pop("data"), **options)


def test_a_fold_trained_on_one_label_is_refused(people):
    x, y, g = people
    folds = PredefinedSplit(
        np.where(y == 1, 0, 1)
    )  # the only column of predict_proba would be read as the positive one
    with pytest.raises(ValueError, match="folds: expected both labels in every fold's training samples"):
        cross_fit(DecisionTreeClassifier(), x, y=y, attribute=g, folds=folds, **CLOSE)


@pytest.mark.parametrize("change", [{"fit": LogisticRegression(C=1e-4)}, {"data": 5.0}, {"output": "logit"}])
def test_folds_of_another_fit_are_not_gone_on_with(change, people, tmp_path):
    x, y, g = people
    cross_fit(LogisticRegression(), x, y=y, attribute=g, directory=tmp_path, **CLOSE)
    again = cross_fit(LogisticRegression(), x, y=y, attribute=g, directory=tmp_path, **CLOSE)
    assert len(again.members) == 20
    fit, data = change.pop("fit", LogisticRegression()), x * change.pop("data", 1.0)
    with pytest.raises(ValueError, match="directory: expected folds of these samples, fit and seed"):
        cross_fit(fit, data, y=y, attribute=g, directory=tmp_path, **change, **CLOSE)
