"""Twenty steps of a tiny model under every loss and precision: the losses follow the float64 run, and the state stays wide.

The tolerance is that of the narrow dtype's rounding: each step rounds logits and parameters once more, so that after s steps a
loss of size L may be off by about s eps L; twice that is allowed, eps being ``torch.finfo``'s.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fairloss.core.state import StatefulModule
from tests.contract.case import Case, all_cases

pytestmark = pytest.mark.slow
STEPS, N, FEATURES = 20, 12, 6
CASES = all_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
# dtype of the parameters, dtype of autocast, whether gradients are scaled.
MODES = {
    "float32": (torch.float32, None, False),
    "bfloat16": (torch.bfloat16, None, False),
    "autocast_bfloat16": (torch.float32, torch.bfloat16, False),
    "autocast_float16": (torch.float32, torch.float16, False),
    "float16_scaled": (torch.float32, torch.float16, True),
}


class Model(nn.Module):
    """A linear layer from fixed features to the loss's first argument; per-sample losses are made positive."""

    def __init__(self, shape: torch.Size, positive: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, max(1, shape.numel()))
        self.shape, self.positive = shape, positive

    def forward(self, x):
        out = self.layer(x).reshape(x.shape[0], *self.shape)
        return F.softplus(out) if self.positive else out


def numbers(module):
    stateful = [m for m in module.modules() if isinstance(m, StatefulModule)]
    return [getattr(m, name) for m in stateful for name in m._state_names if getattr(m, name).is_floating_point()]


def train(case: Case, dtype, autocast=None, scaled=False, poison=None):
    """The losses of a run, the module, and how many steps the scaler skipped."""
    first = case.differentiable[0]
    batch = case.draw(3, N, torch.float64, grad=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model(batch[first].shape[1:], positive=first == "values").to(dtype)
        x = torch.randn(N, FEATURES).to(dtype)
    loss = case.make()
    if dtype == torch.float64:
        loss = loss.double()
    others = {
        k: v.to(autocast or dtype) if v.is_floating_point() and k != "target" else v
        for k, v in batch.items()
        if k != first
    }
    parameters = [*model.parameters(), *loss.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**24, growth_interval=1000)
    losses, skipped = [], 0
    for step in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            out = model(x * (math.inf if step == poison else 1.0))
            value = loss(**{**others, first: out})
        scaler.scale(value).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped += scaler.get_scale() < before
        losses.append(value.item())
    return losses, loss, skipped


@each_case
@pytest.mark.parametrize("mode", MODES)
def test_training_follows_float64(case, mode):
    dtype, autocast, scaled = MODES[mode]
    expected, _, _ = train(case, torch.float64)
    losses, module, skipped = train(case, dtype, autocast, scaled)
    assert all(map(math.isfinite, losses))
    assert all(t.dtype in (torch.float32, torch.float64) and torch.isfinite(t).all() for t in numbers(module))
    tolerance = 2 * STEPS * torch.finfo(autocast or dtype).eps * max(1.0, *map(abs, expected))
    if skipped and numbers(module):
        # The state has moved on in skipped steps while the parameters have not: another run, which must still get better.
        assert losses[-1] < losses[skipped] + tolerance
        return
    # A skipped step leaves the parameters as they are: the run lags behind by as many steps.
    lagging = expected[: len(expected) - skipped]
    for found, wanted in zip(losses[skipped:], lagging, strict=True):
        assert abs(found - wanted) <= tolerance, (losses, expected)
    if expected[0] - lagging[-1] > 2 * tolerance:
        assert losses[-1] < losses[0]


@each_case
def test_skipped_steps_leave_no_trace(case):
    """A forward pass that overflows: the scaler skips the step, the loss forgets the batch."""
    losses, module, skipped = train(case, torch.float32, torch.float16, True, poison=5)
    assert skipped >= 1
    assert all(torch.isfinite(t).all() for t in numbers(module))
    assert all(map(math.isfinite, losses[6:]))
    assert all(map(math.isfinite, losses[:5]))


def test_the_scaler_is_put_to_use():
    """Some step of the runs above overflows in float16, is skipped and tried again at a smaller scale."""
    case = next(c for c in CASES if c.name == "fair_cross_entropy-hybrid")
    _, _, skipped = train(case, torch.float32, torch.float16, True)
    assert 0 < skipped < STEPS // 2
