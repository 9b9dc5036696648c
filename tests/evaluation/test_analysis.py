"""The rows of an analysis: each error class, each column against an independent count, and the tables over them."""

import csv
import json
from dataclasses import replace

import pytest

from minibert.evaluation.analysis import groups, human_ceiling, means, slices, suspects
from minibert.evaluation.rows import make_rows, write_rows
from minibert.evaluation.scorer import score
from minibert.text.records import Example, Gold
from minibert.text.windows import make_windows

TEXT = 'In 1871 anna made the clock. "It is iron," said J. Weiss of Basel. The tower is copper.'
QUESTION = "Who made the iron clock?"


def example(*golds, context=TEXT, name="q", question=QUESTION):
    return Example(name, "t", question, context, tuple(Gold(gold, context.index(gold)) for gold in golds))


def row(prediction, *golds, is_version_2=False, **more):
    return make_rows([example(*golds)], {"q": prediction}, is_version_2, **more)[0]


@pytest.mark.parametrize(
    ("prediction", "golds", "error"),
    [
        ("The Anna!", ["anna"], "right"),
        ("anna made", ["anna"], "boundary"),
        ("made", ["made the clock"], "boundary"),
        ("1871", ["anna"], "same sentence"),
        ("iron", ["Basel"], "same sentence"),  # neither the quotation nor the initial ends the sentence
        ("iron", ["anna"], "other sentence"),
        ("iron", ["anna", "Basel"], "same sentence"),  # one annotator suffices
        ("copper", ["Basel"], "other sentence"),
        ("said  J. Weiss", ["Weiss"], "boundary"),  # not a text of the context: shared words decide
        ("bronze", ["Weiss"], "other sentence"),
        ("anna", [], "false answer"),
        ("", ["anna"], "false no answer"),
        ("", [], "right"),
    ],
)
def test_the_class_of_an_error(prediction, golds, error):
    assert row(prediction, *golds, is_version_2=not golds).error == error


@pytest.mark.parametrize(("longest", "long_answer"), [(4, "boundary"), (3, "unreachable")])
def test_an_answer_that_no_span_can_give_is_unreachable(tokenizer, longest, long_answer):
    examples = [example("anna made the clock"), example("nna"), example("anna")]
    windows = make_windows(examples, tokenizer, 60, 8)
    rows = make_rows(examples, {"q": "anna made"}, False, None, windows, longest)
    assert [one.error for one in rows] == [long_answer, "unreachable", "boundary"]


def test_an_answer_that_ends_in_a_combining_mark_is_reachable(tokenizer):
    context = "by anna\u0301 of basel"
    one = Example("q", "", "who ?", context, (Gold("anna\u0301", 3),))
    windows = make_windows([one], tokenizer, 60, 8)
    assert [r.error for r in make_rows([one], {"q": "basel"}, False, None, windows, 30)] == ["same sentence"]


def test_the_scores_offsets_and_ranks_come_from_the_n_best():
    listed = [
        {"text": "1871", "start": 3, "end": 7, "score": 0.5, "confidence": 0.4},
        {"text": "iron", "start": 36, "end": 40, "score": 0.3},
        {"text": "the anna", "start": 8, "end": 12, "score": 0.1},
    ]
    one = row("1871", "anna", n_best={"q": listed})
    assert (one.start, one.end, one.score, one.confidence, one.gold_rank) == (3, 7, 0.5, 0.4, 3)
    none = row("1871", "Basel", n_best={"q": listed})
    assert none.gold_rank is None
    assert row("iron", "anna", n_best={"q": listed}).confidence is None


def test_agreement_is_that_of_the_first_annotators(monkeypatch):
    answers = "clock", "Basel", "clock"
    assert row("iron", *answers).agreement > 0
    monkeypatch.setattr("minibert.evaluation.properties.MOST_ANSWERS", 2)
    assert row("iron", *answers).agreement == 0


def test_the_columns_that_belong_to_the_question():
    one = row("iron", "clock", "Basel")
    assert (one.question_word, one.question_length, one.answer_length) == ("who", 5, 1)
    assert one.position == TEXT.index("clock") / len(TEXT)
    assert one.overlap == pytest.approx(2 / 3)  # made, clock; not iron, which is in the next sentence
    assert (one.agreement, one.windows) == (0.0, None)
    words = {"How many towers?": "how many", "By whom was it made?": "who", "Name it": "other", "how is it?": "how"}
    for question, word in words.items():
        assert make_rows([example("anna", question=question)], {}, False)[0].question_word == word


@pytest.mark.parametrize("is_version_2", [False, True])
def test_the_rows_add_up_to_the_official_scores(is_version_2):
    golds = {"a": ["anna"], "b": ["made the clock", "clock"], "c": ["Basel"], "d": [] if is_version_2 else ["iron"]}
    examples = [example(*texts, name=name) for name, texts in golds.items()]
    texts = {"a": "anna", "b": "clock of", "c": "", "d": ""}
    rows, scores = make_rows(examples, texts, is_version_2), score(examples, texts)
    assert means(rows) == pytest.approx((scores.get("exact_match", scores.get("exact")), scores["f1"]))
    assert slices(rows)["question_word"] == [("who", 4, *means(rows))]
    assert sum(part.questions for part in slices(rows)["answer_length"]) == 4


def test_groups_hold_their_bounds():
    values = [0, 1, 2, 3, 4, 5, 9, 10]
    rows = [replace(row("iron", "anna"), answer_length=value) for value in values]
    found = {label: [values[i] for i in group] for label, group in groups(rows, "answer_length").items()}
    assert found == {"0": [0], "1": [1], "2": [2], "3 to 4": [3, 4], "5 to 9": [5, 9], "10 and more": [10]}


def test_the_human_ceiling_compares_each_annotator_with_the_others():
    three = example("anna", "anna made", "iron")  # anna: 0, 2/3; anna made: 0, 2/3; iron: 0, 0
    two = example("anna", "anna")
    assert human_ceiling([three, two, example("anna")]) == {
        "exact_match": pytest.approx(50.0),
        "f1": pytest.approx(100 * (4 / 9 + 1) / 2),
        "questions": 2,
    }
    assert human_ceiling([example("anna")]) == {}


def test_suspects_share_no_word_and_begin_with_the_surest():
    answers = ("iron", 0.2, None), ("iron", 0.9, None), ("anna made", 0.99, None), ("iron", 0.9, 0.5)
    rows = [
        replace(row(text, "anna"), id=str(i), score=score, confidence=confidence)
        for i, (text, score, confidence) in enumerate(answers)
    ]
    assert [one.id for one in suspects(rows)] == ["1", "3", "0"]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_the_table_reads_back(tmp_path, name):
    hostile = 'a "quoted", text\nof <two> lines\rand more'
    rows = make_rows([example("anna", question=hostile)], {"q": "iron"}, False)
    write_rows(tmp_path / "new" / name, rows)
    with open(tmp_path / "new" / name, encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file)) if name.endswith("csv") else [json.loads(line) for line in file]
    assert len(read) == 1 and read[0]["question"] == hostile
    assert (float(read[0]["f1"]), read[0]["error"]) == (0.0, "other sentence")
    assert read[0]["score"] == ("" if name.endswith("csv") else None)
