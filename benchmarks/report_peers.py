"""The same predictions in fairlearn's MetricFrame, in aequitas and in the report: death within 180 days by age (support2).

    python -m benchmarks.report_peers     prints the tables of docs/report.md; needs fairlearn, aequitas and SurvSet

Scores are a logistic regression's, out of fold, of 1,000 patients drawn from 9,105. Every value has to be the same to 1e-12;
what each says beyond it differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, recall_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.people_data import survset
from fairloss.report import FairnessReport

PACKAGES = ("fairlearn", "aequitas", "SurvSet")
TESTED = 1000  # patients: a test set as many have one


def main() -> None:
    from aequitas.bias import Bias
    from aequitas.group import Group
    from fairlearn.metrics import MetricFrame, selection_rate, true_negative_rate

    people = survset("support2")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    score = cross_val_predict(model, people.x, people.y, cv=5, method="predict_proba")[:, 1]
    drawn = np.sort(np.random.default_rng(0).choice(len(score), TESTED, replace=False))
    y, age, score = people.y[drawn], people.group[drawn], score[drawn]
    decided = (score >= 0.5).astype(int)

    rates = {
        "sensitivity": recall_score,
        "specificity": true_negative_rate,
        "PPV": lambda y, p: precision_score(y, p, zero_division=np.nan),
        "positive rate": selection_rate,
    }
    frame = MetricFrame(metrics=rates, y_true=y, y_pred=decided, sensitive_features=age)
    table = pd.DataFrame({"score": decided, "label_value": y, "age": pd.Series(age, dtype=object)})
    crosstab, _ = Group().get_crosstabs(table)
    aequitas = crosstab.set_index("attribute_value")[["tpr", "tnr", "precision", "pprev"]]
    bias = Bias().get_disparity_major_group(crosstab, original_df=table, mask_significance=True)
    report = FairnessReport.from_predictions(y, score, {"age": age}, margin=0.05)["age"]
    names = ("tpr", "tnr", "precision", "positive_rate")
    ours = pd.DataFrame({m: {g.label: g.metrics[m].value for g in report.groups} for m in names})
    for theirs in (frame.by_group, aequitas):
        np.testing.assert_allclose(ours.to_numpy(), theirs.loc[ours.index].to_numpy(), atol=1e-12)

    print(f"{len(y):,} patients, {y.mean():.1%} of whom died\n")
    print("| age | patients | sensitivity: all three | interval | aequitas: ratio to the largest group |")
    print("| --- | --- | --- | --- | --- |")
    ratio = bias.set_index("attribute_value")["tpr_disparity"]
    for group in report.groups:
        e = group.metrics["tpr"]
        print(
            f"| {group.label} | {group.patients} | {e.value:.3f} | {e.low:.3f} to {e.high:.3f} | {ratio[group.label]:.2f} |"
        )
    print("\n| gap over age | fairlearn | aequitas | the report's verdict |\n| --- | --- | --- | --- |")
    for (title, theirs), m in zip(frame.difference(method="between_groups").items(), names, strict=True):
        gap, column = report.gap(m), aequitas[{"positive_rate": "pprev"}.get(m, m)]
        found = gap.estimate
        print(
            f"| {title} | {theirs:.3f} | {column.max() - column.min():.3f} (from its table) | {found.value:.3f} "
            f"[{found.low:.3f}, {found.high:.3f}], {gap.words} |"
        )


if __name__ == "__main__":
    main()
