"""Real patients: who is called at risk, by age, before and after the recipe that the study recommends.

9,105 critically ill adults of five American hospitals (SUPPORT2, Knaus et al., Annals of Internal Medicine 122, 1995; from the
package SurvSet); the label is death within 180 days, the groups are bands of age. Each fifth of the patients is set aside
once. On the others a network is trained plainly, and by ``cross_fit``: twenty networks, each without a part of the patients,
and a threshold per age band on scores by networks that did not see the patient, for equal shares of patients called at risk.

    python examples/patients.py             # about a minute on one core
    python examples/patients.py --seed 1    # other fifths; the sentences follow the figures
"""

from __future__ import annotations

import argparse
import pickle
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import nn

from common import toolkit
from fairloss.postprocess import cross_fit
from fairloss.report import compare_models

BANDS = ["under 50", "50 to 64", "65 to 74", "75 and over"]
# Known only after the outcome, or another's forecast of it.
AFTERWARDS = ["pid", "event", "time", "num_surv2m", "num_surv6m", "fac_dnr", "fac_sfdm2"]
GAPS = {
    "positive_rate": "difference between age bands in the share called at risk",
    "tpr": "difference in sensitivity",
}


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measurements (N, D), death within 180 days (N,), age band (N,)."""
    package = find_spec("SurvSet")
    if package is None or package.origin is None:
        raise SystemExit("this example reads its patients from the package SurvSet: pip install SurvSet")
    path = Path(package.origin).parent / "resources" / "pickles" / "support2.pickle"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the file names NumPy's old modules
        frame = pickle.loads(path.read_bytes())
    frame = frame[(frame["event"] == 1) | (frame["time"] >= 180)]
    y = ((frame["event"] == 1) & (frame["time"] < 180)).to_numpy(np.int64)
    band = np.array(BANDS)[np.digitize(frame["num_age"], [50, 65, 75])]
    columns = frame.drop(columns=AFTERWARDS)
    numbers = columns.select_dtypes("number").astype(float)
    missing = numbers.isna().add_prefix("missing ").astype(float)
    words = pd.get_dummies(columns.select_dtypes(exclude="number").astype("string").fillna("missing"), dtype=float)
    x = pd.concat([numbers.fillna(numbers.median()), missing, words], axis=1).to_numpy(np.float32)
    return x[:, x.std(axis=0) > 0], y, band


def train(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> nn.Module:
    """Your own training: nothing in it knows of fairness. ``cross_fit`` calls it on each fold's samples, labels, groups."""
    torch.manual_seed(len(x))
    mean, std = torch.from_numpy(x.mean(0)), torch.from_numpy(x.std(0) + 1e-6)
    data, target = (torch.from_numpy(x) - mean) / std, torch.from_numpy(y).float()
    model = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(10):
        for rows in torch.randperm(len(x)).split(512):
            loss = F.binary_cross_entropy_with_logits(model(data[rows]).squeeze(1), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():  # the scale becomes part of the first layer
        model[0].weight /= std
        model[0].bias -= model[0].weight @ mean
    return model


def sentence(change: float, low: float, high: float, what: str) -> str:
    """What an interval of a change of a gap, in points, allows to say."""
    interval = f"[{low:+.1f}, {high:+.1f}]"
    if high < 0:
        return f"The {what} is smaller by {-change:.1f} points {interval}: shown on these patients."
    if low > 0:
        return f"The {what} is LARGER by {change:.1f} points {interval}."
    return f"The {what} changes by {change:+.1f} points {interval}: these patients do not show whether it changed."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="how the patients are parted (0)")
    parser.add_argument("--close", choices=["positive_rate_gap", "tpr_gap"], default="positive_rate_gap")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    x, y, band = load()
    names = ["plain training", "cross-fitted, age band told", "cross-fitted, age band estimated"]
    decided = {name: np.zeros(len(y), dtype=bool) for name in names}
    auc: dict[str, list[float]] = {name: [] for name in names}
    print(
        f"{len(y)} patients, {y.mean():.0%} died within 180 days. Each is judged by networks that have not seen them.\n"
    )
    parts = StratifiedKFold(5, shuffle=True, random_state=args.seed)
    for rest, test in toolkit.progress(parts.split(x, y), "fifths set aside", total=5):
        plain = train(x[rest], y[rest])(torch.from_numpy(x[test])).squeeze(1).detach().double().numpy()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "positive rates out of fold")  # what comes of it is measured below
            fitted = cross_fit(train, x[rest], y=y[rest], attribute=band[rest], seed=args.seed, close=args.close)
        score = fitted.score(x[test])
        # Where nobody may ask for the group: the mean threshold under groups estimated from the measurements.
        center, scale = x[rest].mean(0), x[rest].std(0) + 1e-6
        who = LogisticRegression(max_iter=200).fit((x[rest] - center) / scale, band[rest])
        blind = fitted.thresholds.expected(who.predict_proba((x[test] - center) / scale), list(who.classes_))
        for name, d in zip(names, (plain >= 0, fitted.predict(x[test], band[test]), score >= blind), strict=True):
            decided[name][test] = d
            auc[name].append(roc_auc_score(y[test], plain if name == names[0] else score))

    rows = []
    for name, d in decided.items():
        shares = [f"{d[band == b].mean():.0%} / {d[(band == b) & (y == 1)].mean():.0%}" for b in BANDS]
        figures = (d == y).mean(), balanced_accuracy_score(y, d), np.mean(auc[name])
        rows.append([name, *shares, *(f"{value:.3f}" for value in figures)])
    header = ["", *BANDS, "accuracy", "balanced", "AUC"]
    toolkit.print_table("Called at risk / found among those who died, by age", header, rows)

    found = compare_models(
        y,
        {name: d.astype(int) for name, d in decided.items()},
        {"age": band},
        metrics=tuple(GAPS),
        num_replicates=1000,
        seed=args.seed,
    )
    first, *others = found
    for metric, what in GAPS.items():
        gap, low, high = (100 * v for v in first.gaps[metric])
        print(f"Plain training: {what} {gap:.1f} points [{low:.1f}, {high:.1f}].")
    for other in others:
        print(f"\n{other.name[0].upper() + other.name[1:]}:")
        for metric, what in GAPS.items():
            c = other.against_first[metric]
            print(" -", sentence(100 * c.difference, 100 * c.low, 100 * c.high, what))
        change = 100 * np.mean(decided[other.name] == y) - 100 * np.mean(decided[first.name] == y)
        print(f" - Accuracy changes by {change:+.1f} points.")
    print(
        "\nThresholds change decisions, not risks: a small gap of shares says nothing of whether shares should be equal,"
    )
    print(f"which is for clinicians to say. Intervals are 95 %, over patients. {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
