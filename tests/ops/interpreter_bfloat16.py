"""bfloat16 in Triton's interpreter as on a GPU; imported for its effect.

By itself the interpreter multiplies that dtype's bits, and cuts off where hardware rounds to the nearest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_builder = interpreter.InterpreterBuilder
_create_dot, _cast = _builder.create_dot, _builder.cast_impl


def _widened(tile: Any) -> Any:
    if tile.dtype.scalar != tl.bfloat16:
        return tile
    return interpreter.TensorHandle((tile.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def create_dot(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
    """Products of bfloat16 are exact in float32."""
    return _create_dot(builder, _widened(a), _widened(b), *rest)


def cast(builder: Any, source: Any, target: Any) -> Any:
    """float32 to the nearest bfloat16."""
    if source.dtype.scalar != tl.float32 or target.scalar != tl.bfloat16:
        return _cast(builder, source, target)
    rounded = torch.from_numpy(np.ascontiguousarray(source.data)).to(torch.bfloat16)
    return interpreter.TensorHandle(rounded.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)


_builder.create_dot = create_dot
_builder.cast_impl = _builder.create_fp_trunc = cast
