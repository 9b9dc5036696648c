"""squad.py and records.py: what they read, and that every fault is one BadInput line with the file and the place.

The faults of any JSON file (compressed, truncated, NaN, a key twice, ..) are in tests/support/test_files.py, random
damage in tests/commands/test_fuzz.py.
"""

import dataclasses
import json
import re
import time

import pytest

from minibert.support.errors import BadInput
from minibert.text.offsets import MOST_FOLDED
from minibert.text.records import MOST_CHARACTERS, Example, Gold
from minibert.text.squad import has_impossible, read_squad
from tests.builders import ROOT

CONTEXT = "The clock of Basel was made of iron in 1871."
ANSWER = {"text": "1871", "answer_start": 39}
PARAGRAPH = "data[0].paragraphs[0]"
PLACE = f"{PARAGRAPH}.qas[0]"
NFC, NFD = "caf\u00e9", "cafe\u0301"
MEGABYTE = 1 << 20


def question(**changes) -> dict:
    """A good question with some keys changed; a key set to `...` is left out."""
    record = {"id": "q1", "question": "When?", "answers": [ANSWER]} | changes
    return {key: value for key, value in record.items() if value is not ...}


def squad(*questions, context=CONTEXT) -> dict:
    """A file's content with these questions; a context of `...` is left out."""
    paragraph = {"qas": list(questions)} | ({} if context is ... else {"context": context})
    return {"version": "1.1", "data": [{"title": "Basel", "paragraphs": [paragraph]}]}


def at(text, start, **changes) -> dict:
    """The changes of a question that give it this answer; a start of `...` is left out."""
    return {"answers": [{"text": text} | ({} if start is ... else {"answer_start": start})]} | changes


