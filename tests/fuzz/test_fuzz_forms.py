"""Every accepted form of the same predictions gives the same number through every path that shows one.

``FAIRLOSS_FUZZ_EXAMPLES=20000 pytest -m fuzz tests/fuzz/test_fuzz_forms.py`` tries as many inputs.
"""

from __future__ import annotations

import csv
import json
import math
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from fairloss import metrics, report
from tests.fuzz.drawing import close, fuzz
from tests.fuzz.forms import FORMS, IGNORED, PAIRS, formed
from tests.fuzz.test_fuzz_cli import run

FOLDER = Path(tempfile.mkdtemp(prefix="fairloss-forms-"))
GAPS = (
    "max_accuracy_gap", "demographic_parity_difference", "demographic_parity_ratio", "equal_opportunity_difference",
    "equal_opportunity_ratio", "equalized_odds_difference", "equalized_odds_ratio", "false_positive_rate_difference",
    "predictive_parity_difference", "auc_gap", "equity_scaled_auc", "calibration_gap",
)  # fmt: skip
ALONE = ("auc", "brier_score", "binary_cross_entropy", "expected_calibration_error", "best_f1_threshold")
CLASSES = {
    "MaxAccuracyGap": "max_accuracy_gap",
    "DemographicParityDifference": "demographic_parity_difference",
    "DemographicParityRatio": "demographic_parity_ratio",
    "EqualOpportunityDifference": "equal_opportunity_difference",
    "EqualizedOddsDifference": "equalized_odds_difference",
    "FalsePositiveRateDifference": "false_positive_rate_difference",
    "PredictiveParityDifference": "predictive_parity_difference",
}
SCORED = {"AUCGap": "auc_gap", "EquityScaledAUC": "equity_scaled_auc", "CalibrationGap": "calibration_gap"}


def names_of(case):
    """Metrics that the plain form has; of several classes' logits those in which rounding breaks no tie."""
    names = list(metrics.METRICS)
    scored = ("auc", "ece", "mean_abs_calibration_error", "bce", "brier")
    if case.task == "multilabel":
        names = [m for m in names if m not in scored[1:]]
    elif case.task == "multiclass" and case.score.ndim == 1 and np.ndim(case.given["y_pred"]) != 2:
        names = [m for m in names if m not in scored]
    elif case.task == "multiclass":
        if case.options.get("logits") and any(len(np.unique(c)) < len(c) for c in case.score.T):
            names.remove("auc")
        if case.options.get("logits") and (case.score.max(axis=1) == 0.5).any():
            names.remove("ece")  # on the edge of a bin
    return names


def as_plain(case):
    """Arguments of the plainest form; decisions among several classes stand beside columns as one-hot scores."""
    score = case.score
    if case.task == "multiclass" and score.ndim == 1 and np.ndim(case.given["y_pred"]) == 2:
        score = np.eye(int(case.y.max()) + 1)[score]
    options = {"task": "multilabel"} if case.task == "multilabel" else {}
    return (case.y, score, case.groups), {"sample_weight": case.weight, **options}, case.rule


def alike(found, expected, case, what):
    found, expected = np.atleast_1d(np.asarray(found, float)), np.atleast_1d(np.asarray(expected, float))
    assert found.shape == expected.shape, (what, found, expected)
    for a, b in zip(found.ravel(), expected.ravel(), strict=True):
        assert close(a, b, rel=case.tolerance, abs_=case.tolerance), (what, found, expected)


