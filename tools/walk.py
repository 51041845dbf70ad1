"""The way of a value through one call of a loss: files in the order in which functions receive it.

    python -m tools.walk

follows ``input`` through ``FairCrossEntropyLoss.forward`` with a gap and group weights. A profile hook sees every call of a
function of fairloss that receives the value: a tensor from which autograd leads back to ``input``. A stay is a run of such
calls in one file; a climb is a stay in a file of a higher layer than the last one's.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

import fairloss

PACKAGE = Path(fairloss.__file__).parent
LAYERS = ("core", "ops", "groups", "losses")


def leads_back(x: Tensor, source: Tensor) -> bool:
    """Whether ``x`` is ``source`` or computed from it."""
    if x is source:
        return True
    pending, seen = [x.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", None) is source:
            return True
        pending += [child for child, _ in node.next_functions]
    return False


def tensors(value: Any) -> list[Tensor]:
    """The tensors among an argument's parts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for part in value for t in tensors(part)]
    return []


def calls(module: torch.nn.Module, source: Tensor, *rest: Tensor) -> list[tuple[str, str]]:
    """(file, function) of every call that receives ``source`` or what was made of it, in order."""
    found: list[tuple[str, str]] = []

    def hook(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(PACKAGE)) or code.co_name.startswith("<"):
            return
        count = code.co_argcount + code.co_kwonlyargcount
        sys.setprofile(None)
        given = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
        if any(leads_back(t, source) for value in given for t in tensors(value)):
            found.append((str(Path(code.co_filename).relative_to(PACKAGE)), code.co_name))
        sys.setprofile(hook)

    module(source, *rest)  # the first call imports what it needs
    sys.setprofile(hook)
    try:
        module(source, *rest)
    finally:
        sys.setprofile(None)
    return found


def stays(found: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """The calls joined into runs in one file."""
    runs: list[tuple[str, list[str]]] = []
    for file, name in found:
        if runs and runs[-1][0] == file:
            runs[-1][1].append(name)
        else:
            runs.append((file, [name]))
    return runs


def climbs(runs: list[tuple[str, list[str]]]) -> int:
    """Stays in a higher layer than the stay before."""
    heights = [LAYERS.index(file.split("/")[0]) for file, _ in runs]
    return sum(b > a for a, b in itertools.pairwise(heights))


def walk() -> list[tuple[str, list[str]]]:
    """The way of ``input`` through the criterion: three classes, two groups, with gap and weights."""
    criterion = fairloss.FairCrossEntropyLoss(2, gap_weight=0.5, group_counts=[6, 2])
    logits = torch.zeros(8, 3, requires_grad=True)
    return stays(calls(criterion, logits, torch.zeros(8, dtype=torch.int64), torch.tensor([0, 1] * 4)))


if __name__ == "__main__":
    runs = walk()
    for place, (file, names) in enumerate(runs, 1):
        print(f"{place:3d}  {file:34s} {', '.join(names)}")
    print(f"{len(runs)} stays, {len({file for file, _ in runs})} files, {climbs(runs)} climbs")
