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
