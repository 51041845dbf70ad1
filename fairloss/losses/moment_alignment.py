"""Moment alignment: within each label, groups get the same mean and covariance of the embeddings.

Paper: FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, section 3.4 (L_dist). The default
averages over the compared cells, so that the scale does not follow the number of labels and values; ``variant="paper"``
sums. Reference moments average the values *present* in the batch; a cell with one sample has a mean and no covariance
(the paper leaves both cases open).

For D-dimensional embeddings a covariance has D^2 entries. Their squared distances need only inner products,
<Sigma_g, Sigma_h>_F = ||Z_g Z_h^T||_F^2 / (n_g n_h) with centered rows, and those come from one N x N Gram matrix. The cheaper
of the two forms is chosen by N and D. Rows are centered before the product, attribute by attribute: centering a raw Gram by its
cell means gives the same numbers with fewer exact digits where labels lie far apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group, gather_rows, gather_rows_with_gradient
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import on_host
from fairloss.groups.ids import (
    ATTRIBUTE_REDUCTIONS,
    AttributeReduction,
    GroupIds,
    check_groups,
    check_num_groups,
    reduce_attributes,
)
from fairloss.losses.embeddings import check_classes, check_embeddings, unit_rows

__all__ = ["MomentAlignmentLoss", "MomentForm", "MomentVariant", "moment_alignment"]

MomentVariant = Literal["default", "paper"]
MomentForm = Literal["auto", "gram", "explicit"]


def _check_options(
    num_classes: int,
    cov_weight: float,
    attribute_reduction: str,
    variant: str,
    form: str,
    ignore_index: int,
    process_group: ProcessGroup | None,
) -> None:
    checks.integer("num_classes", num_classes, minimum=1)
    checks.number("cov_weight", cov_weight, minimum=0)
    checks.choice("attribute_reduction", attribute_reduction, ATTRIBUTE_REDUCTIONS)
    checks.choice("variant", variant, ("default", "paper"))
    if variant == "paper" and attribute_reduction == "max":
        cure = 'variant="paper" sums over attributes'
        raise ValueError(expected("attribute_reduction", "its default", "'max'", cure))
    checks.choice("form", form, ("auto", "gram", "explicit"))
    checks.integer("ignore_index", ignore_index, minimum=-(2**63))
    check_process_group(process_group)


def _use_gram(n: int, d: int, passes: int, attributes: int) -> bool:
    """Multiplications of the Gram form against those of explicit covariances, for which a row enters ``passes`` products.

    32 stands for the passes over the N x N matrix that are no products.
    """
    return n * (d + 32) * attributes <= passes * d * d


def _mean_terms(means: Tensor, present: Tensor) -> Tensor:
    """sum_{y, d} ||mu_yd - mean_d mu_yd||^2; (C, G, D) means, (C, G) presence -> scalar."""
    here = present.unsqueeze(-1).to(means.dtype)
    reference = (means * here).sum(1, keepdim=True) / here.sum(1, keepdim=True).clamp(min=1)
    return ((means - reference) * here).square().sum()


def _covariance_terms_gram(
    z: Tensor, labels: Tensor, ids: Tensor, cell: Tensor, weight: Tensor, shape: Tensor
) -> Tensor:
    """sum_{y, d} ||Sigma_yd - mean_d Sigma_yd||_F^2 from inner products.

    Args:
        z: (N, D) rows centered by cell.
        labels: (N,).
        ids: (N,) of the attribute.
        cell: (N, 1) label x value, -1 where none.
        weight: (N,) 1 / n of the row's cell, 0 where the cell has no covariance.
        shape: (C, G) bool, cells that have a covariance.
    """
    classes, size = shape.shape
    gram = z @ z.T
    squares = gram.square() * (labels.unsqueeze(1) == labels)  # (N, N); pairs of two labels are never compared
    columns = (ids.unsqueeze(1) == torch.arange(size, device=ids.device)) * weight.unsqueeze(1)  # (N, G)
    cells = GroupIds(cell, (classes * size,))
    inner = cells.sum((squares @ columns) * weight.unsqueeze(1)).reshape(classes, size, size)
    count = shape.sum(1).to(z.dtype)  # (C,)
    # sum_g ||S_g - S||^2 = sum_g <S_g, S_g> - sum_gh <S_g, S_h> / m
    return inner.diagonal(dim1=1, dim2=2).sum() - (inner.sum((1, 2)) / count.clamp(min=1)).sum()


def _covariances(z: Tensor, cell: Tensor, weight: Tensor, cells: int) -> Tensor:
    """(N, D) rows centered by cell -> (cells, D, D), sums of outer products times the rows' weights."""
    if on_host(z):
        # Rows in the order of their cells: each row enters one product instead of one a cell. Those of no cell come first.
        sizes = torch.bincount(cell[:, 0] + 1, minlength=cells + 1).tolist()
        parts = (z * weight.sqrt().unsqueeze(1)).index_select(0, cell[:, 0].argsort()).split(sizes)[1:]
        return torch.stack([part.T @ part for part in parts])
    member = (cell == torch.arange(cells, device=cell.device)) * weight.unsqueeze(1)  # (N, cells)
    return (member.T.unsqueeze(1) * z.T) @ z  # (cells, D, N) @ (N, D)


