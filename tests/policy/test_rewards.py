"""Rewards as they come: padded, flat, narrow, masked, negative, infinite."""

from __future__ import annotations

import math

import pytest
import torch

from fairloss import FairGRPOAdvantage, fair_grpo_advantages, policy
from tests.oracles import policy as oracle
from tests.policy.rollouts import batch, rows

REWARDS = torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]])
GROUPS = torch.tensor([0, 0, 1, 1])


def test_degenerate_prompts():
    """NaN rewards, equal rewards and unequal numbers of rollouts: NaN in some trainers, an assertion in others."""
    rewards = torch.tensor([[1.0, 0, math.nan, 1], [0.1, 0.1, 0.1, 0.1], [math.nan] * 4])
    advantages = fair_grpo_advantages(rewards, torch.tensor([0, 1, -1]), num_groups=2)
    assert torch.isfinite(advantages).all()
    assert advantages[0, 2] == 0
    assert (advantages[1:] == 0).all()
    kept = advantages[0][[0, 1, 3]]
    assert kept.sum().abs() < 1e-5


def test_advantages_have_one_number_a_rollout():
    assert fair_grpo_advantages(REWARDS, GROUPS, num_groups=2).shape == REWARDS.shape
    flat = fair_grpo_advantages(
        REWARDS.flatten(), GROUPS.repeat_interleave(4), num_groups=2, prompt_ids=torch.arange(4).repeat_interleave(4)
    )
    torch.testing.assert_close(flat, fair_grpo_advantages(REWARDS, GROUPS, num_groups=2).flatten())


def test_negative_mean_rewards_are_refused():
    """There a negative mean turns the gradient around (correlation -1)."""
    rewards = 2 * REWARDS - 1
    module = FairGRPOAdvantage(2, reward_shift=0)
    with pytest.raises(ValueError, match="rewards: .*group 1"):
        module(rewards, GROUPS)
    assert module.history.totals().sum() == 0
    lifted = fair_grpo_advantages(rewards, GROUPS, num_groups=2, reward_shift="min")
    plain = policy.grpo_advantages(rewards)
    assert (lifted * plain >= 0).all()
    off = fair_grpo_advantages(rewards, GROUPS, num_groups=2, reward_shift=0, validate=False)
    assert (off * plain >= 0).all()


def test_a_mean_of_zero_among_negative_rewards_is_refused():
    """It passes for a group that earned nothing, whose weight is as large as can be, but its prompts carry a signal."""
    rewards = torch.tensor([[1.0, -1, 1, -1], [1, 1, 1, -1]])
    known, unknown = torch.tensor([0, 1]), torch.tensor([-1, -1])
    module = FairGRPOAdvantage(2, num_domains=2, reward_shift=0)
    with pytest.raises(ValueError, match="rewards: .*group 0 of domain 1.*reward_shift='auto'"):
        module(rewards, known, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="rewards: .*domain 1.*reward_shift='auto'"):
        module(rewards, unknown, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="rewards: .*group 0"):
        fair_grpo_advantages(rewards - 1, known, num_groups=2, reward_shift=1.0)
    with pytest.raises(ValueError, match="rewards: .*group 0"):
        fair_grpo_advantages(
            rewards.flatten(), known.repeat_interleave(4), num_groups=2, prompt_ids=torch.arange(8) // 4, reward_shift=0
        )
    assert module.history.totals().abs().sum() == 0
    for allowed in ({"reward_shift": "min"}, {"reward_shift": 1.0}, {"reward_power": 0}, {"validate": False}):
        allowed = {"reward_shift": 0} | allowed
        assert torch.isfinite(fair_grpo_advantages(rewards, known, num_groups=2, **allowed)).all()


def test_a_mean_of_zero_from_zeros_is_fine_beside_negative_rewards_of_others():
    rewards = torch.tensor([[0.0] * 4, [1, 1, 1, -1], [1, -1, 0, 0]])
    found = fair_grpo_advantages(rewards, torch.tensor([0, 1, -1]), num_groups=2, reward_shift=0)
    assert torch.isfinite(found).all()
    assert (found[1:] != 0).any(1).all()


def test_an_infinite_reward_leaves_no_trace():
    module = FairGRPOAdvantage(2, validate=False)
    module(REWARDS, GROUPS)
    before = module.history.totals()
    with pytest.raises(ValueError, match="rewards: .*inf"):
        module(torch.tensor([[math.inf, 1.0]]), torch.tensor([0]))
    assert torch.equal(module.history.totals(), before)


def test_unequal_numbers_of_rollouts():
    """There an assertion fails."""
    rewards = torch.tensor([1.0, 0, 1, 0, 1, 1, 0])
    prompts = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    flat = fair_grpo_advantages(rewards, torch.tensor([0, 0, 0, 1, 1, 0, 0]), num_groups=2, prompt_ids=prompts)
    padded = torch.tensor([[1.0, 0, 1], [0, 1, math.nan], [1, 0, math.nan]])
    rows = fair_grpo_advantages(padded, torch.tensor([0, 1, 0]), num_groups=2)
    torch.testing.assert_close(flat, rows[~padded.isnan()])


