"""GroupMemory against a list a group."""

import pytest
import torch

import fairloss
from fairloss import GroupMemory


def filled(steps=50, num_groups=3, capacity=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    memory, lists = GroupMemory(num_groups, capacity=capacity), [[] for _ in range(num_groups)]
    kept = [0] * num_groups
    for _ in range(steps):
        n = int(torch.randint(0, 12, (), generator=generator))
        groups = torch.randint(-1, num_groups, (n,), generator=generator)
        values = torch.rand(n, generator=generator)
        memory.push(values, groups)
        for group, value in zip(groups.tolist(), values.tolist(), strict=True):
            if group >= 0:
                lists[group].append(value)
        kept = [k + min(capacity, int((groups == group).sum())) for group, k in enumerate(kept)]
    assert memory.seen.tolist() == kept
    return memory, lists


@pytest.mark.parametrize("capacity", [1, 4, 7, 100])
def test_holds_the_last_values_of_each_group(capacity):
    memory, lists = filled(capacity=capacity)
    sums, counts = memory.totals()
    for group, values in enumerate(lists):
        assert counts[group] == min(capacity, len(values))
        held, ids = memory.rows()
        assert sorted(held[ids[:, 0] == group].tolist()) == sorted(values[-capacity:])
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
    assert torch.equal(memory.to("meta").values, before)  # state has values wherever the parameters are


def test_shares_from_counts_or_from_what_was_seen():
    memory = GroupMemory(2, capacity=2)
    memory.push(torch.ones(3), torch.tensor([0, 0, 1]))
    # Two of each, one of them in a batch of one, whose weight is 1 / pi = 2.
    assert memory.scale(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([2, 2], rel=1e-3)
    given = GroupMemory(2, capacity=2, shares=[9, 1])
    assert given.scale(torch.tensor([5.0, 5.0])).tolist() == pytest.approx([1 / 0.9 / 10, 1 / 0.1 / 10])


def test_shares_follow_the_stream_and_are_capped():
    memory = GroupMemory(2, capacity=2, max_weight=5.0)
    for _ in range(100):
        memory.push(torch.ones(300), torch.tensor([0] * 270 + [1] * 30))
    one = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert memory.scale(one).tolist() == pytest.approx([1 / 0.9, 5.0], rel=1e-3)  # 10 is above the cap
    for _ in range(100):  # a sampler begins to balance: 30,000 samples are three half-lives
        memory.push(torch.ones(300), torch.tensor([0] * 150 + [1] * 150))
    assert memory.scale(one)[1].item() == pytest.approx((1 + 1 / 8) / (0.5 + 0.1 / 8), rel=1e-3)


def test_balanced_batches_pull_both_groups_alike_whatever_the_training_set_holds():
    memory = GroupMemory(2, capacity=64)
    groups = torch.tensor([0, 1] * 8)
    for _ in range(20):
        memory.push(torch.tensor([0.9, 0.4] * 8), groups)
    values = torch.tensor([0.9, 0.4] * 8, requires_grad=True)
    fairloss.functional.group_gap(values, groups, num_groups=2, memory=memory).backward()
    assert values.grad[groups == 0].sum().item() == pytest.approx(1, rel=1e-5)
    assert values.grad[groups == 1].sum().item() == pytest.approx(-1, rel=1e-5)


def test_several_attributes_have_buffers_of_their_own():
    generator = torch.Generator().manual_seed(0)
    both, alone = GroupMemory((3, 2), capacity=4), [GroupMemory(3, capacity=4), GroupMemory(2, capacity=4)]
    for _ in range(5):
        values = torch.rand(6, generator=generator)
        groups = torch.stack([torch.randint(-1, g, (6,), generator=generator) for g in (3, 2)], 1)
        both.push(values, groups)
        for memory, ids in zip(alone, groups.unbind(1), strict=True):
            memory.push(values, ids)
    counts = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0])
    for name in ("values", "seen", "stream"):
        assert torch.equal(getattr(both, name), torch.cat([getattr(memory, name) for memory in alone]))
    expected = [memory.scale(part) for memory, part in zip(alone, counts.split([3, 2]), strict=True)]
    assert torch.equal(both.scale(counts), torch.cat(expected))
    values, ids = both.rows()
    for k, memory in enumerate(alone):
        held, held_ids = memory.rows()
        mine = ids[:, k] >= 0
        assert torch.equal(values[mine], held[held_ids[:, 0] >= 0])
        assert torch.equal(ids[mine, k], held_ids[held_ids[:, 0] >= 0, 0])


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
        ({"num_groups": 0, "capacity": 2}, "num_groups"),
        ({"num_groups": 2, "capacity": 0}, "capacity"),
        ({"num_groups": 2, "capacity": 2, "shares": [1]}, "shares"),
        ({"num_groups": 2, "capacity": 2, "shares": [0, 0]}, "shares"),
        ({"num_groups": 2, "capacity": 2, "shares": [-1, 2]}, "shares"),
        ({"num_groups": (2, 3), "capacity": 2, "shares": [1, 2]}, "shares: .*one list per attribute"),
        ({"num_groups": 2, "capacity": 2, "max_weight": 0.5}, "max_weight"),
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
    assert sorted(memory.rows()[0].tolist()) == [2.0, 3.0]
    queue = fairloss.EmbeddingQueue(1, dim=2)
    queue.push(torch.eye(2), torch.tensor([4, 5]), torch.tensor([0, 1]))
    assert queue.rows(ignore_index=-100)[1].tolist() == [5]
