"""Batches that break neighbouring libraries or released research code, one test a case of ``docs/hostile-batches.md``."""

from __future__ import annotations

import copy
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fairloss
from fairloss import functional as ff
from fairloss import metrics
from fairloss.report import FairnessReport
from tests.contract.case import all_cases, gradients
from tests.oracles import losses as oracles

DOCS = Path(__file__).parents[2] / "docs" / "hostile-batches.md"
FILES = (Path(__file__), Path(__file__).parents[1] / "policy" / "test_hostile_rewards.py")


def test_the_table_and_the_tests_agree():
    named = set(re.findall(r"`(test_[a-d]\d+_\w+)`", DOCS.read_text(encoding="utf-8")))
    there = {n for file in FILES for n in re.findall(r"^def (test_[a-d]\d+_\w+)\(", file.read_text("utf-8"), re.M)}
    assert named == there


def test_a1_absent_group_is_no_constant_penalty():
    """fairret: two identical groups and an absent one give 1.0 without gradient; FairSeg's FEBS likewise."""
    logits = torch.tensor([0.3, -0.2, 0.3, -0.2], requires_grad=True)
    target, groups = torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 1])
    for loss in (fairloss.DemographicParityLoss, fairloss.EqualizedOddsLoss, fairloss.MaxAccGapLoss):
        assert loss(3)(logits, target, groups).item() == pytest.approx(0, abs=1e-7)
    x = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.randint(0, 3, (4, 5), generator=torch.Generator().manual_seed(1))
    for variant in ("default", "released"):
        value = fairloss.FEBSLoss(3, 3, variant=variant)(x, labels, groups)
        assert value.item() < 0.999
        assert torch.autograd.grad(value, x)[0].abs().sum() > 0


@pytest.mark.parametrize("case", [c for c in all_cases() if "unused id" not in c.notes], ids=lambda c: c.name)
def test_a1_declaring_an_absent_group_changes_nothing(case):
    batch = case.draw(1, 6)
    value, wider = case.make()(**batch), case.make(num_groups=4)(**batch)
    torch.testing.assert_close(wider, value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradients(wider, batch, case), gradients(value, batch, case), rtol=1e-12, atol=1e-14)


def test_a1_no_positives_in_the_batch():
    """fairret raises NotImplementedError for a statistic without a sample."""
    logits = torch.tensor([0.3, -0.2, 1.0], requires_grad=True)
    value = fairloss.EqualizedOddsLoss(2)(logits, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0, 1]))
    rate = torch.sigmoid(logits.detach())
    assert value.item() == pytest.approx(abs(float(rate[:2].mean() - rate[2])) / 2)
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


def test_a2_the_worse_group_never_weighs_less():
    """FairSeg's code gives group Dice losses 0.0017 and 1.656 the weights 0.76 and 0.001."""
    good, bad = torch.zeros(2, 3, 8), torch.zeros(2, 3, 8)
    labels = torch.arange(8).remainder(3).expand(4, 8)
    good.scatter_(1, labels[:2].unsqueeze(1), 8.0)
    bad.scatter_(1, (labels[2:].unsqueeze(1) + 1) % 3, 2.0)
    logits = torch.cat([good, bad]).requires_grad_()
    groups = torch.tensor([0, 0, 1, 1])
    pooled = ff.group_dice_loss(logits, labels, groups, num_groups=2).sum(1)
    mean = pooled.mean() / 3
    assert fairloss.FEBSLoss(3, 2)(logits, labels, groups) > mean  # the worse group's loss counts for more
    assert fairloss.FEBSLoss(3, 2, gamma=0.0)(logits, labels, groups).item() == pytest.approx(mean.item())
    losses = torch.tensor([0.1, 0.2, 1.5, 1.7])
    weights = ff.fis_weights(losses, groups, num_groups=2, c=1.0)
    assert weights[2] > weights[0]
    dro = fairloss.GroupDROLoss(2, 0.5)
    dro(losses, groups)
    assert dro.q[1] > dro.q[0]


def test_a2_every_class_counts_in_demographic_parity():
    """fairtorch's loss looks at group 0 alone when there are three classes: rates of 0.1 and 0.9 gave 0."""
    p = torch.tensor([[0.1, 0.2, 0.7]] * 2 + [[0.1, 0.8, 0.1]] * 2)
    value = fairloss.DemographicParityLoss(2)(p.log(), torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1]))
    assert value.item() == pytest.approx((0.0 + 0.6 + 0.6) / 3, abs=1e-6)


