"""What the report says in sentences: what was found, what the numbers rest on and are from, what the terms mean."""

from __future__ import annotations

from fairloss.report.results import AttributeReport, Gap, ReportData, metric_heading
from fairloss.report.tables import extremes, format_estimate, one_each

__all__ = ["NOT_SHOWN", "findings", "legend", "provenance", "settings_line"]

NOT_SHOWN = (
    "Not shown: these data cannot tell. It does not mean that the groups are alike: where one group's accuracy is 0.90 "
    "and another's 0.80, this is not shown in more than half of samples of 30 patients beside 1,000. Only a gap shown to "
    "be smaller than the margin is known to be small."
)
_VERDICTS = {"smaller": "Shown to be small", "not shown": "Not shown", "too few": "Too few to judge"}
_MEANINGS = {
    "accuracy": "share of right decisions",
    "auc": "chance that a positive has a higher score than a negative, 0.5 by guessing",
    "tpr": "the share of the positives that are called positive",
    "tnr": "the share of the negatives that are called negative",
    "fpr": "1 - specificity, the share of the negatives that are called positive",
    "fnr": "1 - sensitivity, the share of the positives that are called negative",
    "precision": "positive predictive value, the share of the positive decisions that are right",
    "npv": "negative predictive value, the share of the negative decisions that are right",
    "fdr": "1 - positive predictive value, the share of the positive decisions that are wrong",
    "f1": "harmonic mean of TPR and positive predictive value",
    "balanced_accuracy": "mean of sensitivity and specificity",
    "positive_rate": "share that is called positive, rightly or wrongly",
    "prevalence": "share of the positives",
    "ece": "expected calibration error, how far predicted probabilities lie from what is seen, on average",
}


def _named(attribute: AttributeReport, gap: Gap) -> str:
    text = extremes(attribute, gap).partition(", ")[0]
    return f"({text})" if text else ""


def findings(report: ReportData) -> list[tuple[str, list[str]]]:
    """What was found over each attribute, a line for each verdict: the first screen, without prevalences and ratios."""
    found = []
    for a in report.attributes:
        gaps = [g for g in a.gaps if g.name not in ("prevalence", "demographic_parity_ratio")]
        title = {g.name: metric_heading(g.name) if g.name in report.overall else g.title for g in gaps}
        shown = [f"{title[g.name]} {format_estimate(g.estimate)} {_named(a, g)}".rstrip() for g in gaps if g.clear]
        lines = [f"Shown to differ: {'; '.join(shown)}."] if shown else []
        for verdict, words in _VERDICTS.items():
            named = [title[g.name] for g in gaps if g.verdict == verdict]
            lines += [f"{words}: {', '.join(named)}."] if named else []
        found.append((a.name, lines or ["Nothing to compare."]))
    return found


def provenance(report: ReportData) -> list[tuple[str, str]]:
    """Where the numbers are from: model, file with its hash, date, version and settings."""
    s = report.settings
    found = [("Model", s["model_name"])] if s["model_name"] else []
    if "source" in s:
        found.append(("File", s["source"] + (f", SHA-256 {s['sha256']}" if s.get("sha256") else "")))
    if s.get("read_as"):
        found.append(("Read as", ", ".join(s["read_as"])))
    found.append(("Made", f"on {s['date']} by fairloss {s['version']}"))
    margins = sorted(set(s["margins"].values()))
    margin = [f"margin {margins[0]:g}"] if len(margins) == 1 else []
    margin = margin or ["margins " + ", ".join(f"{m} {v:g}" for m, v in s["margins"].items())] * bool(margins)
    rules = [f"threshold {s['threshold']:g}"] if "threshold" in s and s["task"] != "multiclass" else []
    named = [f"seed {s['seed']}", f"{s['replicates']} replicates", f"level {s['level']:g}"]
    found.append(("Settings", ", ".join([*rules, *margin, *named, f"groups of at least {s['min_group_size']}"])))
    return found


def settings_line(report: ReportData) -> str:
    """What the numbers rest on, in one line."""
    s = report.settings
    if one_each(report):
        size, drawn = f"{s['samples']} samples, each taken as one patient", "samples"
    else:
        size, drawn = f"{s['samples']} samples of {s['patients']} patients", "patients"
    if s["weighted"]:
        size += f", weighted: worth {s['effective']:.1f} of equal weight"
    rule = ""
    if s["task"] == "multiclass":
        rule = "The class with the largest score is the decision. "
    elif "decision" in s:
        side = "above" if s["decision"] == "score > threshold" else "of at least"
        rule = f"A score {side} {s['threshold']:g} is a positive decision. "
        if s.get("at_specificity") is not None:
            rule = f"{rule.rstrip('. ')}: a specificity of {s['at_specificity']:g} over all. "
    return (
        f"{size}. {rule}In brackets: {100 * s['level']:g}% intervals from {s['replicates']} bootstrap replicates over "
        f"{drawn}, stratified by group."
    )


def legend(report: ReportData) -> list[str]:
    """What the metrics and comparisons of the report mean, a sentence each."""
    values = report.settings["task"] == "values"
    every = (report, *report.findings.values())
    metrics = dict.fromkeys(m for each in every for m in each.overall)
    names = {gap.name for each in every for a in each.attributes for gap in a.gaps}
    lines = [] if values else [f"{metric_heading(m)}: {_MEANINGS[m]}." for m in metrics if m in _MEANINGS]
    for name, origin in report.settings.get("functions", {}).items():
        lines.append(f"{metric_heading(name)}: a function given in Python, {origin}.")
    lines.append(
        "A gap or difference is the largest minus the smallest group value; 0 means that the groups are alike. Those of "
        "small groups are too large on average: the bias-corrected value allows for that."
    )
    if report.settings["task"] in ("multiclass", "multilabel") and report.settings["convention"] == "standard":
        lines.append(
            "Rates and areas are means over classes. A gap of them is the mean of each class's gap, over the groups that have "
            "the class; equalized odds likewise."
        )
    if report.settings["weighted"]:
        lines.append(
            "Samples are weighted. The effective n is the number of samples of equal weight that would tell as much, and "
            "decides what is too few to judge."
        )
    if "ece" in names:
        lines.append(
            "A calibration error (ECE) is too large on average, too, the more the smaller the group; the lower ends of its "
            "intervals allow for that."
        )
    if "equalized_odds" in names:
        lines.append("The equalized odds difference is the larger of the differences in TPR and in FPR.")
    if "demographic_parity_ratio" in names:
        lines.append("The demographic parity ratio is the smallest over the largest positive rate; 1 means alike.")
    if "equity_scaled_auc" in names:
        lines.append(
            "The equity-scaled AUC is the AUC over one plus the mean absolute difference of the groups' AUCs from it."
        )
    least = f"fewer than {report.settings['min_group_size']} {'samples' if one_each(report) else 'patients'}"
    few = least if values else f"{least}, or fewer than ten positives or negatives"
    lines.append(f"(!): {few}, too few to judge. Such groups take no part in comparisons where two others are left.")
    lines.append(
        "Shown: the interval excludes equality. Shown to be smaller: at the same level, no two groups are as far apart."
    )
    lines.append(NOT_SHOWN)
    lines.append(
        "The patients that are needed, and the smallest differences that could be seen, are those of a test that finds such a "
        "gap with a probability of 0.8."
    )
    lines.append("Each comparison is judged by itself; among many, some are shown by chance.")
    return lines
