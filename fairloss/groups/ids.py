"""Group ids and statistics by group: the one place that knows what a group is.

An id is an integer 0 .. G-1, or -1 for unknown. Unknown samples enter no group statistic. Several attributes are (N, K)
ids with a tuple of sizes; internally their groups lie side by side in one row of G = sum of sizes slots, so that one
scatter serves all attributes. Nothing here has a shape that depends on values, and nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.tensor_checks import same_device
from fairloss.groups.encode import GroupEncoding, encode_groups
from fairloss.ops import segments
from fairloss.ops.dispatch import use_triton

__all__ = [
    "ATTRIBUTE_REDUCTIONS",
    "AttributeReduction",
    "GroupEncoding",
    "attribute_slices",
    "check_free_groups",
    "check_groups",
    "check_num_groups",
    "encode_groups",
    "estimate_scale",
    "group_counts_tensor",
    "group_shares",
    "intersect_groups",
    "lookup",
    "reduce_attributes",
    "segment_mean",
    "segment_sum",
    "segment_totals",
    "single_attribute",
]

AttributeReduction = Literal["mean", "sum", "max"]
ATTRIBUTE_REDUCTIONS = ("mean", "sum", "max")


def check_num_groups(num_groups: int | Sequence[int], *, name: str = "num_groups") -> tuple[int, ...]:
    """``num_groups`` as a tuple, one size an attribute.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is below 1, or the tuple is empty.
    """
    if isinstance(num_groups, (tuple, list)):
        if not num_groups:
            raise ValueError(f"{name}: the tuple is empty; one size an attribute is needed")
        return tuple(checks.integer(f"{name}[{k}]", size, minimum=1) for k, size in enumerate(num_groups))
    return (checks.integer(name, num_groups, minimum=1),)


def single_attribute(num_groups: int | Sequence[int], what: str) -> int:
    """The size of the one attribute that ``what`` takes; the error for several says how to join them."""
    sizes = check_num_groups(num_groups)
    if len(sizes) > 1:
        raise ValueError(
            f"num_groups: {what} takes one attribute, {len(sizes)} were given; join them with fairloss.intersect_groups"
        )
    return sizes[0]


def check_groups(
    groups: Tensor, num_groups: tuple[int, ...], n: int, *, like: Tensor | None = None, name: str = "groups"
) -> Tensor:
    """Validated ids, (N, K) int64.

    Args:
        groups: (N,) or (N, K), any integer or bool dtype, -1 = unknown.
        num_groups: one size an attribute.
        n: the batch size that the ids must have.
        like: the samples, on whose device the ids must be.
        name: the argument's name in errors.

    Raises:
        TypeError: not a tensor, or not integers.
        ValueError: wrong shape, length or device; an id out of range. The offending id is shown for CPU tensors in eager mode;
            elsewhere the check is asynchronous (``torch._assert_async``), so that nothing waits for the device.
    """
    k = len(num_groups)
    ids = _integer_ids(groups, k, n, like, name, f" for num_groups={num_groups}")
    if k == 1:
        _check_range(ids, num_groups[0], name)
    else:
        for column, size in enumerate(num_groups):
            _check_range(ids[:, column], size, f"{name}[:, {column}]")
    return ids


def check_free_groups(
    groups: Tensor, num_attributes: int | None, n: int, *, like: Tensor | None = None, name: str = "groups"
) -> Tensor:
    """As :func:`check_groups` where ids are only compared with one another, so that no size is declared.

    Args:
        groups: (N,) or (N, K), any integer or bool dtype, -1 = unknown.
        num_attributes: K, or None for whatever ``groups`` has.
        n: the batch size that the ids must have.
        like: the samples, on whose device the ids must be.
        name: the argument's name in errors.
    """
    if num_attributes is None:
        num_attributes = groups.shape[1] if isinstance(groups, Tensor) and groups.ndim == 2 else 1
    ids = _integer_ids(groups, num_attributes, n, like, name, "")
    _check_range(ids, None, name)
    return ids


def _integer_ids(groups: Tensor, k: int, n: int, like: Tensor | None, name: str, why: str) -> Tensor:
    if not isinstance(groups, Tensor):
        raise TypeError(f"{name}: a tensor of integer ids is needed, {type(groups).__name__} was given")
    if groups.dtype.is_floating_point or groups.dtype.is_complex:
        raise TypeError(f"{name}: integer or bool ids are needed, {groups.dtype} was given")
    if not (groups.ndim == 1 and k == 1) and not (groups.ndim == 2 and groups.shape[1] == k):
        wanted = "(N,) or (N, 1)" if k == 1 else f"(N, {k})"
        several = "; fairloss.intersect_groups joins several attributes" if k == 1 and groups.ndim == 2 else ""
        raise ValueError(f"{name}: shape {wanted} is needed{why}, {tuple(groups.shape)} was given{several}")
    if groups.shape[0] != n:
        raise ValueError(f"{name}: {groups.shape[0]} ids were given for a batch of {n}")
    if like is not None:
        same_device(name, groups, "the batch", like)
    ids = groups.to(torch.int64)
    return ids.unsqueeze(1) if ids.ndim == 1 else ids


def _check_range(ids: Tensor, size: int | None, name: str) -> None:
    """Ids must lie in -1 .. size - 1; without a size, be -1 at least."""
    if ids.device.type == "cpu" and not torch.compiler.is_compiling():
        if ids.numel():
            low, high = (int(bound) for bound in torch.aminmax(ids))
            if low < -1 or (size is not None and high >= size):
                bad = low if low < -1 else high
                accepted = "0, 1, ..." if size is None else f"0 .. {size - 1}"
                raise ValueError(f"{name}: id {bad} is out of range; accepted are {accepted}, and -1 for unknown")
    else:
        inside = ids >= -1 if size is None else (ids >= -1) & (ids < size)
        torch._assert_async(inside.all(), f"{name}: id out of range")


def attribute_slices(num_groups: tuple[int, ...]) -> list[slice]:
    """Where each attribute's groups lie in the row of all slots."""
    ends = [sum(num_groups[: k + 1]) for k in range(len(num_groups))]
    return [slice(end - size, end) for end, size in zip(ends, num_groups, strict=True)]


