"""Fair Error-Bound Scaling: groups with a larger segmentation error weigh more in the Dice loss.

Method: Tian et al., *FairSeg*, as compared in the papers on fair distillation and FairMedFM. Where we differ from the
authors' code (``variant="released"``), and why:

- Their scale tanh((min_h L_h / L_g)^gamma) is *smallest* for the worst group, the reverse of the stated purpose; and it
  multiplies the probabilities of the group's samples, not its loss. The default gives a group the weight L_g / mean L.
- Their minimum runs over all groups, absent ones counting as 0, so that a batch without some group has loss 1 and no
  gradient. Here absent groups take no part, in either variant.

Dice, its smoothing and the group pools are those of :mod:`fairloss.losses.dice`: one pass over the pixels serves all groups.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, check_process_group
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.groups.ids import check_groups, single_attribute
from fairloss.losses.dice import check_smoothing, dice_loss_of_sums, overlap
from fairloss.ops.segments import segment_totals

__all__ = ["FEBSLoss", "FEBSVariant", "febs"]

FEBSVariant = Literal["default", "released"]


def _check_options(
    num_classes: int | None,
    gamma: float,
    max_weight: float | None,
    dice_weight: float,
    smooth_nr: float,
    smooth_dr: float,
    variant: str,
) -> None:
    if num_classes is not None:
        checks.integer("num_classes", num_classes, minimum=2)
    checks.number("gamma", gamma, minimum=0)
    if max_weight is not None:
        checks.number("max_weight", max_weight, minimum=1)
    checks.number("dice_weight", dice_weight, minimum=0, maximum=1)
    check_smoothing(smooth_nr, smooth_dr)
    checks.choice("variant", variant, ("default", "released"))


def _scaled_mean(losses: Tensor, counts: Tensor, gamma: float, max_weight: float | None) -> Tensor:
    """sum_g w_g L_g / (C sum_g w_g) of (G + 1, C) pools, the last one of the unknown, which has weight 1."""
    classes = losses.shape[1]
    error = losses.sum(1)  # L_g
    present = (counts > 0).to(error.dtype)
    fixed, known = error.detach()[:-1], present[:-1]
    mean = torch.dot(fixed, known) / known.sum().clamp(min=1)
    e = 1e-3 * classes
    ratio = (fixed + e) / (mean + e)
    if max_weight is not None:
        ratio = ratio.clamp(1 / max_weight, max_weight)
    # An absent pool's error is a constant; its weight is 0.
    w = torch.cat([ratio**gamma, ratio.new_ones(1)]) * present
    return torch.dot(w, error) / (classes * w.sum()).clamp(min=torch.finfo(w.dtype).tiny)


def _scaled_by_group(pools: Tensor, losses: Tensor, counts: Tensor, gamma: float) -> Tensor:
    """(3, C) sums over the batch of w p t, w^2 p^2 and t^2: those of probabilities scaled by group."""
    error = losses.sum(1).detach()[:-1]
    best = torch.where(counts[:-1] > 0, error, torch.inf).amin()
    # A perfect group is its own minimum: 0 / 0 counts as 1.
    ratio = torch.where(error > best, best / torch.where(error > 0, error, 1.0), 1.0)
    w = torch.cat([torch.tanh(ratio**gamma), error.new_ones(1)]).unsqueeze(1)  # unknown samples are left as they are
    inter, predicted, true = pools.unbind(1)
    return torch.stack([(w * inter).sum(0), (w * w * predicted).sum(0), true.sum(0)])


def febs(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int,
    num_classes: int | None = None,
    gamma: float = 1.0,
    max_weight: float | None = 10.0,
    dice_weight: float = 1.0,
    include_background: bool = True,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    variant: FEBSVariant = "default",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Fair Error-Bound Scaling as a function; see :class:`FEBSLoss`. ``num_classes`` is read off the logits if None.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 2.0], [0.0, 0.0]]])
        >>> febs(logits, torch.tensor([[0, 1], [0, 1]]), torch.tensor([0, 1]), num_groups=2)
        tensor(0.5132)
    """
    size = single_attribute(num_groups, "FEBSLoss")
    _check_options(num_classes, gamma, max_weight, dice_weight, smooth_nr, smooth_dr, variant)
    check_process_group(process_group)
    found = overlap(input, target, num_classes=num_classes, with_nll=dice_weight < 1)
    ids = check_groups(groups, size, found.sums.shape[0], device=input.device)
    # The unknown are one more pool: their slot is the one past the groups'.
    pools, counts = segment_totals(found.sums, ids.slots(), size + 1)
    entropies = [] if dice_weight == 1 else [found.nll.sum()]
    pools, counts, *entropies = all_reduce_sums([pools, counts, *entropies], process_group)
    pools = pools if include_background else pools[..., 1:]
    losses = dice_loss_of_sums(pools, include_background=True, smooth_nr=smooth_nr, smooth_dr=smooth_dr)
    if variant == "released":
        scaled = _scaled_by_group(pools, losses, counts, gamma)
        dice = dice_loss_of_sums(scaled, include_background=True, smooth_nr=smooth_nr, smooth_dr=smooth_dr).mean()
        dice = torch.where(counts.sum() > 0, dice, 0.0)
    else:
        dice = _scaled_mean(losses, counts, gamma, max_weight)
    if not entropies:
        return dice
    return dice_weight * dice + (1 - dice_weight) * entropies[0] / (counts.sum() * found.pixels).clamp(min=1)


