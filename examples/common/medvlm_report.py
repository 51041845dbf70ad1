"""Tables, sentences, pictures and the results file of the FairMed-VLM example."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import intervals, medvlm_eval, plots, toolkit
from .medvlm_data import Cohort
from .medvlm_train import TERMS

Results = dict[str, dict[str, intervals.Estimate]]

# The paper's own figures on OL3I: accuracy and demographic parity gap in percent (tables 2 and 4).
PAPER = {
    "Full": (78.5, 5.0), "No prompts": (77.6, 6.5), "No fairness loss": (76.1, 9.8), "No balancing": (74.9, 10.3),
    "No contrastive": (73.9, 11.2), "Vanilla": (73.6, 13.1), "Reweighted": (74.2, 11.8), "Adversarial": (75.1, 10.2),
    "Thresholds after": (73.8, 9.7),
}  # fmt: skip


def report(args: argparse.Namespace, test: Cohort, runs: dict[str, list[dict[str, Any]]]) -> Results:
    """Print and write everything; returns the estimates by arm."""
    boots = medvlm_eval.Bootstraps(test, 200 if args.tiny else 1000)
    results: Results = {}
    for name, found in runs.items():
        answers = [run["test"] for run in found]
        findings = None if found[0]["findings"] is None else np.stack([run["findings"] for run in found])
        probability = None if findings is None else medvlm_eval.stack(answers, "probability")
        results[name] = boots.figures(medvlm_eval.stack(answers, "closed"), probability, findings)
        if findings is not None:
            results[name]["macro_f1 generated"] = medvlm_eval.macro_f1(
                boots.by[boots.joint], test.findings, medvlm_eval.stack(answers, "open")
            )
    attributes = list(boots.by)
    gaps = [f"gap_positive_rate {name}" for name in attributes]
    metrics = ["accuracy", "auc", *gaps, "worst_accuracy"]
    header = ["arm", "accuracy", "AUC", *(f"parity gap, {name}" for name in attributes), "worst stratum's accuracy"]
    rows = table(results, metrics)
    source = args.data_dir or "rendered photographs"
    title = (
        f"{args.model or 'small LLaVA'}, {source}, {len(test)} test photographs, {args.seeds} seeds; [95 % interval]"
    )
    toolkit.print_table(title, header, rows)
    several = ["macro_f1", "macro_f1 generated", "multi_accuracy", *(f"gap_multi {name}" for name in attributes)]
    header2 = [
        "arm",
        "macro F1, thresholds",
        "macro F1, generated",
        "accuracy",
        *(f"parity gap, {n}" for n in attributes),
    ]
    rows2 = table({k: v for k, v in results.items() if "macro_f1" in v}, several)
    toolkit.print_table(f"all findings ({', '.join(test.finding_names)})", header2, rows2)
    sentences = compare(results, attributes)
    print("\n".join(sentences))
    truth = {name: b.of_values(test.label == 1, "rate")["gap_rate"].value for name, b in boots.by.items()}
    lines = [
        toolkit.markdown_table(header, rows),
        toolkit.markdown_table(header2, rows2),
        toolkit.markdown_table(*paper(results, boots.joint)),
    ]
    out = args.out / "fairmed_vlm"
    out.with_suffix(".md").write_text("\n".join([*lines, *(f"- {s}" for s in sentences)]) + "\n", encoding="utf-8")
    details = {
        name: {
            "thresholds": [run["thresholds"] for run in found], "seconds": [run["seconds"] for run in found],
            "unknown answers": medvlm_eval.unknown_share([run["test"] for run in found]), "answers": found[0]["test"].texts,
        }
        for name, found in runs.items()
    }  # fmt: skip
    toolkit.save_json(
        out.with_suffix(".json"),
        {"settings": vars(args), "results": results, "parity gap of the labels": truth, "details": details},
    )
    picture(out.with_suffix(".png"), results, attributes, boots.joint)
    most = max(runs, key=lambda name: len({k for row in runs[name][0]["log"] for k, v in row.items() if v}))
    draw_terms(args.out / "fairmed_vlm_terms.png", runs[most][0]["log"], most)
    print(f"picture: {out}.png   tables: {out}.md   numbers: {out}.json   every step's terms: {args.out / 'terms'}")
    return results


def table(results: Mapping[str, Mapping[str, intervals.Estimate]], metrics: Sequence[str]) -> list[list[Any]]:
    return [[name, *(found.get(m, "") for m in metrics)] for name, found in results.items()]


def paper(results: Results, joint: str) -> tuple[list[str], list[list[Any]]]:
    """Ours beside the paper's table 2 and 4, in percent."""
    rows = []
    for name, found in results.items():
        ours = [100 * found[k].value for k in ("accuracy", f"gap_positive_rate {joint}")]
        printed = PAPER.get(name)
        rows.append([name, *(f"{v:.1f}" for v in ours), *((f"{v:.1f}" for v in printed) if printed else ("", ""))])
    return ["arm", "accuracy here", "parity gap here", "accuracy, paper", "parity gap, paper"], rows


