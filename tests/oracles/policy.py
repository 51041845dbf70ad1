"""FairGRPO by naive loops over prompts and rollouts, in float64; nothing here is imported from fairloss."""

import math

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
    """Keeps every reward it has seen, in lists, and starts from them anew for every prompt."""

    def __init__(self, size_power=0.5, reward_power=1.0, max_ratio=10.0, normalize=True, variant="default", eps=1e-6):
        self.seen = []
        self.powers, self.max_ratio, self.normalize = (size_power, reward_power), max_ratio, normalize
        self.variant, self.eps = variant, eps

    def temperature(self, rows, shift=0.0):
        rewards = [r + shift for row in rows for r in row if r is not None]
        return len(rows) ** self.powers[0] * (sum(rewards) / len(rewards)) ** self.powers[1]

    def weights(self, domains, groups, shift=0.0):
        out = []
        for domain, group in zip(domains, groups, strict=True):
            in_domain = [row for row, d, g in self.seen if d == domain]
            in_group = [row for row, d, g in self.seen if d == domain and g == group]
            if domain < 0 or group < 0 or not in_group:
                out.append(None)
                continue
            t_domain, t_group = self.temperature(in_domain, shift), self.temperature(in_group, shift)
            if self.variant == "released":
                factor = max(t_domain, self.eps) * t_group
                out.append(1 / factor if factor else 1.0)
            elif self.variant == "paper":
                out.append(1 / max(t_domain * t_group, self.eps))
            else:
                out.append(1 / (t_domain * t_group) if t_domain * t_group > 0 else math.inf)
        return out

    def __call__(self, rewards, domains, groups, shift=0.0):
        """Lists of rows (ragged, None = unscorable) -> list of rows of advantages, list of weights."""
        self.seen += [
            (row, d, g) for row, d, g in zip(rewards, domains, groups, strict=True) if any(r is not None for r in row)
        ]
        s = [scores(row, self.eps) for row in rewards]
        weights = self.weights(domains, groups, shift)
        informative = sorted(w for w, row in zip(weights, s, strict=True) if w is not None and any(row))
        if self.variant == "default" and informative:
            if self.max_ratio is not None:
                cap = self.max_ratio * informative[(len(informative) - 1) // 2]
                weights = [w if w is None else min(w, cap) for w in weights]
                informative = [min(w, cap) for w in informative]
            mean = sum(informative) / len(informative)
            weights = [1.0 if w is None else w / mean for w in weights]
        neutral = sum(informative) / len(informative) if informative and self.variant != "default" else 1.0
        weights = [neutral if w is None else w for w in weights]
        scaled = [[w * v if v else 0.0 for v in row] for w, row in zip(weights, s, strict=True)]
        if self.normalize:
            flat = [
                v for row, r in zip(scaled, rewards, strict=True) for v, x in zip(row, r, strict=True) if x is not None
            ]
            std = float(np.std(flat, ddof=1)) if len(flat) > 1 else 0.0
            eps = 0.0 if self.variant == "paper" else self.eps
            scaled = [[v / (std + eps) if v else 0.0 for v in row] for row in scaled]
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
