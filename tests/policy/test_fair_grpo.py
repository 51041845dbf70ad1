"""FairGRPO advantages: the authors' outputs, a naive oracle, and the properties that the method promises."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from fairloss import FairGRPOAdvantage, fair_grpo_advantages
from fairloss.policy import grpo_advantages
from tests.oracles import policy as oracle
from tests.policy.rollouts import batch, rows

RELEASED = np.load(Path(__file__).parents[1] / "data" / "fair_grpo_released.npz")


def released(prefix, step):
    return [torch.from_numpy(RELEASED[f"{prefix}_s{step}_{name}"]) for name in ("rewards", "group", "domain", "adv")]


@pytest.mark.parametrize("prefix", ["grpo", "grpound", "grpond"])
def test_released_code_three_steps_with_its_cluster_labels(prefix):
    past = None
    module = FairGRPOAdvantage(3, num_domains=3, variant="released")
    for step in range(3):
        rewards, groups, domains, expected = released(prefix, step)
        clusters = None
        if prefix != "grpo":
            clusters = tuple(torch.from_numpy(RELEASED[f"{prefix}_s{step}_{k}"]) for k in ("labels", "share", "mean"))
        found = fair_grpo_advantages(
            rewards, groups, domains, num_groups=3, num_domains=3, past=past, clusters=clusters, variant="released"
        )
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)
        module.update(rewards, groups, domains)
        past = module.history.totals()


@pytest.mark.parametrize("prefix", ["grpo", "grpound", "grpond"])
def test_released_code_three_steps_with_its_clustering(prefix):
    sklearn = pytest.importorskip("sklearn")
    if prefix != "grpo" and not sklearn.__version__.startswith("1.9."):
        pytest.skip(
            f"k-means draws depend on the version: recorded with scikit-learn 1.9.1, {sklearn.__version__} is here"
        )
    module = FairGRPOAdvantage(3, num_domains=3, variant="released", discover_groups="kmeans")
    for step in range(3):
        rewards, groups, domains, expected = released(prefix, step)
        torch.testing.assert_close(module(rewards, groups, domains), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
@pytest.mark.parametrize(
    "options", [{}, {"size_power": 1.0, "reward_power": 0.3}, {"max_ratio": 1.5}, {"max_ratio": None}]
)
def test_history_equals_the_naive_loop(variant, options):
    module = FairGRPOAdvantage(4, num_domains=3, variant=variant, **options)
    naive = oracle.Naive(variant=variant, **options)
    for seed in range(4):
        rewards, groups, domains = batch(seed)
        groups[seed::7], domains[seed::11] = -1, -1
        rewards[seed, 2:] = torch.nan
        rewards[seed + 5] = torch.nan
        expected, weights = naive(rows(rewards), domains.tolist(), groups.tolist())
        torch.testing.assert_close(
            module(rewards, groups, domains), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
        )
        informative = (grpo_advantages(rewards) != 0).any(1)
        assert informative.any()
        torch.testing.assert_close(
            module.last.weights[informative],
            torch.tensor(weights, dtype=torch.float64)[informative],
            rtol=1e-9,
            atol=1e-12,
        )


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
def test_flat_ragged_equals_the_naive_loop_in_any_order(variant, generator):
    module, naive = FairGRPOAdvantage(4, num_domains=3, variant=variant), oracle.Naive(variant=variant)
    for seed in range(3):
        rewards, groups, domains = batch(seed)
        lengths = torch.randint(1, 7, (40,), generator=generator).tolist()
        ragged = [row[:n] for row, n in zip(rows(rewards), lengths, strict=True)]
        expected, _ = naive(ragged, domains.tolist(), groups.tolist())
        index = torch.arange(40).repeat_interleave(torch.tensor(lengths))
        flat = torch.tensor([x for row in ragged for x in row], dtype=torch.float64)
        order = torch.randperm(len(flat), generator=generator)
        ids = (index * 1000 - 17)[order]
        found = module(flat[order], groups[index][order], domains[index][order], prompt_ids=ids)
        wanted = torch.tensor([x for row in expected for x in row], dtype=torch.float64)[order]
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_padded_with_nan_equals_flat():
    rewards, groups, domains = batch()
    rewards[3, 4:] = rewards[9, :2] = torch.nan
    keep = ~torch.isnan(rewards)
    index = torch.arange(40).unsqueeze(1).expand(-1, 6)[keep]
    sizes = {"num_groups": 4, "num_domains": 3}
    flat = fair_grpo_advantages(rewards[keep], groups[index], domains[index], prompt_ids=index, **sizes)
    padded = fair_grpo_advantages(rewards, groups, domains, **sizes)
    torch.testing.assert_close(padded[keep], flat, rtol=1e-12, atol=1e-12)
    assert (padded[~keep] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", ["default", "paper", "released"])
def test_powers_zero_give_grpo_exactly(dtype, variant):
    rewards, groups, domains = batch(dtype=dtype)
    groups[::5] = -1
    module = FairGRPOAdvantage(4, num_domains=3, size_power=0, reward_power=0, batch_normalize=False, variant=variant)
    for _ in range(3):
        assert torch.equal(module(rewards, groups, domains), grpo_advantages(rewards))


def test_equal_groups_and_domains_give_grpo_up_to_a_constant():
    rewards = (torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    rewards = rewards.repeat(6, 1)
    groups, domains = torch.arange(48) // 8 % 2, torch.arange(48) // 16
    found = fair_grpo_advantages(rewards, groups, domains, num_groups=2, num_domains=3)
    plain = grpo_advantages(rewards)
    torch.testing.assert_close(found, plain / (plain.std() + 1e-6), rtol=1e-9, atol=1e-12)


def test_one_domain_alone_cancels_and_several_do_not():
    rewards, groups, domains = batch()
    alone = fair_grpo_advantages(rewards, groups, num_groups=4)
    torch.testing.assert_close(
        alone, fair_grpo_advantages(rewards, groups, domains * 0 + 1, num_groups=4, num_domains=2)
    )
    several = fair_grpo_advantages(rewards, groups, domains, num_groups=4, num_domains=3)
    assert (several - alone).abs().max() > 0.1


def test_zero_mean_within_a_prompt_and_unit_deviation_of_the_batch():
    fair, module = FairGRPOAdvantage(4, num_domains=3), FairGRPOAdvantage(4, num_domains=3, history="batch")
    for seed in range(20):
        found = module(*batch(seed))
        assert found.mean(1).abs().max() < 1e-12
        assert fair(*batch(seed)).mean(1).abs().max() < 1e-12
        assert found.std().item() == pytest.approx(1, abs=3e-6)


def test_invariant_to_the_order_of_prompts_and_of_rollouts(generator):
    rewards, groups, domains = batch()
    prompts = torch.randperm(40, generator=generator)
    rollouts = torch.argsort(torch.rand(40, 6, generator=generator), 1)
    for discover in (None, "kmeans"):
        groups = groups if discover is None else torch.where(groups == 2, -1, groups)
        plain = FairGRPOAdvantage(4, num_domains=3, discover_groups=discover)(rewards, groups, domains)
        moved = FairGRPOAdvantage(4, num_domains=3, discover_groups=discover)(
            rewards[prompts], groups[prompts], domains[prompts]
        )
        torch.testing.assert_close(moved, plain[prompts], rtol=1e-9, atol=1e-12)
        turned = FairGRPOAdvantage(4, num_domains=3, discover_groups=discover)(
            rewards.gather(1, rollouts), groups, domains
        )
        torch.testing.assert_close(turned, plain.gather(1, rollouts), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("size_power", "reward_power"), [(0.5, 1.0), (1.0, 0.0), (0.0, 2.0), (0.3, 0.7)])
def test_weight_ratio_of_two_groups_is_the_formula(size_power, reward_power):
    # Group 0: 6 prompts with mean 3/4; group 1: 2 prompts with mean 1/4.
    rewards = torch.tensor([[1.0, 1, 1, 0]] * 6 + [[0.0, 1, 0, 0]] * 2, dtype=torch.float64)
    module = FairGRPOAdvantage(2, size_power=size_power, reward_power=reward_power, max_ratio=None)
    module(rewards, torch.tensor([0] * 6 + [1] * 2))
    weights = module.last.weights
    assert float(weights[7] / weights[0]) == pytest.approx((6 / 2) ** size_power * (0.75 / 0.25) ** reward_power)


def test_the_worse_of_two_equal_groups_never_weighs_less():
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        rate = torch.rand(4, generator=generator).repeat_interleave(10)
        rewards = (torch.rand(40, 6, generator=generator) < rate.unsqueeze(1)).double()
        module = FairGRPOAdvantage(4)
        module(rewards, torch.arange(4).repeat_interleave(10))
        means, weights = rewards.reshape(4, -1).mean(1), module.last.table[0, :4]
        order = means.argsort()
        assert (weights[order].diff() <= 1e-12).all()


def test_the_cap_holds_and_its_absence_shows():
    rewards = torch.zeros(161, 8, dtype=torch.float64)
    rewards[:160, ::2] = 1.0
    rewards[160, 3] = 1.0
    groups = (torch.arange(161) == 160).long()
    capped, free = FairGRPOAdvantage(2, max_ratio=10), FairGRPOAdvantage(2, max_ratio=None)
    found = capped(rewards, groups)
    weights = capped.last.weights
    assert float(weights.max() / weights.median()) == pytest.approx(10)
    assert free(rewards, groups)[160].abs().max() > 1.5 * found[160].abs().max()
    assert float(free.last.weights.max() / free.last.weights.median()) == pytest.approx(160**0.5 * 4)


CORNERS = {
    "all correct": (torch.ones(6, 4), torch.arange(6) % 3),
    "all wrong": (torch.zeros(6, 4), torch.arange(6) % 3),
    "one rollout": (torch.arange(6.0).unsqueeze(1) / 6, torch.arange(6) % 3),
    "one prompt": (torch.tensor([[1.0, 0, 0, 1]]), torch.tensor([1])),
    "no prompts": (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    "no rollouts": (torch.zeros(3, 0), torch.arange(3)),
    "all unknown": (torch.arange(24.0).reshape(6, 4) % 5 / 5, torch.full((6,), -1)),
    "all unscorable": (torch.full((6, 4), torch.nan), torch.arange(6) % 3),
    "a group of zeros": (torch.tensor([[0.0, 0, 0], [1, 0, 1], [0, 0, 0]]), torch.tensor([1, 0, 1])),
}


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
@pytest.mark.parametrize("discover", [None, "kmeans"])
@pytest.mark.parametrize("name", CORNERS)
def test_corners_are_finite_and_zero_where_they_should_be(name, variant, discover):
    rewards, groups = CORNERS[name]
    if variant == "released" and discover and (torch.isnan(rewards).any() or rewards.shape[1] == 0):
        pytest.skip("the released discovery needs every reward")
    module = FairGRPOAdvantage(3, variant=variant, discover_groups=discover)
    for step in range(2):
        warned = pytest.warns(UserWarning, match="in which they cancel")
        with warned if name == "one prompt" and variant != "default" and step == 0 else nullcontext():
            found = module(rewards, groups)
        assert found.shape == rewards.shape
        assert torch.isfinite(found).all()
        silent = ~(grpo_advantages(rewards) != 0).any(1)
        assert (found[silent] == 0).all()
        if not silent.all():
            assert (found[~silent] != 0).any(1).all()
        assert all(np.isfinite([row.weight, row.mean_reward]).all() for row in module.table())
    assert torch.isfinite(module.history.totals()).all()


def test_float_noise_is_no_signal():
    assert (fair_grpo_advantages(torch.full((2, 8), 0.1), torch.tensor([0, 1]), num_groups=2) == 0).all()


def test_a_nan_reward_stays_where_it_is():
    rewards, groups, domains = batch()
    spoilt = rewards.clone()
    spoilt[7, 2] = torch.nan
    module, clean = FairGRPOAdvantage(4, num_domains=3), FairGRPOAdvantage(4, num_domains=3)
    found = module(spoilt, groups, domains)
    assert found[7, 2] == 0
    assert torch.isfinite(found).all()
    clean(rewards, groups, domains)
    # The next batch is weighted as without the accident, but for the one reward.
    torch.testing.assert_close(module(*batch(1)), clean(*batch(1)), rtol=0.05, atol=0.05)


def test_an_absent_group_or_domain_changes_nothing():
    rewards, groups, domains = batch()
    few = fair_grpo_advantages(rewards, groups, domains, num_groups=4, num_domains=3)
    many = fair_grpo_advantages(rewards, groups, domains, num_groups=9, num_domains=5)
    torch.testing.assert_close(many, few, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
def test_an_absent_domain_changes_nothing_without_a_cap(variant):
    """Its weight is infinite, and multiplies no prompts."""
    rewards, groups, _ = batch()
    domains = torch.zeros_like(groups)
    options = {"size_power": 1.0, "max_ratio": None, "batch_normalize": False, "variant": variant}
    few, many = FairGRPOAdvantage(4, num_domains=1, **options), FairGRPOAdvantage(4, num_domains=3, **options)
    torch.testing.assert_close(many(rewards, groups, domains), few(rewards, groups), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(many.last.weights, few.last.weights, rtol=1e-13, atol=0)
    assert torch.isfinite(many.last.table).all()
    if variant == "default":
        informative = (grpo_advantages(rewards) != 0).any(1)
        assert many.last.weights[informative].mean().item() == pytest.approx(1)


def test_unknown_prompts_weigh_the_average_and_count_for_their_domain():
    rewards, groups, _ = batch()
    groups[:8] = -1
    module = FairGRPOAdvantage(4)
    module(rewards, groups)
    assert (module.last.weights[:8] == 1).all()
    assert module.history.totals()[0].sum() == 40
    assert [row.prompts for row in module.table() if row.group == "unknown"] == [8]


def test_without_an_informative_prompt_weights_still_compare_groups():
    module, alone = FairGRPOAdvantage(2), FairGRPOAdvantage(2, history="batch")
    groups = torch.tensor([0, 0, 0, 1])
    module(torch.tensor([[1.0, 1, 1, 0]] * 3 + [[0.0, 1, 0, 0]]), groups)
    assert (module(torch.ones(4, 4), groups) == 0).all()
    weights = module.last.weights
    assert float(weights[3] / weights[0]) == pytest.approx(3**0.5 * 0.875 / 0.625)
    assert (alone(torch.ones(4, 4), groups) == 0).all()
    weights = alone.last.weights
    assert weights.mean().item() == pytest.approx(1)
    assert float(weights[3] / weights[0]) == pytest.approx(3**0.5)
