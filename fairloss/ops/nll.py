"""Negative log-likelihood of integer targets: streamed over blocks of rows, or dense for small numbers of classes.

Streamed: the loss of a row needs nothing of the logits' size but its gradient: the forward keeps a few floats a row, the
backward recomputes each block's softmax straight into the gradient, and half-precision logits are widened one block at a time.
Logits that are no single run of rows, such as a slice over tokens, are read where they lie. A Python loop over rows would
specialize a compiled graph at every number of rows, so the loops live in custom ops, which torch.compile treats as leaves.
:mod:`fairloss.ops.nll_triton` reads the logits once forward and once backward, a launch each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import on_host
from fairloss.ops.derivatives import gradient_with_graph, needs_plain_form
from fairloss.ops.dispatch import use_triton

__all__ = ["dense_nll", "nll"]

# Elements a block. On the CPU a megabyte of float32, which stays in the cache between its passes; elsewhere a block costs eight
# launches whatever its size, and 8,192 tokens of a vocabulary of 152,000 should be some twenty blocks.
_BLOCK_CPU, _BLOCK_GPU = 1 << 18, 1 << 26
# Logits from which on the dense form below is worth its Python.
_DENSE_FROM = 1 << 18


def nll(logits: Tensor, target: Tensor, ignore_index: int = -100) -> Tensor:
    """-log softmax(x_i)_{t_i}, 0 where ignored.

    Args:
        logits: (..., V) floating.
        target: (...) int64 in 0 .. V-1, or ``ignore_index``; an error elsewhere, on a device asynchronously.
        ignore_index: the target of rows that count for nothing.

    Returns:
        (...) float32, or float64 for float64 logits.

    Raises:
        RuntimeError: the backend is "triton" and the kernel cannot run (:mod:`fairloss.ops.dispatch`).
    """
    if needs_plain_form():
        return _plain(logits, target, ignore_index)
    triton = use_triton("nll", logits.device, _obstacle(logits), dtype=logits.dtype, size=logits.numel())
    losses: Tensor = nll_op(logits, target, ignore_index, triton)[0]
    return losses


def _plain(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """The same by operations that have every derivative, with a tensor of the logits' size kept."""
    ignored = target == ignore_index
    logp = torch.log_softmax(logits, -1, dtype=statistics_dtype(logits.dtype))
    return -logp.gather(-1, target.masked_fill(ignored, 0).unsqueeze(-1)).squeeze(-1).masked_fill(ignored, 0.0)


def _obstacle(logits: Tensor) -> str | None:
    """Why the kernel does not take these logits, None where it does."""
    if logits.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the logits are {logits.dtype}; the kernel takes float32, bfloat16 and float16"
    if logits.stride(-1) != 1 and logits.shape[-1] > 1:
        return "the logits of a row do not lie side by side; call .contiguous()"
    return None


