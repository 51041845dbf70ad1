"""Public data sets from a folder on disk: HAM10000, and the ``.npz`` layout of Harvard-FairVLMed and Harvard-FairSeg.

    HAM10000   ROOT/HAM10000_metadata.csv and the JPEGs anywhere below ROOT, as ``<image_id>.jpg``
    Harvard    ROOT/Training/*.npz, ROOT/Validation/*.npz, ROOT/Test/*.npz, or all .npz files in one folder

Whatever is missing or broken is a ``DataError`` that names the file. Images are resized to a square and kept as bytes.
"""

from __future__ import annotations

from pathlib import Path

from . import harvard
from .ham10000 import load_ham10000
from .harvard import load_harvard
from .image_set import DataError, ImageSet, Splits, split_units

__all__ = ["DataError", "ImageSet", "Splits", "load", "load_ham10000", "load_harvard", "split_units"]


def load(
    root: Path, *, attribute: str | None = None, size: int = 64, seed: int = 0, limit: int | None = None
) -> Splits:
    """Training, validation and test set of whichever layout ``root`` holds.

    Args:
        root: the folder, as downloaded.
        attribute: which one is the group; default ``sex`` (HAM10000) or ``race`` (Harvard).
        size: height and width that the images are resized to.
        seed: of the split, where the files do not bring one.
        limit: read at most about this many images (whole lesions, a share of every split).
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if (root / "HAM10000_metadata.csv").exists():
        return load_ham10000(root, attribute=attribute or "sex", size=size, seed=seed, limit=limit)
    if any(root.glob("*.npz")) or any((root / name).is_dir() for name in harvard.FOLDERS):
        return load_harvard(root, attribute=attribute or "race", size=size, seed=seed, limit=limit)
    raise DataError(
        f"{root}: neither HAM10000 (HAM10000_metadata.csv is missing) nor a Harvard data set (no .npz file, and no "
        f"folder {', '.join(harvard.FOLDERS)})"
    )
