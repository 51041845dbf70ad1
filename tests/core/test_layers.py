"""The layers of pyproject.toml hold, and a planted upward import breaks them, wherever in the file it stands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter is a tool of development (pip install 'fairloss[dev]')")

ROOT = Path(__file__).parents[2]
AT_THE_TOP = "from fairloss.losses.gaps import group_gap"
IN_A_FUNCTION = "def late():\n    from fairloss.losses.gaps import group_gap\n    return group_gap"
FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fairloss.losses.gaps import group_gap"


def lint(folder):
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


def copy_to(folder):
    shutil.copytree(ROOT / "fairloss", folder / "fairloss", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def test_the_layers_hold(tmp_path):
    copy_to(tmp_path)
    found = lint(tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 broken" in found.stdout


@pytest.mark.parametrize("planted", [AT_THE_TOP, IN_A_FUNCTION, FOR_TYPES], ids=["top", "function", "types"])
def test_an_upward_import_is_found(tmp_path, planted):
    copy_to(tmp_path)
    file = tmp_path / "fairloss" / "groups" / "ids.py"
    file.write_text(f"{file.read_text()}\n\n{planted}\n")
    found = lint(tmp_path)
    assert found.returncode == 1
    assert "fairloss.groups.ids -> fairloss.losses.gaps" in found.stdout


def test_a_loop_inside_a_room_is_found(tmp_path):
    copy_to(tmp_path)
    file = tmp_path / "fairloss" / "losses" / "tasks.py"
    file.write_text(f"{file.read_text()}\n\nfrom fairloss.losses.likelihood import rows_of\n")
    found = lint(tmp_path)
    assert found.returncode == 1
    assert "no loop of imports BROKEN" in found.stdout
