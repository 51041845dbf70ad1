"""Derivatives beside the plain gradient: forward mode, torch.func, second ones; none is silently 0."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import fairloss
from tests.contract.case import all_cases

# torch/_decomp/decompositions_for_jvp.py scripts its formulas at the first forward-mode derivative.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script` is deprecated:DeprecationWarning")
CASES = all_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def of_first(case, module, batch):
    """The loss as a function of its first differentiable argument, that argument, and a direction."""
    name = case.differentiable[0]
    x = batch[name].detach()
    rest = {k: v.detach() for k, v in batch.items() if k != name}
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return (lambda t: module(**rest, **{name: t})), x, direction


def reverse(f, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


@each_case
def test_forward_mode(case):
    module = case.make()
    with fairloss.frozen(module):
        f, x, direction = of_first(case, module, case.draw(3, 9))
        expected = (reverse(f, x) * direction).sum()
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, direction))).tangent
        torch.testing.assert_close(tangent, expected, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(torch.func.jvp(f, (x,), (direction,))[1], expected, rtol=1e-8, atol=1e-12)


@each_case
def test_gradients_by_torch_func(case):
    module = case.make()
    with fairloss.frozen(module):
        f, x, _ = of_first(case, module, case.draw(3, 9))
        torch.testing.assert_close(torch.func.grad(f)(x), reverse(f, x), rtol=1e-8, atol=1e-12)


@each_case
def test_gradients_of_several_batches_at_once(case):
    """vmap(grad): batches of one size, side by side; bad ids in one of them are still named."""
    name = case.differentiable[0]
    module = case.make()
    batches = [case.draw(seed, 9, grad=False) for seed in (3, 4, 5)]
    stacked = {k: torch.stack([b[k] for b in batches]) for k in batches[0]}
    with fairloss.frozen(module):

        def gradient(batch):
            rest = {k: v for k, v in batch.items() if k != name}
            return torch.func.grad(lambda t: module(**rest, **{name: t}))(batch[name])

        found = torch.vmap(gradient)(stacked)
        expected = torch.stack([reverse(*of_first(case, module, b)[:2]) for b in batches])
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
        with pytest.raises(ValueError, match="groups"):
            torch.vmap(gradient)({**stacked, "groups": stacked["groups"].clamp(max=1) + 7})


@each_case
def test_second_derivatives(case):
    module = case.make()
    with fairloss.frozen(module):
        f, x, direction = of_first(case, module, case.draw(3, 9))
        y = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(f(y), y, create_graph=True)
        torch.testing.assert_close(first.detach(), reverse(f, x), rtol=1e-10, atol=1e-13)
        if not first.requires_grad:
            return  # linear in the values
        (second,) = torch.autograd.grad((first * direction).sum(), y)
        assert torch.isfinite(second).all()
        if case.oracle_gradient is not None or list(module.parameters()):
            return  # weights are held, on purpose: the gradient is no function's; float32 parameters
        step = 1e-6
        expected = (reverse(f, x + step * direction) - reverse(f, x - step * direction)) / (2 * step)
        torch.testing.assert_close(second, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["febs-default", "cross_group_contrastive-queue", "fair_cross_entropy-tokens"])
def test_forward_mode_in_a_compiled_graph(name):
    """There, an op without a rule gave 0."""
    torch._dynamo.reset()
    case = next(case for case in CASES if case.name == name)
    module = case.make().eval()
    f, x, direction = of_first(case, module, case.draw(3, 9))
    compiled = torch.compile(lambda x: torch.func.jvp(f, (x,), (direction,))[1], backend="aot_eager", fullgraph=True)
    expected = (reverse(f, x) * direction).sum()
    assert expected.abs() > 1e-4
    torch.testing.assert_close(compiled(x), expected, rtol=1e-8, atol=1e-12)


def test_a_large_vocabulary_by_every_derivative(generator):
    """Streamed: torch.func.jvp was 0 here, and second derivatives had no formula."""
    logits = torch.randn(2, 3, 40_000, generator=generator, dtype=torch.float64)
    target, groups = torch.randint(0, 40_000, (2, 3), generator=generator), torch.tensor([0, 1])
    target[0, 2] = -100
    loss = fairloss.FairCrossEntropyLoss(2, task="tokens")

    def oracle(z):
        return torch.nn.functional.cross_entropy(z.flatten(0, 1), target.flatten())

    def found(z):
        return loss(z, target, groups)

    direction = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    for function in (
        lambda f: torch.func.jvp(f, (logits,), (direction,))[1],
        lambda f: torch.func.grad(f)(logits),
        lambda f: torch.func.jvp(lambda z: torch.func.grad(f)(z), (logits,), (direction,))[1],
        lambda f: torch.autograd.functional.vhp(f, logits, direction)[1],
    ):
        expected = function(oracle)
        assert expected.abs().sum() > 0
        torch.testing.assert_close(function(found), expected, rtol=1e-9, atol=1e-15)


def test_the_gradient_of_a_gradient_reaches_what_it_was_weighted_by(generator):
    """The streamed Dice sums and the contrastive losses, in all of their inputs."""
    from fairloss.ops.contrastive import contrastive_losses
    from fairloss.ops.dice_sums import dice_sums

    x = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    for target in (torch.randint(0, 3, (2, 5), generator=generator), torch.rand(2, 3, 5, generator=generator).double()):
        assert torch.autograd.gradgradcheck(lambda x, target=target: dice_sums(x, target, True), x)
        assert torch.autograd.gradcheck(lambda x, target=target: dice_sums(x, target, True), x, check_forward_ad=True)
    z = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(9, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels, key_labels = torch.randint(0, 2, (6,), generator=generator), torch.randint(0, 2, (9,), generator=generator)
    ids, key_ids = torch.randint(0, 2, (6, 1), generator=generator), torch.randint(0, 2, (9, 1), generator=generator)

    held = torch.nn.functional.normalize(torch.randn(4, 4, generator=generator, dtype=torch.float64))

    def losses(z, keys):
        return contrastive_losses(z, keys[:5], held, labels, key_labels, ids, key_ids, 0.5, -2.0, -100)[0]

    def among_themselves(z):
        return contrastive_losses(z, z, None, labels, labels, ids, ids, 0.5, -2.0, -100)[0]

    assert torch.autograd.gradgradcheck(losses, (z, keys))
    assert torch.autograd.gradgradcheck(among_themselves, z)


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("squared", [False, True])
def test_sums_of_every_kind(sigmoid, squared, generator):
    from fairloss.ops.dice_sums import dice_sums

    x = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 2, (2, 3, 5), generator=generator).double()
    ignored = torch.rand(2, 5, generator=generator) < 0.3

    def sums(x):
        return dice_sums(x, target, True, sigmoid=sigmoid, squared=squared, ignored=ignored)

    assert torch.autograd.gradcheck(sums, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(sums, x)
