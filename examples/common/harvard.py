"""The ``.npz`` layout of Harvard-FairVLMed (Luo et al. 2024) and Harvard-FairSeg (Tian et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .image_set import DataError, ImageSet, Splits, choose, pillow_image, split_units
from .toolkit import progress

FOLDERS = ("Training", "Validation", "Test")
AGES = ("under 50", "50 to 64", "65 and over")
# The values 0, 1, ... of every attribute as the data sets' own descriptions give them; -1 is unknown.
NAMES = {
    "gender": ("female", "male"),
    "race": ("Asian", "Black", "White"),
    "ethnicity": ("non-Hispanic", "Hispanic"),
    "language": ("English", "Spanish", "other"),
    "maritalstatus": ("married or partnered", "single", "divorced", "widowed", "legally separated"),
}


def load_harvard(
    root: Path, *, attribute: str = "race", size: int = 64, seed: int = 0,
    shares: Sequence[float] = (0.7, 0.1, 0.2), limit: int | None = None,
) -> Splits:  # fmt: skip
    """Harvard-FairVLMed (label ``glaucoma``) or Harvard-FairSeg (``disc_cup_mask``), one patient a file.

    The folders Training, Validation and Test are the split where they are there (without Validation it is taken from
    Training); a single folder of files is split by ``shares``. Attributes: gender, race, ethnicity, language,
    maritalstatus and age (in bands); -1 is unknown.
    """
    names = {**NAMES, "age": AGES}
    choose("attribute", attribute, names)
    root = Path(root)
    folders = [f for f in FOLDERS if (root / f).is_dir()]
    if folders:
        if missing := [f for f in ("Training", "Test") if f not in folders]:
            raise DataError(f"{root / missing[0]}: missing beside {', '.join(folders)}")
        found = [(p, FOLDERS.index(f)) for f in folders for p in sorted((root / f).glob("*.npz"))]
    else:
        found = [(p, -1) for p in sorted(root.glob("*.npz"))]
    for folder in folders:
        if not any((root / folder).glob("*.npz")):
            raise DataError(f"{root / folder}: no .npz file")
    if not found:
        raise DataError(f"{root}: no .npz file")
    files, part = [p for p, _ in found], np.array([s for _, s in found])
    if not folders:
        part = split_units(np.arange(len(files)), shares, seed=seed)
    elif "Validation" not in folders:
        training = np.flatnonzero(part == 0)
        part[training] = split_units(training, (shares[0], shares[1]), seed=seed)
    if limit is not None and limit < len(files):
        kept = np.sort(np.random.default_rng(seed).permutation(len(files))[:limit])
        files, part = [files[i] for i in kept], part[kept]
    records = [_read_npz(f, size) for f in progress(files, f"reading {len(files)} files")]
    if len({r["mask"] is None for r in records}) > 1:
        odd = next(f for f, r in zip(files, records, strict=True) if r["mask"] is None)
        raise DataError(f"{odd}: key 'disc_cup_mask' is missing, although other files have it")
    ids = {name: np.array([r[name] for r in records], dtype=np.int64) for name in names}
    data = ImageSet(
        images=np.stack([r["image"] for r in records]),
        label=np.array([r["label"] for r in records], dtype=np.int64),
        group=ids[attribute],
        unit=np.arange(len(files)),
        attributes=ids,
        attribute_names=dict(names),
        group_names=names[attribute],
        files=np.array([str(f) for f in files]),
        masks=None if records[0]["mask"] is None else np.stack([r["mask"] for r in records]),
    )
    return data[part == 0], data[part == 1], data[part == 2]


def _read_npz(path: Path, size: int) -> dict[str, Any]:
    """Image, label or mask, and attribute ids of one patient's file."""
    try:
        # Opened here: NumPy leaves a file that it cannot read open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            needed = ["slo_fundus", "age", *NAMES]
            if missing := [k for k in needed if k not in archive.files]:
                raise DataError(f"{path}: key {', '.join(map(repr, missing))} is missing; found {archive.files}")
            if not {"glaucoma", "disc_cup_mask"} & set(archive.files):
                raise DataError(f"{path}: neither 'glaucoma' nor 'disc_cup_mask' is there; found {archive.files}")
            content = {k: archive[k] for k in (*needed, "glaucoma", "disc_cup_mask") if k in archive.files}
    except DataError:
        raise
    except Exception as error:  # a file that is cut off fails in zipfile, zlib, struct or NumPy, wherever it was cut
        raise DataError(f"{path}: not a readable .npz file ({error})") from error
    record: dict[str, Any] = {"image": _to_rgb(path, content["slo_fundus"], size), "label": 0, "mask": None}
    if "glaucoma" in content:
        record["label"] = _integer(path, "glaucoma", content["glaucoma"], 2, unknown=False)
    if "disc_cup_mask" in content:
        record["mask"] = _to_mask(path, content["disc_cup_mask"], content["slo_fundus"].shape[:2], size)
    for name, values in NAMES.items():
        record[name] = _integer(path, name, content[name], len(values), unknown=True)
    age = np.asarray(content["age"])
    if age.size != 1 or not np.issubdtype(age.dtype, np.number):
        raise DataError(f"{path}: age is {age!r}, not one number")
    years = float(age.item())
    record["age"] = int(np.digitize(years, [50, 65])) if years >= 0 else -1  # NaN compares false, too
    return record


def _integer(path: Path, key: str, value: NDArray[Any], count: int, *, unknown: bool) -> int:
    lowest = -1 if unknown else 0
    number = np.asarray(value)
    if number.size != 1 or not np.issubdtype(number.dtype, np.number) or number.item() not in range(lowest, count):
        raise DataError(f"{path}: {key} is {number.tolist()!r}; {lowest} .. {count - 1} are known")
    return int(number.item())


def _to_rgb(path: Path, image: NDArray[Any], size: int) -> NDArray[np.uint8]:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise DataError(f"{path}: slo_fundus has shape {image.shape}; (H, W) or (H, W, 3) is needed")
    if not np.issubdtype(image.dtype, np.number) or not (np.isfinite(image).all() and image.min() >= 0):
        raise DataError(f"{path}: slo_fundus holds other than numbers from 0 to 255")
    if np.issubdtype(image.dtype, np.floating) and image.max() <= 1:
        image = image * 255
    if image.max() > 255:
        raise DataError(f"{path}: slo_fundus holds {image.max()}, above 255")
    pillow = pillow_image()
    picture = pillow.fromarray(np.rint(image).astype(np.uint8)).convert("RGB")
    return np.asarray(picture.resize((size, size), pillow.Resampling.BILINEAR))


def _to_mask(path: Path, mask: NDArray[Any], shape: tuple[int, ...], size: int) -> NDArray[np.uint8]:
    """0 fundus, 1 rim, 2 cup: the files hold these numbers, negative."""
    if mask.shape != shape or not np.isin(np.abs(mask), (0, 1, 2)).all():
        raise DataError(f"{path}: disc_cup_mask must hold 0, -1 (rim) and -2 (cup) in the image's shape {shape}")
    pillow = pillow_image()
    picture = pillow.fromarray(np.abs(mask).astype(np.uint8))
    return np.asarray(picture.resize((size, size), pillow.Resampling.NEAREST))
