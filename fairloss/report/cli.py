"""The command line: ``fairloss report`` and ``fairloss compare`` on files of predictions.

Wrong input ends with exit code 2 and one line that says what is wrong and where. Everything heavy is imported after the
arguments are read, so that the help appears at once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairloss.core.extras import require
from fairloss.report.cli_options import (
    add_input_options,
    comma_list,
    file_columns,
    label_options,
    limit_list,
    margin_of,
    references_of,
)
from fairloss.report.file_bytes import InputError

if TYPE_CHECKING:
    from fairloss.metrics.per_group import Metric
    from fairloss.report.prediction_files import FilePredictions
    from fairloss.report.results import ModelComparison

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code: 0, 1 where the report is beyond a limit, or 2 for wrong input.
    """
    for stream in (sys.stdout, sys.stderr):
        # A label that the terminal cannot write is no reason to stop; other ways to write it are the user's choice.
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda text, *_: print(f"fairloss: warning: {text}", file=sys.stderr)
            return int(arguments.run(arguments) or 0)
    except (InputError, ImportError) as error:
        print(f"fairloss: error: {_with_flags(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"fairloss: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fairloss", description="Group fairness of a model, from a table of its predictions."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    report = commands.add_parser(
        "report",
        help="fairness of one file of predictions",
        description="Every metric in every group, and every gap, with bootstrap intervals.",
        epilog="example: fairloss report predictions.csv --target y --score p --group sex --group age --html out.html",
    )
    report.add_argument(
        "file", type=Path, help="CSV or Parquet file with a header, a row per sample; - is standard input"
    )
    add_input_options(report)
    report.add_argument(
        "--value",
        type=comma_list,
        action="extend",
        default=[],
        metavar="COLUMN",
        help="per-sample values (Dice, an error) in place of --target and --score; repeatable",
    )
    report.add_argument(
        "--lower-is-better",
        type=comma_list,
        action="extend",
        default=[],
        metavar="COLUMN",
        help="of the values: repeatable",
    )
    report.add_argument("--title", default="Fairness report", help="title of the report")
    report.add_argument("--no-intersections", action="store_true", help="leave out combinations of attributes")
    report.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page with plots")
    report.add_argument("--model-card", type=Path, metavar="FILE", help="write the Markdown section of a model card")
    report.add_argument("--model-name", default="", metavar="NAME", help="of the model, for the record")
    limits: dict[str, Any] = {"type": limit_list, "action": "extend", "default": [], "metavar": "METRIC=NUMBER"}
    report.add_argument("--margin", **limits, help="largest gap of no concern: tpr=.02, or .05 for all (default .05)")
    report.add_argument(
        "--reference", action="append", default=[], metavar="COLUMN=LABEL", help="group that others are compared with"
    )
    report.add_argument("--within", metavar="COLUMN", help="compare groups within each value of this group column, too")
    report.add_argument(
        "--at-specificity", type=float, metavar="SHARE", help="threshold at which so many negatives are called negative"
    )
    report.add_argument("--max-gap", **limits, help="exit 1 where a gap is larger: tpr=.05; repeatable")
    report.add_argument("--min", **limits, help="exit 1 where a group's value is lower: sensitivity=.8; repeatable")
    report.set_defaults(run=_report)
    compare = commands.add_parser(
        "compare",
        help="several models on the same samples",
        description="Gaps of several models on the same samples, and whether they differ from the first model's.",
        epilog="example: fairloss compare base.csv fair.csv --target y --score p --group sex",
    )
    compare.add_argument("file", type=Path, nargs="+", help="files, one per model, rows in the same order (or --id)")
    add_input_options(compare)
    compare.add_argument("--id", metavar="COLUMN", help="match rows by this column instead of their order")
    compare.add_argument(
        "--metric", action="append", metavar="NAME", help="repeatable; accuracy, auc (of scores), tpr, fpr by default"
    )
    compare.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the first metric against its gap (png, svg, pdf)"
    )
    compare.set_defaults(run=_compare)
    return parser


