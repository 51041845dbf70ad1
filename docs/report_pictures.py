"""Draws the pictures of docs/report.md from simulated predictions and from a published table.

python docs/report_pictures.py && chromium --headless --no-sandbox --hide-scrollbars --window-size=1280,1840 \
    --screenshot=docs/img/report-page.png out/report.html
chromium --headless --no-sandbox --no-pdf-header-footer --print-to-pdf=out/report.pdf out/report.html &&
    pdftoppm -r 80 -f 1 -l 1 -singlefile -png out/report.pdf docs/img/report-print
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from fairloss.metrics import friedman_nemenyi
from fairloss.report import FairnessReport, plot_critical_difference, plot_gaps, plot_pareto

HERE = Path(__file__).parent
IMAGES = HERE / "img"


def simulated() -> FairnessReport:
    """Two images a patient; scores are noisier for patients over 70."""
    rng = np.random.default_rng(7)
    patients = 1500
    sex = rng.choice(["F", "M"], patients, p=[0.45, 0.55]).repeat(2)
    age = rng.choice(["18-49", "50-69", "70+", "90+"], patients, p=[0.3, 0.58, 0.115, 0.005]).repeat(2)
    y = (rng.random(patients) < 0.35).astype(int).repeat(2)
    noise = 1.2 + 0.9 * np.isin(age, ["70+", "90+"]) + 0.25 * (sex == "F")
    logit = 1.8 * (2 * y - 1) + noise * rng.standard_normal(2 * patients)
    score = 1 / (1 + np.exp(-logit))
    ids = np.arange(patients).repeat(2)
    groups = {"age": age, "sex": sex}
    return FairnessReport.from_predictions(
        y, score, groups, patients=ids, title="Simulated predictions", model_name="simulated"
    )


def main() -> None:
    """Write the pictures."""
    report = simulated()
    (HERE.parent / "out").mkdir(exist_ok=True)
    report.to_html(HERE.parent / "out" / "report.html")
    plot_gaps(report, attribute="age").savefig(IMAGES / "report-gaps.png", dpi=100)
    with (HERE.parent / "tests" / "data" / "tables" / "fairdi_table11.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["table"] == "T11"]
    methods = [r["method"] for r in rows[:5]]
    worst = np.array([float(r["min_auc"]) for r in rows]).reshape(-1, 5)
    gaps = np.array([float(r["auc_gap"]) for r in rows]).reshape(-1, 5)
    ranks = friedman_nemenyi(worst, names=methods)
    title = "FairDi, Table 11: worst-group AUC"
    plot_critical_difference(ranks, title=title).savefig(IMAGES / "critical-difference.png", dpi=100)
    front = plot_pareto(
        worst.mean(axis=0),
        gaps.mean(axis=0),
        methods,
        performance_label="mean worst-group AUC",
        disparity_label="mean AUC gap",
    )
    front.savefig(IMAGES / "pareto.png", dpi=100)


if __name__ == "__main__":
    main()
