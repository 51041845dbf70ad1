"""Fair Distillation: zero at the teacher, routing against a loop, the paper's own minimum, task losses, group heads."""

import pytest
import torch
from torch import nn

import fairloss
from fairloss import FairDistillationLoss, FEBSLoss, FISLoss, GroupDROLoss
from fairloss.functional import fair_distillation, fis, route_by_group
from tests.oracles import fairdi as oracles


def batch(seed, shape=(7, 4), num_groups=3):
    gen = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=gen, dtype=torch.float64)
    teachers = torch.randn(num_groups, *shape, generator=gen, dtype=torch.float64)
    if len(shape) == 1:
        target = torch.randint(0, 2, shape, generator=gen)
    else:
        target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=gen)
    groups = torch.randint(-1, num_groups, shape[:1], generator=gen)
    groups[:2] = torch.tensor([-1, 0])
    return student, teachers, target, groups


SHAPES = [(7,), (7, 4), (5, 3, 4, 3), (4, 2, 2, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("direction", ["teacher||student", "student||teacher"])
@pytest.mark.parametrize("temperature", [0.5, 1.5, 4.0])
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(shape, direction, temperature):
    _, teachers, target, groups = batch(1, shape)
    student = route_by_group(teachers, groups).requires_grad_()
    options = {"num_groups": 3, "direction": direction, "temperature": temperature, "distill_weight": 1.0}
    value = fair_distillation(student, target, groups, teacher_logits=teachers, **options)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-14)
    assert student.grad.abs().max() < 1e-15
    other = (student.detach() * 1.1).requires_grad_()
    value = fair_distillation(other, target, groups, teacher_logits=teachers, **options)
    value.backward()
    assert value > 1e-4
    assert other.grad.abs().max() > 1e-5


def test_the_papers_minimum_is_the_softened_teacher_and_not_the_teacher():
    _, teachers, target, groups = batch(2)
    own = route_by_group(teachers, groups)
    options = {"num_groups": 3, "variant": "paper", "distill_weight": 1.0, "temperature": 2.0}
    copy = own.clone().requires_grad_()
    value = fair_distillation(copy, target, groups, teacher_logits=teachers, **options)
    value.backward()
    assert value > 0.01
    assert copy.grad.abs().max() > 1e-3
    softened = (own / 2.0).requires_grad_()
    value = fair_distillation(softened, target, groups, teacher_logits=teachers, **options)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-14)
    assert softened.grad.abs().max() < 1e-15


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_routing_equals_a_loop_unknown_included(shape):
    student, teachers, target, groups = batch(3, shape)
    rows = [teachers[g, i] if g >= 0 else teachers[:, i].mean(0) for i, g in enumerate(groups.tolist())]
    torch.testing.assert_close(route_by_group(teachers, groups), torch.stack(rows))
    routed = fair_distillation(student, target, groups, teacher_logits=torch.stack(rows), num_groups=3)
    torch.testing.assert_close(
        fair_distillation(student, target, groups, teacher_logits=teachers, num_groups=3), routed
    )
    swapped = fair_distillation(student, target, groups, teacher_logits=teachers.flip(0), num_groups=3)
    assert abs(swapped - routed) > 1e-3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_divergence_equals_torchs(shape):
    student, teachers, target, groups = batch(4, shape)
    own = route_by_group(teachers, groups)
    if len(shape) == 1:
        student, own = (torch.stack([torch.zeros_like(z), z], 1) for z in (student, own))
    kl = nn.KLDivLoss(reduction="none", log_target=True)
    expected = 1.5**2 * kl((student / 1.5).log_softmax(1), (own / 1.5).log_softmax(1)).sum(1).mean()
    found = fair_distillation(
        batch(4, shape)[0], target, groups, teacher_logits=teachers, num_groups=3, distill_weight=1.0
    )
    torch.testing.assert_close(found, expected)


def test_no_gradient_reaches_the_teachers():
    student, teachers, target, groups = batch(5)
    student.requires_grad_()
    teachers.requires_grad_()
    fair_distillation(student, target, groups, teacher_logits=teachers, num_groups=3).backward()
    assert teachers.grad is None
    assert student.grad.abs().max() > 0


