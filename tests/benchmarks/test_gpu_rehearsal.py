"""The run on a GPU, rehearsed without one (tests/benchmarks/cuda_stub.py), and what is written from its results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from benchmarks import gpu, gpu_measure
from benchmarks.gpu_measure import read
from fairloss.ops.measured import KERNEL_FROM
from tests.gpu import test_losses_gpu
from tests.ops.launches import Launches, no_autocast, on_meta
from tests.ops.test_kernels import needs_triton

ROOT = Path(__file__).parents[2]
PARTS = ("ceilings", "likelihood", "dice", "crossover", "contrastive", "queue", "advantages", "segments", "losses")


@pytest.fixture
def stubbed(tmp_path):
    """Environment of a process whose CUDA device is the CPU."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "from tests.benchmarks import cuda_stub\n\ncuda_stub.install()\n"
    )
    return {
        **os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "TRITON_INTERPRET": "1", "FAIRLOSS_GPU_SMALL": "1",
        "FAIRLOSS_GPU_PART_S": "600", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip


def run_part(part, out, environment):
    command = [sys.executable, "benchmarks/gpu.py", "--out", str(out), "--only", part]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return read(out)


@needs_triton
@pytest.mark.slow
def test_the_whole_run(tmp_path):
    """benchmarks/gpu.sh as it is, in a copy of the repository, with the stub among the wheels that it installs."""
    repository, programs, out = tmp_path / "repository", tmp_path / "bin", tmp_path / "out"
    for folder in (repository / ".whl", programs, out):
        folder.mkdir(parents=True)
    for name in ("fairloss", "benchmarks", "tests", "conftest.py", "pyproject.toml"):
        (repository / name).symlink_to(ROOT / name)
    with zipfile.ZipFile(repository / ".whl" / "cuda_stub-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sitecustomize.py", "from tests.benchmarks import cuda_stub\n\ncuda_stub.install()\n")
        wheel.writestr("cuda_stub-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: cuda_stub\nVersion: 1\n")
        wheel.writestr("cuda_stub-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("cuda_stub-1.dist-info/RECORD", "")
    # A shared machine is slower than the limits of a GPU's.
    shims = {"python3": f'exec {sys.executable} "$@"', "nvidia-smi": "echo none", "timeout": 'shift; exec "$@"'}
    for name, text in shims.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OUT": str(out), "TRITON_INTERPRET": "1",
        "FAIRLOSS_GPU_SMALL": "1", "FAIRLOSS_GPU_PART_S": "600",
    }  # fmt: skip
    script = str(ROOT / "benchmarks" / "gpu.sh")
    done = subprocess.run(["bash", script], cwd=repository, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "FAILED" not in said, said
    assert "NO WHEELS" not in said
    rows = read(out / "gpu.jsonl")
    assert {row["part"] for row in rows} == set(PARTS)
    assert not [row for row in rows if "failed" in row or "wrong" in row or "graph_failed" in row]
    checked = {row["op"] for row in rows if row["variant"] == "kernel" and "ms" in row and row["errors"]}
    assert checked == {"nll", "dice_sums", "contrastive_losses", "fair_grpo_advantages", "segment_sums"}
    (suite,) = ElementTree.parse(out / "tests.xml").getroot()
    count = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    assert count["tests"] - count["skipped"] > 200, count
    assert count["failures"] == count["errors"] == 0, count
    for part in PARTS:
        assert f"### {part} (no device" in done.stdout


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "part"),
    [("nll", "likelihood"), ("dice_sums", "dice"), ("segments", "segments"), ("contrastive", "queue")],
)
def test_a_wrong_output_is_caught_and_gets_no_time(op, part, tmp_path, stubbed):
    rows = run_part(part, tmp_path / "rows", {**stubbed, "FAIRLOSS_GPU_PLANT": f"wrong:{op}"})
    on_kernel = [row for row in rows if row["variant"] == "kernel"]
    assert on_kernel
    for row in on_kernel:
        assert "nan" in row["wrong"]
        assert "ms" not in row
    assert all("ms" in row for row in rows if row["variant"] == "eager")


