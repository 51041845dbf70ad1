"""Edges that mutation testing showed to be free: limits that are named, values that only a corner reaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fairloss
from fairloss.core.state import StatefulModule
from fairloss.losses.embeddings import unit_rows

IMAGES, MASKS, IDS = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: fairloss.functional.sample_dice_loss(IMAGES[:, :1], MASKS), ValueError, r"logits: shape .*C >= 2"),
        (lambda: fairloss.FEBSLoss(3, 2)(IMAGES, MASKS.tolist(), IDS), TypeError, "target: a tensor of labels .* list"),
        (lambda: fairloss.GroupHeads(4, 2, 2)(torch.randn(4)), ValueError, r"features: shape \(N, 4"),
        (lambda: fairloss.GroupHeads(4, 2, 2)([1.0]), ValueError, "features: shape .* list"),
        (lambda: fairloss.EmbeddingQueue(0, 2), ValueError, "capacity: 0"),
        (lambda: fairloss.intersect_groups([[0, 1]], num_groups=(2, 2)), ValueError, "groups: ids of shape .* list"),
        (lambda: fairloss.FairCrossEntropyLoss(2, label_smoothing=1.5), ValueError, "label_smoothing: 1.5 .* <= 1 is"),
        (lambda: fairloss.BalancedGroupSampler([0, 1], rank=2, num_replicas=2), ValueError, r"rank: 2 .* 0 \.\. 1 "),
        (
            lambda: fairloss.MaxAccGapLoss(2)(torch.randn(2, 3), IDS, torch.tensor([0, 2])),
            ValueError,
            r"id 2 is out of range; accepted are 0 \.\. 1,",
        ),
        (
            lambda: fairloss.MaxAccGapLoss(2, task="multilabel")(torch.randn(2, 3), IDS, IDS),
            ValueError,
            r"task 'multilabel' needs input \(N, C\) and target \(N, C\)",
        ),
        (
            lambda: fairloss.MomentAlignmentLoss(2, 2, ignore_index=-(2**63) - 1),
            ValueError,
            "ignore_index",
        ),
    ],
)
def test_the_limit_is_named(make, error, named):
    with pytest.raises(error, match=named):
        make()


def test_soft_targets_are_checked_at_both_ends():
    logits = torch.randn(3, 2)
    fairloss.check_inputs(logits, torch.tensor([[0.0, 1.0], [0.25, 0.75], [1.0, 0.0]]), task="multilabel")
    for bad in (-0.5, 1.5):
        with pytest.raises(ValueError, match=r"target: .*outside \[0, 1\]"):
            fairloss.check_inputs(logits, torch.tensor([[0.0, bad], [0.25, 0.75], [1.0, 0.0]]), task="multilabel")


def test_labels_without_a_dimension_are_refused():
    with pytest.raises(ValueError, match="labels: one-dimensional .* 0 dimensions"):
        fairloss.encode_groups(np.array("a"))


def test_an_epoch_starts_at_its_first_position():
    sampler = fairloss.BalancedGroupSampler([0, 1, 1])
    sampler.set_epoch(3)
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["position"]) == (3, 0)
    assert len(list(sampler)) == len(sampler)


def test_one_repeat_is_a_limit():
    sampler = fairloss.BalancedGroupSampler([0] * 8 + [1] * 2, max_ratio=1.0, max_repeats=1)
    assert sorted(sampler) == list(range(10))


class Store(StatefulModule):
    def __init__(self) -> None:
        super().__init__()
        self.register_state("fixed", torch.zeros(2))
        self.register_state("rows", torch.zeros(0, 3), growing=True)


def test_a_growing_state_takes_the_shape_that_was_saved():
    full, empty = Store(), Store()
    full.rows, full.fixed = torch.arange(6.0).reshape(2, 3), torch.tensor([1.0, 2.0])
    empty.load_state_dict(full.state_dict())
    assert torch.equal(empty.rows, full.rows)
    assert torch.equal(empty.fixed, full.fixed)
    wider = Store()
    wider.fixed = torch.zeros(3)
    with pytest.raises(ValueError, match="another layout"):
        wider.load_state_dict(full.state_dict())
    assert wider.rows.shape == (0, 3)
    for broken in (torch.zeros(400, dtype=torch.float32), torch.zeros(3, dtype=torch.uint8)):
        with pytest.raises((TypeError, ValueError), match="state_dict"):
            wider.load_state_dict({"_extra_state": broken})
    # No header at all: every truncation, and numbers of tensors, dtypes, ranks and sizes that cannot be.
    whole = full.get_extra_state()
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="another layout"):
            empty.set_extra_state(whole[:size])
    for place, number in [
        (0, 3),
        (0, -1),
        (0, 2**62),
        (1, -1),
        (1, 99),
        (2, -2),
        (2, 2**62),
        (3, -2),
        (5, 1),
        (6, -1),
        (6, 3),
    ]:
        broken = whole.clone()
        broken[8 * place : 8 * place + 8] = torch.tensor([number]).view(torch.uint8)
        with pytest.raises(ValueError, match="another layout"):
            empty.set_extra_state(broken)
    assert torch.equal(empty.rows, full.rows)


def test_a_position_before_the_first_is_refused():
    sampler = fairloss.BalancedGroupSampler([0, 1, 1])
    with pytest.raises(ValueError, match="position.*-1"):
        sampler.load_state_dict({**sampler.state_dict(), "position": -1})


def test_a_row_of_zeros_stays_zero():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit = unit_rows(rows)
    assert unit.tolist() == [[0.0, 0.0], [pytest.approx(0.6), pytest.approx(0.8)]]
    unit.sum().backward()
    assert rows.grad[0].tolist() == [0.0, 0.0]


def test_a_queue_checks_labels_and_takes_one_column():
    queue = fairloss.EmbeddingQueue(2, 1)
    with pytest.raises((TypeError, ValueError), match="labels"):
        queue.push(torch.ones(2, 1), torch.tensor([0.5, 1.0]), IDS)
    assert int(queue.seen) == 0
    queue.push(torch.ones(2, 1, requires_grad=True), IDS, IDS)
    assert not queue.embeddings.requires_grad


def test_a_queue_shows_its_size():
    assert repr(fairloss.EmbeddingQueue(8, 3)) == "EmbeddingQueue(capacity=8, dim=3, num_attributes=1)"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_id_out_of_range_is_an_error_in_a_compiled_loss():
    torch._dynamo.reset()
    loss = torch.compile(fairloss.MaxAccGapLoss(2), backend="aot_eager", fullgraph=True)
    logits = torch.randn(4, 3)
    assert torch.isfinite(loss(logits, torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, -1])))
    for bad in (2, 3, -2):
        with pytest.raises(RuntimeError, match="id out of range"):
            loss(logits, torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, bad, -1]))
