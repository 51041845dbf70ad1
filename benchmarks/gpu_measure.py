"""What every part of benchmarks/gpu.py does with a variant: check it on poisoned outputs, then time it, then write a row."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The profiler announces each of its starts unless told not to.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
START = time.perf_counter()  # the import of torch counts

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from fairloss import ops as kernels  # noqa: E402

SMALL = bool(os.environ.get("FAIRLOSS_GPU_SMALL"))
"""Sizes of a rehearsal on the CPU: to see that a part runs, not to measure."""
BUDGET_S = float(os.environ.get("FAIRLOSS_GPU_PART_S", "27"))
"""By then a part should be over; its time limit is a little more."""

Outputs = Sequence[Tensor]


@dataclass
class Variant:
    """One way to do the work.

    Attributes:
        step: the whole of it; returns what is compared.
        backend: of :mod:`fairloss.ops`.
        reference: what the outputs are compared with, float64, computed once per size; None for rivals.
        tolerance: of ||out - ref|| / ||ref||, for each output.
        repeatable: whether three runs have to give the same bits.
        graph: also time replays of a CUDA graph.
        seconds: what it takes at most; with less of the part's time left it does not start.
    """

    step: Callable[[], Outputs]
    backend: str = "eager"
    reference: Callable[[], Outputs] | None = None
    tolerance: float = 1e-4
    repeatable: bool = False
    graph: bool = False
    seconds: float = 4.0


@dataclass
class Work:
    """What any way of doing the work has to do, so that a time becomes a share of the card's ceilings."""

    op: str
    sizes: dict[str, Any]
    dtype: torch.dtype
    moved: int = 0
    flops: int = 0
    size: int = 0
    """As :func:`fairloss.ops.dispatch.use_triton` is asked."""


class Rows:
    """Appends a JSON line a row and flushes it: what was measured stays when a part dies."""

    def __init__(self, part: str, path: Path) -> None:
        self.part, self.path = part, path
        self.about = about_the_device()
        self.ceilings = {
            row["variant"]: row
            for row in read(path)
            if row["part"] == "ceilings" and row["device"] == self.about["device"]
        }

    def write(self, work: Work, variant: str, **found: Any) -> None:
        row = {"part": self.part, **dataclasses.asdict(work), "dtype": str(work.dtype).removeprefix("torch.")}
        row |= {"variant": variant, **found, **self.about}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in found.items()}
        size = " ".join(f"{k}={v}" for k, v in work.sizes.items())
        print(f"{work.op} {size} {row['dtype']} | {variant}: {shown}", flush=True)

    def measure(self, work: Work, variants: dict[str, Variant | str]) -> None:
        """Each variant checked, then timed; a text in place of a variant says why it is left out."""
        references: dict[Any, list[Tensor]] = {}
        for name, variant in variants.items():
            if isinstance(variant, str):
                self.write(work, name, left_out=variant)
            elif time.perf_counter() - START + variant.seconds > BUDGET_S:
                self.write(work, name, left_out="out of time")
            else:
                try:
                    with kernels.backend(variant.backend):
                        self.write(work, name, **self._figures(work, variant, references))
                except Exception as error:  # a variant that dies does not take the others with it
                    self.write(work, name, failed=f"{type(error).__name__}: {error}"[:500])
            torch.cuda.empty_cache()

    def _figures(self, work: Work, variant: Variant, references: dict[Any, list[Tensor]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if variant.reference is not None:
            if variant.reference not in references:
                with kernels.backend("eager"):
                    references[variant.reference] = [t.detach().double() for t in variant.reference()]
            found = check(variant, references[variant.reference])
            if "wrong" in found:
                return found  # a wrong answer has no time
        found |= milliseconds(variant.step)
        if variant.graph:
            try:
                found["graph_ms"] = graph_milliseconds(variant.step)
            except RuntimeError as error:
                found["graph_failed"] = str(error)[:200]
        found |= {"peak_bytes": peak_bytes(variant.step), "launches": len(device_kernels(variant.step))}
        best = found.get("graph_ms", found["ms"]) / 1e3
        copy = self.ceilings.get("copy", {}).get("bytes_per_s")
        if work.moved and copy:
            found["share_of_copy"] = work.moved / best / copy
        if work.flops:
            found["flops_per_s"] = work.flops / best
        return found


def about_the_device() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = None
    return {
        "device": properties.name, "arch": f"sm_{properties.major}{properties.minor}", "torch": torch.__version__,
        "triton": version, "date": datetime.date.today().isoformat(), "small": SMALL,
    }  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Inside, memory that an op asks for without contents holds NaN: what it forgets to write shows."""
    makers = [(torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")]
    before = [getattr(owner, name) for owner, name in makers]

    def filled(maker: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make(*args: Any, **options: Any) -> Tensor:
            out = maker(*args, **options)
            return out.fill_(torch.nan) if out.dtype.is_floating_point else out

        return make

    try:
        for (owner, name), maker in zip(makers, before, strict=True):
            setattr(owner, name, filled(maker))
        yield
    finally:
        for (owner, name), maker in zip(makers, before, strict=True):
            setattr(owner, name, maker)


def check(variant: Variant, references: list[Tensor]) -> dict[str, Any]:
    """Errors against the float64 reference, and whether three runs agree in every bit; ``wrong`` says what is not right."""
    with poisoned():
        outputs = [t.detach().clone() for t in variant.step()]
    errors = []
    for out, wanted in zip(outputs, references, strict=True):
        norm = wanted.norm().clamp(min=1e-30)
        errors.append(float((out.double() - wanted).norm() / norm))
    found: dict[str, Any] = {"errors": errors}
    if not all(error <= variant.tolerance for error in errors):  # NaN fails
        found["wrong"] = f"errors {errors} against float64; allowed {variant.tolerance}"
    again = [variant.step() for _ in range(2)]
    found["bits_equal"] = all(torch.equal(a, b) for run in again for a, b in zip(run, outputs, strict=True))
    if variant.repeatable and not found["bits_equal"]:
        found.setdefault("wrong", "three runs differ")
    return found


def milliseconds(step: Callable[[], Any], budget_s: float = 0.3) -> dict[str, float]:
    """Median and spread of single calls by device events; a call is first run warm.

    Every call starts with the L2 cache overwritten, so that small inputs are read from memory as in a training step.
    """
    flush = torch.empty(1 << (10 if SMALL else 27), dtype=torch.int8, device="cuda")
    for _ in range(2):
        step()
    torch.cuda.synchronize()
    times: list[float] = []
    begin = time.perf_counter()
    least, most = (1, 1) if SMALL else (5, 100)
    while len(times) < least or (time.perf_counter() - begin < budget_s and len(times) < most):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        step()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    times.sort()
    low, mid, high = (times[int(q * (len(times) - 1))] for q in (0.1, 0.5, 0.9))
    return {"ms": mid, "ms_p10": low, "ms_p90": high, "calls": len(times)}


def graph_milliseconds(step: Callable[[], Any]) -> float:
    """Median of replays of a CUDA graph: what the device takes when the host is no bottleneck."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return milliseconds(graph.replay)["ms"]


def peak_bytes(step: Callable[[], Any]) -> int:
    """Most bytes allocated at once by a call, beyond what was held before it."""
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def device_kernels(step: Callable[[], Any]) -> list[str]:
    """Names of the kernels that a call launches, by the profiler; copies and fills by the copy engine not counted."""
    step()
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of torch warn at every start of the profiler
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
            step()
            torch.cuda.synchronize()
        events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return [e.name for e in events if not e.name.startswith(("Memcpy", "Memset"))]
