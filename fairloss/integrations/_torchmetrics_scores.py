"""torchmetrics classes of scores: ranking and calibration in each group."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairloss.core.checks import integer
from fairloss.groups.encode import GroupEncoding
from fairloss.integrations._torchmetrics_base import Grouped
from fairloss.metrics.disparity import Penalty, equity_scaled, gap
from fairloss.metrics.ranking import weighted_auc
from fairloss.metrics.rates import ratio

__all__ = ["AUCGap", "CalibrationGap", "EquityScaledAUC"]


def _bin_index(preds: Tensor, bins: int) -> Tensor:
    """(N,) bin of each score, closed on the right; the reference's edges, rounded as the scores are."""
    kind = preds.dtype if preds.is_floating_point() else torch.float64
    edges = torch.arange(1, bins, dtype=torch.float64, device=preds.device) / bins
    return torch.searchsorted(edges.to(kind).double(), preds.double().contiguous())


class _Ranked(Grouped):
    """Scores of each group and label: all of them, or their histograms."""

    auc_scores: list[Tensor]
    auc_labels: list[Tensor]
    auc_ids: list[Tensor]

    def __init__(self, num_groups: int, *, bins: int | None = None, **kwargs: Any) -> None:
        super().__init__(num_groups, **kwargs)
        self.bins = None if bins is None else integer("bins", bins, minimum=2)
        self._state = self._state_name("histogram", f"{num_groups}x{bins}")
        if bins is None:
            for name in ("scores", "labels", "ids"):
                self.add_state(f"auc_{name}", default=[], dist_reduce_fx="cat")
        else:
            # One more group: the samples of unknown group, which the overall value counts.
            default = torch.zeros(num_groups + 1, 2, bins, dtype=torch.long)
            self.add_state(self._state, default=default, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, groups: Tensor | GroupEncoding) -> None:
        """Add a batch: (N,) scores (with ``bins`` in [0, 1]) or (N, 2) probabilities, (N,) labels, (N,) ids, -1 for unknown."""
        preds, target, groups = self._binary(preds, target, self._ids(groups, preds))
        if self.bins is None:
            # Half precision is widened, so that ranks cat and compare alike on every rank.
            self.auc_scores.append(preds.detach().double() if preds.dtype == torch.float64 else preds.detach().float())
            self.auc_labels.append(target.detach().long())
            self.auc_ids.append(groups.detach().long())
            return
        self._check_range(preds, "probabilities in [0, 1] for bins", "keep every score, bins=None")
        place = _bin_index(self._probabilities(preds), self.bins)
        ids = torch.where(groups < 0, self.num_groups, groups).long()
        flat = (ids * 2 + target.long()) * self.bins + place
        counts = torch.bincount(flat, minlength=(self.num_groups + 1) * 2 * self.bins)
        self._add(self._state, counts.view(self.num_groups + 1, 2, self.bins))

    def _areas(self) -> tuple[float, NDArray[np.float64]]:
        """AUC over all samples, and (G,) of the groups."""
        self._check_scale()
        if self.bins is None:
            from torchmetrics.utilities import dim_zero_cat

            states = (self.auc_scores, self.auc_labels, self.auc_ids)  # lists, or tensors once gathered
            if not len(states[0]):
                return float("nan"), np.full(self.num_groups, np.nan)
            score, label, ids = (dim_zero_cat(s).cpu().numpy() for s in states)
            score, positive = score.astype(np.float64), label == 1
            seen = np.bincount(ids + 1, minlength=self.num_groups + 1)[1:]
            members = [np.ones(len(ids), dtype=bool), *[ids == g for g in range(self.num_groups)]]
            areas = [weighted_auc(score[m], positive[m], np.ones((1, int(m.sum()))))[0] for m in members]
        else:
            counts = getattr(self, self._state).cpu().numpy().astype(np.float64)
            tables = np.concatenate([counts.sum(axis=0, keepdims=True), counts[:-1]])  # (G + 1, 2, bins)
            negative, positive = tables[:, 0], tables[:, 1]
            below = np.cumsum(negative, axis=1) - negative / 2
            areas = ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1)).tolist()
            seen = tables[1:].sum(axis=(1, 2))
        self._name_undefined("auc", np.array(areas[1:])[:, None], seen)
        return float(areas[0]), np.asarray(areas[1:], dtype=np.float64)


