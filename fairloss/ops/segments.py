"""Sums and counts by group: ``index_add``, or one op for the Triton kernel beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairloss.ops.derivatives import needs_plain_form
from fairloss.ops.dispatch import use_triton

__all__ = ["MAX_GROUPS", "row_totals", "segment_sums", "segment_totals"]

MAX_GROUPS = 1024
"""Groups that the Triton kernel takes."""


def segment_sums(values: Tensor, slots: Tensor, groups: int) -> Tensor:
    """Sums (G, ...) of (N, ...) values by their (N,) slots in 0 .. G, of which G is no group; differentiable in the values."""
    return segment_totals(values, slots, groups)[0] if _on_kernel(values, groups) else _index_add(values, slots, groups)


def segment_totals(values: Tensor, slots: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The same sums, and counts (G,) in the dtype of the values, without gradient."""
    if _on_kernel(values, groups):
        columns = values.unsqueeze(1) if values.ndim == 1 else values.flatten(1)
        sums, counts = _totals_op(columns, slots, groups)
        return sums.reshape(groups, *values.shape[1:]), counts.detach()
    ones = torch.ones_like(slots, dtype=values.dtype)
    return _index_add(values, slots, groups), _index_add(ones, slots, groups)


def row_totals(values: Tensor, rows: Tensor, groups: int, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums and counts (G,) of (N,) values by their rows in 0 .. G, of which 0 is no group, in as few operations as there are.

    ``present``, (N,) bool, is False for values whose row is 0, and may be for no others; it is for the count alone.
    """
    if _on_kernel(values, groups):
        return segment_totals(values, rows - 1, groups)
    present = values.new_ones(values.shape) if present is None else present
    totals = values.new_zeros((2, groups + 1)).index_add(1, rows, torch.stack([values, present]))
    return totals[0, 1:], totals[1, 1:].detach()


def _index_add(values: Tensor, slots: Tensor, groups: int) -> Tensor:
    sums = values.new_zeros((groups + 1, *values.shape[1:]))
    return sums.index_add(0, slots, values)[:groups]


def _on_kernel(values: Tensor, groups: int) -> bool:
    # Integers add up the same in any order: index_add serves them everywhere.
    return (
        values.dtype.is_floating_point
        and not needs_plain_form()
        and use_triton(
            "segment_sums", values.device, _obstacle(values, groups), dtype=values.dtype, size=values.numel()
        )
    )


def _obstacle(values: Tensor, groups: int) -> str | None:
    """Why the kernel does not take these values, None where it does."""
    if values.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        return f"the values are {values.dtype}; the kernel takes float16, bfloat16, float32 and float64"
    if groups > MAX_GROUPS:
        return f"there are {groups} groups; the kernel takes up to {MAX_GROUPS}"
    return None


@torch.library.custom_op("fairloss::segment_totals", mutates_args=())
def _totals_op(values: Tensor, slots: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    if values.numel() == 0:
        return values.new_zeros(groups, values.shape[1]), values.new_zeros(groups)
    from fairloss.ops import segments_triton

    return segments_triton.totals(values.contiguous(), slots.contiguous(), groups)


@_totals_op.register_fake
def _(values: Tensor, slots: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return values.new_empty(groups, values.shape[1]), values.new_empty(groups)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # no zeros in place of the counts' gradient
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, grad_sums: Tensor | None, grad_counts: Tensor | None) -> tuple[Tensor | None, None, None]:
    return None if grad_sums is None else _lookup_op(grad_sums, *ctx.saved_tensors), None, None


_totals_op.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("fairloss::segment_lookup", mutates_args=())
def _lookup_op(table: Tensor, slots: Tensor) -> Tensor:
    """Rows (N, F) of a (G, F) table by slot, 0 for those in no group: the adjoint of the sums."""
    from fairloss.ops import segments_triton

    return segments_triton.lookup(table.contiguous(), slots.contiguous())


_lookup_op.register_fake(lambda table, slots: table.new_empty(slots.shape[0], table.shape[1]))


def _lookup_setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.groups = inputs[0].shape[0]
    ctx.save_for_backward(inputs[1])


def _lookup_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _totals_op(grad, *ctx.saved_tensors, ctx.groups)[0], None


_lookup_op.register_autograd(_lookup_backward, setup_context=_lookup_setup_context)
