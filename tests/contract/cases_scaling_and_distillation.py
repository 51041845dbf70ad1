"""Contract cases of identity scaling, distribution alignment, error-bound scaling and distillation."""

from __future__ import annotations

import torch

import fairloss
from fairloss import functional as ff
from tests.contract.batches import sizes_of, two_attributes
from tests.contract.case import Case, groups_of
from tests.oracles import fairdi as oracles


def losses(generator, n, dtype):
    return {
        "values": (3 * torch.rand(n, generator=generator) ** 2).to(dtype),
        "groups": groups_of(generator, n),
    }


def scores(generator, n, dtype):
    return {"values": torch.randn(n, generator=generator).to(dtype), "groups": groups_of(generator, n)}


def volumes(generator, n, dtype):
    return {
        "input": torch.randn(n, 3, 2, 3, 2, generator=generator).to(dtype),
        "target": torch.randint(0, 3, (n, 2, 3, 2), generator=generator),
        "groups": groups_of(generator, n),
    }


def soft_masks(generator, n, dtype):
    batch = volumes(generator, n, dtype)
    target = torch.softmax(torch.randn(n, 3, 2, 3, 2, generator=generator), 1).to(dtype)
    return {**batch, "target": target}


def febs_case(name, *, batch=volumes, attributes=1, **options):
    sizes = sizes_of(attributes)

    def mean_over_attributes(oracle):
        if attributes == 1:
            return lambda input, target, groups: oracle(input, target, groups, **options)
        return lambda input, target, groups: sum(oracle(input, target, g, **options) for g in groups.T) / attributes

    return Case(
        f"febs-{name}",
        lambda num_groups=3, process_group=None: fairloss.FEBSLoss(
            sizes(num_groups), num_classes=3, process_group=process_group, **options
        ),
        batch if attributes == 1 else two_attributes(batch),
        mean_over_attributes(oracles.febs),
        lambda num_groups=3, **batch: ff.febs(**batch, num_groups=sizes(num_groups), **options),
        differentiable=("input",),
        oracle_gradient=mean_over_attributes(oracles.febs_gradient),
        zero_without_two_groups=False,
        relabel=attributes == 1,
    )


def distilled(shape):
    """Student logits (N, *shape) and teachers of 3 groups; with a 4th, unused group the teachers get one more row."""

    def draw(generator, n, dtype):
        groups = groups_of(generator, n)
        teachers = torch.randn(3, n, *shape, generator=generator).to(dtype)
        if len(shape) == 0:
            target = torch.randint(0, 2, (n,), generator=generator)
        else:
            target = torch.randint(0, shape[0], (n, *shape[1:]), generator=generator)
        # Routed here: (G, N, ...) teachers are tied to the groups' number and names, which the contract changes.
        own = teachers[groups.clamp(min=0), torch.arange(n)]
        student = torch.randn(n, *shape, generator=generator).to(dtype)
        return {"input": student, "target": target, "groups": groups, "teacher_logits": own}

    return draw


def distillation_case(name, shape, **options):
    return Case(
        f"fair_distillation-{name}",
        lambda num_groups=3, process_group=None: fairloss.FairDistillationLoss(
            num_groups, process_group=process_group, **options
        ),
        distilled(shape),
        lambda **batch: oracles.fair_distillation(**batch, **options),
        lambda num_groups=3, **batch: ff.fair_distillation(**batch, num_groups=num_groups, **options),
        differentiable=("input",),
        oracle_gradient=lambda **batch: oracles.fair_distillation_gradient(**batch, **options),
        zero_without_two_groups=False,
    )


def fis_case(name, oracle, gradient, *, remembering=False, **options):
    """With a memory, it is empty at first: value and gradient are the batch's own."""

    def memory(num_groups):
        return fairloss.GroupMemory(num_groups, capacity=8) if remembering else None

    def make(num_groups=3, process_group=None):
        return fairloss.FISLoss(num_groups, memory=memory(num_groups), process_group=process_group, **options)

    return Case(
        f"fis-{name}",
        make,
        losses,
        lambda values, groups: oracle(values, groups, **options),
        lambda num_groups=3, **batch: ff.fis(**batch, num_groups=num_groups, memory=memory(num_groups), **options),
        differentiable=("values",),
        oracle_gradient=lambda values, groups: gradient(values, groups, **options),
        zero_without_two_groups=False,
        logits=False,
    )


def alignment_case(p):
    return Case(
        f"distribution_alignment-{p}",
        lambda num_groups=3, process_group=None: fairloss.DistributionAlignmentLoss(
            num_groups, p=p, process_group=process_group
        ),
        scores,
        lambda values, groups: oracles.distribution_alignment(values, groups, p),
        lambda num_groups=3, **batch: ff.distribution_alignment(**batch, num_groups=num_groups, p=p),
        huge=1e15,
        differentiable=("values",),
        logits=True,
    )


CASES = [
    fis_case("default", oracles.fis_default, oracles.fis_default_gradient),
    fis_case("capped", oracles.fis_default, oracles.fis_default_gradient, c=0.3, max_weight=2.0, temperature=0.5),
    fis_case("memory", oracles.fis_default, oracles.fis_default_gradient, remembering=True),
    fis_case("paper", oracles.fis_paper, oracles.fis_paper_gradient, variant="paper"),
    fis_case(
        "released", oracles.fis_released, oracles.fis_released_gradient, variant="released", c=0.4, temperature=2.0
    ),
    febs_case("default"),
    febs_case("mixed", gamma=2.0, dice_weight=0.4, include_background=False, max_weight=1.2),
    febs_case("soft", dice_weight=0.8, batch=soft_masks),
    febs_case("released", variant="released", gamma=0.5),
    febs_case("two_attributes", attributes=2, dice_weight=0.7),
    febs_case("two_attributes_released", attributes=2, variant="released"),
    distillation_case("default", (4,)),
    distillation_case("binary", (), temperature=3.0),
    distillation_case("pixels", (3, 2, 2), direction="student||teacher", distill_weight=0.5),
    distillation_case("paper", (4,), variant="paper", distill_weight=0.7),
    alignment_case(1),
    alignment_case(2),
]
