"""Group ids and statistics by group: the one place that knows what a group is.

An id is an integer 0 .. G-1, or -1 for unknown. Unknown samples enter no group statistic. Several attributes are (N, K)
ids with a tuple of sizes; internally their groups lie side by side in one row of G = sum of sizes slots, so that one
scatter serves all attributes. Nothing here has a shape that depends on values, and nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fairloss.core import checks, tensor_checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, gather_rows
from fairloss.ops import segments

__all__ = [
    "ATTRIBUTE_REDUCTIONS",
    "AttributeReduction",
    "GroupIds",
    "GroupTable",
    "check_free_groups",
    "check_group_counts",
    "check_groups",
    "check_num_groups",
    "group_tables",
    "intersect_groups",
    "reduce_attributes",
    "single_attribute",
    "sum_by_attribute",
]

AttributeReduction = Literal["mean", "sum", "max"]
ATTRIBUTE_REDUCTIONS = ("mean", "sum", "max")

GroupTable = Sequence[float] | Sequence[Sequence[float]] | Tensor
"""One number per group; for several attributes one list each."""


class GroupIds(NamedTuple):
    """Checked ids together with the sizes of their attributes, and the statistics by group that they allow.

    Attributes:
        ids: (N, K) int64, -1 = unknown.
        sizes: one number of groups per attribute; tables by group have G = sum of ``sizes`` rows, attribute after attribute.
    """

    ids: Tensor
    sizes: tuple[int, ...]

    @property
    def column(self) -> Tensor:
        """(N,) ids of the first attribute, the only one where a method takes one."""
        return self.ids[:, 0]

    @property
    def by_attribute(self) -> list[GroupIds]:
        """The ids of each attribute alone."""
        return [GroupIds(self.ids[:, k : k + 1], (size,)) for k, size in enumerate(self.sizes)]

    def known(self, valid: Tensor) -> GroupIds:
        """The same with -1 in every attribute where ``valid``, (N,) bool, is False."""
        return GroupIds(self.ids.masked_fill(~valid.unsqueeze(1), -1), self.sizes)

    def gathered(self, process_group: ProcessGroup | None) -> GroupIds:
        """The ids of all ranks, in rank order."""
        return GroupIds(gather_rows(self.ids, process_group), self.sizes)

    def rows(self, valid: Tensor | None = None) -> Tensor:
        """(N * K,) rows of a table whose first one is that of the unknown; of samples that are not ``valid``, too."""
        if len(self.sizes) == 1:
            rows = self.ids.squeeze(1) + 1
            return rows if valid is None else rows * valid
        starts = [sum(self.sizes[:k]) for k in range(len(self.sizes))]
        ids = self.ids if valid is None else self.known(valid).ids
        columns = zip(ids.unbind(1), starts, strict=True)
        return torch.stack([(c + start + 1).masked_fill(c < 0, 0) for c, start in columns], 1).reshape(-1)

    def slots(self) -> Tensor:
        """(N * K,) rows of a table by group; unknown ids go to one row past the end."""
        total = sum(self.sizes)
        if len(self.sizes) == 1:
            column = self.ids.squeeze(1)
            return column.masked_fill(column < 0, total)
        # Column by column: a tensor of the offsets would be copied from the host, which waits for the device.
        starts = [sum(self.sizes[:k]) for k in range(len(self.sizes))]
        columns = zip(self.ids.unbind(1), starts, strict=True)
        return torch.stack([(c + start).masked_fill(c < 0, total) for c, start in columns], 1).reshape(-1)

    def per_attribute(self, values: Tensor) -> Tensor:
        """(N, ...) -> (N * K, ...): each value once per attribute."""
        k = len(self.sizes)
        if k == 1:
            return values
        return values.unsqueeze(1).expand(-1, k, *values.shape[1:]).reshape(-1, *values.shape[1:])

    def sum(self, values: Tensor) -> Tensor:
        """Sums by group: (N, ...) values -> (G, ...), 0 where absent, in the dtype of ``values``.

        Differentiable in ``values``; unknown samples receive gradient 0.
        """
        return segments.segment_sums(self.per_attribute(values), self.slots(), sum(self.sizes))

    def totals(self, values: Tensor, process_group: ProcessGroup | None = None) -> tuple[Tensor, Tensor]:
        """Sums, (G, ...), and counts, (G,) in their dtype and without gradient, over all ranks of ``process_group``."""
        if values.ndim == 1:
            sums, counts = segments.row_totals(self.per_attribute(values), self.rows(), sum(self.sizes))
        else:
            sums, counts = segments.segment_totals(self.per_attribute(values), self.slots(), sum(self.sizes))
        if process_group is not None:
            sums, counts = all_reduce_sums([sums, counts], process_group)
        return sums, counts.detach()

    def column_totals(self, values: Tensor, process_group: ProcessGroup | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`totals` for (N, K) values, each attribute's in a column: sums and counts, both (G,)."""
        sums, counts = segments.segment_totals(values.reshape(-1), self.slots(), sum(self.sizes))
        if process_group is not None:
            sums, counts = all_reduce_sums([sums, counts], process_group)
        return sums, counts.detach()

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Means by group, (G, ...), 0 where absent, and the counts, (G,) in the dtype of the values."""
        sums, counts = self.totals(values)
        return sums / counts.clamp(min=1).reshape(-1, *([1] * (values.ndim - 1))), counts

    def lookup(self, table: Tensor, unknown: float) -> Tensor:
        """(N,) entries of a (G,) ``table`` for the ids of the one attribute, and ``unknown`` where the id is -1."""
        # The value for the unknown stands last, which is where the index -1 points.
        return torch.cat([table, table.new_full((1,), unknown)])[self.column]


def check_num_groups(num_groups: int | Sequence[int], *, name: str = "num_groups") -> tuple[int, ...]:
    """``num_groups`` as a tuple, one size per attribute.

    Raises:
        TypeError: a size is not an integer.
        ValueError: a size is below 1, or the tuple is empty.
    """
    if isinstance(num_groups, (tuple, list)):
        if not num_groups:
            raise ValueError(expected(name, "one size per attribute", "an empty tuple"))
        return tuple(checks.integer(f"{name}[{k}]", size, minimum=1) for k, size in enumerate(num_groups))
    return (checks.integer(name, num_groups, minimum=1),)


def single_attribute(num_groups: int | Sequence[int], what: str) -> int:
    """The size of the one attribute that ``what`` takes; the error for several says how to join them."""
    sizes = check_num_groups(num_groups)
    if len(sizes) > 1:
        cure = "join them with fairloss.intersect_groups"
        raise ValueError(expected("num_groups", f"one attribute for {what}", f"{len(sizes)} attributes", cure))
    return sizes[0]


def check_groups(
    groups: Tensor, num_groups: int | Sequence[int], n: int, *, device: torch.device | None = None, name: str = "groups"
) -> GroupIds:
    """Validated ids with their sizes.

    Args:
        groups: (N,) or (N, K), any integer or bool dtype, -1 = unknown.
        num_groups: number of groups; a tuple for several attributes.
        n: the batch size that the ids must have.
        device: that of the samples, where the ids must be.
        name: the argument's name in errors.

    Raises:
        TypeError: not a tensor, or not integers.
        ValueError: wrong shape, length or device; an id out of range. The offending id is shown for CPU tensors in eager mode;
            elsewhere the check is asynchronous (``torch._assert_async``), so that nothing waits for the device.
    """
    sizes = check_num_groups(num_groups)
    ids = _integer_ids(groups, len(sizes), n, device, name, f" for num_groups={sizes}")
    if len(sizes) == 1:
        _check_range(ids, sizes[0], name)
    else:
        for column, size in enumerate(sizes):
            _check_range(ids[:, column], size, f"{name}[:, {column}]")
    return GroupIds(ids, sizes)


def check_free_groups(
    groups: Tensor, num_attributes: int | None, n: int, *, device: torch.device | None = None, name: str = "groups"
) -> Tensor:
    """(N, K) ids as :func:`check_groups` where they are only compared with one another, so that no size is declared.

    ``num_attributes`` is K, or None for whatever ``groups`` has.
    """
    if num_attributes is None:
        num_attributes = groups.shape[1] if isinstance(groups, Tensor) and groups.ndim == 2 else 1
    ids = _integer_ids(groups, num_attributes, n, device, name, "")
    _check_range(ids, None, name)
    return ids


def _integer_ids(groups: Tensor, k: int, n: int, device: torch.device | None, name: str, why: str) -> Tensor:
    tensor_checks.whole(name, groups, "group ids", _cure_of_floats(groups))
    if not (groups.ndim == 1 and k == 1) and not (groups.ndim == 2 and groups.shape[1] == k):
        wanted = "(N,) or (N, 1)" if k == 1 else f"(N, {k})"
        cure = ""
        if groups.ndim == 2 and k != groups.shape[1]:
            cure = "argmax(1) makes ids of one-hot rows" + "; fairloss.intersect_groups joins attributes" * (k == 1)
        raise ValueError(expected(name, f"shape {wanted}{why}", tuple(groups.shape), cure))
    if groups.shape[0] != n:
        raise ValueError(expected(name, f"{n} ids, one per sample", groups.shape[0]))
    if device is not None:
        tensor_checks.same_device(name, groups, "the batch", device)
    ids = groups.to(torch.int64)
    return ids.unsqueeze(1) if ids.ndim == 1 else ids


def _cure_of_floats(groups: Any) -> str:
    if isinstance(groups, Tensor) and groups.ndim == 2 and groups.shape[1] > 1:
        return "groups.argmax(1) makes ids of one-hot rows, groups.long() of ids"
    return "groups.long(), after setting NaN to -1"


def _check_range(ids: Tensor, size: int | None, name: str) -> None:
    """Ids must lie in -1 .. size - 1; without a size, be -1 at least."""
    wanted = f"ids {'0, 1, ...' if size is None else f'0 .. {size - 1}'}, and -1 for unknown"
    # On the host one pass finds both ends; the mask is made where one of them is out.
    ids = tensor_checks.unwrapped(ids)
    if tensor_checks.on_host(ids):
        low, high = (int(bound) for bound in torch.aminmax(ids)) if ids.numel() else (0, 0)
        if low >= -1 and (size is None or high < size):
            return
    tensor_checks.all_inside(name, ids, ids.clamp(-1, None if size is None else size - 1) == ids, wanted)


def check_group_counts(
    group_counts: GroupTable, num_groups: int | Sequence[int] | None = None, *, name: str = "group_counts"
) -> list[Tensor]:
    """Numbers by group as float64 tensors, one per attribute: a list of G for one attribute, K lists for K attributes.

    Raises:
        TypeError: not numbers.
        ValueError: other lengths than ``num_groups`` has, a number negative or not finite, or an attribute's all zero.
    """
    tables = group_tables(group_counts, None if num_groups is None else check_num_groups(num_groups), name)
    for counts in tables:
        values = counts.tolist()
        if not all(math.isfinite(c) and c >= 0 for c in values) or sum(values) == 0:
            raise ValueError(expected(name, "numbers >= 0, not all 0", values))
    return [counts + 0.0 for counts in tables]  # -0.0, of which 1 / count would be minus infinity, becomes 0


def group_tables(value: GroupTable, sizes: tuple[int, ...] | None, name: str) -> list[Tensor]:
    """The same without a look at the numbers."""
    nested = isinstance(value, (list, tuple)) and all(
        hasattr(part, "__len__") and getattr(part, "ndim", 1) for part in value
    )
    parts: Sequence[Any] = value if nested or getattr(value, "ndim", 1) == 2 else [value]  # type: ignore[assignment]
    try:
        tables = [torch.as_tensor(part, dtype=torch.float64, device="cpu").detach() for part in parts]
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(expected(name, "one number per group", repr(value))) from None
    if not tables or any(table.ndim != 1 or table.numel() == 0 for table in tables):
        raise ValueError(expected(name, "one number per group", f"shapes {[tuple(table.shape) for table in tables]}"))
    given = tuple(table.numel() for table in tables)
    if sizes is not None and given != sizes:
        cure = "one list per attribute" if len(sizes) > 1 else ""
        wanted = " and ".join(map(str, sizes))
        raise ValueError(expected(name, f"{wanted} numbers, as num_groups says", " and ".join(map(str, given)), cure))
    return tables


def sum_by_attribute(table: Tensor, sizes: Sequence[int], attribute_reduction: AttributeReduction = "mean") -> Tensor:
    """The sum of a (G,) table over the groups of each attribute, reduced over attributes to a scalar."""
    if len(sizes) == 1:
        return table.sum()
    return reduce_attributes(torch.stack([part.sum() for part in table.split(list(sizes))]), attribute_reduction)


def reduce_attributes(values: Tensor, attribute_reduction: AttributeReduction) -> Tensor:
    """One value per attribute, (K,) or (K, ...), to a scalar or (...)."""
    if attribute_reduction == "max":
        return values.amax(0)
    return values.sum(0) if attribute_reduction == "sum" else values.mean(0)


def intersect_groups(groups: Tensor, *, num_groups: Sequence[int]) -> tuple[Tensor, int]:
    """Join several attributes into one: id = ((a * K_1) + b) * K_2 + c ... for attributes a, b, c.

    Args:
        groups: (N, K) integer ids, -1 = unknown.
        num_groups: the K sizes.

    Returns:
        (N,) int64 ids, -1 where any attribute is unknown, and the number of joint groups, the product of the sizes.

    Raises:
        TypeError, ValueError: as :func:`check_groups`.

    Example:
        >>> ids, count = intersect_groups(torch.tensor([[0, 1], [1, 2], [1, -1]]), num_groups=(2, 3))
        >>> ids.tolist(), count
        ([1, 5, -1], 6)
    """
    sizes = check_num_groups(num_groups)
    if not isinstance(groups, Tensor) or groups.ndim != 2:
        given = tuple(groups.shape) if isinstance(groups, Tensor) else type(groups).__name__
        raise ValueError(expected("groups", f"ids of shape (N, {len(sizes)})", given))
    ids = check_groups(groups, sizes, groups.shape[0]).ids
    joint = ids[:, 0]
    for column in range(1, len(sizes)):
        joint = joint * sizes[column] + ids[:, column]
    return joint.masked_fill((ids < 0).any(dim=1), -1), math.prod(sizes)
