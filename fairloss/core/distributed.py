"""Sums over processes with gradient, and rank-ordered gathers.

Every loss with a ``process_group`` returns the same global value on every rank. The all-reduce of sums has an all-reduce
of gradients as its backward: with W ranks each rank's gradient is then W times its own share of the global gradient, and
the mean that DistributedDataParallel takes gives exactly the gradient of one process holding the whole batch. Without
DistributedDataParallel, sum the gradients over ranks and divide by the world size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fairloss.core.checks import expected

ProcessGroup = Any
"""A ``torch.distributed.ProcessGroup``; ``None`` means this process alone, even where torch.distributed is initialized."""


def check_process_group(process_group: ProcessGroup | None) -> None:
    """Raise unless ``process_group`` is None or a process group of an initialized torch.distributed."""
    if process_group is None:
        return
    if not (dist.is_available() and dist.is_initialized()):
        cure = "pass None for a single process"
        raise ValueError(expected("process_group", "an initialized torch.distributed", "none", cure))
    if not isinstance(process_group, dist.ProcessGroup):
        wanted = "a torch.distributed.ProcessGroup (torch.distributed.group.WORLD for all ranks)"
        raise TypeError(expected("process_group", wanted, type(process_group).__name__))


class SavedProcessGroup(NamedTuple):
    """What a copy or pickle of a module keeps of its process group: the name and the ranks."""

    name: str
    ranks: tuple[int, ...]

    def here(self) -> ProcessGroup | None:
        """The group of that name and those ranks in this process, None where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return None
        try:
            group = dist.distributed_c10d._resolve_process_group(self.name)  # type: ignore[attr-defined,arg-type]
        except RuntimeError:
            return None
        return group if tuple(dist.get_process_group_ranks(group)) == self.ranks else None


def saved_process_group(process_group: ProcessGroup) -> SavedProcessGroup:
    """What a copy keeps of ``process_group``, which cannot be copied itself."""
    return SavedProcessGroup(process_group.group_name, tuple(dist.get_process_group_ranks(process_group)))


def _all_reduce(x: Tensor, process_group: ProcessGroup) -> Tensor:
    # Functional collectives: traced whole by torch.compile, unlike torch.distributed.nn, which is deprecated.
    import torch.distributed._functional_collectives as funcol

    out: Tensor = funcol.wait_tensor(funcol.all_reduce(x.contiguous(), "sum", process_group))
    return out


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, process_group: ProcessGroup) -> Tensor:
        ctx.process_group = process_group
        return _all_reduce(x, process_group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(grad, ctx.process_group), None


def all_reduce_sum(x: Tensor, process_group: ProcessGroup | None) -> Tensor:
    """Sum of ``x`` over ranks, differentiable; ``x`` itself where ``process_group`` is None."""
    if process_group is None:
        return x
    return _AllReduceSum.apply(x, process_group)  # type: ignore[no-any-return]


def all_reduce_sums(tensors: Sequence[Tensor], process_group: ProcessGroup | None) -> list[Tensor]:
    """Sums of several floating tensors over ranks in one call, each in its own shape and dtype."""
    if process_group is None:
        return list(tensors)
    flat = torch.cat([t.reshape(-1).to(torch.float64) for t in tensors])
    pieces = all_reduce_sum(flat, process_group).split([t.numel() for t in tensors])
    return [piece.reshape(t.shape).to(t.dtype) for piece, t in zip(pieces, tensors, strict=True)]


def _row_counts(x: Tensor, process_group: ProcessGroup) -> list[int]:
    size = dist.get_world_size(process_group)
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(size)]
    dist.all_gather(counts, torch.tensor([x.shape[0]], device=x.device), group=process_group)
    return [int(c) for c in torch.cat(counts).tolist()]


def gather_rows(x: Tensor, process_group: ProcessGroup | None) -> Tensor:
    """Rows of all ranks in rank order, without gradient; batches may differ in length.

    The lengths are exchanged first, which waits for the device and cannot be traced into one graph: this is for memories,
    queues and the losses that need the whole batch on every rank; with a ``process_group`` those do not compile whole.
    """
    x = x.detach()
    if process_group is None:
        return x
    counts = _row_counts(x, process_group)
    longest = max(counts)
    padded = x.new_zeros((longest, *x.shape[1:]))
    padded[: x.shape[0]] = x
    # Bool tensors do not travel over every backend.
    wire = padded.to(torch.uint8) if x.dtype == torch.bool else padded
    gathered = [torch.empty_like(wire) for _ in counts]
    dist.all_gather(gathered, wire, group=process_group)
    return torch.cat([g[:count] for g, count in zip(gathered, counts, strict=True)]).to(x.dtype)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, process_group: ProcessGroup) -> Tensor:
        counts = _row_counts(x, process_group)
        ctx.start = sum(counts[: dist.get_rank(process_group)])
        ctx.rows, ctx.process_group = x.shape[0], process_group
        return gather_rows(x, process_group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(grad, ctx.process_group)[ctx.start : ctx.start + ctx.rows], None


def gather_rows_with_gradient(x: Tensor, process_group: ProcessGroup | None) -> Tensor:
    """As :func:`gather_rows`; the gradients of all ranks are summed and each rank takes its own rows."""
    if process_group is None:
        return x
    return _GatherRows.apply(x, process_group)  # type: ignore[no-any-return]
