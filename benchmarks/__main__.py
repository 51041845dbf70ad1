"""Every benchmark, or those named; results as JSON, then pictures and BENCHMARKS.md from them.

    python -m benchmarks                      all, as `make bench` does (about ten minutes on two cores)
    python -m benchmarks fis moments          these, and the page anew
    python -m benchmarks --quick --out DIR    the smallest sizes once, to see that everything runs

benchmarks/gpu.py needs a GPU and is run by itself.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from pathlib import Path

import torch

from benchmarks import page
from benchmarks.compare import measure
from benchmarks.harness import RESULTS, save
from benchmarks.page import NAMES


def run(name: str, *, quick: bool, threads: int, folder: Path) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    results = {}
    if hasattr(module, "comparisons"):
        results["comparisons"] = [measure(c, threads=threads, quick=quick) for c in module.comparisons(quick)]
    torch.set_num_threads(threads)
    if hasattr(module, "extras"):
        results["extras"] = module.extras(quick)
    save(name, results, packages=module.PACKAGES, folder=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, once; needs --out")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch, except where a benchmark compares numbers of them"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the JSON files, the pictures and the page (default: the repository's)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if arguments.quick and arguments.out is None:
        parser.error("--quick measures nothing worth keeping: say --out FOLDER, which is not the repository's")
    folder = RESULTS if arguments.out is None else arguments.out
    # Rivals warn of their own deprecations; a warning is no result.
    warnings.simplefilter("ignore")
    # Sinkhorn's kernels underflow, and denormal numbers would make geomloss several times slower than it need be.
    torch.set_flush_denormal(True)
    for name in arguments.names or NAMES:
        start = time.perf_counter()
        run(name, quick=arguments.quick, threads=arguments.threads, folder=folder)
        print(f"-- {name}: {time.perf_counter() - start:.0f} s", flush=True)
    written = page.write(folder) if arguments.out is None else page.write(folder, folder, folder)
    print("written to", written)


if __name__ == "__main__":
    main()