def _with_flags(message: str) -> str:
    """The message with the command line's names of the options that it offers."""
    message = message.replace("logits=True", "--logits")
    names = "positive|threshold|labels|separator|decimal|encoding|ignore_index"

    def flag(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')}{' ' * bool(found[2])}{found[2]}"

    return re.sub(rf"\b({names})=(?!=)([^\s;,)]?)", flag, message)


@contextmanager
def _wrong_input() -> Iterator[None]:
    """What the library refuses is wrong input of the command."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from None


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("threshold", "level", "min_group_size", "seed", "logits")
    return {
        "num_replicates": arguments.replicates,
        "progress": True,
        **{name: getattr(arguments, name) for name in names},
    }


def _read(path: Path, arguments: argparse.Namespace) -> FilePredictions:
    from fairloss.report.prediction_files import FileForm, read_predictions

    labels = {"positive": arguments.positive, "labels": arguments.labels, "ignore_index": arguments.ignore_index}
    form = FileForm(arguments.separator, arguments.decimal, arguments.encoding)
    return read_predictions(path, file_columns(arguments), form, **labels, **label_options(arguments))


def _report(arguments: argparse.Namespace) -> int:
    _can_write(arguments.html, arguments.json, arguments.model_card)
    file = _read(arguments.file, arguments)
    if arguments.html is not None:
        require("matplotlib")  # before any work
    from fairloss.report.prediction_files import unknown_lines
    from fairloss.report.report import FairnessReport
    from fairloss.report.terminal import print_report

    with _wrong_input():
        report = FairnessReport._of_file(
            file,
            higher_is_better=dict.fromkeys(arguments.lower_is_better, False),
            intersections=not arguments.no_intersections,
            title=arguments.title,
            model_name=arguments.model_name,
            margin=margin_of(arguments.margin),
            reference=references_of(arguments.reference),
            within=arguments.within,
            at_specificity=arguments.at_specificity,
            **_settings(arguments),
        )
        breaches = report.breaches(max_gap=dict(arguments.max_gap), minimum=dict(arguments.min))
    # Files first: who reads the table through `head` closes the pipe on what comes after.
    if arguments.json is not None:
        _write_json(arguments.json, report.to_dict())
    if arguments.html is not None:
        report.to_html(arguments.html)
    if arguments.model_card is not None:
        arguments.model_card.write_text(report.to_model_card(), encoding="utf-8")
    print_report(report)
    for line in unknown_lines(file.groups):
        print(line)
    for path in filter(None, (arguments.html, arguments.model_card)):
        print(f"wrote {path}")
    for breach in breaches:
        print(f"fairloss: breach: {breach}", file=sys.stderr)
    return int(bool(breaches))


def _compare(arguments: argparse.Namespace) -> None:
    if len(arguments.file) < 2:
        raise InputError("at least two files are needed to compare")
    plot = _with_suffix(arguments.plot)
    _can_write(arguments.json, plot)
    names = [path.stem for path in arguments.file]
    if len(set(names)) < len(names):
        names = [str(path) for path in arguments.file]
    if len(set(names)) < len(names):
        raise InputError("a file is given twice")
    from fairloss.report.prediction_files import check_same_samples, match_rows, unknown_lines

    files = [_read(path, arguments) for path in arguments.file]
    first = files[0]
    for k, file in enumerate(files[1:], start=1):
        files[k] = file if arguments.id is None else match_rows(file, first, arguments.id)
        check_same_samples(files[k], first, file_columns(arguments))
    if plot is not None:
        require("matplotlib")
    from fairloss.metrics.per_group import UndefinedGroupWarning
    from fairloss.report.compare import compare_models, pareto_front
    from fairloss.report.terminal import print_comparison

    with _wrong_input(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedGroupWarning)  # printed below
        found = {
            attribute: compare_models(
                first.y_true,
                {name: file.y_score for name, file in zip(names, files, strict=True)},
                {attribute: labels},
                metrics=arguments.metric,
                patients=None if first.patients is None else first.patients.codes,
                sample_weight=first.sample_weight,
                **first.reading,
                **_settings(arguments),
            )
            for attribute, labels in first.groups.items()
        }
    metrics: tuple[Any, ...] = tuple(next(iter(found.values()))[0].gaps)
    front = {a: pareto_front(*_axes(models, metrics[0])[:2]) for a, models in found.items()}
    if plot is not None:
        attribute = next(iter(found))
        drawn = [m for m in found[attribute] if not math.isnan(m.gaps[metrics[0]][0] + m.overall[metrics[0]])]
        if not drawn:
            raise InputError(f"{plot}: over {attribute} no model has a gap in {metrics[0]} to draw")
    if arguments.json is not None:  # files first, as in _report
        from dataclasses import asdict

        _write_json(arguments.json, {a: [asdict(m) for m in models] for a, models in found.items()})
    if plot is not None:
        from fairloss.report.plots import plot_pareto

        performance, disparity, name = _axes(drawn, metrics[0])
        figure = plot_pareto(
            performance,
            disparity,
            [m.name for m in drawn],
            performance_label=name,
            disparity_label=f"{metrics[0]} gap over {attribute}",
        )
        try:
            figure.savefig(plot)
        except ValueError as error:
            raise InputError(f"{plot}: {error}") from None
    print_comparison(found, metrics, front)
    for line in [*(line for file in files for line in file.said), *unknown_lines(first.groups), *_warnings(found)]:
        print(line)
    if plot is not None:
        print(f"wrote {plot}")


def _axes(models: Sequence[ModelComparison], metric: Metric) -> tuple[list[float], list[float], str]:
    """Performance (larger is better), gaps, and what the performance is."""
    from fairloss.metrics.per_group import METRICS

    values, gaps = [m.overall[metric] for m in models], [m.gaps[metric][0] for m in models]
    if METRICS[metric]:
        return values, gaps, metric
    if metric == "bce":  # has no upper end
        return [-v for v in values], gaps, f"minus {metric}"
    return [1 - v for v in values], gaps, f"1 - {metric}"


def _warnings(found: Mapping[str, Sequence[ModelComparison]]) -> list[str]:
    """Each warning once, with the models that it concerns where it does not concern all."""
    lines = []
    for models in found.values():
        concerned: dict[str, list[str]] = {}
        for model in models:
            for warning in model.warnings:
                concerned.setdefault(warning, []).append(model.name)
        for warning, names in concerned.items():
            lines.append("Warning: " + ("" if len(names) == len(models) else f"{', '.join(names)}: ") + warning)
    return list(dict.fromkeys(lines))  # that of the scores' scale comes with every attribute


def _with_suffix(path: Path | None) -> Path | None:
    """The file that will be written: to a name without a suffix matplotlib appends one, which depends on its settings."""
    if path is None or path.is_dir() or os.path.splitext(path)[1].strip("."):
        return path
    return Path(str(path).rstrip(".") + ".png")


def _can_write(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise InputError(f"{path}: no file can be written there")


def _write_json(path: Path, content: Any) -> None:
    from fairloss.report.plain import plain_data

    path.write_text(json.dumps(plain_data(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
