"""Wrong or extreme input that once passed silently, raised something unhelpful or spoilt the result; found by fuzzing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import fairloss
from fairloss import functional as ff
from fairloss import metrics, policy, report
from tests.contract.case import all_cases

CASES = all_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


@each_case
def test_tensors_on_two_devices_are_named(case):
    batch = case.draw(0, 6)
    for name, tensor in batch.items():
        with pytest.raises(ValueError, match="|".join(rf"{k}: expected the device" for k in batch)):
            case.make()(**{**batch, name: tensor.to("meta")})


@each_case
def test_complex_tensors_are_refused(case):
    batch = case.draw(0, 6)
    for name, tensor in batch.items():
        with pytest.raises((TypeError, ValueError), match=name):
            case.make()(**{**batch, name: tensor.detach().to(torch.complex64)})


@each_case
def test_nan_never_stays_in_the_state(case):
    """One overflow in half precision: the value may be NaN, later values are not."""
    module, clean = case.make(), case.make()
    spoilt = case.draw(1, 6)
    name = case.differentiable[0]
    spoilt[name] = torch.full_like(spoilt[name], math.nan).requires_grad_()
    module(**spoilt)
    later = case.draw(2, 9)
    assert torch.isfinite(module(**later))
    assert torch.isfinite(clean(**later))


def test_ids_of_ignored_samples_are_checked():
    logits, target = torch.randn(3, 2), torch.tensor([0, -100, 1])
    with pytest.raises(ValueError, match=r"groups: id 9 is out of range"):
        fairloss.MaxAccGapLoss(2)(logits, target, torch.tensor([0, 9, 1]))


@pytest.mark.parametrize(("target", "logits"), [(2, 1), (-1, 1), (4, 4), (-100, 4)])
def test_labels_of_equalized_odds_are_checked(target, logits):
    x = torch.randn(3) if logits == 1 else torch.randn(3, logits)
    with pytest.raises(ValueError, match="target"):
        fairloss.EqualizedOddsLoss(2)(x, torch.tensor([0, target, 1]), torch.tensor([0, 1, 1]))


def test_a_count_of_minus_zero():
    assert ff.inverse_frequency_weights([1, -0.0]).tolist() == ff.inverse_frequency_weights([1, 0]).tolist()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_log_ratios_that_overflow(sign):
    logp = torch.zeros(1, 2, requires_grad=True)
    old = torch.tensor([[-200.0, 200.0]])
    loss = fairloss.fair_grpo_policy_loss(logp, old, torch.tensor([sign]), torch.ones(1, 2), beta=0.1, ref_logp=-old)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, logp)[0]).all()


@pytest.mark.parametrize(
    "function",
    [policy.grpo_advantages, policy.rloo_advantages, policy.reinforce_pp_advantages],
    ids=lambda f: f.__name__,
)
def test_infinite_rewards(function):
    with pytest.raises(ValueError, match="rewards: an infinite reward"):
        function(torch.tensor([[1.0, math.inf]]))


def test_a_history_passes_over_what_is_not_finite():
    history = policy.RewardHistory(1)
    totals = torch.ones(3, 1, 2, dtype=torch.float64)
    history.advance(totals, torch.tensor(0.0, dtype=torch.float64))
    history.advance(totals * math.inf, torch.tensor(-math.inf, dtype=torch.float64))
    assert torch.equal(history.totals(), totals)
    assert history.lowest == 0
    with pytest.raises(ValueError, match="batch: shape"):
        history.advance(totals[:2], torch.tensor(0.0, dtype=torch.float64))


def test_heads_take_rows_of_their_own_dtype():
    heads = fairloss.GroupHeads(2, 3, 2)
    with pytest.raises(TypeError, match="features: the heads are torch.float32"):
        heads(torch.zeros(4, 2, dtype=torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert heads(torch.zeros(4, 2, dtype=torch.bfloat16)).shape == (2, 4, 3)
    with pytest.raises(TypeError, match="per_group"):
        ff.route_by_group(torch.zeros(2, 3, 1, dtype=torch.int64), torch.tensor([0, 1, -1]))


Y, P, G = [1, 0, 1, 0], [0.9, 0.2, 0.4, 0.6], ["F", "F", "M", "M"]


@pytest.mark.parametrize("boxed", [np.array(P, dtype=object), pd.Series(P, dtype=object), [*P]])
def test_numbers_in_an_object_column_are_numbers(boxed):
    """They were read as classes, and every prediction as wrong."""
    assert metrics.max_accuracy_gap(Y, boxed, G) == metrics.max_accuracy_gap(Y, P, G) == 1.0
    assert metrics.auc(np.array(Y, dtype=object), boxed) == metrics.auc(Y, P)


def test_a_third_label_beside_scores_is_refused():
    """It made the scores classes."""
    with pytest.raises(ValueError, match="y_true: 2 was given beside scores"):
        metrics.max_accuracy_gap([1, 0, 2, 0], P, G)
    assert metrics.max_accuracy_gap([1, 0, 2, 0], [1, 0, 2, 1], G) == 0.5


@pytest.mark.parametrize("function", [metrics.auc, metrics.brier_score, metrics.expected_calibration_error])
def test_missing_labels_are_refused(function):
    """They were read as zeros."""
    with pytest.raises(TypeError, match="y_true: None"):
        function(None, P)
    assert metrics.demographic_parity_difference(None, P, G) == 0.0
    without = metrics.group_metric("positive_rate", None, P, G)
    assert without.counts.tolist() == [2, 2]
    assert without.positives.size == 0  # not "none of them is positive"


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_labels_that_are_no_number(bad):
    with pytest.raises(ValueError, match="y_true"):
        metrics.max_accuracy_gap([1.0, 0.0, bad, 0.0], [1, 0, 1, 0], G)


def test_complex_and_single_values_are_refused():
    for bad in (np.array(P) + 1j, 0.5, object()):
        with pytest.raises((TypeError, ValueError), match="y_pred"):
            metrics.max_accuracy_gap(Y, bad, G)
    with pytest.raises(TypeError, match="threshold"):
        metrics.max_accuracy_gap(Y, P, G, threshold="0.5")


@pytest.mark.parametrize(
    "function",
    [metrics.brier_score, metrics.binary_cross_entropy, metrics.mean_absolute_calibration_error],
    ids=lambda f: f.__name__,
)
def test_no_weight_at_all_is_undefined(function):
    assert math.isnan(function(Y, P, sample_weight=[0, 0, 0, 0]))


def test_comparison_without_a_known_group():
    found = report.gap_difference_test(Y, P, P, [-1] * 4, num_replicates=100)
    assert math.isnan(found.gap_a)
    assert math.isnan(found.p_value)


@pytest.mark.parametrize("values", ["abc", [1.0, math.inf], [1.0, "x"], [[1.0]], 3.0, [1j, 1.0]])
def test_summaries_name_their_argument(values):
    for function in (metrics.gap, metrics.worst, metrics.error_skew):
        with pytest.raises((TypeError, ValueError), match="values"):
            function(values)


@pytest.mark.parametrize("values", ["ab", 3, {"A": 1.0}, {"A": {"x": "text"}}, {"A": None}, None])
def test_averages_name_their_argument(values):
    for function in (metrics.aggregate_disparity, metrics.hierarchical_mean):
        with pytest.raises((TypeError, ValueError), match="values"):
            function(values)


def test_groups_without_a_value_average_to_nan():
    assert math.isnan(metrics.hierarchical_mean({"A": {"sex": [math.nan]}}))
    assert math.isnan(metrics.aggregate_disparity({"A": {"sex": {}}}, order="average_first"))


def test_overlap_of_no_sample():
    assert metrics.dice(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)
    assert metrics.iou(np.zeros((0, 3), int), np.zeros((0, 3), int), num_classes=2).shape == (0, 2)


def test_other_arguments_are_named():
    with pytest.raises(TypeError, match="attributes"):
        metrics.cross_groups(["F", "M"])
    with pytest.raises(TypeError, match="labels"):
        fairloss.encode_groups(None)
    with pytest.raises(TypeError, match="x: a floating-point tensor"):
        ff.gradient_reversal([1.0])
    with pytest.raises(TypeError, match="attention_mask"):
        fairloss.pool_last_token(torch.zeros(1, 2, 3), [[1, 1]])
    with pytest.raises(TypeError, match="mask"):
        fairloss.fair_grpo_policy_loss(torch.zeros(1, 2), None, torch.ones(1), None)
    with pytest.raises(TypeError, match="values"):
        fairloss.GroupMemory(2, 3).push([1.0], torch.tensor([0]))


LOGITS, LABELS, GROUP_IDS, LOSSES = (
    torch.randn(4, 3),
    torch.tensor([0, 1, 2, 0]),
    torch.tensor([0, 1, 1, 0]),
    torch.rand(4),
)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda m: fairloss.MaxAccGapLoss(2, memory=m)(LOGITS, LABELS, GROUP_IDS), "memory"),
        (lambda m: fairloss.FairCrossEntropyLoss(2, 0.5, memory=m)(LOGITS, LABELS, GROUP_IDS), "memory"),
        (lambda m: ff.group_gap(LOSSES, GROUP_IDS, num_groups=2, memory=m), "memory"),
        (lambda m: fairloss.FISLoss(2)(LOSSES, GROUP_IDS, m), "reference"),
        (
            lambda m: fairloss.FISLoss(2)(LOSSES, GROUP_IDS, (LOSSES.to("meta"), GROUP_IDS.to("meta"))),
            r"reference\[0\]",
        ),
        (lambda m: ff.fis_weights(LOSSES, GROUP_IDS, num_groups=2, distances=m.values[:, 0]), "distances"),
        (lambda m: fairloss.GroupDROLoss(2).to("meta")(LOSSES, GROUP_IDS), "values"),
        (
            lambda m: fairloss.CrossGroupContrastiveLoss(queue=fairloss.EmbeddingQueue(4, 3).to("meta"))(
                LOGITS, LABELS, GROUP_IDS
            ),
            "queue",
        ),
    ],
)
def test_state_on_another_device_is_named(call, named):
    with pytest.raises(ValueError, match=f"{named}: expected the device"):
        call(fairloss.GroupMemory(2, 4).to("meta"))
