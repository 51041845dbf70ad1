"""What the contract leaves to each loss: torch's own values, limits, options, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score
from torch.utils._python_dispatch import TorchDispatchMode

import fairloss
from fairloss import functional as ff
from tests.oracles import losses as oracles


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 5, (40,), generator=generator), torch.randint(-1, 3, (40,), generator=generator)


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
        loss = fairloss.FairCrossEntropyLoss(2, 0.5, [15, 5], label_smoothing=0.2)
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
        loss = fairloss.MaxAccGapLoss((3, 2), reduction=reduction)
        assert loss(logits, target, both).item() == pytest.approx(expected, rel=1e-14)
    criterion = fairloss.FairCrossEntropyLoss((3, 2), gap_weight=1.0)
    assert criterion(logits, target, both, return_parts=True).gap.item() == pytest.approx(np.mean(gaps), rel=1e-14)


def test_tokens_with_a_summed_answer():
    logits, target = torch.randn(3, 4, 5, dtype=torch.float64), torch.randint(0, 5, (3, 4))
    target[0, 2:] = -100
    target[1] = -100
    for how in ("mean", "sum"):
        out = ff.sample_likelihood(logits, target, token_reduction=how)
        expected = oracles.likelihoods(logits.numpy(), target.numpy(), "tokens", how)
        assert out.valid.tolist() == [True, False, True]
        assert out.prob[[0, 2]].tolist() == pytest.approx([expected[0], expected[2]], rel=1e-12)


def test_weights_of_inverse_frequency():
    w = ff.inverse_frequency_weights([903, 43, 54], normalise=False).tolist()
    assert w == pytest.approx([1000 / 903, 10, 10])
    w = ff.inverse_frequency_weights([903, 43, 54])
    assert (w * torch.tensor([0.903, 0.043, 0.054])).sum().item() == pytest.approx(1)
    assert ff.inverse_frequency_weights([5, 0], 4.0, normalise=False).tolist() == [1, 4]


def test_unknown_samples_keep_weight_one():
    loss = fairloss.InverseFrequencyWeighting([90, 10])
    assert loss(torch.tensor([2.0, 4.0]), torch.tensor([-1, -1])).item() == 3


class TestGroupDRO:
    def test_follows_its_recursion(self):
        generator = torch.Generator().manual_seed(3)
        for options in ({}, {"counts": [50, 30, 20], "adjustment": 0.5}, {"released": True}):
            released, counts = options.get("released", False), options.get("counts")
            module = fairloss.GroupDROLoss(
                3, 0.1, options.get("adjustment", 0.0), counts, variant="released" if released else "default"
            )
            log_q, seen = [0.0] * 3, [0] * 3
            for _ in range(20):
                groups = torch.randint(-1, 3, (4,), generator=generator)
                values = torch.rand(4, generator=generator, dtype=torch.float64)
                expected, log_q, seen = oracles.group_dro_step(
                    values.numpy(), groups.numpy(), log_q, seen, 0.1, **options
                )
                value = module(values.requires_grad_(), groups)
                assert value.item() == pytest.approx(expected, rel=1e-12)
                q = np.exp(np.array(log_q) - max(log_q)) * np.array([released or s > 0 for s in seen])
                assert module.q.tolist() == pytest.approx((q / q.sum() if q.sum() else q).tolist(), rel=1e-12)

    def test_function_takes_the_weights(self):
        values, groups = torch.rand(6), torch.tensor([0, 0, 1, 1, 2, -1])
        module = fairloss.GroupDROLoss(3, group_counts=[2, 2, 1]).eval()
        module(values, groups)
        module.seen.fill_(1)
        expected = ff.group_dro(values, groups, q=module.q, shares=torch.tensor([0.4, 0.4, 0.2]))
        torch.testing.assert_close(module(values, groups), expected)

    @pytest.mark.parametrize("frozen", ["eval", "no_grad"])
    def test_a_group_never_trained_on_has_no_weight_in_evaluation(self, frozen):
        module = fairloss.GroupDROLoss(3, group_counts=[2, 2, 1])
        for _ in range(5):
            module(torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
        values, groups, q = torch.rand(6), torch.tensor([0, 0, 1, 1, 2, -1]), module.q
        expected = ff.group_dro(values, groups, q=q, shares=torch.tensor([0.4, 0.4, 0.2]))
        module.train(frozen != "eval")
        with torch.set_grad_enabled(frozen != "no_grad"):
            torch.testing.assert_close(module(values, groups), expected)
        assert torch.equal(module.q, q)
        assert q[2] == 0

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"q": [0.5, 0.5]}, "q: a floating-point tensor"),
            ({"q": torch.tensor([1, 0])}, "q: a floating-point tensor"),
            ({"q": torch.rand(2, 1)}, r"q: shape \(G,\)"),
            ({"q": torch.rand(2), "shares": [0.5, 0.5]}, "shares: a floating-point tensor"),
            ({"q": torch.rand(2), "shares": torch.rand(3)}, r"shares: shape \(G,\)"),
            ({"q": torch.rand(2, device="meta")}, "q: expected the device meta"),
        ],
    )
    def test_bad_weights_are_named(self, options, match):
        with pytest.raises((TypeError, ValueError), match=match):
            ff.group_dro(torch.rand(2), torch.tensor([0, 1]), **options)

    def test_unseen_groups_have_no_weight(self):
        module = fairloss.GroupDROLoss(4)
        module(torch.rand(3, requires_grad=True), torch.tensor([0, 2, 2]))
        assert (module.q > 0).tolist() == [True, False, True, False]
        assert module.q.sum().item() == pytest.approx(1)


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


LOGITS, TARGET, GROUPS = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, -1])


@pytest.mark.parametrize(
    ("make", "args", "named"),
    [
        (lambda: fairloss.MaxAccGapLoss(0), None, "num_groups: 0"),
        (lambda: fairloss.MaxAccGapLoss(2.0), None, "num_groups: an integer"),
        (lambda: fairloss.MaxAccGapLoss(()), None, "num_groups: the tuple is empty"),
        (lambda: fairloss.MaxAccGapLoss(2, smoothing=0), None, "smoothing"),
        (lambda: fairloss.MaxAccGapLoss(2, smoothing=float("nan")), None, "smoothing"),
        (lambda: fairloss.MaxAccGapLoss(2, task="regression"), None, "task"),
        (lambda: fairloss.MaxAccGapLoss(2, memory=8), None, "memory: a fairloss.GroupMemory"),
        (lambda: fairloss.MaxAccGapLoss(2, memory=fairloss.GroupMemory(3, 8)), None, "memory: it has 3"),
        (lambda: fairloss.MaxAccGapLoss((2, 2), memory=fairloss.GroupMemory(2, 8)), None, "intersect_groups"),
        (lambda: fairloss.MaxAccGapLoss(2, process_group="world"), None, "process_group"),
        (lambda: fairloss.FairCrossEntropyLoss(2, -1.0), None, "gap_weight: -1.0"),
        (lambda: fairloss.FairCrossEntropyLoss(2, 1.0, reduction="none"), None, "reduction"),
        (lambda: fairloss.FairCrossEntropyLoss(2, group_counts=[1, 2, 3]), None, "group_counts: 3 counts"),
        (lambda: fairloss.FairCrossEntropyLoss((2, 2), group_counts=[1, 2]), None, "intersect_groups"),
        (lambda: fairloss.FairCrossEntropyLoss(2, label_smoothing=1.5), None, "label_smoothing"),
        (lambda: fairloss.FairCrossEntropyLoss(2, max_weight=0.5), None, "max_weight"),
        (lambda: fairloss.InverseFrequencyWeighting([1, float("inf")]), None, "group_counts"),
        (lambda: fairloss.GroupDROLoss((2, 2)), None, "intersect_groups"),
        (lambda: fairloss.GroupDROLoss(2, adjustment=1.0), None, "adjustment"),
        (lambda: fairloss.GroupDROLoss(2, step_size=0), None, "step_size"),
        (lambda: fairloss.DemographicParityLoss(2, task="tokens"), None, "task"),
        (lambda: fairloss.EqualizedOddsLoss(2, agg="sum"), None, "agg"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, torch.rand(4, 3), GROUPS), "two readings.*multiclass.*multilabel"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, TARGET[:3], GROUPS), "target"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS.long(), TARGET, GROUPS), "input: floating"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, TARGET + 1, GROUPS), "target: class 3"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS[:, 0], torch.tensor([0.0, 1, 0.5, 1]), GROUPS), "target: 0.5"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, TARGET, GROUPS[:3]), "groups: 3 ids"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, TARGET, GROUPS.float()), "groups: integer"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, TARGET, GROUPS + 1), "groups: id 2"),
        (lambda: fairloss.MaxAccGapLoss((2, 2)), (LOGITS, TARGET, GROUPS), r"groups: shape \(N, 2\)"),
        (
            lambda: fairloss.FairCrossEntropyLoss(2, weight=torch.ones(2)),
            (LOGITS, TARGET, GROUPS),
            "weight: one weight",
        ),
        (lambda: fairloss.FairCrossEntropyLoss(2, pos_weight=torch.ones(1)), (LOGITS, TARGET, GROUPS), "pos_weight"),
        (lambda: fairloss.LossVarianceLoss(2), (LOGITS, GROUPS), "values: shape"),
        (lambda: fairloss.LossVarianceLoss(2), (TARGET, GROUPS), "values: a floating"),
        (lambda: fairloss.DemographicParityLoss(2, positive_class=3), (LOGITS, TARGET, GROUPS), "positive_class: 3"),
        (lambda: fairloss.DemographicParityLoss(2), (torch.randn(4, 2, 3), TARGET.new_zeros(4, 2), GROUPS), "tokens"),
    ],
)
def test_bad_input_is_named(make, args, named):
    def construct_and_call():
        loss = make()
        assert args is not None, "the constructor should have raised"
        loss(*args)

    with pytest.raises((ValueError, TypeError), match=named):
        construct_and_call()


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"input": torch.tensor([1.0, float("nan")])}, r"input: nan at position \(1,\)"),
        ({"values": torch.tensor([float("inf")])}, "values: inf"),
        ({"values": torch.tensor(1.0)}, r"values: shape \(N,\)"),
        ({"values": torch.rand(2, 3)}, r"values: shape \(N,\)"),
        ({"input": torch.tensor(1.0), "groups": torch.tensor([0]), "num_groups": 2}, "input: shape"),
        ({"groups": torch.tensor([0, -2]), "num_groups": 2}, "groups: id -2"),
        ({"groups": torch.tensor([[0, 5]]), "num_groups": (2, 3)}, r"groups\[:, 1\]: id 5"),
        ({"groups": torch.tensor([0.0]), "num_groups": 2}, "groups"),
        ({"groups": torch.tensor([0])}, "num_groups"),
        ({"target": torch.tensor([0])}, "target"),
        ({"input": torch.randn(2, 3), "target": torch.tensor([0, 3])}, "target: 3"),
        ({"input": torch.randn(2), "target": torch.tensor([0.5, 1])}, "target: 0.5"),
        (
            {"input": torch.randn(2, 3), "target": torch.tensor([0, 1]), "groups": torch.tensor([0]), "num_groups": 1},
            "sizes",
        ),
    ],
)
def test_check_inputs_finds_it(kwargs, named):
    with pytest.raises((ValueError, TypeError), match=named):
        fairloss.check_inputs(**kwargs)


def test_check_inputs_passes_what_is_well():
    fairloss.check_inputs(
        torch.randn(3, 4), torch.tensor([0, -100, 3]), torch.tensor([0, -1, 1]), num_groups=2, values=torch.rand(3)
    )


def test_intersections():
    groups = torch.tensor([[0, 0, 1], [1, 2, 0], [1, -1, 0]])
    ids, count = fairloss.intersect_groups(groups, num_groups=(2, 3, 2))
    assert count == 12
    assert ids.tolist() == [1, 10, -1]
    with pytest.raises(ValueError, match="groups"):
        fairloss.intersect_groups(groups[:, 0], num_groups=(2, 3, 2))


def test_public_names_resolve_and_import_stays_light():
    import subprocess
    import sys

    for name in fairloss.__all__:
        assert getattr(fairloss, name) is not None
    code = (
        "import sys, fairloss; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; fairloss.MaxAccGapLoss"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_losses_import_no_compiler():
    """Importing torch's compiler takes as long again as importing torch."""
    import subprocess
    import sys

    code = "import sys, torch; before = 'torch._dynamo' in sys.modules; import fairloss.functional, fairloss.policy"
    code += "; assert before or 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


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
def test_second_derivatives(loss, task, sizes, reduction, smoothing):
    generator = torch.Generator().manual_seed(11)
    logits = torch.randn(8, 3, generator=generator, dtype=torch.float64).requires_grad_()
    shape = (8, 3) if task == "multilabel" else (8,)
    target = torch.randint(0, 2, shape, generator=generator)
    groups = torch.tensor([[0, 0], [1, 1], [2, 1], [0, 0], [1, 1], [-1, 0], [2, -1], [1, 0]])
    module = loss(sizes, smoothing=smoothing, task=task, reduction=reduction)
    ids = groups if isinstance(sizes, tuple) else groups[:, 0]
    assert torch.autograd.gradgradcheck(lambda x: module(x, target, ids), (logits,))


