"""What is made from the catalogue of losses is up to date, and the catalogue says what the classes do."""

import importlib
import inspect
import subprocess
import sys

import pytest
import torch

import fairloss
from fairloss import functional
from fairloss.losses.catalogue import LOSSES
from tests.contract.case import all_cases
from tools import tables

each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
CASES = {type(case.make()).__name__: case for case in reversed(all_cases())}  # the first of each class
SMALLEST = {"num_groups": 2, "num_classes": 2, "embedding_dim": 4, "group_counts": [80, 20]}


def arguments(make):
    """Values for the arguments that have no default."""
    parameters = inspect.signature(make).parameters.values()
    return {p.name: SMALLEST[p.name] for p in parameters if p.default is p.empty}


@pytest.mark.parametrize("path", tables.TABLES)
def test_tables_are_those_of_the_catalogue(path):
    assert tables.rendered(path) == (tables.ROOT / path).read_text(encoding="utf-8"), "run `make tables`"


@each_loss
def test_names_lead_to_the_module(loss):
    module = importlib.import_module(loss.module)
    assert getattr(fairloss, loss.name) is getattr(module, loss.name)
    assert loss.name in module.__all__
    for name in loss.functions:
        assert getattr(functional, name) is getattr(module, name)
        assert name in module.__all__
    assert (tables.ROOT / "docs" / "methods" / tables.page_of(loss)).exists()


def test_every_loss_is_in_the_catalogue():
    public = [name for name in fairloss.__all__ if name.endswith(("Loss", "Weighting", "Advantage"))]
    assert sorted(public) == sorted(loss.name for loss in LOSSES)


def test_names_are_found_without_torch():
    code = (
        "import sys, fairloss, fairloss.functional as f, fairloss.losses.catalogue\n"
        "assert {'FISLoss', 'metrics'} <= set(dir(fairloss)) and 'fis' in dir(f)\n"
        "assert 'torch' not in sys.modules\n"
        "for module in (fairloss, f):\n"
        "    try: module.nothing\n"
        "    except AttributeError as error: assert 'nothing' in str(error)\n"
        "    else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tables.ROOT)


@each_loss
def test_unknown_samples_train_where_the_catalogue_says_so(loss):
    if loss.name == "FairGRPOAdvantage":
        rewards = torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 0, 0]])
        trained = fairloss.FairGRPOAdvantage(2)(rewards, torch.tensor([0, 1, -1])).abs().sum(1)
        assert (loss.unknown[0] != "no") == bool(trained[-1] > 0)
    elif loss.unknown is None:
        assert "groups" not in inspect.signature(getattr(fairloss, loss.name).forward).parameters
    else:
        case = CASES[loss.name]
        batch = case.draw(0, 30)
        (gradient,) = torch.autograd.grad(case.make()(**batch), batch[case.differentiable[0]])
        size, known = gradient.flatten(1).norm(dim=1) if gradient.ndim > 1 else gradient.abs(), batch["groups"] >= 0
        assert size[known].max() > 0
        assert (loss.unknown[0] != "no") == bool(size[~known].max() > 0)


@each_loss
def test_variants_are_those_of_the_catalogue(loss):
    make = getattr(fairloss, loss.name)
    if loss.variants is None:
        assert "variant" not in inspect.signature(make).parameters
        return
    make(**arguments(make), variant="default")
    for variant, said in zip(("paper", "released"), loss.variants[1:], strict=True):
        if said != "none":
            make(**arguments(make), variant=variant)
        else:
            with pytest.raises(ValueError, match="variant"):
                make(**arguments(make), variant=variant)


@each_loss
def test_attributes_memory_and_processes_are_those_of_the_catalogue(loss):
    make = getattr(fairloss, loss.name)
    parameters = inspect.signature(make).parameters
    assert "process_group" in parameters
    assert ("memory" in parameters) == loss.memory.startswith("`memory=")
    if "num_groups" not in parameters:
        # The counts say how many groups there are, where a loss has them first.
        assert loss.attributes.startswith("yes") == ("group_counts" in parameters)
    elif loss.attributes.startswith("yes"):
        make(**arguments(make) | {"num_groups": (2, 3)})
    else:
        with pytest.raises(ValueError, match="num_groups"):
            make(**arguments(make) | {"num_groups": (2, 3)})
