"""FairGRPO by naive loops over prompts and rollouts, in float64; nothing here is imported from fairloss."""

import math
from collections import Counter

import numpy as np


def scores(row, eps=1e-6):
    """GRPO's scores of one prompt's rewards (a list, None where unscorable)."""
    kept = [r for r in row if r is not None]
    if len(kept) < 2 or all(r == kept[0] for r in kept):
        return [0.0] * len(row)
    mean = sum(kept) / len(kept)
    std = math.sqrt(sum((r - mean) ** 2 for r in kept) / (len(kept) - 1))
    return [0.0 if r is None else (r - mean) / (std + eps) for r in row]


class Naive:
    """Keeps every reward it has seen, in lists, and starts from them anew for every prompt.

    ``alone``: weights and deviation are scaled by the batch, as those of the function without a past.
    """

    def __init__(
        self, size_power=0.5, reward_power=1.0, max_ratio=10.0, normalize=True, variant="default", eps=1e-6,
        recent=100.0, alone=False,
    ):  # fmt: skip
        self.seen = []
        self.powers, self.max_ratio, self.normalize = (size_power, reward_power), max_ratio, normalize
        self.variant, self.eps, self.recent, self.alone = variant, eps, recent, alone or variant != "default"

    def temperature(self, rows, shift=0.0):
        rewards = [r + shift for row in rows for r in row if r is not None]
        return len(rows) ** self.powers[0] * (sum(rewards) / len(rewards)) ** self.powers[1]

    def weight(self, domain, group, shift=0.0):
        in_domain = [row for row, d, g, _ in self.seen if d == domain]
        in_group = [row for row, d, g, _ in self.seen if d == domain and g == group]
        if domain < 0 or group < 0 or not in_group:
            return None
        t_domain, t_group = self.temperature(in_domain, shift), self.temperature(in_group, shift)
        if self.variant == "released":
            factor = max(t_domain, self.eps) * t_group
            return 1 / factor if factor else 1.0
        if self.variant == "paper":
            return 1 / max(t_domain * t_group, self.eps)
        return 1 / (t_domain * t_group) if t_domain * t_group > 0 else math.inf

    def __call__(self, rewards, domains, groups, shift=0.0):
        """Lists of rows (ragged, None = unscorable) -> list of rows of advantages, list of weights."""
        new = [
            (row, d, g if d >= 0 else -1)  # prompts of unknown domain are together
            for row, d, g in zip(rewards, domains, groups, strict=True)
            if any(r is not None for r in row)
        ]
        arrived = Counter((d, g) for _, d, g in new)
        self.seen = [(row, d, g, c * 0.5 ** (arrived[d, g] / self.recent)) for row, d, g, c in self.seen]
        self.seen += [(*entry, 1.0) for entry in new]
        raw = {(d, g): self.weight(d, g, shift) for d, g in {(d, g) for _, d, g, _ in self.seen}}
        scaling = self.seen[-len(new) :] if self.alone and new else self.seen
        if not self.alone:
            # A cell's prompts count as many as they are, at the rate at which the recent ones are informative.
            number, faded = Counter((d, g) for _, d, g, _ in self.seen), Counter()
            for _, d, g, c in self.seen:
                faded[d, g] += c
            scaling = [(row, d, g, c * number[d, g] / faded[d, g]) for row, d, g, c in scaling]
        scaling = [(raw[d, g], (d, g), scores(row, self.eps), row, c) for row, d, g, c in scaling]
        informative = sorted((w, c) for w, _, s, _, c in scaling if w is not None and any(s))
        if self.variant == "default" and informative:
            total = sum(c for _, c in informative)
            if self.max_ratio is not None:
                below, middle = 0.0, 0
                while below + informative[middle][1] < total / 2 * (1 - 1e-12):
                    below, middle = below + informative[middle][1], middle + 1
                cap = self.max_ratio * informative[middle][0]
                raw = {k: w if w is None else min(w, cap) for k, w in raw.items()}
                informative = [(min(w, cap), c) for w, c in informative]
            mean = sum(w * c for w, c in informative) / total
            raw = {k: 1.0 if w is None else w / mean for k, w in raw.items()}
        elif self.variant == "default":
            raw = dict.fromkeys(raw, 1.0)
        neutral = 1.0
        if informative and self.variant != "default":
            neutral = sum(w for w, _ in informative) / len(informative)
        raw = {k: neutral if w is None else w for k, w in raw.items()}
        weights = [raw.get(cell, neutral) for cell in zip(domains, groups, strict=True)]
        s = [scores(row, self.eps) for row in rewards]
        scaled = [[w * v if v else 0.0 for v in row] for w, row in zip(weights, s, strict=True)]
        if self.normalize and self.alone:
            flat = [
                v for row, r in zip(scaled, rewards, strict=True) for v, x in zip(row, r, strict=True) if x is not None
            ]
            std = float(np.std(flat, ddof=1)) if len(flat) > 1 else 0.0
            eps = 0.0 if self.variant == "paper" else self.eps
            scaled = [[v / (std + eps) if v else 0.0 for v in row] for row in scaled]
        elif self.normalize:
            told = [(raw[cell], s, sum(r is not None for r in row), c) for _, cell, s, row, c in scaling if any(s)]
            if told:
                prompts, rollouts = sum(c for *_, c in told), sum(n * c for _, _, n, c in told)
                squares = sum(c * w**2 * sum(v**2 for v in s) for w, s, _, c in told)
                std = math.sqrt(squares / (rollouts - min(1.0, prompts)))
                scaled = [[v / (std + self.eps) for v in row] for row in scaled]
        return scaled, weights


def policy_loss(logp, old, advantages, mask, clip=0.2, high=0.2, beta=0.0, ref=None, agg="token_mean"):
    """The clipped objective by a loop over tokens."""
    rows = []
    for b in range(len(logp)):
        row = []
        for t in range(len(logp[b])):
            if mask[b][t]:
                ratio = math.exp(logp[b][t] - old[b][t])
                clipped = min(max(ratio, 1 - clip), 1 + high)
                value = -min(ratio * advantages[b], clipped * advantages[b])
                if beta:
                    d = ref[b][t] - logp[b][t]
                    value += beta * (math.exp(d) - d - 1)
                row.append(value)
        if row:
            rows.append(row)
    if agg == "token_mean":
        return sum(map(sum, rows)) / sum(map(len, rows))
    if agg == "sequence_mean":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    return sum(map(sum, rows)) / len(rows)
