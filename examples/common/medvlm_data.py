"""Photographs, questions and answers of the FairMed-VLM example: who is in the data, what is asked, what the model reads.

The rendered cohort has the paper's strata, sex x age group, with the fourth of them sparse. Which stratum looks how is made
up: the rarer strata have darker, hazier photographs and larger healthy cups, so that a model that learns from the largest one
calls the others' healthy eyes glaucoma. Of all strata the same share has the disease; a clouded lens is commoner in the old.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairloss import format_instruction

from . import fundus, llava, loaders, vlm
from .answers import AnswerVocabulary

SEX, AGE = ("female", "male"), ("under 65", "65 and over")
SHOWN = (0, 1, 2, 4)  # of fundus.FINDINGS: drusen lie outside the disc's region
HEAVY = {"pigment": 0.75, "contrast": 0.7, "noise": 0.04, "norm": 0.17, "severity": 0.15, "haze": 0.12}

STRATA = fundus.Task(
    "sex and age",
    "four strata of sex and age, the rarest with the darkest, haziest photographs and the largest healthy cups",
    (
        fundus.Look("man under 65"),
        fundus.Look("woman under 65", pigment=0.35, norm=0.05, disc_size=1.03),
        fundus.Look("man 65 and over", pigment=0.45, contrast=0.8, norm=0.10, haze=0.12, severity=0.16),
        fundus.Look("woman 65 and over", **HEAVY),
    ),
    shares=(0.55, 0.30, 0.11, 0.04),
)
STRATUM_SEX, STRATUM_AGE = np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])


@dataclass(frozen=True)
class Cohort:
    """N photographs, their findings (the first one is the diagnosis that is asked for) and two attributes or more."""

    images: NDArray[np.uint8]  # (N, H, W, 3)
    findings: NDArray[np.int64]  # (N, L) of 0 and 1
    attributes: NDArray[np.int64]  # (N, K), -1 unknown
    patient: NDArray[np.int64]
    finding_names: tuple[str, ...]
    attribute_names: dict[str, tuple[str, ...]]
    shares: tuple[float, ...] | None = None  # of the joint strata in the population, where the test set has others

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def label(self) -> NDArray[np.int64]:
        return self.findings[:, 0]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(map(len, self.attribute_names.values()))

    @property
    def strata(self) -> NDArray[np.int64]:
        """(N,) joint stratum, -1 where an attribute is unknown."""
        joint = np.ravel_multi_index(tuple(np.maximum(self.attributes, 0).T), self.sizes)
        return np.where((self.attributes < 0).any(1), -1, joint)

    @property
    def stratum_names(self) -> list[str]:
        return [", ".join(parts) for parts in product(*self.attribute_names.values())]


def rendered(counts: Sequence[int], seed: int, split: str) -> Cohort:
    """``counts`` photographs of the four strata, in the order of ``STRATA``, around the disc at 32 x 32."""
    data = fundus.make(STRATA, counts=counts, seed=seed, split=split)
    # An age in years that fits the stratum, the same for both eyes.
    patient, of = np.unique(data.patient, return_inverse=True)
    years = np.random.default_rng([seed, 65]).uniform(0, 1, len(patient))[of]
    old = STRATUM_AGE[data.group] == 1
    age = np.where(old, 65 + 25 * years, 35 + 30 * years).astype(np.int64)
    data = dataclasses.replace(data, sex=STRATUM_SEX[data.group], age=age)
    shares = np.zeros(4)
    shares[STRATUM_SEX * 2 + STRATUM_AGE] = STRATA.shares
    return Cohort(
        vlm.disc_region(data.images, data.eye),
        data.findings[:, SHOWN],
        np.stack([data.sex, (data.age >= 65).astype(np.int64)], axis=1),
        data.patient,
        tuple(fundus.FINDINGS[i] for i in SHOWN),
        {"sex": SEX, "age group": AGE},
        tuple(shares),
    )


def first_photographs(images: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """For the small model's first training: regions, masks and captions, as many of every stratum, no diagnosis."""
    data = fundus.make(STRATA, images=images, shares=[1, 1, 1, 1], seed=7)
    texts = [
        llava.caption(ratio, [fundus.FINDINGS[i] for i in SHOWN[1:] if row[i]])
        for ratio, row in zip(data.vcdr, data.findings, strict=True)
    ]
    return vlm.disc_region(data.images, data.eye), vlm.disc_region(data.masks, data.eye), texts


def real(folder: Path, attributes: Sequence[str], size: int, limit: int | None) -> tuple[Cohort, Cohort, Cohort]:
    """HAM10000 or FairVLMed: one finding, and the named attributes."""
    finding = "malignant" if (folder / "HAM10000_metadata.csv").exists() else "glaucoma"
    parts = []
    for data in loaders.load(folder, attribute=attributes[0], size=size, limit=limit):
        missing = [name for name in attributes if name not in data.attributes]
        if missing:
            raise SystemExit(f"--attributes: {missing[0]!r} is not one of {', '.join(data.attributes)}")
        ids = np.stack([data.attributes[name] for name in attributes], axis=1)
        names = {name: data.attribute_names[name] for name in attributes}
        parts.append(Cohort(data.images, data.label[:, None], ids, data.patient, (finding,), names))
    return parts[0], parts[1], parts[2]


