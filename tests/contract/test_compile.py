"""Every loss in one graph: torch.compile(fullgraph=True, dynamic=True)."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import fairloss
from tests.contract.case import all_cases, gradients
from tests.oracles import losses as oracles

CASES = all_cases()
INDUCTOR = ("max_acc_gap-smooth", "fair_cross_entropy-hybrid", "group_dro-default")
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler, none was found")


def check(case, backend):
    torch._dynamo.reset()
    plain, compiled = case.make(), torch.compile(case.make(), fullgraph=True, dynamic=True, backend=backend)
    # The second length makes the size dynamic; from then on nothing compiles again.
    for step, n in enumerate((9, 12, 7, 30)):
        if step == 2:
            torch._dynamo.config.error_on_recompile = True
        try:
            batch = case.draw(step, n)
            expected = plain(**batch)
            value = compiled(**batch)
        finally:
            torch._dynamo.config.error_on_recompile = False
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(
            gradients(value, batch, case), gradients(expected, batch, case), rtol=1e-9, atol=1e-11
        )


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_one_graph(case):
    if case.compile is not True:
        pytest.skip(str(case.compile))
    check(case, "aot_eager")


@needs_compiler
@pytest.mark.parametrize("case", [c for c in CASES if c.name in INDUCTOR], ids=lambda c: c.name)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_inductor(case):
    check(case, "inductor")


def test_one_graph_for_every_batch():
    """Boolean indexing breaks the graph of many losses; here absent groups and unknown samples need no branch."""
    loss = torch.compile(fairloss.LossVarianceLoss(3), fullgraph=True, backend="eager")
    for ids in ([0, 1, 2, -1], [-1, -1, -1, -1], [1, 1, 1, 1]):
        value = loss(torch.arange(4.0), torch.tensor(ids))
        assert value.item() == pytest.approx(oracles.loss_variance(np.arange(4.0), np.array(ids)))
