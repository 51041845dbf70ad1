"""Search over one threshold per group: the best decisions whose rates lie in one band.

A gap of at most w means that the rates of all groups lie in a band [s, s + w], and s can be taken among the rates that the
groups' own thresholds give. Inside a band the groups are independent, so an objective that adds over them (a TP - b FP) is
maximized group by group: one range maximum per group and band. F1 is a ratio of such sums and is reached by Dinkelbach's
iteration. Budgets on accuracy and on balanced accuracy are two such sums at once, for which no group has a single best
threshold: there the groups' fronts of (TP, FP) are merged, the fewest false positives for every number of true ones.

Reference: Dinkelbach, *On Nonlinear Fractional Programming*, Management Science 13(7), 1967.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairloss.metrics.arrays import Floats, Ints

__all__ = ["RATES", "Bands", "Budget", "Points", "rate"]

RATES = ("tpr", "fpr", "positive_rate", "accuracy")
_EPS = 1e-12  # rates are ratios of counts; those equal as fractions differ by rounding alone
_MOST_WORK = 2e7  # points times true positives of the fronts that are merged, per width: a fraction of a second
_MOST_SEARCHED = 1000  # starts of a band where standard errors count, for which no search is exact
_MOST_STARTS = 100  # starts per rate, where two rates are bounded at once


def rate(name: str, tp: Floats, fp: Floats, positives: float, negatives: float) -> Floats:
    """A rate of decisions with these counts; NaN where the group has no sample that it is taken over."""
    above, below = {
        "tpr": (tp, positives),
        "fpr": (fp, negatives),
        "positive_rate": (tp + fp, positives + negatives),
        "accuracy": (tp + negatives - fp, positives + negatives),
    }[name]
    return np.asarray(above / below if below else np.full_like(above, np.nan), dtype=np.float64)


class Points(NamedTuple):
    """What the thresholds of one group can decide, from nobody positive to everybody.

    Attributes:
        threshold: (K,) decreasing; ``score >= threshold`` is positive. Halfway between neighboring scores.
        tp: (K,) true positives.
        fp: (K,) false positives.
        positives: labels that are 1.
        negatives: labels that are 0.
    """

    threshold: Floats
    tp: Floats
    fp: Floats
    positives: float
    negatives: float

    @classmethod
    def of(cls, score: Floats, y: NDArray[np.bool_]) -> Points:
        """The points of a group with at least one sample."""
        order = np.argsort(-score, kind="stable")
        ordered = score[order]
        last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of each distinct score
        distinct = ordered[last]
        middle = distinct[:-1] / 2 + distinct[1:] / 2
        middle = np.where(middle > distinct[1:], middle, distinct[:-1])  # no number lies between adjacent ones
        threshold = np.concatenate([[np.nextafter(distinct[0], np.inf)], middle, distinct[-1:]])
        tp = np.concatenate([[0.0], np.cumsum(y[order])[last]])
        return cls(threshold, tp, np.concatenate([[0.0], last + 1.0]) - tp, float(y.sum()), float((~y).sum()))

    def index_of(self, count: float) -> int:
        """The point at which ``count`` samples are positive."""
        return int(np.searchsorted(self.tp + self.fp, count))

    def rate(self, name: str) -> Floats:
        """(K,) a rate at every point."""
        return rate(name, self.tp, self.fp, self.positives, self.negatives)


@dataclass(frozen=True)
class Budget:
    """What accuracy and balanced accuracy may lose against the common threshold, each its own; less than 0: must gain.

    A paired difference, less ``standard_errors`` of its own standard errors, may not fall under ``-allowed``.
    """

    allowed: tuple[float, float]
    standard_errors: float

    def room(self, gain: Floats, lost: Floats, up: Floats, down: Floats, positives: float, negatives: float) -> Floats:
        """What is left of the tighter one, by changes in TP (``gain``) and FP (``lost``) and rows changed among positives
        and negatives; from -1e-12 on it is kept.
        """
        n = positives + negatives
        accuracy = (gain - lost) / n
        balanced = (gain / positives - lost / negatives) / 2
        of_accuracy = ((up + down) / n - accuracy**2) / n
        of_balanced = ((up / positives - (gain / positives) ** 2) / positives) / 4
        of_balanced = of_balanced + ((down / negatives - (lost / negatives) ** 2) / negatives) / 4
        error = [self.standard_errors * np.sqrt(np.maximum(v, 0.0)) for v in (of_accuracy, of_balanced)]
        return np.asarray(np.minimum(accuracy - error[0] + self.allowed[0], balanced - error[1] + self.allowed[1]))


class _RangeMaximum:
    """Places of the largest value in ranges [lo, hi) of one array (a sparse table)."""

    def __init__(self, value: Floats) -> None:
        self.value = value
        rows = [np.arange(len(value))]
        step = 1
        while 2 * step <= len(value):
            left, right = rows[-1][: len(value) - 2 * step + 1], rows[-1][step : len(value) - step + 1]
            best = np.where(value[left] >= value[right], left, right)
            rows.append(np.pad(best, (0, len(value) - len(best))))
            step *= 2
        self.table = np.stack(rows)

    def __call__(self, lo: Ints, hi: Ints) -> Ints:
        """For each range; 0 for an empty one."""
        width = np.maximum(hi - lo, 1)
        level = np.frexp(width)[1] - 1
        last = len(self.value) - 1
        left = self.table[level, np.minimum(lo, last)]
        right = self.table[level, np.clip(hi - (1 << level), 0, last)]
        return np.asarray(np.where(self.value[left] >= self.value[right], left, right))


class Bands:
    """The groups' points, arranged for bands of one or several rates.

    Args:
        points: of each group.
        common: (G,) the index of the common threshold among each group's points; ties go to what changes fewer rows.
        rates: the rates whose gap is bounded: any one, or several among ``tpr``, ``fpr`` and ``positive_rate``.
        allowed: (K,) of each group: points that may be taken at all.
    """

    def __init__(
        self,
        points: Sequence[Points],
        common: Sequence[int],
        rates: Sequence[str],
        allowed: Sequence[NDArray[np.bool_]],
    ) -> None:
        self.points, self.common, self.allowed = points, common, allowed
        self.rates = [[p.rate(name) for name in rates] for p in points]
        # Rates of positives grow along the points; accuracy does not, and is put in order first.
        self.order = [
            np.argsort(v[0], kind="stable") if tuple(rates) == ("accuracy",) else np.arange(len(p.tp))
            for p, v in zip(points, self.rates, strict=True)
        ]
        values = [
            np.unique(np.concatenate([v[r][ok] for v, ok in zip(self.rates, allowed, strict=True)]))
            for r in range(len(rates))
        ]
        values = [v[~np.isnan(v)] for v in values]
        self.exact = len(rates) == 1 or max(map(len, values)) <= _MOST_STARTS
        if len(rates) > 1:
            values = [np.unique(np.quantile(v, np.linspace(0, 1, _MOST_STARTS), method="nearest")) for v in values]
        self.starts = np.stack([axis.ravel() for axis in np.meshgrid(*values, indexing="ij")], axis=1)  # (B, R)
        self.positives = sum(p.positives for p in points)
        self.negatives = sum(p.negatives for p in points)
        self.moved = [  # (2, K) rows changed among positives, negatives
            np.stack([np.abs(p.tp - p.tp[c]), np.abs(p.fp - p.fp[c])]) for p, c in zip(points, common, strict=True)
        ]
        self._maxima: dict[tuple[float, float, float], list[_RangeMaximum]] = {}

    def _windows(self, width: float) -> tuple[Ints, Ints]:
        """(G, B) ranges of each group's ordered points inside each band."""
        lows, highs = [], []
        for values, order in zip(self.rates, self.order, strict=True):
            low = np.zeros(len(self.starts), dtype=np.int64)
            high = np.full(len(self.starts), len(order))
            for r, value in enumerate(values):
                if not np.isnan(value).any():  # a group without the rate is in every band
                    ordered = value[order]
                    low = np.maximum(low, np.searchsorted(ordered, self.starts[:, r] - _EPS))
                    high = np.minimum(high, np.searchsorted(ordered, self.starts[:, r] + width + _EPS, side="right"))
            lows.append(low)
            highs.append(high)
        return np.stack(lows), np.stack(highs)

    def _best(self, a: float, b: float, windows: tuple[Ints, Ints], c: float = 1e-13) -> tuple[Ints, Floats]:
        """(G, B) the points that maximize a TP - b FP - c (rows changed), and (B,) the sums; -inf where a group has none."""
        if (a, b, c) not in self._maxima:
            self._maxima[a, b, c] = [
                _RangeMaximum(np.where(ok, a * p.tp - b * p.fp - c * m.sum(axis=0), -np.inf)[o])
                for p, m, ok, o in zip(self.points, self.moved, self.allowed, self.order, strict=True)
            ]
        chosen, total = [], np.zeros(len(self.starts))
        for maximum, order, low, high in zip(self._maxima[a, b, c], self.order, *windows, strict=True):
            place = maximum(low, high)
            total = total + np.where(high > low, maximum.value[place], -np.inf)
            chosen.append(order[place])
        return np.stack(chosen), total

    def best(self, a: float, b: float, width: float) -> tuple[Ints, float]:
        """(G,) the points that maximize a TP - b FP over all bands, and the sum; -inf where no band holds all groups."""
        chosen, total = self._best(a, b, self._windows(width))
        band = int(np.argmax(total))
        return chosen[:, band], float(total[band])

    def best_f1(self, width: float) -> tuple[Ints, float]:
        """(G,) the points that maximize F1 = 2 TP / (TP + FP + P), and F1; -inf where no band holds all groups."""
        ratio = 0.0
        while True:
            chosen, total = self.best(2 - ratio, ratio, width)
            if total == -np.inf:
                return chosen, total
            tp, fp = self.totals(chosen[:, None])[:2, 0]
            reached = 2 * tp / (tp + fp + self.positives)
            if reached <= ratio + _EPS:
                return chosen, reached
            ratio = reached

    def totals(self, chosen: Ints) -> Floats:
        """(4, B) TP, FP, changed positives and changed negatives of (G, B) points."""
        of = [
            np.stack([p.tp[k], p.fp[k], m[0][k], m[1][k]])
            for p, m, k in zip(self.points, self.moved, chosen, strict=True)
        ]
        return np.asarray(sum(of))

    def gap(self, chosen: Ints) -> float:
        """The largest gap, over the rates, of (G,) points; 0 where fewer than two groups have a rate."""
        of_groups = np.array([[value[k] for value in v] for v, k in zip(self.rates, chosen, strict=True)])  # (G, R)
        gaps = [np.ptp(column[~np.isnan(column)]) if (~np.isnan(column)).any() else 0.0 for column in of_groups.T]
        return float(max(gaps))

    def smallest(self, budget: Budget) -> tuple[Ints, bool]:
        """(G,) the points with the smallest gap that keep the budget, and whether none smaller exists.

        The common threshold keeps any budget that lets something be lost. Where a gain is demanded that no points were
        found to have, the common threshold is returned, and False.
        """
        base = self.totals(np.array(self.common)[:, None])[:2, 0]
        exact = self.exact and budget.standard_errors == 0
        chosen, low, high = np.array(self.common), 0.0, self.gap(np.array(self.common))
        if min(budget.allowed) < -_EPS:
            found, _ = self._within(1.0, budget, base)
            if found is None:
                return chosen, False
            chosen, high = found, self.gap(found)
        finest = 1e-9
        if budget.standard_errors and self.starts.shape[1] == 1 and len(self.starts) > _MOST_SEARCHED:
            # A search, not an exact answer: a gap is found to about a thousandth on sets of tens of thousands.
            places = np.linspace(0, len(self.starts) - 1, _MOST_SEARCHED).round().astype(int)
            self.starts, finest = self.starts[places], 1e-5
        width = 0.0  # a gap of nothing at all is tried first
        while high - low > finest:
            found, complete = self._within(width, budget, base)
            if found is None:
                low, exact = width, exact and complete
            else:
                chosen, high = found, min(self.gap(found), width)
            width = (low + high) / 2
        return chosen, exact

    def _within(self, width: float, budget: Budget, base: Floats) -> tuple[Ints | None, bool]:
        """Points in one band of this width that keep the budget, None if there are none; and whether all were looked at."""

        def room(totals: Floats) -> Floats:
            gain, lost = totals[0] - base[0], totals[1] - base[1]
            return budget.room(gain, lost, totals[2], totals[3], self.positives, self.negatives)

        windows = self._windows(width)
        margin = np.full(len(self.starts), np.inf)
        best: tuple[float, Ints] | None = None
        n = self.positives + self.negatives
        # Rows changed cost something where standard errors count, which grow with them.
        costs = (1e-13,) if budget.standard_errors == 0 else (1e-13, 0.03 / n, 0.1 / n, 0.3 / n)
        for share, cost in product(np.linspace(0.0, 1.0, 9), costs):
            # Any weighted mean of the two differences must stay within the budget, or one of them does not.
            a, b = (share / n + (1 - share) / (2 * of) for of in (self.positives, self.negatives))
            chosen, total = self._best(float(a), float(b), windows, cost)
            if cost == costs[0]:
                allowed = share * budget.allowed[0] + (1 - share) * budget.allowed[1]
                margin = np.minimum(margin, total - (a * base[0] - b * base[1]) + allowed)
            value = np.where(np.isfinite(total), room(self.totals(chosen)), -np.inf)
            at = int(np.argmax(value))
            if value[at] >= -_EPS and (best is None or value[at] > best[0]):
                best = float(value[at]), chosen[:, at]
        if best is not None:
            return best[1], True
        if budget.standard_errors:
            return None, False
        left = np.flatnonzero(margin >= -1e-9)
        left = left[np.argsort(-margin[left])]
        most = int(_MOST_WORK // (sum(len(p.tp) for p in self.points) * (self.positives + 1)))
        for band in left[:most]:
            found = self._merged(windows[0][:, band], windows[1][:, band], room)
            if found is not None:
                return found, True
        return None, len(left) <= most

    def _merged(self, low: Ints, high: Ints, room: Callable[[Floats], Floats]) -> Ints | None:
        """A choice inside one band that keeps the budget, by the fewest false positives for every number of true ones."""
        size = int(self.positives) + 1
        front = np.full((4, size), np.inf)  # TP, FP, changed positives, changed negatives, by TP
        front[:, 0] = 0.0
        choices = []
        for g, p in enumerate(self.points):
            inside = np.sort(self.order[g][low[g] : high[g]])
            inside = inside[self.allowed[g][inside]]
            _, first = np.unique(p.tp[inside], return_index=True)  # the least FP, since both grow along the points
            merged = np.full_like(front, np.inf)
            choice = np.full(size, -1)
            for k in inside[first]:
                step = int(p.tp[k])
                added = np.array([p.tp[k], p.fp[k], *self.moved[g][:, k]])[:, None]
                candidate = front[:, : size - step] + added
                fewer = candidate[1] < merged[1, step:]
                merged[:, step:][:, fewer] = candidate[:, fewer]
                choice[step:][fewer] = k
            front = merged
            choices.append(choice)
        reached = np.flatnonzero(np.isfinite(front[1]))
        left = room(front[:, reached])
        if not len(left) or left.max() < -_EPS:
            return None
        tp = int(reached[np.argmax(left)])
        chosen = np.empty(len(self.points), dtype=np.int64)
        for g in reversed(range(len(self.points))):
            chosen[g] = choices[g][tp]
            tp -= int(self.points[g].tp[chosen[g]])
        return chosen
