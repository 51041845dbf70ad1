"""HAM10000 (Tschandl et al. 2018): photographs of skin lesions with diagnosis, sex and age."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .image_set import DataError, ImageSet, Splits, choose, pillow_image, split_units
from .toolkit import progress

COLUMNS = ("lesion_id", "image_id", "dx", "age", "sex")
DIAGNOSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
MALIGNANT = ("akiec", "bcc", "mel")
SEX = ("female", "male")
AGES = ("under 60", "60 and over")


def load_ham10000(
    root: Path, *, attribute: str = "sex", label: str = "malignant", size: int = 64, seed: int = 0,
    shares: Sequence[float] = (0.7, 0.1, 0.2), limit: int | None = None,
) -> Splits:  # fmt: skip
    """HAM10000, split by lesion: the photographs of one lesion are all on one side.

    ``label`` is "malignant" (akiec, bcc, mel against the rest) or "dx" (the seven diagnoses in alphabetical order).
    The attributes are ``sex`` and ``age`` (under 60, 60 and over).
    """
    names = {"sex": SEX, "age": AGES}
    choose("attribute", attribute, names)
    choose("label", label, ("malignant", "dx"))
    path = Path(root) / "HAM10000_metadata.csv"
    rows = _read_csv(path, COLUMNS)
    units = np.unique([row["lesion_id"] for row in rows], return_inverse=True)[1]
    parts = split_units(units, shares, seed=seed)
    if limit is not None:
        keep = np.random.default_rng(seed).permutation(units.max() + 1)[units] < limit * (units.max() + 1) / len(units)
        rows, units, parts = [r for r, k in zip(rows, keep, strict=True) if k], units[keep], parts[keep]
    photographs = {p.stem: p for p in Path(root).rglob("*.jpg")}
    missing = [row["image_id"] for row in rows if row["image_id"] not in photographs]
    if missing:
        raise DataError(f"{Path(root) / missing[0]}.jpg: missing, with {len(missing) - 1} more that {path.name} names")
    diagnosis, sex, age = (
        np.array(v) for v in zip(*(_ham_row(path, i, r) for i, r in enumerate(rows, 2)), strict=True)
    )
    files = [photographs[row["image_id"]] for row in rows]
    ids = {"sex": sex, "age": np.where(np.isnan(age), -1, age >= 60).astype(np.int64)}
    malignant = np.isin(diagnosis, [DIAGNOSES.index(d) for d in MALIGNANT])
    data = ImageSet(
        images=np.stack([_read_photograph(f, size) for f in progress(files, f"reading {len(files)} photographs")]),
        label=(malignant if label == "malignant" else diagnosis).astype(np.int64),
        group=ids[attribute],
        unit=units.astype(np.int64),
        attributes=ids,
        attribute_names=dict(names),
        group_names=names[attribute],
        files=np.array([str(f) for f in files]),
    )
    return data[parts == 0], data[parts == 1], data[parts == 2]


def _ham_row(path: Path, line: int, row: dict[str, str]) -> tuple[int, int, float]:
    """Diagnosis, sex and age of one row of the table; unknown: -1 and NaN."""
    where = f"{path}, line {line}"
    if row["dx"] not in DIAGNOSES:
        raise DataError(f"{where}: dx is {row['dx']!r}; known are {', '.join(DIAGNOSES)}")
    if row["sex"] not in (*SEX, "unknown", ""):
        raise DataError(f"{where}: sex is {row['sex']!r}; known are {', '.join(SEX)} and unknown")
    try:
        age = float(row["age"] or "nan")
    except ValueError:
        raise DataError(f"{where}: age is {row['age']!r}, not a number") from None
    return DIAGNOSES.index(row["dx"]), SEX.index(row["sex"]) if row["sex"] in SEX else -1, age


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [c for c in columns if c not in (reader.fieldnames or [])]:
            raise DataError(
                f"{path}: column {', '.join(missing)} is missing; found {', '.join(reader.fieldnames or [])}"
            )
        rows = list(reader)
    if not rows:
        raise DataError(f"{path}: no row")
    for line, row in enumerate(rows, 2):
        if any(row[c] is None for c in columns):
            raise DataError(f"{path}, line {line}: fewer columns than the header")
    return rows


def _read_photograph(path: Path, size: int) -> NDArray[np.uint8]:
    pillow = pillow_image()
    try:
        with pillow.open(path) as image:
            image.draft("RGB", (size, size))  # a JPEG can be decoded at a fraction of its size
            return np.asarray(image.convert("RGB").resize((size, size), pillow.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a file that is cut off or no image
        raise DataError(f"{path}: not a readable image ({error})") from error
