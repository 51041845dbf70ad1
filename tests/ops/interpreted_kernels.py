"""The Triton kernels on the CPU, by Triton's interpreter, against float64 oracles.

tests/ops/test_kernels.py runs them in a process of their own, because Triton decides at import whether it interprets:
TRITON_INTERPRET=1 python -m pytest tests/ops/interpreted_kernels.py

Float16 rows are tested with tiles of gradients in float32, as NumPy multiplies; tests/gpu tests those of bfloat16.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fairloss import EmbeddingQueue, FairGRPOAdvantage, fair_grpo_advantages
from fairloss import ops as kernels
from fairloss.functional import cross_group_contrastive
from fairloss.integrations._verl_state import FairGRPOState
from fairloss.ops import (
    advantages,
    advantages_triton,
    contrastive,
    contrastive_rows_triton,
    contrastive_triton,
    dice_sums_triton,
    fair_grpo_setting,
    nll_triton,
    segments_triton,
)
from fairloss.ops.dice_sums import dice_sums
from fairloss.ops.nll import nll
from fairloss.ops.segments import segment_totals
from fairloss.policy.rewards import Rows
from fairloss.policy.weights import Past, compute_advantages
from tests.ops import interpreter_bfloat16  # noqa: F401
from tests.ops.kernel_tolerances import relative, tolerance
from tests.oracles import policy as oracles_policy
from tests.oracles.embeddings import contrastive as contrastive_oracle
from tests.oracles.embeddings import with_gradient
from tests.policy.rollouts import nearly_equal

# The interpreter of Triton 3.6 makes scalars of arrays of one element, which NumPy deprecates, and refuses from 2.4 on.
# Its NumPy warns of what a kernel computes where it stores nothing.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Conversion of an array with ndim:DeprecationWarning",
    "ignore:(invalid value|divide by zero|overflow) encountered:RuntimeWarning",
)


@pytest.fixture(autouse=True)
def on_the_kernels(monkeypatch):
    import triton.language as tl

    monkeypatch.setattr(contrastive_triton, "HALF_TILE", tl.float32)
    monkeypatch.setattr(advantages, "programs", lambda num_domains, width: 4)  # 64 take the interpreter minutes
    with kernels.backend("triton"):
        yield


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels launched, in order."""
    names = []

    class Counting:
        def __init__(self, kernel, name):
            self.kernel, self.name = kernel, name

        def __getitem__(self, grid):
            names.append(self.name)
            return self.kernel[grid]

    for module in (
        contrastive_rows_triton,
        contrastive_triton,
        advantages_triton,
        segments_triton,
        nll_triton,
        dice_sums_triton,
    ):
        for name in [n for n in vars(module) if n.endswith("_kernel")]:
            monkeypatch.setattr(module, name, Counting(getattr(module, name), name))
    return names


def draw(n, d, *, groups=(3,), labels=3, seed=0, norm=3.0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64) * norm
    y = torch.randint(0, labels, (n,), generator=generator)
    ids = torch.stack([torch.randint(-1, g, (n,), generator=generator) for g in groups], 1)
    return z, y, ids[:, 0] if len(groups) == 1 else ids


def check_contrastive(z, y, ids, dtype, *, queue=None, triples=(), grad_output=1.0, **options):
    z = z.to(dtype)
    expected, expected_grad = with_gradient(contrastive_oracle, z, y, ids, queue=triples, **options)
    x = z.clone().requires_grad_()
    loss = cross_group_contrastive(x, y, ids, memory=queue, **options)
    loss.backward(torch.tensor(grad_output, dtype=loss.dtype))
    assert loss.dtype == torch.float32
    assert x.grad.dtype == dtype
    loss = loss.detach()
    assert abs(float(loss) - float(expected)) <= tolerance("contrastive", dtype).value * max(1.0, abs(float(expected)))
    assert relative(x.grad, grad_output * expected_grad) <= tolerance("contrastive", dtype).gradient
    return float(loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 1), (31, 33), (65, 7), (40, 100)])
