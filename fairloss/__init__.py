"""Differentiable group-fairness losses for PyTorch, FairGRPO advantages, and fairness metrics.

Public names are resolved on first use (PEP 562): ``import fairloss`` and ``fairloss.metrics`` import no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairloss._version import __version__
from fairloss.core.lazy import lazy_names
from fairloss.losses.catalogue import LOSSES

if TYPE_CHECKING:
    # table: imports (make tables)
    from fairloss.core.state import frozen as frozen
    from fairloss.groups.encode import encode_groups as encode_groups
    from fairloss.groups.ids import intersect_groups as intersect_groups
    from fairloss.groups.memory import GroupMemory as GroupMemory
    from fairloss.language import format_instruction as format_instruction
    from fairloss.language import pool_last_token as pool_last_token
    from fairloss.language import read_answers as read_answers
    from fairloss.language import shift_labels as shift_labels
    from fairloss.losses.adversarial_group import AdversarialGroupLoss as AdversarialGroupLoss
    from fairloss.losses.adversarial_group import GradientReversal as GradientReversal
    from fairloss.losses.check_inputs import check_inputs as check_inputs
    from fairloss.losses.concept_alignment import ConceptAlignmentLoss as ConceptAlignmentLoss
    from fairloss.losses.cross_group_contrastive import CrossGroupContrastiveLoss as CrossGroupContrastiveLoss
    from fairloss.losses.distribution_alignment import DistributionAlignmentLoss as DistributionAlignmentLoss
    from fairloss.losses.embedding_queue import EmbeddingQueue as EmbeddingQueue
    from fairloss.losses.fair_cross_entropy import FairCrossEntropyLoss as FairCrossEntropyLoss
    from fairloss.losses.fair_distillation import FairDistillationLoss as FairDistillationLoss
    from fairloss.losses.febs import FEBSLoss as FEBSLoss
    from fairloss.losses.fis import FISLoss as FISLoss
    from fairloss.losses.group_dro import GroupDROLoss as GroupDROLoss
    from fairloss.losses.group_heads import GroupHeads as GroupHeads
    from fairloss.losses.inverse_frequency_weighting import InverseFrequencyWeighting as InverseFrequencyWeighting
    from fairloss.losses.loss_variance import LossVarianceLoss as LossVarianceLoss
    from fairloss.losses.max_acc_gap import MaxAccGapLoss as MaxAccGapLoss
    from fairloss.losses.moment_alignment import MomentAlignmentLoss as MomentAlignmentLoss
    from fairloss.losses.parity import DemographicParityLoss as DemographicParityLoss
    from fairloss.losses.parity import EqualizedOddsLoss as EqualizedOddsLoss
    from fairloss.losses.parity import EqualOpportunityLoss as EqualOpportunityLoss
    from fairloss.policy.advantages import fair_grpo_advantages as fair_grpo_advantages
    from fairloss.policy.fair_grpo import FairGRPOAdvantage as FairGRPOAdvantage
    from fairloss.policy.objective import fair_grpo_policy_loss as fair_grpo_policy_loss
    from fairloss.samplers import BalancedGroupSampler as BalancedGroupSampler
    from fairloss.samplers import GroupBatchSampler as GroupBatchSampler
    # end of table

# Public name -> the module that defines it.
_HOME = {loss.name: loss.module for loss in LOSSES} | {
    "BalancedGroupSampler": "fairloss.samplers",
    "EmbeddingQueue": "fairloss.losses.embedding_queue",
    "GradientReversal": "fairloss.losses.adversarial_group",
    "GroupBatchSampler": "fairloss.samplers",
    "GroupHeads": "fairloss.losses.group_heads",
    "GroupMemory": "fairloss.groups.memory",
    "check_inputs": "fairloss.losses.check_inputs",
    "encode_groups": "fairloss.groups.encode",
    "fair_grpo_advantages": "fairloss.policy.advantages",
    "fair_grpo_policy_loss": "fairloss.policy.objective",
    "format_instruction": "fairloss.language",
    "frozen": "fairloss.core.state",
    "intersect_groups": "fairloss.groups.ids",
    "pool_last_token": "fairloss.language",
    "read_answers": "fairloss.language",
    "shift_labels": "fairloss.language",
}

__all__ = ["__version__", *_HOME]

__getattr__, __dir__ = lazy_names(
    __name__, _HOME, ("functional", "integrations", "metrics", "policy", "postprocess", "report")
)
