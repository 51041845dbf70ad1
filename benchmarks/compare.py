"""An operation of the library against its rivals over a list of sizes: checked, timed in turn, memory counted, slopes fitted.

Before anything is timed, what each function computes is compared; where two functions compute different things, the
comparison says in words what differs. A slope is that of a straight line through log time (or memory) against log size, over
the upper half of the sizes (three at least), where the cost of a call no longer hides the cost of an element.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.harness import interleaved, peak_bytes, traced_bytes

Size = dict[str, Any]


@dataclass
class Case:
    """The functions of one size, by name, and pairs of functions whose results must agree."""

    runs: dict[str, Callable[[], Any]]
    same: dict[str, tuple[Callable[[], Any], Callable[[], Any], float]] = field(default_factory=dict)
    """Rival -> (our result, its result, largest difference allowed, relative to the largest entry)."""


@dataclass
class Comparison:
    """What is compared, over which sizes."""

    title: str
    ours: tuple[str, ...]
    rivals: dict[str, str]
    """Name -> what it computes, in words: the same, or what differs."""
    sizes: list[Size]
    build: Callable[..., Case]
    along: tuple[str, ...] = ()
    """Sizes along which slopes are fitted."""
    note: str = ""
    budget_s: float = 1.5
    least: int = 3
    numpy_memory: bool = False
    """Whether the functions hold NumPy arrays as well as tensors; both allocators are then counted and added."""


def measure(comparison: Comparison, *, threads: int, quick: bool = False) -> dict[str, Any]:
    """Run a comparison; the result is what the JSON holds."""
    rows = []
    for size in comparison.sizes:
        torch.manual_seed(0)
        torch.set_num_threads(size.get("threads", threads))
        case = comparison.build(**{name: value for name, value in size.items() if name != "threads"})
        differences = {rival: difference(*pair) for rival, pair in case.same.items()}
        times = interleaved(
            case.runs,
            budget_s=0.0 if quick else comparison.budget_s,
            least=1 if quick else comparison.least,
        )
        peaks = {name: _peak(run, comparison.numpy_memory) for name, run in case.runs.items()}
        rows.append({"size": size, "seconds": times, "peak_bytes": peaks, "largest_difference": differences})
        said = ", ".join(f"{name} {t['min'] * 1e3:.3g} ms" for name, t in times.items())
        print(f"{comparison.title}; {name_of(size)}: {said}", flush=True)
    return {
        "title": comparison.title,
        "note": comparison.note,
        "ours": list(comparison.ours),
        "rivals": comparison.rivals,
        "rows": rows,
        "slopes": slopes(rows, comparison.along),
    }


def name_of(size: Size) -> str:
    """``N=64, G=4``."""
    return ", ".join(f"{key}={value}" for key, value in size.items())


def difference(ours: Callable[[], Any], theirs: Callable[[], Any], allowed: float) -> float:
    """Largest difference relative to the largest entry; an error if it exceeds what is allowed."""
    a, b = (np.asarray(torch.as_tensor(f()).detach().to(torch.float64)) for f in (ours, theirs))
    found = float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-300)) if a.shape == b.shape else math.inf
    if not found <= allowed:
        raise AssertionError(f"not the same quantity: relative difference {found:.1e}, allowed {allowed:.1e}")
    return found


def _peak(run: Callable[[], Any], numpy_memory: bool) -> int:
    return peak_bytes(run, warm=True) + (traced_bytes(run, warm=True) if numpy_memory else 0)


def slopes(rows: list[dict[str, Any]], along: tuple[str, ...]) -> list[dict[str, Any]]:
    """Exponents of time and memory in one size with the others fixed, wherever three sizes or more were measured."""
    found = []
    for axis in along:
        series: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            rest = {key: value for key, value in row["size"].items() if key != axis}
            series.setdefault(name_of(rest), []).append(row)
        for fixed, members in series.items():
            for run in dict.fromkeys(name for row in members for name in row["seconds"]):
                points = sorted(
                    (row["size"][axis], row["seconds"][run]["min"], row["peak_bytes"][run])
                    for row in members
                    if run in row["seconds"]
                )
                points = points[-max(3, math.ceil(len(points) / 2)) :]
                if len(points) < 3:
                    continue
                sizes, seconds, peaks = zip(*points, strict=True)
                found.append(
                    {
                        "along": axis,
                        "fixed": fixed,
                        "run": run,
                        "from": sizes[0],
                        "to": sizes[-1],
                        "seconds": exponent(sizes, seconds),
                        "bytes": exponent(sizes, peaks) if min(peaks) > 0 else None,
                    }
                )
    return found


def exponent(sizes: tuple[float, ...], values: tuple[float, ...]) -> float:
    """Least-squares slope of log value against log size."""
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 3)
