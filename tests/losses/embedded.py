"""Embeddings with labels and groups."""

import torch


def draw(n, *, d=5, labels=3, groups=(3,), seed=0, unknown=0.2):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = torch.randint(0, labels, (n,), generator=generator)
    ids = torch.stack([torch.randint(0, g, (n,), generator=generator) for g in groups], 1)
    ids[torch.rand(ids.shape, generator=generator) < unknown] = -1
    return z, y, ids[:, 0] if len(groups) == 1 else ids
