"""GroupDRO: the recursion of its weights, evaluation, groups that were never seen."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import fairloss
from fairloss import functional as ff
from tests.oracles import losses as oracles


def test_an_untrained_group_dro_is_no_perfect_model():
    loss, values = fairloss.GroupDROLoss(3).eval(), torch.tensor([5.0, 7.0, 9.0])
    assert loss(values, torch.tensor([0, 1, 1])).item() == pytest.approx((5 + 8) / 2)
    assert loss(values, torch.tensor([-1, -1, -1])).item() == 0
    assert (loss.q == 0).all()


def test_copies_share_nothing():
    loss = fairloss.GroupDROLoss(2, step_size=0.5)
    twin = copy.deepcopy(loss)
    twin(torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([0, 1]))
    assert loss.seen.sum() == 0


class TestGroupDRO:
    def test_follows_its_recursion(self):
        generator = torch.Generator().manual_seed(3)
        for options in (
            {},
            {"counts": [50, 30, 20], "adjustment": 0.5},
            {"counts": [50, 30, 20], "adjustment": [0.5, 0.0, 2.0]},
            {"shares": [0.9, 0.07, 0.03]},
            {"released": True},
            {"released": True, "counts": [50, 30, 20], "adjustment": [0.5, 1.0, 2.0]},
        ):
            module = fairloss.GroupDROLoss(
                3,
                step_size=0.1,
                adjustment=options.get("adjustment", 0.0),
                group_counts=options.get("counts"),
                shares=options.get("shares"),
                variant="released" if options.get("released") else "default",
            )
            state = [[0.0] * 3] * 3
            for _ in range(20):
                groups = torch.randint(-1, 3, (4,), generator=generator)
                values = torch.rand(4, generator=generator, dtype=torch.float64)
                expected, *state = oracles.group_dro_step(values.numpy(), groups.numpy(), *state, 0.1, **options)
                value = module(values.requires_grad_(), groups)
                assert value.item() == pytest.approx(expected, rel=1e-12)
                log_q, seen, _ = state
                q = np.exp(np.array(log_q) - max(log_q)) * np.array([options.get("released") or s > 0 for s in seen])
                assert module.q.tolist() == pytest.approx((q / q.sum() if q.sum() else q).tolist(), rel=1e-12)

    def test_several_attributes_have_a_state_each(self):
        generator = torch.Generator().manual_seed(4)
        options = {"step_size": 0.3, "adjustment": 0.5}
        both = fairloss.GroupDROLoss((3, 2), group_counts=([5, 3, 2], [8, 2]), attribute_reduction="sum", **options)
        alone = [fairloss.GroupDROLoss(g, group_counts=c, **options) for g, c in ((3, [5, 3, 2]), (2, [8, 2]))]
        for _ in range(10):
            values = torch.rand(6, generator=generator, dtype=torch.float64)
            groups = torch.stack([torch.randint(-1, g, (6,), generator=generator) for g in (3, 2)], 1)
            expected = sum(loss(values, ids) for loss, ids in zip(alone, groups.unbind(1), strict=True))
            torch.testing.assert_close(both(values, groups), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(both.q, torch.cat([loss.q for loss in alone]), rtol=1e-12, atol=0)

    def test_function_takes_the_weights(self):
        values, groups, shares = torch.rand(6), torch.tensor([0, 0, 1, 1, 2, -1]), torch.tensor([0.5, 0.48, 0.02])
        module = fairloss.GroupDROLoss(3, shares=shares, step_size=1.0)
        value = module(values, groups)
        torch.testing.assert_close(ff.group_dro(values, groups, q=module.q, shares=shares), value)
        # By hand: two samples of shares .5 and .48, and one whose share .02 would weigh 50 times, of five known ones.
        weight = torch.tensor([1 / 0.5, 1 / 0.48, 20.0]) / 5
        sums = torch.stack([values[:2].sum(), values[2:4].sum(), values[4]])
        torch.testing.assert_close(value, (module.q.float() * weight * sums).sum())

    def test_a_forward_without_gradients_has_the_value_of_training_and_changes_nothing(self):
        module, twin = fairloss.GroupDROLoss(3, step_size=0.5), fairloss.GroupDROLoss(3, step_size=0.5)
        values, groups = torch.rand(6), torch.tensor([0, 0, 1, 1, 2, -1])
        with torch.no_grad():
            logged = module(values, groups)
        assert module.seen.sum() == 0
        assert logged == twin(values, groups)

    def test_evaluation_weighs_the_means_of_the_groups_present(self):
        """A validation set has other shares than the sampler's stream: equal losses are that loss in any proportion."""
        module = fairloss.GroupDROLoss(3, step_size=0.5)
        for _ in range(5):
            module(torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
        module.eval()
        q = module.q
        assert module(torch.ones(20), torch.tensor([0] * 19 + [1])).item() == pytest.approx(1, rel=1e-12)
        value = module(torch.tensor([1.0, 3.0, 4.0, 9.0]), torch.tensor([0, 0, 1, 2]))  # group 2 was never trained on
        assert value.item() == pytest.approx((2 * q[0] + 4 * q[1]).item(), rel=1e-6)
        assert module(torch.tensor([1.0, 3.0]), torch.tensor([0, 0])).item() == 2
        assert module(torch.tensor([7.0]), torch.tensor([2])).item() == 7
        assert torch.equal(module.q, q)
        assert q[2] == 0

    def test_adjustments_are_numbers_lists_and_arrays(self):
        loss = {"num_groups": 2, "group_counts": np.array([4, 1])}
        one = fairloss.GroupDROLoss(**loss, adjustment=2.0).adjustments
        assert one.tolist() == [1, 2]
        for given in (np.float32(2.0), [2, 2], np.array([2.0, 2.0]), torch.tensor([2.0, 2.0])):
            assert torch.equal(fairloss.GroupDROLoss(**loss, adjustment=given).adjustments, one)

    def test_reports_its_parts(self):
        values, groups = torch.tensor([1.0, 2.0, 6.0, 9.0], requires_grad=True), torch.tensor([0, 0, 1, -1])
        module, twin = fairloss.GroupDROLoss(2), fairloss.GroupDROLoss(2)
        parts = module(values, groups, return_parts=True)
        assert parts.loss == twin(values, groups)
        assert parts.loss.requires_grad
        assert parts.task.item() == 3
        assert parts.means.tolist() == [1.5, 6]
        assert parts.counts.tolist() == [2, 1]
        assert torch.equal(parts.weights, module.q)
        assert not any(part.requires_grad for part in parts[1:])

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"q": [0.5, 0.5]}, "q: .*floating"),
            ({"q": torch.tensor([1, 0])}, "q: .*floating"),
            ({"q": torch.ones(2, 1)}, r"q: .*\(G,\)"),
            ({"q": torch.ones(2), "shares": [0.5, 0.5]}, "shares: .*floating"),
            ({"q": torch.ones(2), "shares": torch.ones(3)}, "shares: .*q"),
            ({"q": torch.ones(2, device="meta")}, "q: .*meta"),
        ],
    )
    def test_bad_weights_are_named(self, options, match):
        with pytest.raises((TypeError, ValueError), match=match):
            ff.group_dro(torch.rand(2), torch.tensor([0, 1]), **options)

    def test_unseen_groups_have_no_weight(self):
        module = fairloss.GroupDROLoss(4)
        module(torch.rand(3, requires_grad=True), torch.tensor([0, 2, 2]))
        assert (module.q > 0).tolist() == [True, False, True, False]
        assert module.q.sum().item() == pytest.approx(1)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"adjustment": [1.0, 1.0, 1.0], "group_counts": [1, 2]}, r"adjustment: expected 2 numbers.*got 3"),
            ({"adjustment": [1.0, -1.0], "group_counts": [1, 2]}, "adjustment: .*>= 0"),
            ({"adjustment": 1.0}, "group_counts: .*adjustment"),
            ({"adjustment": [1.0, 0.0], "group_counts": [1, 2], "variant": "released"}, "adjustment: .*released code"),
            ({"shares": [0.5, -0.5]}, "shares: .*>= 0"),
            ({"shares": [0.5, 0.3, 0.2]}, "shares: expected 2 numbers.*got 3"),
            ({"shares": [0.5, 0.5], "variant": "released"}, "shares: .*released"),
            ({"max_weight": 0.5}, "max_weight: .*>= 1"),
            ({"num_groups": (2, 2), "shares": [0.5, 0.5]}, "shares: .*one list per attribute"),
        ],
    )
    def test_bad_options_are_named(self, options, match):
        with pytest.raises(ValueError, match=match):
            fairloss.GroupDROLoss(**{"num_groups": 2, **options})


