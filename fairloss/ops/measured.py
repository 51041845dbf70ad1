"""From which size on a recorded run on a GPU found a kernel no slower than the eager form: what ``"auto"`` goes by.

Written by ``python benchmarks/gpu.py --decide benchmarks/results/gpu.jsonl``. Empty: nothing was recorded yet, and ``"auto"``
is eager everywhere.
"""

from __future__ import annotations

__all__ = ["KERNEL_FROM"]

KERNEL_FROM: dict[tuple[str, str, str], int] = {}
"""(architecture, op, dtype) -> size, as :func:`fairloss.ops.dispatch.use_triton` is asked: ("sm_90", "nll", "bfloat16")."""
