"""``check_inputs`` finds what is wrong, names it, and passes what is well."""

from __future__ import annotations

import pytest
import torch

import fairloss


@pytest.mark.parametrize("target", [torch.tensor([[[9]]]), torch.tensor([[[-1]]]), torch.full((1, 2, 1, 1), 1.5)])
def test_check_inputs_knows_masks(target):
    logits = torch.zeros(1, 2, 1, 1)
    with pytest.raises(ValueError, match=r"target: .*(9|-1|1\.5)"):
        fairloss.check_inputs(logits, target)
    fairloss.check_inputs(logits, torch.ones(1, 1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="target: .*class ids"):
        fairloss.check_inputs(logits, torch.ones(1, 2, 2, dtype=torch.int64))


def test_soft_targets_are_checked_at_both_ends():
    logits = torch.randn(3, 2)
    fairloss.check_inputs(logits, torch.tensor([[0.0, 1.0], [0.25, 0.75], [1.0, 0.0]]), task="multilabel")
    for bad in (-0.5, 1.5):
        with pytest.raises(ValueError, match=r"target: .*(-0\.5|1\.5)"):
            fairloss.check_inputs(logits, torch.tensor([[0.0, bad], [0.25, 0.75], [1.0, 0.0]]), task="multilabel")


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"input": torch.tensor([1.0, float("nan")])}, "input: .*nan"),
        ({"values": torch.tensor([float("inf")])}, "values: .*inf"),
        ({"values": torch.tensor(1.0)}, r"values: .*shape \(N,\)"),
        ({"values": torch.ones(2, 3)}, r"values: .*shape \(N,\)"),
        ({"input": torch.tensor(1.0), "groups": torch.tensor([0]), "num_groups": 2}, "input: .*shape"),
        ({"groups": torch.tensor([0, -2]), "num_groups": 2}, "groups: .*-2"),
        ({"groups": torch.tensor([[0, 5]]), "num_groups": (2, 3)}, r"groups\[:, 1\]: .*5"),
        ({"groups": torch.tensor([0.0]), "num_groups": 2}, "groups"),
        ({"groups": torch.tensor([0])}, "num_groups"),
        ({"target": torch.tensor([0])}, "target"),
        ({"input": torch.zeros(2, 3), "target": torch.tensor([0, 3])}, "target: .*3"),
        ({"input": torch.zeros(2), "target": torch.tensor([0.5, 1])}, "target: .*0.5"),
        (
            {"input": torch.zeros(2, 3), "target": torch.tensor([0, 1]), "groups": torch.tensor([0]), "num_groups": 1},
            "one batch size",
        ),
    ],
)
def test_check_inputs_finds_it(kwargs, named):
    with pytest.raises((ValueError, TypeError), match=named):
        fairloss.check_inputs(**kwargs)


def test_check_inputs_passes_what_is_well():
    fairloss.check_inputs(
        torch.randn(3, 4), torch.tensor([0, -100, 3]), torch.tensor([0, -1, 1]), num_groups=2, values=torch.rand(3)
    )
