"""Two gloo processes, uneven batches, a rank without some groups: the same values and gradients as one process."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp

from tests.contract import all_cases
from tests.distributed_worker import COMPILED, batches, run_case, run_rank

STEPS = 3
BOUNDS = [0, 8, 11]
CASES = [case for case in all_cases() if case.distributed]


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


@pytest.mark.processes
@pytest.mark.parametrize("name", COMPILED)
def test_collectives_are_part_of_the_compiled_graph(name, ranks):
    for rank in ranks:
        for field in ("values", "gradients", "state"):
            torch.testing.assert_close(
                rank[f"compiled:{name}"][field], rank[f"eager:{name}"][field], rtol=1e-12, atol=1e-12
            )
