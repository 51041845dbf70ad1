"""What users of MONAI and nnU-Net hand to a Dice loss: sigmoid, regions that overlap, ignored pixels, several outputs.

Oracles: MONAI where it is installed (`frameworks`), loops in NumPy, and the same loss on data without the ignored pixels.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fairloss import FEBSLoss
from fairloss.functional import febs, group_dice_loss, sample_dice_loss
from fairloss.ops.dice_sums import dice_sums

pytestmark = pytest.mark.filterwarnings("ignore:single channel prediction")


def sigmoid_dice(x, t, squared, smooth=1e-5):
    """(B, C, P) NumPy arrays -> (B, C) losses."""
    p = 1 / (1 + np.exp(-x))
    below = (p**2 + t**2).sum(2) if squared else (p + t).sum(2)
    return 1 - (2 * (p * t).sum(2) + smooth) / (below + smooth)


@pytest.fixture
def regions(rng):
    """Three nested regions, as whole tumor, core and enhancing part."""
    x = torch.from_numpy(rng.standard_normal((4, 3, 6, 5)))
    outer = rng.random((4, 6, 5)) < 0.6
    inner = outer & (rng.random((4, 6, 5)) < 0.6)
    return x, torch.from_numpy(np.stack([outer, inner, inner & (rng.random((4, 6, 5)) < 0.5)], 1))


@pytest.mark.parametrize("squared", [True, False])
def test_sigmoid_of_overlapping_regions(regions, squared):
    x, t = regions
    expected = sigmoid_dice(x.flatten(2).numpy(), t.flatten(2).numpy().astype(float), squared)
    found = sample_dice_loss(x, t, activation="sigmoid", squared_pred=squared)
    np.testing.assert_allclose(found, expected.mean(1), rtol=1e-12)
    mixed = sample_dice_loss(x, t, activation="sigmoid", squared_pred=squared, dice_weight=0.3)
    entropy = F.binary_cross_entropy_with_logits(x, t.double(), reduction="none").mean((1, 2, 3))
    np.testing.assert_allclose(mixed, 0.3 * expected.mean(1) + 0.7 * entropy.numpy(), rtol=1e-12)


def test_perfect_nested_regions_have_loss_zero(regions):
    _, t = regions
    found = sample_dice_loss((t.double() * 2 - 1) * 40, t, activation="sigmoid")
    assert found.abs().max() < 1e-12
    with pytest.raises(ValueError, match=r"target: .*sum to 1 at every pixel.*activation='sigmoid'"):
        sample_dice_loss((t.double() * 2 - 1) * 40, t)


def test_one_channel_takes_float_masks_of_its_shape(rng):
    x, t = torch.from_numpy(rng.standard_normal((3, 1, 8))), torch.from_numpy((rng.random((3, 1, 8)) < 0.4) * 1.0)
    expected = sigmoid_dice(x.numpy(), t.numpy(), True).mean(1)
    np.testing.assert_allclose(sample_dice_loss(x, t, activation="sigmoid"), expected, rtol=1e-12)
    loss = FEBSLoss(2, num_classes=1, activation="sigmoid")
    assert loss(x, t, torch.tensor([0, 1, 1])).isfinite()
    with pytest.raises(ValueError, match="include_background: expected True for one channel"):
        sample_dice_loss(x, t, activation="sigmoid", include_background=False)


def test_float_masks_with_one_channel_are_class_ids(rng):
    x, ids = torch.from_numpy(rng.standard_normal((3, 4, 6, 5))), torch.from_numpy(rng.integers(0, 4, (3, 6, 5)))
    expected = sample_dice_loss(x, ids)
    for mask in (ids.float(), ids[:, None].float(), ids[:, None].double(), ids[:, None]):
        assert torch.equal(sample_dice_loss(x, mask), expected)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("ignore_index", [255, -1, 1])
@pytest.mark.parametrize("squared", [True, False])
def test_ignored_pixels_are_as_if_cut_off(activation, ignore_index, squared, rng):
    x, ids = torch.from_numpy(rng.standard_normal((4, 3, 20))), torch.from_numpy(rng.integers(0, 3, (4, 20)))
    ids[ids == ignore_index] = 0
    marked = ids.clone()
    marked[:, 12:] = ignore_index
    options = {"activation": activation, "dice_weight": 0.4, "squared_pred": squared}
    whole, cut = x.clone().requires_grad_(), x[:, :, :12].clone().requires_grad_()
    found = sample_dice_loss(whole, marked, ignore_index=ignore_index, **options)
    expected = sample_dice_loss(cut, ids[:, :12], **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    grads = torch.autograd.grad(found.sum(), whole)[0], torch.autograd.grad(expected.sum(), cut)[0]
    torch.testing.assert_close(grads[0][:, :, :12], grads[1], rtol=1e-12, atol=1e-15)
    assert (grads[0][:, :, 12:] == 0).all()
    groups = torch.tensor([0, 1, 1, -1])
    options["dice_weight"] = 0.7
    torch.testing.assert_close(
        febs(x, marked, groups, num_groups=2, ignore_index=ignore_index, **options),
        febs(x[:, :, :12], ids[:, :12], groups, num_groups=2, **options),
        rtol=1e-12,
        atol=0,
    )
    masks = F.one_hot(ids, 3).movedim(-1, 1)
    masks = torch.where((marked == ignore_index)[:, None], torch.tensor(255), masks)
    options["dice_weight"] = 0.4
    by_mask = sample_dice_loss(x, masks, ignore_index=255, **options)
    torch.testing.assert_close(by_mask, expected, rtol=1e-12, atol=0)


def test_a_sample_of_ignored_pixels_alone_is_finite(rng):
    x = torch.from_numpy(rng.standard_normal((2, 3, 5))).requires_grad_()
    ids = torch.full((2, 5), 255)
    loss = sample_dice_loss(x, ids, ignore_index=255, dice_weight=0.5).sum()
    (grad,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert (grad == 0).all()


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_of_every_form_of_the_sums(sigmoid, squared, soft, rng):
    x = torch.from_numpy(rng.standard_normal((2, 3, 6))).requires_grad_()
    t = torch.softmax(torch.from_numpy(rng.standard_normal((2, 3, 6))), 1)
    t = t if soft else torch.from_numpy(rng.integers(0, 3, (2, 6)))
    ignored = torch.from_numpy(rng.random((2, 6)) < 0.3)
    options = {"sigmoid": sigmoid, "squared": squared, "ignored": ignored}
    assert torch.autograd.gradcheck(lambda x: dice_sums(x, t, True, **options), (x,))
    assert torch.autograd.gradcheck(lambda x: dice_sums(x, t, False, **options)[0], (x,))


def test_class_weights_multiply_the_classes_that_take_part(rng):
    x, ids = torch.from_numpy(rng.standard_normal((3, 4, 30))), torch.from_numpy(rng.integers(0, 4, (3, 30)))
    groups, w = torch.tensor([0, 1, 1]), torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    per_class = group_dice_loss(
        x, ids, torch.arange(3), num_groups=3, include_background=False
    )  # (3, 3), a group a sample
    found = sample_dice_loss(x, ids, include_background=False, class_weights=w)
    torch.testing.assert_close(found, (per_class * w).mean(1), rtol=1e-12, atol=0)
    plain = FEBSLoss(2, num_classes=4, gamma=0.0)(x, ids, groups)
    assert torch.equal(FEBSLoss(2, num_classes=4, gamma=0.0, class_weights=[1.0] * 4)(x, ids, groups), plain)
    pooled = group_dice_loss(x, ids, groups, num_groups=2, include_background=False)
    weighted = FEBSLoss(2, num_classes=4, gamma=0.0, include_background=False, class_weights=w)(x, ids, groups)
    torch.testing.assert_close(weighted, (pooled * w).sum(1).mean() / 3, rtol=1e-12, atol=0)


def test_outputs_of_deep_supervision_are_averaged(rng):
    sizes = [(8, 8), (4, 4), (2, 2)]
    outputs = [torch.from_numpy(rng.standard_normal((3, 2, *size))) for size in sizes]
    ids, groups = torch.from_numpy(rng.integers(0, 2, (3, 8, 8))), torch.tensor([0, 1, 1])
    masks = [ids, ids[:, ::2, ::2], ids[:, ::4, ::4]]  # nearest
    loss = FEBSLoss(2, num_classes=2)
    each = torch.stack([loss(x, t, groups) for x, t in zip(outputs, masks, strict=True)])
    torch.testing.assert_close(loss(outputs, masks, groups), (each * torch.tensor([4.0, 2.0, 1.0])).sum() / 7)
    torch.testing.assert_close(loss(outputs, ids[:, None].float(), groups), loss(outputs, masks, groups))
    own = FEBSLoss(2, num_classes=2, output_weights=[1.0, 0.0, 3.0])
    torch.testing.assert_close(own(outputs, masks, groups), (each[0] + 3 * each[2]) / 4)
    values = sample_dice_loss(outputs, ids, output_weights=[1.0, 1.0, 0.0])
    expected = (sample_dice_loss(outputs[0], masks[0]) + sample_dice_loss(outputs[1], masks[1])) / 2
    torch.testing.assert_close(values, expected)


def test_compiled_as_one_graph(regions):
    x, t = regions
    groups = torch.tensor([0, 1, 1, 0])
    loss = FEBSLoss(2, num_classes=3, activation="sigmoid", ignore_index=-1, squared_pred=False, dice_weight=0.5)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, t, groups), loss(x, t, groups))


@pytest.mark.frameworks
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0], [0.3, 0.5, 2.0]])
def test_samples_equal_monais(squared, include_background, sigmoid, weights, rng):
    losses = pytest.importorskip("monai.losses")
    if weights is not None and len(weights) != 2 + include_background:
        return
    x, ids = torch.from_numpy(rng.standard_normal((3, 3, 6, 5))), torch.from_numpy(rng.integers(0, 3, (3, 1, 6, 5)))
    how = {"sigmoid": True} if sigmoid else {"softmax": True}
    monai = losses.DiceLoss(
        to_onehot_y=True,
        squared_pred=squared,
        include_background=include_background,
        reduction="none",
        weight=weights,
        **how,
    )
    found = sample_dice_loss(
        x,
        ids.float(),
        activation="sigmoid" if sigmoid else "softmax",
        squared_pred=squared,
        include_background=include_background,
        class_weights=weights,
    )
    torch.testing.assert_close(found, monai(x, ids).mean(1).flatten(), rtol=1e-6, atol=1e-8)


X, Y = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
XX, YY = X.expand(2, 1, 2, 2), torch.tensor([[[[1.0, 1.0], [1.0, 1.0]]], [[[1.0, 0.0], [1.0, 0.0]]]])
P = torch.tensor([[[[0.3, 0.4], [0.7, 0.9]]], [[[1.0, 0.1], [0.5, 0.3]]]])
X2, Y2 = (
    torch.tensor([[[-1.0, 0, 1], [1, 0, -1]], [[0.0, 0, 0], [0, 0, 0]]]),
    torch.tensor([[[1.0, 0, 0]], [[1.0, 1, 0]]]),
)
ONE = torch.tensor([[[1.0, 1, 0], [0, 0, 1]], [[1.0, 0, 1], [0, 1, 0]]])
IDS = torch.tensor([[[0.0, 0, 1]], [[0.0, 1, 0]]])
# Of TEST_CASES in tests/losses/test_dice_loss.py of MONAI 1.6: our options, input, target, the mean over samples and classes
# that it expects, its own options. Left out: other_act (tanh, log-softmax), whose outputs are no probabilities, and soft_label.
MONAIS_CASES = {
    "one channel": ({"activation": "sigmoid", "smooth": 1e-6}, X, Y, 0.307576, {"sigmoid": True}),
    "two samples": ({"activation": "sigmoid", "smooth": 1e-4}, XX, YY, 0.416657, {"sigmoid": True}),
    "fractions": ({"activation": "none", "smooth": 1e-4}, P, P, 0.307773, {}),
    "no background": (
        {"activation": "none", "include_background": False, "smooth": 1e-12},
        ONE,
        IDS,
        0.0,
        {"ids": True},
    ),
    "ids with sigmoid": ({"activation": "sigmoid", "smooth": 1e-4}, X2, Y2, 0.435050, {"sigmoid": True, "ids": True}),
    "ids with softmax": ({"smooth": 1e-4}, X2, Y2, 0.383713, {"softmax": True, "ids": True}),
    "summed": ({"smooth": 1e-4}, X2, Y2, 1.534853 / 4, {"softmax": True, "ids": True}),
    "squares": ({"activation": "sigmoid", "squared_pred": True}, X, Y, 0.178337, {"sigmoid": True}),
    "jaccard": ({"activation": "sigmoid", "jaccard": True}, X, Y, 0.470451, {"sigmoid": True}),
}


@pytest.mark.parametrize("name", MONAIS_CASES)
def test_monais_own_cases(name):
    options, x, y, expected, how = MONAIS_CASES[name]
    smooth = options.get("smooth", 1e-5)
    ours = {"squared_pred": False, **{k: v for k, v in options.items() if k != "smooth"}}
    found = sample_dice_loss(x, y, smooth_nr=smooth, smooth_dr=smooth, **ours)
    np.testing.assert_allclose(found.mean(), expected, rtol=1e-5, atol=1e-6)
    losses = pytest.importorskip("monai.losses")
    theirs = {k: v for k, v in ours.items() if k != "activation"} | {k: v for k, v in how.items() if k != "ids"}
    monai = losses.DiceLoss(to_onehot_y="ids" in how, smooth_nr=smooth, smooth_dr=smooth, reduction="none", **theirs)
    torch.testing.assert_close(found, monai(x, y).flatten(1).mean(1), rtol=1e-6, atol=1e-6)


def test_monais_case_of_values_by_sample_and_class():
    found = group_dice_loss(
        X2, Y2, torch.arange(2), num_groups=2, activation="sigmoid", squared_pred=False, smooth_nr=1e-4, smooth_dr=1e-4
    )
    np.testing.assert_allclose(found, [[0.296529, 0.415136], [0.599976, 0.428559]], rtol=1e-5)


@pytest.mark.parametrize("jaccard", [False, True])
@pytest.mark.parametrize("squared", [False, True])
def test_probabilities_give_what_their_logits_give(regions, squared, jaccard):
    x, t = regions
    o = {"squared_pred": squared, "jaccard": jaccard, "ignore_index": -1}
    t = t.long()
    t[0, :, 0] = -1
    groups = torch.tensor([0, 1, 1, -1])
    for activation, p, target in (("sigmoid", x.sigmoid(), t), ("softmax", x.softmax(1), t.argmax(1))):
        expected = febs(x, target, groups, num_groups=2, activation=activation, **o)
        torch.testing.assert_close(febs(p, target, groups, num_groups=2, activation="none", **o), expected)
        leaf = p.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda v, y=target: sample_dice_loss(v, y, activation="none", **o), (leaf,))
    with pytest.raises(ValueError, match=r"input: .*probabilities in \[0, 1\]"):
        sample_dice_loss(x, t, activation="none")
    with pytest.raises(ValueError, match="dice_weight: .*activation='none'"):
        sample_dice_loss(x.sigmoid(), t, activation="none", dice_weight=0.5, ignore_index=-1)
