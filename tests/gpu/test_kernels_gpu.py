"""The kernels on a GPU: float64 oracles in every dtype, bits that repeat, launches, memory linear in N.

python -m pytest -m gpu   (torch, triton, numpy and pytest are enough)
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_measure import SMALL, device_kernels, poisoned
from fairloss import FairGRPOAdvantage, fair_grpo_advantages
from fairloss import ops as kernels
from fairloss.functional import cross_group_contrastive
from fairloss.ops.dice_sums import dice_sums
from fairloss.ops.nll import nll
from fairloss.ops.segments import segment_totals
from tests.ops.kernel_tolerances import relative, tolerance
from tests.oracles import policy as oracles_policy
from tests.oracles.embeddings import contrastive as contrastive_oracle
from tests.oracles.embeddings import with_gradient

pytestmark = pytest.mark.gpu
HALF_AND_SINGLE = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def on_the_kernels():
    with kernels.backend("triton"):
        yield


def draw(n, d, *, labels=3, groups=3, seed=0, dtype=torch.float32):
    """Rows around their label's center: an anchor has negatives above the margin, and positives."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, labels, (n,), generator=generator)
    centers = torch.randn(labels, d, generator=generator) + 1
    z = ((centers[y] + torch.randn(n, d, generator=generator)) * 3).to(dtype).cuda()
    return z, y.cuda(), torch.randint(-1, groups, (n,), generator=generator).cuda()


def close(name, found, expected, limit):
    """Errors are printed, so that a run says how far from its limits it is."""
    error = relative(found, expected)
    print(f"{name}: {error:.1e} of {limit:.1e}")
    assert error <= limit


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize(("n", "d"), [(1, 3), (65, 7), (40, 100), (33, 257), (20, 1024)])
def test_contrastive_against_the_oracle(n, d, dtype):
    z, y, ids = draw(n, d, dtype=dtype)
    expected, expected_grad = with_gradient(contrastive_oracle, z.cpu(), y.cpu(), ids.cpu(), margin=-2.0)
    x = z.clone().requires_grad_()
    loss = cross_group_contrastive(x, y, ids, margin=-2.0)
    loss.backward(torch.tensor(-1.7, device="cuda"))
    limit = tolerance("contrastive", dtype)
    close("value", loss, expected, limit.value)
    close("gradient", x.grad, -1.7 * expected_grad, limit.gradient)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
def test_contrastive_of_a_large_batch_against_float64_eager_and_bit_by_bit(dtype):
    z, y, ids = draw(*((70, 20) if SMALL else (3000, 200)), dtype=dtype)
    wide = z.double().requires_grad_()
    with kernels.backend("eager"):
        expected = cross_group_contrastive(wide, y, ids)
        expected.backward()
    found = []
    for _ in range(3):
        x = z.clone().requires_grad_()
        loss = cross_group_contrastive(x, y, ids)
        loss.backward()
        found.append((loss.detach(), x.grad))
    limit = tolerance("contrastive", dtype)
    assert expected > 0
    close("value", found[0][0], expected, limit.value)
    close("gradient", found[0][1], wide.grad, limit.gradient)
    assert all(torch.equal(a, found[0][0]) and torch.equal(b, found[0][1]) for a, b in found)


@pytest.mark.skipif(SMALL, reason="a rehearsal counts no memory")
def test_contrastive_memory_is_linear():
    def peak(n):
        z, y, ids = draw(n, 64, dtype=torch.bfloat16)
        z.requires_grad_()
        cross_group_contrastive(z, y, ids).backward()
        z.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        cross_group_contrastive(z, y, ids).backward()
        return torch.cuda.max_memory_allocated() - before

    small, large = peak(8192), peak(65_536)
    assert large < 9 * small
    assert large < 65_536 * 64 * 4 * 6  # a few float32 copies of the rows


