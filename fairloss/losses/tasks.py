"""Per-sample likelihoods: what every loss on logits needs of (input, target), whatever the kind of task.

The likelihood of the given label is ``exp(-nll)``, so a model's soft accuracy costs nothing beyond its cross-entropy, at
any vocabulary. It always uses the plain nll, without class weights or label smoothing.

Kinds of task and their shapes:

| task         | input              | target                                     | likelihood                               |
|--------------|--------------------|--------------------------------------------|------------------------------------------|
| binary       | (N,) or (N, 1)     | (N,) or (N, 1), 0/1 or in [0, 1]           | t p + (1 - t)(1 - p), p = sigmoid        |
| multiclass   | (N, C)             | (N,) integers, or (N, C) probabilities     | softmax_t, or sum_c t_c softmax_c        |
| multilabel   | (N, C)             | (N, C), 0/1 or in [0, 1]                   | mean over labels of the binary one       |
| tokens       | (N, T, V)          | (N, T) integers                            | exp(-mean token nll), or of their sum    |
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairloss.core import checks
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import same_device
from fairloss.ops.nll import dense_nll
from fairloss.ops.nll import nll as streamed_nll

__all__ = [
    "TASKS",
    "Likelihood",
    "Rows",
    "Task",
    "TokenReduction",
    "check_fractions",
    "check_range",
    "check_task",
    "resolve_task",
    "sample_likelihood",
]

Task = Literal["auto", "binary", "multiclass", "multilabel", "tokens"]
TokenReduction = Literal["mean", "sum"]
TASKS = ("auto", "binary", "multiclass", "multilabel", "tokens")

# From this many classes on, a second buffer of the logits' size costs more than the op call that avoids it.
_STREAM_FROM = 1 << 14


class Likelihood(NamedTuple):
    """Likelihood of each sample's label.

    Attributes:
        prob: (N,), in [0, 1], float32 or float64; gradient flows to the logits.
        valid: (N,) bool, False where every target of the sample is ignored; such a sample enters no group.
    """

    prob: Tensor
    valid: Tensor


class Rows(NamedTuple):
    """The cross-entropies a task consists of: one row a sample, a label or a token.

    Attributes:
        nll: (M,) plain negative log-likelihoods, 0 where ignored. With float targets their cross-entropy.
        valid: (M,) bool, False where the target is ignored.
        prob: (M,) likelihood of the given label; None where it is exp(-nll) or was not asked for.
    """

    nll: Tensor
    valid: Tensor
    prob: Tensor | None = None


def check_task(task: str) -> Task:
    """``task`` if it is one of :data:`TASKS`."""
    return checks.choice("task", task, TASKS)  # type: ignore[return-value]


def resolve_task(input: Tensor, target: Tensor, task: Task) -> Task:
    """The kind of task, with the shapes and dtypes of ``input`` and ``target`` checked against it.

    Raises:
        TypeError: not tensors, or logits that are not floating.
        ValueError: shapes that do not fit; under ``"auto"`` what has two readings, with both named.
    """
    check_task(task)
    if not isinstance(input, Tensor) or not input.dtype.is_floating_point:
        given = input.dtype if isinstance(input, Tensor) else type(input).__name__
        raise TypeError(f"input: floating-point logits are needed, {given} was given")
    if not isinstance(target, Tensor) or target.dtype.is_complex:
        given = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(f"target: a tensor of labels is needed, {given} was given")
    same_device("target", target, "input", input)
    if task == "auto":
        task = _unambiguous(input, target)
    shapes = f"input {tuple(input.shape)} and target {tuple(target.shape)} were given"
    n = input.shape[0] if input.ndim else -1
    if task == "binary":
        fits = input.shape in ((n,), (n, 1)) and target.shape in ((n,), (n, 1))
        wanted = "input (N,) or (N, 1) and target (N,) or (N, 1)"
    elif task == "multiclass":
        soft = target.dtype.is_floating_point
        fits = input.ndim == 2 and target.shape == (input.shape if soft else input.shape[:1])
        wanted = "input (N, C) and target (N,) of integers or (N, C) of probabilities"
    elif task == "multilabel":
        fits = input.ndim == 2 and target.shape == input.shape and input.shape[1] > 0
        wanted = "input (N, C) and target (N, C), C >= 1"
    else:
        fits = input.ndim == 3 and target.shape == input.shape[:2] and not target.dtype.is_floating_point
        wanted = "input (N, T, V), class last, and target (N, T) of integers"
    if not fits:
        raise ValueError(f"target: task {task!r} needs {wanted}; {shapes} ({target.dtype})")
    return task


def _unambiguous(input: Tensor, target: Tensor) -> Task:
    soft = target.dtype.is_floating_point
    if input.ndim == 1 or (input.ndim == 2 and input.shape[1] == 1):
        return "binary"
    if input.ndim == 2 and target.ndim == 1 and not soft:
        return "multiclass"
    if input.ndim == 2 and target.shape == input.shape:
        raise ValueError(
            "target: a target of the input's shape (N, C) has two readings; say which: "
            "task='multiclass' (floats are class probabilities, as CutMix and mixup make them) or "
            "task='multilabel' (each label is binary)"
        )
    if input.ndim == 3 and target.shape == input.shape[:2] and not soft:
        return "tokens"
    raise ValueError(
        f"target: no task fits input {tuple(input.shape)} and target {tuple(target.shape)} ({target.dtype}); "
        "see the table in fairloss.losses.tasks, or pass task="
    )


def _class_nll(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """(..., C) logits and (...) integers, M of them -> (M,) nll, 0 where ignored."""
    if logits.shape[-1] < _STREAM_FROM and logits.dtype in (torch.float32, torch.float64):
        return dense_nll(logits.flatten(0, -2), target.flatten(), ignore_index)
    ignored = target == ignore_index
    each: Tensor = streamed_nll(logits, target.masked_fill(ignored, 0))
    return each.masked_fill(ignored, 0.0).flatten()


def _checked_class_nll(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """The same; a class out of range is an error with the value in eager mode on CPU, a device-side assertion elsewhere."""
    if target.device.type != "cpu" or torch.compiler.is_compiling():
        return _class_nll(logits, target, ignore_index)
    try:
        return _class_nll(logits, target, ignore_index)
    except (IndexError, RuntimeError):
        bad = target[((target < 0) | (target >= logits.shape[-1])) & (target != ignore_index)]
        if bad.numel() == 0:
            raise
        raise ValueError(
            f"target: class {int(bad[0])} is out of range; accepted are 0 .. {logits.shape[-1] - 1}, and {ignore_index}"
        ) from None


def check_fractions(target: Tensor, *, hard: bool = False) -> None:
    """Raise unless float labels or probabilities lie in [0, 1], ``hard`` ones at 0 or 1.

    Shown in eager mode on CPU, asserted on the device elsewhere.
    """
    if target.dtype == torch.bool:
        return
    whole = hard and target.dtype.is_floating_point  # of integers the bounds alone leave 0 and 1
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        if target.numel() == 0:
            return
        low, high = (float(bound) for bound in torch.aminmax(target))
        fits = low >= 0 and high <= 1  # NaN fails
        if not fits or (whole and not bool(_inside(target, whole).all())):
            wanted = "0 or 1 (task='binary' takes fractions, too)" if hard else "in [0, 1]"
            raise ValueError(
                f"target: {float(target[~_inside(target, whole)][0]):g} was given; labels {wanted} are needed"
            )
    else:
        torch._assert_async(_inside(target, whole).all(), "target: label out of range")


def _inside(target: Tensor, whole: bool) -> Tensor:
    return (target == 0) | (target == 1) if whole else (target >= 0) & (target <= 1)


def check_range(input: Tensor, target: Tensor, kind: Task, *, auto: bool) -> None:
    """Raise unless the labels of a resolved task lie in its range; nothing is ignored.

    Shown in eager mode on CPU, asserted on the device elsewhere.
    """
    if kind != "multiclass" or target.dtype.is_floating_point:
        check_fractions(target, hard=kind == "binary" and (auto or not target.dtype.is_floating_point))
        return
    classes = input.shape[-1]
    inside = (target >= 0) & (target < classes)
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        if not bool(inside.all()):
            raise ValueError(
                f"target: class {int(target[~inside][0])} is out of range; accepted are 0 .. {classes - 1}"
            )
    else:
        torch._assert_async(inside.all(), "target: class out of range")


def rows_of(
    input: Tensor,
    target: Tensor,
    *,
    task: Task,
    auto: bool = False,
    ignore_index: int = -100,
    with_prob: bool = True,
) -> Rows:
    """Rows of a resolved task: (N,) for binary and multiclass, (N * C,) for multilabel, (N * T,) for tokens.

    Args:
        input: the logits.
        target: the labels.
        task: what :func:`resolve_task` returned.
        auto: whether the caller asked for ``"auto"``, under which binary targets must be 0 or 1.
        ignore_index: integer targets of multiclass and tokens that count for nothing.
        with_prob: whether the likelihoods are wanted, too.
    """
    if task in ("binary", "multilabel"):
        x = input.flatten().to(statistics_dtype(input.dtype))
        check_fractions(target, hard=auto or not target.dtype.is_floating_point)
        t = target.flatten().to(x.dtype)
        # -log(t p + (1 - t)(1 - p)) is the nll for 0/1; for fractions the cross-entropy is, and the likelihood is linear.
        row_nll = F.binary_cross_entropy_with_logits(x, t, reduction="none")
        valid = torch.ones_like(t, dtype=torch.bool)
        if not with_prob:
            return Rows(row_nll, valid)
        p = torch.sigmoid(x)
        return Rows(row_nll, valid, torch.lerp(1 - p, p, t))
    if target.dtype.is_floating_point:
        logp = F.log_softmax(input, dim=1, dtype=statistics_dtype(input.dtype))
        check_fractions(target)
        t = target.to(logp.dtype)
        # xlogy-like: a class of probability 0 and target 0 contributes 0, not 0 * -inf.
        entropy = -torch.where(t == 0, 0.0, t * logp).sum(1)
        valid = torch.ones_like(entropy, dtype=torch.bool)
        return Rows(entropy, valid, (t * logp.exp()).sum(1) if with_prob else None)
    labels = target.to(torch.int64)
    return Rows(_checked_class_nll(input, labels, ignore_index), labels.flatten() != ignore_index)


def sample_likelihood(
    input: Tensor,
    target: Tensor,
    *,
    task: Task = "auto",
    ignore_index: int = -100,
    token_reduction: TokenReduction = "mean",
) -> Likelihood:
    """Likelihood of each sample's label, whatever the task; see the module's table.

    Args:
        input: logits, any floating dtype; computed in float32 at least.
        target: labels.
        task: kind of task.
        ignore_index: integer targets that count for nothing.
        token_reduction: ``"mean"``: exp(-mean token nll), the geometric mean of the token likelihoods; ``"sum"``: the
            whole answer's probability.

    Returns:
        Likelihoods and which samples have one.

    Raises:
        TypeError, ValueError: as :func:`resolve_task`; a target out of range.

    Example:
        >>> sample_likelihood(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])).prob
        tensor([0.5000, 0.7311])
    """
    checks.choice("token_reduction", token_reduction, ("mean", "sum"))
    kind = resolve_task(input, target, task)
    rows = rows_of(input, target, task=kind, auto=task == "auto", ignore_index=ignore_index)
    return likelihood_of(rows, kind, target.shape, token_reduction)


def likelihood_of(rows: Rows, kind: Task, shape: torch.Size, token_reduction: TokenReduction) -> Likelihood:
    """The rows of a resolved task with a target of ``shape`` to samples, (N,)."""
    if kind == "tokens":
        total, count = rows.nll.reshape(shape).sum(1), rows.valid.reshape(shape).sum(1)
        if token_reduction == "mean":
            total = total / count.clamp(min=1)
        return Likelihood(torch.exp(-total), count > 0)
    prob = torch.exp(-rows.nll) if rows.prob is None else rows.prob
    if kind == "multilabel":
        prob = prob.reshape(shape).mean(1)
        return Likelihood(prob, torch.ones_like(prob, dtype=torch.bool))
    return Likelihood(prob, rows.valid)
