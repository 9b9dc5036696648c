"""squad.py: what it reads, and that every fault is one BadInput line which names the file and the place."""

import gzip
import json
import os
import random

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.errors import BadInput
from minibert.squad import Example, Gold, is_version_2, read_squad

CONTEXT = "The clock of Basel was made of iron in 1871."
ANSWER = {"text": "1871", "answer_start": 39}
PLACE = "data[0].paragraphs[0].qas[0]"


def question(**changes) -> dict:
    """A good question with some keys changed; a key set to `...` is left out."""
    record = {"id": "q1", "question": "When?", "answers": [ANSWER]} | changes
    return {key: value for key, value in record.items() if value is not ...}


def squad(*questions: dict, context=CONTEXT) -> dict:
    """A file's content around these questions; a context of `...` is left out."""
    paragraph = {"qas": list(questions)} | ({} if context is ... else {"context": context})
    return {"version": "1.1", "data": [{"title": "Basel", "paragraphs": [paragraph]}]}


def answered(context: str, text, start) -> dict:
    return squad(question(answers=[{"text": text, "answer_start": start}]), context=context)


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Write bytes, text or anything JSON can say to a file, and return its path."""
    folder = tmp_path_factory.mktemp("squad")

    def write(content, name: str = "input.json"):
        text = content if isinstance(content, (bytes, str)) else json.dumps(content)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder / name

    return write


GOOD = json.dumps(squad(question()))


# --- what is read


def test_a_v1_file_gives_its_examples(write):
    two = [ANSWER, {"text": "in 1871", "answer_start": 36}]
    examples = read_squad(write(squad(question(), question(id="q2", question=" Which year? ", answers=two))))
    assert examples == [
        Example("q1", "Basel", "When?", CONTEXT, (Gold("1871", 39),)),
        Example("q2", "Basel", " Which year? ", CONTEXT, (Gold("1871", 39), Gold("in 1871", 36))),
    ]
    assert not is_version_2(examples)


def test_a_v2_file_says_what_is_impossible_and_its_plausible_answers_are_never_gold(write):
    impossible = question(id="q2", answers=[], is_impossible=True, plausible_answers=[ANSWER])
    examples = read_squad(write(squad(question(is_impossible=False), impossible)), training=True)
    assert [(e.is_impossible, e.answers) for e in examples] == [(False, (Gold("1871", 39),)), (True, ())]
    assert is_version_2(examples)


def test_one_question_that_says_is_impossible_makes_a_file_v2(write):
    examples = read_squad(write(squad(question(), question(id="q2", is_impossible=False))))
    assert [e.is_impossible for e in examples] == [None, False]
    assert is_version_2(examples)


def test_several_files_are_read_in_order(write):
    files = [write(squad(question(id=name)), f"{name}.json") for name in ("b", "a", "c")]
    assert [e.id for e in read_squad(files)] == ["b", "a", "c"]
    assert [e.id for e in read_squad(iter(map(str, files)))] == ["b", "a", "c"]


def test_ids_are_unique_over_all_files_and_both_places_are_named(write):
    first, second = write(GOOD, "first.json"), write(squad(question(id="new"), question()), "second.json")
    with pytest.raises(BadInput) as caught:
        read_squad([first, second])
    assert caught.value.file == str(second)
    assert "qas[1] (id=q1)" in caught.value.where
    assert f"{first}: {PLACE}" in caught.value.what


@pytest.mark.parametrize("answers", [..., None, []])
def test_a_test_file_without_any_answer_is_read_for_prediction_but_not_for_training(write, answers):
    file = write(squad(question(answers=answers), question(id="q2", answers=answers)))
    assert [e.answers for e in read_squad(file)] == [(), ()]
    with pytest.raises(BadInput, match=r"no answers.*1 more bad"):
        read_squad(file, training=True)


def test_whether_a_file_is_a_test_file_is_its_own_affair(write):
    test_file, gold_file = write(squad(question(id="t", answers=[])), "t.json"), write(GOOD, "g.json")
    assert [len(e.answers) for e in read_squad([gold_file, test_file])] == [1, 0]


@pytest.mark.parametrize(
    "name, content",
    [
        ("byte order mark", b"\xef\xbb\xbf" + GOOD.encode()),
        ("no version", {"data": squad(question())["data"]}),
        ("unknown keys", squad(question(hint=[1.5, None])) | {"extra": {}}),
        ("no title", {"data": [{"paragraphs": squad(question())["data"][0]["paragraphs"]}]}),
        ("paragraph without questions", {"data": squad()["data"] + squad(question())["data"]}),
        ("answer with outer blanks", answered(CONTEXT, " 1871", 38)),
        ("answer that cuts a word", answered(CONTEXT, "lock", 5)),
        ("control characters", answered("\x00 nul \x1f", "nul", 2)),
        ("bidi override", answered("\u202eabc\u202c x", "x", 6)),
        ("emoji before the answer", answered("\U0001f600\U0001f469\u200d\U0001f680 x", "x", 5)),
        ("entities stay", answered("a &amp; b", "&amp;", 2)),
        ("decomposed accent", answered("cafe\u0301 x", "cafe\u0301", 0)),
        ("one long word", answered("x" * 5000, "x" * 200, 7)),
    ],
)
def test_is_accepted(write, name, content):
    (example,) = read_squad(write(content))
    for text, start in example.answers:
        assert example.context[start : start + len(text)] == text


@pytest.mark.parametrize("context", ["", " \n\t"])
def test_an_empty_context_is_kept_for_prediction_and_refused_for_training(write, context):
    file = write(squad(question(answers=[]), context=context))
    assert read_squad(file)[0].context == context
    with pytest.raises(BadInput):
        read_squad(file, training=True)


# --- what is refused: (name, content, place, message); the message is a regular expression

NFC, NFD = "caf\u00e9", "cafe\u0301"
BAD_FILES = [
    ("02 empty", b"", "", "empty"),
    ("02 blank", b" \n\t\n", "", "empty"),
    ("02 only a byte order mark", b"\xef\xbb\xbf", "", "."),
    ("03 git-LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "", "git-LFS pointer"),
    ("04 HTML", b"\n<!DOCTYPE html><html>", "", "HTML"),
    ("05 gzip", gzip.compress(GOOD.encode()), "", "compressed"),
    ("05 zip", b"PK\x03\x04\x14\x00", "", "zip"),
    ("07 UTF-16", GOOD.encode("utf-16"), "byte 0", "UTF-8"),
    ("07 UTF-16, no mark", GOOD.encode("utf-16-le"), "line 1", "."),
    ("07 latin-1", b'{"data": "caf\xe9"}', "byte 13", "UTF-8"),
    ("08 truncated", GOOD[:-20], "line 1 column", "."),
    ("08 truncated in a string", GOOD[:30], "line 1 column", "."),
    ("09 trailing comma", '{\n"data": [],\n}', "line 3", "."),
    ("09 trailing data", GOOD + "\nend", "line 2 column 1", "Extra data"),
    ("09 JSON lines", GOOD + "\n" + GOOD, "line 2 column 1", "JSON lines"),
    ("10 deep lists", '{"data": ' + "[" * 100_000, "", "deep"),
    ("10 deep objects", '{"data":' * 100_000, "", "deep"),
    ("11 5,000 digits", '{"data": ' + "1" * 5000 + "}", "", "digits"),
    ("12 NaN", GOOD.replace('"1.1"', "NaN"), "", "NaN"),
    ("12 Infinity", GOOD.replace('"1.1"', "Infinity"), "", "Infinity"),
    ("12 -Infinity", GOOD.replace('"1.1"', "-Infinity"), "", "Infinity"),
    ("12 1e999, a hidden infinity", GOOD.replace('"1.1"', "1e999"), "", "."),
    ("13 key twice", GOOD.replace('"title"', '"title": "x", "title"'), "", "'title' .*twice"),
    ("13 id twice in one record", GOOD.replace('"id"', '"id": "q0", "id"'), "", "'id' .*twice"),
    ("14 list", [question()], "data", "list"),
    ("14 string", '"data"', "data", "list"),
    ("14 number", "7", "data", "list"),
    ("14 null", "null", "data", "list"),
    ("14 flat rows", {"data": [question(context=CONTEXT)]}, "data[0]", "flat"),
    ("15 predictions", {"q1": "1871", "q2": ""}, "", "predictions"),
    ("15 scores", {"exact_match": 80.5, "f1": 88.1}, "data", "missing"),
    ("16 no articles", {"data": []}, "data", "0 questions"),
    ("16 no paragraphs", {"data": [{"paragraphs": []}]}, "data", "0 questions"),
    ("16 no questions", squad(), "data", "0 questions"),
    ("17 data null", {"data": None}, "data", "list"),
    ("17 data object", {"data": {}}, "data", "list"),
    ("17 article a string", {"data": ["x"]}, "data[0].paragraphs", "list"),
    ("17 paragraphs missing", {"data": [{"title": "x"}]}, "data[0].paragraphs", "missing"),
    ("17 paragraphs null", {"data": [{"paragraphs": None}]}, "data[0].paragraphs", "list"),
    ("17 paragraph a list", {"data": [{"paragraphs": [[]]}]}, "data[0].paragraphs[0].context", "string"),
    ("17 qas missing", {"data": [{"paragraphs": [{"context": "x"}]}]}, "data[0].paragraphs[0].qas", "missing"),
    ("17 qas an object", {"data": [{"paragraphs": [{"context": "x", "qas": {}}]}]}, "paragraphs[0].qas", "a dict"),
    ("17 question a string", squad("When?"), PLACE, "object"),
    ("18 context missing", squad(question(), context=...), "data[0].paragraphs[0].context", "missing"),
    ("18 context null", squad(question(), context=None), "data[0].paragraphs[0].context", "string"),
    ("18 context a list", squad(question(), context=["a", "b"]), "data[0].paragraphs[0].context", "a list"),
    ("19 answer in an empty context", answered("", "x", 0), PLACE, "answer_start"),
    ("19 answer in a blank context", answered("   ", "x", 0), PLACE, "nowhere"),
    ("20 question missing", squad(question(question=...)), f"{PLACE} (id='q1')", "question must be"),
    ("20 question empty", squad(question(question="")), PLACE, "question must be"),
    ("20 question blank", squad(question(question=" \n")), PLACE, "question must be"),
    ("20 question a list", squad(question(question=["When?"])), PLACE, "question must be"),
    ("21 id missing", squad(question(id=...)), PLACE, "id must be"),
    ("21 id a number", squad(question(id=17)), f"{PLACE} (id=17)", "id must be"),
    ("21 id null", squad(question(id=None)), PLACE, "id must be"),
    ("21 id empty", squad(question(id="")), PLACE, "id must be"),
    ("22 id twice", squad(question(), question()), "data[0].paragraphs[0].qas[1]", r"used before.*qas\[0\]"),
    ("23 answers missing beside others", squad(question(answers=...), question(id="q2")), PLACE, "no answers"),
    ("23 answers empty beside others", squad(question(answers=[]), question(id="q2")), PLACE, "no answers"),
    ("24 answers as columns", squad(question(answers={"text": ["x"], "answer_start": [0]})), PLACE, "object of lists"),
    ("24 answers a string", squad(question(answers="1871")), PLACE, "list"),
    ("24 an answer a string", squad(question(answers=["1871"])), PLACE, "text"),
    ("25 answers null beside others", squad(question(answers=None), question(id="q2")), PLACE, "no answers"),
    ("26 start -1", answered(CONTEXT, "1871", -1), PLACE, "answer_start.*-1"),
    ("26 start that Python would count from the end", answered(CONTEXT, "1871", -5), PLACE, "answer_start.*-5"),
    ("27 start past the end", answered(CONTEXT, "1871", 44), PLACE, "44"),
    ("27 answer runs over the end", answered(CONTEXT, "1871. And", 39), PLACE, "not at answer_start"),
    ("28 start a string", answered(CONTEXT, "1871", "39"), PLACE, "answer_start.*'39'"),
    ("28 start a float", answered(CONTEXT, "1871", 39.0), PLACE, "answer_start.*39.0"),
    ("28 start true", answered(" x", "x", True), PLACE, "answer_start.*True"),
    ("28 start null", answered(CONTEXT, "1871", None), PLACE, "answer_start.*None"),
    ("28 start missing", squad(question(answers=[{"text": "1871"}])), PLACE, "answer_start"),
    ("29 start huge", answered(CONTEXT, "1871", 10**18), PLACE, "answer_start"),
    ("30 one too far", answered(CONTEXT, "1871", 40), PLACE, r"'1871' is not at answer_start 40.*'871\.'.* 39"),
    ("30 nearest of two", answered("x ab ab ab", "ab", 6), PLACE, "nearest one is at 5"),
    ("30 elsewhere", answered(CONTEXT, "1871", 3), PLACE, "nearest one is at 39"),
    ("30 nowhere", answered(CONTEXT, "1872", 39), PLACE, "nowhere"),
    ("31 bytes", answered("\u00e9\u00e9 x, and so on", "x", 5), PLACE, "bytes.*here 3"),
    ("31 bytes, past the end", answered("\u00e9\u00e9\u00e9\u00e9 x", "x", 9), PLACE, "bytes.*here 5"),
    ("32 UTF-16", answered("\U0001f600\U0001f600 x, and so on", "x", 5), PLACE, "UTF-16.*here 3"),
    ("33 CRLF, counted as LF", answered("a\r\nb\r\nc x y", "x", 6), PLACE, "line ends.*here 8"),
    ("33 LF, counted as CRLF", answered("a\nb\nc x, and so on", "x", 8), PLACE, "line ends.*here 6"),
    ("34 composed, context is not", answered(NFD, NFC, 0), PLACE, "nowhere"),
    ("34 decomposed, context is not", answered(NFC + " x", NFD, 0), PLACE, "nowhere"),
    ("35 answer empty", answered(CONTEXT, "", 3), PLACE, "text must be"),
    ("35 answer blank", answered(CONTEXT, " ", 3), PLACE, "text must be"),
    ("35 answer null", answered(CONTEXT, None, 3), PLACE, "text must be"),
    ("40 impossible with answers", squad(question(is_impossible=True)), PLACE, "is_impossible is true"),
    (
        "41 possible, no answers",
        squad(question(answers=[], is_impossible=False), question(id="q2", is_impossible=False)),
        PLACE,
        "no answers",
    ),
    ("42 is_impossible a string", squad(question(is_impossible="true")), PLACE, "is_impossible must be"),
    ("42 is_impossible 1", squad(question(is_impossible=1)), PLACE, "is_impossible must be"),
    ("42 is_impossible null", squad(question(is_impossible=None)), PLACE, "is_impossible must be"),
    ("45 half a pair in the context", answered("\ud83d x", "x", 2), PLACE, "surrogate"),
    ("45 half a pair in the question", squad(question(question="\ud83d?")), PLACE, "surrogate"),
    ("45 half a pair in the id", squad(question(id="\ud83d")), PLACE, "surrogate"),
]


@pytest.mark.parametrize("name, content, place, message", BAD_FILES, ids=[row[0] for row in BAD_FILES])
def test_is_refused(write, name, content, place, message):
    file = write(content)
    with pytest.raises(BadInput, match=f"(?s){message}") as caught:
        read_squad(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    assert place in caught.value.where
    assert "\n" not in text
    text.encode()  # can be printed


@pytest.mark.parametrize("name", ["missing.json", "folder", "file/inside"])
def test_a_path_that_cannot_be_read_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="cannot be read") as caught:
        read_squad(tmp_path / name)
    assert caught.value.file == str(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_without_permission_is_refused(tmp_path):
    (tmp_path / "secret.json").write_text(GOOD)
    (tmp_path / "secret.json").chmod(0)
    with pytest.raises(BadInput, match="cannot be read"):
        read_squad(tmp_path / "secret.json")


def test_the_first_fault_is_named_with_the_number_of_others_and_their_places(write):
    questions = [question(id=f"q{i}", question="" if i % 2 else "When?") for i in range(14)]
    with pytest.raises(BadInput) as caught:
        read_squad(write(squad(*questions)))
    assert caught.value.where == "data[0].paragraphs[0].qas[1] (id='q1')"
    assert "6 more bad: " in caught.value.what
    assert "qas[3]" in caught.value.what and caught.value.what.endswith("..)")


def test_a_later_answer_is_checked_like_the_first(write):
    with pytest.raises(BadInput, match="nearest one is at 39"):
        read_squad(write(squad(question(answers=[ANSWER, {"text": "1871", "answer_start": 0}]))))


# --- any input at all: examples that hold what they promise, or BadInput

KEYS = ["data", "title", "paragraphs", "context", "qas", "id", "question", "answers", "text", "answer_start"]
KEYS += ["is_impossible", "plausible_answers", "version", "x"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 50),
    st.floats(allow_nan=True),
    st.text("a x\n\u00e9\u0301\U0001f600\ud83d", max_size=6),
    st.sampled_from(["1871", CONTEXT]),
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
)


def check_any(file) -> None:
    for training in (False, True):
        try:
            examples = read_squad(file, training)
        except BadInput as error:
            assert str(file) in str(error)
            continue
        assert examples and len({e.id for e in examples}) == len(examples)
        for example in examples:
            assert example.id.strip() and example.question.strip()
            assert all(example.context[start : start + len(text)] == text for text, start in example.answers)
            assert example.answers or example.is_impossible or not training


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tree=TREES, is_wrapped=st.booleans())
def test_random_json_is_read_or_refused(write, tree, is_wrapped):
    check_any(write({"data": [{"paragraphs": [{"context": CONTEXT, "qas": [tree]}]}]} if is_wrapped else tree))


def places(node, path=()):
    """The path of every node of a JSON tree but its root."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from places(child, (*path, key))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(replacement=TREES, seed=st.integers(0, 10**6))
