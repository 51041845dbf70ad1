"""Labels in the data of a run, and the ids that FairGRPO takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fairloss.core.checks import expected
from fairloss.groups.labels import is_unknown
from fairloss.integrations._trainers import id_name

__all__ = ["Labels"]


class Labels:
    """Labels of groups or domains as the data has them, and their ids.

    Args:
        what: "group" or "domain".
        labels: the known ones, or None.
        number: how many there are, where the data may have ids in place of labels (that are no integers themselves), or
            None. Neither: there are none.
        option: what the labels are called where the user lists them.
    """

    def __init__(self, what: str, labels: Sequence[Any] | None, number: int | None, option: str) -> None:
        if labels is not None and (isinstance(labels, str) or not isinstance(labels, Sequence)):
            raise TypeError(expected(option, "a list of labels", repr(labels)))
        self.what, self.option, self.number = what, option, number
        self.labels = None if labels is None else [_plain(label) for label in labels]
        if self.labels is not None and (not self.labels or any(map(is_unknown, self.labels))):
            raise ValueError(expected(option, "known labels, not '', null or -1", repr(labels)))
        if self.labels is not None and number is not None and len(self.labels) != number:
            raise ValueError(expected(option, f"one label for each of {number} {what}s", repr(labels)))
        self._id = {_key(label): i for i, label in enumerate(self.labels or [])}
        if self.labels is not None and len(self._id) != len(self.labels):
            raise ValueError(expected(option, "each label once", repr(labels)))
        if any(type(label) is int for label in self.labels or []):
            self.number = None
        self.size = len(self.labels) if self.labels is not None else number or 0

    def id(self, value: Any, key: str) -> int:
        """The id of a label, -1 for unknown."""
        value = _plain(value)
        if is_unknown(value):
            return -1
        if _hashable(value) and _key(value) in self._id:
            return self._id[_key(value)]
        if self.number is not None and type(value) is int and 0 <= value < self.number:
            return value
        known = [", ".join(map(repr, self.labels or [])), f"ids 0 .. {self.number - 1}" if self.number else ""]
        cure = f"add it to {self.option}, or write None, '' or -1 for unknown"
        raise ValueError(
            expected(key, f"one of {' or '.join(filter(None, known)) or f'no {self.what}s'}", repr(value), cure)
        )

    def name(self, id_: int) -> str:
        """Its name in the logs."""
        return id_name(self.what, id_, self.labels)

    def described(self) -> str:
        """What a saved history is of."""
        return json.dumps(self.size if self.labels is None else [str(label) for label in self.labels])


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _hashable(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _key(label: Any) -> tuple[str, Any]:
    # 1, True and 1.0 are equal to Python, and different labels.
    return type(label).__name__, label
