"""One question over many documents: one list of answers, best first, or "not in these texts".

`score` cannot rank here: its softmax divides by a sum over one document's tokens. What ranks is the logit sum of an
answer minus that of the document's "no answer" (the negative of its null odds): both come from the same document, and
training has taught the model what "not here" looks like. docs/guide.md has the measurement.

In: a `Prediction` for each document. Out: `Found` answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minibert.answers.confidence import Answering
from minibert.answers.spans import Answer, Prediction


@dataclass(frozen=True, slots=True)
class Found:
    """An answer in one of the documents; an empty one says that none has it.

    null_odds: the logit sum of "no answer" minus the answer's, in this document. confidence: None without a fit.
    """

    document: int
    answer: Answer
    null_odds: float
    confidence: float | None


def spans_needed(count: int, documents: int, max_answer_length: int) -> int:
    """Spans to search for in each document, so that `count` answers remain when overlapping ones are left out.

    A span of m tokens shares a token with m + n - 1 spans of n tokens. With m and n up to `max_answer_length` = L, a
    kept answer overlaps at most L * L + L * (L - 1) / 2 spans, itself included.
    """
    overlapping = max_answer_length * max_answer_length + max_answer_length * (max_answer_length - 1) // 2
    return count if documents == 1 else 1 + overlapping * (count - 1)


def find_answers(
    predictions: Sequence[Prediction],
    answering: Answering,
    count: int = 1,
    threshold: float | None = None,
    least_confidence: float | None = None,
) -> list[Found]:
    """The `count` best answers over all documents.

    threshold: answers with higher null odds are left out; None means the threshold of `answering`, if it has one.
    least_confidence: answers below it are left out. With several documents, only the best of overlapping answers in a
    document is kept. If none is left, the list is one empty answer, that of the document with the lowest null odds.
    """
    if threshold is None:
        threshold = answering.null_score_diff_threshold
    found: list[Found] = []
    for document, prediction in enumerate(predictions):
        kept: list[Found] = []
        for one in answers_of(document, prediction, answering):
            is_likely = threshold is None or one.null_odds <= threshold
            is_sure = least_confidence is None or (one.confidence or 0.0) >= least_confidence
            is_new = len(predictions) == 1 or not any(overlap(one.answer, other.answer) for other in kept)
            if is_likely and is_sure and is_new:
                kept.append(one)
            if len(kept) == count:
                break
        found += kept
    return sorted(found, key=lambda one: one.null_odds)[:count] or [no_answer(predictions, answering)]


def answers_of(document: int, prediction: Prediction, answering: Answering) -> Iterator[Found]:
    """The answers of one document with their odds and confidences, best first."""
    null = prediction.null.logit_sum
    for i, confidence in enumerate(answering.confidences(prediction)):
        answer = prediction.answer(i)
        yield Found(document, answer, null - answer.logit_sum, confidence)


def no_answer(predictions: Sequence[Prediction], answering: Answering) -> Found:
    """The empty answer of the document whose null odds are smallest."""
    document = min(range(len(predictions)), key=lambda i: predictions[i].null_odds)
    prediction = predictions[document]
    return Found(document, prediction.null, prediction.null_odds, answering.null_confidence(prediction))


def overlap(one: Answer, other: Answer) -> bool:
    """Whether two answers in one document share a character."""
    return one.start < other.end and other.start < one.end
