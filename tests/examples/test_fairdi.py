"""The Fair Distillation and the segmentation example run as scripts and write what they say; CutMix and freezing are right."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.examples
ROOT = Path(__file__).resolve().parents[2]


def run(name, out):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--tiny", "--out", str(out)]
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / f"{name}.json").read_text())["results"], (out / f"{name}.md").read_text()


def check_figure(figure, seeds):
    assert len(figure["per_seed"]) == seeds
    assert figure["value"] == pytest.approx(np.mean(figure["per_seed"]))
    assert 0 <= figure["low"] <= figure["high"] <= 1


def test_fairdi_runs_tiny(tmp_path):
    pytest.importorskip("transformers", reason="the 'examples' extra")
    results, table = run("fairdi_cnn", tmp_path)
    teachers = [f"Teacher: {name}" for name in ("light", "dark", "medium")]
    expected = ["ERM", "GroupDRO", "FIS", *teachers, "Teachers, each on its group", "Student (FairDi)"]
    assert list(results) == expected
    for figures in results.values():
        check_figure(figures["auc"], 2)
        check_figure(figures["worst_auc"], 2)
        assert figures["es_auc"] <= figures["auc"]["value"] + 1e-12
        assert 0 <= figures["mean_psd"] <= figures["max_psd"]
    # On its own group a teacher has the score that the routed row says.
    for g, name in enumerate(teachers):
        assert results[name][f"auc:{g}"]["value"] == results["Teachers, each on its group"][f"auc:{g}"]["value"]
    assert all(f"| {m} |" in table for m in expected)
    assert (tmp_path / "fairdi_cnn.png").stat().st_size > 20_000


def test_segmentation_runs_tiny(tmp_path):
    pytest.importorskip("monai", reason="the 'examples' extra")
    results, table = run("febs_segmentation", tmp_path)
    methods = ["Dice + CE", "Resampling", "GroupDRO", "FEBS", "FEBS, released"]
    assert list(results) == methods
    for figures in results.values():
        check_figure(figures["dice"], 2)
        assert figures["es_dice"] <= figures["dice"]["value"]
        assert figures["es_iou"] <= figures["iou"]["value"] <= figures["dice"]["value"]
        assert figures["error_skew"] >= 1
    assert len({figures["dice"]["value"] for figures in results.values()}) == len(methods)
    assert all(f"| {m} |" in table for m in methods)
    for picture in ("febs_segmentation.png", "febs_overlays.png"):
        assert (tmp_path / picture).stat().st_size > 20_000


def test_cutmix_mixes_within_groups_and_labels_follow_the_area():
    fairdi = pytest.importorskip("fairdi_cnn", reason="examples/ is not on the path")
    torch.manual_seed(0)
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    label = torch.tensor([0, 1, 1, 0, 0, 1])
    # Every photograph is a constant that names it: the pasted area and its source can be read off.
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 3, 16, 16).clone()
    for _ in range(20):
        mixed, target = fairdi.cutmix(images, label, group, 1.0)
        for i in range(6):
            values, counts = mixed[i, 0].unique(return_counts=True)
            sources = values.long()
            assert (group[sources] == group[i]).all()
            expected = (counts / 256 * label[sources]).sum()
            assert target[i, 1].item() == pytest.approx(expected.item(), abs=1e-6)
            assert target[i].sum().item() == pytest.approx(1)
    same, target = fairdi.cutmix(images, label, group, 0.0)
    assert torch.equal(same, images)
    assert torch.equal(target[:, 1].long(), label)


def test_teachers_and_student_leave_the_backbone_alone(tmp_path):
    fairdi = pytest.importorskip("fairdi_cnn", reason="examples/ is not on the path")
    pytest.importorskip("transformers", reason="the 'examples' extra")
    from common import fundus

    args = argparse.Namespace(
        device="cpu", amp="none", width=8, epochs=1, patience=5, batch=32, lr=1e-3, head_lr=0.05, cutmix=0.5,
        distill_weight=0.95, temperature=1.5,
    )  # fmt: skip
    train = fundus.make("standard", counts=[30, 20, 20], seed=0, size=32)
    valid = fundus.make("standard", counts=[20, 20, 20], seed=0, size=32, split="valid")

    def trainer():
        return fairdi.Trainer(train, valid, args, 0, lambda: None)

    backbone, _ = fairdi.end_to_end("FIS", trainer())
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    heads = fairdi.teachers(backbone, trainer())
    given = heads.weight.detach().clone()
    assert not torch.equal(given[0], given[1])
    fairdi.student(backbone, heads, trainer())
    assert all(torch.equal(backbone.state_dict()[k], v) for k, v in before.items())
    assert torch.equal(heads.weight, given)
    layers = fairdi.Backbone(8).model
    # ResNet-18: two 3 x 3 convolutions in each of 2 + 2 + 2 + 2 blocks, the stem's, and three shortcuts.
    convolutions = [m for m in layers.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len([m for m in convolutions if m.kernel_size == (3, 3)]) == 16
    assert len([m for m in convolutions if m.kernel_size == (1, 1)]) == 3
    assert len(convolutions) == 20
