"""FairCrossEntropyLoss with gap and group counts against torch's own cross_entropy: time and peak memory, forward + backward.

python benchmarks/cross_entropy.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F

import fairloss
from benchmarks.harness import interleaved, peak_bytes, save

SHAPES = [(4096, 1000), (64, 152_064)]


def measure(shape: tuple[int, int], dtype: torch.dtype) -> dict[str, object]:
    n, classes = shape
    logits = torch.randn(shape).to(dtype).requires_grad_()
    target, groups = torch.randint(0, classes, (n,)), torch.randint(-1, 3, (n,))
    criterion = fairloss.FairCrossEntropyLoss(3, gap_weight=0.5, group_counts=[903, 43, 54])

    def step(loss) -> None:
        logits.grad = None
        loss().backward()

    runs = {
        "cross_entropy": lambda: step(lambda: F.cross_entropy(logits, target)),
        "fairloss": lambda: step(lambda: criterion(logits, target, groups)),
    }
    times = interleaved(runs, repeats=30, warm_up=5)
    peaks = {name: peak_bytes(run) for name, run in runs.items()}
    return {
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": times,
        "ratio_of_minima": times["fairloss"]["min"] / times["cross_entropy"]["min"],
        "peak_bytes": peaks,
        "extra_peak_bytes": peaks["fairloss"] - peaks["cross_entropy"],
    }


def main() -> None:
    torch.manual_seed(0)
    results = [measure(shape, dtype) for shape in SHAPES for dtype in (torch.float32, torch.bfloat16)]
    for r in results:
        print(
            f"{r['shape']!s:>16} {r['dtype']:>8}: {r['ratio_of_minima']:.3f}x cross_entropy's time, "
            f"{r['extra_peak_bytes'] / 1e6:+.3f} MB of its peak {r['peak_bytes']['cross_entropy'] / 1e6:.1f} MB"
        )
    print("written to", save("cross_entropy", results))


if __name__ == "__main__":
    main()
