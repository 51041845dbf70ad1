"""Distribution alignment: every group's values are pulled towards the distribution of all values.

The regularizer of Luo et al., *FairCLIP*, who compare each group's image-text similarities with all of them by optimal
transport, and optimal-transport demographic parity when the values are predictions. Where we differ from their code: the
transport is exact, not Sinkhorn's; the groups' values are compared as they are, where theirs normalizes one side only; all
groups are compared with all known samples of the batch, with no extra batches drawn, unless a ``reference`` is given.
``variant="released"`` is their term.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group, gather_rows, gather_rows_with_gradient
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import per_sample
from fairloss.groups.ids import check_groups, single_attribute
from fairloss.losses.fis_weights import Reference, Transport, checked_reference
from fairloss.ops.sinkhorn import sinkhorn_divergences
from fairloss.ops.transport import wasserstein_to_all, wasserstein_to_sample

__all__ = ["DistributionAlignmentLoss", "distribution_alignment", "transport_distances"]


def _check_options(p: int, variant: str, transport: str, blur: float, process_group: ProcessGroup | None) -> None:
    if isinstance(p, bool) or p not in (1, 2):
        raise ValueError(expected("p", "1 or 2", repr(p)))
    checks.choice("variant", variant, ("default", "released"))
    checks.number("blur", blur, above=0)
    if checks.choice("transport", transport, ("exact", "geomloss")) == "geomloss" and variant != "released":
        raise ValueError(expected("transport", "'exact' but for variant='released'", "'geomloss'"))
    if variant == "released" and p != 2:
        raise ValueError(expected("p", "2 with variant='released'", p))
    check_process_group(process_group)


def distribution_alignment(
    values: Tensor,
    groups: Tensor,
    *,
    num_groups: int,
    p: Literal[1, 2] = 2,
    reference: Reference | None = None,
    variant: Literal["default", "released"] = "default",
    transport: Transport = "exact",
    blur: float = 1e-4,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Sum over groups of W_p^p to all values; see :class:`DistributionAlignmentLoss`.

    Example:
        >>> import torch
        >>> distribution_alignment(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0, 0, 1, 1]), num_groups=2)
        tensor(3.)
    """
    size = single_attribute(num_groups, "DistributionAlignmentLoss")
    _check_options(p, variant, transport, blur, process_group)
    x = per_sample("values", values).to(statistics_dtype(values.dtype))
    ids = check_groups(groups, size, x.shape[0], device=x.device)
    if reference is None:
        if variant == "released":
            cure = "samples of their own for each group, 64 in the authors' setting"
            raise ValueError(expected("reference", "a pair (values, groups) with variant='released'", None, cure))
        ids = ids.gathered(process_group)
        return wasserstein_to_all(gather_rows_with_gradient(x, process_group), ids.column, size, p).sum().to(x.dtype)
    y, own = checked_reference(reference, x, (size,))
    ids, own = ids.gathered(process_group), own.gathered(process_group)
    x, y = gather_rows_with_gradient(x, process_group), gather_rows(y, process_group).to(x.dtype)
    if transport == "geomloss":  # of the released variant
        batch, samples = x[ids.column >= 0], [y[own.column == g] for g in range(size)]
        return sinkhorn_divergences([(batch, sample / sample.sum()) for sample in samples], blur).sum()
    if variant == "released":
        y = y / own.lookup(own.sum(y), unknown=1.0)
    distances = wasserstein_to_sample(x, ids.column >= 0, y, own.column, size, p).sum().to(x.dtype)
    return distances / 2 if variant == "released" else distances


