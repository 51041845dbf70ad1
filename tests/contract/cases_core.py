"""Contract cases of the gap, weighting, DRO, variance and parity losses."""

from __future__ import annotations

import numpy as np
import torch

import fairloss
from fairloss import functional as ff
from tests.contract.case import Case, groups_of
from tests.oracles import losses as oracles

COUNTS = [90.0, 6.0, 4.0]


def counts(num_groups):
    return COUNTS + [0.0] * (num_groups - 3)


def multiclass(generator, n, dtype):
    target = torch.randint(0, 4, (n,), generator=generator)
    target[n // 2 : n // 2 + 1] = -100
    return {
        "input": torch.randn(n, 4, generator=generator).to(dtype),
        "target": target,
        "groups": groups_of(generator, n),
    }


def multiclass_all(generator, n, dtype):
    return {**multiclass(generator, n, dtype), "target": torch.randint(0, 4, (n,), generator=generator)}


def soft_labels(generator, n, dtype):
    batch = multiclass(generator, n, dtype)
    return {**batch, "target": torch.softmax(torch.randn(n, 4, generator=generator), 1).to(dtype)}


def binary(generator, n, dtype):
    return {
        "input": torch.randn(n, generator=generator).to(dtype),
        "target": torch.randint(0, 2, (n,), generator=generator),
        "groups": groups_of(generator, n),
    }


def multilabel(generator, n, dtype):
    return {
        "input": torch.randn(n, 3, generator=generator).to(dtype),
        "target": torch.randint(0, 2, (n, 3), generator=generator).to(dtype),
        "groups": groups_of(generator, n),
    }


def tokens(generator, n, dtype):
    target = torch.randint(0, 6, (n, 5), generator=generator)
    target[:, 3:] = -100
    target[n // 2 : n // 2 + 1] = -100
    return {
        "input": torch.randn(n, 5, 6, generator=generator).to(dtype),
        "target": target,
        "groups": groups_of(generator, n),
    }


def values(generator, n, dtype):
    return {"values": torch.rand(n, generator=generator).to(dtype), "groups": groups_of(generator, n)}


def two_attributes(batch):
    def draw(generator, n, dtype):
        out = batch(generator, n, dtype)
        return {**out, "groups": torch.stack([groups_of(generator, n), groups_of(generator, n, 2)], 1)}

    return draw


def sizes_of(attributes):
    return (lambda g: g) if attributes == 1 else (lambda g: (g, 2))


def gap_case(name, batch, kind, **kwargs):
    attributes = kwargs.pop("attributes", 1)
    sizes = sizes_of(attributes)
    oracle_kwargs = {k: kwargs[k] for k in ("smoothing", "attribute_reduction", "token_reduction") if k in kwargs}
    return Case(
        name=f"max_acc_gap-{name}",
        make=lambda num_groups=3, process_group=None: fairloss.MaxAccGapLoss(
            sizes(num_groups), process_group=process_group, **kwargs
        ),
        batch=batch if attributes == 1 else two_attributes(batch),
        oracle=lambda input, target, groups: oracles.max_acc_gap(input, target, groups, kind, **oracle_kwargs),
        function=lambda num_groups=3, **batch: ff.max_acc_gap(**batch, num_groups=sizes(num_groups), **kwargs),
        relabel=attributes == 1,
    )


def memory_case(name, batch, kind):
    """A memory that is empty at first: value and gradient are the batch's own."""

    def make(num_groups=3, process_group=None):
        memory = fairloss.GroupMemory(num_groups, capacity=16)
        return fairloss.MaxAccGapLoss(num_groups, memory=memory, process_group=process_group)

    def function(num_groups=3, **batch):
        return ff.max_acc_gap(**batch, num_groups=num_groups, memory=fairloss.GroupMemory(num_groups, capacity=16))

    return Case(
        name=f"max_acc_gap-{name}",
        make=make,
        batch=batch,
        oracle=lambda input, target, groups: oracles.max_acc_gap(input, target, groups, kind),
        function=function,
    )


def ce_oracle(kind, gap_weight=0.0, weighted=False, smoothing=None, **task):
    def oracle(input, target, groups):
        w = None
        if weighted:
            raw = oracles.inverse_frequency_weights(COUNTS)
            wbar = sum(c / sum(COUNTS) * x for c, x in zip(COUNTS, raw, strict=True))
            w = [x / wbar for x in raw]
        value = oracles.cross_entropy_mean(input, target, kind, w, groups, **task)
        return value + gap_weight * oracles.max_acc_gap(input, target, groups, kind, smoothing)

    return oracle


def ce_case(name, batch, kind, *, gap_weight=0.0, weighted=False, smoothing=None, attributes=1, **options):
    sizes = sizes_of(attributes)
    oracle_options = {
        {"weight": "weight", "pos_weight": "pos_weight", "label_smoothing": "label_smoothing"}[k]: (
            np.asarray(v) if k != "label_smoothing" else v
        )
        for k, v in options.items()
        if k != "task"
    }
    options = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in options.items()}

    def function(num_groups=3, **batch):
        return ff.fair_cross_entropy(
            **batch,
            num_groups=sizes(num_groups),
            gap_weight=gap_weight,
            group_counts=counts(num_groups) if weighted else None,
            smoothing=smoothing,
            **options,
        )

    return Case(
        name=f"fair_cross_entropy-{name}",
        make=lambda num_groups=3, process_group=None: fairloss.FairCrossEntropyLoss(
            sizes(num_groups),
            gap_weight=gap_weight,
            group_counts=counts(num_groups) if weighted else None,
            smoothing=smoothing,
            process_group=process_group,
            **options,
        ),
        batch=batch if attributes == 1 else two_attributes(batch),
        oracle=ce_oracle(kind, gap_weight, weighted, smoothing, **oracle_options),
        function=function,
        zero_without_two_groups=False,
        relabel=not weighted and attributes == 1,
    )


def parity_case(name, cls, function, oracle, batch, *, attributes=1, **options):
    sizes = sizes_of(attributes)
    return Case(
        name=name,
        make=lambda num_groups=3, process_group=None: cls(sizes(num_groups), process_group=process_group, **options),
        batch=batch if attributes == 1 else two_attributes(batch),
        oracle=oracle,
        function=lambda num_groups=3, **batch: function(**batch, num_groups=sizes(num_groups), **options),
        relabel=attributes == 1,
    )


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
    gap_case("multiclass", multiclass, "multiclass"),
    gap_case("smooth", multiclass, "multiclass", smoothing=0.1),
    gap_case("soft_labels", soft_labels, "soft", task="multiclass"),
    gap_case("binary", binary, "binary"),
    gap_case("multilabel", multilabel, "multilabel", task="multilabel"),
    gap_case("tokens", tokens, "tokens"),
    gap_case("tokens_sum", tokens, "tokens", token_reduction="sum"),
    gap_case("two_attributes", multiclass, "multiclass", attributes=2),
    gap_case("two_attributes_max", multiclass, "multiclass", attributes=2, attribute_reduction="max", smoothing=0.2),
    memory_case("memory", multiclass, "multiclass"),
    memory_case("memory_binary", binary, "binary"),
    ce_case("vanilla", multiclass, "multiclass"),
    ce_case("fr", multiclass, "multiclass", gap_weight=0.7),
    ce_case("gr", multiclass, "multiclass", weighted=True),
    ce_case("hybrid", multiclass, "multiclass", gap_weight=0.7, weighted=True, smoothing=0.05),
    ce_case(
        "class_weights", multiclass, "multiclass", gap_weight=0.3, weight=[0.5, 1.0, 2.0, 3.0], label_smoothing=0.1
    ),
    ce_case("soft_labels", soft_labels, "soft", gap_weight=0.3, label_smoothing=0.1, task="multiclass"),
    ce_case("binary", binary, "binary", gap_weight=0.3, pos_weight=[2.5], label_smoothing=0.1),
    ce_case("multilabel", multilabel, "multilabel", gap_weight=0.3, pos_weight=[1.0, 2.0, 3.0], task="multilabel"),
    ce_case("tokens", tokens, "tokens", gap_weight=0.3, weighted=True),
    ce_case("two_attributes", multiclass, "multiclass", gap_weight=0.3, attributes=2),
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
    parity_case(
        "demographic_parity-binary",
        fairloss.DemographicParityLoss,
        ff.demographic_parity,
        oracles.demographic_parity,
        binary,
    ),
    parity_case(
        "demographic_parity-multiclass",
        fairloss.DemographicParityLoss,
        ff.demographic_parity,
        lambda input, target, groups: oracles.demographic_parity(input, target, groups, "multiclass"),
        multiclass_all,
    ),
    parity_case(
        "demographic_parity-one_class",
        fairloss.DemographicParityLoss,
        ff.demographic_parity,
        lambda input, target, groups: oracles.demographic_parity(input, target, groups, "multiclass", 2),
        multiclass_all,
        positive_class=2,
    ),
    parity_case("equalized_odds-binary", fairloss.EqualizedOddsLoss, ff.equalized_odds, oracles.equalized_odds, binary),
    parity_case(
        "equalized_odds-multilabel",
        fairloss.EqualizedOddsLoss,
        ff.equalized_odds,
        lambda input, target, groups: oracles.equalized_odds(input, target, groups, "multilabel", "worst_case"),
        multilabel,
        task="multilabel",
        agg="worst_case",
    ),
    parity_case(
        "equalized_odds-multiclass",
        fairloss.EqualizedOddsLoss,
        ff.equalized_odds,
        lambda input, target, groups: oracles.equalized_odds(input, target, groups, "multiclass"),
        multiclass_all,
    ),
    parity_case(
        "demographic_parity-two_attributes",
        fairloss.DemographicParityLoss,
        ff.demographic_parity,
        oracles.demographic_parity,
        binary,
        attributes=2,
    ),
    parity_case(
        "equalized_odds-two_attributes",
        fairloss.EqualizedOddsLoss,
        ff.equalized_odds,
        lambda input, target, groups: oracles.equalized_odds(
            input, target, groups, "multiclass", smoothing=0.1, attribute_reduction="max"
        ),
        multiclass_all,
        attributes=2,
        smoothing=0.1,
        attribute_reduction="max",
    ),
]
