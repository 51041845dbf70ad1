"""What the released FairGRPO code decides silently, one test a case of ``docs/hostile-batches.md``."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from fairloss import FairGRPOAdvantage, fair_grpo_advantages, policy
from fairloss.policy.discovery import Discovery

REWARDS = torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]])
GROUPS = torch.tensor([0, 0, 1, 1])


def draw(seed, q=24, r=6, rate=0.6):
    return (torch.rand(q, r, generator=torch.Generator().manual_seed(seed)) < rate).float()


def test_a14_degenerate_prompts():
    """NaN rewards, equal rewards and unequal numbers of rollouts: NaN in some trainers, an assertion in others."""
    rewards = torch.tensor([[1.0, 0, math.nan, 1], [0.1, 0.1, 0.1, 0.1], [math.nan] * 4])
    advantages = fair_grpo_advantages(rewards, torch.tensor([0, 1, -1]), num_groups=2)
    assert torch.isfinite(advantages).all()
    assert advantages[0, 2] == 0
    assert (advantages[1:] == 0).all()
    kept = advantages[0][[0, 1, 3]]
    assert kept.sum().abs() < 1e-5


def test_a13_advantages_have_one_number_a_rollout():
    assert fair_grpo_advantages(REWARDS, GROUPS, num_groups=2).shape == REWARDS.shape
    flat = fair_grpo_advantages(
        REWARDS.flatten(), GROUPS.repeat_interleave(4), num_groups=2, prompt_ids=torch.arange(4).repeat_interleave(4)
    )
    torch.testing.assert_close(flat, fair_grpo_advantages(REWARDS, GROUPS, num_groups=2).flatten())


def test_c1_history_belongs_to_its_module():
    """There it is a module's global: shared by all runs of a process, never saved."""
    first, second = FairGRPOAdvantage(2), FairGRPOAdvantage(2)
    first(REWARDS, GROUPS)
    assert second.history.totals().sum() == 0
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(REWARDS, GROUPS), second(REWARDS, GROUPS))
    windowed = FairGRPOAdvantage(2, history="ema", decay=0.5)
    for _ in range(30):
        windowed(REWARDS, GROUPS)
    assert windowed.history.totals()[0].sum() == pytest.approx(8, rel=1e-6)  # 4 prompts a step, 1 / (1 - 0.5)


def test_c2_state_does_not_grow():
    """There every row rebuilds a list of all rewards ever seen."""
    module = FairGRPOAdvantage(2)
    module(REWARDS, GROUPS)
    size = sum(t.numel() for t in module.state_dict().values())
    for seed in range(50):
        module(draw(seed), torch.arange(24) % 2)
    assert sum(t.numel() for t in module.state_dict().values()) == size


def test_c3_updating_and_scaling_are_two_steps():
    """There calling twice counts the batch twice."""
    module = FairGRPOAdvantage(2)
    module.update(REWARDS, GROUPS)
    once = module.history.totals()
    assert torch.equal(module.scale(REWARDS, GROUPS), module.scale(REWARDS, GROUPS))
    assert torch.equal(module.history.totals(), once)
    torch.testing.assert_close(module.scale(REWARDS, GROUPS), FairGRPOAdvantage(2)(REWARDS, GROUPS))


def test_c4_the_domain_matters_across_domains_alone():
    rewards, groups = draw(0), torch.arange(24) % 2
    one = fair_grpo_advantages(rewards, groups, torch.zeros(24, dtype=torch.int64), num_groups=2, num_domains=2)
    torch.testing.assert_close(one, fair_grpo_advantages(rewards, groups, num_groups=2), rtol=1e-5, atol=1e-6)
    domains = (torch.arange(24) >= 4).long()
    assert not torch.allclose(one, fair_grpo_advantages(rewards, groups, domains, num_groups=2, num_domains=2))


def test_c5_negative_mean_rewards_are_refused():
    """There a negative mean turns the gradient around (correlation -1)."""
    rewards = 2 * REWARDS - 1
    module = FairGRPOAdvantage(2)
    with pytest.raises(ValueError, match="rewards: the mean reward of group 1"):
        module(rewards, GROUPS)
    assert module.history.totals().sum() == 0
    lifted = fair_grpo_advantages(rewards, GROUPS, num_groups=2, reward_shift="min")
    plain = policy.grpo_advantages(rewards)
    assert (lifted * plain >= 0).all()
    off = fair_grpo_advantages(rewards, GROUPS, num_groups=2, validate=False)
    assert (off * plain >= 0).all()


