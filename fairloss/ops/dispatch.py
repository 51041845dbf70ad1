"""Which code runs an op: PyTorch ("eager") or a Triton kernel. One switch, and nothing looks at a device before it is used.

``"auto"``, the default, takes the Triton kernel where a recorded run on the same architecture found it no slower than
PyTorch for that op, dtype and size (:mod:`fairloss.ops.measured`; while nothing is recorded there, nowhere), Triton is
installed in a version that is tested, and the op supports dtype and shape. ``"eager"`` never takes it. ``"triton"`` takes it
or raises with the reason why it cannot run. The first value is the environment variable ``FAIRLOSS_BACKEND``'s. Under
``TRITON_INTERPRET=1`` the kernels run, slowly, on CPU tensors, for tests.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fairloss.core import checks
from fairloss.ops.measured import KERNEL_FROM

__all__ = ["BACKENDS", "backend", "get_backend", "set_backend", "use_triton"]

BACKENDS = ("auto", "eager", "triton")
OLDEST, NEWEST = (3, 6), (3, 9)

LAUNCH_OPTIONS = {"enable_fp_fusion": True}
"""Given with every launch: Triton 3.9 warns where the choice about fused multiply-adds is left to it."""


def _initial() -> str:
    return checks.choice("FAIRLOSS_BACKEND", os.environ.get("FAIRLOSS_BACKEND", "auto"), BACKENDS)


_backend = _initial()


def get_backend() -> str:
    """The backend in force: "auto", "eager" or "triton"."""
    return _backend


def set_backend(name: str) -> None:
    """Choose the code that runs the ops which have a Triton kernel.

    Args:
        name: "auto", "eager" or "triton" (the module's first lines say what each means).

    Raises:
        ValueError: another name.

    Note:
        A function compiled by torch.compile is compiled again when the backend changes. A backward pass runs where its
        forward pass ran.

    Example:
        >>> set_backend("eager")
        >>> get_backend()
        'eager'
        >>> set_backend("auto")
    """
    global _backend
    _backend = checks.choice("name", name, BACKENDS)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """``set_backend`` for the length of a ``with`` block.

    Example:
        >>> with backend("eager"):
        ...     get_backend()
        'eager'
    """
    before = get_backend()
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


@functools.cache
def _version_obstacle() -> str | None:
    """Why the installed Triton cannot be used; asked once, since reading a package's metadata takes 0.1 ms."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'fairloss[triton]')"
    # Without metadata (a Triton that came inside another package) the module itself says.
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        import triton

        version = triton.__version__
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if not OLDEST <= numbers <= NEWEST:
        return f"Triton {version} is installed; tested are 3.6 to 3.9"
    return None


def _obstacle(device: torch.device) -> str | None:
    """Why no Triton kernel can run on tensors of ``device``, None where one can."""
    why = _version_obstacle()
    if why is not None:
        return why
    if device.type == "cpu":
        if os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y"):
            return None
        return (
            "the tensors are on the CPU (TRITON_INTERPRET=1, set before the first import, interprets the kernels there)"
        )
    if device.type != "cuda":
        return f"the tensors are on {device.type!r}; the kernels are for CUDA and ROCm"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is None and properties.major < 8:
        return f"{properties.name} has compute capability {properties.major}.{properties.minor}; 8.0 is needed"
    if torch.version.hip is not None and not properties.gcnArchName.startswith("gfx9"):
        return f"{properties.gcnArchName} is not an architecture that the kernels are compiled for (gfx9)"
    return None


def _architecture(device: torch.device) -> str:
    """Of a CUDA or ROCm device, as Triton names its targets: "sm_90", "gfx942"."""
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


# What torch.compiler.assume_constant_result sets. Calling it would import torch's compiler, as much again as torch itself.
for _constant in (_obstacle, _architecture):
    _constant._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _recorded(op: str, device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether a recorded run says that the kernel is no slower."""
    if not KERNEL_FROM or device.type != "cuda":
        return False
    least = KERNEL_FROM.get((_architecture(device), op, str(dtype).removeprefix("torch.")))
    return least is not None and size >= least


def use_triton(op: str, device: torch.device, obstacle: str | None = None, *, dtype: torch.dtype, size: int) -> bool:
    """Whether ``op`` runs its Triton kernel on ``device``.

    Args:
        op: its name in the error and in the recorded run.
        device: of the tensors.
        obstacle: why the kernel does not support this call, from dtype and shape alone; None where it does.
        dtype: of the input that decides what the kernel costs.
        size: how much work the call is; what counts is the op's own affair, but always the same.

    Raises:
        RuntimeError: the backend is "triton" and the kernel cannot run.
    """
    if _backend == "eager" or (_backend == "auto" and not _recorded(op, device, dtype, size)):
        return False
    why = obstacle if obstacle is not None else _obstacle(device)
    if why is None:
        return True
    if _backend == "triton":
        raise RuntimeError(f"{op}: the backend 'triton' was asked for, but {why}")
    return False
