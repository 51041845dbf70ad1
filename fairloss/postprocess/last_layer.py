"""A new last layer from balanced data, on embeddings that are left as they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.groups.encode import UNKNOWN, encode_groups
from fairloss.metrics.arrays import Floats, Ints, as_array, as_finite, as_groups, before_the_call

if TYPE_CHECKING:
    from torch import nn

__all__ = ["retrain_last_layer"]


def retrain_last_layer(
    embeddings: Any,
    y: Any,
    groups: Any,
    *,
    strengths: Sequence[float] = (1.0, 0.1, 0.01, 0.001),
    subsamples: int = 10,
    num_outputs: int | None = None,
    seed: int = 0,
) -> nn.Linear:
    """Logistic regression on subsamples with as many samples of every group and label, averaged.

    C is the largest of ``strengths`` with the best accuracy of the worst group and label, on halves that were left out; the
    layer is then fitted on all the data. Embeddings are standardized, and the layer takes them as they were.

    Args:
        embeddings: (N, D) what the network's last layer is given, on data that the network was not trained on, if there is any.
        y: (N,) labels 0 .. C - 1.
        groups: (N,) group labels; samples of unknown group are left out.
        strengths: inverse strengths of the L2 penalty to choose from, > 0 (scikit-learn's C).
        subsamples: how many are averaged.
        num_outputs: of the layer; None: 1 for two classes, else C. 2 for two classes gives two logits.
        seed: of subsamples and halves.

    Returns:
        A float32 layer (D -> num_outputs) of logits.

    Raises:
        ValueError: shapes that do not fit, fewer than two samples of some group and label that occurs, one class alone.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y, g = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
        >>> x = rng.standard_normal((200, 4)) + y[:, None]
        >>> retrain_last_layer(x, y, g)
        Linear(in_features=4, out_features=1, bias=True)

    References:
        Kirichenko et al., *Last Layer Re-Training is Sufficient for Robustness to Spurious Correlations*, ICLR 2023,
        https://arxiv.org/abs/2204.02937. Theirs has an L1 penalty.
    """
    import torch
    from sklearn.preprocessing import StandardScaler

    x, labels = as_finite(embeddings, "embeddings"), as_array(y, "y")
    if x.ndim != 2 or labels.shape != (len(x),):
        raise ValueError(expected("embeddings", "(N, D), with (N,) labels", f"shapes {x.shape} and {labels.shape}"))
    if not isinstance(strengths, Sequence) or not len(strengths):
        raise ValueError(expected("strengths", "a sequence of numbers > 0", repr(strengths)))
    for strength in strengths:
        checks.number("strengths", strength, above=0)
    checks.integer("subsamples", subsamples, minimum=1)
    ids = as_groups(groups, len(x), option=before_the_call).ids
    known = ids != UNKNOWN
    x, labels, ids = x[known], labels[known], ids[known]
    classes = np.unique(labels)
    if labels.dtype.kind not in "biu" or not np.array_equal(classes, np.arange(len(classes))) or len(classes) < 2:
        cure = f"number them: {encode_groups.__name__}(y).ids"
        raise ValueError(expected("y", "labels 0 .. C - 1, each of them, C >= 2", f"{list(classes[:5])}", cure))
    wanted = num_outputs if num_outputs is not None else (1 if len(classes) == 2 else len(classes))
    if wanted not in ({1, 2} if len(classes) == 2 else {len(classes)}):
        raise ValueError(expected("num_outputs", f"what {len(classes)} classes need", wanted))
    strata = np.unique(np.stack([ids, labels.astype(np.int64)]), axis=1, return_inverse=True)[1].ravel()
    sizes = np.bincount(strata)
    if sizes.min() < 2:
        raise ValueError(
            expected("groups", "at least two samples of every group and label that occur", f"{sizes.min()}")
        )
    scaler = StandardScaler().fit(x)
    z = scaler.transform(x)
    rng = np.random.default_rng(seed)
    chosen = _strength(z, labels, strata, sorted(strengths, reverse=True), rng)
    layers = [_fitted(z, labels, _balanced(strata, rng), chosen) for _ in range(subsamples)]
    weight, bias = (np.mean([layer[i] for layer in layers], axis=0) for i in (0, 1))
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    if wanted == 2 and len(classes) == 2:
        weight, bias = (np.concatenate([-part / 2, part / 2]) for part in (weight, bias))
    layer = torch.nn.Linear(x.shape[1], wanted)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def _balanced(strata: Ints, rng: np.random.Generator) -> Ints:
    """As many samples of every stratum as the smallest has."""
    size = np.bincount(strata).min()
    members = [np.flatnonzero(strata == s) for s in range(strata.max() + 1)]
    return np.sort(np.concatenate([rng.choice(of, size, replace=False) for of in members]))


def _fitted(z: Floats, y: Ints, index: Ints, strength: float) -> tuple[Floats, Floats]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=5000).fit(z[index], y[index])
    return model.coef_, model.intercept_


def _strength(z: Floats, y: Ints, strata: Ints, strengths: Sequence[float], rng: np.random.Generator) -> float:
    """The strength with the best worst stratum, over three splits into halves."""
    if len(strengths) == 1:
        return strengths[0]
    worst = np.zeros(len(strengths))
    for _ in range(3):
        order = rng.permutation(len(strata))
        rank = np.empty(len(strata), dtype=np.int64)  # of a sample within its stratum, in random order
        for s in range(strata.max() + 1):
            of = order[strata[order] == s]
            rank[of] = np.arange(len(of))
        train, test = np.flatnonzero(rank % 2 == 0), np.flatnonzero(rank % 2 == 1)
        index = train[_balanced(strata[train], rng)]
        for i, strength in enumerate(strengths):
            weight, bias = _fitted(z, y, index, strength)
            logits = z[test] @ weight.T + bias
            guess = logits.argmax(axis=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).astype(np.int64)
            right = np.bincount(strata[test], guess == y[test]) / np.bincount(strata[test])
            worst[i] += right.min()
    return strengths[int(np.argmax(worst))]
