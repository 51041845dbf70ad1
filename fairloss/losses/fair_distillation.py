"""Fair Distillation: one student learns from a teacher per group, and from a fair task loss.

Each teacher is trained for one group alone; the student is pulled towards the teacher of every sample's own group and, with
the remaining weight, fitted to the labels by Fair Identity Scaling. Paper: Masroor et al., *Fair Distillation*, eqs 2 and 3.

Where the default differs from eq 3 (``variant="paper"``), and why: eq 3 softens the teacher by the temperature but not the
student, KL(student at 1 || teacher at T). Its minimum is not the teacher but the teacher softened: a student that copies its
teacher exactly has a positive loss and is pushed to be less sure. The default is Hinton's T^2 KL(teacher_T || student_T) with
both softened; ``direction="student||teacher"`` keeps the paper's order with both softened. Both vanish, with their gradient,
where student and teacher agree.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, check_process_group, gather_rows_with_gradient
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import all_inside, floating, on_host, real, same_device, shaped
from fairloss.groups.ids import check_groups, single_attribute
from fairloss.losses.dice import check_class_ids
from fairloss.losses.fis_weights import FIS_OPTIONS, scaled_weights
from fairloss.losses.group_heads import route_by_group
from fairloss.losses.tasks import check_fractions

__all__ = ["Direction", "DistillationVariant", "FairDistillationLoss", "TaskLoss", "fair_distillation"]

Direction = Literal["teacher||student", "student||teacher"]
DistillationVariant = Literal["default", "paper"]
TaskLoss = Callable[..., Tensor]

_NO_CLASS = -3_141_592_653_589_793_238
"""Torch lets one id pass, which it ignores: one that no labels hold, neither -100 nor what NaN becomes as an integer."""


def _two_classes(logits: Tensor) -> Tensor:
    """(N,) or (N, 1, *spatial) binary logits as (N, 2, *spatial) logits of the classes 0 and 1."""
    z = logits.unsqueeze(1) if logits.ndim == 1 else logits
    return torch.cat([torch.zeros_like(z), z], 1)


def _sample_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(N, C, *spatial) float32 or float64 logits -> (N,): the mean over pixels of the cross-entropy."""
    soft = target.dtype.is_floating_point
    target = target.to(logits.dtype if soft else torch.int64)
    if not soft and not on_host(target):  # on the host torch raises
        check_class_ids(target, logits.shape[1])
    try:
        entropy = F.cross_entropy(logits, target, reduction="none", ignore_index=_NO_CLASS)
    except (IndexError, RuntimeError):
        check_class_ids(target, logits.shape[1])  # says which
        raise
    return entropy.flatten(1).mean(1) if entropy.ndim > 1 else entropy


def _divergence(
    student: Tensor, teacher: Tensor, temperature: float, direction: Direction, variant: DistillationVariant
) -> Tensor:
    """Sum over samples and pixels of minus the KL divergence over classes (dimension 1)."""

    def expectation(log_p: Tensor, ratio: Tensor) -> Tensor:
        # A dot product is one operation, but over millions of pixels it loses the digits that a sum keeps.
        p = log_p.exp()
        return torch.dot(p.flatten(), ratio.flatten()) if ratio.ndim == 2 else (p * ratio).sum()

    log_t = torch.log_softmax(teacher / temperature, 1)
    if variant == "paper":
        log_s, direction = torch.log_softmax(student, 1), "student||teacher"
    else:
        log_s = torch.log_softmax(student / temperature, 1)
    if direction == "teacher||student":
        return expectation(log_t, log_s - log_t)
    return expectation(log_s, log_t - log_s)


def takes_values(task_loss: TaskLoss) -> bool:
    """Whether ``task_loss`` is called with (losses, groups) rather than (logits, target, groups)."""
    wanted = "a loss of (losses, groups) or of (logits, target, groups)"
    if not callable(task_loss):
        raise TypeError(expected("task_loss", "a callable or None", type(task_loss).__name__))
    if isinstance(task_loss, (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCELoss, nn.BCEWithLogitsLoss)):
        given = f"{type(task_loss).__name__}, which takes (logits, target)"
        raise ValueError(expected("task_loss", wanted, given, "for example lambda losses, groups: losses.mean()"))
    parameters = inspect.signature(task_loss.forward if isinstance(task_loss, nn.Module) else task_loss).parameters
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters.values() if p.kind in positional and p.default is inspect.Parameter.empty]
    if len(needed) not in (2, 3):
        raise ValueError(expected("task_loss", wanted, f"{type(task_loss).__name__} of {len(needed)} arguments"))
    return len(needed) == 2


