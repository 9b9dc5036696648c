"""repair.py: what leaves no choice is repaired and listed; everything else stays as it was."""

import copy

import pytest

from minibert.text.repair import repair

CONTEXT = "The clock \u00e9\u00e9 \U0001f600 of Basel was made of iron in 1871, of old iron."
HERE = CONTEXT.index("1871")
IRON = CONTEXT.index("iron"), CONTEXT.rindex("iron")


def record(**changes):
    return {"id": "q", "question": "?", "answers": [{"text": "1871", "answer_start": HERE}]} | changes


def answer(text, start, **more):
    return {"answers": [{"text": text, "answer_start": start} | more]}


def by_start(text, start, **more):
    return {"answers": [{"text": text, "start": start} | more]}


def top_of(*records):
    paragraph = {"context": CONTEXT, "qas": list(records)}
    return {"version": "x", "data": [{"title": "t", "paragraphs": [paragraph], "k": 1}]}


def in_bytes(i):
    return len(CONTEXT[:i].encode())


def in_utf16(i):
    return len(CONTEXT[:i].encode("utf-16-le")) // 2


REPAIRED = {
    "an integer id": ({"id": 7}, {"id": "7"}),
    "no id": ({"id": None}, {"id": "data[0].paragraphs[0].qas[0]"}),
    "a spelled mark": ({"is_impossible": "False"}, {"is_impossible": False}),
    "one occurrence": (answer("1871", 3), answer("1871", HERE)),
    "no offset": (answer("1871", -1), answer("1871", HERE)),
    "a start": (by_start("iron", IRON[1]), by_start("iron", IRON[1], answer_start=IRON[1])),
    "a wrong start": (by_start("1871", 3), by_start("1871", 3, answer_start=HERE)),
    "a start in bytes": (
        by_start("iron", in_bytes(IRON[1])),
        by_start("iron", in_bytes(IRON[1]), answer_start=IRON[1]),
    ),
    "an offset as text": (answer("1871", str(HERE)), answer("1871", HERE)),
    "an offset as a float": (answer("1871", float(HERE)), answer("1871", HERE)),
    "outer whitespace": (answer("1871 ", HERE - 1), answer("1871", HERE)),
    "whitespace and one occurrence": (answer(" 1871 ", 2), answer("1871", HERE)),
    "bytes, of two": (answer("iron", in_bytes(IRON[1])), answer("iron", IRON[1])),
    "UTF-16, of two": (answer("iron", in_utf16(IRON[0])), answer("iron", IRON[0])),
    "an empty answer": (answer("", 0), {"answers": []}),
    "unknown keys stay": (answer("1871", 1, answer_end=5), answer("1871", HERE, answer_end=5)),
    "an answer beside an empty list": (
        {"answers": [], "answer": {"text": "1871", "answer_start": HERE}},
        answer("1871", HERE) | {"answer": {"text": "1871", "answer_start": HERE}},
    ),
    "columns": ({"answers": {"text": ["1871"], "answer_start": [HERE]}}, answer("1871", HERE)),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_what_leaves_no_choice_is_repaired_and_listed(name):
    before, after = REPAIRED[name]
    top, changes = repair(top_of(record(**before)))
    assert top == top_of(record(**after)) and len(changes) == 1
    assert type(top["data"][0]["paragraphs"][0]["qas"][0]["id"]) is str
    assert changes[0].place == "data[0].paragraphs[0].qas[0]" and changes[0].what
    assert repair(top) == (top_of(record(**after)), [])


def test_bare_texts_become_answers_and_those_of_two_places_get_no_offset():
    top, changes = repair(top_of(record(answers=["1871", "iron"])))
    expected = [{"text": "1871", "answer_start": HERE}, {"text": "iron"}]
    assert top == top_of(record(answers=expected)) and len(changes) == 2
    one = {"id": "q", "question": "When?", "answer": "1871", "answer_start": HERE}
    assert repair(top_of(one))[0]["data"][0]["paragraphs"][0]["qas"][0]["answers"] == expected[:1]


@pytest.mark.parametrize("empty", ["", {}, [{}], [None], [{"text": ""}]], ids=str)
def test_an_empty_answer_of_an_impossible_question_is_removed(empty):
    top, changes = repair(top_of(record(is_impossible=True, answers=empty)))
    assert top == top_of(record(is_impossible=True, answers=[])) and changes
    assert repair(top) == (top, [])


UNTOUCHED = {
    "one of two, shifted": answer("iron", IRON[0] + 2),
    "one of two, nowhere near": answer("iron", -1),
    "case": answer("The Clock", 0),
    "nowhere": answer("steel", 4),
    "two units in one record": {
        "answers": [dict(text="iron", answer_start=i) for i in (in_bytes(IRON[1]), in_utf16(IRON[0]))]
    },
    "impossible with answers": {"is_impossible": True},
    "a mark that says nothing": {"is_impossible": "perhaps"},
    "no text": {"answers": [{"answer_start": 3}]},
    "answers as text": {"answers": "1871"},
    "no offset, nowhere": {"answers": [{"text": "steel"}]},
    "answers that are no objects": {"answers": [7, None]},
    "no question": {"question": ""},
    "an id without characters": {"id": ""},
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_leaves_a_choice_stays_as_it_is(name):
    top = top_of(record(**UNTOUCHED[name]), "no object")
    assert repair(copy.deepcopy(top)) == (top, [])


PARAGRAPH = {"context": CONTEXT, "qas": [record()]}
LEVELS = [[{"title": "t", "paragraphs": [PARAGRAPH]}], [PARAGRAPH], {"version": "1.1", "data": [PARAGRAPH]}, PARAGRAPH]


@pytest.mark.parametrize("content", LEVELS, ids=["articles", "paragraphs", "paragraphs as data", "one paragraph"])
def test_the_copy_has_all_levels(content):
    top, _ = repair(copy.deepcopy(content))
    assert [p for article in top["data"] for p in article["paragraphs"]] == [PARAGRAPH] and top["version"] == "1.1"


@pytest.mark.parametrize("content", LEVELS, ids=["articles", "paragraphs", "paragraphs as data", "one paragraph"])
def test_levels_that_are_put_in_are_listed(content):
    top, changes = repair(copy.deepcopy(content))
    assert changes and repair(top) == (top, [])


def test_an_offset_that_two_units_explain_at_two_places_stays():
    """5 counts the bytes before the first x and the UTF-16 units before the second."""
    top = {"data": [{"title": "t", "paragraphs": [{"context": "\U0001f600 x x", "qas": [record(**answer("x", 5))]}]}]}
    assert repair(copy.deepcopy(top)) == (top, [])


def test_paragraphs_beside_articles_and_other_things_are_put_into_articles():
    article = {"title": "t", "paragraphs": [{"context": CONTEXT, "qas": [record(id="b")]}]}
    top, _ = repair(copy.deepcopy([PARAGRAPH, article, 7]))
    assert top["data"] == [{"title": "", "paragraphs": [PARAGRAPH]}, article, 7]