def _slots(ids: Tensor, num_groups: tuple[int, ...]) -> Tensor:
    """(N, K) ids -> (N * K,) slots; unknown ids go to one slot past the end."""
    total = sum(num_groups)
    if len(num_groups) == 1:
        column = ids.squeeze(1)
        return column.masked_fill(column < 0, total)
    # Column by column: a tensor of the offsets would be copied from the host, which waits for the device.
    columns = zip(ids.unbind(1), attribute_slices(num_groups), strict=True)
    return torch.stack([(c + piece.start).masked_fill(c < 0, total) for c, piece in columns], 1).reshape(-1)


def _on_kernel(values: Tensor, total: int) -> bool:
    # Integers add up the same in any order: index_add serves them everywhere.
    return values.dtype.is_floating_point and use_triton("segment_sum", values, segments.obstacle(values, total))


def _scatter(values: Tensor, slots: Tensor, total: int) -> Tensor:
    if _on_kernel(values, total):
        return segments.segment_moments(values, slots, total, 1)[1][0]
    sums = values.new_zeros((total + 1, *values.shape[1:]))
    return sums.index_add(0, slots, values)[:total]


def _per_attribute(values: Tensor, k: int) -> Tensor:
    """(N, ...) -> (N * k, ...): each value once an attribute."""
    if k == 1:
        return values
    return values.unsqueeze(1).expand(-1, k, *values.shape[1:]).reshape(-1, *values.shape[1:])


def segment_sum(values: Tensor, ids: Tensor, num_groups: tuple[int, ...]) -> Tensor:
    """Sums by group: (N, ...) values and (N, K) ids -> (G, ...), G = sum of ``num_groups``, 0 where absent.

    Differentiable in ``values``; unknown samples receive gradient 0. The dtype is that of ``values``.
    """
    return _scatter(_per_attribute(values, len(num_groups)), _slots(ids, num_groups), sum(num_groups))


