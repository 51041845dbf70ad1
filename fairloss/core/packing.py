"""Tensors as one uint8 tensor that says their dtypes and shapes: safetensors accepts tensors alone, no dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairloss.core.checks import expected

__all__ = ["pack", "unpack"]

_HEADER_DTYPE = torch.int64

# What packed tensors call a dtype is its place in this list: add at its end alone.
_DTYPES = [torch.uint8, torch.int64, torch.float32, torch.float64]
_DTYPES += [torch.bool, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16]

_Layout = list[tuple[torch.dtype, tuple[int, ...]]]
"""Dtype and shape of each tensor."""


def _layout(tensors: Sequence[Tensor]) -> _Layout:
    return [(t.dtype, tuple(t.shape)) for t in tensors]


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors' bytes, (n,) uint8, preceded by their dtypes and shapes."""
    header = torch.tensor(_as_header(_layout(tensors)), dtype=_HEADER_DTYPE, device=tensors[0].device)
    return torch.cat([t.detach().contiguous().reshape(-1).view(torch.uint8) for t in [header, *tensors]])


def unpack(packed: Any, like: Mapping[str, Tensor], growing: Sequence[str], owner: str) -> dict[str, Tensor]:
    """The tensors that :func:`pack` made of ones like ``like``; those named in ``growing`` take any shape of their rank.

    Raises:
        ValueError: these are other tensors; ``owner`` names the module that they were to be loaded into.
    """
    if not isinstance(packed, Tensor) or packed.dtype != torch.uint8:
        raise ValueError(expected("state_dict", f"one packed uint8 tensor for {owner}", type(packed).__name__))
    packed = packed.reshape(-1)
    layout = _read_header(packed)
    difference = _difference(layout, packed.numel(), like, growing)
    if difference is not None:
        cure = f"make {owner} with the arguments that it was saved with"
        raise ValueError(expected("state_dict", f"the layout of this {owner}", difference, cure))
    sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in layout]
    pieces = packed[packed.numel() - sum(sizes) :].split(sizes)
    # Cloned: a slice need not start at a multiple of the element size, which view() requires.
    tensors = [p.clone().view(dtype).reshape(shape) for p, (dtype, shape) in zip(pieces, layout, strict=True)]
    return dict(zip(like, tensors, strict=True))


def _difference(layout: _Layout, size: int, like: Mapping[str, Tensor], growing: Sequence[str]) -> str | None:
    """Why packed tensors of that layout and that many bytes are not like ours, None where they are."""
    if len(layout) != len(like):
        return f"not {len(like)} tensors"
    for (name, tensor), theirs in zip(like.items(), layout, strict=True):
        shape = tuple(tensor.shape)
        fits = theirs[1] == shape or (name in growing and len(theirs[1]) == len(shape))
        if theirs[0] != tensor.dtype or not fits:
            return f"{name} as {theirs[0]} of shape {theirs[1]} in place of {tensor.dtype} of shape {shape}"
    needed = len(_as_header(layout)) * _HEADER_DTYPE.itemsize
    needed += sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout)
    return None if size == needed else f"{size} bytes in place of {needed}"


def _as_header(layout: _Layout) -> list[int]:
    """Number of tensors, then dtype, rank and sizes of each: what precedes the packed bytes."""
    return [len(layout), *(v for dtype, shape in layout for v in [_DTYPES.index(dtype), len(shape), *shape])]


def _read_header(packed: Tensor) -> _Layout:
    """The layout that precedes packed bytes; empty where they start with none."""
    size = _HEADER_DTYPE.itemsize
    # GroupMemory's eight tensors take forty numbers; a header that does not fit is refused as no header.
    numbers = packed[: min(packed.numel() // size, 256) * size].cpu().clone().view(_HEADER_DTYPE).tolist()
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