def batch(seed, q=80, r=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(-1, 4, (q,), generator=generator)
    domains = torch.randint(-1, 3, (q,), generator=generator)
    rewards = (torch.rand(q, r, generator=generator) < 0.2 + 0.15 * (groups.unsqueeze(1) + 1)).to(dtype)
    rewards[seed % q, 1:] = torch.nan
    return rewards, groups, domains


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("variant", ["default", "paper", "released"])
def test_advantages_against_the_oracle(variant, dtype):
    module, naive = FairGRPOAdvantage(4, num_domains=3, variant=variant).cuda(), oracles_policy.Naive(variant=variant)
    for seed in range(3):
        rewards, groups, domains = batch(seed, dtype=dtype)
        rows = [[None if x != x else x for x in row] for row in rewards.tolist()]
        expected, _ = naive(rows, domains.tolist(), groups.tolist())
        found = module(rewards.cuda(), groups.cuda(), domains.cuda())
        assert relative(found, torch.tensor(expected, dtype=torch.float64)) <= tolerance("advantages", dtype).value


def test_advantages_take_three_launches_and_repeat_bit_by_bit():
    q, length = (6, 9) if SMALL else (640, 4096)
    rewards, groups, domains = (t.cuda() for t in batch(0, q=q))
    mask = torch.rand(8 * q, length, device="cuda") < 0.7
    sizes = {"num_groups": 4, "num_domains": 3}
    from fairloss.ops import advantages
    from fairloss.ops.fair_grpo_setting import Setting

    setting = Setting(3, 4, 5).flat()
    slots = torch.where(groups < 0, 4, groups)

    def ops():
        scores, sums, lows = advantages.score_prompts(rewards, domains, slots, *setting)
        table, *_, factor = advantages.cell_weights(sums, lows, [], [], *setting)
        return advantages.scale_scores(scores, domains, slots, table, factor, mask, *setting)[2]

    names = device_kernels(ops)
    assert SMALL or len(names) == 3, names
    first = fair_grpo_advantages(rewards, groups, domains, mask=mask, validate=False, **sizes)
    plain = fair_grpo_advantages(rewards, groups, domains, validate=False, **sizes)
    assert torch.equal(first, torch.where(mask, plain.reshape(-1, 1), 0.0))
    assert torch.equal(first, ops())


@pytest.mark.parametrize("dtype", [*HALF_AND_SINGLE, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("n", "f", "groups"), [(1, 1, 1), (100 if SMALL else 100_000, 1, 3), (31 if SMALL else 3001, 40, 37)]
)
def test_segments_against_float64_and_bit_by_bit(n, f, groups, dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n, f, generator=generator).to(dtype).cuda()
    slots = torch.randint(0, groups + 1, (n,), generator=generator).cuda()
    sums, counts = segment_totals(values, slots, groups)
    wide = values.double()
    expected = torch.stack([wide[slots == g].sum(0) for g in range(groups)])
    assert relative(sums, expected) <= 10 * tolerance("segments", dtype).value
    if dtype in (torch.float32, torch.float64):
        assert torch.equal(counts.long(), torch.stack([(slots == g).sum() for g in range(groups)]))
    assert all(torch.equal(segment_totals(values, slots, groups)[0], sums) for _ in range(3))


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("shape", [(7, 3), (300, 17), (4, 5, 1000), (3, 20_011)], ids=str)
def test_likelihood_against_float64_and_bit_by_bit(shape, dtype):
    logits = (3 * torch.randn(shape, device="cuda")).to(dtype)
    target = torch.randint(0, shape[-1], shape[:-1], device="cuda")
    target[..., 0] = -100
    wide = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide.flatten(0, -2), target.flatten(), reduction="none")
    weights = torch.rand(expected.shape, device="cuda")
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), wide)
    found = []
    for _ in range(3):
        x = logits.clone().requires_grad_()
        with poisoned():
            losses = nll(x, target).flatten()
            found.append((losses.detach(), *torch.autograd.grad((losses * weights).sum(), x)))
    limit = tolerance("likelihood", dtype)
    close("value", found[0][0], expected, limit.value)
    close("gradient", found[0][1], expected_grad, limit.gradient)
    assert all(torch.equal(a, found[0][0]) and torch.equal(b, found[0][1]) for a, b in found)
    x = logits.clone().requires_grad_()
    names = device_kernels(lambda: torch.autograd.grad(nll(x, target).sum(), x))
    assert SMALL or sum("nll_" in name for name in names) == 2, names


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize(("classes", "pixels"), [(2, 100), (14, 300 if SMALL else 40_000), (100, 50)])
def test_dice_against_float64_and_bit_by_bit(classes, pixels, dtype):
    logits = (2 * torch.randn(2, classes, pixels, device="cuda")).to(dtype)
    target = torch.randint(0, classes, (2, pixels), device="cuda")
    wide = logits.double().requires_grad_()
    with kernels.backend("eager"):
        sums, entropies = dice_sums(wide, target, True)
        (expected_grad,) = torch.autograd.grad(sums.sum() + entropies.sum(), wide)
    found = []
    for _ in range(3):
        x = logits.clone().requires_grad_()
        with poisoned():
            a, b = dice_sums(x, target, True)
            found.append((a.detach(), b.detach(), *torch.autograd.grad(a.sum() + b.sum(), x)))
    limit = tolerance("dice", dtype)
    close("sums", found[0][0], sums, limit.value)
    close("cross-entropy", found[0][1], entropies, limit.value)
    close("gradient", found[0][2], expected_grad, limit.gradient)
    assert all(torch.equal(a, b) for run in found for a, b in zip(run, found[0], strict=True))
