"""From bootstrap replicates to the groups and comparisons of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fairloss.groups.encode import GroupEncoding
from fairloss.groups.labels import lookalikes
from fairloss.metrics import disparity
from fairloss.metrics.arrays import Floats, Ints
from fairloss.metrics.predictions import Predictions
from fairloss.report.arguments import KINDS, Kind, Resampling
from fairloss.report.bootstrap import Replicates
from fairloss.report.intervals import centered_interval, corrected_gap, gap_interval, percentile_interval, unseen
from fairloss.report.results import AttributeReport, Estimate, Gap, Group, count_of, metric_title

__all__ = ["attribute_report", "overall_estimates"]

_TITLES = {
    "accuracy": "accuracy gap",
    "auc": "AUC gap",
    "tpr": "equal opportunity difference (TPR)",
    "fpr": "false positive rate difference",
    "fdr": "predictive parity difference (FDR)",
    "positive_rate": "demographic parity difference",
    "ece": "calibration gap (ECE)",
}


def overall_estimates(
    whole: Replicates, pred: Predictions | None, patient: Ints, level: float, kinds: Mapping[str, Kind] = KINDS
) -> dict[str, Estimate]:
    """Metric to estimate over all samples, from the replicates of one group that holds them all."""
    everyone = np.zeros(len(patient), dtype=np.int64)
    trials = np.array([_trials(m, everyone, 1, pred, patient) for m in whole.metrics])
    return {m: of_groups[0] for m, of_groups in _estimates(whole, trials, level, kinds).items()}


def _estimates(found: Replicates, trials: Floats, level: float, kinds: Mapping[str, Kind]) -> dict[str, list[Estimate]]:
    """Metric to the groups' values and percentile intervals; the rule of three where replicates do not vary."""
    estimates = {}
    for i, metric in enumerate(found.metrics):
        kind, values, drawn = kinds[metric], found.values[i], found.drawn[:, i]
        low, high = percentile_interval(drawn, level)
        if (over := found.bias[i]).any():
            low, high = centered_interval(values, drawn, level, over)
            low, high = np.maximum(kind.low, low), np.minimum(kind.high, high)
        slack = unseen(values, drawn, trials[i], _scale(kind))
        low = np.maximum(np.minimum(kind.low, low), low - slack)
        high = np.minimum(np.maximum(kind.high, high), high + slack)
        bounds = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
        estimates[metric] = [Estimate(*each) for each in bounds]
    return estimates


def attribute_report(
    name: str,
    encoding: GroupEncoding,
    found: Replicates,
    pred: Predictions | None,
    patient: Ints,
    how: Resampling,
    notes: list[str],
    kinds: Mapping[str, Kind] = KINDS,
) -> AttributeReport:
    """Groups and comparisons of one attribute; appends what the reader should be warned of to ``notes``."""
    trials = np.array([_trials(m, encoding.ids, encoding.num_groups, pred, patient) for m in found.metrics])
    estimates = _estimates(found, trials, how.level, kinds)
    groups = []
    alike = lookalikes(encoding.labels)
    if alike:
        notes.append(f"{name}: {alike}.")
    if encoding.num_groups == 1:
        notes.append(f"{name}: only {encoding.labels[0]} occurs, so there is nothing to compare.")
    for g, label in enumerate(encoding.labels):
        at = encoding.ids == g
        n, people = int(at.sum()), len(np.unique(patient[at]))
        positives = int(pred.target[at, 0].sum()) if pred is not None and pred.task == "binary" else None
        reason = _too_small(n, people, positives, how.min_group_size)
        if reason:
            notes.append(f"{name}: {label} has {reason}, too few to judge.")
        values = {m: of_groups[g] for m, of_groups in estimates.items()}
        undefined = [m for m, e in values.items() if np.isnan(e.value)]
        if undefined:
            notes.append(f"{name}: {_names(undefined)} undefined in {label}, left out of the comparison.")
        often = np.isnan(found.drawn[:, :, g]).mean(axis=0) > 0.05
        lost = [m for m, is_lost in zip(found.metrics, often, strict=True) if is_lost and m not in undefined]
        if lost:
            notes.append(
                f"{name}: {_names(lost)} undefined in over 5% of the bootstrap replicates of {label}, whose intervals "
                "there are rough."
            )
        groups.append(Group(label, n, people, positives, values, bool(reason)))
    gaps = [_gap(m, i, found, encoding.labels, how.level, trials[i], kinds[m]) for i, m in enumerate(found.metrics)]
    if pred is not None:
        combined = _combined(found, how.level, trials)
        if any(g.name == "auc" and np.isnan(g.estimate.value) for g in gaps):
            # With fewer than two areas the scaled one would be the plain one: nothing was compared.
            nothing = Estimate(float("nan"), float("nan"), float("nan"))
            combined = [replace(g, estimate=nothing) if g.name == "equity_scaled_auc" else g for g in combined]
        gaps += combined
    return AttributeReport(name, tuple(groups), tuple(gaps), int((encoding.ids < 0).sum()))


def _names(metrics: Sequence[str]) -> str:
    return ", ".join(map(metric_title, metrics))


def _too_small(samples: int, people: int, positives: int | None, least: int) -> str:
    if people < least:
        return count_of(people, "patient") if people != samples else count_of(samples, "sample")
    if positives is not None and min(positives, samples - positives) < 10:
        return f"{count_of(positives, 'positive')} and {count_of(samples - positives, 'negative')}"
    return ""


def _scale(kind: Kind) -> float:
    return kind.high - kind.low if np.isfinite(kind.high) else 1.0


