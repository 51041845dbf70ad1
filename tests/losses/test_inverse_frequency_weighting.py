"""Weights of inverse frequency by hand."""

from __future__ import annotations

import pytest
import torch

import fairloss
from fairloss import functional as ff


def test_a_count_of_minus_zero():
    assert ff.inverse_frequency_weights([1, -0.0]).tolist() == ff.inverse_frequency_weights([1, 0]).tolist()


def test_weights_of_inverse_frequency():
    w = ff.inverse_frequency_weights([903, 43, 54], mean_one=False).tolist()
    assert w == pytest.approx([1000 / 903, 10, 10])
    w = ff.inverse_frequency_weights([903, 43, 54])
    assert (w * torch.tensor([0.903, 0.043, 0.054])).sum().item() == pytest.approx(1)
    assert ff.inverse_frequency_weights([5, 0], max_weight=4.0, mean_one=False).tolist() == [1, 4]


def test_unknown_samples_keep_weight_one():
    loss = fairloss.InverseFrequencyWeighting([90, 10])
    assert loss(torch.tensor([2.0, 4.0]), torch.tensor([-1, -1])).item() == 3
