"""Answers, scores, thresholds and figures of the FairMed-VLM example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .intervals import Estimate, PatientBootstrap
from .medvlm_data import Cohort, Encoder
from .medvlm_train import Diagnoser

Floats = NDArray[np.float64]


class Answers(NamedTuple):
    """What a model says of N photographs, asked without demographic prefix."""

    closed: NDArray[np.int64]  # (N,) label of the generated answer, -1 unknown
    probability: Floats  # (N,) of the diagnosis, after the closed question
    open: NDArray[np.int64]  # (N, L) findings of the generated answer, -1 unknown
    findings: Floats  # (N, L) probabilities, after the open question
    texts: list[str]  # of the first photographs, closed and open in turn


@torch.no_grad()
def answers(model: Diagnoser, encoder: Encoder, autocast: Any, *, generate: bool = True, chunk: int = 256) -> Answers:
    """Score and generate greedily, both questions for every photograph; without ``generate`` every answer is unknown."""
    model.eval()
    questions, n = encoder.questions, len(encoder.cohort)
    several = len(questions.names) > 1
    texts: list[list[str]] = []
    probabilities = []
    for kind in (0, 1) if several else (0,):
        prompt = encoder.ids(questions.prompt(kind))
        longest = 2 + max(
            len(encoder.ids(questions.answer(kind, row)))
            for row in (np.ones(len(questions.names)), np.zeros(len(questions.names)))
        )
        said: list[str] = []
        parts = []
        for start in range(0, n, chunk):
            features = encoder.views[0, start : start + chunk].to(encoder.device)
            ids = torch.tensor([prompt] * len(features), device=encoder.device)
            mask = torch.ones_like(ids)
            with autocast():
                hidden = model.llava.model(input_ids=ids, pixel_values=features, attention_mask=mask).last_hidden_state
                parts.append(model.score(hidden[:, -1].to(model.score.weight.dtype)).float().sigmoid().cpu())
                if not generate:
                    said += [""] * len(features)
                    continue
                out = model.llava.generate(
                    input_ids=ids, pixel_values=features, attention_mask=mask, do_sample=False, max_new_tokens=longest,
                    pad_token_id=encoder.processor.tokenizer.pad_token_id,
                )  # fmt: skip
            said += encoder.processor.texts(out[:, ids.shape[1] :].cpu())
        texts.append(said)
        probabilities.append(torch.cat(parts).double().numpy())
    shown = [text for pair in zip(*(t[:10] for t in texts), strict=True) for text in pair]
    return Answers(
        questions.closed.single(texts[0]),
        probabilities[0][:, 0],
        questions.open.multi(texts[-1]),
        probabilities[-1],
        shown,
    )


def tune_thresholds(truth: NDArray[np.int64], probability: Floats) -> Floats:
    """(L,) threshold of every finding with the largest F1: together the largest macro F1, since each label has its own.

    Predictions are ``probability >= threshold``; thresholds are values that occur, the larger one on a tie; 0.5 for a finding
    without a positive.
    """
    found = []
    for y, p in zip(truth.T, probability.T, strict=True):
        order = np.argsort(-p, kind="stable")
        hits = np.cumsum(y[order])
        f1 = 2 * hits / (np.arange(1, len(y) + 1) + y.sum())
        last = np.r_[np.diff(p[order]) != 0, True]  # equal probabilities are predicted alike
        best = np.flatnonzero(last)[np.argmax(f1[last])]
        found.append(p[order][best] if y.any() else 0.5)
    return np.array(found)


def macro_f1(bootstrap: PatientBootstrap, truth: NDArray[np.int64], predicted: NDArray[Any]) -> Estimate:
    """Mean F1 over findings, (seeds, N, L) predictions, on every resample; a finding without a positive is left out."""
    scores = []
    for label in range(truth.shape[1]):
        y, p = truth[:, label], predicted[:, :, label] == 1
        if y.any():
            both = bootstrap.weights @ (p & (y == 1)).T.astype(np.float64)
            either = bootstrap.weights @ p.T.astype(np.float64) + (bootstrap.weights @ y)[:, None]
            # A resample without the finding, in truth and prediction, scores 0 as in scikit-learn.
            scores.append(np.divide(2 * both, either, out=np.zeros_like(both), where=either > 0))
    return Estimate.of(np.mean(scores, axis=0), bootstrap.level)


class Bootstraps:
    """One set of resamples for every attribute and for the strata, all of the same test set."""

    def __init__(self, cohort: Cohort, resamples: int) -> None:
        self.cohort = cohort
        names = list(cohort.attribute_names)
        self.by = {
            name: PatientBootstrap(cohort.patient, cohort.attributes[:, k], cohort.sizes[k], resamples=resamples)
            for k, name in enumerate(names)
        }
        self.joint = " x ".join(names)
        self.by[self.joint] = PatientBootstrap(
            cohort.patient, cohort.strata, len(cohort.stratum_names), shares=cohort.shares, resamples=resamples
        )

    def figures(
        self, closed: NDArray[Any], probability: Floats | None, findings: NDArray[Any] | None
    ) -> dict[str, Estimate]:
        """Accuracy (an unknown answer is wrong), AUC, gaps of positive rates; (seeds, N[, L]) predictions of all seeds.

        ``accuracy``, ``accuracy:g``: strata, in the population's shares. ``gap_positive_rate ATTRIBUTE``: the diagnosis's
        demographic parity gap; ``gap_multi ATTRIBUTE``: the mean over findings.
        """
        y, strata = self.cohort.label, self.by[self.joint]
        found = strata.of_values(closed == y)
        if probability is not None:
            found |= {k: v for k, v in strata.of_scores(y, probability).items() if ":" not in k}
        for name, bootstrap in self.by.items():
            rates = bootstrap.of_values(closed == 1, "positive_rate")
            found |= {f"{key} {name}": value for key, value in rates.items()}
            found[f"gap_accuracy {name}"] = bootstrap.of_values(closed == y)["gap_accuracy"]
            if findings is not None:
                found[f"gap_multi {name}"] = self._mean_gap(bootstrap, findings)
        if findings is not None:
            found["macro_f1"] = macro_f1(strata, self.cohort.findings, findings)
            found["multi_accuracy"] = strata.of_values((findings == self.cohort.findings).mean(2), "multi_accuracy")[
                "multi_accuracy"
            ]
        return found

    @staticmethod
    def _mean_gap(bootstrap: PatientBootstrap, findings: NDArray[Any]) -> Estimate:
        """Mean over findings of the gap of positive rates, its interval by the same bound as a single gap's."""
        gaps, spreads = [], []
        for j in range(findings.shape[2]):
            predicted = (findings[:, :, j] == 1).T.astype(np.float64)
            weights = [bootstrap.weights[:, rows].astype(np.float64) for rows in bootstrap.rows]
            known = [(w, rows) for w, rows in zip(weights, bootstrap.rows, strict=True) if rows.size]
            rates = np.stack([w @ predicted[rows] / w.sum(1, keepdims=True) for w, rows in known])
            gaps.append(np.ptp(rates, axis=0))
            spreads.append(np.ptp(rates[:, 1:] - rates[:, :1], axis=0))
        gap = Estimate.of(np.mean(gaps, axis=0), bootstrap.level)
        radius = float(np.quantile(np.mean(spreads, axis=0).mean(axis=1), bootstrap.level))
        return replace(gap, low=max(0.0, gap.value - radius), high=gap.value + radius)


