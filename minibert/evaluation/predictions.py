"""Prediction files: {id: text}, the n best answers of each question, and the null odds.

In: an `Evaluation`, or a file to score. Out: files that appear together or not at all, or {id: text}. The names
and the content are those of run_qa, with offsets and scores added.

Next: `evaluate.py`.
"""

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minibert.answers.spans import Prediction
from minibert.support.errors import BadInput
from minibert.support.files import check_target, read_json, write_together

N_BEST_FILE = "nbest_predictions.json"
NULL_ODDS_FILE = "null_odds.json"


@dataclass(frozen=True, repr=False, eq=False)
class Evaluation:
    """What a model answers to some questions, and its scores. The dicts are in the order of the questions."""

    scores: dict[str, float]  # {} for a test set, whose answers are not known
    predictions: dict[str, Prediction]
    texts: dict[str, str]  # the predicted answers; "" is "no answer"
    is_version_2: bool  # whether "no answer" could be predicted

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.6g}" for name, value in self.scores.items())
        return f"<Evaluation of {len(self.texts)} questions: {scores or 'no scores'}>"


def read_predictions(file: str | Path) -> dict[str, str]:
    """The content of a predictions file, {id: text}. Raises BadInput for anything else."""
    predictions = read_json(file)
    if not isinstance(predictions, dict) or "data" in predictions:
        raise BadInput(file, "", "expected a predictions file, one object {question id: answer text}")
    for key, text in predictions.items():
        if not isinstance(text, str):
            raise BadInput(file, key, f"expected the answer as a string, found {text!r}")
    return predictions


def write_predictions(file: str | Path, evaluation: Evaluation) -> None:
    """Write {id: text} to `file`, and beside it N_BEST_FILE and, for v2.0, NULL_ODDS_FILE. Every id is in every file.

    All of them are written before the first takes its name. Raises OSError, with the old files untouched, if one cannot
    be written.
    """
    file, is_v2, predictions = Path(file), evaluation.is_version_2, evaluation.predictions
    contents: dict[Path, dict[str, Any]] = {file: evaluation.texts}
    contents[file.parent / N_BEST_FILE] = {name: n_best_rows(one, is_v2) for name, one in predictions.items()}
    if is_v2:
        contents[file.parent / NULL_ODDS_FILE] = {name: one.null_odds for name, one in predictions.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = {
        path: json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) for path, content in contents.items()
    }
    write_together({path: text + "\n" for path, text in texts.items()})


def check_targets(file: str | Path, overwrite: bool = False) -> None:
    """BadInput or OSError if `write_predictions` could not write, or would replace what is no file of predictions."""
    file = Path(file)
    kinds: dict[Path, tuple[type, ...]] = {file: (str,), file.parent / N_BEST_FILE: (list,)}
    kinds[file.parent / NULL_ODDS_FILE] = (int, float)
    for path, kind in kinds.items():
        check_target(path, functools.partial(is_ours, path, kind), overwrite)


def is_ours(file: Path, kinds: tuple[type, ...]) -> bool:
    """Whether a file is an object of values of these kinds, as `write_predictions` writes it."""
    try:
        content = read_json(file)
    except BadInput:
        return False
    return isinstance(content, dict) and all(isinstance(value, kinds) for value in content.values())


def n_best_rows(prediction: Prediction, is_version_2: bool) -> list[dict[str, Any]]:
    """The answers to a question, best first, each with `probability`: the softmax over the listed logit sums.

    The null answer is listed for v2.0, and if it is the only one.
    """
    answers = prediction.answers
    if is_version_2 or not answers:
        answers = sorted([*answers, prediction.null], key=lambda answer: -answer.logit_sum)
    weights = np.exp([answer.logit_sum - answers[0].logit_sum for answer in answers])
    probabilities = (weights / weights.sum()).tolist()
    return [asdict(answer) | {"probability": probability} for answer, probability in zip(answers, probabilities)]
