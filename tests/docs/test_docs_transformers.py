"""The recipes of docs/integrations/transformers.md run as they stand, one after the other."""

import re
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("default")]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "integrations" / "transformers.md"


def test_every_recipe_runs(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert {"eval_accuracy_light", "eval_accuracy_dark", "eval_max_accuracy_gap"} <= set(names["metrics"])
    assert 0 <= names["answers"]["eval_accuracy"] <= 1
    assert (tmp_path / "out" / "checkpoint-4" / "fair_loss.safetensors").exists()
    assert torch.equal(names["pooled"], names["hidden"][[0, 1], [2, 4]])
    ours, restored = names["module"].criterion.memory, names["restored"].criterion.memory
    assert torch.equal(ours.values, restored.values)
    assert ours.seen.tolist() == [80, 12, 8] == names["criterion"].memory.seen.tolist()
    assert set(torch.load(tmp_path / "out" / "loop.pt")) == {"model", "criterion"}
