"""FairGRPO's weights in batches where the released code's go wrong."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch

from fairloss import FairGRPOAdvantage, fair_grpo_advantages, policy
from tests.policy.rollouts import draw, nearly_equal

REWARDS = torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]])
GROUPS = torch.tensor([0, 0, 1, 1])


def test_the_domain_matters_across_domains_alone():
    rewards, groups = draw(0), torch.arange(24) % 2
    one = fair_grpo_advantages(rewards, groups, torch.zeros(24, dtype=torch.int64), num_groups=2, num_domains=2)
    torch.testing.assert_close(one, fair_grpo_advantages(rewards, groups, num_groups=2), rtol=1e-5, atol=1e-6)
    domains = (torch.arange(24) >= 4).long()
    assert not torch.allclose(one, fair_grpo_advantages(rewards, groups, domains, num_groups=2, num_domains=2))


def test_a_group_that_earned_nothing_and_a_nan_reward():
    """There rows of a group with mean 0 stay unscaled beside rows divided by ten thousand; a NaN switches fairness off."""
    module = FairGRPOAdvantage(2)
    module(torch.tensor([[0.0] * 4, [1, 0, 1, 1]]), torch.tensor([1, 0]))
    module(torch.tensor([[math.nan, 0, 1, 1], [1, 0, 1, 1]]), torch.tensor([1, 0]))
    fair = module(REWARDS, GROUPS)
    assert torch.isfinite(fair).all()
    assert not torch.allclose(fair, policy.grpo_advantages(REWARDS))
    weights = module.last.weights
    assert weights.max() / weights.min() < 11


def test_no_weight_without_a_cap():
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


def test_one_rollout_and_one_prompt():
    """There a single rollout gives NaN everywhere, and so does a batch of one."""
    assert (fair_grpo_advantages(torch.ones(3, 1), torch.tensor([0, 1, 0]), num_groups=2) == 0).all()
    assert (FairGRPOAdvantage(2)(torch.ones(1, 1), torch.tensor([0])) == 0).all()


def test_rounding_noise_is_no_signal():
    """There eight rewards of 0.1 give -0.054."""
    rewards = torch.full((2, 8), 0.1)
    assert (fair_grpo_advantages(rewards, torch.tensor([0, 0]), num_groups=1) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rewards_that_differ_by_rounding_are_equal(dtype):
    """Divided by the deviation of nothing but such prompts, 1e-8 between rewards of 0.1 would be a full-size advantage."""
    rewards, groups = nearly_equal(dtype), torch.arange(22) % 2
    limit = 4 * torch.finfo(dtype).eps
    wanted = [max(row) - min(row) > limit * max(map(abs, row)) for row in rewards.tolist()]
    assert 8 < sum(wanted) < 16
    module = FairGRPOAdvantage(2, reward_power=0, reward_shift=0)
    for found in (
        module(rewards, groups),
        policy.grpo_advantages(rewards),
        policy.GroupDROAdvantage(2)(rewards, groups),
    ):
        assert found.any(1).tolist() == wanted
    assert module.history.totals()[3].sum() == sum(wanted)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_any_difference_counts_in_the_formulas_of_others(variant):
    rewards, groups = nearly_equal(torch.float32).abs(), torch.zeros(22, dtype=torch.int64)
    found = fair_grpo_advantages(rewards, groups, num_groups=1, variant=variant)
    assert found.any(1).tolist() == [max(row) > min(row) for row in rewards.tolist()]


def test_sums_in_another_order_are_equal():
    parts = torch.tensor([0.1, 0.7, 0.2, 0.3, 1 / 3, 5.3])
    rewards = torch.stack([sum(parts[i] for i in order) for order in itertools.permutations(range(6))]).view(4, 180)
    assert (rewards != rewards[:, :1]).any()
    assert (fair_grpo_advantages(rewards, torch.zeros(4, dtype=torch.int64), num_groups=1) == 0).all()


def test_all_rollouts_of_a_prompt_share_a_weight():
    advantages = fair_grpo_advantages(draw(1), torch.arange(24) % 3 - 1, num_groups=2)
    assert advantages.sum(1).abs().max() < 1e-5


def test_powers_of_zero_are_grpo():
    """There, rarity and difficulty multiply: a tenth of the prompts ends with half of the signal."""
    rewards, groups = draw(2), torch.arange(24) % 2
    plain = fair_grpo_advantages(rewards, groups, num_groups=2, size_power=0, reward_power=0, batch_normalize=False)
    assert torch.equal(plain, policy.grpo_advantages(rewards))


def test_statistics_are_those_of_all_processes():
    for function in (fair_grpo_advantages, FairGRPOAdvantage, policy.GroupDROAdvantage):
        assert "process_group" in inspect.signature(function).parameters


def test_the_result_shares_no_memory():
    """There ``returns`` and ``advantages`` are one tensor."""
    rewards = REWARDS.clone()
    fair_grpo_advantages(rewards, GROUPS, num_groups=2).zero_()
    assert torch.equal(rewards, REWARDS)
    module = FairGRPOAdvantage(2)
    module(rewards, GROUPS).zero_()
    assert module.last.advantages.abs().sum() > 0


def test_nothing_is_printed(capsys):
    module = FairGRPOAdvantage(2)
    module(REWARDS, GROUPS)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert {row.group for row in module.table()} == {"0", "1"}
