"""The cross-group contrastive loss, its streaming op and queue, and the concept loss, against naive double loops."""

import math

import pytest
import torch

from benchmarks.harness import peak_bytes
from fairloss import ConceptAlignmentLoss, CrossGroupContrastiveLoss, EmbeddingQueue
from fairloss.functional import concept_alignment, cross_group_contrastive
from fairloss.ops import contrastive as op
from tests.losses.embedded import draw
from tests.oracles.embeddings import contrastive, unit, with_gradient


def filled_queue(rows=11, capacity=16, groups=(3,), d=5, labels=3):
    queue = EmbeddingQueue(capacity, dim=d, num_attributes=len(groups))
    z, y, ids = draw(rows, d=d, labels=labels, groups=groups, seed=9)
    queue.push(z, y, ids)
    held = min(rows, capacity)
    triples = [
        (queue.embeddings[i].double(), int(queue.labels[i]), tuple(queue.groups[i].tolist())) for i in range(held)
    ]
    return queue.eval(), triples


def check(z, y, ids, *, queue=None, triples=(), rtol=1e-11, **options):
    paper = options.get("variant") == "paper"
    oracle_options = {k: v for k, v in options.items() if k in ("temperature", "margin")}
    expected, expected_grad = with_gradient(contrastive, z, y, ids, queue=triples, paper=paper, **oracle_options)
    z = z.clone().requires_grad_()
    value = cross_group_contrastive(z, y, ids, memory=queue, **options)
    (grad,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(value, expected, rtol=rtol, atol=1e-13)
    torch.testing.assert_close(grad, expected_grad, rtol=rtol, atol=1e-12)
    return value.item()


@pytest.mark.parametrize("groups", [(3,), (2, 3), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("with_queue", [False, True], ids=["batch", "queue"])
@pytest.mark.parametrize("options", [{}, {"variant": "paper"}, {"temperature": 0.5, "margin": -2.0}], ids=str)
def test_equals_a_double_loop(groups, with_queue, options):
    queue, triples = filled_queue(groups=groups) if with_queue else (None, ())
    for seed, n in enumerate((24, 7, 2)):
        value = check(*draw(n, groups=groups, seed=seed), queue=queue, triples=triples, **options)
        assert n < 24 or value > 0


@pytest.mark.parametrize("block", [1, 7, 24, 100])
def test_the_block_size_does_not_matter(block, monkeypatch):
    monkeypatch.setattr(op, "_BLOCK_CPU", block * 24)
    check(*draw(24, groups=(2, 3)))


def test_no_positives_no_negatives_unknown_one_sample():
    z, y, ids = draw(12, unknown=0)
    assert check(z, torch.arange(12), ids) == 0  # all labels differ: no positives
    assert check(z, torch.zeros(12, dtype=torch.int64), ids) == 0  # one label: no negatives
    assert check(z, y, ids, margin=1.0) == 0  # no negative is hard
    assert check(z, y, torch.full_like(ids, -1)) == 0  # nobody's group is known
    assert check(z, y, torch.zeros_like(ids)) == 0  # one group
    assert check(z[:1], y[:1], ids[:1]) == 0
    queue, triples = filled_queue()
    assert check(z[:1], y[:1], ids[:1], queue=queue, triples=triples, margin=-2.0) > 0


def test_unknown_groups_are_negatives_and_nothing_else():
    z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1])
    known = cross_group_contrastive(z, y, torch.tensor([0, 1, 0]))
    assert cross_group_contrastive(z, y, torch.tensor([0, 1, -1])) == known
    assert known > 0
    assert cross_group_contrastive(z, y, torch.tensor([0, -1, 0])) == 0


def test_ignored_labels_take_no_part():
    z, y, ids = draw(20)
    keep = torch.arange(20) % 4 != 0
    value = cross_group_contrastive(z, torch.where(keep, y, -100), ids)
    torch.testing.assert_close(value, contrastive(z[keep], y[keep], ids[keep]), rtol=1e-11, atol=0)


def test_small_temperatures_stay_finite():
    """exp(1 / T) overflows from T = 0.0014 on in float64; in float32 far earlier."""
    z, y, ids = draw(20, unknown=0)
    for dtype, temperature in ((torch.float64, 1e-3), (torch.float32, 5e-3)):
        x = z.to(dtype, copy=True).requires_grad_()
        loss = cross_group_contrastive(x, y, ids, temperature=temperature)
        loss.backward()
        assert math.isfinite(loss.item())
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().sum() > 0


def test_a_row_of_zeros_receives_no_gradient():
    z, y, ids = draw(12, unknown=0)
    z[3] = 0
    z.requires_grad_()
    cross_group_contrastive(z, y, ids, margin=-2.0).backward()
    assert torch.isfinite(z.grad).all()
    assert (z.grad[3] == 0).all()
    assert z.grad.abs().sum() > 0


# torch 2.14's check looks at .grad of the aliases that it makes of its arguments (pytorch/pytorch#30531).
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_op_follows_the_rules_of_torch():
    z, y, ids = draw(10)
    rows = torch.nn.functional.normalize(z).requires_grad_()
    more, groups = rows.detach()[:3], ids[:, None]
    keys = torch.cat([rows.detach(), more]).requires_grad_()
    others = (y, torch.cat([y, y[:3]]), groups, torch.cat([groups, groups[:3]]), 0.2, 0.1, -100)
    torch.library.opcheck(op.contrastive_losses_op, (rows, keys, None, *others, False, False))
    torch.library.opcheck(op.contrastive_losses_op, (rows, rows, more, *others, True, False))
    _, grad = torch.autograd.grad(op.contrastive_losses(rows, keys, None, *others)[0].sum(), (rows, keys))
    first = keys.detach()[:10].requires_grad_()
    _, fewer = torch.autograd.grad(op.contrastive_losses(rows, first, more, *others)[0].sum(), (rows, first))
    torch.testing.assert_close(fewer, grad[:10], rtol=1e-12, atol=1e-14)
    assert grad[10:].abs().sum() > 0


def test_a_batch_that_meets_itself_gets_the_sum_of_both_gradients():
    z, y, ids = draw(10)
    z.requires_grad_()
    others = (y, y, ids[:, None], ids[:, None], 0.2, 0.1, -100)
    (both,) = torch.autograd.grad(op.contrastive_losses(z, z, None, *others)[0].sum(), z)
    apart = torch.autograd.grad(
        op.contrastive_losses(z, copy := z.detach().requires_grad_(), None, *others)[0].sum(), (z, copy)
    )
    torch.testing.assert_close(both, apart[0] + apart[1], rtol=1e-12, atol=1e-14)


def test_autocast_does_not_reach_the_similarities():
    z, y, ids = draw(24)
    expected = cross_group_contrastive(z.float(), y, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cross_group_contrastive(z.float(), y, ids), expected)


def test_parts_count_the_live_anchors():
    z, y, ids = draw(24)
    parts = CrossGroupContrastiveLoss()(z, y, ids, return_parts=True)
    for i in range(24):
        positives = sum(bool(y[a] == y[i] and ids[a] != ids[i] and ids[a] >= 0 and ids[i] >= 0) for a in range(24))
        assert parts.positives[i] == positives
    live = parts.positives > 0
    assert 0 < parts.live_fraction < 1
    assert parts.live_fraction.item() == pytest.approx(live.double().mean().item())
    torch.testing.assert_close(parts.loss, parts.anchor_losses[live].mean())


def test_no_compilation_after_the_second_length():
    torch._dynamo.reset()
    # torch 2.6 compiles once for batches longer than the queue and once for shorter ones: the third length is the first such.
    settled = 3 if torch.__version__.startswith("2.6.") else 2
    queue = EmbeddingQueue(8, dim=5)
    loss = torch.compile(CrossGroupContrastiveLoss(memory=queue), backend="aot_eager", fullgraph=True, dynamic=True)
    other = CrossGroupContrastiveLoss(memory=EmbeddingQueue(8, dim=5))
    for step, n in enumerate((9, 12, 7, 30, 64)):
        torch._dynamo.config.error_on_recompile = step >= settled
        try:
            z, y, ids = draw(n, seed=step)
            a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
            value, expected = loss(a, y, ids), other(b, y, ids)
            value.backward()
            expected.backward()
        finally:
            torch._dynamo.config.error_on_recompile = False
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-15)
    assert queue.seen == 8 + 8 + 7 + 8 + 8  # of batches longer than the queue the last rows alone


