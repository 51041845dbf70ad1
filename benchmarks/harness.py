"""Timing by interleaved repeats, peak memory by counting allocations, results as JSON with machine, versions and date.

A ratio is taken between functions timed in turn in one process, so that whatever slows the machine slows both. The minimum
is the time without disturbance; the median is kept beside it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The profiler, which counts allocations, announces each of its starts unless told not to.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "scipy", "POT", "scikit-learn")


def interleaved(
    functions: dict[str, Callable[[], Any]], *, budget_s: float = 2.0, least: int = 3, most: int = 60, warm_up: int = 1
) -> dict[str, dict[str, float]]:
    """Seconds of each function, ``{"min": ..., "median": ..., "calls": ...}``, over rounds that run each in turn.

    The number of rounds, ``least`` to ``most``, is what the budget allows after ``warm_up`` unmeasured ones. In a round the
    slowest function runs once and quicker ones up to five times, so that a round of seconds is no single sample of a
    function of microseconds.
    """
    first: dict[str, float] = {}
    for _ in range(max(1, warm_up)):
        first = {name: _seconds(function) for name, function in functions.items()}
    slowest = max(first.values())
    calls = {name: max(1, min(5, int(slowest / max(elapsed, 1e-9)))) for name, elapsed in first.items()}
    a_round = sum(first[name] * n for name, n in calls.items())
    rounds = max(least, min(most, int(budget_s / max(a_round, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name] += [_seconds(function) for _ in range(calls[name])]
    return {name: {"min": min(t), "median": statistics.median(t), "calls": len(t)} for name, t in times.items()}


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_bytes(function: Callable[[], Any], *, warm: bool = False) -> int:
    """Most bytes that ``function`` holds on the CPU beyond its lowest level before: from the allocator's events.

    Temporaries inside an operator count. A first, unmeasured call keeps one-time allocations out; what that call left behind
    and this one frees (an old gradient, say) lowers the level that the peak is measured from. ``warm``: it has run before.
    """
    if not warm:
        function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = lowest = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        lowest = min(lowest, held)
        peak = max(peak, held - lowest)
    return peak


def traced_bytes(function: Callable[[], Any], *, warm: bool = False) -> int:
    """Most bytes that ``function`` holds in Python's allocator, NumPy's arrays included; torch's tensors are not seen."""
    if not warm:
        function()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a GPU machine may hold torch and Triton alone
        return None


def machine(packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Processor, threads, versions and date, to stand beside every result."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = {name: version for name in (*PACKAGES, *packages) if (version := _version(name)) is not None}
    real_time = hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.date.today().isoformat(),
        "real_time_priority": real_time,
        # Processes that wanted a core in the last minute, this one among them: above the cores, times are longer.
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def save(name: str, results: Any, *, packages: tuple[str, ...] = (), folder: Path = RESULTS) -> Path:
    """Write ``<name>.json``; ``packages`` are the rivals whose versions belong with it."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(packages), "results": results}, indent=1) + "\n")
    return path