def test_c5_a_mean_of_zero_among_negative_rewards_is_refused():
    """It passes for a group that earned nothing, whose weight is as large as can be, but its prompts carry a signal."""
    rewards = torch.tensor([[1.0, -1, 1, -1], [1, 1, 1, -1]])
    known, unknown = torch.tensor([0, 1]), torch.tensor([-1, -1])
    module = FairGRPOAdvantage(2, 2)
    with pytest.raises(ValueError, match="rewards: the mean reward of group 0 of domain 1 is 0; .*reward_shift='min'"):
        module(rewards, known, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="rewards: the mean reward of domain 1 is 0; .*reward_shift='min'"):
        module(rewards, unknown, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="the mean reward of group 0"):
        fair_grpo_advantages(rewards - 1, known, num_groups=2, reward_shift=1.0)
    with pytest.raises(ValueError, match="the mean reward of group 0"):
        fair_grpo_advantages(
            rewards.flatten(), known.repeat_interleave(4), num_groups=2, prompt_ids=torch.arange(8) // 4
        )
    assert module.history.totals().abs().sum() == 0
    for allowed in ({"reward_shift": "min"}, {"reward_shift": 1.0}, {"reward_power": 0}, {"validate": False}):
        assert torch.isfinite(fair_grpo_advantages(rewards, known, num_groups=2, **allowed)).all()


def test_c5_a_mean_of_zero_from_zeros_is_fine_beside_negative_rewards_of_others():
    rewards = torch.tensor([[0.0] * 4, [1, 1, 1, -1], [1, -1, 0, 0]])
    found = fair_grpo_advantages(rewards, torch.tensor([0, 1, -1]), num_groups=2)
    assert torch.isfinite(found).all()
    assert (found[1:] != 0).any(1).all()


def test_c6_a_group_that_earned_nothing_and_a_nan_reward():
    """There rows of a group with mean 0 stay unscaled beside rows divided by ten thousand; a NaN switches fairness off."""
    module = FairGRPOAdvantage(2)
    module(torch.tensor([[0.0] * 4, [1, 0, 1, 1]]), torch.tensor([1, 0]))
    module(torch.tensor([[math.nan, 0, 1, 1], [1, 0, 1, 1]]), torch.tensor([1, 0]))
    fair = module(REWARDS, GROUPS)
    assert torch.isfinite(fair).all()
    assert not torch.allclose(fair, policy.grpo_advantages(REWARDS))
    weights = module.last.weights
    assert weights.max() / weights.min() < 11


def test_c6_an_infinite_reward_leaves_no_trace():
    module = FairGRPOAdvantage(2, validate=False)
    module(REWARDS, GROUPS)
    before = module.history.totals()
    with pytest.raises(ValueError, match="rewards: an infinite reward"):
        module(torch.tensor([[math.inf, 1.0]]), torch.tensor([0]))
    assert torch.equal(module.history.totals(), before)


def test_c7_no_weight_without_a_cap():
    """There one success in 160 rollouts gives an advantage of 16.7 beside 0.115."""
    rewards = draw(0, 40, 4, 0.9)
    rewards = torch.cat([rewards, torch.tensor([[1.0, 0, 0, 0], *[[0.0] * 4] * 39])])
    groups = torch.tensor([0] * 40 + [1] * 40)
    module = FairGRPOAdvantage(2, max_ratio=5.0)
    module(rewards, groups)
    informative = (rewards != rewards[:, :1]).any(1)
    weights = module.last.weights[informative]
    assert weights.max() <= 5 * weights.median() * (1 + 1e-6)
    assert weights.mean().item() == pytest.approx(1)


def test_c8_one_rollout_and_one_prompt():
    """There a single rollout gives NaN everywhere, and so does a batch of one."""
    assert (fair_grpo_advantages(torch.ones(3, 1), torch.tensor([0, 1, 0]), num_groups=2) == 0).all()
    assert (fair_grpo_advantages(torch.ones(1, 1), torch.tensor([0]), num_groups=2) == 0).all()


def test_c9_the_deviation_stays_one():
    """There the weights shrink as 1 / N until eps bites: 0.5 after 10,000 steps."""
    past = torch.tensor([[[40_000.0, 20_000, 0]], [[160_000, 80_000, 0]], [[96_000, 40_000, 0]]], dtype=torch.float64)
    advantages = fair_grpo_advantages(draw(0), torch.arange(24) % 2, num_groups=2, past=past)
    assert advantages.std().item() == pytest.approx(1, abs=1e-3)


def test_c10_rounding_noise_is_no_signal():
    """There eight rewards of 0.1 give -0.054."""
    rewards = torch.full((1, 8), 0.1)
    assert (fair_grpo_advantages(rewards, torch.tensor([0]), num_groups=1) == 0).all()


def test_c11_all_rollouts_of_a_prompt_share_a_weight():
    advantages = fair_grpo_advantages(draw(1), torch.arange(24) % 3 - 1, num_groups=2)
    assert advantages.sum(1).abs().max() < 1e-5


def test_c12_unequal_numbers_of_rollouts():
    """There an assertion fails."""
    rewards = torch.tensor([1.0, 0, 1, 0, 1, 1, 0])
    prompts = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    flat = fair_grpo_advantages(rewards, torch.tensor([0, 0, 0, 1, 1, 0, 0]), num_groups=2, prompt_ids=prompts)
    padded = torch.tensor([[1.0, 0, 1], [0, 1, math.nan], [1, 0, math.nan]])
    rows = fair_grpo_advantages(padded, torch.tensor([0, 1, 0]), num_groups=2)
    torch.testing.assert_close(flat, rows[~padded.isnan()])