def answered(context: str, text, start) -> dict:
    return squad(question(**at(text, start)), context=context)


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Write bytes, or anything JSON can hold, to a file, and return its path."""
    folder = tmp_path_factory.mktemp("squad")

    def write(content, name: str = "input.json"):
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return folder / name

    return write


GOOD = squad(question())
OTHER = question(id="q2")  # an answered question: its file is not a test set
IMPOSSIBLE = question(answers=[], is_impossible=True)
ANSWERED = (Gold("1871", 39),)
READ = Example("q1", "Basel", "When?", CONTEXT, ANSWERED)

# ---- what is read


def test_a_file_gives_its_examples_and_plausible_answers_are_never_gold(write):
    two = question(id="q2", question=" Which year? ", answers=[ANSWER, {"text": "in 1871", "answer_start": 36}])
    file = write(squad(question(), two, IMPOSSIBLE | {"id": "q3", "plausible_answers": [ANSWER]}))
    assert read_squad(file) == [
        READ,
        Example("q2", "Basel", " Which year? ", CONTEXT, (*ANSWERED, Gold("in 1871", 36))),
        Example("q3", "Basel", "When?", CONTEXT, (), True),
    ]


@pytest.mark.parametrize(
    ("marks", "is_v2"), [([..., ...], False), ([..., False], False), ([False, False], False), ([..., True], True)]
)
def test_a_file_is_v2_if_a_question_is_marked_as_impossible(write, marks, is_v2):
    """A key that is false everywhere does not make a v2.0 file."""
    records = [question(id=str(i), is_impossible=m, answers=[] if m is True else [ANSWER]) for i, m in enumerate(marks)]
    examples = read_squad(write(squad(*records)))
    assert [e.is_impossible for e in examples] == [None if mark is ... else mark for mark in marks]
    assert has_impossible(examples) is is_v2


def test_several_files_are_read_in_order(write):
    files = [write(squad(question(id=name)), f"{name}.json") for name in ("b", "a", "c")]
    assert [e.id for e in read_squad(files)] == [e.id for e in read_squad(iter(map(str, files)))] == ["b", "a", "c"]


@pytest.mark.parametrize("answers", [..., None, []])
def test_a_test_set_without_any_answer_is_read_for_prediction_but_not_for_training(write, answers):
    file = write(squad(question(answers=answers), question(id="q2", answers=answers)))
    assert [e.answers for e in read_squad([write(GOOD, "gold.json"), file])[1:]] == [(), ()]
    with pytest.raises(BadInput, match=r"no answers.*first of 2 faults"):
        read_squad(file, training=True)


def test_a_question_without_answers_is_unanswerable_where_a_flag_says_so(write):
    file = write(squad(question(), question(id="b", answers=[])))
    for training in (False, True):
        with pytest.raises(BadInput, match=r"qas\[1\] \(id='b'\).*--version_2_with_negative"):
            read_squad(file, training)
        assert [e.id for e in read_squad(file, training, version_2_with_negative=True)] == ["q1", "b"]


PARAGRAPHS = GOOD["data"][0]["paragraphs"]
ACCEPTED = {
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    "no version": {"data": GOOD["data"]},
    "unknown keys": squad(question(hint=[1.5, None])) | {"extra": {}},
    "no title": {"data": [{"paragraphs": PARAGRAPHS}]},
    "markup in title and id": {"data": [GOOD["data"][0] | {"title": "<b>"}] + squad(question(id="<i>"))["data"]},
    "paragraph without questions": {"data": squad()["data"] + GOOD["data"]},
    "outer whitespace of an answer": answered(CONTEXT, " 1871", 38),
    "answer inside a word": answered(CONTEXT, "lock", 5),
    "control characters": answered("\x00 nul \x1f", "nul", 2),
    "bidi override": answered("\u202eabc\u202c x", "x", 6),
    "emoji before the answer": answered("\U0001f600\U0001f469\u200d\U0001f680 x", "x", 5),
    "entities": answered("a &amp; b", "&amp;", 2),
    "decomposed accent": answered(NFD + " x", NFD, 0),
    "one long word": answered("x" * 5000, "x" * 200, 7),
    "a context without text": squad(IMPOSSIBLE, context=" \n\t"),
    "an empty context": squad(IMPOSSIBLE, context=""),
    "a list of articles": GOOD["data"],
    "a list of paragraphs": PARAGRAPHS,
    "paragraphs in the place of articles": {"data": PARAGRAPHS},
    "one article": GOOD["data"][0],
    "one paragraph": PARAGRAPHS[0],
}


def paragraphs(top) -> list[dict]:
    """Every paragraph of a file's content, at whatever level its list begins."""
    if isinstance(top, list):
        return [paragraph for item in top for paragraph in paragraphs(item)]
    return [top] if "qas" in top else paragraphs(top.get("data", top.get("paragraphs")))


@pytest.mark.parametrize("name", ACCEPTED)
def test_is_accepted_and_the_text_stays_as_it_was(write, name):
    file = write(ACCEPTED[name])
    paragraph = paragraphs(json.loads(file.read_text("utf-8-sig")))[-1]
    example = read_squad(file, training=True)[-1]
    assert (example.context, example.question) == (paragraph["context"], paragraph["qas"][-1]["question"])
    assert all(example.context[start : start + len(text)] == text for text, start in example.answers)


