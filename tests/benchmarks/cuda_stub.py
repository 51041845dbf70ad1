"""A CUDA device that is none: "cuda" becomes the CPU, so that what is written for a GPU can be rehearsed without one.

Installed by ``sitecustomize`` in every process of a rehearsal; importing it changes nothing. Kernels run in Triton's
interpreter (TRITON_INTERPRET=1), graphs replay nothing, times are the host's. ``FAIRLOSS_GPU_PLANT`` plants a defect in a
kernel: "wrong:OP" leaves half of its output unwritten, "fail:OP" raises, "die:OP" ends the process, "hang:OP" sleeps.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import time
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def on_host(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device("cpu") if x.type == "cuda" else x
    return "cpu" if isinstance(x, str) and x.startswith("cuda") else x


class OnHost(TorchFunctionMode):
    """Every "cuda" among the arguments of a torch function is the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        return func(*[on_host(a) for a in args], **{k: on_host(v) for k, v in (kwargs or {}).items()})


class Event:
    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self, *_: Any) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) * 1e3


class Anything:
    """Streams and graphs: whatever is asked of them, they do nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@contextlib.contextmanager
def fork_rng(*_: Any, **__: Any) -> Any:
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


sync_debug_mode = {"mode": 0}


def set_sync_debug_mode(mode: Any) -> None:
    """As torch's: the first call warns."""
    import warnings

    sync_debug_mode["mode"] = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)
    warnings.warn(
        "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations",
        stacklevel=2,
    )


def install() -> None:
    """Replace what of torch asks for a device, in this process, for good."""
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "_lazy_init"):
        setattr(torch.cuda, name, lambda *_: None)
    for name in ("memory_allocated", "max_memory_allocated"):
        setattr(torch.cuda, name, lambda *_: 0)
    torch.cuda.is_available = lambda: True
    torch.cuda.get_device_properties = lambda *_: SimpleNamespace(name="no device", major=9, minor=0)
    torch.cuda.Event = Event
    torch.cuda.Stream = torch.cuda.CUDAGraph = torch.cuda.current_stream = Anything
    torch.cuda.stream = torch.cuda.graph = lambda *_, **__: contextlib.nullcontext()
    torch.cuda.set_sync_debug_mode = set_sync_debug_mode
    torch.cuda.get_sync_debug_mode = lambda: sync_debug_mode["mode"]
    torch.profiler.profile = lambda *_, **__: contextlib.nullcontext(SimpleNamespace(events=list))
    torch.compile = lambda function=None, **_: function
    torch.random.fork_rng = fork_rng
    torch.nn.Module.cuda = lambda module, *_: module
    OnHost().__enter__()
    if importlib.util.find_spec("triton"):
        importlib.import_module("tests.ops.interpreter_bfloat16")
    kind, _, op = os.environ.get("FAIRLOSS_GPU_PLANT", "").partition(":")
    if kind:
        plant(kind, op)


def plant(kind: str, op: str) -> None:
    device_code = importlib.import_module(f"fairloss.ops.{op}_triton")
    name = "totals" if op == "segments" else "forward"
    honest = getattr(device_code, name)

    def forward(*args: Any, **options: Any) -> Any:
        if kind == "fail":
            raise RuntimeError("planted")
        if kind == "die":
            os._exit(3)
        if kind == "hang":
            time.sleep(3600)
        result = honest(*args, **options)
        first, *rest = [args[3]] if result is None else result  # contrastive losses are written in place
        unwritten = torch.empty_like(first)
        half = max(1, len(first) // 2)  # a single row may be one that no loss reads
        unwritten[:half] = first[:half]
        if result is None:
            first.copy_(unwritten)
            return None
        return (unwritten, *rest)

    setattr(device_code, name, forward)
