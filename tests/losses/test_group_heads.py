"""Group heads and routing: dtypes, shapes, a loop of linear layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fairloss
from fairloss import GroupHeads
from fairloss import functional as ff
from tests.oracles import fairdi as oracles


def test_heads_have_the_dtype_of_linear_under_autocast():
    features, heads = torch.randn(3, 4), fairloss.GroupHeads(3, in_features=4, num_classes=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert heads(features).dtype == nn.Linear(4, 2)(features).dtype == torch.bfloat16


def test_heads_take_rows_of_their_own_dtype():
    heads = fairloss.GroupHeads(2, in_features=2, num_classes=3)
    with pytest.raises(TypeError, match="features: .*float32"):
        heads(torch.zeros(4, 2, dtype=torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert heads(torch.zeros(4, 2, dtype=torch.bfloat16)).shape == (2, 4, 3)
    with pytest.raises(TypeError, match="per_group"):
        ff.route_by_group(torch.zeros(2, 3, 1, dtype=torch.int64), torch.tensor([0, 1, -1]))


@pytest.mark.parametrize("spatial", [(), (5,), (3, 4)])
def test_group_heads_equal_a_loop_of_linear_layers(spatial):
    heads = GroupHeads(3, in_features=6, num_classes=4).double()
    features = torch.randn(5, 6, *spatial, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([2, 0, -1, 1, 2])
    flat = features.movedim(1, -1)
    expected = torch.stack(
        [nn.functional.linear(flat, heads.weight[g], heads.bias[g]).movedim(-1, 1) for g in range(3)]
    )
    torch.testing.assert_close(heads(features), expected)
    routed = heads(features, groups)
    np.testing.assert_allclose(
        routed.detach().numpy(), oracles.route(expected.detach().numpy(), groups.tolist()), rtol=1e-12, atol=1e-14
    )
    routed[groups == 2].square().sum().backward()
    assert heads.weight.grad[2].abs().sum() > 0
    assert not heads.weight.grad[:2].any()


def test_group_heads_start_like_linear_layers_and_count_their_parameters():
    heads = GroupHeads(2, in_features=100, num_classes=7)
    assert sum(p.numel() for p in heads.parameters()) == 2 * 7 * 101
    linear = nn.Linear(100, 7 * 2)
    assert heads.weight.abs().max() <= 0.1
    assert heads.weight.std().item() == pytest.approx(linear.weight.std().item(), rel=0.1)
    assert GroupHeads(2, in_features=100, num_classes=7, bias=False).bias is None
    with pytest.raises(ValueError, match=r"features: .*\(N, 100, \.\.\.\)"):
        heads(torch.zeros(3, 99))
    with pytest.raises(ValueError, match=r"groups.*\b2\b"):
        heads(torch.zeros(3, 100), torch.tensor([0, 1, 2]))
