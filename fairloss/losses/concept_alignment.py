"""Concept alignment: InfoNCE between image embeddings and the text embeddings of a concept vocabulary.

Paper: FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, section 3.3. Differences: the whole
vocabulary serves as negatives (the paper samples them; pass a sampled vocabulary for the same); the default averages over
(image, concept) pairs, ``variant="paper"`` sums; other concepts that are true of the image are left out of its negatives
(for the paper's they stay in); embeddings are L2-normalized unless ``normalize=False`` (the paper does not say).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.options import option_names, options_of
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import all_inside, same_device
from fairloss.losses.embeddings import check_classes, check_embeddings, unit_rows

__all__ = ["ConceptAlignmentLoss", "ConceptVariant", "concept_alignment"]

ConceptVariant = Literal["default", "paper"]


def _check_options(temperature: float, ignore_index: int, variant: str, process_group: ProcessGroup | None) -> None:
    checks.number("temperature", temperature, above=0)
    checks.integer("ignore_index", ignore_index, minimum=-(2**63))
    checks.choice("variant", variant, ("default", "paper"))
    check_process_group(process_group)


def _true_concepts(target: Tensor, embeddings: Tensor, c: int, ignore_index: int) -> Tensor:
    """Target as (N, C) bool."""
    n = embeddings.shape[0]
    if isinstance(target, Tensor) and target.ndim == 2:
        same_device("target", target, "embeddings", embeddings)
        if tuple(target.shape) != (n, c):
            raise ValueError(expected("target", f"ids (N,), or a table ({n}, {c})", tuple(target.shape)))
        all_inside("target", target, (target == 0) | (target == 1), "a table of 0 and 1")
        return target == 1
    ids = check_classes(target, embeddings, c, ignore_index)
    # ignore_index may itself lie in 0 .. C-1.
    return (ids.unsqueeze(1) == torch.arange(c, device=ids.device)) & (ids != ignore_index).unsqueeze(1)


def concept_alignment(
    embeddings: Tensor,
    target: Tensor,
    *,
    concepts: Tensor,
    temperature: float = 0.07,
    normalize: bool = True,
    ignore_index: int = -100,
    variant: ConceptVariant = "default",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """InfoNCE over a concept vocabulary as a function; see :class:`ConceptAlignmentLoss`.

    Example:
        >>> concept_alignment(torch.eye(2), torch.tensor([0, 1]), concepts=torch.eye(2), temperature=1.0)
        tensor(0.3133)
    """
    _check_options(temperature, ignore_index, variant, process_group)
    check_embeddings(embeddings)
    check_embeddings(concepts, name="concepts", dim=embeddings.shape[1])
    same_device("concepts", concepts, "embeddings", embeddings)
    true = _true_concepts(target, embeddings, concepts.shape[0], ignore_index)
    wide = statistics_dtype(torch.promote_types(embeddings.dtype, concepts.dtype))
    z, e = (unit_rows(x.to(wide)) if normalize else x.to(wide) for x in (embeddings, concepts))
    with torch.autocast(z.device.type, enabled=False):
        s = z @ e.T / temperature  # (N, C)
    if variant == "paper":
        terms = s.logsumexp(1, keepdim=True) - s
    else:
        # An image without a single negative gets the term 0: softplus(-inf).
        lse = s.masked_fill(true, torch.finfo(wide).min).logsumexp(1, keepdim=True)
        terms = torch.nn.functional.softplus(lse - s, threshold=40)  # 20 is too early for float64
    total = torch.where(true, terms, 0.0).sum()
    total, count = all_reduce_sums([total, true.sum().to(wide)], process_group)
    return total if variant == "paper" else total / count.detach().clamp(min=1)


class ConceptAlignmentLoss(ConstantsModule):
    """InfoNCE between images and a concept vocabulary: each image is drawn to its concepts, away from all others.

    With s_xc = z_x.e_c / temperature, over all pairs (x, c) of an image and a concept that is true of it:

        loss = mean_{(x, c)} softplus(logsumexp_{c' not true of x} s_xc' - s_xc)

    With one concept per image this is the cross-entropy of the similarities. It tends to 0 where each image is far closer to
    its concept than to any other (with cosines it stays above log(1 + (C - 1) e^{-2 / temperature})).

    Args:
        temperature: tau_c > 0 (default 0.07).
        normalize: L2-normalize both sides (default True).
        ignore_index: samples of this id take no part (default -100).
        variant: ``"default"``, or ``"paper"``: a sum, other true concepts being negatives.
        process_group: makes the loss that of all its ranks' samples.

    Shape:
        - embeddings: (N, D) floating, of images
        - target: (N,) concept ids, or an (N, C) table of 0 and 1 for several concepts per image
        - concepts: (C, D) floating, of texts; receives a gradient where it requires one
        - output: scalar, float32 (float64 for float64 input)

    Raises:
        TypeError, ValueError: naming the argument, before any work.

    Note:
        No sample with a concept: 0, and ``backward()`` works. Holds the (N, C) similarities. Needs no groups: it is the
        first stage of training, before the terms that align groups.

    Example:
        >>> loss = ConceptAlignmentLoss(temperature=1.0)
        >>> loss(torch.eye(2), torch.tensor([0, 1]), concepts=torch.eye(2))
        tensor(0.3133)

    References:
        FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, section 3.3.

    Reference:
        FairMed-VLM, section 3.3: https://openreview.net/forum?id=DtbykQBmE5

    See Also:
        :class:`CrossGroupContrastiveLoss`, :class:`MomentAlignmentLoss`
    """

    _OPTIONS = option_names(concept_alignment, without=("concepts",))

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        normalize: bool = True,
        ignore_index: int = -100,
        variant: ConceptVariant = "default",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        _check_options(temperature, ignore_index, variant, process_group)
        self.temperature, self.normalize, self.ignore_index = temperature, normalize, ignore_index
        self.variant, self.process_group = variant, process_group

    def forward(self, embeddings: Tensor, target: Tensor, *, concepts: Tensor) -> Tensor:
        """Loss of a batch; see the class."""
        return concept_alignment(embeddings, target, concepts=concepts, **options_of(self, self._OPTIONS))

    def extra_repr(self) -> str:  # noqa: D102
        return f"temperature={self.temperature}, normalize={self.normalize}, variant={self.variant!r}"
