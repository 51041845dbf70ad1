"""MkDocs hooks: fenced blocks of ``math`` become MathML, which browsers draw without a script, in a font that the site
brings; BENCHMARKS.md becomes a page; the search prefers guides to results and history.
"""

from __future__ import annotations

import html
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

# How much a page counts in the search beside a guide's 1: results and history hold every word.
BOOSTS = {
    "start/": 2.0,
    "integrations/": 0.8,
    "api/integrations": 0.2,
    "api/": 0.3,
    "examples/": 0.3,
    "benchmarks.md": 0.1,
    "hostile-batches.md": 0.1,
    "changelog.md": 0.01,
}


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


def on_files(files: Any, config: Any) -> Any:
    """The font of formulas, from the package that brings it."""
    spec = find_spec("ziamath")
    if spec is None or spec.origin is None:
        raise SystemExit("docs: expected ziamath, which brings the font of formulas: pip install 'fairloss[docs]'")
    name = "STIXTwoMath-Regular.ttf"
    files.append(File.generated(config, f"fonts/{name}", abs_src_path=str(Path(spec.origin).parent / "fonts" / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page of benchmarks is the file at the root, whose pictures lie here."""
    boost = next((boost for start, boost in BOOSTS.items() if page.file.src_uri.startswith(start)), None)
    if boost is not None:
        page.meta.setdefault("search", {})["boost"] = boost
    if page.file.src_uri != "benchmarks.md":
        return markdown
    root = Path(__file__).parents[1]
    return (root / "BENCHMARKS.md").read_text(encoding="utf-8").replace("](docs/", "](")
