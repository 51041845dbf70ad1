"""What the integrations with trainers do alike: look at a trainer before they rely on it, keep state, log by group."""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fairloss.core.checks import expected

Cell = tuple[int, int]
"""A domain's id and a group's."""


def versions(package: str, user: str, made_for: str) -> str:
    """Which version is installed and which one ``user`` was made for: the end of an error about a trainer."""
    found = getattr(importlib.import_module(package), "__version__", "of unknown version")
    return f"{package} {found} is installed, {user} was made for {made_for}"


def misfit(owner: Any, name: str, first: tuple[str, ...]) -> str | None:
    """Why the method or function ``owner.name`` cannot be wrapped, None where its first parameters are ``first``."""
    method = getattr(owner, name, None)
    if method is None:
        return f"{name} is missing"
    found = tuple(inspect.signature(method).parameters)
    # A method that is looked up on an instance has lost its self.
    wanted = first[1:] if first[0] == "self" and found[:1] != ("self",) else first
    return None if found[: len(wanted)] == wanted else f"{name} takes {found}, {wanted} is needed"


def check_methods(mixin: str, base: Any, methods: Mapping[str, tuple[str, ...]], trainer: str, versions: str) -> None:
    """Raise unless the next class has the methods that the mixin wraps, with these first parameters."""
    for name, first in methods.items():
        why = misfit(base, name, first)
        if why is not None:
            raise ImportError(f"{mixin}: the trainer's {why}; put the mixin before {trainer}. {versions}")


def arguments_of(base: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``base.__init__`` by name."""
    bound = inspect.signature(base.__init__).bind_partial(*args, **kwargs).arguments
    return {**bound, **bound.get("kwargs", {})}


def listed(names: Iterable[Any]) -> str:
    """Names as an error shows them."""
    return ", ".join(map(repr, names)) or "nothing"


def check_columns(name: str, data: Any, columns: Iterable[str], cure: str) -> None:
    """Raise unless a data set, or each of a dict of data sets, has the columns; streams are checked as they come."""
    for key, dataset in data.items() if isinstance(data, Mapping) else [("", data)]:
        known = getattr(dataset, "column_names", None)
        if not isinstance(known, list):
            continue
        for column in columns:
            if column not in known:
                where = f"{name}[{key!r}]" if key else name
                raise ValueError(expected(where, f"a column {column!r}", listed(known), cure))


def check_ids(name: str, data: Any, column: str) -> None:
    """Raise where a data set's column of groups holds no integers, which the collator would drop or make floats."""
    for key, dataset in data.items() if isinstance(data, Mapping) else [("", data)]:
        dtype = str(getattr((getattr(dataset, "features", None) or {}).get(column), "dtype", "int64"))
        if not dtype.startswith(("int", "uint", "bool")):
            where = f"{name}[{key!r}]" if key else name
            cure = "number them by fairloss.encode_groups(labels, categories=[...]).ids, in which -1 is unknown"
            raise ValueError(expected(where, f"integer ids in the column {column!r}", dtype, cure))


def trainer_class(module: dict[str, Any], asked: str, name: str, mixin: type, package: str, trainer: str) -> Any:
    """``mixin`` on the package's own trainer, made when a module is asked for it: the module's ``__getattr__``."""
    if asked != name:
        raise AttributeError(f"module {module['__name__']!r} has no attribute {asked!r}")
    try:
        base: Any = getattr(importlib.import_module(package), trainer)
    except ImportError as error:
        raise ImportError(f"{name} needs {package}: pip install 'fairloss[{package}]'") from error
    module[name] = type(name, (mixin, base), {"__module__": module["__name__"], "__doc__": mixin.__doc__})
    return module[name]


def save_state(module: nn.Module, path: Path, described: dict[str, str] | None = None) -> None:
    """Write the module's state, all of it or nothing, and what it is of."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    save_file({name: t.cpu().contiguous() for name, t in module.state_dict().items()}, draft, described)
    os.replace(draft, path)


def load_state(
    module: nn.Module, path: Path, otherwise: str | None, described: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Read what :func:`save_state` wrote, and what it is of, which has to be as ``described``.

    Where the file is not there, warn of what happens ``otherwise``; None raises FileNotFoundError.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    if not path.exists():
        if otherwise is None:
            raise FileNotFoundError(f"{path} is not there")
        warnings.warn(f"{path} is not there: {otherwise}", stacklevel=3)
        return {}
    with safe_open(path, "pt") as file:
        written = dict(file.metadata() or {})
    for name, own in (described or {}).items():
        if written.get(name) != own:
            cure = "resume with what it was written with, in that order, or delete the file to start anew"
            raise ValueError(expected(str(path), f"this run's {name} {own}", written.get(name), cure))
    module.load_state_dict(load_file(path))
    return written


def id_name(what: str, id_: int, names: Sequence[Any] | None) -> str:
    """The name of a group or domain (``what``) in the logs."""
    if id_ < 0:
        return f"{what}_unknown"
    return f"{what}_{id_}" if names is None else str(names[id_])


def means_by_cell(cells: Iterable[Cell], values: Iterable[float]) -> dict[Cell, float]:
    """Mean of the values of each cell in the cells' order; NaN is left out, and a cell of nothing else."""
    kept: dict[Cell, list[float]] = {}
    for cell, value in zip(cells, values, strict=True):
        if value == value:
            kept.setdefault(cell, []).append(value)
    return {cell: sum(found) / len(found) for cell, found in sorted(kept.items())}
