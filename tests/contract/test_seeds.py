"""Every test draws from generators seeded with its own id: the same twice and in another order, others for another test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRAWS = """
import json, os, random
import numpy as np, pytest, torch

@pytest.mark.parametrize("case", [0, 1])
def test_draws(case, rng, generator):
    drawn = [random.random(), np.random.rand(), torch.rand(()).item()]
    drawn += [rng.random(), torch.rand((), generator=generator).item()]
    with open(os.environ["DRAWN"], "a") as out:
        out.write(json.dumps([case, drawn]) + "\\n")
"""


def drawn(folder, name, *cases):
    """What each case drew, by its number, in a process of its own."""
    out = folder / name
    ids = [f"{folder / 'test_drawing.py'}::test_draws[{case}]" for case in cases]
    # The file's folder is the root, with this project's conftest, so that ids do not depend on where the folder lies.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", *ids]
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, "DRAWN": str(out)})
    return dict(json.loads(line) for line in out.read_text().splitlines())


def test_a_test_draws_the_same_in_every_process_and_order(tmp_path):
    (tmp_path / "test_drawing.py").write_text(DRAWS)
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text("utf-8"))
    first, second = drawn(tmp_path, "first", 0, 1), drawn(tmp_path, "second", 1, 0)
    assert first == second == {0: first[0], 1: first[1]}
    assert not set(first[0]) & set(first[1])
