"""Naive float64 renderings of the losses: loops over samples and groups, nothing from fairloss."""

from __future__ import annotations

import numpy as np


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def likelihoods(input: np.ndarray, target: np.ndarray, kind: str, token_reduction: str = "mean") -> list[float]:
    """Probability of the given label of each sample; None where all of its targets are ignored (-100)."""
    if kind == "dense":
        input, kind = np.moveaxis(input, 1, -1), "tokens"
    out: list[float | None] = []
    for i in range(len(input)):
        if kind == "binary":
            p, t = float(sigmoid(input[i].reshape(-1))[0]), float(target[i].reshape(-1)[0])
            out.append(t * p + (1 - t) * (1 - p))
        elif kind == "multilabel":
            p = sigmoid(input[i])
            right = [t * q + (1 - t) * (1 - q) for q, t in zip(p, target[i], strict=True) if not np.isnan(t)]
            out.append(float(np.mean(right)) if right else None)
        elif kind == "soft":
            out.append(float((softmax(input[i]) * target[i]).sum()))
        elif kind == "multiclass":
            out.append(None if target[i] == -100 else float(softmax(input[i])[target[i]]))
        elif kind == "tokens":
            logs = [np.log(softmax(row)[t]) for row, t in zip(input[i], target[i], strict=True) if t != -100]
            total = sum(logs) if token_reduction == "sum" or not logs else sum(logs) / len(logs)
            out.append(float(np.exp(total)) if logs else None)
    return out


