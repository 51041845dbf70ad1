"""Groups for prompts without labels: k-means on how well their rollouts do, within each domain, on the host.

FairGRPO (Dai et al., section 3, "group discovery") clusters the reward vectors of unlabelled prompts, so that prompts of
like difficulty are weighted alike. :class:`Discovery` differs from the authors' code, which :class:`ReleasedDiscovery`
follows, in that it

- clusters quantiles of a prompt's rewards: rollouts have no order, and permuting them changed the authors' advantages by
  up to half; prompts with different numbers of rollouts fit together, too;
- remembers a bounded uniform sample a domain; the authors' code refits on every vector ever seen;
- chooses k by silhouette, 1 if no split is clear (below 0.25), or if prompts differ by no more than rollouts of one prompt do
  (an F test at 1 %): without that test the silhouette, too, splits prompts of one difficulty by their luck, in 30 sets of
  30. The authors' elbow with k up to 3 nearly always returns 3, and is here as ``num_clusters="elbow"``.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.distributed import ProcessGroup, gather_rows
from fairloss.core.state import StatefulModule

__all__ = ["Discovery", "Proposal", "ReleasedDiscovery", "check_discovery", "choose_clusters", "quantile_features"]

Array = npt.NDArray[np.float64]

_ELBOW_TOLERANCE = 0.10
_CLEAR_SPLIT = 0.25
_MOST_CLUSTERS = 3


class Proposal(NamedTuple):
    """Clusters for one batch, and the memory to keep if the batch counts."""

    labels: Tensor
    """(n,) int64 cluster of each prompt, in the order given."""
    share: Tensor
    """(D, K) float64: each cluster's share of its domain's unknown prompts."""
    mean: Tensor
    """(D, K) float64: mean reward of each cluster's rollouts."""
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


def differ(means: npt.NDArray[Any], squares: npt.NDArray[Any], counts: npt.NDArray[Any], level: float = 0.01) -> bool:
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


def _kmeans(points: npt.NDArray[Any], k: int, seed: int, n_init: int | str) -> Any:
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters cannot occur: k is bounded by them
        return KMeans(n_clusters=k, random_state=seed, n_init=n_init).fit(points)


def choose_clusters(points: npt.NDArray[Any], rule: str | int, seed: int, n_init: int | str) -> Any:
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


def check_discovery(num_clusters: str | int, num_features: int, reservoir_size: int, seed: int) -> None:
    """Raise, naming the argument, unless these are options of :class:`Discovery`."""
    if isinstance(num_clusters, str):
        checks.choice("num_clusters", num_clusters, ("silhouette", "elbow"))
    else:
        checks.integer("num_clusters", num_clusters, minimum=1)
    checks.integer("num_features", num_features, minimum=2)
    checks.integer("reservoir_size", reservoir_size, minimum=2)
    checks.integer("seed", seed, minimum=0)


class _Tables:
    """Collects each domain's clusters."""

    def __init__(self, num_domains: int, width: int) -> None:
        self.share, self.mean = np.zeros((num_domains, width)), np.zeros((num_domains, width))

    def fill(self, domain: int, fit: Any, prompts: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None) -> None:
        """Shares of a fit's points, and the clusters' means: of the rollouts of ``prompts``, or of the centres.

        ``prompts``: mean reward of each point's rollouts, and their number.
        """
        k = fit.n_clusters
        counts = np.bincount(fit.labels_, minlength=k)
        self.share[domain, :k] = counts / max(1, counts.sum())
        if prompts is None:
            self.mean[domain, :k] = fit.cluster_centers_.mean(axis=1)
        else:
            means, rollouts = prompts
            total = np.bincount(fit.labels_, weights=means * rollouts, minlength=k)
            self.mean[domain, :k] = total / np.bincount(fit.labels_, weights=rollouts, minlength=k).clip(min=1)

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.share).to(device), torch.from_numpy(self.mean).to(device)


