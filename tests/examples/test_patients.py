"""The demo: its sentences follow the figures, and it runs on the patients that a package ships."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return pytest.importorskip("patients")


@pytest.mark.examples
@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((-5.0, -8.0, -2.0), "is smaller by 5.0"),
        ((5.0, 2.0, 8.0), "is LARGER by 5.0"),
        ((-5.0, -11.0, 1.0), "do not show"),
    ],
)
def test_sentences_say_what_the_interval_allows(demo, interval, words):
    assert words in demo.sentence(*interval, "gap")


@pytest.mark.examples
def test_patients_and_nothing_known_afterwards(demo):
    pytest.importorskip("SurvSet")
    x, y, band = demo.load()
    assert len(x) == len(y) == len(band) == 9105
    assert set(band) == set(demo.BANDS)
    command = [sys.executable, ROOT / "examples" / "patients.py", "--seed", "3"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert "Cross-fitted, age band told:" in out
    assert out.count("shown on these patients") + out.count("do not show") + out.count("LARGER") == 4