def test_contrastive_odd_shapes(n, d, dtype):
    value = check_contrastive(*draw(n, d), dtype, margin=-2.0 if n < 3 else 0.0, grad_output=-1.7)
    assert value > 0 or n < 3


@pytest.mark.parametrize("groups", [(3,), (2, 3)], ids=str)
def test_contrastive_queue_attributes_and_margin(groups):
    queue = EmbeddingQueue(50, dim=9, num_attributes=len(groups))
    z, y, ids = draw(43, 9, groups=groups, seed=9)
    queue.push(z, y, ids)
    rows = zip(queue.embeddings.double(), queue.labels.tolist(), queue.groups.tolist(), strict=True)
    triples = [(row, label, tuple(group)) for row, label, group in list(rows)[:43]]
    value = check_contrastive(
        *draw(37, 9, groups=groups), torch.float32, queue=queue.eval(), triples=triples, temperature=0.2, margin=0.1
    )
    assert value > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_contrastive_few_anchors_against_many_keys_in_parts(dtype, monkeypatch, launches):
    """Parts of a tile each, and the gradients of anchors and keys in parts as well; a queue longer than the batch."""
    monkeypatch.setattr(contrastive_triton, "LEAST_TILES", 1)
    queue = EmbeddingQueue(200, dim=9)
    z, y, ids = draw(170, 9, seed=9)
    queue.push(z, y, ids)
    held = [(row.to(dtype).double(), label, (group,)) for row, label, (group,) in
            zip(queue.embeddings, queue.labels.tolist(), queue.groups.tolist(), strict=True)][:170]  # fmt: skip
    assert check_contrastive(*draw(70, 9), dtype, queue=queue.eval(), triples=held, temperature=0.2) > 0
    blocks = contrastive_triton.blocks(dtype, 9)
    assert contrastive_triton._parts(70, 270, blocks)[0] > 3
    assert contrastive_triton._parts(70, 70, blocks)[0] > 1
    # Of batch and queue; then walks, join, both sides, both projected as one.
    assert launches == ["prepare_kernel"] * 2 + ["walk_kernel"] * 2 + ["join_kernel"] + ["backward_kernel"] * 2 + [
        "project_kernel"
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_contrastive_keys_that_are_not_the_anchors_get_a_gradient_of_their_own(dtype, monkeypatch):
    """As of several processes: other ranks' rows among the keys, in float32, and a queue behind them."""
    monkeypatch.setattr(contrastive_triton, "LEAST_TILES", 1)
    z, y, ids = draw(150, 9)
    keys = z[:110].to(dtype).float().requires_grad_()
    held = torch.nn.functional.normalize(z[110:]).to(dtype).float()
    anchors = z[:70].to(dtype).requires_grad_()
    others = (y[:70], y, ids[:70, None], ids[:, None], 0.2, 0.1, -100)
    weights = torch.rand(70)
    found = contrastive.contrastive_losses(anchors, keys, held, *others)
    grads = torch.autograd.grad((found[0] * weights).sum(), (anchors, keys))
    wide = [x.detach().double().requires_grad_() for x in (anchors, keys)]
    with kernels.backend("eager"):
        expected = contrastive.contrastive_losses(*wide, held.double(), *others)
        expected_grads = torch.autograd.grad((expected[0] * weights).sum(), wide)
    limit = tolerance("contrastive", dtype)
    assert relative(found[0], expected[0]) <= limit.value
    assert torch.equal(found[2].double(), expected[2])
    for grad, wanted, given in zip(grads, expected_grads, (anchors, keys), strict=True):
        assert grad.dtype == given.dtype
        assert wanted.norm() > 0
        assert relative(grad, wanted) <= limit.gradient


@pytest.mark.parametrize("tiny", [1e-40, 0.0])
def test_contrastive_rows_below_the_smallest_normal_number_are_zero_as_in_the_eager_form(tiny):
    z, y, ids = draw(20, 5)
    z[[3, 4]] *= tiny
    x = z.float().requires_grad_()
    loss = cross_group_contrastive(x, y, ids, margin=-0.5)
    (grad,) = torch.autograd.grad(loss, x)
    with kernels.backend("eager"):
        expected = cross_group_contrastive(x, y, ids, margin=-0.5)
        (expected_grad,) = torch.autograd.grad(expected, x)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)
    assert (grad[[3, 4]] == 0).all()