NONE = {"answers": (), "is_impossible": True}
NO_TEXT = (
    [],
    None,
    "",
    {},
    [None],
    {"text": [], "answer_start": []},
    {"text": [""], "answer_start": [-1]},
    at("", 0)["answers"],
)
TAKEN = [  # how a question differs from the good one, how its example does, and what is said of it
    *(({"id": value}, {"id": name}, "") for value, name in ((17, "17"), (17.5, "17.5"), (..., PLACE), (None, PLACE))),
    *((at("1871", start), {}, "") for start in (39.0, "39", " 39 ", "39.0")),
    *((at("1871", start), {}, "only place of its text: 1") for start in (-1, -1.0, "-1", None, "", ...)),
    (at(1871, 39), {}, ""),
    *((at(*pair, is_impossible=True), NONE, "no answers: 1") for pair in (("", -1), ("", 0), (" ", 5), (None, None))),
    *((IMPOSSIBLE | {"answers": empty}, NONE, "no answers: 1") for empty in ("", " ", {}, [{}], [None], [[]], [""])),
    (IMPOSSIBLE | {"answers": [None, {}, {"text": ""}]}, NONE, "no answers: 3"),
    (IMPOSSIBLE | {"answers": ..., "answer": {}}, NONE, "no answers: 1"),
    *((IMPOSSIBLE | {"answers": empty}, NONE, "") for empty in (..., None, {"text": [], "answer_start": []})),
    ({"answers": [{"text": "", "answer_start": 0}, ANSWER]}, {}, "no answers: 1"),
    *((at(text, 39), {}, "outer whitespace: 1") for text in (" 1871", "1871 ")),
    *((at(text, 38), {}, "outer whitespace: 1") for text in ("1871 ", "\n1871\t", "1871")),
    ({"answers": {"text": ["1871"], "answer_start": [39]}, "is_impossible": None}, {}, ""),
    ({"answers": {"text": ["1871"], "answer_start": 39}}, {}, ""),
    *(({"answers": ..., "answer": text, "start": 39}, {}, "") for text in ("1871", 1871)),
    ({"answers": ..., "answer": "1871", "answer_start": None, "start": 39}, {}, ""),
    *(({"answers": {"text": ["1871"], "start": [39]} | more}, {}, "") for more in ({}, {"answer_start": [-1]})),
    *(
        ({"answers": [{"text": "1871", "start": other}]}, {}, "only place of its text: 1")
        for other in (-2, "page b", 3.5, {"page": 3})  # it means something else
    ),
    *(({"answers": [{"text": "1871", "start": 39, "end": 43} | more]}, {}, "") for more in ({}, {"answer_start": -1})),
    ({"answers": [ANSWER | {"start": 3}]}, {}, ""),
    ({"answers": ["1871"]}, {}, "only place of its text: 1"),
    ({"answers": ANSWER}, {}, ""),
    ({"answers": ..., "answer": ANSWER}, {}, ""),
    ({"answers": ..., "answer": "1871", "answer_start": 39}, {}, ""),
    *(({"answers": empty, "answer": ANSWER}, {}, "") for empty in NO_TEXT),
    *(({"answers": [ANSWER], "answer": empty}, {}, "") for empty in NO_TEXT),
    ({"answers": [], "answer": "1871", "answer_start": 39}, {}, ""),
    *(({"is_impossible": value}, {"is_impossible": False}, "") for value in (0, 0.0, "False", "no")),
    *((IMPOSSIBLE | {"is_impossible": value}, NONE, "") for value in (1, 1.0, "true", "TRUE", "1", "yes")),
]


@pytest.mark.parametrize(("changes", "differs", "says"), TAKEN)
def test_what_others_write_is_taken_where_its_meaning_is_certain_and_counted(write, capsys, changes, differs, says):
    assert read_squad(write(squad(question(**changes))), training=True) == [dataclasses.replace(READ, **differs)]
    printed = capsys.readouterr().err
    assert (printed.startswith("warning: ") and says in printed) if says else printed == ""


def test_a_start_tells_which_of_two_places_is_meant(write):
    record = question(answers=[{"text": "x", "start": 4, "end": 5}])
    assert read_squad(write(squad(record, context="x y x")))[0].answers == (Gold("x", 4),)


def test_answers_without_offset_are_found_in_long_texts_however_many_there_are(write):
    """The bound on the search for wrong offsets is not spent by what is right."""
    context = "x " * 1_000_000 + "1871"
    records = [question(id=str(i), **at("1871", ...)) for i in range(400)]
    assert {e.answers for e in read_squad(write(squad(*records, context=context)))} == {(Gold("1871", 2_000_000),)}


# ---- what is refused: (content, place, message); the message is a regular expression


def rows(make, values, place: str = PLACE, message: str = "{}") -> list[tuple]:
    """A row for each value; `{}` in the message is the value."""
    return [(make(value), place, message.replace("{}", re.escape(repr(value)))) for value in values]


def changed(key: str):
    return lambda value: squad(question(**{key: value}))


def articles(value) -> dict:
    return {"data": [value]}


