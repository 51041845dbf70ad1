"""The fairness benchmark: every arm trains, all get the same budget, test data choose nothing, the page shows the results."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import fairloss
from benchmarks import fairness, fairness_report
from benchmarks.fairness_cost import measure
from benchmarks.fairness_data import FULL, QUICK, RENDERED, TASKS, folds, test_set
from benchmarks.fairness_methods import METHODS, PLAIN, SETTINGS, YARDSTICKS
from benchmarks.fairness_runs import Log, choose, final, tune_and_finish
from benchmarks.fairness_summary import figures, holm
from fairloss.losses.catalogue import LOSSES

trains = pytest.mark.examples
test_set.__test__ = False


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("fairness")


@pytest.fixture(scope="module")
def quick(cache):
    """The quick run, once: two tasks, all arms."""
    fairness.main(["--quick", "--out", str(cache)])
    return cache


@trains
def test_every_arm_is_timed_beside_plain_training(cache):
    ratios = measure(QUICK, cache, cache / "cost.json", repeats=1)
    assert list(ratios) == list(METHODS)
    assert ratios[PLAIN] == 1
    assert json.loads((cache / "cost.json").read_text())["ratios"] == ratios


def test_every_arm_has_the_same_budget():
    assert len(METHODS) == len({id(m) for m in METHODS.values()})
    assert {len(method.settings) for method in METHODS.values()} == {SETTINGS}
    assert all(len({str(s) for s in method.settings}) == SETTINGS for method in METHODS.values())


@trains
def test_the_quick_run_trains_every_arm_as_often(quick):
    log = Log(quick / "quick.jsonl", QUICK)
    runs = {
        (phase, name): sum(k[0] == phase and k[2] == name for k in log.found)
        for phase in ("tune", "final")
        for name in METHODS
    }
    tasks, tuned = len(QUICK.tasks), SETTINGS * len(QUICK.tune_seeds)
    assert {n for (phase, _), n in runs.items() if phase == "tune"} == {tasks * tuned}
    assert {n for (phase, _), n in runs.items() if phase == "final"} == {tasks * len(QUICK.seeds)}
    results = json.loads((quick / "fairness.json").read_text())
    assert list(results["methods"]) == list(METHODS)
    for method in results["methods"].values():
        assert method["runs"] == {"tuning": tuned, "final": len(QUICK.seeds)}
    for name in ("critical-difference", "trade-off", "gains"):
        assert (quick / f"fairness-{name}.png").stat().st_size > 10_000


@trains
def test_a_second_call_repeats_nothing_and_a_torn_line_is_run_again(quick):
    path = quick / "quick.jsonl"
    before = path.read_text()
    fairness.main(["--quick", "--out", str(quick)])
    assert path.read_text() == before
    lines = before.splitlines(keepends=True)
    torn = quick / "torn.jsonl"
    torn.write_text("".join(lines[:3]) + lines[3][:40])
    log = Log(torn, QUICK)
    assert len(log.found) == 3
    # Another size's runs are not taken for this one's.
    assert not Log(path, replace(QUICK, steps=5)).found


@trains
@pytest.mark.parametrize("task", QUICK.tasks)
@pytest.mark.parametrize("name", list(METHODS))
def test_every_arm_trains_and_repeats_itself(name, task, cache):
    fold, method = folds(task, 0, QUICK, cache)[0], METHODS[name]
    first, again = (method.fit(fold, method.settings[-1], 3, QUICK) for _ in range(2))
    other = method.fit(fold, method.settings[-1], 4, QUICK)
    p = first.score(fold.test)
    assert p.shape == (len(fold.test),)
    assert np.isfinite(p).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert np.array_equal(p, again.score(fold.test))
    assert not np.array_equal(p, other.score(fold.test))


@trains
@pytest.mark.parametrize("name", [n for n in METHODS if n not in (PLAIN, "ThresholdOptimizer")])
def test_every_arm_differs_from_plain_training(name, cache):
    fold = folds("standard", 0, QUICK, cache)[0]
    sizes = replace(QUICK, steps=12)
    plain = METHODS[PLAIN].fit(fold, 1.0, 0, sizes).score(fold.test)
    assert not np.allclose(METHODS[name].fit(fold, METHODS[name].settings[-1], 0, sizes).score(fold.test), plain)


def test_every_classifier_method_of_the_library_is_an_arm():
    source = (fairness_report.ROOT / "benchmarks" / "fairness_methods.py").read_text()
    public = [n for n in fairloss.__all__ if n.endswith(("Loss", "Sampler", "Weighting", "Heads", "Advantage"))]
    assert len(public) > 15
    left_out = {loss.name for loss in LOSSES if loss.compared != "yes"}
    assert {n for n in public if f"fl.{n}(" not in source and f"fl.{n})" not in source} == left_out


@trains
def test_training_validation_and_test_share_no_patient(cache):
    for task in QUICK.tasks:
        for equal in {False, task in RENDERED}:
            parts = [
                [set(p.patient.tolist()) for p in (f.train, f.valid, f.test)]
                for f in folds(task, 1, QUICK, cache, equal=equal)
            ]
            for train, valid, test in parts:
                assert not train & valid
                assert not train & test
                assert not valid & test
    y, _, patient, _ = test_set("diabetes", QUICK, cache)
    assert sorted(patient) == list(range(442))
    assert y.mean() == pytest.approx(0.5, abs=0.01)
    # A patient of a fold's test set is in no seed's training or validation set of that fold.
    first, second = (folds("diabetes", seed, QUICK, cache) for seed in (0, 1))
    assert all(np.array_equal(a.test.patient, b.test.patient) for a, b in zip(first, second, strict=True))


@trains
def test_overall_figures_weigh_groups_as_the_population(cache):
    _, g, _, weight = test_set("standard", QUICK, cache)
    shares = np.bincount(g, weights=weight) / weight.sum()
    assert shares == pytest.approx([0.903, 0.043, 0.054])


def test_the_choice_is_the_worst_group_then_all_then_the_weaker():
    def valid(*groups, overall=0.5):
        return {"overall": overall, "groups": list(groups)}

    assert choose([[valid(0.9, 0.6)], [valid(0.7, 0.65)], [valid(0.99, 0.1)]]) == 1
    # The worst of each seed is averaged: 0.6 and 0.5 against 0.5 and 0.5.
    assert choose([[valid(0.5, 0.9), valid(0.9, 0.5)], [valid(0.6, 0.9), valid(0.9, 0.5)]]) == 1
    assert choose([[valid(0.7, 0.6)], [valid(0.7, 0.6, overall=0.6)]]) == 1
    assert choose([[valid(0.7, 0.6)], [valid(0.6, 0.7)]]) == 0


@trains
def test_the_setting_is_chosen_without_test_data(cache, tmp_path, monkeypatch):
    """Test labels turned round: the same settings are chosen, with other test figures."""
    from benchmarks import fairness_runs

    def records(path):
        log = Log(path, QUICK)
        list(tune_and_finish("standard", "Resampling", QUICK, cache, log))
        return [r for k, r in log.found.items() if k[0] == "final"]

    straight = records(tmp_path / "a.jsonl")
    monkeypatch.setattr(fairness_runs, "test_set", lambda *args: (1 - test_set(*args)[0], *test_set(*args)[1:]))
    turned = records(tmp_path / "b.jsonl")
    assert [r["setting"] for r in straight] == [r["setting"] for r in turned]
    assert [1 - r["test"]["overall"] for r in straight] == pytest.approx([r["test"]["overall"] for r in turned])


@trains
def test_test_figures_against_a_naive_count(cache):
    fold = folds("standard", 0, QUICK, cache)[0]
    model = METHODS[PLAIN].fit(fold, 1.0, 0, replace(QUICK, steps=30))
    found = final("standard", PLAIN, 0, [0], [(fold.test, model)], QUICK, cache, 0.0)["test"]
    right = ((model.score(fold.test) >= 0.5).astype(int) == fold.test.y.numpy()).tolist()
    groups = fold.test.g.tolist()
    by_group = [np.mean([r for r, k in zip(right, groups, strict=True) if k == g]) for g in range(3)]
    assert found["groups"] == pytest.approx(by_group)
    assert found["overall"] == pytest.approx(np.dot(by_group, [0.903, 0.043, 0.054]))
    assert figures(found)["gap_accuracy"] == pytest.approx(max(by_group) - min(by_group))
    auc = np.array(found["auc_groups"])
    assert found["es_auc"] == pytest.approx(found["auc"] / (1 + np.abs(auc - found["auc"]).mean()))


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_network_is_the_convolution_it_says():
    """The patches times the first layer equal a convolution of stride 6."""
    from benchmarks.fairness_data import PATCH, SIDE, _patches

    images = torch.randn(3, SIDE, SIDE, 3)
    layer = torch.nn.Linear(3 * PATCH**2, 16)
    kernel = layer.weight.reshape(16, PATCH, PATCH, 3).permute(0, 3, 1, 2)
    expected = torch.nn.functional.conv2d(images.permute(0, 3, 1, 2), kernel, layer.bias, stride=PATCH)
    assert torch.allclose(layer(_patches(images)), expected.flatten(2).transpose(1, 2), atol=1e-5)


def test_the_page_shows_the_results_file():
    stored = json.loads(fairness_report.RESULTS.read_text())["results"]
    page = fairness_report.PAGE.read_text()
    assert fairness_report.fill(page, fairness_report.tables(stored)) == page
    tasks = list(stored["tasks"])
    assert set(tasks) <= set(TASKS)
    assert "diabetes" in tasks
    assert len(tasks) >= 7
    assert stored["sizes"]["seeds"] == list(FULL.seeds)
    assert list(stored["methods"]) == list(METHODS)
    tuned = SETTINGS * len(FULL.tune_seeds)
    yardsticks = (2 * len(tasks) - 1) * len(FULL.seeds)  # the diabetes study has one
    assert stored["runs"] == len(tasks) * len(METHODS) * (tuned + len(FULL.seeds)) + yardsticks
    for name, method in stored["methods"].items():
        assert f"| {name} |" in page or f"| *{name}* |" in page
        assert method["runs"] == {"tuning": tuned, "final": len(FULL.seeds)}
        assert method["time"] > 0
    assert all(f"| {name} (no method) |" in page for name in YARDSTICKS)


def test_plain_training_has_a_gap_in_every_rendered_task():
    stored = json.loads(fairness_report.RESULTS.read_text())["results"]
    assert all(about["gap"]["low"] > 0 for task, about in stored["tasks"].items() if task in RENDERED)
