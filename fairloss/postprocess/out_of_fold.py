"""Thresholds on out-of-fold scores: every sample is scored by a model that did not see it, and none is held out for good."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fairloss.core import checks
from fairloss.core.checks import expected
from fairloss.groups.encode import UNKNOWN
from fairloss.metrics.arrays import Floats, Ints, as_finite, as_groups, before_the_call
from fairloss.metrics.scores import sigmoid
from fairloss.postprocess.folds import Splitter, splits_of
from fairloss.postprocess.options import binary_labels, check_fit_options
from fairloss.postprocess.thresholds import GroupThresholds

__all__ = ["CrossFit", "Output", "Splitter", "cross_fit"]

Output = Literal["logit", "probability"]
Average = Literal["logit", "probability", "vote"]
_BUDGET = inspect.signature(GroupThresholds.fit).parameters["budget"].default


@dataclass(frozen=True)
class CrossFit:
    """The members of :func:`cross_fit`, their out-of-fold scores and the thresholds fitted on these.

    Attributes:
        members: what ``fit`` returned, one per fold.
        out_of_fold: (N,) scores by members that did not see the sample: logits, or probabilities with
            ``average="probability"``.
        thresholds: fitted on ``out_of_fold``.
        average: what :meth:`score` and :meth:`predict` average.
        output: what the members return.
        positive_rates: label of a group to its positive rate out of fold, and by the average of all members on the same
            samples. The two differ where averaging moves scores away from the thresholds.
        reference: accuracy and balanced accuracy that the budget counted against; None: those of the common threshold.
        notes: what to know about the fit.
    """

    members: tuple[Any, ...]
    out_of_fold: Floats
    thresholds: GroupThresholds
    average: Average
    output: Output | None
    positive_rates: dict[Any, tuple[float, float]]
    reference: tuple[float, float] | None
    notes: tuple[str, ...]

    def member_scores(self, data: Any) -> Floats:
        """(M, N) scores of every member."""
        scores = np.stack([_member_logits(member, data, self.output) for member in self.members])
        return sigmoid(scores) if self.average == "probability" else scores

    def score(self, data: Any) -> Floats:
        """(N,) the mean of the members' scores; with ``average="vote"`` of their logits. Rank by it."""
        return np.asarray(self.member_scores(data).mean(axis=0))

    def predict(self, data: Any, attribute: Any) -> NDArray[np.bool_]:
        """(N,) decisions, by the groups' thresholds."""
        scores = self.member_scores(data)
        if self.average == "vote":
            return np.asarray((scores >= self.thresholds.at(attribute, n=scores.shape[1])).mean(axis=0) >= 0.5)
        return self.thresholds.predict(scores.mean(axis=0), attribute)


