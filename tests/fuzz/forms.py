"""The same predictions in every accepted form: what the differential fuzz draws.

Scores are multiples of 1/64, which every floating type holds exactly, so that a form changes no number. Samples that
do not count (ignored ones, and with weights those of weight 0) are mixed in.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairloss import encode_groups
from tests.fuzz.drawing import Fields

PAIRS = ((0, 1), (0.0, 1.0), (False, True), ("no", "yes"), (1, 2), (-1, 1), (3.0, 8.0), ("0", "1"), ("b", "a"))
IGNORED = {int: -100, float: -7.0, bool: None, str: "?"}
NAMES = ("F", "M", "X")


@dataclass
class Case:
    """Plain arrays, and the same in another form.

    Attributes:
        y, score, groups, weight: int labels, float64 scores (or int classes), ids with -1, float64 weights or None.
        task: of the plain form.
        rule: ``threshold`` and ``strict`` of both, where they play a part.
        given: arguments of the other form, ``y_true``, ``y_pred``, ``groups`` and ``sample_weight``.
        options: its ``positive``, ``labels``, ``logits``, ``ignore_index`` and ``task``.
        tolerance: what rounding of logits in their type may change.
    """

    y: np.ndarray
    score: np.ndarray
    groups: np.ndarray
    weight: np.ndarray | None
    task: str
    rule: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-9


def installed(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


polars, pyarrow = installed("polars"), installed("pyarrow")
BOXES = ["list", "tuple", "array", "object", "series", "tensor", "index", "readonly", "strided"]
BOXES += ["polars"] * (polars is not None) + ["pyarrow"] * (pyarrow is not None)
FRAMES = ["array", "list", "pandas", "tensor", "fortran"]
FRAMES += ["polars"] * (polars is not None) + ["pyarrow"] * (pyarrow is not None)

FORMS = Fields(
    {
        "seed": range(2**31),
        "n": (4, 5, 8, 20, 60),
        "task": ("binary",) * 6 + ("multiclass",) * 2 + ("multilabel",) * 2,
        "given": ("scores", "scores", "decisions"),
        "shape": ("(N,)", "(N, 1)", "(N, 2)"),
        "pair": range(len(PAIRS)),
        "boxes": range(10_000),
        "dtype": ("float16", "float32", "float64", "float64", "bfloat16"),
        "logits": (False, False, True),
        "weighted": (False, False, True, "some_zero"),
        "ignored": (False, False, True),
        "missing": (None, None, "nan", "-1", "pd.NA"),
        "labels": (False, True),
        "column": (False, False, True),
        "threshold": (0.5, 0.5, 0.3, 0.7, 0.25),
        "strict": (False, True),
        "path": (
            ("functions",) * 6 + ("group_metric",) * 6 + ("report",) * 2 + ("comparison",) * 2 + ("command",) * 2
            + ("torchmetrics",) * 4 + ("transformers",) * 3
        ),
    }
)  # fmt: skip


def plain(p, rng):
    """The plainest form: int labels, float64 scores or int classes, ids."""
    n = p["n"]
    groups = rng.integers(0, 3, n)
    if p["missing"]:
        groups[rng.random(n) < 0.2] = -1
    weight = None
    if p["weighted"]:
        weight = rng.integers(1, 5, n) / 4
        weight[2:] *= (rng.random(n - 2) < 0.7) if p["weighted"] == "some_zero" else 1.0
    if p["task"] == "binary":
        y = np.r_[0, 1, rng.integers(0, 2, n - 2)]
        score = rng.integers(1, 64, n) / 64 if p["given"] == "scores" else np.r_[1, 0, rng.integers(0, 2, n - 2)]
    elif p["task"] == "multiclass":
        classes = 3 + p["seed"] % 2
        y = np.r_[np.arange(classes), rng.integers(0, classes, n - classes)]
        if p["given"] == "decisions":
            score = rng.integers(0, classes, n)
        else:  # parts of 64 that sum to it, none 0
            cuts = np.sort(
                np.stack([rng.choice(np.arange(1, 64), classes - 1, replace=False) for _ in range(n)]), axis=1
            )
            score = np.diff(cuts, axis=1, prepend=0, append=64) / 64
    else:
        y = rng.integers(0, 2, (n, 3)).astype(float)
        score = rng.integers(1, 64, (n, 3)) / 64 if p["given"] == "scores" else rng.integers(0, 2, (n, 3))
        if p["ignored"]:
            y[rng.random((n, 3)) < 0.3] = np.nan
    return Case(y, score, groups, weight, p["task"])


def formed(p):
    """A plain case with its other form."""
    rng = np.random.default_rng(p["seed"])
    case = plain(p, rng)
    if case.task != "multiclass" and p["given"] == "scores":  # logits of 0.25 may round to either side of it
        case.rule = {
            "threshold": 0.3 if p["logits"] and p["threshold"] == 0.25 else p["threshold"],
            "strict": p["strict"],
        }
    y, score, options = case.y, case.score, case.options
    kind = p["dtype"] if p["logits"] is False else p["dtype"].replace("16", "32").replace("b", "")
    if case.task == "binary":
        y, score = _binary(p, case, rng)
    elif case.task == "multiclass":
        y, score = _several(p, case, rng)
    else:
        options["task"] = "multilabel"
        if p["logits"] and p["given"] == "scores":
            score, options["logits"] = np.log(score / (1 - score)), True
        if p["ignored"] and rng.random() < 0.5:
            y, options["ignore_index"] = np.where(np.isnan(y), -1, y).astype(int), -1
    if options.get("logits"):
        case.tolerance = 1e-9 if kind == "float64" else 1e-5
    groups, weight = _groups(p, case.groups, rng), case.weight
    if p["ignored"] and y.ndim == 1 and "ignore_index" in options:
        y, score, groups, weight = _with_ignored(case, y, score, groups, rng)
    y = y[:, None] if p["column"] and y.ndim == 1 else y
    if case.task != "multilabel" and p["boxes"] % 4 == 0 and "labels" not in options:
        options["task"] = case.task
    case.given = {
        "y_true": boxed(y, kind if y.dtype.kind == "f" else None, p, rng),
        "y_pred": boxed(score, kind if score.dtype.kind == "f" else None, p, rng),
        "groups": _boxed_groups(groups, p, rng),
        "sample_weight": None if weight is None else boxed(weight, None, p, rng),
    }
    takes_frames = p["path"] in ("functions", "group_metric", "report", "comparison")
    if takes_frames and score.ndim == 2 and score.shape[1] > 1 and case.task != "multilabel" and p["boxes"] % 3 == 0:
        case.given["y_pred"] = _named(score, p, case, rng)
    return case


def _named(score, p, case, rng):
    """Columns named after the classes, in any order, in place of ``labels``."""
    default = PAIRS[p["pair"]] if case.task == "binary" else range(score.shape[1])
    names = list(case.options.pop("labels", default))
    ranked = np.sort(score, axis=1)
    tied = len(names) > 2 and bool((ranked[:, -1] == ranked[:, -2]).any())  # of two largest scores the first decides
    order = np.arange(len(names)) if tied else rng.permutation(len(names))
    return pd.DataFrame(score[:, order], columns=pd.Index([names[i] for i in order], dtype=object))


def _binary(p, case, rng):
    pair, options = PAIRS[p["pair"]], case.options
    y = np.array([pair[v] for v in case.y])
    plain_pair = pair in ((0, 1), (False, True))
    if not plain_pair or rng.random() < 0.3:
        options["positive"] = pair[1]
    if p["labels"]:
        options["labels"] = list(pair)
    if p["ignored"] and IGNORED[type(pair[0])] is not None:
        options["ignore_index"] = IGNORED[type(pair[0])]
    score = case.score
    if p["given"] == "decisions":
        if p["shape"] == "(N, 2)":
            score = np.eye(2)[score]
        elif not plain_pair or rng.random() < 0.5:
            score = np.array([pair[v] for v in score])
    elif p["logits"]:
        options["logits"] = True
        z = np.log(score / (1 - score))
        score = np.stack([3.0 - z, np.full(len(z), 3.0)], axis=1) if p["shape"] == "(N, 2)" else z
    elif p["shape"] == "(N, 2)":
        score = np.stack([1 - score, score], axis=1)
    if p["shape"] == "(N, 2)" and pair == ("b", "a"):
        options["labels"] = list(pair)  # the positive label sorts first
        if rng.random() < 0.5:
            score, options["labels"] = score[:, ::-1], ["a", "b"]
    return y, score[:, None] if p["shape"] == "(N, 1)" else score


def _several(p, case, rng):
    options, classes = case.options, int(case.y.max()) + 1
    names = [np.arange(classes), np.array([f"c{c}" for c in range(classes)]), np.arange(classes) * 2.0 - 1][
        p["pair"] % 3
    ]
    y, score = names[case.y], case.score
    if p["ignored"]:
        options["ignore_index"] = IGNORED[type(names.tolist()[0])]
    if score.ndim == 1:
        if p["shape"] == "(N, 2)":
            score = np.eye(classes)[score]
        else:
            score = names[score]
    elif p["logits"]:
        score, options["logits"] = np.log(score) + 2.0, True
    if (score.ndim == 2 and p["pair"] % 3) or p["labels"]:
        options["labels"] = names.tolist()
    return y, score


def _with_ignored(case, y, score, groups, rng):
    """Samples of an ignored label, of groups that occur, with scores that would change every number."""
    count, value = int(rng.integers(1, 4)), case.options["ignore_index"]
    rows = rng.integers(0, len(y), count)
    order = rng.permutation(len(y) + count)
    more = score[rows]
    if score.dtype.kind == "f":
        more = more + 50
    elif score.dtype.kind in "iu":
        more = more + 9
    y = np.concatenate([y.astype(object), np.array([value] * count, dtype=object)])
    y = np.array(y.tolist())[order]
    weight = None if case.weight is None else np.concatenate([case.weight, np.ones(count)])[order]
    groups = [[*groups, *(groups[i] for i in rows)][i] for i in order]
    return y, np.concatenate([score, more])[order], groups, weight


def _groups(p, ids, rng):
    """Labels of the ids in their order, a list."""
    labels = (NAMES, (10, 20, 30), ("a b", "a c", "b"), (False, True, 2))[int(rng.integers(3))]
    unknown = {"nan": float("nan"), "-1": -1, "pd.NA": pd.NA}.get(p["missing"])
    return [unknown if i < 0 else labels[i] for i in ids.tolist()]


def _boxed_groups(groups, p, rng):
    known = [g for g in groups if not (g is pd.NA or g != g)]
    how = ("list", "object", "series", "mapping", "frame", "categorical", "encoding")[int(rng.integers(7))]
    array = np.empty(len(groups), dtype=object)
    array[:] = groups
    if how == "list":
        return groups
    if how == "series":
        return pd.Series(array, index=np.arange(len(array))[::-1])
    if how == "mapping":
        return {"group": groups}
    if how == "frame":
        return pd.DataFrame({"group": array})
    if how == "encoding":
        return encode_groups(groups)
    if how == "categorical":
        listed = [None if g is pd.NA or g != g or (type(g) is int and g == -1) else g for g in groups]
        return pd.Categorical(listed, categories=sorted({g for g in known if type(g) is not int or g != -1}))
    return array


def boxed(x, dtype, p, rng):
    """``x`` in one of the containers."""
    if dtype == "bfloat16":
        return torch.from_numpy(np.ascontiguousarray(x)).bfloat16()
    x = x if dtype is None else x.astype(dtype)
    boxes = BOXES if x.ndim == 1 else FRAMES
    return contained(x, boxes[int(rng.integers(len(boxes)))])


def contained(x, how):
    """``x`` in the container ``how``; texts in no tensor, half precision in no container that has none."""
    text, half = x.dtype.kind in "USO", x.dtype == np.float16
    if how == "tensor" and not text:
        return torch.from_numpy(np.ascontiguousarray(x).copy())
    if x.ndim == 2:
        columns = {f"c{k}": x[:, k] for k in range(x.shape[1])}
        if how == "pandas":
            return pd.DataFrame(columns)
        if how == "polars" and not half:
            return polars.DataFrame(columns)
        if how == "pyarrow" and not half:
            return pyarrow.table({k: pyarrow.array(v) for k, v in columns.items()})
        if how == "fortran":
            return np.asfortranarray(x)
        return x.tolist() if how == "list" else x
    if how == "list" or (how == "tuple" and x.dtype.kind != "O"):
        return x.tolist() if how == "list" else tuple(x.tolist())
    if how == "object":
        return x.astype(object)
    if how in ("series", "index"):
        return pd.Series(x, index=np.arange(len(x))[::-1]) if how == "series" or half else pd.Index(x)
    if how == "polars" and not half:
        return polars.Series(x.tolist())
    if how == "pyarrow" and not half:
        return pyarrow.array(x.tolist())
    if how == "readonly":
        x = x.copy()
        x.setflags(write=False)
        return x
    return np.repeat(x, 2)[::2] if how == "strided" else x
