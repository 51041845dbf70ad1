"""Hostile batches for the fuzz tests: what is drawn, how a batch is spoilt, and what a call must then do.

A batch is either *valid*, however odd (empty, one sample, absent groups, all unknown, huge or equal values, any strides),
and then the result is finite with finite gradients and meets its oracle where there is one; or it is *spoilt* in one
argument, and then the call raises ``ValueError`` or ``TypeError`` naming the argument. In either case no input is changed,
and after an error no state is. NaN and infinity may come back as NaN, but must never stay behind in the state.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tests.fuzz.drawing import Fields, refused


@dataclass(frozen=True)
class Target:
    """A public callable on tensors, and what a valid call returns.

    Attributes:
        name: shown on failure.
        call: takes the batch as keyword arguments.
        draw: ``draw(generator, n, dtype)`` -> keyword arguments.
        oracle: NumPy arrays -> the value, or None.
        floats: arguments drawn as floating tensors; the first ones of them receive gradients.
        gradients: which of ``floats`` must receive finite gradients.
        ids: sizes of the attributes that the ids under ``"groups"`` belong to.
        huge: largest magnitude with a result that float32 can hold; squared in the exponent for float64.
        module: whose state is watched.
        free_ids: ids have no upper bound.
        bad: spoilt arguments that may pass, as ``(argument, how)``.
        must: those that must raise, though NaN and infinity may pass elsewhere.
        shape: the argument whose shape the result has.
        dtypes: of the floating arguments; others that are drawn become the first of these.
    """

    name: str
    call: Callable[..., Any]
    draw: Callable[[torch.Generator, int, torch.dtype], dict[str, Any]]
    oracle: Callable[..., Any] | None = None
    floats: tuple[str, ...] = ("input",)
    gradients: tuple[str, ...] | None = None
    ids: tuple[int, ...] = (3,)
    huge: float = 1e30
    module: nn.Module | None = None
    free_ids: bool = False
    bad: frozenset[tuple[str, str]] = frozenset()
    must: frozenset[tuple[str, str]] = frozenset()
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    shape: str = ""
    states: list[dict[str, Tensor]] = field(default_factory=list)


class Example(NamedTuple):
    """One drawn example; everything else follows from the seed."""

    seed: int
    n: int
    groups: str
    values: str
    dtype: torch.dtype
    layout: str
    argument: int
    spoil: str


GROUPS = ("random", "absent", "unknown", "one", "singletons", "one_known", "one_and_unknown")
VALUES = ("normal", "zero", "equal", "ties", "tiny", "huge", "mixed")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("plain", "strided", "expanded", "offset")
SPOIL_ANY = ("none", "list", "array", "meta", "scalar", "longer", "deeper")
SPOIL_FLOATS = ("nan", "inf", "-inf", "integers", "complex", "bool")
SPOIL_IDS = ("past_end", "large", "below", "lowest", "fractions", "complex")
FINE = "fine"

EXAMPLE = Fields(
    {
        "seed": range(2**31),
        "n": (0, 1, 2, 3, 5, 8),
        "groups": GROUPS,
        "values": VALUES,
        "dtype": DTYPES,
        "layout": LAYOUTS,
        "argument": range(6),
        "spoil": (FINE,) * 12 + SPOIL_ANY + SPOIL_FLOATS + SPOIL_IDS,
    },
    Example,
)


def ids_like(pattern: str, n: int, sizes: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """(N,) ids of one attribute, (N, K) of several, laid out as ``pattern`` says."""

    def column(size: int) -> Tensor:
        ids = torch.randint(-1, size, (n,), generator=generator)
        if pattern == "absent":
            ids = ids.clamp(max=size - 2)
        elif pattern == "unknown":
            ids = torch.full((n,), -1)
        elif pattern == "one":
            ids = torch.full((n,), size - 1)
        elif pattern == "singletons":
            ids = torch.where(torch.arange(n) < size, torch.arange(n), -1)
        elif pattern == "one_known":
            ids = torch.where(torch.arange(n) == 0, 1 % size, -1)
        elif pattern == "one_and_unknown":
            ids = torch.where(ids < 0, -1, size - 1)
        return ids

    columns = [column(size) for size in sizes]
    return columns[0] if len(sizes) == 1 else torch.stack(columns, 1)


def _magnitudes(x: Tensor, pattern: str, dtype: torch.dtype, huge: float, generator: torch.Generator) -> Tensor:
    """Float64 ``x`` with the pattern's values; those of losses and probabilities keep their signs."""
    narrow = (
        3e4 if huge == 1e30 else 100.0 if huge == 1e15 else 8.0
    )  # the derivative of a square, or a fourth power, must fit
    top = {torch.float64: huge**2, torch.float32: huge, torch.bfloat16: huge, torch.float16: narrow}[dtype]
    small = 4e-3 if dtype == torch.float16 else 1e-30
    if pattern == "zero":
        return torch.zeros_like(x)
    if pattern == "equal":
        return torch.full_like(x, 0.3)
    if pattern == "ties":
        return torch.round(2 * x) / 2
    if pattern == "tiny":
        return x * small
    if pattern == "huge":
        return x.sign() * top
    if pattern == "mixed":
        scales = torch.tensor([0.0, small, 1.0, top], dtype=torch.float64)
        return x.sign() * scales[torch.randint(0, 4, x.shape, generator=generator)]
    return x


