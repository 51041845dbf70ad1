"""Metrics that the user wrote: functions of labels and predictions as they were given, called on every group and replicate.

The convention is that of :func:`fairloss.metrics.group_metric`: (y_true, y_pred) and, where weights were given,
``sample_weight=``. A replicate repeats the rows of each patient as often as the patient was drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairloss.core.checks import expected
from fairloss.groups.encode import GroupEncoding
from fairloss.metrics.arrays import Bools, Floats, Ints, as_array, as_weights
from fairloss.metrics.per_group import called, check_weighted, is_number
from fairloss.metrics.predictions import Predictions
from fairloss.report.arguments import Kind, Metrics, read_directions

__all__ = ["EVERYONE", "NO_FUNCTIONS", "Functions", "group_names"]

EVERYONE = ("all samples",)


class Functions(NamedTuple):
    """The user's functions, and what they are called with.

    Attributes:
        of: name to function.
        true: (N,) labels, or (N, L) of several.
        pred: (N, ...) predictions.
        weight: (N,), or None where none was given.
        known: (N, L) which of several labels are known: each is a call of its own. None where there is one.
    """

    of: dict[str, Callable[..., Any]]
    true: NDArray[Any] = np.empty(0)
    pred: NDArray[Any] = np.empty(0)
    weight: Floats | None = None
    known: Bools | None = None

    @classmethod
    def made(
        cls, metrics: Metrics, y_true: Any, y_pred: Any, pred: Predictions, sample_weight: Any, present: Bools
    ) -> Functions:
        """Those among the ``metrics``, of the samples ``present`` among those that ``pred`` was read from."""
        own = {name: function for name, function in metrics.items() if function is not None}
        if not own:
            return NO_FUNCTIONS
        weight = None if sample_weight is None else as_weights(sample_weight, len(present))[present]
        for function in own.values():
            check_weighted("metrics", function, weight)
        true, answers = as_array(y_true, "y_true")[present], as_array(y_pred, "y_score")[present]
        known = None
        if pred.task == "multilabel":
            known = np.ones(true.shape, dtype=bool) if pred.known is None else pred.known[present]
        return cls(own, true, answers, weight, known)

    @property
    def origins(self) -> dict[str, str]:
        """Where each is from, for a reader who has no function."""
        return {
            name: f"{getattr(f, '__module__', '')}.{getattr(f, '__qualname__', name)}".lstrip(".")
            for name, f in self.of.items()
        }

    def kinds(self, encodings: Mapping[str, GroupEncoding], higher_is_better: Any) -> dict[str, Kind]:
        """Directions, None where none is said, and ranges: [0, 1], where all values lie in it, else none is known.

        Each function is called on all samples and on every group, so that what fails does so before the bootstrap.

        Raises:
            ValueError: a function raises, returns no finite number, or NaN over all samples.
        """
        if not self.of and higher_is_better not in (None, {}):
            wanted = "values, or functions among metrics=, of which it is"
            raise ValueError(expected("higher_is_better", wanted, "labels and scores"))
        given = {} if higher_is_better is None else higher_is_better
        directions, kinds = read_directions(given, tuple(self.of)), {}
        for name in self.of:
            overall = self.by_group(name, np.zeros(len(self.true), dtype=np.int64), 1, EVERYONE)
            if np.isnan(overall).all():
                raise ValueError(expected(f"metrics: {name}", f"a number for {EVERYONE[0]}", "nan"))
            groups = [self.by_group(name, e.ids, e.num_groups, group_names(a, e)) for a, e in encodings.items()]
            found = [overall, *groups]
            ends = [end(np.concatenate(found)) for end in (np.nanmin, np.nanmax)]
            limits = (0.0, 1.0) if ends[0] >= 0 and ends[1] <= 1 else (-np.inf, np.inf)
            kinds[name] = Kind(directions.get(name), *limits)
        return kinds

    def by_group(self, name: str, ids: Ints, num_groups: int, names: Sequence[str]) -> Floats:
        """(G, K) values of the groups, which errors call by these ``names``."""
        values = [self._value(name, np.flatnonzero(ids == g), names[g]) for g in range(num_groups)]
        return np.array(values).reshape(num_groups, 1 if self.known is None else self.known.shape[1])

    def of_draws(
        self, name: str, at: Ints, unit: Ints, where: str, advance: Callable[[], None]
    ) -> Callable[[Floats], Floats]:
        """(r, K) values of the samples ``at``, which are of these units, as a function of the units' (U, r) counts."""

        def values(counts: Floats) -> Floats:
            found = []
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # of what is rare in a replicate; of the groups themselves it has warned
                for times in np.ascontiguousarray(counts.T, dtype=np.int64):
                    found.append(self._value(name, np.repeat(at, times[unit]), f"a replicate of {where}"))
                    advance()
            return np.array(found)

        return values

    def _value(self, name: str, rows: Ints, where: str) -> list[float]:
        """Of the samples ``rows``; of several labels one each."""
        if self.known is None:
            return [self._number(name, self.true[rows], self.pred[rows], rows, where)]
        found = []
        for k in range(self.known.shape[1]):
            at = rows[self.known[rows, k]]
            found.append(self._number(name, self.true[at, k], self.pred[at, k], at, where))
        return found

    def _number(self, name: str, true: NDArray[Any], pred: NDArray[Any], rows: Ints, where: str) -> float:
        argument, wanted = f"metrics: {name}", f"a number for {where}"
        cure = "return nan where it is undefined"
        try:
            found = called(self.of[name], true, pred, None if self.weight is None else self.weight[rows])
        except Exception as error:
            cure = f"it gets labels and predictions as they were given, before any threshold; {cure}"
            raise ValueError(expected(argument, wanted, f"{type(error).__name__}: {error}", cure)) from error
        if not is_number(found):
            shape = f" of shape {np.shape(found)}" if isinstance(found, np.ndarray) else ""
            raise ValueError(expected(argument, wanted, type(found).__name__ + shape))
        if np.isinf(float(found)):
            raise ValueError(expected(argument, wanted, found, cure))
        return float(found)


NO_FUNCTIONS = Functions({})


def group_names(attribute: str, encoding: GroupEncoding) -> list[str]:
    """The groups as errors name them."""
    return [f"group {label} of {attribute}" for label in encoding.labels]
