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


@pytest.mark.parametrize("options", [{}, {"normalize": "batch"}, {"variant": "paper"}])
@pytest.mark.parametrize("reduction", ["mean", "sum", "max"])
def test_several_attributes_have_weights_each(options, reduction, generator):
    values = torch.rand(9, generator=generator, dtype=torch.float64)
    groups = torch.stack([torch.randint(-1, g, (9,), generator=generator) for g in (3, 2)], 1)
    counts = ([80, 12, 8], [60, 40])
    loss = fairloss.InverseFrequencyWeighting(counts, attribute_reduction=reduction, **options)
    each = [
        ff.inverse_frequency_weighting(values, ids, group_counts=c, **options)
        for ids, c in zip(groups.T, counts, strict=True)
    ]
    torch.testing.assert_close(
        loss(values, groups), getattr(torch.stack(each), {"max": "amax"}.get(reduction, reduction))()
    )


@pytest.mark.parametrize("options", [{}, {"normalize": "batch"}, {"variant": "paper"}])
def test_reports_its_parts(options):
    values, groups = torch.tensor([1.0, 2.0, 6.0, 3.0], requires_grad=True), torch.tensor([0, 0, 1, -1])
    loss = fairloss.InverseFrequencyWeighting([80, 20], **options)
    parts = loss(values, groups, return_parts=True)
    assert parts.loss == loss(values, groups)
    assert parts.task.item() == 3
    assert parts.means.tolist() == [1.5, 6]
    assert parts.counts.tolist() == [2, 1]
    assert parts.weights.tolist() == pytest.approx(loss.weights.tolist())
    assert not any(part.requires_grad for part in parts[1:])
