"""The CNN example runs, as a script and on real files, learns, and writes what it says."""

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


@pytest.fixture(scope="module")
def cnn():
    return pytest.importorskip("cnn", reason="examples/ is not on the path")


def check_results(out, methods, seeds):
    found = json.loads((out / "cnn.json").read_text())
    assert list(found["results"]) == methods
    for figures in found["results"].values():
        for name in ("accuracy", "accuracy:0", "worst_accuracy", "gap_accuracy", "auc"):
            figure = figures[name]
            assert len(figure["per_seed"]) == seeds
            assert 0 <= figure["low"] <= figure["high"] <= 1
            assert figure["value"] == pytest.approx(np.mean(figure["per_seed"]))
    assert (out / "cnn.png").stat().st_size > 20_000
    table = (out / "cnn.md").read_text()
    assert all(f"| {m} |" in table for m in methods)
    assert all(f"- {m}, gap_accuracy: " in table for m in methods if m != "ERM")


def test_script_runs_tiny_with_every_method(tmp_path, cnn):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "cnn.py"), "--tiny", "--out", str(tmp_path)]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "accuracy gap" in run.stdout
    check_results(tmp_path, list(cnn.METHODS), seeds=2)


@pytest.mark.parametrize("layout", ["ham", "harvard"])
def test_real_files(tmp_path, cnn, layout):
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()
    if layout == "ham":
        image = pytest.importorskip("PIL.Image")
        lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
        for i in range(60):
            image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(data / f"I{i}.jpg")
            lines.append(f"L{i // 2},I{i},{('mel', 'nv')[i // 2 % 2]},histo,50,{('male', 'female')[i // 4 % 2]},back")
        (data / "HAM10000_metadata.csv").write_text("\n".join(lines))
    else:
        for i in range(60):
            np.savez(
                data / f"data_{i}.npz", slo_fundus=rng.integers(0, 255, (40, 40), dtype=np.uint8), glaucoma=i % 2,
                age=60, gender=i // 2 % 2, race=2, ethnicity=-1, language=0, maritalstatus=0,
            )  # fmt: skip
    attribute = "sex" if layout == "ham" else "gender"
    arguments = [
        "--data-dir",
        str(data),
        "--attribute",
        attribute,
        "--tiny",
        "--batch",
        "16",
        "--methods",
        "ERM",
        "Hybrid",
    ]
    cnn.main([*arguments, "--seeds", "1", "--out", str(tmp_path / "out")])
    check_results(tmp_path / "out", ["ERM", "Hybrid"], seeds=1)


def test_masks_alone_are_refused_in_words(tmp_path, cnn):
    for i in range(12):
        np.savez(
            tmp_path / f"{i}.npz", slo_fundus=np.zeros((8, 8), np.uint8), disc_cup_mask=np.zeros((8, 8), int), age=1,
            gender=0, race=0, ethnicity=0, language=0, maritalstatus=0,
        )  # fmt: skip
    with pytest.raises(SystemExit, match="masks and no label"):
        cnn.main(["--data-dir", str(tmp_path), "--tiny", "--out", str(tmp_path / "out")])


def test_the_network_learns_the_label(cnn):
    args = argparse.Namespace(
        model="cnn", device="cpu", amp="none", batch=64, epochs=8, lr=3e-3, data_dir=None, task="standard",
        images=1200, test_images=100, size=64, tiny=True,
    )  # fmt: skip
    results, data, _ = cnn.evaluate(args, [("ERM", "ERM", 0.0), ("weighted", "GR", 10.0)], (0,), "test")
    assert len(data) == 300
    assert results["ERM"]["accuracy:0"].value > 0.8
    assert results["ERM"]["auc"].value > 0.85
    assert not np.array_equal(results["ERM"]["accuracy"].samples, results["weighted"]["accuracy"].samples)


@pytest.mark.frameworks
def test_resnet_of_transformers_in_bfloat16(tmp_path, cnn):
    pytest.importorskip("transformers")
    assert cnn.ResNet(2)(torch.zeros(2, 3, 32, 32)).shape == (2, 2)
    arguments = ["--tiny", "--model", "resnet", "--amp", "bf16", "--methods", "ERM", "GroupDRO", "--seeds", "1"]
    cnn.main([*arguments, "--out", str(tmp_path)])
    check_results(tmp_path, ["ERM", "GroupDRO"], seeds=1)


def test_tuning_tries_every_strength(tmp_path, cnn, capsys):
    cnn.main(["--tiny", "--tune", "--methods", "ERM", "GR", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("ERM", "GR 3", "GR 10", "GR 30"))
