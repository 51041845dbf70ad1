"""The fairness report: every metric in every group, every gap, with intervals, counts and warnings.

A group's values carry percentile intervals of a bootstrap over patients, stratified by group; gaps carry an interval
that stays honest where groups are alike, and a bias-corrected estimate, both explained in
:mod:`fairloss.report.intervals`. Rates of multi-class and multi-label tasks are means over classes, and their gaps the
means of each class's gap over the groups that have it, as in the named gaps of :mod:`fairloss.metrics.gaps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairloss._version import __version__
from fairloss.core.arrays import as_array
from fairloss.core.checks import expected
from fairloss.core.options import given_options, with_options
from fairloss.groups.encode import GroupEncoding
from fairloss.metrics.predictions import READING_OPTIONS, Predictions, as_predictions
from fairloss.metrics.rates import Convention
from fairloss.report import findings
from fairloss.report.arguments import (
    KINDS,
    Kind,
    Resampling,
    read_attributes,
    read_margins,
    read_metrics,
    read_references,
    read_values,
    threshold_at,
    value_kinds,
)
from fairloss.report.bootstrap import Draws, bootstrap_groups
from fairloss.report.build import attribute_report, overall_estimates
from fairloss.report.functions import EVERYONE, Functions, group_names
from fairloss.report.limits import Breach, find_breaches
from fairloss.report.markdown import as_model_card
from fairloss.report.options import (
    FILE_OPTIONS,
    OPTION_KINDS,
    REPORT_OF_PREDICTIONS,
    REPORT_OPTIONS,
    SAMPLE_OPTIONS,
    FileOptions,
)
from fairloss.report.prediction_files import FileColumns, FileForm, FilePredictions, as_names, read_predictions
from fairloss.report.progress import Progress
from fairloss.report.resampling import cost_of
from fairloss.report.results import ReportData
from fairloss.report.sample import Sample, read_sample

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fairloss.report.options import ReportOfPredictions, ReportOfValues

__all__ = ["FairnessReport"]


class FairnessReport(ReportData):
    """Fairness of one set of predictions; made by :meth:`from_predictions`, :meth:`from_values` or :meth:`from_file`."""

    @classmethod
    @with_options(REPORT_OF_PREDICTIONS, *OPTION_KINDS)
    def from_predictions(
        cls,
        y_true: Any,
        y_score: Any,
        groups: Any,
        **options: Unpack[ReportOfPredictions],
    ) -> FairnessReport:
        """Compute the report.

        Args:
            y_true: (N,) labels of two classes, (N,) classes, or (N, L) of 0 and 1.
            y_score: (N,) scores, decisions or (N, 2) probabilities; (N, C) scores or (N,) classes; (N, L). As in
                :func:`fairloss.metrics.group_metric`.
            groups: attribute name to (N,) labels (a mapping or a data frame), or the labels of one attribute. None, NaN
                and -1 are unknown.
            options: by keyword.

        Returns:
            The report.

        Raises:
            TypeError: a number, or names of metrics, of another type; a function without ``sample_weight`` beside weights.
            ValueError: shapes that do not fit, no attribute, a metric that the predictions do not allow, a number out of range;
                a function without a name of its own, that raises (its error is the cause) or returns no finite number.

        Example:
            >>> import numpy as np
            >>> rng = np.random.default_rng(0)
            >>> y, sex = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
            >>> score = np.clip(0.5 * y + 0.25 + (0.2 + 0.3 * sex) * rng.standard_normal(400), 0, 1)
            >>> report = FairnessReport.from_predictions(y, score, {"sex": np.array(["F", "M"])[sex]})
            >>> gap = report["sex"].gap("accuracy")
            >>> gap.worst, round(gap.estimate.value, 2), gap.estimate.low > 0
            ('M', 0.23, True)
            >>> def mistaken(y_true, y_score):
            ...     return np.mean((y_score >= 0.5) != y_true)
            >>> options = {"metrics": ["tpr", mistaken], "higher_is_better": {"mistaken": False}}
            >>> own = FairnessReport.from_predictions(y, score, {"sex": sex}, num_replicates=200, **options)["sex"]
            >>> own.gap("mistaken").worst, own.gap("mistaken").words
            (1, 'shown')
        """
        o = given_options(options, REPORT_OF_PREDICTIONS)
        how, threshold, strict = Resampling.of(o), o["threshold"], o["strict"]
        reading = {name: o[name] for name in READING_OPTIONS}
        pred = as_predictions(y_true, y_score, threshold=threshold, strict=strict, **reading)
        if o["at_specificity"] is not None:
            threshold = threshold_at(pred, o["at_specificity"], threshold, strict=strict)
            pred = as_predictions(y_true, y_score, threshold=threshold, strict=strict, **reading)

        def made(pred: Predictions, title: str, true: Any, score: Any) -> FairnessReport:
            notes: list[str] = []
            sample, present = read_sample(pred, {}, len(pred), o["patients"], o["sample_weight"], notes)
            encodings = read_attributes(groups, present, o, notes)
            found = read_metrics(sample.pred or pred, o["metrics"], notes)
            own = Functions.made(found, true, score, pred, o["sample_weight"], present)
            kinds, names = KINDS | own.kinds(encodings, o["higher_is_better"]), tuple(found)
            settings = {
                "title": title,
                "task": pred.task,
                "threshold": threshold,
                "decision": "score > threshold" if strict else "score >= threshold",
                **{name: o[name] for name in ("convention", "at_specificity", "model_name")},
                **({"functions": own.origins} if own.of else {}),
            }
            judged = read_margins(o["margin"], kinds, names), read_references(o["reference"], encodings)
            sample = replace(sample, functions=own)
            return cls._of(sample, encodings, names, kinds, judged, how, settings, notes, o["convention"])

        report, lost = made(pred, o["title"], y_true, y_score), list[str]()
        if pred.task == "multilabel":
            columns = zip(pred.classes, as_array(y_true, "y_true").T, as_array(y_score, "y_score").T, strict=True)
            for k, (name, true, score) in enumerate(columns):
                of = pred.label(k)
                if of.weights(o["sample_weight"]).any():
                    report.findings[str(name)] = made(of, f"{o['title']}: {name}", true, score)
                else:
                    lost.append(f"{name}: no label is known.")
        return replace(report, warnings=(*report.warnings, *lost))

    @classmethod
    @with_options(SAMPLE_OPTIONS | REPORT_OPTIONS, *OPTION_KINDS)
    def from_values(
        cls,
        values: Mapping[str, Any],
        groups: Any,
        *,
        higher_is_better: bool | Mapping[str, bool] = True,
        **options: Unpack[ReportOfValues],
    ) -> FairnessReport:
        """Compute the report of per-sample values: Dice or IoU of each image, a loss, an error in years.

        Args:
            values: name to (N,) numbers; NaN (a Dice of two empty masks) is left out.
            groups: as in :meth:`from_predictions`.
            higher_is_better: the direction of all values, or of each by name.
            options: by keyword.

        Returns:
            The report: group means and gaps of means.

        Raises:
            TypeError: ``values`` is no mapping, a direction is neither True nor False.
            ValueError: no values, not one number per sample, a direction of a name that is not among the values.

        Example:
            >>> dice = [0.9, 0.8, 0.7, 0.6] * 30
            >>> report = FairnessReport.from_values({"dice": dice}, ["F", "F", "M", "M"] * 30)
            >>> gap = report["group"].gap("dice")
            >>> round(gap.estimate.value, 3), gap.worst, gap.clear
            (0.2, 'M', True)
        """
        o = given_options(options, SAMPLE_OPTIONS | REPORT_OPTIONS)
        how = Resampling.of(o)
        if not isinstance(values, Mapping):
            raise TypeError(expected("values", "a mapping of names to values", type(values).__name__))
        arrays = {str(name): read_values(v, str(name)) for name, v in values.items()}
        lengths = {len(v) for v in arrays.values()}
        if len(lengths) != 1:
            raise ValueError(expected("values", "values of one length", f"lengths {sorted(lengths)}"))
        notes: list[str] = []
        sample, present = read_sample(None, arrays, lengths.pop(), o["patients"], o["sample_weight"], notes)
        encodings = read_attributes(groups, present, o, notes)
        kinds = value_kinds(sample.values, higher_is_better)
        settings = {"title": o["title"], "task": "values", "model_name": o["model_name"]}
        judged = read_margins(o["margin"], kinds, tuple(arrays)), read_references(o["reference"], encodings)
        return cls._of(sample, encodings, tuple(arrays), kinds, judged, how, settings, notes)

    @classmethod
    @with_options(FILE_OPTIONS, FileOptions, *OPTION_KINDS)
    def from_file(cls, path: str | Path, groups: str | Sequence[str], **options: Unpack[FileOptions]) -> FairnessReport:
        """Compute the report of a file of predictions; arguments that name data elsewhere name columns here.

        Args:
            path: a CSV or Parquet file with a header, packed or not; "-" is standard input.
            groups: names of the columns of attributes.
            options: by keyword.

        Returns:
            The report. ``settings`` has the file's name, its SHA-256 and what was guessed of it.

        Raises:
            ValueError: a file, column or cell that cannot be read, or in two ways; as in the other two.
            ImportError: pyarrow, which reads Parquet, is not installed.

        Example:
            >>> import tempfile
            >>> with tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False) as file:
            ...     print("y;p;sex", *["1;0,9;F", "0;0,2;M", "1;0,3;M", "0;0,1;F"] * 10, sep=chr(10), file=file)
            >>> report = FairnessReport.from_file(file.name, "sex", target="y", score="p")
            >>> report.overall["accuracy"].value, report.settings["read_as"]
            (0.75, ('separated by semicolons', 'decimal commas'))
        """
        o = given_options(options, FILE_OPTIONS)
        given: dict[str, Any] = {name: as_names(o.pop(name)) for name in ("target", "score", "values")}
        ids, weight = o.pop("patients"), o.pop("sample_weight")
        columns = FileColumns(**given, groups=as_names(groups), patients=ids, sample_weight=weight)
        columns.check()
        form = FileForm(*(o.pop(name) for name in FileForm._fields))
        labels = {name: o.pop(name) for name in ("positive", "labels", "ignore_index", "unknown", "known", "bins")}
        return cls._of_file(read_predictions(path, columns, form, **labels), **o)

    @classmethod
    def _of_file(cls, file: FilePredictions, *, higher_is_better: Any = None, **options: Any) -> FairnessReport:
        """The report of a file that has been read; options as in :meth:`from_file`."""
        options["patients"] = None if file.patients is None else file.patients.codes
        options["sample_weight"] = file.sample_weight
        if file.y_true is None:
            kept = {name: options.pop(name) for name in list(options) if name in SAMPLE_OPTIONS | REPORT_OPTIONS}
            idle = next((name for name, value in options.items() if value != FILE_OPTIONS[name]), None)
            if idle is not None:
                raise ValueError(expected(idle, "labels and scores, of which it is", "values"))
            better = True if higher_is_better is None else higher_is_better
            report = cls.from_values(file.values, file.groups, higher_is_better=better, **kept)
        else:
            options |= {"higher_is_better": higher_is_better, **file.reading}
            report = cls.from_predictions(file.y_true, file.y_score, file.groups, **options)
        for each in (report, *report.findings.values()):
            each.settings.update(source=file.name, sha256=file.sha256, read_as=file.notes)
        return report

    @classmethod
    def _of(
        cls,
        sample: Sample,
        encodings: Mapping[str, GroupEncoding],
        metrics: Sequence[str],
        kinds: Mapping[str, Kind],
        judged: tuple[Mapping[str, float], Mapping[str, Any]],
        how: Resampling,
        settings: dict[str, Any],
        notes: list[str],
        convention: Convention = "standard",
    ) -> FairnessReport:
        """The report of the sample, with the same draws for every attribute."""
        everyone = GroupEncoding(np.zeros(len(sample), dtype=np.int64), EVERYONE)
        (margins, references), functions = judged, len(sample.functions.of)
        costs = sum(cost_of(e.ids, functions) for e in (everyone, *encodings.values()))
        progress = Progress(how.num_replicates * costs, shown=how.progress)

        def drawn(encoding: GroupEncoding, names: Sequence[str]) -> dict[str, Draws]:
            cost = cost_of(encoding.ids, functions)
            return bootstrap_groups(
                sample,
                np.maximum(encoding.ids, -1),
                encoding.num_groups,
                metrics=metrics,
                num_replicates=how.num_replicates,
                rng=np.random.default_rng(how.seed),
                convention=convention,
                names=names,
                advance=lambda replicates: progress.advance(replicates * cost),
            )

        overall = overall_estimates(drawn(everyone, EVERYONE), sample, how, kinds)
        reports = []
        for name, e in encodings.items():
            draws, reference = drawn(e, group_names(name, e)), references.get(name)
            reports.append(attribute_report(name, e, draws, sample, how, notes, kinds, margins, reference))
        progress.close()
        settings |= {"samples": len(sample), "patients": sample.patients, "weighted": sample.weighted}
        settings |= {"effective": float(sample.effective(everyone.ids, 1)[0])}
        settings |= {name.removeprefix("num_"): v for name, v in how._asdict().items() if name != "progress"}
        settings |= {"margins": dict(margins)}
        settings |= {"version": __version__, "date": date.today().isoformat()}
        return cls(overall, tuple(reports), tuple(notes), settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists that JSON can hold; None stands for an undefined value."""
        return findings.to_dict(self)

    def to_frame(self) -> Any:
        """One row a value: attribute, kind (overall, group or gap), name, metric, value, interval, counts (pandas)."""
        return findings.to_frame(self)

    def to_markdown(self) -> str:
        """Tables of groups and of gaps for each attribute."""
        return findings.to_markdown(self)

    def to_model_card(self) -> str:
        """A Markdown section for a model card or paper: performance in subgroups with intervals (TRIPOD+AI, item 23a)."""
        return as_model_card(self)

    def breaches(
        self, *, max_gap: Mapping[str, float] | None = None, minimum: Mapping[str, float] | None = None
    ) -> list[Breach]:
        """What is beyond limits, for continuous integration; ``str`` of each is a line that says whether it is shown.

        Args:
            max_gap: metric, or ``"equalized_odds"``, to the largest gap over any attribute; of several findings over each.
            minimum: metric ("sensitivity" is a name, too) to the lowest value of any group that is large enough to judge.

        Returns:
            One entry per gap and group beyond its limit, and per limit that nothing can be held against.
        """
        return find_breaches(self, max_gap or {}, minimum or {})

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained page with plots (matplotlib); written to ``path`` where one is given."""
        from fairloss.report.page import as_html

        page = findings.page_of_all(self, as_html)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def plot(self, attribute: str | None = None, *, metrics: Sequence[str] | None = None) -> Any:
        """A figure (matplotlib) of the groups' values and intervals; of the first attribute by default."""
        from fairloss.report.plots import plot_groups

        return plot_groups(self, attribute=attribute, metrics=metrics)
