"""Derivatives that opaque ops have no rule for: forward mode, ``torch.func`` and second derivatives, by plain operations.

A custom op without a rule gives a forward-mode derivative of 0 without a word. So each op here has a plain form beside it, of
differentiable operations alone, which needs the memory that the op saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["gradient_with_graph", "needs_plain_form"]


def needs_plain_form() -> bool:
    """Whether this runs inside a ``torch.func`` transform or a forward-mode level, in a compiled graph as well."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def gradient_with_graph(
    plain: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of the plain form for ``tensors``, themselves differentiable: for a backward that keeps its graph.

    Args:
        plain: the plain form, a function of ``tensors``.
        tensors: what the op was given.
        grads: one gradient per output, None where it was not used.
    """
    views = [t.view_as(t) for t in tensors]  # one tensor may come twice
    pairs = [(out, g) for out, g in zip(plain(*views), grads, strict=True) if g is not None and out.requires_grad]
    wanted = [view for view in views if view.requires_grad]
    outputs, given = [out for out, _ in pairs], [g for _, g in pairs]
    found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=True, allow_unused=True))
    return [next(found) if view.requires_grad else None for view in views]
