"""A Cosmic Ray operator that deletes a statement: a forgotten check, update or return is the commonest of real faults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import parso
from cosmic_ray.operators.operator import Example, Operator

# An import that is missing fails at once; a docstring, `...` or a bare annotation that is missing changes nothing.
KEPT = ("import_name", "import_from", "string", "strings", "keyword", "operator", "nonlocal_stmt", "global_stmt")


def _declares(node: Any) -> bool:
    """``name: type`` without a value."""
    last = node.children[-1] if node.type == "expr_stmt" else node
    return bool(last.type == "annassign" and len(last.children) == 2)


class StatementDeletion(Operator):
    """Replaces a simple statement by ``pass``."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """One position for each statement of a body."""
        if node.type == "simple_stmt" and node.children[0].type not in KEPT and not _declares(node.children[0]):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The statement with its indentation kept."""
        replacement = parso.parse("pass").children[0]
        replacement.prefix = node.get_first_leaf().prefix
        replacement.parent = node
        node.children[0] = replacement
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """As Cosmic Ray shows an operator's effect."""
        return (Example("x = 1\n", "pass\n"),)
