"""Twenty thousand steps of micro-batch 2 with all memories and histories; a run killed at some step and resumed."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CAPACITY = 100


def start(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tests.contract.long_run_programs", *arguments], cwd=ROOT, **options)


def test_twenty_thousand_steps():
    steps = int(os.environ.get("FAIRLOSS_LONG_STEPS", "20000"))
    process = start("steady", str(steps), stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate()
    assert process.returncode == 0
    record = json.loads(output)
    # The first quarter fills the buffers and warms the allocators.
    settled = slice(5, None)
    tensors, blocks, kib = (record[k][settled] for k in ("tensors", "blocks", "kib"))
    assert max(tensors) == min(tensors)
    assert (
        max(blocks) - min(blocks) < steps // 20
    )  # one object kept in twenty steps would be more; the record itself is here
    assert kib[-1] - kib[0] < 1024, kib
    # Each reading of the gap is that of 100 values a group: within 5 standard errors of the truth, and no drift.
    means, deviations = zip(*record["truth"], strict=True)
    truth = max(means) - min(means)
    error = math.hypot(deviations[int(np.argmax(means))], deviations[int(np.argmin(means))]) / math.sqrt(CAPACITY)
    gaps = record["gaps"][settled]
    assert truth > 5 * error
    assert max(abs(g - truth) for g in gaps) < 5 * error
    # Rare groups' values stay for thousands of steps: readings are not independent, so the mean has its own bound.
    assert abs(np.mean(gaps) - truth) < 2 * error
    half = len(gaps) // 2
    assert abs(np.mean(gaps[:half]) - np.mean(gaps[half:])) < 3 * error


def lines(folder: Path) -> list[str]:
    log = folder / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_a_killed_run_resumes_to_the_bit(tmp_path):
    steps, whole, killed = 120, tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    undisturbed = start("resume", str(whole), str(steps))
    seed = random.SystemRandom().randrange(2**31)
    draw = random.Random(seed)
    at = 20 * draw.randrange(1, 5) + draw.randrange(6, 15)  # some way behind a checkpoint
    process = start("resume", str(killed), str(steps))
    while process.poll() is None and len(lines(killed)) < at:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, f"it was over before it was killed (seed {seed})"
    assert at <= len(lines(killed)) < steps
    assert start("resume", str(killed), str(steps)).wait() == 0
    assert undisturbed.wait() == 0
    expected = dict(line.split() for line in lines(whole))
    assert len(expected) == steps
    # What was done between the last checkpoint and the kill is done again, with the same result.
    found = [line.split() for line in lines(killed)]
    assert {step for step, _ in found} == set(expected)
    assert all(expected[step] == value for step, value in found), seed
    again = [step for step, _ in found]
    assert len(again) > len(set(again)), f"nothing was done again (seed {seed})"
