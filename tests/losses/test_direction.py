"""``direction="raise"``: a gap closes by the worst group's gain, and by nothing else."""

from __future__ import annotations

import pytest
import torch

import fairloss
from fairloss import functional as ff

G = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
Y = torch.tensor([1, 1, 0, 1, 0, 0, 0, 1, 1])


def draw(generator, shape=(9,)):
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def slope(value, x):
    return torch.autograd.grad(value, x, allow_unused=True, retain_graph=True)[0]


def means_by_group(values, chosen):
    return torch.stack([values[chosen & (g == G)].mean() for g in range(3)])


def test_the_worst_group_alone_is_moved(generator):
    """The gradient is that of minus the worst group's accuracy (TPR, positive rate), of plus the highest FPR."""
    x = draw(generator)
    p = torch.sigmoid(x)
    accuracy, everyone = torch.where(Y == 1, p, 1 - p), torch.ones(9, dtype=torch.bool)
    low = {
        ff.max_acc_gap: means_by_group(accuracy, everyone),
        ff.demographic_parity: means_by_group(p, everyone),
        ff.equal_opportunity: means_by_group(p, Y == 1),
    }
    for function, means in low.items():
        both, raised = (function(x, Y, G, num_groups=3, direction=d) for d in ("both", "raise"))
        torch.testing.assert_close(both, raised)
        torch.testing.assert_close(slope(raised, x), slope(-means.min(), x))
    odds = ff.equalized_odds(x, Y, G, num_groups=3, direction="raise")
    expected = (means_by_group(p, Y == 0).max() - low[ff.equal_opportunity].min()) / 2
    torch.testing.assert_close(slope(odds, x), slope(expected, x))
    parts = ff.fair_cross_entropy(x, Y, G, num_groups=3, gap_weight=0.5, direction="raise", return_parts=True)
    torch.testing.assert_close(slope(parts.gap, x), slope(-low[ff.max_acc_gap].min(), x))


@pytest.mark.parametrize("smoothing", [None, 0.02, 0.5])
@pytest.mark.parametrize("memory", [False, True])
def test_no_group_is_made_worse(smoothing, memory, generator):
    """With the gradient of the softmax weights the smooth minimum would push other groups down."""
    for _ in range(20):
        x = draw(generator)
        kept = None
        if memory:
            kept = fairloss.GroupMemory(3, capacity=8)
            kept.push(torch.rand(9, generator=generator), G)
        options = {"num_groups": 3, "smoothing": smoothing, "memory": kept}
        value = ff.max_acc_gap(x, Y, G, direction="raise", **options)
        assert ((2 * Y - 1) * slope(value, x) <= 0).all()
        if smoothing is None:
            assert (slope(value, x) != 0).sum() == 3


@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_group_gap_raises_the_worse_end(smoothing, generator):
    values = torch.rand(9, generator=generator, dtype=torch.float64).requires_grad_()
    options = {"num_groups": 3, "direction": "raise", "smoothing": smoothing}
    plain = ff.group_gap(values, G, num_groups=3, smoothing=smoothing)
    up, down = (ff.group_gap(values, G, higher_is_better=better, **options) for better in (True, False))
    torch.testing.assert_close(up, plain)
    torch.testing.assert_close(down, plain)
    assert (slope(up, values) <= 0).all()
    assert (slope(down, values) >= 0).all()
    if smoothing is None:
        means = means_by_group(values, torch.ones(9, dtype=torch.bool))
        torch.testing.assert_close(slope(up, values), slope(-means.min(), values))
        torch.testing.assert_close(slope(down, values), slope(means.max(), values))
    with pytest.raises(ValueError, match="higher_is_better: .*accuracies"):
        ff.group_gap(values, G, **options)


@pytest.mark.parametrize("smoothing", [None, 0.1])
@pytest.mark.parametrize("groups", [torch.zeros(9, dtype=torch.int64), torch.full((9,), -1)])
def test_a_group_alone_is_not_moved(smoothing, groups, generator):
    x = draw(generator)
    value = ff.max_acc_gap(x, Y, groups, num_groups=3, smoothing=smoothing, direction="raise")
    assert value == 0
    assert (slope(value, x) == 0).all()


@pytest.mark.parametrize(
    "loss",
    [
        fairloss.MaxAccGapLoss,
        fairloss.DemographicParityLoss,
        fairloss.EqualOpportunityLoss,
        fairloss.EqualizedOddsLoss,
        fairloss.FairCrossEntropyLoss,
    ],
)
def test_other_directions_are_refused(loss):
    with pytest.raises(ValueError, match="direction: expected one of 'both', 'raise', got 'up'"):
        loss(2, direction="up")


def test_training_raises_the_worst_group_and_leaves_the_best():
    """One logit per sample, as a model with room for all would have; the papers' gap lowers the best group."""
    found = {}
    for direction in ("both", "raise"):
        x = torch.tensor([2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]).requires_grad_()
        optimizer = torch.optim.SGD([x], lr=0.3)
        for _ in range(40):
            optimizer.zero_grad()
            ff.max_acc_gap(x, torch.ones(9, dtype=torch.int64), G, num_groups=3, direction=direction).backward()
            optimizer.step()
        found[direction] = torch.sigmoid(x.detach()).reshape(3, 3).mean(1)
    start = torch.sigmoid(torch.tensor([2.0, 1.0, 0.0]))
    assert found["raise"][0] == pytest.approx(start[0].item())
    assert found["raise"][2] > start[2] + 0.1
    assert found["both"][0] < start[0] - 0.03
