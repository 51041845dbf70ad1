"""Samplers: what an epoch and a batch hold, ranks, seeds, resuming."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

import fairloss
from fairloss import BalancedGroupSampler, GroupBatchSampler

SIZES = {(0, 0): 100, (0, 1): 40, (1, 0): 21, (1, 1): 3}


def attributes(unknown=7):
    rows = [key for key, size in SIZES.items() for _ in range(size)] + [(-1, 0), (1, -1)] * unknown
    return np.random.default_rng(0).permutation(np.array(rows))


def strata_counts(groups, indices):
    return Counter(tuple(groups[i]) for i in indices)


def test_small_strata_grow_to_the_promised_size():
    groups = attributes()
    target = int(1.5 * np.median(list(SIZES.values())))  # 45
    sampler = BalancedGroupSampler(groups)
    order = list(sampler)
    counts = strata_counts(groups, order)
    for key, size in SIZES.items():
        assert counts[key] == max(size, target)
    assert counts[-1, 0] == counts[1, -1] == 7
    assert len(order) == len(sampler) == 100 + 3 * 45 + 14
    times = Counter(order)
    assert set(times) == set(range(len(groups)))
    for key, size in SIZES.items():
        each = [times[i] for i in range(len(groups)) if tuple(groups[i]) == key]
        assert min(each) >= max(size, target) // size
        assert max(each) <= -(-max(size, target) // size)


def test_down_sampling_makes_strata_equal_and_repeats_have_a_limit():
    groups = attributes()
    counts = strata_counts(groups, BalancedGroupSampler(groups, downsample=True))
    assert [counts[key] for key in SIZES] == [45] * 4
    limited = BalancedGroupSampler(groups, downsample=True, max_repeats=2)
    order = list(limited)
    counts = strata_counts(groups, order)
    assert [counts[key] for key in SIZES] == [45, 45, 42, 6]
    assert max(Counter(order).values()) == 2
    assert limited.epoch_counts.sum() + 14 == len(order)


def test_equal_strata_are_left_alone():
    sampler = BalancedGroupSampler([0, 1, 2] * 10)
    assert sorted(sampler) == list(range(30))


def test_which_majority_samples_are_left_out_changes():
    groups = [0] * 50 + [1] * 10
    sampler = BalancedGroupSampler(groups, max_ratio=0.5, downsample=True)
    epochs = [set(sampler) for _ in range(30)]
    assert len(epochs[0]) < 60
    assert set.union(*epochs) == set(range(60))


@pytest.mark.parametrize("drop_last", [False, True])
def test_two_ranks_partition_a_balanced_epoch(drop_last):
    groups = attributes()
    whole = list(BalancedGroupSampler(groups))  # 249 samples, odd
    ranks = [list(BalancedGroupSampler(groups, num_replicas=2, rank=r, drop_last=drop_last)) for r in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == (124 if drop_last else 125)
    joined = [i for pair in zip(*ranks, strict=True) for i in pair]
    assert joined[:248] == whole[:248]
    assert joined[248:] == ([] if drop_last else [whole[248], whole[0]])


def test_every_batch_holds_its_minimum():
    groups = attributes()
    sampler = GroupBatchSampler(groups, batch_size=16, min_per_group=2)
    epochs = [list(sampler) for _ in range(5)]
    times = Counter()
    for batches in epochs:
        assert len(batches) == len(sampler) == len(groups) // 16
        for batch in batches:
            assert len(batch) == 16
            counts = strata_counts(groups, batch)
            assert all(counts[key] >= 2 for key in SIZES)
            assert len(set(batch)) == 16  # every stratum has at least 2 samples
        flat = Counter(i for batch in batches for i in batch)
        for i, count in flat.items():
            # A stratum of at least 2 a batch (22) gives a sample once; one of 3 gives each 7 or 8 of 22 places.
            key = tuple(groups[i])
            places = 2 * len(batches)
            assert count <= (1 if key not in SIZES or SIZES[key] >= places else -(-places // SIZES[key]))
        times.update(flat)
    assert set(times) == set(range(len(groups)))  # nothing waits for ever


def test_a_stratum_below_the_minimum_repeats():
    batches = list(GroupBatchSampler([0] * 20 + [1], batch_size=4, min_per_group=2))
    assert len(batches) == 5
    assert all(batch.count(20) == 2 for batch in batches)


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_a_batch_repeats_no_sample_where_permutations_meet(size):
    for seed in range(20):
        for batch in GroupBatchSampler([0] * 60 + [1] * size, batch_size=5, min_per_group=2, seed=seed):
            assert len(set(batch)) == 5


def test_two_ranks_partition_the_batches():
    groups = attributes()
    ranks = [list(GroupBatchSampler(groups, batch_size=16, min_per_group=2, num_replicas=2, rank=r)) for r in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == len(groups) // 16 // 2
    # Ten of eleven possible batches; no sample of a large stratum is on both ranks.
    both = Counter(i for r in ranks for batch in r for i in batch)
    assert all(n == 1 for i, n in both.items() if SIZES.get(tuple(groups[i]), 0) >= 21)
    assert all(strata_counts(groups, b)[key] >= 2 for r in ranks for b in r for key in SIZES)
    even = attributes(unknown=6)  # 176 samples, 16 batches of 11: the same number for one rank and two
    whole = list(GroupBatchSampler(even, batch_size=11, min_per_group=2))
    ranks = [list(GroupBatchSampler(even, batch_size=11, min_per_group=2, num_replicas=2, rank=r)) for r in (0, 1)]
    assert [b for pair in zip(*ranks, strict=True) for b in pair] == whole


def balanced(**options):
    return BalancedGroupSampler(attributes(), **options)


def batches(**options):
    return GroupBatchSampler(attributes(), batch_size=16, min_per_group=2, **options)


@pytest.mark.parametrize("make", [balanced, batches])
def test_same_seed_and_epoch_same_order(make):
    one, two = make(seed=3), make(seed=3)
    first, second = list(one), list(one)
    assert first != second  # the epoch advanced by itself
    assert list(two) == first
    two.set_epoch(0)
    assert list(two) == first
    two.set_epoch(1)
    assert list(two) == second
    assert list(make(seed=4)) != first
    torch.manual_seed(0)
    assert list(make(seed=3)) == first


@pytest.mark.parametrize("make", [balanced, batches])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_resumed_sampler_continues_where_it_was(make, replicas):
    options = {"num_replicas": replicas, "rank": replicas - 1, "seed": 5}
    reference = make(**options)
    epochs = [list(reference) for _ in range(4)]
    running = make(**options)
    list(running)
    iterator = iter(running)
    head = [next(iterator) for _ in range(4)]
    assert head == epochs[1][:4]
    state = running.state_dict()
    for set_epoch in (False, True):
        resumed = make(num_replicas=replicas, rank=replicas - 1)
        resumed.load_state_dict(state)
        if set_epoch:
            resumed.set_epoch(1)
        assert list(resumed) == epochs[1][4:]
        assert list(resumed) == epochs[2]
    # Between epochs, and one that drew ahead of the loop.
    resumed.load_state_dict(reference.state_dict(epoch=3, position=0))
    assert list(resumed) == epochs[3]
    resumed.load_state_dict(reference.state_dict(epoch=2, position=3))
    assert list(resumed) == epochs[2][3:]
    resumed.load_state_dict(state)
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]


def test_a_loop_left_early_starts_again():
    sampler = balanced()
    first = list(balanced())
    next(iter(sampler))
    assert list(sampler) == first


def test_states_of_another_data_set_are_refused():
    sampler = balanced()
    for other in (BalancedGroupSampler([0, 1, 1]), balanced(num_replicas=2), balanced(downsample=True)):
        with pytest.raises(ValueError, match="state"):
            sampler.load_state_dict(other.state_dict(epoch=5))
    with pytest.raises(ValueError, match="position"):
        sampler.load_state_dict(sampler.state_dict(position=10**6))
    assert sampler.epoch == 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (None, "state: .*state_dict"),
        ([1], "state: .*state_dict"),
        ({"position": "3"}, r"state\['position'\]: .*integer"),
        ({"epoch": None}, r"state\['epoch'\]: .*integer"),
        ({"seed": -1}, r"state\['seed'\]: .*-1"),
        ("epoch", "state: .*epoch"),
        ("num_samples", "state: .*num_samples.*None"),
    ],
)
def test_what_is_no_state_is_refused(change, match):
    sampler = balanced()
    before = state = sampler.state_dict(epoch=2, position=3)
    sampler.load_state_dict(before)
    if isinstance(change, str):
        state = {name: value for name, value in before.items() if name != change}
    else:
        state = {**before, **change} if isinstance(change, dict) else change
    with pytest.raises((TypeError, ValueError), match=match):
        sampler.load_state_dict(state)
    assert sampler.state_dict() == before


def test_with_a_data_loader():
    data = list(range(len(attributes())))
    order = [int(i) for batch in DataLoader(data, batch_size=8, sampler=balanced()) for i in batch]
    assert order == list(balanced())
    loader = DataLoader(data, batch_sampler=batches())
    assert len(loader) == len(batches())
    assert [batch.tolist() for batch in loader] == list(batches())


def test_ids_of_any_kind():
    groups = [0, 0, 0, 1, 1, 2]
    expected = list(BalancedGroupSampler(groups))
    for other in (torch.tensor(groups), np.array(groups, dtype=np.uint8), pd.Series(groups), np.array(groups)[:, None]):
        assert list(BalancedGroupSampler(other)) == expected
    assert sorted(BalancedGroupSampler([-1, -1])) == [0, 1]


def test_errors_name_the_argument():
    for arguments, named in [
        (([0.5, 1.0],), "groups: .*integer"),
        (([],), "groups: .*shape"),
        (([0, -2],), "groups: .*-2"),
        ((["a", "b"],), "groups: .*integer"),
    ]:
        with pytest.raises((TypeError, ValueError), match=named):
            BalancedGroupSampler(*arguments)
    for options in ({"max_ratio": 0}, {"max_repeats": 0}, {"num_replicas": 0}, {"rank": 1}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            BalancedGroupSampler([0, 1], **options)
    with pytest.raises(ValueError, match=r"batch_size: .*\b4\b"):
        GroupBatchSampler([0, 1] * 4, batch_size=3, min_per_group=2)
    with pytest.raises(ValueError, match=r"batch_size: .*\b16\b"):
        GroupBatchSampler([0, 1] * 4, batch_size=8, num_replicas=2)
    with pytest.raises(TypeError, match="epoch"):
        balanced().set_epoch(0.5)


def test_ragged_ids_name_the_groups():
    with pytest.raises(ValueError, match="groups: "):
        fairloss.BalancedGroupSampler([[0, 1], [0]])


def test_an_epoch_starts_at_its_first_position():
    sampler = fairloss.BalancedGroupSampler([0, 1, 1])
    sampler.set_epoch(3)
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["position"]) == (3, 0)
    assert len(list(sampler)) == len(sampler)


def test_one_repeat_is_a_limit():
    sampler = fairloss.BalancedGroupSampler([0] * 8 + [1] * 2, max_ratio=1.0, max_repeats=1)
    assert sorted(sampler) == list(range(10))


def test_a_position_before_the_first_is_refused():
    sampler = fairloss.BalancedGroupSampler([0, 1, 1])
    with pytest.raises(ValueError, match="position.*-1"):
        sampler.load_state_dict({**sampler.state_dict(), "position": -1})


def test_a_rank_beyond_the_replicas_is_refused():
    with pytest.raises(ValueError, match=r"rank: .*\b2\b"):
        fairloss.BalancedGroupSampler([0, 1], rank=2, num_replicas=2)
