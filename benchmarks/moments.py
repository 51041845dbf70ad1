"""MomentAlignmentLoss against explicit covariances, cell by cell in plain torch, forward + backward."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.compare import Case, Comparison
from fairloss import MomentAlignmentLoss

PACKAGES = ()
LABELS, GROUPS = 2, 2


def explicit(z: Tensor, y: Tensor, groups: Tensor) -> Tensor:
    """The definition: mean and D x D covariance of each cell, distances to the label's averages."""
    total, cells = z.new_zeros(()), 0
    for label in range(LABELS):
        rows = [z[(y == label) & (groups == group)] for group in range(GROUPS)]
        means = torch.stack([r.mean(0) for r in rows])
        covariances = torch.stack([torch.cov(r.T, correction=0) for r in rows])
        total = total + (means - means.mean(0)).square().sum() + (covariances - covariances.mean(0)).square().sum()
        cells += GROUPS
    return total / cells


def build(N: int, D: int) -> Case:
    z = torch.randn(N, D).requires_grad_()
    y, groups = torch.arange(N) % LABELS, torch.arange(N) // LABELS % GROUPS
    loss = MomentAlignmentLoss(GROUPS, num_classes=LABELS)

    def step(function) -> None:
        z.grad = None
        function(z, y, groups).backward()

    def value_and_gradient(function) -> Tensor:
        value = function(z, y, groups)
        gradient = torch.autograd.grad(value, z)[0].flatten()
        return torch.cat([value.detach()[None], gradient * value.detach().abs() / gradient.abs().max()])

    return Case(
        {"MomentAlignmentLoss": lambda: step(loss), "explicit": lambda: step(explicit)},
        {"explicit": (lambda: value_and_gradient(loss), lambda: value_and_gradient(explicit), 1e-3)},
    )


def comparisons(quick: bool) -> list[Comparison]:
    by_n, by_d = [256, 1024, 4096, 16_384], [128, 512, 1024, 2048]
    if quick:
        by_n, by_d = [64, 128, 256], [128]
    sizes = [{"N": n, "D": 64} for n in by_n] + [{"N": 64, "D": d} for d in by_d]
    if not quick:
        sizes += [{"N": 1024, "D": 128}, {"N": 256, "D": 512}, {"N": 512, "D": 768}]
    return [
        Comparison(
            title="Aligning the groups' moments",
            ours=("MomentAlignmentLoss",),
            rivals={
                "explicit": "a loop over cells with boolean masks and `torch.cov`, which no package offers ready-made: the "
                "same value and gradient; unlike the loss it needs every cell to be there, and waits for the device"
            },
            sizes=sizes,
            build=build,
            along=("N", "D"),
            note=f"Forward and backward, float32, {LABELS} labels x {GROUPS} groups.",
        )
    ]
