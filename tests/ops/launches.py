"""What a step would launch on a GPU, counted on meta tensors: operations that are no views, opaque ops opened, kernels once.

Meta tensors take every branch that is not the CPU's and hold no data, so that the sizes of a real model cost nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairloss.ops import contrastive, dice_sums, dispatch, nll, segments

OPAQUE = {
    definition._opoverload: definition._init_fn
    for module in (contrastive, dice_sums, nll, segments)
    for definition in vars(module).values()
    if isinstance(definition, torch._library.custom_ops.CustomOpDef)
}
# Memory alone, or an alias.
FREE = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "alias", "_unsafe_view")


class Launches(TorchDispatchMode):
    """``count`` by name, of everything that runs while the mode is on."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in OPAQUE:
            with self:
                return OPAQUE[func](*args, **(kwargs or {}))
        with self:
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        name = func._schema.name.split("::")[1]
        if not func.is_view and name not in FREE:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def kernels_counted(monkeypatch: Any) -> Iterator[Counter[str]]:
    """Inside, the Triton backend is on, and a kernel that would be launched is counted instead."""
    from fairloss.ops import contrastive_rows_triton, contrastive_triton, dice_sums_triton, nll_triton, segments_triton

    count: Counter[str] = Counter()

    class Counting:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            limits = (1 << 31, 1 << 16, 1 << 16)
            assert all(0 < size < limit for size, limit in zip(grid, limits, strict=False)), (self.name, grid)
            return lambda *args, **options: count.update([self.name])

    for module in (contrastive_rows_triton, contrastive_triton, dice_sums_triton, nll_triton, segments_triton):
        for name in [n for n in vars(module) if n.endswith("_kernel")]:
            monkeypatch.setattr(module, name, Counting(name))
    monkeypatch.setattr(dispatch, "_obstacle", lambda device: None)
    with dispatch.backend("triton"):
        yield count


def on_meta(module: torch.nn.Module) -> torch.nn.Module:
    """``module`` without values; by themselves its constants and its state stay where they have some."""
    module.to("meta")
    for part in module.modules():
        for name in getattr(part, "_followers", ()):
            setattr(part, name, getattr(part, name).to("meta"))
    return module


def no_autocast(*_: Any, **__: Any) -> Any:
    """In place of ``torch.autocast``, which knows no meta tensors."""
    return nullcontext()


def count_step(step: Callable[[], torch.Tensor]) -> Counter[str]:
    """Launches of a forward and backward pass."""
    with Launches() as launches, patch("torch.autocast", no_autocast):
        step().backward()
    return launches.count
