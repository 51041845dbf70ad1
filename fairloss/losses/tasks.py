"""Kinds of task: which one a pair of (input, target) is, and whether shapes, dtypes and labels fit it.

| task         | input              | target                                     | likelihood                               |
|--------------|--------------------|--------------------------------------------|------------------------------------------|
| binary       | (N,) or (N, 1)     | (N,) or (N, 1), 0/1 or in [0, 1]           | t p + (1 - t)(1 - p), p = sigmoid        |
| multiclass   | (N, C)             | (N,) integers, or (N, C) probabilities     | softmax_t, or sum_c t_c softmax_c        |
| multilabel   | (N, C)             | (N, C), 0/1 or in [0, 1]                   | mean over labels of the binary one       |
| tokens       | (N, T, V)          | (N, T) integers                            | exp(-mean token nll), or of their sum    |
| dense        | (N, C, *spatial)   | (N, *spatial) integers                     | exp(-mean pixel nll), or of their sum    |

``"auto"`` takes the task that fits the shapes, and raises where two do: (N, C) targets beside (N, C) logits, and three axes
whose last two are equal, where the classes may be last (tokens) or second (dense, torch's layout). The likelihoods are in
:mod:`fairloss.losses.likelihood`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.tensor_checks import all_inside, between, floating, real, same_device

__all__ = ["TASKS", "Task", "check_fractions", "check_range", "check_task", "class_last", "masked", "resolve_task"]

Task = Literal["auto", "binary", "multiclass", "multilabel", "tokens", "dense"]
TASKS = ("auto", "binary", "multiclass", "multilabel", "tokens", "dense")


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
    floating("input", input)
    real("target", target, "a tensor of labels")
    same_device("target", target, "input", input)
    if task == "auto":
        task = _task_of(input.shape, target.shape, target.dtype)
    n = input.shape[0] if input.ndim else -1
    soft = target.dtype.is_floating_point
    if task == "binary":
        fits = input.shape in ((n,), (n, 1)) and target.shape in ((n,), (n, 1))
        wanted = "input (N,) or (N, 1) and target (N,) or (N, 1)"
    elif task == "multiclass":
        fits = input.ndim == 2 and target.shape == (input.shape if soft else input.shape[:1])
        wanted = "input (N, C) and target (N,) of integers or (N, C) of probabilities"
    elif task == "multilabel":
        fits = input.ndim == 2 and target.shape == input.shape and input.shape[1] > 0
        wanted = "input (N, C) and target (N, C), C >= 1"
    elif task == "tokens":
        fits = input.ndim == 3 and target.shape == input.shape[:2] and not soft
        wanted = "input (N, T, V), class last, and target (N, T) of integers"
    else:
        fits = input.ndim >= 3 and target.shape == (n, *input.shape[2:]) and not soft
        wanted = "input (N, C, *spatial), class second, and target (N, *spatial) of integers"
    if not fits:
        given = _given(input.shape, target.shape, target.dtype)
        raise ValueError(
            expected("target", f"{wanted} for task {task!r}", given, _cure(input.shape, target.shape, target.dtype))
        )
    return task


def class_last(input: Tensor, target: Tensor, kind: Task) -> tuple[Tensor, Tensor, Task]:
    """Dense logits and labels of a resolved task as those of tokens, one per pixel; others as they are."""
    if kind != "dense":
        return input, target, kind
    return input.flatten(2).movedim(1, 2), target.flatten(1), "tokens"


def masked(target: Tensor, kind: Task, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """Multilabel targets with 0 where a label is missing, NaN or ``ignore_index``, and where it is not; others with None."""
    if kind != "multilabel":
        return target, None
    missing = target == ignore_index
    if target.dtype.is_floating_point:
        missing = missing | target.isnan()
    return target.masked_fill(missing, 0), ~missing


def _task_of(input: torch.Size, target: torch.Size, dtype: torch.dtype) -> Task:
    """The one task that the shapes fit; an error where they fit two or none."""
    soft = dtype.is_floating_point
    if len(input) == 1 or (len(input) == 2 and input[1] == 1):
        return "binary"
    if len(input) == 2 and len(target) == 1 and not soft:
        return "multiclass"
    if len(input) == 2 and target == input:
        cure = (
            "say which: task='multiclass' (floats are class probabilities, as CutMix and mixup make them) or "
            "task='multilabel' (each label is binary)"
        )
        raise ValueError(
            expected("target", "a target of one reading", f"{_given(input, target, dtype)}: two readings", cure)
        )
    tokens = len(input) == 3 and target == input[:2] and not soft
    dense = len(input) >= 3 and target == (input[0], *input[2:]) and not soft
    if tokens and dense:
        cure = "say which: task='dense' (N, C, T), torch's layout, or task='tokens' (N, T, V), class last"
        raise ValueError(
            expected("target", "logits of one reading", f"{_given(input, target, dtype)}: two readings", cure)
        )
    if tokens or dense:
        return "tokens" if tokens else "dense"
    raise ValueError(
        expected("target", "shapes that fit a task", _given(input, target, dtype), _cure(input, target, dtype))
    )


def _cure(input: torch.Size, target: torch.Size, dtype: torch.dtype) -> str:
    if len(input) == 2 and target == (input[0], 1):
        return "target.squeeze(-1).long() has one class per sample"
    if len(input) == 2 and target == input[:1] and dtype.is_floating_point:
        return "target.long() has classes"
    if len(input) >= 3 and target == (input[0], 1, *input[2:]):
        return "target.squeeze(1).long() has one class per pixel"
    if len(input) >= 3:
        classes = f"the classes are on axis 1 (task='dense', target {(input[0], *input[2:])})"
        return f"{classes} or, of three axes, on the last one (task='tokens', target {tuple(input[:2])})"
    return "see the table in fairloss.losses.tasks, or pass task="


def _given(input: torch.Size, target: torch.Size, dtype: torch.dtype) -> str:
    return f"input {tuple(input)} and target {tuple(target)} ({dtype})"


def check_fractions(target: Tensor, *, hard: bool = False) -> None:
    """Raise unless float labels or probabilities lie in [0, 1], ``hard`` ones at 0 or 1.

    Shown in eager mode on CPU, asserted on the device elsewhere.
    """
    if target.dtype == torch.bool:
        return
    whole = hard and target.dtype.is_floating_point  # of integers the bounds alone leave 0 and 1
    wanted, cure = ("labels 0 or 1", "task='binary' takes fractions") if hard else ("labels in [0, 1]", "")
    if whole:
        all_inside("target", target, (target == 0) | (target == 1), wanted, cure)
    else:
        between("target", target, 0, 1, wanted, cure)


def check_range(input: Tensor, target: Tensor, kind: Task, *, auto: bool) -> None:
    """Raise unless the labels of a resolved task lie in its range; nothing is ignored.

    Shown in eager mode on CPU, asserted on the device elsewhere.
    """
    if kind != "multiclass" or target.dtype.is_floating_point:
        check_fractions(target, hard=kind == "binary" and (auto or not target.dtype.is_floating_point))
        return
    classes = input.shape[-1]
    between("target", target, 0, classes - 1, f"classes 0 .. {classes - 1}")
