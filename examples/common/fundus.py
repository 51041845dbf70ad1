"""Rendered fundus photographs: patients with a group, sex and age, a label from the cup-to-disc ratio, masks, findings.

Nothing here is measured on people. A task fixes how the groups' photographs differ and how hard the label is to see;
data are drawn from it by seed. The label is glaucoma = (vertical cup-to-disc ratio > the group's limit), so that it
can always be read off the picture's parameters, and the ratio itself can be read off the masks.

    train = fundus.make("standard", images=4000, seed=0)                        # shares 90.3 / 4.3 / 5.4
    test = fundus.make("standard", counts=(1000, 1000, 1000), seed=0, split="test")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .fundus_render import render
from .fundus_tasks import TASKS, Look, Task

__all__ = ["FINDINGS", "TASKS", "FundusSet", "Look", "Task", "captions", "make", "make_splits"]

FINDINGS = ("glaucoma", "peripapillary atrophy", "disc haemorrhage", "drusen", "clouded lens")
SEXES = ("female", "male")
AGE_BANDS = ("under 50", "50 to 64", "65 and over")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class FundusSet:
    """N photographs and all that is known of them; ``data[rows]`` is a smaller set."""

    images: NDArray[np.uint8]  # (N, size, size, 3)
    masks: NDArray[np.uint8]  # (N, size, size): 0 fundus, 1 rim, 2 cup (disc = 1 or 2)
    label: NDArray[np.int64]  # 1 glaucoma
    group: NDArray[np.int64]  # -1 unknown, else an index of task.group_names
    sex: NDArray[np.int64]  # an index of SEXES
    age: NDArray[np.int64]  # years
    patient: NDArray[np.int64]  # the same number for both eyes; never shared between splits
    eye: NDArray[np.int64]  # 0 right, 1 left
    vcdr: NDArray[np.float32]  # vertical cup-to-disc ratio
    margin: NDArray[np.float32]  # its distance from the limit: small = hard to tell
    findings: NDArray[np.int64]  # (N, 5) 0/1 in the order of FINDINGS
    task: Task

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: Any) -> FundusSet:
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "task"}
        return FundusSet(task=self.task, **arrays)

    @property
    def num_groups(self) -> int:
        return len(self.task.group_names)

    @property
    def group_names(self) -> tuple[str, ...]:
        return self.task.group_names

    @property
    def group_counts(self) -> list[int]:
        """Photographs of every group; unknown ones in none."""
        return np.bincount(self.group[self.group >= 0], minlength=self.num_groups).tolist()

    @property
    def age_band(self) -> NDArray[np.int64]:
        """An index of AGE_BANDS."""
        return np.digitize(self.age, [50, 65])

    @property
    def attributes(self) -> NDArray[np.int64]:
        """(N, 3): group, sex, age band; their sizes are :attr:`attribute_sizes`."""
        return np.stack([self.group, self.sex, self.age_band], axis=1)

    @property
    def attribute_sizes(self) -> tuple[int, int, int]:
        return self.num_groups, len(SEXES), len(AGE_BANDS)

    def tensors(self) -> dict[str, Any]:
        """Tensors for training: ``images`` (N, 3, H, W) float32 about -1..1, int64 ``masks``, ``label``, ``group``."""
        import torch

        images = (
            torch.from_numpy(self.images).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        )
        rest = {name: torch.from_numpy(getattr(self, name)).long() for name in ("masks", "label", "group")}
        return {"images": images.div_(127.5).sub_(1), **rest}


def make(
    task: str | Task = "standard",
    *,
    images: int = 2000,
    shares: Sequence[float] | None = None,
    counts: Sequence[int] | None = None,
    unknown: float = 0.0,
    size: int = 64,
    seed: int = 0,
    split: str = "train",
) -> FundusSet:
    """Draw a data set.

    Args:
        task: a name in ``TASKS``, or a :class:`Task` of your own.
        images: number of photographs, divided between the groups by ``shares``.
        shares: of the groups, default the task's.
        counts: photographs of every group, in place of ``images`` and ``shares``.
        unknown: share of the patients whose group is recorded as -1.
        size: height and width in pixels.
        seed: with ``split``, fixes everything.
        split: "train", "valid" or "test": other patients each.
    """
    if isinstance(task, str):
        if task not in TASKS:
            raise ValueError(f"task: {task!r} is not one of {list(TASKS)}")
        task = TASKS[task]
    if split not in SPLITS:
        raise ValueError(f"split: {split!r} is not one of {list(SPLITS)}")
    if counts is None:
        counts = _apportion(images, task.shares if shares is None else shares)
    if len(counts) != len(task.looks) or min(counts) < 0 or sum(counts) == 0:
        raise ValueError(f"counts, shares: {list(counts)} for the {len(task.looks)} groups {task.group_names}")
    # The task's name keeps tasks of one seed from holding the same patients.
    rng = np.random.default_rng([seed, SPLITS.index(split), *task.name.encode()])
    group = np.repeat(np.arange(len(counts)), counts)
    number = _patients(counts, rng)
    table = _draw(task, group, number, rng)
    pixels, masks = render(table, size, rng)
    order = rng.permutation(len(group))
    recorded = np.where(rng.random(number[-1] + 1)[number] < unknown, -1, group)
    findings = np.stack(
        [table["label"], table["atrophy"], table["haemorrhage"], table["drusen"], table["haze"] > 0.18], axis=1
    )
    return FundusSet(
        images=pixels,
        masks=masks,
        label=table["label"].astype(np.int64),
        group=recorded.astype(np.int64),
        sex=table["sex"].astype(np.int64),
        age=np.rint(table["age"]).astype(np.int64),
        patient=(number + SPLITS.index(split) * 10**7).astype(np.int64),
        eye=table["eye"].astype(np.int64),
        vcdr=table["vcdr"].astype(np.float32),
        margin=np.abs(table["vcdr"] - table["limit"]).astype(np.float32),
        findings=findings.astype(np.int64),
        task=task,
    )[order]


def make_splits(
    task: str | Task = "standard",
    *,
    train: int,
    valid: int = 0,
    test_per_group: int = 1000,
    seed: int = 0,
    **options: Any,
) -> tuple[FundusSet, FundusSet | None, FundusSet]:
    """Training, validation (None where ``valid`` is 0) and test set; the test set holds as many of every group."""
    groups = len((TASKS[task] if isinstance(task, str) else task).looks)
    return (
        make(task, images=train, seed=seed, split="train", **options),
        make(task, images=valid, seed=seed, split="valid", **options) if valid else None,
        make(task, counts=[test_per_group] * groups, seed=seed, split="test", **options),
    )


def captions(data: FundusSet, *, demographics: bool = True) -> list[str]:
    """One sentence or two a photograph: what a report would say of it."""
    texts = []
    for i in range(len(data)):
        eye = ("right", "left")[data.eye[i]]
        person = f" of a {data.age[i]}-year-old {('woman', 'man')[data.sex[i]]}" if demographics else ""
        others = [name for name, found in zip(FINDINGS[1:], data.findings[i, 1:], strict=True) if found]
        also = f" Also {' and '.join(others)}." if others else ""
        verdict = "glaucoma" if data.label[i] else "no glaucoma"
        texts.append(
            f"Fundus photograph{person}, {eye} eye. Vertical cup-to-disc ratio about {data.vcdr[i]:.1f}: {verdict}.{also}"
        )
    return texts


def _apportion(images: int, shares: Sequence[float]) -> list[int]:
    """Counts that add up to ``images`` and follow ``shares`` (largest remainders)."""
    share = np.asarray(shares, dtype=np.float64)
    if (share < 0).any() or not share.sum() > 0:
        raise ValueError(f"shares: {list(shares)}; none may be negative, and one must be positive")
    exact = images * share / share.sum()
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: images - counts.sum()]] += 1
    return counts.tolist()


def _patients(counts: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Patient number 0, 1, ... of every photograph, groups in order; 2 patients in 5 have a second photograph."""
    first = np.zeros(sum(counts), dtype=bool)
    begin = 0
    for count in counts:
        eyes = 1 + (rng.random(count) < 0.4)
        starts = np.cumsum(eyes) - eyes
        first[begin + starts[starts < count]] = True
        begin += count
    return np.cumsum(first) - 1


