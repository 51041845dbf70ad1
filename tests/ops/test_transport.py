"""Transport on the line against POT, a brute-force quantile integral, geomloss and closed forms."""

import numpy as np
import ot
import pytest
import torch

from fairloss import DistributionAlignmentLoss
from fairloss.losses.distribution_alignment import distribution_alignment, transport_distances
from fairloss.ops.transport import wasserstein_to_all
from tests.oracles.fairdi import quantile_integral


def draw(seed):
    rng = np.random.default_rng(seed)
    n, num_groups = int(rng.integers(1, 60)), int(rng.integers(1, 7))
    values = np.exp(rng.standard_normal(n))
    if seed % 3 == 0:
        values = np.round(2 * values)  # many ties
    return torch.from_numpy(values), torch.from_numpy(rng.integers(-1, num_groups, n)), num_groups


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("seed", range(60))
def test_exact_distances_equal_pot_and_the_quantile_integral(seed, p):
    values, groups, num_groups = draw(seed)
    found = wasserstein_to_all(values, groups, num_groups, p)
    everything = values[groups >= 0].numpy()
    for g in range(num_groups):
        mine = values[groups == g].numpy()
        if mine.size == 0:
            assert found[g] == 0
            continue
        expected = quantile_integral(mine, everything, p)
        assert found[g].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert found[g].item() == pytest.approx(ot.wasserstein_1d(mine, everything, p=p), rel=1e-12, abs=1e-12)


def test_transport_distances_are_half_the_square_and_not_zero():
    values, groups, num_groups = draw(5)
    squared = wasserstein_to_all(values, groups, num_groups, 2)
    distances = transport_distances(values, groups, num_groups=num_groups)
    torch.testing.assert_close(distances, squared / 2)
    assert distances.max() > 0.01


def test_two_points_in_closed_form():
    # Group 0 sits at 0, group 1 at d; all values are half and half: W_2^2 = d^2 / 2, W_1 = d / 2.
    d = 3.0
    values, groups = torch.tensor([0.0, 0.0, d, d], dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    expected = torch.full((2,), d * d / 4, dtype=torch.float64)
    torch.testing.assert_close(transport_distances(values, groups, num_groups=2), expected)
    torch.testing.assert_close(distribution_alignment(values, groups, num_groups=2, p=1), torch.tensor(d).double())


def test_small_differences_between_large_values_keep_their_digits():
    values, groups, num_groups = draw(7)
    near = transport_distances(values, groups, num_groups=num_groups)
    far = transport_distances(values + 1e6, groups, num_groups=num_groups)
    torch.testing.assert_close(far, near, rtol=1e-8, atol=1e-9)
    assert (transport_distances(values.float() + 100, groups, num_groups=num_groups) >= 0).all()


def test_order_an_unused_id_and_unknown_samples_change_nothing():
    values, groups, num_groups = draw(11)
    base = transport_distances(values, groups, num_groups=num_groups)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(transport_distances(values[order], groups[order], num_groups=num_groups), base)
    more = transport_distances(values, groups, num_groups=num_groups + 3)
    torch.testing.assert_close(more[:num_groups], base)
    assert not more[num_groups:].any()
    with_unknown = transport_distances(
        torch.cat([values, values.new_tensor([50.0, -3.0])]),
        torch.cat([groups, groups.new_tensor([-1, -1])]),
        num_groups=num_groups,
    )
    torch.testing.assert_close(with_unknown, base)


@pytest.mark.parametrize("ids", [[], [-1, -1, -1], [0, 0, 0], [2, -1, 2]])
def test_fewer_than_two_groups_are_at_distance_zero_and_differentiable(ids):
    scores = torch.arange(len(ids), dtype=torch.float64, requires_grad=True)
    for p in (1, 2):
        loss = distribution_alignment(scores, torch.tensor(ids, dtype=torch.int64), num_groups=3, p=p)
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert scores.grad.abs().sum() < 1e-12


@pytest.mark.parametrize("p", [1, 2])
def test_gradient_of_the_distances(p):
    values, groups, num_groups = draw(13)
    values = values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: wasserstein_to_all(v, groups, num_groups, p), (values,))


def test_descent_on_the_alignment_loss_brings_the_groups_together(generator):
    scores = torch.randn(200, generator=generator)
    groups = torch.arange(200) % 2
    scores = (scores + 2.0 * groups).requires_grad_()
    loss = DistributionAlignmentLoss(num_groups=2)
    before = loss(scores, groups).item()
    optimizer = torch.optim.SGD([scores], lr=20.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss(scores, groups).backward()
        optimizer.step()
    assert before > 1.5
    assert loss(scores, groups).item() < 0.01 * before


def test_geomloss_tends_to_the_exact_distance_as_its_blur_shrinks(rng):
    geomloss = pytest.importorskip("geomloss", reason="the 'bench' extra")
    groups = torch.from_numpy(np.arange(24) % 2)
    values = torch.from_numpy(rng.random(24)) + 0.3 * groups
    exact = transport_distances(values, groups, num_groups=2)
    errors = []
    for blur in (0.4, 0.1, 0.03, 0.01):
        entropic = geomloss.SamplesLoss("sinkhorn", p=2, blur=blur, scaling=0.99)
        found = torch.stack([entropic(values[groups == g].unsqueeze(1), values.unsqueeze(1)) for g in range(2)])
        errors.append((found / exact - 1).abs().max().item())
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 0.005


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"values": torch.zeros(4, 1)}, r"^values: .*\(N,\)"),
        ({"values": torch.zeros(4, dtype=torch.int64)}, "^values: .*int64"),
        ({"groups": torch.tensor([0, 1, 2, 0])}, "^groups: .* 2"),
        ({"num_groups": (2, 2)}, "intersect_groups"),
    ],
)
def test_bad_arguments_are_named(change, match):
    arguments = {"values": torch.zeros(4), "groups": torch.tensor([0, 1, 1, 0]), "num_groups": 2} | change
    with pytest.raises((ValueError, TypeError), match=match):
        transport_distances(**arguments)


def test_alignment_takes_powers_one_and_two():
    with pytest.raises(ValueError, match=r"p: .*\b3\b"):
        DistributionAlignmentLoss(num_groups=2, p=3)
