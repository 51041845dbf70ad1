"""GroupMemory against a list a group."""

import pytest
import torch

import fairloss
from fairloss import GroupMemory


def filled(steps=50, num_groups=3, capacity=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    memory, lists = GroupMemory(num_groups, capacity=capacity), [[] for _ in range(num_groups)]
    for _ in range(steps):
        n = int(torch.randint(0, 12, (), generator=generator))
        groups = torch.randint(-1, num_groups, (n,), generator=generator)
        values = torch.rand(n, generator=generator)
        memory.push(values, groups)
        for group, value in zip(groups.tolist(), values.tolist(), strict=True):
            if group >= 0:
                lists[group].append(value)
    return memory, lists


@pytest.mark.parametrize("capacity", [1, 4, 7, 100])
def test_holds_the_last_values_of_each_group(capacity):
    memory, lists = filled(capacity=capacity)
    sums, counts = memory.totals()
    for group, values in enumerate(lists):
        assert counts[group] == min(capacity, len(values))
        assert memory.seen[group] == len(values)
        held = sorted(memory.values[group, : len(values)].tolist())
        assert held == sorted(values[-capacity:])
        assert sums[group] == pytest.approx(sum(values[-capacity:]), rel=1e-5)


def test_state_dict_restores_values_and_pointers_bit_for_bit():
    memory, _ = filled()
    other = GroupMemory(3, capacity=4)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.values, memory.values)
    for m in (memory, other):
        m.push(torch.tensor([0.25, 0.5]), torch.tensor([1, 1]))
    assert torch.equal(other.values, memory.values)
    assert torch.equal(other.seen, memory.seen)


def test_another_layout_is_refused_before_anything_changes():
    memory, _ = filled()
    other = GroupMemory(4, capacity=3)
    with pytest.raises(ValueError, match="layout"):
        other.load_state_dict(memory.state_dict())
    assert other.seen.sum() == 0


def test_casts_leave_the_values_in_float32():
    memory, _ = filled()
    before = memory.values.clone()
    memory.bfloat16().double().half()
    assert memory.values.dtype == torch.float32
    assert torch.equal(memory.values, before)
    assert memory.to("meta").values.device.type == "meta"


def test_shares_from_counts_or_from_what_was_seen():
    memory = GroupMemory(2, capacity=2)
    memory.push(torch.ones(3), torch.tensor([0, 0, 1]))
    assert memory.shares(torch.tensor([0.0, 1.0])).tolist() == [0.5, 0.5]
    assert GroupMemory(2, capacity=2, group_counts=[9, 1]).shares(torch.tensor([5.0, 5.0])).tolist() == pytest.approx(
        [0.9, 0.1]
    )


def test_bad_input_changes_nothing():
    memory, _ = filled()
    before = memory.get_extra_state()
    for values, groups, named in [
        (torch.ones(2), torch.tensor([0, 3]), r"groups: .*\b3\b"),
        (torch.ones(2), torch.tensor([0, -2]), "groups: .*-2"),
        (torch.ones(2), torch.tensor([0.0, 1.0]), "groups: .*integer"),
        (torch.ones(2), torch.tensor([0]), r"groups: .*\b1\b"),
        (torch.ones(2, 1), torch.tensor([0, 1]), "values"),
        ([1.0], torch.tensor([0]), "values"),
    ]:
        with pytest.raises((ValueError, TypeError), match=named):
            memory.push(values, groups)
    assert torch.equal(memory.get_extra_state(), before)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"num_groups": (2, 3), "capacity": 2}, "intersect_groups"),
        ({"num_groups": 0, "capacity": 2}, "num_groups"),
        ({"num_groups": 2, "capacity": 0}, "capacity"),
        ({"num_groups": 2, "capacity": 2, "group_counts": [1]}, "group_counts"),
        ({"num_groups": 2, "capacity": 2, "group_counts": [0, 0]}, "group_counts"),
        ({"num_groups": 2, "capacity": 2, "group_counts": [-1, 2]}, "group_counts"),
    ],
)
def test_bad_arguments_are_named(kwargs, named):
    with pytest.raises(ValueError, match=named):
        GroupMemory(**kwargs)


def test_evaluation_and_half_precision_leave_the_memory_as_it_is():
    """There, evaluation enqueues, and one half-precision batch makes the whole bank half precision."""
    memory = fairloss.GroupMemory(2, capacity=3)
    loss = fairloss.MaxAccGapLoss(2, memory=memory)
    logits, target, groups = torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 0, 1])
    loss.eval()(logits.requires_grad_(), target, groups)
    with torch.no_grad():
        loss.train()(logits, target, groups)
    assert memory.seen.sum() == 0
    loss.half()(logits.half(), target, groups)
    assert memory.values.dtype == torch.float32
    assert memory.seen.tolist() == [2, 2]


def test_a_batch_longer_than_the_memory():
    """There it fails an assertion."""
    memory = fairloss.GroupMemory(1, capacity=2)
    memory.push(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, dtype=torch.int64))
    assert sorted(memory.values[0].tolist()) == [2.0, 3.0]
    queue = fairloss.EmbeddingQueue(1, dim=2)
    queue.push(torch.eye(2), torch.tensor([4, 5]), torch.tensor([0, 1]))
    assert queue.labels.tolist() == [5]
