"""Overlap of masks, per sample and class, so that any grouping and any average can follow.

Dice = 2 |A and B| / (|A| + |B|), IoU = |A and B| / |A or B|. Where both masks are empty neither is defined: the value
is ``empty``, NaN by default, which the group means leave out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import expected
from fairloss.metrics.arrays import Bools, Floats, as_array
from fairloss.metrics.rates import ratio

__all__ = ["dice", "iou"]


def dice(
    y_true: Any,
    y_pred: Any,
    *,
    num_classes: int | None = None,
    channels: bool | None = None,
    include_background: bool = True,
    ignore_index: int | None = None,
    empty: float = float("nan"),
) -> Floats:
    """2 |A and B| / (|A| + |B|) of each sample's masks; 1 means equal masks, 0 disjoint ones.

    Args:
        y_true: (N, *spatial) masks of 0 and 1, with ``num_classes`` integer label maps; or (N, C, *spatial), a mask of 0
            and 1 for each class, as one-hot encoding makes them.
        y_pred: the same shape: hard decisions, not scores.
        num_classes: number of classes of label maps.
        channels: whether axis 1 holds classes, or regions that overlap. None says so where each pixel of ``y_true`` or
            ``y_pred`` has one class. It needs to be told of (N, a, b) masks of which this is true, and of other masks of
            0 and 1 in four axes or more: regions that overlap, or a volume.
        include_background: whether class 0 is returned.
        ignore_index: value of ``y_true`` at pixels that count for nothing (with ``channels``, in any channel).
        empty: the value where both masks are empty.

    Returns:
        (N,) for masks, (N, C) for label maps and classes in channels (without background (N, C - 1)).

    Raises:
        ValueError: different shapes, no spatial dimension, values other than the accepted, masks that can be read in two
            ways.

    Example:
        >>> dice([[1, 1, 0, 0]], [[1, 0, 0, 0]]).round(4).tolist()
        [0.6667]
    """
    both, true, pred = _overlap(y_true, y_pred, num_classes, channels, include_background, ignore_index)
    value = ratio(2 * both, true + pred)
    return np.where(true + pred > 0, value, empty)


def iou(
    y_true: Any,
    y_pred: Any,
    *,
    num_classes: int | None = None,
    channels: bool | None = None,
    include_background: bool = True,
    ignore_index: int | None = None,
    empty: float = float("nan"),
) -> Floats:
    """|A and B| / |A or B| of each sample's masks; 1 means equal masks, 0 disjoint ones.

    Args:
        y_true: as in :func:`dice`.
        y_pred: as there.
        num_classes: as there.
        channels: as there.
        include_background: as there.
        ignore_index: as there.
        empty: as there.

    Returns:
        As :func:`dice`.

    Raises:
        ValueError: as :func:`dice`.

    Example:
        >>> iou([[1, 1, 0, 0]], [[1, 0, 0, 0]]).tolist()
        [0.5]
    """
    both, true, pred = _overlap(y_true, y_pred, num_classes, channels, include_background, ignore_index)
    union = true + pred - both
    return np.where(union > 0, ratio(both, union), empty)


def _overlap(
    y_true: Any, y_pred: Any, num_classes: int | None, channels: bool | None, background: bool, ignore_index: int | None
) -> tuple[Floats, Floats, Floats]:
    """(N,) or (N, C) sizes of the intersection, of the true and of the predicted mask."""
    true, pred = as_array(y_true, "y_true"), as_array(y_pred, "y_pred")
    if true.shape != pred.shape or true.ndim < 2:
        shapes = f"shapes {true.shape} and {pred.shape}"
        raise ValueError(expected("y_true and y_pred", "equal shapes (N, *spatial)", shapes))
    ignored = np.zeros(true.shape, dtype=bool) if ignore_index is None else true == ignore_index
    by_class = channels if channels is not None else _one_hot(true, pred, ignored, num_classes)
    if by_class:
        if true.ndim < 3 or num_classes not in (None, true.shape[1]):
            wanted = f"{num_classes or 'C'} classes in axis 1 of (N, C, *spatial)"
            raise ValueError(expected("y_true", wanted, f"shape {true.shape}", "pass channels=False for label maps"))
        ignored, num_classes = np.broadcast_to(ignored.any(axis=1, keepdims=True), true.shape), None
    n, columns = len(true), true.shape[1] if by_class else 1
    pixels = int(np.prod(true.shape[2 if by_class else 1 :]))  # spelled out: there may be no sample
    true, pred, known = (m.reshape(n, columns, pixels) for m in (true, pred, ~ignored))
    top = 2 if num_classes is None else num_classes
    for name, mask in (("y_true", true[known]), ("y_pred", pred[known])):
        whole = mask.dtype.kind in "biu" or (mask.dtype.kind == "f" and bool((mask == np.floor(mask)).all()))
        if not whole or (mask.size and (mask.min() < 0 or mask.max() >= top)):
            cure = "pass hard decisions, not scores"
            raise ValueError(expected(name, f"whole numbers 0 .. {top - 1}", "others", cure))
    if num_classes is None:
        a, b = (true == 1) & known, (pred == 1) & known
        sizes = [m.sum(axis=2, dtype=np.float64) for m in (a & b, a, b)]
    else:
        code = [
            np.arange(n)[:, None] * num_classes + np.where(known, m, 0)[:, 0].astype(np.int64) for m in (true, pred)
        ]
        seen = known[:, 0]
        codes = (code[0][seen & (code[0] == code[1])], code[0][seen], code[1][seen])
        counted = [np.bincount(c, minlength=n * num_classes) for c in codes]
        sizes = [c.reshape(n, num_classes).astype(np.float64) for c in counted]
    if num_classes is None and not by_class:
        sizes = [s[:, 0] for s in sizes]
    elif not background:
        sizes = [s[:, 1:] for s in sizes]
    return sizes[0], sizes[1], sizes[2]


def _one_hot(true: NDArray[Any], pred: NDArray[Any], ignored: Bools, num_classes: int | None) -> bool:
    """Whether axis 1 holds classes: every pixel that counts has exactly one 1 along it.

    Raises:
        ValueError: masks of one spatial dimension with channels, which may be masks of two; classes on the last axis;
            regions that overlap, which may be slices of a volume.
    """
    masks = [m for m in (true, pred) if m.dtype.kind in "biuf" and bool(((m == 0) | (m == 1) | ignored).all())]

    def one_along(axis: int) -> bool:
        return any(bool((((m == 1).sum(axis=axis) == 1) | ignored.any(axis=axis)).all()) for m in masks)

    if true.ndim < 3 or not true.size:
        return False
    among = f"classes in axis 1, or masks or label maps of {true.ndim - 1} dimensions, that can be told apart"
    cure, fits = "pass channels=True or channels=False", num_classes in (None, true.shape[1])
    if true.ndim > 3 and true.shape[-1] > 1 and one_along(-1):
        among, given = "classes in axis 1", "exactly one 1 along the last axis at every pixel"
        cure = "pass np.moveaxis(mask, -1, 1) where it holds classes, channels= where it is of space"
    elif true.shape[1] > 1 and one_along(1):
        if true.ndim > 3 and fits:
            return True
        if true.ndim == 3 and not fits:
            return False
        given = "exactly one 1 along axis 1 at every pixel"
    elif true.ndim > 3 and true.shape[1] > 1 and fits and len(masks) == 2:
        given = "0 and 1 in regions that overlap, or in slices of a volume"
    else:
        return False
    raise ValueError(expected("channels", among, f"shape {true.shape} with {given}", cure))
