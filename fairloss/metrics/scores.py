"""Scores as probabilities or as logits: what is checked of them, and how a logit becomes a probability.

Logits are worked with in float64 whatever their type. Ranks are those of log-odds, which keep apart what a probability
near 0 or 1 rounds together.
"""

from __future__ import annotations

import numpy as np

from fairloss.core.checks import expected
from fairloss.metrics.arrays import Floats

__all__ = [
    "EDGE",
    "LIKE_PROBABILITIES",
    "ROW_SUM",
    "class_log_odds",
    "outside",
    "positive_column",
    "refuse_probabilities",
    "sigmoid",
    "sums_to_one",
]

EDGE = 1e-3
"""How far a probability may lie outside [0, 1]: half precision and averages round."""
ROW_SUM = 1e-2
"""How far the sum of a row of probabilities may lie from 1."""


LIKE_PROBABILITIES = expected(
    "logits",
    "False for probabilities",
    "True beside scores that all lie in [0, 1]",
    "they are taken as logits, cut at 0",
)
"""The warning where scores that were said to be logits look like probabilities."""


def outside(score: Floats) -> tuple[float, float] | None:
    """Smallest and largest score where they reach outside [0, 1] by more than :data:`EDGE`, else None."""
    if not score.size:
        return None
    low, high = float(score.min()), float(score.max())
    return (low, high) if low < -EDGE or high > 1 + EDGE else None


def sums_to_one(score: Floats, tolerance: float = ROW_SUM) -> bool:
    """Whether every row of (N, C) scores adds up to 1."""
    return bool((np.abs(score.sum(axis=1) - 1) <= tolerance).all())


def sigmoid(logit: Floats) -> Floats:
    """1 / (1 + exp(-logit)), without overflow."""
    small = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1.0, small) / (1 + small))


def class_log_odds(logits: Floats) -> tuple[Floats, Floats]:
    """(N, C) softmax probabilities of logits, and log(p / (1 - p)) of each, which is z_c - log sum_{j != c} exp(z_j)."""
    n, columns = logits.shape
    shifted = logits - logits.max(axis=1, keepdims=True)
    parts = np.exp(shifted)
    others = np.empty((n, columns))
    for c in range(columns):  # a difference of sums would lose the small ones
        rest = np.delete(logits, c, axis=1)
        top = rest.max(axis=1)
        others[:, c] = top + np.log(np.exp(rest - top[:, None]).sum(axis=1))
    return parts / parts.sum(axis=1, keepdims=True), logits - others


def positive_column(score: Floats, column: int, *, logits: bool) -> tuple[Floats, Floats | None]:
    """(N, 1) score of the positive class among two columns, and its log-odds where the columns are logits.

    Raises:
        ValueError: columns that are no probabilities of two classes, or logits that are.
    """
    whole = outside(score) is None and sums_to_one(score)
    if logits:
        refuse_probabilities(score)
        odds = (score[:, column] - score[:, 1 - column])[:, None]
        return sigmoid(odds), odds
    if not whole:
        low, high = float(score.min()), float(score.max())
        sums = score.sum(axis=1)
        given = f"scores {low:g} .. {high:g} whose rows sum to {sums.min():g} .. {sums.max():g}"
        cure = (
            "pass logits=True where they are logits, or task='multilabel' with (N, 2) labels where they are two labels"
        )
        raise ValueError(expected("y_pred", "two columns of probabilities that sum to 1", given, cure))
    return np.clip(score[:, [column]], 0.0, 1.0), None


def refuse_probabilities(score: Floats, name: str = "y_pred") -> None:
    """Raise where (N, C) columns declared as logits can hardly be anything but probabilities."""
    if len(score) > 1 and outside(score) is None and sums_to_one(score, EDGE):
        given = f"True beside rows of {name} that sum to 1"
        raise ValueError(expected("logits", "False for probabilities", given))
