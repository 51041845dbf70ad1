"""Absent, worse, unknown and wrong groups: what every loss makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fairloss
from fairloss import functional as ff
from tests.contract.case import all_cases, gradients


def test_an_absent_group_is_no_constant_penalty():
    """fairret: two identical groups and an absent one give 1.0 without gradient; FairSeg's FEBS likewise."""
    logits = torch.tensor([0.3, -0.2, 0.3, -0.2], requires_grad=True)
    target, groups = torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 1])
    for loss in (fairloss.DemographicParityLoss, fairloss.EqualizedOddsLoss, fairloss.MaxAccGapLoss):
        assert loss(3)(logits, target, groups).item() == pytest.approx(0, abs=1e-7)
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.randint(0, 3, (4, 5), generator=torch.Generator().manual_seed(1))
    for variant in ("default", "released"):
        value = fairloss.FEBSLoss(3, num_classes=3, variant=variant)(x, labels, groups)
        assert value.item() < 0.999
        assert torch.autograd.grad(value, x)[0].abs().sum() > 0


@pytest.mark.parametrize("case", [c for c in all_cases() if "unused id" not in c.notes], ids=lambda c: c.name)
def test_declaring_an_absent_group_changes_nothing(case):
    batch = case.draw(1, 6)
    value, wider = case.make()(**batch), case.make(num_groups=4)(**batch)
    torch.testing.assert_close(wider, value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients(wider, batch, case), gradients(value, batch, case), rtol=1e-12, atol=1e-14)


def test_the_worse_group_never_weighs_less():
    """FairSeg's code gives group Dice losses 0.0017 and 1.656 the weights 0.76 and 0.001."""
    good, bad = torch.zeros(2, 3, 8), torch.zeros(2, 3, 8)
    labels = torch.arange(8).remainder(3).expand(4, 8)
    good.scatter_(1, labels[:2].unsqueeze(1), 8.0)
    bad.scatter_(1, (labels[2:].unsqueeze(1) + 1) % 3, 2.0)
    logits = torch.cat([good, bad]).requires_grad_()
    groups = torch.tensor([0, 0, 1, 1])
    pooled = ff.group_dice_loss(logits, labels, groups, num_groups=2).sum(1)
    mean = pooled.mean() / 3
    assert fairloss.FEBSLoss(2, num_classes=3)(logits, labels, groups) > mean  # the worse group's loss counts for more
    assert fairloss.FEBSLoss(2, num_classes=3, gamma=0.0)(logits, labels, groups).item() == pytest.approx(mean.item())
    losses = torch.tensor([0.1, 0.2, 1.5, 1.7])
    weights = ff.fis_weights(losses, groups, num_groups=2, c=1.0)
    assert weights[2] > weights[0]
    dro = fairloss.GroupDROLoss(2, step_size=0.5)
    dro(losses, groups)
    assert dro.q[1] > dro.q[0]


@pytest.mark.parametrize("bad", [3, 100, -2, -(2**60)])
def test_an_id_out_of_range_is_named(bad):
    """FairVision's code reads an unknown sample, -1, as one of the last group; torchmetrics' check is off by one."""
    logits, target = torch.randn(3, 2), torch.tensor([0, 1, 0])
    for loss in (fairloss.MaxAccGapLoss(3), fairloss.FairCrossEntropyLoss(3)):
        with pytest.raises(ValueError, match=rf"groups.*{bad}"):
            loss(logits, target, torch.tensor([0, bad, 1]))


def test_unknown_is_in_the_task_term_alone():
    values, groups = torch.tensor([1.0, 3.0, 100.0]), torch.tensor([0, 1, -1])
    assert fairloss.LossVarianceLoss(2)(values, groups).item() == pytest.approx(1.0)
    logits, target = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]]), torch.tensor([0, 1, 1])
    with_unknown = fairloss.FairCrossEntropyLoss(2)(logits, target, groups)
    assert with_unknown.item() == pytest.approx(nn.functional.cross_entropy(logits, target).item())