def test_c13_the_same_ids_in_a_second_epoch():
    """There rows of epoch 2 take the clusters of epoch 1."""
    first, second = (FairGRPOAdvantage(2, discover_groups="kmeans", num_clusters=2) for _ in range(2))
    ids, unknown = torch.arange(24).repeat_interleave(6), torch.full((144,), -1)
    for seed in (0, 1):
        same = first(draw(seed).flatten(), unknown, prompt_ids=ids)
        fresh = second(draw(seed).flatten(), unknown, prompt_ids=ids + 1000 * seed)
        assert torch.equal(same, fresh)


def test_c14_conflicting_ids_of_one_prompt_are_named():
    """There the last row wins."""
    arguments = (torch.tensor([1.0, 0.0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="groups: rollouts of one prompt have different ids"):
        fair_grpo_advantages(*arguments, num_groups=2, prompt_ids=torch.tensor([7, 7]))


def test_c15_rollouts_have_no_order():
    """There, permuting a prompt's rollouts changed advantages by up to 55 %."""
    rewards, unknown = torch.rand(30, 6, generator=torch.Generator().manual_seed(0)), torch.full((30,), -1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    found = FairGRPOAdvantage(1, discover_groups="kmeans", num_clusters=3)(rewards, unknown)
    turned = FairGRPOAdvantage(1, discover_groups="kmeans", num_clusters=3)(rewards[:, order], unknown)
    torch.testing.assert_close(turned, found[:, order], rtol=1e-4, atol=1e-5)


def test_c16_alike_prompts_stay_one_group():
    """There the elbow returns three clusters of 30 homogeneous sets out of 30."""
    clusters = []
    for seed in range(5):
        module = FairGRPOAdvantage(1, discover_groups="kmeans")
        module(draw(seed, 40, 8, 0.5), torch.full((40,), -1))
        clusters.append(sum(row.group.startswith("cluster") for row in module.table()))
    assert clusters.count(1) >= 4


def test_c17_memory_of_the_discovery_is_bounded():
    module = FairGRPOAdvantage(1, discover_groups="kmeans", reservoir_size=16)
    sizes = set()
    for seed in range(6):
        module(draw(seed, 12, 4), torch.full((12,), -1))
        sizes.add(sum(t.numel() for t in module.state_dict().values()))
    assert len(sizes) == 1
    assert isinstance(module.discovery, Discovery)


def test_c18_the_mean_of_a_domain_is_that_of_its_rollouts():
    module = FairGRPOAdvantage(2)
    module(REWARDS, GROUPS)
    totals = module.history.totals()
    assert (totals[2].sum() / totals[1].sum()).item() == pytest.approx(REWARDS.mean().item())


def test_c19_group_labels_are_the_users():
    """There a label is sex and an age bracket; an empty one is a group of its own, and one with ':' raises."""
    import fairloss

    codes = fairloss.encode_groups(["M:A3", "", None, "M:A3"], unknown=[""])
    assert codes.ids.tolist() == [0, -1, -1, 0]


def test_c20_powers_of_zero_are_grpo():
    """There, rarity and difficulty multiply: a tenth of the prompts ends with half of the signal."""
    rewards, groups = draw(2), torch.arange(24) % 2
    plain = fair_grpo_advantages(rewards, groups, num_groups=2, size_power=0, reward_power=0, batch_normalize=False)
    assert torch.equal(plain, policy.grpo_advantages(rewards))


def test_c21_advantages_without_the_division_by_std():
    assert torch.equal(policy.grpo_advantages(REWARDS, scale="none"), REWARDS - REWARDS.mean(1, keepdim=True))


def test_c22_statistics_are_those_of_all_processes():
    for function in (fair_grpo_advantages, FairGRPOAdvantage, policy.GroupDROAdvantage):
        assert "process_group" in inspect.signature(function).parameters


def test_c23_the_result_shares_no_memory():
    """There ``returns`` and ``advantages`` are one tensor."""
    rewards = REWARDS.clone()
    fair_grpo_advantages(rewards, GROUPS, num_groups=2).zero_()
    assert torch.equal(rewards, REWARDS)
    module = FairGRPOAdvantage(2)
    module(rewards, GROUPS).zero_()
    assert module.last.advantages.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_c24_narrow_rewards_are_computed_in_float32(dtype):
    """There they stay narrow until the mask, and each row waits for the device."""
    found = fair_grpo_advantages(REWARDS.to(dtype), GROUPS, num_groups=2)
    assert found.dtype == torch.float32
    assert torch.equal(found, fair_grpo_advantages(REWARDS, GROUPS, num_groups=2))


def test_c25_nothing_is_printed(capsys):
    module = FairGRPOAdvantage(2)
    module(REWARDS, GROUPS)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert {row.group for row in module.table()} == {"0", "1"}


def test_c26_tokens_of_a_rollout_get_its_advantage():
    mask = torch.arange(3).expand(16, 3) < (torch.arange(16) % 4).unsqueeze(1)
    tokens = fair_grpo_advantages(REWARDS, GROUPS, num_groups=2, mask=mask)
    expected = fair_grpo_advantages(REWARDS, GROUPS, num_groups=2).reshape(-1, 1) * mask
    torch.testing.assert_close(tokens, expected)
