"""The history of rewards: whose it is, how large, what enters it."""

from __future__ import annotations

import math

import pytest
import torch

from fairloss import FairGRPOAdvantage, fair_grpo_advantages, policy
from fairloss.policy import RewardHistory
from tests.policy.rollouts import batch, draw, rows

REWARDS = torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1]])
GROUPS = torch.tensor([0, 0, 1, 1])


def test_a_history_passes_over_what_is_not_finite():
    history = policy.RewardHistory(1)
    totals = torch.ones(7, 2, 2, dtype=torch.float64)
    history.advance(totals, torch.tensor(0.0, dtype=torch.float64))
    history.advance(totals * math.inf, torch.tensor(-math.inf, dtype=torch.float64))
    assert torch.equal(history.totals(), totals)
    assert history.lowest == 0
    with pytest.raises(ValueError, match="batch: .*shape"):
        history.advance(totals[:2], torch.tensor(0.0, dtype=torch.float64))


def test_history_belongs_to_its_module():
    """There it is a module's global: shared by all runs of a process, never saved."""
    first, second = FairGRPOAdvantage(2), FairGRPOAdvantage(2)
    first(REWARDS, GROUPS)
    assert second.history.totals().sum() == 0
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(REWARDS, GROUPS), second(REWARDS, GROUPS))
    windowed = FairGRPOAdvantage(2, history="ema", half_life=4)
    for _ in range(30):
        windowed(REWARDS, GROUPS)
    assert windowed.history.totals()[0].sum() == pytest.approx(8, rel=1e-6)  # 4 prompts a step, 1 / (1 - 0.5)


def test_state_does_not_grow():
    """There every row rebuilds a list of all rewards ever seen."""
    module = FairGRPOAdvantage(2)
    module(REWARDS, GROUPS)
    size = sum(t.numel() for t in module.state_dict().values())
    for seed in range(50):
        module(draw(seed), torch.arange(24) % 2)
    assert sum(t.numel() for t in module.state_dict().values()) == size


def test_updating_and_scaling_are_two_steps():
    """There calling twice counts the batch twice."""
    module = FairGRPOAdvantage(2)
    module.update(REWARDS, GROUPS)
    once = module.history.totals()
    assert torch.equal(module.scale(REWARDS, GROUPS), module.scale(REWARDS, GROUPS))
    assert torch.equal(module.history.totals(), once)
    torch.testing.assert_close(module.scale(REWARDS, GROUPS), FairGRPOAdvantage(2)(REWARDS, GROUPS))


def test_the_deviation_stays_one():
    """There the weights shrink as 1 / N until eps bites: 0.5 after 10,000 steps."""
    past = torch.zeros(7, 2, 3, dtype=torch.float64)
    past[:3, 0, :2] = torch.tensor([[40_000.0, 40_000], [160_000, 160_000], [96_000, 80_000]])
    rewards = draw(0)
    advantages = fair_grpo_advantages(rewards, torch.arange(24) % 2, num_groups=2, past=past)
    informative = (rewards != rewards[:, :1]).any(1)
    assert advantages[informative].std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_the_mean_of_a_domain_is_that_of_its_rollouts():
    module = FairGRPOAdvantage(2)
    module(REWARDS, GROUPS)
    totals = module.history.totals()
    assert (totals[2].sum() / totals[1].sum()).item() == pytest.approx(REWARDS.mean().item())


def test_history_alone():
    history = RewardHistory(2, mode="ema", half_life=6)
    for _ in range(2):
        history.advance(torch.ones(7, 2, 3, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    assert history.totals()[0, 0].tolist() == [1.5, 1.5, 1.5]


MODES = ["batch", "cumulative", "ema"]


def stream(steps, **options):
    return [batch(seed, **options) for seed in range(steps)]


@pytest.mark.parametrize("mode", MODES)
def test_totals_against_a_loop_over_all_steps(mode):
    module = FairGRPOAdvantage(4, num_domains=3, history=mode, half_life=100)
    kept = []
    for step, (rewards, groups, domains) in enumerate(stream(6)):
        rewards[step] = torch.nan
        groups[::6] = -1
        module(rewards, groups, domains)
        kept.append((rewards, groups, domains))
    wanted = torch.zeros(3, 4, 5, dtype=torch.float64)
    past_prompts = 0
    for age, (rewards, groups, domains) in enumerate(reversed(kept)):
        factor = {"batch": float(age == 0), "cumulative": 1.0, "ema": 0.5 ** (past_prompts / 100)}[mode]
        for row, group, domain in zip(rows(rewards), groups.tolist(), domains.tolist(), strict=True):
            scored = [r for r in row if r is not None]
            if scored:
                wanted[0, domain, group] += factor  # -1, the unknown, is the last column
                wanted[1, domain, group] += factor * len(scored)
                wanted[2, domain, group] += factor * sum(scored)
        past_prompts += int((~rewards.isnan()).any(1).sum())
    torch.testing.assert_close(module.history.totals()[:3], wanted, rtol=1e-12, atol=1e-12)
