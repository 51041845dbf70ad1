"""Every value check on demand: what the training path leaves out because it would wait for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairloss.groups.ids import check_num_groups
from fairloss.losses.tasks import Task, check_task, resolve_task

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
        ValueError: groups: id 5 at position (1,) is out of range; accepted are 0 .. 2, and -1 for unknown
    """
    for name, tensor in (("input", input), ("values", values)):
        if tensor is not None:
            if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
                raise TypeError(f"{name}: a floating-point tensor is needed")
            if tensor.ndim == 0 or (name == "values" and tensor.ndim > 1):
                wanted = "(N,), one value a sample," if name == "values" else "(N,) or (N, ...)"
                raise ValueError(f"{name}: shape {wanted} is needed, {tuple(tensor.shape)} was given")
            _refuse(name, tensor, ~torch.isfinite(tensor), "is not finite")
    if target is not None:
        if input is None:
            raise ValueError("target: its range depends on input, which was not given")
        masks = task == "auto" and input.ndim > 3
        kind = "masks" if masks else resolve_task(input, target, check_task(task))
        if kind == "masks":
            _check_masks(input, target)
        elif kind in ("multiclass", "tokens") and not target.dtype.is_floating_point:
            classes = input.shape[-1]
            bad = ((target < 0) | (target >= classes)) & (target != ignore_index)
            _refuse("target", target, bad, f"is out of range; accepted are 0 .. {classes - 1}, and {ignore_index}")
        elif kind == "binary" and task == "auto":
            _refuse("target", target, (target != 0) & (target != 1), "is neither 0 nor 1")
        else:
            _refuse("target", target, ~((target >= 0) & (target <= 1)), "is outside [0, 1]")
    if groups is not None:
        if num_groups is None:
            raise ValueError("num_groups: it is needed to check groups, None was given")
        _check_ids(groups, check_num_groups(num_groups))
    lengths = {
        name: tensor.shape[0]
        for name, tensor in (("input", input), ("target", target), ("groups", groups), ("values", values))
        if tensor is not None
    }
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{', '.join(lengths)}: batch sizes differ: {lengths}")


def _check_masks(input: Tensor, target: Tensor) -> None:
    if not isinstance(target, Tensor) or target.dtype.is_complex:
        raise TypeError("target: a tensor of class ids or fractions is needed")
    n, classes, pixels = input.shape[0], input.shape[1], input.shape[2:]
    if target.shape == input.shape:
        _refuse("target", target, ~((target >= 0) & (target <= 1)), "is outside [0, 1]")
    elif target.shape in ((n, *pixels), (n, 1, *pixels)) and not target.dtype.is_floating_point:
        bad = (target < 0) | (target >= classes)
        _refuse("target", target, bad, f"is out of range; accepted are 0 .. {classes - 1}")
    else:
        raise ValueError(
            f"target: class ids (N, *spatial), or fractions of the logits' shape, are needed for input {tuple(input.shape)}; "
            f"{tuple(target.shape)} ({target.dtype}) was given"
        )


def _check_ids(groups: Tensor, sizes: tuple[int, ...]) -> None:
    if not isinstance(groups, Tensor) or groups.dtype.is_floating_point or groups.dtype.is_complex:
        raise TypeError("groups: a tensor of integer or bool ids is needed")
    columns = groups if groups.ndim == 2 else groups.unsqueeze(-1)
    if groups.ndim not in (1, 2) or columns.shape[1] != len(sizes):
        raise ValueError(f"groups: shape {tuple(groups.shape)} does not fit num_groups={sizes}")
    for column, size in enumerate(sizes):
        ids = columns[:, column].to(torch.int64)
        name = "groups" if len(sizes) == 1 else f"groups[:, {column}]"
        _refuse(
            name,
            ids,
            (ids < -1) | (ids >= size),
            f"is out of range; accepted are 0 .. {size - 1}, and -1 for unknown",
            "id ",
        )


def _refuse(name: str, tensor: Tensor, bad: Tensor, what: str, kind: str = "") -> None:
    if bool(bad.any()):
        position = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(f"{name}: {kind}{tensor[position].item()} at position {position} {what}")
