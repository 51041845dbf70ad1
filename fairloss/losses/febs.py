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

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, check_process_group
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.groups.ids import check_groups, single_attribute
from fairloss.losses.dice import (
    Activation,
    check_masks,
    check_smoothing,
    check_weights,
    dice_loss_of_sums,
    over_outputs,
    overlap,
)
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
    class_weights: Sequence[float] | Tensor | None,
) -> None:
    if num_classes is not None:
        checks.integer("num_classes", num_classes, minimum=1)
    if class_weights is not None and variant == "released":
        raise ValueError(expected("class_weights", 'None beside variant="released"', "weights"))
    check_weights("class_weights", class_weights)
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


def _scaled_by_group(pools: Tensor, losses: Tensor, counts: Tensor, gamma: float, squared: bool) -> Tensor:
    """(3, C) sums over the batch of w p t, w^2 p^2 (w p) and t^2: those of probabilities scaled by group."""
    error = losses.sum(1).detach()[:-1]
    best = torch.where(counts[:-1] > 0, error, torch.inf).amin()
    # A perfect group is its own minimum: 0 / 0 counts as 1.
    ratio = torch.where(error > best, best / torch.where(error > 0, error, 1.0), 1.0)
    w = torch.cat([torch.tanh(ratio**gamma), error.new_ones(1)]).unsqueeze(1)  # unknown samples are left as they are
    inter, predicted, true = pools.unbind(1)
    return torch.stack([(w * inter).sum(0), ((w * w if squared else w) * predicted).sum(0), true.sum(0)])


def febs(
    input: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    groups: Tensor,
    *,
    num_groups: int,
    num_classes: int | None = None,
    gamma: float = 1.0,
    max_weight: float | None = 10.0,
    dice_weight: float = 1.0,
    include_background: bool = True,
    activation: Activation = "softmax",
    squared_pred: bool = True,
    ignore_index: int | None = None,
    class_weights: Sequence[float] | Tensor | None = None,
    output_weights: Sequence[float] | None = None,
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
    _check_options(num_classes, gamma, max_weight, dice_weight, smooth_nr, smooth_dr, variant, class_weights)
    check_process_group(process_group)
    dice_losses = partial(dice_loss_of_sums, smooth_nr=smooth_nr, smooth_dr=smooth_dr)
    weights = check_weights("class_weights", class_weights)

    def of_one(input: Tensor, target: Tensor) -> Tensor:
        found = overlap(
            input,
            target,
            num_classes=num_classes,
            with_nll=dice_weight < 1,
            activation=activation,
            squared_pred=squared_pred,
            ignore_index=ignore_index,
        )
        ids = check_groups(groups, size, found.sums.shape[0], device=input.device)
        # The unknown are one more pool: their slot is the one past the groups'.
        pools, counts = segment_totals(found.sums, ids.slots(), size + 1)
        entropies = [] if dice_weight == 1 else [found.nll.sum(), found.pixels.sum()]
        pools, counts, *entropies = all_reduce_sums([pools, counts, *entropies], process_group)
        losses = dice_losses(pools, include_background=include_background, class_weights=weights)
        if variant == "released":
            scaled = _scaled_by_group(
                pools if include_background else pools[..., 1:], losses, counts, gamma, squared_pred
            )
            dice = dice_losses(scaled, include_background=True).mean()
            dice = torch.where(counts.sum() > 0, dice, 0.0)
        else:
            dice = _scaled_mean(losses, counts, gamma, max_weight)
        if not entropies:
            return dice
        return dice_weight * dice + (1 - dice_weight) * entropies[0] / entropies[1].clamp(min=1)

    return over_outputs(of_one, input, target, output_weights)


class FEBSLoss(ConstantsModule):
    """Soft Dice loss by group, with larger weights for groups with larger error, beside a cross-entropy.

    loss = w sum_g w_g L_g / (C sum_g w_g) + (1 - w) CE, where L_g = sum over classes of 1 - Dice over all pixels of group g,
    w_g = clip((L_g + e) / (mean_h L_h + e), 1/max_weight, max_weight)^gamma, e = 1e-3 C, detached, and w = ``dice_weight``.
    0 means a perfect segmentation.

    Args:
        num_groups: number of groups of the one attribute.
        num_classes: C, the background included; >= 2, or >= 1 with the sigmoid.
        gamma: strength >= 0; 0 weighs all groups alike.
        max_weight: bound of the ratio before the power, >= 1; ``None``: no bound.
        dice_weight: w in [0, 1] (FairSeg 0.5, FairMedFM 0.8).
        include_background: whether class 0 takes part in the Dice term.
        activation: ``"softmax"`` over classes that exclude one another, or ``"sigmoid"`` for one channel or regions that
            overlap.
        squared_pred: whether Dice's denominator is squared; MONAI's default is False.
        ignore_index: the id of pixels that count for nothing; of masks with channels, the value in every channel.
        class_weights: a factor >= 0 of 1 - Dice of each class that takes part; all 1 by default (not renormalized, as MONAI's).
        output_weights: of a list of outputs, divided by their sum; 1, 1/2, 1/4, ... by default.
        smooth_nr: added to Dice's numerator.
        smooth_dr: added to Dice's denominator, > 0.
        variant: ``"default"``, or ``"released"``: the authors' code, in which the worst group's probabilities are scaled
            *down* (see the module).
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Shape:
        - input: (B, C, *spatial) logits, 2-D, 3-D or any other number of dimensions, float16 to float64; or a list of outputs
          of deep supervision, full resolution first
        - target: ids (B, *spatial) or (B, 1, *spatial), integers or whole floats; or masks or probabilities (B, C, *spatial),
          which for the softmax sum to 1 at every pixel; for a list, one for each output, or one that is resized (nearest)
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
        activation: Activation = "softmax",
        squared_pred: bool = True,
        ignore_index: int | None = None,
        class_weights: Sequence[float] | Tensor | None = None,
        output_weights: Sequence[float] | None = None,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        variant: FEBSVariant = "default",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = single_attribute(num_groups, "FEBSLoss")
        self.num_classes = checks.integer("num_classes", num_classes, minimum=1 if activation == "sigmoid" else 2)
        _check_options(num_classes, gamma, max_weight, dice_weight, smooth_nr, smooth_dr, variant, class_weights)
        check_masks(activation, squared_pred, ignore_index)
        check_weights("output_weights", output_weights)
        check_process_group(process_group)
        self.gamma, self.max_weight, self.dice_weight = gamma, max_weight, dice_weight
        self.include_background, self.smooth_nr, self.smooth_dr = include_background, smooth_nr, smooth_dr
        self.activation, self.squared_pred, self.ignore_index = activation, squared_pred, ignore_index
        self.class_weights, self.output_weights = class_weights, output_weights
        self.variant, self.process_group = variant, process_group

    def forward(self, input: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor], groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return febs(input, target, groups, **options_of(self, self._OPTIONS))

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"num_groups={self.num_groups}, num_classes={self.num_classes}, gamma={self.gamma}, "
            f"max_weight={self.max_weight}, dice_weight={self.dice_weight}, variant={self.variant!r}"
        )
