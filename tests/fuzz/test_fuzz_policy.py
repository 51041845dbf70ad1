"""FairGRPO, the advantages it is compared with, and the clipped objective, on hostile batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fairloss import FairGRPOAdvantage, fair_grpo_advantages, fair_grpo_policy_loss, policy
from fairloss import functional as ff
from tests.fuzz.batches import EXAMPLE, Target, check, ids_like, same, state_of
from tests.fuzz.drawing import fuzz
from tests.oracles import policy as oracle

# Standard deviations of float32 rewards square them.
HUGE = 1e15


def rows(with_groups=True):
    def draw(generator, n, dtype):
        rewards = torch.rand(n, 4, generator=generator, dtype=torch.float64)
        rewards[torch.rand(n, 4, generator=generator) < 0.15] = math.nan
        out = {"rewards": (rewards * 64).round().div(64).to(dtype)}
        return {**out, "groups": torch.zeros(n, dtype=torch.int64)} if with_groups else out

    return draw


def flat(generator, n, dtype):
    rewards = torch.rand(n, generator=generator, dtype=torch.float64).to(dtype)
    ids = torch.randint(0, 3, (n,), generator=generator)
    return {"rewards": rewards, "groups": torch.zeros(n, dtype=torch.int64), "prompt_ids": ids}


def as_scores(rewards):
    return rewards.double() if isinstance(rewards, torch.Tensor) and not rewards.is_complex() else rewards


def lists(rewards):
    return [[None if math.isnan(r) else r for r in row] for row in rewards.tolist()]


def grpo_oracle(rewards, **_):
    return [oracle.scores(row) for row in lists(rewards)]


def fair_oracle(rewards, groups):
    return oracle.Naive(alone=True)(lists(rewards), [0] * len(rewards), groups.tolist())[0]


def rloo_oracle(rewards):
    out = []
    for row in lists(rewards):
        kept = [r for r in row if r is not None]
        out.append([0.0 if r is None or len(kept) < 2 else r - (sum(kept) - r) / (len(kept) - 1) for r in row])
    return out


def reinforce_oracle(rewards):
    kept = rewards[~np.isnan(rewards)]
    std = kept.std(ddof=1) if len(kept) > 1 else 0.0
    mean = kept.mean() if len(kept) else 0.0
    return np.where(np.isnan(rewards), 0.0, (rewards - mean) / (std + 1e-6))


def resampling_oracle(groups):
    counts = {g: int((groups == g).sum()) for g in set(groups.tolist()) - {-1}}
    return [1.0 if g < 0 else sum(counts.values()) / len(counts) / counts[g] for g in groups.tolist()]


# Whole rewards are rewards; NaN is "not scored"; infinity is refused.
REWARDS = {
    "bad": frozenset(("rewards", how) for how in ("integers", "bool")),
    "must": frozenset(("rewards", how) for how in ("inf", "-inf")),
    "floats": ("rewards",),
    "gradients": (),
    "huge": HUGE,
    "shape": "rewards",
}
FLAT = {
    **REWARDS,
    "bad": REWARDS["bad"] | {("prompt_ids", how) for how in ("none", "past_end", "large", "below", "lowest")},
}
NO_GROUPS = {**REWARDS, "bad": REWARDS["bad"] | {("rewards", "longer")}}


def tokens(generator, n, dtype):
    logp, old, ref = (-3 * torch.rand(n, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    return {
        "logp": logp.to(dtype),
        "old_logp": old.to(dtype),
        "ref_logp": ref.to(dtype),
        "advantages": torch.randn(n, generator=generator, dtype=torch.float64).to(dtype),
        "mask": torch.randint(0, 2, (n, 3), generator=generator),
    }


def loss_oracle(logp, old_logp, ref_logp, advantages, mask):
    if not mask.any():
        return 0.0
    return oracle.policy_loss(logp, old_logp, advantages, mask, beta=0.3, ref=ref_logp)


WARM, WARM_DRO = FairGRPOAdvantage(3), policy.GroupDROAdvantage(3, step_size=0.5)
for _module in (WARM, WARM_DRO):
    _module(torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0]]), torch.tensor([0, 1, 2]))

FUNCTIONS = {
    "fair_grpo_advantages": Target(
        "fair_grpo_advantages", lambda **b: fair_grpo_advantages(**b, num_groups=3), rows(), fair_oracle, **REWARDS
    ),
    "grpo_advantages": Target("grpo_advantages", policy.grpo_advantages, rows(False), grpo_oracle, **NO_GROUPS),
    "rloo_advantages": Target("rloo_advantages", policy.rloo_advantages, rows(False), rloo_oracle, **NO_GROUPS),
    "reinforce_pp_advantages": Target(
        "reinforce_pp_advantages", policy.reinforce_pp_advantages, rows(False), reinforce_oracle, **NO_GROUPS
    ),
    "resampling_weights": Target(
        "resampling_weights",
        lambda groups: policy.resampling_weights(groups, num_groups=3),
        lambda generator, n, dtype: {"groups": torch.zeros(n, dtype=torch.int64)},
        resampling_oracle,
        (),
        bad=frozenset({("groups", "longer")}),
    ),
    "fair_grpo_policy_loss": Target(
        "fair_grpo_policy_loss",
        lambda **b: fair_grpo_policy_loss(**b, beta=0.3),
        tokens,
        loss_oracle,
        ("logp", "old_logp", "ref_logp", "advantages"),
        gradients=("logp",),
        huge=1e10,
        # On the first update there is no old policy; a mask is bools or numbers, advantages may be whole.
        bad=frozenset(
            {("old_logp", "none"), ("mask", "fractions"), ("advantages", "integers"), ("advantages", "bool")}
            | {("mask", how) for how in ("past_end", "large", "below", "lowest")}
        ),
    ),
    "k3_kl": Target(
        "k3_kl",
        policy.k3_kl,
        lambda generator, n, dtype: {k: v for k, v in tokens(generator, n, dtype).items() if k in ("logp", "ref_logp")},
        lambda logp, ref_logp: np.exp(ref_logp - logp) - (ref_logp - logp) - 1,
        ("logp", "ref_logp"),
        huge=1e10,
    ),
}
OTHERS = {
    "fair_grpo_advantages of flat rewards": Target(
        "flat", lambda **b: fair_grpo_advantages(**b, num_groups=3, validate=False), flat, None, **FLAT
    ),
    "grpo_advantages of flat rewards": Target(
        "flat",
        lambda rewards, groups, prompt_ids: policy.grpo_advantages(rewards, prompt_ids=prompt_ids),
        flat,
        None,
        **{**FLAT, "bad": FLAT["bad"] | {("groups", "*")}},
    ),
}
MODULES = {
    "fairloss.FairGRPOAdvantage": Target("FairGRPOAdvantage", WARM, rows(), None, module=WARM, **REWARDS),
    "fairloss.policy.FairGRPOAdvantage": Target(
        "FairGRPOAdvantage.weigh_scores",
        lambda rewards, groups: WARM.weigh_scores(rewards, groups, scores=as_scores(rewards))[1],
        rows(),
        None,
        module=WARM,
        **{**REWARDS, "shape": ""},
    ),
    "fairloss.policy.GroupDROAdvantage": Target(
        "GroupDROAdvantage", WARM_DRO, rows(), None, module=WARM_DRO, **REWARDS
    ),
}
TARGETS = {**FUNCTIONS, **OTHERS, **MODULES}


@pytest.mark.filterwarnings("ignore:rewards. expected two prompts or more")
@pytest.mark.parametrize("name", TARGETS)
@fuzz(
    *(f"fairloss.policy.{name}" for name in FUNCTIONS),
    *(f"fairloss.{name}" for name in ("fair_grpo_advantages", "fair_grpo_policy_loss")),
    *(f"fairloss.functional.{name}" for name in ("fair_grpo_advantages", "fair_grpo_policy_loss")),
    *MODULES,
    example=EXAMPLE,
)
def test_target(name, example):
    check(TARGETS[name], example)


def test_one_function_by_three_names():
    assert policy.fair_grpo_advantages is ff.fair_grpo_advantages is fair_grpo_advantages
    assert policy.fair_grpo_policy_loss is ff.fair_grpo_policy_loss is fair_grpo_policy_loss
    assert policy.FairGRPOAdvantage is FairGRPOAdvantage


@fuzz("fairloss.policy.RewardHistory", example=EXAMPLE)
def test_history(example):
    history = policy.RewardHistory(2, mode=("batch", "cumulative", "ema")[example.argument % 3], half_life=2)
    generator = torch.Generator().manual_seed(example.seed)
    good = torch.randint(0, 5, (7, 2, 3), generator=generator).double()
    history.advance(good, torch.tensor(0.25, dtype=torch.float64))
    before = state_of(history)["_extra_state"]
    expected = history.totals()
    for bad in (None, good.tolist(), good.long(), good[:2], good.to("meta")):
        with pytest.raises((ValueError, TypeError), match="batch"):
            history.advance(bad, torch.tensor(0.0, dtype=torch.float64))
    with pytest.raises((ValueError, TypeError), match="lowest"):
        history.advance(good, 0.0)
    assert same(state_of(history)["_extra_state"], before)
    spoilt = good.clone()
    spoilt[2, 0, example.n % 3] = math.inf if example.seed % 2 else math.nan
    history.advance(spoilt, torch.tensor(-math.inf, dtype=torch.float64))
    assert torch.isfinite(history.totals()).all()
    decayed = {"batch": 0.0, "cumulative": 1.0, "ema": 1.0}[history.mode]
    torch.testing.assert_close(history.totals(), decayed * expected)
    assert history.lowest in (0.25, math.inf)


@fuzz("fairloss.FairGRPOAdvantage", example=EXAMPLE, examples=0.1)
def test_discovery_takes_whatever_comes(example):
    module = FairGRPOAdvantage(2, num_domains=2, discover_groups="kmeans", num_clusters=2, reservoir_size=8)
    generator = torch.Generator().manual_seed(example.seed)
    for _ in range(2):
        rewards = rows(False)(generator, example.n, torch.float32)["rewards"]
        domains = ids_like("random", example.n, (2,), generator)
        found = module(rewards, torch.full((example.n,), -1), domains)
        assert found.shape == rewards.shape
        assert torch.isfinite(found).all()