def cross_fit(
    fit: Any,
    data: Any,
    *,
    y: Any,
    attribute: Any,
    patients: Any = None,
    folds: int | Splitter = 5,
    repeats: int | None = None,
    average: Average = "logit",
    output: Output | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
    **thresholds: Any,
) -> CrossFit:
    """Train on each fold's complement, fit thresholds on the out-of-fold scores, decide by the mean of the members.

    Args:
        fit: a scikit-learn estimator (cloned for each fold), or a function ``fit(data, y, attribute)`` of one fold's training
            samples that returns a model: an ``nn.Module``, an estimator, or a function, which give one score per sample of
            ``data``, (N,) or (N, 1), or two columns.
        data: N samples that can be indexed by an integer array (an array, a tensor, a data frame); ``np.arange(N)`` where
            ``fit`` and its models read the samples themselves.
        y: (N,) labels 0 and 1.
        attribute: (N,) group labels, or a mapping of names to attributes: their intersection.
        patients: (N,) ids; a patient's samples are all in one fold.
        folds: their number (stratified by label and group), or a splitter of scikit-learn's.
        repeats: how often that number of folds is drawn; None: four times (a splitter says it itself). Every sample then has
            several out-of-fold scores, which are averaged: closer to the mean that decides, whose scores spread less than one
            model's. The common threshold is then the one at which as many are positive as by the members singly, and the
            budget counts against the members' own accuracy and balanced accuracy out of fold (``reference``), not
            against what averaging made of them. Not for ``average="vote"``.
        average: of the members: ``"logit"``; ``"probability"``, which moves the scores away from the thresholds;
            ``"vote"``, the majority of the members' decisions.
        output: what a function's or module's scores are; None: logits, unless all lie in [0, 1], which raises. Estimators
            say it themselves.
        seed: of the folds.
        directory: keeps each fold's member and scores there (joblib), and goes on from them when called again. Other labels,
            folds, ``output``, array ``data`` or parameters of an estimator raise; another function is not noticed.
        thresholds: options of :meth:`GroupThresholds.fit`: ``close="tpr_gap"``, ``budget=``, ``per_group=False``, ...;
            ``common`` is 0 for logits and 0.5 for probabilities by default.

    Returns:
        Members, scores and thresholds.

    Raises:
        ValueError: a patient in two folds, a sample that no fold leaves out, scores with two readings, a directory with
            another split's folds; and what :meth:`GroupThresholds.fit` refuses.

    Warns:
        Where a group's positive rate out of fold and that of the averaged members on the same samples differ by more than
        two standard errors.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> rng = np.random.default_rng(0)
        >>> sex = rng.integers(0, 2, 600)
        >>> x = rng.standard_normal((600, 3)) + sex[:, None]
        >>> y = (x[:, 0] + rng.standard_normal(600) > 0.5).astype(int)
        >>> fitted = cross_fit(LogisticRegression(), x, y=y, attribute=sex, close="positive_rate_gap")
        >>> fitted.predict(x[:2], sex[:2]).shape, sorted(fitted.thresholds.thresholds)
        ((2,), [0, 1])

    References:
        Stone, *Cross-Validatory Choice and Assessment of Statistical Predictions*, JRSS B 36(2), 1974: out-of-fold scores.
    """
    checks.choice("average", average, get_args(Average))
    if output is not None:
        checks.choice("output", output, get_args(Output))
    labels = binary_labels(y).astype(np.float64)
    n = len(labels)
    size = data.shape[0] if hasattr(data, "shape") else len(data)
    if size != n:
        raise ValueError(expected("data", f"one sample for each of {n} labels", f"{size} samples"))
    thresholds.setdefault("common", 0.5 if average == "probability" else 0.0)
    fit_options = inspect.signature(GroupThresholds.fit).bind(None, None, None, **thresholds)
    fit_options.apply_defaults()
    check_fit_options(*fit_options.args[3:], **fit_options.kwargs)  # before anything is trained
    groups = as_groups(attribute, n, "attribute", option=before_the_call)
    splits = splits_of(folds, repeats, labels, groups.ids, patients, seed)
    ids = np.asarray(groups.decode(groups.ids), dtype=object)
    store = None if directory is None else Path(directory)
    asked = b"" if store is None else _asked(fit, data, labels, output)
    total, times, positive, members = np.zeros(n), np.zeros(n), np.zeros(n), []
    for number, (train, test) in enumerate(splits):
        key = _key(train, asked)
        kept = _load(store, number, key)
        if kept is None:
            model = _trained(fit, _rows(data, train), _rows(y, train), ids[train])
            kept = model, _member_logits(model, _rows(data, test), output)
            _save(store, number, key, kept)
        member, scores = kept
        if scores.shape != test.shape:
            raise ValueError(expected("fit", f"a model with {len(test)} scores for {len(test)} samples", scores.shape))
        members.append(member)
        scores = sigmoid(scores) if average == "probability" else scores
        total[test] += scores
        times[test] += 1
        positive[test] += scores >= (thresholds["common"] or 0.0)
    if (times == 0).any():
        raise ValueError(
            expected(
                "folds", "a splitter that leaves every sample out once", f"{int((times == 0).sum())} never left out"
            )
        )
    out_of_fold = total / times
    if times.max() > 1 and average != "vote" and thresholds["common"] is not None:
        _count_against_members(thresholds, out_of_fold, positive / times, labels == 1, groups.ids != UNKNOWN)
    fitted = GroupThresholds.fit(out_of_fold, labels, attribute, **thresholds)
    notes = (
        ()
        if patients is not None
        else ("Rows are taken as independent: without patients=, rows of one patient may lie in two folds.",)
    )
    result = CrossFit(tuple(members), out_of_fold, fitted, average, output, {}, thresholds.get("reference"), notes)
    before, after = fitted.predict(out_of_fold, attribute), result.predict(data, attribute)
    apart = []
    for g, label in enumerate(groups.labels):
        inside = groups.ids == g
        if not inside.any():
            continue
        rates = float(before[inside].mean()), float(after[inside].mean())
        result.positive_rates[label] = rates
        error = float((after[inside].astype(float) - before[inside]).std() / np.sqrt(inside.sum()))
        if abs(rates[1] - rates[0]) > 2 * error + 1e-12:
            apart.append(f"{label!r} {rates[0]:.3f} and {rates[1]:.3f}")
    if apart:
        warnings.warn(
            "positive rates out of fold and by the average of the members are more than two standard errors apart, so the "
            f"thresholds may not fit the average: {', '.join(apart)}",
            stacklevel=2,
        )
    return result