def test_default_task_loss_is_identity_scaling_of_the_cross_entropy():
    student, teachers, target, groups = batch(6)
    losses = nn.functional.cross_entropy(student, target, reduction="none")
    found = fair_distillation(student, target, groups, teacher_logits=teachers, num_groups=3, distill_weight=0.0)
    torch.testing.assert_close(found, fis(losses, groups, num_groups=3, c=0.5))


def test_task_losses_of_values_and_of_logits():
    student, teachers, target, groups = batch(7)
    losses = nn.functional.cross_entropy(student, target, reduction="none")
    for task in (FISLoss(3, c=0.9), GroupDROLoss(3, step_size=0.1), lambda losses, groups: losses.sum()):
        loss = FairDistillationLoss(3, distill_weight=0.6, task_loss=task)
        whole, alone = (
            loss(student, target, groups, teacher_logits=teachers),
            FairDistillationLoss(3, distill_weight=1.0),
        )
        distilled = alone(student, target, groups, teacher_logits=teachers)
        expected = 0.6 * distilled + 0.4 * (
            losses.sum() if not isinstance(task, nn.Module) else type(task)(3, **options_of(task))(losses, groups)
        )
        torch.testing.assert_close(whole, expected)
    student, teachers, target, groups = batch(8, (5, 3, 4, 3))
    febs = FEBSLoss(3, num_classes=3, dice_weight=0.5)
    whole = FairDistillationLoss(3, distill_weight=0.6, task_loss=febs)(
        student, target, groups, teacher_logits=teachers
    )
    distilled = FairDistillationLoss(3, distill_weight=1.0)(student, target, groups, teacher_logits=teachers)
    torch.testing.assert_close(whole, 0.6 * distilled + 0.4 * febs(student, target, groups))


def options_of(task):
    return {"c": 0.9} if isinstance(task, FISLoss) else {"step_size": 0.1}


def test_soft_targets_and_binary_forms():
    student, teachers, target, groups = batch(9)
    hard = nn.functional.one_hot(target, 4).double()
    value = fair_distillation(student, target, groups, teacher_logits=teachers, num_groups=3, distill_weight=0.2)
    torch.testing.assert_close(
        fair_distillation(student, hard, groups, teacher_logits=teachers, num_groups=3, distill_weight=0.2), value
    )
    mixed = 0.7 * hard + 0.3 * hard.roll(1, 0)
    expected = oracles.fair_distillation(
        *(x.numpy() for x in (student, mixed, groups)), teacher_logits=teachers.numpy(), distill_weight=0.2
    )
    found = fair_distillation(student, mixed, groups, teacher_logits=teachers, num_groups=3, distill_weight=0.2)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    student, teachers, target, groups = batch(10, (7,))
    value = fair_distillation(student, target, groups, teacher_logits=teachers, num_groups=3, distill_weight=0.2)
    column = fair_distillation(
        student.unsqueeze(1),
        target.double(),
        groups,
        teacher_logits=teachers.unsqueeze(2),
        num_groups=3,
        distill_weight=0.2,
    )
    torch.testing.assert_close(column, value)


def test_a_student_learns_what_its_teachers_know(generator):
    """Two groups whose labels follow opposite features: teachers know their own, the student must learn both."""
    x = torch.randn(400, 3, generator=generator)
    groups = torch.arange(400) % 2
    x[:, 2] = groups  # the student sees the group
    teachers = torch.stack([torch.stack([-4 * x[:, g], 4 * x[:, g]], 1) for g in range(2)])
    labels = route_by_group(teachers, groups).argmax(1)
    student = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    loss = FairDistillationLoss(2)
    for _ in range(300):
        optimizer.zero_grad()
        loss(student(x), labels, groups, teacher_logits=teachers).backward()
        optimizer.step()
    correct = student(x).argmax(1) == labels
    assert min(correct[groups == g].double().mean() for g in range(2)) > 0.95
    untrained = loss(torch.zeros(400, 2), labels, groups, teacher_logits=teachers)
    assert loss(student(x), labels, groups, teacher_logits=teachers) < untrained / 4


