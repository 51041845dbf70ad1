"""Groups for prompts without labels: k-means on how well their rollouts do, within each domain, on the host.

FairGRPO (Dai et al., section 3, "group discovery") clusters the reward vectors of unlabelled prompts, so that prompts of
like difficulty are weighted alike. :class:`Discovery` differs from the authors' code, which :class:`ReleasedDiscovery`
follows, in that it

- clusters quantiles of a prompt's rewards: rollouts have no order, and permuting them changed the authors' advantages by
  up to half; prompts with different numbers of rollouts fit together, too;
- remembers a bounded uniform sample per domain; the authors' code refits on every vector ever seen;
- chooses k by silhouette, 1 if no split is clear (below 0.25), or if prompts differ by no more than rollouts of one prompt do
  (an F test at 1 %): without that test the silhouette, too, splits prompts of one difficulty by their luck, in 30 sets of
  30. The authors' elbow with k up to 3 nearly always returns 3, and is here as ``num_clusters="elbow"``.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.core.distributed import ProcessGroup, gather_rows
from fairloss.core.state import StatefulModule
from fairloss.ops.fair_grpo_setting import History
from fairloss.policy.weights import Clusters

__all__ = [
    "ClusterRule",
    "Discovery",
    "Proposal",
    "ReleasedDiscovery",
    "choose_clusters",
    "quantile_features",
]

Array = npt.NDArray[Any]
ClusterRule = Literal["silhouette", "elbow"]

_ELBOW_TOLERANCE = 0.10
_CLEAR_SPLIT = 0.25
_MOST_CLUSTERS = 3


class Proposal(NamedTuple):
    """Clusters for one batch, and the memory to keep if the batch counts."""

    labels: Tensor
    """(n,) int64 cluster of each prompt, in the order given."""
    clusters: Clusters
    memory: tuple[Tensor, Tensor]


def quantile_features(rewards: Tensor, num_features: int) -> Tensor:
    """(n, R) rewards, NaN where missing -> (n, F + 3): F evenly spaced quantiles of each row (linear), then its mean, its sum
    of squared deviations from the mean, and its number of rewards.
    """
    counts = (~torch.isnan(rewards)).sum(1)
    ordered = torch.nan_to_num(rewards, nan=torch.inf).sort(1).values
    levels = torch.linspace(0, 1, num_features, dtype=torch.float64, device=rewards.device)
    position = levels * (counts - 1).clamp(min=0).unsqueeze(1)
    low = position.floor()
    at = ordered.to(torch.float64).gather(1, low.long())
    above = ordered.to(torch.float64).gather(1, position.ceil().long())
    quantiles = at + (position - low) * (above - at)
    means = torch.nansum(rewards.to(torch.float64), 1, keepdim=True) / counts.clamp(min=1).unsqueeze(1)
    squares = torch.nansum((rewards.to(torch.float64) - means).square(), 1, keepdim=True)
    return torch.cat([quantiles, means, squares, counts.unsqueeze(1)], 1).to(torch.float32)


def differ(means: Array, squares: Array, counts: Array, level: float = 0.01) -> bool:
    """Whether prompts' mean rewards differ by more than their rollouts explain: the F test of one-way analysis of variance.

    Args:
        means: (n,) mean reward of each prompt.
        squares: (n,) sum of squared deviations from it.
        counts: (n,) rollouts.
        level: chance of saying so of prompts that do not differ.
    """
    from scipy.stats import f

    between, within = len(means) - 1, counts.sum() - len(means)
    if between < 1 or within < 1:
        return False
    grand = (counts * means).sum() / counts.sum()
    explained, noise = (counts * (means - grand) ** 2).sum() / between, squares.sum() / within
    return bool(f.sf(explained / noise, between, within) < level) if noise > 0 else bool(explained > 0)


def _kmeans(points: Array, k: int, seed: int, n_init: int | str) -> Any:
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters cannot occur: k is bounded by them
        return KMeans(n_clusters=k, random_state=seed, n_init=n_init).fit(points)


def choose_clusters(points: Array, rule: ClusterRule | int, seed: int, n_init: int | str) -> Any:
    """The fitted k-means of ``points`` (n, F), with k by ``rule``: "silhouette", "elbow", or a number; never more than
    there are distinct points.
    """
    distinct = len(np.unique(points, axis=0))
    if isinstance(rule, int):
        return _kmeans(points, min(rule, distinct), seed, n_init)
    fits = [_kmeans(points, k, seed, n_init) for k in range(1, min(_MOST_CLUSTERS, distinct) + 1)]
    if len(fits) == 1:
        return fits[0]
    if rule == "elbow":
        drops = -np.diff([fit.inertia_ for fit in fits])
        for i in range(1, len(drops)):
            if drops[i] < _ELBOW_TOLERANCE * drops[i - 1]:
                return fits[i]
        return fits[-1]
    from sklearn.metrics import silhouette_score

    # As many clusters as points leave every point alone, which the score is not defined for.
    scores = [silhouette_score(points, fit.labels_) if fit.n_clusters < len(points) else -1.0 for fit in fits[1:]]
    best = int(np.argmax(scores))
    return fits[1 + best] if scores[best] >= _CLEAR_SPLIT else fits[0]


class _Collected:
    """Each domain's clusters, and the cluster of each of a batch's prompts: (n, F) ``own`` points in (n,) ``domains``."""

    def __init__(self, num_domains: int, width: int, own: Array, domains: Array) -> None:
        self.share, self.mean, self.informative = np.zeros((3, num_domains, width))
        self.own, self.domains, self.labels = own, domains, np.zeros(len(domains), dtype=np.int64)

    def add(self, domain: int, fit: Any, nearest: Any, means: Array, informative: Array) -> None:
        """Shares of a fit's points, of the ``informative`` (n,) bool ones, and its clusters' ``means``.

        ``nearest`` gives points their clusters.
        """
        k = fit.n_clusters
        self.share[domain, :k], self.mean[domain, :k] = np.bincount(fit.labels_, minlength=k) / len(fit.labels_), means
        among = informative if informative.any() else ~informative
        self.informative[domain, :k] = np.bincount(fit.labels_[among], minlength=k) / among.sum()
        mine = self.domains == domain
        if mine.any():
            self.labels[mine] = nearest(self.own[mine])

    def proposal(self, device: torch.device, memory: tuple[Tensor, Tensor]) -> Proposal:
        """What was collected, on ``device``."""
        tables = (self.labels, self.share, self.mean, self.informative)
        labels, share, mean, informative = (torch.from_numpy(x).to(device) for x in tables)
        return Proposal(labels, Clusters(share, mean, informative), memory)


class Discovery(StatefulModule):
    """K-means on quantiles of the rewards of a bounded sample of each domain's unknown prompts.

    Args:
        num_domains: number of domains.
        num_clusters: "silhouette" (with the F test), "elbow", or a fixed number.
        num_features: quantiles per prompt.
        reservoir_size: prompts remembered per domain. Under "cumulative" they are a uniform sample of all that were seen;
            under "ema" a new prompt takes a random place, so that old ones fade; under "batch" only the last batch.
        seed: of the sample and of k-means; equal seeds, equal results, also after a resumed run.
        mode: the history's.
    """

    features: Tensor
    """(D, reservoir_size, num_features + 3) float32, as :func:`quantile_features`."""
    seen: Tensor
    """(D,) int64 unknown prompts ever seen."""

    def __init__(
        self,
        num_domains: int,
        num_clusters: ClusterRule | int = "silhouette",
        num_features: int = 8,
        reservoir_size: int = 512,
        seed: int = 0,
        mode: History = "cumulative",
    ) -> None:
        super().__init__()
        if isinstance(num_clusters, str):
            checks.choice("num_clusters", num_clusters, get_args(ClusterRule))
            self.width = _MOST_CLUSTERS
        else:
            self.width = checks.integer("num_clusters", num_clusters, minimum=1)
        self.rule, self.mode = num_clusters, mode
        self.num_features = checks.integer("num_features", num_features, minimum=2)
        self.reservoir_size = checks.integer("reservoir_size", reservoir_size, minimum=2)
        self.seed = checks.integer("seed", seed, minimum=0)
        self._fits: dict[int, tuple[Array, Any]] = {}
        self.register_state("features", (num_domains, reservoir_size, num_features + 3), torch.float32)
        self.register_state("seen", (num_domains,), torch.int64)

    def propose(
        self, rewards: Tensor, domains: Tensor, *, include: bool, process_group: ProcessGroup | None = None
    ) -> Proposal:
        """Clusters for unknown prompts: (n, R) rewards, NaN where missing, and (n,) domains >= 0; changes nothing."""
        own = quantile_features(rewards, self.num_features)
        all_points = gather_rows(own, process_group).cpu().numpy()
        all_domains = gather_rows(domains, process_group).cpu().numpy()
        memory, seen = self.features.cpu().numpy().copy(), self.seen.cpu().numpy().copy()
        points = own[:, :-3].cpu().numpy().astype(np.float64)
        collected = _Collected(len(seen), self.width, points, domains.cpu().numpy())
        if include:
            for domain in np.unique(all_domains).tolist():
                arrivals = all_points[all_domains == domain]
                seen[domain] = self._push(memory[domain], int(seen[domain]), arrivals, domain)
        # Every domain, whether the batch has prompts of it or not: all weights are scaled together.
        for domain in np.flatnonzero(seen).tolist():
            held = memory[domain, : min(int(seen[domain]), self.reservoir_size)]
            # In one order whatever the order of arrival, because k-means starts from points by their place.
            held = held[np.lexsort(held.T)].astype(np.float64)
            fit = self._fit(domain, held)
            total, rollouts = (
                np.bincount(fit.labels_, w, fit.n_clusters) for w in (held[:, -3] * held[:, -1], held[:, -1])
            )

            def nearest(x: Array, centers: Array = fit.cluster_centers_) -> Array:
                # Point by point, so that a prompt's cluster does not depend on which others are asked for.
                labels: Array = ((x[:, None] - centers) ** 2).sum(-1).argmin(1)
                return labels

            # The first and the last quantile are the prompt's lowest and highest reward.
            collected.add(domain, fit, nearest, total / rollouts.clip(min=1), held[:, 0] < held[:, -4])
        state = torch.from_numpy(memory).to(self.features.device), torch.from_numpy(seen).to(self.seen.device)
        return collected.proposal(domains.device, state)

    def _fit(self, domain: int, held: Array) -> Any:
        """The clusters of a domain's sample; made anew where the sample has changed."""
        if domain not in self._fits or not np.array_equal(self._fits[domain][0], held):
            rule = self.rule
            if rule == "silhouette" and not differ(held[:, -3], held[:, -2], held[:, -1]):
                rule = 1
            self._fits[domain] = held, choose_clusters(held[:, :-3], rule, self.seed, 4)
        return self._fits[domain][1]

    def _push(self, memory: Array, seen: int, arrivals: Array, domain: int) -> int:
        """Write ``arrivals`` into ``memory`` in place; returns how many prompts were seen."""
        if self.mode == "batch":
            seen = 0
        # Drawn from the seed and the position in the stream: resuming needs no generator state.
        draws = np.random.default_rng([self.seed, domain, seen]).random(len(arrivals))
        for point, draw in zip(arrivals, draws, strict=True):
            bound = self.reservoir_size if self.mode == "ema" else seen + 1
            place = seen if seen < self.reservoir_size else int(draw * bound)
            if place < self.reservoir_size:
                memory[place] = point
            seen += 1
        return seen

    def commit(self, proposal: Proposal) -> None:
        """Keep the memory that a proposal with ``include=True`` made."""
        self.features.copy_(proposal.memory[0])
        self.seen.copy_(proposal.memory[1])


