"""Metrics by group of a trainer's predictions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fairloss.integrations._group_metrics import group_metrics


@pytest.mark.parametrize(
    ("groups", "named"),
    [([0, 0, 2], "2"), ([0, -100, 1], "-100"), ([0.0, 1, 1], "float64")],
)
def test_group_metrics_names_group_ids_that_cannot_be(groups, named):
    def prediction(groups):
        return SimpleNamespace(predictions=4 * np.eye(3, 2), label_ids=(np.array([0, 1, 1]), np.array(groups)))

    with pytest.raises(ValueError, match=rf"prediction: .*groups in label_ids .*0 \.\. 1, or -1 .*got {named}$"):
        group_metrics(prediction(groups), num_groups=2)
    assert group_metrics(prediction([0, 1, -1]), num_groups=2)["max_accuracy_gap"] == 0


def of(scores, labels, groups, **options):
    return group_metrics(SimpleNamespace(predictions=scores, label_ids=(labels, groups)), num_groups=3, **options)


@pytest.mark.parametrize("shape", ["(N,)", "(N, 1)", "(N, 2)", "(N, 3)", "(N, L)"])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_accuracy_is_that_of_the_metrics(shape, kind, rng):
    """(N, L) was right where every label was, as an answer of several tokens is."""
    n, columns = 90, {"(N, 2)": 2, "(N, 3)": 3, "(N, L)": 4}.get(shape, 1)
    groups = rng.integers(-1, 3, n)
    labels = rng.integers(0, max(columns, 2) if shape != "(N, L)" else 2, (n, 4) if shape == "(N, L)" else n)
    scores = rng.normal(0, 2, labels.shape if shape in ("(N,)", "(N, L)") else (n, columns)).astype(kind)
    decided = scores.argmax(1) if shape in ("(N, 2)", "(N, 3)") else (scores > 0).reshape(labels.shape)
    known = rng.random(labels.shape) < 0.8
    right = np.where(known, decided == labels, np.nan)
    found = of(scores, np.where(known, labels, -100), groups)

    # Of several labels, the mean over labels of the share of right ones, and of the labels' gaps.
    values = np.array([np.nanmean(right[groups == g], axis=0) for g in range(3)]).reshape(3, -1)
    named = [found[f"accuracy_group_{g}"] for g in range(3)]
    np.testing.assert_allclose(named, values.mean(axis=1), atol=1e-12)
    assert found["accuracy"] == pytest.approx(np.mean(np.nanmean(right, axis=0)), abs=1e-12)
    assert found["max_accuracy_gap"] == pytest.approx(np.mean(np.ptp(values, axis=0)), abs=1e-12)
    if shape == "(N, L)":
        assert of(scores, np.where(known, labels, np.nan), groups) == found


def test_probabilities_are_said_to_be_some(rng):
    p, labels, groups = rng.random(60), rng.integers(0, 2, 60), rng.integers(0, 3, 60)
    assert of(p, labels, groups, logits=False)["accuracy"] == np.mean((p >= 0.5) == labels)
    for options in ({}, {"logits": True}):
        with pytest.warns(UserWarning, match="logits: expected False for probabilities.*taken as logits"):
            assert of(p, labels, groups, **options)["accuracy"] == np.mean(labels)
    columns = np.stack([1 - p, p], axis=1)  # the same in either reading
    assert of(columns, labels, groups) == of(np.log(columns), labels, groups) == of(p, labels, groups, logits=False)
