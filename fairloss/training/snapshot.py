"""What a model does in each group at one moment, and what has gone wrong since another moment, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fairloss.metrics.arrays import Floats

__all__ = ["FairnessWarning", "Snapshot"]

_SMALLEST = 0.02  # gaps and losses below two points are not spoken of


class FairnessWarning(UserWarning):
    """A penalty has reached its aim by a way that its user hardly wants."""


@dataclass(frozen=True)
class Snapshot:
    """Figures of every group over the samples that a :class:`fairloss.training.FairnessMonitor` was given.

    Hard figures count decisions (the most likely class); soft ones are means of probabilities, as the losses see them.
    With more than two classes, rates are means over the classes that the group has. NaN is undefined.

    Attributes:
        samples: (G,) of known label.
        accuracy: (G,) share of right decisions.
        soft_accuracy: (G,) mean probability of the label.
        tpr: (G,) true-positive rate.
        soft_tpr: (G,) mean probability of the positive class among positives.
        fpr: (G,) false-positive rate.
        positive_rate: (G,) share of positive decisions; NaN for several classes.
        soft_positive_rate: (G,) mean probability of the positive class; NaN for several classes.
        auc: (G,) area under the ROC curve, from histograms of log-odds: pairs in one bin count half.
        confidence: (G,) mean probability of the most likely class.
        predicted: (G + 1, C) decisions for each class by group, and over all samples.
        labels: (G + 1, C) labels of each class.
        overall: accuracy, balanced accuracy (mean of the classes' recalls) and AUC over all samples, those of unknown group
            included.
    """

    samples: Floats
    accuracy: Floats
    soft_accuracy: Floats
    tpr: Floats
    soft_tpr: Floats
    fpr: Floats
    positive_rate: Floats
    soft_positive_rate: Floats
    auc: Floats
    confidence: Floats
    predicted: Floats
    labels: Floats
    overall: dict[str, float]

    def gap(self, name: str) -> float:
        """Max - min over the groups where ``name``, ``"accuracy"`` say, is defined; NaN with fewer than two."""
        values = np.asarray(getattr(self, name))
        values = values[~np.isnan(values)]
        return float(np.ptp(values)) if len(values) > 1 else float("nan")

    def warnings(self, reference: Snapshot | None = None) -> tuple[str, ...]:
        """What has gone wrong, one sentence each; against a ``reference``, the same model trained without a penalty.

        - a soft gap has closed by half or more, the hard one by less than a quarter;
        - a class has ten times fewer decisions than under the reference, or (without one) none;
        - a soft gap has closed by a third or more, more than half of it by the best group's fall;
        - the AUC has fallen by more than a point and two standard errors.

        Raises:
            ValueError: the reference has other groups or classes.
        """
        if reference is None:
            return tuple(self._never_predicted())
        if reference.predicted.shape != self.predicted.shape:
            raise ValueError(
                f"reference: expected a snapshot of {self.predicted.shape} groups and classes, got {reference.predicted.shape}"
            )
        found = [*self._soft_alone(reference), *self._lost_classes(reference), *self._lowered(reference)]
        fall = reference.overall["auc"] - self.overall["auc"]
        if fall > max(0.01, 2 * self._auc_error()):
            found.append(
                f"The AUC has fallen from {reference.overall['auc']:.3f} to {self.overall['auc']:.3f}: "
                "the scores rank worse than without the penalty."
            )
        return tuple(found)

    def _never_predicted(self) -> Iterator[str]:
        shares = self.labels[-1] / max(self.labels[-1].sum(), 1.0)
        for c in np.flatnonzero((shares >= 0.01) & (self.predicted[-1] == 0)):
            yield f"Class {c} is never predicted, and {shares[c]:.0%} of the labels are {c}."

    def _soft_alone(self, reference: Snapshot) -> Iterator[str]:
        for name in ("accuracy", "tpr", "positive_rate"):
            soft, hard = (s.gap(f"soft_{name}") for s in (reference, self)), (s.gap(name) for s in (reference, self))
            (soft_before, soft_now), (hard_before, hard_now) = tuple(soft), tuple(hard)
            closed = soft_before - soft_now
            if closed >= max(_SMALLEST, soft_before / 2) and hard_now > max(_SMALLEST, 0.75 * hard_before):
                yield (
                    f"The soft {name} gap has closed from {soft_before:.3f} to {soft_now:.3f}, that of decisions has not "
                    f"({hard_before:.3f} before, {hard_now:.3f} now): the probabilities have moved, the decisions have not."
                )

    def _lost_classes(self, reference: Snapshot) -> Iterator[str]:
        def share(snapshot: Snapshot, c: int) -> Floats:
            return np.asarray(snapshot.predicted[:, c] / np.maximum(snapshot.predicted.sum(axis=1), 1.0))

        for c in range(self.predicted.shape[1]):
            before, now = share(reference, c), share(self, c)
            lost = np.flatnonzero((now < before / 10) & (before >= 0.01) & (self.labels[:, c] >= 10))
            if len(lost) and lost[-1] == len(before) - 1:
                yield f"Class {c} is hardly predicted any more: {before[-1]:.1%} of the decisions before, {now[-1]:.1%} now."
            elif len(lost):
                groups = ", ".join(f"{g} ({before[g]:.1%} before, {now[g]:.1%} now)" for g in lost)
                yield f"Class {c} is hardly predicted any more in group {groups}."

    def _lowered(self, reference: Snapshot) -> Iterator[str]:
        # By probabilities: between two plain runs the groups' rates of decisions move by several points, these hardly do.
        for name, least in (("soft_accuracy", _SMALLEST), ("soft_tpr", 5 * _SMALLEST)):
            before, now = np.asarray(getattr(reference, name)), np.asarray(getattr(self, name))
            closed = reference.gap(name) - self.gap(name)
            if not closed >= max(2 * _SMALLEST, reference.gap(name) / 3):
                continue
            best = int(np.nanargmax(before))
            fall = before[best] - now[best]
            if fall > max(least, closed / 2):
                share = min(1.0, fall / closed)
                yield (
                    f"The {name.replace('_', ' ')} gap has closed by {closed:.3f}, and the best group ({best}) has fallen by "
                    f"{fall:.3f}, from {before[best]:.3f} to {now[best]:.3f}: {share:.0%} of the closing is its fall."
                )

    def _auc_error(self) -> float:
        """Standard error of the AUC (Hanley and McNeil, Radiology 143, 1982, eq 1)."""
        a = self.overall["auc"]
        positives, negatives = self.labels[-1, 1:].sum(), self.labels[-1, 0]
        if np.isnan(a) or positives < 1 or negatives < 1:
            return 0.0
        q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
        variance = a * (1 - a) + (positives - 1) * (q1 - a * a) + (negatives - 1) * (q2 - a * a)
        return float(np.sqrt(max(variance, 0.0) / (positives * negatives)))
