"""The probability that an answer is right, and the small file in a model's folder that says how to compute it.

`score` is a softmax over one context's tokens: it says how much the model prefers an answer there, not how often such
an answer is right. `minibert calibrate` fits a logistic regression on questions that training has not seen, and writes
`answering.json` beside the weights:

    {"format": 1,
     "null_score_diff_threshold": -1.25,                           null: fitted on data without unanswerable questions
     "confidence": {"bias": 0.9, "log_score": 0.4, "score": 3.7, "log_length": -0.4},
     "no_answer": {"bias": -0.2, "null_odds": 0.7},                of "no answer"; null: as above
     "fitted_on": {"data": "held.json", "sha256": "..", "questions": 2726}}
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minibert.answers.spans import Prediction
from minibert.support.errors import BadInput
from minibert.support.files import read_json
from minibert.support.writing import write_atomically

ANSWERING_FILE = "answering.json"
FORMAT = 1
FEATURES = ("bias", "log_score", "score", "log_length")
NULL_FEATURES = ("bias", "null_odds")
LARGEST_ODDS = 20.0  # of "no answer", in logits: a context without tokens has no comparison, and an odds of 1e9
PENALTY = 1.0  # on the squared weights of standardized features: keeps them finite if a feature separates the answers
NEWTON_STEPS = 30


@dataclass(frozen=True)
class Answering:
    """What `answering.json` holds; without arguments, the behaviour of a model that was never calibrated."""

    null_score_diff_threshold: float | None = None
    confidence: Mapping[str, float] | None = None
    no_answer: Mapping[str, float] | None = None
    fitted_on: Mapping[str, Any] = field(default_factory=dict)

    def confidences(self, prediction: Prediction) -> list[float] | list[None]:
        """The probability that each answer is right; None for each without a fit."""
        if self.confidence is None:
            return [None] * len(prediction.scores)
        return apply(self.confidence, FEATURES, features(prediction)).tolist()

    def null_confidence(self, prediction: Prediction) -> float | None:
        """Probability that "no answer" is right; None without a fit."""
        if self.no_answer is None:
            return None
        return float(apply(self.no_answer, NULL_FEATURES, null_features(prediction)[None])[0])


NOT_FITTED = Answering()


def features(prediction: Prediction) -> np.ndarray:
    """(spans, FEATURES) of the answers of one question.

    log_score and score: the logarithm alone would be a temperature, which claims too much for middling scores and too
    little for high ones. log_length: of the answer's characters, because a long answer is rarely an exact match. Left
    out: the margin to the second answer, the logit sum, the lengths of question and context. Beside these features,
    none lowered the calibration error or the Brier score of 2,770 held-out questions by more than 0.002.
    """
    lengths = prediction.characters[:, 1] - prediction.characters[:, 0]
    scores = np.maximum(prediction.scores, 1e-30, dtype=np.float64)
    return np.stack([np.ones(len(lengths)), np.log(scores), scores, np.log(np.maximum(lengths, 1))], axis=1)


def null_features(prediction: Prediction) -> np.ndarray:
    """(NULL_FEATURES,) of "no answer"."""
    return np.array([1.0, np.clip(prediction.null_odds, -LARGEST_ODDS, LARGEST_ODDS)])


def apply(weights: Mapping[str, float], names: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """(rows,) probabilities: the logistic function of each row's weighted sum."""
    return logistic(rows @ np.array([weights[name] for name in names]))


def logistic(values: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(values / 2)  # 1 / (1 + exp(-x)), which would overflow for large negative x


def fit_logistic(rows: np.ndarray, right: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Weights that make `apply` most likely give the answers that are right, by Newton's method.

    rows: (answers, features), the first column 1. right: (answers,) 0 or 1. With p the probabilities, the gradient of
    the log-likelihood is rows.T @ (right - p), and the Hessian -rows.T @ diag(p (1 - p)) @ rows. The features are
    standardized for the fit, so that one penalty suits all of them.
    """
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    mean[0], spread[spread < 1e-9] = 0.0, 1.0
    scaled = (rows - mean) / spread
    weights = np.zeros(len(names))
    penalty = np.diag(np.full(len(names), PENALTY))
    for _ in range(NEWTON_STEPS):
        p = logistic(scaled @ weights)
        gradient = scaled.T @ (right - p) - penalty @ weights
        weights += np.linalg.solve((scaled.T * (p * (1 - p))) @ scaled + penalty, gradient)
    weights /= spread
    weights[0] -= weights[1:] @ mean[1:]
    return dict(zip(names, weights.tolist()))


def write_answering(folder: Path, answering: Answering) -> None:
    """Write `answering.json`. A checkpoint's manifest does not list it, so that a model can be calibrated again."""
    content = {"format": FORMAT} | asdict(answering)
    write_atomically(folder / ANSWERING_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_answering(folder: str | os.PathLike) -> Answering:
    """What `answering.json` holds, or NOT_FITTED without the file. BadInput names the key that cannot be used."""
    file = Path(folder) / ANSWERING_FILE
    if not file.is_file():
        return NOT_FITTED
    saved = read_json(file)
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise BadInput(file, "format", f"expected an object with format {FORMAT}; update minibert, or calibrate again")
    threshold, fitted_on = saved.get("null_score_diff_threshold"), saved.get("fitted_on")
    if threshold is not None and not is_number(threshold):
        raise BadInput(file, "null_score_diff_threshold", f"expected a number or null, found {str(threshold)[:40]!r}")
    for key, names in (("confidence", FEATURES), ("no_answer", NULL_FEATURES)):
        weights = saved.get(key)
        if weights is not None and not (
            isinstance(weights, dict) and set(weights) == set(names) and all(map(is_number, weights.values()))
        ):
            raise BadInput(file, key, f"expected null or a number for each of {', '.join(names)}; calibrate again")
    return Answering(
        threshold, saved.get("confidence"), saved.get("no_answer"), fitted_on if isinstance(fitted_on, dict) else {}
    )


def is_answering(file: Path) -> bool:
    """Whether a file is a calibration, of this version or another, and not something else of the same name."""
    with contextlib.suppress(BadInput):
        saved = read_json(file)
        return isinstance(saved, dict) and "format" in saved and "confidence" in saved
    return False


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= 2**31  # the bound of the flag --null_score_diff_threshold