class Discovery(StatefulModule):
    """K-means on quantiles of the rewards of a bounded sample of each domain's unknown prompts.

    Args:
        num_domains: number of domains.
        num_clusters: "silhouette" (with the F test), "elbow", or a fixed number.
        num_features: quantiles a prompt.
        reservoir_size: prompts remembered a domain. Under "cumulative" they are a uniform sample of all that were seen;
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
        num_clusters: str | int = "silhouette",
        num_features: int = 8,
        reservoir_size: int = 512,
        seed: int = 0,
        mode: str = "cumulative",
    ) -> None:
        super().__init__()
        check_discovery(num_clusters, num_features, reservoir_size, seed)
        self.rule = num_clusters
        self.width = num_clusters if isinstance(num_clusters, int) else _MOST_CLUSTERS
        self.num_features, self.reservoir_size = num_features, reservoir_size
        self.seed, self.mode = seed, mode
        features = torch.zeros(num_domains, reservoir_size, num_features + 3, dtype=torch.float32)
        self.register_state("features", features)
        self.register_state("seen", torch.zeros(num_domains, dtype=torch.int64))

    def propose(
        self, rewards: Tensor, domains: Tensor, *, include: bool, process_group: ProcessGroup | None = None
    ) -> Proposal:
        """Clusters for unknown prompts: (n, R) rewards, NaN where missing, and (n,) domains >= 0; changes nothing."""
        own = quantile_features(rewards, self.num_features)
        all_points = gather_rows(own, process_group).cpu().numpy()
        all_domains = gather_rows(domains, process_group).cpu().numpy()
        memory, seen = self.features.cpu().numpy().copy(), self.seen.cpu().numpy().copy()
        tables = _Tables(len(seen), self.width)
        labels = torch.zeros_like(domains)
        for domain in np.unique(all_domains):
            arrivals = all_points[all_domains == domain]
            if include:
                seen[domain] = self._push(memory[domain], int(seen[domain]), arrivals, int(domain))
            held = memory[domain, : min(int(seen[domain]), self.reservoir_size)]
            if len(held) == 0:
                held = arrivals
            # In one order whatever the order of arrival, because k-means starts from points by their place.
            held = held[np.lexsort(held.T)].astype(np.float64)
            rule = self.rule
            if rule == "silhouette" and not differ(held[:, -3], held[:, -2], held[:, -1]):
                rule = 1
            fit = choose_clusters(held[:, :-3], rule, self.seed, 4)
            tables.fill(int(domain), fit, (held[:, -3], held[:, -1]))
            mine = domains == int(domain)
            points = own[mine].cpu().numpy()[:, :-3].astype(np.float64)
            if len(points):
                labels[mine] = torch.from_numpy(fit.predict(points).astype(np.int64)).to(labels.device)
        share, mean = tables.tensors(domains.device)
        state = torch.from_numpy(memory).to(self.features.device), torch.from_numpy(seen).to(self.seen.device)
        return Proposal(labels, share, mean, state)

    def _push(self, memory: npt.NDArray[Any], seen: int, arrivals: npt.NDArray[Any], domain: int) -> int:
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

    width = _MOST_CLUSTERS

    def __init__(self, num_domains: int) -> None:
        super().__init__()
        self.num_domains = num_domains
        self.register_state("vectors", torch.zeros(0, 0, dtype=torch.float32), growing=True)
        self.register_state("owners", torch.zeros(0, dtype=torch.int64), growing=True)

    def propose(
        self, rewards: Tensor, domains: Tensor, *, include: bool, process_group: ProcessGroup | None = None
    ) -> Proposal:
        """As :meth:`Discovery.propose`."""
        own = rewards.to(torch.float32)
        if bool(torch.isnan(own).any()) or (len(self.vectors) and own.shape[1] != self.vectors.shape[1]):
            raise ValueError(
                "rewards: the released discovery clusters reward vectors, so that all unknown prompts need equally many "
                "rollouts, all scorable; variant='default' takes prompts as they come"
            )
        vectors, owners = self.vectors, self.owners
        if include or not len(vectors):
            arrived = gather_rows(own, process_group).to(vectors.device)
            vectors = torch.cat([vectors.reshape(-1, own.shape[1]), arrived])
            owners = torch.cat([owners, gather_rows(domains, process_group).to(owners.device)])
        points, places = vectors.cpu().numpy(), owners.cpu().numpy()
        tables = _Tables(self.num_domains, self.width)
        labels = torch.zeros_like(domains)
        for domain in np.unique(places):
            fit = choose_clusters(points[places == domain], "elbow", 0, "auto")
            tables.fill(int(domain), fit, None)
            mine = domains == int(domain)
            if bool(mine.any()):
                found = fit.predict(own[mine].cpu().numpy()).astype(np.int64)
                labels[mine] = torch.from_numpy(found).to(labels.device)
        share, mean = tables.tensors(domains.device)
        return Proposal(labels, share, mean, (vectors, owners))

    def commit(self, proposal: Proposal) -> None:
        """Keep the vectors that a proposal with ``include=True`` added."""
        self.vectors, self.owners = proposal.memory
