"""Which points of the groups' ROC curves are taken: one per group, or the same threshold for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.metrics.arrays import Floats, Ints
from fairloss.postprocess.bands import RATES, Bands, Budget, Points

__all__ = ["Objective", "check_bounds", "one_point", "per_group_points", "point_of", "points_at"]


@dataclass(frozen=True)
class Objective:
    """What is maximized: a TP - b FP, or F1."""

    maximize: str
    costs: tuple[float, ...] | None
    positives: float
    negatives: float

    def best(self, bands: Bands, width: float) -> tuple[Ints, float]:
        """(G,) the points with the best objective whose gap is at most ``width``, and its value."""
        n = self.positives + self.negatives
        if self.costs is not None:
            return bands.best(self.costs[1] / n, self.costs[0] / n, width)
        if self.maximize == "f1":
            return bands.best_f1(width)
        if self.maximize == "accuracy":
            return bands.best(1 / n, 1 / n, width)
        return bands.best(0.5 / self.positives, 0.5 / self.negatives, width)

    def of(self, tp: Floats, fp: Floats) -> Floats:
        """The objective of totals."""
        n = self.positives + self.negatives
        if self.costs is not None:
            return np.asarray((self.costs[1] * tp - self.costs[0] * fp) / n)
        if self.maximize == "f1":
            return np.asarray(2 * tp / (tp + fp + self.positives))
        if self.maximize == "accuracy":
            return np.asarray((tp - fp) / n)
        return np.asarray((tp / self.positives - fp / self.negatives) / 2)


def points_at(thresholds: Floats, score: Floats, y: NDArray[np.bool_]) -> Points:
    """A group's counts at given, decreasing thresholds."""
    tp, fp = (len(s) - np.searchsorted(np.sort(s), thresholds) for s in (score[y], score[~y]))
    return Points(thresholds, tp.astype(float), fp.astype(float), float(y.sum()), float((~y).sum()))


def point_of(points: Points, score: Floats, threshold: float) -> int:
    """The point that decides on these scores as ``threshold`` does."""
    return points.index_of(float((score >= threshold).sum()))


