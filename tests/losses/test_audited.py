"""Statements of docstrings and pages that an audit found untrue, or silent: each holds now."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fairloss
import fairloss.functional as FF
import fairloss.metrics as fm
import fairloss.report as fr
from fairloss.policy import FairGRPOAdvantage, fair_grpo_advantages

X = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
G = torch.tensor([0, 1, 2, 0, 1, 2])


def cluster_arguments(**change):
    share, mean = torch.full((2, 2), 0.5), torch.tensor([[0.2, 0.9]] * 2)
    parts = {"labels": torch.tensor([0, 1, 0, 1]), "share": share, "mean": mean} | change
    rewards = torch.tensor([[1.0, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    return rewards, torch.full((4,), -1), torch.tensor([0, 0, 1, 1]), tuple(parts.values())


@pytest.mark.parametrize(
    "change",
    [
        {"labels": torch.tensor([2, 1, 0, 1])},
        {"labels": torch.tensor([0, 1])},
        {"labels": torch.zeros(4)},
        {"mean": torch.ones(2, 3)},
        {"share": torch.ones(1, 2)},
        {"mean": torch.ones(2, 2, dtype=torch.int64)},
    ],
)
def test_clusters_are_checked(change):
    rewards, groups, domains, clusters = cluster_arguments(**change)
    with pytest.raises((ValueError, TypeError), match="clusters"):
        fair_grpo_advantages(rewards, groups, domains, num_groups=2, num_domains=2, clusters=clusters)
    rewards, groups, domains, clusters = cluster_arguments()
    found = fair_grpo_advantages(rewards, groups, domains, num_groups=2, num_domains=2, clusters=clusters)
    assert found.isfinite().all()


def test_the_function_drops_no_gap():
    with pytest.raises(ValueError, match="reduction"):
        FF.fair_cross_entropy(X, Y, G, num_groups=3, gap_weight=0.5, reduction="none")


@pytest.mark.parametrize("name", ["demographic_parity", "equalized_odds"])
def test_positive_class_picks_a_label(name):
    function = getattr(FF, name)
    labels = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1]])
    g = torch.tensor([0, 0, 0, 1, 1, 1])
    each = [function(X, labels, g, num_groups=2, task="multilabel", positive_class=c) for c in range(3)]
    for c, value in enumerate(each):
        torch.testing.assert_close(value, function(X[:, c], labels[:, c], g, num_groups=2))
    torch.testing.assert_close(sum(each) / 3, function(X, labels, g, num_groups=2, task="multilabel"))
    for logits, target, task in ((X, labels, "multilabel"), (X[:, 0], labels[:, 0], "binary"), (X, Y, "multiclass")):
        with pytest.raises(ValueError, match="positive_class: 7"):
            function(logits, target, g, num_groups=2, task=task, positive_class=7)


@pytest.mark.parametrize("name", ["fair_cross_entropy", "max_acc_gap", "demographic_parity", "equalized_odds"])
@pytest.mark.parametrize("task", ["foo", np.array(["binary", "tokens"])])
def test_functions_check_the_task(name, task):
    for logits, target in ((X, Y), (X.reshape(2, 3, 3), Y.reshape(2, 3))):
        with pytest.raises(ValueError, match="task: "):
            getattr(FF, name)(logits, target, G[: len(logits)], num_groups=3, task=task)
    with pytest.raises(ValueError, match="task: "):
        FF.sample_likelihood(X, Y, task=task)


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


def test_distilling_binary_masks():
    """One logit a pixel is the two classes (0, z), labels as masks with a channel or without."""
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 1, 3, 5, dtype=torch.float64), torch.randn(2, 4, 1, 3, 5, dtype=torch.float64)
    mask, groups = torch.randint(0, 2, (4, 3, 5)), torch.tensor([0, 1, 0, -1])
    loss = fairloss.FairDistillationLoss(2, distill_weight=0.5)
    zero = torch.zeros_like
    expected = loss(torch.cat([zero(student), student], 1), torch.cat([zero(teacher), teacher], 2), mask, groups)
    for target in (mask, mask.unsqueeze(1), mask.double(), mask.unsqueeze(1).double()):
        torch.testing.assert_close(loss(student, teacher, target, groups), expected)
    seen = []
    own = fairloss.FairDistillationLoss(2, task_loss=lambda losses, groups: seen.append(losses.shape) or losses.mean())
    own(student, teacher, mask, groups)
    assert seen == [(4,)]


def test_distillation_refuses_labels_that_are_no_class_probabilities():
    logits, groups = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match="target: class probabilities that sum to 2"):
        fairloss.FairDistillationLoss(2)(logits, logits, torch.tensor([[1.0, 1, 0]] * 4), groups)
    fairloss.FairDistillationLoss(2)(logits, logits, torch.tensor([[0.25, 0.7, 0.05]] * 4), groups)
    with pytest.raises(ValueError, match="task_loss: CrossEntropyLoss"):
        fairloss.FairDistillationLoss(2, task_loss=nn.CrossEntropyLoss())


def test_an_untrained_group_dro_is_no_perfect_model():
    loss, values = fairloss.GroupDROLoss(3).eval(), torch.tensor([5.0, 7.0, 9.0])
    assert loss(values, torch.tensor([0, 1, 1])).item() == pytest.approx((5 + 8) / 2)
    assert loss(values, torch.tensor([-1, -1, -1])).item() == 0
    assert (loss.q == 0).all()


@pytest.mark.parametrize("target", [torch.tensor([[[9]]]), torch.tensor([[[-1]]]), torch.full((1, 2, 1, 1), 1.5)])
def test_check_inputs_knows_masks(target):
    logits = torch.zeros(1, 2, 1, 1)
    with pytest.raises(ValueError, match=r"target: .* at position \(0"):
        fairloss.check_inputs(logits, target)
    fairloss.check_inputs(logits, torch.ones(1, 1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="target: class ids"):
        fairloss.check_inputs(logits, torch.ones(1, 2, 2, dtype=torch.int64))


def test_a_clusters_mean_is_that_of_its_rollouts():
    fair = FairGRPOAdvantage(2, discover_groups="kmeans", num_clusters=1)
    nan = float("nan")
    fair(torch.tensor([[1.0, 1, 1, 0], [0, nan, nan, nan]]), torch.tensor([-1, -1]))
    assert [row.mean_reward for row in fair.table()] == [pytest.approx(3 / 5)]


@pytest.mark.parametrize(
    "options", [{"num_clusters": "silhouete"}, {"num_features": 1}, {"reservoir_size": 0}, {"seed": -1}]
)
def test_options_of_discovery_are_checked_without_it(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        FairGRPOAdvantage(2, **options)


def test_ragged_ids_name_the_groups():
    with pytest.raises(ValueError, match="groups: "):
        fairloss.BalancedGroupSampler([[0, 1], [0]])


def test_heads_have_the_dtype_of_linear_under_autocast():
    features, heads = torch.randn(3, 4), fairloss.GroupHeads(4, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert heads(features).dtype == nn.Linear(4, 2)(features).dtype == torch.bfloat16


def test_minus_one_is_unknown_to_encode_groups():
    codes = fairloss.encode_groups([0, 1, -1, 0])
    assert (codes.ids.tolist(), codes.labels) == ([0, 1, -1, 0], (0, 1))
    assert fairloss.encode_groups(np.array([1.0, -1.0, np.nan])).ids.tolist() == [0, -1, -1]
    assert fairloss.encode_groups([0, -1], categories=[-1, 0]).ids.tolist() == [1, 0]
    # Classes are no groups: -1 and 1 are two of them.
    assert fm.group_metric("accuracy", [-1, 1, 1, -1], [-1, 1, -1, -1], [0, 0, 1, 1]).values.tolist() == [1.0, 0.5]


def test_a_corrected_gap_lies_in_its_interval():
    """Extrapolated from small groups, TPR and FPR gaps had exceeded 1."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        y, s, g = rng.integers(0, 2, 24), rng.random(24), rng.integers(0, 3, 24)
        (attribute,) = fr.FairnessReport.from_predictions(y, s, g, num_replicates=100).attributes
        for found in attribute.gaps:
            if not np.isnan(found.corrected):
                assert found.estimate.low <= found.corrected <= found.estimate.high


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_state_is_float32_whatever_the_default_dtype(default):
    torch.set_default_dtype(default)
    try:
        memory, queue = fairloss.GroupMemory(3, 8), fairloss.EmbeddingQueue(8, 4)
        discovery = FairGRPOAdvantage(2, discover_groups="kmeans")
        released = FairGRPOAdvantage(2, discover_groups="kmeans", variant="released")
    finally:
        torch.set_default_dtype(torch.float32)
    state = [memory.values, queue.embeddings, discovery.discovery.features, released.discovery.vectors]
    assert {t.dtype for t in state} == {torch.float32}


def test_whole_numbers_beside_zero_and_one_need_a_task():
    with pytest.raises(ValueError, match=r"y_pred: whole numbers .* task="):
        fm.group_metric("accuracy", [0, 1, 1, 0], [0, 1, 2, 2], ["a", "a", "b", "b"])
    found = fm.group_metric("accuracy", [0, 1, 1, 0], [0, 1, 2, 2], ["a", "a", "b", "b"], task="multiclass")
    assert found.values.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", ["MaxAccuracyGap", "AUCGap", "DemographicParityDifference"])
def test_torchmetrics_refuse_scores_that_are_no_numbers(name):
    pytest.importorskip("torchmetrics", reason="fairloss[torchmetrics]")
    import fairloss.integrations.torchmetrics as tm

    metric = getattr(tm, name)(2)
    with pytest.raises(ValueError, match="preds: NaN"):
        metric.update(torch.tensor([float("nan"), 0.2]), torch.tensor([0, 1]), torch.tensor([0, 1]))
