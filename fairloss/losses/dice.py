"""Soft Dice of samples and of groups, so that segmentation meets every loss on per-sample values.

Dice_c = (2 sum p t + smooth_nr) / (sum p^2 + sum t^2 + smooth_dr), with p the softmax over classes or the sigmoid of each
channel; ``squared_pred=False``, MONAI's default, has sum p + sum t below the line, and ``jaccard=True`` twice that less
sum p t. Names are MONAI's; the squared
denominator is that of V-Net (Milletari et al. 2016, https://arxiv.org/abs/1606.04797). :func:`sample_dice_loss` pools the
pixels of a sample, (B,) values for FISLoss, GroupDROLoss, LossVarianceLoss or group_gap; :func:`group_dice_loss` pools the
pixels of a whole group, which is steadier where a structure is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.core.options import given_options, with_options
from fairloss.core.tensor_checks import all_inside, between, floating, real, same_device
from fairloss.groups.ids import check_groups, check_num_groups
from fairloss.losses.tasks import check_fractions
from fairloss.ops.dice_sums import dice_sums, probability_sums

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "DICE_OPTIONS",
    "MASK_OPTIONS",
    "Activation",
    "DiceOptions",
    "MaskOptions",
    "Overlap",
    "check_class_ids",
    "check_masks",
    "check_weights",
    "dice_loss_of_sums",
    "group_dice_loss",
    "over_outputs",
    "overlap",
    "sample_dice_loss",
]


Activation = Literal["softmax", "sigmoid", "none"]


class MaskOptions(TypedDict, total=False):
    """Keyword arguments of every soft Dice.

    Attributes:
        include_background: whether class 0 takes part in the Dice term.
        activation: ``"softmax"`` over classes that exclude one another, or ``"sigmoid"`` for one channel or regions that
            overlap; ``"none"``: the input holds probabilities, from a network that ends in either (no cross-entropy then).
        jaccard: the soft Jaccard index (IoU) instead of Dice.
        squared_pred: whether Dice's denominator is squared; MONAI's default is False.
        ignore_index: the id of pixels that count for nothing; of masks with channels, the value in every channel.
        smooth_nr: added to Dice's numerator: an empty class that is predicted empty has Dice smooth_nr / smooth_dr.
        smooth_dr: added to Dice's denominator, > 0.
    """

    include_background: bool
    activation: Activation
    jaccard: bool
    squared_pred: bool
    ignore_index: int | None
    smooth_nr: float
    smooth_dr: float


class DiceOptions(MaskOptions, total=False):
    """Those of a loss of Dice and cross-entropy.

    Attributes:
        dice_weight: w in [0, 1] (FairSeg 0.5, FairMedFM 0.8).
        class_weights: a factor >= 0 of 1 - Dice of each class that takes part; all 1 by default (not renormalized, as MONAI's).
        output_weights: of a list of outputs, divided by their sum; 1, 1/2, 1/4, ... by default.
    """

    dice_weight: float
    class_weights: Sequence[float] | Tensor | None
    output_weights: Sequence[float] | None


MASK_OPTIONS: MaskOptions = {
    "include_background": True,
    "activation": "softmax",
    "jaccard": False,
    "squared_pred": True,
    "ignore_index": None,
    "smooth_nr": 1e-5,
    "smooth_dr": 1e-5,
}
DICE_OPTIONS: DiceOptions = {"dice_weight": 1.0, **MASK_OPTIONS, "class_weights": None, "output_weights": None}


class Overlap(NamedTuple):
    """What a soft Dice loss needs of a batch.

    Attributes:
        sums: (B, 3, C) sums over pixels of p t, p^2 and t^2 (p and t, not squared); gradient flows to the logits.
        nll: (B,) sums over pixels of the cross-entropy; zeros where it was not asked for.
        pixels: (B,) how many of them: pixels that are not ignored, with the sigmoid times channels.
    """

    sums: Tensor
    nll: Tensor
    pixels: Tensor


def overlap(
    input: Tensor, target: Tensor, o: Mapping[str, Any], *, num_classes: int | None = None, with_nll: bool = False
) -> Overlap:
    """Per-sample sums of (B, C, *spatial) logits; see :class:`Overlap` and :func:`sample_dice_loss`."""
    floating("input", input, "(B, C, *spatial)")
    real("target", target, "a tensor of class ids or probabilities")
    ignore_index, probabilities = o["ignore_index"], o["activation"] == "none"
    apart = o["activation"] != "softmax"  # whether each channel is a question of its own
    least = 1 if apart else 2
    if input.ndim < 3 or input.shape[1] < least or (num_classes is not None and input.shape[1] != num_classes):
        wanted = f"C >= {least}" if num_classes is None else f"C = {num_classes}"
        cure = "activation='sigmoid' takes one channel" * (input.shape[1:2] == (1,) and not apart)
        raise ValueError(expected("input", f"shape (B, C, *spatial) with {wanted}", tuple(input.shape), cure))
    same_device("target", target, "input", input)
    if probabilities and with_nll:
        raise ValueError(expected("dice_weight", "1 beside activation='none'", "less", "cross-entropy takes logits"))
    if probabilities:
        between("input", input, 0, 1, "probabilities in [0, 1] beside activation='none'")
    x = input.flatten(2)
    n, classes, pixels = x.shape
    ignored: Tensor | None = None
    if target.shape == input.shape:
        t = target.flatten(2)
        if ignore_index is not None:
            ignored = (t == ignore_index).all(1)
            t = t.masked_fill(ignored.unsqueeze(1), 0)
        check_fractions(t)  # a mask of 0 and 255 would train on nonsense
        t = t if t.dtype.is_floating_point else t.to(torch.float32)
        if not apart:
            whole = t.sum(1)
            whole = whole if ignored is None else whole.masked_fill(ignored, 1.0)
            cure = "overlapping masks take activation='sigmoid'; a pixel to leave out is ignore_index in every channel"
            all_inside("target", whole, (whole - 1).abs() <= 1e-2, "channels that sum to 1 at every pixel", cure)
    elif tuple(target.shape) in ((n, *input.shape[2:]), (n, 1, *input.shape[2:])) and classes >= 2:
        t = target.reshape(n, pixels)
        if t.dtype.is_floating_point:
            all_inside("target", t, t == t.round(), "whole class ids", "a float mask is read as ids")
        t = t.to(torch.int64)
        if ignore_index is not None:
            ignored = t == ignore_index
            t = t.masked_fill(ignored, 0)
        check_class_ids(t, classes)
    else:
        wanted = "ids (B, *spatial) or (B, 1, *spatial), or one-hot (B, C, *spatial)"
        given = f"{tuple(target.shape)} ({target.dtype})"
        raise ValueError(expected("target", f"{wanted}, for input {tuple(input.shape)}", given))
    if probabilities:
        sums, nll = probability_sums(x, t, squared=o["squared_pred"], ignored=ignored)
    else:
        sums, nll = dice_sums(x, t, with_nll, sigmoid=apart, squared=o["squared_pred"], ignored=ignored)
    counted = sums.new_full((n,), pixels) if ignored is None else (~ignored).sum(1).to(sums.dtype)
    return Overlap(sums, nll, counted * classes if apart else counted)


def check_class_ids(ids: Tensor, num_classes: int) -> None:
    """Raise if a class id of ``target`` lies outside 0 .. C-1."""
    between("target", ids, 0, num_classes - 1, f"class ids 0 .. {num_classes - 1}")


def check_masks(o: Mapping[str, Any]) -> None:
    """Check :class:`MaskOptions`."""
    checks.flag("include_background", o["include_background"])
    checks.choice("activation", o["activation"], get_args(Activation))
    checks.flag("jaccard", o["jaccard"])
    checks.flag("squared_pred", o["squared_pred"])
    if o["ignore_index"] is not None:
        checks.integer("ignore_index", o["ignore_index"], minimum=-(1 << 31))
    checks.number("smooth_nr", o["smooth_nr"], minimum=0)
    checks.number("smooth_dr", o["smooth_dr"], above=0)  # without which an empty class would be 0 / 0


def check_weights(name: str, weights: Sequence[float] | Tensor | None) -> list[float] | None:
    """``class_weights`` or ``output_weights`` as numbers >= 0, one of them > 0."""
    if weights is None:
        return None
    if not isinstance(weights, (list, tuple, Tensor)) or (isinstance(weights, Tensor) and weights.ndim != 1):
        raise TypeError(expected(name, "a sequence of numbers >= 0", repr(weights)))
    numbers = [
        checks.number(name, w, minimum=0) for w in (weights.tolist() if isinstance(weights, Tensor) else weights)
    ]
    if not any(numbers):
        raise ValueError(expected(name, "numbers >= 0, one of them > 0", numbers))
    return numbers


def dice_loss_of_sums(sums: Tensor, o: Mapping[str, Any], class_weights: Sequence[float] | None = None) -> Tensor:
    """w_c (1 - Dice_c), or of Jaccard's index: (..., 3, C) sums -> (..., C), without class 0 if it is left out."""
    if not o["include_background"]:
        if sums.shape[-1] == 1:
            raise ValueError(expected("include_background", "True for one channel", False))
        sums = sums[..., 1:]
    inter, predicted, true = sums.unbind(-2)
    below = 2 * (predicted + true - inter) if o["jaccard"] else predicted + true
    losses = torch.rsub((inter + o["smooth_nr"] / 2) / (below + o["smooth_dr"]), 1, alpha=2)
    if class_weights is None:
        return losses
    if len(class_weights) != losses.shape[-1]:
        wanted = f"{losses.shape[-1]} numbers, one per class that takes part"
        raise ValueError(expected("class_weights", wanted, len(class_weights)))
    return losses * losses.new_tensor(class_weights)


def over_outputs(
    loss: Callable[[Tensor, Tensor], Tensor],
    input: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    output_weights: Sequence[float] | None,
) -> Tensor:
    """sum_k w_k loss(input_k, target_k) / sum_k w_k of deep supervision's outputs; ``loss`` of a single one as it is.

    A single target is resized to each output (nearest). Without weights w_k = 2^-k: the first output is the full resolution.
    """
    if isinstance(input, Tensor):
        if output_weights is not None:
            raise ValueError(expected("input", "a list of outputs beside output_weights", "one tensor"))
        if not isinstance(target, Tensor):
            raise TypeError(expected("target", "a tensor beside one output", type(target).__name__))
        return loss(input, target)
    if not isinstance(input, (list, tuple)) or not input or not all(isinstance(x, Tensor) for x in input):
        raise TypeError(expected("input", "a tensor of logits, or a list of outputs", type(input).__name__))
    if not isinstance(target, (Tensor, list, tuple)):
        raise TypeError(expected("target", "a tensor, or a list of one per output", type(target).__name__))
    weights = check_weights("output_weights", output_weights) or [0.5**k for k in range(len(input))]
    if len(weights) != len(input):
        raise ValueError(expected("output_weights", f"one per output, {len(input)}", len(weights)))
    if isinstance(target, Tensor):
        target = [_resized(target, output) for output in input]
    if len(target) != len(input):
        raise ValueError(expected("target", f"one mask for each of {len(input)} outputs", len(target)))
    terms = [weight / sum(weights) * loss(x, t) for weight, x, t in zip(weights, input, target, strict=True) if weight]
    return torch.stack(terms).sum(0)


def _resized(target: Tensor, output: Tensor) -> Tensor:
    """The mask at the output's spatial size, nearest neighbor."""
    channels = target.ndim == output.ndim
    mask = target if channels else target.unsqueeze(1)
    if mask.shape[2:] == output.shape[2:]:
        return target
    mask = F.interpolate(mask.to(torch.float64), size=output.shape[2:], mode="nearest").to(target.dtype)
    return mask if channels else mask.squeeze(1)


@with_options(DICE_OPTIONS, DiceOptions, MaskOptions)
def sample_dice_loss(
    input: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor], **options: Unpack[DiceOptions]
) -> Tensor:
    """Soft Dice loss of every sample, mixed with its cross-entropy: the (B,) values that group losses take.

    loss_b = w mean_c v_c (1 - Dice_bc) + (1 - w) mean over pixels of the cross-entropy (with the sigmoid, over pixels and
    channels of the binary one), w = ``dice_weight``, v = ``class_weights``. 0 means a perfect segmentation.

    Args:
        input: (B, C, *spatial) logits, any number of spatial dimensions; C >= 2, or C >= 1 with the sigmoid. A list of outputs
            of deep supervision, full resolution first, is averaged with ``output_weights``.
        target: ids (B, *spatial) or (B, 1, *spatial), as integers or whole floats; or masks or probabilities
            (B, C, *spatial), which for the softmax sum to 1 at every pixel. For a list, one for each output, or one that is
            resized (nearest).
        options: by keyword.

    Returns:
        (B,) float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 2.0], [0.0, 0.0]]])
        >>> sample_dice_loss(logits, torch.tensor([[0, 1], [0, 1]]))
        tensor([0.0159, 0.5389])
    """
    o = given_options(options, DICE_OPTIONS)
    check_masks(o)
    w = checks.number("dice_weight", o["dice_weight"], minimum=0, maximum=1)
    weights = check_weights("class_weights", o["class_weights"])

    def of_one(input: Tensor, target: Tensor) -> Tensor:
        found = overlap(input, target, o, with_nll=w < 1)
        per_class = dice_loss_of_sums(found.sums, o, weights)
        return w * per_class.mean(1) + (1 - w) * found.nll / found.pixels.clamp(min=1)

    return over_outputs(of_one, input, target, o["output_weights"])


@with_options(MASK_OPTIONS, MaskOptions)
def group_dice_loss(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    process_group: ProcessGroup | None = None,
    **options: Unpack[MaskOptions],
) -> Tensor:
    """1 - Dice of every group and class, over all pixels of the group's samples.

    Args:
        input: (B, C, *spatial) logits.
        target: as :func:`sample_dice_loss` takes it.
        groups: (B,) or (B, K) integer or bool ids, -1 = unknown.
        num_groups: G; a tuple for several attributes, whose rows stand one after the other.
        process_group: pools over all its ranks' samples.
        options: by keyword.

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
    sizes, o = check_num_groups(num_groups), given_options(options, MASK_OPTIONS)
    check_masks(o)
    check_process_group(process_group)
    sums = overlap(input, target, o).sums
    pools, counts = check_groups(groups, sizes, sums.shape[0], device=input.device).totals(sums, process_group)
    return torch.where(counts.unsqueeze(1) > 0, dice_loss_of_sums(pools, o), 0.0)
