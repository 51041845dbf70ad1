"""What every loss must pass. ``tests/contract/cases_<topic>.py`` holds a list ``CASES``; they are collected here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One loss with one set of options, and what the contract may expect of it.

    Attributes:
        name: shown by pytest.
        make: a fresh module. Called as ``make(num_groups=G, process_group=None)``; ``num_groups`` is 3 or, to test that an
            unused id changes nothing, 4. Losses without a process group ignore it (and set ``distributed=False``).
        batch: ``batch(generator, n, dtype)`` -> keyword arguments of ``forward``; ids 0 .. 2 and -1 under ``"groups"``.
        oracle: the value from NumPy float64 arrays, by a naive loop or a closed form; ``None`` with a reason in ``notes``.
        function: the same value from the keyword arguments and ``num_groups``; ``None`` where there is no function.
        differentiable: arguments that receive a gradient.
        oracle_gradient: where part of the graph is detached on purpose: gradient of the first differentiable argument from
            NumPy arrays. Replaces gradcheck.
        zero_without_two_groups: the value is 0 when fewer than two groups are present.
        relabel: invariant to renaming the groups.
        permute: invariant to the order of the samples.
        half: tested in bfloat16 and float16; tolerance of the value there (inputs are rounded before the oracle sees them).
        logits: the first differentiable argument takes +-1e4.
        huge: the largest magnitude of the differentiable arguments whose result float32 can hold.
        compile: fullgraph under torch.compile; a reason instead of True says why not.
        distributed: two processes equal one.
        notes: what is left out and why.
    """

    name: str
    make: Callable[..., nn.Module]
    batch: Callable[[torch.Generator, int, torch.dtype], Batch]
    oracle: Callable[..., float] | None
    function: Callable[..., Tensor] | None = None
    differentiable: tuple[str, ...] = ("input",)
    oracle_gradient: Callable[..., np.ndarray] | None = None
    zero_without_two_groups: bool = True
    relabel: bool = True
    permute: bool = True
    half: float = 1e-5
    logits: bool = True
    huge: float = 1e30
    compile: bool | str = True
    distributed: bool = True
    notes: str = ""
    sizes: tuple[int, ...] = field(default=(9, 4, 1))

    def draw(self, seed: int, n: int, dtype: torch.dtype = torch.float64, *, grad: bool = True) -> Batch:
        """A batch with gradients required of its differentiable arguments."""
        batch = self.batch(torch.Generator().manual_seed(seed), n, dtype)
        for name in self.differentiable:
            batch[name] = batch[name].detach().clone().requires_grad_(grad)
        return batch


def groups_of(generator: torch.Generator, n: int, num_groups: int = 3) -> Tensor:
    """Ids with a few unknown ones; from n = 6 on every group and the unknown are there."""
    ids = torch.randint(-1, num_groups, (n,), generator=generator)
    if n >= 2 * num_groups:
        ids[: num_groups + 1] = torch.arange(-1, num_groups)
    return ids


def to_numpy(batch: Batch) -> dict[str, np.ndarray]:
    """Float64 (or integer) arrays of a batch, for the oracles."""
    out = {}
    for name, tensor in batch.items():
        t = tensor.detach()
        out[name] = t.double().numpy() if t.dtype.is_floating_point else t.numpy()
    return out


def gradients(value: Tensor, batch: Batch, case: Case, grad_output: float = 1.0) -> list[Tensor]:
    """Gradients of ``value`` for the differentiable arguments; zeros where none flows."""
    wanted = [batch[name] for name in case.differentiable]
    grads = torch.autograd.grad(value, wanted, torch.full_like(value, grad_output), allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(grads, wanted, strict=True)]


def all_cases() -> list[Case]:
    """The cases of every ``tests/contract/cases_*.py``, by name."""
    cases: list[Case] = []
    for module in sorted(pkgutil.iter_modules([str(Path(__file__).parent)]), key=lambda m: m.name):
        if module.name.startswith("cases_"):
            cases += importlib.import_module(f"tests.contract.{module.name}").CASES
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "case names repeat"
    return cases
