"""What a report is asked for: attributes, metrics, values with their kinds, and how the intervals are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from fairloss.core.arrays import frame_columns
from fairloss.core.checks import choice, expected, flag, integer, number
from fairloss.groups.encode import LABEL_RULES, GroupEncoding
from fairloss.metrics.arrays import Bools, Floats, as_attributes, as_groups, as_values, cross_groups
from fairloss.metrics.per_group import METRICS
from fairloss.metrics.predictions import Predictions
from fairloss.metrics.scores import outside

__all__ = [
    "KINDS",
    "Kind",
    "Metrics",
    "Resampling",
    "check_number",
    "named_metrics",
    "read_attributes",
    "read_directions",
    "read_margins",
    "read_metrics",
    "read_references",
    "read_values",
    "threshold_at",
    "value_kinds",
]

Metrics = dict[str, Callable[..., Any] | None]
"""Names of metrics, and the functions of those that the user wrote."""
# Comparisons and limits have these names, too.
_TAKEN = {
    *METRICS,
    "sensitivity",
    "specificity",
    "ppv",
    "equalized_odds",
    "demographic_parity_ratio",
    "equity_scaled_auc",
}
_RENAME = "define it with def under another name, or set its __name__"
_MOST_GROUPS = 200  # 19,900 pairs
_BINARY = ("accuracy", "auc", "tpr", "tnr", "precision", "npv", "f1", "positive_rate", "prevalence", "ece")
_DEFAULT = ("accuracy", "auc", "tpr", "fpr", "fdr", "f1", "positive_rate", "ece")


def read_attributes(
    groups: Any, present: Bools, options: Mapping[str, Any], notes: list[str]
) -> dict[str, GroupEncoding]:
    """Ids and names of every attribute of the samples ``present``, and of all crossed where there are several.

    Combinations of more groups than can be compared are left out, of which ``notes`` are told.
    """
    rules: Any = {rule: options[rule] for rule in LABEL_RULES}
    n = len(present)
    attributes = groups if isinstance(groups, Mapping) else frame_columns(groups)
    if attributes is not None:
        encodings = as_attributes(attributes, **rules)
    else:
        encodings = {"group": as_groups(groups, n, **rules)}
    if not encodings:
        raise ValueError(expected("groups", "at least one attribute", "none"))
    found = {str(name): as_groups(encoding, n, f"groups[{name!r}]") for name, encoding in encodings.items()}
    if len(found) < len(encodings):
        raise ValueError(expected("groups", "attributes of different names", list(encodings)))
    for name, encoding in found.items():
        if not encoding.num_groups:
            raise ValueError(expected("groups", "at least one known label", f"every sample of {name!r} is unknown"))
        check_number(name, encoding)
        found[name] = encoding._replace(ids=encoding.ids[present])
    names = list(found)
    inside = _within(found, options.get("within"))
    sizes = {2, len(names)} if options["intersections"] and len(names) > 1 else ()
    for several in (s for size in sorted(sizes) for s in combinations(names, size)):
        title = " & ".join(several)
        if title in found:
            given = f"{title!r}, which is also that of {', '.join(map(repr, several))}"
            wanted, cure = "another name for each attribute and intersection", "rename it, or pass intersections=False"
            raise ValueError(expected("groups", wanted, given, cure))
        crossed = cross_groups({k: found[k] for k in several})
        if crossed.num_groups > _MOST_GROUPS:
            notes.append(f"{title}: {crossed.num_groups} combinations are too many to compare, and are left out.")
        elif crossed.num_groups:
            found[title] = crossed
    return found | inside


def _within(found: Mapping[str, GroupEncoding], control: str | None) -> dict[str, GroupEncoding]:
    """The other attributes within each value of ``control``; samples outside have id -2, as they are not unknown."""
    if control is None:
        return {}
    by = found[choice("within", control, tuple(found))]
    inside = {}
    for name, encoding in found.items():
        for value, label in enumerate(by.labels):
            at = by.ids == value
            kept = np.unique(encoding.ids[at & (encoding.ids >= 0)])
            if name != control and len(kept):
                rows = np.full(encoding.num_groups + 1, -1)
                rows[kept] = np.arange(len(kept))
                labels = tuple(encoding.labels[g] for g in kept)
                ids = np.where(at, rows[encoding.ids], -2)
                inside[f"{name} within {control} {label}"] = GroupEncoding(ids, labels)
    return inside


def read_references(reference: Any, encodings: Mapping[str, GroupEncoding]) -> dict[str, Any]:
    """The reference group of each attribute that has one; a label alone is that of the only attribute."""
    if reference is None:
        return {}
    if not isinstance(reference, Mapping):
        if len(encodings) > 1:
            names = ", ".join(map(repr, encodings))
            raise ValueError(expected("reference", f"a group for each attribute, of {names}", repr(reference)))
        reference = dict.fromkeys(encodings, reference)
    for name, label in reference.items():
        labels = encodings[choice("reference", name, tuple(encodings))].labels
        if label not in labels:
            raise ValueError(expected(f"reference[{name!r}]", f"one of {', '.join(map(repr, labels))}", repr(label)))
    inside = {name: next((r for r in reference if name.startswith(f"{r} within ")), None) for name in encodings}
    more = {n: reference[r] for n, r in inside.items() if r is not None and reference[r] in encodings[n].labels}
    return {**more, **reference}


def threshold_at(pred: Predictions, specificity: float, threshold: float, *, strict: bool) -> float:
    """The lowest threshold at which the share of the negatives that are called negative is at least ``specificity``."""
    number("at_specificity", specificity, above=0, below=1)
    if pred.task != "binary" or pred.score is None or only_decides(pred):
        raise ValueError(expected("at_specificity", "scores of two classes", f"{pred.task} decisions"))
    if threshold != 0.5:
        raise ValueError(expected("threshold", "none beside at_specificity=, which sets it", threshold))
    known = np.ones(len(pred), dtype=bool) if pred.known is None else pred.known[:, 0]
    negatives = np.sort(pred.score[known & ~pred.target[:, 0], 0])
    if not len(negatives):
        raise ValueError(expected("at_specificity", "negatives, of which it is a share", "none"))
    least = int(np.ceil(specificity * len(negatives) - 1e-9))  # called negative at least
    highest = float(negatives[least - 1])
    return highest if strict else float(np.nextafter(highest, np.inf))


def check_number(name: str, encoding: GroupEncoding) -> None:
    """Raise where an attribute has more groups than can be compared: each pair of them is."""
    if encoding.num_groups > _MOST_GROUPS:
        given = f"{encoding.num_groups} different labels, such as {encoding.labels[0]!r}"
        cure = "leave it out where it is an id, or pass fewer groups (bins= cuts numbers into bands)"
        raise ValueError(expected(f"groups[{name!r}]", f"at most {_MOST_GROUPS} groups", given, cure))


def read_metrics(pred: Predictions, metrics: Any, notes: list[str]) -> Metrics:
    """The metrics asked for, else those that the task has; what the predictions do not allow is refused."""
    found = named_metrics(_allowed(pred, notes) if metrics is None else metrics)
    for name, function in found.items():
        if function is None:
            pred.check(name)
    return found


def _allowed(pred: Predictions, notes: list[str]) -> list[str]:
    names = list(_BINARY if pred.task == "binary" else _DEFAULT)
    if pred.task == "multiclass":
        names.remove("positive_rate")  # its mean over classes is one over their number in every group
    score = pred.score
    if score is None or only_decides(pred):
        notes.append("Decisions were given, not scores: AUC and calibration are left out.")
        return [m for m in names if m not in ("auc", "ece")]
    if pred.task == "multilabel":
        names.remove("ece")
    elif pred.task == "binary" and outside(score) is not None:
        names.remove("ece")
        notes.append("The scores are no probabilities in [0, 1]: calibration is left out.")
    return names


def only_decides(pred: Predictions) -> bool:
    """Whether there are decisions where scores could be: an area under them is one of two points."""
    if pred.score is None or pred.task != "binary":
        return pred.score is None
    return pred.log_odds is None and bool(np.isin(pred.score, (0, 1)).all())  # large logits round to 0 and 1


def named_metrics(metrics: Any) -> Metrics:
    """Each metric once, in order; a function by its own name, which has to be its alone."""
    if isinstance(metrics, (str, Mapping)) or not isinstance(metrics, Iterable):
        raise TypeError(expected("metrics", "a sequence of names and functions", repr(metrics)))
    found: Metrics = {}
    for metric in metrics:
        function = metric if callable(metric) else None
        name = choice("metrics", metric, tuple(METRICS)) if function is None else _own_name(metric)
        if found.setdefault(name, function) is not function:
            raise ValueError(expected("metrics", "functions of different names", f"two called {name!r}", _RENAME))
    if not found:
        raise ValueError(expected("metrics", f"functions, or names among {', '.join(METRICS)}", "none"))
    return found


def _own_name(function: Any) -> str:
    name = getattr(function, "__name__", "")
    if not isinstance(name, str) or name.strip() in ("", "<lambda>"):
        given = f"a {name.strip('<>') or type(function).__name__} without one"
        raise ValueError(expected("metrics", "functions that have a name", given, _RENAME))
    if name.lower() in _TAKEN:
        given = f"{name!r}, which the report has itself"
        raise ValueError(expected("metrics", "functions with names of their own", given, _RENAME))
    return name


class Resampling(NamedTuple):
    """How the intervals are made, and which groups are too small to judge."""

    num_replicates: int
    level: float
    min_group_size: int
    seed: int
    progress: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Resampling:
        """Those of the options; too few replicates, a level outside (0, 1), and sizes and seeds that are none are refused."""
        found = cls(**{name: options[name] for name in cls._fields})
        integer("num_replicates", found.num_replicates, minimum=100)
        number("level", found.level, above=0, below=1)
        integer("min_group_size", found.min_group_size, minimum=0)
        integer("seed", found.seed, minimum=0)
        flag("progress", found.progress)
        return found


def read_values(values: Any, name: str) -> Floats:
    """(N,) numbers, NaN where there is none."""
    array = as_values(values, name, "sample")
    if np.isnan(array).all():
        raise ValueError(expected(name, "finite numbers", "no value but NaN" if len(array) else "no sample"))
    return array


class Kind(NamedTuple):
    """Direction of a metric, None where neither is better, and the ends of its range."""

    higher_is_better: bool | None
    low: float = 0.0
    high: float = 1.0


KINDS: dict[str, Kind] = {
    m: Kind(None if m in ("positive_rate", "prevalence") else higher, 0.0, float("inf") if m == "bce" else 1.0)
    for m, higher in METRICS.items()
}


def read_directions(higher_is_better: Any, names: Sequence[str]) -> dict[str, bool]:
    """Of the values or functions ``names`` whose direction is said; True or False is that of all."""
    if not isinstance(higher_is_better, Mapping):
        higher_is_better = dict.fromkeys(names, higher_is_better)
    found = {}
    for name, better in higher_is_better.items():
        choice("higher_is_better", str(name), tuple(names))
        if not isinstance(better, (bool, np.bool_)):
            raise TypeError(expected("higher_is_better", f"True or False for {name}", repr(better)))
        found[str(name)] = bool(better)
    return found


def value_kinds(values: Mapping[str, Floats], higher_is_better: bool | Mapping[str, bool]) -> dict[str, Kind]:
    """Kinds of per-sample values: in [0, 1], where they all are, else between the smallest and the largest."""
    directions, kinds = read_directions(higher_is_better, tuple(values)), {}
    for name, v in values.items():
        better = directions.get(name, True)
        low, high = float(np.nanmin(v)), float(np.nanmax(v))
        kinds[name] = Kind(better) if low >= 0 and high <= 1 else Kind(better, low, high)
    return kinds


def read_margins(
    margin: float | Mapping[str, float], kinds: Mapping[str, Kind], names: Sequence[str]
) -> dict[str, float]:
    """The largest gap of no concern of each of the metrics, and of ``"equalized_odds"`` where it has one of its own.

    One number is that of metrics with values in [0, 1]; in a mapping the others have a twentieth.
    """
    if isinstance(margin, Mapping):
        for name in margin:
            choice("margin", name, (*names, "equalized_odds"))
        given = {str(name): number(f"margin[{name!r}]", value, above=0) for name, value in margin.items()}
        common = 0.05
    else:
        given, common = {}, number("margin", margin, above=0)
    return {m: common for m in names if (kinds[m].low, kinds[m].high) == (0.0, 1.0)} | given