@pytest.mark.parametrize("factor", [1e25, 1e-25])
def test_contrastive_rows_whose_squares_leave_float32(factor):
    z, y, ids = draw(20, 5)
    small = z.float().requires_grad_()
    large = (z.float() * factor).requires_grad_()
    losses = [cross_group_contrastive(x, y, ids, margin=-0.5) for x in (small, large)]
    for loss in losses:
        loss.backward()
    assert losses[0].item() > 0
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    torch.testing.assert_close(large.grad * factor, small.grad, rtol=1e-4, atol=1e-6)


def test_contrastive_ignored_labels_empty_groups_dead_rows():
    z, y, ids = draw(40, 6)
    z[3] = 0
    z[5] = 0
    y[::7] = -100
    check_contrastive(z, y, ids, torch.float32, margin=-2.0)
    for other_ids in (torch.full_like(ids, -1), torch.zeros_like(ids)):  # nobody known; one group
        assert check_contrastive(z, y, other_ids, torch.float32) == 0
    assert check_contrastive(z, torch.zeros_like(y), ids, torch.float32) == 0  # no negatives
    assert check_contrastive(z, torch.arange(40), ids, torch.float32) == 0  # no positives
    empty = torch.zeros(0, 6, requires_grad=True)
    loss = cross_group_contrastive(empty, y[:0], ids[:0])
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize(("group", "label"), [(-1, 0), (0, 0), (1, 2)])
def test_contrastive_nan_in_nan_out(group, label):
    """A row of NaN is some anchor's negative or positive, and the eager form's loss and gradients say so."""
    z, y, ids = draw(20, 5)
    z[3], ids[3], y[3] = torch.nan, group, label
    x = z.float().requires_grad_()
    losses = cross_group_contrastive(x, y, ids, return_parts=True).anchor_losses
    (grad,) = torch.autograd.grad(losses.sum(), x)
    with kernels.backend("eager"):
        expected = cross_group_contrastive(x, y, ids, return_parts=True).anchor_losses
        (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    assert torch.isnan(expected).any()
    assert torch.equal(torch.isnan(losses), torch.isnan(expected))
    assert torch.equal(torch.isnan(grad), torch.isnan(expected_grad))


def test_contrastive_small_temperature_non_contiguous_and_columns_across_blocks():
    z, y, ids = draw(33, 70)
    assert torch.isfinite(torch.tensor(check_contrastive(z, y, ids, torch.float32, temperature=5e-3)))
    x = torch.randn(33, 140)[:, ::2]
    torch.testing.assert_close(cross_group_contrastive(x, y, ids), cross_group_contrastive(x.contiguous(), y, ids))


def test_contrastive_a_cosine_at_the_margin_is_the_same_from_both_sides():
    """Scaled by one norm and then by the other, a cosine differs by the order: no negative to its anchor, one to its key."""
    found = 0
    for x, y, c, d in itertools.product(range(1, 7), repeat=4):
        z = torch.tensor([[x, y, 0.0], [c, d, 0], [0, 0, 1]], requires_grad=True)  # integers: the products are exact
        inverse = 1 / z.detach().square().sum(1).sqrt()
        both = [float((x * c + y * d) * inverse[i] * inverse[1 - i]) for i in (0, 1)]
        if both[0] == both[1] or found == 8:
            continue
        found += 1
        loss = cross_group_contrastive(z, torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]), margin=min(both))
        loss.backward()
        assert torch.isfinite(z.grad).all()
        assert (z.grad == 0).all() == (loss == 0)
    assert found == 8


def test_contrastive_keeps_what_is_linear_and_says_what_it_launches(launches):
    z, y, ids = draw(70, 5)
    x = z.float().requires_grad_()
    cross_group_contrastive(x, y, ids).backward()
    assert launches.count("walk_kernel") == 2
    assert launches.count("backward_kernel") == 2
    assert len(launches) == 4 + 3  # rows are prepared once; the parts joined; both sides projected as one


