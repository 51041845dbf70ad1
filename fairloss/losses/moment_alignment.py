"""Moment alignment: within each label, groups get the same mean and covariance of the embeddings.

Paper: FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, section 3.4 (L_dist). The default
averages over the compared cells, so that the scale does not follow the number of labels and values; ``reduction="sum"`` is
the paper's. Reference moments average the values *present* in the batch; a cell with one sample has a mean and no covariance
(the paper leaves both cases open).

For D-dimensional embeddings a covariance has D^2 entries. Their squared distances need only inner products,
<Sigma_g, Sigma_h>_F = ||Z_g Z_h^T||_F^2 / (n_g n_h) with centred rows, and those come from one N x N Gram matrix. The cheaper
of the two forms is chosen by N and D. Rows are centred before the product, attribute by attribute: centring a raw Gram by its
cell means gives the same numbers with fewer exact digits where labels lie far apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, check_process_group, gather_rows, gather_rows_with_gradient
from fairloss.core.dtypes import statistics_dtype
from fairloss.groups.ids import GroupIds, check_groups, check_num_groups
from fairloss.losses.embeddings import check_classes, check_embeddings, unit_rows

__all__ = ["MomentAlignmentLoss", "moment_alignment"]

Reduction = Literal["mean", "sum", "max"]
REDUCTIONS = ("mean", "sum", "max")
Form = Literal["auto", "gram", "explicit"]
FORMS = ("auto", "gram", "explicit")


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
        z: (N, D) rows centred by cell.
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
    """(N, D) rows centred by cell -> (cells, D, D), sums of outer products times the rows' weights."""
    if _sizes_at_hand(z):
        # Rows in the order of their cells: each row enters one product instead of one a cell. Those of no cell come first.
        sizes = torch.bincount(cell[:, 0] + 1, minlength=cells + 1).tolist()
        parts = (z * weight.sqrt().unsqueeze(1)).index_select(0, cell[:, 0].argsort()).split(sizes)[1:]
        return torch.stack([part.T @ part for part in parts])
    member = (cell == torch.arange(cells, device=cell.device)) * weight.unsqueeze(1)  # (N, cells)
    return (member.T.unsqueeze(1) * z.T) @ z  # (cells, D, N) @ (N, D)


