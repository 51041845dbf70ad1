"""Public functions and modules on tensors that are no contract case, on hostile batches; see ``tests/fuzz/batches.py``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import fairloss
from fairloss import functional as ff
from tests.fuzz.batches import EXAMPLE, Target, check, ids_like, same, state_of
from tests.fuzz.drawing import fuzz
from tests.oracles import fairdi as oracles_fairdi
from tests.oracles import losses as oracles

ANY_LABEL = frozenset(("target", how) for how in ("past_end", "large", "below", "lowest"))


def values(name="values", low=0.0):
    def draw(generator, n, dtype):
        x = low + (3 - low) * torch.rand(n, generator=generator, dtype=torch.float64)
        return {name: x.to(dtype), "groups": torch.zeros(n, dtype=torch.int64)}

    return draw


def masks(with_groups):
    def draw(generator, n, dtype):
        out = {
            "input": torch.randn(n, 3, 2, 2, generator=generator, dtype=torch.float64).to(dtype),
            "target": torch.randint(0, 3, (n, 2, 2), generator=generator),
        }
        return {**out, "groups": torch.zeros(n, dtype=torch.int64)} if with_groups else out

    return draw


def per_group(generator, n, dtype):
    table = torch.randn(3, n, 2, generator=generator, dtype=torch.float64).to(dtype)
    return {"per_group": table, "groups": torch.zeros(n, dtype=torch.int64)}


def routed(per_group, groups):
    return [per_group[:, i].mean(0) if g < 0 else per_group[g, i] for i, g in enumerate(groups)]


def logits_and_labels(generator, n, dtype):
    target = torch.randint(0, 3, (n,), generator=generator)
    return {"input": torch.randn(n, 3, generator=generator, dtype=torch.float64).to(dtype), "target": target}


def two_embeddings(generator, n, dtype):
    z = torch.randn(n, 4, generator=generator, dtype=torch.float64).to(dtype)
    e = torch.randn(3, 4, generator=generator, dtype=torch.float64).to(dtype)
    return {"embeddings": z, "concepts": e, "target": torch.randint(0, 3, (n,), generator=generator)}


def concept_oracle(embeddings, concepts, target):
    z, e = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in (embeddings, concepts))
    terms = [oracles.softmax(z[i] @ e.T / 0.07)[t] for i, t in enumerate(target)]
    return float(np.mean([-math.log(p) if p > 0 else math.inf for p in terms]))


def distances_oracle(losses, groups):
    known = losses[groups >= 0]
    return [
        oracles_fairdi.quantile_integral(losses[groups == g], known, 2) / 2 if (groups == g).any() else 0.0
        for g in range(3)
    ]


def group_dice_oracle(input, target, groups):
    out = np.zeros((3, 3))
    for g in range(3):
        at = groups == g
        if at.any():
            p = np.exp(input[at] - input[at].max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            t = np.stack([target[at] == c for c in range(3)], 1).astype(float)
            inter, square, true = ((x).sum((0, 2, 3)) for x in (p * t, p * p, t))
            out[g] = 1 - (2 * inter + 1e-5) / (square + true + 1e-5)
    return out


def sample_dice_oracle(input, target):
    rows = [
        group_dice_oracle(input[i : i + 1], target[i : i + 1], np.zeros(1, dtype=int))[0] for i in range(len(input))
    ]
    return np.mean(rows, axis=1)


SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)

FUNCTIONS = {
    "group_gap": Target(
        "group_gap", lambda **b: ff.group_gap(**b, num_groups=3), values(), oracles.group_gap, ("values",)
    ),
    "fis_weights": Target(
        "fis_weights",
        lambda **b: ff.fis_weights(**b, num_groups=3, variant="released"),
        values(),
        None,
        ("values",),
    ),
    "group_dro": Target(
        "group_dro",
        lambda **b: ff.group_dro(**b, q=Q),
        values(),
        lambda values, groups: sum(Q[g] * m for g, m in oracles.group_means(list(values), groups).items()),
        ("values",),
    ),
    "transport_distances": Target(
        "transport_distances",
        lambda **b: ff.transport_distances(**b, num_groups=3),
        values(),
        lambda values, groups: distances_oracle(values, groups),
        ("values",),
        huge=1e15,
    ),
    "route_by_group": Target(
        "route_by_group",
        ff.route_by_group,
        per_group,
        routed,
        ("per_group",),
        bad=frozenset({("per_group", "longer"), ("per_group", "deeper")}),  # a group more; one group of one sample
    ),
    "sample_likelihood": Target(
        "sample_likelihood",
        lambda **b: ff.sample_likelihood(**b),
        logits_and_labels,
        lambda input, target: oracles.likelihoods(input, target, "multiclass"),
        bad=frozenset({("target", "fractions"), ("target", "bool")}),
    ),
    "sample_dice_loss": Target("sample_dice_loss", ff.sample_dice_loss, masks(False), sample_dice_oracle),
    "group_dice_loss": Target(
        "group_dice_loss",
        lambda **b: ff.group_dice_loss(**b, num_groups=3),
        masks(True),
        group_dice_oracle,
    ),
    "concept_alignment": Target(
        "concept_alignment",
        ff.concept_alignment,
        two_embeddings,
        None,
        ("embeddings", "concepts"),
        bad=frozenset({("concepts", "longer")}),  # a concept more
    ),
    "gradient_reversal": Target(
        "gradient_reversal",
        lambda x: ff.gradient_reversal(x, scale=0.5),
        lambda generator, n, dtype: {"x": torch.randn(n, 3, generator=generator, dtype=torch.float64).to(dtype)},
        lambda x: x,
        ("x",),
        # Rows, columns and devices are nothing to it.
        bad=frozenset(("x", how) for how in ("scalar", "longer", "deeper", "meta")),
    ),
}
HEADS = fairloss.GroupHeads(3, in_features=2, num_classes=4)
WARM_MEMORY, WARM_QUEUE = fairloss.GroupMemory(3, capacity=4), fairloss.EmbeddingQueue(5, dim=4)
WARM_MEMORY.push(torch.arange(6.0), torch.tensor([0, 1, 2, 0, 1, -1]))
WARM_QUEUE.push(torch.eye(4), torch.arange(4), torch.tensor([0, 1, 2, -1]))


def queue_rows(generator, n, dtype):
    batch = two_embeddings(generator, n, dtype)
    return {"embeddings": batch["embeddings"], "labels": batch["target"], "groups": torch.zeros(n, dtype=torch.int64)}


FREE = frozenset(("labels", how) for how in ("past_end", "large", "below", "lowest"))
MODULES = {
    "ConceptAlignmentLoss": Target(
        "ConceptAlignmentLoss",
        fairloss.ConceptAlignmentLoss(temperature=0.5),
        two_embeddings,
        None,
        ("embeddings", "concepts"),
        bad=frozenset({("concepts", "longer")}),  # a concept more
    ),
    "GradientReversal": Target(
        "GradientReversal",
        fairloss.GradientReversal(2.0),
        FUNCTIONS["gradient_reversal"].draw,
        lambda x: x,
        ("x",),
        bad=FUNCTIONS["gradient_reversal"].bad,
    ),
    "GroupHeads": Target(
        "GroupHeads",
        HEADS,
        lambda generator, n, dtype: {
            "features": torch.randn(n, 2, generator=generator, dtype=torch.float64).to(dtype),
            "groups": torch.zeros(n, dtype=torch.int64),
        },
        None,
        ("features",),
        # Without ids all heads answer; more dimensions are pixels.
        bad=frozenset({("groups", "none"), ("features", "deeper")}),
        huge=1e4,
        # Rows in the dtype of the parameters alone, as ``nn.Linear``.
        dtypes=(torch.float32,),
    ),
    "GroupMemory": Target(
        "GroupMemory", WARM_MEMORY.push, values(), None, ("values",), gradients=(), module=WARM_MEMORY
    ),
    "EmbeddingQueue": Target(
        "EmbeddingQueue",
        WARM_QUEUE.push,
        queue_rows,
        None,
        ("embeddings",),
        gradients=(),
        module=WARM_QUEUE,
        free_ids=True,
        bad=FREE,
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@fuzz(*(f"fairloss.functional.{name}" for name in FUNCTIONS), example=EXAMPLE)
def test_function(name, example):
    check(FUNCTIONS[name], example)


@pytest.mark.parametrize("name", MODULES)
@fuzz(*(f"fairloss.{name}" for name in MODULES), example=EXAMPLE)
def test_module(name, example):
    check(MODULES[name], example)


@fuzz("fairloss.GroupMemory", example=EXAMPLE, capacity=st.integers(1, 5), batches=st.integers(1, 4))
def test_a_memory_holds_the_last_values(example, capacity, batches):
    memory, held, kept = fairloss.GroupMemory(3, capacity=capacity), {0: [], 1: [], 2: []}, [0, 0, 0]
    for k in range(batches):
        generator = torch.Generator().manual_seed(example.seed + k)
        x, ids = torch.randn(example.n, generator=generator), ids_like(example.groups, example.n, (3,), generator)
        memory.push(x, ids)
        for value, g in zip(x.tolist(), ids.tolist(), strict=True):
            if g >= 0:
                held[g] = [*held[g], value]
        kept = [n + min(ids.tolist().count(g), capacity) for g, n in enumerate(kept)]
    sums, counts = memory.totals()
    assert counts.tolist() == [min(len(v), capacity) for v in held.values()]
    np.testing.assert_allclose(sums.tolist(), [sum(v[-capacity:]) for v in held.values()], atol=1e-5)
    assert memory.seen.tolist() == kept


@fuzz("fairloss.EmbeddingQueue", example=EXAMPLE, capacity=st.integers(1, 5), batches=st.integers(1, 4))
def test_a_queue_holds_the_last_rows(example, capacity, batches):
    queue, held = fairloss.EmbeddingQueue(capacity, dim=3), []
    for k in range(batches):
        generator = torch.Generator().manual_seed(example.seed + k)
        z = torch.randn(example.n, 3, generator=generator)
        y = torch.randint(0, 9, (example.n,), generator=generator)
        ids = ids_like(example.groups, example.n, (3,), generator)
        queue.push(z, y, ids)
        held += [(r / r.norm(), int(t), int(g)) for r, t, g in zip(z, y, ids, strict=True)]
    rows, labels, groups = queue.rows(-100)
    filled = labels != -100
    found = sorted(zip(labels[filled].tolist(), groups[filled, 0].tolist(), rows[filled].tolist(), strict=True))
    expected = sorted((t, g, row.tolist()) for row, t, g in held[-capacity:])
    assert [(t, g) for t, g, _ in found] == [(t, g) for t, g, _ in expected]
    np.testing.assert_allclose([row for *_, row in found], [row for *_, row in expected], atol=1e-6)


@fuzz("fairloss.functional.concept_alignment", example=EXAMPLE)
def test_concepts_against_the_cross_entropy(example):
    generator = torch.Generator().manual_seed(example.seed)
    batch = two_embeddings(generator, max(example.n, 1), torch.float64)
    expected = concept_oracle(**{k: v.numpy() for k, v in batch.items()})
    assert ff.concept_alignment(**batch).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


COUNTS = st.lists(st.one_of(st.integers(-1, 100), st.floats(allow_nan=True, allow_infinity=True, width=32)), max_size=5)


@fuzz("fairloss.check_inputs", example=EXAMPLE)
def test_check_inputs(example):
    generator = torch.Generator().manual_seed(example.seed)
    batch = logits_and_labels(generator, example.n, torch.float32)
    batch["groups"] = ids_like(example.groups, example.n, (3,), generator)
    fairloss.check_inputs(**batch, num_groups=3)
    if not example.n:
        return
    place = example.seed % example.n
    for name, value in (("input", math.nan), ("input", math.inf), ("target", 3), ("groups", 3), ("groups", -2)):
        spoilt = {k: v.clone() for k, v in batch.items()}
        spoilt[name].view(-1)[place] = value
        where = rf"\({place // 3}, {place % 3}\)" if name == "input" else rf"\({place},\)"
        with pytest.raises(ValueError, match=rf"{name}: .*{where}"):
            fairloss.check_inputs(**spoilt, num_groups=3)


@fuzz(
    "fairloss.shift_labels",
    "fairloss.pool_last_token",
    example=EXAMPLE,
    length=st.integers(0, 4),
    bad=st.sampled_from(("fine", "fine", "float", "none", "dims", "list", "mask", "meta")),
)
def test_tokens(example, length, bad):
    generator = torch.Generator().manual_seed(example.seed)
    labels = torch.randint(-100, 50, (example.n, length), generator=generator)
    hidden = torch.randn(example.n, length, 2, generator=generator).requires_grad_()
    mask = torch.randint(0, 2, (example.n, length), generator=generator)
    before = labels.clone()
    if bad == "fine":
        shifted = fairloss.shift_labels(labels)
        assert shifted.tolist() == [[*row[1:], -100][:length] for row in labels.tolist()]
    elif bad != "mask" and bad != "meta":
        argument = {"float": labels.double(), "none": None, "dims": labels[None], "list": labels.tolist()}[bad]
        with pytest.raises((ValueError, TypeError), match="labels"):
            fairloss.shift_labels(argument)
    assert same(labels, before)
    if length == 0:
        with pytest.raises(ValueError, match="hidden"):
            fairloss.pool_last_token(hidden, attention_mask=mask)
    elif bad == "fine":
        pooled = fairloss.pool_last_token(hidden, attention_mask=mask)
        for i, row in enumerate(mask.tolist()):
            last = max((t for t, m in enumerate(row) if m), default=0)
            assert torch.equal(pooled[i], hidden[i, last])
        pooled.sum().backward()
        assert hidden.grad is not None
        assert hidden.grad.sum() == pooled.numel()
    else:
        arguments = {
            "float": (hidden.long(), mask),
            "none": (None, mask),
            "dims": (hidden[0:1, 0], mask),
            "list": (hidden, mask.tolist()),
            "mask": (hidden, mask[:, :-1]),
            "meta": (hidden, mask.to("meta")),
        }[bad]
        with pytest.raises((ValueError, TypeError), match="hidden|attention_mask"):
            fairloss.pool_last_token(arguments[0], attention_mask=(*arguments, None)[1])


LABELS = st.one_of(
    st.sampled_from(["F", "M", "", None, math.nan, 1, 0, -1, True, 1.5, b"x", (1, 2), float("inf")]),
    st.text(max_size=2),
)


def test_state_helpers_see_a_change():
    memory = fairloss.GroupMemory(2, capacity=2)
    before = state_of(memory)
    memory.push(torch.ones(1), torch.tensor([0]))
    assert not same(state_of(memory)["_extra_state"], before["_extra_state"])
