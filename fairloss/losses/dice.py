"""Soft Dice of samples and of groups, so that segmentation meets every loss on per-sample values.

Dice_c = (2 sum p t + smooth_nr) / (sum p^2 + sum t^2 + smooth_dr) with p the softmax over classes (V-Net's squared
denominators, MONAI's names and defaults). :func:`sample_dice_loss` pools pixels of a sample, (B,) values for FISLoss,
GroupDROLoss, LossVarianceLoss or group_gap; :func:`group_dice_loss` pools the pixels of a whole group, which is steadier where
a structure is small.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.core.tensor_checks import between, floating, real, same_device
from fairloss.groups.ids import check_groups, single_attribute
from fairloss.losses.tasks import check_fractions
from fairloss.ops.dice_sums import dice_sums

__all__ = [
    "Overlap",
    "check_class_ids",
    "check_smoothing",
    "dice_loss_of_sums",
    "group_dice_loss",
    "overlap",
    "sample_dice_loss",
]


class Overlap(NamedTuple):
    """What a soft Dice loss needs of a batch.

    Attributes:
        sums: (B, 3, C) sums over pixels of p t, p^2 and t^2; gradient flows to the logits.
        nll: (B,) sums over pixels of the cross-entropy; zeros where it was not asked for.
        pixels: number of pixels per sample.
    """

    sums: Tensor
    nll: Tensor
    pixels: int


def overlap(input: Tensor, target: Tensor, *, num_classes: int | None = None, with_nll: bool = False) -> Overlap:
    """Per-sample sums of (B, C, *spatial) logits; see :class:`Overlap`.

    Args:
        input: (B, C, *spatial) logits, C >= 2, any floating dtype, computed in float32 at least.
        target: class ids (B, *spatial) or (B, 1, *spatial), or one-hot or probabilities (B, C, *spatial).
        num_classes: C, if it is to be checked.
        with_nll: also sum the cross-entropy.

    Raises:
        TypeError, ValueError: naming the argument; an id out of range.
    """
    floating("input", input, "(B, C, *spatial)")
    if input.ndim < 3 or input.shape[1] < 2 or (num_classes is not None and input.shape[1] != num_classes):
        wanted = "C >= 2" if num_classes is None else f"C = {num_classes}"
        cure = "torch.cat([torch.zeros_like(z), z], 1) makes two classes of one logit" * (input.shape[1:2] == (1,))
        raise ValueError(expected("input", f"shape (B, C, *spatial) with {wanted}", tuple(input.shape), cure))
    real("target", target, "a tensor of class ids or probabilities")
    same_device("target", target, "input", input)
    n, classes, *pixels = input.shape
    x = input.flatten(2)
    if target.shape == input.shape:
        check_fractions(target)  # a mask of 0 and 255 would train on nonsense
        t = target.flatten(2)
        t = t if t.dtype.is_floating_point else t.to(torch.float32)
    elif tuple(target.shape) in ((n, *pixels), (n, 1, *pixels)) and not target.dtype.is_floating_point:
        t = target.reshape(n, x.shape[2]).to(torch.int64)
        check_class_ids(t, classes)
    else:
        wanted = "integer ids (B, *spatial) or (B, 1, *spatial), or one-hot (B, C, *spatial)"
        given = f"{tuple(target.shape)} ({target.dtype})"
        raise ValueError(expected("target", f"{wanted}, for input {tuple(input.shape)}", given))
    sums, nll = dice_sums(x, t, with_nll)
    return Overlap(sums, nll, x.shape[2])


def check_class_ids(ids: Tensor, num_classes: int) -> None:
    """Raise if a class id of ``target`` lies outside 0 .. C-1."""
    between("target", ids, 0, num_classes - 1, f"class ids 0 .. {num_classes - 1}")


def check_smoothing(smooth_nr: float, smooth_dr: float) -> None:
    """Raise unless smooth_nr >= 0 and smooth_dr > 0, without which an empty class would be 0 / 0."""
    checks.number("smooth_nr", smooth_nr, minimum=0)
    checks.number("smooth_dr", smooth_dr, above=0)


def dice_loss_of_sums(sums: Tensor, *, include_background: bool, smooth_nr: float, smooth_dr: float) -> Tensor:
    """1 - Dice per class: (..., 3, C) sums -> (..., C), without the first class if the background is left out."""
    sums = sums if include_background else sums[..., 1:]
    inter, predicted, true = sums.unbind(-2)
    return torch.rsub((inter + smooth_nr / 2) / (predicted + true + smooth_dr), 1, alpha=2)


def sample_dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    dice_weight: float = 1.0,
    include_background: bool = True,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Tensor:
    """Soft Dice loss of every sample, mixed with its cross-entropy: the (B,) values that group losses take.

    loss_b = w mean_c (1 - Dice_bc) + (1 - w) mean over pixels of the cross-entropy. 0 means a perfect segmentation.

    Args:
        input: (B, C, *spatial) logits, any number of spatial dimensions.
        target: ids (B, *spatial) or (B, 1, *spatial), or one-hot (B, C, *spatial).
        dice_weight: w in [0, 1].
        include_background: whether class 0 takes part in the Dice term.
        smooth_nr: added to the numerator: an empty class that is predicted empty has Dice smooth_nr / smooth_dr.
        smooth_dr: added to the denominator, > 0.

    Returns:
        (B,) float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 2.0], [0.0, 0.0]]])
        >>> sample_dice_loss(logits, torch.tensor([[0, 1], [0, 1]]))
        tensor([0.0159, 0.5389])
    """
    w = checks.number("dice_weight", dice_weight, minimum=0, maximum=1)
    check_smoothing(smooth_nr, smooth_dr)
    found = overlap(input, target, with_nll=w < 1)
    per_class = dice_loss_of_sums(
        found.sums, include_background=include_background, smooth_nr=smooth_nr, smooth_dr=smooth_dr
    )
    return w * per_class.mean(1) + (1 - w) * found.nll / max(found.pixels, 1)


def group_dice_loss(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int,
    include_background: bool = True,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """1 - Dice of every group and class, over all pixels of the group's samples.

    Args:
        input: (B, C, *spatial) logits.
        target: ids (B, *spatial) or (B, 1, *spatial), or one-hot (B, C, *spatial).
        groups: (B,) integer or bool ids, -1 = unknown.
        num_groups: G.
        include_background: whether class 0 is among the classes returned.
        smooth_nr: added to the numerator.
        smooth_dr: added to the denominator, > 0.
        process_group: pools over all its ranks' samples.

    Returns:
        (G, C), or (G, C - 1) without the background, float32 (float64 for float64 logits); 0 where a group is absent.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 2.0], [0.0, 0.0]]])
        >>> group_dice_loss(logits, torch.tensor([[0, 1], [0, 1]]), torch.tensor([0, 1]), num_groups=3)
        tensor([[0.0159, 0.0159],
                [0.3096, 0.7682],
                [0.0000, 0.0000]])
    """
    size = single_attribute(num_groups, "group_dice_loss")
    check_smoothing(smooth_nr, smooth_dr)
    check_process_group(process_group)
    sums = overlap(input, target).sums
    pools, counts = check_groups(groups, size, sums.shape[0], device=input.device).totals(sums, process_group)
    losses = dice_loss_of_sums(pools, include_background=include_background, smooth_nr=smooth_nr, smooth_dr=smooth_dr)
    return torch.where(counts.unsqueeze(1) > 0, losses, 0.0)
