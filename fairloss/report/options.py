"""The options of reports and comparisons, written once: their types, defaults and meanings."""

from __future__ import annotations

from typing import Any, TypedDict

from fairloss.groups.encode import EachBins, EachLabels
from fairloss.metrics.predictions import READING_OPTIONS, ReadingOptions

__all__ = ["PREDICTION_OPTIONS", "SAMPLE_OPTIONS", "PredictionOptions", "SampleOptions"]


class SampleOptions(TypedDict, total=False):
    """Keyword arguments of every report and comparison.

    Attributes:
        unknown: labels that mean unknown as well, or such labels by attribute; see :func:`fairloss.encode_groups`.
        known: labels that name a group although they look missing, likewise.
        bins: edges that cut an attribute's numbers into bands, ``{"age": [40, 65]}``; None where they are codes.
        patients: (N,) ids; samples of one patient are drawn together. By default each sample is a patient.
        sample_weight: (N,) non-negative weights; samples of weight 0 are absent.
        num_replicates: bootstrap replicates, at least 100.
        level: of all intervals.
        min_group_size: groups with fewer patients, or with fewer than ten positives or negatives, are warned of.
        seed: of the resampling.
    """

    unknown: EachLabels
    known: EachLabels
    bins: EachBins
    patients: Any
    sample_weight: Any
    num_replicates: int
    level: float
    min_group_size: int
    seed: int


class PredictionOptions(SampleOptions, ReadingOptions, total=False):
    """Those of predictions.

    Attributes:
        threshold: a score is a positive decision where ``score >= threshold`` (0.5) ...
        strict: ... or where ``score > threshold``.
    """

    threshold: float
    strict: bool


SAMPLE_OPTIONS = {
    "unknown": (), "known": (), "bins": "raise", "patients": None, "sample_weight": None, "num_replicates": 2000,
    "level": 0.95, "min_group_size": 30, "seed": 0,
}  # fmt: skip
PREDICTION_OPTIONS = {"threshold": 0.5, "strict": False, **READING_OPTIONS, **SAMPLE_OPTIONS}
"""Defaults of :class:`SampleOptions` and of :class:`PredictionOptions`."""
