"""Every weighting loss says what it did: the same value, and detached figures by group that add up."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

import fairloss
from tests.contract.case import all_cases, gradients

CASES = [case for case in all_cases() if "return_parts" in inspect.signature(case.make().forward).parameters]
CASES = [case for case in CASES if "values" in case.differentiable or "input" in case.differentiable]
WEIGHTING = {
    fairloss.FEBSLoss,
    fairloss.FISLoss,
    fairloss.FairCrossEntropyLoss,
    fairloss.GroupDROLoss,
    fairloss.InverseFrequencyWeighting,
}


def test_every_weighting_loss_is_among_them():
    assert {type(case.make()) for case in CASES} == WEIGHTING


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_parts_are_those_of_the_value(case):
    batch = case.draw(5, 12)
    value, parts = case.make()(**batch), case.make()(**batch, return_parts=True)
    torch.testing.assert_close(parts.loss, value, rtol=1e-12, atol=0)
    for own, wanted in zip(gradients(parts.loss, batch, case), gradients(value, batch, case), strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-12, atol=1e-15)
    for name in ("means", "counts", "weights"):
        part = getattr(parts, name)
        assert part is None or not part.requires_grad, name
    groups = batch["groups"].reshape(12, -1).numpy()
    sizes = (3, 2)[: groups.shape[1]]
    counts = np.concatenate([np.bincount(g[g >= 0], minlength=n) for g, n in zip(groups.T, sizes, strict=True)])
    ignored = "target" in batch and bool((batch["target"].double().nan_to_num(nan=-100.0) == -100).any())
    assert parts.means.shape == parts.counts.shape == counts.shape
    assert (parts.counts.numpy() <= counts).all()
    assert ignored or (parts.counts.numpy() == counts).all()


@pytest.mark.parametrize("variant", ["default", "released"])
def test_error_bound_scaling_is_its_parts(variant, generator):
    """By hand: pools' errors and weights, the unknown pool with weight 1; without weights the plain mean of the pools."""
    logits = torch.randn(8, 3, 6, generator=generator, dtype=torch.float64)
    target, groups = torch.randint(0, 3, (8, 6), generator=generator), torch.tensor([0, 0, 1, 1, 1, 2, -1, -1])
    loss = fairloss.FEBSLoss(4, num_classes=3, gamma=1.5, variant=variant)
    parts = loss(logits, target, groups, return_parts=True)
    pooled = fairloss.functional.group_dice_loss(logits, target, torch.where(groups < 0, 4, groups), num_groups=5)
    error = pooled.mean(1)
    torch.testing.assert_close(parts.means, error[:4])
    assert parts.counts.tolist() == [2, 3, 1, 0]
    assert parts.weights[3] == 0
    order = error[:3].argsort()
    by_error = parts.weights[:3][order]
    if variant == "released":
        assert (by_error.diff() < 0).all()
        return
    assert (by_error.diff() > 0).all()
    weights = torch.cat([parts.weights[:3], torch.ones(1).double()])
    here = error[[0, 1, 2, 4]]
    torch.testing.assert_close(parts.loss, (weights * here).sum() / weights.sum())
    torch.testing.assert_close(parts.task, here.mean())


def test_the_parts_of_several_outputs_are_averaged_as_the_loss_is(generator):
    logits = torch.randn(4, 2, 8, generator=generator)
    target, groups = torch.randint(0, 2, (4, 8), generator=generator), torch.tensor([0, 1, 0, 1])
    outputs = [logits, logits[..., ::2]]
    loss = fairloss.FEBSLoss(2, num_classes=2, output_weights=[3, 1])
    alone = fairloss.FEBSLoss(2, num_classes=2)
    both = loss(outputs, [target, target[:, ::2]], groups, return_parts=True)
    first, second = (
        alone(x, t, groups, return_parts=True) for x, t in zip(outputs, (target, target[:, ::2]), strict=True)
    )
    for name in both._fields:
        wanted = 0.75 * getattr(first, name) + 0.25 * getattr(second, name)
        torch.testing.assert_close(getattr(both, name), wanted)