def test_a3_a_group_keeps_its_number():
    """torchmetrics counted a batch with group 2 alone as group 0, and ids -1 and 0 as 0 and 1."""
    from fairloss.groups.ids import GroupIds

    ids = torch.tensor([[2], [2], [-1]])
    assert GroupIds(ids, (3,)).sum(torch.ones(3)).tolist() == [0, 0, 2]
    found = metrics.group_metric("accuracy", [1, 1, 0], [1, 0, 0], [2, 2, -1])
    assert found.labels == (2,)
    assert found.counts.tolist() == [2]


@pytest.mark.parametrize("bad", [3, 100, -2, -(2**60)])
def test_a3_an_id_out_of_range_is_named(bad):
    """FairVision's code reads an unknown sample, -1, as one of the last group; torchmetrics' check is off by one."""
    logits, target = torch.randn(3, 2), torch.tensor([0, 1, 0])
    for loss in (fairloss.MaxAccGapLoss(3), fairloss.FairCrossEntropyLoss(3)):
        with pytest.raises(ValueError, match=rf"groups.*{bad}"):
            loss(logits, target, torch.tensor([0, bad, 1]))


def test_a3_unknown_is_in_the_task_term_alone():
    values, groups = torch.tensor([1.0, 3.0, 100.0]), torch.tensor([0, 1, -1])
    assert fairloss.LossVarianceLoss(2)(values, groups).item() == pytest.approx(1.0)
    logits, target = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]]), torch.tensor([0, 1, 1])
    with_unknown = fairloss.FairCrossEntropyLoss(2)(logits, target, groups)
    assert with_unknown.item() == pytest.approx(nn.functional.cross_entropy(logits, target).item())


def test_a4_an_undefined_rate_is_not_a_number():
    """fairlearn gives a group without positives a TPR of 0: an equalized-odds difference of 0.5 or 1 from nothing."""
    y, p, g = [1, 1, 0, 0], [1, 1, 0, 0], ["F", "F", "M", "M"]
    with pytest.warns(metrics.UndefinedGroupWarning, match="tpr is undefined in group"):
        assert math.isnan(metrics.equal_opportunity_difference(y, p, g))
    with pytest.warns(metrics.UndefinedGroupWarning):
        assert math.isnan(metrics.equalized_odds_difference(y, p, g))
    with pytest.warns(metrics.UndefinedGroupWarning):
        assert math.isnan(metrics.auc_gap(y, p, g))
    with pytest.raises(ValueError, match="tpr is undefined"):
        metrics.equal_opportunity_difference(y, p, g, undefined="raise")


def test_a5_one_name_one_formula():
    values, overall = [0.9, 0.8, 0.7], 0.8
    assert metrics.equity_scaled(overall, values, penalty="sum_abs") == pytest.approx(0.8 / 1.2)
    assert metrics.equity_scaled(overall, values, penalty="std", ddof=0) == pytest.approx(0.8 / (1 + np.std(values)))
    with pytest.raises(TypeError, match="penalty"):
        metrics.equity_scaled(overall, values)
    y, p, g = [1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 0, 0], ["F", "F", "M", "M", "F", "M"]
    assert metrics.equalized_odds_difference(y, p, g, agg="score") == 1 - metrics.equalized_odds_difference(
        y, p, g, agg="mean"
    )


def test_a5_labels_and_predictions_are_not_exchanged():
    """FairVision's multi-class gaps pass predictions for labels: three random classifiers got the same gap."""
    rng = np.random.default_rng(0)
    y, g = rng.integers(0, 3, 600), rng.integers(0, 2, 600)
    gaps = {metrics.demographic_parity_difference(y, rng.integers(0, 3, 600), g) for _ in range(3)}
    assert len(gaps) == 3
    constant = np.zeros(600, dtype=int)
    assert metrics.demographic_parity_difference(y, constant, g) == 0


def test_a5_calibration_gaps_compare_the_same_bins():
    """FairMedFM and MEDFAIR bin each group on its own range of scores."""
    y, p, g = [0, 1, 0, 1], [0.1, 0.4, 0.6, 0.9], ["F", "F", "M", "M"]
    own = metrics.calibration_gap(y, p, g, strategy="range")
    same = metrics.calibration_gap(y, p, g)
    edges = np.linspace(0, 1, 11)
    from tests.oracles.metrics import ece

    assert same == pytest.approx(abs(ece([0, 1], [0.1, 0.4], edges) - ece([0, 1], [0.6, 0.9], edges)))
    assert own != same or own == pytest.approx(same)


