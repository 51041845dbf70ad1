"""The arms of the fairness benchmark: what each trains and its three settings, weakest first.

An arm is ``fit(fold, setting, seed, sizes)`` and returns a :class:`Fitted`: scores, and decisions where these are not
"score >= 0.5". Every arm has :data:`SETTINGS` settings; plain training, which has no strength, gets as many learning rates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from torch.utils.data import BatchSampler, WeightedRandomSampler

import fairloss as fl

from .fairness_data import Fold, Part, Sizes
from .fairness_train import WIDTH, Batches, Loss, Network, embed, repeated, scores, train

SETTINGS = 3
MEMORY = 256  # values a group in the memories, embeddings in the queue


@dataclass(frozen=True)
class Fitted:
    """``score(part)`` gives (N,) probabilities; ``decide(part, score)`` 0/1 decisions."""

    score: Callable[[Part], NDArray[np.float64]]
    decide: Callable[[Part, NDArray[np.float64]], NDArray[np.int64]] | None = None


def fitted(network: Network) -> Fitted:
    return Fitted(partial(scores, network))


Fit = Callable[[Fold, Any, int, Sizes], Fitted]
MakeLoss = Callable[[Fold, Any], "Loss | tuple[Loss, Sequence[nn.Parameter]]"]
MakeBatches = Callable[[Fold, Any, int, Sizes], Batches]


@dataclass(frozen=True)
class Method:
    """One arm."""

    fit: Fit
    option: str  # what its settings vary
    settings: tuple[Any, ...]
    ours: bool = True


def by_loss(make: MakeLoss) -> Fit:
    """An arm that changes the loss."""

    def fit(fold: Fold, setting: Any, seed: int, sizes: Sizes) -> Fitted:
        torch.manual_seed(seed)
        made = make(fold, setting)
        loss, parameters = made if isinstance(made, tuple) else (made, ())
        return fitted(train(fold, seed, sizes.steps, sizes.batch, loss=loss, parameters=parameters))

    return fit


def by_batches(make: MakeBatches) -> Fit:
    """An arm that changes which samples are drawn."""

    def fit(fold: Fold, setting: Any, seed: int, sizes: Sizes) -> Fitted:
        batches = make(fold, setting, seed, sizes)
        return fitted(train(fold, seed, sizes.steps, sizes.batch, batches=batches))

    return fit


# What people use without this library.


def plain(fold: Fold, rate: float, seed: int, sizes: Sizes) -> Fitted:
    return fitted(train(fold, seed, sizes.steps, sizes.batch, rate=rate))


def resampling(fold: Fold, power: float, seed: int, sizes: Sizes) -> Batches:
    chance = torch.tensor(fold.counts, dtype=torch.float64)[fold.train.g] ** -power
    n, generator = len(fold.train), torch.Generator().manual_seed(seed)
    sampler = WeightedRandomSampler(chance.tolist(), n - n % sizes.batch, generator=generator)
    return repeated(BatchSampler(sampler, sizes.batch, drop_last=True))


def weight_averaging(fold: Fold, setting: dict[str, float], seed: int, sizes: Sizes) -> Fitted:
    return fitted(train(fold, seed, sizes.steps, sizes.batch, average=setting))


class _Given(BaseEstimator):
    """fairlearn's estimator: the score is its one feature."""

    def fit(self, x: Any, y: Any) -> _Given:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, x: Any) -> NDArray[np.float64]:
        p = np.asarray(x, dtype=np.float64)[:, 0]
        return np.stack([1 - p, p], 1)


def threshold_optimizer(fold: Fold, constraints: str, seed: int, sizes: Sizes) -> Fitted:
    """Plain training; thresholds a group from the validation data. Needs the group of every test sample."""
    from fairlearn.postprocessing import ThresholdOptimizer

    network = train(fold, seed, sizes.steps, sizes.batch)
    optimizer = ThresholdOptimizer(
        estimator=_Given(),
        constraints=constraints,
        objective="accuracy_score",
        prefit=True,
        predict_method="predict_proba",
    )
    valid = scores(network, fold.valid)[:, None]
    optimizer.fit(valid, fold.valid.y.numpy(), sensitive_features=fold.valid.g.numpy())

    def decide(part: Part, score: NDArray[np.float64]) -> NDArray[np.int64]:
        found = optimizer.predict(score[:, None], sensitive_features=part.g.numpy(), random_state=seed)
        return np.asarray(found, dtype=np.int64)

    return Fitted(partial(scores, network), decide)


# Losses on logits.


