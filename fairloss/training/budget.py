"""Controllers of a penalty's weight: as strong as a budget of accuracy allows, or as a bound on a gap demands."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.state import StatefulModule

__all__ = ["AccuracyBudget", "GapTarget"]


class _Controller(StatefulModule):
    """A penalty times a weight that is a tensor, so that a compiled step is not compiled again when it changes."""

    weight: Tensor

    def __init__(self, penalty: nn.Module, weight: float) -> None:
        super().__init__()
        if not callable(penalty):
            raise TypeError(expected("penalty", "a loss module or a function", type(penalty).__name__))
        self.penalty = penalty
        self.register_state("weight", (), torch.float64, fill=weight)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """``weight`` times the penalty, called with the same arguments."""
        value: Tensor = self.penalty(*args, **kwargs)
        return self.weight.to(value) * value


class AccuracyBudget(_Controller):
    """The strongest penalty that validation accuracy and balanced accuracy can pay for.

    After each validation, ``update`` multiplies the weight by ``factor`` while both figures lie within ``budget`` of the
    reference's, and divides it by ``factor`` as soon as one does not. The budget means the same on all data, where a weight
    does not. Balanced accuracy keeps a model from passing everybody, which costs little accuracy on rare labels.

    Args:
        penalty: a loss of this library, on logits say; called with what ``forward`` is called with.
        budget: accuracy that may be lost, in [0, 1]; 0.01 is a point.
        reference: ``(accuracy, balanced_accuracy)`` of the same model trained without the penalty, on the same validation data.
        weight: the first weight, > 0.
        factor: of a step, > 1.
        max_weight: where the weight stops, > 0.

    Example:
        >>> from fairloss import DemographicParityLoss
        >>> penalty = AccuracyBudget(DemographicParityLoss(2), reference=(0.80, 0.78), weight=0.03)
        >>> penalty.update(accuracy=0.798, balanced_accuracy=0.775)
        >>> penalty.update(accuracy=0.785, balanced_accuracy=0.775)
        >>> round(float(penalty.weight), 4)
        0.03
    """

    def __init__(
        self,
        penalty: nn.Module,
        *,
        reference: tuple[float, float],
        budget: float = 0.01,
        weight: float = 0.03,
        factor: float = 1.3,
        max_weight: float = 1.0,
    ) -> None:
        checks.number("weight", weight, above=0)
        super().__init__(penalty, weight)
        if not isinstance(reference, (tuple, list)) or len(reference) != 2:
            raise TypeError(expected("reference", "a pair (accuracy, balanced_accuracy)", reference))
        self.reference = tuple(checks.number("reference", value, minimum=0, maximum=1) for value in reference)
        self.budget = checks.number("budget", budget, minimum=0, maximum=1)
        self.factor = checks.number("factor", factor, above=1)
        self.max_weight = checks.number("max_weight", max_weight, minimum=weight)

    def update(self, *, accuracy: float, balanced_accuracy: float) -> None:
        """Move the weight by one validation's figures, in [0, 1]."""
        figures = (
            checks.number("accuracy", accuracy, minimum=0, maximum=1),
            checks.number("balanced_accuracy", balanced_accuracy, minimum=0, maximum=1),
        )
        kept = all(now >= before - self.budget for now, before in zip(figures, self.reference, strict=True))
        step = math.log(self.factor) if kept else -math.log(self.factor)
        self.weight.copy_((self.weight.log() + step).exp().clamp(max=self.max_weight))

    def extra_repr(self) -> str:  # noqa: D102
        return f"budget={self.budget}, reference={self.reference}, weight={float(self.weight):.4g}"


class GapTarget(_Controller):
    """A penalty whose weight grows while a gap of decisions lies above a bound, and shrinks below it (dual ascent).

    weight <- min(max(0, weight + step_size (gap - epsilon)), max_weight). The gap is that of hard decisions on validation
    data, not the soft one that the penalty lowers.

    Note:
        The bound may be met by a model that decides the same for everybody, and a bound that the data do not allow drives the
        weight to ``max_weight``: read accuracy and balanced accuracy beside it, or take :class:`AccuracyBudget`.

    Args:
        penalty: a loss of this library; called with what ``forward`` is called with.
        epsilon: the largest gap wanted, in [0, 1].
        step_size: > 0; how fast the weight follows.
        weight: the first weight, >= 0.
        max_weight: where the weight stops, > 0.

    Example:
        >>> from fairloss import EqualizedOddsLoss
        >>> penalty = GapTarget(EqualizedOddsLoss(2), epsilon=0.05, step_size=0.5)
        >>> penalty.update(gap=0.25)
        >>> round(float(penalty.weight), 3)
        0.1
    """

    def __init__(
        self,
        penalty: nn.Module,
        *,
        epsilon: float,
        step_size: float = 0.1,
        weight: float = 0.0,
        max_weight: float = 1.0,
    ) -> None:
        checks.number("weight", weight, minimum=0)
        super().__init__(penalty, weight)
        self.epsilon = checks.number("epsilon", epsilon, minimum=0, maximum=1)
        self.step_size = checks.number("step_size", step_size, above=0)
        self.max_weight = checks.number("max_weight", max_weight, above=0, minimum=weight)

    def update(self, *, gap: float) -> None:
        """Move the weight by one validation's gap, in [0, 1]."""
        checks.number("gap", gap, minimum=0, maximum=1)
        self.weight.copy_((self.weight + self.step_size * (gap - self.epsilon)).clamp(0.0, self.max_weight))

    def extra_repr(self) -> str:  # noqa: D102
        return f"epsilon={self.epsilon}, weight={float(self.weight):.4g}"