def _arrange(x: Tensor, layout: str) -> Tensor:
    """The same numbers with other strides."""
    if layout == "strided":
        return torch.stack([x, x], -1)[..., 0]
    if layout == "expanded":
        return x[:1].expand(x.shape) if x.ndim and x.shape[0] > 1 else x
    if layout == "offset":
        flat = torch.cat([x.reshape(-1)[:0].new_zeros(3), x.reshape(-1)])
        return flat[3:].reshape(x.shape)
    return x


def make_batch(target: Target, example: Example) -> dict[str, Any]:
    """A valid batch."""
    generator = torch.Generator().manual_seed(example.seed)
    batch = target.draw(generator, example.n, torch.float64)
    dtype = example.dtype if example.dtype in target.dtypes else target.dtypes[0]
    if "groups" in batch:
        batch["groups"] = ids_like(example.groups, example.n, target.ids, generator)
    out: dict[str, Any] = {}
    for name, x in batch.items():
        if isinstance(x, Tensor) and x.dtype.is_floating_point:
            if name in target.floats:
                x = _magnitudes(x, example.values, dtype, target.huge, generator)
            x = x.to(dtype)
        out[name] = _arrange(x, example.layout) if isinstance(x, Tensor) else x
    return out


def spoil(x: Tensor, how: str, generator: torch.Generator) -> Any:
    """``x`` made unacceptable, or None where that way does not apply to it."""
    kind = "floats" if x.dtype.is_floating_point else "ids"
    if how == "none":
        return None
    if how == "list":
        return [] if x.device.type == "meta" else x.tolist()
    if how == "array":
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    if how == "meta":
        return x.to("meta")
    if how == "scalar":
        return x.new_zeros(())
    if how == "longer":
        return torch.cat([x, x[:1]]) if x.shape[0] else torch.zeros((1, *x.shape[1:]), dtype=x.dtype)
    if how == "deeper":
        return x.unsqueeze(0).unsqueeze(0).unsqueeze(0)
    if how == "complex":
        return x.to(torch.complex64)
    spoilt = x.clone(memory_format=torch.contiguous_format)
    if kind == "floats" and how in SPOIL_FLOATS:
        if how in ("integers", "bool"):
            return x.nan_to_num(0).clamp(-9, 9).to(torch.int64 if how == "integers" else torch.bool)
        if not x.numel():
            return NotImplemented
        place = int(torch.randint(0, x.numel(), (), generator=generator))
        spoilt.view(-1)[place] = float(how)
        return spoilt
    if kind == "ids" and how in SPOIL_IDS:
        if how == "fractions":
            return x.to(torch.float32) + 0.5
        if not x.numel() or x.dtype != torch.int64:
            return NotImplemented
        place = int(torch.randint(0, x.numel(), (), generator=generator))
        spoilt.view(-1)[place] = {"past_end": 1000, "large": 2**62, "below": -2, "lowest": -(2**63)}[how]
        return spoilt
    return NotImplemented


def _flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result for t in _flat(part)] if isinstance(result, (tuple, list)) else []


def _bits(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) and value.device.type != "meta" else value


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, NaN included."""
    if isinstance(a, Tensor) and a.device.type == "meta":
        return a is b
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    return a is b or a == b or a != a


def state_of(module: nn.Module | None) -> dict[str, Tensor]:
    """A copy of the module's state."""
    return {} if module is None else {k: v.clone() for k, v in module.state_dict().items()}


