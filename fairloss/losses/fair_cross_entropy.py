"""The drop-in criterion: cross-entropy with group weights and a soft accuracy gap, from one log-softmax.

Paper: Gu et al., *Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis*: vanilla (eq 3), FR
(eq 4), GR (eq 8) and Hybrid (eq 9) by the arguments ``gap_weight`` and ``group_counts``. Differences: the group weights
enter as a linear, mean-1 weighting (see :mod:`fairloss.losses.inverse_frequency_weighting`), and the gap follows
:mod:`fairloss.losses.max_acc_gap`. Eq 9 to the letter is ``InverseFrequencyWeighting(..., variant="paper")`` plus a
``MaxAccGapLoss``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, get_args

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sum
from fairloss.core.options import given_options, options_of, with_options
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import floating
from fairloss.groups.ids import GroupTable, check_group_counts, check_groups, check_num_groups
from fairloss.groups.memory import GroupMemory, check_memory
from fairloss.losses.gaps import Direction, check_gap_options, gap_of_values
from fairloss.losses.inverse_frequency_weighting import inverse_frequency_weights
from fairloss.losses.likelihood import TOKEN_REDUCTIONS, TokenReduction, likelihood_of, rows_of
from fairloss.losses.tasks import Task, check_task, class_last, resolve_task

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CrossEntropyParts", "FairCrossEntropyLoss", "fair_cross_entropy"]

Reduction = Literal["mean", "sum", "none"]


class CrossEntropyParts(NamedTuple):
    """The loss and its terms, ``loss = task + gap_weight * gap``, and what a log wants to know of the groups.

    Attributes:
        loss: the value.
        task: the (weighted) cross-entropy.
        gap: between the groups' accuracies; 0 where ``gap_weight`` is 0.
        means: (G,) the groups' soft accuracies in the batch, 0 where absent; detached, as the others below.
        counts: (G,) their samples in it.
        weights: (G,) the weights v by group; ``None`` without ``group_counts``.
    """

    loss: Tensor
    task: Tensor
    gap: Tensor
    means: Tensor | None = None
    counts: Tensor | None = None
    weights: Tensor | None = None


class CrossEntropyOptions(TypedDict, total=False):
    """Keyword arguments of :class:`FairCrossEntropyLoss`."""

    gap_weight: float
    group_counts: GroupTable | None
    max_weight: float
    weight: Tensor | None
    pos_weight: Tensor | None
    label_smoothing: float
    ignore_index: int
    reduction: Reduction
    memory: GroupMemory | None
    smoothing: float | None
    direction: Direction
    task: Task
    token_reduction: TokenReduction
    process_group: ProcessGroup | None


CROSS_ENTROPY_OPTIONS: CrossEntropyOptions = {
    "gap_weight": 0.0,
    "group_counts": None,
    "max_weight": 10.0,
    "weight": None,
    "pos_weight": None,
    "label_smoothing": 0.0,
    "ignore_index": -100,
    "reduction": "mean",
    "memory": None,
    "smoothing": None,
    "direction": "both",
    "task": "auto",
    "token_reduction": "mean",
    "process_group": None,
}
# What a module keeps: the weights by group in place of the counts.
_KEPT = tuple(name for name in CROSS_ENTROPY_OPTIONS if name not in ("group_counts", "max_weight"))


def _terms(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    sizes: tuple[int, ...],
    o: Mapping[str, Any],
    weight_tables: dict[torch.dtype, Tensor] | None,
    return_parts: bool,
) -> Tensor | CrossEntropyParts:
    """The criterion on checked options: task term, then the gap between groups."""
    task, token_reduction, process_group = o["task"], o["token_reduction"], o["process_group"]
    gap_weight, reduction = o["gap_weight"], o["reduction"]
    kind = resolve_task(input, target, task)
    shape = target.shape
    input, target, kind = class_last(input, target, kind)
    check_memory(o["memory"], sizes, device=input.device)
    ids = check_groups(groups, sizes, input.shape[0], device=input.device)
    rows = rows_of(
        input,
        target,
        task=kind,
        auto=task == "auto",
        ignore_index=o["ignore_index"],
        weight=o["weight"],
        pos_weight=o["pos_weight"],
        label_smoothing=o["label_smoothing"],
        with_prob=gap_weight > 0 or return_parts,
    )

    def _by_group() -> tuple[Tensor, Tensor, Tensor | None]:
        """Accuracies, counts and weights by group."""
        found = likelihood_of(rows, kind, target.shape, token_reduction)
        sums, counts = ids.known(found.valid).totals(found.prob.detach(), process_group)
        weights = None if weight_tables is None else weight_tables[sums.dtype][1:]
        return sums / counts.clamp(min=1), counts, weights

    losses = rows.losses.reshape(target.shape) if kind in ("tokens", "multilabel") else rows.losses
    if reduction == "none":
        if weight_tables is not None:
            of_sample = weight_tables[losses.dtype][ids.rows()].reshape(ids.ids.shape).mean(1)
            losses = losses * of_sample.reshape(-1, *[1] * (losses.ndim - 1))
        each = losses.reshape(input.shape if kind == "binary" else shape if kind == "tokens" else losses.shape)
        gap = losses.new_zeros(())
        return CrossEntropyParts(each, each, gap, *_by_group()) if return_parts else each
    likelihood = likelihood_of(rows, kind, target.shape, token_reduction) if gap_weight > 0 else None
    # The loss of a sample that is not valid is 0, whatever its row.
    row = ids.rows(None if likelihood is None else likelihood.valid)
    # Nothing to learn from (an empty batch, all targets ignored): 0, connected to the graph. The bound's inverse is finite.
    norm = all_reduce_sum(rows.norm.sum(dtype=losses.dtype), process_group)
    norm = norm.clamp(min=1e6 * torch.finfo(losses.dtype).tiny)
    if weight_tables is None:
        total = losses.sum() / norm if reduction == "mean" else losses.sum()
    else:
        # Divided by the norm before the lookup, which is a division less in backward.
        table = weight_tables[losses.dtype]
        of_sample = (table / norm if reduction == "mean" else table)[row]
        if len(sizes) > 1:
            of_sample = of_sample.reshape(-1, len(sizes)).mean(1)
        total = torch.dot(of_sample, losses if losses.ndim == 1 else losses.sum(1))
    task_term = all_reduce_sum(total, process_group)
    if likelihood is None:
        gap, loss = torch.zeros_like(task_term), task_term
    else:
        gap_options = {**o, "attribute_reduction": "mean"}
        gap = gap_of_values(likelihood.prob, ids, gap_options, valid=likelihood.valid, rows=row)
        loss = torch.add(task_term, gap, alpha=gap_weight)
    return CrossEntropyParts(loss, task_term, gap, *_by_group()) if return_parts else loss


def _checked(options: Mapping[str, Any], sizes: tuple[int, ...]) -> tuple[dict[str, Any], Tensor | None]:
    """What is given and the defaults, checked, and the weights by group after that of the unknown, 1."""
    o = given_options(options, CROSS_ENTROPY_OPTIONS)
    check_gap_options({**o, "attribute_reduction": "mean"})
    check_memory(o["memory"], sizes)
    checks.number("gap_weight", o["gap_weight"], minimum=0)
    checks.number("label_smoothing", o["label_smoothing"], minimum=0, maximum=1)
    checks.integer("ignore_index", o["ignore_index"], minimum=-(2**63))
    checks.choice("reduction", o["reduction"], get_args(Reduction))
    if o["reduction"] == "none" and o["gap_weight"] > 0:
        cure = "the gap is one number per batch: pass gap_weight=0"
        raise ValueError(expected("reduction", "'mean' or 'sum' with a gap", "'none'", cure))
    check_task(o["task"])
    checks.choice("token_reduction", o["token_reduction"], TOKEN_REDUCTIONS)
    checks.number("max_weight", o["max_weight"], minimum=1)
    for name in ("weight", "pos_weight"):
        if o[name] is not None:
            floating(name, o[name])
    if o["group_counts"] is None:
        return o, None
    counts = check_group_counts(o["group_counts"], sizes)
    weights = [inverse_frequency_weights(part, max_weight=o["max_weight"]) for part in counts]
    return o, torch.cat([weights[0].new_ones(1), *weights])


@with_options(CROSS_ENTROPY_OPTIONS, CrossEntropyOptions)
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
        num_groups: number of groups; a tuple for several attributes, whose gaps and weights are averaged.
        gap_weight: lambda >= 0.
        group_counts: training-set counts per group, (G,), for the weights v; for several attributes one list each; ``None``:
            all 1.
        max_weight: cap on N / N_g, >= 1 (default 10).
        weight: class weights, (C,), (V,) or one per label; as in torch the mean divides by their sum (multiclass, tokens).
        pos_weight: weight of the positives, binary and multilabel.
        label_smoothing: in [0, 1]; the accuracies always use the plain likelihood.
        ignore_index: targets that count for nothing in either term: classes, or labels of a multilabel task (as NaN there)
            (default -100).
        reduction: of the task term, as in torch: ``"mean"`` over samples, labels or tokens, their ``"sum"``, or ``"none"``:
            each of them (then ``gap_weight`` must be 0).
        memory: a :class:`fairloss.GroupMemory`, so that small batches are ranked on more than themselves.
        smoothing: t > 0 of the soft gap; ``None``: the hard one.
        direction: of the gap: ``"both"`` ends move, as the paper has it, or ``"raise"``: the worst group alone.
        task: ``"auto"``, ``"binary"``, ``"multiclass"``, ``"multilabel"``, ``"tokens"`` or ``"dense"``; see
            :mod:`fairloss.losses.tasks`.
        token_reduction: an answer's likelihood: ``"mean"`` (exp of minus the mean token nll) or ``"sum"`` (its probability).
        process_group: makes the loss that of all its ranks' samples; see :mod:`fairloss.core.distributed`.

    Shape:
        - input: logits (N,), (N, 1), (N, C), (N, T, V) or (N, C, *spatial), float16 to float64 (computed in float32 at least)
        - target: (N,), (N, C), (N, T) or (N, *spatial)
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 logits); with ``reduction="none"`` (N,), or the shape of the input
          (binary, multilabel) or of the target (tokens, dense); with ``return_parts=True`` a :class:`CrossEntropyParts`

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

    Reference:
        fairness-aware LoRA 2025, eqs 3, 4, 8, 9: https://arxiv.org/abs/2512.03477

    See Also:
        :class:`MaxAccGapLoss`, :class:`InverseFrequencyWeighting`, :class:`GroupMemory`
    """

    weight: Tensor | None
    pos_weight: Tensor | None
    _wide: Tensor | None
    _narrow: Tensor | None

    def __init__(self, num_groups: int | Sequence[int], **options: Unpack[CrossEntropyOptions]) -> None:
        super().__init__()
        self.num_groups = check_num_groups(num_groups)
        o, wide = _checked(options, self.num_groups)
        for name in _KEPT:
            if name not in ("weight", "pos_weight"):
                setattr(self, name, o[name])
        for name in ("weight", "pos_weight"):
            table = o[name]
            if table is not None and not bool(torch.isfinite(table).all() and (table >= 0).all()):
                raise ValueError(expected(name, "finite weights >= 0", table.tolist()))
            self.register_constant(name, table)
        # One of each dtype of the losses: a conversion per step costs as much as the lookup.
        self.register_constant("_wide", wide)
        self.register_constant("_narrow", None if wide is None else wide.to(torch.float32))

    @property
    def weight_tables(self) -> dict[torch.dtype, Tensor] | None:
        """The weights by group after that of the unknown, 1, in each dtype of the losses."""
        if self._wide is None or self._narrow is None:
            return None
        return {torch.float64: self._wide, torch.float32: self._narrow}

    @property
    def group_weights(self) -> Tensor | None:
        """The weights v by group, (G,) float64; those of several attributes one after the other."""
        return None if self._wide is None else self._wide[1:]

    def forward(
        self, input: Tensor, target: Tensor, groups: Tensor, *, return_parts: bool = False
    ) -> Tensor | CrossEntropyParts:
        """Loss of a batch, with ``return_parts=True`` beside its terms; see the class."""
        o = options_of(self, _KEPT)
        return _terms(input, target, groups, self.num_groups, o, self.weight_tables, return_parts)

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, gap_weight={self.gap_weight}, weighted={self.group_weights is not None}"


@with_options(CROSS_ENTROPY_OPTIONS, CrossEntropyOptions)
def fair_cross_entropy(
    input: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    return_parts: bool = False,
    **options: Unpack[CrossEntropyOptions],
) -> Tensor | CrossEntropyParts:
    """Cross-entropy with group weights and a soft accuracy gap as a function; see :class:`FairCrossEntropyLoss`.

    Returns:
        The loss; with ``return_parts=True`` a :class:`CrossEntropyParts`.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> target, groups = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
        >>> parts = fair_cross_entropy(logits, target, groups, num_groups=2, gap_weight=0.5, return_parts=True)
        >>> print(f"{parts.loss:.4f} = {parts.task:.4f} + 0.5 * {parts.gap:.4f}")
        0.5060 = 0.3157 + 0.5 * 0.3808
    """
    sizes = check_num_groups(num_groups)
    o, wide = _checked(options, sizes)
    tables = None
    if wide is not None:
        wide = wide.to(floating("input", input).device)
        tables = {dtype: wide.to(dtype) for dtype in (torch.float64, torch.float32)}
    return _terms(input, target, groups, sizes, o, tables, return_parts)
