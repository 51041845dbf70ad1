"""The cross-entropy behind the losses: values, gradients, memory and large vocabularies, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fairloss
from benchmarks.harness import peak_bytes
from fairloss import functional as ff
from fairloss.ops.nll import dense_nll, nll, nll_op


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (300, 20_000), (0, 5), (3, 40_000)])
def test_streamed_nll_equals_torch(dtype, shape, generator):
    logits = (3 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
    target = torch.randint(0, shape[1], shape[:1], generator=generator)
    wide = logits.detach().double().requires_grad_()
    value, expected = nll(logits, target), F.cross_entropy(wide, target, reduction="none")
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.rand(shape[0], generator=generator)
    (value * weights).sum().backward()
    (expected * weights).sum().backward()
    step = {torch.bfloat16: 2**-8, torch.float16: 2**-10}.get(dtype, 1e-5)
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=step, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
def test_dense_nll_equals_torch_whatever_the_logits(scale, monkeypatch, generator):
    """At scale 50 and above likelihoods underflow, and the exact branch takes over."""
    monkeypatch.setattr("fairloss.ops.nll._DENSE_FROM", 0)
    for dtype in (torch.float32, torch.float64):
        logits = (scale * torch.randn(50, 6, generator=generator, dtype=dtype)).requires_grad_()
        target = torch.randint(0, 6, (50,), generator=generator)
        target[::7] = 2
        value = dense_nll(logits, target, ignore_index=2)
        assert "DenseNLL" in type(value.grad_fn).__name__
        expected = F.cross_entropy(logits, target, ignore_index=2, reduction="none")
        torch.testing.assert_close(value, expected)
        weights = torch.rand(50, generator=generator, dtype=dtype)
        (grad,) = torch.autograd.grad((value * weights).sum(), logits)
        (wanted,) = torch.autograd.grad((expected * weights).sum(), logits)
        torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize("dense_from", [0, 1 << 18])
def test_the_criterion_can_be_differentiated_twice(dense_from, monkeypatch):
    monkeypatch.setattr("fairloss.ops.nll._DENSE_FROM", dense_from)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    target, groups = torch.tensor([0, 1, 2, 3, -100, 1]), torch.tensor([0, 0, 1, 1, 2, -1])
    loss = fairloss.FairCrossEntropyLoss(3, gap_weight=0.5, group_counts=[4, 2, 1])
    assert torch.autograd.gradgradcheck(lambda x: loss(x, target, groups), logits)


@pytest.mark.parametrize("dense_from", [0, 1 << 18])
def test_the_criterion_under_torch_func(dense_from, monkeypatch):
    monkeypatch.setattr("fairloss.ops.nll._DENSE_FROM", dense_from)
    logits = torch.randn(6, 4, dtype=torch.float64)
    target, groups = torch.tensor([0, 1, 2, 3, -100, 1]), torch.tensor([0, 0, 1, 1, 2, -1])
    loss = fairloss.FairCrossEntropyLoss(3, gap_weight=0.5, group_counts=[4, 2, 1])
    x = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(x, target, groups), x)
    torch.testing.assert_close(torch.func.grad(lambda z: loss(z, target, groups))(logits), expected)


# torch 2.14's check looks at .grad of the aliases that it makes of its arguments (pytorch/pytorch#30531).
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_streamed_nll_passes_torchs_operator_check():
    args = (torch.randn(5, 7, dtype=torch.float64, requires_grad=True), torch.randint(0, 7, (5,)))
    torch.library.opcheck(nll_op, (*args, -100, False))


def test_bfloat16_likelihood_at_a_large_vocabulary(generator):
    logits = torch.randn(16, 152_064, generator=generator)
    target = torch.randint(0, 152_064, (16,), generator=generator)
    logits[torch.arange(16), target] += torch.linspace(5, 25, 16)
    half = logits.bfloat16()
    exact = torch.softmax(half.double(), 1)[torch.arange(16), target]
    prob = ff.sample_likelihood(half, target).prob
    assert (prob.double() - exact).abs().max().item() < 1e-3
    assert prob.min() < 0.1
    assert prob.max() > 0.9


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2048, 1000), torch.float32), ((8, 152_064), torch.float32), ((32, 152_064), torch.bfloat16)],
    ids=str,
)
def test_peak_memory_is_not_above_torchs(shape, dtype):
    logits = torch.randn(shape).to(dtype).requires_grad_()
    target, groups = torch.randint(0, shape[1], shape[:1]), torch.randint(-1, 3, shape[:1])
    criterion = fairloss.FairCrossEntropyLoss(3, gap_weight=0.5, group_counts=[903, 43, 54])

    def step(loss):
        logits.grad = None
        loss().backward()

    ours = peak_bytes(lambda: step(lambda: criterion(logits, target, groups)))
    torchs = peak_bytes(lambda: step(lambda: F.cross_entropy(logits, target)))
    assert logits.numel() * logits.element_size() <= ours <= torchs + 1_000_000
