"""FEBSLoss against MONAI's DiceLoss: on one pool of samples, and called group by group; forward + backward.

"loop" is what one would write first in plain torch: one softmax, one one-hot, then each present group's samples picked out
and their Dice summed class by class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

from benchmarks.compare import Case, Comparison
from fairloss import FEBSLoss

PACKAGES = ("monai",)


def weighted(errors: list[Tensor], classes: int) -> Tensor:
    stacked, e = torch.stack(errors), 1e-3 * classes
    weights = ((stacked + e) / (stacked.mean() + e)).clamp(0.1, 10).detach()
    return (weights * stacked).sum() / (classes * weights.sum())


def loop(logits: Tensor, target: Tensor, groups: Tensor, num_groups: int, *, smooth: float = 1e-5) -> Tensor:
    classes = logits.shape[1]
    p = logits.softmax(1)
    t = F.one_hot(target, classes).movedim(-1, 1).to(p.dtype)
    errors = []
    for g in range(num_groups):
        mine = groups == g
        if not mine.any():
            continue
        p_g, t_g = p[mine], t[mine]
        error = logits.new_zeros(())
        for c in range(classes):
            inter = (p_g[:, c] * t_g[:, c]).sum()
            union = (p_g[:, c] ** 2).sum() + (t_g[:, c] ** 2).sum()
            error = error + 1 - (2 * inter + smooth) / (union + smooth)
        errors.append(error)
    return weighted(errors, classes)


def build(side: int, dimensions: int, G: int) -> Case:
    size, classes, spatial = {2: 16, 3: 4}[dimensions], 3, [side] * dimensions
    logits = torch.randn(size, classes, *spatial, requires_grad=True)
    target, groups = torch.randint(0, classes, (size, *spatial)), torch.arange(size) % G
    options = {"softmax": True, "to_onehot_y": True, "squared_pred": True, "batch": True}
    pooled, by_class, febs = (
        DiceLoss(**options),
        DiceLoss(**options, reduction="none"),
        FEBSLoss(G, num_classes=classes),
    )

    def monai() -> Tensor:
        if G == 1:
            return pooled(logits, target.unsqueeze(1))
        parts = [groups == g for g in range(G)]
        return weighted([by_class(logits[mine], target[mine].unsqueeze(1)).sum() for mine in parts], classes)

    def step(value: Callable[[], Tensor]) -> None:
        logits.grad = None
        value().backward()

    def checked(value: Callable[[], Tensor]) -> Tensor:
        found = value()
        gradient = torch.autograd.grad(found, logits)[0].flatten()
        return torch.cat([found.detach()[None], gradient * len(gradient) / 10])

    values = {
        "FEBSLoss": lambda: febs(logits, target, groups),
        "MONAI DiceLoss": monai,
        "loop": lambda: loop(logits, target, groups, G),
    }
    ours = values["FEBSLoss"]
    return Case(
        {name: lambda value=value: step(value) for name, value in values.items()},
        {
            name: (lambda: checked(ours), lambda value=values[name]: checked(value), 2e-3)
            for name in ("MONAI DiceLoss", "loop")
        },
    )


def comparisons(quick: bool) -> list[Comparison]:
    shapes = [(16, 2), (24, 2), (32, 2)] if quick else [(56, 2), (112, 2), (224, 2), (64, 3)]
    return [
        Comparison(
            title="Fair error-bound scaling of the Dice loss",
            ours=("FEBSLoss",),
            rivals={
                "MONAI DiceLoss": "on one group (G=1) MONAI's pooled loss itself, the same value and gradient; on several, "
                "called group by group and weighted: the same again",
                "loop": "plain torch, a loop over groups and classes: the same value and gradient",
            },
            sizes=[{"side": side, "dimensions": d, "G": g} for g in (1, 3) for side, d in shapes],
            build=build,
            along=("side",),
            note="Forward and backward, 3 classes, 16 photographs of side x side pixels or 4 volumes of side^3.",
            budget_s=1.5,
        )
    ]
