"""Batches that the cases of several losses draw: one per task, ids with unknown samples, counts of the groups."""

from __future__ import annotations

import torch

from tests.contract.case import groups_of

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


def dense(generator, n, dtype):
    """The same with the classes on the second axis."""
    batch = tokens(generator, n, dtype)
    return {**batch, "input": batch["input"].mT.contiguous()}


def masked_labels(generator, n, dtype):
    """Labels of which some are missing, those of the first sample all."""
    batch = multilabel(generator, n, dtype)
    missing = torch.rand(n, 3, generator=generator) < 0.3
    missing[:1] = n > 1
    return {**batch, "target": batch["target"].masked_fill(missing, torch.nan)}


def values(generator, n, dtype):
    return {"values": torch.rand(n, generator=generator).to(dtype), "groups": groups_of(generator, n)}


def two_attributes(batch):
    def draw(generator, n, dtype):
        out = batch(generator, n, dtype)
        return {**out, "groups": torch.stack([groups_of(generator, n), groups_of(generator, n, 2)], 1)}

    return draw


def sizes_of(attributes):
    return (lambda g: g) if attributes == 1 else (lambda g: (g, 2))
