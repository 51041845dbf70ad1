"""GroupDRO: the recursion of its weights, evaluation, groups that were never seen."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import fairloss
from fairloss import functional as ff
from tests.oracles import losses as oracles


def test_an_untrained_group_dro_is_no_perfect_model():
    loss, values = fairloss.GroupDROLoss(3).eval(), torch.tensor([5.0, 7.0, 9.0])
    assert loss(values, torch.tensor([0, 1, 1])).item() == pytest.approx((5 + 8) / 2)
    assert loss(values, torch.tensor([-1, -1, -1])).item() == 0
    assert (loss.q == 0).all()


def test_copies_share_nothing():
    loss = fairloss.GroupDROLoss(2, step_size=0.5)
    twin = copy.deepcopy(loss)
    twin(torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([0, 1]))
    assert loss.seen.sum() == 0


class TestGroupDRO:
    def test_follows_its_recursion(self):
        generator = torch.Generator().manual_seed(3)
        for options in ({}, {"counts": [50, 30, 20], "adjustment": 0.5}, {"released": True}):
            released, counts = options.get("released", False), options.get("counts")
            module = fairloss.GroupDROLoss(
                3,
                step_size=0.1,
                adjustment=options.get("adjustment", 0.0),
                group_counts=counts,
                variant="released" if released else "default",
            )
            log_q, seen = [0.0] * 3, [0] * 3
            for _ in range(20):
                groups = torch.randint(-1, 3, (4,), generator=generator)
                values = torch.rand(4, generator=generator, dtype=torch.float64)
                expected, log_q, seen = oracles.group_dro_step(
                    values.numpy(), groups.numpy(), log_q, seen, 0.1, **options
                )
                value = module(values.requires_grad_(), groups)
                assert value.item() == pytest.approx(expected, rel=1e-12)
                q = np.exp(np.array(log_q) - max(log_q)) * np.array([released or s > 0 for s in seen])
                assert module.q.tolist() == pytest.approx((q / q.sum() if q.sum() else q).tolist(), rel=1e-12)

    def test_function_takes_the_weights(self):
        values, groups = torch.rand(6), torch.tensor([0, 0, 1, 1, 2, -1])
        module = fairloss.GroupDROLoss(3, group_counts=[2, 2, 1]).eval()
        module(values, groups)
        module.seen.fill_(1)
        expected = ff.group_dro(values, groups, q=module.q, shares=torch.tensor([0.4, 0.4, 0.2]))
        torch.testing.assert_close(module(values, groups), expected)

    @pytest.mark.parametrize("frozen", ["eval", "no_grad"])
    def test_a_group_never_trained_on_has_no_weight_in_evaluation(self, frozen):
        module = fairloss.GroupDROLoss(3, group_counts=[2, 2, 1])
        for _ in range(5):
            module(torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
        values, groups, q = torch.rand(6), torch.tensor([0, 0, 1, 1, 2, -1]), module.q
        expected = ff.group_dro(values, groups, q=q, shares=torch.tensor([0.4, 0.4, 0.2]))
        module.train(frozen != "eval")
        with torch.set_grad_enabled(frozen != "no_grad"):
            torch.testing.assert_close(module(values, groups), expected)
        assert torch.equal(module.q, q)
        assert q[2] == 0

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"q": [0.5, 0.5]}, "q: .*floating"),
            ({"q": torch.tensor([1, 0])}, "q: .*floating"),
            ({"q": torch.ones(2, 1)}, r"q: .*\(G,\)"),
            ({"q": torch.ones(2), "shares": [0.5, 0.5]}, "shares: .*floating"),
            ({"q": torch.ones(2), "shares": torch.ones(3)}, "shares: .*q"),
            ({"q": torch.ones(2, device="meta")}, "q: .*meta"),
        ],
    )
    def test_bad_weights_are_named(self, options, match):
        with pytest.raises((TypeError, ValueError), match=match):
            ff.group_dro(torch.rand(2), torch.tensor([0, 1]), **options)

    def test_unseen_groups_have_no_weight(self):
        module = fairloss.GroupDROLoss(4)
        module(torch.rand(3, requires_grad=True), torch.tensor([0, 2, 2]))
        assert (module.q > 0).tolist() == [True, False, True, False]
        assert module.q.sum().item() == pytest.approx(1)
