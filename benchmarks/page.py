"""BENCHMARKS.md and its pictures from the JSON files: ``python -m benchmarks.page``.

The page is a function of the files alone, so that no number on it was typed. A rival that is faster, or holds less memory,
is named in words beside the table and once more at the top.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PICTURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "img"
NAMES = (
    "fis",
    "contrastive",
    "moments",
    "parity",
    "febs",
    "cross_entropy",
    "grpo",
    "metrics",
    "gap_intervals",
    "operations",
)
ALIKE = 1.05
"""Two times closer than this are called alike."""

Results = dict[str, dict[str, Any]]


def read(folder: Path = RESULTS) -> Results:
    return {
        name: json.loads((folder / f"{name}.json").read_text()) for name in NAMES if (folder / f"{name}.json").exists()
    }


def write(folder: Path = RESULTS, pictures: Path = PICTURES, out: Path = ROOT) -> Path:
    results = read(folder)
    for name, data in results.items():
        draw(data, pictures / f"benchmark_{name}.png")
    path = out / "BENCHMARKS.md"
    path.write_text(text(results), encoding="utf-8")
    return path


def text(results: Results) -> str:
    comparisons = [c for data in results.values() for c in data["results"].get("comparisons", ())]
    parts = [INTRODUCTION, _machines(results), _summary(comparisons), _behind(comparisons)]
    for name, data in results.items():
        found = data["results"].get("comparisons", ())
        parts += [_comparison(c) for c in found]
        if found:
            parts.append(f"![Time against size]({(PICTURES / f'benchmark_{name}.png').relative_to(ROOT).as_posix()})")
        if name in EXTRAS and data["results"].get("extras"):
            parts.append(EXTRAS[name](data["results"]["extras"]))
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """# Benchmarks

What the library's operations cost beside what one would otherwise take from PyPI. `make bench` measures everything again
and writes this page from `benchmarks/results/*.json`; `python -m benchmarks NAME` measures one.

- Before anything is timed, results are compared; where two functions compute different things, the section says what differs.
- Functions run in turn in one process after a warm-up. Times are the smallest of the calls (medians are in the files).
- Memory is the most that is held beyond what was held before, counted from the allocators' events (torch's, and NumPy's where
  a function uses it).
