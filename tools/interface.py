"""The public interface: every name in an ``__all__`` with its signature; ``tools.tables`` writes docs/api/interface.md from it.

Integrations are read from their source, because their frameworks need not be installed; everything else is imported.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, is_typeddict

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "fairloss",
    "fairloss.functional",
    "fairloss.metrics",
    "fairloss.policy",
    "fairloss.postprocess",
    "fairloss.report",
    "fairloss.training",
    "fairloss.ops",
)
INTEGRATIONS = ("transformers", "callbacks", "trl", "verl", "torchmetrics")
WIDTH = 110


class Entry(NamedTuple):
    """A public name.

    Attributes:
        module: whose ``__all__`` has it; the first one where several have.
        name: as it is imported.
        kind: "class", "function" or "value".
        signature: of the function, or of the class's constructor; None of a value.
        methods: of a class: public name -> signature without ``self``; a property has None.
        scope: what the annotations refer to.
    """

    module: str
    name: str
    kind: str
    signature: inspect.Signature | None
    methods: dict[str, inspect.Signature | None]
    scope: dict[str, Any]


class Source(str):
    """A default that is shown as it is written."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def entries() -> list[Entry]:
    """Every public name once."""
    found: dict[str, Entry] = {}
    for home in MODULES:
        module = importlib.import_module(home)
        for name in module.__all__:
            found.setdefault(name, _imported(home, name, getattr(module, name)))
    return [*found.values(), *(entry for name in INTEGRATIONS for entry in _read(name))]


def _imported(home: str, name: str, value: Any) -> Entry:
    scope = vars(importlib.import_module(getattr(value, "__module__", home)))
    if is_typeddict(value):
        fields = [
            inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, annotation=v) for k, v in value.__annotations__.items()
        ]
        return Entry(home, name, "class", inspect.Signature(fields), {}, scope)
    if isinstance(value, type) and issubclass(value, Warning):
        return Entry(home, name, "class", None, {}, scope)
    if isinstance(value, type):
        made = inspect.signature(value).replace(return_annotation=inspect.Signature.empty)
        return Entry(home, name, "class", made, dict(_methods(value)), scope)
    if callable(value):
        return Entry(home, name, "function", inspect.signature(value), {}, scope)
    return Entry(home, name, "value", None, {}, scope)


def _methods(cls: type) -> Iterator[tuple[str, inspect.Signature | None]]:
    """Methods that fairloss defines; those of torch, and what keeps a module's state, are as they were."""
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("fairloss.") and not base.__module__.startswith("fairloss.core."):
            for name, member in vars(base).items():
                if name.startswith("_") or name == "extra_repr":
                    continue
                if isinstance(member, property):
                    yield name, None
                elif callable(getattr(cls, name)) and not isinstance(getattr(cls, name), type):
                    yield name, _bound(cls, name)


def _bound(cls: type, name: str) -> inspect.Signature:
    signature = inspect.signature(getattr(cls, name))
    parameters = list(signature.parameters.values())
    # A class or static method comes without its first parameter.
    return signature.replace(parameters=[p for p in parameters if p.name != "self"])


