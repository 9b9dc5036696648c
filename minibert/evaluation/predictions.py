"""Prediction files: {id: text}, the n best answers of each question, and the null odds.

In: an `Evaluation`, or a file to score. Out: files that appear together or not at all, or {id: text}. The names
and the content are those of run_qa, with offsets and scores added.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minibert.answers.confidence import NOT_FITTED, Answering
from minibert.answers.spans import Prediction
from minibert.support.errors import BadInput
from minibert.support.files import read_json
from minibert.support.streams import counted, tell
from minibert.support.writing import check_target, write_together
from minibert.text.offsets import short
from minibert.text.records import Example
from minibert.text.windows import Windows

N_BEST_FILE = "nbest_predictions.json"
NULL_ODDS_FILE = "null_odds.json"
LARGEST = 1e300  # number in a file: a float's arithmetic can add one to it


@dataclass(frozen=True, repr=False, eq=False)
class Evaluation:
    """What a model answers to some questions, and its scores. The dicts are in the order of the questions."""

    scores: dict[str, float]  # {} for a test set, whose answers are not known
    predictions: dict[str, Prediction]
    texts: dict[str, str]  # the predicted answers; "" is "no answer"
    is_version_2: bool  # whether "no answer" could be predicted
    threshold: float = 0.0  # of the null odds, above which it was
    answering: Answering = NOT_FITTED  # of the model
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
            name: (of_answers(one)[0] if self.texts[name] else of_null(one)) or 0.0
            for name, one in self.predictions.items()
        }


def read_predictions(file: str | Path) -> dict[str, str]:
    """The content of a predictions file, {id: text}. Raises BadInput for anything else."""
    form = 'one object {question id: answer text}, with "" for no answer'
    return read_by_id(file, form, "the answer as a string", lambda value: isinstance(value, str))


def read_answers(file: str | Path, examples: Sequence[Example], data: str | Path) -> dict[str, str]:
    """A predictions file that answers questions of `data`. Says how many it leaves out: they count as wrong.

    Raises BadInput if it is of other questions.
    """
    predictions = read_predictions(file)
    missing = sum(example.id not in predictions for example in examples)
    if missing == len(examples):
        raise BadInput(file, "", f"has no prediction for any question of {data}")
    if missing:
        questions = counted(len(examples), "question")
        tell(f"warning: {file}: {missing} of {questions} have no prediction and count as wrong")
    return predictions


def read_null_odds(file: str | Path) -> dict[str, float]:
    """The content of a file of null odds, {id: number}. Raises BadInput for anything else."""
    return read_by_id(file, "one object {question id: null odds}", "the null odds as a number", is_number)


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST


def read_by_id(file: str | Path, form: str, kind: str, is_kind: Callable[[Any], bool]) -> dict[str, Any]:
    """A JSON object with a value of one kind for each question. form, kind: both in words, for the errors."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise BadInput(file, "", f"expected {form}, found {short(content)}")
    for key, value in content.items():
        if not is_kind(value):
            raise BadInput(file, key, f"expected {kind}, found {short(value)}; the file is {form}")
    return content


def read_n_best(file: Path, texts: dict[str, str]) -> dict[str, list[dict[str, Any]]] | None:
    """The n best answers in `file`, if they belong to these predictions: each text is one of its question's answers.

    None if there is no such file, or if it is another run's. Raises BadInput for a file of another form.
    """
    if not file.is_file():
        return None
    form = "one object {question id: [{text, start, end, score}]}; remove it to do without"
    n_best = read_by_id(file, form, "a list of answers", lambda v: isinstance(v, list) and all(map(is_answer, v)))
    is_theirs = all(not text or text in [row["text"] for row in n_best.get(name, ())] for name, text in texts.items())
    return n_best if is_theirs else None


def is_answer(row: Any) -> bool:
    """Whether a value has what is read of an answer in N_BEST_FILE."""
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        return False
    is_sure = row.get("confidence") is None or is_number(row["confidence"])
    return is_sure and is_number(row.get("score")) and type(row.get("start")) is type(row.get("end")) is int


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
    """Find out, before the work, whether `write_predictions` may write here. Raises OSError if it cannot.

    Raises BadInput if it would replace a file of another kind, or the n best answers or null odds of other predictions:
    these files have fixed names, whatever `file` is called.
    """
    file = Path(file)
    n_best_file, null_odds_file = file.parent / N_BEST_FILE, file.parent / NULL_ODDS_FILE

    def is_ours(path: Path) -> bool:
        try:
            predictions = read_predictions(file)
            if path == n_best_file:
                return read_n_best(path, predictions) is not None
            if path == null_odds_file:
                read_null_odds(path)
            return True
        except BadInput:
            return False

    for path in (file, n_best_file, null_odds_file):
        check_target(path, functools.partial(is_ours, path), overwrite)


def n_best_rows(prediction: Prediction, is_version_2: bool, answering: Answering = NOT_FITTED) -> list[dict[str, Any]]:
    """The answers to a question, best first, each with `probability`: the softmax over the listed logit sums.

    The null answer is listed for v2.0, and if it is the only one. A calibrated model's rows have `confidence` too; it
    is null for "no answer" if the model was calibrated on v1.1 data.
    """
    answers = list(zip(prediction.answers, answering.confidences(prediction)))
    if is_version_2 or not answers:
        answers.append((prediction.null, answering.null_confidence(prediction)))
        answers.sort(key=lambda pair: -pair[0].logit_sum)
    weights = np.exp([answer.logit_sum - answers[0][0].logit_sum for answer, _ in answers])
    rows = [asdict(answer) | {"probability": p} for (answer, _), p in zip(answers, (weights / weights.sum()).tolist())]
    if answering.confidence is not None:
        rows = [row | {"confidence": confidence} for row, (_, confidence) in zip(rows, answers)]
    return rows