def test_anchors_come_in_blocks_of_equal_size(monkeypatch):
    """256 anchors against keys of which a block takes 255 rows: not 255 and 1."""
    monkeypatch.setattr(op, "_BLOCK_CPU", 255 * 300)
    labels, ids = torch.zeros(300, dtype=torch.int64), torch.zeros(300, 1, dtype=torch.int64)
    rows = torch.zeros(256, 2), torch.zeros(300, 2)
    blocks = op._blocks(*rows, labels[:256], labels, ids[:256], ids, 1.0, 0.0, -100)
    assert [block.similarities.shape[0] for block in blocks] == [128, 128]


def test_memory_is_linear_in_the_batch(monkeypatch):
    monkeypatch.setattr(op, "_BLOCK_CPU", 1 << 14)
    peaks = {}
    for n in (512, 2048):
        z, y, ids = draw(n, d=8)
        z = z.float().requires_grad_()
        peaks[n] = peak_bytes(lambda z=z, y=y, ids=ids: cross_group_contrastive(z, y, ids).backward())
    assert peaks[2048] < 4 * 2048**2 / 16  # a sixteenth of one matrix
    assert peaks[2048] < 4.5 * peaks[512]


@pytest.mark.slow
def test_extra_memory_of_a_large_batch():
    z, y, ids = draw(16_384, d=128)
    z = z.float().requires_grad_()

    def step():
        z.grad = None
        cross_group_contrastive(z, y, ids).backward()

    assert peak_bytes(step) < 256e6 < 4 * 16_384**2