def _check_options(
    distill_weight: float,
    temperature: float,
    direction: str,
    variant: str,
    task_loss: TaskLoss | None,
    process_group: ProcessGroup | None,
) -> bool:
    """Whether the task loss takes values."""
    checks.number("distill_weight", distill_weight, minimum=0, maximum=1)
    checks.number("temperature", temperature, above=0)
    checks.choice("direction", direction, ("teacher||student", "student||teacher"))
    checks.choice("variant", variant, ("default", "paper"))
    check_process_group(process_group)
    return task_loss is None or takes_values(task_loss)


def _check_logits(student: Tensor, target: Tensor, teacher: Tensor, num_groups: int) -> None:
    floating("input", student)
    floating("teacher_logits", teacher)
    if student.ndim == 0:
        raise ValueError(expected("input", "shape (N,), (N, 1) or (N, C, *spatial)", "()"))
    cure = f"the input's shape, or {num_groups} of it, one per group"
    shaped("teacher_logits", teacher, tuple(student.shape), (num_groups, *student.shape), cure=cure)
    real("target", target, "a tensor of labels or probabilities")
    same_device("teacher_logits", teacher, "input", student)
    same_device("target", target, "input", student)
    n, *channels_and_pixels = student.shape
    pixels = channels_and_pixels[1:]
    binary = student.ndim == 1 or student.shape[1] == 1
    soft = target.dtype.is_floating_point
    if binary:
        fits, wanted = [(n, *pixels), (n, 1, *pixels)], "labels or probabilities (N, *spatial) or (N, 1, *spatial)"
    else:
        fits = [tuple(student.shape)] if soft else [(n, *pixels)]
        wanted = "class ids (N, *spatial), or probabilities of the input's shape"
    if tuple(target.shape) not in fits:
        given = f"{tuple(target.shape)} ({target.dtype})"
        raise ValueError(expected("target", f"{wanted}, for input {tuple(student.shape)}", given))
    if soft:
        check_fractions(target)
    if soft and not binary:  # several labels per sample would be read as one soft one
        sums = target.sum(1, dtype=torch.float32)
        cure = "several labels per sample have no softmax teacher: distill each as a binary task"
        all_inside("target", sums, (sums - 1).abs() <= 0.01, "class probabilities that sum to 1", cure)


