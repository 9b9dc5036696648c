"""Prediction files: {id: text}, the n best answers of each question, and the null odds.

In: an `Evaluation`, or a file to score. Out: files that appear together or not at all, or {id: text}. The names
and the content are those of run_qa, with offsets and scores added.

Next: `calibration.py`.
"""

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minibert.answers.confidence import NOT_FITTED, Answering
from minibert.answers.spans import Prediction
from minibert.support.errors import BadInput
from minibert.support.files import check_target, read_json, write_together
from minibert.text.offsets import short
from minibert.text.windows import Windows

N_BEST_FILE = "nbest_predictions.json"
NULL_ODDS_FILE = "null_odds.json"
PREDICTIONS_FORM = 'one object {question id: answer text}, with "" for no answer'
LARGEST_ODDS = 1e300  # that a float's arithmetic can add one to


@dataclass(frozen=True, repr=False, eq=False)
class Evaluation:
    """What a model answers to some questions, and its scores. The dicts are in the order of the questions."""

    scores: dict[str, float]  # {} for a test set, whose answers are not known
    predictions: dict[str, Prediction]
    texts: dict[str, str]  # the predicted answers; "" is "no answer"
    is_version_2: bool  # whether "no answer" could be predicted
    answering: Answering = NOT_FITTED  # of the model; its threshold may have been overridden
    windows: Windows | None = None  # these two are kept on request: they are large
    logits: tuple[np.ndarray, np.ndarray] | None = None  # of starts and ends, (tokens of all windows,) each

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {value:.6g}" for name, value in self.scores.items())
        return f"<Evaluation of {len(self.texts)} questions: {scores or 'no scores'}>"

    @property
    def raw_scores(self) -> dict[str, float]:
        """`score` of each predicted answer."""
        return {name: (one.answer(0) if self.texts[name] else one.null).score for name, one in self.predictions.items()}

    @property
    def confidences(self) -> dict[str, float] | None:
        """Calibrated probability that each predicted answer is right; None for a model that was not calibrated."""
        if self.answering.confidence is None or (self.is_version_2 and self.answering.no_answer is None):
            return None
        of_null, of_answers = self.answering.null_confidence, self.answering.confidences
        return {
            name: float(of_answers(one)[0]) if self.texts[name] else of_null(one) or 0.0  # type: ignore[index]
            for name, one in self.predictions.items()
        }


def read_predictions(file: str | Path) -> dict[str, str]:
    """The content of a predictions file, {id: text}. Raises BadInput for anything else."""
    predictions = read_json(file)
    if not isinstance(predictions, dict) or "data" in predictions:
        raise BadInput(file, "", f"expected {PREDICTIONS_FORM}, found {short(predictions)}")
    for key, text in predictions.items():
        if not isinstance(text, str):
            raise BadInput(
                file, key, f"expected the answer as a string, found {short(text)}; the file is {PREDICTIONS_FORM}"
            )
    return predictions


def read_n_best(file: Path, texts: dict[str, str]) -> dict[str, list[dict[str, Any]]] | None:
    """The n best answers in `file`, if they belong to these predictions: each text is one of its question's answers.

    None if there is no such file, or if it is another run's. Raises BadInput for a file of another form.
    """
    if not file.is_file():
        return None
    n_best = read_json(file)
    keys = {"text", "start", "end", "score"}
    lists = n_best.values() if isinstance(n_best, dict) else [None]
    if not all(
        isinstance(rows, list) and all(isinstance(row, dict) and keys <= row.keys() for row in rows) for rows in lists
    ):
        raise BadInput(
            file, "", f"expected {{question id: [answers]}} with {sorted(keys)}; remove the file to do without"
        )
    is_theirs = all(not text or text in [row["text"] for row in n_best.get(name, ())] for name, text in texts.items())
    return n_best if is_theirs else None


def write_predictions(file: str | Path, evaluation: Evaluation) -> None:
    """Write {id: text} to `file`, and beside it N_BEST_FILE and, for v2.0, NULL_ODDS_FILE. Every id is in every file.

    All of them are written before the first takes its name. Raises OSError, with the old files untouched, if one cannot
    be written.
    """
    file, is_v2, predictions = Path(file), evaluation.is_version_2, evaluation.predictions
    contents: dict[Path, dict[str, Any]] = {file: evaluation.texts}
    contents[file.parent / N_BEST_FILE] = {
        name: n_best_rows(one, is_v2, evaluation.answering) for name, one in predictions.items()
    }
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


def n_best_rows(prediction: Prediction, is_version_2: bool, answering: Answering = NOT_FITTED) -> list[dict[str, Any]]:
    """The answers to a question, best first, each with `probability`: the softmax over the listed logit sums.

    The null answer is listed for v2.0, and if it is the only one. A calibrated model's rows have `confidence` too; it
    is null for "no answer" if the model was calibrated on v1.1 data.
    """
    confidences = answering.confidences(prediction)
    extras = [{}] * len(prediction.scores) if confidences is None else [{"confidence": c} for c in confidences.tolist()]
    rows = list(zip(prediction.answers, extras))
    if is_version_2 or not rows:
        of_null = {} if confidences is None else {"confidence": answering.null_confidence(prediction)}
        rows = sorted([*rows, (prediction.null, of_null)], key=lambda row: -row[0].logit_sum)
    weights = np.exp([answer.logit_sum - rows[0][0].logit_sum for answer, _ in rows])
    probabilities = (weights / weights.sum()).tolist()
    return [asdict(answer) | {"probability": p} | extra for (answer, extra), p in zip(rows, probabilities)]


def read_null_odds(file: str | Path) -> dict[str, float]:
    """The content of a file of null odds, {id: number}. Raises BadInput for anything else."""
    odds = read_json(file)
    if not isinstance(odds, dict):
        raise BadInput(file, "", "expected a file of null odds, one object {question id: number}")
    for key, value in odds.items():
        if type(value) not in (int, float) or abs(value) > LARGEST_ODDS:
            raise BadInput(file, key, f"expected the null odds as a number, found {str(value)[:40]!r}")
    return odds
