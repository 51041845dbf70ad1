"""Logits and masks of images with groups."""

import torch


def batch(seed, n=8, classes=3, shape=(6, 5), num_groups=3):
    gen = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, *shape, generator=gen, dtype=torch.float64)
    target = torch.randint(0, classes, (n, *shape), generator=gen)
    return logits, target, torch.randint(-1, num_groups, (n,), generator=gen)
