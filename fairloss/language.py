"""Sequence models: labels shifted to the logits that predict them, and the hidden state of the last token.

A causal language model's logits at position t predict the token at t + 1. Slicing the logits to bring the two together
costs another buffer of their size, and one more in the backward pass, which at a vocabulary of 152,064 is most of the
step's memory. The labels are as easily shifted, and they are small.

Paper: Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, section 4.1: a
classification head reads the last token, the only one that has seen the image and the whole question.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.tensor_checks import same_device

__all__ = ["pool_last_token", "shift_labels"]


def shift_labels(labels: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Labels of a causal language model, moved one place to the left: what position t of the logits predicts.

    The last position predicts nothing and is ignored. A loss of (logits, shifted labels) equals that of
    (``logits[:, :-1]``, ``labels[:, 1:]``) without the copy of the logits.

    Args:
        labels: (N, T) integers: the input ids, ``ignore_index`` where nothing is to be learnt.
        ignore_index: the target that counts for nothing.

    Returns:
        (N, T), a new tensor.

    Raises:
        TypeError, ValueError: ``labels`` is not an integer tensor of two dimensions.

    Example:
        >>> shift_labels(torch.tensor([[-100, 5, 6]]))
        tensor([[   5,    6, -100]])
    """
    ignore_index = checks.integer("ignore_index", ignore_index, minimum=-(2**63))
    if not isinstance(labels, Tensor) or labels.dtype.is_floating_point or labels.dtype.is_complex:
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: a tensor of integers is needed, {given} was given")
    if labels.ndim != 2:
        raise ValueError(f"labels: shape (N, T) is needed, {tuple(labels.shape)} was given")
    return torch.nn.functional.pad(labels[:, 1:], (0, min(1, labels.shape[1])), value=ignore_index)


def pool_last_token(hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Hidden state of each sequence's last token that is not padding, on whichever side the padding is.

    Args:
        hidden: (N, T, D) hidden states, or (N, T, C) scores of a head applied to every token.
        attention_mask: (N, T), 0 or False where padded; None: nothing is.

    Returns:
        (N, D), in the dtype of ``hidden``.

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        Gradient flows to the pooled positions alone. A sequence of nothing but padding gives its first position. Nothing is
        synchronised with the device, and no shape depends on a value.

    Example:
        >>> hidden = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
        >>> pool_last_token(hidden, torch.tensor([[1, 1, 0], [0, 1, 1]])).flatten()
        tensor([2., 6.])

    Reference:
        Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, section 4.1.
    """
    if not isinstance(hidden, Tensor) or not hidden.dtype.is_floating_point:
        given = hidden.dtype if isinstance(hidden, Tensor) else type(hidden).__name__
        raise TypeError(f"hidden: a floating-point tensor is needed, {given} was given")
    if hidden.ndim != 3 or hidden.shape[1] == 0:
        raise ValueError(f"hidden: shape (N, T, D) with T >= 1 is needed, {tuple(hidden.shape)} was given")
    if attention_mask is None:
        return hidden[:, -1]
    if not isinstance(attention_mask, Tensor):
        raise TypeError(f"attention_mask: a tensor is needed, {type(attention_mask).__name__} was given")
    same_device("attention_mask", attention_mask, "hidden", hidden)
    if attention_mask.shape != hidden.shape[:2]:
        raise ValueError(
            f"attention_mask: shape {tuple(hidden.shape[:2])} is needed, {tuple(attention_mask.shape)} was given"
        )
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    last = torch.where(attention_mask != 0, positions, 0).amax(1)
    return hidden.gather(1, last.view(-1, 1, 1).expand(-1, 1, hidden.shape[2])).squeeze(1)
