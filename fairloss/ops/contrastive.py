"""The cross-group contrastive loss of every anchor as one streaming op: memory linear in anchors plus keys.

Anchors are taken in blocks of rows, so that a block times all keys stays within a fixed budget; no N x M matrix ever
exists. The forward pass keeps each anchor's logsumexp over its negatives and its number of positives, O(N); the backward
pass recomputes the similarities block by block. The op is opaque to torch.compile: a Python loop over N in a traced graph
would be specialized at every N.

With s_ia = z_i.k_a / T, the positives P(i) and the negatives N(i) of :mod:`fairloss.losses.cross_group_contrastive`:

    lse_i = logsumexp_{a in N(i)} s_ia          loss_i = mean_{p in P(i)} softplus(lse_i - s_ip)
    d loss_i / d s_ip = -sigma(lse_i - s_ip) / |P(i)|
    d loss_i / d s_ia = exp(s_ia - lse_i) sum_p sigma(lse_i - s_ip) / |P(i)|

Rows are scaled to norm 1 inside, in float32 at least: half-precision rows then never exist in a rounded unit form, and
each gradient is rounded once. :mod:`fairloss.ops.contrastive_triton` runs the same op as tiles on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fairloss.core.dtypes import statistics_dtype
from fairloss.ops.derivatives import gradient_with_graph, needs_plain_form
from fairloss.ops.dispatch import use_triton

__all__ = ["contrastive_losses"]

# Similarities a block. On CPU a block costs some forty operations whatever its size, and threads meet after each: blocks of a
# few megabytes. On a GPU a block should fill the device.
_BLOCK_CPU, _BLOCK_GPU = 1 << 20, 1 << 24

MAX_DIM = 1024
"""Columns that the Triton kernel takes."""


class _Block(NamedTuple):
    rows: slice
    similarities: Tensor  # (B, M), divided by the temperature
    not_positive: Tensor  # (B, M) bool
    not_negative: Tensor  # (B, M) bool


def _blocks(
    anchors: Tensor,
    keys: Tensor,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    temperature: float,
    margin: float,
    ignore_label: int,
) -> Iterator[_Block]:
    n, m = anchors.shape[0], keys.shape[0]
    budget = _BLOCK_CPU if anchors.device.type == "cpu" else _BLOCK_GPU
    size = max(1, min(n, budget // max(m, 1)))
    # Blocks of equal size: 255 rows and 1 would take as long as 128 and 128, and more memory.
    size = max(1, -(-n // max(1, -(-n // size))))
    ignored = key_labels == ignore_label  # (M,)
    columns = key_groups.masked_fill(ignored.unsqueeze(1), -1).unbind(1)  # nobody's positives
    known = [column >= 0 for column in columns]
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        similarities = (anchors[rows] / temperature) @ keys.T
        same = labels[rows, None] == key_labels
        not_negative = (similarities <= margin / temperature).logical_or_(same).logical_or_(ignored)
        cross = None
        for own, other, other_known in zip(groups[rows].unsqueeze(2).unbind(1), columns, known, strict=True):
            differs = (own != other).logical_and_(own >= 0).logical_and_(other_known)
            cross = differs if cross is None else cross.logical_or_(differs)
        assert cross is not None
        # An anchor never meets itself: its own row has its label and its groups.
        yield _Block(rows, similarities, cross.logical_and_(same).logical_not_(), not_negative)


def normalize_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of norm 1 and the inverse norms, (N, 1); a row of zeros stays zero, with inverse norm 0 and no gradient."""
    x = x.to(dtype)
    # By the largest entry first: squares of 1e-25 are 0 in float32, those of 1e25 infinite. The result does not depend on
    # this scale, so it needs no gradient.
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    dead = largest < torch.finfo(dtype).tiny
    largest = largest.masked_fill(dead, 1.0)
    y = x / largest
    inverse = (y * y).sum(dim=1, keepdim=True).masked_fill(dead, 1.0).rsqrt().masked_fill(dead, 0.0)
    return y * inverse, inverse / largest


