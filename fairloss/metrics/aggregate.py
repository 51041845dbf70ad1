"""Averages over data sets, attributes and groups, in the order that FairGRPO's tables follow and in its equations'.

Equations 7 to 11 of the paper average each group over the data sets first and then compare groups. Its Table 2 does the
reverse: the disparity of each attribute of each data set first, then the mean over attributes, then over data sets, and
a data set without groups counts with disparity 0. The two answer different questions (groups that lose on different
data sets cancel in the first), so both are here, and a missing data set needs an explicit value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fairloss.core.checks import choice, expected
from fairloss.metrics.arrays import Floats, as_floats
from fairloss.metrics.disparity import gap, group_std
from fairloss.metrics.rates import Convention

__all__ = ["aggregate_disparity", "hierarchical_mean"]

Nested = Mapping[str, Mapping[str, Any]]


def aggregate_disparity(
    values: Nested,
    *,
    statistic: Literal["gap", "std"] = "gap",
    ddof: int | None = None,
    order: Literal["disparity_first", "average_first"] = "disparity_first",
    missing: Mapping[str, float] | None = None,
    convention: Convention = "standard",
) -> float:
    """One disparity for several data sets and attributes; 0 means none anywhere (disparity first).

    ``"disparity_first"``: mean over data sets of the mean over attributes of the disparity over groups (FairGRPO's
    Table 2). ``"average_first"``: mean over attributes of the disparity over groups of the groups' means over data sets
    (equations 7 to 11, one attribute at a time).

    Args:
        values: data set -> attribute -> the groups' values: a mapping of labels to values, or (for the first order) a
            sequence. NaN is left out.
        statistic: ``"gap"`` or ``"std"``.
        ddof: needed with ``"std"``: 1 for FairGRPO's tables, 0 for its equation 11.
        order: see above.
        missing: data sets without groups and the disparity to count for each (FairGRPO's tables: 0).
        convention: ``"fairgrpo"`` is disparity first with ``ddof=1``, as its tables; other values are refused with it.

    Returns:
        The disparity; NaN where a data set has none and ``missing`` gives none.

    Raises:
        ValueError: no data set, an unknown statistic or order, a data set both given and missing.

    Example:
        >>> scores = {"A": {"sex": {"F": 0.8, "M": 0.7}}, "B": {"sex": {"F": 0.6, "M": 0.9}}}
        >>> round(aggregate_disparity(scores), 6), round(aggregate_disparity(scores, order="average_first"), 6)
        (0.2, 0.1)
        >>> round(aggregate_disparity(scores, missing={"C": 0.0}), 6)
        0.133333
    """
    choice("statistic", statistic, ("gap", "std"))
    choice("order", order, ("disparity_first", "average_first"))
    choice("convention", convention, ("standard", "fairgrpo"))
    if convention == "fairgrpo":
        if order != "disparity_first" or ddof == 0:
            given = f"order={order!r} and ddof={ddof!r}, which contradict it"
            raise ValueError(expected("convention", "'fairgrpo' with order='disparity_first', ddof=1", given))
        ddof = 1 if statistic == "std" else ddof
    if (statistic == "std") != (ddof is not None):
        given = f"{ddof!r} with statistic={statistic!r}"
        raise ValueError(expected("ddof", "0 or 1 with statistic='std', else None", given))
    fill = _check(values, missing)

    def disparity(of_groups: Any) -> float:
        return gap(of_groups) if ddof is None else group_std(of_groups, ddof=ddof)

    if order == "disparity_first":
        per_set = [np.mean([disparity(_listed(v)) for v in attributes.values()]) for attributes in values.values()]
        return float(np.mean([*per_set, *fill]))
    if fill:
        wanted = "None with order='average_first', where no data set has a disparity of its own"
        raise ValueError(expected("missing", wanted, missing))
    pooled: dict[str, dict[Any, list[float]]] = {}
    for attributes in values.values():
        for attribute, groups in attributes.items():
            if not isinstance(groups, Mapping):
                wanted = f"a mapping of group labels to values in {attribute!r} with order='average_first'"
                raise ValueError(expected("values", wanted, type(groups).__name__))
            for label, value in groups.items():
                if value == value:
                    pooled.setdefault(attribute, {}).setdefault(label, []).append(float(value))
    if not pooled:
        return float("nan")
    return float(np.mean([disparity([np.mean(v) for v in groups.values()]) for groups in pooled.values()]))


def hierarchical_mean(values: Nested, *, missing: Mapping[str, float] | None = None) -> float:
    """Mean over data sets of the mean over attributes of the mean over groups (FairGRPO, equations 5 and 6).

    Args:
        values: data set -> attribute -> the groups' values, a mapping or a sequence; NaN is left out.
        missing: data sets without groups and the value to count for each.

    Returns:
        The mean, in which no large data set or group dominates.

    Raises:
        ValueError: no data set, or one both given and missing.

    Example:
        >>> hierarchical_mean({"A": {"sex": [0.8, 0.6], "age": [0.5]}, "B": {"sex": [1.0]}})
        0.8
    """
    fill = _check(values, missing)
    per_set = [
        np.mean([_mean_of_defined(as_floats(_listed(v), "values")) for v in attributes.values()])
        for attributes in values.values()
    ]
    return float(np.mean([*per_set, *fill]))


def _mean_of_defined(v: Floats) -> float:
    v = v[~np.isnan(v)]
    return float(v.mean()) if v.size else float("nan")


def _listed(groups: Any) -> Any:
    return list(groups.values()) if isinstance(groups, Mapping) else groups


def _check(values: Nested, missing: Mapping[str, float] | None) -> list[float]:
    fill = dict(missing or {})
    if not isinstance(values, Mapping) or not all(isinstance(attributes, Mapping) for attributes in values.values()):
        wanted = "a mapping of data sets to mappings of attributes to the groups' values"
        raise TypeError(expected("values", wanted, type(values).__name__))
    if not values and not fill:
        raise ValueError(expected("values", "at least one data set", "none"))
    both = sorted(set(values) & set(fill))
    if both:
        raise ValueError(expected("missing", "data sets that are not among the values", repr(both[0])))
    empty = [name for name, attributes in values.items() if not attributes]
    if empty:
        raise ValueError(expected("values", "an attribute in every data set", f"none in {empty[0]!r}", "use missing="))
    return [float(v) for v in fill.values()]
