"""The numbers of cells that the documentation states are those that the tests count."""

import re
from pathlib import Path

import pytest

from tests.published import test_fairdi as fairdi
from tests.published import test_fairgrpo as fairgrpo
from tests.published import test_fairmedfm_lora as others

PAGE = Path(__file__).parents[2] / "docs" / "published-numbers.md"
MODULES = (fairdi, fairgrpo, others)


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not part of this distribution")
def test_the_documentation_counts_as_the_tests_do():
    text = PAGE.read_text(encoding="utf-8")
    cells = sum(sum(m.CELLS.values()) for m in MODULES)
    contradictions = sum(sum(m.CONTRADICTIONS.values()) for m in MODULES)
    assert f"**{cells:,} cells**" in text
    assert f"**{contradictions} cells** contradict" in text
    assert f"**{fairdi.STATISTICS}** ranks" in text
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \| (\d+) \| [^|]*\|$", text, re.M)
    numbers = {name: (int(a.replace(",", "")), int(b)) for name, a, b in rows}
    assert numbers.pop("sum") == (cells, contradictions)
    assert sum(a for a, _ in numbers.values()) == cells
    assert sum(b for _, b in numbers.values()) == contradictions
    assert sorted(a for a, _ in numbers.values()) == sorted(n for m in MODULES for n in m.CELLS.values())
