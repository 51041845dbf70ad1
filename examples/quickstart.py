"""Real patients, one changed line: each group's accuracy with and without group fairness.

The data is the diabetes study that scikit-learn ships: 442 patients, ten measurements, and the progression of the disease
after a year, here as a label: above the median or not. The groups are the recorded sex (code 1 or 2 in the data, whose
meaning the source does not state) and then the age (under 40, 40 to 59, 60 and over), or their intersection. The same
small network is trained five ways: plain cross-entropy (ERM), with the soft accuracy gap as a penalty (FR), with
inverse-frequency weights (GR), with both (Hybrid), and with GroupDRO. Every patient is predicted by a network that has
not seen them (5-fold cross-validation), in every seed. Intervals are over patients; the spread between seeds stands apart.

    python examples/quickstart.py                  # minutes on 2 cores; results in out/quickstart
    python examples/quickstart.py --attribute age
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from common import intervals, plots, toolkit
from fairloss import FairCrossEntropyLoss, GroupDROLoss, encode_groups, intersect_groups

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]
METRICS = ("accuracy", "auc", "gap_accuracy", "worst_accuracy")


def load(attribute: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Measurements, labels, group ids and the groups' names."""
    data = load_diabetes(scaled=False)
    x, progression = data.data.astype(np.float32), data.target
    sex = encode_groups([f"sex code {int(code)}" for code in x[:, data.feature_names.index("sex")]])
    age = x[:, data.feature_names.index("age")]
    names = ["age < 40", "age 40-59", "age >= 60"]
    bands = encode_groups(np.select([age < 40, age < 60], names[:2], names[2]), categories=names)
    if attribute == "sex-age":
        ids, _ = intersect_groups(
            torch.from_numpy(np.stack([sex.ids, bands.ids], 1)), num_groups=(sex.num_groups, bands.num_groups)
        )
        names = [f"{s.removeprefix('sex ')}, {a.removeprefix('age ')}" for s in sex.labels for a in bands.labels]
        groups = ids.numpy()
    else:
        chosen = sex if attribute == "sex" else bands
        groups, names = chosen.ids, list(chosen.labels)
    return x, (progression > np.median(progression)).astype(np.int64), groups, names


def group_dro(num_groups: int, counts: list[int]) -> Criterion:
    loss = GroupDROLoss(num_groups, step_size=0.05, shares=counts)
    return lambda logits, target, groups: loss(F.cross_entropy(logits, target, reduction="none"), groups)


METHODS: dict[str, Callable[[int, list[int]], Criterion]] = {
    "ERM": lambda g, counts: FairCrossEntropyLoss(g),
    "FR": lambda g, counts: FairCrossEntropyLoss(g, gap_weight=1.0),
    "GR": lambda g, counts: FairCrossEntropyLoss(g, group_counts=counts),
    "Hybrid": lambda g, counts: FairCrossEntropyLoss(g, gap_weight=1.0, group_counts=counts),
    "GroupDRO": group_dro,
}


def train(x: Tensor, y: Tensor, groups: Tensor, criterion: Criterion, *, epochs: int, seed: int) -> nn.Module:
    """The user's own loop; fairness enters by the criterion and its third argument alone."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            loss = criterion(model(x[rows]), y[rows], groups[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def out_of_fold(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, num_groups: int, method: str, *, epochs: int, seed: int
):
    """Predicted probability of every patient by the network of the fold that left them out, (N,)."""
    scores = np.empty(len(x))
    strata = y * num_groups + groups
    for train_rows, test_rows in StratifiedKFold(5, shuffle=True, random_state=seed).split(x, strata):
        mean, std = x[train_rows].mean(0), x[train_rows].std(0)
        z = torch.from_numpy((x - mean) / std)
        counts = np.bincount(groups[train_rows], minlength=num_groups).tolist()
        rows = torch.from_numpy(train_rows)
        model = train(
            z[rows],
            torch.from_numpy(y)[rows],
            torch.from_numpy(groups)[rows],
            METHODS[method](num_groups, counts),
            epochs=epochs,
            seed=seed,
        )
        with torch.no_grad():
            scores[test_rows] = torch.softmax(model(z[torch.from_numpy(test_rows)]), 1)[:, 1].numpy()
    return scores


def compare(attribute: str, args: argparse.Namespace) -> None:
    """Train, predict and report for one way to form the groups."""
    seeds, epochs, resamples = (1, 2, 100) if args.tiny else (args.seeds, 60, 2000)
    start = time.perf_counter()
    x, y, groups, names = load(attribute)
    bootstrap = intervals.PatientBootstrap(np.arange(len(y)), groups, len(names), resamples=resamples)
    results = {}
    with toolkit.progress(None, f"groups by {attribute}: 5-fold cross-validation", total=len(METHODS) * seeds) as bar:
        for method in METHODS:
            scores = []
            for seed in range(seeds):
                scores.append(out_of_fold(x, y, groups, len(names), method, epochs=epochs, seed=seed))
                bar.update()
            results[method] = bootstrap.evaluate(y, np.stack(scores))

    sizes = ", ".join(f"{name}: {int((groups == g).sum())}" for g, name in enumerate(names))
    print(f"\n{len(y)} patients ({sizes}), {seeds} seeds, {time.perf_counter() - start:.0f} s\n")
    columns = [*METRICS, *(f"accuracy:{g}" for g in range(len(names)))]
    header = ["method", *(plots.metric_label(m) for m in METRICS), *names]
    rows = toolkit.result_rows(results, columns)
    toolkit.print_table("Out-of-fold, with 95 % intervals over patients", header, rows)
    spread = [[m, *(r[k].seed_std for k in METRICS)] for m, r in results.items()]
    toolkit.print_table("Standard deviation between seeds", header[: 1 + len(METRICS)], spread, digits=4)
    print("\nWhat the intervals allow to say:")
    for metric in ("accuracy", "gap_accuracy"):
        for sentence in intervals.compare(results, metric):
            print(" -", sentence)
    title = f"Diabetes study, {len(y)} patients, groups by {attribute}"
    picture = plots.plot_comparison(args.out / f"quickstart_{attribute}.png", results, names, title=title)
    toolkit.save_json(args.out / f"quickstart_{attribute}.json", results)
    print("\nPicture:", picture, "\n")


def main() -> None:
    parser = toolkit.argument_parser(__doc__, name="quickstart", seeds=5)
    parser.add_argument(
        "--attribute", nargs="+", choices=("sex", "age", "sex-age"), default=["sex", "age"], help="the groups (sex age)"
    )
    args = parser.parse_args()
    toolkit.prepare(args)
    torch.set_num_threads(1)  # the network is far too small for more
    for attribute in args.attribute:
        compare(attribute, args)


if __name__ == "__main__":
    main()