class ReleasedDiscovery(StatefulModule):
    """The authors' rule: k-means on the float32 reward vectors of all unknown prompts so far, in order of arrival.

    Memory and time grow with every step; every prompt needs the same number of rollouts, all scorable.
    """

    vectors: Tensor
    """(n, R) float32."""
    owners: Tensor
    """(n,) int64 domain of each vector."""

    def __init__(self, num_domains: int) -> None:
        super().__init__()
        self.num_domains = num_domains
        self.register_state("vectors", (0, 0), torch.float32, growing=True)
        self.register_state("owners", (0,), torch.int64, growing=True)

    def propose(
        self, rewards: Tensor, domains: Tensor, *, include: bool, process_group: ProcessGroup | None = None
    ) -> Proposal:
        """As :meth:`Discovery.propose`."""
        own = rewards.to(torch.float32)
        missing, held = bool(torch.isnan(own).any()), self.vectors.shape[1] if len(self.vectors) else own.shape[1]
        if missing or own.shape[1] != held:
            wanted = "equally many rollouts, all scorable, of every unknown prompt for the released discovery"
            got = "NaN" if missing else f"{own.shape[1]} after {held}"
            raise ValueError(expected("rewards", wanted, got, "variant='default' takes prompts as they come"))
        vectors, owners = self.vectors, self.owners
        if include or not len(vectors):
            arrived = gather_rows(own, process_group).to(vectors.device)
            vectors = torch.cat([vectors.reshape(-1, own.shape[1]), arrived])
            owners = torch.cat([owners, gather_rows(domains, process_group).to(owners.device)])
        points, places = vectors.cpu().numpy(), owners.cpu().numpy()
        collected = _Collected(self.num_domains, _MOST_CLUSTERS, own.cpu().numpy(), domains.cpu().numpy())
        for domain in np.unique(places).tolist():
            held = points[places == domain]
            fit = choose_clusters(held, "elbow", 0, "auto")
            placed = {point.tobytes(): label for point, label in zip(held, fit.labels_, strict=True)}

            def nearest(x: Array, fit: Any = fit, placed: dict[bytes, int] = placed) -> Array:
                # As the authors' code, by the fit's own labels: at equal distances ``predict`` may say otherwise.
                return np.array(
                    [placed.get(point.tobytes(), other) for point, other in zip(x, fit.predict(x), strict=True)]
                )

            # Centers round: that of rewards 0 alone may be -2e-8, and a negative mean is refused.
            means = fit.cluster_centers_.mean(axis=1).clip(held.min(), held.max())
            collected.add(domain, fit, nearest, means, held.min(1) < held.max(1))
        return collected.proposal(domains.device, (vectors, owners))

    def commit(self, proposal: Proposal) -> None:
        """Keep the vectors that a proposal with ``include=True`` added."""
        self.vectors, self.owners = proposal.memory
