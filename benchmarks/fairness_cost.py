"""Time of every arm's training relative to plain training: in turn, in one process, one thread, the least of three."""

from __future__ import annotations

import json
from pathlib import Path

from .fairness_data import RENDERED, Sizes, folds
from .fairness_methods import METHODS, PLAIN
from .harness import interleaved, machine


def measure(sizes: Sizes, cache: Path, path: Path, *, repeats: int = 3) -> dict[str, float]:
    """Ratios to plain training on the first rendered task, at each method's middle setting; writes ``path``."""
    fold = folds(RENDERED[0], 0, sizes, cache)[0]
    arms = {name: (lambda m=m: m.fit(fold, m.settings[len(m.settings) // 2], 0, sizes)) for name, m in METHODS.items()}
    times = {name: t["min"] for name, t in interleaved(arms, budget_s=0, least=repeats).items()}
    ratios = {name: t / times[PLAIN] for name, t in times.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "seconds": times, "ratios": ratios}, indent=1) + "\n")
    return ratios