def _sizes_at_hand(z: Tensor) -> bool:
    """Whether the cells' sizes can be read without waiting for a device or breaking a graph."""
    return z.device.type == "cpu" and not torch.compiler.is_compiling()


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
    num_classes: int,
    num_groups: int | Sequence[int],
    cov_weight: float = 1.0,
    normalize: bool = False,
    reduction: Reduction = "mean",
    form: Form = "auto",
    ignore_index: int = -100,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Moment alignment as a function; see :class:`MomentAlignmentLoss`.

    Example:
        >>> z = torch.tensor([[0.0], [2.0], [4.0], [4.0]])
        >>> moment_alignment(z, torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1]), num_classes=1, num_groups=2)
        tensor(2.5000)
    """
    num_classes = checks.integer("num_classes", num_classes, minimum=1)
    sizes = check_num_groups(num_groups)
    cov_weight = checks.number("cov_weight", cov_weight, minimum=0)
    checks.choice("reduction", reduction, REDUCTIONS)
    checks.choice("form", form, FORMS)
    ignore_index = checks.integer("ignore_index", ignore_index, minimum=-(2**63))
    check_process_group(process_group)
    check_embeddings(embeddings)
    labels = check_classes(target, embeddings, num_classes, ignore_index)
    ids = check_groups(groups, sizes, embeddings.shape[0], like=embeddings).ids

    z = unit_rows(embeddings) if normalize else embeddings.to(statistics_dtype(embeddings.dtype))
    z = gather_rows_with_gradient(z, process_group)
    labels, ids = gather_rows(labels, process_group), gather_rows(ids, process_group)
    # All moments are differences; taking a constant off first keeps their digits.
    z = z - z.detach().sum(0) / max(z.shape[0], 1)
    n, d = z.shape
    passes = len(sizes) if _sizes_at_hand(z) else num_classes * sum(sizes)
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
                centred = z - means[row_cell]
                if gram:
                    spread = _covariance_terms_gram(centred, labels, ids[:, k], cell, weight, shape)
                else:
                    spread = _covariance_terms_explicit(centred, cell, weight, shape)
                value = value + cov_weight * spread
            if reduction != "sum":
                compared = (present & (present.sum(1, keepdim=True) >= 2)).sum()
                value = value / compared.clamp(min=1)
            values.append(value)
    stacked = torch.stack(values)
    if reduction == "max":
        return stacked.amax()
    return stacked.sum() if reduction == "sum" else stacked.mean()


class MomentAlignmentLoss(nn.Module):
    """Distance of each group's mean and covariance from the groups' average, label by label.

    For label y, attribute k and value d, over the values D present in the batch:

        term(y, k, d) = ||mu_ykd - mean_D mu_ykd||_2^2 + cov_weight ||Sigma_ykd - mean_D Sigma_ykd||_F^2

    with population covariances (divided by n). 0 means that within every label all groups have the same first two moments.

    Args:
        num_classes: C, number of labels.
        num_groups: number of groups; a tuple for several attributes.
        cov_weight: lambda_Sigma >= 0; 0 aligns the means alone and costs O(N D). Embeddings of norm about 1 have covariances
            far smaller than their means.
        normalize: L2-normalise the embeddings first.
        reduction: ``"mean"``: mean of an attribute's compared cells (those of labels with two values present or more), then
            over attributes; ``"max"``: the largest attribute's mean; ``"sum"``: all terms, as in the paper.
        form: ``"gram"``: O(N^2 D) time and O(N^2) memory, nothing of size D x D; ``"explicit"``: O(N D^2) and
            O(N D + cells D^2) in eager mode on the CPU, elsewhere O(cells N D^2) and O(cells D (N + D)); ``"auto"`` takes the
            one with fewer multiplications.
        ignore_index: samples of this label take no part.
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
        >>> loss = MomentAlignmentLoss(num_classes=1, num_groups=2)
        >>> loss(torch.tensor([[0.0], [2.0], [4.0], [4.0]]), torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1]))
        tensor(2.5000)

    References:
        FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, section 3.4.
    """

    def __init__(
        self,
        num_classes: int,
        num_groups: int | Sequence[int],
        cov_weight: float = 1.0,
        normalize: bool = False,
        reduction: Reduction = "mean",
        *,
        form: Form = "auto",
        ignore_index: int = -100,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = checks.integer("num_classes", num_classes, minimum=1)
        self.num_groups = check_num_groups(num_groups)
        self.cov_weight = checks.number("cov_weight", cov_weight, minimum=0)
        self.normalize = normalize
        self.reduction = checks.choice("reduction", reduction, REDUCTIONS)
        self.form = checks.choice("form", form, FORMS)
        self.ignore_index = checks.integer("ignore_index", ignore_index, minimum=-(2**63))
        check_process_group(process_group)
        self.process_group = process_group

    def forward(self, embeddings: Tensor, target: Tensor, groups: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return moment_alignment(
            embeddings,
            target,
            groups,
            num_classes=self.num_classes,
            num_groups=self.num_groups,
            cov_weight=self.cov_weight,
            normalize=self.normalize,
            reduction=self.reduction,  # type: ignore[arg-type]
            form=self.form,  # type: ignore[arg-type]
            ignore_index=self.ignore_index,
            process_group=self.process_group,
        )

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"num_classes={self.num_classes}, num_groups={self.num_groups}, cov_weight={self.cov_weight}, "
            f"normalize={self.normalize}, reduction={self.reduction!r}, form={self.form!r}"
        )
