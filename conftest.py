"""Marked tests are skipped loudly, with the reason, unless they are asked for; every test draws from its own seed."""

from __future__ import annotations

import importlib.util
import os
import random
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # `-m gpu` runs where there is torch but no NumPy
    import numpy as np
    import torch

# One thread a worker: xdist already fills the cores, and single-threaded sums are reproducible.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# verl has an environment of its own (make test-verl), where this module's doctests run, too.
collect_ignore = [] if importlib.util.find_spec("verl") else ["fairloss/integrations/verl.py"]

ON_REQUEST = ("slow", "processes", "frameworks", "examples", "fuzz")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all", action="store_true", help="also run slow, multi-process, framework, example and fuzz tests"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # `-m gpu` runs on machines that hold torch and Triton alone: nothing else is imported.
    if (config.option.markexpr or "").strip() == "gpu" and collection_path.suffix == ".py":
        return True if collection_path.parent.name != "gpu" else None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in ON_REQUEST:
            # A test named on the command line by `-m MARKER` is asked for, too.
            if (
                item.get_closest_marker(marker)
                and not config.getoption("--all")
                and marker not in (config.option.markexpr or "")
            ):
                item.add_marker(
                    pytest.mark.skip(reason=f"marked {marker!r}: runs with --all (make test-all) or -m {marker}")
                )
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="marked 'gpu': needs a CUDA device"))


def seed_of(request: pytest.FixtureRequest) -> int:
    """Of the test's id, so that a test draws the same alone, in any order and in any worker."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture(autouse=True)
def every_generator_is_seeded(request: pytest.FixtureRequest) -> None:
    """Python's, NumPy's and torch's global generators; `rng` and `generator` are those to use in new tests."""
    import torch

    random.seed(seed_of(request))
    torch.manual_seed(seed_of(request))
    if importlib.util.find_spec("numpy"):
        import numpy as np

        np.random.seed(seed_of(request))  # noqa: NPY002  the global generator is what is to be seeded


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """NumPy's generator of this test."""
    import numpy as np

    return np.random.default_rng(seed_of(request))


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """torch's generator of this test, on the CPU."""
    import torch

    return torch.Generator().manual_seed(seed_of(request))
