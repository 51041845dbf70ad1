"""FairGRPO: fair advantages for policy optimisation, the advantages it is compared with, and the clipped objective."""

from fairloss.policy.advantages import fair_grpo_advantages
from fairloss.policy.baselines import (
    GroupDROAdvantage,
    grpo_advantages,
    reinforce_pp_advantages,
    resampling_weights,
    rloo_advantages,
)
from fairloss.policy.fair_grpo import FairGRPOAdvantage, GroupRow
from fairloss.policy.history import RewardHistory
from fairloss.policy.objective import fair_grpo_policy_loss, k3_kl

__all__ = [
    "FairGRPOAdvantage",
    "GroupDROAdvantage",
    "GroupRow",
    "RewardHistory",
    "fair_grpo_advantages",
    "fair_grpo_policy_loss",
    "grpo_advantages",
    "k3_kl",
    "reinforce_pp_advantages",
    "resampling_weights",
    "rloo_advantages",
]
