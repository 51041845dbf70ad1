"""Controllers of a penalty's weight: their steps by hand, their state, and one compiled step for all weights."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from fairloss import DemographicParityLoss
from fairloss.training import AccuracyBudget, GapTarget

BATCH = torch.tensor([2.0, 1.0, -1.0, -2.0]), torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 1])


def test_the_weight_grows_within_the_budget_and_shrinks_beyond_it():
    penalty = AccuracyBudget(DemographicParityLoss(2), reference=(0.8, 0.7), weight=0.1, factor=2.0, max_weight=0.3)
    penalty.update(accuracy=0.795, balanced_accuracy=0.7)
    assert float(penalty.weight) == pytest.approx(0.2)
    penalty.update(accuracy=0.79, balanced_accuracy=0.69)
    assert float(penalty.weight) == pytest.approx(0.3)  # not 0.4
    penalty.update(accuracy=0.81, balanced_accuracy=0.68)  # accuracy alone would not notice
    assert float(penalty.weight) == pytest.approx(0.15)
    penalty.update(accuracy=0.78, balanced_accuracy=0.71)
    assert float(penalty.weight) == pytest.approx(0.075)


def test_the_value_is_the_weight_times_the_penalty():
    loss = DemographicParityLoss(2)
    penalty = AccuracyBudget(loss, reference=(0.8, 0.7), weight=0.25)
    logits = BATCH[0].clone().requires_grad_()
    value = penalty(logits, *BATCH[1:])
    value.backward()
    plain = BATCH[0].clone().requires_grad_()
    loss(plain, *BATCH[1:]).backward()
    torch.testing.assert_close(value.detach(), 0.25 * loss(*BATCH))
    torch.testing.assert_close(logits.grad, 0.25 * plain.grad)


def test_a_gap_above_its_bound_raises_the_weight_and_below_lowers_it_to_zero():
    penalty = GapTarget(DemographicParityLoss(2), epsilon=0.1, step_size=0.5, max_weight=0.3)
    for gap, expected in ((0.3, 0.1), (0.2, 0.15), (0.6, 0.3), (0.0, 0.25), (0.0, 0.2)):
        penalty.update(gap=gap)
        assert float(penalty.weight) == pytest.approx(expected)
    for _ in range(10):
        penalty.update(gap=0.0)
    assert float(penalty.weight) == 0.0


def test_the_weight_is_saved_and_never_rounded():
    penalty = GapTarget(DemographicParityLoss(2), epsilon=0.0, weight=0.123456789)
    other = GapTarget(DemographicParityLoss(2), epsilon=0.0)
    other.load_state_dict(penalty.half().state_dict())
    assert float(other.weight) == 0.123456789


def test_a_compiled_step_is_compiled_once():
    penalty = GapTarget(DemographicParityLoss(2), epsilon=0.05)
    counted = CompileCounter()
    step = torch.compile(penalty, backend=counted, fullgraph=True)
    values = []
    for _ in range(3):
        penalty.update(gap=0.5)
        values.append(float(step(*BATCH)))
    assert counted.frame_count == 1
    assert values[1] == pytest.approx(2 * values[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: AccuracyBudget(p, reference=(80.0, 70.0)), "reference: expected"),
        (lambda p: AccuracyBudget(p, reference=(0.8, 0.7), factor=1.0), "factor: expected"),
        (lambda p: AccuracyBudget(p, reference=(0.8, 0.7), weight=0.0), "weight: expected"),
        (lambda p: GapTarget(p, epsilon=-0.1), "epsilon: expected"),
        (lambda p: GapTarget(p, epsilon=0.1, weight=5.0), "max_weight: expected"),
        (lambda p: GapTarget(p, epsilon=0.1).update(gap=30.0), "gap: expected"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make(DemographicParityLoss(2))
