"""FairCrossEntropyLoss with gap and group counts against torch's own cross_entropy, forward + backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.compare import Case, Comparison
from fairloss import FairCrossEntropyLoss

PACKAGES = ()


def build(N: int, C: int, dtype: str) -> Case:
    logits = torch.randn(N, C).to(getattr(torch, dtype)).requires_grad_()
    target, groups = torch.randint(0, C, (N,)), torch.randint(-1, 3, (N,))
    hybrid = FairCrossEntropyLoss(3, gap_weight=0.5, group_counts=[903, 43, 54])

    def step(value) -> None:
        logits.grad = None
        value().backward()

    def task() -> Tensor:
        """Without group weights, from float64 logits widened from the same numbers."""
        return FairCrossEntropyLoss(3)(logits.detach(), target, groups)

    return Case(
        {
            "FairCrossEntropyLoss": lambda: step(lambda: hybrid(logits, target, groups)),
            "cross_entropy": lambda: step(lambda: F.cross_entropy(logits, target)),
        },
        {"cross_entropy": (task, lambda: F.cross_entropy(logits.detach().float(), target), 1e-5)},
    )


def comparisons(quick: bool) -> list[Comparison]:
    shapes = (
        [(64, 10), (128, 10), (256, 10)] if quick else [(32, 2), (256, 2), (1024, 1000), (4096, 1000), (8192, 1000)]
    )
    wide = [] if quick else [(64, 4096), (64, 32_768), (64, 152_064)]
    sizes = [{"N": n, "C": c, "dtype": "float32"} for n, c in shapes + wide]
    sizes += [
        {"N": n, "C": c, "dtype": "bfloat16"} for n, c in (shapes[:1] if quick else [(4096, 1000), (64, 152_064)])
    ]
    return [
        Comparison(
            title="Cross-entropy that answers for groups",
            ours=("FairCrossEntropyLoss",),
            rivals={
                "cross_entropy": "torch's own: the task term alone (checked without group weights), where ours adds group "
                "weights and the accuracy gap and accumulates half precision in float32"
            },
            sizes=sizes,
            build=build,
            along=("N", "C"),
            note="`FairCrossEntropyLoss` with `gap_weight` and `group_counts`, forward and backward.",
        )
    ]
