"""Fair Identity Scaling against the authors' numbers, a naive loop with POT and bisection, and what its options promise."""

import itertools
from pathlib import Path

import numpy as np
import ot
import pytest
import torch

import fairloss
from fairloss import FISLoss, GroupMemory
from fairloss import functional as ff
from fairloss.losses.fis import fis, fis_weights
from fairloss.ops.capped_weights import NOTHING, _by_sorting, capped_shares
from tests.oracles.fairdi import fis_default_weights

DATA = np.load(Path(__file__).parents[1] / "data" / "fair_scaling.npz")


def batch(seed, n=40, num_groups=3, unknown=True):
    rng = np.random.default_rng(seed)
    groups = rng.integers(-1 if unknown else 0, num_groups, n)
    losses = rng.gamma(1.5, 0.5, n) * (1 + 0.4 * np.maximum(groups, 0))
    return torch.from_numpy(losses), torch.from_numpy(groups)


@pytest.mark.parametrize("case", range(4))
def test_released_variant_equals_the_authors_loss_and_gradient(case):
    def read(name):
        return torch.from_numpy(DATA[f"fis{case}_{name}"])

    losses = read("losses").requires_grad_()
    weights = fis_weights(
        losses, read("groups"), num_groups=int(read("num_groups")), c=float(read("c")), variant="released",
        temperature=float(read("temperature")), right_asymptote=float(read("right_asymptote")),
        distances=read("distances"),
    )  # fmt: skip
    out = (weights * losses).mean()
    out.backward()
    torch.testing.assert_close(out, read("out"), rtol=0, atol=1e-10)
    torch.testing.assert_close(losses.grad, read("grad"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", range(4))
def test_released_variant_takes_distances_on_the_extra_batches(case):
    num_groups, per_group = DATA[f"fis{case}_reference"].shape
    extra = torch.from_numpy(DATA[f"fis{case}_reference"]).reshape(-1)
    extra_ids = torch.arange(num_groups).repeat_interleave(per_group)
    losses, groups = (torch.from_numpy(DATA[f"fis{case}_{k}"]) for k in ("losses", "groups"))
    exact = torch.tensor(
        [ot.wasserstein_1d(extra[extra_ids == g].numpy(), extra.numpy(), p=2) / 2 for g in range(num_groups)]
    )
    kwargs = {"num_groups": num_groups, "variant": "released", "c": 1.0, "temperature": 0.05}
    found = fis_weights(losses, groups, reference=(extra, extra_ids), **kwargs)
    expected = 2 * torch.softmax(exact[groups] / 0.05, 0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    on_the_batch = fis_weights(losses, groups, **kwargs)
    assert (found - on_the_batch).abs().max() > 1e-3  # a transport that ignores the reference would pass unseen


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("c", [0.0, 0.5, 1.0])
def test_default_weights_equal_a_naive_loop(seed, c):
    losses, groups = batch(seed, n=5 + 9 * seed)
    kwargs = {"c": c, "temperature": 0.7, "group_temperature": 0.2}
    found = fis_weights(losses, groups, num_groups=3, max_weight=3.0, **kwargs)
    np.testing.assert_allclose(found.numpy(), fis_default_weights(losses, groups, cap=3.0, **kwargs), rtol=1e-8)
    value = fis(losses, groups, num_groups=3, max_weight=3.0, **kwargs)
    assert value.item() == pytest.approx((found * losses).mean().item(), rel=1e-12)


def test_group_weights_depend_on_the_distances():
    losses, groups = batch(1, n=60, unknown=False)
    weights = fis_weights(losses, groups, num_groups=3, c=1.0)
    none = fis_weights(losses, groups, num_groups=3, c=1.0, distances=torch.zeros(3))
    torch.testing.assert_close(none, torch.ones_like(none))
    assert (weights - none).abs().max() > 0.1


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("c", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("cap", [1.0, 1.5, 10.0, None])
def test_mean_weight_is_one_at_any_batch_size(n, c, cap):
    losses, groups = batch(n, n=n)
    for scale in (1.0, 30.0):
        weights = fis_weights(scale * losses, groups, num_groups=3, c=c, max_weight=cap)
        assert weights.mean().item() == pytest.approx(1, rel=1e-9)
        assert weights.max() <= (cap or n) * (1 + 1e-9)


def test_where_nothing_exceeds_the_cap_the_sorted_form_gives_the_same():
    logits = torch.tensor([[0.3, 5.0, -2.0, 0.1, 1.2], [0.3, NOTHING, -2.0, 0.1, 1.2]], dtype=torch.float64)
    totals = [5, torch.tensor(4.0, dtype=torch.float64)]
    found = capped_shares(logits, totals, 20.0)
    torch.testing.assert_close(found, torch.softmax(logits, 1))
    torch.testing.assert_close(found, _by_sorting(logits, 20.0))
    capped = capped_shares(logits, totals, 1.2)
    torch.testing.assert_close(capped.sum(1), torch.ones(2).double())
    torch.testing.assert_close(capped.amax(1), torch.tensor([1.2 / 5, 1.2 / 4]).double())
    assert capped[1, 1] == 0


def test_equal_losses_give_their_mean():
    for n in (8, 32, 128):
        losses = torch.full((n,), 0.7, requires_grad=True)
        value = FISLoss(num_groups=2)(losses, torch.arange(n) % 2)
        value.backward()
        assert value.item() == pytest.approx(0.7, rel=1e-6)
        torch.testing.assert_close(losses.grad, torch.full((n,), 1 / n))


@pytest.mark.parametrize("own_group", [False, True])
def test_two_outliers_take_no_more_than_their_capped_share(own_group):
    losses = torch.full((256,), 0.1)
    losses[:2] = 20.0
    groups = torch.arange(256) % 2
    if own_group:
        groups = torch.zeros(256, dtype=torch.int64)
        groups[:2] = 1
    share = fis_weights(losses, groups, num_groups=2, c=0.5)[:2].sum() / 256
    assert share <= 2 * 10 / 256 + 1e-6
    uncapped = fis_weights(losses, groups, num_groups=2, c=0.0, max_weight=None)[:2].sum() / 256
    assert uncapped > 0.999


def test_c_zero_is_a_softmax_of_the_losses_and_c_one_the_group_part_alone():
    losses, groups = batch(3)
    individual = fis_weights(losses, groups, num_groups=3, c=0.0)
    torch.testing.assert_close(individual, torch.softmax(losses, 0) * len(losses))
    torch.testing.assert_close(individual, fis_weights(losses, groups.clamp(max=-1), num_groups=3, c=0.0))
    by_group = fis_weights(losses, groups, num_groups=3, c=1.0)
    for g in range(-1, 3):
        mine = by_group[groups == g]
        torch.testing.assert_close(mine, mine[0].expand_as(mine))
    assert (by_group[groups == -1] == 1).all()


@pytest.mark.parametrize("seed", range(200))
def test_a_group_that_does_worse_never_gets_the_smaller_weight(seed):
    rng = np.random.default_rng(seed)
    groups = torch.from_numpy(rng.integers(0, 5, 30))
    losses = torch.from_numpy(rng.gamma(0.7, 1.0, 30))  # heavy tails: shape outweighs location
    weights = fis_weights(losses, groups, num_groups=5, c=1.0)
    present = [g for g in range(5) if (groups == g).any()]
    ranked = sorted(present, key=lambda g: losses[groups == g].mean().item())
    by_rank = [weights[groups == g][0].item() for g in ranked]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(by_rank))


def test_a_better_group_is_weighed_down_and_the_papers_rule_weighs_it_up():
    losses = torch.cat([torch.full((30,), 1.0), torch.full((10,), 0.1)])
    groups = torch.tensor([0] * 30 + [1] * 10)
    signed = fis_weights(losses, groups, num_groups=2, c=1.0)
    assert signed[-1] < 1 < signed[0]
    unsigned = fis_weights(losses, groups, num_groups=2, c=1.0, variant="paper")
    assert unsigned[-1] > unsigned[0]


def test_default_group_weights_do_not_change_when_losses_are_scaled():
    losses, groups = batch(6)
    kwargs = {"num_groups": 3, "c": 1.0}
    torch.testing.assert_close(fis_weights(1e3 * losses, groups, **kwargs), fis_weights(losses, groups, **kwargs))


def test_paper_variant_is_equation_one():
    losses, groups = batch(8, unknown=False)
    x, g = losses.numpy(), groups.numpy()
    o = np.array([ot.wasserstein_1d(x[g == k], x, p=2) / 2 for k in range(3)])
    expected = 0.3 * np.exp(x) / np.exp(x).sum() + 0.7 * (np.exp(o) / np.exp(o).sum())[g]
    found = fis_weights(losses, groups, num_groups=4, c=0.7, variant="paper")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)
    value = fis(losses, groups, num_groups=4, c=0.7, variant="paper")
    assert value.item() == pytest.approx((expected * x).mean(), rel=1e-10)


@pytest.mark.parametrize("variant", ["default", "paper"])
def test_gradient_is_that_of_a_weighted_mean(variant):
    losses, groups = batch(9)
    losses.requires_grad_()
    weights = fis_weights(losses, groups, num_groups=3, variant=variant)
    assert not weights.requires_grad
    fis(losses, groups, num_groups=3, variant=variant).backward()
    torch.testing.assert_close(losses.grad, weights / len(losses))
    assert (losses.grad > 0).all()


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
@pytest.mark.parametrize("ids", [[], [-1, -1, -1], [1, 1, 1], [0, -1, 2]])
def test_degenerate_batches_are_finite(variant, ids):
    losses = torch.linspace(0.1, 1e4, len(ids)).requires_grad_()
    value = fis(losses, torch.tensor(ids, dtype=torch.int64), num_groups=3, variant=variant)
    value.backward()
    assert value.isfinite()
    assert losses.grad.isfinite().all()


def test_a_memory_is_taken_with_the_batch_and_advances_in_training_alone():
    memory = GroupMemory(3, capacity=8)
    first, first_ids = batch(20, n=30)
    second, second_ids = batch(21, n=6)
    plain, loss = FISLoss(num_groups=3, c=1.0), FISLoss(num_groups=3, c=1.0, memory=memory)
    memory.push(first, first_ids)
    held, held_ids = [], []
    for g in range(3):
        last = first[first_ids == g][-8:].float().double()
        held.append(last)
        held_ids.append(torch.full((len(last),), g))
    union = (torch.cat([*held, second]), torch.cat([*held_ids, second_ids]))
    seen = memory.seen.clone()
    with torch.no_grad():
        found = loss(second, second_ids)
    assert torch.equal(memory.seen, seen)
    torch.testing.assert_close(found, plain(second, second_ids, reference=union))
    assert (found - plain(second, second_ids)).abs() > 1e-3
    loss.eval()
    loss(second, second_ids)
    assert torch.equal(memory.seen, seen)
    loss.train()
    loss(second, second_ids)
    assert torch.equal(memory.seen, seen + torch.bincount(second_ids[second_ids >= 0], minlength=3))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"c": 1.5}, "^c: .* 1.5"),
        ({"temperature": 0}, "^temperature: .* 0"),
        ({"max_weight": 0.5}, "^max_weight: .* 0.5"),
        ({"variant": "code"}, "'default', 'paper', 'released'"),
        ({"num_groups": (2, 2)}, r"groups: .*\(N, 2\)"),
        ({"transport": "geomloss"}, "transport: .*'released'"),
        ({"transport": "sinkhorn"}, "transport: .*'exact', 'geomloss'"),
        ({"blur": 0}, "blur: .*0"),
        ({"distances": torch.zeros(3)}, r"distances: .*\(2,\)"),
        ({"reference": torch.zeros(3)}, "reference: .*pair"),
        (
            {"reference": (torch.zeros(3), torch.zeros(3).long()), "memory": GroupMemory(2, capacity=4)},
            "^reference: .*memory",
        ),
        ({"reference": (torch.zeros(3), torch.zeros(2).long())}, r"^reference\[1\]: .* 2"),
        ({"memory": GroupMemory(3, capacity=4)}, r"memory: .*\b3\b"),
    ],
)
def test_bad_arguments_are_named(change, match):
    arguments = {"num_groups": 2} | change
    with pytest.raises((ValueError, TypeError), match=match):
        fis_weights(torch.zeros(4), torch.tensor([0, 1, 1, 0]), **arguments)


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
def test_c_zero_runs_no_transport_and_checks_the_memory_all_the_same(variant, monkeypatch):
    losses, groups = batch(9)
    limit = fis_weights(losses, groups, num_groups=3, c=1e-12, variant=variant)

    def refuse(*_):
        raise AssertionError("a transport was run for a term times 0")

    monkeypatch.setattr("fairloss.losses.fis_weights.line_statistics", refuse)
    torch.testing.assert_close(fis_weights(losses, groups, num_groups=3, c=0, variant=variant), limit)
    with pytest.raises(ValueError, match=r"memory: .*\b2\b"):
        fis_weights(losses, groups, num_groups=3, c=0, variant=variant, memory=GroupMemory(2, capacity=4))


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
def test_a_reference_of_nobody_tells_no_groups_apart_and_one_with_nan_is_seen(variant):
    losses, ids = torch.tensor([0.5, 1.5, 1.0, 2.0]), torch.tensor([0, 1, -1, 1])
    nobody = fis_weights(losses, ids, num_groups=2, c=1.0, variant=variant, reference=(losses[:0], ids[:0]))
    torch.testing.assert_close(nobody, nobody[:1].expand(4))
    for bad in (torch.nan, torch.inf):
        reference = torch.tensor([0.5, bad, 1.0]), torch.tensor([0, 1, 0])
        assert fis_weights(losses, ids, num_groups=2, variant=variant, reference=reference).isnan().any()
        unknown = reference[0], torch.tensor([0, -1, 1])
        assert fis_weights(losses, ids, num_groups=2, variant=variant, reference=unknown).isfinite().all()


