"""Data of the fairness benchmark: nine rendered tasks and the diabetes study, in folds of three parts.

Rendered: 24 x 24 pixels around the optic disc, left eyes mirrored so that it always lies in the same place. Every seed draws
its own training photographs; validation and test photographs are the same for all seeds, patients of the three parts are
never the same, and validation and test hold as many photographs of every group (figures over all patients weigh the groups
by the population's shares). Diabetes: five folds that never change, each a test set once; of a fold's other patients a seed
sets a quarter aside for validation.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from common import fundus

RENDERED = tuple(fundus.TASKS)
TASKS = (*RENDERED, "diabetes")
AGE_BANDS = ("age < 40", "age 40-59", "age >= 60")
SIZE, SIDE, PATCH = 48, 24, 6  # pixels of a photograph, of the square around the disc, and of the network's patches
TOP, LEFT = 11, 20  # of the square
MEAN, STD = (175.0, 100.0, 57.0), (42.0, 32.0, 26.0)  # of red, green and blue; the same for all tasks


@dataclass(frozen=True)
class Sizes:
    """How much is rendered and trained; ``QUICK`` only shows that all of it works."""

    train: int = 2000
    valid_per_group: int = 300
    test_per_group: int = 1000
    steps: int = 200
    batch: int = 128
    tune_seeds: tuple[int, ...] = (100, 101)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tasks: tuple[str, ...] = TASKS


FULL = Sizes()
QUICK = Sizes(
    train=300,
    valid_per_group=20,
    test_per_group=40,
    steps=4,
    tune_seeds=(100,),
    seeds=(0, 1),
    tasks=("standard", "diabetes"),
)


@dataclass(frozen=True)
class Part:
    """Inputs, labels and group ids of training, validation or test samples."""

    x: Tensor
    y: Tensor
    g: Tensor
    patient: NDArray[np.int64]
    weight: NDArray[np.float64]  # of a sample in figures over all patients

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Fold:
    """What one training run may use (``train``, ``valid``) and what judges it (``test``)."""

    task: str
    train: Part
    valid: Part
    test: Part
    group_names: tuple[str, ...]

    @property
    def num_groups(self) -> int:
        return len(self.group_names)

    @property
    def counts(self) -> list[int]:
        """Training samples of every group."""
        return torch.bincount(self.train.g, minlength=self.num_groups).tolist()


def group_names(task: str) -> tuple[str, ...]:
    return AGE_BANDS if task == "diabetes" else fundus.TASKS[task].group_names


def folds(task: str, seed: int, sizes: Sizes, cache: Path, *, equal: bool = False) -> list[Fold]:
    """The folds of a task: one if it is rendered, five of the diabetes study. ``equal``: groups of equal size in training."""
    if task == "diabetes":
        return _diabetes(seed)
    return [
        Fold(
            task,
            _rendered(task, "equal" if equal else "train", seed, sizes, cache),
            _rendered(task, "valid", 0, sizes, cache),
            _rendered(task, "test", 0, sizes, cache),
            group_names(task),
        )
    ]


def test_set(task: str, sizes: Sizes, cache: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Labels, group ids, patients and weights in the order of the stored test scores."""
    parts = [fold.test for fold in folds(task, 0, sizes, cache)]
    return tuple(np.concatenate([np.asarray(getattr(p, k)) for p in parts]) for k in ("y", "g", "patient", "weight"))  # type: ignore[return-value]


@lru_cache(maxsize=16)
def _rendered(task: str, kind: str, seed: int, sizes: Sizes, cache: Path) -> Part:
    looks = fundus.TASKS[task].looks
    groups = len(looks)
    per_group = {"equal": sizes.train // groups, "valid": sizes.valid_per_group, "test": sizes.test_per_group}.get(kind)
    path = cache / f"{task}-{kind}-{seed}-{per_group or sizes.train}.npz"
    if not path.exists():
        # Other patients than those of any training set: seeds of the equal sets begin at 1000.
        draw = {"seed": seed + 1000 * (kind == "equal"), "size": SIZE, "split": "train" if kind == "equal" else kind}
        amount: dict[str, Any] = {"images": sizes.train} if per_group is None else {"counts": [per_group] * groups}
        data = fundus.make(task, **amount, **draw)
        images = data.images.copy()
        images[data.eye == 1] = images[data.eye == 1][:, :, ::-1]
        square = images[:, TOP : TOP + SIDE, LEFT : LEFT + SIDE]
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{np.random.default_rng().integers(10**9)}.npz")
        np.savez(partial, images=square, label=data.label, group=data.group, patient=data.patient)
        partial.rename(path)
    with np.load(path) as stored:
        x = torch.from_numpy((stored["images"] - np.float32(MEAN)) / np.float32(STD))
        y, g, patient = stored["label"], stored["group"], stored["patient"]
    shares = np.asarray(fundus.TASKS[task].shares)
    weight = (shares / np.bincount(g, minlength=groups))[g] * len(g)
    return Part(_patches(x), torch.from_numpy(y), torch.from_numpy(g), patient, weight)


def _patches(x: Tensor) -> Tensor:
    """(N, 24, 24, 3) -> (N, 16, 108): what a convolution with a stride of its kernel's size multiplies."""
    n, m = len(x), SIDE // PATCH
    return x.reshape(n, m, PATCH, m, PATCH, 3).transpose(2, 3).reshape(n, m * m, PATCH * PATCH * 3).contiguous()


@lru_cache(maxsize=16)
def _diabetes(seed: int) -> list[Fold]:
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import StratifiedKFold, train_test_split

    data = load_diabetes(scaled=False)
    x = data.data.astype(np.float32)
    y = (data.target > np.median(data.target)).astype(np.int64)
    g = np.digitize(x[:, data.feature_names.index("age")], [40, 60]).astype(np.int64)
    strata = y * len(AGE_BANDS) + g
    made = []
    for rest, test in StratifiedKFold(5, shuffle=True, random_state=0).split(x, strata):
        train, valid = train_test_split(rest, test_size=0.25, random_state=seed, stratify=strata[rest])
        mean, std = x[train].mean(0), x[train].std(0)
        parts = [
            Part(
                torch.from_numpy((x[rows] - mean) / std),
                torch.from_numpy(y[rows]),
                torch.from_numpy(g[rows]),
                rows,
                np.ones(len(rows)),
            )
            for rows in (train, valid, test)
        ]
        made.append(Fold("diabetes", *parts, AGE_BANDS))
    return made
