"""Griffe extension: what the docstrings say in Sphinx's words, said in mkdocstrings'; functions made from a table.

``:class:`Name``` becomes a link where the name is public (on an API page), else code; ``Example:`` becomes the section that
knows doctests. A public name that calls made, such as the gaps of rates, is shown as the function that it is at run time.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr):`([\w.]+)`")
_PAGES = Path(__file__).parents[1] / "docs" / "api"


def documented() -> dict[str, str]:
    """Every name on an API page, bare and with its module, to the identifier under which it stands there."""
    names: dict[str, str] = {}
    for page in sorted(_PAGES.glob("*.md")):
        for path in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            names[path] = path
            names.setdefault(path.rsplit(".", 1)[1], path)
    return names


class Roles(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def __init__(self) -> None:
        super().__init__()
        self.public = documented()

    def _link(self, match: re.Match[str]) -> str:
        name = match[1]
        target = self.public.get(name)
        return f"[`{name.removeprefix('fairloss.')}`][{target}]" if target else f"`{name}`"

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """A name of a module that holds a function at run time becomes that function."""
        if not (isinstance(attr.parent, griffe.Module) and isinstance(attr.value, griffe.ExprCall)):
            return
        if self.public.get(attr.name) is None:
            return
        made = getattr(importlib.import_module(attr.parent.path), attr.name)
        if not inspect.isfunction(made):
            return
        signature = inspect.signature(made)
        parameters = [
            griffe.Parameter(
                p.name,
                annotation=p.annotation if isinstance(p.annotation, str) else inspect.formatannotation(p.annotation),
                kind=griffe.ParameterKind(p.kind.description),
                default=None if p.default is p.empty else repr(p.default),
            )
            for p in signature.parameters.values()
        ]
        function = griffe.Function(
            attr.name,
            parameters=griffe.Parameters(*parameters),
            returns=signature.return_annotation,
            docstring=griffe.Docstring(inspect.getdoc(made) or ""),
            lineno=attr.lineno,
            endlineno=attr.endlineno,
        )
        attr.parent.set_member(attr.name, function)
        self.on_instance(obj=function)

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Every object that has a docstring."""
        if obj.docstring:
            text = _ROLE.sub(self._link, obj.docstring.value)
            text = re.sub(r"``([^`]+)``", r"`\1`", text)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
