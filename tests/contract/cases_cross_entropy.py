"""Contract cases of the criterion of cross-entropy and gap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

import fairloss
from fairloss import functional as ff
from tests.contract.batches import (
    COUNTS,
    binary,
    counts,
    dense,
    masked_labels,
    multiclass,
    multilabel,
    sizes_of,
    soft_labels,
    tokens,
    two_attributes,
)
from tests.contract.case import Case
from tests.oracles import losses as oracles


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


def memory_case():
    """A memory that is empty at first: value and gradient are the batch's own."""

    def with_memory(call, num_groups, **arguments):
        memory = fairloss.GroupMemory(num_groups, capacity=16)
        return call(num_groups=num_groups, gap_weight=0.7, memory=memory, **arguments)

    return replace(
        ce_case("memory", multiclass, "multiclass", gap_weight=0.7),
        make=lambda num_groups=3, process_group=None: with_memory(
            fairloss.FairCrossEntropyLoss, num_groups, process_group=process_group
        ),
        function=lambda num_groups=3, **batch: with_memory(ff.fair_cross_entropy, num_groups, **batch),
    )


CASES = [
    memory_case(),
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
    ce_case("masked_labels", masked_labels, "multilabel", gap_weight=0.3, weighted=True, task="multilabel"),
    ce_case("dense", dense, "dense", gap_weight=0.3, weighted=True),
    ce_case("tokens", tokens, "tokens", gap_weight=0.3, weighted=True),
    ce_case("two_attributes", multiclass, "multiclass", gap_weight=0.3, attributes=2),
]
