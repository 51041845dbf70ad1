"""Every public name has a fuzz target, or a reason why not."""

from __future__ import annotations

import fairloss
from fairloss import functional, metrics, policy, postprocess, report, training
from tests.fuzz import (
    test_fuzz_functions,
    test_fuzz_groups,
    test_fuzz_language,
    test_fuzz_losses,
    test_fuzz_metrics,
    test_fuzz_policy,
    test_fuzz_postprocess,
    test_fuzz_summaries,
)
from tests.fuzz.drawing import COVERED

REASONS = {
    "fairloss.__version__": "a string",
    "fairloss.frozen": "takes a module; nothing else goes in",
    "fairloss.functional.ContrastiveParts": "a named tuple: what the contrastive loss returns on request",
    "fairloss.functional.CrossEntropyParts": "a named tuple: what fair_cross_entropy returns",
    "fairloss.functional.Likelihood": "a named tuple: what sample_likelihood returns",
    "fairloss.functional.WeightingParts": "a named tuple: what weighting losses return on request",
    "fairloss.metrics.GapOptions": "a dictionary's type: the gaps' targets pass its entries",
    "fairloss.metrics.ReadingOptions": "a dictionary's type: the targets of the metrics pass its entries",
    "fairloss.policy.GroupRow": "a named tuple: a line of FairGRPOAdvantage.table",
    "fairloss.postprocess.CrossFit": "what cross_fit returns",
    "fairloss.postprocess.Ensemble": "a mean of modules' outputs; the modules are the caller's",
    "fairloss.training.AccuracyBudget": "a penalty times a number; the penalties have targets",
    "fairloss.training.FairnessWarning": "a warning's class",
    "fairloss.training.GapTarget": "a penalty times a number; the penalties have targets",
    "fairloss.training.Snapshot": "what FairnessMonitor.compute returns",
    "fairloss.report.plot_gaps": "draws a FairnessReport, which the report's target makes; nothing else goes in",
    "fairloss.report.plot_groups": "draws a FairnessReport, which the report's target makes; nothing else goes in",
}
SUITES = (
    test_fuzz_losses,
    test_fuzz_functions,
    test_fuzz_groups,
    test_fuzz_language,
    test_fuzz_policy,
    test_fuzz_postprocess,
    test_fuzz_metrics,
    test_fuzz_summaries,
)


def public():
    modules = {"": fairloss, ".functional": functional, ".metrics": metrics, ".policy": policy, ".report": report}
    modules |= {".postprocess": postprocess, ".training": training}
    return {f"fairloss{home}.{name}" for home, module in modules.items() for name in module.__all__}


def test_every_public_name_has_a_target_or_a_reason():
    assert len(SUITES) == 8
    assert public() - COVERED - set(REASONS) == set()


def test_no_target_and_no_reason_is_out_of_date():
    assert public() >= COVERED
    assert set(REASONS) <= public()
    assert not set(REASONS) & COVERED