def test_contrastive_the_backend_of_the_forward_pass_runs_the_backward_pass(launches):
    z, y, ids = draw(20, 5)
    x = z.float().requires_grad_()
    loss = cross_group_contrastive(x, y, ids)
    with kernels.backend("eager"):
        loss.backward()
    assert launches.count("backward_kernel") == 2


def test_contrastive_refuses_what_it_cannot_run():
    z, y, ids = draw(6, 5)
    with pytest.raises(RuntimeError, match="float64"):
        cross_group_contrastive(z, y, ids)
    with pytest.raises(RuntimeError, match="1025 columns"):
        cross_group_contrastive(torch.randn(2, contrastive.MAX_DIM + 1), y[:2], ids[:2])


def batch(seed, q=21, r=5, num_groups=4, num_domains=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(-1, num_groups, (q,), generator=generator)
    domains = torch.randint(-1, num_domains, (q,), generator=generator)
    rewards = (torch.rand(q, r, generator=generator) < 0.2 + 0.15 * (groups.unsqueeze(1) + 1)).to(dtype)
    rewards[seed % q, 1:] = torch.nan
    rewards[(seed + 5) % q] = torch.nan
    return rewards, groups, domains


def rows(rewards):
    return [[None if np.isnan(x) else x for x in row] for row in rewards.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("variant", ["default", "paper", "released"])
@pytest.mark.parametrize(
    "options", [{}, {"size_power": 1.0, "reward_power": 0.3, "max_ratio": 1.5}], ids=["", "powers"]
)
def test_advantages_with_history_equal_the_naive_loop(variant, options, dtype):
    module = FairGRPOAdvantage(4, num_domains=3, variant=variant, **options)
    naive = oracles_policy.Naive(variant=variant, **options)
    for seed in range(2):
        rewards, groups, domains = batch(seed, dtype=dtype)
        expected, _ = naive(rows(rewards), domains.tolist(), groups.tolist())
        found = module(rewards, groups, domains)
        assert found.dtype == dtype
        assert relative(found, torch.tensor(expected, dtype=torch.float64)) <= tolerance("advantages", dtype).value
        assert (found[torch.isnan(rewards)] == 0).all()


@pytest.mark.filterwarnings("ignore:rewards. expected two prompts or more")
@pytest.mark.parametrize(("q", "r"), [(1, 1), (1, 7), (70, 1), (3, 70), (130, 2)])
def test_advantages_odd_shapes(q, r):
    rewards, groups, domains = batch(0, q=q, r=r)
    expected, _ = oracles_policy.Naive(alone=True)(rows(rewards), domains.tolist(), groups.tolist())
    found = fair_grpo_advantages(rewards, groups, domains, num_groups=4, num_domains=3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32], ids=str)
def test_advantages_broadcast_over_masked_tokens_in_three_launches(dtype, launches):
    rewards, groups, domains = batch(1, q=4, r=3, dtype=torch.float32)
    mask = (torch.rand(12, 1030, generator=torch.Generator().manual_seed(0)) < 0.6).to(dtype)
    mask[5] = 0
    sizes = {"num_groups": 4, "num_domains": 3}
    tokens = fair_grpo_advantages(rewards, groups, domains, mask=mask, **sizes)
    assert launches == ["score_prompts_kernel", "cell_weights_kernel", "scale_scores_kernel"]
    plain = fair_grpo_advantages(rewards, groups, domains, **sizes)
    assert plain.abs().sum() > 0
    assert torch.equal(tokens, torch.where(mask != 0, plain.reshape(-1, 1), 0.0))


@pytest.mark.filterwarnings("ignore:rewards. expected rewards >= 0")
@pytest.mark.parametrize(
    "options",
    [
        {"discover_groups": "kmeans", "history": "ema", "half_life": 20},
        {"discover_groups": "kmeans"},
        {"history": "batch", "max_ratio": 2.0},
        {"reward_shift": "min", "batch_normalize": False},
        {"reward_shift": "auto", "history": "ema"},
        {"reward_shift": 0.5, "max_ratio": None, "size_power": 0.3, "reward_power": 2.0},
    ],
    ids=["clusters", "history", "batch", "shift", "auto", "powers"],
)
def test_advantages_tables_equal_the_eager_ones(options):
    """The eager code is held to the oracle elsewhere; here clusters, shifts and the two-step interface."""
    found, expected = FairGRPOAdvantage(4, num_domains=3, **options), FairGRPOAdvantage(4, num_domains=3, **options)
    for seed in range(2):
        rewards, groups, domains = batch(seed, q=16, r=4)
        rewards -= float(isinstance(options.get("reward_shift"), str))
        found(rewards, groups, domains)
        with kernels.backend("eager"):
            expected(rewards, groups, domains)
        for name, a, b in zip(found.last._fields, found.last, expected.last, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    a = found.scale(rewards, groups, domains)
    with kernels.backend("eager"):
        torch.testing.assert_close(a, expected.scale(rewards, groups, domains), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
@pytest.mark.parametrize(
    "options", [{"size_power": 1.0, "max_ratio": None}, {"reward_shift": 0.1}, {"reward_shift": 0.7}]
)
def test_advantages_of_an_absent_domain_and_of_means_that_a_shift_lifts_to_zero(options, variant):
    rewards, groups, domains = torch.eye(6), torch.arange(6) % 2, torch.zeros(6, dtype=torch.int64)
    rewards[groups == 1] = 0
    rewards -= options.get("reward_shift", 0.0)  # in float32, which misses -0.1 from below and -0.7 from above
    found = [fair_grpo_advantages(rewards, groups, num_groups=2, variant=variant, **options)]
    module = FairGRPOAdvantage(2, num_domains=3, variant=variant, history="batch", **options)
    found.append(module(rewards, groups, domains))
    tables = [module.last.table]
    with kernels.backend("eager"):
        module = FairGRPOAdvantage(2, num_domains=3, variant=variant, history="batch", **options)
        expected = module(rewards, groups, domains)
    tables.append(module.last.table)
    torch.testing.assert_close(tables[0], tables[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[1], expected)
    assert torch.isfinite(tables[0]).all()
    if variant == "default":
        torch.testing.assert_close(found[0], found[1])  # one known domain's factor cancels


def test_advantages_of_rows_as_verl_holds_them_take_three_launches(launches):
    rewards, groups, domains = batch(1, q=5, r=4, dtype=torch.float32)
    groups, domains = groups.clamp(min=0), domains.clamp(min=0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:17]  # of unequal numbers
    prompts = order // 4
    state = FairGRPOState(num_groups=4, num_domains=3)
    columns = {
        "extra_info": [{"demo_group": int(groups[p])} for p in prompts],
        "data_source": domains[prompts].tolist(),
    }
    with state.rows(columns):
        found = state.advantages(rewards.flatten()[order].unsqueeze(1), torch.ones(17, 1), prompts.tolist())
    assert launches == ["score_prompts_kernel", "cell_weights_kernel", "scale_scores_kernel"]
    with kernels.backend("eager"):
        module = FairGRPOAdvantage(4, num_domains=3)
        expected = module(rewards.flatten()[order], groups[prompts], domains[prompts], prompt_ids=prompts)
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_advantages_with_as_many_programs_as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(advantages, "programs", fair_grpo_setting.programs)
    rewards, groups, domains = batch(2)
    expected, _ = oracles_policy.Naive(alone=True)(rows(rewards), domains.tolist(), groups.tolist())
    found = fair_grpo_advantages(rewards, groups, domains, num_groups=4, num_domains=3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", ["default", "paper", "released"])
@pytest.mark.parametrize("bad", ["a reward", "the past"])
def test_advantages_nan_in_nan_out(variant, bad):
    """NaN is a missing rollout to the public functions, which refuse infinities; below them neither may be lost."""
    rewards, groups, domains = batch(0, q=12, r=4)
    past = torch.ones(7, 4, 5, dtype=torch.float64)
    if bad == "a reward":
        rewards[2, 1] = torch.inf
    else:
        past[2, 0, 1] = torch.nan
    options = fair_grpo_setting.Options(variant=variant)
    setting = fair_grpo_setting.Setting(3, 4, 5, options, by_history=variant == "default")
    arguments = Rows(rewards), domains, groups.masked_fill(groups < 0, 4), setting
    before = Past(past, torch.tensor(0.0, dtype=torch.float64))
    found = compute_advantages(*arguments, past=before)
    with kernels.backend("eager"):
        expected = compute_advantages(*arguments, past=before)
    for name, a, b in zip(found._fields[:-1], found, expected, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("variant", ["default", "paper", "released"])
def test_advantages_of_rewards_that_differ_by_rounding(variant, dtype):
    rewards = nearly_equal(dtype).abs()
    arguments = {"num_groups": 2, "variant": variant, "eps": 1e-12}
    found = fair_grpo_advantages(rewards, torch.arange(22) % 2, **arguments)
    with kernels.backend("eager"):
        expected = fair_grpo_advantages(rewards, torch.arange(22) % 2, **arguments)
    assert torch.equal(found.any(1), expected.any(1))
    assert 8 < expected.any(1).sum() < (16 if variant == "default" else 22)


def test_advantages_nothing_to_tell_apart():
    ids = torch.zeros(3, dtype=torch.int64)
    assert (fair_grpo_advantages(torch.ones(3, 4), ids, num_groups=1) == 0).all()
    assert (fair_grpo_advantages(torch.full((3, 4), torch.nan), ids, num_groups=1) == 0).all()
    unknown = fair_grpo_advantages(torch.eye(3), ids - 1, num_groups=1)
    assert torch.isfinite(unknown).all()
    assert unknown.abs().sum() > 0


def test_advantages_refuse_what_they_cannot_run():
    ids = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="prompt_ids"):
        fair_grpo_advantages(torch.ones(3), ids, num_groups=1, prompt_ids=ids)
    with pytest.raises(RuntimeError, match="1025 rollouts"):
        fair_grpo_advantages(torch.ones(3, fair_grpo_setting.MAX_ROLLOUTS + 1), ids, num_groups=1)
    with pytest.raises(RuntimeError, match="cells"):
        fair_grpo_advantages(torch.ones(3, 2), ids, num_groups=600)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize(("n", "shape", "groups"), [(1, (), 1), (1500, (), 3), (37, (5,), 11), (21, (3, 13), 2)])
def test_segments_equal_the_loop(n, shape, groups, dtype, launches):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n, *shape, generator=generator).to(dtype).requires_grad_()
    slots = torch.randint(0, groups + 1, (n,), generator=generator)  # some in no group
    slots[slots == 1] = 0  # an empty group
    sums, counts = segment_totals(values, slots, groups)
    assert launches == ["segment_kernel"]
    wide = values.detach().double().requires_grad_()
    expected = torch.stack([wide[slots == g].sum(0) for g in range(groups)])
    assert counts.tolist() == [int((slots == g).sum()) for g in range(groups)]
    assert not counts.requires_grad
    assert sums.dtype == dtype
    assert relative(sums, expected) <= tolerance("segments", dtype).value
    grad_output = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(dtype)
    (grad,) = torch.autograd.grad(sums, values, grad_output)
    assert launches == ["segment_kernel", "lookup_kernel"]
    (expected_grad,) = torch.autograd.grad(expected, wide, grad_output.double())
    assert relative(grad, expected_grad) <= tolerance("segments", dtype).gradient


def test_segments_nan_in_nan_out():
    values = torch.randn(300, 2)
    values[[3, 7], [0, 1]] = torch.nan
    slots = torch.arange(300) % 4  # row 3 is in no group, row 7 too
    slots[7] = 2
    values.requires_grad_()
    sums, _ = segment_totals(values, slots, 3)
    assert torch.isnan(sums).tolist() == [[False, False], [False, False], [False, True]]
    grad_output = torch.ones(3, 2)
    grad_output[1, 0] = torch.nan
    (grad,) = torch.autograd.grad(sums, values, grad_output)
    assert torch.equal(torch.isnan(grad[:, 0]), slots == 1)
    assert not torch.isnan(grad[:, 1]).any()


def test_segments_serve_the_losses_and_their_second_derivatives(launches):
    from fairloss.functional import loss_variance
    from fairloss.groups.ids import GroupIds

    values = torch.rand(40, dtype=torch.float64).requires_grad_()
    groups = torch.arange(40) % 4 - 1
    found = loss_variance(values, groups, num_groups=3)
    assert launches == ["segment_kernel"]  # counts and sums in one walk
    means = torch.stack([values[groups == g].mean() for g in range(3)])
    torch.testing.assert_close(found, means.var(unbiased=False), rtol=1e-12, atol=0)
    assert torch.autograd.gradgradcheck(
        lambda v: segment_totals(v * v, groups[:6] % 4, 3)[0], values[:6].detach().requires_grad_()
    )
    sums, counts = GroupIds(torch.zeros(0, 1, dtype=torch.int64), (4,)).mean(torch.zeros(0, 3))
    assert (sums == 0).all()
    assert (counts == 0).all()


def test_segments_refuse_too_many_groups():
    from fairloss.groups.ids import GroupIds

    with pytest.raises(RuntimeError, match="2000 groups"):
        GroupIds(torch.zeros(3, 1, dtype=torch.int64), (2000,)).sum(torch.ones(3))


def check_likelihood(logits, target, dtype, ignore_index=-100):
    """Value and gradient against torch's cross-entropy in float64; the layout of the logits is kept."""
    x = logits.to(dtype).detach().requires_grad_()
    wide = x.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        wide.flatten(0, -2), target.flatten(), ignore_index=ignore_index, reduction="none"
    ).reshape(target.shape)
    found = nll(x, target, ignore_index)
    weights = torch.rand(target.shape, dtype=torch.float64) - 0.3
    (grad,) = torch.autograd.grad((found * weights.float()).sum(), x)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), wide)
    assert found.dtype == torch.float32
    assert grad.dtype == dtype
    assert relative(found, expected) <= tolerance("likelihood", dtype).value
    assert relative(grad, expected_grad) <= tolerance("likelihood", dtype).gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (300, 17), (5, 100), (9, 1000), (3, 9001)])