def test_a_memory_has_the_second_derivatives_of_its_estimate():
    """With all values seen by the memory in equal shares S_g is the batch's mean, on which the curvature is taken."""
    values = torch.tensor([0.1, 0.4, 0.3, 0.9], dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([0, 0, 1, 1])
    memory = fairloss.GroupMemory(2, 4, group_counts=[1, 1]).eval()

    def hessian(memory):
        return torch.autograd.functional.hessian(
            lambda v: ff.group_gap(v, groups, num_groups=2, smoothing=0.2, memory=memory), values
        )

    expected = hessian(None)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(hessian(memory), expected)


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


def test_max_acc_gap_checks_its_options_before_any_work():
    logits, target, groups = torch.randn(4, 2), torch.tensor([0, 1, 5, 1]), torch.tensor([0, 1, 1, 0])
    memory = fairloss.GroupMemory(3, 2)
    for options in ({"smoothing": 0}, {"reduction": "none"}, {"memory": memory}, {"token_reduction": "max"}):
        with pytest.raises(ValueError, match=next(iter(options))):  # not the class out of range
            ff.max_acc_gap(logits, target, groups, num_groups=2, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", [{}, {"pos_weight": torch.tensor([2.0])}], ids=["plain", "pos_weight"])
@pytest.mark.parametrize(("shape", "task"), [((6,), "auto"), ((6, 1), "auto"), ((6, 4), "multilabel")])
def test_labels_are_reduced_as_torch_does(shape, task, options, weighted, reduction):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator)
    target = torch.randint(0, 2, shape, generator=generator).float()
    groups = torch.tensor([0, 1, 1, -1, 0, 0])
    weights = torch.tensor([0.5, 3.0]) if weighted else None
    rows = torch.tensor([0.5, 3.0, 3.0, 1.0, 0.5, 0.5] if weighted else [1.0] * 6).reshape(6, *[1] * (len(shape) - 1))
    each = rows * F.binary_cross_entropy_with_logits(logits, target, **options, reduction="none")
    expected = each if reduction == "none" else getattr(each, reduction)()
    found = ff.fair_cross_entropy(
        logits, target, groups, num_groups=2, task=task, group_weights=weights, reduction=reduction, **options
    )
    assert found.loss.shape == expected.shape
    torch.testing.assert_close(found.loss, expected)
    assert torch.equal(found.gap, torch.zeros(()))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("length", [5, 0])
def test_tokens_are_reduced_as_torch_does(length, reduction):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, length, 7, generator=generator)
    target = torch.randint(0, 7, (3, length), generator=generator)
    target[:, :1] = -100
    groups, rows = torch.tensor([0, -1, 1]), torch.tensor([0.5, 1.0, 3.0]).unsqueeze(1)
    each = rows * F.cross_entropy(logits.movedim(2, 1), target, reduction="none")
    expected = each if reduction == "none" else each.sum() / (max(1, 3 * (length - 1)) if reduction == "mean" else 1)
    found = ff.fair_cross_entropy(
        logits, target, groups, num_groups=2, group_weights=torch.tensor([0.5, 3.0]), reduction=reduction
    )
    torch.testing.assert_close(found.loss, expected)


def test_answers_without_a_token_are_in_no_group():
    logits, target, groups = torch.randn(2, 0, 5, requires_grad=True), torch.zeros(2, 0).long(), torch.tensor([0, 1])
    assert not ff.sample_likelihood(logits, target).valid.any()
    for loss in (fairloss.MaxAccGapLoss(2), fairloss.FairCrossEntropyLoss(2, 0.5)):
        value = loss(logits, target, groups)
        value.backward()
        assert value.item() == 0


def test_a_task_of_no_label_is_refused():
    with pytest.raises(ValueError, match="target: task 'multilabel' needs .*C >= 1"):
        ff.sample_likelihood(torch.randn(2, 0), torch.zeros(2, 0), task="multilabel")
