"""Device code of the FairGRPO advantages: the kernels that :mod:`fairloss.ops.advantages` launches, in order.

Numbers that a run keeps fixed (sizes, powers, eps) are compiled in; as run-time arguments Triton would round them to float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fairloss.ops.fair_grpo_setting import FORGOTTEN, HALF, MEAN_FLOOR, RECENT, ROUNDING, WEIGHT_CEILING

__all__ = ["cell_weights_kernel", "scale_scores_kernel", "score_prompts_kernel"]

_FLOOR, _CEILING, _ROUNDING = tl.constexpr(MEAN_FLOOR), tl.constexpr(WEIGHT_CEILING), tl.constexpr(ROUNDING)
_FORGOTTEN, _HALF, _RECENT = tl.constexpr(FORGOTTEN), tl.constexpr(HALF), tl.constexpr(RECENT)


@triton.jit
def _wide(x: tl.constexpr):
    """A constant in float64: a bare number is float32 in some versions of Triton."""
    return tl.full((1, 1), x, tl.float64)


@triton.jit
def _scalar(x: tl.constexpr):
    """The same as a scalar."""
    return tl.sum(tl.full((1,), x, tl.float64), 0)


@triton.jit(do_not_specialize=["prompts", "steps"])
def score_prompts_kernel(rewards, domains, slots, scores, partials, lows, prompts, steps, rollouts,
                         DOMAINS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, EPS: tl.constexpr,
                         NOISE: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_R: tl.constexpr, CELLS: tl.constexpr):  # fmt: skip
    """Scores (Q, R), (programs, 6, (D + 1) W) sums, and (programs,) lowest rewards.

    Sums of prompts, rollouts and rewards; of informative prompts, their rollouts and squared scores.
    """
    program = tl.program_id(0)
    cell_ids = tl.arange(0, CELLS)
    a0 = tl.zeros((CELLS,), tl.float64)
    a1 = tl.zeros((CELLS,), tl.float64)
    a2 = tl.zeros((CELLS,), tl.float64)
    a3 = tl.zeros((CELLS,), tl.float64)
    a4 = tl.zeros((CELLS,), tl.float64)
    a5 = tl.zeros((CELLS,), tl.float64)
    low = tl.full((BLOCK_Q,), float("inf"), tl.float64)
    for step in range(steps):
        q = tl.cast(program, tl.int64) * steps * BLOCK_Q + step * BLOCK_Q + tl.arange(0, BLOCK_Q)
        r = tl.arange(0, BLOCK_R)
        inside = (q[:, None] < prompts) & (r[None, :] < rollouts)
        at = q[:, None] * rollouts + r[None, :]
        reward = tl.load(rewards + at, mask=inside, other=float("nan"))
        scorable = reward == reward
        value = tl.where(scorable, reward, 0.0)
        count = tl.sum(tl.where(scorable, 1.0, 0.0).to(value.dtype), 1)
        mean = tl.sum(value, 1) / tl.maximum(count, 1.0)
        deviation = tl.where(scorable, value - mean[:, None], 0.0)
        std = tl.sqrt(tl.sum(deviation * deviation, 1) / tl.maximum(count - 1.0, 1.0))
        highest = tl.max(tl.where(scorable, reward, float("-inf")), 1)
        lowest = tl.min(tl.where(scorable, reward, float("inf")), 1)
        # As :meth:`fairloss.policy.rewards.Rows.scores`; infinite rewards are no rounding.
        size = tl.maximum(tl.abs(highest), tl.abs(lowest))
        informative = (highest > lowest) & ((highest - lowest > size * NOISE) | (size == float("inf")))
        low = tl.minimum(low, lowest.to(tl.float64))
        score = tl.where(informative[:, None], deviation / (std[:, None] + EPS), 0.0)
        tl.store(scores + at, score, mask=inside)
        domain = tl.load(domains + q, mask=q < prompts, other=0)
        slot = tl.load(slots + q, mask=q < prompts, other=0)
        cell = tl.where(domain < 0, DOMAINS * WIDTH + GROUPS, tl.maximum(domain, 0) * WIDTH + slot)
        mine = (cell[:, None] == cell_ids[None, :]) & (q[:, None] < prompts)
        wide = score.to(tl.float64)
        a0 += tl.sum(tl.where(mine, tl.where(count > 0, 1.0, 0.0).to(tl.float64)[:, None], 0.0), 0)
        a1 += tl.sum(tl.where(mine, count.to(tl.float64)[:, None], 0.0), 0)
        a2 += tl.sum(tl.where(mine, tl.sum(value.to(tl.float64), 1)[:, None], 0.0), 0)
        a3 += tl.sum(tl.where(mine, tl.where(informative, 1.0, 0.0).to(tl.float64)[:, None], 0.0), 0)
        a4 += tl.sum(tl.where(mine, tl.where(informative, count, 0.0).to(tl.float64)[:, None], 0.0), 0)
        a5 += tl.sum(tl.where(mine, tl.sum(wide * wide, 1)[:, None], 0.0), 0)
    TOTAL: tl.constexpr = (DOMAINS + 1) * WIDTH
    out = partials + program * 6 * TOTAL + cell_ids
    tl.store(out, a0, mask=cell_ids < TOTAL)
    tl.store(out + TOTAL, a1, mask=cell_ids < TOTAL)
    tl.store(out + 2 * TOTAL, a2, mask=cell_ids < TOTAL)
    tl.store(out + 3 * TOTAL, a3, mask=cell_ids < TOTAL)
    tl.store(out + 4 * TOTAL, a4, mask=cell_ids < TOTAL)
    tl.store(out + 5 * TOTAL, a5, mask=cell_ids < TOTAL)
    tl.store(lows + program, tl.min(low, 0))


@triton.jit
def _total(partials, statistic: tl.constexpr, PROGRAMS: tl.constexpr, DOMAINS: tl.constexpr, WIDTH: tl.constexpr,
           BD: tl.constexpr, BW: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """(BD, BW) sums of one statistic over the programs, 0 outside the table."""
    TOTAL: tl.constexpr = (DOMAINS + 1) * WIDTH
    cell = tl.arange(0, BD * BW)
    inside = (cell // BW <= DOMAINS) & (cell % BW < WIDTH)
    at = partials + statistic * TOTAL + (cell // BW) * WIDTH + cell % BW
    total = tl.zeros((BD * BW,), tl.float64)
    for start in tl.static_range(0, PROGRAMS, CHUNK):
        program = start + tl.arange(0, CHUNK)
        parts = tl.load(at[None, :] + program[:, None] * (6 * TOTAL), mask=inside[None, :], other=0.0)
        total += tl.sum(parts, 0)
    return tl.reshape(total, (BD, BW))


@triton.jit
def _join_unknown(x, d, w, DOMAINS: tl.constexpr, GROUPS: tl.constexpr):
    """Cells with clusters and the rest of the unknown joined in the column ``GROUPS``."""
    rest = tl.sum(tl.where(w >= GROUPS, x, 0.0), 1)
    return tl.where(d <= DOMAINS, tl.where(w < GROUPS, x, tl.where(w == GROUPS, rest[:, None], 0.0)), 0.0)


@triton.jit
def _in_all(x):
    """Sum of a table."""
    return tl.sum(tl.sum(x, 1), 0)


@triton.jit
def _remember(x, plane: tl.constexpr, past, factor, batch_out, totals_out, d, w, DOMAINS: tl.constexpr,
              GROUPS: tl.constexpr, HAS_PAST: tl.constexpr, INCLUDE: tl.constexpr):  # fmt: skip
    """One plane of the batch's sums and of the totals, which it returns."""
    inside = (d <= DOMAINS) & (w <= GROUPS)
    at = plane * (DOMAINS + 1) * (GROUPS + 1) + d * (GROUPS + 1) + w
    x = _join_unknown(x, d, w, DOMAINS, GROUPS)
    tl.store(batch_out + at, x, mask=inside)
    if HAS_PAST:
        before = tl.load(past + at, mask=inside, other=0.0)
        x = x + before * factor if INCLUDE else before
    tl.store(totals_out + at, x, mask=inside)
    return x


