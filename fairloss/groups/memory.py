"""Ring buffers of past values, one per group: small batches are ranked on more than the samples they hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, gather_rows
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.state import StatefulModule
from fairloss.core.tensor_checks import per_sample, same_device
from fairloss.groups.ids import check_group_counts, check_groups, group_shares, single_attribute

__all__ = ["GroupMemory", "check_memory"]


class GroupMemory(StatefulModule):
    """The last ``capacity`` values of every group, detached, in float32.

    A batch of two images rarely holds every group, so its own group means say little. With a memory a gap is *ranked* on
    memory plus batch, while its gradient is an unbiased estimate of the full-batch one: each group's statistic is

        acc_g = mean over memory and batch, detached, + S_g - S_g.detach(),    S_g = sum_{i in g} v_i / (n pi_g)

    with n the known samples of the batch and pi_g the group's share: summed over micro-batches, it is the full batch's
    gradient. A plain batch mean in place of S_g weighs a sample by the luck of its batch: at two samples a step a rare
    group's sample stands for half a batch or a whole one, never for its small group.

    Args:
        num_groups: number of groups of the one attribute.
        capacity: values kept per group, >= 1.
        group_counts: training-set counts per group, (num_groups,), for the shares pi_g. Without them the shares are those of
            the samples seen so far.

    Attributes:
        values: (num_groups, capacity) float32, the ring buffers.
        seen: (num_groups,) int64, values ever pushed; the next one goes to ``seen % capacity``.

    Note:
        A loss pushes into its memory in training mode with gradients enabled, once per call; ``eval()`` and ``no_grad`` leave
        it as it is. Under several processes every rank pushes the values of all ranks in rank order, so memories stay
        equal. The state is saved with ``state_dict``, never cast, and not broadcast by DistributedDataParallel.

    Example:
        >>> memory = GroupMemory(2, capacity=4)
        >>> memory.push(torch.tensor([0.5, 1.0, 0.0]), torch.tensor([0, 0, 1]))
        >>> sums, counts = memory.totals()
        >>> sums.tolist(), counts.tolist()
        ([1.5, 0.0], [2.0, 1.0])
    """

    values: Tensor
    seen: Tensor
    counts: Tensor | None

    def __init__(self, num_groups: int, *, capacity: int, group_counts: Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        self.num_groups = single_attribute(num_groups, "GroupMemory")
        self.capacity = checks.integer("capacity", capacity, minimum=1)
        counts = None if group_counts is None else check_group_counts(group_counts, self.num_groups)
        self.register_constant("counts", counts)
        self.register_state("values", torch.zeros(self.num_groups, self.capacity, dtype=torch.float32))
        self.register_state("seen", torch.zeros(self.num_groups, dtype=torch.int64))

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, capacity={self.capacity}"

    def totals(self) -> tuple[Tensor, Tensor]:
        """Sum of the values held and their number, each (num_groups,) float32."""
        filled = self.seen.clamp(max=self.capacity)
        held = torch.arange(self.capacity, device=self.seen.device) < filled.unsqueeze(1)
        return torch.where(held, self.values, 0.0).sum(1), filled.to(torch.float32)

    def rows(self) -> tuple[Tensor, Tensor]:
        """The values of all places, (num_groups * capacity,), and their ids, (num_groups * capacity, 1), -1 where empty."""
        filled = torch.arange(self.capacity, device=self.seen.device) < self.seen.unsqueeze(1)
        group = torch.arange(self.num_groups, device=self.seen.device).unsqueeze(1)
        return self.values.reshape(-1), torch.where(filled, group, -1).reshape(-1, 1)

    def shares(self, batch_counts: Tensor) -> Tensor:
        """pi_g, (num_groups,): from ``group_counts``, else from all samples seen, the batch's ``batch_counts`` included."""
        counts = self.counts if self.counts is not None else self.seen + batch_counts.detach()
        return group_shares(counts.to(statistics_dtype(batch_counts.dtype)))

    @torch.no_grad()
    def push(self, values: Tensor, groups: Tensor, *, process_group: ProcessGroup | None = None) -> None:
        """Append a batch, oldest values giving way.

        Samples of unknown group are passed over, and so are NaN and infinite values: one overflow in half precision would
        otherwise stay in the group's mean until the buffer has gone round.

        Args:
            values: (N,) floating values.
            groups: (N,) ids.
            process_group: push the batches of all its ranks, in rank order.

        Raises:
            TypeError, ValueError: as :func:`fairloss.groups.ids.check_groups`; the memory is unchanged then.
        """
        per_sample("values", values)
        same_device("values", values, "the memory", self.values)
        ids = check_groups(groups, self.num_groups, values.shape[0], device=values.device).gathered(process_group)
        values = gather_rows(values.detach().to(torch.float32), process_group)
        ids = ids.known(torch.isfinite(values))
        slots = ids.slots()  # (N,); unknown: one past the end
        counts = ids.sum(torch.ones_like(slots))  # (G,) int64
        order = torch.argsort(slots, stable=True)
        slots, values = slots[order], values[order]
        # Tables with a place for the unknown, so that their slot can be looked up as well.
        counts_u = torch.cat([counts, slots.new_zeros(1)])
        seen_u = torch.cat([self.seen, slots.new_zeros(1)])
        rank = torch.arange(slots.shape[0], device=slots.device) - (counts_u.cumsum(0) - counts_u)[slots]
        # Of a group with more samples than places only the last ones are written: no place is written twice.
        keep = (slots < self.num_groups) & (rank >= counts_u[slots] - self.capacity)
        place = slots * self.capacity + (seen_u[slots] + rank) % self.capacity
        spare = self.num_groups * self.capacity
        flat = torch.cat([self.values.reshape(-1), self.values.new_zeros(1)])
        flat = flat.index_copy(0, torch.where(keep, place, spare), values)
        self.values.copy_(flat[:spare].reshape(self.values.shape))
        self.seen.add_(counts)


def check_memory(memory: GroupMemory | None, num_groups: tuple[int, ...], device: torch.device | None = None) -> None:
    """Raise unless ``memory`` is None or fits the one attribute, and lies on the ``device`` of the samples."""
    if memory is None:
        return
    if not isinstance(memory, GroupMemory):
        raise TypeError(expected("memory", "a fairloss.GroupMemory", type(memory).__name__))
    size = single_attribute(num_groups, "a memory")
    if memory.num_groups != size:
        raise ValueError(expected("memory", f"{size} groups, as num_groups says", memory.num_groups))
    if device is not None:
        same_device("memory", memory.values, "the batch", device)
