"""Options written once: the keyword-only parameters of a function, which its module passes on, or a typed dictionary."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fairloss.core.checks import expected

__all__ = ["given_options", "option_names", "options_of", "with_options"]

_Made = TypeVar("_Made", bound=Callable[..., Any])


def option_names(function: Callable[..., Any], *, without: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the keyword-only parameters of ``function``, read once when a module's class is made."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in without)


def options_of(module: object, names: Sequence[str]) -> dict[str, Any]:
    """The attributes of ``module`` that bear those names, as keyword arguments."""
    return {name: getattr(module, name) for name in names}


def given_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, and what is given in their place; TypeError names an option that is not among them."""
    unknown = set(options) - set(defaults)
    if unknown:
        raise TypeError(expected(min(unknown), f"an option among {', '.join(defaults)}", "another"))
    return {**defaults, **options}


def with_options(defaults: Mapping[str, Any], *kinds: type) -> Callable[[_Made], _Made]:
    """A decorator that writes ``defaults`` into the signature and documentation of a function in place of its ``**options``.

    Of a class into those of its constructor.

    Types and meanings are those of the typed dictionaries ``kinds``, each before what it inherits from; the
    documentation says where they go by a line "options: by keyword.", if anywhere.
    """
    types: dict[str, Any] = {}
    meanings: dict[str, str] = {}
    for kind in kinds:
        for name, t in kind.__annotations__.items():
            text = getattr(t, "__forward_arg__", t)
            # A name such as Task means nothing where the function is read, but where it was inherited from.
            scope = vars(sys.modules[getattr(t, "__forward_module__", None) or kind.__module__])
            types[name] = scope.get(text, text) if isinstance(text, str) else text
        listed = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
        for name, meaning in re.findall(r"^    (\w+): (.*(?:\n        .*)*)", listed, re.MULTILINE):
            meanings.setdefault(name, f"    {name}: {meaning}")

    def decorate(made: _Made) -> _Made:
        function: Any = made.__init__ if isinstance(made, type) else made  # type: ignore[misc]
        signature = inspect.signature(function)
        kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        shown = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
            for name, default in defaults.items()
        ]
        function.__signature__ = signature.replace(parameters=[*kept, *shown])
        text = inspect.cleandoc(made.__doc__ or "")
        if "options: by keyword." in text:
            written = "\n".join(meanings[name] for name in defaults)
            made.__doc__ = text.replace("    options: by keyword.", written)
        return made

    return decorate
