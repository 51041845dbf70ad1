"""What the mixins for trainers check before they rely on it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any


def check_methods(
    mixin: str, base: Any, methods: Mapping[str, tuple[str, ...]], *, trainer: str, versions: str
) -> None:
    """Raise unless the next class has the methods that the mixin wraps, with these first parameters."""
    for name, wanted in methods.items():
        method = getattr(base, name, None)
        if method is None:
            raise ImportError(f"{mixin}: the trainer has no {name}; put the mixin before {trainer}. {versions}")
        found = ("self", *inspect.signature(method).parameters)
        if found[: len(wanted)] != wanted:
            raise ImportError(f"{mixin}: {name} takes {found[1:]}, {wanted[1:]} is needed; {versions}")


def arguments_of(base: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``base.__init__`` by name."""
    bound = inspect.signature(base.__init__).bind_partial(*args, **kwargs).arguments
    return {**bound, **bound.get("kwargs", {})}


def check_columns(name: str, data: Any, columns: Iterable[str], *, user: str, advice: str) -> None:
    """Raise unless a data set, or each of a dict of data sets, has the columns; streams are checked as they come."""
    for key, dataset in data.items() if isinstance(data, Mapping) else [("", data)]:
        known = getattr(dataset, "column_names", None)
        if not isinstance(known, list):
            continue
        where = f"{name}[{key!r}]" if key else name
        for column in columns:
            if column not in known:
                raise ValueError(
                    f"{where}: no column {column!r}, which {user} needs; it has {', '.join(map(repr, known))}. {advice}"
                )
