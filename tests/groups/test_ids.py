"""Group ids: totals by group, intersections of attributes, unknown ids."""

from __future__ import annotations

import pytest
import torch

import fairloss
from fairloss import functional as ff
from fairloss import metrics
from tests.oracles import losses as oracles

G = torch.tensor([0, 1, 2, 0, 1, 2])


def test_several_attributes_are_pointed_to_intersect_groups():
    two, values = torch.stack([G, G], 1), torch.rand(6)
    for loss in (
        fairloss.InverseFrequencyWeighting([1, 2, 3]),
        fairloss.GroupDROLoss(3),
        fairloss.FISLoss(3),
        fairloss.LossVarianceLoss(3),
    ):
        with pytest.raises(ValueError, match=r"groups: .*intersect_groups"):
            loss(values, two)


def test_a_group_keeps_its_number():
    """torchmetrics counted a batch with group 2 alone as group 0, and ids -1 and 0 as 0 and 1."""
    from fairloss.groups.ids import GroupIds

    ids = torch.tensor([[2], [2], [-1]])
    assert GroupIds(ids, (3,)).sum(torch.ones(3)).tolist() == [0, 0, 2]
    found = metrics.group_metric("accuracy", [1, 1, 0], [1, 0, 0], [2, 2, -1])
    assert found.labels == (2,)
    assert found.counts.tolist() == [2]


def test_missing_and_several_attributes():
    ids, count = fairloss.intersect_groups(torch.tensor([[0, 1], [1, 2], [1, -1]]), num_groups=(2, 3))
    assert ids.tolist() == [1, 5, -1]
    assert count == 6
    values, groups = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([[0, 0], [1, -1], [-1, 1]])
    expected = oracles.group_gap(values.numpy(), groups.numpy())
    assert ff.group_gap(values, groups, num_groups=(2, 2)).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="intersect_groups"):
        fairloss.DistributionAlignmentLoss((2, 2))


def test_intersections():
    groups = torch.tensor([[0, 0, 1], [1, 2, 0], [1, -1, 0]])
    ids, count = fairloss.intersect_groups(groups, num_groups=(2, 3, 2))
    assert count == 12
    assert ids.tolist() == [1, 10, -1]
    with pytest.raises(ValueError, match="groups"):
        fairloss.intersect_groups(groups[:, 0], num_groups=(2, 3, 2))
    with pytest.raises(ValueError, match="groups: .*list"):
        fairloss.intersect_groups([[0, 1]], num_groups=(2, 2))
