"""Every loss on a GPU: nothing waits for the device, and a CUDA graph captures forward and backward."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_measure import SMALL
from fairloss import ops as kernels
from tests.contract.case import all_cases
from tests.gpu.waits import waits

pytestmark = pytest.mark.gpu
CASES = all_cases()


def on_gpu(case, n=32, seed=0, move=lambda x: x.to("cuda")):
    batch = {name: move(t.detach()) for name, t in case.draw(seed, n, torch.float32, grad=False).items()}
    for name in case.differentiable:
        batch[name].requires_grad_()
    return move(case.make()), batch


def step(module, batch, wanted):
    value = module(**batch)
    # Not backward(): gradients of a graph live in its own memory.
    return value, torch.autograd.grad(value, wanted, allow_unused=True)


def reason(case):
    return None if case.compile is True else str(case.compile)


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_equals_the_cpu(case, backend):
    module, batch = on_gpu(case)
    with kernels.backend(backend):
        value, grads = step(module, batch, [batch[name] for name in case.differentiable])
    reference = case.draw(0, 32)
    for name in case.differentiable:
        reference[name] = batch[name].detach().double().cpu().requires_grad_()
    expected, expected_grads = step(case.make(), reference, [reference[name] for name in case.differentiable])
    torch.testing.assert_close(value.double().cpu(), expected, rtol=1e-4, atol=1e-5)
    for found, wanted in zip(grads, expected_grads, strict=True):
        if wanted is not None:
            torch.testing.assert_close(found.double().cpu(), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_nothing_waits_for_the_device(case):
    if reason(case):
        pytest.skip(reason(case))
    module, batch = on_gpu(case)
    wanted = [batch[name] for name in case.differentiable]
    step(module, batch, wanted)  # kernels are compiled and constants moved on the first call
    with waits("error"):
        step(module, batch, wanted)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_captured_in_a_cuda_graph(case):
    if reason(case):
        pytest.skip(reason(case))
    module, batch = on_gpu(case)
    module.eval()  # memories stand still, so that a replay can be compared
    wanted = [batch[name] for name in case.differentiable]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(module, batch, wanted)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value, grads = step(module, batch, wanted)
    _, other = on_gpu(case, seed=0 if SMALL else 1)  # a rehearsal's graph replays nothing
    with torch.no_grad():
        for name, tensor in batch.items():
            tensor.copy_(other[name])
    graph.replay()
    torch.cuda.synchronize()
    expected, expected_grads = step(module, batch, wanted)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    for found, exact in zip(grads, expected_grads, strict=True):
        assert (found is None) == (exact is None)
        if exact is not None:
            torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)
