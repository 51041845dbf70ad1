"""Checks of scalar arguments; every error names the argument, what was expected, what it got and the cure, if there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

__all__ = ["choice", "expected", "flag", "integer", "number"]


def expected(name: str, wanted: str, got: object, cure: str = "") -> str:
    """The sentence of every error about an argument: "name: expected ..., got ...; cure"."""
    return f"{name}: expected {wanted}, got {got}" + (f"; {cure}" if cure else "")


def integer(name: str, value: Any, *, minimum: int) -> int:
    """``value`` as an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(expected(name, "an integer", repr(value)))
    if value < minimum:
        raise ValueError(expected(name, f"an integer >= {minimum}", value))
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    below: float = math.inf,
) -> float:
    """``value`` as a finite float with ``above`` < value < ``below`` and ``minimum`` <= value <= ``maximum``."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(expected(name, "a number", repr(value)))
    result = float(value)
    # Comparisons alone (NaN fails them): torch.compile traces them for floats that it treats as dynamic.
    if not (-math.inf < result < math.inf and above < result < below and minimum <= result <= maximum):
        bounds = [f"> {above:g}"] * (above > -math.inf) + [f">= {minimum:g}"] * (minimum > -math.inf)
        bounds += [f"<= {maximum:g}"] * (maximum < math.inf) + [f"< {below:g}"] * (below < math.inf)
        raise ValueError(expected(name, " ".join(["a finite number", " and ".join(bounds)]).strip(), value))
    return result


def choice(name: str, value: Any, accepted: Sequence[str]) -> str:
    """``value`` if it is one of ``accepted``."""
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(expected(name, f"one of {', '.join(map(repr, accepted))}", repr(value)))
    return str(value)


def flag(name: str, value: Any) -> bool:
    """``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(expected(name, "True or False", repr(value)))
    return value
