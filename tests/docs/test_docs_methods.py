"""The tables of docs/methods/index.md: who trains on unknown groups, and which variants exist."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import fairloss
from fairloss import (
    AdversarialGroupLoss,
    CrossGroupContrastiveLoss,
    DemographicParityLoss,
    DistributionAlignmentLoss,
    EqualizedOddsLoss,
    FairCrossEntropyLoss,
    FairDistillationLoss,
    FairGRPOAdvantage,
    FEBSLoss,
    FISLoss,
    GroupDROLoss,
    InverseFrequencyWeighting,
    LossVarianceLoss,
    MaxAccGapLoss,
    MomentAlignmentLoss,
)

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
N = 8
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1, 0, -1])
TARGET = torch.tensor([0, 1, 0, 1, 0, 1, 1, 1])

# Each loss as a function of what it differentiates: (N, ...) in, scalar out; and a fitting shape.
TERMS = {
    "MaxAccGapLoss": (lambda x: MaxAccGapLoss(2)(x, TARGET, GROUPS), (N, 2)),
    "FairCrossEntropyLoss": (lambda x: FairCrossEntropyLoss(2, 0.5, [80, 20])(x, TARGET, GROUPS), (N, 2)),
    "DemographicParityLoss": (lambda x: DemographicParityLoss(2)(x, TARGET, GROUPS), (N, 2)),
    "EqualizedOddsLoss": (lambda x: EqualizedOddsLoss(2)(x, TARGET, GROUPS), (N, 2)),
    "FEBSLoss": (lambda x: FEBSLoss(2, 2)(x, TARGET[:, None, None].expand(N, 3, 3), GROUPS), (N, 2, 3, 3)),
    "FairDistillationLoss": (lambda x: FairDistillationLoss(2)(x, torch.zeros(2, N, 2), TARGET, GROUPS), (N, 2)),
    "InverseFrequencyWeighting": (lambda x: InverseFrequencyWeighting([80, 20])(x, GROUPS), (N,)),
    "GroupDROLoss": (lambda x: GroupDROLoss(2)(x, GROUPS), (N,)),
    "LossVarianceLoss": (lambda x: LossVarianceLoss(2)(x, GROUPS), (N,)),
    "FISLoss": (lambda x: FISLoss(2)(x, GROUPS), (N,)),
    "DistributionAlignmentLoss": (lambda x: DistributionAlignmentLoss(2)(x, GROUPS), (N,)),
    "CrossGroupContrastiveLoss": (lambda x: CrossGroupContrastiveLoss(1.0, margin=-2.0)(x, TARGET, GROUPS), (N, 4)),
    "MomentAlignmentLoss": (lambda x: MomentAlignmentLoss(2, 2)(x, TARGET, GROUPS), (N, 4)),
    "AdversarialGroupLoss": (lambda x: AdversarialGroupLoss(4, 2)(x, GROUPS), (N, 4)),
}


GUIDE = (DOCS / "groups-and-batches.md").read_text(encoding="utf-8")


def rows(section, page=PAGE):
    """Rows of a section's table: (names in the first cell, the other cells)."""
    text = page.split(f"## {section}\n")[1].split("\n## ")[0]
    for line in re.findall(r"^\| (`\w+Loss`.*|`\w+Weighting`.*|`\w+Advantage`.*) \|$", text, re.MULTILINE):
        first, *cells = line.split(" | ")
        yield re.findall(r"`(\w+)`", first), cells


def test_unknown_samples_train_where_the_table_says_so():
    told = {name: cells[0] for names, cells in rows("Unknown groups") for name in names}
    assert told.keys() == TERMS.keys() | {"FairGRPOAdvantage"}
    for name, (term, shape) in TERMS.items():
        torch.manual_seed(0)
        x = torch.rand(shape).requires_grad_()
        term(x).backward()
        norms = x.grad.flatten(1).norm(dim=1) if x.ndim > 1 else x.grad.abs()
        assert norms[:-1].max() > 0, name
        assert (told[name] != "no") == (norms[-1] > 0), name
    rewards = torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 0, 0]])
    advantages = FairGRPOAdvantage(2)(rewards, torch.tensor([0, 1, -1]))
    assert told["FairGRPOAdvantage"] == "yes"
    assert advantages[-1].abs().sum() > 0


ARGUMENTS = {
    "FEBSLoss": (2, 2),
    "MomentAlignmentLoss": (2, 2),
    "AdversarialGroupLoss": (4, 2),
    "InverseFrequencyWeighting": ([80, 20],),
    "CrossGroupContrastiveLoss": (),
    "ConceptAlignmentLoss": (),
}


def test_variants_are_those_of_the_table():
    told = {names[0]: cells for names, cells in rows("Variants")}
    losses = [name for name in fairloss.__all__ if re.search(r"(Loss|Weighting|Advantage)$", name)]
    for name in losses:
        make, arguments = getattr(fairloss, name), ARGUMENTS.get(name, (2,))
        if "variant" not in inspect.signature(make).parameters:
            assert name not in told, name
            continue
        make(*arguments, variant="default")
        for variant, cell in zip(("paper", "released"), told[name][1:], strict=True):
            if cell != "none":
                make(*arguments, variant=variant)
            else:
                with pytest.raises(ValueError, match="variant"):
                    make(*arguments, variant=variant)


def test_losses_take_what_the_guide_says():
    told = {name: cells for names, cells in rows("Which losses take what", GUIDE) for name in names}
    losses = {name for name in fairloss.__all__ if re.search(r"(Loss|Weighting|Advantage)$", name)}
    assert losses == {name for name in told if name in fairloss.__all__ and name != "GroupMemory"}
    for name in losses:
        make, (several, memory, ranks) = getattr(fairloss, name), told[name]
        parameters = inspect.signature(make).parameters
        assert ranks == "yes"
        assert "process_group" in parameters, name
        for option in ("memory", "queue"):
            assert (option in parameters) == memory.startswith(f"`{option}="), name
        assert ("reference" in inspect.signature(make.forward).parameters) == memory.startswith("`reference="), name
        if "num_groups" in parameters:
            arguments = {"num_groups": (2, 3)} | {k: 2 for k in ("num_classes", "embedding_dim") if k in parameters}
            if several.startswith("yes"):
                make(**arguments)
            else:
                with pytest.raises(ValueError, match="num_groups"):
                    make(**arguments)
        else:
            assert not several.startswith("yes"), name
