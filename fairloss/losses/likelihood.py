"""Per-sample losses and likelihoods: what every loss on logits needs of (input, target), whatever the kind of task.

The likelihood of the given label is ``exp(-nll)``, so a model's soft accuracy costs nothing beyond its cross-entropy, at
any vocabulary. It always uses the plain nll, without class weights or label smoothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import on_host
from fairloss.losses.tasks import Task, check_fractions, class_last, masked, resolve_task
from fairloss.ops.nll import dense_nll
from fairloss.ops.nll import nll as streamed_nll

__all__ = ["TOKEN_REDUCTIONS", "Likelihood", "Rows", "TokenReduction", "likelihood_of", "rows_of", "sample_likelihood"]

TokenReduction = Literal["mean", "sum"]
TOKEN_REDUCTIONS = ("mean", "sum")

# From this many classes on, a second buffer of the logits' size costs more than the op call that avoids it.
_STREAM_FROM = 1 << 14


class Likelihood(NamedTuple):
    """Likelihood of each sample's label.

    Attributes:
        prob: (N,), in [0, 1], float32 or float64; gradient flows to the logits.
        valid: (N,) bool, False where every target of the sample is ignored; such a sample enters no group.
    """

    prob: Tensor
    valid: Tensor


class Rows(NamedTuple):
    """The cross-entropies a task consists of: one row per sample, label or token.

    Attributes:
        losses: (M,) as the task asks for them, with class weights and label smoothing; 0 where ignored.
        norm: (M,) what their mean divides by the sum of.
        nll: (M,) plain negative log-likelihoods, 0 where ignored. With float targets their cross-entropy.
        valid: (M,) bool, False where the target is ignored.
        prob: (M,) likelihood of the given label; None where it is exp(-nll) or was not asked for.
    """

    losses: Tensor
    norm: Tensor
    nll: Tensor
    valid: Tensor
    prob: Tensor | None = None


def _class_nll(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """(..., C) logits and (...) integers, M of them -> (M,) nll, 0 where ignored."""
    if logits.shape[-1] < _STREAM_FROM and logits.dtype in (torch.float32, torch.float64):
        return dense_nll(logits.flatten(0, -2), target.flatten(), ignore_index)
    return streamed_nll(logits, target, ignore_index).flatten()


def _checked_class_nll(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """The same; a class out of range is an error with the value in eager mode on CPU, a device-side assertion elsewhere."""
    if not on_host(target):
        return _class_nll(logits, target, ignore_index)
    try:
        return _class_nll(logits, target, ignore_index)
    except (IndexError, RuntimeError):
        bad = target[((target < 0) | (target >= logits.shape[-1])) & (target != ignore_index)]
        if bad.numel() == 0:
            raise
        wanted = f"classes 0 .. {logits.shape[-1] - 1}, and {ignore_index} to ignore"
        raise ValueError(expected("target", wanted, int(bad[0]))) from None


def _soft_class_rows(
    input: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: float, with_prob: bool
) -> Rows:
    """Multiclass with class probabilities as the target, (N, C)."""
    logp = F.log_softmax(input, dim=1, dtype=statistics_dtype(input.dtype))
    check_fractions(target)
    t = target.to(logp.dtype)
    # xlogy-like: a class of probability 0 and target 0 contributes 0, not 0 * -inf.
    nll = -(t * logp).masked_fill(t == 0, 0.0).sum(1)
    losses = nll
    if weight is not None or label_smoothing:
        smooth = t * (1 - label_smoothing) + label_smoothing / input.shape[1]
        smooth = smooth if weight is None else smooth * weight.to(logp)
        losses = -(smooth * logp).masked_fill(smooth == 0, 0.0).sum(1)
    valid = torch.ones_like(nll, dtype=torch.bool)
    return Rows(losses, valid, nll, valid, (t * logp.exp()).sum(1) if with_prob else None)


def _class_rows(
    input: Tensor, target: Tensor, ignore_index: int, weight: Tensor | None, label_smoothing: float
) -> Rows:
    """Multiclass and tokens with integer targets, with the meanings of torch's ``cross_entropy``."""
    labels = target.to(torch.int64)
    nll = _checked_class_nll(input, labels, ignore_index)
    labels = labels.flatten()
    valid = labels != ignore_index
    losses, norm = nll, valid
    if weight is not None:
        weight = weight.to(nll)
        of_label = weight[labels.masked_fill(~valid, 0)]
        losses, norm = losses * of_label, norm * of_label
    if label_smoothing:
        # (1 - e) nll + (e / C) sum_c -w_c logp_c.
        logp = F.log_softmax(input.flatten(0, -2), 1, dtype=nll.dtype)
        uniform = -(logp if weight is None else logp * weight).sum(1) / input.shape[-1]
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform.masked_fill(~valid, 0.0)
    return Rows(losses, norm, nll, valid)


