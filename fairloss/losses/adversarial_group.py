"""Adversarial removal of group information: a head learns to tell the groups apart, its gradient is reversed on the way in.

Zhang, Lemoine and Mitchell, *Mitigating Unwanted Biases with Adversarial Learning*, 2018, and LAFTR: Madras et al., *Learning
Adversarially Fair and Transferable Representations*, 2018, the baselines of FairMed-VLM and FairMedFM. One backward pass
trains both sides by gradient reversal (Ganin et al., *Domain-Adversarial Training of Neural Networks*, 2016); the authors
alternate two optimizers. LAFTR's objectives, for two groups in the paper, average over any number here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.state import ConstantsModule
from fairloss.core.tensor_checks import floating
from fairloss.groups.ids import (
    ATTRIBUTE_REDUCTIONS,
    AttributeReduction,
    GroupIds,
    check_groups,
    check_num_groups,
    reduce_attributes,
)
from fairloss.losses.embeddings import check_classes, check_embeddings

__all__ = ["AdversarialGroupLoss", "GradientReversal", "gradient_reversal"]

Criterion = Literal["cross_entropy", "laftr"]


def gradient_reversal(x: Tensor, *, scale: float = 1.0) -> Tensor:
    """``x`` as it is; its gradient times ``-scale``.

    Raises:
        TypeError, ValueError: ``x`` is no floating-point tensor, ``scale`` no finite number.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradient_reversal(x, scale=0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    floating("x", x)
    scale = checks.number("scale", scale)
    # x - x.detach() is exactly 0 where x is finite: the value is x to the last bit, in one graph and with second derivatives.
    return x.detach() - scale * (x - x.detach())


class GradientReversal(nn.Module):
    """Identity forward, gradient times ``-scale`` backward: what follows is minimized, what precedes maximizes it.

    Args:
        scale: >= 0, strength against the encoder. It may be set anew at each step (a ramp from 0 keeps the first steps
            stable).

    Example:
        >>> layer = GradientReversal(scale=2.0)
        >>> x = torch.ones(1, requires_grad=True)
        >>> layer(x).backward()
        >>> x.grad
        tensor([-2.])
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = checks.number("scale", scale, minimum=0)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` itself."""
        return gradient_reversal(x, scale=self.scale)

    def extra_repr(self) -> str:  # noqa: D102
        return f"scale={self.scale}"


class AdversarialGroupLoss(ConstantsModule):
    """Loss of an adversary that reads the group off the embedding; the encoder receives its gradient reversed.

    With the adversary's probability p_i of sample i's true group:

        "cross_entropy"   loss = mean over groups present of  mean_{i in g} -log p_i        (Zhang et al.)
        "laftr"           loss = mean over groups present of  mean_{i in g} (1 - p_i)       (LAFTR)

    Minimizing it trains the adversary; through :class:`GradientReversal` the same step moves the encoder to make it larger.
    An adversary that knows nothing has log G (1 - 1/G with "laftr"), one that knows every group 0: as training goes on the
    loss should *rise* to the former.

    Args:
        num_groups: number of groups; a tuple for several attributes (one head with an output per group).
        embedding_dim: D of the embeddings.
        scale: >= 0, strength of the reversed gradient; the attribute ``reversal.scale`` may be changed during training
            (default 1).
        criterion: ``"cross_entropy"`` or ``"laftr"``, whose bounded gradient reflects a gap in rates.
        num_classes: with it the adversary also sees the label and averages over (label, group) cells: groups are to be
            indistinguishable *within* each label (equalized odds). Without it, overall (demographic parity), which also
            removes what the label tells of the group.
        hidden_dims: widths of the adversary's hidden layers; () is a linear adversary (default (64,)).
        attribute_reduction: over attributes: ``"mean"``, ``"sum"`` or ``"max"``.
        process_group: makes the loss that of all its ranks' samples.

    Shape:
        - embeddings: (N, D) float16 to float64 (computed in float32 at least, whatever the parameters' dtype)
        - groups: (N,) or (N, K) integer or bool ids, -1 = unknown
        - target: (N,) labels 0 .. num_classes - 1, with ``num_classes`` alone
        - output: scalar, float32 (float64 for float64 embeddings)

    Raises:
        TypeError, ValueError: naming the argument, before any work.

    Note:
        The parameters belong to the adversary: give them to the optimizer, with a learning rate that lets the adversary keep
        up with the encoder (a weak adversary lets group information stay), and leave them out of weight decay on the model.
        Absent groups take no part; unknown samples do nothing; without a known sample the loss is 0. A batch with one group
        still trains the adversary. The two sides may circle each other without settling, the more so the more group
        information there is, and an encoder that fools this adversary may still betray the group to another: judge by a fresh
        probe, not by this loss. Where "laftr" finds the groups easily its gradient vanishes; on a toy set with strong leakage
        it removed far less than the cross-entropy at the same settings.

    Example:
        >>> torch.manual_seed(0)
        <torch...>
        >>> loss = AdversarialGroupLoss(num_groups=2, embedding_dim=4)
        >>> z = torch.randn(6, 4, requires_grad=True)
        >>> loss(z, torch.tensor([0, 0, 0, 1, 1, -1])).item() > 0
        True

    References:
        Zhang, Lemoine and Mitchell, *Mitigating Unwanted Biases with Adversarial Learning*, 2018;
        Madras et al., *Learning Adversarially Fair and Transferable Representations*, 2018.

    Reference:
        LAFTR 2018: https://arxiv.org/abs/1802.06309
        Zhang et al. 2018: https://arxiv.org/abs/1801.07593

    See Also:
        :class:`MomentAlignmentLoss`, :class:`CrossGroupContrastiveLoss`
    """

    def __init__(
        self,
        num_groups: int | Sequence[int],
        *,
        embedding_dim: int,
        scale: float = 1.0,
        criterion: Criterion = "cross_entropy",
        num_classes: int | None = None,
        hidden_dims: Sequence[int] = (64,),
        attribute_reduction: AttributeReduction = "mean",
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_groups = check_num_groups(num_groups)
        self.embedding_dim = checks.integer("embedding_dim", embedding_dim, minimum=1)
        checks.choice("criterion", criterion, ("cross_entropy", "laftr"))
        self.num_classes = None if num_classes is None else checks.integer("num_classes", num_classes, minimum=1)
        checks.choice("attribute_reduction", attribute_reduction, ATTRIBUTE_REDUCTIONS)
        if not isinstance(hidden_dims, (tuple, list)):
            raise TypeError(expected("hidden_dims", "a tuple or list of widths", repr(hidden_dims)))
        widths = [checks.integer(f"hidden_dims[{i}]", width, minimum=1) for i, width in enumerate(hidden_dims)]
        check_process_group(process_group)
        self.criterion, self.attribute_reduction, self.process_group = criterion, attribute_reduction, process_group
        self.reversal = GradientReversal(scale)
        widths = [self.embedding_dim + (self.num_classes or 0), *widths, sum(self.num_groups)]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def _logits(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, sum of group numbers), in the dtype of ``x``."""
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            x = F.linear(x if i == 0 else F.relu(x), layer.weight.to(x.dtype), layer.bias.to(x.dtype))
        return x

    def forward(self, embeddings: Tensor, groups: Tensor, *, target: Tensor | None = None) -> Tensor:
        """Loss of a batch; see the class."""
        check_embeddings(embeddings, dim=self.embedding_dim)
        n = embeddings.shape[0]
        if (target is None) != (self.num_classes is None):
            wanted = "labels" if target is None else "None"
            cure = "num_classes and target go together"
            got = None if target is None else "labels"
            raise ValueError(expected("target", f"{wanted} with num_classes={self.num_classes}", got, cure))
        ids = check_groups(groups, self.num_groups, n, device=embeddings.device).ids
        classes = self.num_classes or 1
        labels = ids.new_zeros(n) if target is None else check_classes(target, embeddings, classes, -100)

        x = self.reversal(embeddings.to(statistics_dtype(embeddings.dtype)))
        if target is not None:
            x = torch.cat([x, (labels.unsqueeze(1) == torch.arange(classes, device=x.device)).to(x.dtype)], dim=1)
        with torch.autocast(x.device.type, enabled=False):
            logits = self._logits(x)
        values = []
        for k, (size, piece) in enumerate(zip(self.num_groups, logits.split(self.num_groups, 1), strict=True)):
            logp = torch.log_softmax(piece, dim=1).gather(1, ids[:, k : k + 1].clamp(min=0)).squeeze(1)
            errors = -logp if self.criterion == "cross_entropy" else -torch.expm1(logp)
            cell = torch.where((ids[:, k] >= 0) & (labels >= 0), labels * size + ids[:, k], -1).unsqueeze(1)
            sums, counts = GroupIds(cell, (classes * size,)).totals(errors, self.process_group)
            values.append((sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1))
        return reduce_attributes(torch.stack(values), self.attribute_reduction)

    def extra_repr(self) -> str:  # noqa: D102
        return f"num_groups={self.num_groups}, criterion={self.criterion!r}, num_classes={self.num_classes}"
