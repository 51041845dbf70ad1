"""Groups within the values of a control attribute: each hospital's patients are compared with its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fairloss.groups.encode import GroupEncoding
from fairloss.metrics.arrays import Floats, as_groups, before_the_call

__all__ = ["Strata", "as_strata"]


class Strata(NamedTuple):
    """Groups, strata, and the cells of each stratum and group.

    Attributes:
        groups: ids and labels of the G groups, over all samples.
        control: those of the S strata; without a control attribute one, labelled None, with all samples.
        cells: those of the S * G cells, stratum by stratum; a sample of unknown group or stratum is in none.
    """

    groups: GroupEncoding
    control: GroupEncoding
    cells: GroupEncoding

    def groups_of(self, stratum: int) -> GroupEncoding:
        """The groups of the stratum's samples; all others are in none."""
        if self.cells is self.groups:
            return self.groups
        return self.groups._replace(ids=np.where(self.control.ids == stratum, self.groups.ids, -1))

    def by_group(self, values: Floats) -> Floats:
        """(S * G, ...) values of the cells as (S, G, ...)."""
        return values.reshape(self.control.num_groups, self.groups.num_groups, *values.shape[1:])


def as_strata(groups: Any, control: Any, n: int, **options: Any) -> Strata:
    """Read ``groups`` with the ``options`` of :func:`fairloss.metrics.arrays.as_groups` and, where given, ``control``."""
    of = as_groups(groups, n, **options)
    if control is None:
        return Strata(of, GroupEncoding(np.zeros(n, dtype=np.int64), (None,)), of)
    within = as_groups(control, n, "control", option=before_the_call)
    known = (of.ids >= 0) & (within.ids >= 0)
    ids = np.where(known, within.ids * of.num_groups + of.ids, -1)
    labels = tuple(f"{label} (control {stratum})" for stratum in within.labels for label in of.labels)
    return Strata(of, within, GroupEncoding(ids, labels))
