"""FairGRPO on rows as verl holds them: its configuration, labels read from columns, history, metrics. Needs no verl."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.integrations._labels import Labels
from fairloss.integrations._trainers import Cell, listed, load_state, means_by_cell, save_state

__all__ = ["ROWS", "STATE_FILE", "FairGRPOState", "Rows"]

STATE_FILE = "fair_grpo.safetensors"
_OWN = ("groups", "num_groups", "domains", "num_domains", "group_key", "domain_key")
_EXAMPLE = "+algorithm.fair.groups=[young,old]"


class Rows(NamedTuple):
    """What the estimator is not handed: columns of the batch whose advantages are being computed, a value per row."""

    state: FairGRPOState
    columns: Mapping[str, Sequence[Any]]
    sessions: Sequence[tuple[str, int]] | None
    """Rollout of each row and the row's place in it, where a rollout may have several rows; the last one is scored."""
    padding: Sequence[bool] | None
    """Rows that only fill up the batch."""


ROWS: ContextVar[Rows | None] = ContextVar("fairloss_verl_rows", default=None)


class FairGRPOState:
    """FairGRPO's history in one run of verl, and how labels in the data become group and domain ids.

    verl's trainers make one from ``algorithm.fair``; a training loop of one's own makes it and says which rows are meant::

        state = FairGRPOState.from_config(config.algorithm)
        with state.rows(batch.non_tensor_batch):
            batch = compute_advantage(batch, adv_estimator="fair_grpo", config=config.algorithm)

    Args:
        groups: labels of the groups, in any order that stays the same over a run; or
        num_groups: their number, where the data holds ids 0 .. num_groups-1. One of the two, or neither with
            ``discover_groups``.
        domains: labels of the domains; or
        num_domains: their number. Neither: all prompts form one domain.
        group_key: where a row's group is: a column, or, after a dot, a key in a column of dicts. None: no row has one.
        domain_key: where a row's domain is.
        **options: of :class:`fairloss.FairGRPOAdvantage`.

    Attributes:
        fair: the :class:`fairloss.FairGRPOAdvantage`.
        metrics: of the last batch: ``fair/reward/...``, ``fair/weight/...`` and ``fair/prompts/...`` of each group.

    Note:
        None, NaN, ``""`` and -1 mean unknown, as does a row without the key: such prompts count for their domain, and form
        groups with ``discover_groups``. A batch in which no row has the key is refused unless groups are discovered.

    Example:
        >>> state = FairGRPOState(groups=["young", "old"])
        >>> rows = {"extra_info": [{"demo_group": "old"}, {"demo_group": "old"}, {"demo_group": ""}, {}]}
        >>> rewards, mask = torch.tensor([[0.0, 1], [0, 0], [1, 0], [0, 0]]), torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1]])
        >>> with state.rows(rows):
        ...     state.advantages(rewards, mask, ["a", "a", "b", "b"])
        tensor([[ 0.8660,  0.8660],
                [-0.8660, -0.8660],
                [ 0.8660,  0.0000],
                [-0.8660, -0.8660]])
    """

    def __init__(
        self,
        *,
        groups: Sequence[Any] | None = None,
        num_groups: int | None = None,
        domains: Sequence[Any] | None = None,
        num_domains: int | None = None,
        group_key: str | None = "extra_info.demo_group",
        domain_key: str = "data_source",
        **options: Any,
    ) -> None:
        from fairloss.policy import FairGRPOAdvantage

        accepted = [p for p in inspect.signature(FairGRPOAdvantage).parameters if p not in (*_OWN, "process_group")]
        unknown = [name for name in options if name not in accepted]
        if unknown:
            raise ValueError(
                expected("algorithm.fair", f"options among {', '.join((*_OWN, *accepted))}", listed(unknown))
            )
        discovers = options.get("discover_groups") is not None
        if not discovers and groups is None and num_groups is None:
            cure = f"name the groups, {_EXAMPLE}, or set discover_groups=kmeans"
            raise ValueError(expected("algorithm.fair", "groups or num_groups", "neither", cure))
        if not discovers and group_key is None:
            cure = "without groups, discover_groups=kmeans is needed"
            raise ValueError(expected("algorithm.fair.group_key", "where a row's group is", "null", cure))
        self._groups = _labels("group", groups, num_groups)
        self._domains = _labels("domain", domains, num_domains)
        self.group_key = group_key
        self.domain_key = domain_key if self._domains.size else None
        self._discovers = discovers
        self.fair = FairGRPOAdvantage(max(1, self._groups.size), num_domains=max(1, self._domains.size), **options)
        self.metrics: dict[str, float] = {}

    @classmethod
    def from_config(cls, algorithm: Any) -> FairGRPOState:
        """From verl's ``config.algorithm``, which holds the arguments under ``fair``.

        Raises:
            ValueError: no ``fair``, an option that does not exist, or one that FairGRPO cannot follow.
            TypeError: ``fair`` is no mapping.
        """
        given = None if algorithm is None else algorithm.get("fair", None)
        if given is None:
            cure = f"adv_estimator=fair_grpo needs it; add {_EXAMPLE} to the command"
            raise ValueError(expected("algorithm.fair", "a mapping of options", "nothing", cure))
        if type(given).__module__.startswith("omegaconf"):
            from omegaconf import OmegaConf

            given = OmegaConf.to_container(given, resolve=True)
        if not isinstance(given, Mapping):
            raise TypeError(expected("algorithm.fair", f"a mapping of options, as in {_EXAMPLE}", repr(given)))
        if algorithm.get("norm_adv_by_std_in_grpo", True) is False:
            cure = "FairGRPO always divides by the prompt's standard deviation"
            raise ValueError(expected("algorithm.norm_adv_by_std_in_grpo", "True", False, cure))
        return cls(**{str(name): value for name, value in given.items()})

    @property
    def fields(self) -> list[str]:
        """The columns that are read."""
        keys = (self.group_key, self.domain_key)
        return list(dict.fromkeys(key.split(".", 1)[0] for key in keys if key is not None))

    @contextmanager
    def rows(
        self,
        columns: Mapping[str, Sequence[Any]],
        *,
        sessions: Sequence[tuple[str, int]] | None = None,
        padding: Sequence[bool] | None = None,
    ) -> Iterator[None]:
        """Within it, ``fair_grpo`` computes advantages of these rows; see :class:`Rows`."""
        token = ROWS.set(Rows(self, columns, sessions, padding))
        try:
            yield
        finally:
            ROWS.reset(token)

    def advantages(self, token_level_rewards: Tensor, response_mask: Tensor, uid: Sequence[Any]) -> Tensor:
        """Advantages of the active rows, (B, L), and the history a batch further.

        Args:
            token_level_rewards: (B, L); their sum is the row's reward, NaN = unscorable: left out, advantage 0.
            response_mask: (B, L), 1 on the tokens that get the advantage.
            uid: (B,) equal for rollouts of one prompt, in any order.

        Returns:
            (B, L) float32 (float64 for float64 rewards): the advantage of a row's rollout on its tokens.
        """
        rows = ROWS.get()
        if rows is None or rows.state is not self:
            raise RuntimeError("FairGRPOState.advantages: use it within `with state.rows(columns):`")
        size = len(token_level_rewards)
        lengths = [len(uid), *(len(c) for c in (rows.sessions, rows.padding) if c is not None)]
        lengths += [len(rows.columns[name]) for name in self.fields if name in rows.columns]
        if any(length != size for length in lengths):
            got = f"columns of {', '.join(map(str, lengths))} rows, of another batch"
            raise ValueError(expected("rows", f"columns of {size} rows, one per reward", got))
        kept, source = _scored_rows(size, rows)
        wide = token_level_rewards if token_level_rewards.dtype == torch.float64 else token_level_rewards.float()
        groups = self._ids(rows.columns, self.group_key, self._groups, kept)
        domains = self._ids(rows.columns, self.domain_key, self._domains, kept)
        by_prompt: dict[Any, list[int]] = {}
        for place, i in enumerate(kept):
            by_prompt.setdefault(uid[i], []).append(place)
        cells = [(domains[places[0]], groups[places[0]]) for places in by_prompt.values()]
        for name, ids in (("groups", groups), ("domains", domains)):
            torn = [uid for uid, places in by_prompt.items() if len({ids[place] for place in places}) > 1]
            if torn:
                raise ValueError(expected(name, "one for all rollouts of a prompt", f"several for uid {torn[0]!r}"))
        longest = max(map(len, by_prompt.values()), default=0)
        # Prompts as rows, as the kernel takes them; where one has fewer rollouts than another, the place past the rewards.
        table = [[kept[p] for p in places] + [size] * (longest - len(places)) for places in by_prompt.values()]

        def on_device(values: Sequence[Any], *shape: int) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=wide.device).reshape(shape or -1)

        # In float64, so that rewards that are equal are so wherever their tokens stand: rounding noise is no signal.
        scores = torch.cat([wide.double().sum(-1).to(wide.dtype), wide.new_full((1,), torch.nan)])
        at = on_device(table, len(table), longest)
        found = self.fair.to(wide.device)(
            scores[at], on_device([g for _, g in cells]), on_device([d for d, _ in cells])
        )
        everyone = found.new_zeros(size + 1)
        everyone[at] = found
        everyone[-1] = 0  # of rows that belong to no scored one
        self._measure(scores[at], cells)
        tokens: Tensor = everyone[on_device(source)].unsqueeze(-1) * response_mask
        return tokens

    def _ids(
        self, columns: Mapping[str, Sequence[Any]], key: str | None, labels: Labels, kept: Sequence[int]
    ) -> list[int]:
        """The ids of the kept rows; 0 for the one domain, -1 without a key of groups."""
        if key is None:
            return [0 if labels.what == "domain" else -1] * len(kept)
        name, _, part = key.partition(".")
        if name not in columns:
            cure = "verl keeps extra_info and data_source of the data set up to here; the legacy trainer drops other columns"
            wanted = f"a column {name!r} in the batch"
            raise ValueError(expected(f"algorithm.fair.{labels.what}_key", wanted, f"only {listed(columns)}", cure))
        values = [columns[name][i] for i in kept]
        if part:
            values = [{} if value is None else value for value in values]
            for value in values:
                if not isinstance(value, Mapping):
                    raise TypeError(expected(name, f"dicts to look up {part!r}", repr(value)))
            lost = bool(values) and not any(part in value for value in values)
            if lost and not (labels.what == "group" and self._discovers):
                held = sorted({k for value in values for k in value}, key=repr)
                cure = "write it there when the data set is made, or name another key"
                wanted = f"{part!r} in {name} of some row of the batch"
                raise ValueError(expected(f"algorithm.fair.{labels.what}_key", wanted, listed(held), cure))
            values = [value.get(part) for value in values]
        return [labels.id(value, key) for value in values]

    def _name(self, domain: int, group: str) -> str:
        return f"{self._domains.name(domain)}/{group}" if self._domains.size else group

    def _measure(self, scores: Tensor, cells: list[Cell]) -> None:
        """Each group's mean reward and weight in the batch, and the prompts seen so far; (Q, R) rewards, (Q,) cells."""
        assert self.fair.last is not None
        weights = self.fair.last.weights.tolist()
        seen = self.fair.history.totals()[0].tolist()
        of_rollouts = [cell for cell in cells for _ in range(scores.shape[1])]
        self.metrics = {}
        for what, values in (
            ("reward", means_by_cell(of_rollouts, scores.flatten().tolist())),
            ("weight", means_by_cell(cells, weights)),
            # -1, unknown, is the last of the counts.
            ("prompts", {(d, g): seen[d][g] for d, g in cells if d >= 0}),
        ):
            for (domain, group), value in values.items():
                self.metrics[f"fair/{what}/{self._name(domain, self._groups.name(group))}"] = value
        if self._discovers:
            for row in self.fair.table():
                if row.group.startswith("cluster"):
                    self.metrics[f"fair/weight/{self._name(row.domain, row.group.replace(' ', '_'))}"] = row.weight

    def save(self, folder: str | Path) -> Path:
        """Write the history and the labels to ``folder``; returns the file."""
        path = Path(folder) / STATE_FILE
        save_state(self.fair, path, self._described())
        return path

    def load(self, folder: str | Path) -> None:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it was written with other groups or domains, or another kind of history or discovery.
        """
        load_state(self.fair, Path(folder) / STATE_FILE, None, self._described())

    def _described(self) -> dict[str, str]:
        labels = {"groups": self._groups.described(), "domains": self._domains.described()}
        discovery = "none" if self.fair.discovery is None else type(self.fair.discovery).__name__
        return {**labels, "history": self.fair.history.mode, "discovery": discovery}


def _labels(what: str, labels: Sequence[Any] | None, number: int | None) -> Labels:
    option = f"algorithm.fair.{what}s"
    if labels is not None and number is not None:
        raise ValueError(expected(option, f"one of {what}s and num_{what}s", "both"))
    if number is not None:
        checks.integer(f"algorithm.fair.num_{what}s", number, minimum=1)
    return Labels(what, labels, number, option)


def _scored_rows(size: int, rows: Rows) -> tuple[list[int], list[int]]:
    """The rows that are scored, and for each row the one whose advantage it gets; ``size`` where there is none."""
    real = [i for i in range(size) if rows.padding is None or not rows.padding[i]]
    source = [size] * size
    if rows.sessions is None:
        for i in real:
            source[i] = i
        return real, source
    final: dict[str, int] = {}
    for i in real:
        session, place = rows.sessions[i]
        if session not in final or rows.sessions[final[session]][1] < place:
            final[session] = i
    for i in real:
        source[i] = final[rows.sessions[i][0]]
    return sorted(final.values()), source
