"""A queue of past embeddings with their labels and groups: partners for anchors whose batch has none."""

from __future__ import annotations

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, gather_rows
from fairloss.core.state import StatefulModule
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
        num_attributes: K of the groups.

    Attributes:
        embeddings: (capacity, dim) float32.
        labels: (capacity,) int64.
        groups: (capacity, num_attributes) int64, -1 = unknown; -2 = a place without a row.
        seen: () int64, rows ever pushed; the next one goes to ``seen % capacity``.

    Note:
        :class:`fairloss.CrossGroupContrastiveLoss` pushes each batch after its loss is computed, in training mode with
        gradients enabled; ``eval()`` and ``no_grad`` leave the queue as it is. Under several processes every rank pushes the
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
        self.register_state("embeddings", torch.zeros(self.capacity, self.dim, dtype=torch.float32))
        self.register_state("labels", torch.zeros(self.capacity, dtype=torch.int64))
        self.register_state("groups", torch.full((self.capacity, self.num_attributes), -1))
        self.register_state("seen", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:  # noqa: D102
        return f"capacity={self.capacity}, dim={self.dim}, num_attributes={self.num_attributes}"

    def rows(self, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings, labels and groups of all places; empty places have the label ``ignore_index``."""
        filled = torch.arange(self.capacity, device=self.seen.device) < self.seen
        filled = filled & (self.groups[:, 0] != _EMPTY)
        return self.embeddings, torch.where(filled, self.labels, ignore_index), self.groups

    @torch.no_grad()
    def push(
        self, embeddings: Tensor, labels: Tensor, groups: Tensor, *, process_group: ProcessGroup | None = None
    ) -> None:
        """Append a batch, oldest rows giving way.

        Args:
            embeddings: (N, dim) floating, of any norm.
            labels: (N,) integer labels.
            groups: (N,) or (N, num_attributes) ids, -1 = unknown.
            process_group: push the batches of all its ranks, in rank order.

        Raises:
            TypeError, ValueError: naming the argument; the queue is unchanged then.
        """
        check_embeddings(embeddings, dim=self.dim)
        same_device("embeddings", embeddings, "the queue", self.embeddings, "queue.to(device)")
        labels = check_labels(labels, embeddings, name="labels")
        ids = check_free_groups(groups, self.num_attributes, embeddings.shape[0], device=embeddings.device)
        rows = unit_rows(embeddings.detach()).to(torch.float32)
        rows, labels, ids = (gather_rows(x, process_group) for x in (rows, labels, ids))
        n = rows.shape[0]
        # Of a batch longer than the queue only the last rows are written: no place is written twice.
        first = max(n - self.capacity, 0)
        place = (self.seen + torch.arange(first, n, device=rows.device)) % self.capacity
        # A row with NaN or infinity (half precision overflows) leaves an empty place: no later batch meets it.
        sound = torch.isfinite(rows).all(1, keepdim=True)
        rows, ids = torch.where(sound, rows, 0.0), torch.where(sound, ids, _EMPTY)
        self.embeddings.index_copy_(0, place, rows[first:])
        self.labels.index_copy_(0, place, labels[first:])
        self.groups.index_copy_(0, place, ids[first:])
        self.seen.add_(n)