def group_means(values: list, groups: np.ndarray) -> dict[int, float]:
    """Mean of each group present; samples of value None and of group -1 left out."""
    members: dict[int, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if group >= 0 and value is not None:
            members.setdefault(int(group), []).append(float(value))
    return {g: sum(v) / len(v) for g, v in members.items()}


def gap_of(means: dict[int, float], smoothing: float | None = None) -> float:
    if len(means) < 2:
        return 0.0
    m = np.array(list(means.values()))
    if smoothing is None:
        return float(m.max() - m.min())
    return float((softmax(m / smoothing) * m).sum() - (softmax(-m / smoothing) * m).sum())


def reduce_attributes(values: list[float], reduction: str = "mean") -> float:
    return {"mean": np.mean, "sum": np.sum, "max": np.max}[reduction](values)


def group_gap(values, groups, smoothing=None, attribute_reduction="mean") -> float:
    columns = groups.reshape(len(groups), -1).T
    return float(
        reduce_attributes([gap_of(group_means(list(values), c), smoothing) for c in columns], attribute_reduction)
    )


def max_acc_gap(
    input, target, groups, kind="multiclass", smoothing=None, attribute_reduction="mean", token_reduction="mean"
) -> float:
    probs = likelihoods(input, target, kind, token_reduction)
    columns = groups.reshape(len(groups), -1).T
    return float(reduce_attributes([gap_of(group_means(probs, c), smoothing) for c in columns], attribute_reduction))


def loss_variance(values, groups, attribute_reduction="mean") -> float:
    means = [list(group_means(list(values), c).values()) for c in groups.reshape(len(groups), -1).T]
    return float(reduce_attributes([np.var(m) if m else 0.0 for m in means], attribute_reduction))


def inverse_frequency_weights(counts, max_weight=10.0) -> list[float]:
    total = sum(counts)
    return [min(total / c, max_weight) if c else max_weight for c in counts]


def inverse_frequency_weighting(
    values, groups, counts, max_weight=10.0, variant="default", normalize="constant"
) -> float:
    w = inverse_frequency_weights(counts, max_weight=max_weight)
    if variant == "paper":
        return float(sum(w[g] * m for g, m in group_means(list(values), groups).items()))
    wbar = sum(c / sum(counts) * x for c, x in zip(counts, w, strict=True))
    scale = wbar if normalize == "constant" else 1.0
    weights = [1.0 if g < 0 else w[g] / scale for g in groups]
    total = sum(a * b for a, b in zip(weights, values, strict=True))
    if not len(values):
        return 0.0
    return float(total / (len(values) if normalize == "constant" else sum(weights)))


def cross_entropy_mean(
    input, target, kind, group_weights=None, groups=None, weight=None, pos_weight=None, label_smoothing=0.0
) -> float:
    """Mean of the weighted cross-entropies; torch's meanings of ``weight`` and ``label_smoothing``."""
    total, norm = 0.0, 0.0
    if kind == "dense":
        input, kind = np.moveaxis(input, 1, -1), "tokens"
    for i in range(len(input)):
        v = 1.0 if group_weights is None or groups[i] < 0 else group_weights[groups[i]]
        if kind in ("binary", "multilabel"):
            xs, ts = np.atleast_1d(input[i]), np.atleast_1d(target[i])
            losses = []
            for c, (x, t) in enumerate(zip(xs, ts, strict=True)):
                if np.isnan(t):
                    continue
                t = t * (1 - label_smoothing) + label_smoothing / 2
                p, pw = float(sigmoid(np.array([x]))[0]), 1.0 if pos_weight is None else pos_weight[c % len(pos_weight)]
                losses.append(-(pw * t * np.log(p) + (1 - t) * np.log1p(-p)) * (1.0 if weight is None else weight[c]))
            total, norm = total + v * float(np.sum(losses)), norm + len(losses)
            continue
        for x, t in [(input[i], target[i])] if kind != "tokens" else zip(input[i], target[i], strict=True):
            logp = np.log(softmax(x))
            w = np.ones(len(x)) if weight is None else np.asarray(weight)
            if kind == "soft":
                dist = t * (1 - label_smoothing) + label_smoothing / len(x)
                total, norm = total - v * float((dist * w * logp).sum()), norm + 1
            elif t != -100:
                loss = -(1 - label_smoothing) * w[t] * logp[t] - label_smoothing / len(x) * float((w * logp).sum())
                total, norm = total + v * float(loss), norm + float(w[t])
    return total / norm if norm else 0.0


def positive_rate_gaps(p, labels, groups, which, smoothing=None, attribute_reduction="mean") -> list[float]:
    """Gap between groups of the mean probability, one a column; ``which``: all, positives or negatives."""
    gaps = []
    for c in range(p.shape[1]):
        each = []
        for ids in groups.reshape(len(groups), -1).T:
            sums: dict[int, list[float]] = {}
            for i, g in enumerate(ids):
                w = {"all": 1.0, "positives": labels[i, c], "negatives": 1 - labels[i, c]}[which]
                if g >= 0 and w > 0:
                    s = sums.setdefault(int(g), [0.0, 0.0])
                    s[0] += w * p[i, c]
                    s[1] += w
            each.append(gap_of({g: a / b for g, (a, b) in sums.items()}, smoothing))
        gaps.append(float(reduce_attributes(each, attribute_reduction)))
    return gaps


def columns_of(input, target, kind, positive_class=None):
    if kind == "multiclass":
        p = softmax(input)
        labels = np.eye(input.shape[1])[target]
        return (p, labels) if positive_class is None else (p[:, [positive_class]], labels[:, [positive_class]])
    n = len(input)
    return sigmoid(input).reshape(n, -1), np.asarray(target, dtype=float).reshape(n, -1)


def demographic_parity(input, target, groups, kind="binary", positive_class=None) -> float:
    p, labels = columns_of(input, target, kind, positive_class)
    return float(np.mean(positive_rate_gaps(p, labels, groups, "all")))


def equal_opportunity(input, target, groups, kind="binary", positive_class=None) -> float:
    p, labels = columns_of(input, target, kind, positive_class)
    return float(np.mean(positive_rate_gaps(p, labels, groups, "positives")))


def equalized_odds(input, target, groups, kind="binary", agg="mean", **options) -> float:
    p, labels = columns_of(input, target, kind)
    tpr = np.array(positive_rate_gaps(p, labels, groups, "positives", **options))
    fpr = np.array(positive_rate_gaps(p, labels, groups, "negatives", **options))
    return float(((tpr + fpr) / 2 if agg == "mean" else np.maximum(tpr, fpr)).mean())


def group_dro_step(
    values, groups, log_q, seen, losses, step_size, counts=None, adjustment=0.0, released=False, shares=None, cap=20.0
):
    """One training step of group DRO: value, new log q (unnormalised), new counts and sums of losses seen."""
    size = len(log_q)
    sums, n = [0.0] * size, [0] * size
    for v, g in zip(values, groups, strict=True):
        if g >= 0:
            sums[g] += float(v)
            n[g] += 1
    keep = 0.5 ** (sum(n) / 10_000)
    seen = [keep * a + b for a, b in zip(seen, n, strict=True)]
    losses = [keep * a + b for a, b in zip(losses, sums, strict=True)]
    center = sum(losses) / sum(seen) if sum(seen) else 0.0
    extra = [c / np.sqrt(m) for c, m in zip(np.broadcast_to(adjustment, size), counts or [1] * size, strict=True)]
    estimates, steps = [0.0] * size, [0.0] * size
    for g in range(size):
        if released:
            estimates[g] = steps[g] = sums[g] / max(n[g], 1)
        elif n[g]:
            basis = shares or seen
            weight = min(sum(basis) / basis[g], cap) / sum(n)
            estimates[g] = sums[g] * weight
            steps[g] = sum((float(v) - center) * weight for v, i in zip(values, groups, strict=True) if i == g)
    log_q = [a + step_size * (b + e) for a, b, e in zip(log_q, steps, extra, strict=True)]
    if released:
        estimates = [a + b for a, b in zip(estimates, extra, strict=True)]
    live = [released or s > 0 for s in seen]
    top = max([a for a, alive in zip(log_q, live, strict=True) if alive], default=0.0)
    q = [np.exp(a - top) if alive else 0.0 for a, alive in zip(log_q, live, strict=True)]
    total = sum(q)
    value = sum(a / total * b for a, b in zip(q, estimates, strict=True)) if total else 0.0
    return value, log_q, seen, losses
