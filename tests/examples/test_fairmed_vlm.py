"""The FairMed-VLM example: a tiny run of every arm, each term apart from the others, stages taken up again, thresholds."""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

pytestmark = [pytest.mark.examples, pytest.mark.filterwarnings("default")]  # transformers warns of its own deprecations
ROOT = Path(__file__).resolve().parents[2]
TASK = ("instruction", "scoring", "concept")
OFF = {  # what an arm lacks, and the terms of stage 2 that this takes away
    "instruction": {"instruction"},
    "scoring": {"scoring"},
    "concept": {"concept"},
    "contrastive": {"contrastive"},
    "moments": {"moments"},
    "fairness": {"contrastive", "moments"},
}


@pytest.fixture(scope="module")
def example():
    for name in ("transformers", "peft", "fairlearn"):
        pytest.importorskip(name, reason="the 'examples' extra")
    return pytest.importorskip("fairmed_vlm", reason="examples/ is not on the path")


@pytest.fixture(scope="module")
def common(example):
    from common import medvlm_data, medvlm_eval, medvlm_train

    return argparse.Namespace(data=medvlm_data, train=medvlm_train, eval=medvlm_eval)


@pytest.fixture(scope="module")
def opened(example, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm")
    args = example.parse(["--tiny", "--out", str(folder / "out"), "--cache", str(folder / "cache"), "--batch", "16"])
    source = example.open_source(args)
    train_set, _ = source.cohorts(0)
    return args, source, source.encode(train_set, args.views)


def arm_of(example, *lacks):
    return example.Arm(frozenset(lacks))


def run_of(example, opened, arm, out, **changes):
    args, source, encoder = opened
    return example.Run(source, encoder, arm, 0, argparse.Namespace(**{**vars(args), "out": out, **changes}))


def test_script_runs_tiny_with_every_arm(tmp_path, example):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "fairmed_vlm.py"), "--tiny"]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    out = tmp_path / "out" / "fairmed_vlm"
    found = json.loads((out / "fairmed_vlm.json").read_text())
    assert list(found["results"]) == [*example.ARMS, example.AFTER]
    for figures in found["results"].values():
        for attribute in ("sex", "age group", "sex x age group"):
            gap = figures[f"gap_positive_rate {attribute}"]
            assert 0 <= gap["low"] <= gap["value"] <= gap["high"]
        assert 0 <= figures["accuracy"]["value"] <= 1
    assert 0 <= found["results"]["Full"]["auc"]["value"] <= 1
    assert 0 <= found["results"]["Full"]["macro_f1"]["value"] <= 1
    assert len(found["details"]["Full"]["thresholds"][0]) == 4
    tables = (out / "fairmed_vlm.md").read_text()
    assert all(f"| {arm} |" in tables for arm in example.ARMS)
    assert (out / "fairmed_vlm.png").stat().st_size > 20_000
    # Each term's value and contribution, step by step; an arm's total is that of its terms.
    logs = {}
    for arm in example.ARMS:
        with (out / "terms" / f"{arm.lower().replace(' ', '_').replace(',', '')}-seed0.csv").open() as file:
            logs[arm] = list(csv.DictReader(file))
        for row in logs[arm]:
            parts = [float(row[f"{term}_part"]) for term in example.medvlm_train.TERMS]
            assert float(row["total"]) == pytest.approx(math.fsum(parts), abs=1e-12)
    assert (
        json.loads((out / "terms" / "full-seed0.json").read_text())["fairness"]["moments"]["last tenth"]["contribution"]
        > 0
    )
    # The same first step of stage 2 with and without a fairness term: they share stage 1.
    first = {arm: next(row for row in log if row["stage"] == "fairness") for arm, log in logs.items()}
    for arm, term, other in (("No contrastive", "contrastive", "moments"), ("No moments", "moments", "contrastive")):
        for name in (*TASK, other):
            assert first[arm][name] == first["Full"][name]
        assert first[arm][term] == "nan"
        difference = float(first["Full"]["total"]) - float(first[arm]["total"])
        assert difference == pytest.approx(float(first["Full"][f"{term}_part"]), abs=1e-12)
        assert difference != 0


