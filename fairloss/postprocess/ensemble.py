"""Modules for deployment: the mean of several models, and decisions by group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fairloss.core import checks
from fairloss.core.checks import expected

__all__ = ["Average", "Ensemble", "GroupDecision"]

Average = Literal["logit", "probability", "vote"]


class Ensemble(nn.Module):
    """The mean of several models' outputs, each called with the same arguments.

    ``"logit"``: the mean of the logits. ``"probability"``: the mean of the sigmoids or softmaxes. ``"vote"``: the share of
    members that say so. Thresholds that were fitted on logits belong to ``"logit"``: the mean of probabilities moves the
    scores away from them.

    Args:
        members: modules that return logits of one shape: (N,) or (N, 1) of a binary task, (N, C) of C >= 2 classes, or
            (N, L) of L labels with ``multilabel``.
        average: what is averaged.
        multilabel: columns are labels, each with a sigmoid of its own.

    Shape:
        - output: as one member's; logits for ``"logit"``, else values in [0, 1].

    Example:
        >>> members = [nn.Linear(3, 1), nn.Linear(3, 1)]
        >>> Ensemble(members)(torch.zeros(5, 3)).shape
        torch.Size([5, 1])
    """

    def __init__(self, members: Iterable[nn.Module], *, average: Average = "logit", multilabel: bool = False) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not len(self.members):
            raise ValueError(expected("members", "at least one module", "none"))
        self.average = checks.choice("average", average, get_args(Average))
        self.multilabel = checks.flag("multilabel", multilabel)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The averaged output."""
        outputs = torch.stack([member(*args, **kwargs) for member in self.members])
        if self.average == "logit":
            return outputs.mean(0)
        several = not self.multilabel and outputs.dim() > 2 and outputs.shape[2] > 1
        if self.average == "probability":
            return (outputs.softmax(2) if several else outputs.sigmoid()).mean(0)
        if several:
            votes = nn.functional.one_hot(outputs.argmax(2), outputs.shape[2]).movedim(-1, 2)
            return votes.to(outputs.dtype).mean(0)
        return (outputs >= 0).to(outputs.dtype).mean(0)

    def extra_repr(self) -> str:  # noqa: D102
        return f"average={self.average!r}"


class GroupDecision(nn.Module):
    """``score >= t_g`` as a module; made by :meth:`fairloss.postprocess.GroupThresholds.to_module`."""

    thresholds: Tensor

    def __init__(self, thresholds: Sequence[float], common: float) -> None:
        super().__init__()
        self.register_buffer("thresholds", torch.tensor([*thresholds, common], dtype=torch.float64))

    def forward(self, score: Tensor, groups: Tensor) -> Tensor:
        """(N,) scores and ids, -1 for unknown -> (N,) bool."""
        last = len(self.thresholds) - 1
        if groups.shape != score.shape:
            raise ValueError(expected("groups", f"shape {tuple(score.shape)}", f"shape {tuple(groups.shape)}"))
        if groups.dtype.is_floating_point:
            raise TypeError(expected("groups", "integer ids", groups.dtype, "groups.long(), after setting NaN to -1"))
        if bool(score.isnan().any()):
            raise ValueError(expected("score", "scores without NaN", "NaN"))
        if ((groups < -1) | (groups >= last)).any():
            raise ValueError(expected("groups", f"ids 0 .. {last - 1}, or -1 for unknown", "others"))
        return score >= self.thresholds[torch.where(groups < 0, last, groups)]
