"""squad.py: what it reads, and that every fault is one BadInput line with the file and the place.

The faults of any JSON file (compressed, truncated, NaN, a key twice, ..) are in tests/support/test_files.py.
"""

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.support.errors import BadInput
from minibert.text.squad import MOST_CHARACTERS, Example, Gold, is_version_2, read_squad
from tests.builders import ROOT, edit_bytes

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


def answered(context: str, text, start) -> dict:
    answer = {"text": text} | ({} if start is ... else {"answer_start": start})
    return squad(question(answers=[answer]), context=context)


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

# ---- what is read


def test_a_v1_file_gives_its_examples(write):
    two = [ANSWER, {"text": "in 1871", "answer_start": 36}]
    assert read_squad(write(squad(question(), question(id="q2", question=" Which year? ", answers=two)))) == [
        Example("q1", "Basel", "When?", CONTEXT, (Gold("1871", 39),)),
        Example("q2", "Basel", " Which year? ", CONTEXT, (Gold("1871", 39), Gold("in 1871", 36))),
    ]


def test_a_v2_file_says_what_is_impossible_and_its_plausible_answers_are_never_gold(write):
    file = write(squad(IMPOSSIBLE | {"plausible_answers": [ANSWER]}, question(id="q2", is_impossible=False)))
    examples = read_squad(file, training=True)
    assert [(e.is_impossible, e.answers) for e in examples] == [(True, ()), (False, (Gold("1871", 39),))]


@pytest.mark.parametrize(
    ("marks", "is_v2"), [([..., ...], False), ([..., False], False), ([False, False], False), ([..., True], True)]
)
def test_a_file_is_v2_if_a_question_is_marked_as_impossible(write, marks, is_v2):
    """A key that is false everywhere does not make a v2.0 file."""
    records = [question(id=str(i), is_impossible=m, answers=[] if m is True else [ANSWER]) for i, m in enumerate(marks)]
    examples = read_squad(write(squad(*records)))
    assert [e.is_impossible for e in examples] == [None if mark is ... else mark for mark in marks]
    assert is_version_2(examples) is is_v2


def test_several_files_are_read_in_order(write):
    files = [write(squad(question(id=name)), f"{name}.json") for name in ("b", "a", "c")]
    assert [e.id for e in read_squad(files)] == [e.id for e in read_squad(iter(map(str, files)))] == ["b", "a", "c"]


@pytest.mark.parametrize("answers", [..., None, []])
def test_a_test_set_without_any_answer_is_read_for_prediction_but_not_for_training(write, answers):
    file = write(squad(question(answers=answers), question(id="q2", answers=answers)))
    assert [e.answers for e in read_squad([write(squad(question(id="q0")), "gold.json"), file])[1:]] == [(), ()]
    with pytest.raises(BadInput, match=r"no answers.*first of 2 faults"):
        read_squad(file, training=True)


