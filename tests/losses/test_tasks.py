"""How logits and labels are read as a task: tokens, labels, names of tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fairloss
from fairloss import functional as ff
from tests.oracles import losses as oracles

X = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
G = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("name", ["fair_cross_entropy", "max_acc_gap", "demographic_parity", "equalized_odds"])
@pytest.mark.parametrize("task", ["foo", np.array(["binary", "tokens"])])
def test_functions_check_the_task(name, task):
    for logits, target in ((X, Y), (X.reshape(2, 3, 3), Y.reshape(2, 3))):
        with pytest.raises(ValueError, match="task: "):
            getattr(ff, name)(logits, target, G[: len(logits)], num_groups=3, task=task)
    with pytest.raises(ValueError, match="task: "):
        ff.sample_likelihood(X, Y, task=task)


def test_tokens_with_a_summed_answer():
    logits, target = torch.randn(3, 4, 5, dtype=torch.float64), torch.randint(0, 5, (3, 4))
    target[0, 2:] = -100
    target[1] = -100
    for how in ("mean", "sum"):
        out = ff.sample_likelihood(logits, target, token_reduction=how)
        expected = oracles.likelihoods(logits.numpy(), target.numpy(), "tokens", how)
        assert out.valid.tolist() == [True, False, True]
        assert out.prob[[0, 2]].tolist() == pytest.approx([expected[0], expected[2]], rel=1e-12)


def test_answers_without_a_token_are_in_no_group():
    logits, target, groups = torch.randn(2, 0, 5, requires_grad=True), torch.zeros(2, 0).long(), torch.tensor([0, 1])
    assert not ff.sample_likelihood(logits, target).valid.any()
    for loss in (fairloss.MaxAccGapLoss(2), fairloss.FairCrossEntropyLoss(2, gap_weight=0.5)):
        value = loss(logits, target, groups)
        value.backward()
        assert value.item() == 0


def test_a_task_of_no_label_is_refused():
    with pytest.raises(ValueError, match="target: .*C >= 1"):
        ff.sample_likelihood(torch.randn(2, 0), torch.zeros(2, 0), task="multilabel")


@pytest.mark.parametrize("shape", [(4, 5, 7), (2, 3, 4, 5), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dense_logits_have_torchs_layout(shape, dtype, generator):
    """A drop-in for nn.CrossEntropyLoss: values, and the shape without a reduction, with weights and label smoothing."""
    x = torch.randn(shape, generator=generator).to(dtype)
    t = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    t[0, ..., 0] = -100
    g, weight = torch.arange(shape[0]) % 2, torch.rand(shape[1], generator=generator)
    for reduction in ("mean", "sum", "none"):
        for options in ({}, {"weight": weight}, {"label_smoothing": 0.2}):
            theirs = torch.nn.functional.cross_entropy(
                x.float() if dtype == torch.bfloat16 else x,
                t,
                **{k: v.to(x) if k == "weight" and dtype == torch.float64 else v for k, v in options.items()},
                reduction=reduction,
            )
            ours = ff.fair_cross_entropy(x, t, g, num_groups=2, reduction=reduction, **options)
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            assert ours.shape == theirs.shape


def test_a_dense_samples_probability_is_that_of_its_pixels_mean(generator):
    x, t = torch.randn(3, 4, 2, 5, generator=generator), torch.randint(0, 4, (3, 2, 5), generator=generator)
    t[0, 0, :3], t[1] = 7, 7
    nll = -torch.log_softmax(x, 1)
    each = [
        torch.stack([nll[i, t[i, r, c], r, c] for r in range(2) for c in range(5) if t[i, r, c] != 7]) for i in (0, 2)
    ]
    expected = torch.stack([torch.exp(-e.mean()) for e in each])
    found = ff.sample_likelihood(x, t, ignore_index=7)
    torch.testing.assert_close(found.prob[[0, 2]], expected)
    assert found.valid.tolist() == [True, False, True]
    gap = ff.max_acc_gap(x, t, torch.tensor([0, 1, 1]), num_groups=2, ignore_index=7)
    torch.testing.assert_close(gap, (expected[0] - expected[1]).abs())


@pytest.mark.parametrize("loss", [fairloss.FairCrossEntropyLoss, fairloss.MaxAccGapLoss])
def test_three_axes_of_two_readings_are_refused(loss, generator):
    """(N, T, V) of a language model, or torch's (N, C, T): the two give different numbers."""
    x, t, g = torch.randn(4, 5, 5, generator=generator), torch.randint(0, 5, (4, 5), generator=generator), Y[:4] % 2
    with pytest.raises(ValueError, match="two readings.*task='dense'.*task='tokens'"):
        loss(2)(x, t, g)
    dense, tokens = (loss(2, task=task)(x, t, g) for task in ("dense", "tokens"))
    assert dense != tokens
    torch.testing.assert_close(dense, loss(2, task="tokens")(x.mT, t, g))
    if loss is fairloss.FairCrossEntropyLoss:
        torch.testing.assert_close(dense, torch.nn.functional.cross_entropy(x, t))


