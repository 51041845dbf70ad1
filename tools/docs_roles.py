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


def _parameters(made: Any) -> griffe.Parameters:
    """The parameters that a function has at run time."""

    def text(annotation: Any) -> str | None:
        if annotation is inspect.Parameter.empty:
            return None
        return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)

    return griffe.Parameters(
        *(
            griffe.Parameter(
                p.name,
                annotation=text(p.annotation),
                kind=griffe.ParameterKind(p.kind.description),
                default=None if p.default is p.empty else repr(p.default),
            )
            for p in inspect.signature(made).parameters.values()
        )
    )


def _at_run_time(obj: griffe.Object) -> Any:
    """The object itself, where a decorator of its own or of its class may have changed it; else None."""
    changed = obj.decorators or (obj.name == "__init__" and obj.parent.decorators)
    if not changed or obj.path.startswith("fairloss.integrations."):  # whose frameworks may be missing
        return None
    made = importlib.import_module(obj.module.path)
    for name in obj.path.removeprefix(obj.module.path + ".").split("."):
        made = inspect.getattr_static(made, name)
    return getattr(made, "__func__", made)


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
        function = griffe.Function(
            attr.name,
            parameters=_parameters(made),
            returns=inspect.signature(made).return_annotation,
            docstring=griffe.Docstring(inspect.getdoc(made) or ""),
            lineno=attr.lineno,
            endlineno=attr.endlineno,
        )
        attr.parent.set_member(attr.name, function)
        self.on_instance(obj=function)

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """A function whose options a decorator writes shows them."""
        made = _at_run_time(func)
        if "__signature__" in getattr(made, "__dict__", {}):
            func.parameters = _parameters(made)
            self._document(func, made)

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """Likewise a class's documentation."""
        if cls.decorators and "with_options" in str(cls.decorators[0].value):
            self._document(cls, _at_run_time(cls))

    def _document(self, obj: griffe.Object, made: Any) -> None:
        if obj.docstring:
            obj.docstring.value = inspect.getdoc(made) or ""
            self.on_instance(obj=obj)

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Every object that has a docstring."""
        if obj.docstring:
            text = _ROLE.sub(self._link, obj.docstring.value)
            text = re.sub(r"``([^`]+)``", r"`\1`", text)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