def test_a_mutated_file_is_read_or_refused(write, replacement, seed):
    draw = random.Random(seed)
    content = squad(question(is_impossible=False), question(id="q2", answers=[ANSWER, ANSWER]))
    *path, last = draw.choice(list(places(content)))
    parent = content
    for key in path:
        parent = parent[key]
    if draw.random() < 0.3:
        del parent[last]
    else:
        parent[last] = replacement
    check_any(write(content))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 4))
def test_a_file_with_changed_bytes_is_read_or_refused(write, seed, count):
    draw, raw = random.Random(seed), bytearray(GOOD.encode())
    for _ in range(count):
        at = draw.randrange(len(raw))
        raw[at : at + draw.randrange(3)] = bytes(draw.choices(b'[]{}",:0e-\\u\x00\xc3\xff', k=draw.randrange(3)))
    check_any(write(bytes(raw)))


# --- real files


def test_the_v1_dev_set_is_read_whole(squad_dir):
    examples = read_squad(squad_dir / "dev-v1.1.json", training=True)
    assert (len(examples), sum(len(e.answers) for e in examples)) == (10570, 34726)
    assert len({e.context for e in examples}) == 2067
    assert not is_version_2(examples)


def test_the_v2_half_is_read_whole(squad_dir):
    examples = read_squad(squad_dir / "dev-v2.0-half.json", training=True)
    assert (len(examples), sum(bool(e.answers) for e in examples)) == (5921, 3046)
    assert is_version_2(examples)
    assert all(e.is_impossible is (not e.answers) for e in examples)


@pytest.mark.parametrize("name, questions, contexts", [("train.json", 200, 40), ("dev.json", 50, 10)])
def test_the_example_files_are_clean_and_large_enough(name, questions, contexts):
    examples = read_squad(ROOT / "examples" / name, training=True)
    assert len(examples) >= questions
    assert len({e.context for e in examples}) >= contexts


def test_the_example_files_share_no_context():
    train, dev = (read_squad(ROOT / "examples" / name) for name in ("train.json", "dev.json"))
    assert not {e.context for e in train} & {e.context for e in dev}
