"""Contract cases of the gap and parity losses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import fairloss
from fairloss import functional as ff
from tests.contract.batches import (
    binary,
    dense,
    masked_labels,
    multiclass,
    multiclass_all,
    multilabel,
    sizes_of,
    soft_labels,
    tokens,
    two_attributes,
)
from tests.contract.case import Case
from tests.oracles import losses as oracles


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


def raised(input, target, groups):
    """Gradient of minus the worst group's accuracy, and nothing else, for binary logits."""
    sign = 2.0 * target - 1
    p = 1 / (1 + np.exp(-sign * input))
    means = {g: p[groups == g].mean() for g in set(groups[groups >= 0].tolist())}
    worst = min(means, key=means.get)
    return np.where(groups == worst, -sign * p * (1 - p) / (groups == worst).sum(), 0.0)


def parity_memory_case(name, cls, function, oracle, cells):
    """A memory that is empty at first: value and gradient are the batch's own."""

    def memory(num_groups):
        return fairloss.GroupMemory(cells * num_groups, capacity=16, max_weight=1e3)

    return Case(
        name=f"{name}-memory",
        make=lambda num_groups=3, process_group=None: cls(
            num_groups, memory=memory(num_groups), process_group=process_group
        ),
        batch=binary,
        oracle=oracle,
        function=lambda num_groups=3, **batch: function(**batch, num_groups=num_groups, memory=memory(num_groups)),
    )


CASES = [
    gap_case("multiclass", multiclass, "multiclass"),
    gap_case("smooth", multiclass, "multiclass", smoothing=0.1),
    gap_case("soft_labels", soft_labels, "soft", task="multiclass"),
    gap_case("binary", binary, "binary"),
    replace(gap_case("raise", binary, "binary", direction="raise"), oracle_gradient=raised),
    gap_case("multilabel", multilabel, "multilabel", task="multilabel"),
    gap_case("masked_labels", masked_labels, "multilabel", task="multilabel"),
    gap_case("dense", dense, "dense"),
    gap_case("tokens", tokens, "tokens"),
    gap_case("tokens_sum", tokens, "tokens", token_reduction="sum"),
    gap_case("two_attributes", multiclass, "multiclass", attributes=2),
    gap_case("two_attributes_max", multiclass, "multiclass", attributes=2, attribute_reduction="max", smoothing=0.2),
    memory_case("memory", multiclass, "multiclass"),
    memory_case("memory_binary", binary, "binary"),
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
    parity_case(
        "equal_opportunity-binary",
        fairloss.EqualOpportunityLoss,
        ff.equal_opportunity,
        oracles.equal_opportunity,
        binary,
    ),
    parity_case(
        "equal_opportunity-multiclass",
        fairloss.EqualOpportunityLoss,
        ff.equal_opportunity,
        lambda input, target, groups: oracles.equal_opportunity(input, target, groups, "multiclass"),
        multiclass_all,
    ),
    parity_memory_case(
        "demographic_parity", fairloss.DemographicParityLoss, ff.demographic_parity, oracles.demographic_parity, 1
    ),
    parity_memory_case(
        "equal_opportunity", fairloss.EqualOpportunityLoss, ff.equal_opportunity, oracles.equal_opportunity, 2
    ),
    parity_memory_case("equalized_odds", fairloss.EqualizedOddsLoss, ff.equalized_odds, oracles.equalized_odds, 2),
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
