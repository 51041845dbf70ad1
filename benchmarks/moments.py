"""MomentAlignmentLoss against explicit covariances, cell by cell in plain torch, forward + backward.

python benchmarks/moments.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import fairloss
from benchmarks.harness import interleaved, peak_bytes, save

SHAPES = [(64, 4096), (64, 1024), (256, 512), (1024, 128), (4096, 64)]
LABELS, GROUPS = 2, 2


def explicit(z, y, groups):
    """The definition: mean and D x D covariance of each cell, distances to the label's averages."""
    total, cells = z.new_zeros(()), 0
    for label in range(LABELS):
        rows = [z[(y == label) & (groups == group)] for group in range(GROUPS)]
        means = torch.stack([r.mean(0) for r in rows])
        covariances = torch.stack([torch.cov(r.T, correction=0) for r in rows])
        total = total + (means - means.mean(0)).square().sum() + (covariances - covariances.mean(0)).square().sum()
        cells += GROUPS
    return total / cells


def measure(n: int, d: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, d, generator=generator).requires_grad_()
    y, groups = torch.arange(n) % LABELS, torch.arange(n) // LABELS % GROUPS

    def step(loss) -> torch.Tensor:
        z.grad = None
        value = loss(z, y, groups)
        value.backward()
        return value.detach()

    forms = {f: fairloss.MomentAlignmentLoss(LABELS, GROUPS, form=f) for f in ("auto", "gram", "explicit")}
    runs = {"by definition": lambda: step(explicit)}
    runs |= {form: lambda loss=loss: step(loss) for form, loss in forms.items() if d < 4096 or form != "explicit"}
    expected, value = step(explicit), step(forms["auto"])
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    times = interleaved(runs, repeats=7, warm_up=1)
    return {
        "N": n,
        "D": d,
        "cells": LABELS * GROUPS,
        "seconds": times,
        "times_faster": times["by definition"]["min"] / times["auto"]["min"],
        "peak_bytes": {name: peak_bytes(run) for name, run in runs.items()},
        "one_covariance_bytes": 4 * d * d,
    }


def main() -> None:
    results = []
    for n, d in SHAPES:
        r = measure(n, d)
        results.append(r)
        peaks = ", ".join(f"{name} {v / 1e6:.1f} MB" for name, v in r["peak_bytes"].items())
        seconds = ", ".join(f"{name} {t['min'] * 1e3:.2f} ms" for name, t in r["seconds"].items())
        print(f"N={n}, D={d}: {r['times_faster']:.1f}x as fast; {seconds}; peak {peaks}", flush=True)
        path = save("moments", results)
    print("written to", path)


if __name__ == "__main__":
    main()