def _covariance_terms_explicit(z: Tensor, cell: Tensor, weight: Tensor, shape: Tensor) -> Tensor:
    """The same from explicit covariances, (C, G, D, D)."""
    classes, size = shape.shape
    sigma = _covariances(z, cell, weight, classes * size).reshape(classes, size, z.shape[1], z.shape[1])
    here = shape[..., None, None].to(z.dtype)
    reference = sigma.sum(1, keepdim=True) / here.sum(1, keepdim=True).clamp(min=1)
    return ((sigma - reference) * here).square().sum()


def moment_alignment(
    embeddings: Tensor,
    target: Tensor,
    groups: Tensor,
    *,
    num_groups: int | Sequence[int],
    num_classes: int,
    cov_weight: float = 1.0,
    normalize: bool = False,
    attribute_reduction: AttributeReduction = "mean",
    variant: MomentVariant = "default",
    form: MomentForm = "auto",
    ignore_index: int = -100,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Moment alignment as a function; see :class:`MomentAlignmentLoss`.

    Example:
        >>> z = torch.tensor([[0.0], [2.0], [4.0], [4.0]])
        >>> moment_alignment(z, torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1]), num_classes=1, num_groups=2)
        tensor(2.5000)
    """
    _check_options(num_classes, cov_weight, attribute_reduction, variant, form, ignore_index, process_group)
    check_embeddings(embeddings)
    labels = check_classes(target, embeddings, num_classes, ignore_index)
    ids, sizes = check_groups(groups, num_groups, embeddings.shape[0], device=embeddings.device)

    z = unit_rows(embeddings) if normalize else embeddings.to(statistics_dtype(embeddings.dtype))
    z = gather_rows_with_gradient(z, process_group)
    labels, ids = gather_rows(labels, process_group), gather_rows(ids, process_group)
    # All moments are differences; taking a constant off first keeps their digits.
    z = z - z.detach().sum(0) / max(z.shape[0], 1)
    n, d = z.shape
    passes = len(sizes) if on_host(z) else num_classes * sum(sizes)
    gram = form == "gram" or (form == "auto" and _use_gram(n, d, passes, len(sizes)))

    values = []
    with torch.autocast(z.device.type, enabled=False):
        for k, size in enumerate(sizes):
            known = (ids[:, k] >= 0) & (labels != ignore_index)
            cell = torch.where(known, labels * size + ids[:, k], -1).unsqueeze(1)  # (N, 1)
            means, counts = GroupIds(cell, (num_classes * size,)).mean(z)
            row_cell = cell[:, 0].clamp(min=0)
            present = (counts > 0).reshape(num_classes, size)
            value = _mean_terms(means.reshape(num_classes, size, d), present)
            if cov_weight > 0:
                shape = (counts > 1).reshape(num_classes, size)
                weight = torch.where(known & (counts[row_cell] > 1), 1.0 / counts[row_cell].clamp(min=1), 0.0)
                centered = z - means[row_cell]
                if gram:
                    covariances = _covariance_terms_gram(centered, labels, ids[:, k], cell, weight, shape)
                else:
                    covariances = _covariance_terms_explicit(centered, cell, weight, shape)
                value = value + cov_weight * covariances
            if variant == "default":
                compared = (present & (present.sum(1, keepdim=True) >= 2)).sum()
                value = value / compared.clamp(min=1)
            values.append(value)
    return reduce_attributes(torch.stack(values), "sum" if variant == "paper" else attribute_reduction)


class MomentAlignmentLoss(ConstantsModule):
    """Distance of each group's mean and covariance from the groups' average, label by label.

    For label y, attribute k and value d, over the values D present in the batch:

        term(y, k, d) = ||mu_ykd - mean_D mu_ykd||_2^2 + cov_weight ||Sigma_ykd - mean_D Sigma_ykd||_F^2

    with population covariances (divided by n). 0 means that within every label all groups have the same first two moments.

    Args:
        num_groups: number of groups; a tuple for several attributes.
        num_classes: C, number of labels.
        cov_weight: lambda_Sigma >= 0; 0 aligns the means alone and costs O(N D). Embeddings of norm about 1 have covariances
            far smaller than their means.
        normalize: L2-normalize the embeddings first (default False).
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"`` of each one's mean over its compared cells
            (those of labels with two values present or more).
        variant: ``"default"``, or ``"paper"``: the sum of all terms, over cells and attributes.
        form: ``"gram"``: O(N^2 D) time and O(N^2) memory, nothing of size D x D; ``"explicit"``: O(N D^2) and
            O(N D + cells D^2) in eager mode on the CPU, elsewhere O(cells N D^2) and O(cells D (N + D)); ``"auto"`` takes the
            one with fewer multiplications.
        ignore_index: samples of this label take no part (default -100).
        process_group: makes the loss that of all its ranks' samples; embeddings are gathered with gradient.

    Shape:
        - embeddings: (N, D) float16 to float64 (computed in float32 at least)
        - target: (N,) integer labels 0 .. C-1
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - output: scalar, float32 (float64 for float64 embeddings)

    Raises:
        TypeError, ValueError: naming the argument, before any work.

    Note:
        A cell of one sample has a mean and no covariance; a label with fewer than two values present contributes 0. Batch
        moments of small cells are noisy: two groups with the same distribution still differ by about tr(Sigma) (1/n_g + 1/n_h)
        in their means, so let every cell have a dozen samples or so. Pair with :class:`fairloss.BalancedGroupSampler`. Every
        rank computes the whole global batch; the gathers wait for the device. Under torch.compile, ``"auto"`` compiles once
        for each side of its threshold.

    Example:
        >>> loss = MomentAlignmentLoss(num_groups=2, num_classes=1)
        >>> loss(torch.tensor([[0.0], [2.0], [4.0], [4.0]]), torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1]))
        tensor(2.5000)

    References:
        FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, section 3.4.

    Reference:
        FairMed-VLM, section 3.4: https://openreview.net/forum?id=DtbykQBmE5

    See Also:
        :class:`CrossGroupContrastiveLoss`, :class:`AdversarialGroupLoss`
    """

    _OPTIONS = option_names(moment_alignment)

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        num_classes: int,
        cov_weight: float = 1.0,
        normalize: bool = False,
        attribute_reduction: AttributeReduction = "mean",
        variant: MomentVariant = "default",
        form: MomentForm = "auto",
        ignore_index: int = -100,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = check_num_groups(num_groups)
        _check_options(num_classes, cov_weight, attribute_reduction, variant, form, ignore_index, process_group)
        self.num_classes, self.cov_weight, self.normalize = num_classes, cov_weight, normalize
        self.attribute_reduction, self.variant, self.form = attribute_reduction, variant, form
        self.ignore_index, self.process_group = ignore_index, process_group

    def forward(self, embeddings: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return moment_alignment(embeddings, target, groups, **options_of(self, self._OPTIONS))

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"num_groups={self.num_groups}, num_classes={self.num_classes}, cov_weight={self.cov_weight}, "
            f"normalize={self.normalize}, variant={self.variant!r}, form={self.form!r}"
        )
