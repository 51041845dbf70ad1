"""MkDocs hooks: fenced blocks of ``math`` become MathML, which browsers draw without a script; BENCHMARKS.md becomes a page."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert


def math_block(source: str, language: str, class_name: str, options: Any, md: Any, **_: Any) -> str:
    """A formula a line; where the page is narrow a line breaks between its parts."""
    lines = []
    for line in filter(None, map(str.strip, source.splitlines())):
        parts = [convert(part.strip(), display="block") for part in line.split("\\qquad")]
        # The source stays at hand for who copies the formula, or has a browser without MathML.
        lines.append(f'<div title="{html.escape(line)}">{"".join(f"<span>{part}</span>" for part in parts)}</div>')
    return f'<div class="formula">{"".join(lines)}</div>'


def on_config(config: Any) -> Any:
    """Register the fence."""
    fences = config["mdx_configs"].setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "formula", "format": math_block})
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page of benchmarks is the file at the root, whose pictures lie here."""
    if page.file.src_uri != "benchmarks.md":
        return markdown
    root = Path(__file__).parents[1]
    return (root / "BENCHMARKS.md").read_text(encoding="utf-8").replace("](docs/", "](")
