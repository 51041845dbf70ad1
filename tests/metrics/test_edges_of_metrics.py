"""Edges of the metrics and of the advantages that mutation testing showed to be free."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fairloss import metrics, policy
from fairloss.integrations._group_metrics import group_metrics


def test_a_disparity_of_a_negative_value_keeps_its_sign():
    assert metrics.performance_scaled_disparity(-0.8, [-0.9, -0.7], reduce="max") == pytest.approx(-0.25)
    assert np.isnan(metrics.performance_scaled_disparity(0.0, [-0.1, 0.1], reduce="max"))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: metrics.performance_scaled_disparity(0.8, [0.9, 0.7], reduce="max", ddof=2), "ddof"),
        (lambda: metrics.group_mean([0.5, 0.5], ["a", "b"], undefined="ignore"), "undefined: 'ignore'"),
        (
            lambda: policy.grpo_advantages(torch.ones(2, 2), prompt_ids=torch.zeros(2, 2, dtype=torch.int64)),
            r"rewards and prompt_ids are both \(B,\)",
        ),
    ],
)
def test_the_limit_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_masks_of_whole_floating_numbers_are_masks():
    true, pred = np.array([[0, 1, 1, 0]]), np.array([[0, 1, 0, 0]])
    expected = metrics.dice(true, pred)
    assert np.array_equal(metrics.dice(true.astype(float), pred.astype(float)), expected)
    with pytest.raises(ValueError, match="y_pred: whole numbers"):
        metrics.dice(true, pred + 0.5)


def test_no_weight_of_the_reference_no_reference():
    logp, mask = torch.full((1, 3), -1.0), torch.ones(1, 3)
    arguments = (logp, None, torch.ones(1), mask)
    impossible = torch.tensor([[-1.0, float("-inf"), -1.0]])
    plain = policy.fair_grpo_policy_loss(*arguments, beta=0.0)
    assert torch.equal(policy.fair_grpo_policy_loss(*arguments, beta=0.0, ref_logp=impossible), plain)


def test_advantages_of_rewards_with_gradient_have_none():
    rewards = torch.tensor([[1.0, 0.0, 0.5]], requires_grad=True)
    assert not policy.rloo_advantages(rewards).requires_grad


def test_the_only_scorable_reward_is_its_own_mean():
    rewards = torch.tensor([[2.0, float("nan")]])
    assert policy.reinforce_pp_advantages(rewards).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("groups", "named"),
    [([0, 0, 2], "hold 2"), ([0, -100, 1], "hold -100"), ([0.0, 1, 1], "are float64")],
)
def test_group_metrics_names_group_ids_that_cannot_be(groups, named):
    def prediction(groups):
        return SimpleNamespace(predictions=np.eye(3, 2), label_ids=(np.array([0, 1, 1]), np.array(groups)))

    with pytest.raises(
        ValueError, match=f"prediction: the groups of label_ids {named}; accepted are integers 0 .. 1, and -1"
    ):
        group_metrics(prediction(groups), num_groups=2)
    assert group_metrics(prediction([0, 1, -1]), num_groups=2)["max_accuracy_gap"] == 0
