"""Every loss, as a module and as a function, on hostile batches; see ``tests/fuzz/batches.py``."""

from __future__ import annotations

import pytest

from fairloss.losses.catalogue import LOSSES
from tests.contract.case import Case, all_cases
from tests.fuzz.batches import EXAMPLE, Target, check
from tests.fuzz.drawing import COVERED, fuzz

CASES = all_cases()


def family_of(case: Case) -> str:
    """The class that a case makes."""
    return type(case.make()).__name__


# A case names its loss's class and, where it gives the function, the catalogue's first one.
FAMILIES = {loss.name: loss for loss in LOSSES if loss.name in {family_of(case) for case in CASES}}
WITH_FUNCTION = [n for n in FAMILIES if any(case.function for case in CASES if family_of(case) == n)]


def targets(case: Case) -> tuple[Target, Target | None]:
    """The module and the function of a case."""
    module = case.make()
    probe = case.draw(0, 4, grad=False)
    sizes = (3, 2) if probe["groups"].ndim == 2 else (3,)
    floats = tuple(k for k in case.differentiable)
    # A target may be ids or probabilities: floats, bools and further dimensions can be another kind of task, or say which.
    bad = {("target", how) for how in ("fractions", "integers", "bool")} if "target" in probe else set()
    if family_of(case) in (
        "DemographicParityLoss",
        "CrossGroupContrastiveLoss",
    ):  # labels play no part, or are any integers
        bad |= {("target", how) for how in ("past_end", "large", "below", "lowest")}
    shared = {
        "draw": case.batch,
        "oracle": case.oracle,
        "floats": floats,
        "ids": sizes,
        "huge": case.huge,
        "bad": frozenset(bad),
    }
    as_module = Target(f"module {case.name}", module, module=module, **shared)
    return as_module, Target(f"function {case.name}", case.function, **shared) if case.function else None


PAIRS = [(family_of(case), *targets(case)) for case in CASES]
MODULES = {family: [m for f, m, _ in PAIRS if f == family] for family in FAMILIES}
FUNCTIONS = {family: [f for g, _, f in PAIRS if g == family and f] for family in WITH_FUNCTION}


def test_every_loss_of_the_catalogue_has_a_case_or_a_target_of_its_own():
    assert {loss.name for loss in LOSSES} - set(FAMILIES) == {"ConceptAlignmentLoss", "FairGRPOAdvantage"}
    assert {f"fairloss.{name}" for name in FAMILIES} <= COVERED


@pytest.mark.parametrize("family", FAMILIES)
@fuzz(*(f"fairloss.{name}" for name in FAMILIES), example=EXAMPLE)
def test_module(family, example):
    check(MODULES[family][example.seed % len(MODULES[family])], example)


@pytest.mark.parametrize("family", FUNCTIONS)
@fuzz(*(f"fairloss.functional.{FAMILIES[name].functions[0]}" for name in WITH_FUNCTION), example=EXAMPLE)
def test_function(family, example):
    check(FUNCTIONS[family][example.seed % len(FUNCTIONS[family])], example)