@triton.jit
def _split_unknown(x, share, d, w, DOMAINS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """What clusters have of the column of the unknown; the rest stays."""
    if WIDTH > GROUPS + 1:
        pool = tl.sum(tl.where(w == GROUPS, x, 0.0), 1)[:, None]
        found = (d < DOMAINS) & (w > GROUPS) & (w < WIDTH)
        placed = tl.load(share + d * (WIDTH - GROUPS - 1) + w - GROUPS - 1, mask=found, other=0.0) * pool
        rest = tl.sum(placed, 1)[:, None]
        x = tl.where(w < GROUPS, x, tl.where(w == GROUPS, x - rest, placed))
    return x


@triton.jit
def _ratio(a, b):
    return tl.where(b > 0, a / tl.where(b > 0, b, 1.0), 0.0)


@triton.jit
def _at_least(x, low):
    """``clamp(min=low)``: a NaN stays one, which ``tl.maximum`` alone would replace."""
    return tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _at_most(x, high):
    return tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _add_shift(mean, shift):
    """``mean + shift``, 0 where nothing but rounding is left of the sum."""
    shifted = mean + shift
    # The constant on the right: on the left Triton 3.8's interpreter does not know the product for a tensor.
    return tl.where(tl.abs(shifted) <= tl.abs(shift) * _ROUNDING, 0.0, shifted)


@triton.jit
def _power(x, P: tl.constexpr, NEGATIVE: tl.constexpr):
    """Power x ** P; ``NEGATIVE`` is (-1) ** P, 0 where that is no real number."""
    size = tl.exp(P * tl.log(tl.where(x == 0, 1.0, tl.abs(x))))
    at_zero: tl.constexpr = 1.0 if P == 0 else 0.0
    below = NEGATIVE * size if NEGATIVE != 0 else size * float("nan")
    return tl.where(x == 0, at_zero, tl.where(x > 0, size, below))


@triton.jit
def _next_digit(bits, counts, found, half, SHIFT: tl.constexpr, BITS: tl.constexpr):
    """``found`` with the next ``BITS`` bits of the median set."""
    digit = tl.arange(0, 1 << BITS).to(tl.uint64)
    candidate = found + (digit << SHIFT) + ((1 << SHIFT) - 1)
    below = tl.sum(tl.where(bits[:, None] <= candidate[None, :], counts[:, None], 0.0), 0)
    place = tl.sum(tl.where(below < half, 1, 0), 0)
    return found + (place.to(tl.uint64) << SHIFT)


@triton.jit
def _median(values, counts, BITS: tl.constexpr):
    """Lower median of positive values, each counted ``counts`` times: the bits of positive floats are ordered as they are.

    The answer's bits are found from the top, ``BITS`` at a time, each time by the counts at or below every candidate.
    """
    half = tl.sum(counts, 0) * _scalar(_HALF)
    bits = values.to(tl.uint64, bitcast=True)
    found = tl.sum(tl.where(counts >= 0, 0, 1), 0).to(tl.uint64)  # 0
    for level in tl.static_range(64 // BITS):
        found = _next_digit(bits, counts, found, half, 64 - BITS * (level + 1), BITS)
    return found.to(tl.float64, bitcast=True)


@triton.jit
def cell_weights_kernel(partials, lows, past, past_low, share, cluster_mean, cluster_signal,
                        table, counts_out, means_out, totals_out, batch_out, low_out, shift_out, factor,
                        DOMAINS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, PROGRAMS: tl.constexpr,
                        LOWS: tl.constexpr, HAS_PAST: tl.constexpr, SHIFT: tl.constexpr, AMOUNT: tl.constexpr,
                        HISTORY: tl.constexpr, HALF_LIFE: tl.constexpr, INCLUDE: tl.constexpr, BY_HISTORY: tl.constexpr,
                        VARIANT: tl.constexpr, NORMALIZE: tl.constexpr, MAX_RATIO: tl.constexpr,
                        SIZE_POWER: tl.constexpr, REWARD_POWER: tl.constexpr, NEGATIVE_REWARD: tl.constexpr, EPS: tl.constexpr,
                        BD: tl.constexpr, BW: tl.constexpr, CHUNK: tl.constexpr, BITS: tl.constexpr):  # fmt: skip
    """Weights of all cells, the totals they rest on, and what the weighted scores are multiplied by."""
    d = tl.arange(0, BD)[:, None]
    w = tl.arange(0, BW)[None, :]
    cells = (d < DOMAINS) & (w < WIDTH)
    prompts_all = _total(partials, 0, PROGRAMS, DOMAINS, WIDTH, BD, BW, CHUNK)
    rollouts_all = _total(partials, 1, PROGRAMS, DOMAINS, WIDTH, BD, BW, CHUNK)
    rewards = _total(partials, 2, PROGRAMS, DOMAINS, WIDTH, BD, BW, CHUNK)
    informative = _total(partials, 3, PROGRAMS, DOMAINS, WIDTH, BD, BW, CHUNK)
    signal = _total(partials, 4, PROGRAMS, DOMAINS, WIDTH, BD, BW, CHUNK)
    squares = _total(partials, 5, PROGRAMS, DOMAINS, WIDTH, BD, BW, CHUNK)
    fade = tl.exp2(_join_unknown(prompts_all, d, w, DOMAINS, GROUPS) * (-1.0 / _scalar(_RECENT)))
    kept = _scalar(1.0)
    if HISTORY == "ema":
        kept = tl.exp2(_in_all(prompts_all) * (-1.0 / _scalar(HALF_LIFE)))
    if HISTORY == "batch":
        kept = _scalar(0.0)
        fade = fade * 0.0
    prompts = _remember(prompts_all, 0, past, kept, batch_out, totals_out, d, w, DOMAINS, GROUPS, HAS_PAST, INCLUDE)
    rollouts = _remember(rollouts_all, 1, past, kept, batch_out, totals_out, d, w, DOMAINS, GROUPS, HAS_PAST, INCLUDE)
    rewards = _remember(rewards, 2, past, kept, batch_out, totals_out, d, w, DOMAINS, GROUPS, HAS_PAST, INCLUDE)
    t3 = _remember(informative, 3, past, fade, batch_out, totals_out, d, w, DOMAINS, GROUPS, HAS_PAST, INCLUDE)
    t4 = _remember(signal, 4, past, fade, batch_out, totals_out, d, w, DOMAINS, GROUPS, HAS_PAST, INCLUDE)
    t5 = _remember(squares, 5, past, fade, batch_out, totals_out, d, w, DOMAINS, GROUPS, HAS_PAST, INCLUDE)
    since = _remember(prompts_all, 6, past, fade, batch_out, totals_out, d, w, DOMAINS, GROUPS, HAS_PAST, INCLUDE)
    if BY_HISTORY:
        rate = _ratio(prompts, since)
        informative = _split_unknown(t3 * rate, cluster_signal, d, w, DOMAINS, GROUPS, WIDTH)
        signal = _split_unknown(t4 * rate, cluster_signal, d, w, DOMAINS, GROUPS, WIDTH)
        squares = _split_unknown(t5 * rate, cluster_signal, d, w, DOMAINS, GROUPS, WIDTH)
    seen = _in_all(informative)

    part = tl.arange(0, 64)
    low = tl.min(tl.load(lows + part, mask=part < LOWS, other=float("inf")), 0)
    tl.store(low_out, low)
    if HAS_PAST:
        before = tl.load(past_low)
        if INCLUDE:
            if HISTORY != "batch":
                low = tl.minimum(low, before)
        else:
            low = before
    if SHIFT == "number":
        shift = _scalar(AMOUNT)
    else:
        shift = tl.where(tl.abs(low) < float("inf"), -low, 0.0)
        if SHIFT == "auto":
            shift = tl.maximum(shift, 0.0)
    tl.store(shift_out, shift)

    counts = tl.where(w < GROUPS, prompts, 0.0)
    means = _ratio(rewards, rollouts)
    if WIDTH > GROUPS + 1:
        pool = tl.sum(tl.where(w == GROUPS, prompts, 0.0), 1)
        found = (d < DOMAINS) & (w > GROUPS) & (w < WIDTH)
        of_cluster = d * (WIDTH - GROUPS - 1) + w - GROUPS - 1
        counts = tl.where(found, tl.load(share + of_cluster, mask=found, other=0.0) * pool[:, None], counts)
        means = tl.where(found, tl.load(cluster_mean + of_cluster, mask=found, other=0.0), means)
    tl.store(counts_out + d * WIDTH + w, counts, mask=cells)
    tl.store(means_out + d * WIDTH + w, means, mask=cells)
    means = _add_shift(means, shift)
    domain_count = tl.sum(prompts, 1)[:, None]
    domain_mean = _add_shift(_ratio(tl.sum(rewards, 1), tl.sum(rollouts, 1))[:, None], shift)
    known = (counts > 0) & cells
    filled = tl.where(known, counts, 1.0)
    informative = tl.where(known, informative, 0.0)
    if BY_HISTORY == 0:
        # Without an informative prompt all scores are 0; the weights still compare groups, over the prompts that are there.
        informative = tl.where(_in_all(informative) > 0, informative, tl.where(known, prompts_all, 0.0))
    some = _in_all(informative)
    if VARIANT == "default":
        t_domain = SIZE_POWER * tl.log(_at_least(domain_count, _wide(1e-300))) + REWARD_POWER * tl.log(
            _at_least(domain_mean, _wide(_FLOOR))
        )
        t_group = SIZE_POWER * tl.log(filled) + REWARD_POWER * tl.log(_at_least(means, _wide(_FLOOR)))
        weights = tl.exp(-(t_domain + t_group))
        if MAX_RATIO > 0:
            middle = _median(tl.reshape(weights, (BD * BW,)), tl.reshape(informative, (BD * BW,)), BITS)
            weights = _at_most(weights, MAX_RATIO * middle)
        average = _ratio(_in_all(tl.where(informative > 0, weights * informative, 0.0)), some)
        weights = _at_most(weights / tl.where(average > 0, average, 1.0), _wide(_CEILING))
        weights = tl.where(some > _scalar(_FORGOTTEN), weights, 1.0)
        neutral = some * 0.0 + 1.0
    else:
        t_domain = _power(domain_count, SIZE_POWER, 1) * _power(domain_mean, REWARD_POWER, NEGATIVE_REWARD)
        t_group = _power(filled, SIZE_POWER, 1) * _power(means, REWARD_POWER, NEGATIVE_REWARD)
        if VARIANT == "released":
            # A comparison that NaN fails: a NaN stays one, and the score is left as it is.
            temperature = tl.where(t_domain < EPS, _wide(EPS), t_domain) * t_group
            usable = tl.abs(temperature) > 0
            weights = tl.where(usable, 1.0 / tl.where(usable, temperature, 1.0), 1.0)
        else:
            temperature = t_domain * t_group
            weights = 1.0 / tl.maximum(tl.where(temperature == temperature, temperature, 0.0), _wide(EPS))
        neutral = _ratio(_in_all(tl.where(informative > 0, weights * informative, 0.0)), some)
        neutral = tl.where(neutral > 0, neutral, 1.0)
    weights = tl.where(known, weights, neutral)
    tl.store(table + d * WIDTH + w, weights, mask=(d <= DOMAINS) & (w < WIDTH))
    if NORMALIZE:
        # Padding holds zeros, and so do cells without a score, whatever their weight.
        square = _in_all(weights * weights * squares)
        if BY_HISTORY:
            degrees = tl.maximum(_in_all(signal) - tl.minimum(seen, 1.0), _scalar(1e-300))
            std = tl.sqrt(square / degrees) + EPS
            tl.store(factor, 1.0 / tl.where(seen > _scalar(_FORGOTTEN), std, 1.0))
        else:
            std = tl.sqrt(square / tl.maximum(_in_all(rollouts_all) - 1.0, 1.0))
            if VARIANT == "paper":
                tl.store(factor, tl.where(std > 0, 1.0 / tl.where(std > 0, std, 1.0), 0.0))
            else:
                tl.store(factor, 1.0 / (std + EPS))
    else:
        tl.store(factor, some * 0.0 + 1.0)


@triton.jit(do_not_specialize=["rows"])
def scale_scores_kernel(scores, domains, slots, table, factor, mask, advantages, weights, tokens, rows, rollouts, length,
                        DOMAINS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, HAS_MASK: tl.constexpr,
                        BLOCK_B: tl.constexpr, BLOCK_L: tl.constexpr):  # fmt: skip
    """Advantages (B,), weights (Q,), and with a mask (B, L) tokens: the rollout's advantage where the mask is not 0."""
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    q = b // rollouts
    domain = tl.load(domains + q, mask=b < rows, other=0)
    slot = tl.load(slots + q, mask=b < rows, other=0)
    cell = tl.where(domain < 0, DOMAINS * WIDTH + GROUPS, tl.maximum(domain, 0) * WIDTH + slot)
    weight = tl.load(table + cell, mask=b < rows, other=0.0)
    score = tl.load(scores + b, mask=b < rows, other=0.0)
    value = (score.to(tl.float64) * weight * tl.load(factor)).to(score.dtype)
    if tl.program_id(1) == 0:
        tl.store(advantages + b, value, mask=b < rows)
        tl.store(weights + q, weight.to(score.dtype), mask=(b < rows) & (b % rollouts == 0))
    if HAS_MASK:
        column = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)
        inside = (b[:, None] < rows) & (column[None, :] < length)
        at = b[:, None] * length + column[None, :]
        counts = tl.load(mask + at, mask=inside, other=0) != 0
        tl.store(tokens + at, tl.where(counts, value[:, None], 0.0), mask=inside)
