"""Naive float64 oracles of transport, identity scaling, error-bound scaling and distillation; none imports fairloss."""

from __future__ import annotations

import math

import numpy as np


def wasserstein(a, b):
    """POT's W_2^2; imported here, so that the other oracles need nothing but NumPy."""
    import ot

    return ot.wasserstein_1d(a, b, p=2)


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
        o = wasserstein(mine, known) / 2
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


def softmax(x, axis):
    e = np.exp(x - x.real.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def one_hot(target, num_classes):
    """(B, *spatial) ids -> (B, C, P); float targets (B, C, *spatial) are flattened."""
    if target.dtype.kind == "f":
        return target.reshape(*target.shape[:2], -1)
    flat = target.reshape(target.shape[0], -1)
    return np.stack([(flat == c).astype(float) for c in range(num_classes)], axis=1)


def dice_losses(p, t, smooth=1e-5):
    """1 - Dice a class of (B, C, P) probabilities and targets, all samples pooled."""
    return np.array(
        [
            1 - (2 * (p[:, c] * t[:, c]).sum() + smooth) / ((p[:, c] ** 2).sum() + (t[:, c] ** 2).sum() + smooth)
            for c in range(p.shape[1])
        ]
    )


def febs_weights(p, t, groups, gamma, max_weight, variant):
    """Weight a group (a dict) from the groups' own pools."""
    errors = {g: dice_losses(p[groups == g], t[groups == g]).sum() for g in sorted(set(groups.tolist())) if g >= 0}
    if variant == "released":
        best = min(errors.values(), default=1.0)
        return {g: math.tanh((best / error if error > 0 else 1.0) ** gamma) for g, error in errors.items()}
    mean, e = sum(errors.values()) / max(len(errors), 1), 1e-3 * p.shape[1]
    return {g: min(max((v + e) / (mean + e), 1 / max_weight), max_weight) ** gamma for g, v in errors.items()}


def febs(
    logits, target, groups, gamma=1.0, max_weight=10.0, dice_weight=1.0, include_background=True, variant="default",
    weights=None,
):  # fmt: skip
    """Loops over groups; ``weights`` replaces the groups' weights, as detaching them does."""
    n, classes = logits.shape[:2]
    if n == 0:
        return 0.0
    p_all = softmax(logits.reshape(n, classes, -1), 1)
    t_all = one_hot(target, classes)
    first = 0 if include_background else 1
    p, t = p_all[:, first:], t_all[:, first:]
    w = febs_weights(p, t, groups, gamma, max_weight, variant) if weights is None else weights
    if variant == "released":
        scale = np.array([w.get(g, 1.0) for g in groups.tolist()])[:, None, None]
        dice = dice_losses(scale * p, t).mean()
    else:
        pools = [(w[g], dice_losses(p[groups == g], t[groups == g]).sum()) for g in w]
        if (groups == -1).any():
            pools.append((1.0, dice_losses(p[groups == -1], t[groups == -1]).sum()))
        dice = sum(a * b for a, b in pools) / (p.shape[1] * sum(a for a, _ in pools))
    value = dice_weight * dice - (1 - dice_weight) * (t_all * np.log(p_all)).sum(1).mean()
    return value if np.iscomplexobj(value) else float(value)


def febs_gradient(logits, target, groups, **options):
    """Complex steps, exact to rounding, with the weights held fixed."""
    n, classes = logits.shape[:2]
    first = 0 if options.get("include_background", True) else 1
    p, t = softmax(logits.reshape(n, classes, -1), 1)[:, first:], one_hot(target, classes)[:, first:]
    settings = {"gamma": 1.0, "max_weight": 10.0, "variant": "default"} | options
    w = febs_weights(p, t, groups, settings["gamma"], settings["max_weight"], settings["variant"])
    grad = np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        moved = logits.astype(complex)
        moved[index] += 1e-30j
        grad[index] = febs(moved, target, groups, weights=w, **options).imag / 1e-30
    return grad


def route(per_group, groups):
    """Rows of each sample's own group, one at a time; the mean over groups where it is unknown."""
    return np.array([per_group[g, i] if g >= 0 else per_group[:, i].mean(axis=0) for i, g in enumerate(groups)])


def sample_losses(logits, target):
    """Mean cross-entropy over pixels of each sample; (N,) or (N, 1) logits are binary."""
    n = len(logits)
    if logits.ndim == 1 or logits.shape[1] == 1:
        z, y = logits.reshape(n), target.reshape(n)
        return np.log1p(np.exp(z)) - y * z
    logp = np.log(softmax(logits.reshape(n, logits.shape[1], -1), 1))
    return -(one_hot(target.reshape(n, *target.shape[1:]), logits.shape[1]) * logp).sum(1).mean(1)


def fair_distillation(
    input, target, groups, teacher_logits, distill_weight=0.95, temperature=1.5,
    direction="teacher||student", variant="default", task=None,
):  # fmt: skip
    n = len(input)
    if n == 0:
        return 0.0
    teacher = teacher_logits if teacher_logits.ndim == input.ndim else route(teacher_logits, groups)
    binary = input.ndim == 1 or input.shape[1] == 1

    def classes(logits):
        if binary:
            return np.stack([np.zeros(n), logits.reshape(n)], 1)[:, :, None]
        return logits.reshape(n, logits.shape[1], -1)

    p_s = softmax(classes(input) / (1.0 if variant == "paper" else temperature), 1)
    p_t = softmax(classes(teacher) / temperature, 1)
    if variant == "paper" or direction == "student||teacher":
        p_s, p_t = p_t, p_s
    divergence = (p_t * np.log(p_t / p_s)).sum(1).mean()
    if task is None:
        losses = sample_losses(input, target)
        fair = fis_default(losses, groups)
    else:
        fair = task(input, target, groups)
    return float(distill_weight * temperature**2 * divergence + (1 - distill_weight) * fair)


def fair_distillation_gradient(input, target, groups, teacher_logits, **options):
    """Central differences of fourth order, with the weights held fixed."""
    grad = np.zeros_like(input)
    losses = sample_losses(input, target)
    weights = fis_default_weights(losses, groups)  # detached
    task = options.pop("task", None)
    if task is None:

        def task(logits, target, groups):
            return float((weights * sample_losses(logits, target)).mean())

    for index in np.ndindex(input.shape):
        values = []
        for step in (-2, -1, 1, 2):
            moved = input.copy()
            moved[index] += step * 2e-3
            values.append(fair_distillation(moved, target, groups, teacher_logits, task=task, **options))
        grad[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 24e-3
    return grad
