"""After and while training, on random sets: budgets and bounds hold, counts are right, or the error names the argument."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from fairloss.postprocess import GroupThresholds, cross_fit, retrain_last_layer
from fairloss.training import FairnessMonitor
from tests.fuzz.drawing import fuzz, refused

SETS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.5 + 1e-16, 0.75, 1.0]),
        st.integers(0, 1),
        st.sampled_from(["a", "b", "c", None]),
    ),
    min_size=1,
    max_size=40,
)
GAPS = ["tpr_gap", "fpr_gap", "positive_rate_gap", "accuracy_gap", "equalized_odds_gap"]


@fuzz("fairloss.postprocess.GroupThresholds", rows=SETS, close=st.sampled_from(GAPS), budget=st.floats(0, 1))
def test_closing_a_gap_never_opens_it_nor_breaks_the_budget(rows, close, budget):
    score, y, g = (np.array([row[i] for row in rows], dtype=kind) for i, kind in enumerate((float, int, object)))
    try:
        fitted = GroupThresholds.fit(score, y, g, close=close, budget=budget, standard_errors=0)
    except ValueError as error:
        refused(error, "y|attribute")
        known = np.array([label is not None for label in g])
        few = len(set(y[known])) < 2
        for label in (1, 0):  # a rate is missing from all groups but one
            few = few or len(set(g[known & (y == label)])) < 2
        assert few or len(set(g[known])) < 2
        return
    decided = fitted.predict(score, g)
    known = np.array([label is not None for label in g])
    before, y_known = score[known] >= 0.5, y[known] == 1
    change = (decided[known] == y_known).astype(float) - (before == y_known)
    assert change.mean() >= -budget - 1e-9
    assert np.mean([change[y_known].mean(), change[~y_known].mean()]) >= -budget - 1e-9
    for name in ["tpr_gap", "fpr_gap"] if close == "equalized_odds_gap" else [close]:
        ceiling = fitted.attained_by_common.gaps[name]
        if close == "equalized_odds_gap":
            ceiling = np.nanmax([fitted.attained_by_common.gaps[k] for k in ("tpr_gap", "fpr_gap")])
        assert not fitted.attained.gaps[name] > ceiling + 1e-9
    assert (decided[~known] == (score[~known] >= 0.5)).all()


@fuzz("fairloss.postprocess.cross_fit", examples=0.2, rows=SETS, folds=st.integers(2, 6))
def test_out_of_fold_scores_of_every_sample_or_a_named_error(rows, folds):
    score, y, g = (np.array([row[i] for row in rows], dtype=kind) for i, kind in enumerate((float, int, object)))
    try:
        fitted = cross_fit(
            lambda *_: lambda data: data * 4 - 2, score, y=y, attribute=g, folds=folds, output="logit", close="tpr_gap"
        )
    except ValueError as error:
        refused(error, "y|attribute|folds|n_splits")
        return
    np.testing.assert_array_equal(fitted.out_of_fold, score * 4 - 2)


@fuzz("fairloss.postprocess.retrain_last_layer", examples=0.2, rows=SETS)
def test_a_layer_or_a_named_error(rows):
    score, y, g = (np.array([row[i] for row in rows], dtype=kind) for i, kind in enumerate((float, int, object)))
    try:
        layer = retrain_last_layer(np.stack([score, score**2], axis=1), y, g, strengths=(0.1,), subsamples=2)
    except ValueError as error:
        refused(error, "y|groups")
        return
    assert np.isfinite(layer.weight.detach().numpy()).all()


@fuzz(
    "fairloss.training.FairnessMonitor",
    logits=st.lists(st.sampled_from([0.0, 1.0, -1.0, float("inf"), -1e30, float("nan")]), max_size=8),
    labels=st.lists(st.integers(-1, 2), max_size=8),
    groups=st.lists(st.integers(-2, 2), max_size=8),
)
def test_a_monitor_counts_what_it_is_given_or_nothing(logits, labels, groups):
    monitor = FairnessMonitor(2)
    fits = len(logits) == len(labels) == len(groups) and all(v == v for v in logits)
    fits = fits and all(y in (0, 1) for y in labels) and all(-1 <= g < 2 for g in groups)
    try:
        monitor.update(
            torch.tensor(logits), torch.tensor(labels, dtype=torch.int64), torch.tensor(groups, dtype=torch.int64)
        )
    except ValueError as error:
        refused(error, "input|target|groups")
        assert not fits
        assert monitor.counts.sum() == 0
        return
    assert fits
    right = sum((v >= 0) == (y == 1) for v, y in zip(logits, labels, strict=True))
    assert monitor.counts.diagonal(dim1=1, dim2=2).sum() == right