def augmented(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Colour jitter and a rotation of up to 10 degrees: what the paper repeats sparse strata with."""
    rng = np.random.default_rng([seed, 10])
    n = len(images)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    angle = torch.from_numpy(np.deg2rad(rng.uniform(-10, 10, n))).float()
    turn = torch.stack([angle.cos(), -angle.sin(), angle * 0, angle.sin(), angle.cos(), angle * 0], 1).reshape(n, 2, 3)
    grid = torch.nn.functional.affine_grid(turn, list(x.shape), align_corners=False)
    x = torch.nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    mean = x.mean((2, 3), keepdim=True)
    gain = torch.from_numpy(rng.uniform(0.92, 1.08, (n, 3, 1, 1))).float()
    contrast = torch.from_numpy(rng.uniform(0.9, 1.1, (n, 1, 1, 1))).float()
    x = ((x - mean) * contrast + mean) * gain
    return (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


class Questions:
    """What is asked and answered: a closed question for the diagnosis, an open one for all findings."""

    def __init__(self, names: tuple[str, ...], attributes: dict[str, tuple[str, ...]], single: str, multi: str) -> None:
        self.names, self.attributes = names, attributes
        self.texts = (single, multi)
        negative = f"no {names[0]}"
        self.closed = AnswerVocabulary([negative, names[0]], normal_label=negative)
        self.open = AnswerVocabulary(names)

    @classmethod
    def of(cls, cohort: Cohort) -> Questions:
        return cls(
            cohort.finding_names,
            cohort.attribute_names,
            f"Is there {cohort.finding_names[0]}?",
            "Which findings are there?",
        )

    def prompt(self, kind: int, attributes: Sequence[int] | None = None) -> str:
        """``kind`` 0: closed, 1: open; with the demographic prefix where attributes are given and known."""
        patient = None
        if attributes is not None:
            named = zip(self.attributes.items(), attributes, strict=True)
            patient = {name: values[i] if i >= 0 else None for (name, values), i in named}
        return format_instruction(self.texts[kind], patient=patient, image=llava.IMAGE)

    def answer(self, kind: int, findings: Sequence[int]) -> str:
        return self.closed.write(int(findings[0])) if kind == 0 else self.open.write(findings)

    @property
    def concepts(self) -> tuple[str, ...]:
        return (*self.names, "no finding")

    def concept_table(self, findings: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, L + 1) of 0 and 1: which concepts are true of a photograph."""
        return np.concatenate([findings, (findings.sum(1, keepdims=True) == 0)], axis=1).astype(np.int64)

    def everything(self) -> list[str]:
        """Every text that can occur, for a tokenizer of words."""
        values = [range(-1, len(v)) for v in self.attributes.values()]
        texts = [self.prompt(kind, ids) for kind in (0, 1) for ids in product(*values)]
        rows = product((0, 1), repeat=len(self.names))
        digits = llava.caption(0.0, self.names) + " 1 2 3 4 5 6 7 8 9"
        return [
            *texts,
            *(self.answer(kind, row) for row in rows for kind in (0, 1)),
            *self.concepts,
            llava.CAPTION_PROMPT,
            digits,
        ]


class Batch(NamedTuple):
    """One training batch; the answer begins at ``end`` + 1."""

    features: Tensor  # (N, 1 + patches, D) of the frozen tower
    ids: Tensor  # (N, T) question and answer, padded on the right
    mask: Tensor  # (N, T)
    end: Tensor  # (N,) place of the question's last token
    answer: Tensor  # (N, A) ids of the answer, -100 where padded
    kind: Tensor  # (N,) 0 closed, 1 open question
    findings: Tensor  # (N, L) float
    concepts: Tensor  # (N, L + 1)
    attributes: Tensor  # (N, K)
    strata: Tensor  # (N,)


class Encoder:
    """Cohort, features and questions to batches; every distinct text is tokenised once."""

    def __init__(
        self, cohort: Cohort, views: Tensor, questions: Questions, processor: llava.Processor, device: str
    ) -> None:
        self.cohort, self.views, self.questions, self.processor, self.device = (
            cohort,
            views,
            questions,
            processor,
            device,
        )
        self.known: dict[str, list[int]] = {}
        self.findings = torch.from_numpy(cohort.findings)
        self.concepts = torch.from_numpy(questions.concept_table(cohort.findings))
        self.attributes, self.strata = torch.from_numpy(cohort.attributes), torch.from_numpy(cohort.strata)

    def ids(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = self.processor.ids(text)
        return self.known[text]

    def batch(self, rows: np.ndarray, view: np.ndarray, kind: np.ndarray, prompted: np.ndarray) -> Batch:
        """Photographs ``rows``, which of their views, which question each, and whether the demographic prefix is there."""
        eos, pad = self.processor.tokenizer.eos_token_id, self.processor.tokenizer.pad_token_id
        asked, said = [], []
        for i, k, p in zip(rows, kind, prompted, strict=True):
            asked.append(self.ids(self.questions.prompt(int(k), self.cohort.attributes[i] if p else None)))
            said.append([*self.ids(self.questions.answer(int(k), self.cohort.findings[i])), eos])
        longest, answer = max(len(a) + len(s) for a, s in zip(asked, said, strict=True)), max(map(len, said))
        joined = [a + s for a, s in zip(asked, said, strict=True)]
        table = {
            "ids": [x + [pad] * (longest - len(x)) for x in joined],
            "mask": [[1] * len(x) + [0] * (longest - len(x)) for x in joined],
            "end": [len(a) - 1 for a in asked],
            "answer": [s + [-100] * (answer - len(s)) for s in said],
        }
        at = torch.from_numpy(rows)
        made = {name: torch.tensor(value) for name, value in table.items()}
        made |= {"features": self.views[torch.from_numpy(view), at], "kind": torch.from_numpy(kind)}
        made |= {"findings": self.findings[at].float(), "concepts": self.concepts[at]}
        made |= {"attributes": self.attributes[at], "strata": self.strata[at]}
        return Batch(**{name: value.to(self.device) for name, value in made.items()})
