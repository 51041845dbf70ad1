"""The quick start runs, and its folds keep training and test patients apart."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.examples
def test_tiny_run_writes_tables_and_pictures(tmp_path):
    command = [sys.executable, ROOT / "examples" / "quickstart.py", "--tiny", "--out", tmp_path]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert "What the intervals allow to say" in out
    for attribute in ("sex", "age"):
        assert (tmp_path / f"quickstart_{attribute}.png").stat().st_size > 10_000
        assert "GroupDRO" in (tmp_path / f"quickstart_{attribute}.json").read_text()


@pytest.mark.examples
def test_groups_and_labels():
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from quickstart import load
    finally:
        sys.path.remove(str(ROOT / "examples"))
    x, y, groups, names = load("sex-age")
    assert len(x) == len(y) == len(groups) == 442
    assert names[0] == "code 1, < 40"
    assert np.bincount(groups, minlength=6).sum() == 442
    assert abs(y.mean() - 0.5) < 0.01