@pytest.mark.parametrize("lacks", OFF)
def test_a_term_that_is_off_takes_away_that_term_alone(lacks, example, opened, common, tmp_path):
    """One step of stage 2 from the same model and batch: the others' values to the last bit, the total by that term."""
    steps = {}
    for arm in (arm_of(example), arm_of(example, lacks)):
        run = run_of(example, opened, arm, tmp_path)
        torch.manual_seed(0)
        model = common.train.Diagnoser(run.source.build(), 4)
        common.train.add_lora(model, 0, run.args.rank)
        model.double()  # gradients of separate terms add up to more digits (the model's norms stay in float32)
        common.train.choose_trainable(model, "lora")
        stage = run.stage(2)
        batch = run.encoder.batch(*(part[0] for part in stage.batches))
        batch = batch._replace(features=batch.features.double(), findings=batch.findings.double())
        torch.manual_seed(1)  # LoRA's dropout
        model.train()
        values = stage.objective(model, batch)
        total = stage.objective.total(values)
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        parts = {
            name: torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            for name, value in values.items()
        }
        steps[len(arm.lacks)] = values, total, gradients, parts, stage.objective.weights
    (whole, total, gradients, parts, weights), (fewer, less, fewer_gradients, _, _) = steps[0], steps[1]
    assert set(whole) - set(fewer) == OFF[lacks]
    for name, value in fewer.items():
        assert torch.equal(value, whole[name])
    gone = math.fsum(weights[name] * whole[name].item() for name in OFF[lacks])
    assert gone != 0
    assert total.item() - less.item() == pytest.approx(gone, abs=1e-12)
    for i, (g, f) in enumerate(zip(gradients, fewer_gradients, strict=True)):
        missing = [weights[n] * parts[n][i] for n in OFF[lacks] if parts[n][i] is not None]
        left = torch.zeros_like(parameters[i]) if f is None else f
        torch.testing.assert_close(torch.zeros_like(left) if g is None else g, sum(missing, left), rtol=1e-6, atol=1e-6)


def test_every_arm_shows_the_same_batches_but_for_what_it_lacks(example, opened, tmp_path):
    plans = {name: run_of(example, opened, arm, tmp_path).stage(1).batches for name, arm in example.ARMS.items()}
    for name, arm in example.ARMS.items():
        same = "balancing" not in arm.lacks
        assert np.array_equal(plans[name].rows, plans["Full" if same else "Vanilla"].rows)
        assert np.array_equal(plans[name].kind, plans["Full"].kind)
        assert plans[name].prompted.any() == ("prompts" not in arm.lacks)
    assert plans["Full"].rows.shape == plans["Vanilla"].rows.shape  # as many updates


def test_balanced_batches_and_their_augmented_views(common):
    cohort = common.data.rendered([80, 40, 12, 4], 0, "train")
    plan = common.train.plan(cohort, epochs=20, batch=34, seed=0, stage=1, balanced=True, prompts=0.5, views=3)
    shown = np.bincount(cohort.strata[plan.rows].ravel(), minlength=4) / plan.rows.size
    target = min(int(1.5 * np.median([80, 40, 12, 4])), 80)  # 39
    sizes = np.array([4, 12, 40, 80])
    expected = np.maximum([40, 4, 80, 12], target)  # strata in the order woman < 65, woman >= 65, man < 65, man >= 65
    np.testing.assert_allclose(shown, expected / expected.sum(), atol=0.02)
    assert set(np.unique(plan.view[np.isin(cohort.strata[plan.rows], [1, 3])])) == {0, 1, 2}
    assert not plan.view[np.isin(cohort.strata[plan.rows], [0, 2])].any()
    assert sizes.sum() == len(cohort)
    changed = common.data.augmented(cohort.images, 1)
    assert changed.shape == cohort.images.shape
    assert 1 < np.abs(changed.astype(int) - cohort.images).mean() < 40


