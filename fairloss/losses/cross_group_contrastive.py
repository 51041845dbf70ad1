"""Cross-group supervised contrastive learning: samples of one label are drawn together across groups.

Paper: FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, section 3.4. The default averages over
the anchors that have a positive, so that the scale does not follow the batch size; ``variant="paper"`` sums. The printed
ratio -log(e^{s_p} / (e^{s_p} + sum_a e^{s_a})) is computed as softplus(logsumexp_a s_a - s_p), which is the same number and
overflows nowhere. With several attributes a pair is cross-group if some attribute is known in both and differs (the paper's
d_p != d_i on vectors).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import (
    ProcessGroup,
    all_reduce_sums,
    check_process_group,
    gather_rows,
    gather_rows_with_gradient,
)
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import same_device
from fairloss.groups.ids import check_free_groups, check_groups, check_num_groups
from fairloss.losses.embedding_queue import EmbeddingQueue
from fairloss.losses.embeddings import check_embeddings, check_labels
from fairloss.ops.contrastive import contrastive_losses

__all__ = ["ContrastiveParts", "ContrastiveVariant", "CrossGroupContrastiveLoss", "cross_group_contrastive"]

ContrastiveVariant = Literal["default", "paper"]


class ContrastiveParts(NamedTuple):
    """The loss and what it is made of.

    Attributes:
        loss: scalar.
        anchor_losses: (N,) a loss per anchor of this rank, 0 without positives.
        positives: (N,) number of positives of each.
        live_fraction: scalar, share of all anchors that have a positive; near 0 the loss teaches next to nothing, and a
            memory, a larger batch or :class:`fairloss.GroupBatchSampler` is called for.
    """

    loss: Tensor
    anchor_losses: Tensor
    positives: Tensor
    live_fraction: Tensor


def _check_options(
    temperature: float,
    margin: float,
    memory: EmbeddingQueue | None,
    ignore_index: int,
    variant: str,
    process_group: ProcessGroup | None,
) -> None:
    checks.number("temperature", temperature, above=0)
    checks.number("margin", margin, minimum=-2, maximum=1)
    if memory is not None and not isinstance(memory, EmbeddingQueue):
        raise TypeError(expected("memory", "a fairloss.EmbeddingQueue", type(memory).__name__))
    checks.integer("ignore_index", ignore_index, minimum=-(2**63))
    checks.choice("variant", variant, ("default", "paper"))
    check_process_group(process_group)


def cross_group_contrastive(
    embeddings: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | tuple[int, ...] | None = None,
    temperature: float = 0.07,
    margin: float = 0.3,
    memory: EmbeddingQueue | None = None,
    ignore_index: int = -100,
    variant: ContrastiveVariant = "default",
    process_group: ProcessGroup | None = None,
    return_parts: bool = False,
) -> Tensor | ContrastiveParts:
    """Cross-group supervised contrastive loss as a function; see :class:`CrossGroupContrastiveLoss`.

    A ``memory`` in training mode takes the batch in where gradients are enabled.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> cross_group_contrastive(z, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), temperature=0.5)
        tensor(0.6895)
    """
    _check_options(temperature, margin, memory, ignore_index, variant, process_group)
    parts = _parts(
        embeddings, target, groups, num_groups, temperature, margin, memory, ignore_index, variant, process_group
    )
    return parts if return_parts else parts.loss


def _parts(
    embeddings: Tensor,
    target: Tensor,
    groups: Tensor,
    num_groups: int | tuple[int, ...] | None,
    temperature: float,
    margin: float,
    memory: EmbeddingQueue | None,
    ignore_index: int,
    variant: str,
    process_group: ProcessGroup | None,
) -> ContrastiveParts:
    check_embeddings(embeddings, dim=None if memory is None else memory.dim)
    n = embeddings.shape[0]
    labels = check_labels(target, embeddings)
    if num_groups is None:
        ids = check_free_groups(groups, None if memory is None else memory.num_attributes, n, device=embeddings.device)
    else:
        ids = check_groups(groups, num_groups, n, device=embeddings.device).ids
    if memory is not None:
        if memory.num_attributes != ids.shape[1]:
            raise ValueError(expected("groups", f"{memory.num_attributes} attributes, as the memory has", ids.shape[1]))
        same_device("memory", memory.embeddings, "the batch", embeddings, "criterion.to(device) moves both")

    # Rows are scaled to norm 1 inside the op; gradients of several ranks are summed in float32 at least.
    batch_keys = embeddings
    if process_group is not None:
        batch_keys = gather_rows_with_gradient(embeddings.to(statistics_dtype(embeddings.dtype)), process_group)
    held = None
    key_labels = batch_labels = gather_rows(labels, process_group)
    key_ids = batch_ids = gather_rows(ids, process_group)
    if memory is not None:
        step = memory.begin()
        if step is not None:
            memory.push(batch_keys, batch_labels, batch_ids, step=step)
        held, held_labels, held_ids = memory.rows(ignore_index, step=step)  # the batch is among its own keys already
        key_labels, key_ids = torch.cat([key_labels, held_labels]), torch.cat([key_ids, held_ids])
    losses, _, positives = contrastive_losses(
        embeddings, batch_keys, held, labels, key_labels, ids, key_ids, float(temperature), float(margin), int(ignore_index)
    )  # fmt: skip
    positives = positives.detach()
    live, everyone = (positives > 0).to(positives.dtype), torch.ones_like(positives)
    total, live_count, count = all_reduce_sums([losses.sum(), live.sum(), everyone.sum()], process_group)
    loss = total if variant == "paper" else total / live_count.detach().clamp(min=1)
    return ContrastiveParts(loss, losses, positives, (live_count / count.clamp(min=1)).detach())


class CrossGroupContrastiveLoss(ConstantsModule):
    """Supervised contrastive loss whose positives come from other groups.

    With unit embeddings z, s_ij = z_i.z_j / temperature, positives P(i) = {same label, another group} and hard negatives
    N(i) = {another label, z_i.z_a > margin}:

        loss = mean over anchors i with a positive of  mean_{p in P(i)} softplus(logsumexp_{a in N(i)} s_ia - s_ip)

    0 means that no anchor has both a positive and a negative within the margin: there is nothing to tell apart. Samples of
    the same group and label are neither drawn together nor pushed apart.

    Args:
        num_groups: where given (a tuple for several attributes), ids are checked against it; the loss itself only compares
            them.
        temperature: T > 0, of cosines (default 0.07).
        margin: a cosine; samples of another label count as negatives only above it. -2 keeps all of them (default 0.3).
        memory: an :class:`fairloss.EmbeddingQueue` of past batches: more positives and negatives, without gradient.
        ignore_index: samples of this label take no part (default -100).
        variant: ``"default"``, or ``"paper"``: the sum over anchors.
        process_group: makes the loss that of all its ranks' samples; embeddings are gathered with gradient.

    Shape:
        - embeddings: (N, D) float16 to float64, of any norm (computed in float32 at least)
        - target: (N,) integer labels
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown. A pair is cross-group if some attribute is known in both
          and differs
        - output: scalar, float32 (float64 for float64 embeddings); :class:`ContrastiveParts` with ``return_parts=True``

    Raises:
        TypeError, ValueError: naming the argument, before any work or change of state.

    Note:
        Anchors without a positive, such as those of unknown group, are left out and not counted; unknown samples serve as
        negatives. No anchor with a positive: 0, and ``backward()`` works. Memory is O((N + M) D) for M keys, never N x M;
        the price is that the backward pass computes the similarities again. The choice of negatives by the margin is not
        differentiated. Time grows as N (N + memory capacity) D. With
        the Triton kernel (docs/kernels.md; off by default) half-precision embeddings meet the memory's rows in their own
        precision. Second derivatives, forward mode and ``torch.func`` keep an N x M matrix. Under
        DistributedDataParallel each rank computes its own anchors against all ranks' keys; the gathers wait for the device.

    Example:
        >>> loss = CrossGroupContrastiveLoss(temperature=0.5)
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
        >>> parts = loss(z, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), return_parts=True)
        >>> parts.loss, parts.live_fraction
        (tensor(0.6895), tensor(0.6667))

    References:
        FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, section 3.4;
        Khosla et al., *Supervised Contrastive Learning*, 2020.

    Reference:
        FairMed-VLM, section 3.4: https://openreview.net/forum?id=DtbykQBmE5

    See Also:
        :class:`MomentAlignmentLoss`, :class:`ConceptAlignmentLoss`, :class:`EmbeddingQueue`
    """

    _OPTIONS = option_names(cross_group_contrastive, without=("return_parts",))

    def __init__(
        self,
        num_groups: int | tuple[int, ...] | None = None,
        *,
        temperature: float = 0.07,
        margin: float = 0.3,
        memory: EmbeddingQueue | None = None,
        ignore_index: int = -100,
        variant: ContrastiveVariant = "default",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        _check_options(temperature, margin, memory, ignore_index, variant, process_group)
        self.num_groups = None if num_groups is None else check_num_groups(num_groups)
        self.temperature, self.margin, self.memory = temperature, margin, memory
        self.ignore_index, self.variant, self.process_group = ignore_index, variant, process_group

    def forward(
        self, embeddings: Tensor, target: Tensor, groups: Tensor, *, return_parts: bool = False
    ) -> Tensor | ContrastiveParts:
        """Loss of a batch; see the class."""
        parts = _parts(embeddings, target, groups, **options_of(self, self._OPTIONS))
        return parts if return_parts else parts.loss

    def extra_repr(self) -> str:  # noqa: D102
        return f"temperature={self.temperature}, margin={self.margin}, variant={self.variant!r}"