def numbers_of(module: nn.Module | None) -> list[Tensor]:
    """The floating tensors behind the packed state."""
    from fairloss.core.state import StatefulModule

    if module is None:
        return []
    stateful = [m for m in module.modules() if isinstance(m, StatefulModule)]
    tensors = [getattr(m, name) for m in stateful for name in m._state_names]
    return [t for t in tensors if t.dtype.is_floating_point]


def check(target: Target, example: Example) -> None:
    """Run one example."""
    batch = make_batch(target, example)
    if target.module is not None:
        if not target.states:
            target.states.append(state_of(target.module))
        target.module.load_state_dict(target.states[0])
    if example.spoil == FINE:
        _check_fine(target, example, batch)
    else:
        _check_spoilt(target, example, batch)


def _run(target: Target, batch: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "rewards: expected two prompts or more")  # FairGRPO's, of a batch of one
        return target.call(**batch)


def _check_fine(target: Target, example: Example, batch: dict[str, Any]) -> None:
    wanted = target.floats if target.gradients is None else target.gradients
    for name in wanted:
        batch[name] = batch[name].detach().requires_grad_()
    before = {k: _bits(v) for k, v in batch.items()}
    result = _run(target, batch)
    for name, value in batch.items():
        assert same(value.detach() if isinstance(value, Tensor) else value, before[name]), f"{name} was modified"
    parts = _flat(result)
    assert all(bool(torch.isfinite(p).all()) for p in parts if p.dtype.is_floating_point), f"{target.name}: {result}"
    assert not target.shape or parts[0].shape == batch[target.shape].shape
    assert all(bool(torch.isfinite(t).all()) or t.isposinf().all() for t in numbers_of(target.module))
    if wanted:
        total = sum((p.sum() for p in parts if p.requires_grad), torch.zeros(()))
        grads = torch.autograd.grad(total, [batch[w] for w in wanted], allow_unused=True) if total.requires_grad else ()
        for name, grad in zip(wanted, grads, strict=False):
            assert grad is None or bool(torch.isfinite(grad).all()), f"{target.name}: gradient of {name}"
            assert grad is None or (grad.dtype == batch[name].dtype and grad.shape == batch[name].shape)
    # Huge and tiny numbers side by side have no digits in common for an oracle to agree on.
    wide = all(v.dtype == torch.float64 for v in batch.values() if isinstance(v, Tensor) and v.is_floating_point())
    wide = wide and example.values not in ("huge", "mixed")
    if target.oracle is not None and wide and example.n:
        arrays = {k: v.detach().numpy() if isinstance(v, Tensor) else v for k, v in batch.items()}
        expected = np.asarray(target.oracle(**arrays), dtype=np.float64)
        found = parts[0].detach().double().numpy()
        scale = max(1.0, float(np.abs(expected).max())) if expected.size else 1.0
        slack = 1e-9 if parts[0].dtype == torch.float64 else 1e-6
        assert np.allclose(found, expected, rtol=slack, atol=slack * scale), f"{target.name}: {found}, {expected}"


def _check_spoilt(target: Target, example: Example, batch: dict[str, Any]) -> None:
    names = [k for k, v in batch.items() if isinstance(v, Tensor)]
    name = names[example.argument % len(names)]
    value = spoil(batch[name], example.spoil, torch.Generator().manual_seed(example.seed))
    if value is NotImplemented:
        return
    batch[name] = value
    how = example.spoil
    may_pass = how in ("nan", "inf", "-inf") or (name, how) in target.bad or (name, "*") in target.bad
    may_pass |= how in ("past_end", "large") and target.free_ids
    may_pass |= example.n == 0 and how in ("longer", "past_end", "large", "below", "lowest")
    may_pass |= how == "meta" and len(names) == 1  # then all is on that device
    may_pass &= (name, how) not in target.must
    before, state = {k: _bits(v) for k, v in batch.items()}, state_of(target.module)
    try:
        _run(target, batch)
    except (ValueError, TypeError) as error:
        refused(error, "|".join(rf"\b{re.escape(k)}\b" for k in batch))
        after = state_of(target.module)
        assert all(same(after[k], state[k]) for k in state), f"{target.name}: {name} {how}: state changed"
    else:
        assert may_pass, f"{target.name}: {name} spoilt by {how!r} was accepted"
        finite = [bool(torch.isfinite(t).all() | t.isposinf().all()) for t in numbers_of(target.module)]
        assert all(finite), f"{target.name}: {name} {how}: stays behind in the state"
    for key, item in batch.items():
        assert same(item, before[key]), f"{key} was modified"
