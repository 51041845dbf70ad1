"""Distribution alignment on samples of its own for each group: exact against POT, and FairCLIP's term."""

from __future__ import annotations

import ot
import pytest
import torch

import fairloss
from fairloss import functional as ff


def draw(generator, n=20, m=12, num_groups=3):
    x = torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_()
    samples = [torch.rand(m + 3 * g, generator=generator, dtype=torch.float64) + g / 2 for g in range(num_groups)]
    ids = torch.cat([torch.full((len(sample),), g) for g, sample in enumerate(samples)])
    order = torch.randperm(len(ids), generator=generator)
    return x, torch.randint(-1, num_groups, (n,), generator=generator), samples, (torch.cat(samples)[order], ids[order])


@pytest.mark.parametrize("p", [1, 2])
def test_a_reference_is_compared_with_the_batch_exactly(p, generator):
    for _ in range(20):
        x, groups, samples, reference = draw(generator)
        batch = x.detach()[groups >= 0].numpy()
        expected = sum(ot.wasserstein_1d(batch, sample.numpy(), p=p) for sample in samples)
        value = ff.distribution_alignment(x, groups, num_groups=4, p=p, reference=reference)  # a group without samples
        assert value.item() == pytest.approx(float(expected), rel=1e-10)
    assert torch.autograd.gradcheck(
        lambda v: ff.distribution_alignment(v, groups, num_groups=3, p=p, reference=reference), (x,)
    )


def test_the_batch_itself_as_reference_is_the_loss_without_one(generator):
    x, groups, *_ = draw(generator)
    value = ff.distribution_alignment(x, groups, num_groups=3, reference=(x.detach(), groups))
    torch.testing.assert_close(value, ff.distribution_alignment(x, groups, num_groups=3))


def test_unknown_and_absent(generator):
    x, groups, _, reference = draw(generator)
    loss = fairloss.DistributionAlignmentLoss(3)
    assert loss(x, torch.full_like(groups, -1), reference=reference) == 0
    assert loss(x, groups, reference=(reference[0], torch.full_like(reference[1], -1))) == 0


@pytest.mark.parametrize("p", [1, 2])
def test_an_empty_batch_is_at_distance_zero_from_a_reference(p, generator):
    x = torch.zeros(0, requires_grad=True)
    value = ff.distribution_alignment(
        x, torch.zeros(0, dtype=torch.int64), num_groups=3, p=p, reference=draw(generator)[3]
    )
    value.backward()
    assert value == 0
    assert x.grad.shape == (0,)


def test_released_with_exact_transport_divides_one_side_by_its_sum(generator):
    x, groups, samples, reference = draw(generator)
    batch = x.detach()[groups >= 0].numpy()
    expected = sum(ot.wasserstein_1d(batch, (s / s.sum()).numpy(), p=2) / 2 for s in samples)
    value = fairloss.DistributionAlignmentLoss(3, variant="released")(x, groups, reference=reference)
    assert value.item() == pytest.approx(float(expected), rel=1e-10)


def fairclip_term(similarities, samples, blur):
    """FairCLIP's regulariser written out: the batch against each group's similarities over their sum."""
    divergence = pytest.importorskip("geomloss", reason="the 'bench' extra").SamplesLoss("sinkhorn", p=2, blur=blur)
    return sum(divergence(similarities[:, None], (s / s.sum())[:, None]) for s in samples)


@pytest.mark.parametrize("inputs", [2, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_released_with_geomloss_is_fairclips_term(dtype, inputs, generator):
    for blur in (1e-4, 0.1) * (inputs // 2):
        x = (30 * torch.rand(32, generator=generator, dtype=dtype)).requires_grad_()
        samples = [30 * torch.rand(64, generator=generator, dtype=dtype) + 1 for _ in range(3)]
        theirs = fairclip_term(x, samples, blur)
        loss = fairloss.DistributionAlignmentLoss(3, variant="released", transport="geomloss", blur=blur)
        reference = torch.cat(samples), torch.arange(3).repeat_interleave(64)
        ours = loss(x, torch.randint(0, 3, (32,), generator=generator), reference=reference)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        slopes = [torch.autograd.grad(value, x)[0] for value in (ours, theirs)]
        torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-6 * slopes[1].abs().max().item())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"variant": "released"}, "reference: .*64"),
        ({"variant": "released", "p": 1}, "p: expected 2"),
        ({"transport": "geomloss"}, "transport: .*released"),
        ({"variant": "paper"}, "variant: .*'default', 'released'"),
        ({"reference": torch.zeros(3)}, "reference: .*pair"),
        ({"reference": (torch.zeros(3), torch.tensor([0, 1, 3]))}, r"reference\[1\]: .*3"),
    ],
)
def test_bad_arguments_are_named(options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        ff.distribution_alignment(torch.rand(4), torch.tensor([0, 1, 1, 0]), num_groups=2, **options)