def _label_rows(
    input: Tensor,
    target: Tensor,
    columns: int,
    hard: bool,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    label_smoothing: float,
    with_prob: bool,
    valid: Tensor | None,
) -> Rows:
    """Binary and multilabel, with the meanings of torch's ``binary_cross_entropy_with_logits``: a row is a label."""
    x = input.flatten().to(statistics_dtype(input.dtype))
    check_fractions(target, hard=hard)
    t = target.flatten().to(x.dtype)
    # -log(t p + (1 - t)(1 - p)) is the nll for 0/1; for fractions the cross-entropy is, and the likelihood is linear.
    nll = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    losses = nll
    if weight is not None or pos_weight is not None or label_smoothing:
        losses = F.binary_cross_entropy_with_logits(
            x.reshape(-1, columns),
            (t * (1 - label_smoothing) + label_smoothing / 2).reshape(-1, columns),
            weight=None if weight is None else weight.to(x),
            pos_weight=None if pos_weight is None else pos_weight.to(x),
            reduction="none",
        ).flatten()
    if valid is None:
        valid = torch.ones_like(t, dtype=torch.bool)
    else:
        valid = valid.flatten()
        losses, nll = losses.masked_fill(~valid, 0.0), nll.masked_fill(~valid, 0.0)
    if not with_prob:
        return Rows(losses, valid, nll, valid)
    p = torch.sigmoid(x)
    return Rows(losses, valid, nll, valid, torch.lerp(1 - p, p, t))


def _check_weights(input: Tensor, kind: Task, weight: Tensor | None, pos_weight: Tensor | None) -> None:
    by_label = kind in ("binary", "multilabel")
    if by_label:
        columns = input.shape[1] if kind == "multilabel" else 1
        if weight is not None and kind == "binary":
            raise ValueError(expected("weight", "None for a binary target", "class weights", "use pos_weight"))
        for name, table in (("weight", weight), ("pos_weight", pos_weight)):
            if table is not None and table.shape not in ((), (1,), (columns,)):
                raise ValueError(expected(name, f"one weight per label, ({columns},)", tuple(table.shape)))
        return
    if pos_weight is not None:
        raise ValueError(expected("pos_weight", "None but for binary and multilabel targets", f"the task {kind!r}"))
    if weight is not None and weight.shape != input.shape[-1:]:
        raise ValueError(expected("weight", f"one weight per class, ({input.shape[-1]},)", tuple(weight.shape)))


def rows_of(
    input: Tensor,
    target: Tensor,
    *,
    task: Task,
    auto: bool = False,
    ignore_index: int = -100,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    with_prob: bool = True,
) -> Rows:
    """Rows of a resolved task: (N,) for binary and multiclass, (N * C,) for multilabel, (N * T,) for tokens.

    Args:
        input: the logits.
        target: the labels.
        task: what :func:`fairloss.losses.tasks.resolve_task` returned.
        auto: whether the caller asked for ``"auto"``, under which binary targets must be 0 or 1.
        ignore_index: integer targets of multiclass and tokens, and labels of multilabel, that count for nothing.
        weight: class weights (multiclass, tokens) or label weights (multilabel).
        pos_weight: weights of the positives (binary, multilabel).
        label_smoothing: in [0, 1].
        with_prob: whether the likelihoods are wanted, too.
    """
    _check_weights(input, task, weight, pos_weight)
    soft = target.dtype.is_floating_point
    if task in ("binary", "multilabel"):
        columns = input.shape[1] if task == "multilabel" else 1
        hard = auto or not soft
        target, valid = masked(target, task, ignore_index)
        return _label_rows(input, target, columns, hard, weight, pos_weight, label_smoothing, with_prob, valid)
    if soft:
        return _soft_class_rows(input, target, weight, label_smoothing, with_prob)
    return _class_rows(input, target, ignore_index, weight, label_smoothing)


def likelihood_of(rows: Rows, task: Task, shape: torch.Size, token_reduction: TokenReduction) -> Likelihood:
    """The rows of a resolved task with a target of ``shape`` to samples, (N,)."""
    if task == "tokens":
        total, count = rows.nll.reshape(shape).sum(1), rows.valid.reshape(shape).sum(1)
        if token_reduction == "mean":
            total = total / count.clamp(min=1)
        return Likelihood(torch.exp(-total), count > 0)
    prob = torch.exp(-rows.nll) if rows.prob is None else rows.prob
    if task == "multilabel":
        given = rows.valid.reshape(shape)
        count = given.sum(1)
        return Likelihood(prob.reshape(shape).masked_fill(~given, 0.0).sum(1) / count.clamp(min=1), count > 0)
    return Likelihood(prob, rows.valid)


def sample_likelihood(
    input: Tensor,
    target: Tensor,
    *,
    task: Task = "auto",
    ignore_index: int = -100,
    token_reduction: TokenReduction = "mean",
) -> Likelihood:
    """Likelihood of each sample's label, whatever the task; see the table in :mod:`fairloss.losses.tasks`.

    Args:
        input: logits, any floating dtype; computed in float32 at least.
        target: labels.
        task: kind of task.
        ignore_index: targets that count for nothing: classes, or labels of a multilabel task (as NaN there).
        token_reduction: ``"mean"``: exp(-mean token nll), the geometric mean of the token likelihoods; ``"sum"``: the
            whole answer's probability.

    Returns:
        Likelihoods and which samples have one.

    Raises:
        TypeError, ValueError: as :func:`fairloss.losses.tasks.resolve_task`; a target out of range.

    Example:
        >>> sample_likelihood(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])).prob
        tensor([0.5000, 0.7311])
    """
    checks.choice("token_reduction", token_reduction, TOKEN_REDUCTIONS)
    input, target, kind = class_last(input, target, resolve_task(input, target, task))
    rows = rows_of(input, target, task=kind, auto=task == "auto", ignore_index=ignore_index)
    return likelihood_of(rows, kind, target.shape, token_reduction)
