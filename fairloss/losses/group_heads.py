"""One linear head per group on shared features, and the choice of each sample's own head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.tensor_checks import floating, same_device
from fairloss.groups.ids import check_groups, single_attribute

__all__ = ["GroupHeads", "route_by_group"]


def route_by_group(per_group: Tensor, groups: Tensor) -> Tensor:
    """Each sample's row of its own group's table; the mean over groups where the group is unknown.

    Args:
        per_group: (G, N, ...) floating.
        groups: (N,) integer or bool ids, -1 = unknown.

    Returns:
        (N, ...).

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> logits = torch.tensor([[[1.0], [2.0], [3.0]], [[10.0], [20.0], [30.0]]])
        >>> route_by_group(logits, torch.tensor([0, 1, -1])).flatten()
        tensor([ 1.0000, 20.0000, 16.5000])
    """
    if floating("per_group", per_group, "(G, N, ...)").ndim < 2:
        raise ValueError(expected("per_group", "shape (G, N, ...)", tuple(per_group.shape)))
    ids = check_groups(groups, per_group.shape[0], per_group.shape[1], device=per_group.device).column
    own = per_group[ids.clamp(min=0), torch.arange(ids.shape[0], device=ids.device)]
    unknown = (ids < 0).reshape(-1, *([1] * (own.ndim - 1)))
    return torch.where(unknown, per_group.mean(0), own)


class GroupHeads(nn.Module):
    """Linear heads for all groups in one parameter: logits_g = W_g x + b_g, computed in one product.

    Args:
        num_groups: G, number of groups of the one attribute.
        in_features: D.
        num_classes: C.
        bias: whether the heads have b_g (default True).

    Shape:
        - features: (N, D), or (N, D, *spatial) for segmentation, where the heads are 1 x 1 convolutions
        - groups: ``None``, or (N,) ids, -1 = unknown
        - output: (G, N, C, *spatial), all heads; with ``groups`` (N, C, *spatial), each sample from its own head and unknown
          ones from the mean of all

    Attributes:
        weight: (G, C, D), initialized like ``torch.nn.Linear``.
        bias: (G, C), or None.

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        A head receives gradient from its own group's samples alone when ``groups`` is given (and from unknown ones, 1/G of
        it); an absent group's head gets gradient 0.

    Example:
        >>> heads = GroupHeads(3, in_features=8, num_classes=2)
        >>> heads(torch.zeros(5, 8)).shape, heads(torch.zeros(5, 8), torch.tensor([0, 1, 2, -1, 0])).shape
        (torch.Size([3, 5, 2]), torch.Size([5, 2]))
    """

    def __init__(self, num_groups: int, *, in_features: int, num_classes: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = checks.integer("in_features", in_features, minimum=1)
        self.num_classes = checks.integer("num_classes", num_classes, minimum=1)
        self.num_groups = single_attribute(num_groups, "GroupHeads")
        self.weight = nn.Parameter(torch.empty(self.num_groups, self.num_classes, self.in_features))
        self.bias = nn.Parameter(torch.empty(self.num_groups, self.num_classes)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all heads anew, uniform in +-1/sqrt(D)."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, features: Tensor, groups: Tensor | None = None) -> Tensor:
        """Logits of all heads, or of each sample's own; see the class."""
        if not isinstance(features, Tensor) or features.ndim < 2 or features.shape[1] != self.in_features:
            given = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(expected("features", f"shape (N, {self.in_features}, ...)", given))
        if features.dtype != self.weight.dtype and not (
            features.dtype.is_floating_point and torch.is_autocast_enabled(features.device.type)
        ):
            raise TypeError(expected("features", f"{self.weight.dtype}, as the heads are", features.dtype))
        same_device("features", features, "the heads", self.weight, "heads.to(device)")
        flat = features.flatten(2) if features.ndim > 2 else features.unsqueeze(2)  # (N, D, P)
        # (G C, D) @ (N, D, P) -> (N, G C, P)
        logits = torch.matmul(self.weight.flatten(0, 1), flat)
        logits = logits.reshape(flat.shape[0], self.num_groups, self.num_classes, *features.shape[2:]).transpose(0, 1)
        if self.bias is not None:
            bias = self.bias.reshape(self.num_groups, 1, self.num_classes, *([1] * (features.ndim - 2)))
            logits = logits + bias.to(logits.dtype)  # under autocast the product's dtype, as nn.Linear's
        return logits if groups is None else route_by_group(logits, groups)

    def extra_repr(self) -> str:  # noqa: D102
        return f"in_features={self.in_features}, num_classes={self.num_classes}, num_groups={self.num_groups}"
