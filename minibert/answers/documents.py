"""One question over many documents: one list of answers, best first, or "not in these texts".

`score` cannot rank here: its softmax divides by a sum over one document's tokens. What ranks is the logit sum of an
answer minus that of the document's "no answer" (the negative of its null odds): both come from the same document, and
training has taught the model what "not here" looks like. docs/guide.md has the measurement.

In: a `Prediction` for each document. Out: `Found` answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from minibert.answers.confidence import Answering
from minibert.answers.spans import N_BEST_SIZE, Answer, Prediction


@dataclass(frozen=True, slots=True)
class Found:
    """An answer in one of the documents; an empty one says that none has it.

    null_odds: the logit sum of "no answer" minus the answer's, in this document. confidence: None without a fit.
    """

    document: int
    answer: Answer
    null_odds: float
    confidence: float | None


def spans_needed(count: int, documents: int) -> int:
    """Spans to search for in each document, so that `count` answers are left when overlapping ones are merged.

    The spans after the best one of a document are mostly shorter and longer forms of it.
    """
    return count if documents == 1 else 1 + N_BEST_SIZE * (count - 1)


def find_answers(
    predictions: Sequence[Prediction],
    answering: Answering,
    count: int = 1,
    threshold: float | None = None,
    least_confidence: float | None = None,
) -> list[Found]:
    """The `count` best answers over all documents.

    threshold: of the null odds, above which an answer is left out; None is that of `answering`, and keeps all if there
    is none. least_confidence: below it, an answer is left out. With several documents, of the answers that overlap in
    one of them only the best is kept. Where none is left, the list is one empty answer: that of the document which
    doubts "no answer" most.
    """
    if threshold is None:
        threshold = answering.null_score_diff_threshold
    found = [one for i, prediction in enumerate(predictions) for one in answers_of(i, prediction, answering)]
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: one.null_odds):
        is_likely = threshold is None or one.null_odds <= threshold
        is_sure = least_confidence is None or (one.confidence or 0.0) >= least_confidence
        is_new = len(predictions) == 1 or not any(overlap(one, other) for other in kept)
        if is_likely and is_sure and is_new and len(kept) < count:
            kept.append(one)
    return kept or [no_answer(predictions, answering)]


def answers_of(document: int, prediction: Prediction, answering: Answering) -> list[Found]:
    """The answers of one document with their odds and confidences."""
    null = prediction.null.logit_sum
    return [
        Found(document, answer, null - answer.logit_sum, confidence)
        for answer, confidence in zip(prediction.answers, answering.confidences(prediction))
    ]


def no_answer(predictions: Sequence[Prediction], answering: Answering) -> Found:
    """The empty answer of the document whose null odds are smallest."""
    document = min(range(len(predictions)), key=lambda i: predictions[i].null_odds)
    prediction = predictions[document]
    return Found(document, prediction.null, prediction.null_odds, answering.null_confidence(prediction))


def overlap(one: Found, other: Found) -> bool:
    """Whether two answers share a character of one document."""
    is_apart = one.answer.end <= other.answer.start or other.answer.end <= one.answer.start
    return one.document == other.document and not is_apart
