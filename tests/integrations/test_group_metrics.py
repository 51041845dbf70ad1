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
        return SimpleNamespace(predictions=np.eye(3, 2), label_ids=(np.array([0, 1, 1]), np.array(groups)))

    with pytest.raises(ValueError, match=rf"prediction: .*groups in label_ids .*0 \.\. 1, or -1 .*got {named}$"):
        group_metrics(prediction(groups), num_groups=2)
    assert group_metrics(prediction([0, 1, -1]), num_groups=2)["max_accuracy_gap"] == 0
