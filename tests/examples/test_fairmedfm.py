"""The FairMedFM example: a tiny run that goes on where it was, heads and prototypes as they say, data sets as blocks."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

pytestmark = [pytest.mark.examples, pytest.mark.filterwarnings("default")]  # transformers warns of its own deprecations
ROOT = Path(__file__).resolve().parents[2]
METHODS = ["ERM", "GroupDRO", "Resampling", "Adversarial", "InD"]


@pytest.fixture(scope="module")
def example():
    for module in ("transformers", "peft", "monai"):
        pytest.importorskip(module, reason="the 'examples' extra")
    return pytest.importorskip("fairmedfm", reason="examples/ is not on the path")


@pytest.fixture(scope="module")
def small(example):
    """The small CLIP, untrained: what is tested of it does not depend on what it knows."""
    torch.manual_seed(0)
    from transformers import CLIPModel

    clip = example.clip
    model = CLIPModel(clip.small_config(tiny=True)).eval()
    return clip.Clip(model, clip.small_tokenizer(), (0.5,) * 3, (0.5,) * 3, small=True)


@pytest.fixture(scope="module")
def split(example, small):
    data = example.fundus.make("standard", counts=[40, 24, 24], seed=0)
    pixels = small.pixels(data)
    return example.Split(data, pixels, small.features(pixels), data.label)


@pytest.fixture
def args(example, tmp_path):
    found = example.parser().parse_args(
        ["--out", str(tmp_path), "--epochs", "2", "--lora-epochs", "1", "--batch", "32"]
    )
    found.lr, found.lora_lr = 0.03, 0.005
    return found


def run(out):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "fairmedfm.py"), "--tiny", "--out", str(out)]
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "fairmedfm.json").read_text())


def test_tiny_run_and_full_goes_on_from_it(tmp_path, example):
    found = run(tmp_path)
    usages = {"LP": METHODS, "LoRA": METHODS, "U-Net": ["ERM", "FEBS", "Resampling", "InD"]}
    tasks = ["standard", "pigmentation", "low-contrast"]
    cells = {tuple(cell["key"]): cell for cell in found["cells"]}
    for usage, methods in usages.items():
        attributes = ["group"] if usage == "U-Net" else ["group", "sex", "age"]
        expected = {(t, usage, m, a, 0) for t in tasks for m in methods for a in ([""] if m == "ERM" else attributes)}
        assert {key for key in cells if key[1] == usage} == expected
    for (_, usage, method, attribute, _), cell in cells.items():
        judged = cell["figures"]
        assert set(judged) == ({attribute} if attribute else {"group", "sex", "age"})
        for figures in judged.values():
            values = list(figures["groups"].values())
            assert figures["gap"] == pytest.approx(max(values) - min(values))
            overall = figures["dsc" if usage == "U-Net" else "auc"]
            assert figures["es"] == pytest.approx(overall / (1 + np.std(values)))
        assert ("withheld" in cell) == (method == "InD" and usage != "U-Net")
    # Three data sets, three attributes: three blocks.
    for families in found["tests"].values():
        assert set(families) <= {*usages, "usages, ERM"}
        assert all(test["blocks"] == 3 for tests in families.values() for test in tests.values())
    assert set(found["tests"]["all attributes"]) == set(usages)
    assert all((tmp_path / f"fairmedfm_{name}.png").stat().st_size > 20_000 for name in ("cd", "gaps"))

    (path,) = tmp_path.glob("cells-*.jsonl")
    before = path.read_text()
    clips = {file: file.stat().st_mtime_ns for file in tmp_path.glob("clip-*/*")}
    full = example.main(["--tiny", "--full", "--out", str(tmp_path)])
    assert path.read_text().startswith(before)  # nothing was computed again
    assert clips == {file: file.stat().st_mtime_ns for file in tmp_path.glob("clip-*/*")}
    added = {tuple(cell["key"]) for cell in full["cells"]} - set(cells)
    assert {key[1] for key in added} == {"ZS", "CLIP-Adapt", "U-Net"}
    assert {key[2:4] for key in added if key[1] == "ZS"} == {("ERM", "")}
    assert {key[2] for key in added if key[1] == "CLIP-Adapt"} == set(METHODS)
    assert {key[3] for key in added if key[1] == "U-Net"} == {"sex", "age"}
    assert full["tests"]["all attributes"]["usages, ERM"]["auc"]["names"] == ["LP", "LoRA", "ZS", "CLIP-Adapt"]
    table = (tmp_path / "fairmedfm.md").read_text()
    assert all(
        f"| {row} |" in table for row in ("LP + ERM", "LoRA + InD", "ZS", "CLIP-Adapt + Adversarial", "U-Net + FEBS")
    )


def test_ind_answers_with_each_groups_own_head_and_unknown_with_their_mean(example, small, split, args):
    group = np.where(np.arange(88) % 11 == 0, -1, split.data.group)
    scores = example.fit("LP", "InD", small, split, group, 3, (), args, 0)
    everyone = {g: scores(split, np.full(88, g)) for g in (0, 1, 2, -1)}
    assert not np.allclose(everyone[0], everyone[1])
    given = scores(split, group)
    for g in (0, 1, 2, -1):
        np.testing.assert_allclose(given[group == g], everyone[g][group == g], atol=1e-7)
    # The mean is one of logits: with two classes, of log odds.
    odds = [np.log(everyone[g] / (1 - everyone[g])) for g in (0, 1, 2)]
    np.testing.assert_allclose(np.log(everyone[-1] / (1 - everyone[-1])), np.mean(odds, axis=0), atol=1e-5)


def test_a_head_of_ind_learns_from_its_own_group(example, split):
    mitigation = example.mitigation
    z, label = split.features, torch.from_numpy(split.label)
    head = mitigation.make_head("InD", z.shape[1], 3)
    group = torch.zeros(88, dtype=torch.long)
    mitigation.answer(head, z, group).logsumexp(1).sum().backward()
    mitigation.Objective("InD", [88, 0, 0])(mitigation.answer(head, z, group), z, label, group).backward()
    assert head.weight.grad[0].abs().sum() > 0
    assert not head.weight.grad[1:].any()


def test_group_unet_answers_with_each_groups_own_layer(example):
    torch.manual_seed(0)
    model = example.segmentation.GroupUNet(4, 3).eval()
    assert torch.equal(model.heads.weight[0], model.heads.weight[2])
    with torch.no_grad():
        model.heads.weight.normal_()
        images = torch.randn(4, 3, 32, 32)
        trunk = model.trunk(images)
        found = example.segmentation.forward(model, images, torch.tensor([2, 0, -1, 1]))
        w, b = model.heads.weight, model.heads.bias
        per_head = torch.einsum("gcd,ndhw->gnchw", w, trunk) + b[:, None, :, None, None]
    for i, g in enumerate((2, 0, None, 1)):
        torch.testing.assert_close(
            found[i], per_head[:, i].mean(0) if g is None else per_head[g, i], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("method", ["ERM", "InD"])
def test_clip_adapt_starts_at_the_zero_shot_answer(example, small, split, args, method):
    prompts = example.clip.PROMPTS
    words = small.tokenizer(list(prompts), padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():  # the model's own forward, without any of the example's functions
        expected = small.model(pixel_values=split.pixels, **words).logits_per_image
    head = example.mitigation.make_head(method, split.features.shape[1], 3, small.prototypes(prompts))
    group = torch.from_numpy(np.where(np.arange(88) % 5 == 0, -1, split.data.group))
    found = example.mitigation.answer(head, split.features, group)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert all(p.requires_grad for p in head.parameters())
    zero_shot = example.fit("ZS", "ERM", small, split, split.data.group * 0, 1, prompts, args, 0)
    np.testing.assert_allclose(zero_shot(split, split.data.group * 0), expected.softmax(1)[:, 1].numpy(), atol=1e-5)
    adapted = example.fit("CLIP-Adapt", method, small, split, split.data.group, 3, prompts, args, 0)
    assert not np.allclose(adapted(split, split.data.group), expected.softmax(1)[:, 1].numpy(), atol=1e-3)


@pytest.mark.parametrize("usage", ["LP", "CLIP-Adapt", "LoRA"])
@pytest.mark.parametrize("method", METHODS)
def test_the_model_keeps_its_weights(example, small, split, args, usage, method):
    before = {k: v.clone() for k, v in small.model.state_dict().items()}
    scores = example.fit(usage, method, small, split, split.data.group, 3, example.clip.PROMPTS, args, 0)
    after = small.model.state_dict()
    assert list(after) == list(before)  # no adapter was left in it, either
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert np.ptp(scores(split, split.data.group)) > 1e-4


def test_lora_trains_adapters_of_the_vision_tower_alone(example, small):
    tower = example.with_lora(small.model, 4)
    learnt = [name for name, p in tower.named_parameters() if p.requires_grad]
    assert len(learnt) == 2 * 4  # A and B of four projections of one layer
    assert all("vision_model" in name and "lora_" in name for name in learnt)


def test_figures_are_table_2s(example):
    rng = np.random.default_rng(0)
    label, ids = rng.integers(0, 2, 400), rng.integers(-1, 2, 400)
    score = np.clip(rng.normal(0.3 + 0.3 * label * (1 + ids), 0.3), 0, 1)
    found = example.figures(label, score, ids, ("female", "male"), 0.4)
    parts = [(label[ids == g], score[ids == g]) for g in (0, 1)]
    aucs = [roc_auc_score(*part) for part in parts]
    assert found["groups"] == pytest.approx({"female": aucs[0], "male": aucs[1]})
    assert found["auc"] == pytest.approx(roc_auc_score(label, score))
    assert found["gap"] == pytest.approx(abs(aucs[0] - aucs[1]))
    assert found["es"] == pytest.approx(found["auc"] / (1 + abs(aucs[0] - aucs[1]) / 2))
    rates = [[(s[y == c] >= 0.4).mean() for c in (1, 0)] for y, s in parts]
    assert found["eqodds"] == pytest.approx(1 - np.abs(np.subtract(*rates)).mean())
    assert found["printed_ece"] == pytest.approx(abs(np.subtract(*[np.abs(y - s).mean() for y, s in parts])))


def test_resampling_draws_groups_alike_and_every_method_as_many_batches(example):
    group = np.array([0] * 90 + [1] * 6 + [2] * 4)
    drawn = {m: list(example.mitigation.batches(m, group, 30, 27, 0)) for m in METHODS}
    assert {len(b) for b in drawn.values()} == {27}
    # 27 batches of 30 are three epochs of 3 x 90, each exactly balanced.
    assert np.bincount(group[torch.cat(drawn["Resampling"])]).tolist() == [270, 270, 270]
    assert np.bincount(group[torch.cat(drawn["ERM"])[:100]]).tolist() == [90, 6, 4]


def test_group_dro_keeps_the_part_of_unknown_samples(example):
    objective = example.mitigation.Objective("GroupDRO", [50, 50], adjustment=0.0)
    logits = torch.zeros(4, 2, requires_grad=True)
    group, label = torch.tensor([0, 1, -1, -1]), torch.tensor([0, 1, 0, 1])
    value = objective(logits, logits, label, group)
    value.backward()
    assert value.item() == pytest.approx(1.5 * np.log(2), abs=1e-6)  # the groups' mean, and half of the photographs
    assert (logits.grad.abs().sum(1) > 0).all()


def fake_cells(example, tmp_path, rng, names, seeds, attributes):
    cells = example.blocks.Cells(tmp_path, {"fake": 1})
    for name in names:
        for seed in range(seeds):
            for m in METHODS:
                for a in [""] if m == "ERM" else attributes:
                    judged = {b: {"auc": rng.random(), "gap": rng.random()} for b in ([a] if a else attributes)}
                    cells.add((name, "LP", m, a, seed), {"seconds": 0.0, "figures": judged})
    return cells


def test_blocks_are_data_sets(example, tmp_path):
    attributes, names = ["group", "sex", "age"], list("abcdefg")
    cells = fake_cells(example, tmp_path, np.random.default_rng(0), names, 4, attributes)
    args = argparse.Namespace(seeds=4, seg_seeds=1, methods=METHODS)
    runs = [("LP", m) for m in METHODS]
    kept, table = example.benchmark.matrix(cells, names, runs, attributes, "auc", args)
    assert kept == names
    by_hand = [
        [
            np.mean([
                cells[(n, "LP", m, "" if m == "ERM" else a, s)]["figures"][a]["auc"] for a in attributes for s in range(4)
            ])
            for m in METHODS
        ]
        for n in names
    ]  # fmt: skip
    np.testing.assert_allclose(table, by_hand)
    result = example.benchmark.test(table, METHODS, True)
    assert result.ranks.shape == (7, 5)
    assert result.statistic == pytest.approx(stats.friedmanchisquare(*np.transpose(by_hand)).statistic)
    # The row of InD without the group is that of other figures.
    cells.found["a", "LP", "InD", "sex", 0]["withheld"] = {"sex": {"auc": 0.25}}
    one = argparse.Namespace(seeds=1, seg_seeds=1)
    rows = [example.benchmark.column(cells, ["a"], "LP", m, "sex", "auc", one) for m in ("InD", "InD, group withheld")]
    assert rows[0] == cells["a", "LP", "InD", "sex", 0]["figures"]["sex"]["auc"]
    assert rows[1] == 0.25
    # A data set that lacks a method is no block; an attribute that a data set lacks is left out of its mean.
    del cells.found["c", "LP", "InD", "sex", 0], cells.found["d", "LP", "InD", "group", 1]
    for key in [k for k in cells.found if k[0] == "e" and k[3] != "age" and k[2] != "ERM"]:
        del cells.found[key]
    for key in [k for k in cells.found if k[0] == "b" and k[2] == "InD"]:
        del cells.found[key]
    kept, _ = example.benchmark.matrix(cells, names, runs, attributes, "auc", args)
    assert kept == list("acdefg")
    assert example.benchmark.test(table[:1], METHODS, True) is None


def test_cells_survive_a_kill_in_the_middle_of_a_line(example, tmp_path):
    cells = example.blocks.Cells(tmp_path, {"images": 5})
    cells.add(("a", "LP", "ERM", "", 0), {"figures": 1})
    cells.add(("a", "LP", "InD", "sex", 0), {"figures": 2})
    whole = cells.path.read_text()
    cells.path.write_text(whole[:-9])
    again = example.blocks.Cells(tmp_path, {"images": 5})
    assert list(again.found) == [("a", "LP", "ERM", "", 0)]
    again.add(("a", "LP", "InD", "sex", 0), {"figures": 2})
    assert again.path.read_text() == whole
    assert not example.blocks.Cells(tmp_path, {"images": 6}).found
    assert not example.blocks.Cells(tmp_path, {"images": 5}, fresh=True).found


def write_harvard(root, n, rng, *, masks):
    for folder, count in (("Training", n), ("Validation", n), ("Test", n)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((40, 40), dtype=np.int8)
            mask[10:30, 10:30], mask[15:25, 15:25] = -1, -2
            np.savez(
                root / folder / f"data_{i:03d}.npz", slo_fundus=rng.integers(0, 255, (40, 40), dtype=np.uint8),
                age=30 + 2 * i, gender=int(rng.integers(-1, 2)), race=i % 3, ethnicity=0, language=0, maritalstatus=0,
                **({"disc_cup_mask": mask} if masks else {"glaucoma": i // 2 % 2}),
            )  # fmt: skip


def test_folders_of_real_data_are_blocks_with_the_attributes_that_they_have(example, tmp_path, capsys):
    rng = np.random.default_rng(0)
    folders = [tmp_path / name for name in ("VLM-A", "VLM-B", "Seg")]
    for folder in folders:
        write_harvard(folder, 24, rng, masks=folder.name == "Seg")
    out = tmp_path / "out"
    found = example.main([
        "--tiny", "--size", "32", "--out", str(out), "--data-dir", *map(str, folders),
        "--attributes", "sex", "race", "skin", "--methods", "ERM", "GroupDRO", "InD",
    ])  # fmt: skip
    said = capsys.readouterr().out
    assert "Seg: its labels are not two classes; no classification" in said
    assert "VLM-A: no masks; no segmentation" in said
    cells = {tuple(c["key"]): c["figures"] for c in found["cells"]}
    assert {k[1] for k in cells if k[0].endswith("VLM-B")} == {"LP", "LoRA"}
    assert {k[1] for k in cells if k[0].endswith("Seg")} == {"U-Net"}
    for (name, usage, method, attribute, _), figures in cells.items():
        # Nobody knows the skin type: it is left out, not made up.
        assert set(figures) == ({attribute} if method != "ERM" else {"sex", "race"})
        for attribute_figures in figures.values():
            assert set(attribute_figures["groups"]) <= {"female", "male", "Asian", "Black", "White"}, (name, usage)
    assert {t["blocks"] for family in found["tests"]["all attributes"].values() for t in family.values()} == {2}
    assert "U-Net" not in found["tests"]["all attributes"]


def test_captions_say_what_the_photographs_show(example):
    data = example.fundus.make("standard", counts=[50, 50, 50], seed=1, size=8)
    words = set(example.clip.WORDS)
    texts = example.clip.captions(data, np.random.default_rng(0))
    longest = example.clip.small_tokenizer()(texts, padding=True, return_tensors="np")["input_ids"].shape[1]
    assert longest <= example.clip.LONGEST
    for i, text in enumerate(texts):
        assert set(text.split()) <= words
        if "glaucoma" in text:
            assert ("no glaucoma" in text) == (data.label[i] == 0)
        if "ratio" in text:
            assert abs(float(text.split("ratio ")[1].split()[0]) - data.vcdr[i]) < 0.0251
