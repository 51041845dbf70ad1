"""The losses of the study on real people, and the two ways to choose a weight that need no sweep."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import fairloss as fl
from benchmarks.people_train import TARGETS
from fairloss.training import AccuracyBudget, FairnessMonitor, FairnessWarning

WEIGHTS = (0.03, 0.1, 0.3, 1.0)
STEP_SIZES = (0.001, 0.01, 0.1)

Penalty = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def on_logits(loss: Any, direction: Any) -> Callable[[float, int], Penalty]:
    """The weight times a loss of logits, labels and groups."""

    def make(weight: float, num_groups: int) -> Penalty:
        criterion = loss(num_groups, direction=direction)
        return lambda logits, y, groups: weight * criterion(logits, y, groups)

    return make


def on_values(loss: Any) -> Callable[[float, int], Penalty]:
    """The weight times a loss of the samples' cross-entropies."""

    def make(weight: float, num_groups: int) -> Penalty:
        criterion = loss(num_groups)
        return lambda logits, y, groups: weight * criterion(each(logits, y), groups)

    return make


def alignment(weight: float, num_groups: int) -> Penalty:
    """The weight times the transport distance between the groups' logits."""
    criterion = fl.DistributionAlignmentLoss(num_groups)
    return lambda logits, y, groups: weight * criterion(logits, groups)


def fis(weight: float, num_groups: int) -> Penalty:
    """That share of the loss is FIS's."""
    criterion = fl.FISLoss(num_groups)
    return lambda logits, y, groups: weight * (criterion(each(logits, y), groups) - each(logits, y).mean())


def group_dro(step_size: float, num_groups: int) -> Penalty:
    """GroupDRO in place of the mean loss."""
    criterion = fl.GroupDROLoss(num_groups, step_size=step_size)
    return lambda logits, y, groups: criterion(each(logits, y), groups) - each(logits, y).mean()


def each(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, y.float(), reduction="none")


PENALTIES: dict[str, tuple[str, Callable[[float, int], Penalty]]] = {
    "DemographicParity": (TARGETS[0], on_logits(fl.DemographicParityLoss, "both")),
    "DemographicParity, raise": (TARGETS[0], on_logits(fl.DemographicParityLoss, "raise")),
    "DistributionAlignment": (TARGETS[0], alignment),
    "EqualOpportunity": (TARGETS[1], on_logits(fl.EqualOpportunityLoss, "both")),
    "EqualOpportunity, raise": (TARGETS[1], on_logits(fl.EqualOpportunityLoss, "raise")),
    "EqualizedOdds": (TARGETS[1], on_logits(fl.EqualizedOddsLoss, "both")),
    "EqualizedOdds, raise": (TARGETS[1], on_logits(fl.EqualizedOddsLoss, "raise")),
    "MaxAccGap": (TARGETS[2], on_logits(fl.MaxAccGapLoss, "both")),
    "MaxAccGap, raise": (TARGETS[2], on_logits(fl.MaxAccGapLoss, "raise")),
    "LossVariance": (TARGETS[2], on_values(fl.LossVarianceLoss)),
    "FIS": (TARGETS[2], fis),
}
"""Name -> the gap that it aims at, and a function of weight and number of groups."""


class Budgeted(nn.Module):
    """A penalty under `AccuracyBudget`, whose weight follows validation at every tenth step."""

    def __init__(self, s: Any, name: str, reference: tuple[float, float]) -> None:
        super().__init__()
        loss = {"DemographicParity": fl.DemographicParityLoss, "EqualOpportunity": fl.EqualOpportunityLoss}[name]
        self.budget, self.split = AccuracyBudget(loss(s.num_groups), reference=reference), s

    def forward(self, logits: torch.Tensor, y: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.budget(logits, y, groups)
        return value

    def watch(self, network: Callable[[torch.Tensor], torch.Tensor]) -> None:
        own = self.split.validated(network)
        self.budget.update(accuracy=own["accuracy"], balanced_accuracy=own["balanced_accuracy"])


def warned(s: Any, plain: nn.Module, model: nn.Module) -> bool:
    """Whether the monitor speaks of a model beside the plain one, on validation data."""
    reference = None
    for network in (plain, model):
        monitor = FairnessMonitor(s.num_groups, reference=reference)
        with torch.no_grad():
            monitor.update(
                network(torch.from_numpy(s.x[s.valid])),
                torch.from_numpy(s.y[s.valid]),
                torch.from_numpy(s.ids[s.valid]),
            )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            snapshot = monitor.compute()
        reference = reference or snapshot
    return any(issubclass(w.category, FairnessWarning) for w in caught)
