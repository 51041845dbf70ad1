"""The drop-in criterion: cross-entropy with group weights and a soft accuracy gap, from one log-softmax.

Paper: Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*: vanilla (eq 3), FR
(eq 4), GR (eq 8) and Hybrid (eq 9) by the arguments ``gap_weight`` and ``group_counts``. Differences: the group weights
enter as a linear, mean-1 weighting (see :mod:`fairloss.losses.inverse_frequency_weighting`), and the gap follows
:mod:`fairloss.losses.max_acc_gap`. Eq 9 to the letter is ``InverseFrequencyWeighting(..., variant="paper")`` plus a
``MaxAccGapLoss``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, check_process_group
from fairloss.core.state import ConstantsModule
from fairloss.groups.ids import check_group_counts, check_groups, check_num_groups, single_attribute
from fairloss.groups.memory import GroupMemory
from fairloss.losses.inverse_frequency_weighting import inverse_frequency_weights
from fairloss.losses.max_acc_gap import check_memory, gap_of_ids
from fairloss.losses.tasks import Rows, Task, TokenReduction, check_task, likelihood_of, resolve_task, rows_of

__all__ = ["CrossEntropyParts", "FairCrossEntropyLoss", "fair_cross_entropy"]

Reduction = Literal["mean", "sum", "none"]


class CrossEntropyParts(NamedTuple):
    """The loss and its terms: ``loss = task + gap_weight * gap``."""

    loss: Tensor
    task: Tensor
    gap: Tensor


class _Terms(NamedTuple):
    """Per-row task losses, (M,); what the mean divides by the sum of, (M,); the plain rows."""

    losses: Tensor
    norm: Tensor
    rows: Rows


def _check_tables(**tables: Tensor | None) -> None:
    for name, table in tables.items():
        if table is not None and (not isinstance(table, Tensor) or not table.dtype.is_floating_point):
            given = table.dtype if isinstance(table, Tensor) else type(table).__name__
            raise TypeError(f"{name}: a floating-point tensor is needed, {given} was given")


def _smoothed(rows: Rows, logits: Tensor, weight: Tensor | None, label_smoothing: float) -> Tensor:
    """(1 - e) nll + (e / C) sum_c -w_c logp_c, the second term from the logits: -logp_c = lse - x_c."""
    logp = F.log_softmax(logits, 1, dtype=rows.nll.dtype)
    spread = -(logp if weight is None else logp * weight).sum(1) / logits.shape[1]
    return label_smoothing * spread.masked_fill(~rows.valid, 0.0)


def _classes(
    input: Tensor,
    target: Tensor,
    kind: Task,
    weight: Tensor | None,
    label_smoothing: float,
    ignore_index: int,
    with_prob: bool,
) -> _Terms:
    """Multiclass and tokens, with the meanings of torch's ``cross_entropy``."""
    rows = rows_of(input, target, task=kind, ignore_index=ignore_index, with_prob=with_prob)
    if weight is not None and weight.shape != input.shape[-1:]:
        raise ValueError(
            f"weight: one weight a class, ({input.shape[-1]},), is needed, {tuple(weight.shape)} was given"
        )
    w = None if weight is None else weight.to(rows.nll)
    losses, norm = rows.nll, rows.valid
    if target.dtype.is_floating_point:
        if w is not None or label_smoothing:
            t = target.to(losses.dtype) * (1 - label_smoothing) + label_smoothing / input.shape[1]
            t = t if w is None else t * w
            logp = F.log_softmax(input, 1, dtype=losses.dtype)
            losses = -torch.where(t == 0, 0.0, t * logp).sum(1)
    else:
        if w is not None:
            of_label = w[target.flatten().to(torch.int64).masked_fill(~rows.valid, 0)]
            losses, norm = losses * of_label, norm * of_label
        if label_smoothing:
            losses = (1 - label_smoothing) * losses + _smoothed(rows, input.flatten(0, -2), w, label_smoothing)
    return _Terms(losses, norm, rows)


def _labels(
    input: Tensor,
    target: Tensor,
    kind: Task,
    auto: bool,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    label_smoothing: float,
    with_prob: bool,
) -> _Terms:
    """Binary and multilabel, with the meanings of torch's ``binary_cross_entropy_with_logits``: a row is a label."""
    columns = input.shape[1] if kind == "multilabel" else 1
    rows = rows_of(input, target, task=kind, auto=auto, with_prob=with_prob)
    for name, table in (("weight", weight), ("pos_weight", pos_weight)):
        if table is not None and table.shape not in ((), (1,), (columns,)):
            raise ValueError(f"{name}: one weight a label, ({columns},), is needed, {tuple(table.shape)} was given")
    losses = rows.nll
    if weight is not None or pos_weight is not None or label_smoothing:
        t = target.to(losses.dtype) * (1 - label_smoothing) + label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(
            input.to(losses.dtype).reshape(-1, columns),
            t.reshape(-1, columns),
            weight=None if weight is None else weight.to(losses),
            pos_weight=None if pos_weight is None else pos_weight.to(losses),
            reduction="none",
        ).flatten()
    return _Terms(losses, rows.valid, rows)


