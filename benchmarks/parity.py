"""Accuracy and parity penalties against fairret's statistics and penalties, forward + backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fairret.loss import NormLoss
from fairret.statistic import Accuracy, FalsePositiveRate, PositiveRate, TruePositiveRate
from torch import Tensor, nn

from benchmarks.compare import Case, Comparison
from fairloss import DemographicParityLoss, EqualizedOddsLoss, MaxAccGapLoss

PACKAGES = ("fairret",)


def gap(rates: Tensor) -> Tensor:
    return rates.max() - rates.min()


def case(loss: Callable[[int], nn.Module], statistics: tuple[type, ...], with_target: bool) -> Callable[..., Case]:
    """``loss`` against the gap of each fairret statistic, mean over them, and against fairret's own penalty on the same."""

    def build(N: int, G: int) -> Case:
        logits = torch.randn(N).requires_grad_()
        target, groups = torch.randint(0, 2, (N,)), torch.arange(N) % G
        # fairret takes memberships and labels as columns of floats: made outside the timed part.
        members, labels = nn.functional.one_hot(groups, G).float(), target.float().unsqueeze(1)
        rest = (labels,) if with_target else ()
        ours, rates = loss(G), [statistic() for statistic in statistics]
        penalties = [NormLoss(rate) for rate in rates]

        def same() -> Tensor:
            p = torch.sigmoid(logits).unsqueeze(1)
            return sum(gap(rate(p, members, *rest)) for rate in rates) / len(rates)

        def penalty() -> Tensor:
            return sum(norm(logits.unsqueeze(1), members, *rest) for norm in penalties)

        def mine() -> Tensor:
            return ours(logits, target, groups)

        def step(value: Callable[[], Tensor]) -> None:
            logits.grad = None
            value().backward()

        def checked(value: Callable[[], Tensor]) -> Tensor:
            found = value()
            return torch.cat([found.detach()[None], N * torch.autograd.grad(found, logits)[0]])

        return Case(
            {
                "fairloss": lambda: step(mine),
                "fairret rates": lambda: step(same),
                "fairret NormLoss": lambda: step(penalty),
            },
            {"fairret rates": (lambda: checked(mine), lambda: checked(same), 1e-4)},
        )

    return build


def comparisons(quick: bool) -> list[Comparison]:
    ns, gs = ([512, 1024, 2048], []) if quick else ([256, 4096, 65_536, 1 << 20], [16, 64])
    sizes = [{"N": n, "G": 4} for n in ns] + [{"N": 65_536, "G": g} for g in gs]
    found = []
    for title, loss, statistics, with_target in (
        ("Gap of the groups' soft accuracies", lambda g: MaxAccGapLoss(g, task="binary"), (Accuracy,), True),
        ("Demographic parity", lambda g: DemographicParityLoss(g), (PositiveRate,), False),
        ("Equalized odds", lambda g: EqualizedOddsLoss(g), (TruePositiveRate, FalsePositiveRate), True),
    ):
        name = type(loss(2)).__name__
        found.append(
            Comparison(
                title=title,
                ours=("fairloss",),
                rivals={
                    "fairret rates": "max - min of fairret's statistic by group: the same value and gradient",
                    "fairret NormLoss": "fairret's own penalty, the sum of the relative deviations of the same statistic "
                    "from the overall one: another quantity of the same kind",
                },
                sizes=sizes,
                build=case(loss, statistics, with_target),
                along=("N", "G"),
                note=f"`{name}` on binary logits, forward and backward. fairret's one-hot memberships are made beforehand.",
                budget_s=1.0,
            )
        )
    return found