def of_samplers(groups):
    """Batches of every way in which the library draws samples."""
    n = len(groups)
    generator = torch.Generator().manual_seed(0)

    def shuffled(size):
        return torch.randperm(n, generator=generator).split(size)

    balanced = fairloss.BalancedGroupSampler(groups, max_ratio=5.0)
    cut = fairloss.BalancedGroupSampler(groups, downsample=True)
    by_batch = fairloss.GroupBatchSampler(groups, batch_size=16, min_per_group=4)
    return {
        "shuffle_1": lambda: shuffled(1),
        "shuffle_32": lambda: shuffled(32),
        "balanced": lambda: torch.tensor(list(balanced)).split(16),
        "downsampled": lambda: torch.tensor(list(cut)).split(7),
        "group_batches": lambda: [torch.tensor(rows) for rows in by_batch],
        "in_order": lambda: torch.arange(n).split(16),
    }


@pytest.mark.parametrize("sampler", ["shuffle_1", "shuffle_32", "balanced", "downsampled", "group_batches", "in_order"])
def test_equal_losses_leave_equal_weights_under_every_sampler(sampler):
    groups = torch.tensor([0] * 900 + [1] * 60 + [2] * 40)
    loss = fairloss.GroupDROLoss(3, group_counts=[900, 60, 40])
    epoch = of_samplers(groups)[sampler]
    for _ in range(3):
        for rows in epoch():
            loss(torch.full((len(rows),), 0.7), groups[rows])
    assert loss.q.tolist() == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_counts_of_the_training_set_do_not_make_a_rare_group_worse_under_a_sampler():
    groups = torch.tensor([0] * 9500 + [1] * 500)
    sampler = iter(fairloss.BalancedGroupSampler(groups, downsample=True))
    loss = fairloss.GroupDROLoss(2, group_counts=[9500, 500])
    values = [loss(torch.ones(64), groups[[next(sampler) for _ in range(64)]]).item() for _ in range(60)]
    assert loss.q.tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    assert values[-1] == pytest.approx(1, abs=0.3)  # 5.5 to 6.8 where the shares were those counts


