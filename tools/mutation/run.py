"""Run the sampled mutants: each in a fork of a process that has torch and pytest loaded, against the tests that reach it.

Which tests reach a line comes from a coverage run with a context per test (``make mutation`` makes it). A mutant is tested
with the quickest of them first, until one fails or their time is spent.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage

from mutation.sample import Mutant

PRELOADED = (
    "pytest", "torch", "torch._dynamo", "numpy", "scipy.stats", "scipy.optimize", "sklearn.metrics", "sklearn.cluster",
    "sklearn.datasets", "ot", "pandas", "matplotlib.pyplot", "rich.console", "fairlearn.metrics", "geomloss", "torchmetrics",
)  # fmt: skip
# Plugins that the preloading has imported already are not rewritten; pytest would warn, and warnings are errors.
QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
KILLED, SURVIVED, TIMEOUT, UNREACHED = "killed", "survived", "timeout", "unreached"


class Reach:
    """Which tests execute which line, and how long each takes."""

    def __init__(self, root: Path, coverage_file: Path, junit_file: Path) -> None:
        data = coverage.CoverageData(str(coverage_file))
        data.read()
        self.root = root
        self.lines: dict[str, dict[int, set[str]]] = {}
        for measured in data.measured_files():
            path = "fairloss/" + measured.rsplit("/fairloss/", 1)[-1]
            tests = data.contexts_by_lineno(measured).items()
            self.lines[path] = {line: {c.split("|")[0] for c in contexts if c} for line, contexts in tests}
        self.seconds = dict(_durations(junit_file))

    def tests(self, path: str, line: int) -> list[str]:
        """Tests that reach the line, quickest first.

        A line that runs at import (a default, a constant) is reached by every test of the definition, or of the file.
        """
        lines = self.lines.get(path, {})
        found = lines.get(line, set())
        if not found:
            around = self._definition(path, line)
            found = set().union(*(tests for n, tests in lines.items() if n in around)) or set().union(*lines.values())
        return sorted(found, key=lambda test: (self.seconds.get(_key(test), 1.0), test))

    def _definition(self, path: str, line: int) -> range:
        tree = ast.parse((self.root / path).read_text())
        spans = [
            (node.lineno, node.end_lineno or node.lineno)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        ]
        around = [span for span in spans if span[0] <= line <= span[1]]
        start, end = max(around, default=(1, 1_000_000))
        return range(start, end + 1)


def _key(test: str) -> str:
    path, _, name = test.partition("::")
    return f"{path.removesuffix('.py').replace('/', '.')}::{name.rsplit('::', 1)[-1]}"


def _durations(junit_file: Path) -> Iterator[tuple[str, float]]:
    for case in ElementTree.parse(junit_file).iter("testcase"):
        yield f"{case.get('classname')}::{case.get('name')}", float(case.get("time", "1"))


class _Failures:
    """Pytest plugin: the first test that fails."""

    def __init__(self) -> None:
        self.first = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.first:
            self.first = report.nodeid


def _preload() -> None:
    """Import once, before the forks, what most tests import; nothing of fairloss."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    assert not any(name.split(".")[0] in ("fairloss", "hypothesis") for name in sys.modules)
    gc.freeze()


