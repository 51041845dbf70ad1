"""Negative log-likelihood of integer targets, streamed over blocks of rows.

The loss of a row needs nothing of the logits' size but its gradient: the forward keeps one float a row, the backward
recomputes each block's softmax straight into the gradient, and half-precision logits are widened one block at a time. A
Python loop over rows would specialise a compiled graph at every number of rows, so the loops live in custom ops, which
torch.compile treats as leaves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairloss.groups import statistics_dtype

# Elements a block: a few megabytes, so that a block stays in the cache between its passes.
_BLOCK = 1 << 20


def _blocks(logits: Tensor) -> list[slice]:
    rows = max(1, _BLOCK // max(1, logits.shape[1]))
    return [slice(start, start + rows) for start in range(0, logits.shape[0], rows)]


@torch.library.custom_op("fairloss::nll", mutates_args=())
def nll(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax(x_i)_{t_i}: (M, V) logits and (M,) targets in 0 .. V-1 -> (M,), float32 (float64 for float64)."""
    dtype = statistics_dtype(logits.dtype)
    out = torch.empty(logits.shape[0], dtype=dtype, device=logits.device)
    for rows in _blocks(logits):
        logp = torch.log_softmax(logits[rows], dim=1, dtype=dtype)
        torch.neg(logp.gather(1, target[rows].unsqueeze(1)).squeeze(1), out=out[rows])
    return out


@nll.register_fake
def _(logits: Tensor, target: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=statistics_dtype(logits.dtype))


@torch.library.custom_op("fairloss::nll_backward", mutates_args=())
def _nll_backward(grad: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """(softmax(x_i) - onehot(t_i)) g_i, in the dtype of the logits."""
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    wide = grad.dtype == logits.dtype
    for rows in _blocks(logits):
        p = torch.softmax(logits[rows], dim=1, dtype=grad.dtype, out=out[rows] if wide else None)
        p.scatter_add_(1, target[rows].unsqueeze(1), p.new_full((p.shape[0], 1), -1.0)).mul_(grad[rows].unsqueeze(1))
        if not wide:
            out[rows] = p
    return out


@_nll_backward.register_fake
def _(grad: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _nll_backward(grad, *ctx.saved_tensors), None


nll.register_autograd(_backward, setup_context=_setup_context)
