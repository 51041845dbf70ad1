"""Naive float64 loops for the losses on embeddings; torch scalars, so that autograd gives their gradients. No fairloss."""

from __future__ import annotations

import math

import torch


def columns(groups):
    """Ids as a list of tuples, one id an attribute."""
    return [tuple(row) if isinstance(row, list) else (row,) for row in torch.as_tensor(groups).tolist()]


def unit(row):
    norm = math.sqrt(sum(v**2 for v in row.detach().tolist()))
    return row * 0 if norm == 0 else row / (row * row).sum().sqrt()


def contrastive(embeddings, target, groups, *, temperature=0.07, margin=0.3, queue=(), ignore=-100, paper=False):
    """The printed formula, pair by pair; ``queue``: (unit embedding, label, ids) triples, taken as they are."""
    z = torch.as_tensor(embeddings, dtype=torch.float64)
    anchors = [(unit(z[i]), int(y), d) for i, (y, d) in enumerate(zip(target.tolist(), columns(groups), strict=True))]
    keys = anchors + [(torch.as_tensor(q, dtype=torch.float64), int(y), tuple(d)) for q, y, d in queue]
    total, live = z.sum() * 0, 0
    for i, (zi, yi, di) in enumerate(anchors):
        positives, negatives = [], []
        for a, (za, ya, da) in enumerate(keys):
            if a == i or ignore in (yi, ya):
                continue
            cosine = (zi * za).sum()
            if ya == yi and any(p != q and p >= 0 and q >= 0 for p, q in zip(di, da, strict=True)):
                positives.append(cosine / temperature)
            if ya != yi and float(cosine.detach()) > margin:
                negatives.append(cosine / temperature)
        if not positives:
            continue
        live += 1
        down = sum((torch.exp(s) for s in negatives), torch.zeros((), dtype=torch.float64))
        terms = [-torch.log(torch.exp(s) / (torch.exp(s) + down)) for s in positives]
        total = total + sum(terms) / len(terms)
    return total if paper else total / max(live, 1)


def with_gradient(oracle, embeddings, *args, **kwargs):
    """Value and gradient for the embeddings."""
    z = embeddings.detach().double().clone().requires_grad_()
    value = oracle(z, *args, **kwargs)
    (grad,) = torch.autograd.grad(value, z, allow_unused=True)
    return value.detach(), torch.zeros_like(z) if grad is None else grad


def moments(
    embeddings,
    target,
    groups,
    *,
    num_groups=None,
    cov_weight=1.0,
    normalize=False,
    attribute_reduction="mean",
    variant="default",
    ignore=-100,
):
    """Explicit covariances of every cell, one by one."""
    z = torch.as_tensor(embeddings, dtype=torch.float64)
    if normalize:
        z = torch.stack([unit(row) for row in z]) if len(z) else z
    y, ids = torch.as_tensor(target).tolist(), columns(groups)
    attributes = len(num_groups) if num_groups is not None else len(ids[0]) if ids else 1
    per_attribute = []
    for k in range(attributes):
        total, cells = z.sum() * 0, 0
        for label in sorted(set(y) - {ignore}):
            mus, sigmas = [], []
            for value in sorted({d[k] for d, t in zip(ids, y, strict=True) if t == label and d[k] >= 0}):
                rows = [z[i] for i in range(len(y)) if y[i] == label and ids[i][k] == value]
                mu = sum(rows) / len(rows)
                mus.append(mu)
                if len(rows) > 1:
                    sigmas.append(sum(torch.outer(r - mu, r - mu) for r in rows) / len(rows))
            if len(mus) < 2:
                continue
            cells += len(mus)
            total = total + sum(((mu - sum(mus) / len(mus)) ** 2).sum() for mu in mus)
            if sigmas:
                total = total + cov_weight * sum(((s - sum(sigmas) / len(sigmas)) ** 2).sum() for s in sigmas)
        per_attribute.append(total if variant == "paper" else total / max(cells, 1))
    stacked = torch.stack(per_attribute)
    return {"sum": stacked.sum, "mean": stacked.mean, "max": stacked.max}[
        "sum" if variant == "paper" else attribute_reduction
    ]()


def adversary(z, ids, labels, layers, sizes, *, criterion, classes):
    """The adversary's loss sample by sample; ``layers``: (weight, bias) pairs in float64."""
    ids, per_attribute, start = columns(ids), [], 0
    for k, size in enumerate(sizes):
        cells = {}
        for i, d in enumerate(ids):
            x = z[i]
            if classes:
                if labels[i] < 0:
                    continue
                x = torch.cat([x, torch.eye(classes, dtype=torch.float64)[labels[i]]])
            if d[k] < 0:
                continue
            for j, (weight, bias) in enumerate(layers):
                x = weight @ (x if j == 0 else x.clamp(min=0)) + bias
            p = torch.softmax(x[start : start + size], 0)[d[k]]
            error = -torch.log(p) if criterion == "cross_entropy" else 1 - p
            cells.setdefault((labels[i] if classes else 0, d[k]), []).append(error)
        means = [sum(errors) / len(errors) for errors in cells.values()]
        per_attribute.append(sum(means) / len(means) if means else z.sum() * 0)
        start += size
    return sum(per_attribute) / len(per_attribute)