@pytest.mark.parametrize(
    ("shape", "target", "cure"),
    [
        (
            (4, 5, 6),
            torch.zeros(4, 7).long(),
            r"axis 1 \(task='dense', target \(4, 6\)\).*task='tokens', target \(4, 5\)",
        ),
        ((4, 3, 2, 2), torch.zeros(4, 1, 2, 2), r"target\.squeeze\(1\)\.long\(\)"),
        ((4, 2), torch.zeros(4, 1), r"target\.squeeze\(-1\)\.long\(\)"),
        ((4, 2), torch.zeros(4), r"target\.long\(\)"),
    ],
)
def test_shapes_that_fit_no_task_name_the_cure(shape, target, cure):
    with pytest.raises(ValueError, match=cure):
        fairloss.FairCrossEntropyLoss(2)(torch.randn(shape), target, torch.tensor([0, 1, 0, 1]))


def masked_labels(generator):
    x, y = torch.randn(6, 3, generator=generator), torch.randint(0, 2, (6, 3), generator=generator)
    missing = torch.rand(6, 3, generator=generator) < 0.4
    missing[2] = True
    return x.requires_grad_(), y, missing


@pytest.mark.parametrize("how", ["nan", "ignore_index", "float_ignore_index"])
def test_masked_labels_take_no_part(how, generator):
    """CheXpert's -1 and NaN: out of the loss and of the sample's soft accuracy; a sample without a label is in no group."""
    x, y, missing = masked_labels(generator)
    target = y.float().masked_fill(missing, torch.nan) if how == "nan" else y.masked_fill(missing, -1)
    target = target.float() if how == "float_ignore_index" else target
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    options = {"task": "multilabel", "ignore_index": -100 if how == "nan" else -1}
    parts = ff.fair_cross_entropy(x, target, groups, num_groups=2, gap_weight=1.0, return_parts=True, **options)
    each = torch.nn.functional.binary_cross_entropy_with_logits(x, y.float(), reduction="none")
    torch.testing.assert_close(parts.task, each[~missing].mean())
    right = torch.where(y == 1, torch.sigmoid(x), 1 - torch.sigmoid(x))
    acc = torch.stack([right[i][~missing[i]].mean() for i in range(6) if not missing[i].all()])
    torch.testing.assert_close(parts.gap, (acc[:2].mean() - acc[2:].mean()).abs())
    found = ff.sample_likelihood(x, target, **options)
    assert found.valid.tolist() == [True, True, False, True, True, True]
    (slope,) = torch.autograd.grad(parts.loss, x)
    assert (slope[missing] == 0).all()
    assert torch.isfinite(slope).all()
    none = ff.fair_cross_entropy(x, target, groups, num_groups=2, reduction="none", **options)
    torch.testing.assert_close(none, each.masked_fill(missing, 0))
    fairloss.check_inputs(x, target, groups, num_groups=2, **options)


def test_labels_that_are_no_labels_still_raise():
    x = torch.zeros(2, 2)
    for bad in (torch.tensor([[0.0, -1.0], [1.0, 0.0]]), torch.tensor([[0, -1], [1, 0]])):
        with pytest.raises(ValueError, match="target: .*-1"):
            fairloss.FairCrossEntropyLoss(2, task="multilabel")(x, bad, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="target: .*nan"):
        fairloss.FairCrossEntropyLoss(2)(torch.zeros(2), torch.tensor([0.0, torch.nan]), torch.tensor([0, 1]))


def test_groups_that_are_no_ids_name_the_cure():
    values = torch.rand(3)
    for groups, cure in (
        (torch.eye(3), r"argmax\(1\)"),
        (torch.eye(3).long(), r"argmax\(1\).*intersect_groups"),
        (torch.tensor([0.0, 1.0, torch.nan]), r"groups\.long\(\), after setting NaN to -1"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"groups: .*{cure}"):
            ff.group_gap(values, groups, num_groups=3)
    with pytest.raises(ValueError, match=r"groups: .*argmax\(1\)"):
        ff.group_gap(values, torch.eye(3).long(), num_groups=(3, 2))


def test_a_hundred_rows_that_look_one_hot_are_pointed_out():
    """With two attributes of two values they fit; a small batch of real attributes often looks like it."""
    groups = torch.eye(2).long()[torch.arange(100) % 2]
    with pytest.warns(UserWarning, match=r"groups: .*argmax\(1\)"):
        fairloss.check_inputs(groups=groups, num_groups=(2, 2))
    fairloss.check_inputs(groups=groups[:99], num_groups=(2, 2))
    fairloss.check_inputs(groups=torch.cat([groups, torch.zeros(1, 2).long()]), num_groups=(2, 2))
