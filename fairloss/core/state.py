"""Modules whose state is plain tensors: out of reach of DDP's buffer broadcast, and saved as one packed tensor.

A registered buffer inside a DDP-wrapped model is overwritten by rank 0 before every forward, and ``.half()`` would round
it. State kept here follows the module's device but never its dtype, and ``state_dict`` round trips bit for bit.

State moves once per step, although activation checkpointing runs the forward pass again in the backward pass. A module
keeps its state from before the latest counted call as well; a call inside a backward pass that repeats the latest one
goes back there first, so that it computes what the first one did, and ends where that ended. The rules are
:meth:`StatefulModule.begin`'s.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairloss.core.checks import expected
from fairloss.core.distributed import SavedProcessGroup, saved_process_group
from fairloss.core.packing import pack, unpack
from fairloss.core.tensor_checks import on_host

__all__ = ["ConstantsModule", "StatefulModule", "Step", "frozen", "real_device"]

_SAME = 1e-2
"""What a repeated update may differ by, as a share of the largest: half precision may round otherwise when it is recomputed."""


def real_device() -> torch.device:
    """The default device; the CPU under ``torch.device("meta")``, where tensors have no values to compute with or keep."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


@torch.library.custom_op("fairloss::backward_id", mutates_args=())
def backward_id(fresh: Tensor, passes: Tensor) -> Tensor:
    """() int64: the number of the backward pass that this runs in, -1 outside one; an op, so that graphs ask when they run.

    A module's ``passes`` forget the number at the end of the pass where no ``fresh`` call came before it.
    """
    now = torch._C._current_graph_task_id()

    def forget() -> None:
        with torch.no_grad():
            passes[3:].masked_fill_(~fresh & (passes[3:] == now), -1)

    if now >= 0:
        torch.autograd.Variable._execution_engine.queue_callback(forget)
    return torch.full((), now, dtype=torch.int64, device=passes.device)


@backward_id.register_fake
def _(fresh: Tensor, passes: Tensor) -> Tensor:
    return passes.new_empty(())