def functions(case, p):
    arguments, options, rule = as_plain(case)
    given = [case.given[k] for k in ("y_true", "y_pred", "groups")]
    weight = case.given["sample_weight"]
    has = names_of(case)
    skipped = {"auc_gap", "equity_scaled_auc"} if "auc" not in has else set()
    skipped |= {"calibration_gap"} if "ece" not in has else set()
    for name in [n for n in GAPS if n not in skipped]:
        function = getattr(metrics, name)
        decided = rule if name in GAPS[:9] else {}
        expected = function(*arguments, **options, **decided)
        alike(function(*given, sample_weight=weight, **case.options, **decided), expected, case, name)
    if case.task == "binary":
        expected = metrics.demographic_parity_difference(case.y, *arguments[1:], **options, **rule)
        if "ignore_index" not in case.options:
            whole = {"labels": PAIRS[p["pair"]], **case.options, **rule, "task": "binary"}
            if isinstance(given[1], pd.DataFrame) and set(given[1].columns) == set(PAIRS[p["pair"]]):
                del whole["labels"]  # which the columns are named after, in another order
            found = metrics.demographic_parity_difference(None, *given[1:], sample_weight=weight, **whole)
            alike(found, expected, case, "without labels")
        positive = case.y[case.weight > 0] if case.weight is not None else case.y
        for name in ALONE if positive.any() else ALONE[:-1]:
            function = getattr(metrics, name)
            reading = {k: v for k, v in case.options.items() if k != "task"}
            found = function(*given[:2], sample_weight=weight, **reading)
            alike(found, function(*arguments[:2], sample_weight=case.weight), case, name)


def group_metric(case, p):
    arguments, options, rule = as_plain(case)
    given = [case.given[k] for k in ("y_true", "y_pred", "groups")]
    for name in names_of(case):
        if name == "bce" and case.task == "multiclass":
            continue
        expected = metrics.group_metric(name, *arguments, **options, **rule)
        found = metrics.group_metric(name, *given, sample_weight=case.given["sample_weight"], **case.options, **rule)
        alike(found.values, expected.values, case, name)
        alike(found.overall, expected.overall, case, name)
        alike(found.gap(), expected.gap(), case, name)
        assert found.counts.tolist() == expected.counts.tolist(), name
        assert found.positives.tolist() == expected.positives.tolist(), name
        if case.task == "multilabel":
            by_label(name, case, found)


def by_label(name, case, found):
    """A label's value is that of its known samples alone."""
    columns = []
    for k in range(case.y.shape[1]):
        at = ~np.isnan(case.y[:, k])
        if not at.any():
            continue
        weight = None if case.weight is None else case.weight[at]
        columns.append(metrics.group_metric(
            name, case.y[at, k], case.score[at, k], case.groups[at], sample_weight=weight, **case.rule
        ).overall)  # fmt: skip
    defined = [v for v in columns if not math.isnan(v)]
    alike(found.overall, np.mean(defined) if defined else math.nan, case, f"{name} of labels alone")


def of_report(case, p):
    arguments, options, rule = as_plain(case)
    has = [m for m in names_of(case) if m not in ("bce", "mean_abs_calibration_error")]
    given = [case.given[k] for k in ("y_true", "y_pred", "groups")]
    found = report.FairnessReport.from_predictions(
        *given, sample_weight=case.given["sample_weight"], metrics=has, num_replicates=100, min_group_size=0,
        **case.options, **rule,
    )  # fmt: skip
    reported = found.attributes[0]
    for name in has:
        expected = metrics.group_metric(name, *arguments, **options, **rule)
        alike([g.metrics[name].value for g in reported.groups], expected.values, case, name)
        alike(found.overall[name].value, expected.overall, case, name)
        alike(reported.gap(name).estimate.value, expected.gap(), case, name)
        assert [g.samples for g in reported.groups] == expected.counts.tolist()


def comparison(case, p):
    arguments, options, rule = as_plain(case)
    has = [m for m in names_of(case) if m not in ("bce", "mean_abs_calibration_error")]
    found = report.compare_models(
        case.given["y_true"],
        {"a": case.given["y_pred"], "b": case.given["y_pred"]},
        case.given["groups"],
        metrics=has,
        sample_weight=case.given["sample_weight"],
        num_replicates=100,
        min_group_size=0,
        **case.options,
        **rule,
    )
    for name in has:
        expected = metrics.group_metric(name, *arguments, **options, **rule)
        for model in found:
            alike(model.overall[name], expected.overall, case, name)
            alike(model.gaps[name][0], expected.gap(), case, name)


