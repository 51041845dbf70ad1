"""Checks of scalar arguments: each raises naming the argument, what was given and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def integer(name: str, value: Any, *, minimum: int) -> int:
    """``value`` as an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: an integer is needed, {value!r} was given")
    if value < minimum:
        raise ValueError(f"{name}: {value} was given; at least {minimum} is needed")
    return int(value)


def number(
    name: str, value: Any, *, above: float = -math.inf, minimum: float = -math.inf, maximum: float = math.inf
) -> float:
    """``value`` as a finite float with ``above`` < value, ``minimum`` <= value <= ``maximum``."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: a number is needed, {value!r} was given")
    result = float(value)
    # Comparisons alone (NaN fails them): torch.compile traces them for floats that it treats as dynamic.
    if not (-math.inf < result < math.inf and above < result and minimum <= result <= maximum):
        bounds = [f"> {above:g}"] * (above > -math.inf) + [f">= {minimum:g}"] * (minimum > -math.inf)
        bounds += [f"<= {maximum:g}"] * (maximum < math.inf)
        wanted = " ".join(["a finite number", " and ".join(bounds)]).strip()
        raise ValueError(f"{name}: {value} was given; {wanted} is needed")
    return result


def choice(name: str, value: Any, accepted: Sequence[str]) -> str:
    """``value`` if it is one of ``accepted``."""
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{name}: {value!r} was given; accepted are {', '.join(map(repr, accepted))}")
    return str(value)


def same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless the two tensors lie on one device: torch would say so later, without naming the argument."""
    if tensor.device != other.device:
        raise ValueError(f"{name}: it is on {tensor.device}, {other_name} is on {other.device}; move one of them")
