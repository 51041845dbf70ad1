"""Checks of tensors: kind, shape, device and, without waiting for a device, the range of the values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairloss.core.checks import expected

__all__ = [
    "all_inside",
    "between",
    "floating",
    "on_host",
    "per_sample",
    "real",
    "same_device",
    "shaped",
    "tensor",
    "unwrapped",
    "whole",
]


def on_host(x: Tensor) -> bool:
    """Whether looking at the values of ``x`` waits for no device and is no part of a compiled graph or a ``vmap``."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return False
        x = torch._C._functorch.get_unwrapped(x)
    return True


def unwrapped(x: Tensor) -> Tensor:
    """``x`` without the wrappers of ``torch.func``, all of a ``vmap`` at once: its values can be looked at."""
    while not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def tensor(name: str, x: Any, what: str) -> Tensor:
    """``x`` if it is a tensor; ``what`` says which kind in the error."""
    if not isinstance(x, Tensor):
        raise TypeError(expected(name, what, _kind(x)))
    return x


def _kind(x: Any) -> object:
    """What an error shows of an argument of a wrong kind."""
    return x.dtype if isinstance(x, Tensor) else type(x).__name__


def floating(name: str, x: Any, shape: str = "", ndim: int | None = None) -> Tensor:
    """``x`` if it is a floating-point tensor of ``ndim`` axes (``shape`` says which: "(N,)"); any number if None."""
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        raise TypeError(expected(name, f"a floating-point tensor{shape and f' of shape {shape}'}", _kind(x)))
    if ndim is not None and x.ndim != ndim:
        raise ValueError(expected(name, f"shape {shape}", tuple(x.shape)))
    return x


def per_sample(name: str, x: Any) -> Tensor:
    """``x`` if it is a floating-point tensor of one value per sample: a loss, an accuracy, a Dice score."""
    return floating(name, x, "(N,)", 1)


def whole(name: str, x: Any, what: str, cure: str = "") -> Tensor:
    """``x`` if it is an integer or bool tensor; ``what`` names its values in the error: "group ids"."""
    if not isinstance(x, Tensor) or x.dtype.is_floating_point or x.dtype.is_complex:
        raise TypeError(
            expected(name, f"an integer or bool tensor of {what}", _kind(x), cure if isinstance(x, Tensor) else "")
        )
    return x


def real(name: str, x: Any, what: str = "a tensor of real numbers") -> Tensor:
    """``x`` if it is a tensor of bools, integers or floating-point numbers; ``what`` says which in the error."""
    if not isinstance(x, Tensor) or x.dtype.is_complex:
        raise TypeError(expected(name, what, _kind(x)))
    return x


def shaped(name: str, x: Tensor, *shapes: tuple[int, ...], cure: str = "") -> Tensor:
    """``x`` if it has one of the ``shapes``."""
    if x.shape not in shapes:
        wanted = " or ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(expected(name, f"shape {wanted}", tuple(x.shape), cure))
    return x


def same_device(
    name: str, x: Tensor, other_name: str, other: Tensor | torch.device, cure: str = "move one of them"
) -> None:
    """Raise unless ``x`` lies on the device of ``other``: torch would say so later, without naming the argument."""
    device = other.device if isinstance(other, Tensor) else other
    if x.device != device:
        raise ValueError(expected(name, f"the device of {other_name}, {device}", x.device, cure))


def all_inside(name: str, x: Tensor, inside: Tensor, wanted: str, cure: str = "") -> None:
    """Raise unless ``inside``, a mask of the shape of ``x``, holds everywhere.

    On the host in eager mode the error shows the first value that is not; elsewhere the check is asynchronous
    (``torch._assert_async``), so that nothing waits for the device and a compiled graph stays whole.
    """
    x, inside = unwrapped(x), unwrapped(inside)
    if on_host(x):
        if not bool(inside.all()):
            first = x[~inside][0].item()
            raise ValueError(expected(name, wanted, f"{first:g}" if isinstance(first, float) else first, cure))
    else:
        torch._assert_async(inside.all(), f"{name}: expected {wanted}")


def between(name: str, x: Tensor, low: float, high: float, wanted: str, cure: str = "") -> None:
    """Raise unless ``low`` <= x <= ``high`` everywhere (NaN fails), as :func:`all_inside` does.

    On the host one pass finds both ends; the mask is made where one of them is out.
    """
    x = unwrapped(x)
    if on_host(x) and x.numel():
        lowest, highest = (bound.item() for bound in torch.aminmax(x))
        if lowest >= low and highest <= high:
            return
    all_inside(name, x, x.clamp(low, high) == x, wanted, cure)
