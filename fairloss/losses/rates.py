"""Soft rates by group, on a batch or on a memory and it: what demographic parity and equalized odds are gaps of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import all_reduce_sum
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import given_options
from fairloss.groups.ids import GroupIds, check_groups
from fairloss.groups.memory import check_memory
from fairloss.losses.gaps import GAP_OPTIONS, GapOptions, check_gap_options, gap_of_means, means_with_memory
from fairloss.losses.tasks import Task, check_fractions, check_range, check_task, masked, resolve_task

__all__ = ["PARITY_OPTIONS", "ParityOptions", "checked_options", "gaps_of_rates"]

Rate = Literal["all", "tpr", "tpr and fpr"]


class ParityOptions(GapOptions, total=False):
    """Keyword arguments of every gap of rates.

    Attributes:
        positive_class: the class or label whose rate counts; ``None``: the mean over them. Not for binary tasks.
        task: ``"auto"``, ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        ignore_index: labels of a multilabel task that count for nothing (as NaN there) where labels count.
    """

    positive_class: int | None
    task: Task
    ignore_index: int


PARITY_OPTIONS: ParityOptions = {"positive_class": None, **GAP_OPTIONS, "task": "auto", "ignore_index": -100}


def checked_options(options: Mapping[str, Any], defaults: Mapping[str, Any] = PARITY_OPTIONS) -> dict[str, Any]:
    """What is given and the defaults, checked."""
    o = given_options(options, defaults)
    check_gap_options(o)
    if o["positive_class"] is not None:
        checks.integer("positive_class", o["positive_class"], minimum=0)
    checks.integer("ignore_index", o["ignore_index"], minimum=-(2**63))
    _check_parity_task(check_task(o["task"]))
    return o


def _check_parity_task(task: str) -> None:
    """Raise unless ``task`` has positives and negatives for each sample."""
    if task in ("tokens", "dense"):
        raise ValueError(expected("task", "'binary', 'multiclass' or 'multilabel'", repr(task)))


def _positive_probabilities(
    input: Tensor, target: Tensor, task: Task, positive_class: int | None, ignore_index: int, *, by_label: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Probabilities and labels of every class treated as the positive one, each (N, C'), and where labels are given.

    The labels' range is checked where the loss is ``by_label``.
    """
    kind = resolve_task(input, target, task)
    _check_parity_task(kind)
    valid = None
    if by_label:
        target, valid = masked(target, kind, ignore_index)
        check_range(input, target, kind, auto=task == "auto")
    wide = input.to(statistics_dtype(input.dtype))
    if kind == "multiclass":
        probabilities = torch.softmax(wide, 1)
        if target.dtype.is_floating_point:
            labels = target.to(wide.dtype)
        else:
            classes = torch.arange(input.shape[1], device=input.device)
            labels = (target.unsqueeze(1) == classes).to(wide.dtype)
    else:
        columns = input.shape[1] if kind == "multilabel" else 1
        probabilities, labels = torch.sigmoid(wide).reshape(-1, columns), target.to(wide.dtype).reshape(-1, columns)
    if positive_class is None:
        return probabilities, labels, valid
    if kind == "binary":
        raise ValueError(expected("positive_class", "None for a binary task, which has one", positive_class))
    if positive_class >= input.shape[1]:
        raise ValueError(
            expected("positive_class", f"one of the classes or labels 0 .. {input.shape[1] - 1}", positive_class)
        )
    valid = valid if valid is None else valid[:, positive_class, None]
    return probabilities[:, positive_class, None], labels[:, positive_class, None], valid


def gaps_of_rates(
    input: Tensor, target: Tensor, groups: Tensor, rate: Rate, sizes: tuple[int, ...], o: Mapping[str, Any]
) -> Tensor:
    """(C',) gaps between groups of a rate of each class, or (2, C') those of two rates."""
    memory, process_group = o["memory"], o["process_group"]
    p, labels, valid = _positive_probabilities(
        input, target, o["task"], o["positive_class"], o["ignore_index"], by_label=rate != "all"
    )
    cells = tuple((1 if rate == "all" else 2) * size for size in sizes) * p.shape[1]
    what = "num_groups for each class" if rate == "all" else "2 x num_groups (positives, then negatives) for each class"
    check_memory(memory, cells, device=p.device, what=what)
    ids = check_groups(groups, sizes, p.shape[0], device=p.device)
    # False positive rates are negative here: so the worst group's is the smallest, as a true positive rate is.
    if memory is not None:
        if rate != "all":
            check_fractions(labels if valid is None else labels.masked_fill(~valid, 0), hard=True)
        by_cell = GroupIds(ids.ids.repeat(1, p.shape[1]) if rate == "all" else _cell_ids(ids, labels, valid), cells)
        each = p.repeat_interleave(len(sizes), 1)
        sums, counts = by_cell.column_totals(each, process_group)
        means, absent = means_with_memory(each.squeeze(1), by_cell, sums, counts, memory, process_group)
        means, absent = (_by_rate(table, sizes, p.shape[1], rate) for table in (means, absent))
        if rate == "tpr and fpr":
            means = torch.cat([means[:, : p.shape[1]], -means[:, p.shape[1] :]], 1)
    else:
        if rate == "all":
            columns = [p, torch.ones_like(p)]
        else:
            present = torch.ones_like(labels) if valid is None else valid.to(labels.dtype)
            labels = labels if valid is None else labels.masked_fill(~valid, 0.0)
            true, negatives = p * labels, present - labels
            columns = [true, labels] if rate == "tpr" else [true, -p * negatives, labels, negatives]
        rates, weights = all_reduce_sum(ids.sum(torch.cat(columns, 1)), process_group).chunk(2, 1)
        absent = weights == 0
        means = rates / weights.detach().masked_fill(absent, 1.0)
    gaps = gap_of_means(means, absent, sizes, o)
    return gaps.reshape(2, -1) if rate == "tpr and fpr" else gaps


def _cell_ids(ids: GroupIds, labels: Tensor, valid: Tensor | None) -> Tensor:
    """(N, C' K) ids: for every class and attribute the group, the positives of each before the negatives of each."""
    negative = (labels == 0).to(torch.int64)  # (N, C')
    columns = [g.unsqueeze(1) + size * negative for g, size in zip(ids.ids.unbind(1), ids.sizes, strict=True)]
    unknown = (ids.ids < 0).unsqueeze(1)
    if valid is not None:
        unknown = unknown | ~valid.unsqueeze(2)
    return torch.stack(columns, 2).masked_fill(unknown, -1).flatten(1)


def _by_rate(table: Tensor, sizes: tuple[int, ...], classes: int, rate: Rate) -> Tensor:
    """A table by cell to (G, C'), or (G, 2 C') where both labels' cells are wanted."""
    table = table.reshape(classes, -1).T
    if rate == "all":
        return table
    halves = zip(*(part.chunk(2) for part in table.split([2 * size for size in sizes])), strict=True)
    positives, negatives = (torch.cat(half) for half in halves)
    return positives if rate == "tpr" else torch.cat([positives, negatives], 1)
