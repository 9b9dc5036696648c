"""How far a score or a confidence can be trusted, and the fit of `answering.json` (see `answers/confidence.py`).

The measures take two arrays: `confidence`, the claimed probability that each answer is right, and `right`, 1.0 where it
is (exact match). None of them needs a model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minibert.answers.confidence import FEATURES, NULL_FEATURES, Answering, features, fit_logistic, null_features
from minibert.answers.spans import Prediction
from minibert.evaluation.predictions import Evaluation
from minibert.evaluation.scorer import score_question
from minibert.evaluation.thresholds import best_threshold
from minibert.support.errors import BadInput
from minibert.text.records import Example

BINS = 15
COVERAGES = (0.5, 0.8)
FITTED = 5  # answers of a question that are fitted on; with the best alone, the others would seem too sure


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[tuple[int, float, float]]:
    """(answers, mean confidence, share that is right) of each of the bins of equal width; (0, 0.0, 0.0) if empty."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = []
    for i in range(bins):
        inside = place == i
        means = (float(confidence[inside].mean()), float(right[inside].mean())) if inside.any() else (0.0, 0.0)
        rows.append((int(inside.sum()), *means))
    return rows


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """ECE: the mean over the answers of |mean confidence - share right| of their bin."""
    rows = reliability(confidence, right, bins)
    return sum(count * abs(claimed - share) for count, claimed, share in rows) / len(confidence)


def brier_score(confidence: np.ndarray, right: np.ndarray) -> float:
    """The mean squared difference between the claimed probability and what came true: 0 is best."""
    return float(np.mean((confidence - right) ** 2))


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, risk), (answers,) each: the share of wrong answers among the surest 1, 2, .. of them.

    Among equally sure answers no order is better than another: each counts with the mean of its group.
    """
    order = np.argsort(-confidence, kind="stable")
    _, group, size = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    wrong = (np.bincount(group, 1 - right[order]) / size)[group]
    kept = np.arange(1, len(order) + 1)
    return kept / len(order), np.cumsum(wrong) / kept


def risk_at(confidence: np.ndarray, right: np.ndarray, coverage: float) -> float:
    """The share of wrong answers among the surest `coverage` of all answers, at least one."""
    return float(risk_coverage(confidence, right)[1][max(0, round(coverage * len(right)) - 1)])


def evaluation_trust(
    examples: Sequence[Example], evaluation: Evaluation, metric_language: str | None = None
) -> dict[str, float]:
    """ECE, Brier score and risks of the raw scores (`score_..`) and, for a calibrated model, of `confidence_..`.

    A question without answers is answered rightly by the text "".
    """
    texts = evaluation.texts
    right = np.array([score_question(one, texts[one.id], True, metric_language)[0] for one in examples])
    trust: dict[str, float] = {}
    for name, claimed in (("score", evaluation.raw_scores), ("confidence", evaluation.confidences)):
        if claimed is not None:
            sure = np.array([claimed[one.id] for one in examples])
            trust |= {f"{name}_ece": calibration_error(sure, right), f"{name}_brier": brier_score(sure, right)}
            trust |= {f"{name}_risk_at_{round(100 * share)}": risk_at(sure, right, share) for share in COVERAGES}
    return trust


def fit_answering(
    examples: Sequence[Example],
    predictions: Mapping[str, Prediction],
    is_version_2: bool,
    fitted_on: Mapping[str, Any],
    threshold: float | None = None,
) -> Answering:
    """Fit the confidence and, for v2.0, the null threshold with the best F1, unless one is given.

    The first FITTED answers of each question are fitted on, whether or not the threshold would replace them. Raises
    BadInput if all are right or all are wrong: nothing then tells them apart.
    """
    ordered = [predictions[example.id] for example in examples]
    rows = np.concatenate([features(one)[:FITTED] for one in ordered])
    fitted = [(example, answer.text) for example, one in zip(examples, ordered) for answer in one.answers[:FITTED]]
    right = np.array([score_question(example, text, True)[0] for example, text in fitted])
    if len(set(right.tolist())) < 2:
        found = f"{int(right.sum())} of {len(right)}"
        raise BadInput("--data", "", f"expected both right and wrong answers to fit on, found {found} right")
    no_answer = None
    if is_version_2:
        best = np.array([score_question(example, one.best().text, True)[1] for example, one in zip(examples, ordered)])
        empty = np.array([score_question(example, "", True)[1] for example in examples])
        if threshold is None:
            threshold = best_threshold(np.array([one.null_odds for one in ordered]), best, empty)[1]
        no_answer = fit_logistic(np.array([null_features(one) for one in ordered]), empty, NULL_FEATURES)
    return Answering(threshold, fit_logistic(rows, right, FEATURES), no_answer, fitted_on)