def command(case, p):
    """From a file; of a binary task, with unknown groups as empty cells."""
    if case.task != "binary":
        return
    rng = np.random.default_rng(p["seed"])
    pair, argv = PAIRS[p["pair"]], []
    rows = [[pair[v], s, ("", *"FMX")[g + 1]] for v, s, g in zip(case.y, case.score, case.groups, strict=True)]
    if pair not in ((0, 1), (0.0, 1.0), (False, True), ("0", "1")):
        argv += ["--positive", str(pair[1])]
    if p["given"] == "decisions":
        for row in rows:
            row[1] = pair[row[1]] if argv else int(row[1])
    elif p["logits"]:
        argv += ["--logits"]
        for row in rows:
            row[1] = math.log(row[1] / (1 - row[1]))
    if p["ignored"] and IGNORED[type(pair[0])] is not None:
        argv += [f"--ignore-index={IGNORED[type(pair[0])]}"]
        known = [row for row in rows if row[2]] or rows
        rows += [[IGNORED[type(pair[0])], *known[0][1:]]]
        rows = [rows[i] for i in rng.permutation(len(rows))]
    if all(not row[2] for row in rows):
        return
    path, out = FOLDER / "forms.csv", FOLDER / "forms.json"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["y", "p", "g"], *rows])
    files = ["report", str(path)] if p["seed"] % 2 else ["compare", str(path), str(path.with_name("again.csv"))]
    path.with_name("again.csv").write_bytes(path.read_bytes())
    argv = [*files, "--target", "y", "--score", "p", "--group", "g", *argv]
    rule = {"threshold": case.rule["threshold"]} if case.rule else {}
    argv += ["--threshold", str(rule["threshold"])] if rule else []
    code, _, err = run([*argv, "--replicates", "100", "--min-group-size", "0", "--json", str(out)])
    assert code == 0, err
    found = json.loads(out.read_text())
    for name in ("accuracy", "tpr", "fpr", "auc"):
        expected = metrics.group_metric(name, case.y, case.score, case.groups, **rule)
        if p["seed"] % 2 and name in found["overall"]:
            alike(number(found["overall"][name]["value"]), expected.overall, case, name)
            gap = found["attributes"]["g"]["gaps"][name]["value"]
            alike(number(gap), expected.gap(), case, name)
        elif not p["seed"] % 2:
            for model in found["g"]:
                if name == "auc" and p["given"] == "decisions" and name not in model["overall"]:
                    continue  # an area under decisions is left out, as the report does
                alike(number(model["overall"][name]), expected.overall, case, name)
                alike(number(model["gaps"][name][0]), expected.gap(), case, name)


def number(value):
    return math.nan if value is None else value


