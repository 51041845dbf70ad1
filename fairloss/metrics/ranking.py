"""Area under the receiver operating characteristic curve, weighted, for many sets of weights at once.

AUC = P(score of a positive > score of a negative) + P(equal) / 2. The FairMedFM paper prints the formula without the
second term (``ties="zero"``); its released code, like scikit-learn, counts a tie as one half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import choice
from fairloss.core.options import given_options, with_options
from fairloss.metrics.arrays import Bools, Floats, Ints
from fairloss.metrics.predictions import BINARY_OPTIONS, Predictions, ReadingOptions, as_predictions
from fairloss.metrics.rates import ratio

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["auc", "auc_by_group", "weighted_auc"]

Ties = Literal["half", "zero"]


@with_options(BINARY_OPTIONS, ReadingOptions)
def auc(
    y_true: Any,
    y_score: Any,
    *,
    sample_weight: Any = None,
    ties: Ties = "half",
    **options: Unpack[ReadingOptions],
) -> float:
    """Area under the ROC curve of binary labels; 0.5 is chance, 1 a perfect ranking.

    Args:
        y_true: (N,) labels 0 and 1, or two others with ``positive``.
        y_score: (N,) scores of any range, larger for the positive class, or (N, 2) probabilities.
        sample_weight: (N,) non-negative weights; an integer weight equals that many repetitions.
        ties: a positive and a negative of equal score count ``"half"``, or ``"zero"`` (FairMedFM's printed formula).
        options: by keyword.

    Returns:
        The area, NaN where one of the two classes is absent.

    Raises:
        ValueError: labels that are no two classes, scores that are not finite, shapes that do not fit.

    Example:
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75
    """
    pred = as_predictions(y_true, y_score, task="binary", **given_options(options, BINARY_OPTIONS))
    if sample_weight is None and ties == "half" and pred.known is None:
        return unweighted_auc(pred.ranking[:, 0], pred.target[:, 0])
    weight = pred.weights(sample_weight)
    return float(weighted_auc(pred.ranking[:, 0], pred.target[:, 0], weight[None], ties=ties)[0])


def auc_by_group(pred: Predictions, ids: Ints, num_groups: int, weight: Floats) -> Floats:
    """(G, K) areas of each group's samples and each of the (N, K) one-vs-rest columns; samples with id -1 are left out."""
    score, positive = pred.ranking, pred.target
    found = np.full((num_groups, score.shape[1]), np.nan)
    if not len(ids):
        return found
    order: slice | Ints = slice(None)
    ends = np.array([0, len(ids)])
    if num_groups > 1 or ids.min() < 0:
        # Samples in order of their groups: a group is a slice. NumPy sorts 16-bit integers by radix.
        order = np.argsort(ids.astype(np.int16) if num_groups < 1 << 15 else ids, kind="stable")
        ends = np.bincount(ids + 1, minlength=num_groups + 1).cumsum()
    equal = weight.min() == weight.max() > 0
    weight = weight if equal else weight[order]
    for k in range(score.shape[1]):
        s, p = score[order, k], positive[order, k]
        known = None if pred.known is None else pred.known[order, k]
        for g in range(num_groups):
            at: slice | Ints = slice(int(ends[g]), int(ends[g + 1]))
            at = at if known is None else ends[g] + np.flatnonzero(known[at])
            found[g, k] = unweighted_auc(s[at], p[at]) if equal else weighted_auc(s[at], p[at], weight[None, at])[0]
    return found


def unweighted_auc(score: Floats, positive: Bools) -> float:
    """Area of samples of equal weight, from exact counts of pairs; NaN where one of the two classes is absent."""
    negatives, positives = score[~positive], score[positive]
    negatives.sort()
    positives.sort()
    pairs = len(negatives) * len(positives)
    if not pairs:
        return float("nan")
    # Below a positive, and below or equal to it: a tie counts one half.
    left = negatives.searchsorted(positives, side="left")
    right = negatives.searchsorted(positives, side="right")
    return (int(left.sum()) + int(right.sum())) / (2 * pairs)


def weighted_auc(score: Floats, positive: Bools, weight: NDArray[Any], *, ties: Ties = "half") -> Floats:
    """(R,) areas for R rows of weights (R, N): one sort, then cumulative sums, O(R N)."""
    choice("ties", ties, get_args(Ties))
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
