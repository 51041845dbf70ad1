"""One-dimensional optimal transport between every group's values and all values.

On the line the optimal coupling is monotone, so W_p^p is an integral over quantiles: the j-th smallest of a group's n values
holds the quantiles (j-1)/n .. j/n, and what all N values put there is a difference of prefix sums of the sorted values. One
sort serves all groups; the cost is O(N log N) whatever their number, in float64 and about the mean, and nothing depends on
the values but numbers: no loop over groups, no wait for the device. The entropic (Sinkhorn) divergence that
Fair Identity Scaling's released code takes from geomloss is offered through POT for comparison: converged, or an error.

"All values" are those of known group: an unknown sample is in no group term, so it moves no distance.

References:
    Peyre and Cuturi, *Computational Optimal Transport*, 2019, section 2.6 (the line) and chapter 4 (Sinkhorn).
    Feydy et al., *Interpolating between Optimal Transport and MMD using Sinkhorn Divergences*, 2019 (debiasing).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from fairloss import _checks
from fairloss.groups import check_groups, single_attribute, statistics_dtype
from fairloss.losses.values import check_values

__all__ = ["Transport", "distances_to_all", "transport_distances", "wasserstein_to_all"]

Transport = Literal["exact", "sinkhorn"]

_SINKHORN_ITERATIONS = 50_000
_SINKHORN_TOLERANCE = 1e-4  # in the marginals (L1); the divergence's own error is of second order


def wasserstein_to_all(values: Tensor, ids: Tensor, num_groups: int, p: int) -> Tensor:
    """W_p^p between each group's values and the values of all known samples, exact and differentiable.

    Args:
        values: (N,) floating, finite.
        ids: (N, 1) int64 validated ids, -1 = unknown.
        num_groups: G.
        p: 1 or 2.

    Returns:
        (G,) float64, 0 where absent.
    """
    unknown = ids[:, 0] < 0
    slots = ids[:, 0].masked_fill(unknown, num_groups)
    sizes = slots.new_zeros(num_groups + 1).index_add(0, slots, torch.ones_like(slots))[:num_groups]
    n_all = sizes.sum()
    n_safe = n_all.clamp(min=1)
    x = values.to(torch.float64)
    # About the mean: W is the same, and squares lose no digits. Unknown samples go past the end, where no quantile reaches.
    x = x - (x.detach().masked_fill(unknown, 0.0).sum() / n_safe)
    x, order = torch.sort(x.masked_fill(unknown, torch.inf), stable=True)
    slots = slots[order]
    x = x.masked_fill(slots == num_groups, 0.0)
    prefix = torch.nn.functional.pad(x.cumsum(0), (1, 0))

    # Regroup the sorted values; within a group they stay sorted, and the unknown come after all groups.
    slots, regroup = torch.sort(slots, stable=True)
    y = x[regroup]
    outside = slots == num_groups
    starts = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    rank = torch.arange(slots.shape[0], device=slots.device) - starts[slots]
    n = torch.nn.functional.pad(sizes, (0, 1), value=1)[slots]  # size of the value's own group

    def mass_below(position: Tensor) -> Tensor:
        """Integral of all values' quantile function from 0 to position / (n N); the position is an exact integer."""
        k = torch.div(position, n, rounding_mode="floor")
        part = (position - k * n).to(x.dtype) / n
        return (prefix[k] + part * x[k.clamp(max=x.shape[0] - 1)]) / n_safe

    low = (n_all * rank).masked_fill(outside, 0)
    high = low + n_all
    below_high = mass_below(high.masked_fill(outside, 0))
    # The lower bound of a value's quantiles is the upper one of its group's value before.
    below_low = below_high.roll(1).masked_fill(rank == 0, 0.0)
    # A single group is all there is: exactly 0, and so is its gradient.
    present = (sizes > 0) & (sizes.amax() < n_all)
    if p == 2:
        terms = torch.stack([y * y, y * (below_high - below_low)], 1)
        sums = terms.new_zeros((num_groups + 1, 2)).index_add(0, slots, terms)[:num_groups]
        squared = sums[:, 0] / sizes.clamp(min=1) + torch.dot(x, x) / n_safe - 2 * sums[:, 1]
        return squared.clamp(min=0).masked_fill(~present, 0.0)
    # p = 1: among the quantiles of y those below y come first; how many values lie below is y's place in the sort.
    cut = torch.minimum(torch.maximum(regroup * n, low), high)
    width = (2 * cut - low - high).to(x.dtype) / (n * n_safe)
    term = (y * width - 2 * mass_below(cut) + below_low + below_high).masked_fill(outside, 0.0)
    sums = term.new_zeros(num_groups + 1).index_add(0, slots, term)[:num_groups]
    return sums.masked_fill(~present, 0.0)


