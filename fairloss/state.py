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

__all__ = ["ConstantsModule", "StatefulModule"]

_HEADER_DTYPE = torch.int64


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
    uint8 tensor (safetensors accepts no dicts), preceded by their shapes, which loading compares.
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

    def _header(self) -> list[int]:
        """Number of tensors, then rank and sizes of each: the layout of the packed bytes."""
        shapes = [list(t.shape) for t in self._states()]
        return [len(shapes), *(v for shape in shapes for v in [len(shape), *shape])]

    def get_extra_state(self) -> Tensor:
        """All state as one uint8 tensor."""
        device = self._states()[0].device
        header = torch.tensor(self._header(), dtype=_HEADER_DTYPE, device=device)
        return torch.cat([t.detach().contiguous().reshape(-1).view(torch.uint8) for t in [header, *self._states()]])

    def set_extra_state(self, state: Any) -> None:
        """Copy packed state into place.

        Raises:
            ValueError: the state was saved by a module of another size; nothing is changed then.
        """
        if self._growing:
            self._resize(state)
        header = torch.tensor(self._header(), dtype=_HEADER_DTYPE).view(torch.uint8)
        sizes = [t.numel() * t.element_size() for t in self._states()]
        name = type(self).__name__
        if not isinstance(state, Tensor) or state.dtype != torch.uint8:
            raise ValueError(f"state_dict: {name} needs one packed uint8 tensor, {type(state).__name__} was given")
        if state.numel() != header.numel() + sum(sizes) or not torch.equal(state[: header.numel()].cpu(), header):
            raise ValueError(f"state_dict: the saved state of {name} has another layout; were its sizes changed?")
        for tensor, piece in zip(self._states(), state[header.numel() :].split(sizes), strict=True):
            # Cloned: a slice need not start at a multiple of the element size, which view() requires.
            tensor.copy_(piece.clone().view(tensor.dtype).reshape(tensor.shape))

    def _resize(self, state: Any) -> None:
        """Give the growing tensors the shapes that the packed ``state`` names, if nothing else differs from ours."""
        ours = self._header()
        length = len(ours) * torch.empty(0, dtype=_HEADER_DTYPE).element_size()
        if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.numel() < length:
            return
        theirs = state[:length].cpu().clone().view(_HEADER_DTYPE).tolist()
        shapes, position = {}, 1
        for name in self._state_names:
            rank = getattr(self, name).ndim
            shapes[name] = theirs[position + 1 : position + 1 + rank]
            if theirs[position] != rank or (
                name not in self._growing and shapes[name] != list(getattr(self, name).shape)
            ):
                return
            position += 1 + rank
        sizes = {name: getattr(self, name).element_size() * math.prod(shape) for name, shape in shapes.items()}
        if state.numel() == length + sum(sizes.values()):
            for name in self._growing:
                setattr(self, name, getattr(self, name).new_empty(shapes[name]))
