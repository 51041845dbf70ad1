"""Options and tensors that a loss cannot use: the argument is named, with what it takes."""

from __future__ import annotations

import pytest
import torch

import fairloss

IMAGES, MASKS, IDS = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64), torch.tensor([0, 1])
LOGITS, TARGET, GROUPS = (
    torch.linspace(-1, 1, 12).reshape(4, 3),
    torch.tensor([0, 1, 2, 0]),
    torch.tensor([0, 1, 1, -1]),
)


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: fairloss.functional.sample_dice_loss(IMAGES[:, :1], MASKS), ValueError, "input: .*C >= 2"),
        (lambda: fairloss.FEBSLoss(2, num_classes=3)(IMAGES, MASKS.tolist(), IDS), TypeError, "target: .*list"),
        (
            lambda: fairloss.GroupHeads(2, in_features=4, num_classes=2)(torch.randn(4)),
            ValueError,
            r"features: .*\(N, 4",
        ),
        (lambda: fairloss.GroupHeads(2, in_features=4, num_classes=2)([1.0]), ValueError, "features: .*list"),
        (lambda: fairloss.EmbeddingQueue(0, dim=2), ValueError, "capacity: .*0"),
        (lambda: fairloss.FairCrossEntropyLoss(2, label_smoothing=1.5), ValueError, r"label_smoothing: .*1\.5"),
        (
            lambda: fairloss.MaxAccGapLoss(2)(torch.randn(2, 3), IDS, torch.tensor([0, 2])),
            ValueError,
            r"groups: .*\b2\b",
        ),
        (
            lambda: fairloss.MaxAccGapLoss(2, task="multilabel")(torch.randn(2, 3), IDS, IDS),
            ValueError,
            r"target: .*\(N, C\).*'multilabel'",
        ),
        (
            lambda: fairloss.MomentAlignmentLoss(2, num_classes=2, ignore_index=-(2**63) - 1),
            ValueError,
            "ignore_index",
        ),
    ],
)
def test_the_limit_is_named(make, error, named):
    with pytest.raises(error, match=named):
        make()


@pytest.mark.parametrize(
    ("make", "args", "named"),
    [
        (lambda: fairloss.MaxAccGapLoss(0), None, "num_groups: .*0"),
        (lambda: fairloss.MaxAccGapLoss(2.0), None, "num_groups: .*integer"),
        (lambda: fairloss.MaxAccGapLoss(()), None, "num_groups: .*(empty|least one)"),
        (lambda: fairloss.MaxAccGapLoss(2, smoothing=0), None, "smoothing"),
        (lambda: fairloss.MaxAccGapLoss(2, smoothing=float("nan")), None, "smoothing"),
        (lambda: fairloss.MaxAccGapLoss(2, task="regression"), None, "task"),
        (lambda: fairloss.MaxAccGapLoss(2, memory=8), None, "memory: .*GroupMemory"),
        (lambda: fairloss.MaxAccGapLoss(2, memory=fairloss.GroupMemory(3, capacity=8)), None, r"memory: .*\b3\b"),
        (lambda: fairloss.MaxAccGapLoss((2, 2), memory=fairloss.GroupMemory(2, capacity=8)), None, "memory: .*2 and 2"),
        (lambda: fairloss.MaxAccGapLoss(2, process_group="world"), None, "process_group"),
        (lambda: fairloss.FairCrossEntropyLoss(2, gap_weight=-1.0), None, "gap_weight: .*-1.0"),
        (lambda: fairloss.FairCrossEntropyLoss(2, gap_weight=1.0, reduction="none"), None, "reduction"),
        (lambda: fairloss.FairCrossEntropyLoss(2, group_counts=[1, 2, 3]), None, r"group_counts: .*\b3\b"),
        (lambda: fairloss.FairCrossEntropyLoss((2, 2), group_counts=[1, 2]), None, "one list per attribute"),
        (lambda: fairloss.FairCrossEntropyLoss(2, label_smoothing=1.5), None, "label_smoothing"),
        (lambda: fairloss.FairCrossEntropyLoss(2, max_weight=0.5), None, "max_weight"),
        (lambda: fairloss.InverseFrequencyWeighting([1, float("inf")]), None, "group_counts"),
        (lambda: fairloss.GroupDROLoss(2, adjustment=1.0), None, "adjustment"),
        (lambda: fairloss.GroupDROLoss(2, step_size=0), None, "step_size"),
        (lambda: fairloss.DemographicParityLoss(2, task="tokens"), None, "task"),
        (lambda: fairloss.EqualizedOddsLoss(2, agg="sum"), None, "agg"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, torch.ones(4, 3), GROUPS), "two readings.*multiclass.*multilabel"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, TARGET[:3], GROUPS), "target"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS.long(), TARGET, GROUPS), "input: .*floating"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, TARGET + 1, GROUPS), r"target: .*\b3\b"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS[:, 0], torch.tensor([0.0, 1, 0.5, 1]), GROUPS), "target: .*0.5"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, TARGET, GROUPS[:3]), r"groups: .*\b3\b"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, TARGET, GROUPS.float()), "groups: .*integer"),
        (lambda: fairloss.MaxAccGapLoss(2), (LOGITS, TARGET, GROUPS + 1), r"groups: .*\b2\b"),
        (lambda: fairloss.MaxAccGapLoss((2, 2)), (LOGITS, TARGET, GROUPS), r"groups: .*\(N, 2\)"),
        (
            lambda: fairloss.FairCrossEntropyLoss(2, weight=torch.ones(2)),
            (LOGITS, TARGET, GROUPS),
            "weight: ",
        ),
        (lambda: fairloss.FairCrossEntropyLoss(2, pos_weight=torch.ones(1)), (LOGITS, TARGET, GROUPS), "pos_weight"),
        (lambda: fairloss.LossVarianceLoss(2), (LOGITS, GROUPS), "values: .*shape"),
        (lambda: fairloss.LossVarianceLoss(2), (TARGET, GROUPS), "values: .*floating"),
        (lambda: fairloss.DemographicParityLoss(2, positive_class=3), (LOGITS, TARGET, GROUPS), "positive_class: .*3"),
        (lambda: fairloss.DemographicParityLoss(2), (torch.zeros(4, 2, 3), TARGET.new_zeros(4, 2), GROUPS), "tokens"),
    ],
)
def test_bad_input_is_named(make, args, named):
    def construct_and_call():
        loss = make()
        assert args is not None, "the constructor should have raised"
        loss(*args)

    with pytest.raises((ValueError, TypeError), match=named):
        construct_and_call()
