"""MaxAccGap: the gap between the best and the worst group's soft accuracy.

Paper: Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, eqs 5-6.
The paper's hard max and min are the default. Differences: absent groups take no part (the
paper's estimate is undefined there), ``smoothing`` and ``memory`` are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.groups.ids import AttributeReduction, check_groups
from fairloss.groups.memory import GroupMemory, check_memory
from fairloss.losses.gaps import Direction, check_gap_options, gap_of_values
from fairloss.losses.likelihood import TOKEN_REDUCTIONS, TokenReduction, likelihood_of, rows_of
from fairloss.losses.tasks import Task, check_task, class_last, resolve_task

__all__ = ["MaxAccGapLoss", "max_acc_gap"]


def max_acc_gap(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    smoothing: float | None = None,
    direction: Direction = "both",
    memory: GroupMemory | None = None,
    task: Task = "auto",
    ignore_index: int = -100,
    token_reduction: TokenReduction = "mean",
    attribute_reduction: AttributeReduction = "mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Soft MaxAccGap as a function; see :class:`MaxAccGapLoss`.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> max_acc_gap(logits, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), num_groups=2)
        tensor(0.3808)
    """
    sizes = check_gap_options(num_groups, smoothing, direction, attribute_reduction, process_group)
    checks.choice("token_reduction", token_reduction, TOKEN_REDUCTIONS)
    input, target, kind = class_last(input, target, resolve_task(input, target, task))
    check_memory(memory, sizes, device=input.device)
    # All ids are checked, those of samples without a likelihood included.
    ids = check_groups(groups, sizes, input.shape[0], device=input.device)
    rows = rows_of(input, target, task=kind, auto=task == "auto", ignore_index=ignore_index)
    likelihood = likelihood_of(rows, kind, target.shape, token_reduction)
    return gap_of_values(
        likelihood.prob,
        ids,
        valid=likelihood.valid,
        smoothing=smoothing,
        direction=direction,
        memory=memory,
        attribute_reduction=attribute_reduction,
        process_group=process_group,
    )


class MaxAccGapLoss(ConstantsModule):
    """Soft MaxAccGap: the largest minus the smallest group's mean probability of the true label.

    acc_g = mean_{i in g} exp(-nll_i);  loss = max_g acc_g - min_g acc_g over the groups present. 0 means that every group
    is served equally well, 1 is the largest value.

    Args:
        num_groups: number of groups; a tuple for several attributes.
        smoothing: t > 0 replaces max and min by softmax(+-acc/t)-weighted averages; ``None`` is the paper's hard gap.
        direction: ``"both"``, the paper's: the best group's accuracy is lowered as readily as the worst one's is raised;
            ``"raise"``: the gap closes by the worst group's gain alone.
        memory: a :class:`fairloss.GroupMemory`, so that small batches are ranked on more than themselves.
        task: ``"auto"``, ``"binary"``, ``"multiclass"``, ``"multilabel"``, ``"tokens"`` or ``"dense"``; see
            :mod:`fairloss.losses.tasks`.
        ignore_index: targets that count for nothing: classes, or labels of a multilabel task (as NaN there).
        token_reduction: ``"mean"`` or ``"sum"`` of the token nlls of an answer.
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

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

    _OPTIONS = option_names(max_acc_gap)

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        smoothing: float | None = None,
        direction: Direction = "both",
        memory: GroupMemory | None = None,
        task: Task = "auto",
        ignore_index: int = -100,
        token_reduction: TokenReduction = "mean",
        attribute_reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = check_gap_options(num_groups, smoothing, direction, attribute_reduction, process_group)
        check_memory(memory, self.num_groups)
        self.smoothing, self.memory, self.process_group = smoothing, memory, process_group
        self.direction = direction
        self.task = check_task(task)
        self.ignore_index = checks.integer("ignore_index", ignore_index, minimum=-(2**63))
        self.token_reduction = checks.choice("token_reduction", token_reduction, TOKEN_REDUCTIONS)
        self.attribute_reduction = attribute_reduction

    def forward(self, input: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return max_acc_gap(input, target, groups, **options_of(self, self._OPTIONS))

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, smoothing={self.smoothing}, direction={self.direction!r}, task={self.task!r}"
