"""Operations on a small batch: the bounds that the criteria keep, and that the counter counts."""

from __future__ import annotations

import pytest
import torch

from benchmarks.operations import operations, steps

BOUNDS = {
    "F.cross_entropy": 6,
    "MaxAccGapLoss": 34,
    "FairCrossEntropyLoss, gap and counts": 40,
    "FISLoss, cross-entropies beside it": 58,
    "FairDistillationLoss": 70,
}


@pytest.mark.parametrize("name", BOUNDS)
def test_operations_of_a_small_batch(name):
    forward, backward = operations(steps()[name])
    assert len(forward) + len(backward) <= BOUNDS[name], (forward, backward)


def test_the_counter_counts_what_runs():
    x = torch.ones(3, requires_grad=True)
    forward, backward = operations(lambda: (x * 2).view(3, 1).exp().sum())
    assert forward == ["mul", "exp", "sum"]
    assert sorted(backward) == ["add_", "mul", "mul", "ones_like"]
