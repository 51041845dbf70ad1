"""Language models: labels shifted to the logits that predict them, the last token's hidden state, questions and answers.

A causal language model's logits at position t predict the token at t + 1. Slicing the logits to bring the two together
costs another buffer of their size, and one more in the backward pass, which at a vocabulary of 152,064 is most of the
step's memory. Shifting the labels instead costs nearly nothing.

Papers: Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, section 4.1: a
classification head reads the last token, the only one that has seen the image and the whole question. FairMed-VLM, *Toward
Equitable Medical Diagnosis with Vision-Language Models*, section 3.3: questions as instructions. The paper maps answers to
labels by "string canonicalization + vocabulary mapping"; here an answer is one of the listed phrases, or it is unknown.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairloss.core import checks, tensor_checks
from fairloss.core.checks import expected
from fairloss.groups.encode import UNKNOWN
from fairloss.groups.labels import is_known

__all__ = ["format_instruction", "pool_last_token", "read_answers", "shift_labels"]


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
    tensor_checks.whole("labels", labels, "token ids")
    if labels.ndim != 2:
        raise ValueError(expected("labels", "shape (N, T)", tuple(labels.shape)))
    return torch.nn.functional.pad(labels[:, 1:], (0, min(1, labels.shape[1])), value=ignore_index)


def pool_last_token(hidden: Tensor, *, attention_mask: Tensor | None = None) -> Tensor:
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
        >>> pool_last_token(hidden, attention_mask=torch.tensor([[1, 1, 0], [0, 1, 1]])).flatten()
        tensor([2., 6.])

    Reference:
        Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, section 4.1.
    """
    tensor_checks.floating("hidden", hidden, "(N, T, D)", 3)
    if hidden.shape[1] == 0:
        raise ValueError(expected("hidden", "shape (N, T, D) with T >= 1", tuple(hidden.shape)))
    if attention_mask is None:
        return hidden[:, -1]
    tensor_checks.tensor("attention_mask", attention_mask, "a tensor of shape (N, T)")
    tensor_checks.same_device("attention_mask", attention_mask, "hidden", hidden)
    if attention_mask.shape != hidden.shape[:2]:
        raise ValueError(expected("attention_mask", f"shape {tuple(hidden.shape[:2])}", tuple(attention_mask.shape)))
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    last = torch.where(attention_mask != 0, positions, 0).amax(1)
    return hidden.gather(1, last.view(-1, 1, 1).expand(-1, 1, hidden.shape[2])).squeeze(1)


def format_instruction(
    question: str,
    *,
    options: Sequence[str] = (),
    patient: Mapping[str, Any] | None = None,
    image: str = "<image>",
) -> str:
    """A question as the instruction that a vision-language model is tuned on and asked: image, patient, question, options.

    Args:
        question: as it stands.
        options: of a closed question, lettered A, B, ...
        patient: what is known of the patient, such as ``{"sex": "female", "age group": "60-69"}``: the paper's optional
            demographic prompt. None and NaN are left out, and so is the line where nothing is known. Leave it out at
            inference, so that answers do not depend on it.
        image: placeholder of the image; "" for none.

    Returns:
        Lines that end in "Answer:".

    Raises:
        TypeError: the question is no text, the options no sequence of texts, the patient no mapping.
        ValueError: the question is empty, or there are more than 26 options.

    Example:
        >>> print(format_instruction("Which?", options=["drusen", "normal"], patient={"sex": "female", "age group": None}))
        <image>
        Patient: sex female.
        Question: Which?
        Options: A. drusen B. normal
        Answer:

    Reference:
        FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, section 3.3.
    """
    if not isinstance(question, str):
        raise TypeError(expected("question", "a string", type(question).__name__))
    if not question.strip():
        raise ValueError(expected("question", "a text", repr(question)))
    if len(_texts("options", options)) > len(string.ascii_uppercase):
        raise ValueError(expected("options", "at most 26, one per letter", len(options)))
    if patient is not None and not isinstance(patient, Mapping):
        raise TypeError(expected("patient", "a mapping", type(patient).__name__))
    known = {k: v for k, v in (patient or {}).items() if v is not None and v == v}  # NaN differs from itself
    lines = [image] if image else []
    if known:
        lines.append(f"Patient: {', '.join(f'{name} {value}' for name, value in known.items())}.")
    lines.append(f"Question: {question.strip()}")
    if options:
        lettered = (f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False))
        lines.append("Options: " + " ".join(lettered))
    return "\n".join([*lines, "Answer:"])


def read_answers(texts: Iterable[str | None], answers: Sequence[str]) -> NDArray[np.int64]:
    """Index of the listed answer that each text consists of; -1 where a text is anything else.

    Case, surrounding blanks and final punctuation (``. , ; : ! ?``) do not count. Everything else does: a text that says more
    than one listed answer, or names two of them, is unknown. Nothing is searched for inside a text, because a phrase that is
    found may be denied there ("no drusen"). To read letters ("B"), list them: ``read_answers(texts, ["A", "B", "C"])``.

    Args:
        texts: N generated answers. None and NaN are missing answers: unknown. Cut the prompt and a reasoning part off first.
        answers: the phrases that may be answered.

    Returns:
        (N,) int64, indices of ``answers``, -1 = unknown.

    Raises:
        TypeError: ``texts`` is one string or holds something else than texts; ``answers`` is no sequence of strings.
        ValueError: no answers, an answer without a letter or digit, or two that differ only in what does not count.

    Example:
        >>> texts = ["Drusen.", " no finding", "no drusen", "drusen or glaucoma", None]
        >>> read_answers(texts, ["glaucoma", "drusen", "no finding"])
        array([ 1,  2, -1, -1, -1])
    """
    index: dict[str, int] = {}
    for i, answer in enumerate(_texts("answers", answers)):
        phrase = _bare(answer)
        if not any(c.isalnum() for c in phrase):
            raise ValueError(expected("answers", "phrases with a letter or digit", repr(answer)))
        if phrase in index:
            both = f"{answers[index[phrase]]!r} and {answer!r}"
            raise ValueError(expected("answers", "phrases that differ in more than case and final marks", both))
        index[phrase] = i
    if not index:
        raise ValueError(expected("answers", "at least one phrase", "none"))
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(expected("texts", "a sequence of strings", repr(texts), "put one text into a list"))
    found: list[int] = []
    for text in texts:
        if not isinstance(text, str) and is_known(text):
            raise TypeError(expected("texts", "strings or None", type(text).__name__))
        found.append(index.get(_bare(text), UNKNOWN) if isinstance(text, str) else UNKNOWN)
    return np.array(found, dtype=np.int64)


def _bare(text: str) -> str:
    """A phrase as it is compared."""
    return text.strip().rstrip(".,;:!?" + string.whitespace).strip().casefold()


def _texts(name: str, given: Sequence[str]) -> Sequence[str]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(one, str) for one in given):
        raise TypeError(expected(name, "a sequence of strings", repr(given)))
    return given
