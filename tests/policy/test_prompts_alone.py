"""A prompt's advantage does not depend on which prompts share its batch: weights are scaled by the run, not by the batch."""

import warnings

import pytest
import torch

from fairloss import FairGRPOAdvantage, fair_grpo_advantages
from fairloss.policy import grpo_advantages, weights
from tests.oracles import policy as oracle
from tests.policy.rollouts import batch, rows

HALF = torch.tensor([1.0, 0, 1, 1])
HARD = torch.tensor([0.0, 1, 0, 0])


def unknown_groups(data):
    rewards, groups, domains = data
    return rewards, torch.where(groups == 1, -1, groups), torch.where(groups == 2, -1, domains)


SETTINGS = {
    "groups": ({}, lambda data: (data[0], data[1], data[2] * 0)),
    "domains": ({}, lambda data: data),
    "unknown groups and domains": ({}, unknown_groups),
    "discovered groups": ({"discover_groups": "kmeans", "reservoir_size": 32}, unknown_groups),
    "fading": ({"history": "ema", "half_life": 60, "discover_groups": "kmeans"}, unknown_groups),
    "shifted": ({"reward_shift": "min"}, lambda data: (data[0] - 0.5, *data[1:])),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_any_split_of_a_batch_has_the_same_advantages(name):
    options, change = SETTINGS[name]
    module = FairGRPOAdvantage(4, num_domains=3, **options)
    for seed in range(3):
        module(*change(batch(seed)))
    module.eval()
    rewards, groups, domains = change(batch(9, q=64))
    rewards[::7, 4:] = torch.nan
    wanted, weights = module(rewards, groups, domains), module.last.weights
    assert weights.max() / weights.min() > 2
    for sizes in ([1] * 64, [7, 30, 1, 26]):
        parts = zip(*(x.split(sizes) for x in (rewards, groups, domains)), strict=True)
        found = torch.cat([module(*part) for part in parts])
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    # Ragged, in any order.
    keep = ~torch.isnan(rewards)
    index = torch.arange(64).unsqueeze(1).expand(-1, 6)[keep]
    flat = module(rewards[keep], groups[index], domains[index], prompt_ids=index)
    torch.testing.assert_close(flat, wanted[keep], rtol=1e-12, atol=1e-12)
    for prompt in (0, 7, 63):
        one = index == prompt
        found = module(rewards[keep][one], groups[index][one], domains[index][one], prompt_ids=index[one])
        torch.testing.assert_close(found, wanted[prompt][keep[prompt]], rtol=1e-12, atol=1e-12)


def test_a_prompt_that_comes_alone_weighs_as_in_a_batch():
    module = FairGRPOAdvantage(2)
    for _ in range(160):
        module(HALF.unsqueeze(0), torch.tensor([0]))
    module(HARD.unsqueeze(0), torch.tensor([1]))
    module.eval()
    easy, hard = (module(r.unsqueeze(0), torch.tensor([g])) for r, g in ((HALF, 0), (HARD, 1)))
    together = module(torch.stack([HALF, HARD]), torch.tensor([0, 1]))
    torch.testing.assert_close(torch.cat([easy, hard]), together)
    assert float(hard.abs().max() / easy.abs().max()) == pytest.approx(10)  # the cap


def test_nothing_but_one_prompt_is_grpo_and_so_is_a_run_without_a_signal():
    module, eps = FairGRPOAdvantage(2, eps=1e-12), 1e-6
    for rewards in (torch.ones(1, 4), torch.zeros(1, 4)):
        assert (module(rewards, torch.tensor([1])) == 0).all()
        assert (module.last.weights == 1).all()
    plain = grpo_advantages(HARD.unsqueeze(0), eps=1e-12)
    torch.testing.assert_close(module.eval()(HARD.unsqueeze(0), torch.tensor([0])), plain)
    found = module.train()(HARD.unsqueeze(0), torch.tensor([0]))
    assert (module.last.weights == 1).all()
    torch.testing.assert_close(found, plain / plain.std(), rtol=eps, atol=eps)


def mixture(seed, prompts=2000, rollouts=8):
    """Three groups, 70, 25 and 5 % of the prompts, of different difficulty, with prompts that are always right or wrong."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.multinomial(torch.tensor([0.7, 0.25, 0.05]), prompts, replacement=True, generator=generator)
    easy = torch.tensor([0.8, 0.6, 0.4])[groups]
    rate = (easy + 0.3 * torch.randn(prompts, generator=generator)).clamp(0, 1)
    return (torch.rand(prompts, rollouts, generator=generator) < rate.unsqueeze(1)).double(), groups


@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(20), marks=pytest.mark.slow)], ids=len)
def test_over_batches_of_one_prompt_weights_average_one_and_end_as_those_of_one_batch(seeds):
    averages = []
    for seed in seeds:
        rewards, groups = mixture(seed)
        informative = (rewards != rewards[:, :1]).any(1)
        module, given = FairGRPOAdvantage(3), []
        for prompt in range(len(rewards)):
            module(rewards[prompt : prompt + 1], groups[prompt : prompt + 1])
            given.append(float(module.last.weights))
        averages.append(float(torch.tensor(given)[informative].mean()))
        assert averages[-1] == pytest.approx(1, rel=0.1)
        together = FairGRPOAdvantage(3, history="batch")
        together(rewards, groups)
        torch.testing.assert_close(module.last.table[0, :3], together.last.table[0, :3], rtol=0.1, atol=0)
    if len(seeds) == 20:
        assert sum(averages) / 20 == pytest.approx(1, rel=0.02)


def test_weights_keep_their_mean_while_the_majority_saturates():
    generator = torch.Generator().manual_seed(0)
    module, given, advantages = FairGRPOAdvantage(2), [], []
    for step in range(6000):
        group = int(torch.rand((), generator=generator) < 0.1)
        rate = 0.3 if group else min(0.999, 0.4 + step / 4000)
        rewards = (torch.rand(1, 8, generator=generator) < rate).float()
        found = module(rewards, torch.tensor([group]))
        if (rewards != rewards[0, 0]).any():
            given.append(float(module.last.weights))
            advantages.append(float(found.abs().max()))
    averages = torch.tensor(given).unfold(0, 100, 100).mean(1)
    assert averages.min() > 0.7
    assert averages.max() < 1.5
    assert max(advantages) < 10 * 7 / 8**0.5


@pytest.mark.parametrize("max_ratio", [2.0, 10.0])
def test_no_advantage_of_the_first_batches_is_beyond_what_the_cap_allows(max_ratio):
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        module = FairGRPOAdvantage(3, max_ratio=max_ratio)
        for _ in range(12):
            rewards = (torch.rand(1, 8, generator=generator) < torch.rand(1, 1, generator=generator) ** 2).float()
            found = module(rewards, torch.randint(0, 3, (1,), generator=generator))
            table, held = module.last.table[0, :3], module.last.totals[3, 0, :3] > 0
            if not held.any():
                assert found.abs().max() == 0
                continue
            totals = module.last.totals[:, 0, :3]
            signal = (totals[3] * totals[0] / totals[6].clamp(min=1))[held]
            order = table[held].argsort()
            middle = table[held][order][(signal[order].cumsum(0) < signal.sum() / 2).sum()]
            assert table.max() <= max_ratio * middle * (1 + 1e-6)
            size = ((table[held].square() * signal).sum() / signal.sum()).sqrt()
            largest = grpo_advantages(rewards).abs().max()  # deviation 1 within a prompt
            assert found.abs().max() <= max_ratio * middle / size * largest * (8 / 7) ** 0.5


def test_one_prompt_is_named_where_the_batch_scales_itself():
    one, group = HALF.unsqueeze(0), torch.tensor([0])
    module = FairGRPOAdvantage(2, history="batch")
    with pytest.warns(UserWarning, match=r"rewards: expected two prompts or more.*history='cumulative'"):
        module(one, group)
    with pytest.warns(UserWarning, match="rewards: expected two prompts or more"):
        fair_grpo_advantages(one, group, num_groups=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(one, group)  # once
        FairGRPOAdvantage(2)(one, group)
        FairGRPOAdvantage(2, history="batch")(torch.stack([HALF, HALF]), torch.tensor([0, 0]))
        fair_grpo_advantages(one, group, num_groups=2, past=module.history.totals())


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 1, 6]])
def test_batches_of_any_size_in_training_against_the_loop(sizes, monkeypatch):
    rewards, groups, domains = unknown_groups(batch(4, q=12))
    module = FairGRPOAdvantage(4, num_domains=3)
    monkeypatch.setattr(weights, "RECENT", 3.0)  # so that a dozen prompts show it
    naive = oracle.Naive(recent=3.0)
    for r, g, d in zip(*(x.split(sizes) for x in (rewards, groups, domains)), strict=True):
        wanted, given = naive(rows(r), d.tolist(), g.tolist())
        found = module(r, g, d)
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(module.last.weights, torch.tensor(given, dtype=torch.float64), rtol=1e-9, atol=0)


def test_a_long_silence_leaves_no_large_divisor():
    module = FairGRPOAdvantage(2)
    module(torch.stack([HALF, HARD]), torch.tensor([0, 1]))
    module.eval()
    wanted = module(torch.stack([HALF, HARD]), torch.tensor([0, 1]))
    for silent in (300, 20_000):
        module.train()
        for _ in range(silent // 100):
            module(torch.ones(100, 4), torch.tensor([0, 1]).repeat(50))
        module.eval()
        found = module(torch.stack([HALF, HARD]), torch.tensor([0, 1]))
        assert torch.isfinite(found).all()
        assert 0.5 < float(found.abs().max() / wanted.abs().max()) < 2


def test_scores_from_elsewhere_are_weighted_and_scaled_by_the_run():
    rewards, groups, domains = batch(0)
    module, own = FairGRPOAdvantage(4, num_domains=3), FairGRPOAdvantage(4, num_domains=3)
    for seed in range(3):
        rewards, groups, domains = batch(seed)
        wanted = module(rewards, groups, domains)
        found, weights = own.weigh_scores(rewards, groups, domains, scores=7 * grpo_advantages(rewards))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(weights, module.last.weights)
    with pytest.raises(ValueError, match="scores: .*shape"):
        own.weigh_scores(rewards, groups, domains, scores=rewards[1:])
