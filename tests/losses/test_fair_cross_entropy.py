"""The criterion: torch's own cross-entropy, its parts, the papers' equations, what it reduces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fairloss
from fairloss import functional as ff

X = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
G = torch.tensor([0, 1, 2, 0, 1, 2])


def test_the_function_refuses_to_drop_the_gap():
    with pytest.raises(ValueError, match="reduction"):
        ff.fair_cross_entropy(X, Y, G, num_groups=3, gap_weight=0.5, reduction="none")


def test_a_missing_group_column_is_named():
    logits, target = torch.randn(3, 2), torch.tensor([0, 1, 0])
    with pytest.raises(TypeError, match="groups"):
        fairloss.FairCrossEntropyLoss(2)(logits, target)
    with pytest.raises(TypeError, match="groups"):
        fairloss.FairCrossEntropyLoss(2)(logits, target, None)


class TestCrossEntropyIsTorchs:
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_multiclass(self, batch, reduction, label_smoothing, weighted):
        logits, target, groups = batch
        target = torch.where(torch.arange(40) % 7 == 0, -100, target)
        weight = torch.rand(5, dtype=torch.float64) if weighted else None
        loss = fairloss.FairCrossEntropyLoss(3, weight=weight, label_smoothing=label_smoothing, reduction=reduction)
        expected = F.cross_entropy(logits, target, weight, label_smoothing=label_smoothing, reduction=reduction)
        torch.testing.assert_close(loss(logits, target, groups), expected)

    def test_class_probabilities(self, batch):
        logits, _, groups = batch
        target = torch.softmax(torch.randn(40, 5, dtype=torch.float64), 1)
        weight = torch.rand(5, dtype=torch.float64)
        loss = fairloss.FairCrossEntropyLoss(3, weight=weight, label_smoothing=0.1, task="multiclass")
        expected = F.cross_entropy(logits, target, weight, label_smoothing=0.1)
        torch.testing.assert_close(loss(logits, target, groups), expected)

    def test_tokens(self):
        logits, target = torch.randn(4, 6, 9), torch.randint(0, 9, (4, 6))
        target[:, 4:] = -100
        loss = fairloss.FairCrossEntropyLoss(2)(logits, target, torch.tensor([0, 1, 0, -1]))
        torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), target.flatten()))

    def test_multilabel_and_binary(self):
        logits, target = torch.randn(8, 3), torch.rand(8, 3)
        groups = torch.zeros(8, dtype=torch.int64)
        weight, pos_weight = torch.rand(3), torch.rand(3) + 1
        loss = fairloss.FairCrossEntropyLoss(2, weight=weight, pos_weight=pos_weight, task="multilabel")
        expected = F.binary_cross_entropy_with_logits(logits, target, weight, pos_weight=pos_weight)
        torch.testing.assert_close(loss(logits, target, groups), expected)
        binary = fairloss.FairCrossEntropyLoss(2, pos_weight=torch.tensor(3.0))
        column, hard = logits[:, :1], (target[:, :1] > 0.5).float()
        expected = F.binary_cross_entropy_with_logits(column, hard, pos_weight=torch.tensor(3.0))
        for x, t in (
            (column, hard),
            (column[:, 0], hard[:, 0]),
            (column, hard[:, 0].long()),
            (column[:, 0], hard.bool()),
        ):
            torch.testing.assert_close(binary(x, t, groups), expected)

    def test_two_class_softmax_and_sigmoid_agree(self):
        x, target, groups = torch.randn(20), torch.randint(0, 2, (20,)), torch.randint(0, 2, (20,))
        pair = torch.stack([torch.zeros(20), x], 1)
        loss = fairloss.FairCrossEntropyLoss(2, gap_weight=0.5, group_counts=[15, 5], label_smoothing=0.2)
        torch.testing.assert_close(loss(pair, target, groups), loss(x, target, groups))


def test_parts_add_up(batch):
    loss = fairloss.FairCrossEntropyLoss(3, gap_weight=0.7)
    parts = loss(*batch, return_parts=True)
    assert parts.loss.item() == pytest.approx(parts.task.item() + 0.7 * parts.gap.item(), rel=1e-14)
    assert parts.loss.item() == loss(*batch).item()
    assert parts.gap.item() == fairloss.MaxAccGapLoss(3)(*batch).item()


def test_fr_equation_4_and_hybrid_equation_9(batch):
    """FR as printed; eq 9 as printed through the paper variant of the weighting."""
    logits, target, groups = batch
    groups = groups.clamp(min=0)
    nll_i = F.cross_entropy(logits, target, reduction="none")
    accuracy = [torch.exp(-nll_i[groups == g]).mean() for g in range(3)]
    gap = max(accuracy) - min(accuracy)
    fr = fairloss.FairCrossEntropyLoss(3, gap_weight=0.5)(logits, target, groups)
    torch.testing.assert_close(fr, nll_i.mean() + 0.5 * gap)
    counts = [6300, 300, 380]
    weights = [min(sum(counts) / c, 10.0) for c in counts]
    eq9 = sum(w * nll_i[groups == g].mean() for g, w in enumerate(weights)) + 0.5 * gap
    ours = fairloss.InverseFrequencyWeighting(counts, variant="paper")(nll_i, groups)
    torch.testing.assert_close(ours + 0.5 * fairloss.MaxAccGapLoss(3)(logits, target, groups), eq9)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", [{}, {"pos_weight": torch.tensor([2.0])}], ids=["plain", "pos_weight"])
@pytest.mark.parametrize(("shape", "task"), [((6,), "auto"), ((6, 1), "auto"), ((6, 4), "multilabel")])
def test_labels_are_reduced_as_torch_does(shape, task, options, weighted, reduction, generator):
    logits = torch.randn(shape, generator=generator)
    target = torch.randint(0, 2, shape, generator=generator).float()
    groups = torch.tensor([0, 1, 1, -1, 0, 0])
    counts, rare, common = ([6, 1] if weighted else None), 7 / 2, 7 / 12
    rows = torch.tensor([common, rare, rare, 1.0, common, common] if weighted else [1.0] * 6)
    rows = rows.reshape(6, *[1] * (len(shape) - 1))
    each = rows * F.binary_cross_entropy_with_logits(logits, target, **options, reduction="none")
    expected = each if reduction == "none" else getattr(each, reduction)()
    found = ff.fair_cross_entropy(
        logits,
        target,
        groups,
        num_groups=2,
        task=task,
        group_counts=counts,
        reduction=reduction,
        return_parts=True,
        **options,
    )
    assert found.loss.shape == expected.shape
    torch.testing.assert_close(found.loss, expected)
    assert torch.equal(found.gap, torch.zeros(()))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("length", [5, 0])
def test_tokens_are_reduced_as_torch_does(length, reduction, generator):
    logits = torch.randn(3, length, 7, generator=generator)
    target = torch.randint(0, 7, (3, length), generator=generator)
    target[:, :1] = -100
    groups, rows = torch.tensor([0, -1, 1]), torch.tensor([7 / 12, 1.0, 7 / 2]).unsqueeze(1)
    each = rows * F.cross_entropy(logits.movedim(2, 1), target, reduction="none")
    expected = each if reduction == "none" else each.sum() / (max(1, 3 * (length - 1)) if reduction == "mean" else 1)
    found = ff.fair_cross_entropy(logits, target, groups, num_groups=2, group_counts=[6, 1], reduction=reduction)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weights_of_several_attributes_are_averaged(reduction, generator):
    x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, -100, 0, 1, 2, 0])
    groups = torch.stack([torch.randint(-1, g, (8,), generator=generator) for g in (3, 2)], 1)
    counts = ([80, 12, 8], [60, 40])
    found = ff.fair_cross_entropy(x, y, groups, num_groups=(3, 2), group_counts=counts, reduction=reduction)
    each = [
        ff.fair_cross_entropy(x, y, ids, num_groups=g, group_counts=c, reduction=reduction)
        for ids, g, c in zip(groups.T, (3, 2), counts, strict=True)
    ]
    torch.testing.assert_close(found, sum(each) / 2)


def test_a_memory_of_several_attributes(generator):
    x, y = torch.randn(8, 3, generator=generator), torch.randint(0, 3, (8,), generator=generator)
    groups = torch.stack([torch.randint(-1, g, (8,), generator=generator) for g in (3, 2)], 1)
    values = torch.rand(8, generator=generator)
    both, alone = fairloss.GroupMemory((3, 2), capacity=4), [fairloss.GroupMemory(g, capacity=4) for g in (3, 2)]
    both.push(values, groups)
    gap = ff.fair_cross_entropy(x, y, groups, num_groups=(3, 2), gap_weight=1.0, memory=both, return_parts=True).gap
    each = []
    for memory, ids, g in zip(alone, groups.T, (3, 2), strict=True):
        memory.push(values, ids)
        each.append(ff.max_acc_gap(x, y, ids, num_groups=g, memory=memory))
    torch.testing.assert_close(gap, sum(each) / 2)


@pytest.mark.parametrize("gap_weight", [0.0, 0.5])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_parts_say_what_the_groups_had(task, gap_weight):
    x = torch.tensor([2.0, -1.0, 0.5, 1.0], requires_grad=True)
    y, groups = torch.tensor([1, 0, 0, 1]), torch.tensor([0, 0, 1, -1])
    logits = x if task == "binary" else torch.stack([torch.zeros(4), x], 1)
    loss = fairloss.FairCrossEntropyLoss(3, gap_weight=gap_weight, group_counts=[6, 3, 1])
    parts = loss(logits, y, groups, return_parts=True)
    assert parts.loss == loss(logits, y, groups)
    right = torch.sigmoid(x.detach() * (2 * y - 1))
    assert parts.means.tolist() == pytest.approx([right[:2].mean().item(), right[2].item(), 0])
    assert parts.counts.tolist() == [2, 1, 0]
    assert parts.weights.tolist() == pytest.approx(loss.group_weights.tolist())
    assert not any(part.requires_grad for part in parts[3:])
    assert parts.gap.item() == pytest.approx(abs(parts.means[0] - parts.means[1]).item() if gap_weight else 0.0)
