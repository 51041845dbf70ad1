"""Writes what is made from the catalogue of losses: tables, API pages, the navigation, and the imports that type checkers read.

    python -m tools.tables

Each target holds its part between the markers "table: NAME" and "end of table" (a comment of the file's own language).
``tests/docs/test_tables.py`` compares them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path

import fairloss
from fairloss import functional
from fairloss.losses.catalogue import LOSSES, Loss, Paper
from tools import interface

ROOT = Path(__file__).resolve().parents[1]


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [tuple(header), *map(tuple, rows)]
    lines.insert(1, (":--",) * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page_of(loss: Loss) -> str:
    """The method's page, under docs/methods."""
    return loss.module.rsplit(".", 1)[1].replace("_", "-") + ".md"


def title_of(page: str) -> str:
    """The heading of a method's page."""
    path = ROOT / "docs" / "methods" / page
    if not path.exists():
        raise SystemExit(f"docs/methods/{page}: expected the method's page; docs/adding-a-loss.md says what is on it")
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def source(paper: Paper, place: str) -> str:
    """A paper, its year and the place in it."""
    name = f"[{paper.name}]({paper.link})" if paper.link else paper.name
    return name + (f" {paper.year}" if paper.year else "") + (f", {place}" if place else "")


def merged(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Neighbours that differ only in the first cell, the name, share a row."""
    return [(", ".join(row[0] for row in same), *cells) for cells, same in groupby(rows, key=lambda row: row[1:])]


def origins() -> str:
    """README: where each loss comes from."""
    return table(
        ("loss", "paper, place", "file", "how it differs from the released code"),
        (
            (
                f"`{loss.name}`",
                "; ".join(source(*one) for one in loss.sources) or "none",
                f"`{loss.module.removeprefix('fairloss.').replace('.', '/')}.py`",
                loss.differs,
            )
            for loss in LOSSES
        ),
    )


def papers() -> str:
    """The page of papers: the losses of each."""
    found: dict[Paper, list[str]] = {}
    for loss in LOSSES:
        for paper, _ in loss.sources:
            found.setdefault(paper, []).append(f"[`{loss.name}`](methods/{page_of(loss)})")
    return table(("paper", "losses"), ((source(paper, ""), ", ".join(names)) for paper, names in found.items()))


def calls() -> str:
    """The methods' page: what each is called with, as ``forward`` has it."""
    pages: dict[tuple[str, str], dict[str, None]] = {}
    for loss in LOSSES:
        _, *parameters = inspect.signature(getattr(fairloss, loss.name).forward).parameters.values()
        names = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        link = f"[{title_of(page_of(loss))}]({page_of(loss)})"
        pages.setdefault((loss.on, f"`({', '.join(names)})`"), {})[link] = None
    return table(("on", "call", "methods"), ((*key, ", ".join(links)) for key, links in pages.items()))


def unknown() -> str:
    """The methods' page: samples of unknown group."""
    rows = [(f"`{loss.name}`", *loss.unknown) for loss in LOSSES if loss.unknown]
    return table(("method", "trains", "a sample of unknown group"), merged(rows))


def variants() -> str:
    """The methods' page: which variants exist."""
    rows = [(f"`{loss.name}`", *loss.variants) for loss in LOSSES if loss.variants]
    return table(("method", "default", '`"paper"`', '`"released"`'), rows)


def takes() -> str:
    """The guide: several attributes and memories."""
    rows = [(f"`{loss.name}`", loss.attributes, loss.memory) for loss in LOSSES]
    return table(("loss", "`num_groups=(2, 3)`", "past samples"), merged(rows))


def memories() -> str:
    """Small batches: the losses that take past samples."""
    rows = [(f"`{loss.name}`", loss.memory) for loss in LOSSES if loss.memory != "no"]
    return table(("loss", "past samples"), merged(rows))


def demands(on: str) -> Callable[[], str]:
    """Which method: what those on logits, say, need, optimize and cost."""

    def made() -> str:
        rows = [(f"`{loss.name}`", loss.needs, loss.optimizes, loss.costs) for loss in LOSSES if loss.on == on]
        return table(("method", "needs", "optimizes", "costs"), merged(rows))

    return made


def entries(on: str) -> Callable[[], str]:
    """An API page: the classes on logits, say."""
    return lambda: "\n".join(f"::: fairloss.{loss.name}" for loss in LOSSES if loss.on == on)


def functions() -> str:
    """The API page of functions; those of reinforcement learning have theirs among the policy's."""
    return "\n".join(f"::: fairloss.functional.{name}" for name in functional.__all__ if name not in fairloss.__all__)


def navigation() -> str:
    """mkdocs.yml: the pages of the methods."""
    lines = []
    for on, losses in groupby(LOSSES, key=lambda loss: loss.on):
        lines.append(f"      - On {on}:")
        lines += dict.fromkeys(f"          - methods/{page_of(loss)}" for loss in losses)
    return "\n".join(lines)


def imports(home: dict[str, str]) -> Callable[[], str]:
    """What a lazy module would import, for type checkers and editors."""
    # Ruff's order: by module, then constants, classes, functions.
    names = sorted(home, key=lambda name: (home[name], name[0].islower(), name.lower()))
    return lambda: "\n".join(f"    from {home[name]} import {name} as {name}" for name in names)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"origins": origins},
    "docs/papers.md": {"papers": papers},
    "docs/methods/index.md": {"calls": calls, "unknown groups": unknown, "variants": variants},
    "docs/methods/small-batches.md": {"memories": memories},
    "docs/groups-and-batches.md": {"takes": takes},
    "docs/which-method.md": {f"demands on {on}": demands(on) for on in ("logits", "values", "embeddings", "rewards")},
    "docs/api/logits.md": {"entries": entries("logits")},
    "docs/api/values.md": {"entries": entries("values")},
    "docs/api/embeddings.md": {"entries": entries("embeddings")},
    "docs/api/policy.md": {"entries": entries("rewards")},
    "docs/api/functional.md": {"entries": functions},
    "docs/api/interface.md": {"signatures": interface.page},
    "mkdocs.yml": {"navigation": navigation},
    "fairloss/__init__.py": {"imports": imports(fairloss._HOME)},
    "fairloss/functional.py": {"imports": imports(functional._HOME)},
}


def rendered(path: str) -> str:
    """The file with its tables made anew."""
    text = (ROOT / path).read_text(encoding="utf-8")
    # A blank line parts a comment from what follows it, where the language is Markdown.
    gap = "\n" if path.endswith(".md") else ""
    for name, make in TABLES[path].items():
        opens, closes = rf"^[^\n]*\btable: {re.escape(name)}\b[^\n]*\n", r"^[^\n]*\bend of table\b"
        parts = re.split(rf"({opens})(?:.*?)({closes})", text, flags=re.DOTALL | re.MULTILINE)
        if len(parts) != 4:
            raise SystemExit(f"{path}: expected one table {name!r}, got {len(parts) // 3}")
        before, start, end, after = parts
        text = f"{before}{start}{gap}{make()}\n{gap}{end}{after}"
    return text


def main() -> None:
    """Write every target that has changed."""
    for path, text in [(path, rendered(path)) for path in TABLES]:  # all are made before one is written
        if text != (ROOT / path).read_text(encoding="utf-8"):
            (ROOT / path).write_text(text, encoding="utf-8")
            print(f"{path}: written")


if __name__ == "__main__":
    main()
