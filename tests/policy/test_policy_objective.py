"""The clipped objective and the advantages that FairGRPO is compared with, against loops."""

import math

import pytest
import torch

from fairloss import fair_grpo_policy_loss
from fairloss.policy import (
    GroupDROAdvantage,
    k3_kl,
    reinforce_pp_advantages,
)
from tests.oracles import policy as oracle
from tests.two_processes import two_processes


def tokens(seed=0, b=5, t=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logp, old, ref = (-2 * torch.rand(b, t, generator=generator).to(dtype) for _ in range(3))
    advantages = torch.randn(b, generator=generator).to(dtype)
    mask = torch.arange(t) < torch.randint(1, t + 1, (b, 1), generator=generator)
    mask[1] = False
    return logp.requires_grad_(), old, advantages, mask, ref


@pytest.mark.parametrize("agg", ["token_mean", "sequence_mean", "sequence_sum"])
@pytest.mark.parametrize(("clip", "high", "beta"), [(0.2, None, 0.0), (0.1, 0.3, 0.0), (0.2, 0.28, 0.04)])
def test_value_and_gradient_against_the_loop(agg, clip, high, beta):
    logp, old, advantages, mask, ref = tokens()
    found = fair_grpo_policy_loss(
        logp, old, advantages, mask, clip=clip, clip_high=high, beta=beta, ref_logp=ref, reduction=agg
    )

    def value(x):
        return oracle.policy_loss(
            x.tolist(), old.tolist(), advantages.tolist(), mask.tolist(), clip, high or clip, beta, ref.tolist(), agg
        )

    assert found.item() == pytest.approx(value(logp), rel=1e-12)
    (gradient,) = torch.autograd.grad(found, logp)
    for i, j in [(0, 0), (2, 1), (3, 0), (4, 2)]:
        step = torch.zeros_like(logp)
        step[i, j] = 1e-6
        numeric = (value(logp + step) - value(logp - step)) / 2e-6
        assert gradient[i, j].item() == pytest.approx(numeric, abs=1e-8)
    assert (gradient[~mask] == 0).all()


def test_masked_positions_may_hold_anything():
    logp, old, advantages, mask, ref = tokens()
    wanted = torch.autograd.grad(fair_grpo_policy_loss(logp, old, advantages, mask, beta=0.1, ref_logp=ref), logp)[0]
    for junk in (torch.nan, -torch.inf, 1e9):
        spoilt = [torch.where(mask, t.detach(), junk) for t in (logp, old, ref)]
        spoilt[0].requires_grad_()
        loss = fair_grpo_policy_loss(spoilt[0], spoilt[1], advantages, mask, beta=0.1, ref_logp=spoilt[2])
        assert torch.equal(torch.autograd.grad(loss, spoilt[0])[0], wanted)


def test_the_first_update_needs_no_old_policy_and_follows_the_advantage():
    logp, _, advantages, mask, _ = tokens()
    loss = fair_grpo_policy_loss(logp, None, advantages, mask)
    (gradient,) = torch.autograd.grad(loss, logp)
    expected = torch.where(mask, -advantages.unsqueeze(1) / mask.sum(), 0.0)
    torch.testing.assert_close(gradient, expected)
    per_token = fair_grpo_policy_loss(logp, None, advantages.unsqueeze(1).expand(-1, 7), mask.float())
    assert per_token.item() == pytest.approx(loss.item())


def test_the_clip_stops_the_gradient_on_one_side_only():
    logp = torch.tensor([[math.log(1.5)], [math.log(0.5)]], dtype=torch.float64, requires_grad=True)
    for sign, moving in ((1.0, [False, True]), (-1.0, [True, False])):
        loss = fair_grpo_policy_loss(logp, torch.zeros(2, 1), torch.full((2,), sign), torch.ones(2, 1))
        assert [g != 0 for g in torch.autograd.grad(loss, logp)[0].flatten().tolist()] == moving


def test_k3_is_unbiased_and_not_negative():
    p, q = torch.tensor([0.2, 0.5, 0.3]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    values = k3_kl(p.log(), q.log())
    assert (values > 0).all()
    assert (p * values).sum().item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-12)
    assert k3_kl(p.log(), p.log()).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    logp, old, advantages, mask, ref = (t.detach() for t in tokens())
    rounded = [t.to(dtype) if t.dtype.is_floating_point else t for t in (logp, old, advantages, mask, ref)]
    wide = [t.double() if t.dtype.is_floating_point else t for t in rounded]
    found = fair_grpo_policy_loss(*rounded[:4], beta=0.1, ref_logp=rounded[4])
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(fair_grpo_policy_loss(*wide[:4], beta=0.1, ref_logp=wide[4]).item(), rel=1e-5)


def test_no_tokens_is_zero_with_a_gradient():
    logp, old, advantages, mask, _ = tokens()
    for agg in ("token_mean", "sequence_mean", "sequence_sum"):
        loss = fair_grpo_policy_loss(logp, old, advantages, mask & False, reduction=agg)
        assert loss == 0
        assert (torch.autograd.grad(loss, logp)[0] == 0).all()


def test_the_loss_compiles_whole():
    logp, old, advantages, mask, ref = tokens()

    def loss(logp, old, advantages, mask, ref):
        return fair_grpo_policy_loss(logp, old, advantages, mask, beta=0.1, ref_logp=ref, reduction="sequence_mean")

    whole = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(whole(logp, old, advantages, mask, ref), loss(logp, old, advantages, mask, ref))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"clip": 1.0}, "clip"),
        ({"clip_high": 0.0}, "clip_high"),
        ({"beta": -1.0}, "beta"),
        ({"beta": 0.1}, "ref_logp: "),
        ({"reduction": "mean"}, "reduction"),
        ({"mask": torch.ones(5, 3)}, "mask: .*shape"),
        ({"mask": None}, "mask"),
        ({"old_logp": torch.ones(4, 7)}, "old_logp: .*shape"),
        ({"advantages": torch.ones(7)}, "advantages: .*shape"),
        ({"logp": torch.ones(5)}, "logp: .*shape"),
        ({"process_group": 1}, "process_group"),
    ],
)
def test_bad_arguments_of_the_loss_are_named(changes, named):
    logp, old, advantages, mask, _ = tokens()
    with pytest.raises((ValueError, TypeError), match=named):
        fair_grpo_policy_loss(**{"logp": logp, "old_logp": old, "advantages": advantages, "mask": mask, **changes})