def _unit_rows(
    anchors: Tensor, keys: Tensor, held: Tensor | None, shared: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Unit anchors, unit keys of the batch, both with inverse norms, and all keys."""
    dtype = statistics_dtype(anchors.dtype)
    z = normalize_rows(anchors, dtype)
    own = z if shared else normalize_rows(keys, dtype)
    return z, own, own[0] if held is None else torch.cat([own[0], held.to(dtype)])


def _of_rows(grad: Tensor, z: Tensor, inverse: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient of unit rows to that of the rows they came from."""
    return ((grad - (grad * z).sum(dim=1, keepdim=True) * z) * inverse).to(dtype)


def _obstacle(anchors: Tensor) -> str | None:
    """Why the kernel does not take these rows, None where it does."""
    if anchors.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the rows are {anchors.dtype}; the kernel takes float32, bfloat16 and float16"
    if anchors.shape[1] > MAX_DIM:
        return f"the rows have {anchors.shape[1]} columns; the kernel takes up to {MAX_DIM}"
    return None


def contrastive_losses(
    anchors: Tensor,
    keys: Tensor,
    held: Tensor | None,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    temperature: float,
    margin: float,
    ignore_label: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, logsumexp over negatives and number of positives of every anchor.

    Args:
        anchors: (N, D) floating rows of any norm.
        keys: (L, D) floating rows of any norm, which receive a gradient; ``anchors`` itself where a batch meets itself. An
            anchor may be among the keys: its own row is neither positive nor negative. The kernel rounds keys of a wider
            dtype than the anchors to theirs.
        held: (M - L, D) more keys, a queue's: rows of norm 1, which receive none.
        labels: (N,) int64.
        key_labels: (M,) int64, of the keys and then of those held.
        groups: (N, K) int64, -1 = unknown.
        key_groups: (M, K) int64.
        temperature: T > 0.
        margin: a key of another label is a negative where its cosine is greater.
        ignore_label: keys of this label are no positives and no negatives; anchors of this label have loss 0.

    Returns:
        losses (N,), 0 without positives; logsumexp (N,), -inf without negatives; positives (N,), counts; float32, or float64
        for float64 anchors. The gradient flows through the losses alone.

    Raises:
        RuntimeError: the backend is "triton" and the kernel cannot run (:mod:`fairloss.ops.dispatch`).
    """
    if needs_plain_form():
        return _plain(
            anchors, keys, held, labels, key_labels, groups, key_groups, temperature, margin, ignore_label, keys is anchors
        )  # fmt: skip
    pairs = anchors.shape[0] * key_labels.shape[0]
    triton = use_triton("contrastive_losses", anchors.device, _obstacle(anchors), dtype=anchors.dtype, size=pairs)
    losses, lse, counts, *_ = contrastive_losses_op(
        anchors, keys, held, labels, key_labels, groups, key_groups, temperature, margin, ignore_label, keys is anchors, triton
    )  # fmt: skip
    return losses, lse, counts


def _plain(anchors: Tensor, keys: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The same by operations that have every derivative, with matrices of N x M numbers kept."""
    held, *options, shared = rest
    parts: list[list[Tensor]] = [[], [], []]
    with torch.autocast(anchors.device.type, enabled=False):
        (z, _), _, k = _unit_rows(anchors, keys, held, shared)
        for _, s, not_positive, not_negative in _blocks(z, k, *options):
            alone = not_negative.all(1)  # a logsumexp of nothing has no derivative
            lse = torch.logsumexp(s.masked_fill(not_negative & ~alone.unsqueeze(1), -torch.inf), dim=1)
            x = (lse.unsqueeze(1) - s).masked_fill(not_positive | alone.unsqueeze(1), -torch.inf)
            counts = (~not_positive).sum(1).to(s.dtype)
            losses = F.softplus(x, threshold=40).sum(1) / counts.clamp(min=1)
            for part, value in zip(parts, (losses, lse.masked_fill(alone, -torch.inf), counts), strict=True):
                part.append(value)
    losses, lse, counts = (torch.cat(part) if part else z.new_zeros(0) for part in parts)
    return losses, lse, counts


_Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("fairloss::contrastive_losses", mutates_args=())
def contrastive_losses_op(
    anchors: Tensor,
    keys: Tensor,
    held: Tensor | None,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    temperature: float,
    margin: float,
    ignore_label: int,
    shared: bool,
    triton: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As :func:`contrastive_losses`; ``shared``: the keys are the anchors.

    For its backward pass the kernel keeps the (N,) sums of the positives' pulls, and the rows as it read them with their
    norms (:mod:`fairloss.ops.contrastive_rows_triton`).
    """
    losses, lse, counts, pulls, rows, norms = _empty(anchors, keys, held, shared, triton)
    if anchors.shape[0] == 0:
        return losses, lse, counts, pulls, rows, norms
    if triton:
        from fairloss.ops import contrastive_rows_triton, contrastive_triton

        contrastive_rows_triton.prepare(anchors, keys, held, shared, rows, norms)
        ids = tuple(x.contiguous() for x in (labels, key_labels, groups, key_groups))
        contrastive_triton.forward(rows, norms, ids, losses, lse, counts, pulls, temperature, margin, ignore_label)
        return losses, lse, counts, pulls, rows, norms
    with torch.autocast(anchors.device.type, enabled=False):
        (z, _), _, k = _unit_rows(anchors, keys, held, shared)
        for block, s, not_positive, not_negative in _blocks(
            z, k, labels, key_labels, groups, key_groups, temperature, margin, ignore_label
        ):
            lse[block] = torch.logsumexp(s.masked_fill(not_negative, -torch.inf), dim=1)
            counts[block] = (k.shape[0] - not_positive.sum(1)).to(s.dtype)
            x = torch.sub(lse[block, None], s, out=s).masked_fill_(not_positive, -torch.inf)
            # torch's own threshold, 20, is where softplus(x) - x = 2e-9: too early for float64.
            losses[block] = F.softplus(x, threshold=40).sum(1) / counts[block].clamp(min=1)
    return losses, lse, counts, pulls, rows, norms


def _empty(anchors: Tensor, keys: Tensor, held: Tensor | None, shared: bool, triton: bool) -> _Six:
    n, dtype = anchors.shape[0], statistics_dtype(anchors.dtype)
    # The rows of the kernel: keys of the batch, keys held, and the anchors where those are no keys.
    kept = keys.shape[0] + (0 if held is None else held.shape[0]) + (0 if shared else n) if triton else 0
    losses, lse, counts = (anchors.new_empty(n, dtype=dtype) for _ in range(3))
    pulls, rows = anchors.new_empty(n if triton else 0, dtype=dtype), anchors.new_empty(kept, anchors.shape[1])
    return losses, lse, counts, pulls, rows, anchors.new_empty(2, kept, dtype=torch.float32)


contrastive_losses_op.register_fake(
    lambda anchors, keys, held, *rest: _empty(anchors, keys, held, shared=rest[-2], triton=rest[-1])
)


@torch.library.custom_op("fairloss::contrastive_losses_backward", mutates_args=())
def contrastive_losses_backward(
    grad: Tensor,
    anchors: Tensor,
    keys: Tensor,
    held: Tensor | None,
    labels: Tensor,
    key_labels: Tensor,
    groups: Tensor,
    key_groups: Tensor,
    lse: Tensor,
    counts: Tensor,
    pulls: Tensor,
    rows: Tensor,
    norms: Tensor,
    temperature: float,
    margin: float,
    ignore_label: int,
    shared: bool,
    triton: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of anchors and keys for the gradient (N,) of the losses; that of shared keys is in that of the anchors."""
    if triton and anchors.shape[0] > 0:
        from fairloss.ops import contrastive_triton

        of_anchors, of_keys = _empty_gradients(anchors, keys, shared)
        ids = tuple(x.contiguous() for x in (labels, key_labels, groups, key_groups))
        contrastive_triton.backward(
            rows, norms, ids, grad.contiguous(), lse, counts, pulls, of_anchors, None if shared else of_keys,
            temperature, margin, ignore_label,
        )  # fmt: skip
        return of_anchors, of_keys
    (z, inverse), (own, own_inverse), k = _unit_rows(anchors, keys, held, shared)
    grad_z, grad_k = torch.empty_like(z), torch.zeros_like(own)
    scale = grad / (counts.clamp(min=1) * temperature)  # (N,)
    with torch.autocast(anchors.device.type, enabled=False):
        for block, s, not_positive, not_negative in _blocks(
            z, k, labels, key_labels, groups, key_groups, temperature, margin, ignore_label
        ):
            x = torch.sub(lse[block, None], s, out=s)
            pull = torch.sigmoid(x).masked_fill_(not_positive, 0)
            # Masked after the exponential, which is infinite where an anchor has no negatives; nothing differentiates it.
            push = x.neg_().exp_().masked_fill_(not_negative, 0).mul_(pull.sum(1, keepdim=True))
            grad_s = push.sub_(pull).mul_(scale[block, None])  # (B, M)
            grad_z[block] = grad_s @ k
            grad_k.addmm_(grad_s[:, : own.shape[0]].T, z[block])
    if shared:
        return _of_rows(grad_z.add_(grad_k), z, inverse, anchors.dtype), keys.new_empty(0, keys.shape[1])
    return _of_rows(grad_z, z, inverse, anchors.dtype), _of_rows(grad_k, own, own_inverse, keys.dtype)


def _empty_gradients(anchors: Tensor, keys: Tensor, shared: bool) -> tuple[Tensor, Tensor]:
    of_keys = keys.new_empty(0 if shared else keys.shape[0], keys.shape[1])
    return torch.empty_like(anchors, memory_format=torch.contiguous_format), of_keys


contrastive_losses_backward.register_fake(
    lambda grad, anchors, keys, *rest: _empty_gradients(anchors, keys, shared=rest[-2])
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Six) -> None:
    ctx.set_materialize_grads(False)  # no zeros in place of the statistics' gradients
    ctx.save_for_backward(*inputs[:7], *output[1:])
    ctx.options = inputs[7:]


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 12
    if torch.is_grad_enabled():  # under create_graph=True
        anchors, keys, *others = ctx.saved_tensors[:7]
        options = [*others, *ctx.options[:-1]]
        found = gradient_with_graph(
            lambda a, k: _plain(a, a if options[-1] else k, *options)[:1], [anchors, keys], [grad]
        )
        return (found[0], None if options[-1] else found[1], *[None] * 10)
    of_anchors, of_keys = contrastive_losses_backward(grad, *ctx.saved_tensors, *ctx.options)
    shared = ctx.options[-2]
    return (of_anchors, None if shared else of_keys, *[None] * 10)


contrastive_losses_op.register_autograd(_backward, setup_context=_setup_context)
