"""The debiased entropic (Sinkhorn) divergence between every group's values and all values, through POT on the host.

What Fair Identity Scaling's released code takes from geomloss; here it is converged, or an error. For comparison alone:
:mod:`fairloss.ops.transport` is exact and quick.

References:
    Peyre and Cuturi, *Computational Optimal Transport*, 2019, chapter 4.
    Feydy et al., *Interpolating between Optimal Transport and MMD using Sinkhorn Divergences*, 2019 (debiasing).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["sinkhorn_to_all"]

_ITERATIONS = 50_000
_TOLERANCE = 1e-4  # in the marginals (L1); the divergence's own error is of second order


def _cost(x: Any, y: Any, epsilon: float) -> float:
    """Entropic cost with |x - y|^2 / 2 and KL to the product of the marginals, from POT's dual variables."""
    import numpy as np
    from ot.bregman import sinkhorn_log

    cost = (x[:, None] - y[None, :]) ** 2 / 2
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    to_itself = x is y
    # Annealed: from a regularisation as large as the costs down to the one asked for, each start warmed by the last.
    levels = [epsilon]
    while levels[-1] < cost.max():
        levels.append(4 * levels[-1])
    f, g = np.zeros(len(x)), np.zeros(len(y))
    converged = False
    for level in reversed(levels):
        # From a set to itself both potentials are equal, and the mean of two half steps converges in tens of
        # iterations where the alternation needs thousands; POT then does one iteration a call.
        calls, iterations = (500, 1) if to_itself else (1, _ITERATIONS if level == epsilon else 50)
        for _ in range(calls):
            with np.errstate(over="ignore"):  # POT also returns exp(u), which nobody reads
                _, log = sinkhorn_log(
                    a, b, cost, level, numItermax=iterations, stopThr=_TOLERANCE / len(y) ** 0.5, warn=False,
                    log=True, warmstart=(f / level, g / level),
                )  # fmt: skip
            f, g = level * log["log_u"], level * log["log_v"]
            converged = log["err"][-1] * len(y) ** 0.5 < _TOLERANCE
            if converged:
                break
            if to_itself:
                f = (f + g) / 2
    if not converged:
        raise RuntimeError(
            f"transport: Sinkhorn did not converge in {_ITERATIONS} iterations (error of the marginals "
            f"{log['err'][-1]:.1e}); use transport='exact', or a larger blur"
        )
    return float(a @ (f - epsilon * np.log(a)) + b @ (g - epsilon * np.log(b)))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def sinkhorn_to_all(values: Tensor, ids: Tensor, num_groups: int, blur: float) -> Tensor:
    """Debiased Sinkhorn divergence with p = 2 of each group to all known samples, on the host."""
    x, g = values.detach().double().cpu().numpy(), ids[:, 0].cpu().numpy()
    everything, epsilon = x[g >= 0], blur**2
    out = torch.zeros(num_groups, dtype=torch.float64)
    if everything.size:
        own_all = _cost(everything, everything, epsilon)
    for group in range(num_groups):
        mine = x[g == group]
        if mine.size:
            between = _cost(mine, everything, epsilon)
            own = _cost(mine, mine, epsilon)
            out[group] = max(between - own / 2 - own_all / 2, 0.0)
    return out.to(values.device)
