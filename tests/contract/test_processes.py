"""Gloo processes with uneven batches, a rank without some groups or without any: values and gradients of one process."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp

from tests.contract.rank_programs import COMPILED, batches, every_case, run_case, run_rank
from tests.two_processes import two_processes

STEPS = 3
BOUNDS = [0, 8, 11]
CASES = every_case()
# The third rank's two samples have no known group.
THREE, SILENT = [0, 6, 9, 11], 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    names = [case.name for case in CASES]
    mp.spawn(run_rank, args=(BOUNDS, str(folder), names, STEPS), nprocs=len(BOUNDS) - 1)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(len(BOUNDS) - 1)]


@pytest.mark.processes
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_two_processes_equal_one(case, ranks):
    expected = run_case(case, batches(case, BOUNDS[-1], STEPS), None, wrap=False)
    assert any(g.abs().sum() > 0 for g in expected["gradients"])
    for rank in ranks:
        for field in ("values", "gradients", "state"):
            torch.testing.assert_close(rank[case.name][field], expected[field], rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def three_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three_ranks")
    names = [case.name for case in CASES]
    mp.spawn(run_rank, args=(THREE, str(folder), names, STEPS, SILENT), nprocs=3)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(3)]


@pytest.mark.processes
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_three_processes_equal_one(case, three_ranks):
    expected = run_case(case, batches(case, THREE[-1], STEPS, SILENT), None, wrap=False)
    assert any(g.abs().sum() > 0 for g in expected["gradients"])
    for rank in three_ranks:
        for field in ("values", "gradients", "state"):
            torch.testing.assert_close(rank[case.name][field], expected[field], rtol=1e-12, atol=1e-12)


@pytest.mark.processes
@pytest.mark.parametrize("name", COMPILED)
def test_collectives_are_part_of_the_compiled_graph(name, ranks):
    for rank in ranks:
        for field in ("values", "gradients", "state"):
            torch.testing.assert_close(
                rank[f"compiled:{name}"][field], rank[f"eager:{name}"][field], rtol=1e-12, atol=1e-12
            )


def sharded(rank: int) -> list[float]:
    """Differences of loss and gradients between FSDP on two ranks and one process with the whole batch."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    import fairloss

    def network():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()

    def criterion(process_group):
        memory = fairloss.GroupMemory(3, capacity=16)
        return fairloss.FairCrossEntropyLoss(
            3, gap_weight=0.7, group_counts=[90, 6, 4], memory=memory, process_group=process_group
        )

    model, whole = network(), network()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    loss, alone = criterion(dist.group.WORLD), criterion(None)
    generator = torch.Generator().manual_seed(1)
    own = slice(BOUNDS[rank], BOUNDS[rank + 1])
    worst = []
    for _ in range(STEPS):
        x = torch.randn(BOUNDS[-1], 4, generator=generator, dtype=torch.float64)
        y, ids = (torch.randint(low, 3, (BOUNDS[-1],), generator=generator) for low in (0, -1))
        model.zero_grad()
        whole.zero_grad()
        value, expected = loss(model(x[own]), y[own], ids[own]), alone(whole(x), y, ids)
        value.backward()
        expected.backward()
        worst.append(abs(value.item() - expected.item()))
        for p, q in zip(model.parameters(), whole.parameters(), strict=True):
            worst.append((p.grad.full_tensor() - q.grad).abs().max().item())
            assert q.grad.abs().sum() > 0
    return worst


@pytest.mark.processes
def test_fully_sharded_model_equals_one_process(tmp_path):
    for worst in two_processes(sharded, tmp_path):
        assert max(worst) < 1e-12
