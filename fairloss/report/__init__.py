"""The fairness report: intervals, comparisons, tables, plots, the page and the command line; imports no torch.

Names are resolved on first use, so that the command line starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairloss.core.lazy import lazy_names

if TYPE_CHECKING:
    from fairloss.report.compare import compare_models as compare_models
    from fairloss.report.compare import gap_difference_test as gap_difference_test
    from fairloss.report.compare import pareto_front as pareto_front
    from fairloss.report.plots import plot_critical_difference as plot_critical_difference
    from fairloss.report.plots import plot_gaps as plot_gaps
    from fairloss.report.plots import plot_groups as plot_groups
    from fairloss.report.plots import plot_pareto as plot_pareto
    from fairloss.report.report import FairnessReport as FairnessReport
    from fairloss.report.verdicts import sample_size as sample_size

_HOME = {
    "FairnessReport": "fairloss.report.report",
    "compare_models": "fairloss.report.compare",
    "gap_difference_test": "fairloss.report.compare",
    "pareto_front": "fairloss.report.compare",
    "plot_critical_difference": "fairloss.report.plots",
    "plot_gaps": "fairloss.report.plots",
    "plot_groups": "fairloss.report.plots",
    "plot_pareto": "fairloss.report.plots",
    "sample_size": "fairloss.report.verdicts",
}

__all__ = list(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