def check_bounds(bounds: Mapping[str, float]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Gaps, and (low, high) of each rate, of ``subject_to``."""
    gaps: dict[str, float] = {}
    ends: dict[str, tuple[float, float]] = {}
    for key, value in bounds.items():
        name, _, kind = str(key).rpartition("_")
        if not (kind in ("gap", "min", "max") and name in RATES) and key != "equalized_odds_gap":
            wanted = f"a rate ({', '.join(RATES)}) with _gap, _min or _max, or 'equalized_odds_gap'"
            raise ValueError(expected("subject_to", wanted, repr(key)))
        bound = checks.number(f"subject_to[{key!r}]", value, minimum=0, maximum=1)
        if kind == "gap":
            for rate_name in ("tpr", "fpr") if name == "equalized_odds" else (name,):
                gaps[rate_name] = min(bound, gaps.get(rate_name, 1.0))
        else:
            low, high = ends.get(name, (0.0, 1.0))
            ends[name] = (max(low, bound), high) if kind == "min" else (low, min(high, bound))
    if len(gaps) > 1 and ("accuracy" in gaps or len(set(gaps.values())) > 1):
        wanted = "the gap of one rate, or equal bounds on the gaps of tpr, fpr and positive_rate"
        raise ValueError(expected("subject_to", wanted, str(dict(bounds))))
    return gaps, ends


def _of_gap(close: str) -> list[str]:
    return ["tpr", "fpr"] if close == "equalized_odds_gap" else [close.removesuffix("_gap")]


def _comparable(points: Sequence[Points], rates: Sequence[str]) -> None:
    for name in rates:
        if sum(not np.isnan(p.rate(name)).any() for p in points) < 2:
            raise ValueError(expected("attribute", f"at least two groups in which {name} is defined", "fewer"))


def _inside(points: Points, ends: Mapping[str, tuple[float, float]]) -> NDArray[np.bool_]:
    """(K,) points whose rates lie within the bounds; a rate that the group does not have bounds nothing."""
    inside = np.ones(len(points.tp), dtype=bool)
    for name, (low, high) in ends.items():
        value = points.rate(name)
        inside &= np.isnan(value) | ((value >= low - 1e-12) & (value <= high + 1e-12))
    return inside


def per_group_points(
    points: Sequence[Points],
    start: Sequence[int],
    names: Sequence[Any],
    close: str | None,
    budget: Budget,
    objective: Objective,
    bounds: Mapping[str, float],
) -> tuple[Ints, bool]:
    """(G,) chosen points, and whether nothing better exists."""
    if close is not None:
        rates = _of_gap(close)
        _comparable(points, rates)
        return Bands(points, start, rates, [np.ones(len(p.tp), dtype=bool) for p in points]).smallest(budget)
    gaps, ends = check_bounds(bounds)
    allowed = [_inside(p, ends) for p in points]
    for label, p, ok in zip(names, points, allowed, strict=True):
        if not ok.any():
            raise ValueError(
                expected("subject_to", f"bounds that thresholds of group {label!r} can meet", _nearest(p, ends))
            )
    _comparable(points, list(gaps))
    bands = Bands(points, start, list(gaps) or ["positive_rate"], allowed)
    width = next(iter(gaps.values()), 1.0)
    chosen, value = objective.best(bands, width)
    if value == -np.inf:
        low, high = width, 1.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (low, middle) if objective.best(bands, middle)[1] > -np.inf else (middle, high)
        got = f"{', '.join(f'{name}_gap' for name in gaps)} <= {width:g}; the smallest that can be had is {high:.4f}"
        raise ValueError(expected("subject_to", "a gap that thresholds can meet", got))
    return chosen, bands.exact


def _nearest(points: Points, ends: Mapping[str, tuple[float, float]]) -> str:
    """What a group can have at best where its bounds cannot be met together: each in turn, the others kept."""
    reached = []
    for name, (low, high) in ends.items():
        value = points.rate(name)[_inside(points, {k: v for k, v in ends.items() if k != name})]
        if not len(value):
            continue
        if low > 0 and value.max() < low:
            reached.append(f"{name} of at most {value.max():.4f}")
        if high < 1 and value.min() > high:
            reached.append(f"{name} of at least {value.min():.4f}")
    return "bounds that none meets; the others kept, they reach " + (" or ".join(reached) or "none of these values")


def one_point(
    points: Sequence[Points],
    start: Sequence[int],
    close: str | None,
    budget: Budget,
    objective: Objective,
    bounds: Mapping[str, float],
) -> Ints:
    """(G,) the same point of all groups, of all thresholds there are."""
    tp, fp = (np.stack([p[i] for p in points]) for i in (1, 2))
    gaps, ends = check_bounds(bounds)
    rates = _of_gap(close) if close is not None else list(gaps)
    _comparable(points, rates)
    ok = np.all([_inside(p, ends) for p in points], axis=0)
    spread = np.zeros(tp.shape[1])
    for name in rates:
        values = np.stack([p.rate(name) for p in points])
        values = values[~np.isnan(values).any(axis=1)]
        spread = np.maximum(spread, np.ptp(values, axis=0))
    gain, lost = (x.sum(axis=0) - sum(x[g, k] for g, k in enumerate(start)) for x in (tp, fp))
    if close is not None:
        up, down = (np.stack([np.abs(x[g] - x[g, k]) for g, k in enumerate(start)]).sum(axis=0) for x in (tp, fp))
        ok &= budget.room(gain, lost, up, down, objective.positives, objective.negatives) >= -1e-12
        value = np.where(ok, -spread + 1e-9 * (gain - lost) / (objective.positives + objective.negatives), -np.inf)
    else:
        width = min(gaps.values(), default=1.0)
        if not (ok & (spread <= width + 1e-12)).any():
            reached = f"; the smallest gap of one threshold is {spread.min():.4f}" if gaps else ""
            got = f"bounds that none meets{reached}"
            raise ValueError(expected("subject_to", "bounds that one threshold can meet", got))
        value = np.where(ok & (spread <= width + 1e-12), objective.of(tp.sum(axis=0), fp.sum(axis=0)), -np.inf)
    return np.full(len(points), int(np.argmax(value)))
