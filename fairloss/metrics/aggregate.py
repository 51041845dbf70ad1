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

from fairloss.metrics import disparity
from fairloss.metrics.inputs import Floats, as_numbers

__all__ = ["aggregate_disparity", "hierarchical_mean"]

Nested = Mapping[str, Mapping[str, Any]]


def aggregate_disparity(
    values: Nested,
    *,
    statistic: Literal["gap", "std"] = "gap",
    ddof: int | None = None,
    order: Literal["disparity_first", "average_first"] = "disparity_first",
    missing: Mapping[str, float] | None = None,
    convention: Literal["standard", "fairgrpo"] = "standard",
) -> float:
    """One disparity for several data sets and attributes; 0 means none anywhere (disparity first).

    ``"disparity_first"``: mean over data sets of the mean over attributes of the disparity over groups (FairGRPO's
    Table 2). ``"average_first"``: mean over attributes of the disparity over groups of the groups' means over data sets
    (equations 7 to 11, an attribute at a time).

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
    if statistic not in ("gap", "std") or order not in ("disparity_first", "average_first"):
        raise ValueError(
            f"statistic, order: {statistic!r}, {order!r} were given; accepted are gap, std and disparity_first, "
            "average_first"
        )
    if convention not in ("standard", "fairgrpo"):
        raise ValueError(f"convention: {convention!r} was given; accepted are standard, fairgrpo")
    if convention == "fairgrpo":
        if order != "disparity_first" or ddof == 0:
            raise ValueError(
                f"convention: 'fairgrpo' was given with order={order!r}, ddof={ddof!r}, which contradict it"
            )
        ddof = 1 if statistic == "std" else ddof
    if (statistic == "std") != (ddof is not None):
        raise ValueError(f"ddof: {ddof!r} was given with statistic={statistic!r}; it is needed with 'std', only there")
    fill = _check(values, missing)

    def spread(group_values: Any) -> float:
        if ddof is None:
            return disparity.gap(group_values)
        return disparity.group_std(group_values, ddof=ddof)

    if order == "disparity_first":
        per_set = [np.mean([spread(_numbers(v)) for v in attributes.values()]) for attributes in values.values()]
        return float(np.mean([*per_set, *fill]))
    if fill:
        raise ValueError("missing: it has no meaning with order='average_first', where no disparity exists a data set")
    pooled: dict[str, dict[Any, list[float]]] = {}
    for attributes in values.values():
        for attribute, groups in attributes.items():
            if not isinstance(groups, Mapping):
                raise ValueError(f"values: {attribute!r} needs a mapping of group labels to values with this order")
            for label, value in groups.items():
                if value == value:
                    pooled.setdefault(attribute, {}).setdefault(label, []).append(float(value))
    if not pooled:
        return float("nan")
    return float(np.mean([spread([np.mean(v) for v in groups.values()]) for groups in pooled.values()]))


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
        np.mean([_mean_of_defined(as_numbers(_numbers(v), "values")) for v in attributes.values()])
        for attributes in values.values()
    ]
    return float(np.mean([*per_set, *fill]))


def _mean_of_defined(v: Floats) -> float:
    v = v[~np.isnan(v)]
    return float(v.mean()) if v.size else float("nan")


def _numbers(groups: Any) -> Any:
    return list(groups.values()) if isinstance(groups, Mapping) else groups


def _check(values: Nested, missing: Mapping[str, float] | None) -> list[float]:
    fill = dict(missing or {})
    if not isinstance(values, Mapping) or not all(isinstance(attributes, Mapping) for attributes in values.values()):
        raise TypeError("values: a mapping of data sets to mappings of attributes to the groups' values is needed")
    if not values and not fill:
        raise ValueError("values: no data set was given")
    both = sorted(set(values) & set(fill))
    if both:
        raise ValueError(f"missing: {both[0]!r} is among the values, too")
    empty = [name for name, attributes in values.items() if not attributes]
    if empty:
        raise ValueError(f"values: {empty[0]!r} has no attribute; give its value through missing=")
    return [float(v) for v in fill.values()]
