"""Data sets as the blocks of a benchmark, each with several attributes, and a file of finished cells that survives a kill."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import fundus, loaders, toolkit
from .clip import LESION_PROMPTS, PROMPTS, REAL_PROMPTS
from .vlm import disc_region

Ids = NDArray[np.int64]
AGES = ("under 60", "60 and over")


def attributes_of(data: Any) -> dict[str, tuple[Ids, tuple[str, ...]]]:
    """Ids (-1 unknown) and group names of every attribute, ``sex`` and ``age`` under these names in every data set.

    Of a rendered set, ``group`` is what sets its photographs apart; sex is drawn without regard to the picture, so that it
    is a control; age, split at 60 as FairMedFM does, shows in the lens and the drusen.
    """
    if isinstance(data, fundus.FundusSet):
        return {
            "group": (data.group, data.group_names),
            "sex": (data.sex, fundus.SEXES),
            "age": ((data.age >= 60).astype(np.int64), AGES),
        }
    found = {name: (data.attributes[name], data.attribute_names[name]) for name in data.attributes}
    return {("sex" if name == "gender" else name): value for name, value in found.items()}


@dataclass(frozen=True)
class Block:
    """A data set: its name, its splits for a seed (training, validation, test), and the prompts of its two classes."""

    name: str
    splits: Callable[[int], tuple[Any, Any, Any]]
    prompts: tuple[str, str]


def rendered(name: str, *, images: int, valid: int, test: int, size: int, real_model: bool) -> Block:
    """A task of the renderer; the test set holds ``test`` photographs of every group and is the same for all seeds."""
    groups = len(fundus.TASKS[name].looks)

    def splits(seed: int) -> tuple[Any, Any, Any]:
        return (
            fundus.make(name, images=images, size=size, seed=seed),
            fundus.make(name, images=valid, size=size, seed=seed, split="valid"),
            fundus.make(name, counts=[test] * groups, size=size, seed=0, split="test"),
        )

    return Block(name, splits, REAL_PROMPTS if real_model else PROMPTS)


def real(folder: Path, *, size: int, limit: int | None) -> Block:
    """HAM10000 or one of Harvard's; seeds change the training, not the data."""
    read: list[Any] = []

    def splits(seed: int) -> tuple[Any, Any, Any]:
        if not read:
            read.append(loaders.load(folder, size=size, limit=limit))
        return read[0]

    lesions = (folder / "HAM10000_metadata.csv").exists()
    return Block(str(folder.resolve()), splits, LESION_PROMPTS if lesions else REAL_PROMPTS)


def blocks_of(args: argparse.Namespace) -> list[Block]:
    """The folders of ``--data-dir``, or the rendered tasks."""
    if args.data_dir:
        size = args.size if args.model is None else args.model_size
        found = [real(folder, size=size, limit=args.limit) for folder in args.data_dir]
    else:
        options = {"images": args.images, "valid": args.valid_images, "test": args.test_images, "size": args.size}
        found = [rendered(name, real_model=args.model is not None, **options) for name in args.tasks]
    names = [block.name for block in found]
    if len(set(names)) != len(names):
        raise SystemExit(f"--data-dir, --tasks: {names}; every data set is one block, with a name of its own")
    return found


def seg_tensors(data: Any, group: Ids) -> dict[str, Tensor]:
    """Images, masks and group for the U-Net; of rendered photographs the region of the disc, at their own resolution."""
    tensors = data.tensors()
    images, masks = tensors["images"], tensors["masks"]
    if isinstance(data, fundus.FundusSet):
        cut = disc_region(images.permute(0, 2, 3, 1).numpy(), data.eye)
        images = torch.from_numpy(np.ascontiguousarray(cut.transpose(0, 3, 1, 2)))
        masks = torch.from_numpy(np.ascontiguousarray(disc_region(data.masks, data.eye))).long()
    return {"images": images, "masks": masks, "group": torch.from_numpy(group)}


class Cells:
    """Finished cells, one JSON line each, written as they come; a file of other settings is not touched.

    Args:
        folder: where the file lies.
        settings: everything that changes a cell's value: cells made with others are in another file.
        fresh: forget what is there.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = folder / f"cells-{toolkit.digest(settings)}.jsonl"
        self.found: dict[tuple[Any, ...], Any] = {}
        if fresh:
            self.path.unlink(missing_ok=True)
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            if len(whole) < len(lines):  # killed in the middle of a line
                self.path.write_text("".join(whole), encoding="utf-8")
            for line in whole:
                cell = json.loads(line)
                self.found[tuple(cell["key"])] = cell["value"]

    def __contains__(self, key: Sequence[Any]) -> bool:
        return tuple(key) in self.found

    def __getitem__(self, key: Sequence[Any]) -> Any:
        return self.found[tuple(key)]

    def add(self, key: Sequence[Any], value: Any) -> None:
        self.found[tuple(key)] = value
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": list(key), "value": value}) + "\n")