def segment_totals(values: Tensor, ids: Tensor, num_groups: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Sums, (G, ...), and counts, (G,) in the dtype of the values and without gradient, by one pass over the ids."""
    slots, total = _slots(ids, num_groups), sum(num_groups)
    if _on_kernel(values, total):
        counts, sums = segments.segment_moments(_per_attribute(values, len(num_groups)), slots, total, 1)
        return sums[0], counts
    ones = torch.ones_like(slots, dtype=values.dtype)
    return _scatter(_per_attribute(values, len(num_groups)), slots, total), _scatter(ones, slots, total)


def segment_mean(values: Tensor, ids: Tensor, num_groups: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Means by group, (G, ...), 0 where absent, and the counts, (G,) in the dtype of the values."""
    sums, counts = segment_totals(values, ids, num_groups)
    return sums / counts.clamp(min=1).reshape(-1, *([1] * (values.ndim - 1))), counts


def lookup(table: Tensor, ids: Tensor, unknown: float) -> Tensor:
    """``table[id]`` for each id of (N,), and ``unknown`` where the id is -1."""
    # The value for the unknown stands last, which is where the index -1 points.
    return torch.cat([table, table.new_full((1,), unknown)])[ids]


def group_counts_tensor(group_counts: Sequence[float] | Tensor, num_groups: int | None = None) -> Tensor:
    """Training-set counts by group as a float64 tensor, (G,).

    Raises:
        ValueError: the length differs from ``num_groups``, a count is negative or not finite, or all are zero.
    """
    try:
        counts = torch.as_tensor(group_counts, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"group_counts: one number a group is needed, {group_counts!r} was given") from None
    counts = counts + 0.0  # -0.0, of which 1 / count would be minus infinity, becomes 0
    if counts.ndim != 1 or counts.numel() == 0:
        raise ValueError(f"group_counts: one count a group is needed, shape {tuple(counts.shape)} was given")
    if num_groups is not None and counts.numel() != num_groups:
        raise ValueError(f"group_counts: {counts.numel()} counts were given for num_groups={num_groups}")
    values = counts.tolist()
    if not all(math.isfinite(c) and c >= 0 for c in values) or sum(values) == 0:
        raise ValueError(f"group_counts: counts >= 0, not all 0, are needed, {values} was given")
    return counts


def group_shares(group_counts: Tensor) -> Tensor:
    """Shares of the groups among the known samples, (G,), sum 1 (all 0 where nothing was counted)."""
    return group_counts / group_counts.sum().clamp(min=torch.finfo(group_counts.dtype).tiny)


def estimate_scale(counts: Tensor, shares: Tensor) -> Tensor:
    """1 / (n pi_g), (G,): times a batch's sums it is S_g = sum_{i in g} v_i / (n pi_g), unbiased at any batch size.

    Its mean over the micro-batches of an epoch is the group's mean, while a mean of batch means weighs a sample by the luck
    of its batch. ``counts`` are the batch's, n their sum, ``shares`` the pi_g; 1 / n for a group without share or sample.
    """
    return 1 / (counts.sum().clamp(min=1) * shares.masked_fill((counts == 0) | (shares == 0), 1.0))


def reduce_attributes(values: Tensor, reduction: AttributeReduction) -> Tensor:
    """One value an attribute, (K,) or (K, ...), to a scalar or (...)."""
    if reduction == "max":
        return values.amax(0)
    return values.sum(0) if reduction == "sum" else values.mean(0)


def intersect_groups(groups: Tensor, num_groups: Sequence[int]) -> tuple[Tensor, int]:
    """Join several attributes into one: id = ((a * K_1) + b) * K_2 + c ... for attributes a, b, c.

    Args:
        groups: (N, K) integer ids, -1 = unknown.
        num_groups: the K sizes.

    Returns:
        (N,) int64 ids, -1 where any attribute is unknown, and the number of joint groups, the product of the sizes.

    Raises:
        TypeError, ValueError: as :func:`check_groups`.

    Example:
        >>> ids, count = intersect_groups(torch.tensor([[0, 1], [1, 2], [1, -1]]), (2, 3))
        >>> ids.tolist(), count
        ([1, 5, -1], 6)
    """
    sizes = check_num_groups(num_groups)
    if not isinstance(groups, Tensor) or groups.ndim != 2:
        given = tuple(groups.shape) if isinstance(groups, Tensor) else type(groups).__name__
        raise ValueError(f"groups: ids of shape (N, {len(sizes)}) are needed, {given} was given")
    ids = check_groups(groups, sizes, groups.shape[0])
    joint = ids[:, 0]
    for column in range(1, len(sizes)):
        joint = joint * sizes[column] + ids[:, column]
    return joint.masked_fill((ids < 0).any(dim=1), -1), math.prod(sizes)
