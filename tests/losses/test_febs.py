"""Fair Error-Bound Scaling and soft Dice: the authors' numbers, MONAI, the direction of the weights, degenerate pools."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fairloss import FEBSLoss
from fairloss.functional import febs, group_dice_loss
from tests.losses.masks import batch
from tests.oracles import fairdi as oracles

DATA = np.load(Path(__file__).parents[1] / "data" / "fair_scaling.npz")


def confident(target, classes, right):
    """Logits that are sure, of the target (right) or of the next class."""
    shown = target if right else (target + 1) % classes
    return 40.0 * torch.nn.functional.one_hot(shown, classes).movedim(-1, 1).double()


@pytest.mark.parametrize("case", range(3))
def test_released_variant_equals_the_authors_loss_and_gradient(case):
    def read(name):
        return torch.from_numpy(DATA[f"febs{case}_{name}"])

    logits = read("logits").requires_grad_()
    loss = FEBSLoss(
        int(read("num_groups")), num_classes=int(read("num_classes")), gamma=float(read("gamma")), variant="released"
    )
    out = loss(logits, read("target"), read("groups"))
    out.backward()
    torch.testing.assert_close(out, read("out"), rtol=0, atol=1e-10)
    torch.testing.assert_close(logits.grad, read("grad"), rtol=0, atol=1e-10)
    assert logits.grad.abs().max() > 1e-6


@pytest.mark.parametrize("variant", ["default", "released"])
def test_an_absent_group_changes_nothing_and_stays_finite(variant):
    logits, target, groups = batch(1)
    groups = groups.clamp(max=1)
    kwargs = {"variant": variant, "gamma": 2.0}
    two = febs(logits, target, groups, num_groups=2, **kwargs)
    for gap in (0, 1):
        # Ids 0, 1 of two groups become 1, 2 or 0, 2 of four: an absent id before, between and after.
        moved = torch.where(groups < 0, groups, torch.where(groups == 0, 1 - gap, 2))
        logits_ = logits.clone().requires_grad_()
        four = febs(logits_, target, moved, num_groups=4, **kwargs)
        four.backward()
        torch.testing.assert_close(four, two, rtol=1e-12, atol=0)
        assert logits_.grad.isfinite().all()
        assert logits_.grad.abs().max() > 0


def group_gradients(variant):
    """Mean absolute gradient a group: group 0 is segmented well, group 1 badly, by equally unsure logits."""
    gen = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (8, 12, 12), generator=gen)
    groups = torch.arange(8) // 4
    noise = torch.randn(8, 2, 12, 12, generator=gen).double()
    sign = torch.where(groups == 0, 1.0, -1.0).reshape(-1, 1, 1, 1)
    truth = torch.nn.functional.one_hot(target, 2).movedim(-1, 1).double()
    logits = (sign * truth + 0.3 * noise).requires_grad_()
    losses = group_dice_loss(logits, target, groups, num_groups=2).sum(1)
    assert losses[1] > 1.5 * losses[0]
    febs(logits, target, groups, num_groups=2, variant=variant, gamma=1.0).backward()
    weighted = [logits.grad[groups == g].abs().mean().item() for g in range(2)]
    logits.grad = None
    febs(logits, target, groups, num_groups=2, gamma=0.0).backward()
    plain = [logits.grad[groups == g].abs().mean().item() for g in range(2)]
    return [w / p for w, p in zip(weighted, plain, strict=True)]


def test_the_worse_group_weighs_more_by_default_and_less_in_the_released_code():
    better, worse = group_gradients("default")
    assert worse > 1.2 * better
    better, worse = group_gradients("released")
    assert worse < 0.9 * better


@pytest.mark.parametrize("seed", range(30))
def test_weights_follow_the_error(seed):
    logits, target, groups = batch(seed, num_groups=4)
    errors = group_dice_loss(logits, target, groups, num_groups=4).sum(1)
    # The weight of a group is what a change of its pooled loss changes the value by.
    p, t = oracles.softmax(logits.numpy().reshape(8, 3, -1), 1), oracles.one_hot(target.numpy(), 3)
    weights = oracles.febs_weights(p, t, groups.numpy(), 1.5, 10.0, "default")
    ranked = sorted(weights, key=lambda g: errors[g].item())
    assert [weights[g] for g in ranked] == sorted(weights.values())
    found = febs(logits, target, groups, num_groups=4, gamma=1.5)
    unknown = [
        (1.0, t_) for t_ in [oracles.dice_losses(p[groups == -1], t[groups == -1]).sum()] if (groups == -1).any()
    ]
    pools = [(w, errors[g].item()) for g, w in weights.items()] + unknown
    assert found.item() == pytest.approx(sum(w * e for w, e in pools) / (3 * sum(w for w, _ in pools)), rel=1e-12)


def test_perfect_groups_and_one_bad_group():
    _, target, _ = batch(3, n=6)
    groups = torch.tensor([0, 0, 1, 1, 2, -1])
    good, bad = confident(target, 3, True), confident(target, 3, False)
    perfect = good.clone().requires_grad_()
    value = febs(perfect, target, groups, num_groups=3)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert perfect.grad.isfinite().all()
    one_bad = torch.where((groups == 1).reshape(-1, 1, 1, 1), bad, good).requires_grad_()
    value = febs(one_bad, target, groups, num_groups=3)
    value.backward()
    # Two perfect groups: the bad one's ratio is 3, theirs 1/10 by the clip; the unknown pool has 1.
    error = group_dice_loss(one_bad, target, groups, num_groups=3).sum(1)
    e = 3e-3
    w = ((error + e) / (error.mean() + e)).clamp(0.1, 10).detach()
    assert w[1] > 2.9
    assert w[0] == w[2] == 0.1
    assert value.item() == pytest.approx(((w * error).sum() / (3 * (w.sum() + 1))).item(), rel=1e-10)
    assert one_bad.grad.isfinite().all()
    assert febs(bad, target, groups, num_groups=3).item() == pytest.approx(1, abs=1e-5)
    for logits in (perfect, one_bad):
        logits.grad = None
        released = febs(logits, target, groups, num_groups=3, variant="released")
        released.backward()
        assert released.isfinite()
        assert logits.grad.isfinite().all()


def test_gamma_zero_is_the_mean_over_groups_and_a_cap_bounds_the_weights():
    logits, target, groups = batch(4)
    groups = groups.clamp(min=0)
    errors = group_dice_loss(logits, target, groups, num_groups=3)
    torch.testing.assert_close(febs(logits, target, groups, num_groups=3, gamma=0.0), errors.mean())
    torch.testing.assert_close(febs(logits, target, groups, num_groups=3, gamma=5.0, max_weight=1.0), errors.mean())
    assert febs(logits, target, groups, num_groups=3, gamma=5.0) > errors.mean()


@pytest.mark.parametrize("shape", [(7,), (6, 5), (3, 4, 5)])
def test_targets_of_every_form_and_any_number_of_dimensions(shape):
    logits, target, groups = batch(5, shape=shape)
    value = febs(logits, target, groups, num_groups=3, dice_weight=0.5)
    one_hot = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    for same in (target.unsqueeze(1), one_hot, one_hot.double(), target.to(torch.uint8)):
        torch.testing.assert_close(febs(logits, same, groups, num_groups=3, dice_weight=0.5), value)
    expected = oracles.febs(logits.numpy(), target.numpy(), groups.numpy(), dice_weight=0.5)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_half_precision_logits_and_gradients():
    logits, target, groups = batch(11)
    x = logits.bfloat16().requires_grad_()
    value = febs(x, target, groups, num_groups=3, dice_weight=0.5)
    value.backward()
    exact = febs(x.detach().double(), target, groups, num_groups=3, dice_weight=0.5)
    assert value.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"input": torch.zeros(4, 2)}, r"input: .*shape \(B, C, \*spatial\)"),
        ({"input": torch.zeros(4, 3, 5)}, "C = 2"),
        ({"input": torch.zeros(4, 2, 5).long()}, "input: .*floating"),
        ({"target": torch.full((4, 5), 2)}, r"target: .*\b2\b"),
        ({"target": torch.zeros(4, 6).long()}, "target: .*ids"),
        ({"target": torch.full((4, 5), 0.5)}, "target: .*whole class ids"),
        ({"target": torch.zeros(4, 2, 5)}, r"target: .*sum to 1 at every pixel.*activation='sigmoid'.*ignore_index"),
        ({"target": torch.ones(4, 2, 5)}, r"target: .*sum to 1 at every pixel.*activation='sigmoid'"),
        ({"input": torch.zeros(4, 1, 5), "num_classes": 1}, "input: .*activation='sigmoid' takes one channel"),
        ({"activation": "tanh"}, "activation: .*'softmax', 'sigmoid'"),
        ({"class_weights": [1.0, -1.0]}, "class_weights: "),
        ({"class_weights": [1.0]}, "class_weights: .*2 numbers"),
        ({"class_weights": [1.0, 1.0], "variant": "released"}, "class_weights: .*released"),
        ({"output_weights": [1.0]}, "input: .*list of outputs"),
        ({"input": [torch.zeros(4, 2, 5)] * 2, "output_weights": [1.0]}, "output_weights: .*2"),
        ({"target": torch.full((4, 2, 5), 255.0)}, r"target: .*\b255\b"),
        ({"target": torch.full((4, 2, 5), 255, dtype=torch.uint8)}, r"target: .*\b255\b"),
        ({"target": torch.full((4, 2, 5), torch.nan)}, "target: .*nan"),
        ({"gamma": -1.0}, "gamma: .*-1.0"),
        ({"max_weight": 0.5}, "max_weight: .*0.5"),
        ({"dice_weight": 1.5}, "dice_weight: .*1.5"),
        ({"smooth_dr": 0.0}, "smooth_dr: .*0.0"),
        ({"variant": "paper"}, "'default', 'released'"),
        ({"num_groups": (2, 2)}, r"groups: .*\(N, 2\)"),
    ],
)
def test_bad_arguments_are_named(change, match):
    arguments = {
        "input": torch.zeros(4, 2, 5),
        "target": torch.zeros(4, 5, dtype=torch.int64),
        "groups": torch.tensor([0, 1, 1, 0]),
        "num_groups": 2,
        "num_classes": 2,
    }
    with pytest.raises((ValueError, TypeError), match=match):
        febs(**{**arguments, **change})
