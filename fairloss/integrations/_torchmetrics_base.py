"""What the torchmetrics classes share: how a batch is read, by the rules of :mod:`fairloss.metrics.predictions`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairloss.core.checks import expected, flag, integer
from fairloss.core.tensor_checks import tensor, whole
from fairloss.groups.encode import GroupEncoding
from fairloss.metrics.scores import EDGE, LIKE_PROBABILITIES, ROW_SUM, refuse_probabilities
from fairloss.metrics.undefined import report_undefined

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("torchmetrics is needed here: pip install 'fairloss[torchmetrics]'") from error

__all__ = ["Grouped"]


class Grouped(Metric):
    """A metric of (preds, target, groups) with a fixed number of groups.

    Args:
        num_groups: number of groups; a group without samples is left out.
        positive: which of two labels of a binary task is the positive one; not needed for 0 and 1.
        logits: whether ``preds`` are logits, of which sigmoid or softmax is taken, in float64.
        ignore_index: a label that is not known. A sample of it is left out; in (N, L) labels that label alone, as is NaN.
        validate_args: check labels, scores and ids of each batch (reads them back from the device).
        kwargs: of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(
        self,
        num_groups: int,
        *,
        positive: int | None = None,
        logits: bool = False,
        ignore_index: int | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_groups = integer("num_groups", num_groups, minimum=1)
        self.positive = None if positive is None else integer("positive", positive, minimum=-(2**62))
        self.ignore_index = None if ignore_index is None else integer("ignore_index", ignore_index, minimum=-(2**62))
        self.logits, self.validate_args = flag("logits", logits), validate_args
        self._other: int | None = None  # the label that is not positive, once one was seen
        self._labels: tuple[Any, ...] | None = None  # of encoded groups, once some were seen
        self._inside = 0.0  # how many samples were seen, -inf once one's score lay outside [0, 1]

    def _ids(self, groups: Any, like: Tensor) -> Tensor:
        """``groups`` as a tensor; those of an encoding if its labels are those of every other batch."""
        if not isinstance(groups, GroupEncoding):
            wanted = "a tensor of ids, or what fairloss.encode_groups(labels, categories=[...]) returns"
            return tensor("groups", groups, wanted)
        cure = "pass the same categories= to encode_groups for every batch"
        if groups.num_groups != self.num_groups:
            raise ValueError(expected("groups", f"{self.num_groups} groups", groups.num_groups, cure))
        if self._labels not in (None, groups.labels):
            raise ValueError(expected("groups", f"the labels {self._labels} again", groups.labels, cure))
        self._labels = groups.labels
        return torch.from_numpy(groups.ids).to(like.device)

    def _state_name(self, *parts: Any) -> str:
        """A name that holds all that an update depends on, in letters that a buffer's name may have."""
        given = (("positive", self.positive), ("ignore", self.ignore_index), ("logits", self.logits or None))
        parts += tuple(f"{name}_{value}" for name, value in given if value is not None)
        return "_".join(map(str, parts)).replace(".", "p").replace("-", "m").replace("+", "")

    def _check(self, preds: Tensor, target: Tensor, groups: Tensor) -> None:
        if groups.ndim != 1 or len(preds) != len(groups) or len(target) != len(groups):
            shapes = f"shapes {tuple(preds.shape)}, {tuple(target.shape)}, {tuple(groups.shape)}"
            raise ValueError(expected("preds, target, groups", "one row per sample and (N,) groups", shapes))
        whole("groups", groups, "group ids")
        if not self.validate_args or not len(groups):
            return
        low, high = int(groups.min()), int(groups.max())
        if low < -1 or high >= self.num_groups:
            wanted = f"ids -1 (unknown) .. {self.num_groups - 1}"
            raise ValueError(expected("groups", wanted, low if low < -1 else high))
        if preds.is_floating_point() and not bool(preds.isfinite().all()):
            raise ValueError(expected("preds", "finite scores", "NaN or infinity"))
        if self.logits or not 0 <= getattr(self, "threshold", 0.5) <= 1:
            inside = bool(((preds >= -EDGE) & (preds <= 1 + EDGE)).all())
            self._inside += len(preds) if inside else -math.inf

    def _check_scale(self) -> None:
        """Of all batches: warn of logits that look like probabilities; refuse a threshold that no probability reaches."""
        if self._inside > 1 and self.logits:
            warnings.warn(LIKE_PROBABILITIES, stacklevel=4)
        threshold = getattr(self, "threshold", 0.5)
        if (self.logits or self._inside > 0) and not 0 <= threshold <= 1:
            cure = "divide a threshold in percent by 100, or pass decisions where scores have another scale"
            raise ValueError(expected("threshold", "a number in [0, 1] for scores in [0, 1]", threshold, cure))

    def _known(self, preds: Tensor, target: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The samples whose (N,) label is not ignored."""
        if self.ignore_index is None:
            return preds, target, groups
        known = target != self.ignore_index
        return preds[known], target[known], groups[known]

    def _check_labels(self, target: Tensor, classes: int, cure: str = "") -> None:
        if not self.validate_args or not target.numel():
            return
        wrong = target[~((target >= 0) & (target < classes) & (target == target.long()))]
        if wrong.numel():
            given = f"{target.min()} .. {target.max()}, {wrong[0]} among them"
            raise ValueError(expected("target", f"labels 0 .. {classes - 1}", given, cure))

    def _binary(self, preds: Tensor, target: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n,) scores or, of logits, log-odds; (n,) whether the label is positive; (n,) ids: of the known samples."""
        preds = preds if preds.ndim == 2 and preds.shape[-1] == 2 and target.numel() == len(preds) else preds.flatten()
        target = target.flatten()
        self._check(preds, target, groups)
        if len(target) != len(groups) or preds.shape[0] != len(groups):
            raise ValueError(expected("preds and target", f"shape ({len(groups)},)", f"{tuple(preds.shape)}"))
        preds, target, groups = self._known(preds, target, groups)
        truth = target == (1 if self.positive is None else self.positive)
        if self.positive is None:
            cure = "pass positive= for two other labels, ignore_index= for one that is not known"
            self._check_labels(target, 2, cure)
        else:
            self._check_pair("target", target)
        decisions = not preds.is_floating_point() and preds.ndim == 1
        if decisions and self.logits and self.validate_args and bool(((preds == 0) | (preds == 1)).all()):
            raise ValueError(expected("logits", "False beside decisions", True))
        if decisions and self.positive is not None and not self.logits:
            self._check_pair("preds", preds)
            if getattr(self, "threshold", 0.5) != 0.5:
                raise ValueError(
                    expected("threshold", "0.5, which plays no part", self.threshold, "preds holds labels")
                )
            return (preds == self.positive).float(), truth, groups
        if preds.ndim == 2:
            if self.logits:
                if self.validate_args:
                    refuse_probabilities(preds.detach().double().cpu().numpy(), "preds")
                return (preds[:, 1].double() - preds[:, 0].double()), truth, groups
            self._check_columns(preds)
            preds = preds[:, 1].clamp(0, 1)
        return preds.double() if self.logits else preds, truth, groups

    def _check_pair(self, name: str, labels: Tensor) -> None:
        """Beside the positive label there is one other, the same in every batch."""
        if not self.validate_args:
            return
        others = labels[labels != self.positive].unique().tolist()
        if self._other is not None:
            others = sorted({*others, self._other})
        if len(others) > 1:
            raise ValueError(expected(name, f"two labels, {self.positive} and one other", f"{others} as others"))
        self._other = others[0] if others else None

    def _check_columns(self, preds: Tensor) -> None:
        if not self.validate_args or not len(preds):
            return
        low, high, sums = preds.min(), preds.max(), preds.double().sum(dim=1)
        if low < -EDGE or high > 1 + EDGE or bool(((sums - 1).abs() > ROW_SUM).any()):
            given = f"scores {low:g} .. {high:g} whose rows sum to {sums.min():g} .. {sums.max():g}"
            cure = "pass logits=True where they are logits, or task='multilabel' where they are two labels"
            raise ValueError(expected("preds", "two columns of probabilities that sum to 1", given, cure))

    def _check_range(self, preds: Tensor, wanted: str, cure: str) -> None:
        """Raise where scores that are no logits lie outside [0, 1]."""
        if not self.validate_args or self.logits or not preds.numel():
            return
        low, high = preds.min().item(), preds.max().item()
        if low < -EDGE or high > 1 + EDGE:
            cure = f"pass logits=True where they are logits, or {cure}"
            raise ValueError(expected("preds", wanted, f"{low:g} .. {high:g}", cure))

    def _probabilities(self, score: Tensor) -> Tensor:
        """Scores within [0, 1], or the sigmoid of log-odds."""
        return torch.sigmoid(score) if self.logits else score

    def _name_undefined(self, metric: str, values: NDArray[np.float64], seen: Any, classes: Sequence[int] = ()) -> None:
        """One warning that names the groups with samples, and the classes of them, without one of the (G, K) values."""
        groups = GroupEncoding(np.flatnonzero(seen), tuple(range(self.num_groups)))
        report_undefined(metric, groups, values, "omit", classes=classes)

    def _add(self, name: str, amount: Tensor) -> None:
        """Add to a state whose name is not known to Python."""
        setattr(self, name, getattr(self, name) + amount)
