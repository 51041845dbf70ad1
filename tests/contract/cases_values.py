"""Contract cases of the losses on values: variance, weighting by frequency, GroupDRO."""

from __future__ import annotations

import numpy as np

import fairloss
from fairloss import functional as ff
from tests.contract.batches import (
    COUNTS,
    counts,
    sizes_of,
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


def dro_case(name, attributes=1, notes="", **options):
    """Group DRO at its first step; ``options`` are those of the oracle."""
    sizes = sizes_of(attributes)
    released, shares = options.get("released", False), options.get("shares")
    counts_given = options.get("counts")

    def oracle(values, groups):
        columns = groups.reshape(len(values), -1).T
        parts = [group_dro(values, ids, [3, 2][k], **options)[0] for k, ids in enumerate(columns)]
        return float(np.mean(parts))

    def gradient(values, groups):
        """d/dv of sum_g q_g Lhat_g with q held: Lhat is linear, so its coefficients come from unit vectors."""
        columns = groups.reshape(len(values), -1).T
        out = np.zeros(len(values))
        for k, ids in enumerate(columns):
            q, weight = group_dro(values, ids, [3, 2][k], **options)[1:]
            out += [q[g] * weight[g] if g >= 0 else 0.0 for g in ids]
        return out / len(columns)

    return value_case(
        f"group_dro-{name}",
        lambda num_groups=3, process_group=None: fairloss.GroupDROLoss(
            sizes(num_groups),
            step_size=0.5,
            adjustment=options.get("adjustment", 0.0),
            group_counts=counts(num_groups) if counts_given else None,
            shares=[*shares, *[0.0] * (num_groups - 3)] if shares else None,
            variant="released" if released else "default",
            process_group=process_group,
        ),
        oracle,
        None,
        attributes=attributes,
        zero_without_two_groups=False,
        relabel=attributes == 1 and not counts_given and not shares,
        oracle_gradient=gradient,
        notes=notes,
    )


def group_dro(values, groups, size, **options):
    """Value, q and the weight of one sample of each group at the first step."""
    value, log_q, seen, _ = oracles.group_dro_step(values, groups, *([[0.0] * size] * 3), 0.5, **options)
    n = np.bincount(groups[groups >= 0], minlength=size)
    released = options.get("released", False)
    q = np.where(released | (np.array(seen) > 0), np.exp(np.array(log_q) - max(log_q)), 0.0)
    basis = np.array(options.get("shares") or n, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = 1 / n if released else np.minimum(basis.sum() / basis, 20.0) / n.sum()
    return value, q / q.sum() if q.sum() else q, weight


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
    dro_case("adjusted", counts=COUNTS, adjustment=0.3),
    dro_case("shares", shares=[96.0, 3.0, 1.0]),  # of which the last is capped
    dro_case("two_attributes", attributes=2),
    # All groups take part from the first step on: an unused id does change the released variant, as it did its authors'.
    dro_case("released", released=True, notes="unused id changes the result"),
]
