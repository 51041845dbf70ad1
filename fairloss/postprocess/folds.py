"""Folds of samples: stratified by label and group, drawn several times, no patient in two."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from numbers import Integral
from typing import Any, Protocol

import numpy as np

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.groups.encode import UNKNOWN
from fairloss.metrics.arrays import Floats, Ints
from fairloss.report.sample import patient_codes

__all__ = ["Splitter", "splits_of"]


class Splitter(Protocol):
    """scikit-learn's splitters."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[Ints, Ints]]:  # noqa: D102
        ...


def splits_of(
    folds: int | Splitter, repeats: int | None, y: Floats, ids: Ints, patients: Any, seed: int
) -> list[tuple[Ints, Ints]]:
    """(training rows, rows left out) of every fold; the arguments are :func:`fairloss.postprocess.cross_fit`'s."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    people = None if patients is None else patient_codes(patients, len(y))
    number: Any = folds
    if isinstance(number, (Integral, str)):
        folds = checks.integer("folds", number, minimum=2)
        fewest = int(min((y == 1).sum(), (y != 1).sum()))
        if fewest < folds:
            raise ValueError(
                expected("folds", "at most as many as the rarer label has samples", f"{folds} of {fewest}")
            )
        kind = StratifiedKFold if people is None else StratifiedGroupKFold
        repeats = 4 if repeats is None else checks.integer("repeats", repeats, minimum=1)
        splitters: list[Any] = [kind(folds, shuffle=True, random_state=seed + 7919 * r) for r in range(repeats)]
        strata = ids * 2 + (y == 1)
        rare = [s for s, count in zip(*np.unique(strata, return_counts=True), strict=True) if count < folds]
        strata = np.where(np.isin(strata, rare), 2 * UNKNOWN + (y == 1), strata)  # too few to be in every fold
    else:
        if repeats is not None:
            raise ValueError(expected("repeats", "None beside a splitter, which may itself repeat", repeats))
        splitters, strata = [folds], (y == 1).astype(int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The groups parameter is ignored")  # an error below, where it matters
        warnings.filterwarnings(
            "ignore", "The least populated class"
        )  # a stratum of the rare, spread as far as it goes
        splits = [
            (np.asarray(a), np.asarray(b)) for s in splitters for a, b in s.split(np.zeros(len(y)), strata, people)
        ]
    for train, test in splits:
        if people is not None and np.isin(people[test], people[train]).any():
            raise ValueError(
                expected("folds", "a splitter that keeps a patient's samples together", "one that parts them")
            )
    return splits
