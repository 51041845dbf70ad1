"""Tensors that no loss can use: devices, complex numbers, NaN; the argument is named and the state stays."""

from __future__ import annotations

import math

import pytest
import torch

import fairloss
from fairloss import functional as ff
from tests.contract.case import all_cases

CASES = all_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
LOGITS, LOSSES = torch.linspace(-1, 1, 12).reshape(4, 3), torch.linspace(0, 1, 4)
LABELS, GROUP_IDS = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, 0])


@each_case
def test_tensors_on_two_devices_are_named(case):
    batch = case.draw(0, 6)
    for name, tensor in batch.items():
        with pytest.raises(ValueError, match="|".join(rf"{k}: .*device" for k in batch)):
            case.make()(**{**batch, name: tensor.to("meta")})


@each_case
def test_complex_tensors_are_refused(case):
    batch = case.draw(0, 6)
    for name, tensor in batch.items():
        with pytest.raises((TypeError, ValueError), match=name):
            case.make()(**{**batch, name: tensor.detach().to(torch.complex64)})


@each_case
def test_nan_never_stays_in_the_state(case):
    """One overflow in half precision: the value may be NaN, later values are not."""
    module, clean = case.make(), case.make()
    spoilt = case.draw(1, 6)
    name = case.differentiable[0]
    spoilt[name] = torch.full_like(spoilt[name], math.nan).requires_grad_()
    module(**spoilt)
    later = case.draw(2, 9)
    assert torch.isfinite(module(**later))
    assert torch.isfinite(clean(**later))


def elsewhere(module):
    """The module with its state on another device: "meta", where ``to`` would not take it."""
    for name in module._followers:
        setattr(module, name, getattr(module, name).to("meta"))
    return module


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m: fairloss.MaxAccGapLoss(2, memory=m)(LOGITS, LABELS, GROUP_IDS), "memory"),
        (lambda m: fairloss.FairCrossEntropyLoss(2, gap_weight=0.5, memory=m)(LOGITS, LABELS, GROUP_IDS), "memory"),
        (lambda m: ff.group_gap(LOSSES, GROUP_IDS, num_groups=2, memory=m), "memory"),
        (lambda m: fairloss.FISLoss(2, memory=m)(LOSSES, GROUP_IDS), "memory"),
        (
            lambda m: fairloss.FISLoss(2)(LOSSES, GROUP_IDS, reference=(LOSSES.to("meta"), GROUP_IDS.to("meta"))),
            r"reference\[0\]",
        ),
        (lambda m: ff.fis_weights(LOSSES, GROUP_IDS, num_groups=2, distances=m.values[:, 0]), "distances"),
        (lambda m: elsewhere(fairloss.GroupDROLoss(2))(LOSSES, GROUP_IDS), "values"),
        (
            lambda m: fairloss.CrossGroupContrastiveLoss(memory=elsewhere(fairloss.EmbeddingQueue(4, dim=3)))(
                LOGITS, LABELS, GROUP_IDS
            ),
            "memory",
        ),
    ],
)
def test_state_on_another_device_is_named(call, named):
    with pytest.raises(ValueError, match=f"{named}: .*device"):
        call(elsewhere(fairloss.GroupMemory(2, capacity=4)))


def test_a_batch_of_nan_does_not_stay_behind():
    nan = torch.tensor([math.nan, 0.5], requires_grad=True)
    ids = torch.tensor([0, 1])
    memory, dro, queue = (
        fairloss.GroupMemory(2, capacity=3),
        fairloss.GroupDROLoss(2, step_size=0.5),
        fairloss.EmbeddingQueue(3, dim=2),
    )
    memory.push(nan, ids)
    assert memory.seen.tolist() == [0, 1]
    dro(nan, ids)
    assert torch.isfinite(dro.log_q).all()
    assert dro.seen.tolist() == [0, 0]
    queue.push(torch.tensor([[math.inf, 1.0], [1.0, 0.0]]), torch.tensor([1, 2]), ids)
    assert torch.isfinite(queue.embeddings).all()
    assert queue.rows(-100)[1].tolist() == [-100, 2, -100]
