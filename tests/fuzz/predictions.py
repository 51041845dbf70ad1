"""Hostile labels, scores, groups and weights for the fuzz targets of the metrics, and what a result is held against."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import torch

from fairloss import metrics
from tests.fuzz.batches import same
from tests.fuzz.drawing import Fields, refused
from tests.oracles import metrics as oracle

ARGUMENTS = (
    "y_true|y_pred|y_score|groups|sample_weight|threshold|task|values|labels|scores|score_a|score_b|overall|a and b|a:|b:"
    "|performance|disparity|attributes|patients|control|undefined|is undefined in"
)
SPOILS = (
    "none", "scalar", "short", "text", "letters", "nan", "inf", "negative", "two", "deeper", "ragged", "empty", "complex",
    "object",
)  # fmt: skip
CONTAINERS = ("list", "array", "tensor", "series", "float32", "object")


def predictions():
    """Seeded labels, scores with ties, groups with unknown ones, weights."""
    return Fields(
        {
            "seed": range(2**31),
            "n": (1, 2, 3, 5, 9, 14),
            "truth": ("mixed", "mixed", "ones", "zeros"),
            "group": ("mixed", "mixed", "absent", "unknown", "one", "singletons"),
            "container": CONTAINERS,
            "weighted": (None, "random", "some_zero"),
            "spoil": (None,) * 14 + SPOILS,
            "argument": range(10),
        }
    )


def arrays_of(p):
    rng = np.random.default_rng(p["seed"])
    n = p["n"]
    y = {"mixed": rng.integers(0, 2, n), "ones": np.ones(n, int), "zeros": np.zeros(n, int)}[p["truth"]]
    g = {
        "mixed": rng.integers(-1, 3, n),
        "absent": rng.integers(-1, 2, n),
        "unknown": np.full(n, -1),
        "one": np.full(n, 2),
        "singletons": np.arange(n),
    }[p["group"]]
    w = {None: None, "random": rng.random(n) + 0.1, "some_zero": rng.integers(0, 2, n).astype(float)}[p["weighted"]]
    return {"y_true": y, "y_score": np.round(rng.random(n), 1), "groups": g, "sample_weight": w}


def contained(x, kind):
    if x is None or kind == "array":
        return x
    if kind == "list":
        return x.tolist()
    if kind == "tensor":
        return torch.from_numpy(x.copy())
    if kind == "series":
        return pd.Series(x, index=np.arange(len(x))[::-1])
    if kind == "float32":
        return x.astype(np.float32) if x.dtype.kind == "f" else x
    return x.astype(object)


def spoilt(x, how, rng):
    """``x`` with something wrong; None where that cannot be done to it."""
    x = np.asarray(x)
    if how in ("none", "scalar", "text", "object"):
        return {"none": None, "scalar": 1, "text": "abc", "object": object()}[how]
    if how == "short":
        return x[:-1]
    if how == "empty":
        return x[:0]
    if how == "letters":
        return [*"abcdefghijklmnop"[: len(x)]]
    if how == "deeper":
        return x[None, None]
    if how == "ragged":
        return [[1.0], *([[1.0, 2.0]] * max(len(x) - 1, 1))]
    if how == "complex":
        return x.astype(complex) + 1j
    out = x.astype(float).copy()
    out[int(rng.integers(len(out)))] = {"nan": math.nan, "inf": math.inf, "negative": -5.0, "two": 2.5}[how]
    return out


def call(function, *args, **kwargs):
    """Warnings are errors, but for the one that names undefined groups."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", metrics.UndefinedGroupWarning)
        return function(*args, **kwargs)


def numbers(result):
    if not isinstance(result, (float, np.ndarray, metrics.GroupMetric)):
        return np.zeros(0)
    return np.asarray(result.values if isinstance(result, metrics.GroupMetric) else result, dtype=float)


def judge(function, arguments, p, check, may_pass=()):
    """Run a valid example against ``check(result)``, or a spoilt one against the error that it must raise."""
    names = list(arguments)
    kind = p["container"]
    given = {k: v if k == "groups" else contained(v, "array" if kind == "float32" and k == "sample_weight" else kind)
             for k, v in arguments.items()}  # fmt: skip
    name = names[p["argument"] % len(names)]
    if p["spoil"] is not None:
        given[name] = spoilt(
            np.ones(p["n"]) if arguments[name] is None else arguments[name],
            p["spoil"],
            np.random.default_rng(p["seed"]),
        )
    before = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in given.items()}
    if p["spoil"] is None:
        check(call(function, **given))
    else:
        try:
            result = call(function, **given)
        except (ValueError, TypeError) as error:
            refused(error, ARGUMENTS)
        else:
            assert (name, p["spoil"]) in may_pass or (name, "*") in may_pass, f"{name} {p['spoil']} gave {result}"
            assert not np.isinf(numbers(result)).any()
    assert all(same(given[k], before[k]) for k in given if isinstance(given[k], np.ndarray))


def by_group(arrays, value):
    """Values of the groups present; without weight none is."""
    w = arrays["sample_weight"] if arrays["sample_weight"] is not None else np.ones(len(arrays["y_true"]))
    found = []
    for g in sorted(set(arrays["groups"].tolist()) - {-1}):
        at = arrays["groups"] == g
        found.append(value(arrays["y_true"][at], arrays["y_score"][at], w[at]))
    return found


def rate_of(name):
    return lambda y, s, w: oracle.rate(name, y, (s >= 0.5).astype(int), w)


def gap_of(values):
    defined = [v for v in values if not math.isnan(v)]
    return max(defined) - min(defined) if len(defined) > 1 else math.nan


def ratio_of(values):
    defined = [v for v in values if not math.isnan(v)]
    return min(defined) / max(defined) if len(defined) > 1 and max(defined) > 0 else math.nan


def nan_max(values):
    return math.nan if any(map(math.isnan, values)) else max(values)


# Any label is a group (letters, 2.5, one string a sample); NaN is an unknown one; weights may be left out; classes may be
# letters, where labels and predictions are of one kind; bools and whole numbers are scores.
LENIENT = {("groups", how) for how in ("letters", "nan", "inf", "two", "negative", "complex")} | {
    ("sample_weight", how) for how in ("none", "two")
}
