"""The share of mutants that the tests notice, over strata of unequal size, with its interval."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
from scipy import stats

NOTICED = ("killed", "timeout")


def table(results: list[Path], sizes: dict[str, int]) -> str:
    """Counts per stratum with exact binomial intervals, and the score weighted by the strata's sizes.

    The interval of the weighted score comes from 20,000 draws of each stratum's posterior under Jeffreys' prior.
    """
    records = [json.loads(line) for path in results for line in path.read_text().splitlines()]
    lines = [f"{'stratum':10} {'sites':>6} {'tested':>7} {'noticed':>8} {'score':>7}  95% interval"]
    draws, total = np.zeros(20_000), sum(sizes.values())
    rng, weighted = np.random.default_rng(0), 0.0
    for stratum, size in sizes.items():
        counts = Counter(r["outcome"] for r in records if r["stratum"] == stratum)
        tested, noticed = counts.total(), sum(counts[o] for o in NOTICED)
        if not tested:
            continue
        low, high = stats.binomtest(noticed, tested).proportion_ci()
        lines.append(
            f"{stratum:10} {size:6} {tested:7} {noticed:8} {noticed / tested:7.1%}  [{low:.1%}, {high:.1%}]"
            + (f"  {counts['timeout']} by time" if counts["timeout"] else "")
            + (f"  {counts['unreached']} not reached by any test" if counts["unreached"] else "")
        )
        weighted += size / total * noticed / tested
        draws += size / total * rng.beta(noticed + 0.5, tested - noticed + 0.5, draws.size)
    low, high = np.quantile(draws, [0.025, 0.975])
    lines.append(f"{'weighted':10} {total:6} {len(records):7} {'':8} {weighted:7.1%}  [{low:.1%}, {high:.1%}]")
    return "\n".join(lines)
