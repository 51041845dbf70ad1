"""The arms of the study on real people, in parts that are run, and resumed, one by one."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import people_rivals as rivals
from benchmarks.people_data import People
from benchmarks.people_penalties import PENALTIES, STEP_SIZES, WEIGHTS, Budgeted, Penalty, group_dro, warned
from benchmarks.people_train import TARGETS, logits_of, measured, network
from fairloss import encode_groups
from fairloss.postprocess import CrossFit, GroupThresholds, cross_fit, retrain_last_layer

RECOMMENDED = "cross-fitted thresholds"
ESTIMATED = "cross-fitted thresholds, estimated groups"
FOLDS_AGAIN = ", second draw of folds"
AGAIN = "plain, trained again"

Arm = tuple[str, str, dict[str, float], float]
"""Its name, its target ("" for all), its figures on test data, its seconds."""


def split(people: People, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of 60, 20 and 20 percent."""
    order = np.random.default_rng(seed).permutation(len(people.y))
    a, b = int(0.6 * len(order)), int(0.8 * len(order))
    return order[:a], order[a:b], order[b:]


class Split:
    """One set, parted by one seed; ``hidden``: the network is not shown the group."""

    def __init__(self, people: People, seed: int, *, hidden: bool = False) -> None:
        codes = encode_groups(people.group.tolist())
        self.x = np.ascontiguousarray(people.x[:, ~people.says_group]) if hidden else people.x
        self.y, self.labels, self.ids = people.y, people.group, codes.ids
        self.names, self.num_groups = codes.labels, codes.num_groups
        self.train, self.valid, self.test = split(people, seed)
        self.both = np.concatenate([self.train, self.valid])

    def result(self, decided: np.ndarray, score: np.ndarray) -> dict[str, float]:
        return measured(decided, score, self.y[self.test] == 1, self.labels[self.test])

    def validated(self, model: Callable[..., torch.Tensor]) -> dict[str, float]:
        """Figures on the validation part."""
        score = logits_of(model, self.x[self.valid])
        return measured(score >= 0, score, self.y[self.valid] == 1, self.labels[self.valid])

    def plain(self, seed: int, **options: Any) -> nn.Module:
        """Trained on the training part."""
        return network(self.x[self.train], self.y[self.train], self.ids[self.train], seed, **options)

    def cross_fit(self, seed: int, **options: Any) -> CrossFit:
        """Of plain networks; every member has first weights and an order of batches of its own."""
        member = itertools.count(1000 * seed)

        def fit(data: np.ndarray, target: np.ndarray, _: np.ndarray) -> nn.Module:
            return network(data, target, np.zeros(len(target), np.int64), next(member))

        x, y, group = (part[self.both] for part in (self.x, self.y, self.labels))
        with warnings.catch_warnings():
            # Of positive rates that averaging moves: the study measures what comes of it.
            warnings.simplefilter("ignore")
            return cross_fit(fit, x, y=y, attribute=group, seed=seed, **options)

    def group_probabilities(self, seed: int) -> np.ndarray:
        """(N, G) of the test part, by a network of the same size that was trained to tell the groups apart."""
        x, ids = self.x[self.both], self.ids[self.both]
        model = network(x, ids, ids, seed, classes=self.num_groups)
        with torch.no_grad():
            return torch.softmax(model(torch.from_numpy(self.x[self.test])).double(), dim=1).numpy()


def plain_arms(s: Split, seed: int) -> Iterator[Arm]:
    """Plain training, on the training part and on all but the test part; thresholds on the validation part."""
    started = time.perf_counter()
    plain = s.plain(seed)
    score = logits_of(plain, s.x[s.test])
    figures = s.result(score >= 0, score)
    # What gaps are where there is none: the same decisions, groups permuted.
    drawn = np.random.default_rng(seed)
    permuted = [measured(score >= 0, score, s.y[s.test] == 1, drawn.permutation(s.labels[s.test])) for _ in range(20)]
    figures |= {f"floor_{k}": float(np.mean([p[k] for p in permuted])) for k in TARGETS}
    yield "plain", "", figures, time.perf_counter() - started
    held = logits_of(plain, s.x[s.valid])
    for target in TARGETS:
        started = time.perf_counter()
        fitted = GroupThresholds.fit(
            held, s.y[s.valid], s.labels[s.valid], close=target, common=0.0, standard_errors=0.0
        )
        decided = fitted.predict(score, s.labels[s.test])
        yield "thresholds on validation", target, s.result(decided, score), time.perf_counter() - started
    started = time.perf_counter()
    whole = network(s.x[s.both], s.y[s.both], s.ids[s.both], seed)
    of_whole = logits_of(whole, s.x[s.test])
    yield "plain, all data", "", s.result(of_whole >= 0, of_whole), time.perf_counter() - started


