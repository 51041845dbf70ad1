"""What of the contract applies to a loss without groups: gradients, narrow dtypes, one graph, saved state, extremes."""

import copy
import pickle

import pytest
import torch

from fairloss import ConceptAlignmentLoss
from tests.two_processes import two_processes


def draw(seed, n, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, 6, generator=generator).to(dtype).requires_grad_()
    concepts = torch.randn(5, 6, generator=generator).to(dtype).requires_grad_()
    return embeddings, concepts, torch.randint(0, 5, (n,), generator=generator)


def test_gradients():
    z, e, target = draw(0, 7)
    assert torch.autograd.gradcheck(lambda a, b: ConceptAlignmentLoss(temperature=0.5)(a, target, concepts=b), (z, e))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_dtypes_against_float64(dtype):
    z, e, target = draw(1, 9, dtype)
    value = ConceptAlignmentLoss(temperature=0.5)(z, target, concepts=e)
    assert value.dtype == torch.float32
    exact = ConceptAlignmentLoss(temperature=0.5)(z.detach().double(), target, concepts=e.detach().double())
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(value, (z, e)))


def test_one_graph_whatever_the_length():
    torch._dynamo.reset()
    plain = ConceptAlignmentLoss(temperature=0.5)
    compiled = torch.compile(ConceptAlignmentLoss(temperature=0.5), fullgraph=True, dynamic=True, backend="aot_eager")
    for seed, n in enumerate((9, 12, 7)):
        z, e, target = draw(seed, n)
        expected, value = plain(z, target, concepts=e), compiled(z, target, concepts=e)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
        for got, wanted in zip(torch.autograd.grad(value, (z, e)), torch.autograd.grad(expected, (z, e)), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_copies_order_empty_and_extremes():
    loss, (z, e, target) = ConceptAlignmentLoss(temperature=0.5), draw(3, 8)
    value = loss(z, target, concepts=e)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), loss.bfloat16()):
        assert torch.equal(other(z, target, concepts=e), value)
    order = torch.arange(7, -1, -1)
    torch.testing.assert_close(loss(z[order], target[order], concepts=e), value)
    assert loss(z[:0], target[:0], concepts=e).item() == 0
    assert torch.isfinite(ConceptAlignmentLoss(temperature=0.07)(z * 1e4, target, concepts=e * 1e4))


BOUNDS = [0, 8, 11]  # uneven shares of 11 images


def rank_values(rank, variant):
    """Value and gradients on this rank's images, concepts shared; gradients averaged as DDP does."""
    z, e, target = draw(5, BOUNDS[-1])
    target[9] = -100
    rows = slice(BOUNDS[rank], BOUNDS[rank + 1])
    part = z.detach()[rows].requires_grad_()
    loss = ConceptAlignmentLoss(temperature=0.5, variant=variant, process_group=torch.distributed.group.WORLD)
    value = loss(part, target[rows], concepts=e)
    value.backward()
    shared = e.grad.clone()
    torch.distributed.all_reduce(shared)
    return value.detach(), part.grad / 2, shared / 2


@pytest.mark.processes
@pytest.mark.parametrize("variant", ["default", "paper"])
def test_two_processes_equal_one(tmp_path, variant):
    z, e, target = draw(5, BOUNDS[-1])
    target[9] = -100
    value = ConceptAlignmentLoss(temperature=0.5, variant=variant)(z, target, concepts=e)
    value.backward()
    ranks = two_processes(rank_values, tmp_path, variant)
    for rank, (got, rows, shared) in enumerate(ranks):
        torch.testing.assert_close(got, value.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(rows, z.grad[BOUNDS[rank] : BOUNDS[rank + 1]], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(shared, e.grad, rtol=1e-12, atol=1e-12)