def equalized_odds_thresholds(
    valid: Cohort, scores: Floats, test: Cohort, test_scores: Floats, seed: int
) -> NDArray[np.int64]:
    """fairlearn's ``ThresholdOptimizer`` on the validation strata, (N,) predictions for the test set (partly by lot).

    It needs the strata of the patients at prediction time.
    """
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A classifier with nothing to fit: its feature is its probability."""

        def fit(self, x: Any, y: Any) -> Given:
            self.classes_ = np.array([0, 1])
            return self

        def predict_proba(self, x: Any) -> Floats:
            positive = np.asarray(x, dtype=np.float64).reshape(-1)
            return np.stack([1 - positive, positive], axis=1)

    fitted = ThresholdOptimizer(estimator=Given(), constraints="equalized_odds", predict_method="predict_proba")
    fitted.fit(scores[:, None], valid.label, sensitive_features=valid.strata)
    predicted = fitted.predict(test_scores[:, None], sensitive_features=test.strata, random_state=seed)
    return np.asarray(predicted).astype(np.int64)


def stack(runs: Sequence[Answers], name: str) -> NDArray[Any]:
    return np.stack([getattr(run, name) for run in runs])


def unknown_share(runs: Sequence[Answers]) -> Mapping[str, float]:
    """Share of generated answers that say nothing of the vocabulary: they count as wrong."""
    return {
        "closed": float(np.mean(stack(runs, "closed") < 0)),
        "open": float(np.mean((stack(runs, "open") < 0).all(2))),
    }
