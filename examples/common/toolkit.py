"""Arguments, seeds, devices, progress bars, tables and result files: the same in every example."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from .intervals import Estimate

T = TypeVar("T")

AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def argument_parser(
    description: str | None, *, name: str, seeds: int = 5, data_dir: str | None = None
) -> argparse.ArgumentParser:
    """Parser with the options that every example knows; an example adds its own with ``add_argument``.

    Args:
        description: what ``--help`` says first; the example's ``__doc__``.
        name: names the folder of the results, ``out/NAME``.
        seeds: default of ``--seeds``.
        data_dir: help text of ``--data-dir``, which is offered only if this is given.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=_positive, default=seeds, metavar="N", help=f"number of seeds ({seeds})")
    parser.add_argument(
        "--out", type=Path, default=Path("out") / name, metavar="DIR", help=f"folder of the results (out/{name})"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    parser.add_argument("--amp", choices=list(AMP), default="none", help="autocast to this dtype (none)")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds that only shows that all of it works")
    if data_dir is not None:
        parser.add_argument("--data-dir", type=Path, metavar="DIR", help=data_dir)
    return parser


def prepare(args: argparse.Namespace) -> torch.device:
    """Make the folder of the results and return the device; says so at once where the device is not there."""
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {args.device}: this PyTorch sees no CUDA device; use --device cpu")
    if args.amp == "fp16" and device.type == "cpu":
        raise SystemExit("--amp fp16 needs --device cuda; on the CPU use bf16")
    args.out.mkdir(parents=True, exist_ok=True)
    return device


def autocast(args: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """The autocast context that ``--amp`` asks for."""
    dtype = AMP[args.amp]
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(args.device).type, dtype=dtype)


def seed_everything(seed: int) -> np.random.Generator:
    """Seed Python, NumPy's old interface and PyTorch; returns a NumPy generator for the example's own draws."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries that an example calls may still draw from it)
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def progress(steps: Iterable[T] | None, description: str, *, total: int | None = None) -> Any:
    """A progress bar around ``steps`` (or None and ``total``, advanced by ``.update()``); rare lines in a log file."""
    from tqdm import tqdm

    live = sys.stderr.isatty()
    quiet = "PYTEST_CURRENT_TEST" in os.environ
    return tqdm(
        steps, desc=description, total=total, disable=quiet, dynamic_ncols=True, mininterval=0.2 if live else 20.0
    )


def cell(value: Any, digits: int = 3) -> str:
    """Text of one table cell: an estimate with its interval, a number with ``digits`` decimals, or as it is."""
    if isinstance(value, Estimate):
        return value.text(digits)
    if isinstance(value, float | np.floating):
        return f"{value:.{digits}f}"
    return str(value)


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]], *, digits: int = 3) -> None:
    """Print a table in the terminal; the first column is text, the others are right-aligned."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for i, name in enumerate(header):
        table.add_column(escape(name), justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(escape(cell(v, digits)) for v in row))
    # Beside a log file or a pipe, rich would fold the table into 80 columns.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]], *, digits: int = 3) -> str:
    """The same table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "| :-- " + "| --: " * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(cell(v, digits) for v in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def result_rows(results: Mapping[str, Mapping[str, Estimate]], metrics: Sequence[str]) -> list[list[str | Estimate]]:
    """One row a method: its name and the estimates of ``metrics``, for ``print_table`` and ``markdown_table``."""
    return [[method, *(estimates[m] for m in metrics)] for method, estimates in results.items()]


def save_json(path: Path, content: Any) -> None:
    """Write results as JSON; estimates become value, low, high and the value of every seed."""
    path.write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")


def digest(settings: Mapping[str, Any]) -> str:
    """Twelve characters that name these settings: results made with others get another file."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.as_dict()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return value
