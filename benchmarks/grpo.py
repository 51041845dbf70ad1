"""GRPO and FairGRPO advantages against the normalisation in TRL's trainer, and against a row-by-row rendering of FairGRPO.

TRL computes its advantages in the middle of a long method of its trainer, between generation and logging. The statements that
do so are taken from the installed trainer's source and executed as they stand, on given rewards.
"""

from __future__ import annotations

import ast
import inspect
import math
import statistics
import textwrap
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from benchmarks.compare import Case, Comparison
from fairloss import FairGRPOAdvantage
from fairloss.policy import grpo_advantages

PACKAGES = ("trl", "transformers")
ROLLOUTS, EPS = 8, 1e-4
PROMPTS, DOMAINS, GROUPS = 512, 5, 7
STEPS, COMPARED_AT = 200, 20


def trl_advantages(num_generations: int) -> Callable[[Tensor], Tensor]:
    """(B, 1) rewards -> (B,) advantages, by the statements of TRL's ``_generate_and_score_completions``.

    Those are: the mask of unscorable rows, the branch on how several rewards are joined, and the rows set to 0.
    """
    from trl.trainer import grpo_trainer

    source = textwrap.dedent(inspect.getsource(grpo_trainer.GRPOTrainer._generate_and_score_completions))
    method = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))

    def assigns(node: ast.stmt, name: str, reads: str) -> bool:
        return (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", None) == name
            and reads in ast.unparse(node.value)
        )

    wanted = (
        lambda node: assigns(node, "unscorable_mask", "isnan"),
        lambda node: isinstance(node, ast.If) and "multi_objective_aggregation" in ast.unparse(node.test),
        lambda node: assigns(node, "advantages", "nan_to_num"),
    )
    lines = [node for is_it in wanted for node in method.body if is_it(node)]
    if len(lines) != len(wanted):
        raise RuntimeError(
            f"TRL's trainer computes its advantages elsewhere than expected: {len(lines)} of 3 lines found"
        )
    arguments = "def advantages_of(self, rewards_per_func, num_generations, device): pass"
    function = ast.parse(arguments).body[0]
    function.body = [*lines, ast.Return(ast.Name("advantages", ast.Load()))]
    module = ast.fix_missing_locations(ast.Module([function], []))
    names = dict(vars(grpo_trainer))
    exec(compile(module, grpo_trainer.__file__, "exec"), names)
    trainer = SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize",
        scale_rewards="group",
        reward_weights=torch.ones(1),
        reward_funcs=[None],
    )
    return lambda rewards: names["advantages_of"](trainer, rewards, num_generations, rewards.device)


