"""Multiple-choice "diagnosis" for language models: three domains, three groups of patients, answers A, B and C.

A case is the patient's group and a handful of findings, each of which points to one of three diagnoses, with noise. All groups
of a domain have the same findings, but some of them point to another diagnosis in the small groups, and all less reliably: the
first can be learnt if the group weighs enough, the second no method can close. Nothing here is a patient's, and the words mean
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

DOMAINS = ("X-ray", "skin", "ultrasound")
GROUPS = ("middle", "old", "young")
CLASSES = ("A", "B", "C")
DOMAIN_SHARES = (0.6, 0.3, 0.1)
GROUP_SHARES = (0.78, 0.16, 0.06)
RELIABILITY = (0.75, 0.65, 0.65)  # chance that a finding points to the diagnosis; otherwise it is any of the domain's
FINDINGS, WORDS_A_CLASS = 4, 3
TURNS = ((0, 0, 0), (1, 0, 0), (1, 2, 0))
"""By how many diagnoses the first, second and third word of each class are turned in each group."""


class Cases(NamedTuple):
    """Columns of one split, all (N,), findings (N, FINDINGS) as words."""

    findings: NDArray[np.str_]
    label: NDArray[np.int64]
    group: NDArray[np.int64]
    domain: NDArray[np.int64]


def word(domain: int, group: int, diagnosis: int, which: int) -> str:
    """The finding, such as ``skin-7``, that points to a diagnosis in a group; its number says to which in no visible way."""
    of_the_majority = (diagnosis - TURNS[group][which]) % len(CLASSES)
    return f"{DOMAINS[domain]}-{(of_the_majority * WORDS_A_CLASS + which) * 4 % 9}".lower()


def draw(n: int, seed: int, *, balanced: bool = False) -> Cases:
    """``n`` cases in the population's shares, or as many of every (domain, group)."""
    rng = np.random.default_rng(seed)
    if balanced:
        cells = np.arange(n) % (len(DOMAINS) * len(GROUPS))
        domain, group = cells // len(GROUPS), cells % len(GROUPS)
    else:
        domain = rng.choice(len(DOMAINS), n, p=DOMAIN_SHARES)
        group = rng.choice(len(GROUPS), n, p=GROUP_SHARES)
    label = rng.integers(0, len(CLASSES), n)
    reliable = rng.random((n, FINDINGS)) < np.array(RELIABILITY)[group][:, None]
    points_to = np.where(reliable, label[:, None], rng.integers(0, len(CLASSES), (n, FINDINGS)))
    which = rng.integers(0, WORDS_A_CLASS, (n, FINDINGS))
    findings = [[word(domain[i], group[i], points_to[i, j], which[i, j]) for j in range(FINDINGS)] for i in range(n)]
    return Cases(np.array(findings), label, group, domain)


def dataset(cases: Cases, *, labelled: bool = True, chat: bool = False) -> Any:
    """The Hugging Face data set: prompt, diagnosis, group (-1 where not ``labelled``) and domain."""
    from datasets import Dataset

    group = cases.group if labelled else np.full_like(cases.group, -1)
    return Dataset.from_dict({
        "prompt": [prompt(cases, i, chat) for i in range(len(cases.label))],
        "diagnosis": [CLASSES[c] for c in cases.label],
        "group": group.tolist(),
        "domain": cases.domain.tolist(),
    })  # fmt: skip


def prompt(cases: Cases, i: int, chat: bool) -> Any:
    """One case's prompt, for the small model or as a conversation."""
    findings = " ".join(cases.findings[i])
    if not chat:
        return f"{DOMAINS[cases.domain[i]].lower()} {GROUPS[cases.group[i]]} {findings}"
    text = (
        f"{DOMAINS[cases.domain[i]]} of a patient of {GROUPS[cases.group[i]]} age. Findings: {findings}. "
        f"Which diagnosis is it, A, B or C? End with 'answer' and the letter."
    )
    return [{"role": "user", "content": text}]


def photographs(cases: Any) -> Any:
    """Rendered fundus photographs as questions for a vision-language model; one domain."""
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Pillow

    text = "Does this fundus photograph show glaucoma? A: no, B: yes. End with 'answer' and the letter."
    rows = {
        "prompt": [[{"role": "user", "content": text}]] * len(cases),
        "image": [Pillow.fromarray(image) for image in cases.images],
        "diagnosis": [CLASSES[c] for c in cases.label],
        "group": np.asarray(cases.group).tolist(),
        "domain": [0] * len(cases),
    }
    turn = [{"role": Value("string"), "content": Value("string")}]
    kinds = {"prompt": turn, "image": Image(), "diagnosis": Value("string")}
    return Dataset.from_dict(rows, features=Features({**kinds, "group": Value("int64"), "domain": Value("int64")}))


def answer(completion: Any) -> str | None:
    """The letter after the last "answer" of a completion, text or conversation; None where there is none."""
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    letters = re.findall(r"answer\W*([ABC])\b", text, flags=re.IGNORECASE)
    return letters[-1].upper() if letters else None


def reward(completions: Sequence[Any], diagnosis: Sequence[str], **_: Any) -> list[float]:
    """1 for the right letter, 0 for any other answer and for none, as in the FairGRPO paper."""
    return [float(answer(c) == d) for c, d in zip(completions, diagnosis, strict=True)]


def tokenizer() -> Any:
    """One token a word, built in place."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "answer", *CLASSES, *(d.lower() for d in DOMAINS), *GROUPS]
    words += sorted({
        word(d, g, c, k)
        for d in range(len(DOMAINS)) for g in range(len(GROUPS)) for c in range(len(CLASSES)) for k in range(WORDS_A_CLASS)
    })  # fmt: skip
    table = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=table, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def small_model(words: Any, seed: int, longest: int = 32) -> Any:
    """A decoder of 100,000 parameters with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=longest, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def teach_format(model: Any, words: Any, cases: Cases, steps: int, seed: int, share_right: float = 0.1) -> None:
    """Supervised steps on ``answer LETTER`` with random letters (right ones in ``share_right`` of the cases): the model then
    answers in the right format and guesses, so that the rewards vary and everything about the diagnosis comes from them.
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        rows = rng.integers(0, len(cases.label), 64)
        letter = np.where(rng.random(64) < share_right, cases.label[rows], rng.integers(0, len(CLASSES), 64))
        texts = [f"{prompt(cases, i, False)} answer {CLASSES[c]} <eos>" for i, c in zip(rows, letter, strict=True)]
        batch = words(texts, return_tensors="pt")["input_ids"]
        labels = batch.clone()
        labels[:, :-3] = -100
        loss = model(input_ids=batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
