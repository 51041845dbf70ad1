"""The table of ``docs/hostile-batches.md``: each line has a test, and neighbouring libraries still do what it says.

A test of a neighbour that fails may mean that it has been mended: then the table is to be changed, not the test silenced.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs" / "hostile-batches.md"


def test_each_line_of_the_table_has_one_test():
    lines = [line for line in DOCS.read_text("utf-8").splitlines() if re.match(r"\| (?!Batch \|)", line)]
    named = [re.findall(r"`(test_\w+)`", line)[-1] for line in lines]
    assert len(named) > 50
    there = [
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text("utf-8"), re.M)
    ]
    assert {name: there.count(name) for name in named} == dict.fromkeys(named, 1)


@pytest.mark.frameworks
def test_fairret_penalises_an_absent_group():
    fairret = pytest.importorskip("fairret")
    from fairret.loss import NormLoss
    from fairret.statistic import PositiveRate

    assert fairret
    logits = torch.tensor([[0.3], [-0.2], [0.3], [-0.2]], requires_grad=True)
    two = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    loss = NormLoss(PositiveRate())
    assert loss(logits, two).item() == pytest.approx(0, abs=1e-6)
    three = torch.cat([two, torch.zeros(4, 1)], 1)
    value = loss(logits, three)
    assert value.item() == pytest.approx(1.0, abs=1e-6)
    assert torch.autograd.grad(value, logits)[0].abs().max() < 1e-6


@pytest.mark.frameworks
def test_fairlearn_reads_an_undefined_rate_as_zero():
    fairlearn = pytest.importorskip("fairlearn.metrics")
    y, p, g = [1, 1, 0, 0], [1, 1, 0, 0], ["F", "F", "M", "M"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fairlearn.equalized_odds_difference(y, p, sensitive_features=g) == 1.0


@pytest.mark.frameworks
def test_torchmetrics_renumbers_groups():
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    metric = torchmetrics.BinaryGroupStatRates(num_groups=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = metric(torch.tensor([0.9, 0.1]), torch.tensor([1, 0]), torch.tensor([2, 2]))
    # Two samples of group 2 and none of group 0.
    assert set(found) != {"group_2"}
    assert "group_0" in found


@pytest.mark.frameworks
def test_pml_averages_dead_anchors_to_zero_and_forgets_its_place():
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.losses import ContrastiveLoss, CrossBatchMemory, SupConLoss

    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert SupConLoss()(z, torch.arange(4)).item() == 0
    memory = CrossBatchMemory(ContrastiveLoss(), embedding_size=8, memory_size=6)
    memory(z, torch.arange(4))
    assert memory.queue_idx == 4
    other = CrossBatchMemory(ContrastiveLoss(), embedding_size=8, memory_size=6)
    other.load_state_dict(memory.state_dict())
    assert other.queue_idx == 0
    before = memory.queue_idx
    memory.eval()
    memory(z[:1], torch.arange(1))
    assert memory.queue_idx != before
    with pytest.raises(AssertionError):
        memory(torch.randn(7, 8), torch.arange(7))


@pytest.mark.frameworks
def test_the_mean_of_an_empty_group_is_nan():
    """What the first line of many a fairness loss computes."""
    values, groups = torch.tensor([0.5, 0.7]), np.array([0, 0])
    assert torch.isnan(values[torch.from_numpy(groups == 1)].mean())
