"""State that is saved but is no buffer: layouts, shapes that grow, dtypes."""

from __future__ import annotations

import pytest
import torch

import fairloss
from fairloss.core.state import StatefulModule
from fairloss.policy import FairGRPOAdvantage
from tests.contract.case import all_cases


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_state_is_float32_whatever_the_default_dtype(default):
    torch.set_default_dtype(default)
    try:
        memory, queue = fairloss.GroupMemory(3, capacity=8), fairloss.EmbeddingQueue(8, dim=4)
        discovery = FairGRPOAdvantage(2, discover_groups="kmeans")
        released = FairGRPOAdvantage(2, discover_groups="kmeans", variant="released")
    finally:
        torch.set_default_dtype(torch.float32)
    state = [memory.values, queue.embeddings, discovery.discovery.features, released.discovery.vectors]
    assert {t.dtype for t in state} == {torch.float32}


class Store(StatefulModule):
    def __init__(self) -> None:
        super().__init__()
        self.register_state("fixed", (2,), torch.float32)
        self.register_state("rows", (0, 3), torch.float32, growing=True)


def test_a_growing_state_takes_the_shape_that_was_saved():
    full, empty = Store(), Store()
    full.rows, full.fixed = torch.arange(6.0).reshape(2, 3), torch.tensor([1.0, 2.0])
    empty.load_state_dict(full.state_dict())
    assert torch.equal(empty.rows, full.rows)
    assert torch.equal(empty.fixed, full.fixed)
    wider = Store()
    wider.fixed = torch.zeros(3)
    with pytest.raises(ValueError, match="state_dict: .*layout.*fixed"):
        wider.load_state_dict(full.state_dict())
    assert wider.rows.shape == (0, 3)
    for broken in (torch.zeros(400, dtype=torch.float32), torch.zeros(3, dtype=torch.uint8)):
        with pytest.raises((TypeError, ValueError), match="state_dict"):
            wider.load_state_dict({"_extra_state": broken})
    # No header at all: every truncation, and numbers of tensors, dtypes, ranks and sizes that cannot be.
    whole = full.get_extra_state()
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="state_dict: .*layout"):
            empty.set_extra_state(whole[:size])
    for place, number in [
        (0, 3),
        (0, -1),
        (0, 2**62),
        (1, -1),
        (1, 99),
        (2, -2),
        (2, 2**62),
        (3, -2),
        (5, 1),
        (6, -1),
        (6, 3),
    ]:
        broken = whole.clone()
        broken[8 * place : 8 * place + 8] = torch.tensor([number]).view(torch.uint8)
        with pytest.raises(ValueError, match="state_dict: .*layout"):
            empty.set_extra_state(broken)
    assert torch.equal(empty.rows, full.rows)


def test_state_is_no_buffer():
    """A buffer inside a DDP-wrapped module is overwritten by rank 0 before every forward."""
    for case in all_cases():
        assert not list(case.make().buffers()), case.name
