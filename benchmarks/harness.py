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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "scipy", "POT", "scikit-learn")


def interleaved(
    functions: dict[str, Callable[[], Any]], *, repeats: int = 30, warm_up: int = 3
) -> dict[str, dict[str, float]]:
    """Seconds of each function, ``{"min": ..., "median": ...}``, over ``repeats`` rounds that run each once."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(warm_up + repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            elapsed = time.perf_counter() - start
            if round_ >= warm_up:
                times[name].append(elapsed)
    return {name: {"min": min(t), "median": statistics.median(t)} for name, t in times.items()}


def peak_bytes(function: Callable[[], Any]) -> int:
    """Most bytes that ``function`` holds on the CPU beyond its lowest level before: from the allocator's events.

    Temporaries inside an operator count. A first, unmeasured call keeps one-time allocations out; what that call left behind
    and this one frees (an old gradient, say) lowers the level that the peak is measured from.
    """
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
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


def save(name: str, results: Any, *, packages: tuple[str, ...] = ()) -> Path:
    """Write ``results/<name>.json``; ``packages`` are the rivals whose versions belong with it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(packages), "results": results}, indent=1) + "\n")
    return path