@pytest.mark.parametrize("n", [8, 32, 128])
def test_the_loss_does_not_shrink_with_the_batch(n):
    """FairVision's FIS: identical losses of 0.7 give 0.175, 0.044 and 0.011 for batches of 8, 32 and 128."""
    losses, ids = torch.full((n,), 0.7), torch.arange(n) % 2
    assert fairloss.FISLoss(2)(losses, ids).item() == pytest.approx(0.7, rel=1e-6)
    assert fairloss.InverseFrequencyWeighting([1, 1])(losses, ids).item() == pytest.approx(0.7, rel=1e-6)


def test_no_sample_has_a_negative_coefficient():
    """There, gradient through the softmax gives easy samples -0.035."""
    losses = torch.tensor([0.05, 0.1, 2.0, 2.5], requires_grad=True)
    ids = torch.tensor([0, 0, 1, 1])
    grad = torch.autograd.grad(fairloss.FISLoss(2)(losses, ids), losses)[0]
    assert (grad > 0).all()
    released = fairloss.FISLoss(2, c=0.0, variant="released")(losses, ids)
    assert (torch.autograd.grad(released, losses)[0] < 0).any()  # the authors' code, on request


def test_group_weight_does_not_follow_frequency():
    losses = torch.cat([torch.linspace(0, 1, 14), torch.linspace(1.0, 2.0, 2)])
    ids = torch.tensor([0] * 14 + [1] * 2)
    weights = ff.fis_weights(losses, ids, num_groups=2, c=1.0)
    assert weights[-1] > 1 > weights[0]