def fair_cross_entropy(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    gap_weight: float = 0.0,
    group_weights: Tensor | None = None,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    memory: GroupMemory | None = None,
    smoothing: float | None = None,
    task: Task = "auto",
    token_reduction: TokenReduction = "mean",
    process_group: ProcessGroup | None = None,
) -> CrossEntropyParts:
    """Cross-entropy with group weights and a soft accuracy gap as a function; see :class:`FairCrossEntropyLoss`.

    Args:
        input: logits.
        target: labels.
        groups: (N,) or (N, K) ids.
        num_groups: number of groups.
        gap_weight: lambda >= 0 of the gap term.
        group_weights: (G,) weights of the samples by group, as :func:`fairloss.functional.inverse_frequency_weights` gives.
        weight: as :class:`FairCrossEntropyLoss`, and so the rest.
        pos_weight: positive label weights.
        label_smoothing: in [0, 1].
        ignore_index: integer targets that count for nothing.
        reduction: of the task term.
        memory: of the gap term.
        smoothing: of the gap term.
        task: kind of task.
        token_reduction: of the gap term.
        process_group: sums over its ranks.

    Returns:
        The loss, its task term and its gap term (0 where ``gap_weight`` is 0).

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> target, groups = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
        >>> parts = fair_cross_entropy(logits, target, groups, num_groups=2, gap_weight=0.5)
        >>> print(f"{parts.loss:.4f} = {parts.task:.4f} + 0.5 * {parts.gap:.4f}")
        0.5060 = 0.3157 + 0.5 * 0.3808
    """
    sizes = check_num_groups(num_groups)
    gap_weight = checks.number("gap_weight", gap_weight, minimum=0)
    label_smoothing = checks.number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    _check_reduction(reduction, gap_weight)
    if smoothing is not None:
        smoothing = checks.number("smoothing", smoothing, above=0)
    checks.choice("token_reduction", token_reduction, ("mean", "sum"))
    _check_tables(weight=weight, pos_weight=pos_weight, group_weights=group_weights)
    if group_weights is not None and group_weights.shape != (single_attribute(sizes, "group weighting"),):
        raise ValueError(f"group_weights: shape {sizes} is needed, {tuple(group_weights.shape)} was given")
    check_process_group(process_group)
    kind = resolve_task(input, target, task)
    check_memory(memory, sizes, like=input)
    ids = check_groups(groups, sizes, input.shape[0], like=input)
    if kind in ("binary", "multilabel"):
        if weight is not None and kind == "binary":
            raise ValueError("weight: class weights do not apply to a binary target; use pos_weight")
        terms = _labels(input, target, kind, task == "auto", weight, pos_weight, label_smoothing, gap_weight > 0)
    else:
        if pos_weight is not None:
            raise ValueError(f"pos_weight: it applies to binary and multilabel targets, the task is {kind!r}")
        terms = _classes(input, target, kind, weight, label_smoothing, ignore_index, gap_weight > 0)
    losses = terms.losses
    if kind in ("tokens", "multilabel"):
        losses = losses.reshape(target.shape)
    if group_weights is not None:
        v = ids.lookup(group_weights.to(losses), unknown=1.0)
        losses = losses * (v.unsqueeze(1) if losses.ndim > 1 else v)
    if reduction == "none":
        each = losses.reshape(input.shape) if kind == "binary" else losses
        return CrossEntropyParts(each, each, losses.new_zeros(()))
    total, norm = all_reduce_sums([losses.sum(), terms.norm.sum(dtype=losses.dtype)], process_group)
    # Nothing to learn from (an empty batch, all targets ignored): 0, connected to the graph.
    mean = total / norm.clamp(min=torch.finfo(norm.dtype).tiny) if reduction == "mean" else total
    if gap_weight == 0:
        return CrossEntropyParts(mean, mean, torch.zeros_like(mean))
    likelihood = likelihood_of(terms.rows, kind, target.shape, token_reduction)
    known = ids.known(likelihood.valid)
    gap = gap_of_ids(likelihood.prob, known, smoothing, memory, "mean", process_group)
    return CrossEntropyParts(mean + gap_weight * gap, mean, gap)


def _check_reduction(reduction: str, gap_weight: float) -> None:
    checks.choice("reduction", reduction, ("mean", "sum", "none"))
    if reduction == "none" and gap_weight > 0:
        raise ValueError("reduction: the gap is one number a batch; reduction='none' needs gap_weight=0")


