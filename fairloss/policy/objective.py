"""The clipped policy objective that FairGRPO trains, with GRPO's estimate of the KL divergence.

With ratio phi = exp(logp - old_logp) and advantage A of the rollout, a token contributes

    -min(phi A, clip(phi, 1 - clip, 1 + clip_high) A) + beta k3,    k3 = exp(d) - d - 1,  d = ref_logp - logp

(Schulman et al. 2017 for the clipping; Shao et al. 2024, eq 4, for k3: unbiased, and never negative). FairGRPO's own
objective (Dai et al., section 3) sums over the tokens of a rollout; the default here is the mean over all tokens, as in
common trainers, because a sum lets long rollouts dominate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, all_reduce_sums, check_process_group
from fairloss.core.dtypes import statistics_dtype
from fairloss.core.tensor_checks import same_device

__all__ = ["LOSS_AGGREGATIONS", "fair_grpo_policy_loss", "k3_kl"]

LOSS_AGGREGATIONS = ("token_mean", "sequence_mean", "sum")


_LARGEST = 60.0
"""Log-ratios count up to here (e^60 = 1e26): beyond, exp overflows in float32, and infinity times the clipping's 0 is NaN."""


def _require(**tensors: Tensor | None) -> None:
    for name, x in tensors.items():
        if x is None:
            raise TypeError(f"{name}: a tensor is needed, None was given")


def _check_logps(**tensors: Tensor | None) -> None:
    """Raise unless each is a tensor of real numbers, all on the first one's device."""
    first: tuple[str, Tensor] | None = None
    for name, x in tensors.items():
        if x is None:
            continue
        if not isinstance(x, Tensor) or x.dtype.is_complex or (name.endswith("logp") and not x.dtype.is_floating_point):
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"{name}: a {'floating-point ' if name.endswith('logp') else ''}tensor is needed, {given} was given"
            )
        first = first or (name, x)
        same_device(name, x, *first)


def k3_kl(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = ref_logp - logp, elementwise: 0 where the two agree, positive elsewhere.

    Its mean over tokens drawn from the policy is KL(policy || reference). d counts up to 60, with no gradient beyond.

    Raises:
        TypeError, ValueError: not floating-point tensors of one shape.

    Example:
        >>> k3_kl(torch.tensor([-1.0]), torch.tensor([-0.5]))
        tensor([0.1487])
    """
    _require(logp=logp, ref_logp=ref_logp)
    _check_logps(logp=logp, ref_logp=ref_logp)
    if logp.shape != ref_logp.shape:
        raise ValueError(f"ref_logp: shape {tuple(logp.shape)} of logp is needed, {tuple(ref_logp.shape)} was given")
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
    loss_agg: str = "token_mean",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Clipped policy loss on log-probabilities of the sampled tokens.

        l_t = -min(phi_t A, clip(phi_t, 1 - clip, 1 + clip_high) A) + beta k3_t,    phi_t = exp(logp_t - old_logp_t)

    0 does not mean solved: at phi = 1 the value is minus the mean advantage, and only the gradient matters.

    Args:
        logp: (B, L) log-probabilities of the tokens under the policy, with gradient.
        old_logp: (B, L), the same under the policy that sampled; None on the first update after sampling, where it equals
            ``logp`` without gradient.
        advantages: (B,) one a rollout, as from ``fair_grpo_advantages(...).flatten()``, or (B, L).
        mask: (B, L) bool or 0/1: the tokens that count. Elsewhere all inputs may hold anything, NaN included.
        clip: how far below 1 the ratio counts, in (0, 1).
        clip_high: how far above 1; None for ``clip``.
        beta: weight of the KL term.
        ref_logp: (B, L) under the reference policy, needed for ``beta`` > 0.
        loss_agg: "token_mean", over all tokens; "sequence_mean", over the rollouts' means; "sum", the paper's: summed in
            each rollout, then the mean over rollouts. Rollouts without tokens are left out of the last two.
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
    clip = checks.number("clip", clip, above=0)
    high = clip if clip_high is None else checks.number("clip_high", clip_high, above=0)
    beta = checks.number("beta", beta, minimum=0)
    checks.choice("loss_agg", loss_agg, LOSS_AGGREGATIONS)
    check_process_group(process_group)
    if clip >= 1:
        raise ValueError(f"clip: {clip} was given; a number between 0 and 1 is needed")
    if beta > 0 and ref_logp is None:
        raise ValueError(f"ref_logp: needed for beta={beta}")
    _require(logp=logp, advantages=advantages, mask=mask)
    _check_logps(logp=logp, old_logp=old_logp, advantages=advantages, mask=mask, ref_logp=ref_logp)
    if logp.ndim != 2:
        raise ValueError(f"logp: shape (B, L) is needed, {tuple(logp.shape)} was given")
    for name, given in (("old_logp", old_logp), ("mask", mask), ("ref_logp", ref_logp)):
        if given is not None and given.shape != logp.shape:
            raise ValueError(f"{name}: shape {tuple(logp.shape)} of logp is needed, {tuple(given.shape)} was given")
    if advantages.shape not in (logp.shape, logp.shape[:1]):
        raise ValueError(
            f"advantages: shape {tuple(logp.shape[:1])} or {tuple(logp.shape)} is needed, "
            f"{tuple(advantages.shape)} was given"
        )
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
    if loss_agg == "token_mean":
        value, weight = tokens.sum(), lengths.sum()
    else:
        rows = tokens.sum(1)
        value = (rows / lengths.clamp(min=1)).sum() if loss_agg == "sequence_mean" else rows.sum()
        weight = (lengths > 0).to(dtype).sum()
    value, weight = all_reduce_sums([value, weight], process_group)
    return value / weight.clamp(min=1)