@pytest.mark.slow
def test_the_worst_group_is_found_at_batch_two():
    found = 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        loss = fairloss.GroupDROLoss(3)
        groups = torch.multinomial(torch.tensor([0.9, 0.05, 0.05]), 1000, replacement=True, generator=generator)
        groups = torch.cat(
            [groups, torch.multinomial(torch.tensor([0.9, 0.05, 0.05]), 1000, True, generator=generator)]
        )
        noise = 0.3 * torch.randn(2000, generator=generator)
        values = torch.tensor([0.5, 0.5, 0.6])[groups] + noise
        for value, ids in zip(values.split(2), groups.split(2), strict=True):
            loss(value, ids)
        found += int(loss.q.argmax() == 2)
    assert found >= 95


@pytest.mark.parametrize("cap", [20.0, 3.0])
def test_a_group_first_seen_late_weighs_no_more_than_the_cap(cap):
    loss, memory = fairloss.GroupDROLoss(2, max_weight=cap), fairloss.GroupMemory(2, capacity=8, max_weight=cap)
    common = torch.zeros(2, dtype=torch.int64)
    for _ in range(3000):
        loss(torch.tensor([0.5, 0.7]), common)
        memory.push(torch.tensor([0.5, 0.7]), common)
    values = torch.tensor([0.5, 0.7], requires_grad=True)
    value = loss(values, torch.tensor([0, 1]))
    (slope,) = torch.autograd.grad(value, values)
    assert loss.q[1].item() == pytest.approx(0.5, abs=0.1)
    assert slope[1].item() == pytest.approx(loss.q[1].item() * cap / 2, rel=1e-5)
    assert value.item() == pytest.approx((slope * values).sum().item(), rel=1e-6)
    (slope,) = torch.autograd.grad(ff.group_gap(values, torch.tensor([0, 1]), num_groups=2, memory=memory), values)
    assert slope.abs().max().item() == pytest.approx(cap / 2, rel=1e-5)


def authors_step(losses, groups, adv_probs, adjustment, counts, step_size=0.01):
    """The recipe of the paper by hand: batch means, the adjustment added, weights by exponentiated gradient."""
    means = np.array([losses[groups == g].mean() if (groups == g).any() else 0.0 for g in range(len(counts))])
    shifted = means + np.asarray(adjustment) / np.sqrt(counts)
    adv_probs = adv_probs * np.exp(step_size * shifted)
    adv_probs = adv_probs / adv_probs.sum()
    return float(shifted @ adv_probs), float(means @ adv_probs), adv_probs


@pytest.mark.parametrize("adjustment", [2.0, [1.0, 2.0, 3.0]], ids=["one", "one_per_group"])
def test_the_authors_recipe_runs_in_the_default_variant(adjustment):
    """Balanced batches and C / sqrt(N_g): q as theirs, the value without the adjustment; the released one has both."""
    counts, rng = [3000, 400, 56], np.random.default_rng(0)
    options = {"adjustment": adjustment, "group_counts": counts}
    default, released = fairloss.GroupDROLoss(3, **options), fairloss.GroupDROLoss(3, variant="released", **options)
    adv_probs = np.ones(3) / 3
    groups = np.repeat(np.arange(3), 8)
    for _ in range(50):
        losses = rng.random(24) + np.array([0.2, 0.5, 0.8])[groups]
        shifted, plain, adv_probs = authors_step(losses, groups, adv_probs, adjustment, counts)
        batch = torch.tensor(losses, requires_grad=True), torch.tensor(groups)
        a, b = default(*batch), released(*batch)
        assert a.item() == pytest.approx(plain, rel=1e-12)
        assert b.item() == pytest.approx(shifted, rel=1e-12)
        torch.testing.assert_close(*(torch.autograd.grad(v, batch[0])[0] for v in (a, b)), rtol=1e-12, atol=0)
    assert default.q.tolist() == pytest.approx(adv_probs.tolist(), rel=1e-12)
    assert released.q.tolist() == pytest.approx(adv_probs.tolist(), rel=1e-12)
