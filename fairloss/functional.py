"""Losses as functions: the class's snake_case name without ``Loss``, options by keyword; each is imported on first use.

``AdversarialGroupLoss`` has none, because it holds a network to train.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairloss.core.lazy import lazy_names
from fairloss.losses.catalogue import LOSSES

if TYPE_CHECKING:
    # table: imports (make tables)
    from fairloss.losses.adversarial_group import gradient_reversal as gradient_reversal
    from fairloss.losses.concept_alignment import concept_alignment as concept_alignment
    from fairloss.losses.cross_group_contrastive import ContrastiveParts as ContrastiveParts
    from fairloss.losses.cross_group_contrastive import cross_group_contrastive as cross_group_contrastive
    from fairloss.losses.dice import group_dice_loss as group_dice_loss
    from fairloss.losses.dice import sample_dice_loss as sample_dice_loss
    from fairloss.losses.distribution_alignment import distribution_alignment as distribution_alignment
    from fairloss.losses.distribution_alignment import transport_distances as transport_distances
    from fairloss.losses.fair_cross_entropy import CrossEntropyParts as CrossEntropyParts
    from fairloss.losses.fair_cross_entropy import fair_cross_entropy as fair_cross_entropy
    from fairloss.losses.fair_distillation import fair_distillation as fair_distillation
    from fairloss.losses.febs import febs as febs
    from fairloss.losses.fis import fis as fis
    from fairloss.losses.fis import fis_weights as fis_weights
    from fairloss.losses.gaps import group_gap as group_gap
    from fairloss.losses.group_dro import group_dro as group_dro
    from fairloss.losses.group_heads import route_by_group as route_by_group
    from fairloss.losses.inverse_frequency_weighting import inverse_frequency_weighting as inverse_frequency_weighting
    from fairloss.losses.inverse_frequency_weighting import inverse_frequency_weights as inverse_frequency_weights
    from fairloss.losses.likelihood import Likelihood as Likelihood
    from fairloss.losses.likelihood import sample_likelihood as sample_likelihood
    from fairloss.losses.loss_variance import loss_variance as loss_variance
    from fairloss.losses.max_acc_gap import max_acc_gap as max_acc_gap
    from fairloss.losses.moment_alignment import moment_alignment as moment_alignment
    from fairloss.losses.parity import demographic_parity as demographic_parity
    from fairloss.losses.parity import equal_opportunity as equal_opportunity
    from fairloss.losses.parity import equalized_odds as equalized_odds
    from fairloss.losses.parts import WeightingParts as WeightingParts
    from fairloss.policy.advantages import fair_grpo_advantages as fair_grpo_advantages
    from fairloss.policy.objective import fair_grpo_policy_loss as fair_grpo_policy_loss
    # end of table

# Public name -> the module that defines it.
_HOME = {name: loss.module for loss in LOSSES for name in loss.functions} | {
    "ContrastiveParts": "fairloss.losses.cross_group_contrastive",
    "CrossEntropyParts": "fairloss.losses.fair_cross_entropy",
    "Likelihood": "fairloss.losses.likelihood",
    "WeightingParts": "fairloss.losses.parts",
    "group_gap": "fairloss.losses.gaps",
    "fair_grpo_advantages": "fairloss.policy.advantages",
    "fair_grpo_policy_loss": "fairloss.policy.objective",
    "gradient_reversal": "fairloss.losses.adversarial_group",
    "group_dice_loss": "fairloss.losses.dice",
    "route_by_group": "fairloss.losses.group_heads",
    "sample_dice_loss": "fairloss.losses.dice",
    "sample_likelihood": "fairloss.losses.likelihood",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
