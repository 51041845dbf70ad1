"""CrossGroupContrastiveLoss against pytorch-metric-learning's SupConLoss, forward + backward."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor

from benchmarks.compare import Case, Comparison
from fairloss import CrossGroupContrastiveLoss

PACKAGES = ("pytorch-metric-learning",)
DIM, RESIDENT_N = 128, 16_384


def draw(n: int, classes: int = 2, groups: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, DIM, generator=generator).requires_grad_()
    return z, torch.randint(0, classes, (n,), generator=generator), torch.randint(-1, groups, (n,), generator=generator)


def step(loss, z: Tensor, *args: Tensor) -> None:
    z.grad = None
    loss(z, *args).backward()


def build(N: int, labels: int) -> Case:
    rival = SupConLoss(temperature=0.07)
    z, y, groups = draw(N, labels)
    # The margin decides how many negatives take part, not how many similarities are computed.
    near, all_negatives = CrossGroupContrastiveLoss(margin=0.3), CrossGroupContrastiveLoss(margin=-2.0)
    # Where a label has two samples, of two groups, both have one positive and the same negatives: the losses are equal.
    pairs, sides = torch.arange(N) // 2, torch.arange(N) % 2

    def value_and_gradient(value: Tensor) -> Tensor:
        return torch.cat([value.detach()[None], torch.autograd.grad(value, z)[0].flatten()])

    return Case(
        {
            "margin 0.3": lambda: step(near, z, y, groups),
            "margin -2": lambda: step(all_negatives, z, y, groups),
            "SupConLoss": lambda: step(rival, z, y),
        },
        {
            "SupConLoss": (
                lambda: value_and_gradient(all_negatives(z, pairs, sides)),
                lambda: value_and_gradient(rival(z, pairs)),
                1e-4,
            )
        },
    )


def comparisons(quick: bool) -> list[Comparison]:
    ns = [64, 128, 256] if quick else [512, 1024, 2048, 4096]
    sizes = [{"N": n, "labels": 2, "threads": 1} for n in ns]
    if not quick:
        sizes += [{"N": 4096, "labels": 10, "threads": 1}, {"N": 4096, "labels": 2, "threads": os.cpu_count()}]
    return [
        Comparison(
            title="Cross-group supervised contrastive loss",
            ours=("margin 0.3", "margin -2"),
            rivals={
                "SupConLoss": "pytorch-metric-learning's: no groups, every other sample of the label is a positive and "
                "positives stand in the denominator; similar work on similar numbers of pairs. On batches where each "
                "sample has one positive of another group, the two are the same and are checked, value and gradient"
            },
            sizes=sizes,
            build=build,
            along=("N",),
            note=f"`CrossGroupContrastiveLoss` with its default margin and with one that admits all negatives, forward and "
            f"backward, D = {DIM}, 3 groups and some unknown.",
            budget_s=4.0,
        ),
    ]


def resident(n: int) -> None:
    """Print the growth of this process's resident set over one step, after a small one (Linux; 0 elsewhere)."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        print(0)
        return

    def kilobytes(field: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(field))

    loss = CrossGroupContrastiveLoss()
    step(loss, *draw(64))
    data = draw(n)
    reset.write_text("5")  # the high-water mark starts at what is resident now
    before = kilobytes("VmRSS")
    step(loss, *data)
    print(1024 * (kilobytes("VmHWM") - before))


def extras(quick: bool) -> dict[str, int]:
    n = 512 if quick else RESIDENT_N
    command = [sys.executable, "-m", "benchmarks.contrastive", str(n)]
    grown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]).stdout
    return {"N": n, "resident_growth_bytes": int(grown), "one_float32_matrix_bytes": 4 * n**2}


if __name__ == "__main__":
    resident(int(sys.argv[1]))
