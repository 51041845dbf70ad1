"""A metric's values in the groups of one attribute, and how far apart they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import expected
from fairloss.groups.encode import GroupEncoding
from fairloss.metrics import disparity
from fairloss.metrics.arrays import Bools, Floats, Ints
from fairloss.metrics.predictions import Predictions
from fairloss.metrics.rates import common_classes, mean_over_classes, mean_over_common
from fairloss.metrics.undefined import is_undefined

__all__ = ["GroupMetric", "group_result"]


@dataclass(frozen=True)
class GroupMetric:
    """A metric's value in each group, with the counts that say how far to trust it.

    Attributes:
        name: of the metric.
        labels: of the groups; the order of all that follows.
        by_class: (G, K) the values of each of several classes, NaN where undefined; one column where the metric is no mean
            over classes, and with ``convention="fairgrpo"``.
        overall_by_class: (K,) over all samples, those of unknown group included.
        counts: (G,) samples of each group; without those of weight 0.
        positives: (G,) positive labels of each group (binary tasks; else empty).
        higher_is_better: direction of the metric.
    """

    name: str
    labels: tuple[Any, ...]
    by_class: NDArray[Any]
    overall_by_class: NDArray[Any]
    counts: Ints
    higher_is_better: bool = True
    positives: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """(G,) the values as groups are compared: means over the classes that are defined in every group."""
        return np.array(mean_over_common(self._numbers()), dtype=dtype)

    @property
    def values(self) -> Floats:
        """(G,) each group's mean over the classes that it has, NaN where it has none."""
        return self.by_class[:, 0] if self.by_class.dtype == object else mean_over_classes(self.by_class)

    @property
    def overall(self) -> float:
        """The value over all samples, those of unknown group included."""
        base = self.overall_by_class
        return base[0] if base.dtype == object else float(mean_over_classes(base))

    @property
    def undefined(self) -> tuple[Any, ...]:
        """Labels of the groups without a value, those without a sample among them."""
        return tuple(label for label, v in zip(self.labels, self.values, strict=True) if is_undefined(v))

    def gap(self, *, method: disparity.Method = "between_groups", reference: Any = None) -> float:
        """Max - min over groups; or the largest difference from the overall value, or from a ``reference`` group's.

        ``method`` and ``reference`` are those of :func:`fairloss.metrics.max_accuracy_gap`. Of several classes, the mean of
        each one's gap over the groups that have it.
        """
        return self._compare("gap", method, reference)

    def ratio(self, *, method: disparity.Method = "between_groups", reference: Any = None) -> float:
        """Min / max over groups; or the smallest ratio to the overall value, or to a ``reference`` group's, or its inverse."""
        return self._compare("ratio", method, reference)

    def _compare(self, statistic: disparity.Statistic, method: disparity.Method, reference: Any) -> float:
        place = disparity.reference_of(method, reference, self.labels)
        base = None if method == "between_groups" else self.overall_by_class
        base = base if place is None else self.by_class[place]
        return float(mean_over_classes(disparity.spread(self._numbers(), statistic, base)))

    def _numbers(self) -> Floats:
        if self.by_class.dtype != object:
            return self.by_class
        given = type(self.overall).__name__
        cure = "pass a function that returns one of its entries"
        raise TypeError(expected("metric", "one number per group, by which groups are compared", given, cure))

    def worst(self) -> float:
        """The worst group's value, over the classes that every group has."""
        return disparity.worst(self, higher_is_better=self.higher_is_better)

    def std(self, *, ddof: int) -> float:
        """Standard deviation over groups, over the classes that every group has."""
        return disparity.group_std(self, ddof=ddof)

    def equity_scaled(self, *, penalty: disparity.Penalty, ddof: int | None = None) -> float:
        """Overall value scaled down by differences between groups, over the classes that every group has."""
        overall = float(mean_over_classes(self.overall_by_class[common_classes(self._numbers())]))
        return disparity.equity_scaled(overall, self, penalty=penalty, ddof=ddof)

    def to_dict(self) -> dict[Any, float]:
        """Label to value."""
        return dict(zip(self.labels, self.values.tolist(), strict=True))


def group_result(
    name: str,
    encoding: GroupEncoding,
    values: Floats,
    overall: Floats,
    higher: bool,
    weight: Floats,
    binary: Predictions | None = None,
) -> GroupMetric:
    """The result of (G, K) ``values`` and (K,) ``overall``, with the counts of samples of weight above 0."""

    def count(at: Bools) -> Ints:
        return np.bincount(encoding.ids[at] + 1, minlength=encoding.num_groups + 1)[1:]  # row 0 holds the unknown

    positives = np.zeros(0, dtype=np.int64) if binary is None else count(binary.target[:, 0] & (weight > 0))
    return GroupMetric(name, encoding.labels, values, overall, count(weight > 0), higher, positives)
