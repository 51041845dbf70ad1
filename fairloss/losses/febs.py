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

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, check_process_group
from fairloss.core.options import given_options, options_of, with_options
from fairloss.core.state import ConstantsModule
from fairloss.groups.ids import (
    ATTRIBUTE_REDUCTIONS,
    AttributeReduction,
    check_groups,
    check_num_groups,
    reduce_attributes,
)
from fairloss.losses.dice import (
    DICE_OPTIONS,
    DiceOptions,
    MaskOptions,
    check_masks,
    check_weights,
    dice_loss_of_sums,
    over_outputs,
    overlap,
)
from fairloss.losses.parts import WeightingParts
from fairloss.ops.segments import segment_totals

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FEBSLoss", "FEBSOptions", "FEBSVariant", "febs"]

FEBSVariant = Literal["default", "released"]


class FEBSOptions(DiceOptions, total=False):
    """Keyword arguments of :class:`FEBSLoss`.

    Attributes:
        gamma: strength >= 0; 0 weighs all groups alike.
        max_weight: bound of the ratio before the power, >= 1; ``None``: no bound.
        variant: ``"default"``, or ``"released"``: the authors' code, in which the worst group's probabilities are scaled
            *down* (see the module).
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"`` of the Dice terms.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.
    """

    gamma: float
    max_weight: float | None
    variant: FEBSVariant
    attribute_reduction: AttributeReduction
    process_group: ProcessGroup | None


FEBS_OPTIONS: FEBSOptions = {
    "gamma": 1.0,
    "max_weight": 10.0,
    **DICE_OPTIONS,
    "variant": "default",
    "attribute_reduction": "mean",
    "process_group": None,
}


def _checked(options: Mapping[str, Any], num_classes: int | None, least: int) -> dict[str, Any]:
    """What is given and the defaults, checked."""
    o = given_options(options, FEBS_OPTIONS)
    check_masks(o)
    checks.choice("variant", o["variant"], get_args(FEBSVariant))
    if o["class_weights"] is not None and o["variant"] == "released":
        raise ValueError(expected("class_weights", 'None beside variant="released"', "weights"))
    check_weights("class_weights", o["class_weights"])
    check_weights("output_weights", o["output_weights"])
    if num_classes is not None:
        checks.integer("num_classes", num_classes, minimum=least if o["activation"] == "softmax" else 1)
    checks.number("gamma", o["gamma"], minimum=0)
    if o["max_weight"] is not None:
        checks.number("max_weight", o["max_weight"], minimum=1)
    checks.number("dice_weight", o["dice_weight"], minimum=0, maximum=1)
    checks.choice("attribute_reduction", o["attribute_reduction"], ATTRIBUTE_REDUCTIONS)
    check_process_group(o["process_group"])
    return o


def _weights(error: Tensor, present: Tensor, classes: int, gamma: float, max_weight: float | None) -> Tensor:
    """w_g of (G + 1,) pools' errors L_g, the last one of the unknown, which has weight 1; 0 where absent."""
    fixed, known = error.detach()[:-1], present[:-1]
    mean = torch.dot(fixed, known) / known.sum().clamp(min=1)
    e = 1e-3 * classes
    ratio = (fixed + e) / (mean + e)
    if max_weight is not None:
        ratio = ratio.clamp(1 / max_weight, max_weight)
    return torch.cat([ratio**gamma, ratio.new_ones(1)]) * present


def _weighted_mean(w: Tensor, error: Tensor, classes: int) -> Tensor:
    """sum_g w_g L_g / (C sum_g w_g); an absent pool's error is a constant, and its weight is 0."""
    return torch.dot(w, error) / (classes * w.sum()).clamp(min=torch.finfo(w.dtype).tiny)


def _scales(error: Tensor, counts: Tensor, gamma: float) -> Tensor:
    """(G + 1,) factors of the groups' probabilities in the released code; 1 for the unknown."""
    known = error.detach()[:-1]
    best = torch.where(counts[:-1] > 0, known, torch.inf).amin()
    # A perfect group is its own minimum: 0 / 0 counts as 1.
    ratio = torch.where(known > best, best / torch.where(known > 0, known, 1.0), 1.0)
    return torch.cat([torch.tanh(ratio**gamma), known.new_ones(1)])


def _scaled_sums(pools: Tensor, w: Tensor, squared: bool) -> Tensor:
    """(3, C) sums over the batch of w p t, w^2 p^2 (w p) and t^2: those of probabilities scaled by group."""
    w = w.unsqueeze(1)
    inter, predicted, true = pools.unbind(1)
    return torch.stack([(w * inter).sum(0), ((w * w if squared else w) * predicted).sum(0), true.sum(0)])


def _of_attribute(pools: Tensor, counts: Tensor, o: Mapping[str, Any], return_parts: bool) -> list[Tensor]:
    """The Dice term of one attribute's (G + 1, 3, C) pools; of the parts the same without weights, means and weights."""
    losses = dice_loss_of_sums(pools, o, check_weights("class_weights", o["class_weights"]))
    error, classes = losses.sum(1), losses.shape[1]  # L_g
    present = (counts > 0).to(error.dtype)
    if o["variant"] == "released":
        w = _scales(error, counts, o["gamma"])

        def term(v: Tensor) -> Tensor:
            losses = dice_loss_of_sums(_scaled_sums(pools, v, o["squared_pred"]), o)
            return torch.where(counts.sum() > 0, losses.mean(), 0.0)

        unweighted = torch.ones_like(w)
    else:
        w, unweighted = _weights(error, present, classes, o["gamma"], o["max_weight"]), present

        def term(v: Tensor) -> Tensor:
            return _weighted_mean(v, error, classes)

    if not return_parts:
        return [term(w)]
    return [term(w), term(unweighted), error[:-1] / classes * present[:-1], w[:-1] * present[:-1]]


