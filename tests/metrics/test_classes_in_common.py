"""Groups that lack some of the classes: a gap compares each class over the groups that have it, and the warning says which."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score, roc_auc_score

import fairloss.metrics as fm


def two_clinics():
    """Recalls of AMD and DR are 0.9 in both clinics; glaucoma, of recall 0.6, is seen in B alone."""
    counts = [("A", "amd", 100), ("A", "dr", 100), ("B", "amd", 50), ("B", "dr", 50), ("B", "glaucoma", 100)]
    y, p, g = [], [], []
    for clinic, disease, n in counts:
        right = n * 6 // 10 if disease == "glaucoma" else n * 9 // 10
        y += [disease] * n
        p += [disease] * right + ["dr" if disease == "amd" else "amd"] * (n - right)
        g += [clinic] * n
    return np.array(y), np.array(p), np.array(g)


def test_a_class_that_one_group_lacks_makes_no_gap():
    y, p, g = two_clinics()
    with pytest.warns(fm.UndefinedGroupWarning, match=r"tpr is undefined in group\(s\) A \(class glaucoma\): left out"):
        found = fm.group_metric("tpr", y, p, g)
    assert found.gap() == fm.gap(found) == pytest.approx(0, abs=1e-12)
    assert found.std(ddof=0) == fm.group_std(found, ddof=0) == pytest.approx(0, abs=1e-12)
    assert found.worst() == fm.worst(found) == pytest.approx(0.9)
    # A group's own value is over the classes that it has.
    own = [recall_score(y[g == k], p[g == k], labels=found_in, average="macro") for k, found_in in
           (("A", ["amd", "dr"]), ("B", ["amd", "dr", "glaucoma"]))]  # fmt: skip
    assert found.values == pytest.approx(own)
    assert found.overall == pytest.approx(recall_score(y, p, average="macro"))
    assert found.equity_scaled(penalty="sum_abs") == pytest.approx(0.9)
    for over_classes in ("mean_gap", "max_gap", "gap_of_mean"):
        with pytest.warns(fm.UndefinedGroupWarning, match="class glaucoma"):
            gap = fm.equal_opportunity_difference(y, p, g, over_classes=over_classes)
        assert gap == pytest.approx(0, abs=1e-12)
    for call in (fm.equal_opportunity_difference, lambda *a, **k: fm.group_metric("tpr", *a, **k)):
        with pytest.raises(ValueError, match=r"tpr is undefined in group\(s\) A \(class glaucoma\)"):
            call(y, p, g, undefined="raise")


@pytest.mark.parametrize("seed", range(5))
def test_gaps_of_areas_and_of_f1_compare_each_class_where_it_is(seed):
    rng = np.random.default_rng(seed)
    y, g = rng.integers(0, 4, 400), rng.integers(0, 3, 400)
    y[(g == 0) & (y == 3)] = 0
    y[(g == 1) & (y == 2)] = 1
    scores = rng.dirichlet(np.ones(4), 400) + 0.3 * np.eye(4)[y]
    scores /= scores.sum(axis=1, keepdims=True)
    areas = np.full((3, 4), np.nan)
    for k in range(3):
        for c in range(4):
            if (y[g == k] == c).sum() > 0:
                areas[k, c] = roc_auc_score(y[g == k] == c, scores[g == k, c])
    expected = np.mean([np.ptp(column[~np.isnan(column)]) for column in areas.T])
    with pytest.warns(fm.UndefinedGroupWarning, match=r"auc is undefined in group\(s\) 0 \(class 3\), 1 \(class 2\)"):
        assert fm.auc_gap(y, scores, g) == pytest.approx(expected)
    common = areas[:, :2].mean(axis=1)
    overall = np.mean([roc_auc_score(y == c, scores[:, c]) for c in (0, 1)])
    with pytest.warns(fm.UndefinedGroupWarning):
        scaled = fm.equity_scaled_auc(y, scores, g)
    assert scaled == pytest.approx(overall / (1 + np.abs(overall - common).mean()))
    p = scores.argmax(axis=1)
    f1 = np.array(
        [f1_score(y[g == k], p[g == k], labels=range(4), average=None, zero_division=np.nan) for k in range(3)]
    )
    seen = np.array([[((y == c) | (p == c))[g == k].any() for c in range(4)] for k in range(3)])
    expected = np.mean([np.ptp(f1[seen[:, c], c]) for c in range(4)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fm.UndefinedGroupWarning)
        assert fm.group_metric("f1", y, scores, g).gap() == pytest.approx(expected)


def test_groups_without_a_class_in_common_have_no_worst():
    with pytest.warns(fm.UndefinedGroupWarning, match=r"0 \(class b\), 1 \(class a\)"):
        found = fm.group_metric("tpr", ["a", "a", "b", "b"], ["a", "b", "b", "b"], [0, 0, 1, 1], task="multiclass")
    assert found.values.tolist() == [0.5, 1.0]
    assert np.isnan([found.gap(), found.worst(), found.std(ddof=0)]).all()


def test_a_warning_names_a_few_of_many_classes():
    y = list(range(10)) + [0] * 10
    with pytest.warns(fm.UndefinedGroupWarning, match=r"1 \(classes 1, 2, 3, 4, 5, 6 and 3 more\)"):
        fm.equal_opportunity_difference(y, y, [0] * 10 + [1] * 10)


def test_samples_without_weight_are_not_counted():
    y, s, g, w = [1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], ["F", "F", "M", "M"], [1, 2, 0, 1]
    found = fm.group_metric("accuracy", y, s, g, sample_weight=w)
    assert (found.counts.tolist(), found.positives.tolist()) == ([2, 1], [1, 0])
    assert fm.group_mean(s, g, sample_weight=w).counts.tolist() == [2, 1]

    def accuracy(true, pred, sample_weight):
        assert sample_weight.min() > 0
        return float(np.average(true == (pred > 0.5), weights=sample_weight))

    assert fm.group_metric(accuracy, y, s, g, sample_weight=w).to_dict() == {"F": 1.0, "M": 1.0}