def batch(
    step: int, prompts: int = PROMPTS, rollouts: int = 10, num_groups: int = GROUPS, num_domains: int = DOMAINS
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    groups = torch.randint(0, num_groups, (prompts,), generator=generator)
    domains = torch.randint(0, num_domains, (prompts,), generator=generator)
    rate = 0.2 + 0.6 * groups / num_groups
    rewards = (torch.rand(prompts, rollouts, generator=generator) < rate.unsqueeze(1)).float()
    return rewards, groups, domains


def build(Q: int, G: int) -> Case:
    rewards, groups, _ = batch(0, Q, ROLLOUTS, G)
    column = rewards.reshape(-1, 1)
    trl, fair = trl_advantages(ROLLOUTS), FairGRPOAdvantage(G)
    plain = FairGRPOAdvantage(G, size_power=0.0, reward_power=0.0, batch_normalize=False, eps=EPS)

    def ours() -> Tensor:
        return grpo_advantages(rewards, eps=EPS)

    # Without weights FairGRPO is GRPO: both are held against TRL's.
    checked = torch.cat
    return Case(
        {
            "grpo_advantages": ours,
            "FairGRPOAdvantage": lambda: fair(rewards, groups),
            "TRL": lambda: trl(column),
        },
        {
            "TRL": (
                lambda: checked([ours().flatten(), plain(rewards, groups).flatten()]),
                lambda: trl(column).repeat(2),
                1e-5,
            )
        },
    )


def comparisons(quick: bool) -> list[Comparison]:
    qs, gs = ([16, 64, 256], []) if quick else ([64, 512, 4096, 32_768], [2, 64, 512])
    return [
        Comparison(
            title="GRPO and FairGRPO advantages",
            ours=("grpo_advantages", "FairGRPOAdvantage"),
            rivals={
                "TRL": "the statements of the installed `GRPOTrainer` that turn rewards into advantages, executed as they "
                "stand: the same as `grpo_advantages`, and as `FairGRPOAdvantage` without its weights (both checked); the "
                "weights by group and the history are what `FairGRPOAdvantage` adds"
            },
            sizes=[{"Q": q, "G": 8} for q in qs] + [{"Q": 4096, "G": g} for g in gs],
            build=build,
            along=("Q", "G"),
            note=f"Q prompts of {ROLLOUTS} rollouts; one domain, cumulative history.",
        )
    ]


class RowByRow:
    """The method as a reader of the paper would first write it: every row gathers its domain's and its group's history anew."""

    def __init__(self) -> None:
        self.history = {}

    def remember(self, rewards: Tensor, groups: Tensor, domains: Tensor) -> None:
        for row, group, domain in zip(rewards.tolist(), groups.tolist(), domains.tolist(), strict=True):
            self.history.setdefault(domain, {}).setdefault(group, []).append(row)

    def __call__(self, rewards: Tensor, groups: Tensor, domains: Tensor, eps: float = 1e-6) -> np.ndarray:
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
        found = np.array(scores).reshape(rewards.shape)
        return found / (found.std(ddof=1) + eps)


def seconds(function: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    out = function()
    return time.perf_counter() - start, out


def flatness(steps: int, rounds: int, **options: object) -> dict[str, float]:
    """Time of each step, in the median of several runs, and the medians of the first and the last quarter."""
    runs = []
    for _ in range(rounds):
        module = FairGRPOAdvantage(GROUPS, num_domains=DOMAINS, **options)
        batches = [batch(step) for step in range(steps)]
        runs.append([seconds(partial(module, *data))[0] for data in batches])
    each = [statistics.median(times) for times in zip(*runs, strict=True)]
    return {
        "median_ms": 1e3 * statistics.median(each),
        "slowest_of_steps_ms": 1e3 * max(each),
        "first_quarter_ms": 1e3 * statistics.median(each[: steps // 4]),
        "last_quarter_ms": 1e3 * statistics.median(each[-(steps // 4) :]),
        "state_bytes": sum(value.numel() for value in module.state_dict().values()),
    }


def against_rows(step: int) -> dict[str, float]:
    """One step after others, both in the released variant, whose result must be the same."""
    naive, module = RowByRow(), FairGRPOAdvantage(GROUPS, num_domains=DOMAINS, variant="released")
    for earlier in range(step - 1):
        naive.remember(*batch(earlier))
        module.update(*batch(earlier))
    data = batch(step - 1)
    ours, found = [], None
    state = {name: value.clone() for name, value in module.state_dict().items()}
    for _ in range(20):
        module.load_state_dict(state)
        elapsed, found = seconds(lambda: module(*data))
        ours.append(elapsed)
    theirs, expected = seconds(lambda: naive(*data))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
    return {
        "step": step,
        "row_by_row_ms": 1e3 * theirs,
        "fairloss_ms": 1e3 * statistics.median(ours),
        "times_faster": theirs / statistics.median(ours),
        "largest_difference": float(np.abs(found.numpy() - expected).max()),
    }


def extras(quick: bool) -> dict[str, object]:
    steps, rounds = (8, 1) if quick else (STEPS, 3)
    return {
        "prompts": PROMPTS,
        "rollouts": 10,
        "domains": DOMAINS,
        "groups": GROUPS,
        "steps": steps,
        "cumulative": flatness(steps, rounds),
        "ema": flatness(steps, rounds, history="ema"),
        "row_by_row": against_rows(2 if quick else COMPARED_AT),
    }
