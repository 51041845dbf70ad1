"""Modules whose state is plain tensors: out of reach of DDP's buffer broadcast, and saved as one packed tensor.

A registered buffer inside a DDP-wrapped model is overwritten by rank 0 before every forward, and ``.half()`` would round
it. State kept here follows the module's device but never its dtype, and ``state_dict`` round trips bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairloss.core.checks import expected

__all__ = ["ConstantsModule", "StatefulModule"]

_HEADER_DTYPE = torch.int64

# What saved states call a dtype is its place in this list: add at its end alone.
_DTYPES = [torch.uint8, torch.int64, torch.float32, torch.float64]
_DTYPES += [torch.bool, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16]

_Layout = list[tuple[torch.dtype, tuple[int, ...]]]
"""Dtype and shape of each tensor."""


class ConstantsModule(nn.Module):
    """An ``nn.Module`` with constant tensors: derived from its arguments, on its device, in their own dtype, not saved."""

    _followers: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self._followers = ()

    def register_constant(self, name: str, tensor: Tensor | None) -> None:
        """Keep ``tensor`` as the attribute ``name``; it moves with the module and is never cast."""
        setattr(self, name, tensor)
        if tensor is not None:
            self._followers = (*self._followers, name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConstantsModule:
        super()._apply(fn, recurse)
        for name in self._followers:
            tensor = getattr(self, name)
            # The device is read off a probe, so that a cast of the module leaves the dtype alone.
            device = fn(torch.empty(0, device=tensor.device)).device
            wide_on_mps = device.type == "mps" and tensor.dtype == torch.float64  # which has no float64
            setattr(self, name, tensor.to(device, torch.float32 if wide_on_mps else tensor.dtype))
        return self


class StatefulModule(ConstantsModule):
    """A module with state tensors declared by :meth:`register_state`.

    The tensors are ordinary attributes; update them in place. ``state_dict`` holds them under ``_extra_state`` as one
    uint8 tensor (safetensors accepts no dicts), preceded by their dtypes and shapes, which loading compares.
    """

    _state_names: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self._state_names = ()
        self._growing: tuple[str, ...] = ()

    def register_state(self, name: str, tensor: Tensor, *, growing: bool = False) -> None:
        """Declare ``tensor`` as the state called ``name``; a ``growing`` one takes any shape of its rank when loaded."""
        self.register_constant(name, tensor)
        self._state_names = (*self._state_names, name)
        if growing:
            self._growing = (*self._growing, name)

    def _states(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._state_names]

    def _layout(self) -> _Layout:
        return [(t.dtype, tuple(t.shape)) for t in self._states()]

    def get_extra_state(self) -> Tensor:
        """All state as one uint8 tensor."""
        device = self._states()[0].device
        header = torch.tensor(_as_header(self._layout()), dtype=_HEADER_DTYPE, device=device)
        return torch.cat([t.detach().contiguous().reshape(-1).view(torch.uint8) for t in [header, *self._states()]])

    def set_extra_state(self, state: Any) -> None:
        """Copy packed state into place.

        Raises:
            ValueError: the state was saved by a module of other sizes or dtypes; nothing is changed then.
        """
        name = type(self).__name__
        if not isinstance(state, Tensor) or state.dtype != torch.uint8:
            raise ValueError(expected("state_dict", f"one packed uint8 tensor for {name}", type(state).__name__))
        state = state.reshape(-1)
        layout = _read_header(state)
        difference = self._difference(layout, state.numel())
        if difference is not None:
            cure = f"make {name} with the arguments that it was saved with"
            raise ValueError(expected("state_dict", f"the layout of this {name}", difference, cure))
        for own, (_, shape) in zip(self._state_names, layout, strict=True):
            if own in self._growing:
                setattr(self, own, getattr(self, own).new_empty(shape))
        sizes = [t.numel() * t.element_size() for t in self._states()]
        for tensor, piece in zip(self._states(), state[state.numel() - sum(sizes) :].split(sizes), strict=True):
            # Cloned: a slice need not start at a multiple of the element size, which view() requires.
            tensor.copy_(piece.clone().view(tensor.dtype).reshape(tensor.shape))

    def _difference(self, layout: _Layout, size: int) -> str | None:
        """Why a packed state of that layout and that many bytes is not one of ours, None where it is."""
        if len(layout) != len(self._state_names):
            return f"not {len(self._state_names)} tensors"
        for name, theirs, ours in zip(self._state_names, layout, self._layout(), strict=True):
            fits = theirs[1] == ours[1] or (name in self._growing and len(theirs[1]) == len(ours[1]))
            if theirs[0] != ours[0] or not fits:
                return f"{name} as {theirs[0]} of shape {theirs[1]} in place of {ours[0]} of shape {ours[1]}"
        needed = len(_as_header(layout)) * _HEADER_DTYPE.itemsize
        needed += sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout)
        return None if size == needed else f"{size} bytes in place of {needed}"


def _as_header(layout: _Layout) -> list[int]:
    """Number of tensors, then dtype, rank and sizes of each: what precedes the packed bytes."""
    return [len(layout), *(v for dtype, shape in layout for v in [_DTYPES.index(dtype), len(shape), *shape])]


def _read_header(state: Tensor) -> _Layout:
    """The layout that precedes packed bytes; empty where they start with none."""
    size = _HEADER_DTYPE.itemsize
    numbers = state[: min(state.numel() // size, 64) * size].cpu().clone().view(_HEADER_DTYPE).tolist()
    layout: _Layout = []
    position = 1
    while numbers and len(layout) < numbers[0]:
        code, rank = [*numbers[position : position + 2], -1, -1][:2]
        shape = tuple(numbers[position + 2 : position + 2 + rank])
        if not 0 <= code < len(_DTYPES) or len(shape) != rank or min(shape, default=0) < 0:
            return []
        layout.append((_DTYPES[code], shape))
        position += 2 + rank
    return layout
