"""Group-fairness metrics for training loops: torchmetrics classes over the NumPy reference.

Every class takes ``update(preds, target, groups)``; in a ``MetricCollection`` pass ``groups=`` by keyword. Counts are
integer tensors with a row a group, summed across processes, so that any split of the data over batches and ranks gives
the same value; :func:`fairloss.metrics` computes it from the counts. The exact AUC needs the scores themselves
(concatenated across processes); with ``bins`` it keeps histograms, which are summed.

Unlike torchmetrics' own ``BinaryFairness``, ids are never renumbered, -1 means unknown, and an undefined value is NaN, which
``compute`` names in an :class:`fairloss.metrics.UndefinedGroupWarning` where the group has samples.
A state's name holds what its update depends on (threshold, classes, bins), because ``MetricCollection`` merges metrics
whose states are equal after the first batch, and would give one threshold's value for the other.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairloss.core.checks import choice, expected, flag
from fairloss.groups.encode import GroupEncoding
from fairloss.integrations._torchmetrics_base import Grouped
from fairloss.integrations._torchmetrics_scores import AUCGap, CalibrationGap, EquityScaledAUC
from fairloss.metrics.gaps import OverClasses, gap_over_groups
from fairloss.metrics.rates import RATES, Convention, Rate, mean_over_classes, rates, ratio

__all__ = [
    "AUCGap",
    "CalibrationGap",
    "DemographicParityDifference",
    "DemographicParityRatio",
    "EqualOpportunityDifference",
    "EqualizedOddsDifference",
    "EquityScaledAUC",
    "FalsePositiveRateDifference",
    "GroupValues",
    "MaxAccuracyGap",
    "PredictiveParityDifference",
]

Task = Literal["binary", "multiclass", "multilabel"]


class _Counted(Grouped):
    """Confusion counts (G, K, 4) of each group and one-vs-rest class."""

    def __init__(
        self,
        num_groups: int,
        *,
        task: Task = "binary",
        num_classes: int | None = None,
        threshold: float = 0.5,
        strict: bool = False,
        over_classes: OverClasses | None = None,
        convention: Convention = "standard",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_groups, **kwargs)
        choice("task", task, get_args(Task))
        if (task == "binary") != (num_classes is None):
            wanted = "None for a binary task" if task == "binary" else f"the number of classes of a {task} task"
            raise ValueError(expected("num_classes", wanted, num_classes))
        if task != "binary" and self.positive is not None:
            raise ValueError(expected("positive", f"None of a {task} task", self.positive))
        if task == "multiclass" and (threshold != 0.5 or strict):
            wanted = "0.5, which plays no part, as strict does"
            raise ValueError(
                expected("threshold", wanted, threshold, "the largest score decides among several classes")
            )
        self.task, self.num_columns = task, num_classes or 1
        self.threshold, self.strict = threshold, flag("strict", strict)
        self.over_classes, self.convention = over_classes, convention
        rule = [] if task == "multiclass" else ["above" if strict else "from", repr(threshold)]
        self._state = self._state_name("counts", task, f"{num_groups}x{self.num_columns}", *rule)
        default = torch.zeros(num_groups, self.num_columns, 4, dtype=torch.long)
        self.add_state(self._state, default=default, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, groups: Tensor | GroupEncoding) -> None:
        """Add a batch.

        Args:
            preds: (N,) scores or decisions, or (N, 2) probabilities that sum to 1 (binary); (N, C) scores or (N,) classes
                (multi-class); (N, L) (multi-label).
            target: (N,) labels, or (N, L).
            groups: (N,) ids 0 .. num_groups - 1, -1 for unknown, or what ``encode_groups(labels, categories=...)`` returns.
        """
        truth, decided, known, ids = self._columns(preds, target, self._ids(groups, preds))
        known = known & (ids >= 0)[:, None]
        truth, decided = truth.long(), decided.long()
        # true positive 0, false positive 1, false negative 2, true negative 3
        cell = torch.where(truth == 1, 2 * (1 - decided), 3 - 2 * decided)
        place = torch.arange(self.num_columns, device=ids.device)
        flat = (ids.long()[:, None] * self.num_columns + place) * 4 + cell
        size = self.num_groups * self.num_columns * 4
        counts = torch.bincount(flat[known], minlength=size).view(self.num_groups, self.num_columns, 4)
        self._add(self._state, counts)

    def _columns(self, preds: Tensor, target: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(n, K) true labels, decisions and whether the label is known, and (n,) ids."""
        if self.task == "multiclass":
            self._check(preds, target, groups)
            if preds.ndim == 2 and preds.shape[1] != self.num_columns:
                raise ValueError(expected("preds", f"{self.num_columns} columns, one per class", preds.shape[1]))
            preds, target, ids = self._known(preds, target, groups)
            self._check_labels(target, self.num_columns)
            classes = torch.arange(self.num_columns, device=target.device)
            answer = preds.argmax(dim=1) if preds.ndim == 2 else preds
            truth = target[:, None] == classes
            return truth, answer[:, None] == classes, torch.ones_like(truth), ids
        if self.task == "binary":
            score, truth, ids = self._binary(preds, target, groups)
            score, truth = score[:, None], truth[:, None]
            known = torch.ones_like(truth)
        else:
            self._check(preds, target, groups)
            wanted = (len(groups), self.num_columns)
            if preds.shape != wanted or target.shape != wanted:
                shapes = f"shapes {tuple(preds.shape)} and {tuple(target.shape)}"
                raise ValueError(expected("preds and target", f"shape {wanted}", shapes))
            known = (
                target.isfinite() if self.ignore_index is None else target.isfinite() & (target != self.ignore_index)
            )
            self._check_labels(target[known], 2, "pass ignore_index= for a label that is not known")
            score, truth, ids = preds.double() if self.logits else preds, target == 1, groups
        if self.threshold == 0.5:
            self._check_range(
                score, "scores in [0, 1] for decisions at 0.5", "threshold= (another than 0.5) on their scale"
            )
        # Half precision is compared as float32.
        score = self._probabilities(score) if score.dtype == torch.float64 else score.float()
        return truth, score > self.threshold if self.strict else score >= self.threshold, known, ids

    def _values(self, metric: str) -> NDArray[np.float64]:
        """(G, K) values, after a warning for those that are undefined; (G, 1) for the plain accuracy of several classes."""
        counts = getattr(self, self._state).cpu().numpy().astype(np.float64)
        if metric == "accuracy" and self.task == "multiclass" and self.convention == "standard":
            values = ratio(counts[:, :, 0].sum(axis=1), counts[:, 0].sum(axis=1))[:, None]
        else:
            values = rates(metric, counts, convention=self.convention)
        # FairGRPO's convention drops classes on purpose: groups alone are named.
        classes = range(self.num_columns) if self.convention == "standard" and self.num_columns > 1 else ()
        self._name_undefined(metric, values, counts.any(axis=(1, 2)), classes)
        return values

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=self.device).float()