def test_likelihood_odd_shapes(shape, dtype, launches):
    target = torch.randint(0, shape[1], shape[:1])
    target[1::3] = 0
    check_likelihood(3 * torch.randn(shape), target, dtype, ignore_index=0 if shape[0] > 1 else -100)
    assert launches == ["nll_forward_kernel", "nll_backward_kernel"]


@pytest.mark.parametrize("scale", [50.0, 1e4])
def test_likelihood_of_extreme_logits(scale):
    check_likelihood(scale * torch.randn(8, 40), torch.randint(0, 40, (8,)), torch.float32)


def test_likelihood_of_a_slice_over_tokens_is_read_where_it_lies(launches):
    logits, target = torch.randn(3, 6, 50), torch.randint(0, 50, (3, 5))
    check_likelihood(logits[:, :-1], target, torch.float32)
    check_likelihood(logits.half()[:, 1:], target, torch.float16)
    check_likelihood(torch.randn(2, 2, 5, 50), torch.randint(0, 50, (2, 2, 5)), torch.float32)
    assert len(launches) == 6
    with pytest.raises(RuntimeError, match="side by side"):
        nll(torch.randn(4, 6).T, torch.zeros(6, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="float64"):
        nll(torch.randn(4, 6, dtype=torch.float64), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, "all -inf"])