def again_arms(s: Split, seed: int) -> Iterator[Arm]:
    """Plain training four times more: one network's share of positives is chance, and every arm is compared with it."""
    for time_ in range(1, 5):
        started = time.perf_counter()
        score = logits_of(s.plain(seed + 10_000 * time_), s.x[s.test])
        yield f"{AGAIN} {time_}", "", s.result(score >= 0, score), time.perf_counter() - started


def recommended_arms(s: Split, seed: int) -> Iterator[Arm]:
    """`cross_fit` with its defaults in two draws of folds, told the group or estimating it; rivals on the first's scores."""
    y, labels, ids, of = s.y[s.both], s.labels[s.both], s.ids[s.both], s.labels[s.test]
    for draw, suffix in enumerate(("", FOLDS_AGAIN)):
        started = time.perf_counter()
        own = seed + 1000 * draw
        made = s.cross_fit(own, close=TARGETS[0])
        score, outside = made.score(s.x[s.test]), made.out_of_fold
        common, reference = made.thresholds.common, made.reference
        trained = time.perf_counter() - started
        started = time.perf_counter()
        estimated = s.group_probabilities(own)
        told_apart = time.perf_counter() - started
        if not draw:
            yield "mean of the members", "", s.result(score >= common, score), trained
        for target in TARGETS:
            started = time.perf_counter()
            fitted = made.thresholds
            if target != TARGETS[0]:  # the same members
                fitted = GroupThresholds.fit(outside, y, labels, close=target, common=common, reference=reference)
            seconds = trained + time.perf_counter() - started
            yield RECOMMENDED + suffix, target, s.result(fitted.predict(score, of), score), seconds
            decided = score >= fitted.expected(estimated, s.names)
            yield ESTIMATED + suffix, target, s.result(decided, score), seconds + told_apart
            if draw or target == "accuracy_gap":
                continue
            for kept in ("accuracy", "balanced_accuracy"):
                started = time.perf_counter()
                by_fairlearn = rivals.threshold_optimizer(outside, y, labels, target, objective=f"{kept}_score")
                name, figures = (
                    f"ThresholdOptimizer, {kept.replace('_', ' ')}",
                    s.result(by_fairlearn(score, of), score),
                )
                yield name, target, figures, trained + time.perf_counter() - started
                started = time.perf_counter()
                by_oxonfair = rivals.oxonfair(outside - common, y, ids, target, balanced=kept != "accuracy")
                decided = by_oxonfair(score - common, s.ids[s.test])
                name = f"OxonFair, {kept.replace('_', ' ')}"
                yield name, target, s.result(decided, score), trained + time.perf_counter() - started


class Plain:
    """Plain training on the training part, and what is chosen beside it on the validation part."""

    def __init__(self, s: Split, seed: int) -> None:
        started = time.perf_counter()
        self.split, self.seed, self.model = s, seed, s.plain(seed)
        self.figures, self.score = s.validated(self.model), logits_of(self.model, s.x[s.test])
        self.seconds = time.perf_counter() - started

    def best(self, models: list[nn.Module], target: str) -> np.ndarray:
        """Scores of the test part by the model with the smallest gap that loses at most a point; by this one if none does."""
        s, base = self.split, self.figures
        best = base[target], self.score
        for model in models:
            own = s.validated(model)
            if own[target] < best[0] and all(own[k] >= base[k] - 0.01 for k in ("accuracy", "balanced_accuracy")):
                best = own[target], logits_of(model, s.x[s.test])
        return best[1]

    def sweep(self, name: str, target: str, make: Callable[[float, int], Penalty]) -> tuple[list[nn.Module], Arm]:
        """A loss at each weight, and the arm of the weight that is chosen."""
        started, s = time.perf_counter(), self.split
        models = [s.plain(self.seed, penalty=make(weight, s.num_groups)) for weight in WEIGHTS]
        seconds = self.seconds + time.perf_counter() - started
        score = self.best(models, target)
        return models, (name, target, s.result(score >= 0, score), seconds)


