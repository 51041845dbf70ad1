"""The fairness report: intervals, comparisons, tables, plots, the page and the command line; imports no torch.

Names are resolved on first use, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairloss.report.compare import compare_models as compare_models
    from fairloss.report.compare import gap_difference_test as gap_difference_test
    from fairloss.report.compare import pareto_front as pareto_front
    from fairloss.report.plots import plot_critical_difference as plot_critical_difference
    from fairloss.report.plots import plot_gaps as plot_gaps
    from fairloss.report.plots import plot_groups as plot_groups
    from fairloss.report.plots import plot_pareto as plot_pareto
    from fairloss.report.report import FairnessReport as FairnessReport

_MODULES = {
    "compare": ["compare_models", "gap_difference_test", "pareto_front"],
    "plots": ["plot_critical_difference", "plot_gaps", "plot_groups", "plot_pareto"],
    "report": ["FairnessReport"],
}
_HOME = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