def _in_fork(tree: Path, tests: list[str], limit: float) -> tuple[str, str]:
    """(outcome, first failing test) of the tests in a fork, which may use ``limit`` seconds of the processor."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree)
        sys.path.insert(0, str(tree))
        sys.dont_write_bytecode = True
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        import pytest

        failures = _Failures()
        try:
            status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *QUIET, *tests], plugins=[failures]))
        except BaseException:  # a mutant may break pytest's own run
            status = 99
        os.write(writing, json.dumps([status, failures.first]).encode()[:4000])
        os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + 20 * limit  # a test that sleeps or waits for another process
    ended, how = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.02)
        ended, how = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not ended or (os.WIFSIGNALED(how) and os.WTERMSIG(how) in (signal.SIGXCPU, signal.SIGKILL)):
        os.close(reading)
        return TIMEOUT, ""
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    status, first = json.loads(answer) if answer else (98, "")
    return (SURVIVED if status == 0 else KILLED), first or f"pytest ended with {status}"


def _within(tests: list[str], reach: Reach, budget: float) -> list[str]:
    taken, spent = [], 0.0
    for test in tests:
        spent += reach.seconds.get(_key(test), 1.0)
        if spent > budget and taken:
            break
        taken.append(test)
    return taken


@contextlib.contextmanager
def _tree_of(root: Path) -> Iterator[Path]:
    """A copy of the repository to change, on which the tests are seen to pass."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(root, tree, ignore=shutil.ignore_patterns(".git", ".venv*", "*.pyc", "build", "out", "site"))
        outcome, first = _in_fork(tree, ["tests/groups/test_memory.py"], 600)
        if outcome != SURVIVED:
            raise SystemExit(f"the tests fail without a mutant: {first}")
        yield tree


def again(mutants: list[Mutant], root: Path, results: list[Path], tests: list[str]) -> None:
    """Test the survivors in ``results`` once more, against tests written since, and note which of them fail now."""
    by_name = {(mutant.path, mutant.operator, mutant.occurrence): mutant for mutant in mutants}
    _preload()
    with _tree_of(root) as tree:
        for file in results:
            records = [json.loads(line) for line in file.read_text().splitlines()]
            for record in records:
                mutant = by_name.get(tuple(record["id"]))
                if record["outcome"] not in (SURVIVED, UNREACHED) or mutant is None:
                    continue
                original = (root / mutant.path).read_text()
                (tree / mutant.path).write_text(mutant.code)
                outcome, first = _in_fork(tree, tests, 300)
                (tree / mutant.path).write_text(original)
                if outcome == KILLED:
                    record |= {"outcome": KILLED, "killed_by": first, "again": True}
                print(f"{outcome:9} {mutant.path} {' '.join(record['change'])}", flush=True)
            file.write_text("".join(json.dumps(record) + "\n" for record in records))


def run(mutants: list[Mutant], root: Path, reach: Reach, results: Path, budget: float) -> None:
    """Test every mutant that the folder of ``results`` does not hold yet and append a line for each."""
    before = [line for file in results.parent.glob("*.jsonl") for line in file.read_text().splitlines()]
    done = {tuple(json.loads(line)["id"]) for line in before}
    _preload()
    with _tree_of(root) as tree:
        for mutant in mutants:
            name = (mutant.path, mutant.operator, mutant.occurrence)
            if name in done:
                continue
            start = time.monotonic()
            original = (root / mutant.path).read_text()
            (tree / mutant.path).write_text(mutant.code)
            tests = reach.tests(mutant.path, mutant.line)
            outcome, first = UNREACHED, ""
            # A few quick ones first: most mutants die at once, and collecting thousands of tests takes seconds.
            for chosen in (tests[:60], _within(tests[60:], reach, budget)):
                if chosen:
                    expected = sum(reach.seconds.get(_key(test), 1.0) for test in chosen)
                    outcome, first = _in_fork(tree, chosen, 60 + 10 * expected)
                if outcome in (KILLED, TIMEOUT):
                    break
            (tree / mutant.path).write_text(original)
            changed = [
                f"{number}: {was.strip()}  ->  {now.strip()}"
                for number, (was, now) in enumerate(
                    zip(original.splitlines(), mutant.code.splitlines(), strict=False), 1
                )
                if was != now
            ]
            record = {
                "id": name,
                "stratum": mutant.stratum,
                "kind": mutant.kind,
                "change": changed[:1],
                "outcome": outcome,
                "tests": len(tests),
                "killed_by": first if outcome == KILLED else "",
                "seconds": round(time.monotonic() - start, 1),
            }
            with results.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{outcome:9} {mutant.path} {' '.join(changed[:1])}", flush=True)