def compare(results: Results, attributes: Sequence[str]) -> list[str]:
    """Every arm against Vanilla, then the full method against every arm that lacks a part of it."""
    metrics = ["accuracy", *(f"gap_positive_rate {name}" for name in attributes)]
    sentences = []
    for baseline in ("Vanilla", "Full"):
        if baseline in results:
            kept = {k: v for k, v in results.items() if baseline == "Vanilla" or k.startswith(("No ", "Full"))}
            for metric in metrics:
                sentences += intervals.compare(kept, metric, baseline=baseline)
    return sentences


def picture(path: Any, results: Results, attributes: Sequence[str], joint: str) -> None:
    """Parity gaps of every attribute, and accuracy against the gap between strata."""
    fig, (left, right) = plots.figure(max(12.0, 1.1 * len(results) + 7), 5.2, columns=2)
    names, width = list(results), 0.8 / len(attributes)
    for k, attribute in enumerate(attributes):
        found = [results[name][f"gap_positive_rate {attribute}"] for name in names]
        value, low, high = (np.array([getattr(e, part) for e in found]) for part in ("value", "low", "high"))
        at = np.arange(len(names)) + (k - (len(attributes) - 1) / 2) * width
        left.bar(at, value, width * 0.92, color=plots.COLOURS[k], label=attribute)
        whiskers = np.stack([value - low, high - value])
        left.errorbar(at, value, yerr=whiskers, fmt="none", ecolor="#222222", elinewidth=1.1, capsize=2)
    left.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    left.set_ylabel("demographic parity gap")
    left.grid(axis="x", visible=False)
    left.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(attributes), borderaxespad=0.2)
    for i, (name, found) in enumerate(results.items()):
        x, y = found[f"gap_positive_rate {joint}"], found["accuracy"]
        right.errorbar(
            x.value, y.value, xerr=np.array([[x.value - x.low], [x.high - x.value]]),
            yerr=np.array([[y.value - y.low], [y.high - y.value]]), fmt=plots.MARKERS[i % len(plots.MARKERS)],
            color=plots.COLOURS[i % len(plots.COLOURS)], markersize=8, elinewidth=0.9, capsize=2, label=name,
            markerfacecolor="none" if i >= len(plots.COLOURS) else None,
        )  # fmt: skip
    right.set_xlabel(f"demographic parity gap, {joint} (left is fairer)")
    right.set_ylabel("accuracy")
    right.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    plots.save(fig, path)


def draw_terms(path: Any, log: Sequence[Mapping[str, Any]], arm: str) -> None:
    """What every term contributes to the loss of one run, step by step, averaged over ten steps."""
    fig, ax = plots.figure(9.0, 4.2)
    window = min(10, len(log))
    for colour, term in zip(plots.COLOURS, TERMS, strict=False):
        values = np.array([row[f"{term}_part"] for row in log], dtype=np.float64)
        values[values == 0] = np.nan  # not computed in this stage
        smooth = np.array([np.nanmean(v) if np.isfinite(v).any() else np.nan for v in _windows(values, window)])
        if np.isfinite(smooth).any():
            ax.plot(np.arange(len(smooth)) + window - 1, smooth, color=colour, label=term)
    stages = [row["stage"] for row in log]
    for name in dict.fromkeys(stages):
        start = stages.index(name)
        ax.axvline(start, color="#999999", linewidth=0.8)
        ax.text(start + 1, 1.0, name, transform=ax.get_xaxis_transform(), va="bottom", fontsize=9)
    ax.set_yscale("log")
    ax.set_xlabel(f"step of {arm}, first seed")
    ax.set_ylabel("contribution to the loss")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    plots.save(fig, path)


def _windows(values: np.ndarray, width: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(values, width)
