"""A function's keyword-only parameters as the one list of a method's options: its module holds them and passes them on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["option_names", "options_of"]


def option_names(function: Callable[..., Any], *, without: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the keyword-only parameters of ``function``, read once when a module's class is made."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in without)


def options_of(module: object, names: Sequence[str]) -> dict[str, Any]:
    """The attributes of ``module`` that bear those names, as keyword arguments."""
    return {name: getattr(module, name) for name in names}
