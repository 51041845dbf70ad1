"""After training: thresholds per group, out-of-fold fitting, the last layer, ensembles. NumPy in, NumPy out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairloss.core.lazy import lazy_names

if TYPE_CHECKING:
    from fairloss.postprocess.ensemble import Ensemble as Ensemble
    from fairloss.postprocess.last_layer import retrain_last_layer as retrain_last_layer
    from fairloss.postprocess.out_of_fold import CrossFit as CrossFit
    from fairloss.postprocess.out_of_fold import cross_fit as cross_fit
    from fairloss.postprocess.thresholds import GroupThresholds as GroupThresholds

_HOME = {
    "CrossFit": "fairloss.postprocess.out_of_fold",
    "Ensemble": "fairloss.postprocess.ensemble",
    "GroupThresholds": "fairloss.postprocess.thresholds",
    "cross_fit": "fairloss.postprocess.out_of_fold",
    "retrain_last_layer": "fairloss.postprocess.last_layer",
}

__all__ = list(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
