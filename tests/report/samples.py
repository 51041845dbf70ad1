"""Samples whose scores spread by group."""

import numpy as np


def data(n=400, seed=0, groups=3, effect=0.0):
    rng = np.random.default_rng(seed)
    y, g = rng.integers(0, 2, n), rng.integers(0, groups, n)
    s = np.clip(0.25 + 0.5 * y + (0.25 + effect * g) * rng.standard_normal(n), 0, 1)
    return y, s, g
