"""Contract cases of the losses on values: variance, weighting by frequency, GroupDRO."""

from __future__ import annotations

import numpy as np

import fairloss
from fairloss import functional as ff
from tests.contract.batches import (
    COUNTS,
    counts,
    two_attributes,
    values,
)
from tests.contract.case import Case
from tests.oracles import losses as oracles


def value_case(name, make, oracle, function, *, attributes=1, **kwargs):
    return Case(
        name=name,
        make=make,
        batch=values if attributes == 1 else two_attributes(values),
        oracle=oracle,
        function=function,
        differentiable=("values",),
        logits=False,
        **kwargs,
    )


def weighting_case(name, **options):
    return value_case(
        f"inverse_frequency-{name}",
        lambda num_groups=3, process_group=None: fairloss.InverseFrequencyWeighting(
            counts(num_groups), process_group=process_group, **options
        ),
        lambda values, groups: oracles.inverse_frequency_weighting(values, groups, COUNTS, **options),
        lambda num_groups=3, **batch: ff.inverse_frequency_weighting(
            **batch, group_counts=counts(num_groups), **options
        ),
        zero_without_two_groups=False,
        relabel=False,
    )


def dro_case(name, released=False, group_counts=False, adjustment=0.0, **kwargs):
    return value_case(
        f"group_dro-{name}",
        lambda num_groups=3, process_group=None: fairloss.GroupDROLoss(
            num_groups,
            step_size=0.5,
            adjustment=adjustment,
            group_counts=counts(num_groups) if group_counts else None,
            variant="released" if released else "default",
            process_group=process_group,
        ),
        lambda values, groups: oracles.group_dro_step(
            values, groups, [0.0] * 3, [0] * 3, 0.5, COUNTS if group_counts else None, adjustment, released
        )[0],
        None,
        zero_without_two_groups=False,
        relabel=not group_counts,
        oracle_gradient=lambda values, groups: numeric_linear_gradient(
            values, groups, released, COUNTS if group_counts else None, adjustment
        ),
        **kwargs,
    )


def numeric_linear_gradient(values, groups, released, group_counts, adjustment):
    """d/dv of sum_g q_g Lhat_g with q held: Lhat is linear, so its coefficients come from unit vectors."""

    def losses_of(v):
        sums, n = np.zeros(3), np.zeros(3)
        for x, g in zip(v, groups, strict=True):
            if g >= 0:
                sums[g] += x
                n[g] += 1
        basis = n if group_counts is None else np.asarray(group_counts)
        scale = n if released else n.sum() * basis / basis.sum() if basis.sum() else n
        return np.where(n > 0, sums / np.where(n > 0, scale, 1), 0.0)

    base = losses_of(values)
    extra = adjustment / np.sqrt(group_counts) if adjustment else 0.0
    log_q = 0.5 * (base + extra)
    present = np.array([released or bool((groups == g).any()) for g in range(3)])
    q = np.where(present, np.exp(log_q - log_q.max()), 0.0)
    q = q / q.sum() if q.sum() else q
    return np.array([float(q @ losses_of(e)) for e in np.eye(len(values))])


CASES = [
    value_case(
        "loss_variance",
        lambda num_groups=3, process_group=None: fairloss.LossVarianceLoss(num_groups, process_group=process_group),
        oracles.loss_variance,
        lambda num_groups=3, **batch: ff.loss_variance(**batch, num_groups=num_groups),
        huge=1e15,
    ),
    value_case(
        "loss_variance-two_attributes",
        lambda num_groups=3, process_group=None: fairloss.LossVarianceLoss(
            (num_groups, 2), process_group=process_group
        ),
        oracles.loss_variance,
        lambda num_groups=3, **batch: ff.loss_variance(**batch, num_groups=(num_groups, 2)),
        attributes=2,
        huge=1e15,
        relabel=False,
    ),
    weighting_case("default"),
    weighting_case("batch", normalize="batch"),
    weighting_case("paper", variant="paper"),
    dro_case("default"),
    dro_case("counts", group_counts=True, adjustment=0.3),
    # All groups take part from the first step on: an unused id does change the released variant, as it did its authors'.
    dro_case("released", released=True, notes="unused id changes the result"),
]
