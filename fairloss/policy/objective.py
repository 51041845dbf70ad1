"""The clipped policy objective that FairGRPO trains, with GRPO's estimate of the KL divergence.

With ratio phi = exp(logp - old_logp) and advantage A of the rollout, a token contributes

    -min(phi A, clip(phi, 1 - clip, 1 + clip_high) A) + beta k3,    k3 = exp(d) - d - 1,  d = ref_logp - logp

(Schulman et al. 2017 for the clipping; Shao et al. 2024, eq 4, for k3: unbiased, and never negative). FairGRPO's own
objective (Dai et al., section 3) sums over the tokens of a rollout; the default here is the mean over all tokens, as in
common trainers, because a sum lets long rollouts dominate.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import floating, real, same_device, shaped

__all__ = ["PolicyReduction", "fair_grpo_policy_loss", "k3_kl"]

PolicyReduction = Literal["token_mean", "sequence_mean", "sequence_sum"]

_LARGEST = 60.0
"""Log-ratios count up to here (e^60 = 1e26): beyond, exp overflows in float32, and infinity times the clipping's 0 is NaN."""


def _log_probabilities(name: str, x: Any, logp: Tensor) -> Tensor:
    """``x`` if it is floating and has the shape and device of ``logp``."""
    same_device(name, floating(name, x), "logp", logp)
    return shaped(name, x, logp.shape)


def k3_kl(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = ref_logp - logp, elementwise: 0 where the two agree, positive elsewhere.

    Its mean over tokens drawn from the policy is KL(policy || reference). d counts up to 60, with no gradient beyond.

    Raises:
        TypeError, ValueError: not floating-point tensors of one shape.

    Example:
        >>> k3_kl(torch.tensor([-1.0]), torch.tensor([-0.5]))
        tensor([0.1487])
    """
    _log_probabilities("ref_logp", ref_logp, floating("logp", logp))
    dtype = statistics_dtype(torch.promote_types(logp.dtype, ref_logp.dtype))
    difference = (ref_logp.to(dtype) - logp.to(dtype)).clamp(max=_LARGEST)
    return torch.expm1(difference) - difference


def fair_grpo_policy_loss(
    logp: Tensor,
    old_logp: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    beta: float = 0.0,
    ref_logp: Tensor | None = None,
    reduction: PolicyReduction = "token_mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Clipped policy loss on log-probabilities of the sampled tokens.

        l_t = -min(phi_t A, clip(phi_t, 1 - clip, 1 + clip_high) A) + beta k3_t,    phi_t = exp(logp_t - old_logp_t)

    0 does not mean solved: at phi = 1 the value is minus the mean advantage, and only the gradient matters.

    Args:
        logp: (B, L) log-probabilities of the tokens under the policy, with gradient.
        old_logp: (B, L), the same under the policy that sampled; None on the first update after sampling, where it equals
            ``logp`` without gradient.
        advantages: (B,) one per rollout, as from ``fair_grpo_advantages(...).flatten()``, or (B, L).
        mask: (B, L) bool or 0/1: the tokens that count. Elsewhere all inputs may hold anything, NaN included.
        clip: how far below 1 the ratio counts, in (0, 1).
        clip_high: how far above 1; None for ``clip``.
        beta: weight of the KL term.
        ref_logp: (B, L) under the reference policy, needed for ``beta`` > 0.
        reduction: "token_mean", over all tokens; "sequence_mean", over the rollouts' means; "sequence_sum", the paper's: the
            mean over the rollouts' sums. Rollouts without tokens are left out of the last two.
        process_group: tokens and rollouts are those of all its ranks; every rank gets the same value.

    Returns:
        The loss, a scalar in float32 at least.

    Raises:
        TypeError: arguments that are no tensors, log-probabilities that are not floating.
        ValueError: shapes that differ, options out of range, ``beta`` without ``ref_logp``.

    Note:
        Gradient flows into ``logp`` alone. Log-ratios count up to 60 (a ratio of 1e26), with no gradient beyond. Half
        precision is computed in float32. A batch without tokens gives 0 with zero gradient. Under
        DistributedDataParallel with ``process_group`` the averaged gradient is that of one process.

    Example:
        >>> logp, old = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.0]])
        >>> fair_grpo_policy_loss(logp, old, torch.tensor([2.0]), torch.ones(1, 2))
        tensor(-2.2000)

    Reference:
        Schulman et al., Proximal Policy Optimization Algorithms, 2017. Shao et al., DeepSeekMath, 2024. Dai et al., FairGRPO,
        2025.
    """
    clip = checks.number("clip", clip, above=0, below=1)
    high = clip if clip_high is None else checks.number("clip_high", clip_high, above=0)
    beta = checks.number("beta", beta, minimum=0)
    checks.choice("reduction", reduction, get_args(PolicyReduction))
    check_process_group(process_group)
    floating("logp", logp, "(B, L)", 2)
    if beta > 0 and ref_logp is None:
        raise ValueError(expected("ref_logp", f"log-probabilities of shape {tuple(logp.shape)} for beta={beta}", None))
    for name, x in (("old_logp", old_logp), ("ref_logp", ref_logp)):
        if x is not None:
            _log_probabilities(name, x, logp)
    for name, x, shapes in (("mask", mask, [logp.shape]), ("advantages", advantages, [logp.shape[:1], logp.shape])):
        same_device(name, shaped(name, real(name, x), *shapes), "logp", logp)
    dtype = statistics_dtype(logp.dtype)
    counts = mask != 0

    def clean(x: Tensor) -> Tensor:
        # Masked first: a NaN times 0 would still be NaN, in the gradient, too.
        return torch.where(counts, x.to(dtype), 0.0)

    policy = clean(logp)
    old = policy.detach() if old_logp is None else clean(old_logp.detach())
    gain = clean((advantages.unsqueeze(1) if advantages.ndim == 1 else advantages).detach().expand_as(logp))
    ratio = torch.exp((policy - old).clamp(max=_LARGEST))
    tokens = -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + high) * gain)
    if ref_logp is not None and beta > 0:
        tokens = tokens + beta * k3_kl(policy, clean(ref_logp.detach()))
    tokens = torch.where(counts, tokens, 0.0)
    lengths = counts.sum(1).to(dtype)
    if reduction == "token_mean":
        value, weight = tokens.sum(), lengths.sum()
    else:
        rows = tokens.sum(1)
        value = (rows / lengths.clamp(min=1)).sum() if reduction == "sequence_mean" else rows.sum()
        weight = (lengths > 0).to(dtype).sum()
    value, weight = all_reduce_sums([value, weight], process_group)
    return value / weight.clamp(min=1)
