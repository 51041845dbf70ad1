"""Rewards of drawn rollouts."""

import numpy as np
import torch


def batch(seed=0, q=40, r=6, num_groups=4, num_domains=3, rate=None, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(0, num_groups, (q,), generator=generator)
    domains = torch.randint(0, num_domains, (q,), generator=generator)
    rate = (groups + 1.0) / (num_groups + 1) if rate is None else torch.full((q,), rate)
    rewards = (torch.rand(q, r, generator=generator) < rate.unsqueeze(1)).to(dtype)
    return rewards, groups, domains


def rows(rewards):
    return [[None if np.isnan(x) else x for x in row] for row in rewards.tolist()]


def draw(seed, q=24, r=6, rate=0.6):
    return (torch.rand(q, r, generator=torch.Generator().manual_seed(seed)) < rate).float()


def nearly_equal(dtype):
    """(22, 3) rewards, a prompt for each size and each number of units in the last place between its rewards."""
    sizes = torch.tensor([0.1, -1000.0], dtype=dtype).view(2, 1, 1)
    units = torch.arange(11).view(11, 1) * torch.tensor([0, 1, 0])
    return (sizes * (1 + units.to(dtype) * torch.finfo(dtype).eps)).flatten(0, 1)
