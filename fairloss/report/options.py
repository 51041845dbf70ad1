"""The options of reports and comparisons, written once: their types, defaults and meanings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from fairloss.groups.encode import LABEL_RULES, LabelRules
from fairloss.metrics.per_group import Metric
from fairloss.metrics.predictions import READING_OPTIONS, ReadingOptions
from fairloss.metrics.rates import Convention

__all__ = [
    "FILE_OPTIONS",
    "OPTION_KINDS",
    "PREDICTION_OPTIONS",
    "REPORT_OF_PREDICTIONS",
    "REPORT_OPTIONS",
    "SAMPLE_OPTIONS",
    "FileOptions",
    "PredictionOptions",
    "ReportOptions",
    "SampleOptions",
]


class SampleOptions(LabelRules, total=False):
    """Keyword arguments of every report and comparison.

    Attributes:
        patients: (N,) ids; samples of one patient are drawn together. By default each sample is a patient.
        sample_weight: (N,) non-negative weights; samples of weight 0 are absent.
        num_replicates: bootstrap replicates, at least 100.
        level: of all intervals.
        min_group_size: groups with fewer patients, or with fewer than ten positives or negatives, are warned of.
        seed: of the resampling.
        progress: whether to say on standard error how far a bootstrap of more than two seconds is, and the time left.
    """

    patients: Any
    sample_weight: Any
    num_replicates: int
    level: float
    min_group_size: int
    seed: int
    progress: bool


class PredictionOptions(SampleOptions, ReadingOptions, total=False):
    """Those of predictions.

    Attributes:
        threshold: a score is a positive decision where ``score >= threshold`` (0.5) ...
        strict: ... or where ``score > threshold``.
    """

    threshold: float
    strict: bool


class ReportOptions(TypedDict, total=False):
    """Those of a report.

    Attributes:
        margin: the largest gap of no concern, or one by metric (``{"auc": 0.02}``, others 0.05): what "shown to be smaller"
            and the patients that are missing refer to. One number is that of metrics with values in [0, 1].
        reference: group that the others are compared with, by attribute (``{"sex": "F"}``): differences and ratios.
        within: attribute within whose values the others are compared as well: sex within each hospital.
        intersections: with several attributes, also report every pair of them, and all together.
        title: of the report.
        model_name: name of the model, for the record.
    """

    margin: float | Mapping[str, float]
    reference: Any
    within: str | None
    intersections: bool
    title: str
    model_name: str


class ReportOfPredictions(PredictionOptions, ReportOptions, total=False):
    """Those of a report of predictions.

    Attributes:
        metrics: names as in :func:`fairloss.metrics.group_metric`, and functions of your own; by default all that the
            predictions allow of accuracy, AUC, sensitivity (TPR), specificity (TNR), PPV (precision), NPV, F1, positive rate,
            prevalence and ECE; of several classes or labels FPR and FDR in place of TNR, PPV, NPV and prevalence. A function
            has a ``__name__`` of its own and the arguments that it has in :func:`fairloss.metrics.group_metric`: labels and
            scores as they were given, before any threshold (of several labels one column at a time), and
            ``sample_weight=`` where there are weights. It returns a number, or NaN where it is undefined. It is called
            ``num_replicates`` times for all samples and for every group of every attribute, at one to three milliseconds a
            call for scikit-learn's: 10 to 30 s for one attribute of four groups. Where nothing leaves [0, 1], it is taken
            as a share of the samples; groups with fewer than ten positives or negatives are too few to judge by it.
        higher_is_better: True or False for all functions, or by name; of others the highest and lowest groups are named,
            not the best and worst.
        convention: ``"standard"`` or ``"fairgrpo"``.
        at_specificity: take the threshold at which this share of all negatives is called negative.
    """

    metrics: Sequence[Metric | Callable[..., Any]] | None
    higher_is_better: bool | Mapping[str, bool] | None
    convention: Convention
    at_specificity: float | None


class ReportOfValues(SampleOptions, ReportOptions, total=False):
    """Those of a report of values."""


class FileOptions(ReportOfPredictions, total=False):
    """Those of a report of a file, where what is data elsewhere is the name of a column.

    Attributes:
        target: column of the true labels; several columns are findings, in which an empty cell is not known.
        score: column of scores or decisions; one for each finding; several beside one target are probabilities of classes,
            whose names say of which (``p_benign``), or ``labels`` in order.
        values: columns of per-sample values (Dice, an error) in place of target and score; an empty cell is no value.
        higher_is_better: the direction of all values (by default True) or functions (by default none), or of each by name.
        patients: column of ids; samples of one patient are drawn together. By default each sample is a patient.
        sample_weight: column of non-negative weights; samples of weight 0 are absent.
        separator: one character, ``"tab"`` or ``"space"``; by default the one under which the header has the columns.
        decimal: ``"."`` or ``","``; by default the one that fits all numbers.
        encoding: a codec of Python; by default that of the file's mark, UTF-8, or else Windows-1252.
    """

    target: str | Sequence[str] | None
    score: str | Sequence[str] | None
    values: str | Sequence[str] | None
    patients: Any
    sample_weight: Any
    separator: str | None
    decimal: Literal[".", ","] | None
    encoding: str | None


SAMPLE_OPTIONS = {
    **LABEL_RULES, "patients": None, "sample_weight": None, "num_replicates": 2000,
    "level": 0.95, "min_group_size": 30, "seed": 0, "progress": False,
}  # fmt: skip
PREDICTION_OPTIONS = {"threshold": 0.5, "strict": False, **READING_OPTIONS, **SAMPLE_OPTIONS}
REPORT_OPTIONS = {
    "margin": 0.05, "reference": None, "within": None, "intersections": True, "title": "Fairness report", "model_name": "",
}  # fmt: skip
REPORT_OF_PREDICTIONS = {
    "metrics": None, "higher_is_better": None, "convention": "standard", "at_specificity": None,
    **PREDICTION_OPTIONS, **REPORT_OPTIONS,
}  # fmt: skip
FILE_OPTIONS: dict[str, Any] = {
    "target": None, "score": None, "values": None, "separator": None, "decimal": None, "encoding": None,
    **REPORT_OF_PREDICTIONS,
}  # fmt: skip
del FILE_OPTIONS["task"]
"""Defaults of the options of that name."""
OPTION_KINDS = (ReportOfPredictions, PredictionOptions, SampleOptions, LabelRules, ReadingOptions, ReportOptions)
"""Where the meanings of options stand."""
