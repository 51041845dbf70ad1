"""Groups: encoded, intersected, sampled, from any labels and ids."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st

import fairloss
from fairloss import functional as ff
from fairloss.groups.encode import GroupLabelWarning
from tests.fuzz.batches import EXAMPLE, ids_like
from tests.fuzz.drawing import fuzz, refused
from tests.oracles import labels as oracle

COUNTS = st.lists(st.one_of(st.integers(-1, 100), st.floats(allow_nan=True, allow_infinity=True, width=32)), max_size=5)


@fuzz("fairloss.functional.inverse_frequency_weights", counts=COUNTS, cap=st.one_of(st.floats(), st.just(None)))
def test_inverse_frequency_weights(counts, cap):
    try:
        weights = ff.inverse_frequency_weights(counts, max_weight=cap).tolist()
    except (ValueError, TypeError) as error:
        refused(error, "group_counts|max_weight")
        return
    raw = [min(sum(counts) / c, cap) if c else cap for c in counts]
    mean = sum(c / sum(counts) * w for c, w in zip(counts, raw, strict=True))
    np.testing.assert_allclose(weights, [w / mean for w in raw], rtol=1e-9)
    assert all(map(math.isfinite, weights))


@fuzz(
    "fairloss.intersect_groups",
    example=EXAMPLE,
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    bad=st.sampled_from(("fine", "fine", "float", "none", "past_end", "columns", "size")),
)
def test_intersect_groups(example, sizes, bad):
    generator = torch.Generator().manual_seed(example.seed)
    ids = torch.stack([ids_like(example.groups, example.n, (k,), generator).clamp(max=k - 1) for k in sizes], 1)
    argument = {
        "float": ids.double(),
        "none": None,
        "columns": torch.cat([ids, ids], 1),
        "past_end": torch.cat([ids, torch.tensor([list(sizes)])]),
    }.get(bad, ids)
    if bad not in ("fine",):
        with pytest.raises((ValueError, TypeError), match="groups"):
            fairloss.intersect_groups(argument, num_groups=[0, *sizes] if bad == "size" else sizes)
        return
    joint, count = fairloss.intersect_groups(ids, num_groups=sizes)
    assert count == math.prod(sizes)
    for row, j in zip(ids.tolist(), joint.tolist(), strict=True):
        expected = 0
        for k, size in zip(row, sizes, strict=True):
            expected = expected * size + k
        assert j == (-1 if min(row) < 0 else expected)


def sampler_oracle_counts(groups, max_ratio, downsample):
    known = [g for g in groups if g >= 0]
    sizes = [known.count(g) for g in sorted(set(known))]
    if not sizes:
        return []
    t = max(1, min(int(max_ratio * float(np.median(sizes))), max(sizes)))
    return [t if downsample else max(n, t) for n in sizes]


@fuzz(
    "fairloss.BalancedGroupSampler",
    groups=st.lists(st.integers(-2, 3), max_size=12),
    max_ratio=st.sampled_from((0.5, 1.0, 1.5, 100.0, 0.0, -1.0, math.nan, "2")),
    downsample=st.booleans(),
    replicas=st.integers(-1, 3),
    seed=st.integers(-1, 2**40),
)
def test_balanced_sampler(groups, max_ratio, downsample, replicas, seed):
    options = {"max_ratio": max_ratio, "downsample": downsample, "num_replicas": replicas, "seed": seed}
    wrong = not groups or min(groups) < -1 or max_ratio not in (0.5, 1.0, 1.5, 100.0) or replicas < 1 or seed < 0
    if wrong:
        with pytest.raises((ValueError, TypeError), match="groups|max_ratio|num_replicas|seed"):
            fairloss.BalancedGroupSampler(groups, **options)
        return
    samplers = [fairloss.BalancedGroupSampler(groups, **options, rank=r) for r in range(replicas)]
    counts = sampler_oracle_counts(groups, max_ratio, downsample)
    assert samplers[0].epoch_counts.tolist() == counts
    drawn = [list(s) for s in samplers]
    assert len({len(d) for d in drawn}) == 1
    drawn = [i for d in zip(*drawn, strict=True) for i in d][: sum(counts) + groups.count(-1)]
    for g, count in zip(sorted(set(groups) - {-1}), counts, strict=True):
        assert sum(groups[i] == g for i in drawn) == count
    assert sorted(i for i in drawn if groups[i] < 0) == [i for i, g in enumerate(groups) if g < 0]


@fuzz(
    "fairloss.GroupBatchSampler",
    groups=st.lists(st.integers(-2, 3), max_size=12),
    batch_size=st.integers(-1, 9),
    minimum=st.integers(0, 3),
    replicas=st.integers(1, 2),
    seed=st.integers(0, 2**40),
)
def test_batch_sampler(groups, batch_size, minimum, replicas, seed):
    wrong = not groups or min(groups) < -1 or batch_size < 1 or minimum < 1
    wrong |= batch_size < minimum * len(set(groups) - {-1}) or len(groups) < batch_size * replicas
    options = {"batch_size": batch_size, "min_per_group": minimum, "num_replicas": replicas, "seed": seed}
    try:
        samplers = [fairloss.GroupBatchSampler(groups, **options, rank=r) for r in range(replicas)]
    except (ValueError, TypeError) as error:
        refused(error, "^(groups|batch_size|min_per_group):")
        assert wrong
        return
    assert not wrong
    for sampler in samplers:
        for batch in sampler:
            assert len(batch) == batch_size
            assert all(sum(groups[i] == g for i in batch) >= minimum for g in set(groups) - {-1})


LABELS = st.one_of(
    st.sampled_from(["F", "M", "f", "M ", "", "  ", None, math.nan, 1, 0, -1, -2, "-1", "1", "1.0", "007", True, 1.5]),
    st.sampled_from(["NA", "nan", " None", "n/a", "<40", "40-59", "100+", b"x", (1, 2), float("inf")]),
    st.text(max_size=2),
)
NUMBERS = st.one_of(st.integers(-1, 40), st.floats(-2, 40, width=16), st.sampled_from([None, math.nan, "", "33"]))


@fuzz(
    "fairloss.encode_groups",
    "fairloss.metrics.GroupLabelWarning",
    labels=st.one_of(
        st.lists(LABELS, max_size=8),
        st.lists(NUMBERS, max_size=30),
        st.sampled_from(["FM", None, 3, [[1, 2]], [{}], {"F": 0}, {"F", "M"}]),
    ),
    categories=st.one_of(st.none(), st.none(), st.lists(LABELS, max_size=4)),
    unknown=st.lists(LABELS, max_size=2),
    known=st.lists(LABELS, max_size=1),
    bins=st.sampled_from(("raise", "raise", None, [1, 20], [0.5], [3, 3], [], 4, "auto")),
    boxed=st.sampled_from((list, tuple, pd.Series, lambda v: pd.Series(v, dtype=object))),
)
def test_encode_groups(labels, categories, unknown, known, bins, boxed):
    boxed = boxed if isinstance(labels, list) and not any(isinstance(v, (tuple, list, dict)) for v in labels) else list
    given = boxed(labels) if isinstance(labels, list) else labels
    known_or_listed = [*known, *(categories or ())]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GroupLabelWarning)
            codes = fairloss.encode_groups(given, categories=categories, unknown=unknown, known=known, bins=bins)
    except (ValueError, TypeError) as error:
        refused(error, "^(labels|categories|unknown|known|bins):")
        listed = isinstance(labels, list) and not any(isinstance(v, (list, dict)) for v in labels)
        if any(k is None or k != k for k in known) or set(known) & set(unknown):
            return
        if listed and categories is None and bins in ("raise", None, [1, 20], [0.5]):
            with pytest.raises(oracle.Refused):
                oracle.groups(labels, unknown, known, bins, column=not isinstance(given, (list, tuple)))
        return
    column = not isinstance(given, (list, tuple)) and categories is None
    groups = oracle.groups(labels, unknown, known_or_listed, None if categories and bins == "raise" else bins, column)
    assert [i >= 0 for i in codes.ids.tolist()] == [g is not None for g in groups]
    if bins in ("raise", None):
        assert codes.decode(codes.ids) == groups
    elif categories is None:
        assert codes.ids.tolist() == [-1 if g is None else g for g in groups]
        assert codes.num_groups == len(bins) + 1
