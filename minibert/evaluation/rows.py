"""What happened to each question: its scores, the class of its error, and what may explain it.

In: examples, {id: predicted text} and, where a model gave them, the n best answers of each question. Out: `Row`s, and
their table as a file. Nothing here loads torch: a file of predictions of any program can be analysed.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minibert.answers.spans import after_marks
from minibert.evaluation.properties import properties, sentence_of
from minibert.evaluation.scorer import exact_match, normalize, score_question
from minibert.support.writing import write_atomically
from minibert.text.offsets import places_of
from minibert.text.records import Example
from minibert.text.windows import Windows, answer_span

# The kinds of results. A prediction is "right" if exact match is 1; each other kind has its reason in `error_class`.
ERRORS = ("right", "boundary", "same sentence", "other sentence", "false answer", "false no answer", "unreachable")
NBest = Sequence[Mapping[str, Any]]  # the answers to a question, best first, as in nbest_predictions.json


@dataclass(frozen=True, slots=True)
class Row:
    """One question: its scores, and what may explain them. None is unknown, or does not apply."""

    id: str
    title: str
    question: str
    gold: str  # the annotated answer that the prediction matches best; "" is "no answer"
    prediction: str
    start: int | None  # characters of the context: the prediction is context[start:end]
    end: int | None
    score: float | None
    confidence: float | None
    exact_match: float  # 0 to 1, as f1 and agreement
    f1: float
    error: str  # one of ERRORS
    gold_rank: int | None  # place of the first right answer among the n best, from 1; None if there is none
    agreement: float | None  # F1 of each annotator against the others
    question_word: str
    question_length: int  # words, as the following two
    context_length: int
    answer_length: int
    position: float | None  # of the answer in the context, 0 to 1
    overlap: float | None  # share of the question's words in the sentence of the answer, 0 to 1
    windows: int | None

    @property
    def certainty(self) -> float | None:
        """The confidence, or the score where the predictions have no confidence."""
        return self.score if self.confidence is None else self.confidence


def make_rows(
    examples: Sequence[Example],
    texts: Mapping[str, str],
    is_version_2: bool,
    n_best: Mapping[str, NBest] | None = None,
    windows: Windows | None = None,
    max_answer_length: int | None = None,
) -> list[Row]:
    """A row for each example, in their order; a missing prediction counts as "".

    windows: those of the model; without them it is not known which answers no span could give.
    """
    counts = np.bincount(windows.example, minlength=len(examples)).tolist() if windows else [None] * len(examples)
    rows = []
    for i, example in enumerate(examples):
        text, listed = texts.get(example.id, ""), (n_best or {}).get(example.id, ())
        exact, best_f1, gold = score_question(example, text, is_version_2)
        if example.id not in texts:
            exact = best_f1 = 0.0
        chosen: Mapping[str, Any] = next((answer for answer in listed if answer["text"] == text), {})
        span = (chosen["start"], chosen["end"]) if chosen and text else locate(text, example)
        is_reachable = exact == 1 or windows is None or reachable(example, windows, i, max_answer_length)
        rows.append(
            Row(
                id=example.id,
                title=example.title,
                question=example.question,
                gold=gold,
                prediction=text,
                start=span[0] if span else None,
                end=span[1] if span else None,
                score=chosen.get("score"),
                confidence=chosen.get("confidence"),
                exact_match=exact,
                f1=best_f1,
                error=error_class(example, text, span, exact, best_f1, is_reachable),
                gold_rank=gold_rank(example, listed),
                windows=counts[i],
                **properties(example),
            )
        )
    return rows


def locate(text: str, example: Example) -> tuple[int, int] | None:
    """Where a predicted text stands in the context; of several places the one nearest to an annotated answer."""
    if not text:
        return None
    golds = [gold.start for gold in example.answers] or [0]
    places = places_of(text, example.context)
    start = min(places, key=lambda place: min(abs(place - gold) for gold in golds), default=None)
    return None if start is None else (start, start + len(text))


def error_class(
    example: Example, text: str, span: tuple[int, int] | None, exact: float, best_f1: float, is_reachable: bool
) -> str:
    """Which of ERRORS a prediction is; the first that fits.

    boundary: it shares a character with an annotated answer. same sentence, other sentence: it shares none, and stands
    in a sentence with an annotated answer, or does not. A text that is not in the context is judged by shared words.
    """
    if exact == 1:
        return "right"
    if not example.answers:
        return "false answer"
    if not is_reachable:
        return "unreachable"
    if not text:
        return "false no answer"
    if span is None:
        return "boundary" if best_f1 > 0 else "other sentence"
    if any(gold.start < span[1] and span[0] < gold.start + len(gold.text) for gold in example.answers):
        return "boundary"
    golds = {sentence_of(example.context, gold.start) for gold in example.answers}
    return "same sentence" if sentence_of(example.context, span[0]) in golds else "other sentence"


def reachable(example: Example, windows: Windows, question: int, max_answer_length: int | None) -> bool:
    """Whether some span of tokens has the text of an annotated answer: in one window, short enough, cut at tokens.

    Exact match compares texts, so every place of the text counts (the first 100 of a very frequent one).
    """
    if not example.answers:
        return True
    context = example.context
    texts = {gold.text for gold in example.answers}
    places = [(start, start + len(text)) for text in texts for start in islice(places_of(text, context), 100)]
    first, stop = np.searchsorted(windows.example, [question, question + 1])
    for i in range(first, stop):
        window = windows[i]
        offsets = window.offsets[window.context_start : -1]
        for start, end in places:
            span = answer_span(offsets, start, end)
            if span is None or (max_answer_length and span[1] - span[0] >= max_answer_length):
                continue
            span_end = after_marks(context, offsets[span[1], 1])
            if exact_match(context[offsets[span[0], 0] : span_end], context[start:end]):
                return True
    return False


def gold_rank(example: Example, n_best: NBest) -> int | None:
    golds = {normalize(gold.text) for gold in example.answers} or {""}
    return next((rank for rank, answer in enumerate(n_best, start=1) if normalize(answer["text"]) in golds), None)


def is_table(file: str | Path) -> bool:
    """Whether a file begins as `write_rows` begins it."""
    names = [field.name for field in fields(Row)]
    with open(file, encoding="utf-8", errors="replace") as opened:
        line = opened.readline(1_000_000)
    try:
        return next(csv.reader([line])) == names or list(json.loads(line)) == names
    except (ValueError, TypeError, RecursionError, StopIteration, csv.Error):
        return False


def write_rows(file: str | Path, rows: Sequence[Row]) -> None:
    """Write a table: JSON lines if the name ends in .jsonl, else CSV. Raises OSError if it cannot be written."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        write_atomically(file, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
        return
    text = io.StringIO(newline="")
    # All texts in quotes: a carriage return inside of one would end the row for whoever reads it.
    names = [field.name for field in fields(Row)]
    table = csv.DictWriter(text, names, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    table.writeheader()
    table.writerows(asdict(row) for row in rows)
    write_atomically(file, text.getvalue())
