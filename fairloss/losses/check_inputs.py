"""Every value check on demand: what the training path leaves out because it would wait for the device."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from fairloss.core.checks import expected
from fairloss.core.tensor_checks import floating, tensor, whole
from fairloss.groups.ids import check_num_groups
from fairloss.losses.tasks import Task, check_task, masked, resolve_task

__all__ = ["check_inputs"]


def check_inputs(
    input: Tensor | None = None,
    target: Tensor | None = None,
    groups: Tensor | None = None,
    *,
    num_groups: int | Sequence[int] | None = None,
    values: Tensor | None = None,
    task: Task = "auto",
    ignore_index: int = -100,
) -> None:
    """Check the values of a batch, on any device, and say what is wrong with them.

    Shapes and dtypes are checked by every loss on every call. Values are checked there on the CPU and asynchronously
    elsewhere, where a bad id stops the device without saying which; and NaN in logits is nobody's error but shows up late.
    Call this on a batch that misbehaves, or on the first batch of a run.

    Args:
        input: logits, checked for NaN and infinity.
        target: labels, checked for their range; needs ``input``. Logits of four dimensions and more, (N, C, H, W), have
            masks: class ids, (N, H, W), or fractions of the logits' shape.
        groups: ids, checked for their range; needs ``num_groups``.
        num_groups: number of groups; a tuple for several attributes.
        values: (N,) per-sample values, checked for NaN and infinity.
        task: as the loss's.
        ignore_index: as the loss's.

    Raises:
        TypeError, ValueError: naming the argument, the first bad value and its position.

    Example:
        >>> check_inputs(groups=torch.tensor([0, 5]), num_groups=3)
        Traceback (most recent call last):
        ValueError: groups: expected ids 0 .. 2, and -1 for unknown, got 5 at position (1,)
    """
    for name, x in (("input", input), ("values", values)):
        if x is not None:
            floating(name, x)
            if x.ndim == 0 or (name == "values" and x.ndim > 1):
                wanted = "shape (N,), one value per sample" if name == "values" else "shape (N,) or (N, ...)"
                raise ValueError(expected(name, wanted, tuple(x.shape)))
            _refuse(name, x, ~torch.isfinite(x), "finite values")
    if target is not None:
        if input is None:
            raise ValueError(expected("input", "the logits, on which the target's range depends", None))
        if task == "auto" and input.ndim > 3:
            _check_masks(input, target, ignore_index)
        else:
            _check_labels(input, target, task, ignore_index)
    if groups is not None:
        if num_groups is None:
            raise ValueError(expected("num_groups", "the number of groups, to check the ids", None))
        _check_ids(groups, check_num_groups(num_groups))
    given = {"input": input, "target": target, "groups": groups, "values": values}
    lengths = {name: x.shape[0] for name, x in given.items() if x is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(expected(", ".join(lengths), "one batch size", lengths))


def _check_labels(input: Tensor, target: Tensor, task: Task, ignore_index: int) -> None:
    kind = resolve_task(input, target, check_task(task))
    target = masked(target, kind, ignore_index)[0]
    if kind in ("multiclass", "tokens", "dense") and not target.dtype.is_floating_point:
        classes = input.shape[1 if kind == "dense" else -1]
        bad = ((target < 0) | (target >= classes)) & (target != ignore_index)
        _refuse("target", target, bad, f"classes 0 .. {classes - 1}, and {ignore_index} to ignore")
    elif kind == "binary" and task == "auto":
        _refuse("target", target, (target != 0) & (target != 1), "labels 0 or 1")
    else:
        _refuse("target", target, ~((target >= 0) & (target <= 1)), "labels in [0, 1]")


def _check_masks(input: Tensor, target: Tensor, ignore_index: int) -> None:
    if tensor("target", target, "a tensor of class ids or fractions").dtype.is_complex:
        raise TypeError(expected("target", "a tensor of class ids or fractions", target.dtype))
    n, classes, pixels = input.shape[0], input.shape[1], input.shape[2:]
    if target.shape == input.shape:
        _refuse("target", target, ~((target >= 0) & (target <= 1)), "fractions in [0, 1]")
    elif target.shape in ((n, *pixels), (n, 1, *pixels)) and not target.dtype.is_floating_point:
        bad = ((target < 0) | (target >= classes)) & (target != ignore_index)
        _refuse("target", target, bad, f"classes 0 .. {classes - 1}, and {ignore_index} to ignore")
    else:
        wanted = f"class ids (N, *spatial), or fractions of the logits' shape, for input {tuple(input.shape)}"
        raise ValueError(expected("target", wanted, f"{tuple(target.shape)} ({target.dtype})"))


def _check_ids(groups: Tensor, sizes: tuple[int, ...]) -> None:
    whole("groups", groups, "group ids")
    columns = groups if groups.ndim == 2 else groups.unsqueeze(-1)
    if groups.ndim not in (1, 2) or columns.shape[1] != len(sizes):
        raise ValueError(expected("groups", f"a shape that fits num_groups={sizes}", tuple(groups.shape)))
    for column, size in enumerate(sizes):
        ids = columns[:, column].to(torch.int64)
        name = "groups" if len(sizes) == 1 else f"groups[:, {column}]"
        _refuse(name, ids, (ids < -1) | (ids >= size), f"ids 0 .. {size - 1}, and -1 for unknown")
    # A small batch of real attributes often looks like this.
    if len(sizes) > 1 and set(sizes) == {2} and len(columns) >= 100 and bool((columns.sum(1) == 1).all()):
        warnings.warn(
            "groups: every row has one 1, as one-hot rows have; argmax(1) makes ids of those, with num_groups="
            f"{len(sizes)}",
            stacklevel=3,
        )


def _refuse(name: str, x: Tensor, bad: Tensor, wanted: str) -> None:
    if bool(bad.any()):
        position = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(expected(name, wanted, f"{x[position].item()} at position {position}"))