def test_a6_metrics_need_no_torch():
    code = "import sys, fairloss.metrics as m; m.max_accuracy_gap([1, 0], [1, 0], [0, 1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a7_anchors_without_a_positive_are_left_out():
    """SupContrast gives NaN; pytorch-metric-learning counts them as zeros in the mean."""
    z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
    loss = fairloss.CrossGroupContrastiveLoss(temperature=0.5, margin=-2.0)
    y, g = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 0])
    parts = loss(z, y, g, return_parts=True)
    assert parts.live_fraction.item() == 0.5
    assert parts.loss.item() == pytest.approx(parts.anchor_losses[:2].mean().item())
    dead = loss(z, torch.arange(4), g)
    assert dead.item() == 0
    assert torch.equal(torch.autograd.grad(dead, z)[0], torch.zeros(4, 2))


def test_a8_a_queue_resumes_where_it_was():
    """pytorch-metric-learning's memory loses its place: after a reload it starts from row 0."""
    queue = fairloss.EmbeddingQueue(4, 2)
    queue.push(torch.eye(2).repeat(3, 1), torch.arange(6), torch.zeros(6, dtype=torch.int64))
    other = fairloss.EmbeddingQueue(4, 2)
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.push(torch.ones(1, 2), torch.tensor([9]), torch.tensor([1]))
    assert queue.labels.tolist() == other.labels.tolist() == [4, 5, 9, 3]


def test_a8_evaluation_and_half_precision_leave_the_memory_as_it_is():
    """There, evaluation enqueues, and one half-precision batch makes the whole bank half precision."""
    memory = fairloss.GroupMemory(2, 3)
    loss = fairloss.MaxAccGapLoss(2, memory=memory)
    logits, target, groups = torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 0, 1])
    loss.eval()(logits.requires_grad_(), target, groups)
    with torch.no_grad():
        loss.train()(logits, target, groups)
    assert memory.seen.sum() == 0
    loss.half()(logits.half(), target, groups)
    assert memory.values.dtype == torch.float32
    assert memory.seen.tolist() == [2, 2]


def test_a8_a_batch_longer_than_the_memory():
    """There it fails an assertion."""
    memory = fairloss.GroupMemory(1, 2)
    memory.push(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, dtype=torch.int64))
    assert sorted(memory.values[0].tolist()) == [2.0, 3.0]
    queue = fairloss.EmbeddingQueue(1, 2)
    queue.push(torch.eye(2), torch.tensor([4, 5]), torch.tensor([0, 1]))
    assert queue.labels.tolist() == [5]


def test_a8_state_is_no_buffer():
    """A buffer inside a DDP-wrapped module is overwritten by rank 0 before every forward."""
    for case in all_cases():
        assert not list(case.make().buffers()), case.name


def test_a8_a_batch_of_nan_does_not_stay_behind():
    nan = torch.tensor([math.nan, 0.5], requires_grad=True)
    ids = torch.tensor([0, 1])
    memory, dro, queue = fairloss.GroupMemory(2, 3), fairloss.GroupDROLoss(2, 0.5), fairloss.EmbeddingQueue(3, 2)
    memory.push(nan, ids)
    assert memory.seen.tolist() == [0, 1]
    dro(nan, ids)
    assert torch.isfinite(dro.log_q).all()
    assert dro.seen.tolist() == [0, 0]
    queue.push(torch.tensor([[math.inf, 1.0], [1.0, 0.0]]), torch.tensor([1, 2]), ids)
    assert torch.isfinite(queue.embeddings).all()
    assert queue.rows(-100)[1].tolist() == [-100, 2, -100]


