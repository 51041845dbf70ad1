"""CrossGroupContrastiveLoss against pytorch-metric-learning's SupConLoss, forward + backward; peak memory of a large batch.

SupConLoss has no groups and takes every other sample of the label as a positive; the two do similar work on similar numbers
of pairs, on the same embeddings and labels.

python benchmarks/contrastive.py
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import fairloss
from benchmarks.harness import interleaved, peak_bytes, save

DIM = 128
SPEED_N, MEMORY_N = 4096, 16_384


def draw(n: int, classes: int = 2, groups: int = 3):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, DIM, generator=generator).requires_grad_()
    return z, torch.randint(0, classes, (n,), generator=generator), torch.randint(-1, groups, (n,), generator=generator)


def step(loss, z, *args) -> None:
    z.grad = None
    loss(z, *args).backward()


def speed(classes: int, threads: int) -> dict[str, object]:
    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_metric_learning.losses import SupConLoss

        rival = SupConLoss(temperature=0.07)
    z, y, groups = draw(SPEED_N, classes)
    runs = {"SupConLoss": lambda: step(rival, z, y)}
    # The margin decides how many negatives take part, not how many similarities are computed.
    for margin in (0.3, -2.0):
        loss = fairloss.CrossGroupContrastiveLoss(margin=margin)
        runs[f"fairloss margin {margin}"] = lambda loss=loss: step(loss, z, y, groups)
    times = interleaved(runs, repeats=5, warm_up=1)
    ratios = {name: times["SupConLoss"]["min"] / t["min"] for name, t in times.items() if name != "SupConLoss"}
    return {"N": SPEED_N, "D": DIM, "labels": classes, "threads": threads, "seconds": times, "times_faster": ratios}


def memory() -> dict[str, object]:
    z, y, groups = draw(MEMORY_N)
    peak = peak_bytes(lambda: step(fairloss.CrossGroupContrastiveLoss(), z, y, groups))
    grown = subprocess.run([sys.executable, __file__, "resident"], check=True, capture_output=True, text=True).stdout
    return {
        "N": MEMORY_N,
        "D": DIM,
        "peak_bytes_allocated": peak,
        "resident_growth_bytes": int(grown),
        "one_float32_matrix_bytes": 4 * MEMORY_N**2,
    }


def resident() -> None:
    """Growth of this process's resident set over one step, after a small one (Linux; 0 elsewhere)."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        print(0)
        return

    def kilobytes(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    loss = fairloss.CrossGroupContrastiveLoss()
    step(loss, *draw(64))
    data = draw(MEMORY_N)
    reset.write_text("5")  # the high-water mark starts at what is resident now
    before = kilobytes("VmRSS")
    step(loss, *data)
    print(1024 * (kilobytes("VmHWM") - before))


def main() -> None:
    results: dict[str, object] = {"speed": []}
    every = torch.get_num_threads()
    # One thread is measured apart: on a busy machine many threads mostly wait for one another.
    for classes, threads in ((2, 1), (10, 1), (2, every)):
        r = speed(classes, threads)
        results["speed"].append(r)
        for name, ratio in r["times_faster"].items():
            print(f"{classes} labels, {threads} threads, {name}: {ratio:.2f}x as fast as SupConLoss", flush=True)
        save("contrastive", results, packages=("pytorch-metric-learning",))
    m = results["memory"] = memory()
    print(
        f"N={m['N']}: {m['peak_bytes_allocated'] / 1e6:.1f} MB allocated at most, resident set grows by "
        f"{m['resident_growth_bytes'] / 1e6:.1f} MB; one N x N float32 matrix has {m['one_float32_matrix_bytes'] / 1e6:.0f} MB"
    )
    print("written to", save("contrastive", results, packages=("pytorch-metric-learning",)))


if __name__ == "__main__":
    resident() if sys.argv[1:] == ["resident"] else main()