def _of_batch(
    input: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    groups: Tensor,
    sizes: tuple[int, ...],
    num_classes: int | None,
    o: Mapping[str, Any],
    return_parts: bool,
) -> Tensor | WeightingParts:
    def of_one(input: Tensor, target: Tensor) -> Tensor:
        """The loss, or (2 + 3 G,) it and its parts."""
        found = overlap(input, target, o, num_classes=num_classes, with_nll=o["dice_weight"] < 1)
        ids = check_groups(groups, sizes, found.sums.shape[0], device=input.device)
        # The unknown are one more pool: their slot is the one past the groups'.
        tables = [segment_totals(found.sums, own.slots(), own.sizes[0] + 1) for own in ids.by_attribute]
        entropies = [] if o["dice_weight"] == 1 else [found.nll.sum(), found.pixels.sum()]
        flat = all_reduce_sums([t for pair in tables for t in pair] + entropies, o["process_group"])
        counts = flat[1 : 2 * len(sizes) : 2]
        pooled = zip(flat[: 2 * len(sizes) : 2], counts, strict=True)
        terms = list(zip(*(_of_attribute(pools, n, o, return_parts) for pools, n in pooled), strict=True))
        values = [
            part[0] if len(sizes) == 1 else reduce_attributes(torch.stack(part), o["attribute_reduction"])
            for part in terms[:2]
        ]
        if entropies:
            entropy = (1 - o["dice_weight"]) * flat[-2] / flat[-1].clamp(min=1)
            values = [o["dice_weight"] * value + entropy for value in values]
        if not return_parts:
            return values[0]
        known = [n[:-1].to(values[0].dtype) for n in counts]
        return torch.cat([torch.stack(values), *terms[2], *known, *terms[3]])

    found = over_outputs(of_one, input, target, o["output_weights"])
    if not return_parts:
        return found
    loss, task, *_ = found.unbind()
    return WeightingParts(loss, task.detach(), *found[2:].detach().chunk(3))


@with_options(FEBS_OPTIONS, FEBSOptions)
def febs(
    input: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    num_classes: int | None = None,
    return_parts: bool = False,
    **options: Unpack[FEBSOptions],
) -> Tensor | WeightingParts:
    """Fair Error-Bound Scaling as a function; see :class:`FEBSLoss`. ``num_classes`` is read off the logits if None.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 2.0], [0.0, 0.0]]])
        >>> febs(logits, torch.tensor([[0, 1], [0, 1]]), torch.tensor([0, 1]), num_groups=2)
        tensor(0.5132)
    """
    sizes, o = check_num_groups(num_groups), _checked(options, num_classes, 1)
    return _of_batch(input, target, groups, sizes, num_classes, o, return_parts)


@with_options(FEBS_OPTIONS, FEBSOptions, DiceOptions, MaskOptions)
class FEBSLoss(ConstantsModule):
    """Soft Dice loss by group, with larger weights for groups with larger error, beside a cross-entropy.

    loss = w sum_g w_g L_g / (C sum_g w_g) + (1 - w) CE, where L_g = sum over classes of 1 - Dice over all pixels of group g,
    w_g = clip((L_g + e) / (mean_h L_h + e), 1/max_weight, max_weight)^gamma, e = 1e-3 C, detached, and w = ``dice_weight``.
    0 means a perfect segmentation.

    Args:
        num_groups: number of groups; a tuple for several attributes, which have a Dice term each.
        num_classes: C, the background included; >= 2, or >= 1 with the sigmoid.
        options: by keyword.

    Shape:
        - input: (B, C, *spatial) logits, 2-D, 3-D or any other number of dimensions, float16 to float64; or a list of outputs
          of deep supervision, full resolution first
        - target: ids (B, *spatial) or (B, 1, *spatial), integers or whole floats; or masks or probabilities (B, C, *spatial),
          which for the softmax sum to 1 at every pixel; for a list, one for each output, or one that is resized (nearest)
        - groups: (B,) or (B, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 logits); with ``return_parts=True`` a
          :class:`fairloss.functional.WeightingParts`, whose means are L_g / C and whose weights are w_g, both (G,)

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

    Reference:
        FairSeg 2024: https://arxiv.org/abs/2311.02189

    See Also:
        :class:`GroupDROLoss`, :class:`FISLoss`
    """

    def __init__(self, num_groups: int | Sequence[int], *, num_classes: int, **options: Unpack[FEBSOptions]) -> None:
        super().__init__()
        self.num_groups, self.num_classes = check_num_groups(num_groups), num_classes
        checks.integer("num_classes", num_classes, minimum=1)
        for name, value in _checked(options, num_classes, 2).items():
            setattr(self, name, value)

    def forward(
        self,
        input: Tensor | Sequence[Tensor],
        target: Tensor | Sequence[Tensor],
        groups: Tensor,
        *,
        return_parts: bool = False,
    ) -> Tensor | WeightingParts:
        """Loss of a batch, with ``return_parts=True`` beside its terms; see the class."""
        o = options_of(self, tuple(FEBS_OPTIONS))
        return _of_batch(input, target, groups, self.num_groups, self.num_classes, o, return_parts)

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"num_groups={self.num_groups}, num_classes={self.num_classes}, gamma={self.gamma}, "
            f"max_weight={self.max_weight}, dice_weight={self.dice_weight}, variant={self.variant!r}"
        )
