"""The block of docs/integrations/trl.md runs, with a tiny model of the same kind in the named one's place."""

import pytest

from tests.docs.test_docs import DOCS, blocks_of
from tests.integrations.test_trl import config, dataset, model, reward, tokenizer

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("default")]


def test_the_trainer_of_the_page_trains(tmp_path):
    (block,) = blocks_of(DOCS / "integrations" / "trl.md")
    assert '"Qwen/Qwen3-0.6B"' in block
    model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    block = block.replace('"Qwen/Qwen3-0.6B"', repr(str(tmp_path / "model")))
    names = {"accuracy": reward, "config": config(tmp_path / "out"), "cases": dataset()}
    exec(compile(block, "integrations/trl.md", "exec"), names)
    assert names["trainer"].state.global_step == 2
    assert names["trainer"].fair.table()
