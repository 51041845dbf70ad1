"""Draw a seeded, stratified sample of mutants.

A *site* is a place and a kind of change (an arithmetic operator, a comparison, a number, a statement to delete, ...).
Sites are drawn uniformly within a stratum and one of the site's changes is taken: drawing among the changes themselves
would fill the sample with the eleven ways to replace each `+`.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator

from mutation.statements import StatementDeletion

# A file belongs to the first stratum that names it.
STRATA = {
    "losses": ("losses/*.py",),
    "groups": ("groups/*.py", "core/*.py"),
    "transport": ("ops/transport.py",),
    "policy": ("policy/*.py",),
    "metrics": ("metrics/*.py",),
    "report": ("report/*.py",),
    "ops": ("ops/*.py",),
    "samplers": ("samplers.py", "language.py"),
}


@dataclass(frozen=True)
class Mutant:
    """One change to one file; ``code`` is the whole file after it."""

    stratum: str
    path: str
    line: int
    kind: str
    operator: str
    occurrence: int
    code: str


@cache
def operators() -> dict[str, Operator]:
    """Every operator without arguments, by name, and the deletion of statements."""
    classes = {name: cosmic_ray.plugins.get_operator(name) for name in cosmic_ray.plugins.operator_names()}
    without_arguments = {name: cls() for name, cls in classes.items() if not cls.arguments() and "NoOp" not in name}
    return {**without_arguments, "fairloss/StatementDeletion": StatementDeletion()}


def kind_of(operator: str) -> str:
    """``core/ReplaceBinaryOperator_Add_Sub`` is of the kind ``ReplaceBinaryOperator``."""
    return operator.split("/")[1].split("_")[0]


def _for_type_checkers(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"


def _inert(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Spans that nothing evaluates: annotations (postponed everywhere), and what only type checkers read."""
    spans: list[Any] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            spans.append(node.annotation)
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            spans.append(node.returns)
        elif _for_type_checkers(node):
            spans.append(node)
    return [((s.lineno, s.col_offset), (s.end_lineno, s.end_col_offset)) for s in spans]


def _changes(source: str) -> Iterator[tuple[tuple[tuple[int, int], str], tuple[str, int]]]:
    """((start position, kind), (operator, occurrence)) of each change to ``source``."""
    inert = _inert(source)
    nodes = [n for n in ast_nodes(get_ast(source)) if n.type not in ("file_input", "newline", "endmarker")]
    for name, operator in operators().items():
        positions = (position for node in nodes for position in operator.mutation_positions(node))
        for occurrence, (start, _) in enumerate(positions):
            if not any(a <= start < b for a, b in inert):
                yield (start, kind_of(name)), (name, occurrence)


def files(root: Path, stratum: str) -> list[Path]:
    """The files of a stratum.

    Triton's kernels are left out: the interpreter runs them in another process, whose lines the coverage run does not see.
    """
    taken: set[Path] = set()
    for name, patterns in STRATA.items():
        found = {path for pattern in patterns for path in (root / "fairloss").glob(pattern)} - taken
        if name == stratum:
            return sorted(path for path in found if not path.stem.endswith("_triton"))
        taken |= found
    raise KeyError(stratum)


def sites(root: Path, stratum: str) -> dict[tuple[str, tuple[int, int], str], list[tuple[str, int]]]:
    """Every site of a stratum, with its changes."""
    found: dict[tuple[str, tuple[int, int], str], list[tuple[str, int]]] = {}
    for path in files(root, stratum):
        relative = path.relative_to(root).as_posix()
        for (start, kind), change in _changes(path.read_text()):
            found.setdefault((relative, start, kind), []).append(change)
    return found


def _compiles(code: str | None) -> bool:
    try:
        compile(code or "", "<mutant>", "exec")
    except (SyntaxError, ValueError):
        return False
    return code is not None


def draw(root: Path, stratum: str, count: int, seed: int) -> tuple[list[Mutant], int]:
    """``count`` mutants of a stratum, and the number of sites that they stand for.

    A change that is no longer Python (a `*` of a signature, say) is passed over: it says nothing about the tests.
    """
    rng = random.Random(f"{seed} {stratum}")
    found = sites(root, stratum)
    mutants: list[Mutant] = []
    for path, start, kind in rng.sample(sorted(found), len(found)):
        name, occurrence = rng.choice(found[path, start, kind])
        code = mutate_code((root / path).read_text(), operators()[name], occurrence)
        if code is not None and _compiles(code):
            mutants.append(Mutant(stratum, path, start[0], kind, name, occurrence, code))
        if len(mutants) == count:
            break
    return mutants, len(found)
