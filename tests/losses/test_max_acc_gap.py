"""The gap of the groups' accuracies: the metric as its limit, smoothing, ties, attributes, second derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

import fairloss
from fairloss import functional as ff


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_id_out_of_range_is_an_error_in_a_compiled_loss():
    torch._dynamo.reset()
    loss = torch.compile(fairloss.MaxAccGapLoss(2), backend="aot_eager", fullgraph=True)
    logits = torch.randn(4, 3)
    assert torch.isfinite(loss(logits, torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, -1])))
    for bad in (2, 3, -2):
        with pytest.raises(RuntimeError, match="groups|id out of range"):
            loss(logits, torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, bad, -1]))


def test_ids_of_ignored_samples_are_checked():
    logits, target = torch.randn(3, 2), torch.tensor([0, -100, 1])
    with pytest.raises(ValueError, match=r"groups: .*\b9\b"):
        fairloss.MaxAccGapLoss(2)(logits, target, torch.tensor([0, 9, 1]))


def test_soft_gap_meets_the_metric_as_the_model_grows_certain(batch):
    logits, target, groups = batch
    hard = logits.argmax(1)
    accuracy = [accuracy_score(target[groups == g], hard[groups == g]) for g in range(3)]
    soft = fairloss.MaxAccGapLoss(3)(logits * 1e6, target, groups)
    assert soft.item() == pytest.approx(max(accuracy) - min(accuracy), abs=1e-12)


def test_smoothing_stays_inside_and_tends_to_the_hard_gap(batch):
    hard = fairloss.MaxAccGapLoss(3)(*batch).item()
    gaps = [fairloss.MaxAccGapLoss(3, smoothing=t)(*batch).item() for t in (10, 1, 0.1, 0.01, 1e-4)]
    assert all(0 <= gap <= hard + 1e-15 for gap in gaps)
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(hard, abs=1e-12)


def test_ties_share_the_gradient():
    values = torch.tensor([1.0, 1.0, 0.0], requires_grad=True)
    ff.group_gap(values, torch.tensor([0, 1, 2]), num_groups=3).backward()
    assert values.grad.tolist() == [0.5, 0.5, -1.0]


def test_attributes_reduce_as_asked(batch):
    logits, target, groups = batch
    both = torch.stack([groups, (torch.arange(40) % 2)], 1)
    gaps = [fairloss.MaxAccGapLoss(size)(logits, target, both[:, k]).item() for k, size in enumerate((3, 2))]
    for reduction, expected in (("mean", np.mean(gaps)), ("sum", np.sum(gaps)), ("max", np.max(gaps))):
        loss = fairloss.MaxAccGapLoss((3, 2), attribute_reduction=reduction)
        assert loss(logits, target, both).item() == pytest.approx(expected, rel=1e-14)
    criterion = fairloss.FairCrossEntropyLoss((3, 2), gap_weight=1.0)
    assert criterion(logits, target, both, return_parts=True).gap.item() == pytest.approx(np.mean(gaps), rel=1e-14)


@pytest.mark.parametrize("smoothing", [None, 0.2], ids=["hard", "smooth"])
@pytest.mark.parametrize(
    ("loss", "task"),
    [
        (fairloss.MaxAccGapLoss, "multiclass"),
        (fairloss.DemographicParityLoss, "multiclass"),
        (fairloss.EqualizedOddsLoss, "multilabel"),
    ],
)
@pytest.mark.parametrize(("sizes", "reduction"), [(3, "mean"), ((3, 2), "mean"), ((3, 2), "sum"), ((3, 2), "max")])
def test_second_derivatives(loss, task, sizes, reduction, smoothing, generator):
    logits = torch.randn(8, 3, generator=generator, dtype=torch.float64).requires_grad_()
    shape = (8, 3) if task == "multilabel" else (8,)
    target = torch.randint(0, 2, shape, generator=generator)
    groups = torch.tensor([[0, 0], [1, 1], [2, 1], [0, 0], [1, 1], [-1, 0], [2, -1], [1, 0]])
    module = loss(sizes, smoothing=smoothing, task=task, attribute_reduction=reduction)
    ids = groups if isinstance(sizes, tuple) else groups[:, 0]
    assert torch.autograd.gradgradcheck(lambda x: module(x, target, ids), (logits,))


def test_a_memory_has_the_second_derivatives_of_its_estimate():
    """With all values seen by the memory in equal shares S_g is the batch's mean, on which the curvature is taken."""
    values = torch.tensor([0.1, 0.4, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([0, 0, 1, 1])
    memory = fairloss.GroupMemory(2, capacity=4, shares=[1, 1]).eval()

    def hessian(memory):
        return torch.autograd.functional.hessian(
            lambda v: ff.group_gap(v, groups, num_groups=2, smoothing=0.2, memory=memory), values
        )

    expected = hessian(None)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(hessian(memory), expected)


def test_max_acc_gap_checks_its_options_before_any_work():
    logits, target, groups = torch.randn(4, 2), torch.tensor([0, 1, 5, 1]), torch.tensor([0, 1, 1, 0])
    memory = fairloss.GroupMemory(3, capacity=2)
    for options in ({"smoothing": 0}, {"attribute_reduction": "none"}, {"memory": memory}, {"token_reduction": "max"}):
        with pytest.raises(ValueError, match=next(iter(options))):  # not the class out of range
            ff.max_acc_gap(logits, target, groups, num_groups=2, **options)