AGGREGATIONS = ("token_mean", "sequence_mean", "sequence_sum")


def loss_on_rank(rank):
    logp, old, advantages, mask, ref = tokens()
    mine = slice(0, 2) if rank == 0 else slice(2, 5)
    group = torch.distributed.group.WORLD
    losses = []
    for agg in AGGREGATIONS:
        own = logp.detach()[mine].requires_grad_()
        options = {"beta": 0.1, "ref_logp": ref[mine], "reduction": agg, "process_group": group}
        loss = fair_grpo_policy_loss(own, old[mine], advantages[mine], mask[mine], **options)
        losses.append((loss.detach(), torch.autograd.grad(loss, own)[0]))
    dro = GroupDROAdvantage(3, process_group=group)
    for step in range(2):
        rewards, groups = rewarded(step)
        reinforce = reinforce_pp_advantages(rewards[mine], process_group=group)
        weighted = dro(rewards[mine], groups[mine])
    return losses, reinforce, weighted


def rewarded(seed, q=5, r=4):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randint(0, 2, (q, r), generator=generator).double()
    return rewards, torch.randint(-1, 3, (q,), generator=generator)


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path):
    logp, old, advantages, mask, ref = tokens()
    close = {"rtol": 1e-12, "atol": 1e-12}
    first, second = two_processes(loss_on_rank, tmp_path)
    for agg, (loss_0, gradient_0), (loss_1, gradient_1) in zip(AGGREGATIONS, first[0], second[0], strict=True):
        loss = fair_grpo_policy_loss(logp, old, advantages, mask, beta=0.1, ref_logp=ref, reduction=agg)
        torch.testing.assert_close(loss_0, loss.detach(), **close)
        torch.testing.assert_close(loss_1, loss.detach(), **close)
        # DistributedDataParallel's mean over ranks: each rank's rows carry world size times their gradient.
        (gradient,) = torch.autograd.grad(loss, logp)
        torch.testing.assert_close(torch.cat([gradient_0, gradient_1]) / 2, gradient, **close)
    dro = GroupDROAdvantage(3)
    for step in range(2):
        rewards, groups = rewarded(step)
        weighted = dro(rewards, groups)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), reinforce_pp_advantages(rewards), **close)
    torch.testing.assert_close(torch.cat([first[2], second[2]]), weighted, **close)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_log_ratios_that_overflow(sign):
    logp = torch.zeros(1, 2, requires_grad=True)
    old = torch.tensor([[-200.0, 200.0]])
    loss = fair_grpo_policy_loss(logp, old, torch.tensor([sign]), torch.ones(1, 2), beta=0.1, ref_logp=-old)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, logp)[0]).all()


def test_no_weight_of_the_reference_no_reference():
    logp, mask = torch.full((1, 3), -1.0), torch.ones(1, 3)
    arguments = (logp, None, torch.ones(1), mask)
    impossible = torch.tensor([[-1.0, float("-inf"), -1.0]])
    plain = fair_grpo_policy_loss(*arguments, beta=0.0)
    assert torch.equal(fair_grpo_policy_loss(*arguments, beta=0.0, ref_logp=impossible), plain)
