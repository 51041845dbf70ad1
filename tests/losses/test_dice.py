"""Soft Dice by samples and groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairloss import functional as ff
from fairloss.functional import febs, fis, group_dice_loss, group_gap, loss_variance, sample_dice_loss
from fairloss.ops import dice_sums as kernel
from tests.losses.masks import batch
from tests.oracles import fairdi as oracles


def test_dice_does_not_change_with_the_batch():
    """SMP's Dice sums over the batch; sample by sample, the batch does not matter."""
    x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, 3, (4, 6), generator=torch.Generator().manual_seed(1))
    alone = torch.cat([ff.sample_dice_loss(x[i : i + 1], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(ff.sample_dice_loss(x, y), alone)


@pytest.mark.parametrize(
    "options", [{}, {"activation": "sigmoid"}, {"ignore_index": 1}, {"squared_pred": False}], ids=str
)
def test_blocks_of_pixels_add_up_in_the_form_of_a_device_as_well(options, monkeypatch):
    logits, target, groups = batch(6, shape=(9, 7))
    results = []
    for block in (kernel._BLOCK_CPU, 16):
        monkeypatch.setattr(kernel, "_BLOCK_CPU", block)
        if block == 16:
            monkeypatch.setattr(kernel, "_one_hot_on_cpu", kernel._one_hot)
        x = logits.clone().requires_grad_()
        value = febs(x, target, groups, num_groups=3, dice_weight=0.7, **options)
        value.backward()
        results += [value.detach(), x.grad]
    torch.testing.assert_close(results[2:], results[:2], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("soft", [False, True])
def test_gradcheck_of_the_sums(soft):
    logits, target, _ = batch(7, n=2, shape=(3, 2))
    t = torch.softmax(torch.randn(2, 3, 6, dtype=torch.float64), 1) if soft else target.flatten(1)
    x = logits.flatten(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kernel.dice_sums(x, t, True), (x,))
    assert torch.autograd.gradcheck(lambda x: kernel.dice_sums(x, t, False)[0], (x,))


@pytest.mark.frameworks
@pytest.mark.parametrize("include_background", [True, False])
def test_sample_dice_equals_monai(include_background):
    losses = pytest.importorskip("monai.losses")
    logits, target, _ = batch(8)
    options = {"include_background": include_background, "smooth_nr": 1e-3, "smooth_dr": 1e-2}
    monai = losses.DiceLoss(to_onehot_y=True, softmax=True, squared_pred=True, reduction="none", **options)
    expected = monai(logits, target.unsqueeze(1)).mean(1).flatten()
    torch.testing.assert_close(sample_dice_loss(logits, target, **options), expected)


def test_sample_and_group_dice_against_loops():
    logits, target, groups = batch(9)
    p, t = oracles.softmax(logits.numpy().reshape(8, 3, -1), 1), oracles.one_hot(target.numpy(), 3)
    expected = [oracles.dice_losses(p[i : i + 1], t[i : i + 1]).mean() for i in range(8)]
    np.testing.assert_allclose(sample_dice_loss(logits, target), expected, rtol=1e-12)
    entropy = torch.nn.functional.cross_entropy(logits, target, reduction="none").mean((1, 2))
    mixed = sample_dice_loss(logits, target, dice_weight=0.3)
    torch.testing.assert_close(mixed, 0.3 * torch.tensor(expected) + 0.7 * entropy)
    per_group = group_dice_loss(logits, target, groups, num_groups=5)
    for g in range(5):
        mine = (groups == g).numpy()
        pooled = oracles.dice_losses(p[mine], t[mine]) if mine.any() else np.zeros(3)
        np.testing.assert_allclose(per_group[g], pooled, rtol=1e-12)


def test_value_losses_take_the_dice_of_samples():
    logits, target, groups = batch(10)
    groups = groups.clamp(min=0)
    logits.requires_grad_()
    values = sample_dice_loss(logits, target, dice_weight=0.5)
    for loss in (
        fis(values, groups, num_groups=3),
        group_gap(values, groups, num_groups=3),
        loss_variance(values, groups, num_groups=3),
    ):
        (grad,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert loss > 0
        assert grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bool], ids=str)
def test_one_hot_masks_are_of_zeros_and_ones(dtype):
    logits, ids, _ = batch(12)
    mask = torch.nn.functional.one_hot(ids, logits.shape[1]).movedim(-1, 1)
    assert torch.equal(sample_dice_loss(logits, mask.to(dtype)), sample_dice_loss(logits, ids))
    if dtype != torch.bool:
        wrong = (mask * 255 if dtype == torch.uint8 else mask * 2).to(dtype)
        with pytest.raises(ValueError, match=r"target: .*\b(2|255)\b"):
            sample_dice_loss(logits, wrong)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_images_of_no_pixel_are_finite(weight):
    logits, target = torch.zeros(2, 3, 0, requires_grad=True), torch.zeros(2, 0).long()
    assert torch.equal(sample_dice_loss(logits, target, dice_weight=weight), torch.zeros(2))
