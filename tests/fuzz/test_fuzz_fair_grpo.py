"""FairGRPO against the naive loop, and its promises, on whatever batches hypothesis thinks of."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairloss import FairGRPOAdvantage
from tests.oracles import policy as oracle

# In steps of 1/64: differences as small as eps are damped by it, as they should be.
REWARDS = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.integers(0, 640).map(lambda n: n / 64), st.none())


@st.composite
def batches(draw):
    """Ragged rows with missing rewards, groups and domains with unknown ones."""
    rows = draw(st.lists(st.lists(REWARDS, min_size=1, max_size=5), min_size=1, max_size=6))
    ids = st.integers(-1, 2)
    groups = draw(st.lists(ids, min_size=len(rows), max_size=len(rows)))
    domains = draw(st.lists(st.integers(-1, 1), min_size=len(rows), max_size=len(rows)))
    return rows, groups, domains


def padded(rows):
    out = torch.full((len(rows), max(map(len, rows))), torch.nan, dtype=torch.float64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor([torch.nan if r is None else r for r in row], dtype=torch.float64)
    return out


@pytest.mark.filterwarnings("ignore:rewards. expected two prompts or more")
@pytest.mark.parametrize("variant", ["default", "paper"])
@given(data=st.lists(batches(), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_against_the_naive_loop(variant, data):
    module, naive = FairGRPOAdvantage(3, num_domains=2, variant=variant), oracle.Naive(variant=variant)
    for rows, groups, domains in data:
        expected, _ = naive(rows, domains, groups)
        rewards = padded(rows)
        found = module(rewards, torch.tensor(groups), torch.tensor(domains))
        assert torch.isfinite(found).all()
        for i, row in enumerate(expected):
            wanted = torch.tensor(row, dtype=torch.float64)
            torch.testing.assert_close(found[i, : len(row)], wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore:rewards. expected two prompts or more")
@given(data=batches(), max_ratio=st.floats(1, 100), size_power=st.floats(0, 2), reward_power=st.floats(0, 2))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_promises(data, max_ratio, size_power, reward_power):
    rows, groups, domains = data
    options = {"max_ratio": max_ratio, "size_power": size_power, "reward_power": reward_power}
    module = FairGRPOAdvantage(3, num_domains=2, history="batch", **options)
    rewards = padded(rows)
    found = module(rewards, torch.tensor(groups), torch.tensor(domains))
    assert found.sum(1).abs().max() < 1e-6
    informative = (found != 0).any(1)
    if informative.any():
        scored = found[~torch.isnan(rewards)]
        assert scored.std().item() == pytest.approx(1, abs=1e-2)
        known = informative & torch.tensor([g >= 0 and d >= 0 for g, d in zip(groups, domains, strict=True)])
        if known.any():
            weights = module.last.weights[known]
            assert weights.max() <= max_ratio * weights.median() * (1 + 1e-9)
            assert weights.mean().item() == pytest.approx(1)
