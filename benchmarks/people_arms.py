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
from benchmarks.people_train import TARGETS, logits_of, measured, network, penalty_of
from fairloss import encode_groups
from fairloss.postprocess import CrossFit, GroupThresholds, cross_fit

WEIGHTS = (0.03, 0.1, 0.3, 1.0)
HALF = {"budget": 0.005, "standard_errors": 0.0}  # half of the guard's point
RECOMMENDED = "cross-fitted twice"
ESTIMATED = "cross-fitted twice, estimated groups"
ALIKE = ", members begin alike"
AGAIN = "plain, trained again"

Arm = tuple[str, str, dict[str, float], float]
"""Its name, its target ("" for both), its figures on test data, its seconds."""


def split(people: People, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of 60, 20 and 20 percent."""
    order = np.random.default_rng(seed).permutation(len(people.y))
    a, b = int(0.6 * len(order)), int(0.8 * len(order))
    return order[:a], order[a:b], order[b:]


class Split:
    """One set, parted by one seed."""

    def __init__(self, people: People, seed: int) -> None:
        codes = encode_groups(people.group.tolist())
        self.x, self.y, self.labels, self.ids = people.x, people.y, people.group, codes.ids
        self.names, self.num_groups = codes.labels, codes.num_groups
        self.train, self.valid, self.test = split(people, seed)
        self.both = np.concatenate([self.train, self.valid])

    def result(self, decided: np.ndarray, score: np.ndarray) -> dict[str, float]:
        return measured(decided, score, self.y[self.test] == 1, self.labels[self.test])

    def fit(self, seed: int, penalty: Any = None, *, same: bool = True) -> Callable[..., nn.Module]:
        """A function for `cross_fit`; ``same``: all members begin with the same weights and order of batches."""
        number = {label: g for g, label in enumerate(self.names)}
        member = itertools.count(1000 * seed)

        def one(data: np.ndarray, target: np.ndarray, group: np.ndarray) -> nn.Module:
            own = np.array([number[label] for label in group])
            return network(data, target, own, seed if same else next(member), penalty=penalty)

        return one

    def cross_fit(self, fit: Any, **options: Any) -> CrossFit:
        x, y, group = (part[self.both] for part in (self.x, self.y, self.labels))
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of positive rates that averaging moves; the study measures what comes of it
            return cross_fit(fit, x, y=y, attribute=group, **options)

    def group_probabilities(self, seed: int) -> np.ndarray:
        """(N, G) of the test part, by a network of the same size that was trained to tell the groups apart."""
        x, ids = self.x[self.both], self.ids[self.both]
        model = network(x, ids, ids, seed, classes=self.num_groups)
        with torch.no_grad():
            return torch.softmax(model(torch.from_numpy(self.x[self.test])).double(), dim=1).numpy()


def plain_arms(s: Split, seed: int) -> Iterator[Arm]:
    """Plain training, on the training part and on all but the test part; thresholds on the validation part."""
    started = time.perf_counter()
    plain = network(s.x[s.train], s.y[s.train], s.ids[s.train], seed)
    score = logits_of(plain, s.x[s.test])
    figures = s.result(score >= 0, score)
    # What gaps are where there is none: the same decisions, groups permuted.
    drawn = np.random.default_rng(seed)
    permuted = [measured(score >= 0, score, s.y[s.test] == 1, drawn.permutation(s.labels[s.test])) for _ in range(20)]
    figures |= {f"floor_{k}": float(np.mean([p[k] for p in permuted])) for k in (*TARGETS, "accuracy_gap")}
    yield "plain", "", figures, time.perf_counter() - started
    held = logits_of(plain, s.x[s.valid])
    for target in TARGETS:
        started = time.perf_counter()
        fitted = GroupThresholds.fit(held, s.y[s.valid], s.labels[s.valid], close=target, common=0.0, **HALF)
        yield (
            "thresholds on validation",
            target,
            s.result(fitted.predict(score, s.labels[s.test]), score),
            time.perf_counter() - started,
        )
    started = time.perf_counter()
    whole = network(s.x[s.both], s.y[s.both], s.ids[s.both], seed)
    of_whole = logits_of(whole, s.x[s.test])
    yield "plain, all data", "", s.result(of_whole >= 0, of_whole), time.perf_counter() - started


def again_arms(s: Split, seed: int) -> Iterator[Arm]:
    """Plain training four times more: one network's share of positives is chance, and every arm is compared with it."""
    for time_ in range(1, 5):
        started = time.perf_counter()
        plain = network(s.x[s.train], s.y[s.train], s.ids[s.train], seed + 10_000 * time_)
        score = logits_of(plain, s.x[s.test])
        yield f"{AGAIN} {time_}", "", s.result(score >= 0, score), time.perf_counter() - started


def single_arms(s: Split, seed: int) -> Iterator[Arm]:
    """One draw of five folds: thresholds with and without standard errors, rivals on the same scores, penalties."""
    started = time.perf_counter()
    folds = cross_fit(
        s.fit(seed),
        s.x[s.both],
        y=s.y[s.both],
        attribute=s.labels[s.both],
        seed=seed,
        repeats=1,
        close=TARGETS[0],
        **HALF,
    )
    trained = time.perf_counter() - started
    outside, mean = folds.out_of_fold, folds.score(s.x[s.test])
    yield "mean of five folds", "", s.result(mean >= 0, mean), trained
    for target in TARGETS:
        for arm, options in {
            "cross-fitted thresholds": HALF,
            "cross-fitted thresholds, less one s.e.": {"budget": 0.01, "standard_errors": 1.0},
            "cross-fitted thresholds, half, shrunk": {**HALF, "shrink": 30.0},
        }.items():
            started = time.perf_counter()
            fitted = GroupThresholds.fit(outside, s.y[s.both], s.labels[s.both], close=target, common=0.0, **options)
            yield (
                arm,
                target,
                s.result(fitted.predict(mean, s.labels[s.test]), mean),
                trained + time.perf_counter() - started,
            )
        started = time.perf_counter()
        decide = rivals.threshold_optimizer(outside, s.y[s.both], s.labels[s.both], target)
        yield (
            "ThresholdOptimizer, same scores",
            target,
            s.result(decide(mean, s.labels[s.test]), mean),
            time.perf_counter() - started,
        )
        started = time.perf_counter()
        rival = rivals.oxonfair(outside, s.y[s.both], s.ids[s.both], target)
        yield "OxonFair, same scores", target, s.result(rival(mean, s.ids[s.test]), mean), time.perf_counter() - started
        # The group takes no part in the decision: the strongest penalty whose out-of-fold decisions keep the budget.
        started = time.perf_counter()
        best: tuple[float, np.ndarray] = (np.inf, mean)
        base = measured(outside >= 0, outside, s.y[s.both] == 1, s.labels[s.both])
        for weight in (0.0, *WEIGHTS):
            made = folds
            if weight:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # thresholds are not used here
                    made = cross_fit(
                        s.fit(seed, penalty_of(target, weight, s.num_groups)),
                        s.x[s.both],
                        y=s.y[s.both],
                        attribute=s.labels[s.both],
                        seed=seed,
                        repeats=1,
                        subject_to={},
                    )
            own = measured(made.out_of_fold >= 0, made.out_of_fold, s.y[s.both] == 1, s.labels[s.both])
            kept = (
                all(own[k] >= base[k] - 0.01 for k in ("accuracy", "balanced_accuracy"))
                and own["auc"] >= base["auc"] - 0.005
            )
            if kept and own[target] < best[0]:
                best = own[target], made.score(s.x[s.test])
        yield (
            "penalty and folds, no group to decide",
            target,
            s.result(best[1] >= 0, best[1]),
            time.perf_counter() - started,
        )


def twice_arms(s: Split, seed: int, *, same: bool = False, called: str = "") -> Iterator[Arm]:
    """The recommended recipe, `cross_fit` with its defaults, in two draws of folds; told the group, or estimating it."""
    for draw, suffix in enumerate(("", ", second draw of folds")):
        started = time.perf_counter()
        own = seed + 1000 * draw
        first = s.cross_fit(s.fit(own, same=same), seed=own, close=TARGETS[0])
        score, common, reference = first.score(s.x[s.test]), first.thresholds.common, first.reference
        trained = time.perf_counter() - started
        started = time.perf_counter()
        estimated = s.group_probabilities(own)
        trained_groups = time.perf_counter() - started
        for target in TARGETS:
            started = time.perf_counter()
            fitted = first.thresholds
            if target != TARGETS[0]:  # the same members
                y, labels = s.y[s.both], s.labels[s.both]
                fitted = GroupThresholds.fit(
                    first.out_of_fold, y, labels, close="tpr_gap", common=common, reference=reference
                )
            seconds = trained + time.perf_counter() - started
            decided = fitted.predict(score, s.labels[s.test])
            yield RECOMMENDED + called + suffix, target, s.result(decided, score), seconds
            decided = score >= fitted.expected(estimated, s.names)
            yield ESTIMATED + called + suffix, target, s.result(decided, score), seconds + trained_groups


def alike_arms(s: Split, seed: int) -> Iterator[Arm]:
    """The same, the members of a draw having the same first weights and order of batches."""
    return twice_arms(s, seed, same=True, called=ALIKE)


def rival_arms(s: Split, seed: int) -> Iterator[Arm]:
    """Other packages, told of balanced accuracy as well where they can be; on the scores of the recommended recipe."""
    first = s.cross_fit(s.fit(seed, same=False), seed=seed, close=TARGETS[0])
    score, outside, common = first.score(s.x[s.test]), first.out_of_fold, first.thresholds.common
    y, ids, labels = s.y[s.both], s.ids[s.both], s.labels[s.both]
    for target in TARGETS:
        started = time.perf_counter()
        decide = rivals.threshold_optimizer(outside, y, labels, target, objective="balanced_accuracy_score")
        decided = decide(score, s.labels[s.test])
        yield "ThresholdOptimizer, balanced accuracy", target, s.result(decided, score), time.perf_counter() - started
        started = time.perf_counter()
        decide = rivals.oxonfair(outside - common, y, ids, target, balanced=True)
        decided = decide(score - common, s.ids[s.test])
        yield "OxonFair, balanced accuracy", target, s.result(decided, score), time.perf_counter() - started
        started = time.perf_counter()
        score_of_penalty = rivals.fairret(s, seed, target)
        yield "fairret", target, s.result(score_of_penalty >= 0, score_of_penalty), time.perf_counter() - started
        started = time.perf_counter()
        decided, probability = rivals.exponentiated_gradient(s, target)
        yield "ExponentiatedGradient", target, s.result(decided, probability), time.perf_counter() - started


PARTS: dict[str, Callable[[Split, int], Iterator[Arm]]] = {
    "plain": plain_arms,
    f"{AGAIN} 1": again_arms,
    "mean of five folds": single_arms,
    RECOMMENDED: twice_arms,
    RECOMMENDED + ALIKE: alike_arms,
    "fairret": rival_arms,
}
"""The arm by which a part is known to be done -> the part."""
