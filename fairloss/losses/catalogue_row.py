"""What a row of :mod:`fairloss.losses.catalogue` says of a loss."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Loss", "Paper"]


class Paper(NamedTuple):
    """A publication: what the tables call it, its year, and where it is."""

    name: str
    year: int | None = None
    link: str = ""


class Loss(NamedTuple):
    """A loss. Texts are Markdown cells; "no" and "yes" are followed by a comma and what there is to add.

    Attributes:
        name: the class.
        module: that defines class and functions; its page under ``docs/methods`` has the same name.
        functions: of ``fairloss.functional``, the loss itself first; empty where the class holds a network to train.
        on: what it is computed from.
        sources: papers, each with the place in it.
        differs: from the authors' code, in a phrase.
        needs: of a batch, so that it does anything.
        optimizes: what the value is.
        costs: time and extra memory.
        unknown: whether a sample of unknown group trains, and what becomes of it; None: the loss has no groups.
        attributes: whether ``num_groups`` may be a tuple.
        memory: which past samples it takes, and what for.
        variants: ``"default"``, ``"paper"``, ``"released"``; None: it has no ``variant``.
        compared: whether it has an arm in the comparison of classifiers, ``benchmarks/fairness_methods.py``.
    """

    name: str
    module: str
    functions: tuple[str, ...]
    on: Literal["logits", "values", "embeddings", "rewards"]
    sources: tuple[tuple[Paper, str], ...]
    differs: str
    needs: str
    optimizes: str
    costs: str
    unknown: tuple[str, str] | None
    attributes: str = "no"
    memory: str = "no"
    variants: tuple[str, str, str] | None = None
    compared: str = "yes"