def test_conflicting_ids_of_one_prompt_are_named():
    """There the last row wins."""
    arguments = (torch.tensor([1.0, 0.0]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="groups: .*of a prompt"):
        fair_grpo_advantages(*arguments, num_groups=2, prompt_ids=torch.tensor([7, 7]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_narrow_rewards_are_computed_in_float32(dtype):
    """There they stay narrow until the mask, and each row waits for the device."""
    found = fair_grpo_advantages(REWARDS.to(dtype), GROUPS, num_groups=2)
    assert found.dtype == torch.float32
    assert torch.equal(found, fair_grpo_advantages(REWARDS, GROUPS, num_groups=2))


def test_tokens_of_a_rollout_get_its_advantage():
    mask = torch.arange(3).expand(16, 3) < (torch.arange(16) % 4).unsqueeze(1)
    tokens = fair_grpo_advantages(REWARDS, GROUPS, num_groups=2, mask=mask)
    expected = fair_grpo_advantages(REWARDS, GROUPS, num_groups=2).reshape(-1, 1) * mask
    torch.testing.assert_close(tokens, expected)


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
def test_negative_means_are_refused_with_advice_and_nothing_is_remembered(variant):
    module = FairGRPOAdvantage(2, num_domains=2, variant=variant, reward_shift=0)
    rewards = torch.tensor([[1.0, -1, -1], [1, 1, 0]])
    with pytest.raises(ValueError, match=r"-0\.333.* for group 1 of domain 1;.*reward_shift='auto'"):
        module(rewards, torch.tensor([1, 0]), torch.tensor([1, 0]))
    assert module.history.totals().abs().sum() == 0
    unknown = torch.tensor([-1, -1]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="rewards: .* -0.333.* for domain 0;"):
        module(rewards, *unknown)
    module.options = module.options._replace(reward_power=0.0)
    assert torch.isfinite(module(rewards, torch.tensor([1, 0]), torch.tensor([1, 0]))).all()


def test_infinite_rewards_are_refused():
    with pytest.raises(ValueError, match="rewards: .*inf"):
        fair_grpo_advantages(torch.tensor([[1.0, torch.inf]]), torch.tensor([0]), num_groups=1)


def test_unvalidated_negative_means_stay_finite_and_keep_their_sign():
    rewards, groups = torch.tensor([[1.0, -1, -1], [1, 1, 0]]), torch.tensor([1, 0])
    found = fair_grpo_advantages(rewards, groups, num_groups=2, reward_shift=0, validate=False)
    assert torch.isfinite(found).all()
    assert (found.sign() == (rewards - rewards.mean(1, keepdim=True)).sign()).all()


@pytest.mark.parametrize("shift", ["min", 1.0])
def test_a_shift_lifts_means_alone(shift):
    rewards, groups, domains = batch()
    signed = rewards * 2 - 1
    module = FairGRPOAdvantage(4, num_domains=3, reward_shift=shift)
    expected, _ = oracle.Naive()(rows(signed), domains.tolist(), groups.tolist(), shift=1.0)
    torch.testing.assert_close(
        module(signed, groups, domains), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
@pytest.mark.parametrize("penalty", [0.1, 0.7])
@pytest.mark.parametrize("shift", ["number", "min"])
@pytest.mark.parametrize("mode", ["cumulative", "ema"])
def test_a_mean_lifted_to_zero_is_zero(penalty, shift, mode, variant):
    """Rounding leaves -1e-9 or 1e-8 of it (float32 misses -0.1 from below, -0.7 from above), under "ema" -1e-17."""
    reward_shift = "min" if shift == "min" else penalty
    lifted = FairGRPOAdvantage(2, history=mode, reward_shift=reward_shift, variant=variant)
    plain = FairGRPOAdvantage(2, history=mode, variant=variant)
    groups = torch.tensor([0] * 6 + [1] * 2)
    for seed in range(50):
        rewards = (torch.rand(8, 4, generator=torch.Generator().manual_seed(seed)) < 0.5).float()
        rewards[6:] = 0
        wanted = plain(rewards, groups)
        torch.testing.assert_close(lifted(rewards - penalty, groups), wanted, rtol=1e-4, atol=1e-5)
    # Group 1 earns its first reward: it is scaled by the weight of a mean that is 0.
    rewards[7, 2] = 1
    found, wanted = lifted.scale(rewards - penalty, groups), plain.scale(rewards, groups)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lifted.last.table, plain.last.table, rtol=1e-4, atol=1e-5)
    assert found[7, 2] > 0


def test_the_lowest_reward_is_remembered():
    module = FairGRPOAdvantage(2, reward_shift="min")
    rewards, groups = torch.tensor([[0.0, 3, 1], [1, 1, 2]], dtype=torch.float64), torch.tensor([0, 1])
    module(rewards - 5, groups)
    assert module.history.lowest == -5
    module(rewards, groups)
    assert module.history.lowest == -5
    means = torch.tensor([(4 / 3 + 4 / 3 - 5) / 2 + 5, (4 / 3 + 4 / 3 - 5) / 2 + 5])
    torch.testing.assert_close(module.last.weights, (1 / means.double() / (1 / means).mean()))
