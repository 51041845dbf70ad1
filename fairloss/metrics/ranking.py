"""Area under the receiver operating characteristic curve, weighted, for many sets of weights at once.

AUC = P(score of a positive > score of a negative) + P(equal) / 2. The FairMedFM paper prints the formula without the
second term (``ties="zero"``); its released code, like scikit-learn, counts a tie as one half.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fairloss.metrics._inputs import Floats, as_predictions, as_weight
from fairloss.metrics.rates import ratio

__all__ = ["auc", "weighted_auc"]

Ties = Literal["half", "zero"]


def auc(y_true: Any, y_score: Any, *, sample_weight: Any = None, ties: Ties = "half") -> float:
    """Area under the ROC curve of binary labels; 0.5 is chance, 1 a perfect ranking.

    Args:
        y_true: (N,) labels 0 and 1.
        y_score: (N,) scores of any range, larger for the positive class.
        sample_weight: (N,) non-negative weights; an integer weight equals that many repetitions.
        ties: a positive and a negative of equal score count ``"half"``, or ``"zero"`` (FairMedFM's printed formula).

    Returns:
        The area, NaN where one of the two classes is absent.

    Raises:
        ValueError: labels other than 0 and 1, scores that are not finite, shapes that do not fit.

    Example:
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75
    """
    pred = as_predictions(y_true, y_score, task="binary")
    assert pred.score is not None
    weight = as_weight(sample_weight, len(pred))
    return float(weighted_auc(pred.score[:, 0], pred.target[:, 0], weight[None], ties=ties)[0])


def weighted_auc(score: Floats, positive: NDArray[np.bool_], weight: NDArray[Any], *, ties: Ties = "half") -> Floats:
    """(R,) areas for R rows of weights (R, N): one sort, then cumulative sums, O(R N)."""
    if ties not in ("half", "zero"):
        raise ValueError(f"ties: {ties!r} was given; accepted are half, zero")
    share = 0.5 if ties == "half" else 0.0
    negatives, positives = score[~positive], score[positive]
    order = np.argsort(negatives)
    negatives = negatives[order]
    # (R, M + 1): weight of the m lowest negatives.
    below = np.zeros((len(weight), len(negatives) + 1))
    np.cumsum(weight[:, ~positive][:, order], axis=1, out=below[:, 1:])
    # Searched for in their own order, the positives find neighbours in the cache.
    order = np.argsort(positives)
    positives, w_pos = positives[order], weight[:, positive][:, order]
    left = np.searchsorted(negatives, positives, side="left")
    right = np.searchsorted(negatives, positives, side="right")
    won = np.einsum("rp,rp->r", w_pos, below[:, left], dtype=np.float64)
    tied = left < right
    if share and tied.any():
        equal = below[:, right[tied]] - below[:, left[tied]]
        won += share * np.einsum("rp,rp->r", w_pos[:, tied], equal, dtype=np.float64)
    total = w_pos.sum(axis=1, dtype=np.float64) * below[:, -1]
    return ratio(won, total)
