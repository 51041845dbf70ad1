"""Demographic parity and equalized odds: which rates take part, classes, labels."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fairloss
from fairloss import functional as ff

X = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("name", ["demographic_parity", "equalized_odds"])
def test_positive_class_picks_a_label(name):
    function = getattr(ff, name)
    labels = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1]])
    g = torch.tensor([0, 0, 0, 1, 1, 1])
    each = [function(X, labels, g, num_groups=2, task="multilabel", positive_class=c) for c in range(3)]
    for c, value in enumerate(each):
        torch.testing.assert_close(value, function(X[:, c], labels[:, c], g, num_groups=2))
    torch.testing.assert_close(sum(each) / 3, function(X, labels, g, num_groups=2, task="multilabel"))
    for logits, target, task in ((X, labels, "multilabel"), (X[:, 0], labels[:, 0], "binary"), (X, Y, "multiclass")):
        with pytest.raises(ValueError, match="positive_class: .*7"):
            function(logits, target, g, num_groups=2, task=task, positive_class=7)


@pytest.mark.parametrize(("target", "logits"), [(2, 1), (-1, 1), (4, 4), (-100, 4)])
def test_labels_of_equalized_odds_are_checked(target, logits):
    x = torch.randn(3) if logits == 1 else torch.randn(3, logits)
    with pytest.raises(ValueError, match="target"):
        fairloss.EqualizedOddsLoss(2)(x, torch.tensor([0, target, 1]), torch.tensor([0, 1, 1]))


def test_no_positives_in_the_batch():
    """fairret raises NotImplementedError for a statistic without a sample."""
    logits = torch.tensor([0.3, -0.2, 1.0], requires_grad=True)
    value = fairloss.EqualizedOddsLoss(2)(logits, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0, 1]))
    rate = torch.sigmoid(logits.detach())
    assert value.item() == pytest.approx(abs(float(rate[:2].mean() - rate[2])) / 2)
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


def test_every_class_counts_in_demographic_parity():
    """fairtorch's loss looks at group 0 alone when there are three classes: rates of 0.1 and 0.9 gave 0."""
    p = torch.tensor([[0.1, 0.2, 0.7]] * 2 + [[0.1, 0.8, 0.1]] * 2)
    value = fairloss.DemographicParityLoss(2)(p.log(), torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1]))
    assert value.item() == pytest.approx((0.0 + 0.6 + 0.6) / 3, abs=1e-6)


def test_odds_leave_out_groups_without_positives():
    logits = torch.tensor([2.0, -1.0, 0.5, 3.0], dtype=torch.float64)
    target, groups = torch.tensor([1, 0, 0, 1]), torch.tensor([0, 0, 1, 2])
    p = torch.sigmoid(logits)
    tpr, fpr = (p[0] - p[3]).abs(), (p[1] - p[2]).abs()  # group 1 has no positives, group 2 no negatives
    torch.testing.assert_close(fairloss.EqualizedOddsLoss(3)(logits, target, groups), (tpr + fpr) / 2)
    torch.testing.assert_close(
        fairloss.EqualizedOddsLoss(3, agg="worst_case")(logits, target, groups), torch.maximum(tpr, fpr)
    )