def _blocks(logits: Tensor, *rest: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of rows of (..., V) logits, each with its rows of the others, (...) or (..., V); all of them views."""
    try:
        rows = [t.view(-1, *t.shape[logits.ndim - 1 :]) for t in (logits, *rest)]
    except RuntimeError:  # a slice over tokens: view by view of the leading dimension
        for part in zip(logits, *rest, strict=True):
            yield from _blocks(*part)
        return
    block = _BLOCK_CPU if logits.device.type == "cpu" else _BLOCK_GPU
    size = max(1, block // max(1, logits.shape[-1]))
    yield from zip(*(t.split(size) for t in rows), strict=True)


@torch.library.custom_op("fairloss::nll", mutates_args=())
def nll_op(logits: Tensor, target: Tensor, ignore_index: int, triton: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`nll`; the kernel also keeps each row's largest logit and its sum of exponentials, (...) float32."""
    target = target.contiguous()
    if triton:
        from fairloss.ops import nll_triton

        return nll_triton.forward(logits, target, ignore_index)
    out, top, total = _empty(logits, target, triton)
    ignored = target == ignore_index
    for x, t, o in _blocks(logits, target.masked_fill(ignored, 0), out):
        logp = torch.log_softmax(x, dim=1, dtype=out.dtype)
        torch.neg(logp.gather(1, t.unsqueeze(1)).squeeze(1), out=o)
    return out.masked_fill_(ignored, 0.0), top, total


def _empty(logits: Tensor, target: Tensor, triton: bool) -> tuple[Tensor, Tensor, Tensor]:
    dtype, kept = statistics_dtype(logits.dtype), target.shape if triton else (0,)
    out, top, total = (logits.new_empty(shape, dtype=dtype) for shape in (target.shape, kept, kept))
    return out, top, total


nll_op.register_fake(lambda logits, target, ignore_index, triton: _empty(logits, target, triton))


@torch.library.custom_op("fairloss::nll_backward", mutates_args=())
def _nll_backward(
    grad: Tensor, logits: Tensor, target: Tensor, top: Tensor, total: Tensor, ignore_index: int, triton: bool
) -> Tensor:
    """(softmax(x_i) - onehot(t_i)) g_i, in the dtype of the logits; rows that are ignored get 0."""
    grad, target = grad.contiguous(), target.contiguous()
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if triton:
        from fairloss.ops import nll_triton

        nll_triton.backward(grad, logits, target, top, total, ignore_index, out)
        return out
    ignored = target == ignore_index
    target, grad = target.masked_fill(ignored, 0), grad.masked_fill(ignored, 0.0)
    wide = grad.dtype == logits.dtype
    for x, t, g, o in _blocks(logits, target, grad, out):
        p = torch.softmax(x, dim=1, dtype=grad.dtype, out=o if wide else None)
        p.scatter_(1, t.unsqueeze(1), -1.0, reduce="add")
        torch.mul(p, g.unsqueeze(1), out=o)
    return out


_nll_backward.register_fake(lambda grad, logits, *_: torch.empty_like(logits, memory_format=torch.contiguous_format))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, bool], output: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, target, *ctx.options = inputs
    ctx.set_materialize_grads(False)  # no zeros in place of the statistics' gradients
    ctx.save_for_backward(logits, target, *output[1:])


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    if grad is None:
        return None, None, None, None
    logits, target, top, total = ctx.saved_tensors
    if torch.is_grad_enabled():  # under create_graph=True
        (found,) = gradient_with_graph(lambda x: [_plain(x, target, ctx.options[0])], [logits], [grad])
        return found, None, None, None
    return _nll_backward(grad, logits, target, top, total, *ctx.options), None, None, None


nll_op.register_autograd(_backward, setup_context=_setup_context)


class _DenseNLL(torch.autograd.Function):
    """The dense form on the CPU: one exponential a logit for forward and backward together.

    torch's cross-entropy exponentiates in the forward for the normaliser, again in the backward, and writes three tensors of
    the logits' size; keeping the softmax leaves one exponential and two tensors.
    """

    @staticmethod
    def forward(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        ignored = target == ignore_index
        picked = target.masked_fill(ignored, 0).unsqueeze(1)
        p = torch.softmax(logits, 1)
        likelihood = p.gather(1, picked).squeeze(1)
        # -log p is as exact as log-softmax until p nears the smallest normal number.
        if logits.numel() and bool(likelihood.amin() < 1e-30):
            out = -torch.log_softmax(logits, 1).gather(1, picked).squeeze(1)
        else:
            out = likelihood.log().neg_()
        return out.masked_fill_(ignored, 0.0), p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        """Apart from the forward, as torch.func needs it; the softmax is an output for this alone."""
        logits, target, ctx.ignore_index = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # no zeros in place of its gradient
        ctx.save_for_backward(logits, target, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, None, None]:
        if grad is None:  # the losses were not used
            return None, None, None
        logits, target, p = ctx.saved_tensors
        ignored = target == ctx.ignore_index
        picked = target.masked_fill(ignored, 0).unsqueeze(1)
        g = grad.masked_fill(ignored, 0.0).unsqueeze(1)
        if torch.is_grad_enabled():  # under create_graph=True: by differentiable operations
            return torch.softmax(logits, 1) * g - torch.zeros_like(p).scatter_add(1, picked, g), None, None
        return (p * g).scatter_add_(1, picked, -g), None, None


def dense_nll(logits: Tensor, target: Tensor, ignore_index: int = -100) -> Tensor:
    """-log softmax(x_i)_{t_i}, 0 where ignored: (M, C) float32 or float64 logits and (M,) targets -> (M,)."""
    wanted = logits.requires_grad and torch.is_grad_enabled() and not needs_plain_form()
    if wanted and on_host(logits) and logits.numel() >= _DENSE_FROM:
        return _DenseNLL.apply(logits, target, ignore_index)[0]  # type: ignore[no-any-return]
    return F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