def _sinkhorn_cost(x: Any, y: Any, epsilon: float) -> float:
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
        calls, iterations = (500, 1) if to_itself else (1, _SINKHORN_ITERATIONS if level == epsilon else 50)
        for _ in range(calls):
            with np.errstate(over="ignore"):  # POT also returns exp(u), which nobody reads
                _, log = sinkhorn_log(
                    a, b, cost, level, numItermax=iterations, stopThr=_SINKHORN_TOLERANCE / len(y) ** 0.5, warn=False,
                    log=True, warmstart=(f / level, g / level),
                )  # fmt: skip
            f, g = level * log["log_u"], level * log["log_v"]
            converged = log["err"][-1] * len(y) ** 0.5 < _SINKHORN_TOLERANCE
            if converged:
                break
            if to_itself:
                f = (f + g) / 2
    if not converged:
        raise RuntimeError(
            f"transport: Sinkhorn did not converge in {_SINKHORN_ITERATIONS} iterations (error of the marginals "
            f"{log['err'][-1]:.1e}); use transport='exact', or a larger blur"
        )
    return float(a @ (f - epsilon * np.log(a)) + b @ (g - epsilon * np.log(b)))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _sinkhorn_to_all(values: Tensor, ids: Tensor, num_groups: int, blur: float) -> Tensor:
    """Debiased Sinkhorn divergence with p = 2 of each group to all known samples, on the host."""
    x, g = values.detach().double().cpu().numpy(), ids[:, 0].cpu().numpy()
    everything, epsilon = x[g >= 0], blur**2
    out = torch.zeros(num_groups, dtype=torch.float64)
    if everything.size:
        own_all = _sinkhorn_cost(everything, everything, epsilon)
    for group in range(num_groups):
        mine = x[g == group]
        if mine.size:
            between = _sinkhorn_cost(mine, everything, epsilon)
            own = _sinkhorn_cost(mine, mine, epsilon)
            out[group] = max(between - own / 2 - own_all / 2, 0.0)
    return out.to(values.device)


def transport_distances(
    losses: Tensor, groups: Tensor, *, num_groups: int, transport: Transport = "exact", blur: float = 0.1
) -> Tensor:
    """How far each group's values lie from all values: half the squared Wasserstein distance.

    o_g = W_2^2(L_g, L) / 2 = 1/2 int_0^1 (Q_g(u) - Q(u))^2 du with the quantile functions of the group's and of all values.
    0 means that the group's values are distributed like all values.

    Args:
        losses: (N,) floating values, finite.
        groups: (N,) integer or bool ids, -1 = unknown (in no group, and not among "all").
        num_groups: G.
        transport: ``"exact"``: the closed form above, O(N log N). ``"sinkhorn"``: the debiased entropic divergence with
            p = 2, through POT on the host, without gradient; it tends to the exact distance as ``blur`` shrinks.
        blur: Sinkhorn's length scale in units of the losses; the regularisation is blur^2.

    Returns:
        (G,) float32 (float64 for float64 losses), 0 where a group is absent.

    Raises:
        TypeError, ValueError: naming the argument.
        RuntimeError: Sinkhorn did not converge.

    Note:
        The exact path is computed in float64, differentiable, never waits for the device, and compiles as one graph;
        Sinkhorn does none of that and costs O(N^2) an iteration.

    Example:
        >>> values = torch.tensor([0.0, 1.0, 2.0, 3.0])
        >>> transport_distances(values, torch.tensor([0, 0, 1, 1]), num_groups=3)
        tensor([0.7500, 0.7500, 0.0000])
    """
    size = single_attribute(num_groups, "transport_distances")
    _checks.choice("transport", transport, ("exact", "sinkhorn"))
    blur = _checks.number("blur", blur, above=0)
    check_values(losses, "losses")
    ids = check_groups(groups, (size,), losses.shape[0])
    return distances_to_all(losses, ids, size, transport, blur).to(statistics_dtype(losses.dtype))


def distances_to_all(losses: Tensor, ids: Tensor, num_groups: int, transport: Transport, blur: float) -> Tensor:
    """As :func:`transport_distances` on checked arguments, in float64."""
    if transport == "exact":
        return wasserstein_to_all(losses, ids, num_groups, 2) / 2
    out: Tensor = _sinkhorn_to_all(losses, ids, num_groups, blur)
    return out
