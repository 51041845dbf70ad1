"""Kinds of task: which one a pair of (input, target) is, and whether shapes, dtypes and labels fit it.

| task         | input              | target                                     | likelihood                               |
|--------------|--------------------|--------------------------------------------|------------------------------------------|
| binary       | (N,) or (N, 1)     | (N,) or (N, 1), 0/1 or in [0, 1]           | t p + (1 - t)(1 - p), p = sigmoid        |
| multiclass   | (N, C)             | (N,) integers, or (N, C) probabilities     | softmax_t, or sum_c t_c softmax_c        |
| multilabel   | (N, C)             | (N, C), 0/1 or in [0, 1]                   | mean over labels of the binary one       |
| tokens       | (N, T, V)          | (N, T) integers                            | exp(-mean token nll), or of their sum    |

The likelihoods are in :mod:`fairloss.losses.likelihood`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.tensor_checks import all_inside, between, floating, real, same_device

__all__ = ["TASKS", "Task", "check_fractions", "check_range", "check_task", "resolve_task"]

Task = Literal["auto", "binary", "multiclass", "multilabel", "tokens"]
TASKS = ("auto", "binary", "multiclass", "multilabel", "tokens")


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
    else:
        fits = input.ndim == 3 and target.shape == input.shape[:2] and not soft
        wanted = "input (N, T, V), class last, and target (N, T) of integers"
    if not fits:
        raise ValueError(
            expected("target", f"{wanted} for task {task!r}", _given(input.shape, target.shape, target.dtype))
        )
    return task


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
    if len(input) == 3 and target == input[:2] and not soft:
        return "tokens"
    cure = "see the table in fairloss.losses.tasks, or pass task="
    raise ValueError(expected("target", "shapes that fit a task", _given(input, target, dtype), cure))


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