- Slopes are fitted to log time (memory) against log size over the larger half of the sizes: 1 is linear, 2 quadratic.
- Kernels on a GPU have a benchmark of their own, `benchmarks/gpu.sh`, which needs one and has not run yet."""


def _machines(results: Results) -> str:
    blocks = [data["machine"] for data in results.values()]
    versions: dict[str, str] = {}
    for block in blocks:
        versions |= block["versions"]
    processors = sorted({f"{b['processor']}, {b['cores']} cores" for b in blocks})
    loads = [b["load_average"] for b in blocks if b.get("load_average") is not None]
    lines = [f"Measured on {' and '.join(processors)}, {_range(sorted({b['date'] for b in blocks}))}; "]
    threads = sorted({b["threads"] for b in blocks})
    lines.append(f"threads of torch: {_range(threads)} unless a table says otherwise; ")
    if loads:
        lines.append(f"load average {min(loads)} to {max(loads)} when the benchmarks ended")
        lines.append(", the process at real-time priority. " if all(b["real_time_priority"] for b in blocks) else ". ")
    lines.append(f"Python {_range(sorted({b['python'] for b in blocks}))}; ")
    lines.append(
        ", ".join(f"{name} {version}" for name, version in sorted(versions.items(), key=lambda v: v[0].lower()))
    )
    return "".join(lines) + "."


def _range(values: list[Any]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _ratios(comparison: dict[str, Any], ours: str, rival: str) -> list[float]:
    rows = comparison["rows"]
    return [
        row["seconds"][rival]["min"] / row["seconds"][ours]["min"]
        for row in rows
        if rival in row["seconds"] and ours in row["seconds"]
    ]


def _summary(comparisons: list[dict[str, Any]]) -> str:
    lines = ["## In short", "", "How many times as fast, over the sizes measured; below 1 the rival is faster.", ""]
    lines += [
        "| operation | ours | against | times as fast | memory, rival's to ours |",
        "| --- | --- | --- | --- | --- |",
    ]
    for c in comparisons:
        for ours in c["ours"]:
            for rival in c["rivals"]:
                ratios = _ratios(c, ours, rival)
                held = [
                    r["peak_bytes"][rival] / max(1, r["peak_bytes"][ours])
                    for r in c["rows"]
                    if rival in r["peak_bytes"]
                ]
                lines.append(
                    f"| {c['title']} | `{ours}` | {rival} | {_number(min(ratios))} to {_number(max(ratios))} "
                    f"| {_number(min(held))} to {_number(max(held))} |"
                )
    return "\n".join(lines)


def slower_than(comparison: dict[str, Any]) -> list[str]:
    """One sentence a rival that is faster anywhere, or holds less memory."""
    said = []
    for ours in comparison["ours"]:
        for rival in comparison["rivals"]:
            rows = [row for row in comparison["rows"] if rival in row["seconds"]]
            slow, heavy = [], []
            for row in rows:
                mine, theirs = row["seconds"][ours]["min"], row["seconds"][rival]["min"]
                if mine > ALIKE * theirs:
                    slow.append(
                        f"{_size(row['size'])} ({_number(mine / theirs)} times: {_time(mine)} against {_time(theirs)})"
                    )
                mine, theirs = row["peak_bytes"][ours], row["peak_bytes"][rival]
                if mine > ALIKE * theirs and mine - theirs > 1e6:
                    heavy.append(f"{_size(row['size'])} ({_bytes(mine)} against {_bytes(theirs)})")
            if slow:
                said.append(f"`{ours}` is slower than {rival} at {'; '.join(slow)}.")
            if heavy:
                said.append(f"`{ours}` holds more memory than {rival} at {'; '.join(heavy)}.")
    return said


def _behind(comparisons: list[dict[str, Any]]) -> str:
    lines = ["## Where a rival is faster or smaller", ""]
    found = [f"- {c['title']}: {sentence}" for c in comparisons for sentence in slower_than(c)]
    return "\n".join(lines + (found or ["Nowhere at the sizes measured."]))


def _comparison(c: dict[str, Any]) -> str:
    runs = [*c["ours"], *c["rivals"]]
    pairs = [(ours, rival) for ours in c["ours"] for rival in c["rivals"]]
    axes = list(dict.fromkeys(key for row in c["rows"] for key in row["size"]))
    lines = [f"## {c['title']}", "", c["note"], ""]
    lines += [f"- Against {rival}: {words}.{_checked(c, rival)}" for rival, words in c["rivals"].items()]
    head = [*axes, *runs, *(f"{ours}: times as fast as {rival}" for ours, rival in pairs)]
    lines += ["", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in c["rows"]:
        cells = [_plain(row["size"].get(axis, "")) for axis in axes]
        cells += [
            f"{_time(row['seconds'][run]['min'])}, {_bytes(row['peak_bytes'][run])}" if run in row["seconds"] else ""
            for run in runs
        ]
        for ours, rival in pairs:
            there = rival in row["seconds"]
            cells.append(_number(row["seconds"][rival]["min"] / row["seconds"][ours]["min"]) if there else "")
        lines.append("| " + " | ".join(cells) + " |")
    behind = slower_than(c)
    if behind:
        lines += ["", *(f"- {sentence}" for sentence in behind)]
    if c["slopes"]:
        lines += ["", "| slope along | where | of | time | memory |", "| --- | --- | --- | --- | --- |"]
        for s in c["slopes"]:
            held = "" if s["bytes"] is None else f"{s['bytes']:.2f}"
            lines.append(
                f"| {s['along']} = {_plain(s['from'])} to {_plain(s['to'])} | {s['fixed']} | {s['run']} "
                f"| {s['seconds']:.2f} | {held} |"
            )
    return "\n".join(lines)


def _checked(c: dict[str, Any], rival: str) -> str:
    found = [row["largest_difference"][rival] for row in c["rows"] if rival in row["largest_difference"]]
    return f" Largest relative difference found: {max(found):.0e}." if found else ""


def _grpo(extras: dict[str, Any]) -> str:
    rows = extras["row_by_row"]
    lines = [
        "### A step of FairGRPO, history included",
        "",
        f"{extras['prompts']} prompts of {extras['rollouts']} rollouts, {extras['domains']} domains x {extras['groups']} "
        f"groups, {extras['steps']} steps; medians over runs.",
        "",
        "| history | median step | first quarter | last quarter | slowest step | state |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in ("cumulative", "ema"):
        e = extras[name]
        times = (e["median_ms"], e["first_quarter_ms"], e["last_quarter_ms"], e["slowest_of_steps_ms"])
        lines.append(f"| {name} | {' | '.join(_time(t / 1e3) for t in times)} | {_bytes(e['state_bytes'])} |")
    lines += [
        "",
        f"The method as a reader of the paper would first write it, which gathers every row's history anew, takes "
        f"{_time(rows['row_by_row_ms'] / 1e3)} at step {rows['step']}, the module's released variant "
        f"{_time(rows['fairloss_ms'] / 1e3)} ({_number(rows['times_faster'])} times as fast); their advantages differ by "
        f"{rows['largest_difference']:.0e} at most.",
    ]
    return "\n".join(lines)


def _contrastive(extras: dict[str, Any]) -> str:
    return (
        f"At N = {_plain(extras['N'])} the resident set grows by {_bytes(extras['resident_growth_bytes'])} over one step; one "
        f"N x N matrix of float32 has {_bytes(extras['one_float32_matrix_bytes'])}."
    )


def _intervals(extras: dict[str, Any]) -> str:
    lines = [
        "## Bias and intervals of a gap",
        "",
        f"No rival, but a simulation: {extras['trials']} draws of right and wrong answers for groups of known accuracy. The "
        "max - min of estimates lies above the true gap; the report's interval is compared with the percentiles of resampled "
        "gaps, both at 95%.",
        "",
        "| groups | true gap | bias of the gap | bias, corrected | covered | covered by percentiles | width |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['groups']} | {r['true']:.2f} | {r['bias']:+.3f} | {r['bias_corrected']:+.3f} | {r['covered']:.0%} "
        f"| {r['covered_percentile']:.0%} | {r['width']:.3f} |"
        for r in extras["rows"]
    ]
    return "\n".join(lines)


def _operations(extras: dict[str, Any]) -> str:
    n, classes = extras["size"]
    lines = [
        "## Operations on a small batch",
        "",
        f"Logits ({n}, {classes}), {extras['groups']} groups: operations that PyTorch dispatches, forward + backward, without "
        "views, detachments and reads of a number. On a small batch a step costs by their number.",
        "",
        "| criterion | now | before |",
        "| --- | --- | --- |",
    ]
    for name, (forward, backward) in extras["counts"].items():
        before = extras["before"].get(name)
        then = f"{before[0]} + {before[1]} = {sum(before)}" if before else ""
        criterion, comma, what = name.partition(",")
        lines.append(f"| `{criterion}`{comma}{what} | {forward} + {backward} = {forward + backward} | {then} |")
    return "\n".join(lines)


EXTRAS = {"grpo": _grpo, "contrastive": _contrastive, "gap_intervals": _intervals, "operations": _operations}


def _size(size: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_plain(value)}" for key, value in size.items())


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _bytes(count: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def draw(data: dict[str, Any], path: Path) -> None:
    """Time against the first size of each comparison on logarithmic axes, a panel a comparison."""
    panels = [(c, points) for c in data["results"].get("comparisons", ()) for points in [_series(c)] if points]
    if not panels:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.6 * rows), squeeze=False, layout="constrained")
    for ax, (c, (axis, fixed, series)) in zip(axes.flat, panels, strict=False):
        for run, points in series.items():
            ours = run in c["ours"]
            ax.loglog(*zip(*points, strict=True), "o-" if ours else "s--", label=run, linewidth=2 if ours else 1.2)
        ax.set(xlabel=f"{axis}" + (f" ({fixed})" if fixed else ""), ylabel="seconds", title=c["title"])
        ax.title.set_fontsize(10)
        ax.grid(alpha=0.3, which="both")
        ax.legend(fontsize=8)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _series(c: dict[str, Any]) -> tuple[str, str, dict[str, list[tuple[float, float]]]] | None:
    """The first axis that a slope was fitted along, and every run's times along it."""
    if not c["slopes"]:
        return None
    axis, fixed = c["slopes"][0]["along"], c["slopes"][0]["fixed"]
    series: dict[str, list[tuple[float, float]]] = {}
    for row in c["rows"]:
        rest = ", ".join(f"{key}={value}" for key, value in row["size"].items() if key != axis)
        if rest == fixed:
            for run, t in row["seconds"].items():
                series.setdefault(run, []).append((row["size"][axis], t["min"]))
    return axis, fixed, {run: sorted(points) for run, points in series.items()}


if __name__ == "__main__":
    print("written to", write())