def of_torchmetrics(case, p):
    """In batches; it has ids and no weights, and integer labels."""
    classes = pytest.importorskip("fairloss.integrations.torchmetrics")
    rng = np.random.default_rng(p["seed"])
    y, score, options = np.nan_to_num(case.y, nan=-1).astype(int), case.score, {}
    if case.task == "binary":
        pair = PAIRS[p["pair"]]
        if all(type(v) is int for v in pair) and pair != (0, 1):
            options["positive"] = pair[1]
            y = np.array(pair)[y]
            score = np.array(pair)[score] if p["given"] == "decisions" and p["shape"] != "(N, 2)" else score
        if p["given"] == "decisions" and p["shape"] == "(N, 2)":
            score = np.eye(2)[score]
        elif p["given"] == "scores":
            if p["logits"]:
                options["logits"], score = True, np.log(score / (1 - score))
                score = np.stack([0 * score, score], axis=1) if p["shape"] == "(N, 2)" else score
            elif p["shape"] == "(N, 2)":
                score = np.stack([1 - score, score], axis=1)
        score = score[:, None] if p["shape"] == "(N, 1)" else score
    else:
        options |= {"task": case.task, "num_classes": 3 if case.task == "multilabel" else int(case.y.max()) + 1}
        if p["logits"] and p["given"] == "scores" and case.task == "multilabel":
            options["logits"], score = True, np.log(score / (1 - score))
    groups = case.groups
    if p["ignored"]:
        options["ignore_index"] = -1 if case.task == "multilabel" else -100
        if case.task != "multilabel":
            y, score, groups = np.r_[y, -100, -100], np.concatenate([score, score[:2]]), np.r_[groups, 0, 1]
    preds = (
        torch.from_numpy(score).to(getattr(torch, p["dtype"])) if score.dtype.kind == "f" else torch.from_numpy(score)
    )
    tolerance = 1e-6 if not options.get("logits") or p["dtype"] == "float64" else 1e-2
    if options.get("logits") and p["dtype"] in ("float16", "bfloat16"):
        preds = preds.float()
    order = torch.from_numpy(rng.permutation(len(y)))
    given = [t[order] for t in (preds, torch.from_numpy(y), torch.from_numpy(groups))]
    table = {**CLASSES, **(SCORED if case.task == "binary" else {})}
    name = list(table)[int(rng.integers(len(table)))]
    single = (
        {k: v for k, v in options.items() if k not in ("task", "num_classes")}
        if name in SCORED
        else options | case.rule
    )
    metric = getattr(classes, name)(3, **single)
    for start in range(0, len(y), 7):
        metric.update(*(t[start : start + 7] for t in given[:2]), groups=given[2][start : start + 7])
    extra = {"task": case.task} if case.task != "binary" else {}
    extra |= {} if name in SCORED else case.rule
    expected = getattr(metrics, table[name])(case.y, case.score, case.groups, **extra)
    assert close(metric.compute().item(), expected, rel=1e-6, abs_=tolerance), (name, metric.compute(), expected)


def transformers(case, p):
    """What a Trainer hands to ``compute_metrics``: logits, or the likeliest class."""
    from fairloss.integrations._group_metrics import group_metrics

    y, score = case.y, case.score
    options = {"logits": False} if p["given"] == "decisions" else {}
    if p["given"] == "scores":
        odds = np.log(score / (1 - score)) if case.task != "multiclass" else np.log(score) + 2
        score = np.stack([0 * odds, odds], axis=1) if case.task == "binary" and p["shape"] == "(N, 2)" else odds
        score = score.astype("float32" if p["dtype"] != "float64" else "float64")
        options = {"logits": True}
        score = score[:, None] if case.task == "binary" and p["shape"] == "(N, 1)" else score
    elif case.task == "multilabel":
        score = score.astype(float)
    if case.task == "multilabel" and p["labels"]:
        y = np.nan_to_num(y, nan=-100)
    extra = {"task": case.task} if case.task != "binary" else {}
    expected = metrics.group_metric("accuracy", case.y, case.score, case.groups, **extra)
    groups = case.groups
    if p["ignored"] and y.ndim == 1:
        y, score, groups = np.r_[y, -100], np.concatenate([score, score[:1]]), np.r_[groups, groups[0]]
    prediction = SimpleNamespace(predictions=score, label_ids=(y, groups))
    found = group_metrics(prediction, num_groups=3, group_names=["F", "M", "X"], **options)
    alike(found["accuracy"], expected.overall, case, "accuracy")
    alike(found["max_accuracy_gap"], expected.gap(), case, "gap")
    for label, value in zip(expected.labels, expected.values, strict=True):
        alike(found[f"accuracy_{'FMX'[label]}"], value, case, "group")


PATHS = {
    "functions": functions,
    "group_metric": group_metric,
    "report": of_report,
    "comparison": comparison,
    "command": command,
    "torchmetrics": of_torchmetrics,
    "transformers": transformers,
}


@fuzz(p=FORMS)
def test_every_form_gives_the_number_of_the_plainest(p):
    case = formed(p)
    if (case.groups < 0).all():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", metrics.UndefinedGroupWarning)
        warnings.filterwarnings("ignore", "logits: .* all lie in")  # as a few logits may
        PATHS[p["path"]](case, p)
