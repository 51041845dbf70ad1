"""Samplers that give small groups their place: balanced epochs, and batches with at least m samples of each group.

Both are seeded, differ from epoch to epoch, split one order over ranks, and resume inside an epoch. FairMed-VLM, *Toward
Equitable Medical Diagnosis with Vision-Language Models*, sections 3.3 and 3.5, describes the balanced sampling in words
("oversampled up to at most 1.5x the median stratum size"); the rule is stated at :class:`BalancedGroupSampler`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from fairloss.core import checks
from fairloss.core.arrays import as_array
from fairloss.core.checks import expected
from fairloss.groups.encode import GroupEncoding

__all__ = ["BalancedGroupSampler", "GroupBatchSampler"]

T = TypeVar("T")
Ints = NDArray[np.int64]


class _EpochSampler(Sampler[T]):
    """An order of items for every (seed, epoch), split over ranks, and a place in it."""

    def __init__(self, groups: ArrayLike, num_replicas: int, rank: int, seed: int) -> None:
        self.strata, self._members, self._unknown = _strata(groups)
        self.num_samples = sum(map(len, self._members)) + len(self._unknown)
        self.sizes: Ints = np.array([len(m) for m in self._members], dtype=np.int64)
        self.num_replicas = checks.integer("num_replicas", num_replicas, minimum=1)
        self.rank = checks.integer("rank", rank, minimum=0)
        if self.rank >= self.num_replicas:
            raise ValueError(expected("rank", f"0 .. {self.num_replicas - 1}", rank))
        self.seed = checks.integer("seed", seed, minimum=0)
        self.epoch = 0
        self.position = 0
        self._start = 0

    @abstractmethod
    def _order(self, generator: np.random.Generator) -> list[T]:
        """All items of an epoch, of all ranks."""

    @abstractmethod
    def __len__(self) -> int:
        """Items of an epoch on this rank."""

    def __iter__(self) -> Iterator[T]:
        order = self._order(np.random.default_rng([self.seed, self.epoch]))[self.rank :: self.num_replicas]
        start, self._start = self._start, 0
        self.position = start
        for item in order[start:]:
            self.position += 1
            yield item
        self.epoch, self.position = self.epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Start of ``epoch``, unless it is the current one: then the place to resume at is kept.

        Without calls of ``set_epoch`` the epoch advances whenever one has been iterated to its end.
        """
        epoch = checks.integer("epoch", epoch, minimum=0)
        if epoch != self.epoch:
            self.epoch, self.position, self._start = epoch, 0, 0

    def _fingerprint(self) -> dict[str, int]:
        return {"num_samples": self.num_samples, "num_replicas": self.num_replicas, "length": len(self)}

    def state_dict(self, *, epoch: int | None = None, position: int | None = None) -> dict[str, int]:
        """Seed, epoch and place in it.

        Args:
            epoch: the training loop's epoch, where it differs from the sampler's: a DataLoader with workers draws ahead.
            position: items of this rank that the training loop has consumed in the epoch, likewise.
        """
        epoch = self.epoch if epoch is None else checks.integer("epoch", epoch, minimum=0)
        position = self.position if position is None else checks.integer("position", position, minimum=0)
        return {"seed": self.seed, "epoch": epoch, "position": position, **self._fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken: the next iteration yields the rest of its epoch.

        Raises:
            TypeError, ValueError: no such state, or that of another number of samples, ranks or items; nothing is changed
                then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(expected("state", "what state_dict returns", type(state).__name__))
        missing = [name for name in ("seed", "epoch", "position") if name not in state]
        if missing:
            raise ValueError(expected("state", "what state_dict returns", f"no {missing[0]}"))
        for name, own in self._fingerprint().items():
            if state.get(name) != own:
                raise ValueError(expected("state", f"this sampler's {name}, {own}", state.get(name)))
        seed, epoch, position = (
            checks.integer(f"state[{name!r}]", state[name], minimum=0) for name in ("seed", "epoch", "position")
        )
        if position > len(self):
            raise ValueError(expected("state", f"a position in 0 .. {len(self)}", position))
        self.seed, self.epoch, self.position = seed, epoch, position
        self._start = self.position


def _strata(groups: ArrayLike) -> tuple[Ints, list[Ints], Ints]:
    """Ids of each stratum (S, K), the indices of its samples, and those of samples with an unknown attribute."""
    ids = as_array(groups.ids if isinstance(groups, GroupEncoding) else groups, "groups")
    if ids.ndim not in (1, 2) or ids.size == 0:
        raise ValueError(expected("groups", "ids of shape (N,) or (N, K), N >= 1", ids.shape))
    if ids.dtype.kind not in "iub":
        raise TypeError(expected("groups", "integer or bool ids", ids.dtype, "fairloss.encode_groups makes them"))
    ids = ids.astype(np.int64).reshape(len(ids), -1)
    if ids.min() < -1:
        raise ValueError(expected("groups", "ids 0, 1, ..., and -1 for unknown", ids.min()))
    known = (ids >= 0).all(axis=1)
    strata, of = np.unique(ids[known], axis=0, return_inverse=True)
    where = np.flatnonzero(known)
    order = np.argsort(of.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(of.reshape(-1), minlength=len(strata)))
    members = np.split(where[order], ends[:-1]) if len(strata) else []
    return strata, members, np.flatnonzero(~known)


class BalancedGroupSampler(_EpochSampler[int]):
    """Every sample each epoch, small strata oversampled; large ones down-sampled on request.

    A stratum is a combination of attribute values that occurs in the data. With t = min(max_ratio x median stratum size,
    largest stratum size), rounded down, an epoch holds

        t samples of a stratum of n < t (each of its samples floor(t / n) or ceil(t / n) times)
        all n samples of a stratum of n >= t, or t of them with ``downsample=True``
        every sample with an unknown attribute, once

    so ``downsample=True`` makes all strata equal. Which samples are repeated or left out changes with the epoch.

    Args:
        groups: (N,) or (N, K) integer ids of the training set, -1 = unknown: a tensor, an array or a list. A column of labels
            makes strata of label and group.
        max_ratio: > 0; small strata grow to this many median strata (default 1.5).
        downsample: also cut large strata to t (default False).
        max_repeats: largest number of times that one sample may occur in an epoch; a tiny stratum then stays below t.
        num_replicas: ranks that share an epoch. Leave 1 where the framework shards the sampler itself (accelerate, the
            transformers Trainer).
        rank: this process (default 0).
        drop_last: ranks get equal numbers of samples: True drops up to ``num_replicas - 1`` samples of the epoch, False
            repeats as many.
        seed: >= 0, the same on all ranks.

    Attributes:
        strata: (S, K) the ids of each stratum.
        sizes: (S,) samples of each in the data.
        epoch_counts: (S,) samples of each in an epoch of all ranks, before ``drop_last``.

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        Oversampling shows the same few images more often: augment them. Same seed and epoch, same order. ``state_dict`` and
        ``load_state_dict`` resume within an epoch.

    Example:
        >>> sampler = BalancedGroupSampler([0] * 10 + [1] * 4 + [2] * 1, max_ratio=1.5)
        >>> sampler.epoch_counts.tolist(), len(sampler)
        ([10, 6, 6], 22)
        >>> sorted(i for i in sampler if i >= 10)
        [10, 10, 11, 12, 12, 13, 14, 14, 14, 14, 14, 14]

    References:
        FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, sections 3.3, 3.5.
    """

    def __init__(
        self,
        groups: ArrayLike,
        *,
        max_ratio: float = 1.5,
        downsample: bool = False,
        max_repeats: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(groups, num_replicas, rank, seed)
        self.max_ratio = checks.number("max_ratio", max_ratio, above=0)
        self.downsample = downsample
        self.drop_last = drop_last
        counts = self.sizes.copy()
        if len(counts):
            t = max(1, min(int(self.max_ratio * float(np.median(counts))), int(counts.max())))
            counts = np.full_like(counts, t) if downsample else np.maximum(counts, t)
        if max_repeats is not None:
            counts = np.minimum(counts, self.sizes * checks.integer("max_repeats", max_repeats, minimum=1))
        self.epoch_counts: Ints = counts

    def __len__(self) -> int:
        total = int(self.epoch_counts.sum()) + len(self._unknown)
        return total // self.num_replicas if self.drop_last else -(-total // self.num_replicas)

    def _order(self, generator: np.random.Generator) -> list[int]:
        parts = [self._unknown]
        for members, count in zip(self._members, self.epoch_counts.tolist(), strict=True):
            times, rest = divmod(count, len(members))
            parts += [members] * times + [generator.permutation(members)[:rest]]
        order = generator.permutation(np.concatenate(parts))
        # Repeated or cut to a multiple of the ranks.
        return [int(i) for i in np.resize(order, len(self) * self.num_replicas)]


class GroupBatchSampler(_EpochSampler[list[int]]):
    """Batches with at least ``min_per_group`` samples of every stratum; a ``batch_sampler`` for DataLoader.

    An epoch has floor(N / batch_size) batches (over all ranks, cut to a multiple of them). Each takes ``min_per_group``
    samples of every stratum; the rest is drawn from what is left, samples of unknown group included, in the data's own
    proportions. A stratum that is large enough gives each of its samples at most once per epoch; a smaller one is gone
    through again and again, in a new order each time, and only then do samples of others wait for another epoch.

    Args:
        groups: (N,) or (N, K) integer ids of the training set, -1 = unknown. A stratum is a combination that occurs; a column
            of labels makes strata of label and group, what :class:`fairloss.CrossGroupContrastiveLoss` and
            :class:`fairloss.MomentAlignmentLoss` compare.
        batch_size: samples of a batch on one rank, at least ``min_per_group`` x number of strata.
        min_per_group: m >= 1.
        num_replicas: ranks that share an epoch's batches. Leave 1 where the framework shards the sampler itself.
        rank: this process (default 0).
        seed: >= 0, the same on all ranks.

    Attributes:
        strata: (S, K) the ids of each stratum.
        sizes: (S,) samples of each in the data.

    Raises:
        TypeError, ValueError: naming the argument.

    Note:
        A batch repeats a sample only if a stratum has fewer than ``min_per_group``. Batches no longer follow the data's
        proportions: where the mean loss should, weight it (:class:`fairloss.InverseFrequencyWeighting` is for batches that
        do). Same seed and epoch, same batches. ``state_dict`` and ``load_state_dict`` resume within an epoch.

    Example:
        >>> sampler = GroupBatchSampler([0] * 14 + [1] * 2, batch_size=4, min_per_group=1)
        >>> [sum(i >= 14 for i in batch) for batch in sampler]
        [1, 1, 1, 1]
    """

    def __init__(
        self,
        groups: ArrayLike,
        *,
        batch_size: int,
        min_per_group: int = 1,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(groups, num_replicas, rank, seed)
        self.batch_size = checks.integer("batch_size", batch_size, minimum=1)
        self.min_per_group = checks.integer("min_per_group", min_per_group, minimum=1)
        quota = self.min_per_group * len(self.strata)
        if quota > self.batch_size:
            wanted = f"at least {quota}, min_per_group={min_per_group} of each of {len(self.strata)} strata"
            raise ValueError(expected("batch_size", wanted, batch_size))
        if len(self) == 0:
            needed = self.batch_size * self.num_replicas
            cure = f"one batch per rank needs {needed} samples, groups has {self.num_samples}"
            raise ValueError(expected("batch_size", "a batch that the samples fill", batch_size, cure))

    def __len__(self) -> int:
        return self.num_samples // self.batch_size // self.num_replicas

    def _order(self, generator: np.random.Generator) -> list[list[int]]:
        batches = len(self) * self.num_replicas
        pool, columns = [self._unknown], []
        for members in self._members:
            drawn = _draws(members, batches, self.min_per_group, generator)
            columns.append(drawn[: batches * self.min_per_group].reshape(batches, self.min_per_group))
            pool.append(drawn[batches * self.min_per_group :])
        # The pool suffices: strata with samples to spare have given exactly their quota, and N >= batches x batch_size.
        rest = self.batch_size - self.min_per_group * len(columns)
        spare = generator.permutation(np.concatenate(pool))[: batches * rest]
        table = np.concatenate([*columns, spare.reshape(batches, rest)], axis=1)
        return [[int(i) for i in row] for row in generator.permuted(table, axis=1)]


def _draws(members: Ints, batches: int, m: int, generator: np.random.Generator) -> Ints:
    """A permutation of the members where that fills ``batches`` x ``m`` places, else several, one after the other."""
    parts, length = [generator.permutation(members)], len(members)
    while length < batches * m:
        following = generator.permutation(members)
        # Where a batch ends one permutation and begins the next, what it holds already comes last in the next.
        held = parts[-1][len(parts[-1]) - length % m :] if length % m else parts[-1][:0]
        again = np.isin(following, held)
        parts.append(np.concatenate([following[~again], following[again]]))
        length += len(members)
    drawn = np.concatenate(parts)
    return drawn if len(parts) == 1 else drawn[: batches * m]
