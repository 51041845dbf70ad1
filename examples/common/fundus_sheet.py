"""Sample sheet of the rendered photographs: every task and group, with the masks' outlines in the last columns.

python examples/common/fundus_sheet.py OUT.png [SIZE]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import fundus, plots


def sheet(path: Path, *, tasks: tuple[str, ...] = tuple(fundus.TASKS), columns: int = 8, size: int = 128) -> Path:
    """One row a task and group: photographs in order of the cup-to-disc ratio, written beside the label."""
    rows = [(name, g) for name in tasks for g in range(len(fundus.TASKS[name].looks))]
    fig, axes = plots.figure(1.25 * columns + 1.6, 1.42 * len(rows), columns=columns, rows=len(rows))
    for name in tasks:
        groups = len(fundus.TASKS[name].looks)
        data = fundus.make(name, counts=[5 * columns] * groups, size=size, seed=1, split="test")
        for g in range(groups):
            mine = np.flatnonzero(data.group == g)
            spread = mine[np.argsort(data.vcdr[mine])][2::5]  # healthy and diseased ones in every row
            for k, i in enumerate(spread):
                ax = axes[rows.index((name, g))][k]
                ax.imshow(data.images[i])
                if k >= columns - 2:
                    ax.contour(data.masks[i], levels=[0.5, 1.5], colors=["#56B4E9", "#000000"], linewidths=0.8)
                ax.set_title(f"{data.vcdr[i]:.2f} {'glaucoma' if data.label[i] else 'healthy'}", fontsize=7, pad=2)
                ax.set_xticks([])
                ax.set_yticks([])
                ax.grid(visible=False)
                for spine in ax.spines.values():
                    spine.set_visible(False)
                if k == 0:
                    ax.set_ylabel(f"{name}\n{data.task.group_names[g]}", fontsize=8)
    return plots.save(fig, path, dpi=100)


if __name__ == "__main__":
    print(sheet(Path(sys.argv[1]), size=int(sys.argv[2]) if len(sys.argv) > 2 else 128))