def toy(n=120, seed=0):
    """Two labels on one axis, two groups shifted along another: cosines across groups start low."""
    generator = torch.Generator().manual_seed(seed)
    y, ids = torch.randint(0, 2, (n,), generator=generator), torch.randint(0, 2, (n,), generator=generator)
    x = torch.randn(n, 8, generator=generator) * 0.3
    x[:, 0] += 2.0 * y - 1
    x[:, 1] += 3.0 * (2 * ids - 1)
    return x, y, ids


def cross_group_alignment(z, y, ids):
    """Mean cosine of pairs of one label from two groups, minus that of pairs of two labels."""
    rows = torch.stack([unit(row) for row in z.detach().double()])
    cosines = rows @ rows.T
    same = y[:, None] == y
    return (cosines[same & (ids[:, None] != ids)].mean() - cosines[~same].mean()).item()


@pytest.mark.parametrize("with_queue", [False, True], ids=["batch", "queue"])
def test_training_on_a_toy_set(with_queue):
    x, y, ids = toy()
    torch.manual_seed(0)
    encoder = torch.nn.Linear(8, 4)
    loss = CrossGroupContrastiveLoss(
        temperature=0.2, margin=-2.0, memory=EmbeddingQueue(64, dim=4) if with_queue else None
    )
    optimiser = torch.optim.Adam(encoder.parameters(), lr=0.02)
    with torch.no_grad():
        first, before = loss.eval()(encoder(x), y, ids).item(), cross_group_alignment(encoder(x), y, ids)
    loss.train()
    for step in range(60):
        rows = torch.arange(step % 4, 120, 4) if with_queue else slice(None)
        optimiser.zero_grad()
        loss(encoder(x[rows]), y[rows], ids[rows]).backward()
        optimiser.step()
    with torch.no_grad():
        last, after = loss.eval()(encoder(x), y, ids).item(), cross_group_alignment(encoder(x), y, ids)
    assert last < 0.5 * first
    assert after > before + 0.5


