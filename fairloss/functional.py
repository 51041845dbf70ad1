"""Losses as functions: the class's snake_case name without ``Loss``, options by keyword.

``AdversarialGroupLoss`` has none, because it holds a network to train.
"""

from fairloss.losses.adversarial_group import gradient_reversal
from fairloss.losses.concept_alignment import concept_alignment
from fairloss.losses.cross_group_contrastive import ContrastiveParts, cross_group_contrastive
from fairloss.losses.dice import group_dice_loss, sample_dice_loss
from fairloss.losses.distribution_alignment import distribution_alignment, transport_distances
from fairloss.losses.fair_cross_entropy import CrossEntropyParts, fair_cross_entropy
from fairloss.losses.fair_distillation import fair_distillation
from fairloss.losses.febs import febs
from fairloss.losses.fis import fis, fis_weights
from fairloss.losses.group_dro import group_dro
from fairloss.losses.group_heads import route_by_group
from fairloss.losses.inverse_frequency_weighting import inverse_frequency_weighting, inverse_frequency_weights
from fairloss.losses.loss_variance import loss_variance
from fairloss.losses.max_acc_gap import group_gap, max_acc_gap
from fairloss.losses.moment_alignment import moment_alignment
from fairloss.losses.parity import demographic_parity, equalized_odds
from fairloss.losses.tasks import Likelihood, sample_likelihood
from fairloss.policy.advantages import fair_grpo_advantages
from fairloss.policy.objective import fair_grpo_policy_loss

__all__ = [
    "ContrastiveParts",
    "CrossEntropyParts",
    "Likelihood",
    "concept_alignment",
    "cross_group_contrastive",
    "demographic_parity",
    "distribution_alignment",
    "equalized_odds",
    "fair_cross_entropy",
    "fair_distillation",
    "fair_grpo_advantages",
    "fair_grpo_policy_loss",
    "febs",
    "fis",
    "fis_weights",
    "gradient_reversal",
    "group_dice_loss",
    "group_dro",
    "group_gap",
    "inverse_frequency_weighting",
    "inverse_frequency_weights",
    "loss_variance",
    "max_acc_gap",
    "moment_alignment",
    "route_by_group",
    "sample_dice_loss",
    "sample_likelihood",
    "transport_distances",
]
