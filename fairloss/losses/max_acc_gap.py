"""MaxAccGap: the gap between the best and the worst group's soft accuracy.

Paper: Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, eqs 5-6.
The paper's hard max and min are the default. Differences: absent groups take no part (the
paper's estimate is undefined there), ``smoothing`` and ``memory`` are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fairloss.core import checks
from fairloss.core.options import given_options, options_of, with_options
from fairloss.core.state import ConstantsModule
from fairloss.groups.ids import check_groups, check_num_groups
from fairloss.groups.memory import check_memory
from fairloss.losses.gaps import GAP_OPTIONS, GapOptions, check_gap_options, gap_of_values
from fairloss.losses.likelihood import TOKEN_REDUCTIONS, TokenReduction, likelihood_of, rows_of
from fairloss.losses.tasks import Task, check_task, class_last, resolve_task

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ACCURACY_GAP_OPTIONS", "AccuracyGapOptions", "MaxAccGapLoss", "max_acc_gap"]


class AccuracyGapOptions(GapOptions, total=False):
    """Keyword arguments of :class:`MaxAccGapLoss`.

    Attributes:
        task: ``"auto"``, ``"binary"``, ``"multiclass"``, ``"multilabel"``, ``"tokens"`` or ``"dense"``; see
            :mod:`fairloss.losses.tasks`.
        ignore_index: targets that count for nothing: classes, or labels of a multilabel task (as NaN there).
        token_reduction: an answer's likelihood: ``"mean"`` (exp of minus the mean token nll) or ``"sum"`` (its probability).
    """

    task: Task
    ignore_index: int
    token_reduction: TokenReduction


ACCURACY_GAP_OPTIONS: AccuracyGapOptions = {
    **GAP_OPTIONS,
    "task": "auto",
    "ignore_index": -100,
    "token_reduction": "mean",
}


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is given and the defaults, checked."""
    o = given_options(options, ACCURACY_GAP_OPTIONS)
    check_gap_options(o)
    check_task(o["task"])
    checks.integer("ignore_index", o["ignore_index"], minimum=-(2**63))
    checks.choice("token_reduction", o["token_reduction"], TOKEN_REDUCTIONS)
    return o


def _loss(input: Tensor, target: Tensor, groups: Tensor, sizes: tuple[int, ...], o: Mapping[str, Any]) -> Tensor:
    input, target, kind = class_last(input, target, resolve_task(input, target, o["task"]))
    check_memory(o["memory"], sizes, device=input.device)
    # All ids are checked, those of samples without a likelihood included.
    ids = check_groups(groups, sizes, input.shape[0], device=input.device)
    rows = rows_of(input, target, task=kind, auto=o["task"] == "auto", ignore_index=o["ignore_index"])
    likelihood = likelihood_of(rows, kind, target.shape, o["token_reduction"])
    return gap_of_values(likelihood.prob, ids, o, valid=likelihood.valid)


@with_options(ACCURACY_GAP_OPTIONS, AccuracyGapOptions)
def max_acc_gap(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    **options: Unpack[AccuracyGapOptions],
) -> Tensor:
    """Soft MaxAccGap as a function; see :class:`MaxAccGapLoss`.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> max_acc_gap(logits, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), num_groups=2)
        tensor(0.3808)
    """
    return _loss(input, target, groups, check_num_groups(num_groups), _checked(options))


@with_options(ACCURACY_GAP_OPTIONS, AccuracyGapOptions, GapOptions)
class MaxAccGapLoss(ConstantsModule):
    """Soft MaxAccGap: the largest minus the smallest group's mean probability of the true label.

    acc_g = mean_{i in g} exp(-nll_i);  loss = max_g acc_g - min_g acc_g over the groups present. 0 means that every group
    is served equally well, 1 is the largest value.

    Args:
        num_groups: number of groups; a tuple for several attributes.
        options: by keyword.

    Shape:
        - input: logits (N,), (N, 1), (N, C), (N, T, V) or (N, C, *spatial), float16 to float64 (computed in float32 at least)
        - target: (N,), (N, C), (N, T) or (N, *spatial)
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 logits)

    Raises:
        TypeError, ValueError: naming the argument, before any work or change of state.

    Note:
        Absent groups take no part; with fewer than two present the loss is 0 and ``backward()`` works. As a training signal
        add it to a task loss: alone, it is just as happy with every group served badly. Gradient reaches the best and the
        worst group (all groups with smoothing); under ``"raise"`` it is never for a lower accuracy of any group.

    Example:
        >>> import torch
        >>> loss = MaxAccGapLoss(num_groups=2)
        >>> loss(torch.tensor([3.0, -1.0]), torch.tensor([1, 1]), torch.tensor([0, 1]))
        tensor(0.6836)

    References:
        Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, eqs 5-6.

    Reference:
        fairness-aware LoRA 2025, eqs 5-6: https://arxiv.org/abs/2512.03477

    See Also:
        :class:`FairCrossEntropyLoss`, :class:`EqualizedOddsLoss`, :class:`GroupMemory`
    """

    def __init__(self, num_groups: int | Sequence[int], **options: Unpack[AccuracyGapOptions]) -> None:
        super().__init__()
        self.num_groups, o = check_num_groups(num_groups), _checked(options)
        check_memory(o["memory"], self.num_groups)
        for name, value in o.items():
            setattr(self, name, value)

    def forward(self, input: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return _loss(input, target, groups, self.num_groups, options_of(self, tuple(ACCURACY_GAP_OPTIONS)))

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, smoothing={self.smoothing}, direction={self.direction!r}, task={self.task!r}"