def test_a_perfect_classifier_has_no_odds_gap_but_a_parity_gap():
    target, groups = torch.tensor([1, 1, 0, 0, 0, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    logits = (target * 2 - 1) * 1e4
    assert fairloss.EqualizedOddsLoss(2)(logits.float(), target, groups).item() == 0
    assert fairloss.DemographicParityLoss(2)(logits.float(), target, groups).item() == pytest.approx(1 / 3)
    assert fairloss.MaxAccGapLoss(2)(logits.float(), target, groups).item() == 0


@pytest.mark.parametrize("loss", [fairloss.DemographicParityLoss(3), fairloss.EqualizedOddsLoss((3, 2), smoothing=0.1)])
def test_parity_takes_all_classes_at_once(loss):
    class Ops(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.number += 1
            return func(*args, **(kwargs or {}))

    numbers = []
    for classes in (3, 100):
        logits, target = torch.randn(6, classes, requires_grad=True), torch.arange(6) % classes
        groups = torch.tensor([[0, 0], [1, 1], [2, 1], [0, 0], [1, 1], [-1, 0]])
        with Ops() as ops:
            loss(logits, target, groups if len(loss.num_groups) > 1 else groups[:, 0]).backward()
        numbers.append(ops.number)
    assert numbers[0] == numbers[1] < 200


def rate_memory(rate, num_groups, classes=1, capacity=1000, **options):
    cells = num_groups if rate == "demographic_parity" else 2 * num_groups
    return fairloss.GroupMemory((cells,) * classes, capacity=capacity, **options)


RATES = ("demographic_parity", "equal_opportunity", "equalized_odds")


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_memory_ranks_on_all_that_it_saw(rate, task, generator):
    """In eval mode the value is that of the held batches and this one together."""
    n, function = 60, getattr(ff, rate)
    x = torch.randn((n,) if task == "binary" else (n, 3), generator=generator)
    y = torch.randint(
        0, 3 if task == "multiclass" else 2, (n, 3) if task == "multilabel" else (n,), generator=generator
    )
    g = torch.randint(-1, 2, (n,), generator=generator)
    memory = rate_memory(rate, 2, 1 if task == "binary" else 3)
    options = {"num_groups": 2, "task": task}
    for rows in torch.arange(50).split(5):
        function(x[rows], y[rows], g[rows], memory=memory, **options)
    memory.eval()
    value = function(x[50:], y[50:], g[50:], memory=memory, **options)
    torch.testing.assert_close(value, function(x, y, g, **options))


@pytest.mark.parametrize("rate", RATES)
def test_an_epoch_of_pairs_has_the_gradient_of_all(rate, generator):
    """Batches of two: with a memory the mean gradient is the full batch's, without one it points elsewhere."""
    n, function = 600, getattr(ff, rate)
    g = torch.tensor([0] * 480 + [1] * 120)[torch.randperm(n, generator=generator)]
    y = torch.randint(0, 2, (n,), generator=generator)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    x += torch.where(y == 1, torch.tensor([1.5, 0.2])[g], torch.tensor([-1.5, -0.2])[g])
    w = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)

    def loss(rows, memory):
        return function(w[0] * x[rows] + w[1], y[rows], g[rows], num_groups=2, memory=memory)

    everything = torch.arange(n)
    expected = torch.autograd.grad(loss(everything, None), w)[0]
    cells = g if rate == "demographic_parity" else g + 2 * (1 - y)
    memory = rate_memory(rate, 2, max_weight=100.0, shares=cells.bincount())
    for rows in everything.split(50):
        loss(rows, memory)
    found = {}
    for name, kept in (("memory", memory), ("none", None)):
        grads = [torch.autograd.grad(loss(rows, kept), w)[0] for rows in everything.split(2)]
        found[name] = torch.stack(grads).mean(0)
    torch.testing.assert_close(found["memory"], expected, rtol=1e-9, atol=1e-12)
    assert (found["none"] - expected).norm() > 0.3 * expected.norm()


def test_a_memory_of_other_cells_is_named():
    x, y, g = torch.randn(4), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    for loss in (fairloss.EqualOpportunityLoss, fairloss.EqualizedOddsLoss):
        with pytest.raises(ValueError, match="memory: expected 4 groups.*positives.*negatives"):
            loss(2, memory=fairloss.GroupMemory(2, capacity=4))(x, y, g)
    with pytest.raises(ValueError, match="memory: expected 2 and 2 and 2 groups"):
        fairloss.DemographicParityLoss(2, memory=fairloss.GroupMemory(2, capacity=4))(torch.randn(4, 3), y, g)
    memory = fairloss.GroupMemory((4, 4), capacity=4)
    with pytest.raises(ValueError, match="target: .*0 or 1"):
        ff.equal_opportunity(
            torch.randn(4, 2), torch.full((4, 2), 0.5), g, num_groups=2, memory=memory, task="multilabel"
        )
    assert memory.seen.sum() == 0


@pytest.mark.parametrize("rate", ["equal_opportunity", "equalized_odds"])
@pytest.mark.parametrize("memory", [False, True])
def test_masked_labels_are_in_no_rate(rate, memory, generator):
    function, x = getattr(ff, rate), torch.randn(12, 3, generator=generator)
    y = torch.randint(0, 2, (12, 3), generator=generator)
    missing, g = torch.rand(12, 3, generator=generator) < 0.3, torch.tensor([0, 1] * 6)
    options = {"num_groups": 2}
    each = [
        function(x[~m, c], y[~m, c], g[~m], memory=rate_memory(rate, 2) if memory else None, **options)
        for c, m in enumerate(missing.T)
    ]
    options["task"] = "multilabel"
    for target, ignored in (
        (y.float().masked_fill(missing, torch.nan), -100),
        (y.masked_fill(missing, -1), -1),
        (y.float().masked_fill(missing, -1), -1),
    ):
        kept = rate_memory(rate, 2, 3) if memory else None
        value = function(x, target, g, ignore_index=ignored, memory=kept, **options)
        torch.testing.assert_close(value, sum(each) / 3)
