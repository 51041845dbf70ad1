"""Moment alignment, both forms, against explicit covariances cell by cell; and what it allocates."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairloss import MomentAlignmentLoss
from fairloss.functional import moment_alignment
from fairloss.losses.moment_alignment import _use_gram
from tests.oracles.embeddings import moments, with_gradient


def draw(n, *, d=4, labels=3, groups=(3,), seed=0, unknown=0.15):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = torch.randint(0, labels, (n,), generator=generator)
    y[torch.rand(n, generator=generator) < 0.1] = -100
    ids = torch.stack([torch.randint(0, g, (n,), generator=generator) for g in groups], 1)
    ids[torch.rand(ids.shape, generator=generator) < unknown] = -1
    return z, y, ids[:, 0] if len(groups) == 1 else ids


@pytest.mark.parametrize("form", ["gram", "explicit"])
@pytest.mark.parametrize("groups", [(3,), (2, 4)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"variant": "paper", "cov_weight": 0.3},
        {"attribute_reduction": "max", "normalize": True},
        {"cov_weight": 0.0},
    ],
    ids=str,
)
def test_equals_explicit_covariances(form, groups, options):
    # From cells of a dozen down to cells of one and to labels with one group alone.
    for seed, n in enumerate((80, 20, 8, 1)):
        z, y, ids = draw(n, groups=groups, seed=seed)
        expected, expected_grad = with_gradient(moments, z, y, ids, num_groups=groups, **options)
        z.requires_grad_()
        value = moment_alignment(z, y, ids, num_classes=3, num_groups=groups, form=form, **options)
        (grad,) = torch.autograd.grad(value, z)
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-13)
        assert n < 20 or value > 0


def test_equal_moments_cost_nothing():
    z, *_ = draw(20)
    twice = torch.cat([z, z])
    y, ids = torch.zeros(40, dtype=torch.int64), torch.arange(40) // 20
    for form in ("gram", "explicit"):
        value = moment_alignment(twice, y, ids, num_classes=1, num_groups=2, form=form)
        assert abs(value.item()) < 1e-12
    shifted = torch.cat([z, z + torch.tensor([3.0, 0, 0, 0])])
    assert moment_alignment(shifted, y, ids, num_classes=1, num_groups=2).item() == pytest.approx(1.5**2)


def test_far_away_embeddings_keep_their_digits():
    """A common offset of 1000 standard deviations, in float32."""
    z, y, ids = draw(60)
    expected = moment_alignment(z, y, ids, num_classes=3, num_groups=3)
    for form in ("gram", "explicit"):
        offset = (z + 1000).float()
        exact = moment_alignment(offset.double(), y, ids, num_classes=3, num_groups=3)
        value = moment_alignment(offset, y, ids, num_classes=3, num_groups=3, form=form)
        assert value.item() == pytest.approx(exact.item(), rel=1e-5)
        assert exact.item() == pytest.approx(expected.item(), rel=1e-3)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returns, in elements."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_large_d_never_allocates_d_by_d():
    n, d = 64, 4096
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y, ids = torch.arange(n) % 2, torch.arange(n) // 2 % 2
    with Largest() as largest:
        moment_alignment(z, y, ids, num_classes=2, num_groups=2).backward()
    assert n * d <= largest.elements < 2 * n * d
    with Largest() as largest:  # the mode does see covariances where there are some
        moment_alignment(z[:, :128], y, ids, num_classes=2, num_groups=2, form="explicit")
    assert largest.elements >= 4 * 128 * 128


def test_the_form_follows_n_and_d():
    assert _use_gram(64, 4096, 4, 1)
    assert _use_gram(256, 512, 4, 1)
    assert not _use_gram(4096, 64, 4, 1)
    assert not _use_gram(1000, 8, 4, 1)


def test_training_moves_the_groups_together():
    generator = torch.Generator().manual_seed(0)
    y, ids = torch.arange(200) % 2, torch.arange(200) // 2 % 2
    x = torch.randn(200, 6, generator=generator) * (1 + 2 * ids[:, None])
    x[:, 0] += 3 * ids
    x[:, 1] += 4 * y
    torch.manual_seed(0)
    encoder, loss = torch.nn.Linear(6, 3), MomentAlignmentLoss(2, num_classes=2)
    head = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.02)
    first = loss(encoder(x), y, ids).item()
    for _ in range(150):
        optimiser.zero_grad()
        z = encoder(x)
        (torch.nn.functional.cross_entropy(head(z), y) + loss(z, y, ids)).backward()
        optimiser.step()
    assert loss(encoder(x), y, ids).item() < 0.1 * first
    assert (head(encoder(x)).argmax(1) == y).float().mean() > 0.8


def test_errors_name_the_argument():
    z, y, ids = draw(6)
    loss = MomentAlignmentLoss(3, num_classes=3)
    for bad, named in [
        ((z.long(), y, ids), "embeddings"),
        ((z, y.clamp(min=0) + 3, ids), "target: .*label"),
        ((z, y.clamp(min=0) - 7, ids), "target: .*label"),
        ((z, y[:2], ids), "target: .*label"),
        ((z, y, ids + 3), "groups: .*id"),
    ]:
        with pytest.raises((TypeError, ValueError), match=named):
            loss(*bad)
    for arguments in (
        {"cov_weight": -1},
        {"attribute_reduction": "none"},
        {"variant": "released"},
        {"form": "fast"},
        {"process_group": 1},
    ):
        with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
            MomentAlignmentLoss(2, num_classes=2, **arguments)
