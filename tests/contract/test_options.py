"""Options of every public class and loss function: a wrong one is named, before any work."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

import fairloss
from fairloss import functional as ff
from fairloss import policy
from fairloss.losses.catalogue import LOSSES

GEN = torch.Generator().manual_seed(0)
X, Y, G = torch.randn(4, 2, generator=GEN), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, -1])
V, MASKS = torch.rand(4, generator=GEN), (torch.randn(4, 3, 2, generator=GEN), torch.zeros(4, 2, dtype=torch.int64))
# Of a loss: what its class takes by position, and the tensors of its functions.
FIRST = {"num_groups": 3, "group_counts": [1, 2]}
TENSORS = {"logits": (X, Y, G), "values": (V, G), "embeddings": (X, Y, G)}
# These take tensors alone, or are tested with their tensors.
OTHERS = {"group_dro", "inverse_frequency_weights", "route_by_group", "fair_grpo_policy_loss"}


def first_arguments(name):
    parameters = inspect.signature(getattr(fairloss, name)).parameters.values()
    return tuple(FIRST[p.name] for p in parameters if p.kind is not p.KEYWORD_ONLY and p.default is p.empty)


CLASSES = {loss.name: first_arguments(loss.name) for loss in LOSSES} | {
    "GroupHeads": (2,),
    "GradientReversal": (),
    "GroupMemory": (3,),
    "EmbeddingQueue": (3,),
    "BalancedGroupSampler": ([0, 1, 0],),
    "GroupBatchSampler": ([0, 1, 0, 1],),
}
FUNCTIONS = {name: TENSORS[loss.on] for loss in LOSSES for name in loss.functions if name not in OTHERS} | {
    "febs": (*MASKS, G),
    "concept_alignment": (X, Y),
    "group_gap": (V, G),
    "group_dice_loss": (*MASKS, G),
    "sample_dice_loss": MASKS,
    "sample_likelihood": (X, Y),
    "fair_grpo_advantages": (torch.rand(4, 3, generator=GEN), G),
    "gradient_reversal": (X,),
}
NEEDED = {"num_groups": 3, "num_classes": 2, "group_counts": [1, 2, 3], "capacity": 4, "batch_size": 2}
NEEDED |= {"embedding_dim": 4, "dim": 4, "in_features": 2, "teacher_logits": X, "concepts": X[:3]}
# A negative number is one of these; the options of the discovery count for nothing without it (tested below).
SIGNED = {"margin", "ignore_index", "reward_shift", "scale"}
DISCOVERY = {"num_clusters", "num_features", "reservoir_size", "seed"}


def wrong_options():
    everything = [(f"fairloss.{n}", getattr(fairloss, n), a) for n, a in CLASSES.items()]
    everything += [("fairloss.policy.GroupDROAdvantage", policy.GroupDROAdvantage, (3,))]
    everything += [(f"functional.{n}", getattr(ff, n), a) for n, a in FUNCTIONS.items()]
    for label, function, arguments in everything:
        parameters = inspect.signature(function).parameters
        for name in list(parameters)[len(arguments) :]:
            if isinstance(parameters[name].default, bool) or (
                function is fairloss.FairGRPOAdvantage and name in DISCOVERY
            ):
                continue
            for bad in (math.nan, "text", object(), *([-1] if name not in SIGNED else [])):
                yield pytest.param(function, arguments, name, bad, id=f"{label}-{name}-{type(bad).__name__}")


@pytest.mark.parametrize(("function", "arguments", "name", "bad"), list(wrong_options()))
def test_a_wrong_option_is_named(function, arguments, name, bad):
    parameters = inspect.signature(function).parameters
    given = list(parameters)[: len(arguments)]
    needed = {
        k: v
        for k, v in NEEDED.items()
        if k in parameters and k not in given and parameters[k].default is inspect.Parameter.empty
    }
    with pytest.raises((ValueError, TypeError), match=name):
        function(*arguments, **{**needed, name: bad})


@pytest.mark.parametrize("name", sorted(DISCOVERY))
@pytest.mark.parametrize("bad", [math.nan, "text", object()], ids=lambda b: type(b).__name__)
def test_a_wrong_option_of_the_discovery_is_named(name, bad):
    with pytest.raises((ValueError, TypeError), match=name):
        fairloss.FairGRPOAdvantage(3, discover_groups="kmeans", **{name: bad})


def test_every_loss_function_is_here():
    types = {"ContrastiveParts", "CrossEntropyParts", "Likelihood", "WeightingParts"}
    assert set(ff.__all__) == set(FUNCTIONS) | OTHERS | types
