"""What the losses on embeddings share: checks of (embeddings, target, groups), unit rows."""

from __future__ import annotations

import torch
from torch import Tensor

from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import same_device
from fairloss.ops.contrastive import unit


def check_embeddings(embeddings: Tensor, *, name: str = "embeddings") -> None:
    """Raise unless ``embeddings`` is a floating tensor (N, D) with D >= 1."""
    if not isinstance(embeddings, Tensor):
        raise TypeError(f"{name}: a tensor is needed, {type(embeddings).__name__} was given")
    if not embeddings.dtype.is_floating_point:
        raise TypeError(f"{name}: floating values are needed, {embeddings.dtype} was given")
    if embeddings.ndim != 2 or embeddings.shape[1] == 0:
        raise ValueError(f"{name}: shape (N, D) is needed, {tuple(embeddings.shape)} was given")


def check_labels(target: Tensor, embeddings: Tensor, *, name: str = "target") -> Tensor:
    """One integer label a row of ``embeddings``, as (N,) int64."""
    n = embeddings.shape[0]
    if not isinstance(target, Tensor):
        raise TypeError(f"{name}: a tensor of integer labels is needed, {type(target).__name__} was given")
    if target.dtype.is_floating_point or target.dtype.is_complex:
        raise TypeError(f"{name}: integer or bool labels are needed, {target.dtype} was given")
    if target.ndim != 1 or target.shape[0] != n:
        raise ValueError(f"{name}: one label for each of the {n} rows is needed, {tuple(target.shape)} was given")
    same_device(name, target, "the batch", embeddings)
    return target.to(torch.int64)


def check_classes(
    target: Tensor, embeddings: Tensor, num_classes: int, ignore_index: int, *, name: str = "target"
) -> Tensor:
    """As :func:`check_labels`, for labels 0 .. ``num_classes`` - 1 and ``ignore_index``.

    The label out of range is shown for CPU tensors in eager mode; elsewhere the check is asynchronous.
    """
    labels = check_labels(target, embeddings, name=name)
    bad = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        if bool(bad.any()):
            accepted = f"0 .. {num_classes - 1}, and {ignore_index} to ignore"
            raise ValueError(f"{name}: label {int(labels[bad][0])} is out of range; accepted are {accepted}")
    else:
        torch._assert_async(~bad.any(), f"{name}: label out of range")
    return labels


def unit_rows(x: Tensor) -> Tensor:
    """Rows scaled to norm 1 in float32 at least; a row of zeros stays zero and receives no gradient.

    (``torch.nn.functional.normalize`` multiplies the gradient of such a row, a dead unit's, by 1e12.)
    """
    return unit(x, statistics_dtype(x.dtype))[0]
