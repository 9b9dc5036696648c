"""One list of answers over many documents."""

import pytest

from minibert.answers.confidence import NOT_FITTED, Answering
from minibert.answers.documents import find_answers
from minibert.answers.pipeline import pipeline
from minibert.answers.spans import Prediction
from minibert.support.errors import BadInput
from minibert.text.records import Example
from tests.builders import make_prediction

TEXT = "abcdefghij"


def prediction(*spans: tuple[int, int, float], null: float) -> Prediction:
    """A prediction with these (start, end, logit sum), best first, and a logit sum of "no answer"."""
    return make_prediction(TEXT, *((*span, 0.0) for span in spans), null_sum=null)


def found(*predictions: Prediction, **options) -> list[tuple[int, str, float]]:
    return [(one.document, one.answer.text, one.null_odds) for one in find_answers(predictions, NOT_FITTED, **options)]


def test_what_a_document_says_against_no_answer_ranks():
    """The second document has lower logits, but stands further above its own "no answer"."""
    one, two = prediction((0, 2, 9.0), null=8.0), prediction((3, 4, 5.0), null=-2.0)
    assert found(one, two, count=5) == [(1, "d", -7.0), (0, "ab", -1.0)]


def test_answers_that_overlap_in_one_document_are_merged():
    one, two = prediction((0, 4, 9.0), (2, 6, 8.0), (4, 6, 7.0), null=0.0), prediction((2, 6, 1.0), null=0.0)
    assert found(one, two, count=5) == [(0, "abcd", -9.0), (0, "ef", -7.0), (1, "cdef", -1.0)]
    assert [text for _, text, _ in found(one, count=5)] == ["abcd", "cdef", "ef"]  # of one document all are shown


@pytest.mark.parametrize(("threshold", "expected"), [(None, "ab"), (-1.0, "ab"), (-1.1, "")])
def test_above_the_threshold_there_is_no_answer(threshold, expected):
    assert found(prediction((0, 2, 9.0), null=8.0), threshold=threshold)[0][1] == expected


def test_the_document_that_doubts_most_gives_the_empty_answer():
    one, two = prediction((0, 2, 1.0), null=8.0), prediction((3, 4, 5.0), null=7.0)
    assert found(one, two, threshold=-100.0) == [(1, "", 2.0)]
    assert found(prediction(null=1.0), two, count=3)[0][:2] == (1, "d")  # a document without tokens does not disturb


def test_an_answer_below_the_least_confidence_is_left_out():
    fitted = Answering(confidence={"bias": 0.0, "log_score": 0.0, "score": 0.0, "log_length": 1.0})
    one = prediction((0, 1, 9.0), (2, 6, 8.0), null=0.0)
    kept = find_answers([one], fitted, 5, least_confidence=0.6)
    assert [(each.answer.text, each.confidence) for each in kept] == [("cdef", pytest.approx(0.8))]


def test_the_pipeline_ranks_contexts(tiny_folder):
    reader = pipeline(model=tiny_folder)
    contexts = ["the clock was made by anna .", "john built the bridge .", ""]
    rows = reader.rank("who made the clock ?", contexts, top_k=4)
    assert all(contexts[row["document"]][row["start"] : row["end"]] == row["answer"] for row in rows)
    assert [row["null_odds"] for row in rows] == sorted(row["null_odds"] for row in rows)
    alone = reader(question="who made the clock ?", context=contexts[rows[0]["document"]])
    assert alone["answer"] == rows[0]["answer"] and alone["score"] == pytest.approx(rows[0]["score"], rel=1e-4)
    assert reader.rank("who ?", contexts, null_score_diff_threshold=-1e6)[0]["answer"] == ""


def test_as_many_answers_as_asked_for_are_left_after_the_merge(tiny_folder):
    """The best spans of a document overlap: the three best alone would leave one or two answers."""
    contexts = ["the clock was made by anna .", "john built the bridge ."]
    rows = pipeline(model=tiny_folder).rank("who made the clock ?", contexts, top_k=3)
    places = [{(row["document"], i) for i in range(row["start"], row["end"])} for row in rows]
    assert len(rows) == 3 and len(set.union(*places)) == sum(map(len, places))


@pytest.mark.parametrize("top_k", [2, 3, 5])
def test_the_answers_are_the_best_of_all_spans(tiny_folder, top_k):
    reader, question = pipeline(model=tiny_folder), "who made the clock ?"
    contexts = ["the clock was made by anna weiss in basel of iron . " * 2, "john built the old bridge by the river ."]
    examples = [Example("", "", question, text) for text in contexts]
    spans = reader.predictions(examples, {"top_k": 10**6, "max_answer_len": 6})
    expected = [(one.document, one.answer.start, one.answer.end) for one in find_answers(spans, NOT_FITTED, top_k)]
    rows = reader.rank(question, contexts, top_k=top_k, max_answer_len=6)
    assert [(row["document"], row["start"], row["end"]) for row in rows] == expected


@pytest.mark.parametrize(
    ("question", "contexts", "says"),
    [("who ?", [], "at least one text"), (["who ?", "what ?"], ["one", "two"], "one question")],
)
def test_rank_takes_one_question_and_some_texts(tiny_folder, question, contexts, says):
    reader = pipeline(model=tiny_folder)
    with pytest.raises(BadInput, match=says):
        reader.rank(question, contexts)
    assert reader.rank("who ?", "one text is a document")[0]["document"] == 0