def test_a9_half_precision_in_statistics():
    """3.4e38 into float16 in pytorch-metric-learning; Sinkhorn libraries call themselves unfit for mixed precision."""
    losses = torch.tensor([300.0, 310.0, 290.0, 305.0])
    ids = torch.tensor([0, 0, 1, 1])
    wide = ff.transport_distances(losses.double(), ids, num_groups=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = ff.transport_distances(losses.half(), ids, num_groups=2)
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-6, atol=1e-6)
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).half() * 1e4
    loss = fairloss.CrossGroupContrastiveLoss(margin=-2.0)
    assert torch.isfinite(loss(z, torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 0, 1])))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_a9_rows_whose_squares_leave_float32(scale):
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    y, g = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 0, 1])
    for loss in (
        fairloss.CrossGroupContrastiveLoss(temperature=0.5, margin=-2.0),
        fairloss.MomentAlignmentLoss(2, 2, normalize=True),
    ):
        torch.testing.assert_close(loss(z * scale, y, g), loss(z, y, g), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n", [8, 32, 128])
def test_a10_the_loss_does_not_shrink_with_the_batch(n):
    """FairVision's FIS: identical losses of 0.7 give 0.175, 0.044 and 0.011 for batches of 8, 32 and 128."""
    losses, ids = torch.full((n,), 0.7), torch.arange(n) % 2
    assert fairloss.FISLoss(2)(losses, ids).item() == pytest.approx(0.7, rel=1e-6)
    assert fairloss.InverseFrequencyWeighting([1, 1])(losses, ids).item() == pytest.approx(0.7, rel=1e-6)


def test_a10_no_sample_has_a_negative_coefficient():
    """There, gradient through the softmax gives easy samples -0.035."""
    losses = torch.tensor([0.05, 0.1, 2.0, 2.5], requires_grad=True)
    ids = torch.tensor([0, 0, 1, 1])
    grad = torch.autograd.grad(fairloss.FISLoss(2)(losses, ids), losses)[0]
    assert (grad > 0).all()
    released = fairloss.FISLoss(2, c=0.0, variant="released")(losses, ids)
    assert (torch.autograd.grad(released, losses)[0] < 0).any()  # the authors' code, on request


def test_a10_group_weight_does_not_follow_frequency():
    losses = torch.cat([torch.linspace(0, 1, 14), torch.linspace(1.0, 2.0, 2)])
    ids = torch.tensor([0] * 14 + [1] * 2)
    weights = ff.fis_weights(losses, ids, num_groups=2, c=1.0)
    assert weights[-1] > 1 > weights[0]


def test_a11_micro_batches_add_up_to_the_batch():
    """A mean over each batch in a framework that sums them makes the update four times as large at four steps."""
    case = fairloss.FairCrossEntropyLoss(2, group_counts=[6, 2])
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    y, g = torch.randint(0, 3, (8,), generator=torch.Generator().manual_seed(1)), torch.tensor([0] * 6 + [1] * 2)
    whole = torch.autograd.grad(case(x, y, g), x)[0]
    parts = sum(case(x[i : i + 2], y[i : i + 2], g[i : i + 2]) / 4 for i in range(0, 8, 2))
    torch.testing.assert_close(torch.autograd.grad(parts, x)[0], whole, rtol=1e-12, atol=1e-14)


def test_a12_a_missing_group_column_is_named():
    logits, target = torch.randn(3, 2), torch.tensor([0, 1, 0])
    with pytest.raises(TypeError, match="groups"):
        fairloss.FairCrossEntropyLoss(2)(logits, target)
    with pytest.raises(TypeError, match="groups"):
        fairloss.FairCrossEntropyLoss(2)(logits, target, None)


def test_a15_missing_and_several_attributes():
    ids, count = fairloss.intersect_groups(torch.tensor([[0, 1], [1, 2], [1, -1]]), num_groups=(2, 3))
    assert ids.tolist() == [1, 5, -1]
    assert count == 6
    values, groups = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([[0, 0], [1, -1], [-1, 1]])
    expected = oracles.group_gap(values.numpy(), groups.numpy())
    assert ff.group_gap(values, groups, num_groups=(2, 2)).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="intersect_groups"):
        fairloss.FISLoss((2, 2))


def test_a16_small_groups_come_with_counts_and_warnings():
    rng = np.random.default_rng(0)
    y, p, g = rng.integers(0, 2, 60), rng.random(60), np.array(["A"] * 55 + ["B"] * 5)
    report = FairnessReport.from_predictions(y, p, {"site": g}, num_replicates=100)
    assert [group.samples for group in report["site"].groups] == [55, 5]
    assert report["site"].groups[1].small
    assert any("B" in note for note in report.warnings)


def test_a17_dice_does_not_change_with_the_batch():
    """SMP's Dice sums over the batch; sample by sample, the batch does not matter."""
    x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, 3, (4, 6), generator=torch.Generator().manual_seed(1))
    alone = torch.cat([ff.sample_dice_loss(x[i : i + 1], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(ff.sample_dice_loss(x, y), alone)


def test_a18_one_graph_for_every_batch():
    """Boolean indexing breaks the graph of many losses; here absent groups and unknown samples need no branch."""
    loss = torch.compile(fairloss.LossVarianceLoss(3), fullgraph=True, backend="eager")
    for ids in ([0, 1, 2, -1], [-1, -1, -1, -1], [1, 1, 1, 1]):
        value = loss(torch.arange(4.0), torch.tensor(ids))
        assert value.item() == pytest.approx(oracles.loss_variance(np.arange(4.0), np.array(ids)))


def test_a8_copies_share_nothing():
    loss = fairloss.GroupDROLoss(2, 0.5)
    twin = copy.deepcopy(loss)
    twin(torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([0, 1]))
    assert loss.seen.sum() == 0
