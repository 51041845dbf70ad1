"""Dispatch between eager code and Triton kernels; the kernels in Triton's interpreter, and compiled without a GPU."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairloss import fair_grpo_advantages
from fairloss import ops as kernels
from fairloss.functional import cross_group_contrastive
from fairloss.ops import dispatch

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(
    dispatch._obstacle(torch.device("cpu")) is not None and "CPU" not in dispatch._obstacle(torch.device("cpu")),
    reason=f"{dispatch._obstacle(torch.device('cpu'))}",
)


def python(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@needs_triton
@pytest.mark.parametrize("topic", ["contrastive", "advantages", "segments", "likelihood", "dice"])
def test_interpreted(topic):
    """Each test of tests/ops/interpreted_kernels.py; their report is shown where one fails."""
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/interpreted_kernels.py", "-k", topic]
    code, report = python(*command, TRITON_INTERPRET="1")
    assert code == 0, report
    assert " passed" in report


@needs_triton
class TestAheadOfTime:
    def check(self, build, target):
        from tests.ops.kernel_builds import SHARED, resources

        found = resources(build.compile(target))
        print(f"{target:>7} {build.name:<45} {found}")
        assert found["shared"] <= SHARED[target]
        return found

    @pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
    def test_a_few(self, target, tmp_path, monkeypatch):
        from tests.ops.kernel_builds import FAST, builds

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        by_name = {b.name: b for b in builds()}
        for name in FAST if target == "sm_90" else FAST[:1] + FAST[-2:]:
            found = self.check(by_name[name], target)
            # The products of half-precision rows run on the matrix units.
            if target.startswith("sm") and name.startswith("contrastive") and "-bf16" in name:
                assert found["tensor_core_products"] > 0

    def test_a_fixed_shift_keeps_float64(self, tmp_path, monkeypatch):
        """As a number of its own Triton would make it float32; the interpreter rounds nothing, so only this shows it."""
        from tests.ops.kernel_builds import builds

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        build = next(b for b in builds() if b.name == "weights-power")
        shifted = dataclasses.replace(build, constants={**build.constants, "SHIFT": "number", "AMOUNT": 0.7})
        code = shifted.compile("sm_90").asm["ttir"]
        assert re.search(r"(dense<|constant )(0\.69999999999999996|7\.000000e-01)>? : (tensor<1xf64>|f64)", code)
        assert "0.69999998807907104" not in code

    @pytest.mark.slow
    @pytest.mark.parametrize("part", range(8))
    @pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
    def test_every_dtype_and_block(self, target, part, tmp_path, monkeypatch):
        from tests.ops.kernel_builds import builds

        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        for build in builds()[part::8]:
            self.check(build, target)


def test_the_switch():
    assert kernels.get_backend() == "auto"
    with kernels.backend("eager"):
        assert kernels.get_backend() == "eager"
        with pytest.raises(ZeroDivisionError), kernels.backend("triton"):
            raise ZeroDivisionError
        assert kernels.get_backend() == "eager"
    assert kernels.get_backend() == "auto"
    with pytest.raises(ValueError, match="^name: .*'auto', 'eager', 'triton'.*'cuda'"):
        kernels.set_backend("cuda")


def test_auto_goes_by_the_recorded_run_and_is_eager_without_one(monkeypatch):
    def asked(op="nll", dtype=torch.bfloat16, size=1000, device="cuda"):
        return dispatch.use_triton(op, torch.device(device), dtype=dtype, size=size)

    monkeypatch.setattr(dispatch, "_architecture", lambda device: "sm_90")
    monkeypatch.setattr(dispatch, "_obstacle", lambda device: None)
    monkeypatch.setattr(dispatch, "KERNEL_FROM", {})
    assert not asked()
    monkeypatch.setattr(dispatch, "KERNEL_FROM", {("sm_90", "nll", "bfloat16"): 1000, ("sm_80", "nll", "float32"): 0})
    assert asked()
    assert not asked(size=999)
    assert not asked(op="dice_sums")
    assert not asked(dtype=torch.float32)
    assert not asked(device="cpu")
    monkeypatch.setattr(dispatch, "_obstacle", lambda device: "no Triton")
    assert not asked()


@pytest.fixture
def ask_again():
    """Forget what was found out about the installed Triton, now on each call and at the end of the test."""
    yield dispatch._version_obstacle.cache_clear
    dispatch._version_obstacle.cache_clear()


def test_the_installed_triton_is_looked_up_once(monkeypatch, ask_again):
    dispatch._obstacle(torch.device("cpu"))
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: pytest.fail("asked again"))
    dispatch._obstacle(torch.device("cpu"))


def test_explicit_triton_says_why_it_cannot_run(monkeypatch, ask_again):
    importlib.import_module("torch._dynamo")  # torch imports it late, and it would ask the replaced find_spec
    z, ids = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    rewards = torch.eye(4)
    with kernels.backend("triton"):
        with pytest.raises(
            RuntimeError, match=r"contrastive_losses: the backend 'triton' was asked for, but (the|Triton)"
        ):
            cross_group_contrastive(z, ids, ids)
        with pytest.raises(
            RuntimeError, match=r"fair_grpo_advantages: the backend 'triton' was asked for, but (the|Triton)"
        ):
            fair_grpo_advantages(rewards, ids, num_groups=2)
        monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
        ask_again()
        with pytest.raises(RuntimeError, match="Triton is not installed"):
            cross_group_contrastive(z, ids, ids)
        monkeypatch.undo()
        monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: True)
        for version in ("3.5.1", "3.10.0", "2.3"):
            monkeypatch.setattr(dispatch.importlib.metadata, "version", lambda name, v=version: v)
            ask_again()
            with pytest.raises(RuntimeError, match=f"Triton {version} is installed; tested are 3.6 to 3.9"):
                cross_group_contrastive(z, ids, ids)
    assert torch.isfinite(cross_group_contrastive(z, ids, ids))  # "auto" on the CPU asks nobody


def test_environment_variable_and_what_imports_leave_alone():
    """(torch imports Triton where it finds it; fairloss imports its own kernels on their first use.)"""
    code = (
        "import sys, torch, fairloss\n"
        "from fairloss import ops as kernels, functional\n"
        "print(kernels.get_backend(), torch.cuda.is_initialized())\n"
        "ids = torch.tensor([0, 1, 0, 1])\n"
        "functional.cross_group_contrastive(torch.randn(4, 3), ids, ids)\n"
        "fairloss.fair_grpo_advantages(torch.eye(4), ids, num_groups=2)\n"
        "print(any(name.endswith('_triton') for name in sys.modules if name.startswith('fairloss')))\n"
    )
    for name in ("eager", "auto"):
        status, said = python("-c", code, FAIRLOSS_BACKEND=name)
        assert status == 0, said
        assert said.split() == [name, "False", "False"]
    status, said = python("-c", code, FAIRLOSS_BACKEND="fast")
    assert status != 0
    assert "FAIRLOSS_BACKEND: expected" in said
    assert "'fast'" in said


def test_a_compiled_function_follows_the_switch():
    torch._dynamo.reset()
    ids = torch.tensor([0, 1, 0, 1])
    compiled = torch.compile(lambda z: cross_group_contrastive(z, ids, ids), backend="eager", fullgraph=True)
    z = torch.randn(4, 3)
    assert torch.equal(compiled(z), cross_group_contrastive(z, ids, ids))
    with kernels.backend("eager"):
        assert torch.equal(compiled(z), cross_group_contrastive(z, ids, ids))
    # torch 2.6 traces past the error's text.
    with kernels.backend("triton"), pytest.raises(Exception, match="was asked for|Observed exception"):
        compiled(z)


def test_tokens_of_a_mask():
    rewards, ids = torch.tensor([[1.0, 0, 1], [0, 0, 1]]), torch.tensor([0, 1])
    mask = torch.rand(6, 9) < 0.5
    plain = fair_grpo_advantages(rewards, ids, num_groups=2)
    for given in (mask, mask.long(), mask.double()):
        tokens = fair_grpo_advantages(rewards, ids, num_groups=2, mask=given)
        for b in range(6):
            for t in range(9):
                assert tokens[b, t] == (plain.reshape(-1)[b] if mask[b, t] else 0)
    for bad, error in ((mask[:5], ValueError), (mask[0], ValueError), (mask.tolist(), TypeError)):
        with pytest.raises(error, match="mask:"):
            fair_grpo_advantages(rewards, ids, num_groups=2, mask=bad)


@pytest.mark.slow
def test_the_gpu_suite_and_benchmark_need_torch_and_triton_alone():
    hidden = (
        "ot",
        "scipy",
        "sklearn",
        "trl",
        "transformers",
        "pandas",
        "matplotlib",
        "hypothesis",
        "fairlearn",
        "monai",
    )
    hide = f"import sys; sys.modules.update(dict.fromkeys({hidden})); "
    collect = "import pytest; sys.exit(pytest.main(['-m', 'gpu', '--collect-only', '-q', '-p', 'no:cacheprovider']))"
    status, said = python("-c", hide + collect, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert status == 0, said
    assert "tests/gpu/test_losses_gpu.py" in said
    assert "tests/losses/test_fis.py" not in said
    if not torch.cuda.is_available():
        status, said = python("-c", hide + "import runpy; runpy.run_path('benchmarks/gpu.py', run_name='__main__')")
        assert status == 1
        assert "no CUDA device was found; nothing was measured" in said


def test_what_stands_in_the_way_is_a_constant_to_the_compiler():
    def other():
        """Marked by torch itself."""

    for function in (dispatch._obstacle, dispatch._architecture):
        assert vars(torch.compiler.assume_constant_result(other)).items() <= vars(function).items()
