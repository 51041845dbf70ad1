"""What a rank runs in the multi-process tests: every contract case on its share of the batch, under DDP."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import fairloss
from fairloss.core.state import StatefulModule
from tests.contract.case import Batch, Case, all_cases

# Losses that exchange sums trace whole with their collectives; those that gather rows of unequal number do not.
COMPILED = ("fair_cross_entropy-hybrid", "group_dro-default", "loss_variance", "equalized_odds-binary")


class Affine(nn.Module):
    """Elementwise scale and shift of the loss's first argument: the smallest model whose gradients can be compared."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, max(1, shape.numel()), dtype=torch.float64).reshape(shape))
        self.shift = nn.Parameter(torch.full(shape, 0.1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def _concepts(generator: torch.Generator, n: int, dtype: torch.dtype) -> Batch:
    return {
        "embeddings": torch.randn(n, 5, generator=generator).to(dtype),
        "concepts": torch.randn(4, 5, generator=generator).to(dtype),
        "target": torch.randint(0, 4, (n,), generator=generator),
    }


def extra_cases() -> list[Case]:
    """What gathers or reduces over processes, and is no contract case."""
    return [
        Case(
            "concept_alignment",
            lambda num_groups=3, process_group=None: fairloss.ConceptAlignmentLoss(
                temperature=0.5, process_group=process_group
            ),
            _concepts,
            None,
            differentiable=("embeddings",),
        ),
    ]


def every_case() -> list[Case]:
    """The contract's cases that run in several processes, and the extra ones."""
    return [case for case in all_cases() if case.distributed] + extra_cases()


def share(batch: Batch, start: int, stop: int, n: int) -> Batch:
    return {k: v[start:stop] if v.ndim and v.shape[0] == n else v for k, v in batch.items()}


def batches(case: Case, n: int, steps: int, silent: int = 0) -> list[Batch]:
    """The whole batches of a few steps; in the last one the second rank's part lacks group 0 and the known group 2.

    The last ``silent`` samples have no known group in any step.
    """
    out = []
    for step in range(steps):
        batch = case.draw(100 + step, n, grad=False)
        if silent and "groups" in batch:
            batch["groups"][n - silent :] = -1
        elif step == steps - 1 and "groups" in batch:
            tail = batch["groups"][n - 3 :]
            batch["groups"][n - 3 :] = torch.where(tail != 1, -1, tail)
        out.append(batch)
    return out


def run_case(
    case: Case, parts: list[Batch], process_group, wrap: bool, compiled: bool = False
) -> dict[str, list[Tensor]]:
    """Values, parameter gradients and final state of a module over consecutive batches."""
    first = case.differentiable[0]
    model = Affine(parts[0][first].shape[1:])
    if wrap:
        model = DistributedDataParallel(model, process_group=process_group)
    loss = case.make(process_group=process_group).double()  # parameters of a loss, such as a head's, in float64 as well
    parameters = [*model.parameters(), *loss.parameters()]
    if wrap and list(loss.parameters()):
        loss_module = DistributedDataParallel(loss, process_group=process_group)
    else:
        loss_module = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager") if compiled else loss
    record: dict[str, list[Tensor]] = {"values": [], "gradients": [], "state": []}
    for part in parts:
        for p in parameters:
            p.grad = None
        value = loss_module(**{**part, first: model(part[first])})
        value.backward()
        record["values"].append(value.detach())
        record["gradients"] += [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    # The tensors behind the packed state: their floats may differ in the last bit, by the order of the sums.
    stateful = [m for m in loss.modules() if isinstance(m, StatefulModule)]
    record["state"] = [getattr(m, name).clone() for m in stateful for name in m._state_names]
    return record


def run_rank(rank: int, bounds: list[int], folder: str, names: list[str], steps: int, silent: int = 0) -> None:
    torch.set_num_threads(1)
    world = len(bounds) - 1
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    n = bounds[-1]
    results = {}
    for case in every_case():
        if case.name in names:
            parts = [share(b, bounds[rank], bounds[rank + 1], n) for b in batches(case, n, steps, silent)]
            results[case.name] = run_case(case, parts, dist.group.WORLD, wrap=True)
            if case.name in COMPILED and not silent:
                results[f"compiled:{case.name}"] = run_case(case, parts, dist.group.WORLD, wrap=False, compiled=True)
                results[f"eager:{case.name}"] = run_case(case, parts, dist.group.WORLD, wrap=False)
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()