class FEBSLoss(ConstantsModule):
    """Soft Dice loss by group, with larger weights for groups with larger error, beside a cross-entropy.

    loss = w sum_g w_g L_g / (C sum_g w_g) + (1 - w) CE, where L_g = sum over classes of 1 - Dice over all pixels of group g,
    w_g = clip((L_g + e) / (mean_h L_h + e), 1/max_weight, max_weight)^gamma, e = 1e-3 C, detached, and w = ``dice_weight``.
    0 means a perfect segmentation.

    Args:
        num_groups: number of groups of the one attribute.
        num_classes: C >= 2, the background included.
        gamma: strength >= 0; 0 weighs all groups alike.
        max_weight: bound of the ratio before the power, >= 1; ``None``: no bound.
        dice_weight: w in [0, 1] (FairSeg 0.5, FairMedFM 0.8).
        include_background: whether class 0 takes part in the Dice term.
        smooth_nr: added to Dice's numerator.
        smooth_dr: added to Dice's denominator, > 0.
        variant: ``"default"``, or ``"released"``: the authors' code, in which the worst group's probabilities are scaled
            *down* (see the module).
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Shape:
        - input: (B, C, *spatial) logits, 2-D, 3-D or any other number of dimensions, float16 to float64
        - target: ids (B, *spatial) or (B, 1, *spatial), or one-hot or probabilities (B, C, *spatial)
        - groups: (B,) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 logits)

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        Absent groups take no part. Samples of unknown group are one more pool with weight 1, never in the mean. The sums
        over pixels are streamed: beside the gradient nothing of the logits' size is kept.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 2.0], [0.0, 0.0]]])
        >>> loss = FEBSLoss(num_groups=2, num_classes=2)
        >>> loss(logits, torch.tensor([[0, 1], [0, 1]]), torch.tensor([0, 1]))
        tensor(0.5132)

    References:
        Tian et al., *FairSeg: A Large-Scale Medical Image Segmentation Dataset for Fairness Learning Using Segment Anything
        Model with Fair Error-Bound Scaling*, 2024.
    """

    _OPTIONS = option_names(febs)

    def __init__(
        self,
        num_groups: int,
        *,
        num_classes: int,
        gamma: float = 1.0,
        max_weight: float | None = 10.0,
        dice_weight: float = 1.0,
        include_background: bool = True,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        variant: FEBSVariant = "default",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = single_attribute(num_groups, "FEBSLoss")
        self.num_classes = checks.integer("num_classes", num_classes, minimum=2)
        _check_options(num_classes, gamma, max_weight, dice_weight, smooth_nr, smooth_dr, variant)
        check_process_group(process_group)
        self.gamma, self.max_weight, self.dice_weight = gamma, max_weight, dice_weight
        self.include_background, self.smooth_nr, self.smooth_dr = include_background, smooth_nr, smooth_dr
        self.variant, self.process_group = variant, process_group

    def forward(self, input: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return febs(input, target, groups, **options_of(self, self._OPTIONS))

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"num_groups={self.num_groups}, num_classes={self.num_classes}, gamma={self.gamma}, "
            f"max_weight={self.max_weight}, dice_weight={self.dice_weight}, variant={self.variant!r}"
        )
