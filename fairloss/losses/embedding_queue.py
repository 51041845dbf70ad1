"""A queue of past embeddings with their labels and groups: partners for anchors whose batch has none."""

from __future__ import annotations

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, gather_rows
from fairloss.core.state import StatefulModule, Step
from fairloss.core.tensor_checks import same_device
from fairloss.groups.ids import check_free_groups
from fairloss.losses.embeddings import check_embeddings, check_labels, unit_rows

__all__ = ["EmbeddingQueue"]

_EMPTY = -2  # as a group id: a place whose row was not finite


class EmbeddingQueue(StatefulModule):
    """The last ``capacity`` embeddings, detached and L2-normalized in float32, with label and groups of each.

    In a small batch many anchors have no sample of their label from another group; a queue of past batches supplies them.
    The encoder moves on while entries wait, so keep the queue to a few dozen batches (the last ones still match).

    Args:
        capacity: rows kept, >= 1; a batch longer than this leaves its last rows.
        dim: D of the embeddings.
        num_attributes: K of the groups (default 1).

    Attributes:
        embeddings: (2 * capacity, dim) float32: the rows held, and those held before the latest push.
        labels: (2 * capacity,) int64.
        groups: (2 * capacity, num_attributes) int64, -1 = unknown; -2 = a place without a row.
        seen: () int64, rows ever kept; the next one goes to ``seen % (2 * capacity)``.

    Note:
        :class:`fairloss.CrossGroupContrastiveLoss` pushes each batch after its loss is computed, in training mode with
        gradients enabled, once also under activation checkpointing; ``eval()``, ``no_grad`` and :func:`fairloss.frozen` leave
        the queue as it is. Under several processes every rank pushes the
        rows of all ranks in rank order, so the queues stay equal. The state is saved with ``state_dict``, pointer included,
        never cast, and not broadcast by DistributedDataParallel.

    Example:
        >>> queue = EmbeddingQueue(capacity=4, dim=2)
        >>> queue.push(torch.tensor([[3.0, 4.0]]), torch.tensor([1]), torch.tensor([0]))
        >>> embeddings, labels, groups = queue.rows(ignore_index=-100)
        >>> embeddings[0].tolist(), labels.tolist()
        ([0.6, 0.8], [1, -100, -100, -100])
    """

    embeddings: Tensor
    labels: Tensor
    groups: Tensor
    seen: Tensor

    def __init__(self, capacity: int, *, dim: int, num_attributes: int = 1) -> None:
        super().__init__()
        self.capacity = checks.integer("capacity", capacity, minimum=1)
        self.dim = checks.integer("dim", dim, minimum=1)
        self.num_attributes = checks.integer("num_attributes", num_attributes, minimum=1)
        self.register_state("embeddings", (2 * self.capacity, self.dim), torch.float32)
        self.register_state("labels", (2 * self.capacity,), torch.int64)
        self.register_state("groups", (2 * self.capacity, self.num_attributes), torch.int64, fill=-1)
        self.register_state("seen", (), torch.int64, counted=True)

    def extra_repr(self) -> str:  # noqa: D102
        return f"capacity={self.capacity}, dim={self.dim}, num_attributes={self.num_attributes}"

    def rows(self, ignore_index: int, *, step: Step | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings, labels and groups of ``capacity`` places; empty ones have the label ``ignore_index``. In a counted call,
        before it.
        """
        seen = self.base("seen", step)
        place = torch.arange(self.capacity, device=seen.device)
        row = seen - 1 - (seen - 1 - place) % self.capacity  # the latest that went to the place
        place = row % (2 * self.capacity)
        groups = self.groups[place]
        filled = (row >= 0) & (groups[:, 0] != _EMPTY)
        return self.embeddings[place], torch.where(filled, self.labels[place], ignore_index), groups

    @torch.no_grad()
    def push(
        self,
        embeddings: Tensor,
        labels: Tensor,
        groups: Tensor,
        *,
        process_group: ProcessGroup | None = None,
        step: Step | None = None,
    ) -> None:
        """Append a batch, oldest rows giving way.

        Args:
            embeddings: (N, dim) floating, of any norm.
            labels: (N,) integer labels.
            groups: (N,) or (N, num_attributes) ids, -1 = unknown.
            process_group: push the batches of all its ranks, in rank order.
            step: the call of a loss that this is part of; without one it counts in any mode and at every run.

        Raises:
            TypeError, ValueError: naming the argument; the queue is unchanged then.
        """
        check_embeddings(embeddings, dim=self.dim)
        same_device("embeddings", embeddings, "the queue", self.embeddings, "queue.to(device)")
        labels = check_labels(labels, embeddings, name="labels")
        ids = check_free_groups(groups, self.num_attributes, embeddings.shape[0], device=embeddings.device)
        rows = unit_rows(embeddings.detach()).to(torch.float32)
        rows, labels, ids = (gather_rows(x, process_group) for x in (rows, labels, ids))
        # Of a batch longer than the queue only the last rows are kept: no place is written twice.
        first = max(rows.shape[0] - self.capacity, 0)
        rows, labels, ids = rows[first:], labels[first:], ids[first:]
        # A row with NaN or infinity (half precision overflows) leaves an empty place: no later batch meets it.
        sound = torch.isfinite(rows).all(1, keepdim=True)
        rows, ids = torch.where(sound, rows, 0.0), torch.where(sound, ids, _EMPTY)
        step = self.begin_by_hand() if step is None else step
        # Twice as many places as rows: what was held before this push stays readable, for a repeat of it.
        seen = self.base("seen", step)
        place = (seen + torch.arange(rows.shape[0], device=rows.device)) % (2 * self.capacity)
        for state, batch in ((self.embeddings, rows), (self.labels, labels), (self.groups, ids)):
            self.write(step, state, place, batch)
        self.end(step, seen=seen + rows.shape[0])