def authors_scaler(x, samples, attr, c, temperature, blur, right_asymptote=2.0):
    """FairVision's loss written out: softmax over samples of losses and of geomloss's distances of the extra batches."""
    divergence = pytest.importorskip("geomloss", reason="the 'bench' extra").SamplesLoss("sinkhorn", p=2, blur=blur)
    everything = torch.cat(samples)[:, None]
    distances = torch.stack([divergence(sample[:, None], everything) for sample in samples])
    weights = [torch.softmax(s / temperature, 0) * right_asymptote for s in (x, distances[attr])]
    return (((1 - c) * weights[0] + c * weights[1]) * x).mean()


@pytest.mark.parametrize("inputs", [2, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_released_variant_with_geomloss_is_the_authors_loss(dtype, inputs, generator):
    """On ordinary losses, where geomloss stops far from the exact distances."""
    exact = 0
    for blur in (0.1, 0.01) * (inputs // 2):
        groups = torch.randint(0, 3, (32,), generator=generator)
        x = (8 * torch.rand(32, generator=generator, dtype=dtype) ** 2).requires_grad_()
        samples = [8 * torch.rand(16, generator=generator, dtype=dtype) ** 2 * (1 + g / 3) for g in range(3)]
        theirs = authors_scaler(x, samples, groups, 0.6, 1.5, blur)
        reference = torch.cat(samples), torch.arange(3).repeat_interleave(16)
        options = {"num_groups": 3, "c": 0.6, "temperature": 1.5, "variant": "released", "blur": blur}
        ours = fis(x, groups, reference=reference, transport="geomloss", **options)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
        slopes = [torch.autograd.grad(value, x)[0] for value in (ours, theirs)]
        torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-6 * slopes[1].abs().max().item())
        exact += torch.isclose(fis(x, groups, reference=reference, **options), theirs, rtol=1e-4).item()
    assert exact <= inputs / 4  # geomloss is seldom near


@pytest.mark.parametrize("memory", [False, True])
def test_several_attributes_have_a_value_each(memory, generator):
    x = torch.rand(9, generator=generator, dtype=torch.float64)
    groups = torch.stack([torch.randint(-1, g, (9,), generator=generator) for g in (3, 2)], 1)
    held = torch.rand(12, generator=generator), torch.stack([torch.arange(12) % 3, torch.arange(12) % 2], 1)
    both = GroupMemory((3, 2), capacity=8) if memory else None
    if both is not None:
        both.push(*held)
    weights = fis_weights(x, groups, num_groups=(3, 2), memory=both)
    value = fis(x, groups, num_groups=(3, 2), memory=both, attribute_reduction="sum")
    expected = 0.0
    for k, g in enumerate((3, 2)):
        alone = GroupMemory(g, capacity=8) if memory else None
        if alone is not None:
            alone.push(held[0], held[1][:, k])
        torch.testing.assert_close(weights[:, k], fis_weights(x, groups[:, k], num_groups=g, memory=alone))
        expected += fis(x, groups[:, k], num_groups=g, memory=alone)
    torch.testing.assert_close(value, expected)


def test_reports_its_parts():
    x, groups = torch.tensor([1.0, 2.0, 6.0, 3.0], requires_grad=True), torch.tensor([0, 0, 1, -1])
    parts = FISLoss(2)(x, groups, return_parts=True)
    assert parts.loss == FISLoss(2)(x, groups)
    assert parts.task.item() == 3
    assert parts.means.tolist() == [1.5, 6]
    assert parts.counts.tolist() == [2, 1]
    torch.testing.assert_close((parts.weights * x).mean(), parts.loss)
    assert not any(part.requires_grad for part in parts[1:])


def test_autocast_leaves_the_sum_over_samples_alone():
    x, groups = torch.linspace(0.1, 1.3, 9), torch.arange(18).reshape(9, 2) % 2
    expected = FISLoss((2, 2))(x, groups)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(FISLoss((2, 2))(x, groups), expected)
