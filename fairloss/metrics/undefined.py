"""What has no value in some group: one warning, or an error, that names the groups and classes concerned."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from fairloss.groups.encode import GroupEncoding
from fairloss.metrics.arrays import Bools, Floats
from fairloss.metrics.predictions import Predictions
from fairloss.metrics.rates import Convention

__all__ = [
    "Undefined",
    "UndefinedGroupWarning",
    "classes_named",
    "is_undefined",
    "report_undefined",
    "undefined_labels",
]

Undefined = Literal["omit", "raise"]


class UndefinedGroupWarning(UserWarning):
    """A metric has no value in some group, which is left out of every comparison."""


def is_undefined(value: Any) -> bool:
    """Whether a value is NaN; a matrix and the like never is."""
    return isinstance(value, float) and value != value


def classes_named(pred: Predictions, convention: Convention) -> tuple[Any, ...]:
    """The classes that a warning names: those of several, but none in FairGRPO's convention, which drops absent ones."""
    return pred.classes if len(pred.classes) > 1 and convention != "fairgrpo" else ()


def report_undefined(
    name: str,
    encoding: GroupEncoding,
    values: Floats,
    undefined: Undefined,
    *,
    classes: Sequence[Any] = (),
    of: str = "group(s)",
    depth: int = 3,
) -> None:
    """One warning, or an error, that names the groups, and their ``classes``, without one of the (G, K) values.

    Without ``classes`` a group without any value is named. A category that nobody has is no group here.
    """
    missing = np.vectorize(is_undefined, otypes=[bool])(values) if values.dtype == object else np.isnan(values)
    if not missing.any():
        return
    used = np.bincount(encoding.ids + 1, minlength=encoding.num_groups + 1)[1:] > 0
    labels = undefined_labels(encoding.labels, missing & used[:, None], classes)
    if not labels:
        return
    text = f"{name} is undefined in {of} {', '.join(labels)}"
    if undefined == "raise":
        raise ValueError(text)
    warnings.warn(f"{text}: left out", UndefinedGroupWarning, stacklevel=depth)


def undefined_labels(labels: Sequence[Any], missing: Bools, classes: Sequence[Any]) -> list[str]:
    """``A``, ``B (class glaucoma)``: the groups, and classes of them, that are ``missing``, (G, K)."""
    found = []
    for label, lost in zip(labels, missing, strict=True):
        if lost.all():
            found.append(str(label))
        elif lost.any() and len(classes) == len(lost):
            found.append(f"{label} ({_named(classes, lost)})")
    return found


def _named(classes: Sequence[Any], which: Bools, most: int = 6) -> str:
    """``class glaucoma``, ``classes 0, 2``: the first few of those marked, and how many more there are."""
    names = [str(c) for c, marked in zip(classes, which, strict=True) if marked]
    listed = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return ("class " if len(names) == 1 else "classes ") + listed
