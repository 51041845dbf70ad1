"""Overlap of masks, per sample, so that any grouping and any average can follow.

Dice = 2 |A and B| / (|A| + |B|), IoU = |A and B| / |A or B|. Where both masks are empty neither is defined: the value
is ``empty``, NaN by default, which the group means leave out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fairloss.core.checks import expected
from fairloss.metrics.arrays import Floats, as_array
from fairloss.metrics.rates import ratio

__all__ = ["dice", "iou"]


def dice(
    y_true: Any,
    y_pred: Any,
    *,
    num_classes: int | None = None,
    include_background: bool = True,
    empty: float = float("nan"),
) -> Floats:
    """2 |A and B| / (|A| + |B|) of each sample's masks; 1 means equal masks, 0 disjoint ones.

    Args:
        y_true: (N, *spatial) masks of 0 and 1, or with ``num_classes`` integer label maps.
        y_pred: the same shape: hard decisions, not scores.
        num_classes: number of classes of label maps.
        include_background: whether class 0 of label maps is returned.
        empty: the value where both masks are empty.

    Returns:
        (N,) for masks, (N, C) for label maps (without background (N, C - 1)).

    Raises:
        ValueError: different shapes, no spatial dimension, values other than the accepted.

    Example:
        >>> dice([[1, 1, 0, 0]], [[1, 0, 0, 0]]).round(4).tolist()
        [0.6667]
    """
    both, true, pred = _overlap(y_true, y_pred, num_classes, include_background)
    value = ratio(2 * both, true + pred)
    return np.where(true + pred > 0, value, empty)


def iou(
    y_true: Any,
    y_pred: Any,
    *,
    num_classes: int | None = None,
    include_background: bool = True,
    empty: float = float("nan"),
) -> Floats:
    """|A and B| / |A or B| of each sample's masks; 1 means equal masks, 0 disjoint ones.

    Args:
        y_true: as in :func:`dice`.
        y_pred: as there.
        num_classes: as there.
        include_background: as there.
        empty: as there.

    Returns:
        (N,) for masks, (N, C) for label maps (without background (N, C - 1)).

    Raises:
        ValueError: different shapes, no spatial dimension, values other than the accepted.

    Example:
        >>> iou([[1, 1, 0, 0]], [[1, 0, 0, 0]]).tolist()
        [0.5]
    """
    both, true, pred = _overlap(y_true, y_pred, num_classes, include_background)
    union = true + pred - both
    return np.where(union > 0, ratio(both, union), empty)


def _overlap(y_true: Any, y_pred: Any, num_classes: int | None, background: bool) -> tuple[Floats, Floats, Floats]:
    """(N,) or (N, C) sizes of the intersection, of the true and of the predicted mask."""
    true, pred = as_array(y_true, "y_true"), as_array(y_pred, "y_pred")
    if true.shape != pred.shape or true.ndim < 2:
        shapes = f"shapes {true.shape} and {pred.shape}"
        raise ValueError(expected("y_true and y_pred", "equal shapes (N, *spatial)", shapes))
    n = len(true)
    pixels = int(np.prod(true.shape[1:]))  # spelled out: there may be no sample
    true, pred = true.reshape(n, pixels), pred.reshape(n, pixels)
    top = 2 if num_classes is None else num_classes
    for name, mask in (("y_true", true), ("y_pred", pred)):
        whole = mask.dtype.kind in "biu" or (mask.dtype.kind == "f" and bool((mask == np.floor(mask)).all()))
        if not whole or (mask.size and (mask.min() < 0 or mask.max() >= top)):
            raise ValueError(
                expected(name, f"whole numbers 0 .. {top - 1}", "others", "pass hard decisions, not scores")
            )
    if num_classes is None:
        a, b = true.astype(bool), pred.astype(bool)
        sizes = [m.sum(axis=1, dtype=np.float64) for m in (a & b, a, b)]
    else:
        rows = np.arange(n)[:, None] * num_classes
        size = n * num_classes
        code_true, code_pred = rows + true.astype(np.int64), rows + pred.astype(np.int64)
        codes = (code_true[true == pred], code_true.ravel(), code_pred.ravel())
        sizes = [np.bincount(c, minlength=size).reshape(n, num_classes).astype(np.float64) for c in codes]
        sizes = [s if background else s[:, 1:] for s in sizes]
    return sizes[0], sizes[1], sizes[2]