@pytest.mark.parametrize(
    "task", [None, FEBSLoss(3, num_classes=3, dice_weight=0.5), FISLoss(3, c=0.2)], ids=["none", "febs", "fis"]
)
def test_routing_and_task_losses_compile_as_one_graph(task):
    torch._dynamo.reset()
    loss = FairDistillationLoss(3, distill_weight=0.6, task_loss=task)
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 9, 7):
        arguments = batch(n, (n, 3, 4, 3))
        student, teachers, target, groups = arguments
        batch_of = (student, target, groups)
        found, expected = (f(*batch_of, teacher_logits=teachers) for f in (compiled, loss))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"teacher_logits": torch.zeros(3, 4, 2)}, "teacher_logits: .*shape"),
        ({"teacher_logits": torch.zeros(4, 3)}, "teacher_logits: .*shape"),
        ({"input": torch.zeros(4, 2).long()}, "input: .*floating"),
        ({"target": torch.full((4,), 2)}, r"target: .*\b2\b"),
        ({"target": torch.zeros(4)}, "target: .*class ids"),
        ({"target": torch.full((4, 2), 2.0)}, r"target: .*\b2\b"),
        ({"target": torch.full((4, 2), torch.nan)}, "target: .*nan"),
        ({"target": torch.full((4, 2), -0.5), "distill_weight": 1.0}, r"target: .*-0\.5"),
        ({"target": torch.zeros(5).long()}, "target: .*class ids"),
        ({"distill_weight": 1.1}, "distill_weight: .*1.1"),
        ({"temperature": 0.0}, "temperature: .*0.0"),
        ({"direction": "both"}, "'teacher||student', 'student||teacher'"),
        ({"variant": "released"}, "'default', 'paper'"),
        ({"task_loss": "fis"}, "task_loss: .*callable"),
        ({"task_loss": lambda x: x}, "task_loss: .*1 arguments"),
        ({"num_groups": (2, 2)}, "intersect_groups"),
    ],
)
def test_bad_arguments_are_named(change, match):
    arguments = {
        "input": torch.zeros(4, 2),
        "teacher_logits": torch.zeros(2, 4, 2),
        "target": torch.zeros(4, dtype=torch.int64),
        "groups": torch.tensor([0, 1, 1, 0]),
        "num_groups": 2,
    }
    with pytest.raises((ValueError, TypeError), match=match.replace("|", r"\|")):
        fair_distillation(**{**arguments, **change})


def test_distilling_binary_masks():
    """One logit a pixel is the two classes (0, z), labels as masks with a channel or without."""
    student, teacher = torch.randn(4, 1, 3, 5, dtype=torch.float64), torch.randn(2, 4, 1, 3, 5, dtype=torch.float64)
    mask, groups = torch.randint(0, 2, (4, 3, 5)), torch.tensor([0, 1, 0, -1])
    loss = fairloss.FairDistillationLoss(2, distill_weight=0.5)
    zero = torch.zeros_like
    expected = loss(
        torch.cat([zero(student), student], 1), mask, groups, teacher_logits=torch.cat([zero(teacher), teacher], 2)
    )
    for target in (mask, mask.unsqueeze(1), mask.double(), mask.unsqueeze(1).double()):
        torch.testing.assert_close(loss(student, target, groups, teacher_logits=teacher), expected)
    seen = []
    own = fairloss.FairDistillationLoss(2, task_loss=lambda losses, groups: seen.append(losses.shape) or losses.mean())
    own(student, mask, groups, teacher_logits=teacher)
    assert seen == [(4,)]


def test_distillation_refuses_labels_that_are_no_class_probabilities():
    logits, groups = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match="target: .*class probabilities.*2"):
        fairloss.FairDistillationLoss(2)(logits, torch.tensor([[1.0, 1, 0]] * 4), groups, teacher_logits=logits)
    fairloss.FairDistillationLoss(2)(logits, torch.tensor([[0.25, 0.7, 0.05]] * 4), groups, teacher_logits=logits)
    with pytest.raises(ValueError, match="task_loss: .*CrossEntropyLoss"):
        fairloss.FairDistillationLoss(2, task_loss=nn.CrossEntropyLoss())


def test_no_label_is_ignored():
    """Torch leaves out one id; the lowest integer is what NaN becomes."""
    student, teachers, groups = torch.zeros(3, 2), torch.zeros(3, 2), torch.tensor([0, 1, 0])
    for bad in (-100, -1, 2, -(2**63)):
        with pytest.raises(ValueError, match="target"):
            fair_distillation(student, torch.tensor([0, bad, 1]), groups, teacher_logits=teachers, num_groups=2)