class _RateGap(_Counted):
    _rates: tuple[str, ...]
    _statistic: Literal["gap", "ratio"] = "gap"
    agg: Literal["worst_case", "mean"] = "worst_case"

    def compute(self) -> Tensor:
        """The gap over all samples seen, a scalar; NaN where fewer than two groups have a value."""
        self._check_scale()
        values = [self._values(rate) for rate in self._rates]
        found = gap_over_groups(
            values, self._statistic, agg=self.agg, over_classes=self.over_classes, convention=self.convention
        )
        return self._tensor(found)


class MaxAccuracyGap(_RateGap):
    """max_g accuracy_g - min_g accuracy_g; 0 means equal accuracy. See :func:`fairloss.metrics.max_accuracy_gap`.

    Args:
        num_groups: number of groups; a group without samples is left out.
        task: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        num_classes: classes, or labels, of the last two.
        threshold: a score is a positive decision where ``score >= threshold`` ...
        strict: ... or where ``score > threshold``.
        over_classes: see :func:`fairloss.metrics.max_accuracy_gap`.
        convention: ``"standard"`` or ``"fairgrpo"``.
        kwargs: ``positive``, ``logits`` and ``ignore_index`` as in :func:`fairloss.metrics.max_accuracy_gap`;
            ``validate_args=False`` to check nothing of a batch (which reads it back from the device); the arguments of
            ``torchmetrics.Metric``.

    Example:
        >>> metric = MaxAccuracyGap(num_groups=2)
        >>> metric.update(torch.tensor([0.9, 0.2, 0.4, 0.8]), torch.tensor([1, 0, 1, 1]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()
        tensor(0.5000)
    """

    _rates = ("accuracy",)


class DemographicParityDifference(_RateGap):
    """Gap of positive rates. Arguments as :class:`MaxAccuracyGap`."""

    _rates = ("positive_rate",)


class DemographicParityRatio(_RateGap):
    """Smallest over largest positive rate; 1 means equal rates. Arguments as :class:`MaxAccuracyGap`."""

    higher_is_better = True
    _rates = ("positive_rate",)
    _statistic = "ratio"


class EqualOpportunityDifference(_RateGap):
    """Gap of true-positive rates. Arguments as :class:`MaxAccuracyGap`."""

    _rates = ("tpr",)


class FalsePositiveRateDifference(_RateGap):
    """Gap of false-positive rates. Arguments as :class:`MaxAccuracyGap`."""

    _rates = ("fpr",)


class PredictiveParityDifference(_RateGap):
    """Gap of false-discovery rates. Arguments as :class:`MaxAccuracyGap`."""

    _rates = ("fdr",)


class EqualizedOddsDifference(_RateGap):
    """The larger of the gaps in TPR and FPR (``agg="mean"``: their mean), NaN where one is. See :class:`MaxAccuracyGap`."""

    _rates = ("tpr", "fpr")

    def __init__(self, num_groups: int, *, agg: Literal["worst_case", "mean"] = "worst_case", **kwargs: Any) -> None:
        super().__init__(num_groups, **kwargs)
        choice("agg", agg, ("worst_case", "mean"))
        self.agg = agg


class GroupValues(_Counted):
    """The value of one rate in every group, (G,); NaN where undefined. Other arguments as :class:`MaxAccuracyGap`.

    Of several classes, the mean over those that a group has; the warning names the ones that it lacks, over which groups
    should not be compared.

    Args:
        num_groups: number of groups.
        metric: accuracy, tpr, tnr, fpr, fnr, precision, fdr, f1, balanced_accuracy, positive_rate or prevalence.
        kwargs: as :class:`MaxAccuracyGap`.

    Example:
        >>> metric = GroupValues(num_groups=3, metric="accuracy")
        >>> metric.update(torch.tensor([0.9, 0.2, 0.4, 0.8]), torch.tensor([1, 0, 1, 1]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()
        tensor([1.0000, 0.5000, nan])
    """

    def __init__(self, num_groups: int, *, metric: Rate, **kwargs: Any) -> None:
        super().__init__(num_groups, **kwargs)
        self.metric = choice("metric", metric, RATES)

    def compute(self) -> Tensor:
        """(G,) values over all samples seen."""
        self._check_scale()
        return self._tensor(mean_over_classes(self._values(self.metric)))
