"""One decision threshold per group, fitted on scores that the model was not trained on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.groups.encode import UNKNOWN, GroupEncoding
from fairloss.metrics.arrays import Floats, as_finite, as_groups, before_the_call
from fairloss.postprocess.bands import RATES, Bands, Budget, Points, rate
from fairloss.postprocess.choice import Objective, one_point, per_group_points, point_of, points_at
from fairloss.postprocess.options import Gap, Maximize, binary_labels, check_fit_options

if TYPE_CHECKING:
    from torch import nn

    from fairloss.report.results import ModelComparison

__all__ = ["Attained", "GroupThresholds"]


@dataclass(frozen=True)
class Attained:
    """What decisions attain on one set of samples; point values, without intervals.

    Attributes:
        accuracy: over all samples, those of unknown group included.
        balanced_accuracy: mean of the true-positive and the true-negative rate.
        gaps: ``"tpr_gap"``, ``"fpr_gap"``, ``"positive_rate_gap"``, ``"accuracy_gap"``: max - min over the groups where
            the rate is defined; NaN with fewer than two.
        rates: label of a group to its ``"tpr"``, ``"fpr"``, ``"positive_rate"``, ``"accuracy"`` and ``"samples"``.
    """

    accuracy: float
    balanced_accuracy: float
    gaps: dict[str, float]
    rates: dict[Any, dict[str, float]]

    @classmethod
    def of(cls, decided: NDArray[np.bool_], y: NDArray[np.bool_], groups: GroupEncoding) -> Attained:
        """Of decisions, labels and groups."""
        by_group: dict[Any, dict[str, float]] = {}
        for g, label in enumerate(groups.labels):
            d, t = decided[groups.ids == g], y[groups.ids == g]
            counts = np.array(float((d & t).sum())), np.array(float((d & ~t).sum())), float(t.sum()), float((~t).sum())
            by_group[label] = {name: float(rate(name, *counts)) for name in RATES} | {"samples": float(len(t))}
        gaps = {}
        for name in RATES:
            values = np.array([rates[name] for rates in by_group.values()])
            values = values[~np.isnan(values)]
            gaps[f"{name}_gap"] = float(np.ptp(values)) if len(values) > 1 else float("nan")
        balanced = (
            (float(decided[y].mean()) + float((~decided[~y]).mean())) / 2 if y.any() and not y.all() else float("nan")
        )
        return cls(float((decided == y).mean()), balanced, gaps, by_group)


def _scores(score: Any) -> Floats:
    array = as_finite(score, "score")
    if array.ndim != 1:
        cure = "pass one column, score[:, 1] of two classes"
        raise ValueError(expected("score", "one score per sample, (N,)", f"shape {array.shape}", cure))
    return array


def _groups(attribute: Any, n: int) -> GroupEncoding:
    """One attribute; a mapping of several is their intersection."""
    return as_groups(attribute, n, "attribute", option=before_the_call)


class GroupThresholds:
    """A threshold per group on a binary score: ``decision = score >= t_g``; made by :meth:`fit`.

    What a threshold attains on the samples that it was fitted on is too good. Fit on scores that the model was not trained
    on (:func:`fairloss.postprocess.cross_fit` makes such scores for all of the data), and call :meth:`compare` on others.

    Attributes:
        thresholds: label of a group to its threshold.
        common: the threshold of samples of unknown group, and of groups that were not seen.
        attained: an :class:`Attained` of the thresholds on the samples that they were fitted on.
        attained_by_common: the same of the common threshold.
        exact: whether no other thresholds do better on these samples; False where the search was cut short.

    Note:
        Rank samples by the raw score: :meth:`shifted` scores mix the groups' scales and have the smaller AUC.

    References:
        Hardt et al., *Equality of Opportunity in Supervised Learning*, NeurIPS 2016, https://arxiv.org/abs/1610.02413:
        thresholds per group, mixed at random; these here are not mixed.
    """

    def __init__(self, thresholds: Mapping[Any, float], *, common: float) -> None:
        self.thresholds = {label: checks.number("thresholds", t) for label, t in thresholds.items()}
        self.common = checks.number("common", common)
        self.attained: Attained | None = None
        self.attained_by_common: Attained | None = None
        self.exact = False

    @classmethod
    def fit(
        cls,
        score: Any,
        y: Any,
        attribute: Any,
        *,
        close: Gap | None = None,
        budget: float = 0.005,
        standard_errors: float = 1.0,
        maximize: Maximize = "accuracy",
        costs: tuple[float, float] | None = None,
        subject_to: Mapping[str, float] | None = None,
        common: float | None = 0.5,
        per_group: bool = True,
        shrink: float = 0.0,
        reference: tuple[float, float] | None = None,
    ) -> GroupThresholds:
        """Fit the thresholds, over all points of the groups' ROC curves.

        Either ``close`` a gap, as far as accuracy and balanced accuracy allow; or ``maximize`` (or the smallest ``costs``)
        under the bounds in ``subject_to``.

        Args:
            score: (N,) scores, larger for label 1; probabilities or logits.
            y: (N,) labels 0 and 1.
            attribute: (N,) group labels, or a mapping of names to attributes: their intersection. Samples of unknown group
                keep the common threshold and take no part in the fit.
            close: the gap to make as small as the budget allows; ``"equalized_odds_gap"`` is the larger of the gaps of
                TPR and FPR.
            budget: what accuracy, and balanced accuracy, may lose against ``reference``, in [0, 1]; half of what can be
                spared, because what thresholds cost on other samples is more than what they cost where they were fitted.
            standard_errors: how many standard errors of the paired difference the budget must cover as well; 0 trusts the
                difference on these samples.
            maximize: ``"accuracy"``, ``"balanced_accuracy"`` or ``"f1"``, over the samples of known group.
            costs: of a false positive and of a false negative, >= 0; their sum is minimized in place of ``maximize``.
            subject_to: bounds, such as ``{"tpr_gap": 0.05}``, ``{"tpr_min": 0.8}`` or ``{"fpr_max": 0.1}`` (in every
                group), of ``tpr``, ``fpr``, ``positive_rate``, ``accuracy`` and ``equalized_odds_gap``.
            common: the threshold in use today, 0 for logits; None: the one with the best ``maximize``.
            per_group: False fits one threshold for all groups, the unknown included; ``shrink`` is 0 then.
            shrink: n0 >= 0: moves each t_g to (n_g t_g + n0 t) / (n_g + n0), for small groups; ``attained`` is then what
                the moved thresholds attain, and a bound or budget may no longer hold.
            reference: ``(accuracy, balanced_accuracy)`` of the decisions in use today, on samples that their model was not
                trained on; None: those of the common threshold on these.

        Returns:
            The fitted thresholds.

        Raises:
            ValueError: both or neither of ``close`` and ``subject_to``; bounds that no thresholds meet, with the nearest value
                that can be had;
                a ``reference`` that none comes as near as the budget; fewer than two groups with the
                rate; labels of one class; scores outside [0, 1] beside the default ``common``.

        Note:
            ``close`` with ``standard_errors=0``, and ``maximize`` under the gap of one rate, find the best there is
            (:attr:`exact`). With standard errors, and under two gaps, a search over weighted sums finds good ones.

        Example:
            >>> rng = np.random.default_rng(0)
            >>> y, sex = rng.integers(0, 2, 2000), rng.integers(0, 2, 2000)
            >>> score = 1 / (1 + np.exp(-(2 * y - 1 - 0.8 * sex + rng.standard_normal(2000))))
            >>> fitted = GroupThresholds.fit(score, y, np.array(["F", "M"])[sex], close="tpr_gap")
            >>> round(fitted.attained_by_common.gaps["tpr_gap"], 2), round(fitted.attained.gaps["tpr_gap"], 2)
            (0.28, 0.0)
        """
        scores, labels = _scores(score), binary_labels(y)
        n = len(scores)
        if len(labels) != n:
            raise ValueError(expected("y", f"one label for each of {n} scores", f"{len(labels)}"))
        weights, bounds = check_fit_options(
            close, budget, standard_errors, maximize, costs, subject_to, common, per_group, shrink, reference
        )
        if common == 0.5 and ((scores < 0) | (scores > 1)).any():
            cure = "pass common=0.0 for logits, or common=None for the best single threshold"
            raise ValueError(expected("score", "probabilities in [0, 1] beside common=0.5", "values outside", cure))
        groups = _groups(attribute, n)
        known = groups.ids != UNKNOWN
        s, t, ids = scores[known], labels[known], groups.ids[known]
        if not t.any() or t.all():
            raise ValueError(expected("y", "both labels among the samples of known group", "one"))
        members = [g for g in range(groups.num_groups) if (ids == g).any()]
        pooled = Points.of(s, t)
        objective = Objective(maximize, weights, pooled.positives, pooled.negatives)
        if common is None:
            everyone = Bands([pooled], [0], ["positive_rate"], [np.ones(len(pooled.tp), dtype=bool)])
            common = float(pooled.threshold[objective.best(everyone, 1.0)[0][0]])
        points = [Points.of(s[ids == g], t[ids == g]) for g in members]
        if not per_group:  # every group gets the points of all samples' thresholds
            points = [points_at(pooled.threshold, s[ids == g], t[ids == g]) for g in members]
        start = [point_of(p, s[ids == g], common) for p, g in zip(points, members, strict=True)]
        names = [groups.labels[g] for g in members]
        today = Attained.of(s >= common, t, GroupEncoding(ids, groups.labels)) if reference is not None else None
        own = (0.0, 0.0) if today is None else (today.accuracy, today.balanced_accuracy)
        room = [budget + a - b for a, b in zip(own, reference or own, strict=True)]
        limit = Budget((room[0], room[1]), standard_errors)
        if per_group:
            chosen, exact = per_group_points(points, start, names, close, limit, objective, bounds)
        else:
            chosen, exact = one_point(points, start, close, limit, objective, bounds), True
        if reference is not None:
            tp = sum(float(p.tp[k]) for p, k in zip(points, chosen, strict=True))
            fp = sum(float(p.fp[k]) for p, k in zip(points, chosen, strict=True))
            reached = ((tp + pooled.negatives - fp) / len(s), (tp / pooled.positives + 1 - fp / pooled.negatives) / 2)
            if any(a < b - budget - 1e-9 for a, b in zip(reached, reference, strict=True)):
                wanted = f"figures that thresholds on these scores come within {budget:g} of"
                got = f"accuracy {reference[0]:.4f}, balanced accuracy {reference[1]:.4f}"
                raise ValueError(expected("reference", wanted, got, "pass a larger budget= or another common="))
        found = {}
        for label, p, k, k0, g in zip(names, points, chosen, start, members, strict=True):
            value = common if k == k0 and per_group else float(p.threshold[k])
            size = float((ids == g).sum())
            found[label] = value + (common - value) * shrink / (size + shrink)  # exactly the value without shrinkage
        # One threshold for all is that of unknown groups as well.
        fitted = cls(found, common=common if per_group else next(iter(found.values())))
        fitted.exact = bool(exact and shrink == 0)
        fitted.attained = Attained.of(fitted.predict(scores, attribute), labels, groups)
        fitted.attained_by_common = Attained.of(scores >= common, labels, groups)
        return fitted

    def at(self, attribute: Any, *, n: int) -> Floats:
        """(N,) the threshold of each of ``n`` samples; a label that was not fitted warns and has the common one."""
        groups = _groups(attribute, n)
        new = [label for label in groups.labels if label not in self.thresholds]
        if new:
            text = (
                f"no threshold was fitted for {', '.join(map(repr, new[:5]))}: the common one, {self.common:g}, is used"
            )
            warnings.warn(text, stacklevel=3)
        values = np.array([*(self.thresholds.get(label, self.common) for label in groups.labels), self.common])
        return np.asarray(values[groups.ids])  # id -1 is the last one, the common threshold

    def expected(self, probabilities: Any, labels: Sequence[Any]) -> Floats:
        """(N,) the mean threshold under estimated groups, for decisions ``score >= expected`` that are not told the group.

        Args:
            probabilities: (N, G) of each sample's group, by a model of the measurements (``predict_proba``), say.
            labels: of the G columns (``classes_``); a label that was not fitted has the common threshold.

        Note:
            As good as groups that are told where the measurements betray the group, and the common threshold where they say
            nothing of it. A decision that may not depend on the group may not depend on this either.
        """
        values = as_finite(probabilities, "probabilities")
        shape = f"(N, {len(labels)}) of rows that sum to 1"
        if values.ndim != 2 or values.shape[1] != len(labels):
            raise ValueError(expected("probabilities", shape, f"shape {values.shape}"))
        if (values < 0).any() or (np.abs(values.sum(axis=1) - 1) > 1e-3).any():
            raise ValueError(expected("probabilities", shape, "others", "pass predict_proba's, no logits"))
        return np.asarray(values @ np.array([self.thresholds.get(label, self.common) for label in labels]))

    def shifted(self, score: Any, attribute: Any) -> Floats:
        """(N,) ``score - t_g``: its sign is the decision. Rank by ``score`` itself."""
        scores = _scores(score)
        return scores - self.at(attribute, n=len(scores))

    def predict(self, score: Any, attribute: Any) -> NDArray[np.bool_]:
        """(N,) decisions ``score >= t_g``."""
        scores = _scores(score)
        return np.asarray(scores >= self.at(attribute, n=len(scores)))

    def compare(self, score: Any, y: Any, attribute: Any, **options: Any) -> list[ModelComparison]:
        """The common threshold and these, on samples that neither was fitted on: gaps and their difference with intervals.

        Args:
            score: (N,) scores.
            y: (N,) labels 0 and 1.
            attribute: (N,) group labels.
            options: of :func:`fairloss.report.compare_models`; ``metrics`` are accuracy, balanced accuracy, TPR, FPR and
                positive rate by default.

        Returns:
            Two entries, ``"common threshold"`` and ``"threshold per group"``.
        """
        from fairloss.report.compare import compare_models

        scores = _scores(score)
        decisions = {
            "common threshold": (scores >= self.common).astype(int),
            "threshold per group": self.predict(scores, attribute).astype(int),
        }
        options.setdefault("metrics", ("accuracy", "balanced_accuracy", "tpr", "fpr", "positive_rate"))
        return compare_models(binary_labels(y).astype(int), decisions, attribute, **options)

    def to_module(self, labels: Sequence[Any]) -> nn.Module:
        """A module with ``forward(score, groups)``: (N,) scores and ids -> (N,) bool decisions.

        Args:
            labels: of ids 0, 1, ..., as :func:`fairloss.encode_groups` gives them. Id -1 has the common threshold.
        """
        from fairloss.postprocess.ensemble import GroupDecision

        missing = [label for label in labels if label not in self.thresholds]
        if missing:
            raise ValueError(expected("labels", f"those fitted, {list(self.thresholds)}", f"{missing[0]!r}"))
        return GroupDecision([self.thresholds[label] for label in labels], self.common)

    def __repr__(self) -> str:
        values = ", ".join(f"{label!r}: {t:.4g}" for label, t in self.thresholds.items())
        return f"GroupThresholds({{{values}}}, common={self.common:.4g})"