def penalty_arms(s: Split, seed: int) -> Iterator[Arm]:
    """One network under losses that aim at gaps of decisions; their weight by a sweep, by the monitor, by a budget."""
    plain = Plain(s, seed)
    base = plain.figures["accuracy"], plain.figures["balanced_accuracy"]
    for name, (target, make) in PENALTIES.items():
        if target == "accuracy_gap":
            continue
        models, arm = plain.sweep(name, target, make)
        yield arm
        if name in ("DemographicParity", "EqualOpportunity"):
            # The strongest of them of which the monitor does not warn, without a look at the gap.
            silent = [model for model in models if not warned(s, plain.model, model)]
            score = logits_of(silent[-1], s.x[s.test]) if silent else plain.score
            yield "penalty, the monitor silent", target, s.result(score >= 0, score), arm[3]
            started = time.perf_counter()
            budgeted = Budgeted(s, name, base)
            score = logits_of(s.plain(seed, penalty=budgeted, watch=budgeted.watch), s.x[s.test])
            seconds = plain.seconds + time.perf_counter() - started
            yield "penalty, AccuracyBudget", target, s.result(score >= 0, score), seconds


def reweighting_arms(s: Split, seed: int) -> Iterator[Arm]:
    """One network under losses that aim at accuracy or the worst group."""
    plain = Plain(s, seed)
    for name, (target, make) in PENALTIES.items():
        if target == "accuracy_gap":
            yield plain.sweep(name, target, make)[1]
    started = time.perf_counter()
    balanced = 1 / np.bincount(s.ids[s.train])[s.ids[s.train]]
    models = [s.plain(seed, penalty=group_dro(size, s.num_groups), weights=balanced) for size in STEP_SIZES]
    seconds = plain.seconds + time.perf_counter() - started
    for target in TARGETS:
        score = plain.best(models, target)
        yield "GroupDRO, balanced batches", target, s.result(score >= 0, score), seconds
    started = time.perf_counter()
    body, last = plain.model[:2], plain.model[2]
    with torch.no_grad():
        embedded = body(torch.from_numpy(s.x)).numpy()
    layer = retrain_last_layer(
        embedded[s.valid], s.y[s.valid], s.labels[s.valid], strengths=(1.0, 0.01), subsamples=5, seed=seed
    )
    assert layer.weight.shape == last.weight.shape
    with torch.no_grad():
        score = layer(torch.from_numpy(embedded[s.test])).squeeze(1).double().numpy()
    yield "last layer, balanced", "", s.result(score >= 0, score), plain.seconds + time.perf_counter() - started


def rival_arms(s: Split, seed: int) -> Iterator[Arm]:
    """Other packages that train; fairret's weight is chosen as those of the library's losses are."""
    plain = Plain(s, seed)
    for target in TARGETS[:2]:
        yield plain.sweep("fairret", target, rivals.fairret(target))[1]
        started = time.perf_counter()
        decided, probability = rivals.exponentiated_gradient(s, seed, target)
        yield "ExponentiatedGradient", target, s.result(decided, probability), time.perf_counter() - started


PARTS: dict[str, Callable[[Split, int], Iterator[Arm]]] = {
    "plain": plain_arms,
    f"{AGAIN} 1": again_arms,
    RECOMMENDED: recommended_arms,
    "fairret": rival_arms,
    "DemographicParity": penalty_arms,
    "last layer, balanced": reweighting_arms,
}
"""The arm by which a part is known to be done -> the part."""
