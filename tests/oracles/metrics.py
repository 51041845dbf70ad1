"""Naive float64 loops for the metrics, written from the formulas; nothing here comes from fairloss."""

from __future__ import annotations

import math


def auc(y, s, w=None, tie=0.5):
    w = [1.0] * len(y) if w is None else w
    won = total = 0.0
    for i in range(len(y)):
        for j in range(len(y)):
            if y[i] == 1 and y[j] == 0:
                pair = w[i] * w[j]
                total += pair
                won += pair * (1.0 if s[i] > s[j] else tie if s[i] == s[j] else 0.0)
    return won / total if total else math.nan


def confusion(y, d, w=None):
    w = [1.0] * len(y) if w is None else w
    tp = sum(wi for yi, di, wi in zip(y, d, w, strict=True) if yi == 1 and di == 1)
    fp = sum(wi for yi, di, wi in zip(y, d, w, strict=True) if yi == 0 and di == 1)
    fn = sum(wi for yi, di, wi in zip(y, d, w, strict=True) if yi == 1 and di == 0)
    tn = sum(wi for yi, di, wi in zip(y, d, w, strict=True) if yi == 0 and di == 0)
    return tp, fp, fn, tn


def rate(name, y, d, w=None):
    tp, fp, fn, tn = confusion(y, d, w)
    top, bottom = {
        "accuracy": (tp + tn, tp + fp + fn + tn),
        "tpr": (tp, tp + fn),
        "tnr": (tn, tn + fp),
        "fpr": (fp, tn + fp),
        "fnr": (fn, tp + fn),
        "precision": (tp, tp + fp),
        "fdr": (fp, tp + fp),
        "f1": (2 * tp, 2 * tp + fp + fn),
        "positive_rate": (tp + fp, tp + fp + fn + tn),
        "prevalence": (tp + fn, tp + fp + fn + tn),
    }[name]
    return top / bottom if bottom else math.nan


def ece(y, p, edges, w=None):
    """sum_b (n_b / n) |mean p - mean y| over bins (edge_b, edge_b+1], the first closed on the left, too."""
    w = [1.0] * len(y) if w is None else w
    total, error = sum(w), 0.0
    for b in range(len(edges) - 1):
        inside = [
            i
            for i in range(len(y))
            if (p[i] > edges[b] or b == 0) and (p[i] <= edges[b + 1] or b == len(edges) - 2) and w[i] > 0
        ]
        mass = sum(w[i] for i in inside)
        if mass:
            mean_p = sum(w[i] * p[i] for i in inside) / mass
            mean_y = sum(w[i] * y[i] for i in inside) / mass
            error += mass / total * abs(mean_p - mean_y)
    return error


def f1_best_threshold(y, s):
    best, where = -1.0, None
    for t in sorted(set(s)):
        tp, fp, fn, _ = confusion(y, [int(v >= t) for v in s])
        f1 = 2 * tp / (2 * tp + fp + fn)
        if f1 > best + 1e-15:
            best, where = f1, t
    return where


def by_group(metric, groups, *columns):
    """metric(columns of group g) for each sorted known label."""
    return {
        g: metric(*[[c[i] for i in range(len(groups)) if groups[i] == g] for c in columns])
        for g in sorted({g for g in groups if g is not None})
    }


def fairgrpo_macro(name, y, answers):
    """One-vs-rest over the classes present; F1 and FDR 0 without predictions (per published tables)."""
    total, classes = 0.0, sorted(set(y))
    for c in classes:
        t, d = [int(v == c) for v in y], [int(v == c) for v in answers]
        total += 0.0 if name in ("f1", "fdr") and not any(d) else rate(name, t, d)
    return total / len(classes)
