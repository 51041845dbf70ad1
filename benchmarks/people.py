"""Real people: what closes a gap of decisions, under a guard of accuracy and balanced accuracy.

    python -m benchmarks.people            # resumes from benchmarks/results/people.jsonl
    python -m benchmarks.people --save     # the tables of docs/what-helps-when.md from that file

Nine sets (`benchmarks.people_data`), ten seeds of a fresh 60/20/20 split, a network of one hidden layer of 64. Every arm is
compared on the test part with plain training on the training part (`plain`). Choices are made on validation or out-of-fold
scores. The guard: over the seeds of a set, mean accuracy and mean balanced accuracy lie within one point of plain training's.
A cut is the share of plain training's gap that an arm takes away; the guarded cut of a set is 0 where the guard fails.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.fairness_report import PAGE, fill
from benchmarks.people_data import SETS, People
from benchmarks.people_tables import picture, tables
from fairloss import DemographicParityLoss, encode_groups
from fairloss.functional import group_gap, sample_likelihood
from fairloss.postprocess import GroupThresholds, cross_fit

RESULTS = Path(__file__).parent / "results" / "people.jsonl"
TARGETS = ("positive_rate_gap", "tpr_gap")
WEIGHTS = (0.03, 0.1, 0.3, 1.0)
HALF = {"budget": 0.005, "standard_errors": 0.0}  # half of the guard's point


def network(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, seed: int, *, penalty: Any = None, steps: int = 150
) -> nn.Module:
    """One hidden layer of 64, Adam, batches of 512; ``penalty(logits, target, groups)`` is added to the cross-entropy."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    data, target = torch.from_numpy((x - mean) / std), torch.from_numpy(y)
    ids = torch.from_numpy(group)
    body = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(body.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(steps):
        rows = torch.randint(len(data), (512,), generator=generator)
        logits = body(data[rows]).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logits, target[rows].float())
        if penalty is not None:
            loss = loss + penalty(logits, target[rows], ids[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():  # the standardization becomes part of the first layer
        first = body[0]
        first.weight /= torch.from_numpy(std)
        first.bias -= first.weight @ torch.from_numpy(mean)
    return body


def logits_of(model: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).squeeze(1).double().numpy()


def penalty_of(target: str, weight: float, num_groups: int) -> Callable[..., torch.Tensor]:
    """A soft positive-rate gap, or the gap of the soft true-positive rate, times the weight."""
    if target == "positive_rate_gap":
        parity = DemographicParityLoss(num_groups)
        return lambda logits, y, groups: weight * parity(logits, y, groups)

    def on_positives(logits: torch.Tensor, y: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        likelihood = sample_likelihood(logits, y).prob
        return weight * group_gap(likelihood, torch.where(y == 1, groups, -1), num_groups=num_groups)

    return on_positives


def measured(decided: np.ndarray, score: np.ndarray, y: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, AUC of the score, and the gaps, by counting."""
    found = {
        "accuracy": float((decided == y).mean()),
        "balanced_accuracy": float((decided[y == 1].mean() + (~decided[y == 0]).mean()) / 2),
        "auc": float(roc_auc_score(y, score)),
    }
    rates = [decided[group == g].mean() for g in np.unique(group)]
    tprs = [decided[(group == g) & (y == 1)].mean() for g in np.unique(group) if ((group == g) & (y == 1)).any()]
    accuracies = [(decided == y)[group == g].mean() for g in np.unique(group)]
    for name, values in (("positive_rate_gap", rates), ("tpr_gap", tprs), ("accuracy_gap", accuracies)):
        found[name] = float(max(values) - min(values))
    found["worst_accuracy"] = float(min(accuracies))
    return found


def threshold_optimizer(score: np.ndarray, y: np.ndarray, group: np.ndarray, target: str) -> Callable[..., np.ndarray]:
    """fairlearn's ThresholdOptimizer on given scores: it mixes two thresholds a group at random."""
    from fairlearn.postprocessing import ThresholdOptimizer

    class Scores(BaseEstimator):  # type: ignore[misc]
        fitted_ = True

        def fit(self, *_: Any) -> Scores:
            return self

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x[:, 0]

    constraint = {"positive_rate_gap": "demographic_parity", "tpr_gap": "true_positive_rate_parity"}[target]
    optimizer = ThresholdOptimizer(
        estimator=Scores(), constraints=constraint, objective="accuracy_score", prefit=True, predict_method="predict"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for sklearn's check of a fitted estimator
        optimizer.fit(score[:, None], y, sensitive_features=group)

    def decide(new: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.asarray(optimizer.predict(new[:, None], sensitive_features=of, random_state=0)) == 1

    return decide


def oxonfair(score: np.ndarray, y: np.ndarray, group: np.ndarray, target: str) -> Callable[..., np.ndarray]:
    """OxonFair's thresholds on given logits: the smallest gap whose accuracy is at most half a point under plain accuracy."""
    from oxonfair import DeepDataDict, DeepFairPredictor
    from oxonfair.utils import group_metrics

    measure = {"positive_rate_gap": group_metrics.demographic_parity, "tpr_gap": group_metrics.equal_opportunity}[
        target
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predictor = DeepFairPredictor(y, score[:, None], group, use_actual_groups=True)
        predictor.fit(measure, group_metrics.accuracy, float(((score >= 0) == y).mean() - 0.005))

    def decide(new: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.asarray(predictor.predict(DeepDataDict(np.zeros(len(new)), new[:, None], of))).ravel() == 1

    return decide


def split(people: People, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of 60, 20 and 20 percent."""
    order = np.random.default_rng(seed).permutation(len(people.y))
    a, b = int(0.6 * len(order)), int(0.8 * len(order))
    return order[:a], order[a:b], order[b:]


def arms(people: People, seed: int, name: str) -> Iterator[tuple[str, str, dict[str, float], float]]:
    """Every arm of one split: (arm, target, test figures, seconds)."""
    codes = encode_groups(people.group.tolist())
    ids, labels = codes.ids, people.group
    train, valid, test = split(people, seed)
    both = np.concatenate([train, valid])
    x, y = people.x, people.y

    def result(decided: np.ndarray, score: np.ndarray) -> dict[str, float]:
        return measured(decided, score, y[test] == 1, labels[test])

    started = time.perf_counter()
    plain = network(x[train], y[train], ids[train], seed)
    score = logits_of(plain, x[test])
    figures = result(score >= 0, score)
    # What gaps are where there is none: the same decisions, groups permuted.
    drawn = np.random.default_rng(seed)
    permuted = [measured(score >= 0, score, y[test] == 1, drawn.permutation(labels[test])) for _ in range(20)]
    figures |= {f"floor_{k}": float(np.mean([p[k] for p in permuted])) for k in (*TARGETS, "accuracy_gap")}
    yield "plain", "", figures, time.perf_counter() - started
    held = logits_of(plain, x[valid])
    for target in TARGETS:
        started = time.perf_counter()
        fitted = GroupThresholds.fit(held, y[valid], labels[valid], close=target, common=0.0, **HALF)
        yield (
            "thresholds on validation",
            target,
            result(fitted.predict(score, labels[test]), score),
            time.perf_counter() - started,
        )
    started = time.perf_counter()
    whole = network(x[both], y[both], ids[both], seed)
    of_whole = logits_of(whole, x[test])
    yield "plain, all data", "", result(of_whole >= 0, of_whole), time.perf_counter() - started

    number = {label: g for g, label in enumerate(codes.labels)}

    def fit(penalty: Any) -> Callable[..., nn.Module]:
        def one(data: np.ndarray, target: np.ndarray, group: np.ndarray) -> nn.Module:
            own = np.array([number[label] for label in group])
            return network(data, target, own, seed, penalty=penalty)

        return one

    started = time.perf_counter()
    folds = cross_fit(fit(None), x[both], y=y[both], attribute=labels[both], seed=seed, close=TARGETS[0], **HALF)
    trained = time.perf_counter() - started
    outside, mean = folds.out_of_fold, folds.score(x[test])
    yield "mean of five folds", "", result(mean >= 0, mean), trained
    for target in TARGETS:
        for arm, options in {
            "cross-fitted thresholds": HALF,
            "cross-fitted thresholds, less one s.e.": {"budget": 0.01, "standard_errors": 1.0},
            "cross-fitted thresholds, half, shrunk": {**HALF, "shrink": 30.0},
        }.items():
            started = time.perf_counter()
            fitted = GroupThresholds.fit(outside, y[both], labels[both], close=target, common=0.0, **options)
            yield arm, target, result(fitted.predict(mean, labels[test]), mean), trained + time.perf_counter() - started
        started = time.perf_counter()
        decide = threshold_optimizer(outside, y[both], labels[both], target)
        yield (
            "ThresholdOptimizer, same scores",
            target,
            result(decide(mean, labels[test]), mean),
            time.perf_counter() - started,
        )
        started = time.perf_counter()
        rival = oxonfair(outside, y[both], ids[both], target)
        yield "OxonFair, same scores", target, result(rival(mean, ids[test]), mean), time.perf_counter() - started
        # The group takes no part in the decision: the strongest penalty whose out-of-fold decisions keep the budget.
        started = time.perf_counter()
        best: tuple[float, np.ndarray] = (np.inf, mean)
        base = measured(outside >= 0, outside, y[both] == 1, labels[both])
        for weight in (0.0, *WEIGHTS):
            made = folds
            if weight:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # thresholds are not used here
                    made = cross_fit(
                        fit(penalty_of(target, weight, codes.num_groups)),
                        x[both],
                        y=y[both],
                        attribute=labels[both],
                        seed=seed,
                        subject_to={},
                    )
            own = measured(made.out_of_fold >= 0, made.out_of_fold, y[both] == 1, labels[both])
            kept = (
                all(own[k] >= base[k] - 0.01 for k in ("accuracy", "balanced_accuracy"))
                and own["auc"] >= base["auc"] - 0.005
            )
            if kept and own[target] < best[0]:
                best = own[target], made.score(x[test])
        yield (
            "penalty and folds, no group to decide",
            target,
            result(best[1] >= 0, best[1]),
            time.perf_counter() - started,
        )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run(path: Path, seeds: int, names: list[str]) -> None:
    done = {(row["set"], row["seed"]) for row in read(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        for name in names:
            if (name, seed) in done:
                continue
            people = SETS[name]()
            rows = [
                {"set": name, "seed": seed, "arm": arm, "target": target, "seconds": round(seconds, 2), **figures}
                for arm, target, figures, seconds in arms(people, seed, name)
            ]
            with path.open("a", encoding="utf-8") as out:  # a split is written whole or not at all
                out.write("".join(json.dumps(row) + "\n" for row in rows))
            print(name, seed, f"{sum(row['seconds'] for row in rows):.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--save", action="store_true", help="write the page's tables from the results file")
    args = parser.parse_args()
    if args.save:
        rows = read(args.out)
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), {"people": tables(rows)}), encoding="utf-8")
        picture(rows).savefig(PAGE.parent / "img" / "people.png", dpi=120)
    else:
        torch.set_num_threads(1)
        run(args.out, args.seeds, args.sets)


if __name__ == "__main__":
    main()