@needs_triton
@pytest.mark.slow
def test_a_variant_that_fails_leaves_the_others(tmp_path, stubbed):
    rows = run_part("segments", tmp_path / "rows", {**stubbed, "FAIRLOSS_GPU_PLANT": "fail:segments"})
    assert [("planted" in row.get("failed", ""), "ms" in row) for row in rows] == [(True, False), (False, True)] * 2


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["die", "hang"])
def test_a_part_that_dies_or_hangs_leaves_the_others(kind, tmp_path, stubbed):
    out = tmp_path / "rows"
    code = (
        "from benchmarks import gpu\nfrom pathlib import Path\n"
        f"print(gpu.run_all(Path({str(out)!r}), ['segments', 'ceilings']))"
    )
    environment = {**stubbed, "FAIRLOSS_GPU_PLANT": f"{kind}:segments", "FAIRLOSS_GPU_PART_S": "40"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "['segments']", done.stdout + done.stderr
    assert {row["part"] for row in read(out)} == {"ceilings"}


@pytest.mark.parametrize("case", test_losses_gpu.CASES, ids=lambda c: c.name)
def test_the_set_up_of_the_gpu_tests_on_meta_tensors(case, monkeypatch):
    """Every branch that is not the CPU's, opaque ops opened: whoever asks for a value fails."""
    if test_losses_gpu.reason(case):
        pytest.skip(test_losses_gpu.reason(case))
    monkeypatch.setattr(torch, "autocast", no_autocast)

    def move(x):
        return on_meta(x) if isinstance(x, torch.nn.Module) else x.to("meta")

    module, batch = test_losses_gpu.on_gpu(case, move=move)
    with Launches():
        value, grads = test_losses_gpu.step(module, batch, [batch[name] for name in case.differentiable])
    assert value.shape == ()
    assert all(g is None or g.device.type == "meta" for g in grads)


def test_no_variant_starts_without_time_for_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_measure, "about_the_device", lambda: {"device": "none"})
    monkeypatch.setattr(gpu_measure, "START", gpu_measure.START - gpu_measure.BUDGET_S - 1e6)
    rows = gpu_measure.Rows("p", tmp_path / "rows")
    work = gpu_measure.Work("op", {"N": 1}, torch.float32)
    rows.measure(work, {"late": gpu_measure.Variant(lambda: pytest.fail("started")), "absent": "not installed"})
    assert [(r["variant"], r["left_out"]) for r in read(tmp_path / "rows")] == [
        ("late", "out of time"),
        ("absent", "not installed"),
    ]
    assert "op N=1 float32 | late" in capsys.readouterr().out


def row(variant, size, ms, **more):
    about = {"device": "card", "arch": "sm_90", "torch": "2", "triton": "3", "date": "today", "small": False}
    found = {} if ms is None else {"ms": ms, "errors": [1e-7], "bits_equal": True}
    sizes = {"N": size}
    return {
        "part": "p",
        "op": "nll",
        "dtype": "float32",
        "sizes": sizes,
        "size": size,
        "variant": variant,
        **found,
        **about,
        **more,
    }


def test_auto_takes_the_kernel_from_where_it_is_never_slower_again():
    times = {10: (1.0, 2.0), 100: (3.0, 2.0), 1000: (2.0, 2.0), 10_000: (2.0, 4.0)}  # kernel, eager
    rows = [row(name, n, ms) for n, pair in times.items() for name, ms in zip(("kernel", "eager"), pair, strict=True)]
    assert gpu.crossovers(rows) == {("sm_90", "nll", "float32"): 1000}
    assert gpu.crossovers([*rows, row("kernel", 10**6, 9.0), row("eager", 10**6, 8.0)]) == {}
    assert gpu.crossovers([*rows, row("kernel", 10**6, None, wrong="NaN")]) == {}
    assert gpu.crossovers([{**r, "small": True} for r in rows]) == {}
    text = gpu.decided(rows, gpu.MEASURED.read_text(encoding="utf-8"))
    assert '    ("sm_90", "nll", "float32"): 1000,\n}' in text
    assert gpu.decided([], text) == gpu.decided([], gpu.MEASURED.read_text(encoding="utf-8"))


def test_what_auto_goes_by_is_what_was_recorded():
    assert gpu.crossovers(read(ROOT / "benchmarks" / "results" / "gpu.jsonl")) == KERNEL_FROM


def test_the_table_says_what_went_wrong(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [row("kernel", 5, 1.25), row("eager", 5, None, wrong="NaN"), row("rival", 5, None, left_out="not installed")]
    path.write_text("\n".join(json.dumps(r) for r in rows) + '\n{"part": "cut o')
    text = gpu.table(read(path))
    assert "### p (card, torch 2, Triton 3, today)" in text
    assert "| nll | N 5 | float32 | kernel | 1.25 |" in text
    assert "**wrong**: NaN" in text
    assert "**left_out**: not installed" in text
