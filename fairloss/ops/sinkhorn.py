"""geomloss's Sinkhorn divergence of samples on the line, for the numbers of code that calls it.

It stops far from convergence on ordinary losses (its own schedule of blurs, two steps each), so that what it returns is its
own quantity: :mod:`fairloss.ops.transport` has the distance. One call per pair, which waits for the device and is not traced.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairloss.core.extras import require

__all__ = ["sinkhorn_divergences"]


def sinkhorn_divergences(pairs: Sequence[tuple[Tensor, Tensor]], blur: float) -> Tensor:
    """Debiased divergence, cost |x - y|^2 / 2, of each pair of (n,) and (m,) samples; 0 where one of them is empty.

    Raises:
        ImportError: geomloss is not installed.
    """
    loss = require("geomloss", "geomloss").SamplesLoss(loss="sinkhorn", p=2, blur=blur)
    return torch.stack(
        [loss(x.unsqueeze(1), y.unsqueeze(1)) if len(x) and len(y) else x.sum() * 0 + y.sum() * 0 for x, y in pairs]
    )
