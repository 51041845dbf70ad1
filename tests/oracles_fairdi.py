"""Naive float64 oracles of transport, identity scaling, error-bound scaling and distillation; none imports fairloss."""

from __future__ import annotations

import math

import numpy as np
import ot


def quantile_integral(y, x, p):
    """W_p^p of two samples, piece by piece between all the points where either quantile function jumps."""
    y, x = np.sort(y), np.sort(x)
    knots = np.unique(np.concatenate([np.arange(len(y) + 1) / len(y), np.arange(len(x) + 1) / len(x)]))
    middle = (knots[1:] + knots[:-1]) / 2
    gap = y[(middle * len(y)).astype(int)] - x[(middle * len(x)).astype(int)]
    return float((np.diff(knots) * np.abs(gap) ** p).sum())


def capped(raw, cap):
    """Weights proportional to ``raw`` of mean 1 and at most ``cap``, by bisection on the logarithm of the factor."""
    raw = np.asarray(raw, dtype=float)
    raw = raw / raw.max()
    low, high = -50.0, 800.0
    for _ in range(300):
        middle = (low + high) / 2
        with np.errstate(over="ignore"):
            total = np.minimum(cap, np.exp(middle) * raw).mean()
        low, high = (middle, high) if total < 1 else (low, middle)
    return np.minimum(cap, np.exp(low) * raw)


def fis_default_weights(losses, groups, c=0.5, temperature=1.0, group_temperature=None, cap=10.0):
    losses, groups = np.asarray(losses, dtype=float), np.asarray(groups)
    t_group = group_temperature or temperature
    individual = capped(np.exp((losses - losses.max()) / temperature), cap)
    known = losses[groups >= 0]
    scores, means = {}, {}
    for g in sorted(set(groups[groups >= 0])):
        mine = losses[groups == g]
        means[g] = mine.mean()
        o = ot.wasserstein_1d(mine, known, p=2) / 2
        scores[g] = np.sign(mine.mean() - known.mean()) * o / (t_group * known.var() + 1e-12)
    raised = {g: max(scores[h] for h in scores if means[h] <= means[g]) for g in scores}
    group_part = np.ones(len(losses))
    if len(known):
        raw = np.array([math.exp(raised[g] - max(raised.values())) for g in groups[groups >= 0]])
        group_part[groups >= 0] = capped(raw, cap)
    return (1 - c) * individual + c * group_part


def fis_default(losses, groups, c=0.5, temperature=1.0, max_weight=10.0):
    return float(losses @ fis_default_gradient(losses, groups, c, temperature, max_weight))


def fis_default_gradient(losses, groups, c=0.5, temperature=1.0, max_weight=10.0):
    """Weights are detached, so they are the gradient, divided by N."""
    if len(losses) == 0:
        return np.zeros(0)
    return fis_default_weights(losses, groups, c, temperature, cap=max_weight) / len(losses)


def half_squares(losses, groups):
    """Half the squared distance of each present group to all known samples."""
    known = losses[groups >= 0]
    return {int(g): quantile_integral(losses[groups == g], known, 2) / 2 for g in set(groups[groups >= 0])}


def fis_paper_gradient(losses, groups, variant="paper", c=0.5):
    n = len(losses)
    o = half_squares(losses, groups)
    total = sum(math.exp(v) for v in o.values())
    neutral = 1 / max(len(o), 1)
    group_part = np.array([math.exp(o[g]) / total if g >= 0 else neutral for g in groups.tolist()])
    individual = np.exp(losses) / np.exp(losses).sum()
    return ((1 - c) * individual + c * group_part) / n


def fis_paper(losses, groups, variant="paper", c=0.5):
    return float(losses @ fis_paper_gradient(losses, groups, c=c))


def fis_released(losses, groups, variant="released", c=0.5, temperature=1.0, with_gradient=False):
    """The group part's softmax runs over known samples; unknown ones have the mean share."""
    n = len(losses)
    o = half_squares(losses, groups)
    known = [g for g in groups.tolist() if g >= 0]
    total = sum(math.exp(o[g] / temperature) for g in known)
    neutral = 1 / (len(known) or n or 1)
    group_part = np.array([math.exp(o[g] / temperature) / total if g >= 0 else neutral for g in groups.tolist()])
    individual = np.exp(losses / temperature) / np.exp(losses / temperature).sum()
    weights = (1 - c) * individual + c * group_part
    # d (s . l) / d l_i = s_i + s_i (l_i - s . l) / T: the softmax is part of the graph.
    through = individual * (losses - individual @ losses) / temperature
    if with_gradient:
        return 2 * (weights + (1 - c) * through) / n
    return float(2 * losses @ weights / max(n, 1))


def fis_released_gradient(losses, groups, **options):
    return fis_released(losses, groups, **options, with_gradient=True)


def distribution_alignment(scores, groups, p):
    known = scores[groups >= 0]
    return sum(quantile_integral(scores[groups == g], known, p) for g in set(groups[groups >= 0].tolist()))
