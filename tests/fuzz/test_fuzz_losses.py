"""Every loss, as a module and as a function, on hostile batches; see ``tests/fuzz/batches.py``."""

from __future__ import annotations

import pytest

from tests.contract.case import Case, all_cases
from tests.fuzz.batches import COVERED, EXAMPLE, Target, check, fuzz

# Class, function, and the largest magnitude of the float argument whose result float32 can hold.
FAMILIES = {
    "max_acc_gap": ("MaxAccGapLoss", "max_acc_gap", 1e30),
    "fair_cross_entropy": ("FairCrossEntropyLoss", "fair_cross_entropy", 1e30),
    "loss_variance": ("LossVarianceLoss", "loss_variance", 1e15),
    "inverse_frequency": ("InverseFrequencyWeighting", "inverse_frequency_weighting", 1e30),
    "group_dro": ("GroupDROLoss", None, 1e30),
    "demographic_parity": ("DemographicParityLoss", "demographic_parity", 1e30),
    "equalized_odds": ("EqualizedOddsLoss", "equalized_odds", 1e30),
    "cross_group_contrastive": ("CrossGroupContrastiveLoss", "cross_group_contrastive", 1e30),
    "moment_alignment": ("MomentAlignmentLoss", "moment_alignment", 1e8),
    "adversarial_group": ("AdversarialGroupLoss", None, 1e30),
    "fis": ("FISLoss", "fis", 1e30),
    "febs": ("FEBSLoss", "febs", 1e30),
    "fair_distillation": ("FairDistillationLoss", "fair_distillation", 1e30),
    "distribution_alignment": ("DistributionAlignmentLoss", "distribution_alignment", 1e15),
}
CASES = all_cases()


def family_of(case: Case) -> str:
    return case.name.split("-")[0]


def targets(case: Case) -> tuple[Target, Target | None]:
    """The module and the function of a case."""
    module = case.make()
    probe = case.draw(0, 4, grad=False)
    sizes = (3, 2) if probe["groups"].ndim == 2 else (3,)
    floats = tuple(k for k in case.differentiable)
    # A target may be ids or probabilities: floats, bools and further dimensions can be another kind of task, or say which.
    bad = {("target", how) for how in ("fractions", "integers", "bool")} if "target" in probe else set()
    if family_of(case) in ("demographic_parity", "cross_group_contrastive"):  # labels play no part, or are any integers
        bad |= {("target", how) for how in ("past_end", "large", "below", "lowest")}
    shared = {
        "draw": case.batch,
        "oracle": case.oracle,
        "floats": floats,
        "ids": sizes,
        "huge": FAMILIES[family_of(case)][2],
        "bad": frozenset(bad),
    }
    as_module = Target(f"module {case.name}", module, module=module, **shared)
    return as_module, Target(f"function {case.name}", case.function, **shared) if case.function else None


PAIRS = [(family_of(case), *targets(case)) for case in CASES]
MODULES = {family: [m for f, m, _ in PAIRS if f == family] for family in FAMILIES}
FUNCTIONS = {family: [f for g, _, f in PAIRS if g == family and f] for family in FAMILIES if FAMILIES[family][1]}


def test_every_case_belongs_to_a_family():
    assert {family_of(case) for case in CASES} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
@fuzz(*(f"fairloss.{cls}" for cls, _, _ in FAMILIES.values()), example=EXAMPLE)
def test_module(family, example):
    check(MODULES[family][example.seed % len(MODULES[family])], example)


@pytest.mark.parametrize("family", FUNCTIONS)
@fuzz(*(f"fairloss.functional.{f}" for _, f, _ in FAMILIES.values() if f), example=EXAMPLE)
def test_function(family, example):
    check(FUNCTIONS[family][example.seed % len(FUNCTIONS[family])], example)


def test_the_targets_are_the_public_names():
    import fairloss
    from fairloss import functional

    assert all(hasattr(fairloss, cls) for cls, _, _ in FAMILIES.values())
    assert all(hasattr(functional, f) for _, f, _ in FAMILIES.values() if f)
    assert {f"fairloss.{cls}" for cls, _, _ in FAMILIES.values()} <= COVERED