def fair_distillation(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    teacher_logits: Tensor,
    num_groups: int,
    distill_weight: float = 0.95,
    temperature: float = 1.5,
    direction: Direction = "teacher||student",
    variant: DistillationVariant = "default",
    task_loss: TaskLoss | None = None,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Fair Distillation as a function; see :class:`FairDistillationLoss`.

    Example:
        >>> student, teachers = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 2, 2)
        >>> fair_distillation(student, torch.tensor([0, 0]), torch.tensor([0, 1]), teacher_logits=teachers, num_groups=2)
        tensor(0.3352)
    """
    size = single_attribute(num_groups, "FairDistillationLoss")
    by_value = _check_options(distill_weight, temperature, direction, variant, task_loss, process_group)
    _check_logits(input, target, teacher_logits, size)
    ids = check_groups(groups, size, input.shape[0], device=input.device)
    dtype = statistics_dtype(input.dtype)
    teacher = teacher_logits.detach().to(dtype)
    if teacher.ndim > input.ndim:
        teacher = route_by_group(teacher, groups)
    student, labels = input.to(dtype), target
    if student.ndim == 1 or student.shape[1] == 1:
        labels = target.reshape(len(target), *student.shape[2:])
        student, teacher = _two_classes(student), _two_classes(teacher)
        if labels.dtype.is_floating_point:  # the probability of class 1
            labels = torch.stack([1 - labels, labels], 1)
    total = _divergence(student, teacher, temperature, direction, variant)
    cells = student[:, 0].numel()
    if process_group is not None:
        total, every = all_reduce_sums([total, total.new_tensor(cells, dtype=torch.float64)], process_group)
        total, cells = (total / every.clamp(min=1)).to(dtype), 1
    scale = distill_weight * temperature**2 / max(cells, 1)
    if distill_weight == 1:
        return 0 - scale * total
    if task_loss is not None and not by_value:
        return torch.sub((1 - distill_weight) * task_loss(input, target, groups), total, alpha=scale)
    losses = _sample_cross_entropy(student, labels)
    if task_loss is not None:
        return torch.sub((1 - distill_weight) * task_loss(losses, groups), total, alpha=scale)
    losses, ids = gather_rows_with_gradient(losses, process_group), ids.gathered(process_group)
    share = (1 - distill_weight) / max(len(losses), 1)
    weights = scaled_weights(losses, ids, (losses.detach(), ids), FIS_OPTIONS, share)
    # One operation for the weighted mean and its sum with the other term.
    return torch.addmv(total.unsqueeze(0), losses.unsqueeze(0), weights, beta=-scale).squeeze(0)


class FairDistillationLoss(ConstantsModule):
    """A student follows the teacher of each sample's group, and fits the labels fairly.

    loss = w T^2 mean KL(teacher_g softened by T || student softened by T) + (1 - w) task, the mean over samples and pixels,
    w = ``distill_weight``. The first term is 0, and so is its gradient, where the student equals the teachers (not with
    ``variant="paper"``).

    Args:
        num_groups: number of groups of the one attribute.
        distill_weight: w in [0, 1], the paper's lambda (default 0.95).
        temperature: T > 0; larger values compare the whole distribution, smaller ones the top class (default 1.5).
        direction: ``"teacher||student"`` (covers what the teacher holds possible) or ``"student||teacher"``.
        variant: ``"default"``, or ``"paper"``: eq 3 to the letter, KL(student at 1 || teacher at T), whose minimum is the
            softened teacher, not the teacher.
        task_loss: ``None``: ``FISLoss(num_groups, c=0.5)`` on the cross-entropy; else a module or function of
            (losses, groups), called with the samples' cross-entropies, or of (logits, target, groups). Which of the two is
            read off its signature.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`. A ``task_loss`` of
            your own needs its own.

    Shape:
        - input: the student's logits, (N, C), (N, C, *spatial), or binary (N,), (N, 1) or (N, 1, *spatial); float16 to float64
        - target: class ids (N, *spatial), or probabilities of the student's shape that sum to 1 (CutMix, mixup); binary:
          0, 1 or a fraction, (N, *spatial) or (N, 1, *spatial)
        - groups: (N,) integer or bool ids, -1 = unknown
        - teacher_logits: the student's shape, or (G, ...) of it: routed by group, an unknown sample to the mean of the
          teachers' logits. No gradient flows to them
        - output: scalar, float32 (float64 for float64 logits)

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        Absent groups change nothing; samples of unknown group are distilled like others.

    Example:
        >>> loss = FairDistillationLoss(num_groups=2)
        >>> student, teachers = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 2, 2)
        >>> loss(student, torch.tensor([0, 0]), torch.tensor([0, 1]), teacher_logits=teachers)
        tensor(0.3352)

    References:
        Masroor et al., *Fair Distillation: Teaching Fairness from Biased Teachers in Medical Imaging*, eqs 2-3.
        Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network*, 2015.

    Reference:
        FairDi 2024, eqs 2-3: https://arxiv.org/abs/2411.11939

    See Also:
        :class:`GroupHeads`, :class:`FISLoss`
    """

    _OPTIONS = option_names(fair_distillation, without=("teacher_logits",))

    def __init__(
        self,
        num_groups: int,
        *,
        distill_weight: float = 0.95,
        temperature: float = 1.5,
        direction: Direction = "teacher||student",
        variant: DistillationVariant = "default",
        task_loss: TaskLoss | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = single_attribute(num_groups, "FairDistillationLoss")
        _check_options(distill_weight, temperature, direction, variant, task_loss, process_group)
        self.distill_weight, self.temperature = distill_weight, temperature
        self.direction, self.variant = direction, variant
        self.task_loss, self.process_group = task_loss, process_group

    def forward(self, input: Tensor, target: Tensor, groups: Tensor, *, teacher_logits: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return fair_distillation(
            input, target, groups, teacher_logits=teacher_logits, **options_of(self, self._OPTIONS)
        )

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"num_groups={self.num_groups}, distill_weight={self.distill_weight}, temperature={self.temperature}, "
            f"direction={self.direction!r}, variant={self.variant!r}"
        )