@pytest.mark.parametrize("stop_at", [(0, 2), (1, 1), (2, 3)])
def test_a_stage_taken_up_again_ends_where_it_would_have_ended(stop_at, example, opened, tmp_path):
    arm = example.Arm(adversary=True)
    changes = {"epochs2": 2}
    model, log = example.train(run_of(example, opened, arm, tmp_path / "whole", **changes), lambda n: None)
    stopped = run_of(example, opened, arm, tmp_path / "parts", **changes)
    nothing, first = example.train(stopped, lambda n: None, stop_after=stop_at)
    assert nothing is None
    assert len(first) < len(log)
    again, second = example.train(stopped, lambda n: None)
    assert json.dumps(second) == json.dumps(log)
    for (name, a), b in zip(again.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_arms_share_their_first_stage(example, opened, tmp_path):
    places = {
        name: [run_of(example, opened, arm, tmp_path).stage(k).checkpoint.name for k in (0, 1, 2)]
        for name, arm in example.ARMS.items()
    }
    for name in ("Full, as printed", "Full, pooled z", "No fairness loss", "No contrastive", "No moments"):
        assert places[name][:2] == places["Full"][:2]
    assert places["Adversarial"][:2] == places["Vanilla"][:2]
    assert len({p[1] for p in places.values()}) == 6
    assert len({p[2] for p in places.values()}) == len(example.ARMS)
    other = run_of(example, opened, example.ARMS["Full"], tmp_path, fair_weight=0.5)
    assert other.stage(1).checkpoint.name == places["Full"][1]
    assert other.stage(2).checkpoint.name != places["Full"][2]


def test_the_papers_settings(example):
    args = example.parse(["--preset", "paper"])
    assert (args.batch, args.lr, args.lr2) == (64, 2e-5, 2e-5)
    assert (args.align_epochs, args.epochs, args.rank) == (1, 3, 32)
    assert (args.fair_weight, args.temperature, args.margin) == (0.1, 0.07, 0.3)
    run = example.Run(None, None, example.ARMS["Full"], 0, args)
    assert run.weights(2) == {
        "instruction": 1.0, "scoring": 1.0, "concept": 1.0, "contrastive": 1.0, "moments": 10.0, "adversary": 0.0
    }  # fmt: skip
    assert run._replace(arm=example.ARMS["Full, as printed"]).weights(2)["contrastive"] == 0.1
    assert run.weights(0) == {"concept": 1.0}
    assert run._replace(arm=example.ARMS["No fairness loss"]).weights(2)["contrastive"] == 0


def test_lora_and_projector_are_what_stage_two_trains(example, opened, common):
    from peft.tuners.lora import Linear

    _, source, _ = opened
    model = common.train.Diagnoser(source.build(), 4)
    common.train.add_lora(model, 0)
    common.train.choose_trainable(model, "lora")
    layers = [m for m in model.modules() if isinstance(m, Linear)]
    assert all((m.r["default"], m.lora_alpha["default"]) == (32, 64) for m in layers)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(layers) == 4
    assert all("lora_" in n or "multi_modal_projector" in n or n.startswith("score") for n in trained)
    assert not any("vision_tower" in n for n, _ in model.named_parameters())


def test_features_of_the_frozen_tower_give_the_models_own_logits(example, opened, common):
    """The cache stands in for the vision tower without a difference; and answers follow the question without padding."""
    from common import llava

    args, source, encoder = opened
    cohort = encoder.cohort
    path = next(args.cache.glob("llava-*"))
    whole, processor = (
        llava.large_model(str(path), torch.float32) if (path / "preprocessor_config.json").exists() else (None, None)
    )
    if whole is None:
        from transformers import LlavaForConditionalGeneration

        whole, processor = LlavaForConditionalGeneration.from_pretrained(path), source.processor
    rows = np.array([0, 3, 5])
    batch = encoder.batch(rows, np.zeros(3, int), np.array([0, 1, 1]), np.array([True, False, True]))
    pixels = processor.pixels(cohort.images[rows])
    with torch.no_grad():
        expected = whole(input_ids=batch.ids, pixel_values=pixels, attention_mask=batch.mask).logits
        got = source.build()(input_ids=batch.ids, pixel_values=batch.features, attention_mask=batch.mask).logits
        model = common.train.Diagnoser(source.build(), 4)
        seen = model(batch)
    torch.testing.assert_close(got, expected)
    for i in range(3):
        said = batch.answer[i][batch.answer[i] >= 0]
        start = int(batch.end[i])
        nll = torch.nn.functional.cross_entropy(expected[i, start : start + len(said)], said, reduction="sum")
        torch.testing.assert_close(seen.nll[i], nll)
        assert processor.texts(batch.ids[i : i + 1, : start + 1])[0].endswith("answer :")
        written = source.questions.answer(int(batch.kind[i]), cohort.findings[rows[i]])
        assert processor.texts(said[None])[0] == written.lower().replace(",", " ,")
        assert ("patient" in processor.texts(batch.ids[i : i + 1])[0]) == (i != 1)
    unknown = processor.tokenizer.unk_token_id
    assert not (batch.ids == unknown).any()


def test_thresholds_maximise_the_f1_of_every_finding(common):
    rng = np.random.default_rng(0)
    for _ in range(8):
        y = (rng.random((40, 3)) < 0.3).astype(int)
        p = np.round(rng.random((40, 3)) * 0.7 + 0.3 * y, 1)  # with ties
        found = common.eval.tune_thresholds(y, p)
        for j in range(3):
            best = max(f1_score(y[:, j], p[:, j] >= t, zero_division=0) for t in np.unique(p[:, j]))
            assert f1_score(y[:, j], p[:, j] >= found[j], zero_division=0) == pytest.approx(best)
    assert common.eval.tune_thresholds(np.zeros((4, 1), int), rng.random((4, 1))).tolist() == [0.5]


def test_figures_against_scikit_learn_and_fairlearn(common):
    from fairlearn.metrics import demographic_parity_difference

    cohort = common.data.rendered([20, 20, 20, 20], 1, "test")
    rng = np.random.default_rng(1)
    closed = rng.integers(-1, 2, (2, 80))
    findings = rng.integers(0, 2, (2, 80, 4))
    found = common.eval.Bootstraps(cohort, 50).figures(closed, rng.random((2, 80)), findings)
    for k, name in enumerate(cohort.attribute_names):
        groups = cohort.attributes[:, k]
        gaps = [demographic_parity_difference(cohort.label, c == 1, sensitive_features=groups) for c in closed]
        assert found[f"gap_positive_rate {name}"].value == pytest.approx(np.mean(gaps))
        several = [
            demographic_parity_difference(cohort.findings[:, j], f[:, j], sensitive_features=groups)
            for f in findings
            for j in range(4)
        ]
        assert found[f"gap_multi {name}"].value == pytest.approx(np.mean(several))
    f1 = np.mean([f1_score(cohort.findings, f, average="macro", zero_division=0) for f in findings])
    assert found["macro_f1"].value == pytest.approx(f1)
    by_stratum = [(closed[:, cohort.strata == s] == cohort.label[cohort.strata == s]).mean() for s in range(4)]
    assert found["accuracy"].value == pytest.approx(np.dot(by_stratum, cohort.shares), abs=1e-5)


def test_answers_are_generated_and_read_back(example, opened, common, monkeypatch):
    """A model that always says the same is read as it speaks; one that says nothing of the vocabulary is unknown."""
    _, source, encoder = opened
    model = common.train.Diagnoser(source.build(), 4)
    for text, closed, row in (("glaucoma.", 1, [1, 0, 0, 0]), ("no finding", 0, [0] * 4), ("photograph", -1, [-1] * 4)):
        monkeypatch.setattr(type(source.processor), "texts", lambda self, ids, text=text: [text] * len(ids))
        said = common.eval.answers(model, encoder, lambda: torch.no_grad())
        assert set(said.closed.tolist()) == {closed}
        assert np.unique(said.open, axis=0).tolist() == [row]
        assert said.findings.shape == (64, 4)
        assert ((said.probability > 0) & (said.probability < 1)).all()


def test_a_published_model_is_read_from_a_path_and_real_data_need_one(tmp_path, example, opened):
    args, source, _ = opened
    path = next(args.cache.glob("llava-*"))
    source.processor.tokenizer.save_pretrained(path)
    source.processor.images.save_pretrained(path)
    out = tmp_path / "out"
    arguments = ["--model", str(path), "--preset", "paper", "--tiny", "--arms", "Full", "Vanilla", "--out", str(out)]
    results = example.main(arguments)
    assert set(results) == {"Full", "Vanilla", example.AFTER}
    with pytest.raises(SystemExit, match="--data-dir needs --model"):
        example.main(["--data-dir", str(tmp_path), "--out", str(out)])
    with pytest.raises(ValueError, match="'colour' is not one of instruction"):
        example.medvlm_train.Objective({"colour": 1.0}, source.test, [[1]], 4)
