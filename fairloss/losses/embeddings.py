"""What the losses on embeddings share: checks of (embeddings, target), unit rows."""

from __future__ import annotations

import torch
from torch import Tensor

from fairloss.core.checks import expected
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import all_inside, floating, same_device, whole
from fairloss.ops.contrastive import normalize_rows

__all__ = ["check_classes", "check_embeddings", "check_labels", "unit_rows"]


def check_embeddings(embeddings: Tensor, *, name: str = "embeddings", dim: int | None = None) -> None:
    """Raise unless ``embeddings`` is a floating tensor (N, D) with D = ``dim``, or any D >= 1."""
    floating(name, embeddings, "(N, D)", 2)
    if embeddings.shape[1] == 0 or (dim is not None and embeddings.shape[1] != dim):
        raise ValueError(expected(name, f"shape (N, {'D' if dim is None else dim})", tuple(embeddings.shape)))


def check_labels(target: Tensor, embeddings: Tensor, *, name: str = "target") -> Tensor:
    """One integer label per row of ``embeddings``, as (N,) int64."""
    whole(name, target, "labels")
    if target.ndim != 1 or target.shape[0] != embeddings.shape[0]:
        wanted = f"shape ({embeddings.shape[0]},), one label per row"
        raise ValueError(expected(name, wanted, tuple(target.shape)))
    same_device(name, target, "the batch", embeddings)
    return target.to(torch.int64)


def check_classes(target: Tensor, embeddings: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """As :func:`check_labels`, for labels 0 .. ``num_classes`` - 1 and ``ignore_index``."""
    labels = check_labels(target, embeddings)
    inside = (labels == ignore_index) | ((labels >= 0) & (labels < num_classes))
    all_inside("target", labels, inside, f"labels 0 .. {num_classes - 1}, and {ignore_index} to ignore")
    return labels


def unit_rows(x: Tensor) -> Tensor:
    """Rows scaled to norm 1 in float32 at least; a row of zeros stays zero and receives no gradient.

    (``torch.nn.functional.normalize`` multiplies the gradient of such a row, a dead unit's, by 1e12.)
    """
    return normalize_rows(x, statistics_dtype(x.dtype))[0]
