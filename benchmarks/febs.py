"""FEBSLoss against a loop over groups that computes the same value, forward + backward: time and peak memory.

The loop is what one would write first: one softmax, one one-hot, then each present group's samples picked out and their Dice
summed class by class.

python benchmarks/febs.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import interleaved, peak_bytes, save
from fairloss import FEBSLoss

SHAPES = [(16, 3, 224, 224), (4, 3, 64, 64, 32)]
GROUPS = 3


def loop(logits: Tensor, target: Tensor, groups: Tensor, *, smooth: float = 1e-5) -> Tensor:
    classes = logits.shape[1]
    p = logits.softmax(1)
    t = F.one_hot(target, classes).movedim(-1, 1).to(p.dtype)
    errors = []
    for g in range(GROUPS):
        mine = groups == g
        if not mine.any():
            continue
        p_g, t_g = p[mine], t[mine]
        error = logits.new_zeros(())
        for c in range(classes):
            inter = (p_g[:, c] * t_g[:, c]).sum()
            union = (p_g[:, c] ** 2).sum() + (t_g[:, c] ** 2).sum()
            error = error + 1 - (2 * inter + smooth) / (union + smooth)
        errors.append(error)
    stacked, e = torch.stack(errors), 1e-3 * classes
    weights = ((stacked + e) / (stacked.mean() + e)).clamp(0.1, 10).detach()
    return (weights * stacked).sum() / (classes * weights.sum())


def measure(shape: tuple[int, ...]) -> dict[str, object]:
    logits = torch.randn(shape, requires_grad=True)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    groups = torch.arange(shape[0]) % GROUPS
    febs = FEBSLoss(shape[1], GROUPS)
    torch.testing.assert_close(febs(logits, target, groups), loop(logits, target, groups))

    def step(loss) -> None:
        logits.grad = None
        loss(logits, target, groups).backward()

    runs = {"loop": lambda: step(loop), "fairloss": lambda: step(febs)}
    times = interleaved(runs, repeats=40, warm_up=5)
    peaks = {name: peak_bytes(run) for name, run in runs.items()}
    return {
        "shape": shape,
        "groups": GROUPS,
        "seconds": times,
        "times_faster": times["loop"]["min"] / times["fairloss"]["min"],
        "peak_bytes": peaks,
    }


def main() -> None:
    torch.manual_seed(0)
    results = [measure(shape) for shape in SHAPES]
    for r in results:
        print(
            f"{r['shape']}: loop {r['seconds']['loop']['min'] * 1e3:.1f} ms, "
            f"FEBSLoss {r['seconds']['fairloss']['min'] * 1e3:.1f} ms ({r['times_faster']:.2f}x); peak "
            f"{r['peak_bytes']['loop'] / 1e6:.1f} and {r['peak_bytes']['fairloss'] / 1e6:.1f} MB"
        )
    print("written to", save("febs", results))


if __name__ == "__main__":
    main()
