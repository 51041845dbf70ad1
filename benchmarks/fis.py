"""Exact one-dimensional transport, FISLoss and DistributionAlignmentLoss against geomloss and POT, called group by group."""

from __future__ import annotations

import ot
import torch
from geomloss import SamplesLoss
from torch import Tensor

from benchmarks.compare import Case, Comparison
from fairloss import DistributionAlignmentLoss, FISLoss
from fairloss.functional import transport_distances

PACKAGES = ("geomloss",)
BLUR = 0.1
GEOMLOSS_UP_TO = 4096
"""Samples: from here on one call of geomloss takes half a minute and more."""


def draw(n: int, num_groups: int) -> tuple[Tensor, Tensor]:
    groups = torch.arange(n) % num_groups
    return torch.rand(n, dtype=torch.float64) * (1 + 0.2 * groups / num_groups), groups  # no ties


def transport(N: int, G: int) -> Case:
    losses, groups = draw(N, G)
    losses = losses.float()
    everything = losses.unsqueeze(1)
    parts = [everything[groups == g] for g in range(G)]  # a batch a group, as the released code has them
    wide = losses.double().numpy()
    wide_parts = [wide[(groups == g).numpy()] for g in range(G)]
    sinkhorn = SamplesLoss("sinkhorn", p=2, blur=BLUR)
    fis, leaf = FISLoss(G), losses.clone().requires_grad_()

    def step() -> None:
        leaf.grad = None
        fis(leaf, groups).backward()

    def distances() -> Tensor:
        return transport_distances(losses, groups, num_groups=G)

    def pot() -> list[float]:
        return [ot.wasserstein_1d(part, wide, p=2) / 2 for part in wide_parts]

    runs = {"transport_distances": distances, "FISLoss": step, "POT": pot}
    if N <= GEOMLOSS_UP_TO and G == 4:
        runs["geomloss"] = lambda: [sinkhorn(part, everything) for part in parts]
    # float32 results; cancellation in POT's or our float64 would show far below.
    return Case(runs, {"POT": (distances, lambda: torch.tensor(pot(), dtype=torch.float64), 1e-6)})


def alignment(N: int, G: int) -> Case:
    scores, groups = draw(N, G)
    scores.requires_grad_()
    loss = DistributionAlignmentLoss(G)

    def ours() -> Tensor:
        return loss(scores, groups)

    def pot() -> Tensor:
        return sum(ot.wasserstein_1d(scores[groups == g], scores, p=2) for g in range(G))

    def step(value: object) -> None:
        scores.grad = None
        value().backward()

    def gradient(value: object) -> Tensor:
        return torch.autograd.grad(value(), scores)[0]

    return Case(
        {"DistributionAlignmentLoss": lambda: step(ours), "POT": lambda: step(pot)},
        {
            "POT": (
                lambda: torch.cat([ours()[None], gradient(ours)]),
                lambda: torch.cat([pot()[None], gradient(pot)]),
                1e-9,
            )
        },
    )


def comparisons(quick: bool) -> list[Comparison]:
    ns, gs = (
        ([256, 512, 1024], [4]) if quick else ([256, 1024, 2048, 4096, 16_384, 65_536, 262_144, 1 << 20], [2, 16, 64])
    )
    return [
        Comparison(
            title="Fair identity scaling and its transport distances",
            ours=("transport_distances", "FISLoss"),
            rivals={
                "geomloss": f"debiased Sinkhorn divergences with blur {BLUR}, one call a group as in the method's released "
                "code: an approximation of the distances, alone, without the loss",
                "POT": "`wasserstein_1d`, one call a group on float64 NumPy arrays: the same distances, alone",
            },
            sizes=[{"N": n, "G": 4} for n in ns] + [{"N": 16_384 if not quick else 512, "G": g} for g in gs if g != 4],
            build=transport,
            along=("N", "G"),
            note="`transport_distances` is the distances alone; `FISLoss` is the whole loss, forward and backward. Denormal "
            "numbers are flushed to zero for all, without which geomloss is several times slower. No weight reaches the cap "
            "here; where one does, a sort is added.",
            least=2,
            numpy_memory=True,
        ),
        Comparison(
            title="Aligning the groups' score distributions",
            ours=("DistributionAlignmentLoss",),
            rivals={"POT": "`wasserstein_1d` with its torch backend, one call a group: the same value and gradient"},
            sizes=[{"N": n, "G": 4} for n in ns if n != 2048]
            + [{"N": 16_384 if not quick else 512, "G": g} for g in gs if g != 4],
            build=alignment,
            along=("N", "G"),
            note="Forward and backward in float64.",
        ),
    ]
