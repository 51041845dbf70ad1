"""Exact one-dimensional transport and FISLoss against geomloss's Sinkhorn, group by group as the released code calls it.

Each ratio is taken in one run, functions in turn. `distances` are the G transport distances alone; `fis` is the whole loss,
forward and backward, against geomloss's distances alone.

python benchmarks/fis.py
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from geomloss import SamplesLoss

from benchmarks.harness import interleaved, save
from fairloss import FISLoss
from fairloss.functional import transport_distances

SHAPES = [(4, 256), (4, 1024)]
LENGTHS = [10**3, 10**4, 10**5, 10**6]


def draw(n: int, num_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    groups = torch.arange(n) % num_groups
    return torch.rand(n) * (1 + 0.2 * groups), groups


def against_geomloss(num_groups: int, per_group: int, blur: float = 0.1) -> dict[str, object]:
    losses, groups = draw(num_groups * per_group, num_groups)
    everything = losses.unsqueeze(1)
    parts = [everything[groups == g] for g in range(num_groups)]  # a batch a group, as the released code has them
    sinkhorn = SamplesLoss("sinkhorn", p=2, blur=blur)
    fis, leaf = FISLoss(num_groups), losses.clone().requires_grad_()

    def step() -> None:
        leaf.grad = None
        fis(leaf, groups).backward()

    times = interleaved(
        {
            "geomloss": lambda: [sinkhorn(part, everything) for part in parts],
            "distances": lambda: transport_distances(losses, groups, num_groups=num_groups),
            "fis": step,
        },
        repeats=60 if per_group < 1000 else 5,
        warm_up=3 if per_group < 1000 else 1,
    )
    return {
        "groups": num_groups,
        "samples_a_group": per_group,
        "blur": blur,
        "seconds": times,
        "distances_times_faster": times["geomloss"]["min"] / times["distances"]["min"],
        "fis_times_faster": times["geomloss"]["min"] / times["fis"]["min"],
    }


def scaling() -> list[dict[str, float]]:
    """Time of the distances by length; n log n keeps the last column level once calls no longer dominate."""
    rows = []
    for n in LENGTHS:
        losses, groups = draw(n, 4)
        run = {"distances": lambda x=losses, g=groups: transport_distances(x, g, num_groups=4)}
        seconds = interleaved(run, repeats=20 if n < 10**6 else 6)["distances"]["min"]
        rows.append(
            {"samples": n, "seconds": seconds, "nanoseconds_a_sample_and_log2": 1e9 * seconds / n / math.log2(n)}
        )
    return rows


def main() -> None:
    torch.manual_seed(0)
    # Sinkhorn's kernels underflow, and denormal numbers would make geomloss several times slower than it need be.
    torch.set_flush_denormal(True)
    ratios = [against_geomloss(*shape) for shape in SHAPES]
    for r in ratios:
        t = r["seconds"]
        print(
            f"{r['groups']} x {r['samples_a_group']}: geomloss {t['geomloss']['min'] * 1e3:.2f} ms, "
            f"distances {t['distances']['min'] * 1e3:.3f} ms ({r['distances_times_faster']:.0f}x), "
            f"FISLoss forward + backward {t['fis']['min'] * 1e3:.3f} ms ({r['fis_times_faster']:.0f}x)"
        )
    rows = scaling()
    for row in rows:
        print(
            f"{row['samples']:>8} samples: {row['seconds'] * 1e3:8.2f} ms, "
            f"{row['nanoseconds_a_sample_and_log2']:.2f} ns a sample and log2"
        )
    print("written to", save("fis", {"against_geomloss": ratios, "scaling": rows}, packages=("geomloss",)))


if __name__ == "__main__":
    main()
