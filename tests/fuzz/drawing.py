"""How a fuzz test draws: by hypothesis or in a loop, how often, which public names it covers, what an error must say."""

from __future__ import annotations

import inspect
import math
import os
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FAIRLOSS_FUZZ_EXAMPLES", "200"))

# Asked for by number, a run explores anew; the default run is the same every time.
RANDOM = "FAIRLOSS_FUZZ_EXAMPLES" in os.environ

COVERED: set[str] = set()
"""Public names with a fuzz target, as ``fairloss.functional.fis``."""


class Fields:
    """One of each field's choices, as a dictionary or as what ``build`` makes of it."""

    def __init__(self, choices: dict[str, Sequence[Any]], build: Callable[..., Any] = dict) -> None:
        self.choices, self.build = choices, build

    def strategy(self) -> st.SearchStrategy[Any]:
        """Field by field, so that a failure shrinks."""
        fixed = {name: st.sampled_from(options) for name, options in self.choices.items()}
        return st.fixed_dictionaries(fixed).map(lambda drawn: self.build(**drawn))

    def pick(self, generator: random.Random) -> Any:
        """At random, in a fraction of the time."""
        return self.build(**{k: v[int(generator.random() * len(v))] for k, v in self.choices.items()})


def fuzz(*names: str, examples: float = 1.0, **strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """A fuzz test that covers the public ``names``: 200 examples, or ``FAIRLOSS_FUZZ_EXAMPLES``, times ``examples``.

    A run of a number of your own that draws nothing but :class:`Fields` is a plain loop: hypothesis would take four times as
    long as the calls.
    """
    COVERED.update(names)
    number = max(1, int(EXAMPLES * examples))

    def decorate(test: Callable[..., None]) -> Any:
        if RANDOM and all(isinstance(s, Fields) for s in strategies.values()):
            return pytest.mark.fuzz(_loop(test, number, strategies))
        run = settings(
            max_examples=number,
            deadline=None,
            database=None,
            derandomize=not RANDOM,
            suppress_health_check=list(HealthCheck),
        )
        drawn = {k: s.strategy() if isinstance(s, Fields) else s for k, s in strategies.items()}
        return pytest.mark.fuzz(run(given(**drawn)(test)))

    return decorate


def _loop(test: Callable[..., None], number: int, strategies: dict[str, Fields]) -> Callable[..., None]:
    def run(**fixed: Any) -> None:
        generator = random.Random(f"{test.__name__} {fixed}")
        for _ in range(number):
            drawn = {name: fields.pick(generator) for name, fields in strategies.items()}
            try:
                test(**fixed, **drawn)
            except BaseException as error:
                error.add_note(f"drawn: {drawn}") if hasattr(error, "add_note") else None
                raise

    signature = inspect.signature(test)
    kept = [p for name, p in signature.parameters.items() if name not in strategies]
    run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def refused(error: Exception, names: str) -> None:
    """The error is one line and names an argument."""
    assert re.search(names, str(error)), f"names no argument: {error!r}"
    assert "\n" not in str(error), repr(error)


def close(a: float, b: float, *, rel: float = 1e-9, abs_: float = 1e-9) -> bool:
    """Equal within rounding, NaN equal to NaN."""
    return (math.isnan(a) and math.isnan(b)) or a == b or math.isclose(a, b, rel_tol=rel, abs_tol=abs_)