ACCEPTED = {
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    "no version": {"data": GOOD["data"]},
    "unknown keys": squad(question(hint=[1.5, None])) | {"extra": {}},
    "no title": {"data": [{"paragraphs": GOOD["data"][0]["paragraphs"]}]},
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
    "a list of paragraphs": GOOD["data"][0]["paragraphs"],
    "paragraphs in the place of articles": {"data": GOOD["data"][0]["paragraphs"]},
    "one article": GOOD["data"][0],
    "one paragraph": GOOD["data"][0]["paragraphs"][0],
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


ANSWERED = (Gold("1871", 39),)
TAKEN = {  # changes of a question -> (id, answers, is_impossible), and what is said of it
    "an integer id": ({"id": 17}, ("17", ANSWERED, None), ""),
    "a number as an id": ({"id": 17.5}, ("17.5", ANSWERED, None), ""),
    "no id": ({"id": ...}, (PLACE, ANSWERED, None), ""),
    "a null id": ({"id": None}, (PLACE, ANSWERED, None), ""),
    **{
        f"start {start!r}": ({"answers": [{"text": "1871", "answer_start": start}]}, ("q1", ANSWERED, None), "")
        for start in (39.0, "39", " 39 ", "39.0")
    },
    **{
        f"start {start!r}, one place": (
            {"answers": [{"text": "1871", "answer_start": start}]},
            ("q1", ANSWERED, None),
            "only place of its text: 1",
        )
        for start in (-1, -1.0, "-1", None, "")
    },
    "no start, one place": ({"answers": [{"text": "1871"}]}, ("q1", ANSWERED, None), "only place of its text: 1"),
    "a number as a text": ({"answers": [{"text": 1871, "answer_start": 39}]}, ("q1", ANSWERED, None), ""),
    **{
        f"empty text {text!r} at {start}": (
            {"answers": [{"text": text, "answer_start": start}], "is_impossible": True},
            ("q1", (), True),
            "no answers: 1",
        )
        for text, start in (("", -1), ("", 0), (" ", 5), (None, None))
    },
    "an empty text beside an answer": (
        {"answers": [{"text": "", "answer_start": 0}, ANSWER]},
        ("q1", ANSWERED, None),
        "no answers: 1",
    ),
    **{
        f"whitespace {text!r} at {start}": (
            {"answers": [{"text": text, "answer_start": start}]},
            ("q1", ANSWERED, None),
            "outer whitespace: 1",
        )
        for text, start in ((" 1871", 39), ("1871 ", 38), ("\n1871\t", 38), ("1871 ", 39), ("1871", 38))
    },
    "answers as columns": (
        {"answers": {"text": ["1871"], "answer_start": [39]}, "is_impossible": None},
        ("q1", ANSWERED, None),
        "",
    ),
    "a bare text, one place": ({"answers": ["1871"]}, ("q1", ANSWERED, None), "only place of its text: 1"),
    "answer for answers": ({"answers": ..., "answer": ANSWER}, ("q1", ANSWERED, None), ""),
    "answer and answer_start": (
        {"answers": ..., "answer": "1871", "answer_start": 39},
        ("q1", ANSWERED, None),
        "",
    ),
    "one answer without a list": ({"answers": ANSWER}, ("q1", ANSWERED, None), ""),
    **{f"is_impossible {v!r}": ({"is_impossible": v}, ("q1", ANSWERED, False), "") for v in (0, 0.0, "False", "no")},
    **{
        f"is_impossible {v!r}": ({"is_impossible": v, "answers": []}, ("q1", (), True), "")
        for v in (1, 1.0, "true", "TRUE", "1", "yes")
    },
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_others_write_is_taken_where_its_meaning_is_certain_and_counted(write, capsys, name):
    changes, expected, says = TAKEN[name]
    (example,) = read_squad(write(squad(question(**changes))), training=True)
    assert (example.id, example.answers, example.is_impossible) == expected
    printed = capsys.readouterr().err
    assert (printed.startswith("warning: ") and says in printed) if says else printed == ""


# ---- what is refused: name -> (content, place, message); the message is a regular expression


def rows(name: str, make, values, place: str = PLACE, message: str = "{}") -> dict[str, tuple]:
    """A row for each value; `{}` in the message is the value."""
    return {f"{name} {v!r}"[:40]: (make(v), place, message.replace("{}", re.escape(repr(v)))) for v in values}


REFUSED = {
    "not JSON": (b"<!DOCTYPE html>", "", "looks like HTML"),
    **rows("content", lambda top: top, ("data", 7, None), "data", "expected a list, "),
    "a list of questions": (
        [question()],
        "[0].paragraphs",
        "but it is missing; the keys there are .*'question'.*guide.md",
    ),
    "flat rows": ({"data": [question(context=CONTEXT)]}, "", "flat rows.*minibert check --data .* --fix "),
    "predictions": ({"q1": "1871", "q2": ""}, "", "looks like a predictions file"),
    "scores": ({"exact_match": 80.5, "f1": 88.1}, "data", "expected a list, but it is missing; the keys there are"),
    **rows("no questions", lambda data: {"data": data}, ([], [{"paragraphs": []}], squad()["data"]), "data", "0 quest"),
    **rows("data", lambda data: {"data": data}, (None, {}, "x"), "data", "expected a list, "),
    **rows("article", lambda article: {"data": [article]}, ("x", {}, {"paragraphs": None}), "data[0].par", "a list, "),
    **rows("paragraph", lambda value: {"data": [{"paragraphs": [value]}]}, ([], "x"), f"{PARAGRAPH}.context", "string"),
    **rows("qas", lambda qas: {"data": [{"paragraphs": [{"context": "x", "qas": qas}]}]}, (None, {}), "qas", "a list"),
    "question a string": (squad("When?"), PLACE, "expected an object, found a str"),
    "context missing": (squad(question(), context=...), f"{PARAGRAPH}.context", "missing"),
    **rows("context", lambda value: squad(question(), context=value), (None, ["a"]), f"{PARAGRAPH}.context", "string"),
    "answer in an empty context": (answered("", "x", 0), PLACE, "answer_start 0: the context has only 0"),
    "answer in a blank context": (answered("   ", "x", 0), PLACE, "nowhere"),
    "question missing": (squad(question(question=...)), f"{PLACE} (id='q1')", "question must be"),
    **rows(
        "question", lambda q: squad(question(question=q)), ("", " \n", "\u200b\u200d", 1), PLACE, "question must be"
    ),
    **rows("id", lambda value: squad(question(id=value)), ("", "\t", True, [1]), message="id must be .* found {}"),
    "ids equal as strings": (squad(question(id=1), question(id="1")), f"{PARAGRAPH}.qas[1]", "used before"),
    "id twice": (squad(question(), question()), f"{PARAGRAPH}.qas[1]", r"used before.*qas\[0\]"),
    **rows("no answers", lambda a: squad(question(answers=a), OTHER), (..., None, []), PLACE, "no answers"),
    "answers as columns of two lengths": (
        squad(question(answers={"text": ["x"], "answer_start": [0, 1]})),
        PLACE,
        "1 texts and 2 values",
    ),
    "answers a string": (squad(question(answers="1871")), PLACE, "answers must be a list, found '1871'"),
    **rows("answer", lambda value: squad(question(answers=[value])), (7, {}, None), PLACE, "text must be .* found {}"),
    **rows("text", lambda value: answered(CONTEXT, value, 3), (True, 1.5, []), PLACE, "text must be .* found {}"),
    **rows(
        "empty text", lambda value: squad(question(answers=[{"text": value}]), OTHER), ("", None), PLACE, "no answe"
    ),
    **rows("start", lambda v: answered("x x", "x", v), (-1, None), PLACE, "no answer_start; the text is at 0, 2: name"),
    "start missing, nowhere": (answered(CONTEXT, "1872", ...), PLACE, "no answer_start; the text is nowhere"),
    "a bare text, nowhere": (squad(question(answers=["1872"])), PLACE, "no answer_start; the text is nowhere"),
    **rows(
        "start", lambda v: answered(" x", "x", v), (-2, "b", 1.5, True, "1e0", []), PLACE, "answer_start .*found {}"
    ),
    **rows("start", lambda v: answered(CONTEXT, "1871", v), (44, 99, 10**18), PLACE, "start {}: .*only 44 characters"),
    "answer runs over the end": (answered(CONTEXT, "1871. And", 39), PLACE, "not at answer_start"),
    "one too far": (answered(CONTEXT, "1871", 40), PLACE, r"'1871' is not at answer_start 40.*'871\.'.* 39"),
    "nearest of two": (answered("x ab ab ab", "ab", 6), PLACE, "nearest one is at 5"),
    "elsewhere": (answered(CONTEXT, "1871", 3), PLACE, "the text is only at 39"),
    "case": (answered(CONTEXT, "the CLOCK", 0), PLACE, "'The clock' is at 0: it differs in case$"),
    "accents": (answered(f"The {NFC} is old", "cafe", 4), PLACE, "'caf\u00e9' is at 4: it differs in accents$"),
    "case and accents": (answered(f"{NFC}, {NFC}", "Cafe", 0), PLACE, "at 0, and elsewhere: .* case and accents$"),
    "curly quotes": (answered("It\u2019s old", "It's old", 0), PLACE, "differs in quotation marks or dashes$"),
    "a line end in the context": (answered("made\r\n of iron", "made of iron", 0), PLACE, "at 0: .*in whitespace"),
    "a soft hyphen": (answered("Ver\u00adwaltung", "Verwaltung", 0), PLACE, "whitespace or invisible characters$"),
    "nowhere": (answered(CONTEXT, "1872", 39), PLACE, "nowhere"),
    "bytes": (answered("\u00e9\u00e9 x, and so on", "x", 5), PLACE, "bytes.*here 3"),
    "bytes, past the end": (answered("\u00e9\u00e9\u00e9\u00e9 x", "x", 9), PLACE, "bytes.*here 5"),
    "UTF-16": (answered("\U0001f600\U0001f600 x, and so on", "x", 5), PLACE, "UTF-16.*here 3"),
    "CRLF, counted as LF": (answered("a\r\nb\r\nc x y", "x", 6), PLACE, "line ends.*here 8"),
    "LF, counted as CRLF": (answered("a\nb\nc x, and so on", "x", 8), PLACE, "line ends.*here 6"),
    "composed in a decomposed text": (answered(NFD, NFC, 0), PLACE, f"nowhere.*'{NFD}' is at 0: .*NFC and NFD"),
    "decomposed in a composed text": (
        answered(f"a {NFC} x", NFD, 0),
        PLACE,
        f"nowhere.*'{NFC}' is at 2: .*NFC and NFD",
    ),
    "a later answer wrong": (squad(question(answers=[ANSWER, ANSWER | {"answer_start": 0}])), PLACE, "at 39"),
    "impossible with answers": (squad(question(is_impossible=True)), PLACE, "is_impossible is true"),
    "possible, no answers": (squad(IMPOSSIBLE | {"is_impossible": False}, OTHER), PLACE, "no answers"),
    **rows(
        "is_impossible", lambda v: squad(question(is_impossible=v)), ("maybe", 2, "", []), message="false, found {}"
    ),
    "half a pair in the context": (answered("\ud83d x", "x", 2), PLACE, "context.*surrogate"),
    "half a pair in the question": (squad(question(question="\ud83d?")), PLACE, "question.*surrogate"),
    "half a pair in the id": (squad(question(id="\ud83d")), PLACE, "id.*surrogate"),
    "a context too long": (squad(question(), context="x" * (MOST_CHARACTERS + 1)), PLACE, "10000001 characters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(write, name):
    content, place, message = REFUSED[name]
    file = write(content)
    with pytest.raises(BadInput, match=f"(?s){message}") as caught:
        read_squad(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: ") and place in caught.value.where and "\n" not in text
    text.encode()  # a terminal can print the message


def test_ids_are_unique_within_a_file_that_is_scored_and_nowhere_else(write):
    first, second = write(GOOD, "first.json"), write(GOOD, "second.json")
    assert [e.id for e in read_squad([first, second])] == ["q1", "q1"]
    twice = write(squad(question(), question()))
    assert len(read_squad(twice, training=True)) == 2
    with pytest.raises(BadInput, match=re.escape(f"used before, at {PLACE}")):
        read_squad(twice)


def test_a_file_that_is_scored_by_ids_needs_them(write):
    with pytest.raises(BadInput, match="id must be a string, found None"):
        read_squad(write(squad(question(id=...))), needs_ids=True)


def test_every_fault_is_listed_at_once_or_dropped(write, capsys):
    questions = [question(id=f"q{i}", question="" if i % 2 else "When?") for i in range(14)]
    file = write({"data": squad(*questions, question(id="none", answers=[]))["data"] + [{"paragraphs": [{}]}, "x"]})
    with pytest.raises(BadInput) as caught:
        read_squad(file)
    assert caught.value.where == f"{PARAGRAPH}.qas[1] (id='q1')"
    assert "first of 10 faults" in caught.value.what and f"check --data {file} --fix" in caught.value.what
    lines = capsys.readouterr().err.splitlines()
    places = [*(f"{PARAGRAPH}.qas[{i}]" for i in (*range(1, 14, 2), 14)), "data[1].paragraphs[0].context", "data[2]"]
    assert len(lines) == len(places)
    assert all(line.startswith(f"warning: {file}: {place}") for line, place in zip(lines, places))
    assert [e.id for e in read_squad(file, skip_bad_records=True)] == [f"q{i}" for i in range(0, 14, 2)]
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "dropped 10 bad records" in printed and f"{PARAGRAPH}.qas[1]" in printed
    with pytest.raises(BadInput, match="0 questions"):
        read_squad(write(squad(question(answers=[]))), training=True, skip_bad_records=True)


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


MISPLACED = [{"text": "a", "answer_start": 7}]
HOSTILE = {
    "half of 20,000 questions unanswered": (20_000, "When?", lambda i: [ANSWER][: i % 2], CONTEXT),
    "100 questions about a megabyte of accents": (100, "When?", lambda i: MISPLACED, "\u00e9" * MEGABYTE),
    "100 misplaced answers in a megabyte": (100, "When?", lambda i: MISPLACED, "b" * MEGABYTE + "a " * 99),
    "20,000 misplaced answers in 12 MB": (
        20_000,
        "When?" * 100,
        lambda i: [{"text": "a", "answer_start": i}],
        "xa" * 9,
    ),
    "20,000 misplaced answers in a book": (20_000, "When?", lambda i: MISPLACED, "b\u00e9 b" * MEGABYTE + "a " * 99),
    "20,000 answers nowhere in a book": (20_000, "?", lambda i: [{"text": "Zz", "answer_start": i}], "b c" * MEGABYTE),
    "a question of a megabyte of spaces": (1, " " * MEGABYTE, lambda i: [ANSWER], CONTEXT),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sizes_are_refused_in_bounded_time_and_memory(write, name):
    resource = pytest.importorskip("resource")
    count, text, answers, context = HOSTILE[name]
    file = write(
        squad(*(question(id=f"q{i}", question=text, answers=answers(i)) for i in range(count)), context=context)
    )
    begin, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInput):
        read_squad(file)
    assert time.process_time() - begin < 5
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 < 500 * MEGABYTE


# ---- any input at all: examples that hold what they promise, or BadInput

KEYS = ["data", "title", "paragraphs", "context", "qas", "id", "question", "answers", "text", "answer_start"]
KEYS += ["is_impossible", "plausible_answers", "version", "x"]
SCALARS = st.none() | st.booleans() | st.integers(-2, 50) | st.sampled_from([2**63, 10**30, 1e308, -0.5, "1871"])
TREES = st.recursive(
    SCALARS | st.text("a x\n\x00\u00e9\u0301\u202e\U0001f600\ud83d", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
)
WHOLE = squad(question(is_impossible=False), question(id="q2", answers=[ANSWER, ANSWER]), IMPOSSIBLE | {"id": "q3"})


def paths(node, path=()):
    """The path of every node of a JSON tree, its root first."""
    yield path
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from paths(child, (*path, key))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    path=st.sampled_from(list(paths(WHOLE))),
    tree=TREES | st.just(...),
    edits=st.just([]) | st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), max_size=3),
)
def test_a_damaged_file_is_read_or_refused(write, path, tree, edits):
    """A value at any place is replaced (`...`: removed), then some bytes."""
    content = {"root": json.loads(json.dumps(WHOLE))}
    *parents, last = ("root", *path)
    parent = content
    for key in parents:
        parent = parent[key]
    parent[last] = tree
    if tree is ...:
        del parent[last]
    file = write(edit_bytes(json.dumps(content.get("root")).encode(), edits))
    for training, skip_bad_records in ((False, False), (True, False), (True, True)):
        try:
            examples = read_squad(file, training, skip_bad_records)
        except BadInput as error:
            assert str(file) in str(error) and error.what
            continue
        assert examples and len({e.id for e in examples}) == len(examples)
        for example in examples:
            assert example.id.strip() and example.question.strip() and isinstance(example.title, str)
            assert all(example.context[start : start + len(text)] == text for text, start in example.answers)
            assert example.answers or example.is_impossible or not training
            f"{example.id}{example.question}{example.context}".encode()


def test_a_question_without_answers_is_unanswerable_where_a_flag_says_so(tmp_path):
    records = [{"id": "a", "question": "where ?", "answers": [{"text": "basel", "answer_start": 4}]}]
    records += [{"id": "b", "question": "who ?", "answers": []}]
    content = {"data": [{"paragraphs": [{"context": "the basel clock", "qas": records}]}]}
    file = tmp_path / "mixed.json"
    file.write_text(json.dumps(content), "utf-8")
    for training in (False, True):
        with pytest.raises(BadInput, match=r"qas\[1\] \(id='b'\).*--version_2_with_negative"):
            read_squad(file, training)
        assert [e.id for e in read_squad(file, training, version_2_with_negative=True)] == ["a", "b"]


# ---- real files


@pytest.mark.parametrize(
    ("name", "questions", "answered", "answers", "contexts", "is_v2"),
    [("dev-v1.1.json", 10_570, 10_570, 34_726, 2_067, False), ("dev-v2.0-half.json", 5_921, 3_046, 9_752, 614, True)],
)
def test_a_real_file_is_read_whole(squad_dir, name, questions, answered, answers, contexts, is_v2):
    examples = read_squad(squad_dir / name, training=True)
    assert (len(examples), sum(bool(e.answers) for e in examples)) == (questions, answered)
    assert (sum(len(e.answers) for e in examples), len({e.context for e in examples})) == (answers, contexts)
    assert is_version_2(examples) is is_v2 and all(bool(e.is_impossible) is (not e.answers) for e in examples)


def test_the_example_files_are_clean_large_enough_and_share_no_context():
    train, dev = (read_squad(ROOT / "examples" / f"{name}.json", training=True) for name in ("train", "dev"))
    train_contexts, dev_contexts = ({e.context for e in examples} for examples in (train, dev))
    assert len(train) >= 200 and len(train_contexts) >= 40 and len(dev) >= 50 and len(dev_contexts) >= 10
    assert not train_contexts & dev_contexts
