"""While training: a monitor that warns in words, and controllers of a penalty's weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairloss.core.lazy import lazy_names

if TYPE_CHECKING:
    from fairloss.training.budget import AccuracyBudget as AccuracyBudget
    from fairloss.training.budget import GapTarget as GapTarget
    from fairloss.training.monitor import FairnessMonitor as FairnessMonitor
    from fairloss.training.snapshot import FairnessWarning as FairnessWarning
    from fairloss.training.snapshot import Snapshot as Snapshot

_HOME = {
    "AccuracyBudget": "fairloss.training.budget",
    "FairnessMonitor": "fairloss.training.monitor",
    "FairnessWarning": "fairloss.training.snapshot",
    "GapTarget": "fairloss.training.budget",
    "Snapshot": "fairloss.training.snapshot",
}

__all__ = list(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