class AUCGap(_Ranked):
    """max_g AUC_g - min_g AUC_g of binary labels; 0 means that all groups are ranked equally well.

    Args:
        num_groups: number of groups.
        bins: None keeps every score, exact; a number keeps histograms of that many bins on [0, 1]: constant memory,
            scores within a bin count as ties.
        kwargs: ``positive``, ``logits``, ``ignore_index`` and ``validate_args`` as in :class:`MaxAccuracyGap`, and the
            arguments of ``torchmetrics.Metric``.

    Example:
        >>> metric = AUCGap(num_groups=2)
        >>> metric.update(torch.tensor([0.1, 0.9, 0.6, 0.4]), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()
        tensor(1.)
    """

    def compute(self) -> Tensor:
        """The gap over all samples seen; NaN where fewer than two groups have both labels."""
        return torch.tensor(gap(self._areas()[1]), device=self.device)


class EquityScaledAUC(_Ranked):
    """AUC over one plus a penalty for differences between groups; see :func:`fairloss.metrics.equity_scaled_auc`.

    Args:
        num_groups: number of groups.
        penalty: ``"mean_abs"``, ``"sum_abs"``, ``"max_abs"``, ``"std"`` or ``"gap"``.
        ddof: with ``"std"``.
        kwargs: as :class:`AUCGap`, ``bins`` among them.
    """

    higher_is_better = True

    def __init__(
        self, num_groups: int, *, penalty: Penalty = "mean_abs", ddof: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(num_groups, **kwargs)
        equity_scaled(0.5, [0.5, 0.5], penalty=penalty, ddof=ddof)  # refuses a penalty or ddof that does not fit
        self.penalty, self.ddof = penalty, ddof

    def compute(self) -> Tensor:
        """The scaled area over all samples seen; NaN where no group has both labels."""
        overall, areas = self._areas()
        return torch.tensor(equity_scaled(overall, areas, penalty=self.penalty, ddof=self.ddof), device=self.device)


class CalibrationGap(Grouped):
    """Gap of the expected calibration error, equal-width bins on [0, 1], the same for every group.

    Args:
        num_groups: number of groups.
        bins: their number.
        kwargs: ``positive``, ``logits``, ``ignore_index`` and ``validate_args`` as in :class:`MaxAccuracyGap`, and the
            arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, num_groups: int, *, bins: int = 10, **kwargs: Any) -> None:
        super().__init__(num_groups, **kwargs)
        self.bins = integer("bins", bins, minimum=1)
        self._state = self._state_name("errors", f"{num_groups}x{bins}")
        # [..., 0] sum of score - label, [..., 1] number of samples; float64 holds both exactly enough to add anywhere.
        default = torch.zeros(num_groups, bins, 2, dtype=torch.float64)
        self.add_state(self._state, default=default, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, groups: Tensor | GroupEncoding) -> None:
        """Add a batch: (N,) probabilities, or (N, 2) that sum to 1, (N,) labels, (N,) ids, -1 for unknown."""
        preds, target, groups = self._binary(preds, target, self._ids(groups, preds))
        self._check_range(preds, "probabilities in [0, 1]", "calibrate scores of another scale")
        known = groups >= 0
        preds = self._probabilities(preds[known]).clamp(0, 1)
        p, y, ids = preds.double(), target[known].double(), groups[known].long()
        flat = ids * self.bins + _bin_index(preds, self.bins)
        size = self.num_groups * self.bins
        sums = torch.zeros(size, 2, dtype=torch.float64, device=p.device)
        sums.index_add_(0, flat, torch.stack([p - y, torch.ones_like(p)], dim=1))
        self._add(self._state, sums.view(self.num_groups, self.bins, 2))

    def compute(self) -> Tensor:
        """The gap over all samples seen; NaN where fewer than two groups have samples."""
        self._check_scale()
        sums = getattr(self, self._state).double().cpu().numpy()
        errors = ratio(np.abs(sums[:, :, 0]).sum(axis=1), sums[:, :, 1].sum(axis=1))
        return torch.tensor(gap(errors), device=self.device)
