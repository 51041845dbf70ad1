"""FairGRPO advantages for 512 prompts of 10 rollouts, 5 domains x 7 groups: time a step, and against a row-by-row rendering.

python benchmarks/grpo.py

Two questions: does a step of the module stay under 10 ms and flat over 200 steps, history included; and how does it compare
with the straightforward program that keeps every reward in lists and collects the history anew for every row, at step 20?
That program is the method as a reader of the paper would first write it down; its output is checked against the module's.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.harness import save
from fairloss import FairGRPOAdvantage

PROMPTS, ROLLOUTS, DOMAINS, GROUPS = 512, 10, 5, 7
STEPS, COMPARED_AT, ROUNDS = 200, 20, 5


def batch(step):
    generator = torch.Generator().manual_seed(step)
    groups = torch.randint(0, GROUPS, (PROMPTS,), generator=generator)
    domains = torch.randint(0, DOMAINS, (PROMPTS,), generator=generator)
    rate = 0.2 + 0.6 * groups / GROUPS
    rewards = (torch.rand(PROMPTS, ROLLOUTS, generator=generator) < rate.unsqueeze(1)).float()
    return rewards, groups, domains


class RowByRow:
    """Every reward ever seen, in lists; every row of a batch gathers its domain's and its group's anew."""

    def __init__(self):
        self.history = {}

    def remember(self, rewards, groups, domains):
        for row, group, domain in zip(rewards.tolist(), groups.tolist(), domains.tolist(), strict=True):
            self.history.setdefault(domain, {}).setdefault(group, []).append(row)

    def __call__(self, rewards, groups, domains, eps=1e-6):
        self.remember(rewards, groups, domains)
        scores = []
        for row, group, domain in zip(rewards.tolist(), groups.tolist(), domains.tolist(), strict=True):
            mean, std = np.mean(row), np.std(row, ddof=1)
            for reward in row:
                in_domain = [r for rows in self.history[domain].values() for kept in rows for r in kept]
                in_group = [r for kept in self.history[domain][group] for r in kept]
                prompts = sum(len(rows) for rows in self.history[domain].values())
                t_domain = max(math.sqrt(prompts) * np.mean(in_domain), eps)
                t_group = math.sqrt(len(self.history[domain][group])) * np.mean(in_group)
                scores.append((reward - mean) / (std + eps) / (t_domain * t_group))
        scores = np.array(scores).reshape(rewards.shape)
        return scores / (scores.std(ddof=1) + eps)


def seconds(function):
    start = time.perf_counter()
    out = function()
    return time.perf_counter() - start, out


def flatness(**options):
    """Time of each of 200 steps, in the median of several runs, and the medians of the first and last 50."""
    runs = []
    for _ in range(ROUNDS):
        module = FairGRPOAdvantage(GROUPS, DOMAINS, **options)
        batches = [batch(step) for step in range(STEPS)]
        runs.append([seconds(partial(module, *data))[0] for data in batches])
    steps = [statistics.median(times) for times in zip(*runs, strict=True)]
    return {
        "median_ms": 1e3 * statistics.median(steps),
        "slowest_of_steps_ms": 1e3 * max(steps),
        "first_50_ms": 1e3 * statistics.median(steps[:50]),
        "last_50_ms": 1e3 * statistics.median(steps[-50:]),
        "state_bytes": sum(value.numel() for value in module.state_dict().values()),
    }


def against_rows():
    """One step at step 20, both in the released variant, whose result must be the same."""
    naive, module = RowByRow(), FairGRPOAdvantage(GROUPS, DOMAINS, variant="released")
    for step in range(COMPARED_AT - 1):
        naive.remember(*batch(step))
        module.update(*batch(step))
    data = batch(COMPARED_AT - 1)
    ours, found = [], None
    state = {name: value.clone() for name, value in module.state_dict().items()}
    for _ in range(20):
        module.load_state_dict(state)
        elapsed, found = seconds(lambda: module(*data))
        ours.append(elapsed)
    theirs, expected = seconds(lambda: naive(*data))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    return {
        "step": COMPARED_AT,
        "row_by_row_ms": 1e3 * theirs,
        "fairloss_ms": 1e3 * statistics.median(ours),
        "times_faster": theirs / statistics.median(ours),
        "largest_difference": float(np.abs(found.numpy() - expected).max()),
    }


def main():
    torch.set_num_threads(1)
    for _ in range(3):
        FairGRPOAdvantage(GROUPS, DOMAINS)(*batch(0))
    results = {
        "prompts": PROMPTS,
        "rollouts": ROLLOUTS,
        "domains": DOMAINS,
        "groups": GROUPS,
        "default": flatness(),
        "ema": flatness(history="ema"),
        "row_by_row": against_rows(),
    }
    for name in ("default", "ema"):
        r = results[name]
        print(
            f"{name}: {r['median_ms']:.2f} ms a step (first 50: {r['first_50_ms']:.2f}, last 50: {r['last_50_ms']:.2f}, "
            f"slowest {r['slowest_of_steps_ms']:.2f}), state {r['state_bytes']} bytes"
        )
    r = results["row_by_row"]
    print(f"row by row at step {r['step']}: {r['row_by_row_ms']:.0f} ms; fairloss {r['fairloss_ms']:.2f} ms")
    print(f"{r['times_faster']:.0f} times faster")
    print("written to", save("grpo", results))


if __name__ == "__main__":
    main()