def test_errors_name_the_argument():
    z, y, ids = draw(6)
    loss = CrossGroupContrastiveLoss(num_groups=3)
    for bad, named in [
        ((z.long(), y, ids), "embeddings: .*floating"),
        ((z[0], y, ids), "embeddings: .*shape"),
        ((z.tolist(), y, ids), "embeddings: .*list"),
        ((z, y.double(), ids), "target: .*integer"),
        ((z, y[:3], ids), "target: .*shape"),
        ((z, y, ids[:3]), r"groups: .*\b3\b"),
        ((z, y, ids.double()), "groups: .*integer"),
        ((z, y, torch.full_like(ids, 3)), r"groups: .*\b3\b"),
    ]:
        with pytest.raises((TypeError, ValueError), match=named):
            loss(*bad)
    with pytest.raises(ValueError, match=r"embeddings: .*\b5\b"):
        CrossGroupContrastiveLoss(memory=EmbeddingQueue(4, dim=6))(z, y, ids)
    with pytest.raises(ValueError, match=r"groups: .*\(N, 2\)"):
        CrossGroupContrastiveLoss(memory=EmbeddingQueue(4, dim=5, num_attributes=2))(z, y, ids)
    for arguments in (
        {"temperature": 0},
        {"margin": 1.5},
        {"memory": 3},
        {"variant": "released"},
        {"process_group": 1},
    ):
        with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
            CrossGroupContrastiveLoss(**arguments)


def concept_oracle(z, e, table, *, temperature, paper):
    """Pair by pair; the printed ratio."""
    z, e = z.double(), e.double()
    total, pairs = torch.zeros((), dtype=torch.float64), 0
    for i in range(len(z)):
        s = [(unit(z[i]) * unit(row)).sum() / temperature for row in e]
        for c in range(len(e)):
            if table[i][c]:
                negatives = [s[k] for k in range(len(e)) if k != c and (paper or not table[i][k])]
                down = sum((torch.exp(v) for v in negatives), torch.zeros((), dtype=torch.float64))
                total = total - torch.log(torch.exp(s[c]) / (torch.exp(s[c]) + down))
                pairs += 1
    return total if paper else total / max(pairs, 1)


@pytest.mark.parametrize("variant", ["default", "paper"])
def test_concepts_equal_a_double_loop(variant, generator):
    e = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    for table in ((torch.rand(9, 6, generator=generator) < 0.4).long(), torch.ones(9, 6, dtype=torch.int64)):
        z = torch.randn(9, 4, dtype=torch.float64, generator=generator).requires_grad_()
        value = concept_alignment(z, table, concepts=e, temperature=0.3, variant=variant)
        expected = concept_oracle(z, e, table.tolist(), temperature=0.3, paper=variant == "paper")
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
        if expected.requires_grad:
            grads = torch.autograd.grad(value, z), torch.autograd.grad(expected, z)
            torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_one_concept_an_image_is_the_cross_entropy(generator):
    z, e = torch.randn(8, 4, generator=generator), torch.randn(5, 4, generator=generator)
    target = torch.tensor([0, 1, 2, 3, 4, -100, 0, 0])
    rows, words = torch.nn.functional.normalize(z), torch.nn.functional.normalize(e)
    expected = torch.nn.functional.cross_entropy(rows @ words.T / 0.07, target)
    torch.testing.assert_close(ConceptAlignmentLoss()(z, target, concepts=e), expected)
    assert ConceptAlignmentLoss()(z, torch.full((8,), -100), concepts=e) == 0
    for bad, named in [(target + 1, r"target: .*\b5\b"), (target.float(), "target"), (torch.ones(8, 4), "target")]:
        with pytest.raises((TypeError, ValueError), match=named):
            ConceptAlignmentLoss()(z, bad, concepts=e)
    with pytest.raises(ValueError, match="concepts"):
        ConceptAlignmentLoss()(z, target, concepts=e[:, :2])


def test_anchors_without_a_positive_are_left_out():
    """SupContrast gives NaN; pytorch-metric-learning counts them as zeros in the mean."""
    z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
    loss = CrossGroupContrastiveLoss(temperature=0.5, margin=-2.0)
    y, g = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 0])
    parts = loss(z, y, g, return_parts=True)
    assert parts.live_fraction.item() == 0.5
    assert parts.loss.item() == pytest.approx(parts.anchor_losses[:2].mean().item())
    dead = loss(z, torch.arange(4), g)
    assert dead.item() == 0
    assert torch.equal(torch.autograd.grad(dead, z)[0], torch.zeros(4, 2))