def gap_weight(fold: Fold, weight: float, *, counts: bool = False) -> Loss:
    memory = fl.GroupMemory(fold.num_groups, capacity=MEMORY, shares=fold.counts)
    group_counts = fold.counts if counts else None
    criterion = fl.FairCrossEntropyLoss(fold.num_groups, gap_weight=weight, group_counts=group_counts, memory=memory)
    return lambda z, logits, y, g: criterion(logits, y, g)


def group_counts(fold: Fold, max_weight: float) -> Loss:
    criterion = fl.FairCrossEntropyLoss(fold.num_groups, group_counts=fold.counts, max_weight=max_weight)
    return lambda z, logits, y, g: criterion(logits, y, g)


def beside_cross_entropy(make: Callable[[Fold], Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]]) -> MakeLoss:
    """Cross-entropy + weight x term."""

    def make_loss(fold: Fold, weight: float) -> Loss:
        term = make(fold)
        return lambda z, logits, y, g: F.cross_entropy(logits, y) + weight * term(z, logits, y, g)

    return make_loss


def max_acc_gap(fold: Fold) -> Loss:
    term = fl.MaxAccGapLoss(fold.num_groups, smoothing=0.1)
    return lambda z, logits, y, g: term(logits, y, g)


def parity(kind: Any) -> Callable[[Fold], Loss]:
    def make(fold: Fold) -> Loss:
        term = kind(fold.num_groups)
        return lambda z, logits, y, g: term(logits, y, g)

    return make


def loss_variance(fold: Fold) -> Loss:
    term = fl.LossVarianceLoss(fold.num_groups)
    return lambda z, logits, y, g: term(F.cross_entropy(logits, y, reduction="none"), g)


def distribution_alignment(fold: Fold) -> Loss:
    term = fl.DistributionAlignmentLoss(fold.num_groups)
    return lambda z, logits, y, g: term(logits.softmax(1)[:, 1], g)


# Losses on the cross-entropy of every sample.


def inverse_frequency(fold: Fold, max_weight: float) -> Loss:
    """By group *and label*, which weighs a rare group's rare class most; ``group_counts`` above weighs groups alone."""
    cells = torch.bincount(fold.train.g * 2 + fold.train.y, minlength=2 * fold.num_groups).clamp(min=1)
    criterion = fl.InverseFrequencyWeighting(cells, max_weight=max_weight)
    return lambda z, logits, y, g: criterion(F.cross_entropy(logits, y, reduction="none"), g * 2 + y)


def group_dro(fold: Fold, step_size: float) -> Loss:
    criterion = fl.GroupDROLoss(fold.num_groups, step_size=step_size, shares=fold.counts)
    return lambda z, logits, y, g: criterion(F.cross_entropy(logits, y, reduction="none"), g)


def fis(fold: Fold, c: float) -> Loss:
    criterion = fl.FISLoss(fold.num_groups, c=c)
    return lambda z, logits, y, g: criterion(F.cross_entropy(logits, y, reduction="none"), g)


# Losses on embeddings.


def contrastive(fold: Fold) -> Loss:
    term = fl.CrossGroupContrastiveLoss(memory=fl.EmbeddingQueue(MEMORY, dim=WIDTH))
    return lambda z, logits, y, g: term(z, y, g)


def moments(fold: Fold) -> Loss:
    term = fl.MomentAlignmentLoss(fold.num_groups, num_classes=2, normalize=True)
    return lambda z, logits, y, g: term(z, y, g)


def adversarial(fold: Fold, scale: float) -> tuple[Loss, Sequence[nn.Parameter]]:
    term = fl.AdversarialGroupLoss(fold.num_groups, embedding_dim=WIDTH, scale=scale, num_classes=2)
    return lambda z, logits, y, g: F.cross_entropy(logits, y) + term(z, g, target=y), list(term.parameters())


# Two stages, and samplers.