class FairCrossEntropyLoss(ConstantsModule):
    """Cross-entropy that answers for groups: a drop-in for ``nn.CrossEntropyLoss`` and ``nn.BCEWithLogitsLoss``.

    loss = mean_i v_{g_i} l_i + gap_weight * (max_g acc_g - min_g acc_g), with l the cross-entropy in torch's meaning,
    v_g = w_g / wbar, w_g = min(N / N_g, max_weight), and acc_g the mean probability of the true label in group g. The
    mean of a multilabel or token task runs over all labels or tokens, as in torch, each with its sample's weight.

    | ``gap_weight`` | ``group_counts`` | the paper's name |
    |----------------|------------------|------------------|
    | 0              | None             | vanilla, eq 3    |
    | > 0            | None             | FR, eq 4         |
    | 0              | given            | GR, eq 8         |
    | > 0            | given            | Hybrid, eq 9     |

    Args:
        num_groups: number of groups; a tuple for several attributes (gap term only).
        gap_weight: lambda >= 0.
        group_counts: training-set counts a group, (G,), for the weights v; ``None``: all 1.
        max_weight: cap on N / N_g, >= 1.
        weight: class weights, (C,), (V,) or one a label; as in torch the mean divides by their sum (multiclass, tokens).
        pos_weight: weight of the positives, binary and multilabel.
        label_smoothing: in [0, 1]; the accuracies always use the plain likelihood.
        ignore_index: integer targets that count for nothing, in either term.
        reduction: of the task term, as in torch: ``"mean"`` over samples, labels or tokens, their ``"sum"``, or ``"none"``:
            each of them (then ``gap_weight`` must be 0).
        memory: a :class:`fairloss.GroupMemory`, so that small batches are ranked on more than themselves.
        smoothing: t > 0 of the soft gap; ``None``: the hard one.
        task: ``"auto"``, ``"binary"``, ``"multiclass"``, ``"multilabel"`` or ``"tokens"``; see
            :mod:`fairloss.losses.tasks`.
        token_reduction: an answer's likelihood: ``"mean"`` (exp of minus the mean token nll) or ``"sum"`` (its probability).
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Shape:
        - input: logits (N,), (N, 1), (N, C) or (N, T, V), float16 to float64 (computed in float32 at least)
        - target: (N,), (N, C) or (N, T)
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 logits); with ``reduction="none"`` (N,), or the shape of the input
          (binary, multilabel) or of the target (tokens); with ``return_parts=True`` a :class:`CrossEntropyParts`

    Raises:
        TypeError, ValueError: naming the argument, before any work or change of state.

    Note:
        Samples of unknown group enter the task term with weight 1 and no group term. Absent groups take no part. With the
        default weights the task term is linear in the samples, so micro-batches and several processes add up to the full
        batch. Large vocabularies and half-precision logits are read in blocks: besides its gradient no tensor of the logits'
        size is made (label smoothing and class probabilities make one).

    Example:
        >>> criterion = FairCrossEntropyLoss(num_groups=2, gap_weight=0.5)
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> criterion(logits, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
        tensor(0.5060)

    References:
        Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*, eqs 3-9.
    """

    group_weights: Tensor | None
    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        num_groups: int | Sequence[int],
        gap_weight: float = 0.0,
        group_counts: Sequence[float] | Tensor | None = None,
        max_weight: float = 10.0,
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        memory: GroupMemory | None = None,
        smoothing: float | None = None,
        task: Task = "auto",
        token_reduction: TokenReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = check_num_groups(num_groups)
        self.gap_weight = checks.number("gap_weight", gap_weight, minimum=0)
        checks.number("max_weight", max_weight, minimum=1)
        self.label_smoothing = checks.number("label_smoothing", label_smoothing, minimum=0, maximum=1)
        self.ignore_index = checks.integer("ignore_index", ignore_index, minimum=-(2**63))
        _check_reduction(reduction, self.gap_weight)
        self.reduction: Reduction = reduction
        check_memory(memory, self.num_groups)
        self.memory = memory
        self.smoothing = None if smoothing is None else checks.number("smoothing", smoothing, above=0)
        self.task = check_task(task)
        checks.choice("token_reduction", token_reduction, ("mean", "sum"))
        self.token_reduction: TokenReduction = token_reduction
        check_process_group(process_group)
        self.process_group = process_group
        group_weights = None
        if group_counts is not None:
            size = single_attribute(self.num_groups, "group_counts")
            group_weights = inverse_frequency_weights(check_group_counts(group_counts, size), max_weight)
        for name, table in (("weight", weight), ("pos_weight", pos_weight)):
            _check_tables(**{name: table})
            if table is not None and not bool(torch.isfinite(table).all() and (table >= 0).all()):
                raise ValueError(f"{name}: finite weights >= 0 are needed, {table.tolist()} was given")
        self.register_constant("group_weights", group_weights)
        self.register_constant("weight", weight)
        self.register_constant("pos_weight", pos_weight)

    def forward(
        self, input: Tensor, target: Tensor, groups: Tensor, *, return_parts: bool = False
    ) -> Tensor | CrossEntropyParts:
        """Loss of a batch, with ``return_parts=True`` beside its terms; see the class."""
        parts = fair_cross_entropy(
            input,
            target,
            groups,
            num_groups=self.num_groups,
            gap_weight=self.gap_weight,
            group_weights=self.group_weights,
            weight=self.weight,
            pos_weight=self.pos_weight,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            memory=self.memory,
            smoothing=self.smoothing,
            task=self.task,
            token_reduction=self.token_reduction,
            process_group=self.process_group,
        )
        return parts if return_parts else parts.loss

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, gap_weight={self.gap_weight}, weighted={self.group_weights is not None}"
