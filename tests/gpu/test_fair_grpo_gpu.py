"""FairGRPO's advantages on a GPU: validation waits once, nothing else waits, and the CPU gives the same."""

from __future__ import annotations

import warnings

import pytest
import torch

from benchmarks.gpu_measure import SMALL
from fairloss import fair_grpo_advantages
from tests.gpu.waits import waits
from tests.policy.rollouts import batch

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("shift", [0.0, 0.5, "min", "auto"])
@pytest.mark.parametrize("flat", [False, True])
def test_validation_waits_once(flat, shift):
    rewards, groups, domains = (t.cuda() for t in batch())
    arguments = (rewards, groups, domains)
    sizes = {"num_groups": 4, "num_domains": 3, "reward_shift": shift}
    if flat:
        ids = torch.arange(40, device="cuda").repeat_interleave(6)
        arguments, sizes["prompt_ids"] = (rewards.reshape(-1), groups[ids], domains[ids]), ids
    fair_grpo_advantages(*arguments, **sizes)
    with warnings.catch_warnings(record=True) as caught, waits("warn"):
        warnings.simplefilter("always")
        fair_grpo_advantages(*arguments, **sizes)
    assert SMALL or len([w for w in caught if "synchronizing" in str(w.message)]) == 1


def test_nothing_waits_and_the_result_is_the_same():
    data = batch()
    sizes = {"num_groups": 4, "num_domains": 3, "validate": False}
    moved = [t.cuda() for t in data]
    fair_grpo_advantages(*moved, **sizes)
    with waits("error"):
        found = fair_grpo_advantages(*moved, **sizes)
    torch.testing.assert_close(found.cpu(), fair_grpo_advantages(*data, **sizes), rtol=1e-12, atol=1e-12)