def test_likelihood_nan_in_nan_out(bad):
    x = torch.randn(6, 40)
    if bad == "all -inf":
        x[2] = -torch.inf
    else:
        x[2, 7] = bad
    target = torch.tensor([0, 1, 5, 3, 4, 5])
    x.requires_grad_()
    found = nll(x, target)
    (grad,) = torch.autograd.grad(found.sum(), x)
    expected = torch.nn.functional.cross_entropy(x, target, reduction="none")
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(found, expected, equal_nan=True)
    torch.testing.assert_close(grad, expected_grad, equal_nan=True)
    grad_output = torch.ones(6)
    grad_output[4] = torch.nan
    (grad,) = torch.autograd.grad(nll(x, target), x, grad_output)
    assert torch.isnan(grad[4]).all()


def test_likelihood_ignored_rows_are_not_read():
    x = torch.full((4, 40), torch.nan)
    x[1] = 0.0
    x.requires_grad_()
    found = nll(x, torch.tensor([-100, 3, -100, -100]))
    (grad,) = torch.autograd.grad(found.sum(), x)
    assert found.tolist() == pytest.approx([0.0, np.log(40), 0.0, 0.0])
    assert (grad[[0, 2, 3]] == 0).all()
    empty = torch.zeros(0, 5, requires_grad=True)
    nll(empty, torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert empty.grad.shape == (0, 5)


@pytest.mark.parametrize("bad", [-1, 40, 2**40])
def test_likelihood_a_target_that_is_no_class_is_refused(bad):
    from fairloss.functional import sample_likelihood

    target = torch.tensor([0, 39, bad, -100])
    with pytest.raises(ValueError, match=rf"target: expected classes 0 .. 39, .* got {bad}"):
        sample_likelihood(torch.randn(4, 40).half(), target)


def dice_oracle(x, target, with_nll):
    """(B, 3, C) and (B,) in float64, from softmax and one-hot arrays."""
    p, logp = torch.softmax(x, 1), torch.log_softmax(x, 1)
    t = (
        target.double()
        if target.dtype.is_floating_point
        else torch.stack([target == c for c in range(x.shape[1])], 1).double()
    )
    sums = torch.stack([(p * t).sum(2), (p * p).sum(2), (t * t).sum(2)], 1)
    return sums, -(t * logp).sum((1, 2)) if with_nll else torch.zeros(len(x), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("soft", "with_nll"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize(("classes", "pixels"), [(2, 1), (3, 2500), (14, 600), (100, 9)])
def test_dice_equals_the_formula(classes, pixels, soft, with_nll, dtype, launches):
    x = (2 * torch.randn(2, classes, pixels)).to(dtype).requires_grad_()
    target = torch.rand(2, classes, pixels) if soft else torch.randint(0, classes, (2, pixels))
    wide = x.detach().double().requires_grad_()
    found, expected = dice_sums(x, target, with_nll), dice_oracle(wide, target, with_nll)
    weights = [torch.rand(e.shape, dtype=torch.float64) - 0.3 for e in expected]
    (grad,) = torch.autograd.grad(sum((w.float() * f).sum() for w, f in zip(weights, found, strict=True)), x)
    (expected_grad,) = torch.autograd.grad(sum((w * e).sum() for w, e in zip(weights, expected, strict=True)), wide)
    for f, e in zip(found, expected, strict=True):
        assert relative(f, e) <= tolerance("dice", dtype).value
    assert relative(grad, expected_grad) <= tolerance("dice", dtype).gradient
    assert launches == ["dice_forward_kernel", "dice_backward_kernel"]


def test_dice_of_logits_with_the_classes_last():
    x, target = torch.randn(2, 8, 9, 3).movedim(-1, 1), torch.randint(0, 3, (2, 72))
    found = dice_sums(x.flatten(2), target, True)
    for f, e in zip(found, dice_sums(x.flatten(2).contiguous(), target, True), strict=True):
        assert torch.equal(f, e)
    with pytest.raises(RuntimeError, match="257 classes"):
        dice_sums(torch.randn(1, 257, 2), torch.zeros(1, 2, dtype=torch.int64), False)


def test_dice_nan_in_nan_out():
    x = torch.randn(3, 4, 60)
    x[1, 2, 50] = torch.nan
    target = torch.randint(0, 4, (3, 60))
    x.requires_grad_()
    sums, entropies = dice_sums(x, target, True)
    (grad,) = torch.autograd.grad(sums.sum() + entropies.sum(), x)
    with kernels.backend("eager"):
        expected = dice_sums(x, target, True)
        (expected_grad,) = torch.autograd.grad(expected[0].sum() + expected[1].sum(), x)
    assert torch.isnan(expected[0]).any()
    torch.testing.assert_close((sums, entropies), expected, equal_nan=True)
    torch.testing.assert_close(grad, expected_grad, equal_nan=True)
