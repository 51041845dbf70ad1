"""Ring buffers of past values, one per group: small batches are ranked on more than the samples they hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, gather_rows
from fairloss.core.state import StatefulModule, Step
from fairloss.core.tensor_checks import floating, same_device
from fairloss.groups.ids import GroupIds, GroupTable, check_groups, check_num_groups
from fairloss.groups.stream import attribute_sums, check_shares, decayed, estimate_scale

__all__ = ["GroupMemory", "check_memory", "check_memory_type"]


class GroupMemory(StatefulModule):
    """The last ``capacity`` values of every group, detached, in float32.

    A batch of two images rarely holds every group, so its own group means say little. With a memory a gap is *ranked* on
    memory plus batch, while its gradient is an unbiased estimate of the full-batch one: each group's statistic is

        acc_g = mean over memory and batch, detached, + S_g - S_g.detach(),    S_g = sum_{i in g} v_i / (n pi_g)

    with n the known samples of the batch and pi_g the group's share of the stream that the batches are drawn from: summed
    over micro-batches, it is the full batch's gradient. A plain batch mean in place of S_g weighs a sample by the luck of its
    batch: at two samples a step a rare group's sample stands for half a batch or a whole one, never for its small group.

    Args:
        num_groups: number of groups; a tuple for several attributes, each with buffers of its own.
        capacity: values kept per group, >= 1.
        shares: the groups' shares pi_g of the stream, (num_groups,), in any unit; for several attributes one list each. By
            default they are counted: from the samples seen, whatever sampler draws them, half of the count being forgotten
            every 10,000 samples.
        max_weight: cap on 1 / pi_g in the gradient, >= 1: a group seen for the first time would weigh as much as the stream
            (default 20).

    Attributes:
        values: (G, 2 * capacity) float32, G the groups of all attributes: ring buffers of the values held, and of those held
            before the latest push.
        seen: (G,) int64, values ever kept; the next one goes to ``seen % (2 * capacity)``.
        stream: (G,) float64, the decaying counts.

    Note:
        A loss pushes into its memory in training mode with gradients enabled, once per call, also under activation
        checkpointing; ``eval()``, ``no_grad`` and :func:`fairloss.frozen` leave it as it is. Under several processes every
        rank pushes the values of all ranks in rank order, so memories stay equal. The state is saved with ``state_dict``,
        never cast, and not broadcast by DistributedDataParallel.

    Example:
        >>> memory = GroupMemory(2, capacity=4)
        >>> memory.push(torch.tensor([0.5, 1.0, 0.0]), torch.tensor([0, 0, 1]))
        >>> sums, counts = memory.totals()
        >>> sums.tolist(), counts.tolist()
        ([1.5, 0.0], [2.0, 1.0])
    """

    values: Tensor
    seen: Tensor
    stream: Tensor
    shares: Tensor | None

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        capacity: int,
        shares: GroupTable | None = None,
        max_weight: float = 20.0,
    ) -> None:
        super().__init__()
        self.num_groups = check_num_groups(num_groups)
        self.capacity = checks.integer("capacity", capacity, minimum=1)
        self.max_weight = checks.number("max_weight", max_weight, minimum=1)
        total = sum(self.num_groups)
        self.register_constant("shares", check_shares(shares, self.num_groups))
        self.register_state("values", (total, 2 * self.capacity), torch.float32)
        self.register_state("seen", (total,), torch.int64, counted=True)
        self.register_state("stream", (total,), torch.float64, counted=True)

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, capacity={self.capacity}"

    def totals(self, *, step: Step | None = None) -> tuple[Tensor, Tensor]:
        """Sum of the values held and their number, each (G,) float32; in a counted ``step``, before it."""
        seen = self.base("seen", step).unsqueeze(1)
        size = 2 * self.capacity
        held = (seen - 1 - torch.arange(size, device=seen.device)) % size < seen.clamp(max=self.capacity)
        return torch.where(held, self.values, 0.0).sum(1), held.sum(1, dtype=torch.float32)

    def rows(self, *, step: Step | None = None) -> tuple[Tensor, Tensor]:
        """The values held, (G * capacity,), and their ids, (G * capacity, K): of their own attribute, -1 elsewhere.

        Empty places have the id -1 in all. In a counted ``step``, before it.
        """
        seen = self.base("seen", step).unsqueeze(1)
        age = torch.arange(self.capacity, device=seen.device)
        filled = age < seen
        columns = []
        for k, size in enumerate(self.num_groups):
            start = sum(self.num_groups[:k])
            group = torch.arange(-start, sum(self.num_groups) - start, device=seen.device).unsqueeze(1)
            columns.append(torch.where(filled & (group >= 0) & (group < size), group, -1).reshape(-1))
        return self.values.gather(1, (seen - 1 - age) % (2 * self.capacity)).reshape(-1), torch.stack(columns, 1)

    def scale(self, batch_counts: Tensor, *, step: Step | None = None) -> Tensor:
        """min(1 / pi_g, max_weight) / n, (G,), the batch's ``batch_counts`` included in the stream."""
        stream = self.shares if self.shares is not None else self._streamed(batch_counts, step)
        return estimate_scale(batch_counts.detach(), stream, self.num_groups, self.max_weight)

    def _streamed(self, counts: Tensor, step: Step | None) -> Tensor:
        counts = counts.detach()
        return decayed(self.base("stream", step), counts, attribute_sums(counts, self.num_groups))

    @torch.no_grad()
    def push(
        self, values: Tensor, groups: Tensor, *, process_group: ProcessGroup | None = None, step: Step | None = None
    ) -> None:
        """Append a batch, oldest values giving way.

        Samples of unknown group are passed over, and so are NaN and infinite values: one overflow in half precision would
        otherwise stay in the group's mean until the buffer has gone round.

        Args:
            values: (N,) floating values, or (N, K) of K attributes.
            groups: (N,) or (N, K) ids.
            process_group: push the batches of all its ranks, in rank order.
            step: the call of a loss that this is part of; without one it counts in any mode and at every run.

        Raises:
            TypeError, ValueError: as :func:`fairloss.groups.ids.check_groups`; the memory is unchanged then.
        """
        floating("values", values)
        k = len(self.num_groups)
        if values.ndim != 1 and (k == 1 or values.shape != (*values.shape[:1], k)):
            raise ValueError(expected("values", "shape (N,)" + f" or (N, {k})" * (k > 1), tuple(values.shape)))
        same_device("values", values, "the memory", self.values, "memory.to(device)")
        ids = check_groups(groups, self.num_groups, values.shape[0], device=values.device).gathered(process_group)
        values = gather_rows(values.detach().to(torch.float32), process_group)
        # Every attribute's own value, or the one of all.
        values = values.reshape(-1) if values.ndim == 2 else ids.per_attribute(values)
        known = torch.isfinite(values).reshape(ids.ids.shape)
        ids = GroupIds(ids.ids.masked_fill(~known, -1), ids.sizes)
        step = self.begin_by_hand() if step is None else step
        slots = ids.slots()  # (N * K,); unknown: one past the end
        total = sum(self.num_groups)
        counts = slots.new_zeros(total + 1).index_add(0, slots, torch.ones_like(slots))[:-1]
        order = torch.argsort(slots, stable=True)
        slots, values = slots[order], values[order]
        # Tables with a place for the unknown, so that their slot can be looked up as well.
        counts_u = torch.cat([counts, slots.new_zeros(1)])
        seen = self.base("seen", step)
        seen_u = torch.cat([seen, slots.new_zeros(1)])
        spilt = (counts_u - self.capacity).clamp(min=0)  # of a group with more samples than places the last are kept
        rank = torch.arange(slots.shape[0], device=slots.device) - (counts_u.cumsum(0) - counts_u)[slots]
        keep = (slots < total) & (rank >= spilt[slots])
        # Twice as many places as values: what was held before this push stays readable, for a repeat of it.
        size, spare = 2 * self.capacity, self.values.numel()
        place = slots * size + (seen_u[slots] + rank - spilt[slots]) % size
        flat = torch.cat([self.values.reshape(-1), self.values.new_zeros(1)])
        self.write(step, flat, torch.where(keep, place, spare), torch.where(keep, values, 0.0))
        self.values.copy_(flat[:spare].reshape(self.values.shape))
        self.end(step, seen=seen + counts.clamp(max=self.capacity), stream=self._streamed(counts, step))


def check_memory_type(memory: object) -> None:
    """Raise unless ``memory`` is None or a :class:`GroupMemory`."""
    if memory is not None and not isinstance(memory, GroupMemory):
        raise TypeError(expected("memory", "a fairloss.GroupMemory", type(memory).__name__))


def check_memory(
    memory: GroupMemory | None,
    num_groups: tuple[int, ...],
    device: torch.device | None = None,
    what: str = "num_groups",
) -> None:
    """Raise unless ``memory`` is None or has those groups, and lies on the ``device`` of the samples."""
    check_memory_type(memory)
    if memory is None:
        return
    if memory.num_groups != num_groups:
        own, wanted = (" and ".join(map(str, sizes)) for sizes in (memory.num_groups, num_groups))
        raise ValueError(expected("memory", f"{wanted} groups, as {what} says", own))
    if device is not None:
        same_device("memory", memory.values, "the batch", device, "criterion.to(device) moves both")
