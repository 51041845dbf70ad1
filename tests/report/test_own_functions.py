"""Metrics that the user wrote: values as fairlearn's, intervals as those of the built-in metric that they compute."""

import functools
import json
import re

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef

import fairloss.metrics as fm
import fairloss.report as fr
import fairloss.report.report as made
from fairloss.report import bootstrap
from tests.report.samples import data

FEW = {"num_replicates": 120}


def right(y, p, sample_weight=None):
    return np.average((np.asarray(p) >= 0.5) == y, weights=sample_weight)


def years(y, p):
    return 40 * np.abs(y - p).mean()


def sample(n=500, seed=0):
    """Scores, two attributes with unknown ones and a small group, patients of several samples, whole weights."""
    rng = np.random.default_rng(seed)
    y, s, g = data(n, seed, effect=0.15)
    age = np.array(["18-49", "50-69", "70+"])[g].astype(object)
    age[:12], age[12:20] = "90+", None
    sex = np.random.default_rng(seed + 1).choice(["F", "M"], n).astype(object)
    return y, s, {"age": age, "sex": sex}, {"patients": np.arange(n) // 2, "sample_weight": rng.integers(1, 4, n)}


def same_but_name(gap):
    return {k: v for k, v in gap.items() if k not in ("title", "best", "worst", "directed")}


@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_fairlearns(weighted):
    y, s, groups, options = sample()
    d, weight = (s >= 0.5).astype(int), options["sample_weight"] if weighted else None
    functions = {f.__name__: f for f in (f1_score, matthews_corrcoef)}
    report = fr.FairnessReport.from_predictions(
        y, d, groups, metrics=["f1", *functions.values()], sample_weight=weight, num_replicates=100
    )
    assert list(report.overall) == ["f1", "f1_score", "matthews_corrcoef"]
    for name, features in {"age": ["age"], "sex": ["sex"], "age & sex": ["age", "sex"]}.items():
        known = np.all([[v is not None for v in groups[f]] for f in features], axis=0)
        frame = MetricFrame(
            metrics=functions,
            y_true=y[known],
            y_pred=d[known],
            sensitive_features={f: groups[f][known] for f in features},
            sample_params=dict.fromkeys(functions, {} if weight is None else {"sample_weight": weight[known]}),
        )
        for m in functions:
            theirs = {" & ".join(k) if isinstance(k, tuple) else k: v for k, v in frame.by_group[m].items() if v == v}
            ours = {g.label: g.metrics[m].value for g in report[name].groups}
            assert ours == pytest.approx(theirs, abs=1e-12)
    for m, f in functions.items():
        assert report.overall[m].value == pytest.approx(f(y, d, sample_weight=weight), abs=1e-12)
    if not weighted:  # where weights are, the F1 of the report is one of the positives alone
        for g in report["sex"].groups:
            one, other = (g.metrics[m] for m in ("f1", "f1_score"))
            assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


@pytest.fixture(scope="module")
def both():
    y, s, groups, options = sample()
    of = {"groups": groups, **options, **FEW, "reference": {"sex": "M"}, "within": "sex"}
    return fr.FairnessReport.from_predictions(y, s, metrics=["accuracy", right], **of)


def test_a_function_has_the_intervals_of_the_metric_that_it_computes(both):
    y, s, groups, options = sample()
    alone = [
        fr.FairnessReport.from_predictions(y, s, groups, metrics=[m], **options, **FEW) for m in ("accuracy", right)
    ]
    assert alone[0].overall["accuracy"] == alone[1].overall["right"] == both.overall["right"]
    assert {"age & sex", "age within sex F"} < {a.name for a in both.attributes}
    for a in both.attributes:
        for g in a.groups:
            theirs, ours = g.metrics["accuracy"], g.metrics["right"]
            assert (theirs == ours) if not g.small else (theirs.value == ours.value and ours.few)
            assert ours.low <= theirs.low
            assert theirs.high <= ours.high
        found = json.loads(json.dumps(both.to_dict()))["attributes"][a.name]["gaps"]
        assert same_but_name(found["accuracy"]) == same_but_name(found["right"])
        contrasts = {(c.metric, c.group): (c.difference, c.ratio) for c in a.contrasts}
        assert all(found == contrasts["right", g] for (m, g), found in contrasts.items() if m == "accuracy")
    assert both["age"].gap("right").left_out == ("90+",)
    for first, second in zip(alone[0].attributes, alone[1].attributes, strict=True):
        assert first.gap("accuracy").estimate == second.gap("right").estimate == both[first.name].gap("right").estimate
    assert both["sex"].contrasts
    assert alone[0].warnings == alone[1].warnings


def test_what_it_counts_is_not_known_where_there_are_few_positives():
    y = np.repeat([0, 1, 0, 1], [224, 1, 100, 100])
    d, g = np.where(np.arange(425) % 5, y, 0), np.repeat(["F", "M"], [225, 200])
    report = fr.FairnessReport.from_predictions(y, d, g, metrics=["f1", "accuracy", f1_score], **FEW)
    of = report["group"].groups[0].metrics
    assert (of["f1"].few, of["accuracy"].few, of["f1_score"].few) == (True, False, True)
    assert of["f1_score"].high == of["f1"].high == 1
    assert report["group"].gap("f1_score").verdict == "too few"


def test_pages_show_the_same_numbers_under_its_name(both):
    frame = both.to_frame()
    frame = frame[~frame.group.astype(str).str.startswith("90+")]  # too small to judge, where the function claims less
    columns = ["attribute", "kind", "group", "value", "low", "high", "corrected", "samples", "verdict"]
    of = {m: frame.loc[frame.metric == m, columns].reset_index(drop=True) for m in ("accuracy", "right")}
    assert of["accuracy"].equals(of["right"])
    assert len(of["right"]) > 20
    page = both.to_html()
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        head = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", table)
        if "right" in head:
            rows = [re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", row) for row in table.split("<tr")[2:]]
            assert rows
            assert all(row[head.index("accuracy")] == row[head.index("right")] for row in rows if "(!)" not in row[0])
    assert page.count("right gap") >= 7
    origin = "right: a function given in Python, tests.report.test_own_functions.right."
    assert origin in page
    assert origin in both.to_markdown()
    assert both.to_dict()["settings"]["functions"] == {"right": "tests.report.test_own_functions.right"}
    assert "| right |" in both.to_model_card()
    assert both.plot("age").axes[1].get_title() == "right"


def test_of_several_labels_each_column_is_a_call():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (300, 2)).astype(float)
    s = np.clip(0.25 + 0.5 * y + 0.4 * rng.standard_normal((300, 2)), 0, 1)
    y[rng.random((300, 2)) < 0.1] = np.nan
    g = rng.choice(["F", "M"], 300)
    names = {"labels": ["edema", "effusion"], "sample_weight": rng.integers(1, 3, 300), **FEW}
    report = fr.FairnessReport.from_predictions(y, s, g, metrics=["accuracy", right], **names)
    for each in (report, *report.findings.values()):
        assert each.overall["accuracy"] == each.overall["right"]
        found = each.to_dict()["attributes"]["group"]["gaps"]
        assert same_but_name(found["accuracy"]) == same_but_name(found["right"])
        assert found["right"]["high"] > found["right"]["low"]
    assert list(report.findings) == ["edema", "effusion"]


def test_of_several_classes():
    rng = np.random.default_rng(0)
    y, g = rng.choice(["a", "b", "c"], 300), rng.choice(["F", "M"], 300)
    d = np.where(rng.random(300) < 0.7, y, "a")

    def same(y, d):
        return (y == d).mean()

    report = fr.FairnessReport.from_predictions(y, d, g, metrics=["accuracy", same], **FEW)
    found = report.to_dict()["attributes"]["group"]["gaps"]
    assert same_but_name(found["accuracy"]) == same_but_name(found["same"])


def test_comparisons_of_models():
    y, s, groups, options = sample()
    other = np.clip(s + 0.3 * np.random.default_rng(1).standard_normal(len(s)), 0, 1)
    models = fr.compare_models(y, {"A": s, "B": other}, groups, metrics=["accuracy", right], **options, **FEW)
    for model in models:
        for of in (model.overall, model.gaps, model.corrected):
            assert of["accuracy"] == of["right"]
    theirs, ours = (models[1].against_first[m] for m in ("accuracy", "right"))
    assert {**vars(theirs), "metric": "right"} == vars(ours)
    assert ours.low < ours.difference < ours.high
    tests = [
        fr.gap_difference_test(y, s, other, groups["sex"], metric=m, **options, **FEW) for m in ("accuracy", right)
    ]
    assert {**vars(tests[0]), "metric": "right"} == vars(tests[1])
    with pytest.raises(ValueError, match=r"fails: expected a number for all samples, got .*\(model B\)"):
        fr.compare_models(y, {"A": s, "B": s + 1}, groups, metrics=[fails], threshold=0.7, **FEW)


def fails(y, p):
    if p.max() > 1:
        raise ZeroDivisionError("division by zero")
    return 0.5


def test_direction_limits_and_margin():
    y, s, groups, _ = sample()

    def report(**options):
        return fr.FairnessReport.from_predictions(
            y, s, {"age": groups["age"]}, metrics=["tpr", right, years], reference={"age": "18-49"}, **FEW, **options
        )

    plain, told = report(), report(higher_is_better={"years": False, "right": True}, margin={"years": 0.5})
    words = {m: [row[-1] for row in _comparisons(r) if row[0] == f"{m} gap"] for m in ("years",) for r in (plain,)}
    assert words == {"years": ["lowest 18-49, highest 70+"]}
    assert [row[-1] for row in _comparisons(told)][1:3] == ["worst 70+, best 18-49"] * 2
    assert [a["age"].gap("years").directed for a in (plain, told)] == [False, True]
    assert report(higher_is_better=False)["age"].gap("right").worst == "18-49"
    # In [0, 1] the common margin holds; years have one only where it is given. A difference of years is not cut at 1.
    assert plain.settings["margins"] == {"tpr": 0.05, "right": 0.05}
    assert told.settings["margins"]["years"] == 0.5
    beside = next(c for c in plain["age"].contrasts if (c.metric, c.group) == ("years", "70+"))
    assert 1 < beside.difference.low < beside.difference.value < beside.difference.high
    assert beside.difference.value == pytest.approx(plain["age"].gap("years").estimate.value)
    lines = [str(b) for b in plain.breaches(max_gap={"years": 1.0}, minimum={"right": 0.99})]
    assert any(line.startswith("age: years gap") and "lowest 18-49, highest 70+" in line for line in lines)
    assert any(line.startswith("age: right of 70+") for line in lines)


def _comparisons(report):
    from fairloss.report.tables import tables

    return tables(report)[0].comparisons.rows


def test_a_file_takes_functions_as_well(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("y,p,sex\n" + "1,0.9,F\n0,0.2,M\n1,0.3,M\n0,0.1,F\n" * 20)
    of = {"target": "y", "score": "p", "metrics": [right], "higher_is_better": {"right": True}}
    report = fr.FairnessReport.from_file(path, "sex", **of, **FEW)
    assert report["sex"].gap("right").worst == "M"
    assert report.overall["right"].value == 0.75


def test_undefined_groups_are_left_out_and_small_ones_not_judged():
    y, s, groups, _ = sample()
    y = np.where(groups["age"] == "90+", 0, y)

    def hit(y, p):
        return (p[y == 1] >= 0.5).mean() if y.any() else float("nan")

    report = fr.FairnessReport.from_predictions(y, s, {"age": groups["age"]}, metrics=["tpr", hit], **FEW)
    of = {g.label: g.metrics for g in report["age"].groups}
    assert of["90+"]["hit"].value != of["90+"]["hit"].value
    assert of["90+"]["hit"].few
    assert [of[g]["hit"].value for g in ("18-49", "70+")] == [of[g]["tpr"].value for g in ("18-49", "70+")]
    assert any("TPR, hit undefined in 90+" in w for w in report.warnings)
    assert report["age"].gap("hit").estimate == report["age"].gap("tpr").estimate


def named(function, name):
    function.__name__ = name
    return function


def value_for_women(value):
    """A function that returns ``value`` for the 50 women, and a number for all others."""

    def odd(y, p):
        return value if len(y) == 50 else 0.5

    return odd


def raising(y, p):
    if len(y) == 50:
        raise KeyError("none")
    return 0.5


@pytest.mark.parametrize(
    ("metrics", "error", "text"),
    [
        ([lambda y, p: 0.5], ValueError, "metrics: .*name, got a lambda.*__name__"),
        ([functools.partial(right)], ValueError, "metrics: .*name, got a partial"),
        ([named(lambda y, p: 0.5, "AUC")], ValueError, "'AUC', which the report has itself"),
        ([named(lambda y, p: 0.5, "equalized_odds")], ValueError, "'equalized_odds', which the report has itself"),
        ([right, named(lambda y, p: 0.5, "right")], ValueError, "two called 'right'"),
        ([], ValueError, "metrics: expected functions, or names among accuracy"),
        (right, TypeError, "metrics: expected a sequence of names and functions"),
        ({"mine": right}, TypeError, "metrics: expected a sequence of names and functions"),
        (
            [value_for_women(np.inf)],
            ValueError,
            "metrics: odd: expected a number for group F of sex, got inf; return nan",
        ),
        ([value_for_women(np.zeros(2))], ValueError, r"odd: .* group F of sex, got ndarray of shape \(2,\)"),
        ([value_for_women("0.5")], ValueError, "odd: .* group F of sex, got str"),
        ([value_for_women(None)], ValueError, "odd: .* group F of sex, got TypeError: .*returns a value"),
        (
            [confusion_matrix],
            ValueError,
            "confusion_matrix: .*all samples, got ndarray|confusion_matrix: .*all samples",
        ),
        ([raising], ValueError, "raising: .* group F of sex, got KeyError: 'none'; .*before any threshold"),
        ([named(lambda y, p: float("nan"), "lost")], ValueError, "lost: expected a number for all samples, got nan"),
    ],
)
def test_errors_before_any_work(metrics, error, text, monkeypatch):
    monkeypatch.setattr(made, "bootstrap_groups", lambda *a, **k: pytest.fail("the bootstrap was begun"))
    y, s, _ = data(130)
    sex = np.repeat(["F", "M"], [50, 80])
    with pytest.raises(error, match=text) as caught:
        fr.FairnessReport.from_predictions(y, s, {"sex": sex}, metrics=metrics, **FEW)
    if metrics == [raising]:
        assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("metrics", "direction", "error", "text"),
    [
        ([right], {"tpr": True}, ValueError, "higher_is_better: .*'right', got 'tpr'"),
        ([right], {"right": "yes"}, TypeError, "higher_is_better: .*True or False for right"),
        (["tpr"], {"tpr": True}, ValueError, "higher_is_better: .*functions among metrics=.*labels and scores"),
        (None, True, ValueError, "higher_is_better: .*functions among metrics=.*labels and scores"),
    ],
)
def test_directions_are_of_functions(metrics, direction, error, text):
    y, s, g = data(130)
    with pytest.raises(error, match=text):
        fr.FairnessReport.from_predictions(y, s, g, metrics=metrics, higher_is_better=direction, **FEW)


def test_weights_need_a_function_that_takes_them():
    y, s, groups, options = sample()
    text = r"expected a function that takes sample_weight=.*years\(y, p\); give it .* or leave the weights out"
    with pytest.raises(TypeError, match="metrics: " + text):
        fr.FairnessReport.from_predictions(y, s, groups, metrics=[years], **options, **FEW)
    with pytest.raises(TypeError, match="metric: " + text):
        fm.group_metric(years, y, s, groups["sex"], sample_weight=options["sample_weight"])

    def anything(y, p, **options):
        return right(y, p, **options)

    part = named(functools.partial(right), "part")
    found = fr.FairnessReport.from_predictions(
        y, s, groups["sex"], metrics=[anything, part, "accuracy"], **options, **FEW
    )
    assert found.overall["anything"] == found.overall["part"] == found.overall["accuracy"]


def test_what_fails_in_a_replicate_names_the_group():
    y, s, _ = data(130)
    s = np.linspace(0, 1, 130)  # no two alike, but in a replicate

    def distinct(y, p):
        if len(np.unique(p)) < len(p) and p.max() < 0.5:
            raise ArithmeticError("twice")
        return 0.5

    sex = np.where(s < 0.5, "F", "M")
    with pytest.raises(
        ValueError, match="distinct: .*a replicate of group F of sex, got ArithmeticError: twice"
    ) as found:
        fr.FairnessReport.from_predictions(y, s, {"sex": sex}, metrics=[distinct], **FEW)
    assert isinstance(found.value.__cause__, ArithmeticError)


def test_a_value_outside_the_unit_interval_is_no_share():
    y, s, groups, _ = sample()
    d = (s >= 0.5).astype(int)
    report = fr.FairnessReport.from_predictions(
        y, np.random.default_rng(0).permutation(d), groups["sex"], metrics=[matthews_corrcoef], num_replicates=100
    )
    low = min(g.metrics["matthews_corrcoef"].low for g in report["group"].groups)
    assert -0.5 < low < 0
    assert not bootstrap._within_one(np.array([0.2, -0.1]))
    assert bootstrap._within_one(np.array([0.0, np.nan, 1.0]))


@pytest.mark.parametrize("metrics", [["accuracy"], ["accuracy", right, years]])
def test_progress_reaches_the_end(metrics, monkeypatch):
    y, s, groups, _ = sample()
    seen = []

    class Recorder(made.Progress):
        def close(self):
            seen.append((self.done, self.total, self.said))

        def advance(self, amount):
            super().advance(amount)
            steps.append(amount)

    steps = []
    monkeypatch.setattr(made, "Progress", Recorder)
    fr.FairnessReport.from_predictions(y, s, groups, metrics=metrics, **FEW)
    ((done, total, _),) = seen
    assert done == pytest.approx(total)
    if len(metrics) > 1:  # a long call is told of while it lasts
        assert max(steps) < 0.01 * total