def _count_against_members(
    thresholds: dict[str, Any], score: Floats, positive: Floats, y: NDArray[np.bool_], known: NDArray[np.bool_]
) -> None:
    """Set ``common`` and ``reference`` by (N,) shares of the members' own decisions that are positive."""
    s, p, t = score[known], positive[known], y[known]
    count = round(float(p.sum()))
    ordered = np.sort(s)[::-1]
    if 0 < count < len(s):
        thresholds["common"] = float((ordered[count - 1] + ordered[count]) / 2)
    if thresholds.get("close") is not None and t.any() and not t.all():
        now = s >= thresholds["common"]
        members, mean = (
            (float(np.where(t, d, 1 - d).mean()), float((d[t].mean() + 1 - d[~t].mean()) / 2)) for d in (p, now * 1.0)
        )
        # Where averaging itself lost more than the budget, the common threshold is as near as can be had.
        room = thresholds.get("budget", _BUDGET)
        thresholds.setdefault("reference", tuple(min(a, b + room) for a, b in zip(members, mean, strict=True)))


def _rows(data: Any, index: Ints) -> Any:
    return (
        data.iloc[index]
        if hasattr(data, "iloc")
        else data[index]
        if hasattr(data, "shape")
        else [data[i] for i in index]
    )


def _trained(fit: Any, data: Any, y: Any, attribute: Any) -> Any:
    if hasattr(fit, "fit"):
        from sklearn.base import clone

        return clone(fit).fit(data, y)
    if not callable(fit):
        raise TypeError(
            expected("fit", "a scikit-learn estimator, or a function fit(data, y, attribute)", type(fit).__name__)
        )
    return fit(data, y, attribute)


def _check_classes(member: Any) -> None:
    """Raise if a fold's training samples were of one label: its only column would be read as the positive one."""
    classes = getattr(member, "classes_", None)
    if classes is not None and len(classes) < 2:
        cure = "take folds whose complements hold both"
        raise ValueError(expected("folds", "both labels in every fold's training samples", f"{list(classes)}", cure))


def _member_logits(member: Any, data: Any, output: Output | None) -> Floats:
    """(N,) logits of a model."""
    if hasattr(member, "decision_function"):
        _check_classes(member)
        values, output = member.decision_function(data), "logit"
    elif hasattr(member, "predict_proba"):
        _check_classes(member)
        values, output = member.predict_proba(data), "probability"
    elif hasattr(member, "state_dict"):
        import torch

        training = member.training
        with torch.no_grad():
            values = member.eval()(torch.as_tensor(data) if isinstance(data, np.ndarray) else data)
        member.train(training)
    else:
        values = member(data)
    array = as_finite(values, "the model's scores")
    if output is None and array.size and ((array >= 0) & (array <= 1)).all():
        cure = "pass output='probability' or output='logit'"
        raise ValueError(expected("output", "a word on what the scores are", "None, with all scores in [0, 1]", cure))
    if array.ndim == 2 and array.shape[1] == 2:
        array = array[:, 1] - array[:, 0] if output != "probability" else array[:, 1]
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1:
        raise ValueError(expected("fit", "a model with one score per sample, (N,)", f"shape {array.shape}"))
    if output != "probability":
        return array
    if ((array < 0) | (array > 1)).any():
        raise ValueError(expected("output", "probabilities in [0, 1]", "values outside", "pass output='logit'"))
    from scipy.special import logit

    tiny = np.finfo(np.float32).eps  # a probability of 0 or 1 is a rounded one
    return np.asarray(logit(np.clip(array, tiny, 1 - tiny)))


def _asked(fit: Any, data: Any, y: Floats, output: Output | None) -> bytes:
    """What the members depend on, as far as it can be told: of a function, only that it is one."""
    parameters = sorted(fit.get_params().items()) if hasattr(fit, "get_params") else ()
    text = re.sub(r" at 0x[0-9a-f]+", "", f"{type(fit).__name__} {parameters} {output}")
    return text.encode() + y.tobytes() + (data.tobytes() if isinstance(data, np.ndarray) else b"")


def _key(train: Ints, asked: bytes) -> str:
    return hashlib.sha256(np.asarray(train, dtype=np.int64).tobytes() + asked).hexdigest()


def _load(store: Path | None, number: int, key: str) -> tuple[Any, Floats] | None:
    path = None if store is None else store / f"fold-{number}.joblib"
    if path is None or not path.exists():
        return None
    import joblib

    stored, member, scores = joblib.load(path)
    if stored != key:
        cure = "give each fit a directory of its own"
        raise ValueError(expected("directory", "folds of these samples, fit and seed", f"others in {path.name}", cure))
    return member, scores


def _save(store: Path | None, number: int, key: str, kept: tuple[Any, Floats]) -> None:
    if store is None:
        return
    import joblib

    store.mkdir(parents=True, exist_ok=True)
    unfinished = store / f"fold-{number}.part"
    try:
        joblib.dump((key, *kept), unfinished)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            expected("fit", "a model that can be saved, beside directory=", f"one that cannot ({error})")
        ) from error
    unfinished.replace(store / f"fold-{number}.joblib")