REFUSED = [
    (b"<!DOCTYPE html>", "", "looks like HTML"),
    *rows(lambda top: top, ("data", 7, None), "data", "expected a list, "),
    ([question()], "[0].paragraphs", "but it is missing; the keys there are .*'question'.*guide.md"),
    ({"data": [question(context=CONTEXT)]}, "", "flat rows.*minibert check --data .* --fix "),
    ({"q1": "1871", "q2": ""}, "", "looks like a predictions file"),
    ({"exact_match": 80.5, "f1": 88.1}, "data", "expected a list, but it is missing; the keys there are"),
    *rows(lambda data: {"data": data}, ([], [{"paragraphs": []}], squad()["data"]), "data", "0 quest"),
    *rows(lambda data: {"data": data}, (None, {}, "x"), "data", "expected a list, "),
    *rows(articles, ("x", {}, {"paragraphs": None}), "data[0].par", "a list, "),
    *rows(lambda value: articles({"paragraphs": [value]}), ([], "x"), f"{PARAGRAPH}.context", "string"),
    *rows(lambda qas: articles({"paragraphs": [{"context": "x", "qas": qas}]}), (None, {}), "qas", "a list"),
    (
        articles({"paragraphs": [{"context_id": "T", "context_text": "x", "qas": []}]}),
        f"{PARAGRAPH}.context",
        "expected a string, but it is missing; the keys there are .*'context_text'.*guide.md",
    ),
    (
        articles({"paragraphs": [{"context": "x", "questions": []}]}),
        f"{PARAGRAPH}.qas",
        "expected a list, but it is missing; the keys there are .*'questions'.*guide.md",
    ),
    (squad("When?"), PLACE, "expected an object, found a str"),
    (squad(question(), context=...), f"{PARAGRAPH}.context", "missing"),
    *rows(
        lambda value: squad(question(), context=value), (None, ["a"]), f"{PARAGRAPH}.context", "string, found (null|a )"
    ),
    (squad(question(question=...)), f"{PLACE} (id='q1')", "question must be"),
    *rows(changed("question"), ("", " \n", "\u200b\u200d", 1), PLACE, "question must be"),
    *rows(changed("id"), ("", "\t", True, [1]), message="id must be .* found {}"),
    (squad(question(id=1), question(id="1")), f"{PARAGRAPH}.qas[1]", "used before"),
    (squad(question(), question()), f"{PARAGRAPH}.qas[1]", r"used before.*qas\[0\]"),
    *rows(lambda a: squad(question(answers=a), OTHER), (..., None, []), PLACE, "no answers"),
    *rows(lambda text: squad(question(**at(text, ...)), OTHER), ("", None), PLACE, "no answers"),
    (squad(IMPOSSIBLE | {"is_impossible": False}, OTHER), PLACE, "no answers"),
    (squad(question(is_impossible=True)), PLACE, "is_impossible is true"),
    *rows(changed("is_impossible"), ("maybe", 2, "", []), message="false, found {}"),
    (squad(question(answers={"text": ["x"], "answer_start": [0, 1]})), PLACE, "1 text and 2 values"),
    (squad(question(answers={"text": ["1871", "in 1871"], "answer_start": 39})), PLACE, "2 texts and 1 value"),
    (squad(question(answers={"text": ["1871"], "answer_start": 3})), PLACE, "not at answer_start 3"),
    (squad(question(answers=[], answer={"said": "1871"}), OTHER), PLACE, "text must be .* found {'said': '1871'}"),
    (squad(IMPOSSIBLE | {"answer": ANSWER}), PLACE, "is_impossible is true"),
    (squad(IMPOSSIBLE | {"answers": [{}, ANSWER]}), PLACE, "is_impossible is true"),
    (squad(IMPOSSIBLE | {"answers": [{"answer_start": 3}]}), PLACE, "text must be .* found {'answer_start': 3}"),
    (squad(IMPOSSIBLE | {"is_impossible": False, "answers": [{}]}), PLACE, "text must be .* found {}"),
    *rows(changed("answers"), ("", {}), PLACE, "must be .*, found {}"),
    *rows(changed("answers"), ("1871", 7), PLACE, "answers must be a list, found {}"),
    *rows(lambda value: squad(question(answers=[value])), (7, {}, None), PLACE, "text must be .* found {}"),
    *rows(lambda value: answered(CONTEXT, value, 3), (True, 1.5, []), PLACE, "text must be .* found {}"),
    *rows(lambda v: answered("x x", "x", v), (-1, None), PLACE, "no answer_start; the text is at 0, 2: name"),
    (answered("oh ha ha ha", "ha ha", None), PLACE, "no answer_start; the text is at 3, 6: name"),
    (answered(CONTEXT, "1872", ...), PLACE, "no answer_start; the text is nowhere"),
    (squad(question(answers=["1872"])), PLACE, "no answer_start; the text is nowhere"),
    *rows(lambda v: answered(" x", "x", v), (-2, "b", 1.5, True, "1e0", []), PLACE, "answer_start .*found {}"),
    (squad(question(answers=[{"text": "1871", "start": 3}])), PLACE, "not at answer_start 3.*only at 39"),
    (squad(question(answers=[ANSWER, ANSWER | {"answer_start": 0}])), PLACE, "at 39"),
    (squad(question(question="\ud83d?")), PLACE, "question.*surrogate"),
    (squad(question(id="\ud83d")), PLACE, "id.*surrogate"),
    (answered("\ud83d x", "x", 2), f"{PARAGRAPH}.context", "surrogate"),
    (squad(question(), context="x" * (MOST_CHARACTERS + 1)), f"{PARAGRAPH}.context", "10000001 characters"),
    # ---- where the text is instead
    (answered("", "x", 0), PLACE, "answer_start 0: the context has only 0"),
    (answered("   ", "x", 0), PLACE, "nowhere"),
    *rows(lambda start: answered(CONTEXT, "1871", start), (44, 99, 10**18), PLACE, "start {}: .*only 44 characters"),
    (answered(CONTEXT, "1871. And", 39), PLACE, "not at answer_start"),
    (answered(CONTEXT, "1871", 40), PLACE, r"'1871' is not at answer_start 40.*'871\.'.* 39"),
    (answered("x ab ab ab", "ab", 6), PLACE, "nearest one is at 5"),
    (answered(CONTEXT, "1871", 3), PLACE, "the text is only at 39"),
    (answered(CONTEXT, "1872", 39), PLACE, "nowhere"),
    (answered(CONTEXT, "the CLOCK", 0), PLACE, "'The clock' is at 0: it differs in case$"),
    (answered(f"The {NFC} is old", "cafe", 4), PLACE, "'caf\u00e9' is at 4: it differs in accents$"),
    (answered(f"{NFC}, {NFC}", "Cafe", 0), PLACE, "at 0, and elsewhere: .* case and accents$"),
    (answered("It\u2019s old", "It's old", 0), PLACE, "differs in quotation marks or dashes$"),
    (answered("made\r\n of iron", "made of iron", 0), PLACE, "at 0: .*in whitespace"),
    (answered("Ver\u00adwaltung", "Verwaltung", 0), PLACE, "whitespace or invisible characters$"),
    *rows(
        lambda pair: answered(f"ab {pair[0]} c", pair[1], 0),
        (
            ("\uff11\uff18\uff17\uff11\u5e74", "1871"),  # full-width digits
            ("1871", "\uff11\uff18\uff17\uff11"),
            ("\uff76\uff9e\uff72\uff84\uff9e", "\u30ac\u30a4\u30c9"),  # half-width katakana, marks of their own
            ("\u30ac\u30a4\u30c9", "\uff76\uff9e\uff72\uff84\uff9e"),
            ("\ufefb", "\u0644\u0627"),  # an Arabic presentation form
            ("so\u2026", "so..."),
            ("\ufb01ne", "fine"),  # a ligature
        ),
        message=r"nowhere.* is at 3: it differs in width or compatibility characters$",
    ),
    (answered("x \u00bd cup", "1", 0), PLACE, "nowhere in the context$"),  # not a part of one half
    (answered("x \uff37\uff28\uff2f", "who", 0), PLACE, "is at 2: it differs in width .* characters and case$"),
    (answered("a\xa0b\u3000c", "a b c", 0), PLACE, "it differs in whitespace or invisible characters$"),
    (answered("It\u00b4s old", "It's old", 0), PLACE, "differs in quotation marks or dashes$"),
    (answered("\ufdfa" * 9, "x", 0), PLACE, "nowhere in the context$"),
    (answered("Q&amp;A in 1871", "Q&A", 0), PLACE, "nowhere.*context has HTML entities .* html.unescape, and count"),
    (answered("in Q&A", "Q&amp;A", 0), PLACE, "nowhere.*'Q&A' is at 3: the answer has HTML .* html.unescape$"),
    (answered("x &#" + "1" * 5000, "Q&A", 0), PLACE, "nowhere in the context$"),
    (answered("x &amp; y", "z", 0), PLACE, "nowhere in the context$"),
    (answered("x &amp; y", "y ", 0), PLACE, "nowhere.*'y' is at 8: it differs in"),  # not in entities
    (answered("x y", "&#1;", 0), PLACE, "nowhere in the context$"),  # a number that stands for no character
    (answered(NFD, NFC, 0), PLACE, f"nowhere.*'{NFD}' is at 0: .*NFC and NFD"),
    (answered(f"a {NFC} x", NFD, 0), PLACE, f"nowhere.*'{NFC}' is at 2: .*NFC and NFD"),
    (answered("\u00e9\u00e9 x, and so on", "x", 5), PLACE, "bytes.*here 3"),
    (answered("\u00e9\u00e9\u00e9\u00e9 x", "x", 9), PLACE, "bytes.*here 5"),  # past the end
    (answered("\U0001f600\U0001f600 x, and so on", "x", 5), PLACE, "UTF-16.*here 3"),
    (answered("a\r\nb\r\nc x y", "x", 6), PLACE, "line ends.*here 8"),
    (answered("a\nb\nc x, and so on", "x", 8), PLACE, "line ends.*here 6"),
]