@cache
def _parsed() -> dict[str, ast.FunctionDef | ast.ClassDef]:
    files = sorted((ROOT / "fairloss" / "integrations").glob("*.py"))
    nodes = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    return {node.name: node for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def _read(name: str) -> Iterator[Entry]:
    source = (ROOT / "fairloss" / "integrations" / f"{name}.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            for public in ast.literal_eval(node.value):
                yield _stub(f"fairloss.integrations.{name}", public)


def _stub(home: str, name: str) -> Entry:
    node = _parsed().get(name)
    if isinstance(node, ast.FunctionDef):
        return Entry(home, name, "function", _static(node), {}, {})
    if node is None:  # a constant, or a class that is made when its framework is there
        return Entry(home, name, "value" if name.isupper() else "class", None, {}, {})
    signatures: dict[str, inspect.Signature | None] = {}
    for part in reversed(list(_lineage(node))):
        for item in part.body:
            if isinstance(item, ast.FunctionDef) and (item.name == "__init__" or not item.name.startswith("_")):
                is_property = any("property" in ast.unparse(d) for d in item.decorator_list)
                signatures[item.name] = None if is_property else _static(item)
    made = signatures.pop("__init__", None)
    return Entry(home, name, "class", made and made.replace(return_annotation=made.empty), signatures, {})


def _lineage(node: ast.ClassDef) -> Iterator[ast.ClassDef]:
    yield node
    for base in node.bases:
        above = _parsed().get(ast.unparse(base))
        if isinstance(above, ast.ClassDef):
            yield from _lineage(above)


def _static(node: ast.FunctionDef) -> inspect.Signature:
    """A function's signature from its source."""
    args = node.args
    given: dict[str, ast.expr | None] = {}
    plain = [*args.posonlyargs, *args.args]
    given |= dict(zip((a.arg for a in plain[len(plain) - len(args.defaults) :]), args.defaults, strict=True))
    given |= {a.arg: d for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)}
    kinds = [(a, inspect.Parameter.POSITIONAL_OR_KEYWORD) for a in plain if a.arg not in ("self", "cls")]
    kinds += [(args.vararg, inspect.Parameter.VAR_POSITIONAL)] if args.vararg else []
    kinds += [(a, inspect.Parameter.KEYWORD_ONLY) for a in args.kwonlyargs]
    kinds += [(args.kwarg, inspect.Parameter.VAR_KEYWORD)] if args.kwarg else []
    empty = inspect.Parameter.empty
    parameters = [
        inspect.Parameter(
            a.arg,
            kind,
            default=empty if (default := given.get(a.arg)) is None else Source(ast.unparse(default).replace("'", '"')),
            annotation=empty if a.annotation is None else ast.unparse(a.annotation),
        )
        for a, kind in kinds
    ]
    return inspect.Signature(parameters, return_annotation=empty if node.returns is None else ast.unparse(node.returns))


def _parameter(parameter: inspect.Parameter, scope: dict[str, Any]) -> str:
    mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = mark + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {_annotation(parameter.annotation, scope)}"
    if parameter.default is not parameter.empty:
        default = parameter.default
        text += f" = {json.dumps(default) if type(default) is str else getattr(default, '__name__', repr(default))}"
    return text


def _annotation(annotation: Any, scope: dict[str, Any]) -> str:
    """As it is written, with the strings that an alias stands for."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    text = annotation if isinstance(annotation, str) else str(annotation).replace("typing.", "")

    def spelled(name: re.Match[str]) -> str:
        alias = scope.get(name[0])
        return str(alias).replace("typing.", "") if get_origin(alias) is Literal else name[0]

    referred = re.fullmatch(r"ForwardRef\('(.+?)'(?:, module='([^']+)')?\)", text)
    if referred:
        text = referred[1]
        scope = vars(importlib.import_module(referred[2])) if referred[2] else scope
    return re.sub(r"\b[A-Z]\w*\b", spelled, text).replace("'", '"')


def shown(head: str, signature: inspect.Signature, scope: dict[str, Any], indent: str = "") -> str:
    """``head(parameters) -> returns``, a parameter a line where it is long."""
    parts: list[str] = []
    star = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
        star |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        parts.append(_parameter(parameter, scope))
    returns = signature.return_annotation
    tail = "" if returns is signature.empty else f" -> {_annotation(returns, scope)}"
    line = f"{indent}{head}({', '.join(parts)}){tail}"
    if len(line) <= WIDTH:
        return line
    inner = "".join(f"{indent}    {part},\n" for part in parts)
    return f"{indent}{head}(\n{inner}{indent}){tail}"


def page() -> str:
    """A section for each module."""
    sections: dict[str, list[str]] = {}
    for entry in entries():
        if entry.kind == "value":
            text = entry.name
        elif entry.kind == "function" and entry.signature:
            text = shown(f"def {entry.name}", entry.signature, entry.scope)
        else:
            head = f"class {entry.name}"
            text = shown(head, entry.signature, entry.scope) if entry.signature else head
        for name, signature in entry.methods.items():
            text += "\n" + (shown(f"def {name}", signature, entry.scope, "    ") if signature else f"    {name}")
        sections.setdefault(entry.module, []).append(text)
    return "\n\n".join(f"## {name}\n\n```py\n" + "\n\n".join(texts) + "\n```" for name, texts in sections.items())
