"""From a benchmark's cells to its tables, Friedman's tests over data sets, the critical-difference diagram and plain words."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairloss.metrics import friedman_nemenyi, paired_t_test
from fairloss.report import plot_critical_difference

from . import plots, toolkit
from .blocks import Cells

Floats = NDArray[np.float64]
# Key of a figure: heading as in FairMedFM's Table 2, whether higher is better, whether in percent.
CLASSIFICATION = {
    "auc": ("AUC", True), "worst": ("worst AUC", True), "gap": ("AUC gap", False), "eqodds": ("EqOdds", True),
    "ece": ("ECE gap", False), "es": ("ES-AUC", True),
}  # fmt: skip
SEGMENTATION = {
    "dsc": ("DSC", True), "worst": ("worst DSC", True), "gap": ("DSC gap", False), "std": ("DSC std", False),
    "skew": ("DSC skew", False), "es": ("ES-DSC", True),
}  # fmt: skip
SEG_METHODS = ("ERM", "FEBS", "Resampling", "InD")
UNTRAINED = "ZS"
WITHHELD = ", group withheld"
# What is tested: of a deviation, a gap and a skew of two groups one says it all.
TESTED = (CLASSIFICATION, {k: v for k, v in SEGMENTATION.items() if k not in ("std", "skew")})


def classification_keys(block: str, seed: int, args: argparse.Namespace) -> list[tuple[Any, ...]]:
    """(data set, usage, method, attribute it was trained for, seed); ERM and zero-shot know none."""
    keys: list[tuple[Any, ...]] = []
    for usage in args.usages:
        for method in ["ERM"] if usage == UNTRAINED else args.methods:
            keys += [(block, usage, method, target, seed) for target in ([""] if method == "ERM" else args.attributes)]
    return keys


def segmentation_keys(block: str, seed: int, args: argparse.Namespace) -> list[tuple[Any, ...]]:
    return [
        (block, "U-Net", method, target, seed)
        for method in SEG_METHODS
        for target in ([""] if method == "ERM" else args.seg_attributes)
    ]


def total(blocks: Sequence[Any], args: argparse.Namespace) -> int:
    one, two = len(classification_keys("", 0, args)), len(segmentation_keys("", 0, args))
    return len(blocks) * (args.seeds * one + args.seg_seeds * two)


def column(
    cells: Cells, names: Sequence[str], usage: str, method: str, attribute: str, metric: str, args: argparse.Namespace
) -> Floats:
    """(data sets,) figure of a method for an attribute, mean over seeds; NaN where it was not run."""
    target = "" if method == "ERM" else attribute
    kind = "withheld" if method.endswith(WITHHELD) else "figures"
    method = method.removesuffix(WITHHELD)

    def one(name: str, seed: int) -> float:
        key = (name, usage, method, target, seed)
        if key not in cells or attribute not in cells[key].get(kind, {}):
            return float("nan")
        return float(cells[key][kind][attribute][metric])

    seeds = args.seg_seeds if usage == "U-Net" else args.seeds
    return np.array([np.mean([one(name, seed) for seed in range(seeds)]) for name in names])


def matrix(
    cells: Cells, names: Sequence[str], runs: Sequence[tuple[str, str]], attributes: Sequence[str], metric: str,
    args: argparse.Namespace,
) -> tuple[list[str], Floats]:  # fmt: skip
    """The data sets that have all ``runs`` (usage, method) for some attribute, and (data sets, runs): one row a data set.

    Attributes are averaged within a data set, as seeds are: they judge the same photographs (and ERM's the same scores), so
    that rows of their own would count each data set several times.
    """
    # (attributes, runs, data sets)
    stack = np.array([[column(cells, names, u, m, a, metric, args) for u, m in runs] for a in attributes])
    complete = np.isfinite(stack).all(axis=1)  # (attributes, data sets)
    kept = np.flatnonzero(complete.any(axis=0))
    rows = [stack[complete[:, i], :, i].mean(axis=0) for i in kept]
    return [names[i] for i in kept], np.array(rows).reshape(len(kept), len(runs))


def test(table: Floats, methods: Sequence[str], higher: bool) -> Any:
    """Friedman's and Nemenyi's tests, or None where there are too few data sets or methods."""
    if len(table) < 2 or len(methods) < 3:
        return None
    return friedman_nemenyi(table, higher_is_better=higher, names=methods)


def families(
    cells: Cells, names: Sequence[str], attributes: Sequence[str], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Tests by family of methods and figure: the methods of each usage, the usages under ERM, the U-Net's methods."""
    runs = {usage: [(usage, m) for m in args.methods] for usage in args.usages if usage != UNTRAINED}
    runs["U-Net"] = [("U-Net", m) for m in SEG_METHODS]
    if len(args.usages) > 2:
        runs["usages, ERM"] = [(usage, "ERM") for usage in args.usages]
    found: dict[str, dict[str, Any]] = {}
    for family, members in runs.items():
        labels = args.usages if family == "usages, ERM" else [m for _, m in members]
        found[family] = {}
        for metric, (_, up) in TESTED[family == "U-Net"].items():
            result = test(matrix(cells, names, members, attributes, metric, args)[1], labels, up)
            if result is not None:
                found[family][metric] = result
    return {family: tests for family, tests in found.items() if tests}


def verdict(result: Any) -> str:
    """What a test says, in words."""
    if not result.significant:
        return "nothing"
    pairs = [(name, result.better_than(name)) for name in result.names]
    told = [f"{name} over {' and '.join(worse)}" for name, worse in pairs if worse]
    return "; ".join(told) or "ranks differ, no pair by Nemenyi"


def test_rows(found: dict[str, dict[str, Any]]) -> list[list[Any]]:
    rows = []
    for family, tests in found.items():
        headings = SEGMENTATION if family == "U-Net" else CLASSIFICATION
        for metric, result in tests.items():
            ranks = ", ".join(f"{n} {r:.2f}" for n, r in zip(result.names, result.mean_ranks, strict=True))
            rows.append(
                    [f"{family}: {headings[metric][0]}", len(result.ranks), ranks, f"{result.p_value:.3g}",
                     f"{result.f_p_value:.3g}", f"{result.critical_difference:.2f}", verdict(result)]
                )  # fmt: skip
    return rows


def attribute_rows(
    cells: Cells, names: Sequence[str], usages: Sequence[str], attribute: str, args: argparse.Namespace
) -> list[list[Any]]:
    """FairMedFM's Table 2 for one attribute: means over data sets, in percent; and ES against ERM's with its interval."""
    rows = []
    for usage in usages:
        metrics = SEGMENTATION if usage == "U-Net" else CLASSIFICATION
        methods = list(SEG_METHODS if usage == "U-Net" else ["ERM"] if usage == UNTRAINED else args.methods)
        if "InD" in methods and usage != "U-Net":
            methods.append("InD" + WITHHELD)
        erm = column(cells, names, usage, "ERM", attribute, "es", args)
        for method in methods:
            values = {m: column(cells, names, usage, method, attribute, m, args) for m in metrics}
            there = np.isfinite(values["es"])
            if not there.any():
                continue
            percent = [f"{v[there].mean() * (1 if m == 'skew' else 100):.2f}" for m, v in values.items()]
            name = usage if usage == UNTRAINED else f"{usage} + {method}"
            rows.append([name, *percent, difference(values["es"][there], erm[there]) if method != "ERM" else ""])
    return rows


def difference(a: Floats, b: Floats) -> str:
    """Mean over data sets of a - b in points, with the paired t interval over data sets."""
    if len(a) < 2:
        return f"{100 * float((a - b).mean()):+.2f}"
    found = paired_t_test(a, b)
    low, high = found.interval
    return f"{100 * found.difference:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def report(cells: Cells, names: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """Print and write tables, tests, words and pictures; returns what the JSON file holds."""
    parts = []
    for usages, metrics, attributes in (
        (args.usages, CLASSIFICATION, args.attributes),
        (["U-Net"], SEGMENTATION, args.seg_attributes),
    ):
        header = ["", *(heading for heading, _ in metrics.values()), "ES against ERM"]
        for attribute in attributes:
            rows = attribute_rows(cells, names, usages, attribute, args)
            if rows:
                title = f"{'Segmentation, by' if metrics is SEGMENTATION else 'By'} {attribute}"
                toolkit.print_table(f"{title}: means over {len(names)} data sets, in percent", header, rows)
                parts.append(f"### {title}\n\n{toolkit.markdown_table(header, rows)}")
    header = ["family: figure", "data sets", "mean ranks", "p (chi2)", "p (F)", "CD", "what Nemenyi tells apart"]
    scopes = {"all attributes": args.attributes, **{a: [a] for a in args.attributes}}
    found = {scope: families(cells, names, attributes, args) for scope, attributes in scopes.items()}
    for scope, tests in found.items():
        rows = test_rows(tests)
        if rows and scope in list(scopes)[:2]:  # the other attributes' are in the JSON file
            title = f"Tests over data sets, {scope if len(scopes[scope]) == 1 else 'mean of the attributes'}"
            toolkit.print_table(title, header, rows)
            parts.append(f"### {title}\n\n{toolkit.markdown_table(header, rows)}")
    if not any(found.values()):
        print("Friedman's test needs two data sets and three methods at least; there are fewer")
    (args.out / "fairmedfm.md").write_text("\n".join(parts), encoding="utf-8")
    diagrams(args.out / "fairmedfm_cd.png", found["all attributes"])
    differences(args.out / "fairmedfm_gaps.png", cells, names, args)
    summary = {
        "settings": vars(args),
        "tests": {
            scope: {family: {m: summary_of(r) for m, r in tests.items()} for family, tests in families.items()}
            for scope, families in found.items()
        },
        "cells": [{"key": list(key), **value} for key, value in cells.found.items()],
    }
    toolkit.save_json(args.out / "fairmedfm.json", summary)
    print(f"tables: {args.out / 'fairmedfm.md'}   pictures: {args.out}/fairmedfm_cd.png, {args.out}/fairmedfm_gaps.png")
    return summary


def summary_of(result: Any) -> dict[str, Any]:
    return {
        "names": list(result.names), "mean_ranks": result.mean_ranks, "blocks": len(result.ranks),
        "chi2": result.statistic, "p": result.p_value, "f": result.f_statistic, "f_p": result.f_p_value,
        "critical_difference": result.critical_difference, "verdict": verdict(result),
    }  # fmt: skip


def diagrams(path: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """The critical-difference diagrams of overall value, gap and ES in one picture, a line for every family."""
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    shown = [(f, m) for f in found for m in ("dsc" if f == "U-Net" else "auc", "gap", "es") if m in found[f]]
    if not shown:
        return
    fig, axes = plots.figure(16.5, 2.1 * (len(shown) // 3), columns=3, rows=len(shown) // 3)
    for ax, (family, metric) in zip(np.ravel(axes), shown, strict=True):
        heading = TESTED[family == "U-Net"][metric][0]
        drawn = plot_critical_difference(found[family][metric], title=f"{family}: {heading}")
        drawn.set_dpi(200)
        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
        ax.imshow(np.asarray(canvas.buffer_rgba()))
        ax.set_axis_off()
        plt.close(drawn)
    plots.save(fig, path, dpi=110)


def differences(path: Path, cells: Cells, names: Sequence[str], args: argparse.Namespace) -> None:
    """Every data set's AUC gap against ERM's, a column for every attribute; the bar is the mean."""
    usages = [u for u in args.usages if u != UNTRAINED]
    rows = [(u, m) for u in usages for m in args.methods if m != "ERM"]
    if not rows:
        return
    count = len(args.attributes)
    fig, axes = plots.figure(4.4 * count + 1.5, 0.33 * len(rows) + 1.3, columns=count)
    for ax, attribute in zip(np.ravel(axes), args.attributes, strict=True):
        for y, (usage, method) in enumerate(rows):
            values = [column(cells, names, usage, m, attribute, "gap", args) for m in (method, "ERM")]
            delta = 100 * (values[0] - values[1])[np.isfinite(values[0])]
            ax.plot(
                delta, np.full(len(delta), y), "o", color=plots.COLOURS[usages.index(usage)], alpha=0.45, markersize=5
            )
            if len(delta):
                ax.plot([delta.mean()], [y], "|", color="black", markersize=16, markeredgewidth=2)
        ax.axvline(0, color="#666666", linewidth=1)
        first = ax is np.ravel(axes)[0]
        ax.set_yticks(range(len(rows)), [f"{u} + {m}" if first else "" for u, m in rows])
        ax.invert_yaxis()
        ax.set_title(f"by {attribute}")
        ax.set_xlabel("AUC gap minus ERM's, points (left is fairer)")
    plots.save(fig, path)