@pytest.mark.parametrize(("content", "place", "message"), REFUSED)
def test_is_refused(write, content, place, message):
    file = write(content)
    with pytest.raises(BadInput, match=f"(?s){message}") as caught:
        read_squad(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: ") and place in caught.value.where and "\n" not in text
    text.encode()  # a terminal can print the message


def test_ids_are_unique_and_there_where_a_file_is_scored_and_nowhere_else(write):
    first, second = write(GOOD, "first.json"), write(GOOD, "second.json")
    assert [e.id for e in read_squad([first, second])] == ["q1", "q1"]
    assert len(read_squad(write(squad(question(), question())), training=True)) == 2
    with pytest.raises(BadInput, match="id must be a string, found None"):
        read_squad(write(squad(question(id=...))), needs_ids=True)


def test_every_fault_is_listed_at_once_or_dropped(write, capsys):
    questions = [question(id=f"q{i}", question="" if i % 2 else "When?") for i in range(14)]
    content = {"data": squad(*questions, question(id="none", answers=[]))["data"] + [{"paragraphs": [{}]}, "x"]}
    file = write(content, "my data.json")
    with pytest.raises(BadInput) as caught:
        read_squad(file)
    assert caught.value.where == f"{PARAGRAPH}.qas[1] (id='q1')"
    assert "first of 10 faults" in caught.value.what and f"check --data '{file}' --fix" in caught.value.what
    lines = capsys.readouterr().err.splitlines()
    places = [*(f"{PARAGRAPH}.qas[{i}]" for i in (*range(1, 14, 2), 14)), "data[1].paragraphs[0].context", "data[2]"]
    assert len(lines) == len(places)
    assert all(line.startswith(f"warning: {file}: {place}") for line, place in zip(lines, places))
    assert [e.id for e in read_squad(file, skip_bad_records=True)] == [f"q{i}" for i in range(0, 14, 2)]
    printed = capsys.readouterr().err
    assert (
        printed.count("\n") == 1
        and "dropped 8 questions for 10 faults, the" in printed
        and f"{PARAGRAPH}.qas[1]" in printed
    )
    with pytest.raises(BadInput, match="0 questions"):
        read_squad(write(squad(question(answers=[]))), training=True, skip_bad_records=True)


def test_a_paragraph_that_cannot_be_read_counts_as_all_its_questions(write, capsys):
    good, bad = squad(question()), squad(*(question(id=str(i)) for i in range(50)), context=["two", "lines"])
    assert len(read_squad(write({"data": bad["data"] + good["data"]}), skip_bad_records=True)) == 1
    assert "dropped 50 questions for 1 fault, the first at data[0].paragraphs[0].context" in capsys.readouterr().err


def test_of_many_faults_twenty_are_shown_and_all_are_in_a_file(write, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = write(squad(*(question(id=f"q{i}", question="\x1b") for i in range(30))))
    with pytest.raises(BadInput, match="first of 30 faults"):
        read_squad(file)
    lines = capsys.readouterr().err.splitlines()
    (listing,) = tmp_path.iterdir()
    assert len(lines) == 21 and lines[-1] == f"warning: .. all 30 are in {listing}"
    kept = listing.read_text("utf-8").splitlines()
    assert len(kept) == 30 and [f"warning: {line}" for line in kept[:20]] == lines[:20]
    assert all(line.isprintable() for line in kept)


BOOK = "b\u00e9 b" * MEGABYTE + "a " * 99
HOSTILE = {  # number of questions, question, its answers, context
    "half of 10,000 questions unanswered": (10_000, "When?", lambda i: [ANSWER][: i % 2], CONTEXT),
    "questions about a megabyte of accents": (100, "When?", lambda i: at("a", 7)["answers"], "\u00e9" * MEGABYTE),
    "misplaced answers in 6 MB": (10_000, "When?" * 100, lambda i: at("a", i)["answers"], "xa" * 9),
    "misplaced answers in a book": (5_000, "When?", lambda i: at("a", 7)["answers"], BOOK),
    "answers nowhere in a book": (5_000, "?", lambda i: at("Zz", i)["answers"], "b c" * MEGABYTE),
    "characters that stand for eight": (5_000, "?", lambda i: at("Zz", i)["answers"], "\ufdfb" * MOST_FOLDED),
    "entities throughout": (5_000, "?", lambda i: at("Zz", i)["answers"], "&ampx" * (MOST_FOLDED // 5)),
    "a question of a megabyte of spaces": (1, " " * MEGABYTE, lambda i: [ANSWER], CONTEXT),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sizes_are_refused_in_bounded_time_and_memory(write, name):
    resource = pytest.importorskip("resource")
    count, text, answers, context = HOSTILE[name]
    questions = [question(id=f"q{i}", question=text, answers=answers(i)) for i in range(count)]
    file = write(squad(*questions, context=context))
    begin, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInput):
        read_squad(file)
    assert time.process_time() - begin < 5
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < 500 * MEGABYTE


# ---- real files


@pytest.mark.parametrize(
    ("name", "questions", "answered", "answers", "contexts", "is_v2"),
    [("dev-v1.1.json", 10_570, 10_570, 34_726, 2_067, False), ("dev-v2.0-half.json", 5_921, 3_046, 9_752, 614, True)],
)
def test_a_real_file_is_read_whole(squad_dir, name, questions, answered, answers, contexts, is_v2):
    examples = read_squad(squad_dir / name, training=True)
    assert (len(examples), sum(bool(e.answers) for e in examples)) == (questions, answered)
    assert (sum(len(e.answers) for e in examples), len({e.context for e in examples})) == (answers, contexts)
    assert has_impossible(examples) is is_v2 and all(bool(e.is_impossible) is (not e.answers) for e in examples)


def test_the_example_files_are_clean_large_enough_and_share_no_context():
    train, dev = (read_squad(ROOT / "examples" / f"{name}.json", training=True) for name in ("train", "dev"))
    train_contexts, dev_contexts = ({e.context for e in examples} for examples in (train, dev))
    assert len(train) >= 200 and len(train_contexts) >= 40 and len(dev) >= 50 and len(dev_contexts) >= 10
    assert not train_contexts & dev_contexts