class ConstantsModule(nn.Module):
    """An ``nn.Module`` with constant tensors: derived from its arguments, on its device, in their own dtype, not saved.

    Copies and pickles keep its process group where this process has it, and drop it with a warning where it does not.
    """

    _followers: tuple[str, ...]
    _frozen = False

    def __init__(self) -> None:
        super().__init__()
        self._followers = ()

    def register_constant(self, name: str, tensor: Tensor | None) -> None:
        """Keep ``tensor`` as the attribute ``name``; it moves with the module and is never cast."""
        if tensor is not None:
            if tensor.is_meta:
                raise ValueError(expected(name, "a tensor with values", "one on meta", 'make it with device="cpu"'))
            self._followers = (*self._followers, name)
        setattr(self, name, tensor)

    def reset(self) -> None:
        """Put all state within this module back to what it was when it was made; parameters stay."""
        for module in self.modules():
            if isinstance(module, StatefulModule):
                module.reset_state()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConstantsModule:
        super()._apply(fn, recurse)
        for name in self._followers:
            tensor = getattr(self, name)
            # The device is read off a probe, so that a cast of the module leaves the dtype alone.
            device = fn(torch.empty(0, device=tensor.device)).device
            if device.type != "meta":  # which would lose the values, and nothing could bring them back
                wide_on_mps = device.type == "mps" and tensor.dtype == torch.float64  # which has no float64
                setattr(self, name, tensor.to(device, torch.float32 if wide_on_mps else tensor.dtype))
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_frozen": False}  # a copy made within frozen() outlives it
        if state.get("process_group") is not None:
            state["process_group"] = saved_process_group(state["process_group"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        group = self.__dict__.get("process_group")
        if isinstance(group, SavedProcessGroup):
            self.process_group = group.here()
            if self.process_group is None:
                text = f"{type(self).__name__}: its process group does not exist in this process and is dropped"
                warnings.warn(f"{text}: the loss is that of this process alone", stacklevel=2)
        for name in self._followers:
            # A tensor that was sent to another process shares its memory with whoever else it was sent to.
            if getattr(self, name).is_shared():
                setattr(self, name, getattr(self, name).clone())


class Step(NamedTuple):
    """A counted call that has begun: ``repeat``, () bool, says whether it repeats the latest one; None where it cannot."""

    repeat: Tensor | None


class StatefulModule(ConstantsModule):
    """A module with state tensors declared by :meth:`register_state`.

    The tensors are ordinary attributes; update them in place. ``state_dict`` holds them under ``_extra_state`` as one
    uint8 tensor (safetensors accepts no dicts), preceded by their dtypes and shapes, which loading compares.
    """

    _initial: dict[str, tuple[tuple[int, ...], float]]
    _fresh: Tensor
    _passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._initial = {}
        self._growing: tuple[str, ...] = ()
        self._counted: tuple[str, ...] = ()

    @property
    def _state_names(self) -> tuple[str, ...]:
        return tuple(self._initial)

    def register_state(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        fill: float = 0,
        growing: bool = False,
        counted: bool = False,
    ) -> None:
        """Declare the state called ``name``, at first filled with ``fill``.

        A ``growing`` one takes any shape of its rank when loaded. A ``counted`` one moves between :meth:`begin` and
        :meth:`end` alone.
        """
        self._initial[name] = (tuple(shape), fill)
        self.register_constant(name, torch.full(tuple(shape), fill, dtype=dtype, device=real_device()))
        if growing:
            self._growing = (*self._growing, name)
        if counted:
            if not self._counted:
                # Whether a counted call came outside a backward pass.
                self.register_state("_fresh", (), torch.bool)
                # Of this process: such calls; how many of them there were at the latest pass with a call in it, and how many
                # more than passes came since the one before; the number of that pass.
                self.register_constant("_passes", torch.tensor([0, 0, 0, -1], device=real_device()))
            self._counted = (*self._counted, name)
            self.register_state(f"{name}_before", shape, dtype, fill=fill)

    def reset_state(self) -> None:
        """Put the state of this module back to what it was when it was made."""
        for name, (shape, fill) in self._initial.items():
            if name in self._growing:
                setattr(self, name, getattr(self, name).new_full(shape, fill))
            else:
                getattr(self, name).fill_(fill)
        self._forget_passes()

    def _forget_passes(self) -> None:
        if self._counted:
            self._passes.zero_()
            self._passes[3:].fill_(-1)

    def _states(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._state_names]

    def get_extra_state(self) -> Tensor:
        """All state as one uint8 tensor."""
        return pack(self._states())

    def set_extra_state(self, state: Any) -> None:
        """Copy packed state into place.

        Raises:
            ValueError: the state was saved by a module of other sizes or dtypes; nothing is changed then.
        """
        own = {name: getattr(self, name) for name in self._state_names}
        for name, tensor in unpack(state, own, self._growing, type(self).__name__).items():
            if name in self._growing:
                setattr(self, name, own[name].new_empty(tensor.shape))
            getattr(self, name).copy_(tensor)
        self._forget_passes()

    def begin(self) -> Step | None:
        """Begin a call; None where it does not count: in eval mode, without gradients, and under :func:`frozen`.

        A counted call starts from :meth:`base`. Outside a backward pass that is the state as it is. A call inside one is a
        repeat if a counted call came before, starts where that one started, and changes nothing; otherwise it is the only run
        with gradients of reentrant checkpointing, and starts from the state as it is.

        Raises:
            RuntimeError: two calls in one backward pass; a ``torch.func`` transform, which cannot move state.
        """
        if self._frozen or not self.training:
            return None
        compiling = torch.compiler.is_compiling()
        if torch._C._are_functorch_transforms_active():
            cure = "call it in eval mode or within fairloss.frozen(module)"
            raise RuntimeError(expected(type(self).__name__, "no torch.func transform where state moves", "one", cure))
        if not torch.is_grad_enabled():
            if not compiling and torch._C._current_graph_task_id() < 0 and self._counted:
                # A backward pass that failed has not forgotten its number. Graphs that saved it do not mind.
                with torch.autograd._unsafe_preserve_version_counter(self._passes):  # type: ignore[attr-defined]
                    self._passes[3:].masked_fill_(~self._fresh, -1)
            return None
        with torch.no_grad():
            if compiling or torch._C._current_graph_task_id() >= 0:
                return self._begin_anywhere(backward_id(self._fresh, self._passes))
            self._fresh.fill_(True)
            self._passes[:1].add_(1)
        return self.begin_by_hand()

    @torch.no_grad()
    def begin_by_hand(self) -> Step:
        """Begin a call that counts in every mode and repeats none: filling a memory, outside what is checkpointed."""
        for name in self._counted:
            getattr(self, f"{name}_before").copy_(getattr(self, name))
        return Step(None)

    def _begin_anywhere(self, now: Tensor) -> Step:
        """:meth:`begin` where only the device knows whether this is a backward pass: () int64 ``now``, its number or -1."""
        calls, handled, excess, latest = self._passes.unbind()
        inside, again, alone = now >= 0, now == latest, ~self._fresh
        self._refuse(inside & again & (alone | (excess > 0)))
        # A backward pass within that of the only run: its checkpointed part is checkpointed again.
        nested = inside & alone & (latest >= 0) & ~again
        repeat = nested | (inside & ~alone)
        for name in self._counted:
            before = getattr(self, f"{name}_before")
            before.copy_(torch.where(repeat, before, getattr(self, name)))
        first = inside & ~again
        excess = torch.where(first, calls - handled - torch.where(latest < 0, 1, now - latest), excess)
        handled = torch.where(first, calls, handled)
        latest = torch.where(inside & ~nested, now, latest)
        self._passes.copy_(torch.stack([torch.where(inside, calls, calls + 1), handled, excess, latest]))
        self._fresh.logical_or_(~inside)
        return Step(repeat)

    def base(self, name: str, step: Step | None) -> Tensor:
        """The counted state that a call starts from: as it is, or where a counted call started."""
        tensor: Tensor = getattr(self, name if step is None else f"{name}_before")
        return tensor

    @torch.no_grad()
    def write(self, step: Step, state: Tensor, place: Tensor, rows: Tensor) -> None:
        """Write ``rows`` at ``place``, (n,), of the first axis of ``state``, in a counted call; a repeat finds them there.

        Raises:
            RuntimeError: a repeat finds others.
        """
        if step.repeat is not None:
            there = state[place]
            self._refuse(step.repeat & _differ(torch.zeros_like(there), there, rows))
            rows = torch.where(step.repeat, there, rows)
        state.index_copy_(0, place, rows)

    @torch.no_grad()
    def end(self, step: Step, **states: Tensor) -> None:
        """End a counted call: its counted states become ``states``; a repeat finds them so.

        Raises:
            RuntimeError: a repeat finds others.
        """
        for name, new in states.items():
            state = getattr(self, name)
            if step.repeat is not None:
                self._refuse(step.repeat & _differ(self.base(name, step), state, new))
                new = torch.where(step.repeat, state, new)
            state.copy_(new)

    def _refuse(self, bad: Tensor) -> None:
        text = expected(
            type(self).__name__,
            "one call per backward pass under activation checkpointing",
            "a second one, or a repeat of other data",
            "give each call a module of its own, or call it outside the checkpointed part; "
            "use_reentrant=False where steps without checkpointing came before; preserve_rng_state=True",
        )
        if not on_host(bad):
            torch._assert_async(~bad, text)
        elif bool(bad):
            raise RuntimeError(text)


def _differ(before: Tensor, ended: Tensor, state: Tensor) -> Tensor:
    """() bool: whether two updates of ``before`` differ by more than rounding does."""
    if not ended.dtype.is_floating_point or not ended.numel():
        return (ended != state).any()
    return ((state - ended).abs() > _SAME * (ended - before).abs().amax()).any()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within this context no state of ``module`` moves: its losses read it as in eval mode, with gradients.

    For what evaluates a loss several times per step (the closure of L-BFGS, the second pass of SAM, a line search, a probe):
    count one call per step outside, and run the others, their backward passes included, inside.

    Args:
        module: a loss, a memory, or a model that holds some; all state within it stays as it is.

    Example:
        >>> import fairloss
        >>> loss = fairloss.GroupDROLoss(2, step_size=0.5)
        >>> with fairloss.frozen(loss):
        ...     value = loss(torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        >>> loss.seen.tolist()
        [0.0, 0.0]
    """
    held = [m for m in module.modules() if isinstance(m, StatefulModule)]
    earlier = [m._frozen for m in held]
    for m in held:
        m._frozen = True
    try:
        yield
    finally:
        for m, was in zip(held, earlier, strict=True):
            m._frozen = was
