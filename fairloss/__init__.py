"""Differentiable group-fairness losses for PyTorch, FairGRPO advantages, and fairness metrics.

Public names are resolved on first use (PEP 562): ``import fairloss`` and ``fairloss.metrics`` import no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fairloss._version import __version__

if TYPE_CHECKING:
    from fairloss.answers import AnswerVocabulary as AnswerVocabulary
    from fairloss.answers import format_instruction as format_instruction
    from fairloss.data import BalancedGroupSampler as BalancedGroupSampler
    from fairloss.data import GroupBatchSampler as GroupBatchSampler
    from fairloss.embedding_queue import EmbeddingQueue as EmbeddingQueue
    from fairloss.groups import intersect_groups as intersect_groups
    from fairloss.heads import GroupHeads as GroupHeads
    from fairloss.inputs import check_inputs as check_inputs
    from fairloss.labels import encode_groups as encode_groups
    from fairloss.losses.adversarial import AdversarialGroupLoss as AdversarialGroupLoss
    from fairloss.losses.adversarial import GradientReversal as GradientReversal
    from fairloss.losses.concept import ConceptAlignmentLoss as ConceptAlignmentLoss
    from fairloss.losses.contrastive import CrossGroupContrastiveLoss as CrossGroupContrastiveLoss
    from fairloss.losses.cross_entropy import FairCrossEntropyLoss as FairCrossEntropyLoss
    from fairloss.losses.distribution_alignment import DistributionAlignmentLoss as DistributionAlignmentLoss
    from fairloss.losses.fair_distillation import FairDistillationLoss as FairDistillationLoss
    from fairloss.losses.fair_error_bound import FEBSLoss as FEBSLoss
    from fairloss.losses.fair_identity_scaling import FISLoss as FISLoss
    from fairloss.losses.group_dro import GroupDROLoss as GroupDROLoss
    from fairloss.losses.loss_variance import LossVarianceLoss as LossVarianceLoss
    from fairloss.losses.max_acc_gap import MaxAccGapLoss as MaxAccGapLoss
    from fairloss.losses.moments import MomentAlignmentLoss as MomentAlignmentLoss
    from fairloss.losses.parity import DemographicParityLoss as DemographicParityLoss
    from fairloss.losses.parity import EqualizedOddsLoss as EqualizedOddsLoss
    from fairloss.losses.weighting import InverseFrequencyWeighting as InverseFrequencyWeighting
    from fairloss.memory import GroupMemory as GroupMemory
    from fairloss.policy.advantages import fair_grpo_advantages as fair_grpo_advantages
    from fairloss.policy.fair_grpo import FairGRPOAdvantage as FairGRPOAdvantage
    from fairloss.policy.objective import fair_grpo_policy_loss as fair_grpo_policy_loss
    from fairloss.tokens import pool_last_token as pool_last_token
    from fairloss.tokens import shift_labels as shift_labels

# Public name -> the module that defines it.
_HOME = {
    "AnswerVocabulary": "fairloss.answers",
    "AdversarialGroupLoss": "fairloss.losses.adversarial",
    "GradientReversal": "fairloss.losses.adversarial",
    "BalancedGroupSampler": "fairloss.data",
    "GroupBatchSampler": "fairloss.data",
    "MaxAccGapLoss": "fairloss.losses.max_acc_gap",
    "FairCrossEntropyLoss": "fairloss.losses.cross_entropy",
    "InverseFrequencyWeighting": "fairloss.losses.weighting",
    "GroupDROLoss": "fairloss.losses.group_dro",
    "LossVarianceLoss": "fairloss.losses.loss_variance",
    "DemographicParityLoss": "fairloss.losses.parity",
    "EqualizedOddsLoss": "fairloss.losses.parity",
    "check_inputs": "fairloss.inputs",
    "ConceptAlignmentLoss": "fairloss.losses.concept",
    "CrossGroupContrastiveLoss": "fairloss.losses.contrastive",
    "EmbeddingQueue": "fairloss.embedding_queue",
    "MomentAlignmentLoss": "fairloss.losses.moments",
    "DistributionAlignmentLoss": "fairloss.losses.distribution_alignment",
    "FairDistillationLoss": "fairloss.losses.fair_distillation",
    "GroupHeads": "fairloss.heads",
    "FEBSLoss": "fairloss.losses.fair_error_bound",
    "FISLoss": "fairloss.losses.fair_identity_scaling",
    "FairGRPOAdvantage": "fairloss.policy.fair_grpo",
    "GroupMemory": "fairloss.memory",
    "encode_groups": "fairloss.labels",
    "fair_grpo_advantages": "fairloss.policy.advantages",
    "fair_grpo_policy_loss": "fairloss.policy.objective",
    "format_instruction": "fairloss.answers",
    "intersect_groups": "fairloss.groups",
    "pool_last_token": "fairloss.tokens",
    "shift_labels": "fairloss.tokens",
}
_SUBMODULES = ("functional", "integrations", "metrics", "policy")

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"fairloss.{name}")
    else:
        raise AttributeError(f"module 'fairloss' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_SUBMODULES])