def transport_distances(values: Tensor, groups: Tensor, *, num_groups: int) -> Tensor:
    """How far each group's values lie from all values: half the squared Wasserstein distance.

    o_g = W_2^2(L_g, L) / 2 = 1/2 int_0^1 (Q_g(u) - Q(u))^2 du with the quantile functions of the group's and of all values.
    0 means that the group's values are distributed like all values.

    Args:
        values: (N,) floating, finite.
        groups: (N,) integer or bool ids, -1 = unknown (in no group, and not among "all").
        num_groups: G.

    Returns:
        (G,) float32 (float64 for float64 values), 0 where a group is absent.

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        Exact, in O(N log N) and float64; differentiable, never waits for the device, and compiles as one graph.

    Example:
        >>> import torch
        >>> values = torch.tensor([0.0, 1.0, 2.0, 3.0])
        >>> transport_distances(values, torch.tensor([0, 0, 1, 1]), num_groups=3)
        tensor([0.7500, 0.7500, 0.0000])
    """
    size = single_attribute(num_groups, "transport_distances")
    per_sample("values", values)
    ids = check_groups(groups, size, values.shape[0], device=values.device)
    return (wasserstein_to_all(values, ids.column, size, 2) / 2).to(statistics_dtype(values.dtype))


class DistributionAlignmentLoss(ConstantsModule):
    """Optimal-transport distance of every group's values to all values, differentiable.

    loss = sum_g W_p^p(values of g, values of all known samples), on the line and exact. 0 means that all groups' values
    are distributed alike: demographic parity at every threshold at once when the values are predictions. With a reference the
    groups' values are its, drawn for this and without gradient, so that a small batch need not hold the groups.

    Args:
        num_groups: number of groups of the one attribute.
        p: 2, squared distances, or 1, absolute ones.
        variant: ``"default"``, or ``"released"``: FairCLIP's code, sum_g W_2^2(values, reference of g / its sum) / 2, in which
            one side is divided by its sum and the other is not; needs a reference.
        transport: of ``variant="released"``: ``"exact"`` distances, or ``"geomloss"``: that package's, as in the
            authors' code (one call per group, not compiled).
        blur: geomloss's (default 1e-4).
        process_group: makes the loss that of all its ranks' samples, gathered (lengths are exchanged, which waits for the
            device); see :mod:`fairloss.core.distributed`.

    Shape:
        - values: (N,) logits, probabilities or similarities, float16 to float64 (computed in float64)
        - groups: (N,) integer or bool ids, -1 = unknown
        - reference: ``None``, or (values, groups) of other samples
        - output: scalar, float32 (float64 for float64 values), in units of the values to the power p

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        Absent groups and unknown samples contribute nothing; with fewer than two groups present the loss is 0 and
        ``backward()`` works. Gradient reaches every known value, through the group's quantiles and through those of all.
        A group of one sample counts as much as a large one, and its distance includes the spread of all values: small
        batches pull towards the mean, so give it batches with many samples per group.

    Example:
        >>> import torch
        >>> loss = DistributionAlignmentLoss(num_groups=2)
        >>> loss(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0, 0, 1, 1]))
        tensor(3.)

    References:
        Luo et al., *FairCLIP: Harnessing Fairness in Vision-Language Learning*, 2024.

    Reference:
        FairCLIP 2024: https://arxiv.org/abs/2403.19949

    See Also:
        :class:`DemographicParityLoss`, :class:`MomentAlignmentLoss`
    """

    _OPTIONS = option_names(distribution_alignment, without=("reference",))

    def __init__(
        self,
        num_groups: int,
        *,
        p: Literal[1, 2] = 2,
        variant: Literal["default", "released"] = "default",
        transport: Transport = "exact",
        blur: float = 1e-4,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = single_attribute(num_groups, "DistributionAlignmentLoss")
        _check_options(p, variant, transport, blur, process_group)
        self.p, self.variant, self.transport, self.blur, self.process_group = p, variant, transport, blur, process_group

    def forward(self, values: Tensor, groups: Tensor, *, reference: Reference | None = None) -> Tensor:
        """Loss of a batch; see the class."""
        return distribution_alignment(values, groups, reference=reference, **options_of(self, self._OPTIONS))

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, p={self.p}, variant={self.variant!r}"
