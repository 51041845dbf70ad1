"""Rows of length one: zeros, and entries whose squares leave float32."""

from __future__ import annotations

import pytest
import torch

import fairloss
from fairloss.losses.embeddings import unit_rows


def test_a_row_of_zeros_stays_zero():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit = unit_rows(rows)
    assert unit.tolist() == [[0.0, 0.0], [pytest.approx(0.6), pytest.approx(0.8)]]
    unit.sum().backward()
    assert rows.grad[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_rows_whose_squares_leave_float32(scale):
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    y, g = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 0, 1])
    for loss in (
        fairloss.CrossGroupContrastiveLoss(temperature=0.5, margin=-2.0),
        fairloss.MomentAlignmentLoss(2, num_classes=2, normalize=True),
    ):
        torch.testing.assert_close(loss(z * scale, y, g), loss(z, y, g), rtol=1e-5, atol=1e-7)
