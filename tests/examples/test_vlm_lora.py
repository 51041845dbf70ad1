"""The vision-language example: real transformers and PEFT classes, a tiny run, and what it says it does."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = [pytest.mark.examples, pytest.mark.filterwarnings("default")]  # transformers warns of its own deprecations
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    return pytest.importorskip("vlm_lora", reason="examples/ is not on the path")


@pytest.fixture(scope="module")
def vlm(example):
    return example.vlm


def test_script_runs_tiny_with_every_method_and_keeps_its_model(tmp_path, example):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "vlm_lora.py"), "--tiny", "--seeds", "1"]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "MaxAccGap" in run.stdout
    found = json.loads((tmp_path / "out" / "vlm_lora" / "vlm_lora.json").read_text())
    assert list(found["results"]) == ["Vanilla", "FR 0.1", "FR 0.5", "FR 1", "GR", "Hybrid"]
    for figures in found["results"].values():
        for name in ("accuracy", "accuracy:0", "accuracy:1", "accuracy:2", "gap_accuracy"):
            assert 0 <= figures[name]["low"] <= figures[name]["high"] <= 1
    assert found["results"]["Vanilla"] != found["results"]["GR"]
    assert (tmp_path / "out" / "vlm_lora" / "vlm_lora.png").stat().st_size > 20_000
    assert "| Hybrid |" in (tmp_path / "out" / "vlm_lora" / "vlm_lora.md").read_text()
    kept = list((tmp_path / ".cache" / "vlm_lora").glob("*/model.safetensors"))
    assert len(kept) == 1
    # A second run reads it; a floor that is not reached stops the comparison after Vanilla, in words.
    before = kept[0].stat().st_mtime_ns
    again = subprocess.run(
        [*command, "--floor", "1.01"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 1
    assert "the methods are not compared" in again.stderr
    assert kept[0].stat().st_mtime_ns == before


def test_lora_trains_the_attention_and_the_head_alone(example, vlm):
    from peft.tuners.lora import Linear
    from transformers import Qwen2_5_VLModel

    model = example.with_lora(Qwen2_5_VLModel(vlm.small_config(tiny=True)), seed=0)
    adapted = {name.rsplit(".", 1)[1] for name, module in model.named_modules() if isinstance(module, Linear)}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert not any("visual" in name for name, module in model.named_modules() if isinstance(module, Linear))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name or "score" in name for name in trained)
    layer = next(module for module in model.modules() if isinstance(module, Linear))
    assert layer.r["default"] == 32
    assert layer.lora_alpha["default"] == 64
    assert layer.lora_dropout["default"].p == 0.05


def test_presets_hold_the_papers_settings(example):
    paper = example.PRESETS["paper"]
    assert (paper["lr"], paper["micro_batch"], paper["accumulation"]) == (1e-5, 2, 4)
    assert (paper["warmup"], paper["epochs"], paper["amp"]) == (100, 3, "bf16")
    criterion = example.METHODS["Hybrid"].build([903, 43, 54])
    weights = np.minimum(1000 / np.array([903, 43, 54]), 10)
    weights /= (np.array([903, 43, 54]) / 1000 * weights).sum()
    np.testing.assert_allclose(criterion.group_weights.numpy(), weights)
    assert criterion.gap_weight == 0.5
    assert [example.METHODS[f"FR {s}"].gap_weight for s in ("0.1", "0.5", "1")] == [0.1, 0.5, 1.0]
    assert example.METHODS["GR"].build([903, 43, 54]).gap_weight == 0


def test_reader_puts_as_many_image_tokens_as_the_model_sees(example, vlm):
    from transformers import Qwen2_5_VLModel

    reader = vlm.small_reader()
    data = example.fundus.make("standard", counts=[2, 1, 1], size=64)
    images = vlm.disc_region(data.images, data.eye)
    assert images.shape == (4, 32, 32, 3)
    batch = reader(images, [vlm.prompt(63, 0, "glaucoma"), *["short"] * 3])
    assert (batch["input_ids"] == reader.tokenizer.convert_tokens_to_ids(vlm.IMAGE)).sum(1).tolist() == [4, 0, 0, 0]
    assert batch["mm_token_type_ids"].sum() == 4
    batch = reader(images, [vlm.prompt(int(a), int(s), "glaucoma") for a, s in zip(data.age, data.sex, strict=True)])
    classifier = example.LastTokenClassifier(Qwen2_5_VLModel(vlm.small_config(tiny=True)))
    assert classifier(**batch)["logits"].shape == (4, 2)
    words = reader.tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    assert words[-2:] == ["glaucoma", "?"]
    assert "<|endoftext|>" not in words[-13:]  # every word of the prompt is known


def test_the_region_holds_the_whole_disc_of_every_group(example, vlm):
    data = example.fundus.make("standard", counts=[60, 60, 60], size=64, seed=3)
    inside = vlm.disc_region(data.masks, data.eye)
    for whole, part in zip(data.masks, inside, strict=True):
        assert (part > 0).sum() >= 0.97 * (whole > 0).sum() > 0


def test_masks_go_the_way_of_the_patches(example, vlm):
    data = example.fundus.make("standard", counts=[1, 1, 1], size=64, seed=3)
    masks = vlm.disc_region(data.masks, data.eye)
    classes = vlm._patches(masks, vlm.small_reader())
    assert classes.shape == (3 * 16, 64)
    assert torch.bincount(classes.flatten(), minlength=3).tolist() == np.bincount(masks.ravel(), minlength=3).tolist()
    # The first merged block: patches (0, 0), (0, 1), (1, 0), (1, 1).
    np.testing.assert_array_equal(classes[1].numpy(), masks[0, :8, 8:16].ravel())
    np.testing.assert_array_equal(classes[2].numpy(), masks[0, 8:16, :8].ravel())


def test_a_published_model_is_read_from_a_path(tmp_path, example, vlm):
    """A folder with the files of a published one: backbone, tokenizer and image processor of its own."""
    from transformers import Qwen2_5_VLModel

    Qwen2_5_VLModel(vlm.small_config(tiny=True)).save_pretrained(tmp_path)
    reader = vlm.small_reader()
    reader.tokenizer.save_pretrained(tmp_path)
    reader.images.save_pretrained(tmp_path)
    backbone, _ = example.large_model(argparse.Namespace(model=str(tmp_path), amp="bf16"))
    assert backbone().dtype == torch.bfloat16
    out = tmp_path / "out"
    arguments = ["--model", str(tmp_path), "--preset", "paper", "--tiny", "--seeds", "1", "--methods", "Hybrid"]
    results = example.main([*arguments, "--floor", "0", "--out", str(out)])
    assert set(results) == {"Vanilla", "Hybrid"}
    settings = json.loads((out / "vlm_lora.json").read_text())["settings"]
    assert (settings["lr"], settings["micro_batch"], settings["amp"]) == (1e-5, 2, "bf16")


def test_real_photographs_need_a_published_model(tmp_path, example):
    with pytest.raises(SystemExit, match="--data-dir needs --model"):
        example.main(["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")])
