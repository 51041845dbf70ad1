"""Operations of a criterion on a small batch: what a step costs where the batch is small, whatever the machine.

Counted as PyTorch dispatches them, forward and backward, without views, detachments and reads of a single number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fairloss import FairCrossEntropyLoss, FairDistillationLoss, FISLoss, MaxAccGapLoss

PACKAGES = ()
SIZE, GROUPS = (32, 2), 3
# What the same count gave before operations were taken out.
BEFORE = {
    "MaxAccGapLoss": (38, 10),
    "FairCrossEntropyLoss, gap and counts": (49, 14),
    "FISLoss, cross-entropies beside it": (110, 6),
    "FairDistillationLoss": (127, 14),
}
FREE = {
    "view", "_unsafe_view", "expand", "unsqueeze", "squeeze", "t", "transpose", "permute", "slice", "select", "detach",
    "split", "split_with_sizes", "unbind", "unfold", "as_strided", "alias", "_reshape_alias", "lift_fresh",
    "_local_scalar_dense",
}  # fmt: skip


class _Counter(TorchDispatchMode):
    """The names of the operations that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def operations(step: Callable[[], Tensor]) -> tuple[list[str], list[str]]:
    """The operations of forward and of backward; gradients are there already, as in every step but the first."""
    step().backward()
    with _Counter() as counter:
        value = step()
        forward = list(counter.names)
        value.backward()
    return forward, counter.names[len(forward) :]


def steps() -> dict[str, Callable[[], Tensor]]:
    """A step of each criterion on one batch of logits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, generator=generator).requires_grad_()
    teacher = torch.randn(SIZE, generator=generator)
    y = torch.randint(0, SIZE[1], SIZE[:1], generator=generator)
    groups = torch.randint(-1, GROUPS, SIZE[:1], generator=generator)
    gap, fis, distillation = MaxAccGapLoss(GROUPS), FISLoss(GROUPS), FairDistillationLoss(GROUPS)
    fair = FairCrossEntropyLoss(GROUPS, gap_weight=0.5, group_counts=[80, 12, 8])
    return {
        "F.cross_entropy": lambda: F.cross_entropy(x, y),
        "MaxAccGapLoss": lambda: gap(x, y, groups),
        "FairCrossEntropyLoss, gap and counts": lambda: fair(x, y, groups),
        "FISLoss, cross-entropies beside it": lambda: fis(F.cross_entropy(x, y, reduction="none"), groups),
        "FairDistillationLoss": lambda: distillation(x, y, groups, teacher_logits=teacher),
    }


def extras(quick: bool) -> dict[str, Any]:
    found = {name: [len(part) for part in operations(step)] for name, step in steps().items()}
    return {"size": list(SIZE), "groups": GROUPS, "counts": found, "before": BEFORE}
