"""What every loader returns, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DataError(Exception):
    """A folder or a file is not what it should be; the message names it."""


@dataclass(frozen=True)
class ImageSet:
    """N images with several attributes, one of which is the group; ``data[rows]`` is a smaller set."""

    images: NDArray[np.uint8]  # (N, size, size, 3)
    label: NDArray[np.int64]  # (N,); zeros where the files hold masks alone
    group: NDArray[np.int64]  # (N,) of the chosen attribute, -1 unknown
    unit: NDArray[np.int64]  # patient (HAM10000: lesion): what is drawn together and never split
    attributes: dict[str, NDArray[np.int64]]  # every attribute's ids, -1 unknown
    attribute_names: dict[str, tuple[str, ...]]
    group_names: tuple[str, ...]
    files: NDArray[np.str_]
    masks: NDArray[np.uint8] | None = None  # (N, size, size): 0 fundus, 1 rim, 2 cup

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: Any) -> ImageSet:
        whole = {f.name: getattr(self, f.name) for f in fields(self)}
        part = {k: v[rows] for k, v in whole.items() if isinstance(v, np.ndarray)}
        return ImageSet(**{**whole, **part, "attributes": {k: v[rows] for k, v in self.attributes.items()}})

    @property
    def patient(self) -> NDArray[np.int64]:
        """The name that the rendered sets have for ``unit``."""
        return self.unit

    @property
    def num_groups(self) -> int:
        return len(self.group_names)

    @property
    def group_counts(self) -> list[int]:
        return np.bincount(self.group[self.group >= 0], minlength=self.num_groups).tolist()

    def tensors(self) -> dict[str, Any]:
        """Tensors for training: ``images`` (N, 3, H, W) float32 in -1..1, int64 ``label``, ``group`` and ``masks``."""
        import torch

        images = torch.from_numpy(np.ascontiguousarray(self.images.transpose(0, 3, 1, 2))).float()
        names = ("label", "group") if self.masks is None else ("label", "group", "masks")
        return {
            "images": images.div_(127.5).sub_(1),
            **{name: torch.from_numpy(np.asarray(getattr(self, name))).long() for name in names},
        }


Splits = tuple[ImageSet, ImageSet, ImageSet]


def split_units(units: NDArray[np.integer], shares: Sequence[float], *, seed: int) -> NDArray[np.int64]:
    """Part 0, 1, ... of every sample, in about these shares of the samples; the samples of one unit stay together."""
    _, unit, sizes = np.unique(units, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    middle = np.cumsum(sizes[order]) - sizes[order] / 2
    ends = np.cumsum(shares)[:-1] / np.sum(shares) * len(unit)
    part = np.empty(len(sizes), dtype=np.int64)
    part[order] = np.searchsorted(ends, middle, side="right")
    return part[unit]


def choose(name: str, value: str, accepted: Any) -> None:
    if value not in accepted:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(accepted)}")


def pillow_image() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading image files needs Pillow: pip install 'fairloss[examples]'") from error
    return Image