def fair_distillation(fold: Fold, weight: float, seed: int, sizes: Sizes) -> Fitted:
    """The paper's three steps: FIS, a head a group on the frozen encoder, one student head taught by them."""
    torch.manual_seed(seed)
    network = train(fold, seed, sizes.steps, sizes.batch, loss=fis(fold, 0.5))
    z, y, g = embed(network, fold.train), fold.train.y, fold.train.g
    heads = fl.GroupHeads(fold.num_groups, in_features=WIDTH, num_classes=2)
    individual = fl.FISLoss(fold.num_groups, c=0.0)
    draw = torch.Generator().manual_seed(seed)

    def steps(module: nn.Module, loss: Callable[[Tensor], Tensor]) -> None:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
        for _ in range(sizes.steps // 2):
            value = loss(torch.randint(len(y), (sizes.batch,), generator=draw))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    def teach(rows: Tensor) -> Tensor:
        losses, of = F.cross_entropy(heads(z[rows], g[rows]), y[rows], reduction="none"), g[rows]
        return torch.stack([individual(losses[of == k], of[of == k]) for k in of.unique().tolist()]).sum()

    steps(heads, teach)
    with torch.no_grad():
        teachers = heads(z)
    student = nn.Linear(WIDTH, 2)
    criterion = fl.FairDistillationLoss(fold.num_groups, distill_weight=weight)
    steps(student, lambda rows: criterion(student(z[rows]), y[rows], g[rows], teacher_logits=teachers[:, rows]))
    network.head = student
    return fitted(network)


def balanced_sampler(fold: Fold, max_ratio: float, seed: int, sizes: Sizes) -> Batches:
    sampler = fl.BalancedGroupSampler(fold.train.g, max_ratio=max_ratio, seed=seed)
    return repeated(BatchSampler(sampler, sizes.batch, drop_last=True))


def batch_sampler(fold: Fold, min_per_group: int, seed: int, sizes: Sizes) -> Batches:
    return repeated(fl.GroupBatchSampler(fold.train.g, batch_size=sizes.batch, min_per_group=min_per_group, seed=seed))


GAP_WEIGHTS = (0.1, 0.3, 1.0)
PARITIES = ("true_positive_rate_parity", "equalized_odds", "demographic_parity")

PLAIN, RESAMPLING = "Plain", "Resampling"
METHODS: dict[str, Method] = {
    PLAIN: Method(plain, "learning rate x", (0.5, 1.0, 2.0), ours=False),
    RESAMPLING: Method(by_batches(resampling), "power", (0.5, 0.75, 1.0), ours=False),
    "Weight averaging": Method(
        weight_averaging, "SWA from, EMA decay", ({"decay": 0.97}, {"start": 0.75}, {"start": 0.5}), ours=False
    ),
    "ThresholdOptimizer": Method(threshold_optimizer, "constraints", PARITIES, ours=False),
    "FR": Method(by_loss(gap_weight), "gap_weight", GAP_WEIGHTS),
    "GR": Method(by_loss(group_counts), "max_weight", (3.0, 10.0, 30.0)),
    "Hybrid": Method(by_loss(partial(gap_weight, counts=True)), "gap_weight", GAP_WEIGHTS),
    "MaxAccGap": Method(by_loss(beside_cross_entropy(max_acc_gap)), "weight", GAP_WEIGHTS),
    "InverseFrequency": Method(by_loss(inverse_frequency), "max_weight", (5.0, 15.0, 60.0)),
    "GroupDRO": Method(by_loss(group_dro), "step_size", (0.001, 0.01, 0.03)),
    "LossVariance": Method(by_loss(beside_cross_entropy(loss_variance)), "weight", (0.1, 0.3, 1.0)),
    "DemographicParity": Method(by_loss(beside_cross_entropy(parity(fl.DemographicParityLoss))), "weight", GAP_WEIGHTS),
    "EqualizedOdds": Method(by_loss(beside_cross_entropy(parity(fl.EqualizedOddsLoss))), "weight", GAP_WEIGHTS),
    "FIS": Method(by_loss(fis), "c", (0.25, 0.5, 1.0)),
    "DistributionAlignment": Method(by_loss(beside_cross_entropy(distribution_alignment)), "weight", (0.3, 1.0, 3.0)),
    "FairDistillation": Method(fair_distillation, "distill_weight", (0.3, 0.6, 0.95)),
    "Contrastive": Method(by_loss(beside_cross_entropy(contrastive)), "weight", (0.03, 0.1, 0.3)),
    "MomentAlignment": Method(by_loss(beside_cross_entropy(moments)), "weight", (0.1, 0.3, 1.0)),
    "Adversarial": Method(by_loss(adversarial), "scale", (0.01, 0.03, 0.1)),
    "BalancedGroupSampler": Method(by_batches(balanced_sampler), "max_ratio", (1.5, 5.0, 20.0)),
    "GroupBatchSampler": Method(by_batches(batch_sampler), "min_per_group", (8, 16, 32)),
}
# No methods, and not ranked: plain training on as many photographs with groups of equal size says how much of a gap can be
# closed at all; plain training at the rate of all other arms, what tuning the rate is worth.
EQUAL_DATA, SAME_RATE = "Equal data", "Plain, same rate"
YARDSTICKS = (EQUAL_DATA, SAME_RATE)


def setting_text(setting: Any) -> str:
    """A setting as a table shows it."""
    if isinstance(setting, dict):
        return " ".join(f"{'SWA' if k == 'start' else 'EMA'} {v:g}" for k, v in setting.items())
    return setting.replace("_parity", "") if isinstance(setting, str) else f"{setting:g}"


def subset(names: Sequence[str]) -> dict[str, Method]:
    """The named arms, in the order of :data:`METHODS`."""
    return {name: method for name, method in METHODS.items() if name in names}
