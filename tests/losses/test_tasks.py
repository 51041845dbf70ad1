"""How logits and labels are read as a task: tokens, labels, names of tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fairloss
from fairloss import functional as ff
from tests.oracles import losses as oracles

X = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
G = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("name", ["fair_cross_entropy", "max_acc_gap", "demographic_parity", "equalized_odds"])
@pytest.mark.parametrize("task", ["foo", np.array(["binary", "tokens"])])
def test_functions_check_the_task(name, task):
    for logits, target in ((X, Y), (X.reshape(2, 3, 3), Y.reshape(2, 3))):
        with pytest.raises(ValueError, match="task: "):
            getattr(ff, name)(logits, target, G[: len(logits)], num_groups=3, task=task)
    with pytest.raises(ValueError, match="task: "):
        ff.sample_likelihood(X, Y, task=task)


def test_tokens_with_a_summed_answer():
    logits, target = torch.randn(3, 4, 5, dtype=torch.float64), torch.randint(0, 5, (3, 4))
    target[0, 2:] = -100
    target[1] = -100
    for how in ("mean", "sum"):
        out = ff.sample_likelihood(logits, target, token_reduction=how)
        expected = oracles.likelihoods(logits.numpy(), target.numpy(), "tokens", how)
        assert out.valid.tolist() == [True, False, True]
        assert out.prob[[0, 2]].tolist() == pytest.approx([expected[0], expected[2]], rel=1e-12)


def test_answers_without_a_token_are_in_no_group():
    logits, target, groups = torch.randn(2, 0, 5, requires_grad=True), torch.zeros(2, 0).long(), torch.tensor([0, 1])
    assert not ff.sample_likelihood(logits, target).valid.any()
    for loss in (fairloss.MaxAccGapLoss(2), fairloss.FairCrossEntropyLoss(2, gap_weight=0.5)):
        value = loss(logits, target, groups)
        value.backward()
        assert value.item() == 0


def test_a_task_of_no_label_is_refused():
    with pytest.raises(ValueError, match="target: .*C >= 1"):
        ff.sample_likelihood(torch.randn(2, 0), torch.zeros(2, 0), task="multilabel")
