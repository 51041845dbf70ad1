"""Comparing models on the same samples: differences of gaps with bootstrap p-values, and the accuracy-fairness front.

Both models are drawn with the same patients in every replicate, so that what they share cancels. Interval and p-value of
the difference are those of :mod:`fairloss.report.intervals`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fairloss.core.arrays import frame_columns
from fairloss.core.checks import expected
from fairloss.core.options import given_options, with_options
from fairloss.groups.encode import LABEL_RULES, GroupEncoding, number_labels
from fairloss.metrics.arrays import Bools, as_groups, as_values
from fairloss.metrics.per_group import Metric
from fairloss.metrics.predictions import READING_OPTIONS, SCORED, Predictions, as_predictions
from fairloss.metrics.undefined import UndefinedGroupWarning, undefined_labels
from fairloss.report.arguments import KINDS, Resampling, check_number, named_metrics, only_decides
from fairloss.report.bootstrap import Draws, bootstrap_groups
from fairloss.report.build import attribute_report
from fairloss.report.class_gaps import mean_difference, mean_gap
from fairloss.report.comparisons import judged_groups
from fairloss.report.functions import Functions, group_names
from fairloss.report.intervals import gap_difference
from fairloss.report.options import OPTION_KINDS, PREDICTION_OPTIONS, PredictionOptions
from fairloss.report.progress import Progress
from fairloss.report.results import GapDifference, ModelComparison, count_of, metric_title
from fairloss.report.sample import read_sample

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["compare_models", "gap_difference_test", "pareto_front"]


@with_options({name: v for name, v in PREDICTION_OPTIONS.items() if name != "min_group_size"}, *OPTION_KINDS)
def gap_difference_test(
    y_true: Any,
    score_a: Any,
    score_b: Any,
    groups: Any,
    *,
    metric: Metric | Callable[..., Any] = "accuracy",
    **options: Unpack[PredictionOptions],
) -> GapDifference:
    """Bootstrap test of whether two models differ in the gap of a metric on the same samples.

    Args:
        y_true: (N,) labels of two classes, (N,) classes, or (N, L).
        score_a: predictions of the first model, as in :func:`fairloss.metrics.group_metric`.
        score_b: of the second model.
        groups: (N,) group labels, or a mapping or frame of several attributes: their intersection (the report takes each
            apart).
        metric: a name or function as in :func:`compare_models`.
        options: by keyword.

    Returns:
        Both gaps over the groups, and classes of them, that both models define; their difference, its interval and p-value;
        NaN where a gap is undefined. The smallest p-value is 1 / (num_replicates + 1), of a mean over classes twice that.

    Raises:
        ValueError: shapes that do not fit, an unknown metric, fewer than 100 replicates.

    Note:
        A large-sample test. It holds where one model is noisier than the other (whose gap is then the larger by chance),
        and is conservative where the groups of both models are nearly alike. Where no replicate varies (both models
        right everywhere), the interval of the difference has no width; the gaps' own intervals (:func:`compare_models`)
        have.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y, g = rng.integers(0, 2, 600), rng.integers(0, 2, 600)
        >>> fair = np.where(rng.random(600) < 0.8, y, 1 - y)
        >>> unfair = np.where(rng.random(600) < np.where(g == 0, 0.95, 0.65), y, 1 - y)
        >>> result = gap_difference_test(y, fair, unfair, g)
        >>> result.difference > 0.1, result.p_value < 0.01
        (True, True)
    """
    models = {"a": score_a, "b": score_b}
    options["min_group_size"] = 0  # every group takes part
    second = compare_models(y_true, models, groups, metrics=(metric,), **options)[1]
    return next(iter(second.against_first.values()))


@with_options(PREDICTION_OPTIONS, *OPTION_KINDS)
def compare_models(
    y_true: Any,
    scores: Mapping[str, Any],
    groups: Any,
    *,
    metrics: Sequence[Metric | Callable[..., Any]] | None = None,
    **options: Unpack[PredictionOptions],
) -> list[ModelComparison]:
    """Values and gaps of several models on the same samples, and each one's difference to the first.

    Args:
        y_true: (N,) labels of two classes, (N,) classes, or (N, L).
        scores: model name to its predictions, as in :func:`fairloss.metrics.group_metric`.
        groups: (N,) group labels, or a mapping or frame of several attributes: their intersection (the report takes each
            apart).
        metrics: names as in :func:`fairloss.metrics.group_metric`; by default accuracy, AUC (where every model has scores, not
            decisions), TPR and FPR. Functions as in :meth:`FairnessReport.from_predictions`.
        options: by keyword.

    Returns:
        One entry per model, in the order given.

    Raises:
        TypeError: ``scores`` is no mapping.
        ValueError: no model, shapes that do not fit, no or an unknown metric, one of scores where some models alone give
            decisions, fewer than 100 replicates, a function that fails.

    Note:
        A metric that is undefined in some group, or for some class there, gives one :class:`UndefinedGroupWarning`. Where it
        is so for some of the models only, their gaps are over different groups; the warning names these models, and the
        differences to the first model (``against_first``) are over the groups and classes that are defined in both.

    Example:
        >>> y, g = [1, 0, 1, 0] * 10, [0, 0, 1, 1] * 10
        >>> first, second = compare_models(y, {"A": [1, 0, 0, 1] * 10, "B": y}, g, metrics=["accuracy"])
        >>> first.gaps["accuracy"][0], second.gaps["accuracy"][0], second.against_first["accuracy"].difference
        (1.0, 0.0, -1.0)
    """
    o = given_options(options, PREDICTION_OPTIONS)
    how = Resampling.of(o)
    given = None if metrics is None else named_metrics(metrics)
    if not isinstance(scores, Mapping):
        raise TypeError(expected("scores", "a mapping of model names to predictions", type(scores).__name__))
    if not scores:
        raise ValueError(expected("scores", "at least one model", "none"))
    attributes = groups if isinstance(groups, Mapping) else frame_columns(groups)
    attribute = "group" if attributes is None else " & ".join(map(str, attributes))
    found: list[ModelComparison] = []
    first: dict[str, Draws] = {}
    predictions = _read_models(y_true, scores, **{name: o[name] for name in ("threshold", "strict", *READING_OPTIONS)})
    deciding = [str(model) for model, pred in predictions.items() if only_decides(pred)]
    said: list[str] = []
    if given is None:
        given = named_metrics(("accuracy", "tpr", "fpr") if deciding else ("accuracy", "auc", "tpr", "fpr"))
        said = [f"Decisions were given, not scores, by {', '.join(deciding)}: AUC is left out."] * bool(deciding)
    names = tuple(given)
    missing: dict[str, dict[str, list[str]]] = {m: {} for m in names}  # of each metric, by group, in which models
    for pred in predictions.values():
        for name, function in given.items():
            if function is None:
                pred.check(name)
    scored = [name for name in names if name in SCORED]
    if scored and 0 < len(deciding) < len(predictions):
        wanted = f"scores of every model, or decisions of every model, for {scored[0]}"
        cure = "pass its scores, or leave the metric out"
        raise ValueError(expected("scores", wanted, f"decisions of {', '.join(deciding)} alone", cure))
    n = len(next(iter(predictions.values())))
    everyone = as_groups(groups, n, **{rule: o[rule] for rule in LABEL_RULES})
    check_number(attribute, everyone)
    progress = Progress(how.num_replicates * len(predictions), shown=how.progress)
    prepared = []
    for model, pred in predictions.items():
        notes = list(said)
        sample, present = read_sample(pred, {}, n, o["patients"], o["sample_weight"], notes)
        encoding = _present(everyone, present)
        own = Functions.made(given, y_true, scores[model], pred, o["sample_weight"], present)
        try:
            kinds = KINDS | own.kinds({attribute: encoding}, None)
        except ValueError as error:
            raise ValueError(f"{error} (model {model})") from error.__cause__
        prepared.append((model, pred, replace(sample, functions=own), encoding, kinds, notes))
    for model, pred, sample, encoding, kinds, notes in prepared:
        if sample.weighted:
            worth = sample.effective(np.zeros(len(sample), dtype=np.int64), 1)[0]
            notes.append(f"Weighted: {count_of(len(sample), 'sample')}, worth {worth:.1f} of equal weight.")
        draws = bootstrap_groups(
            sample,
            encoding.ids,
            encoding.num_groups,
            metrics=names,
            num_replicates=how.num_replicates,
            rng=np.random.default_rng(how.seed),  # the same draws for every model
            names=group_names(attribute, encoding),
            advance=progress.advance,
        )
        report = attribute_report(attribute, encoding, draws, sample, how, notes, kinds)
        gaps = {m: report.gap(m) for m in names}
        few = {m: np.array([g.metrics[m].few for g in report.groups], dtype=bool) for m in names}
        judged = {m: judged_groups(d, few[m]) for m, d in draws.items()}
        lost = [metric_title(m) for m in names if np.isnan(gaps[m].estimate.value)]
        if lost and encoding.num_groups != 1:  # of one group the report's notes say so themselves
            notes.append(f"{attribute}: {', '.join(lost)} defined in fewer than two groups, so there is no gap.")
        first = first or judged
        found.append(
            ModelComparison(
                model,
                {m: d.overall for m, d in draws.items()},
                {m: (g.estimate.value, g.estimate.low, g.estimate.high) for m, g in gaps.items()},
                {m: g.corrected for m, g in gaps.items()},
                {m: _difference(m, first[m], judged[m], how.level) for m in names} if found else {},
                tuple(notes),
            )
        )
        for m, d in draws.items():
            for label in undefined_labels(encoding.labels, np.isnan(d.by_class), pred.classes):
                missing[m].setdefault(label, []).append(model)
    progress.close()
    _warn_of_undefined(missing, len(found))
    return found


def _read_models(
    y_true: Any, scores: Mapping[Any, Any], *, labels: Sequence[Any] | None, **reading: Any
) -> dict[Any, Predictions]:
    """Each model's predictions, all over the same classes: those of any model's answers among them."""
    found = {model: as_predictions(y_true, score, labels=labels, **reading) for model, score in scores.items()}
    tasks = {model: pred.task for model, pred in found.items()}
    if len(set(tasks.values())) > 1:
        given = ", ".join(f"{task} of {model}" for model, task in tasks.items())
        cure = "pass predictions of one form, or labels= with all classes"
        raise ValueError(expected("scores", "models of one task", given, cure))
    classes = {pred.classes for pred in found.values()}
    if labels is None and len(classes) > 1:
        shared = number_labels([c for each in classes for c in each]).labels
        found = {model: as_predictions(y_true, score, labels=shared, **reading) for model, score in scores.items()}
    return found


def _present(encoding: GroupEncoding, present: Bools) -> GroupEncoding:
    """The samples ``present``, without the categories that none of them has."""
    ids = encoding.ids[present]
    used = np.bincount(ids + 1, minlength=encoding.num_groups + 1)[1:] > 0
    rows = np.concatenate([[-1], np.where(used, np.cumsum(used) - 1, -1)])
    return GroupEncoding(rows[ids + 1], tuple(name for name, here in zip(encoding.labels, used, strict=True) if here))


def _warn_of_undefined(missing: Mapping[str, Mapping[str, Sequence[str]]], models: int) -> None:
    """One warning per metric; models are named where not all of them are concerned."""
    for metric, labels in missing.items():
        if labels:
            groups = [g if len(m) == models else f"{g} ({', '.join(m)})" for g, m in labels.items()]
            text = f"{metric} is undefined in group(s) {', '.join(groups)}: left out"
            warnings.warn(text, UndefinedGroupWarning, stacklevel=3)


def _difference(metric: str, first: Draws, second: Draws, level: float) -> GapDifference:
    """Of the gaps over the groups, and classes of them, that are defined in both models."""
    kept = ~np.isnan(first.by_class) & ~np.isnan(second.by_class)
    first, second = first.where(kept), second.where(kept)
    gap_a, gap_b = (mean_gap([d]) for d in (first, second))
    if first.by_class.shape[1] > 1:
        interval = mean_difference(first, second, level)
    else:
        replicates = [(d.values, d.drawn, d.bias) for d in (first, second)]
        interval = gap_difference(replicates[0], replicates[1], level)
    return GapDifference(metric, gap_a, gap_b, gap_b - gap_a, *interval)


def pareto_front(performance: Any, disparity: Any) -> NDArray[np.bool_]:
    """Which models are not dominated: none performs at least as well at a smaller or equal gap, and better in one.

    Args:
        performance: (k,) larger is better; NaN where undefined.
        disparity: (k,) smaller is better; NaN where undefined.

    Returns:
        (k,) bool. A model with an undefined value is not on the front, and dominates none.

    Raises:
        ValueError: different lengths, infinite values.

    Example:
        >>> pareto_front([0.90, 0.85, 0.80], [0.10, 0.02, 0.05]).tolist()
        [True, True, False]
    """
    p, d = as_values(performance, "performance", "model"), as_values(disparity, "disparity", "model")
    if p.shape != d.shape:
        raise ValueError(expected("performance and disparity", "one length", f"lengths {len(p)} and {len(d)}"))
    weakly = (p[None, :] >= p[:, None]) & (d[None, :] <= d[:, None])
    strictly = (p[None, :] > p[:, None]) | (d[None, :] < d[:, None])
    return np.asarray(~(weakly & strictly).any(axis=1) & ~np.isnan(p) & ~np.isnan(d))
