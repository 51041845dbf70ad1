"""The kernels on a GPU: checked against float64, then timed beside eager code, rivals and the card's own ceilings.

python benchmarks/gpu.py --out FILE                 every part in a process of its own, each with a time limit
python benchmarks/gpu.py --out FILE --only PART     one part, in this process
python benchmarks/gpu.py --table FILE               what a results file says, as tables
python benchmarks/gpu.py --decide FILE              fairloss/ops/measured.py anew: where "auto" takes the kernels

A row is a JSON line, appended and flushed, so that what was measured survives whatever fails later. A variant whose output
differs from float64, or holds memory that nobody wrote, has no time. Needs torch and Triton; rivals where they are installed.
benchmarks/gpu.sh is the whole run, tests included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_measure import BUDGET_S, Rows, read

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "fairloss" / "ops" / "measured.py"


def run_part(part: str, out: Path) -> None:
    import torch

    from benchmarks.gpu_parts import PARTS

    torch.manual_seed(0)
    PARTS[part](Rows(part, out))


def run_all(out: Path, parts: list[str]) -> list[str]:
    """Each part in a process of its own; the names of those that failed."""
    failed = []
    for part in parts:
        command = [sys.executable, __file__, "--out", str(out), "--only", part]
        print(f"== {part}", flush=True)
        try:
            code: Any = subprocess.run(command, timeout=BUDGET_S + 3).returncode
        except subprocess.TimeoutExpired:
            code = "out of time"
        if code:
            failed.append(part)
            print(f"PART FAILED {part}: {code}", flush=True)
    return failed


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a table per part."""
    lines: list[str] = []
    part = None
    for row in rows:
        if row["part"] != part:
            part = row["part"]
            lines += [
                "",
                f"### {part} ({row['device']}, torch {row['torch']}, Triton {row['triton']}, {row['date']})",
                "",
            ]
            lines += [
                "| op | size | dtype | variant | ms | graph ms | peak MB | launches | of copy | TFLOP/s | error | bits |"
            ]
            lines += ["|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---|"]
        lines.append("| " + " | ".join(_cells(row)) + " |")
    return "\n".join(lines[1:])


def _cells(row: dict[str, Any]) -> list[str]:
    def number(key: str, scale: float = 1.0) -> str:
        return f"{row[key] / scale:.3g}" if key in row else ""

    size = ", ".join(f"{k} {v}" for k, v in row["sizes"].items())
    said = next((f"**{kind}**: {row[kind]}" for kind in ("wrong", "failed", "left_out") if kind in row), number("ms"))
    bits = {None: "", True: "equal", False: "differ"}[row.get("bits_equal")]
    errors = f"{max(row['errors']):.1e}" if row.get("errors") else ""
    copy = f"{row['share_of_copy']:.0%}" if "share_of_copy" in row else ""
    return [
        row["op"], size, row["dtype"], row["variant"], said, number("graph_ms"), number("peak_bytes", 1e6), number("launches"),
        copy, number("flops_per_s", 1e12), errors, bits,
    ]  # fmt: skip


def crossovers(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], int]:
    """(architecture, op, dtype) -> smallest measured size from which on the kernel was never slower than eager code.

    A kernel that was wrong or failed at any size is in no entry.
    """
    times: dict[tuple[str, str, str], dict[int, dict[str, float]]] = {}
    unfit = set()
    for row in rows:
        if row["small"] or row["variant"] not in ("kernel", "eager"):
            continue
        key = (row["arch"], row["op"], row["dtype"])
        if row["variant"] == "kernel" and ("wrong" in row or "failed" in row):
            unfit.add(key)
        if "ms" in row:
            times.setdefault(key, {}).setdefault(row["size"], {})[row["variant"]] = row["ms"]
    found = {}
    for key, by_size in times.items():
        both = {size: pair for size, pair in by_size.items() if len(pair) == 2}
        slower = [size for size, pair in both.items() if pair["kernel"] > pair["eager"]]
        faster = [size for size in both if size > max(slower, default=-1)]
        if faster and key not in unfit:
            found[key] = min(faster)
    return dict(sorted(found.items()))


def decided(rows: list[dict[str, Any]], text: str) -> str:
    """The text of fairloss/ops/measured.py with what the rows say."""
    name = "KERNEL_FROM: dict[tuple[str, str, str], int] = {"
    head, rest = text.split(name, 1)
    entries = [f'    ("{a}", "{op}", "{dtype}"): {size},\n' for (a, op, dtype), size in crossovers(rows).items()]
    body = "\n" + "".join(entries) if entries else ""
    return head + name + body + rest[rest.index("}") :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.jsonl")
    parser.add_argument("--only", metavar="PART")
    parser.add_argument("--table", type=Path, metavar="FILE")
    parser.add_argument("--decide", type=Path, metavar="FILE")
    options = parser.parse_args()
    import torch

    if options.table:
        print(table(read(options.table)))
    elif options.decide:
        MEASURED.write_text(decided(read(options.decide), MEASURED.read_text(encoding="utf-8")), encoding="utf-8")
    elif not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: no CUDA device was found; nothing was measured")
    elif options.only:
        run_part(options.only, options.out)
    else:
        from benchmarks.gpu_parts import PARTS

        sys.exit(bool(run_all(options.out, list(PARTS))))


if __name__ == "__main__":
    main()
