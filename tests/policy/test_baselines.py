"""The advantages that FairGRPO is compared with, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fairloss import policy
from fairloss.policy import (
    GroupDROAdvantage,
    grpo_advantages,
    reinforce_pp_advantages,
    resampling_weights,
    rloo_advantages,
)
from tests.oracles import policy as oracle

REWARDS = torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]])


@pytest.mark.parametrize(
    "function",
    [policy.grpo_advantages, policy.rloo_advantages, policy.reinforce_pp_advantages],
    ids=lambda f: f.__name__,
)
def test_infinite_rewards(function):
    with pytest.raises(ValueError, match="rewards: .*inf"):
        function(torch.tensor([[1.0, math.inf]]))


def test_advantages_of_rewards_with_gradient_have_none():
    rewards = torch.tensor([[1.0, 0.0, 0.5]], requires_grad=True)
    assert not policy.rloo_advantages(rewards).requires_grad


def test_the_only_scorable_reward_is_its_own_mean():
    rewards = torch.tensor([[2.0, float("nan")]])
    assert policy.reinforce_pp_advantages(rewards).tolist() == [[0.0, 0.0]]


def test_advantages_without_the_division_by_std():
    assert torch.equal(policy.grpo_advantages(REWARDS, scale="none"), REWARDS - REWARDS.mean(1, keepdim=True))


def ragged():
    rewards = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rewards[1, 2:] = rewards[3, 1:] = rewards[4] = torch.nan
    return rewards


def loop(function, rewards):
    out = []
    for row in rewards.tolist():
        kept = [x for x in row if not math.isnan(x)]
        out.append([0.0 if math.isnan(x) else function(x, kept) for x in row])
    return torch.tensor(out, dtype=torch.float64)


def test_grpo_and_dr_grpo_against_the_loop():
    rewards = ragged()
    expected = torch.tensor([oracle.scores([None if math.isnan(x) else x for x in row]) for row in rewards.tolist()])
    torch.testing.assert_close(grpo_advantages(rewards), expected.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        grpo_advantages(rewards, scale="none"), loop(lambda x, kept: x - sum(kept) / len(kept), rewards)
    )


def test_rloo_against_the_loop():
    def leave_one_out(x, kept):
        return x - (sum(kept) - x) / (len(kept) - 1) if len(kept) > 1 else 0.0

    torch.testing.assert_close(rloo_advantages(ragged()), loop(leave_one_out, ragged()))


@pytest.mark.parametrize("baseline", ["batch", "prompt"])
def test_reinforce_pp_against_numpy(baseline):
    rewards = ragged()
    values = rewards.numpy()
    if baseline == "prompt":
        values = np.where(np.isnan(values), np.nan, loop(lambda x, kept: x - sum(kept) / len(kept), rewards).numpy())
    expected = np.nan_to_num((values - np.nanmean(values)) / (np.nanstd(values, ddof=1) + 1e-6))
    found = reinforce_pp_advantages(rewards, baseline=baseline)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("function", [grpo_advantages, rloo_advantages, reinforce_pp_advantages])
def test_flat_input_is_the_padded_one(function):
    rewards = ragged()
    keep = ~torch.isnan(rewards)
    ids = torch.arange(5).unsqueeze(1).expand(-1, 4)[keep]
    torch.testing.assert_close(function(rewards[keep], prompt_ids=ids), function(rewards)[keep])
    assert torch.isfinite(function(torch.full((2, 3), torch.nan))).all()
    assert function(torch.zeros(0, 3)).shape == (0, 3)
    if function is not reinforce_pp_advantages:
        with pytest.raises(ValueError, match="prompt_ids"):
            function(torch.rand(4))


def test_reinforce_pp_takes_flat_rewards_without_prompts_where_it_has_no_use_for_them():
    rewards = torch.tensor([1.0, 0, 1, 1, 0, 0, 0, torch.nan])
    kept = rewards[:7].double().numpy()
    wanted = (kept - kept.mean()) / (kept.std(ddof=1) + 1e-6)
    np.testing.assert_allclose(reinforce_pp_advantages(rewards)[:7], wanted, rtol=1e-6)
    assert reinforce_pp_advantages(rewards)[7] == 0
    for options in ({"baseline": "prompt"}, {"rollout_ids": torch.arange(8)}):
        with pytest.raises(ValueError, match="prompt_ids"):
            reinforce_pp_advantages(rewards, **options)


@pytest.mark.parametrize("function", [grpo_advantages, rloo_advantages, reinforce_pp_advantages])
def test_rows_of_one_rollout_are_one_rollout(function):
    once = torch.tensor([1.0, 0, 0, 1, 1, torch.nan])
    prompts, turns = torch.tensor([4, 4, 4, 2, 2, 2]), torch.tensor([3, 1, 1, 1, 2, 2])
    rows = torch.arange(6).repeat_interleave(turns)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    rows = rows[order]
    # Ids of rollouts may start anew in every prompt.
    for rollouts in (torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])):
        found = function(once[rows], prompt_ids=prompts[rows], rollout_ids=rollouts[rows])
        torch.testing.assert_close(found, function(once, prompt_ids=prompts)[rows], rtol=1e-6, atol=1e-7)


def test_resampling_draws_every_group_equally_often():
    groups = torch.tensor([0] * 90 + [1] * 8 + [2] * 2 + [-1] * 4)
    weights = resampling_weights(groups, num_groups=4)
    assert [weights[groups == g].sum().item() for g in range(3)] == pytest.approx([100 / 3] * 3, rel=1e-6)
    assert (weights[groups == -1] == 1).all()
    assert (resampling_weights(groups, num_groups=3, power=0) == 1).all()
    assert torch.isfinite(resampling_weights(torch.full((3,), -1), num_groups=2)).all()
    with pytest.raises(ValueError, match="power"):
        resampling_weights(groups, num_groups=3, power=-1)
    with pytest.raises(ValueError, match="groups"):
        resampling_weights(torch.tensor([7]), num_groups=3)


def rewarded(seed, q=5, r=4):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randint(0, 2, (q, r), generator=generator).double()
    return rewards, torch.randint(-1, 3, (q,), generator=generator)


def test_group_dro_against_the_loop():
    module = GroupDROAdvantage(3, step_size=0.5)
    log_q, seen, squares, degrees = np.zeros(3), np.zeros(3), 0.0, 0.0
    for step in range(4):
        rewards, groups = rewarded(step, q=9)
        found = module(rewards, groups)
        known = [(row.mean(), g) for row, g in zip(rewards.numpy(), groups.tolist(), strict=True) if g >= 0]
        for _, g in known:
            seen[g] += 1
        for g in range(3):
            if seen[g]:
                loss = -sum(mean for mean, h in known if h == g) / (len(known) * seen[g] / seen.sum())
                log_q[g] += 0.5 * loss
        q = np.where(seen > 0, np.exp(log_q), 0)
        weights = np.where(seen > 0, q / q.sum() / np.maximum(seen, 1) * seen.sum(), 0)
        scaled = grpo_advantages(rewards) * torch.tensor([weights[g] if g >= 0 else 1.0 for g in groups]).unsqueeze(1)
        informative = int((grpo_advantages(rewards) != 0).any(1).sum())
        fade = 0.5 ** (9 / 1000)
        squares = squares * fade + float(scaled.double().square().sum())
        degrees = degrees * fade + informative * rewards.shape[1]
        torch.testing.assert_close(found, scaled / ((squares / (degrees - 1)) ** 0.5 + 1e-6), rtol=1e-5, atol=1e-6)


def test_group_dro_weighs_prompts_that_come_alone():
    alone, together = GroupDROAdvantage(3, step_size=0.5), GroupDROAdvantage(3, step_size=0.5)
    rewards, groups = rewarded(0)
    for module in (alone, together):
        module(rewards, groups)
        module.eval()
    wanted = together(rewards, groups)
    found = torch.cat([alone(rewards[i : i + 1], groups[i : i + 1]) for i in range(len(rewards))])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    sizes = found.abs().amax(1) / grpo_advantages(rewards).abs().amax(1).clamp(min=0.1)
    assert len({round(float(size), 6) for size in sizes if size > 0}) > 1


def test_group_dro_moves_to_the_worst_group_and_not_to_the_rarest():
    generator = torch.Generator().manual_seed(0)
    module = GroupDROAdvantage(3, step_size=0.05)
    rates = torch.tensor([0.3, 0.8, 0.8])
    for _ in range(800):
        groups = torch.multinomial(torch.tensor([0.9, 0.05, 0.05]), 2, replacement=True, generator=generator)
        rewards = (torch.rand(2, 4, generator=generator) < rates[groups].unsqueeze(1)).float()
        module(rewards, groups)
    assert module.log_q.argmax() == 0


def test_group_dro_state_and_modes():
    module, other = GroupDROAdvantage(3), GroupDROAdvantage(3)
    rewards, groups = rewarded(0)
    with torch.no_grad():
        module(rewards, groups)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.log_q, module.log_q)
    module.eval()
    module(rewards, groups)
    assert torch.equal(other.get_extra_state(), module.get_extra_state())
    corner = GroupDROAdvantage(3, group_counts=[8, 1, 1])
    for bad in (torch.full((2, 3), torch.nan), torch.zeros(0, 3), torch.ones(2, 1)):
        assert torch.isfinite(corner(bad, torch.full((bad.shape[0],), -1))).all()
    with pytest.raises(ValueError, match="groups: .*id"):
        module(rewards, groups + 3)


def test_flat_ids_beside_rows_of_rewards_are_refused():
    with pytest.raises(ValueError, match=r"prompt_ids.*\(B,\)"):
        grpo_advantages(torch.ones(2, 2), prompt_ids=torch.zeros(2, 2, dtype=torch.int64))
