"""What a report is drawn from: predictions or values with patients and weights, without the samples that are absent.

A sample of weight 0, or without any value, is absent: from counts, from what is drawn, from what makes a group small. Where
weights differ, a group of n samples tells as much as Kish's effective number (sum w)^2 / sum w^2 of equal weight, which
takes the place of n wherever a number of samples decides.

Reference: Kish, *Survey Sampling*, 1965.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fairloss.core.checks import expected
from fairloss.groups.encode import number_labels
from fairloss.groups.labels import is_unknown, may_be_missing
from fairloss.metrics.arrays import Bools, Floats, Ints, as_array, as_weights
from fairloss.metrics.predictions import Predictions
from fairloss.report.functions import NO_FUNCTIONS, Functions
from fairloss.report.resampling import numbered
from fairloss.report.results import count_of

__all__ = ["Sample", "effective_patients", "patient_codes", "read_sample"]


@dataclass(frozen=True)
class Sample:
    """N samples that are present.

    Attributes:
        pred: predictions, or None where there are values.
        patient: (N,) patient 0 .. P - 1 of each sample.
        weight: (N,) positive weights.
        values: name to (N,) values, NaN where there is none.
        functions: metrics that the user wrote.
    """

    pred: Predictions | None
    patient: Ints
    weight: Floats
    values: Mapping[str, Floats] = field(default_factory=dict)
    functions: Functions = NO_FUNCTIONS

    def __len__(self) -> int:
        return len(self.patient)

    @property
    def patients(self) -> int:
        """How many patients there are."""
        return int(self.patient.max()) + 1

    @property
    def weighted(self) -> bool:
        """Whether weights differ."""
        return bool(self.weight.min() < self.weight.max())

    def effective(self, ids: Ints, num_groups: int, counted: Bools | None = None) -> Floats:
        """(G,) :func:`effective_patients` of the groups' ``counted`` samples; all by default."""
        at = slice(None) if counted is None else counted
        return effective_patients(ids[at], num_groups, self.patient[at], self.weight[at])

    def counted(self, metric: str) -> Bools | None:
        """(N,) which samples have a value of the metric, where that is not all of them."""
        return ~np.isnan(self.values[metric]) if metric in self.values else None

    def trials(self, metric: str, ids: Ints, num_groups: int, columns: int) -> Floats:
        """(G, K) independent trials behind each value of the metric: patients with a sample in its denominator.

        A function may count positives or negatives alone: where either are fewer than ten, these are its trials.
        """
        pred = self.pred
        if pred is None or columns != len(pred.classes):
            return np.repeat(self.effective(ids, num_groups, self.counted(metric))[:, None], columns, axis=1)
        found = np.empty((num_groups, columns))
        for k in range(columns):
            positive, decided = pred.target[:, k], pred.decided[:, k]
            if metric in ("tpr", "fnr", "f1"):
                masks = [positive]
            elif metric in ("auc", "balanced_accuracy", *self.functions.of):
                masks = [positive, ~positive]
            elif metric in ("fpr", "tnr"):
                masks = [~positive]
            elif metric == "npv":
                masks = [~decided]
            else:
                masks = [decided if metric in ("precision", "fdr") else np.ones_like(positive)]
            if pred.known is not None:
                masks = [mask & pred.known[:, k] for mask in masks]
            found[:, k] = np.min([self.effective(ids, num_groups, m) for m in masks], axis=0)
            if metric in self.functions.of:
                every = self.effective(ids, num_groups, None if pred.known is None else pred.known[:, k])
                found[:, k] = np.where(found[:, k] < 10, found[:, k], every)
        return found


def effective_patients(ids: Ints, num_groups: int, patient: Ints, weight: Floats) -> Floats:
    """(G,) patients of each group; where the patients' mean weights w differ, (sum w)^2 / sum w^2 of them."""
    known = ids >= 0
    ids, patient, weight = ids[known], patient[known], weight[known]
    if not len(ids):
        return np.zeros(num_groups)
    people = int(patient.max()) + 1
    codes, of = numbered(ids * people + patient)
    groups, mean = codes // people, np.bincount(of, weights=weight) / np.bincount(of)
    largest = np.ones(num_groups)
    largest[np.unique(groups)] = np.maximum.reduceat(mean, np.searchsorted(groups, np.unique(groups)))
    share = mean / largest[groups]  # whose squares neither overflow nor vanish
    total, squares = (np.bincount(groups, weights=share**power, minlength=num_groups) for power in (1, 2))
    return np.round(total**2 / np.maximum(squares, 1e-300), 9)  # thirty equal weights are thirty


def patient_codes(patients: Any, n: int) -> Ints:
    """(N,) patient 0 .. P - 1 of each sample; each sample its own where ``patients`` is None.

    Raises:
        ValueError: a missing id, or not one id a sample.
    """
    if patients is None:
        return np.arange(n, dtype=np.int64)
    array = as_array(patients, "patients")
    if array.shape != (n,):
        raise ValueError(expected("patients", f"one id per sample, ({n},)", f"shape {array.shape}"))
    codes, ids = number_labels(array)
    missing = [i for i, v in enumerate(ids) if is_unknown(v) or may_be_missing(v)]
    lost = np.flatnonzero((codes < 0) | np.isin(codes, missing))
    if lost.size:
        given = repr(ids[codes[lost[0]]]) if codes[lost[0]] >= 0 else "none"
        cure = "a sample whose patient is not known needs an id of its own"
        raise ValueError(expected("patients", "one id per sample", f"{given} at position {lost[0]}", cure))
    return codes


def read_sample(
    pred: Predictions | None, values: Mapping[str, Floats], n: int, patients: Any, sample_weight: Any, notes: list[str]
) -> tuple[Sample, Bools]:
    """The samples that are present, and (n,) which these are; appends to ``notes`` how many are not.

    Raises:
        ValueError: no sample is present.
    """
    weight, patient = as_weights(sample_weight, n), patient_codes(patients, n)
    present = weight > 0
    if not present.any():
        raise ValueError(expected("sample_weight", "a weight > 0", "none"))
    if not present.all():
        notes.append(f"{count_of(int(n - present.sum()), 'sample')} of weight 0 left out.")
    if pred is not None and pred.known is not None:
        known: Bools = np.asarray(pred.known.any(axis=1))
        if not known[present].all():
            notes.append(f"{count_of(int((~known & present).sum()), 'sample')} without a known label left out.")
        present = present & known
    for name, v in values.items():
        there = ~np.isnan(v) & present
        if not there.any():
            raise ValueError(expected(name, "a value with a weight > 0", "none"))
        if not there[present].all():
            lost = int(present.sum() - there.sum())
            notes.append(f"{lost} of {count_of(int(present.sum()), 'sample')} without a value of {name}.")
    if values:
        present = present & np.any([~np.isnan(v) for v in values.values()], axis=0)
    if not present.all():
        pred = None if pred is None else pred.take(np.flatnonzero(present))
        values = {name: v[present] for name, v in values.items()}
        weight, patient = weight[present], np.unique(patient[present], return_inverse=True)[1].astype(np.int64).ravel()
    return Sample(pred, patient, weight, values), present
