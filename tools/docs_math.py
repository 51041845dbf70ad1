"""MkDocs hook: fenced blocks of ``math`` become MathML, which browsers draw themselves, without a script."""

from __future__ import annotations

import html
from typing import Any

from latex2mathml.converter import convert


def math_block(source: str, language: str, class_name: str, options: Any, md: Any, **_: Any) -> str:
    """One formula a line; a blank line or the end of the line ends it."""
    lines = [line for line in source.splitlines() if line.strip()]
    # The source stays readable where a browser has no MathML, and for who copies the formula.
    shown = (f'<div title="{html.escape(line)}">{convert(line, display="block")}</div>' for line in lines)
    return f'<div class="formula">{"".join(shown)}</div>'


def on_config(config: Any) -> Any:
    """Register the fence."""
    fences = config["mdx_configs"].setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "formula", "format": math_block})
    return config