def _gap(
    metric: str, i: int, found: Replicates, labels: tuple[Any, ...], level: float, trials: Floats, kind: Kind
) -> Gap:
    values, drawn = found.values[i], found.drawn[:, i]
    low, high = gap_interval(values, drawn, level, trials, _scale(kind), found.bias[i])
    best = worst = None
    # Two groups at least, and not all alike: else naming one as the worst would mislead.
    if disparity.gap(values) > 1e-12 * max(1.0, float(np.nanmax(np.abs(values), initial=0.0))):
        top, bottom = labels[int(np.nanargmax(values))], labels[int(np.nanargmin(values))]
        best, worst = (top, bottom) if kind.higher_is_better else (bottom, top)
    title = _TITLES.get(metric, f"{metric_title(metric)} gap")
    high = min(kind.high - kind.low, high) if high == high else high
    # Extrapolation goes too far where one tiny group makes most of the noise: not below what the data exclude.
    corrected = float(np.minimum(np.maximum(corrected_gap(values, drawn), low), high))
    return Gap(metric, title, Estimate(disparity.gap(values), low, high), corrected, best, worst)


def _trials(metric: str, ids: Ints, num_groups: int, pred: Predictions | None, patient: Ints) -> Floats:
    """(G,) independent trials behind a metric's value in each group: patients with a sample in its denominator."""
    if pred is None:
        counted = [np.ones(len(patient), dtype=bool)]
    elif pred.task == "binary" and metric in ("tpr", "fnr", "auc", "f1", "balanced_accuracy"):
        counted = [pred.target[:, 0]]
    elif pred.task == "binary" and metric in ("precision", "fdr"):
        counted = [pred.decided[:, 0]]
    else:
        counted = [np.ones(len(pred), dtype=bool)]
    if pred is not None and pred.task == "binary" and metric in ("auc", "balanced_accuracy"):
        counted.append(~pred.target[:, 0])
    elif pred is not None and pred.task == "binary" and metric in ("fpr", "tnr"):
        counted = [~pred.target[:, 0]]
    return np.array(
        [min(len(np.unique(patient[c & (ids == g)])) for c in counted) for g in range(num_groups)], dtype=np.float64
    )


def _combined(found: Replicates, level: float, trials: Floats) -> list[Gap]:
    """Comparisons of two rates, or of a rate's ratio."""
    names, gaps = list(found.metrics), []
    if "tpr" in names and "fpr" in names:
        pair = [names.index("tpr"), names.index("fpr")]
        value = float(np.max([disparity.gap(found.values[i]) for i in pair]))
        # Half the risk for each of the two gaps; the larger one lies between the larger ends.
        each = (1 + level) / 2
        bounds = np.max([gap_interval(found.values[i], found.drawn[:, i], each, trials[i]) for i in pair], axis=0)
        corrected = float(np.max([corrected_gap(found.values[i], found.drawn[:, i]) for i in pair]))
        interval = Estimate(value, float(bounds[0]), float(np.minimum(1.0, bounds[1])))  # NaN where a gap is undefined
        corrected = float(np.minimum(np.maximum(corrected, interval.low), interval.high))
        gaps.append(Gap("equalized_odds", "equalized odds difference", interval, corrected))
    if "positive_rate" in names:
        i = names.index("positive_rate")
        gaps.append(_parity_ratio(found.values[i], found.drawn[:, i], level, trials[i]))
    if "auc" in names:
        i = names.index("auc")
        values = np.array([_scaled(o, v) for o, v in zip(found.drawn_overall[:, i], found.drawn[:, i], strict=True)])
        overall, of_groups = float(found.overall[i]), found.values[i]
        value = _scaled(overall, of_groups)
        # The mean of |overall - group| keeps the noise of every group: where all are alike it is too large by this much.
        apart = found.drawn_overall[:, i, None] - found.drawn[:, i]
        apart = apart[:, (~np.isnan(apart)).any(axis=0)]
        noise = float(np.sqrt(2 / np.pi) * np.nanstd(apart, axis=0).mean()) if apart.size else 0.0
        penalty = max(0.0, overall / value - 1 - noise) if value > 0 else 0.0
        low, high = centered_interval(np.array(value), values, level)
        high = np.minimum(1.0, high + overall / (1 + penalty) - value)
        if unseen(of_groups, found.drawn[:, i], trials[i]).any():
            low = high = np.array(np.nan)  # a group whose replicates do not vary is not thereby known
        estimate = Estimate(value, max(0.0, float(low)) if low == low else float(low), float(high))
        gaps.append(Gap("equity_scaled_auc", "equity-scaled AUC (mean_abs)", estimate, float("nan")))
    return gaps


def _parity_ratio(values: Floats, drawn: Floats, level: float, trials: Floats) -> Gap:
    """Smallest over largest of the positive rates: exp(-gap) of their logarithms, whose interval is that of a gap.

    Where a group's replicates do not vary, or reach a rate of 0, logarithms say nothing. The ratio is 1 - gap / largest
    with the largest at most 1, hence between 0 and 1 less the lower end of the difference, and clear where that is.
    """
    known = ~np.isnan(values)
    v, d, n = values[known], drawn[:, known], trials[known]
    nan = float("nan")
    if len(v) < 2 or v.max() == 0:
        estimate = Estimate(nan, nan, nan)
    elif unseen(v, d, n).any() or (d == 0).any():
        estimate = Estimate(float(v.min() / v.max()), 0.0, 1 - gap_interval(v, d, level, n)[0])
    else:
        low, high = gap_interval(np.log(v), np.log(d), level)
        estimate = Estimate(float(v.min() / v.max()), float(np.exp(-high)), float(np.exp(-low)))
    return Gap("demographic_parity_ratio", "demographic parity ratio", estimate, nan)


def _scaled(overall: float, values: Floats) -> float:
    return disparity.equity_scaled(overall, values, penalty="mean_abs")