def _draw(
    task: Task, group: NDArray[np.int64], number: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Every photograph's parameters: those of the patient, those of the eye, those of the shot."""
    n, patients = len(group), number[-1] + 1
    of = np.zeros(patients, dtype=np.int64)
    of[number] = group

    def look(name: str) -> NDArray[np.float64]:
        return np.array([getattr(look, name) for look in task.looks], dtype=np.float64)[group]

    def per_patient(values: NDArray[Any]) -> NDArray[Any]:
        return values[number]

    def uniform(low: float, high: float) -> NDArray[np.float64]:
        return rng.uniform(low, high, n)

    label = per_patient(rng.random(patients) < np.array([look.prevalence for look in task.looks])[of])
    age = per_patient(np.clip(rng.normal(57, 14, patients), 18, 92)) + 4.0 * label
    severity = per_patient(np.abs(rng.standard_normal(patients))) * np.exp(rng.normal(0, 0.25, n))
    limit = task.limit + look("norm")
    # At least 0.02 from the limit: a label always has a visible cause, small as it may be.
    margin = np.minimum(0.02 + severity * look("severity"), np.where(label, 0.93 - limit, limit - 0.12))
    vcdr = limit + np.where(label, margin, -margin)
    first, first_eye = np.diff(number, prepend=-1) > 0, per_patient(rng.integers(0, 2, patients))
    old = np.clip((age - 55) / 35, 0, 1)
    tint = per_patient(rng.normal(1, 0.035, (patients, 3))) * np.stack([look("red"), look("green"), look("blue")], 1)
    tint[:, 2] *= 1 - 0.12 * old  # the lens turns yellow
    return {
        "label": label,
        "limit": limit,
        "age": age,
        "sex": per_patient(rng.random(patients) < 0.45),
        "eye": np.where(first, first_eye, 1 - first_eye),
        "disc_x": uniform(0.20, 0.42),
        "disc_y": uniform(-0.10, 0.10),
        "disc_radius": per_patient(rng.uniform(0.26, 0.32, patients)) * look("disc_size"),
        "disc_ratio": uniform(0.87, 0.98),
        "vcdr": vcdr,
        "cup_ratio": np.where(label, uniform(0.84, 1.0), uniform(0.88, 1.04)),
        "cup_drop": np.where(label, uniform(-0.2, 0.7), uniform(-0.3, 0.3)),
        "pigment": np.clip(look("pigment") + per_patient(rng.normal(0, 0.09, patients)), 0, 1),
        "contrast": np.clip(look("contrast") * uniform(0.85, 1.15), 0.05, None),
        "pallor": look("pallor") * uniform(0.8, 1.2),
        "noise": look("noise") * uniform(0.7, 1.3),
        "blur": np.clip(look("blur") + uniform(-0.15, 0.15), 0, 1),
        "haze": np.clip(look("haze") + 0.22 * old * uniform(0, 1), 0, 0.8),
        "tint": tint,
        "gamma": look("gamma") * uniform(0.94, 1.06),
        "aperture": uniform(0.95, 0.99),
        "light_x": uniform(-0.10, 0.10),
        "light_y": uniform(-0.10, 0.10),
        "vessels": uniform(0.75, 1.0),
        "atrophy": rng.random(n) < np.where(label, 0.22, 0.12),
        "haemorrhage": rng.random(n) < np.where(label, 0.08, 0.01),
        "drusen": rng.random(n) < 0.04 + 0.14 * old,
    }
