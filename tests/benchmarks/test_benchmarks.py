"""The harness measures what it says, and BENCHMARKS.md is what the committed results say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import page
from benchmarks.compare import Case, Comparison, difference, measure, slopes
from benchmarks.harness import interleaved, peak_bytes, traced_bytes

ROOT = Path(__file__).parents[2]


def test_the_page_is_written_from_the_results():
    results = page.read()
    assert set(results) == set(page.NAMES)
    assert (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8") == page.text(results)
    pictures = re.findall(r"\]\(([^)]+\.png)\)", page.text(results))
    assert len(pictures) > 5
    for picture in pictures:
        assert (ROOT / picture).exists(), picture


def rows(**seconds):
    return [
        {
            "size": {"N": n, "G": 4},
            "seconds": {name: {"min": f(n), "median": 2 * f(n)} for name, f in seconds.items()},
            "peak_bytes": {name: int(1e7 * n) for name in seconds},
            "largest_difference": {},
        }
        for n in (1, 10, 100, 1000, 10_000)
    ]


def test_a_slower_result_is_said_in_words():
    found = rows(ours=lambda n: 1e-3 + 1e-6 * n, theirs=lambda n: 1e-5 * n)
    found[0]["peak_bytes"]["theirs"] = 1000
    comparison = {"title": "T", "note": "", "ours": ["ours"], "rivals": {"theirs": "the same"}, "rows": found}
    said = page.slower_than(comparison | {"slopes": []})
    assert said[0].startswith("`ours` is slower than theirs at N=1, G=4 (100 times: 1 ms against 10 us); N=10, G=4")
    assert "N=1,000" not in said[0]
    assert said[1] == "`ours` holds more memory than theirs at N=1, G=4 (10 MB against 1 kB)."
    found = rows(ours=lambda n: 1e-6 * n, theirs=lambda n: 1e-5 * n)
    assert page.slower_than(comparison | {"rows": found}) == []


def test_slopes_are_exponents_of_the_larger_sizes():
    found = slopes(rows(flat_then_square=lambda n: 1e-3 if n < 100 else 1e-9 * n**2), ("N", "G"))
    assert [(s["along"], s["fixed"], s["from"], s["to"]) for s in found] == [("N", "G=4", 100, 10_000)]
    assert found[0]["seconds"] == pytest.approx(2)
    assert found[0]["bytes"] == pytest.approx(1)


def test_functions_take_turns_and_quick_ones_run_more_often():
    order = []

    def slow():
        order.append("slow")
        for _ in range(20_000):
            pass

    times = interleaved({"slow": slow, "quick": lambda: order.append("quick")}, budget_s=0.0, least=4)
    assert times["slow"]["calls"] == 4
    assert times["quick"]["calls"] == 20
    assert order[:2] == ["slow", "quick"]
    assert order[2:8] == ["slow", *["quick"] * 5]
    assert 0 < times["quick"]["min"] <= times["quick"]["median"] < times["slow"]["min"]


def test_memory_is_counted_to_the_byte_with_temporaries():
    def held(n):
        x = torch.ones(n)
        return (x + 1).sum()

    assert 8000 <= peak_bytes(lambda: held(1000)) <= 8000 + 256
    assert traced_bytes(lambda: bytearray(10**6)) == pytest.approx(10**6, rel=0.01)


def test_different_results_are_an_error_before_anything_is_timed():
    assert difference(lambda: torch.tensor([1.0, 2.0]), lambda: [1.0, 2.0002], 1e-3) == pytest.approx(1e-4, rel=0.01)
    for other in ([1.0, 2.1], [1.0], [float("nan"), 2.0]):
        with pytest.raises(AssertionError, match="not the same quantity"):
            difference(lambda: torch.tensor([1.0, 2.0]), lambda other=other: other, 1e-3)
    calls = []
    comparison = Comparison(
        title="T",
        ours=("a",),
        rivals={"b": "the same"},
        sizes=[{"N": 1}],
        build=lambda N: Case({"a": lambda: calls.append(N)}, {"b": (lambda: [1.0], lambda: [2.0], 0.1)}),
    )
    with pytest.raises(AssertionError, match="not the same quantity"):
        measure(comparison, threads=1)
    assert calls == []


@pytest.mark.frameworks
def test_every_benchmark_runs_on_small_sizes(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = page.read(tmp_path)
    assert set(results) == set(page.NAMES)
    assert (tmp_path / "BENCHMARKS.md").read_text(encoding="utf-8") == page.text(results)
    compared = {
        rival for data in results.values() for c in data["results"].get("comparisons", ()) for rival in c["rivals"]
    }
    assert {
        "geomloss",
        "POT",
        "SupConLoss",
        "fairret NormLoss",
        "MONAI DiceLoss",
        "TRL",
        "fairlearn",
        "torchmetrics",
    } <= compared
    for data in results.values():
        assert data["machine"]["date"]
        assert json.dumps(data)


def test_a_wrong_name_and_a_quick_run_into_the_repository_are_refused():
    for arguments, said in ((["fiss"], "no such benchmark: fiss"), (["--quick"], "--out FOLDER")):
        command = [
            sys.executable,
            "-c",
            "import runpy; runpy.run_module('benchmarks', run_name='__main__')",
            *arguments,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert said in done.stderr
