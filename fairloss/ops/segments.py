"""Sums and counts by group: ``index_add``, or one op for the Triton kernel beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairloss.ops.dispatch import use_triton

__all__ = ["MAX_GROUPS", "obstacle", "segment_moments", "segment_sums", "segment_totals"]

MAX_GROUPS = 1024


def obstacle(values: Tensor, groups: int) -> str | None:
    """Why the kernel does not take these values, None where it does."""
    if values.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        return f"the values are {values.dtype}; the kernel takes float16, bfloat16, float32 and float64"
    if groups > MAX_GROUPS:
        return f"there are {groups} groups; the kernel takes up to {MAX_GROUPS}"
    return None


def segment_sums(values: Tensor, slots: Tensor, groups: int) -> Tensor:
    """Sums (G, ...) of (N, ...) values by their (N,) slots in 0 .. G, of which G is no group; differentiable in the values."""
    if _on_kernel(values, groups):
        return segment_moments(values, slots, groups, 1)[1][0]
    return _index_add(values, slots, groups)


def segment_totals(values: Tensor, slots: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The same sums, and counts (G,) in the dtype of the values."""
    if _on_kernel(values, groups):
        counts, sums = segment_moments(values, slots, groups, 1)
        return sums[0], counts
    ones = torch.ones_like(slots, dtype=values.dtype)
    return _index_add(values, slots, groups), _index_add(ones, slots, groups)


def _on_kernel(values: Tensor, groups: int) -> bool:
    # Integers add up the same in any order: index_add serves them everywhere.
    return values.dtype.is_floating_point and use_triton("segment_sum", values, obstacle(values, groups))


def _index_add(values: Tensor, slots: Tensor, groups: int) -> Tensor:
    sums = values.new_zeros((groups + 1, *values.shape[1:]))
    return sums.index_add(0, slots, values)[:groups]


def segment_moments(values: Tensor, slots: Tensor, groups: int, order: int) -> tuple[Tensor, Tensor]:
    """Counts (G,), without gradient, and sums (order, G, ...) of values (order 1) and of their squares (order 2).

    Args:
        values: (N, ...) floating.
        slots: (N,) int64; values outside 0 .. G-1 are in no group.
        groups: G.
        order: 1 or 2.
    """
    columns = values.unsqueeze(1) if values.ndim == 1 else values.flatten(1)
    counts, sums = _moments(columns, slots, groups, order)
    return counts.detach(), sums.reshape(order, groups, *values.shape[1:])


@torch.library.custom_op("fairloss::segment_moments", mutates_args=())
def _moments(values: Tensor, slots: Tensor, groups: int, order: int) -> tuple[Tensor, Tensor]:
    if values.numel() == 0:
        return values.new_zeros(groups), values.new_zeros(order, groups, values.shape[1])
    from fairloss.ops import segments_triton

    return segments_triton.moments(values.contiguous(), slots.contiguous(), groups, order)


@_moments.register_fake
def _(values: Tensor, slots: Tensor, groups: int, order: int) -> tuple[Tensor, Tensor]:
    return values.new_empty(groups), values.new_empty(order, groups, values.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: tuple[Tensor, Tensor]) -> None:
    values, slots, ctx.groups, ctx.order = inputs
    ctx.save_for_backward(values, slots)


def _backward(ctx: Any, grad_counts: Tensor, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
    values, slots = ctx.saved_tensors
    # The row past the end is that of samples in no group.
    known = torch.where((slots >= 0) & (slots < ctx.groups), slots, ctx.groups)
    padded = torch.cat([grad_sums, grad_sums.new_zeros(ctx.order, 1, grad_sums.shape[2])], dim=1)
    grad = padded[0][known]
    if ctx.order == 2:
        grad = grad + 2 * values * padded[1][known]
    return grad, None, None, None


_moments.register_autograd(_backward, setup_context=_setup_context)
