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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairloss.core.extras import require
from fairloss.report.prediction_files import InputError, check_same_samples, match_rows, read_predictions, unknown_lines

if TYPE_CHECKING:
    from fairloss.metrics.per_group import Metric
    from fairloss.report.results import ModelComparison

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code: 0, or 2 for wrong input.
    """
    for stream in (sys.stdout, sys.stderr):
        # A label that the terminal cannot write is no reason to stop; other ways to write it are the user's choice.
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (InputError, ImportError) as error:
        print(f"fairloss: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"fairloss: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


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
    report.add_argument("file", type=Path, help="CSV file with a header, one row per sample")
    _shared(report)
    report.add_argument("--title", default="Fairness report", help="title of the report")
    report.add_argument("--no-intersections", action="store_true", help="leave out combinations of attributes")
    report.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page with plots")
    report.set_defaults(run=_report)
    compare = commands.add_parser(
        "compare",
        help="several models on the same samples",
        description="Gaps of several models on the same samples, and whether they differ from the first model's.",
        epilog="example: fairloss compare base.csv fair.csv --target y --score p --group sex",
    )
    compare.add_argument(
        "file", type=Path, nargs="+", help="CSV files, one per model, rows in the same order (or --id)"
    )
    _shared(compare)
    compare.add_argument("--id", metavar="COLUMN", help="match rows by this column instead of their order")
    compare.add_argument(
        "--metric", action="append", metavar="NAME", help="repeatable; accuracy, auc (of scores), tpr, fpr by default"
    )
    compare.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the first metric against its gap (png, svg, pdf)"
    )
    compare.set_defaults(run=_compare)
    return parser


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", required=True, metavar="COLUMN", help="true labels, two of them")
    parser.add_argument("--score", required=True, metavar="COLUMN", help="scores, or decisions")
    parser.add_argument("--positive", metavar="LABEL", help="the positive label, where labels are not 0 and 1")
    parser.add_argument("--logits", action="store_true", help="scores are logits, of which the sigmoid is taken")
    parser.add_argument("--ignore-index", metavar="LABEL", help="target that is not known: its rows are left out")
    parser.add_argument("--group", required=True, action="append", metavar="COLUMN", help="attribute; repeatable")
    parser.add_argument("--patient", metavar="COLUMN", help="patient ids: samples of one patient are drawn together")
    parser.add_argument(
        "--unknown",
        action="append",
        default=[],
        metavar="[COLUMN=]LABEL",
        help="group label that means unknown, as -1 and an empty cell always do; repeatable",
    )
    parser.add_argument(
        "--known",
        action="append",
        default=[],
        metavar="[COLUMN=]LABEL",
        help='group label that names a group although it looks missing, such as "NA"; repeatable',
    )
    parser.add_argument(
        "--bins",
        type=_bins,
        action="append",
        default=[],
        metavar="COLUMN=EDGES",
        help="cut a group column of numbers into bands: age=40,65; site=none takes numbers as codes; repeatable",
    )
    parser.add_argument(
        "--min-group-size", type=int, default=30, metavar="N", help="warn below N patients (default 30)"
    )
    parser.add_argument("--threshold", type=_number, default=0.5, help="a decision is score >= threshold (default 0.5)")
    parser.add_argument("--replicates", type=int, default=2000, metavar="N", help="bootstrap replicates (default 2000)")
    parser.add_argument("--level", type=_number, default=0.95, help="of the intervals (default 0.95)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number")


def _bins(text: str) -> str:
    edges = text.rpartition("=")[2]
    if "=" not in text or (edges != "none" and not all(_number(edge) < math.inf for edge in edges.split(","))):
        raise argparse.ArgumentTypeError(f"expected COLUMN=EDGES, such as age=40,65, got {text!r}")
    return text


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def _with_flags(message: str) -> str:
    """The message with the command line's names of the options that it offers."""
    message = message.replace("logits=True", "--logits").replace("ignore_index=", "--ignore-index")
    return re.sub(r"\b(positive|threshold)=", r"--\1", message)


def _settings(arguments: argparse.Namespace, table: Mapping[str, Any]) -> dict[str, Any]:
    names = ("threshold", "level", "min_group_size", "seed", "logits")
    given = {name: getattr(arguments, name) for name in names}
    return {"num_replicates": arguments.replicates, **given, **table["reading"]}


def _report(arguments: argparse.Namespace) -> None:
    _can_write(arguments.html, arguments.json)
    table = read_predictions(arguments.file, arguments)
    if arguments.html is not None:
        require("matplotlib")  # before any work
    from fairloss.report.report import FairnessReport
    from fairloss.report.terminal import print_report

    try:
        report = FairnessReport.from_predictions(
            table["target"],
            table["score"],
            table["groups"],
            patients=table["patient"],
            intersections=not arguments.no_intersections,
            title=arguments.title,
            **_settings(arguments, table),
        )
    except ValueError as error:
        raise InputError(_with_flags(str(error))) from None
    report.settings["source"] = str(arguments.file)
    # Files first: who reads the table through `head` closes the pipe on what comes after.
    if arguments.json is not None:
        _write_json(arguments.json, report.to_dict())
    if arguments.html is not None:
        report.to_html(arguments.html)
    print_report(report)
    for line in unknown_lines(table["groups"]):
        print(line)
    if arguments.html is not None:
        print(f"wrote {arguments.html}")


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
    tables = [read_predictions(path, arguments) for path in arguments.file]
    first = tables[0]
    for path, table in zip(arguments.file[1:], tables[1:], strict=True):
        if arguments.id is not None:
            match_rows(table, first, path, arguments)
        check_same_samples(table, first, path, arguments)
    if plot is not None:
        require("matplotlib")
    from fairloss.metrics.per_group import UndefinedGroupWarning
    from fairloss.report.compare import compare_models, pareto_front
    from fairloss.report.terminal import print_comparison

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedGroupWarning)  # printed below
            found = {
                attribute: compare_models(
                    first["target"],
                    {name: table["score"] for name, table in zip(names, tables, strict=True)},
                    {attribute: labels},
                    metrics=arguments.metric,
                    patients=first["patient"],
                    **_settings(arguments, first),
                )
                for attribute, labels in first["groups"].items()
            }
        metrics: tuple[Any, ...] = tuple(next(iter(found.values()))[0].gaps)
        front = {a: pareto_front(*_axes(models, metrics[0])[:2]) for a, models in found.items()}
    except ValueError as error:
        raise InputError(_with_flags(str(error))) from None
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
    for line in [*unknown_lines(first["groups"]), *_warnings(found)]:
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
    from fairloss.report.tables import plain_data

    path.write_text(json.dumps(plain_data(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
