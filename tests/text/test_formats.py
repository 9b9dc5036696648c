"""formats.py and convert.py: what others write becomes SQuAD again; what does not is named with its remedy."""

import csv
import io
import json
import os
import shlex
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minibert.support.errors import BadInput
from minibert.text.convert import convert
from minibert.text.squad import check_records, check_top, read_squad

CONTEXTS = [
    "The clock of Basel was made\nof iron in 1871, \u201cby Anna\u201d.",
    "The bridge, built in Lyon; of \U0001f600 stone.",
]
ROWS = [
    {"id": "a", "title": "Basel", "context": CONTEXTS[0], "question": "When?", "text": ["1871", "in 1871"]},
    {"id": "b", "title": "Basel", "context": CONTEXTS[0], "question": 'Of "what"?', "text": ["iron"]},
    {"id": "c", "title": "Lyon", "context": CONTEXTS[1], "question": "Of what?", "text": ["stone"]},
    {"id": "d", "title": "Lyon", "context": CONTEXTS[1], "question": "Who?", "text": []},
]
for one in ROWS:
    one["starts"] = [one["context"].index(text) for text in one["text"]]
FIRST = [one | {"text": one["text"][:1], "starts": one["starts"][:1]} for one in ROWS]


def write(folder, content, name="input.json"):
    raw = content if isinstance(content, bytes) else content.encode() if isinstance(content, str) else None
    (folder / name).write_bytes(json.dumps(content).encode() if raw is None else raw)
    return folder / name


def examples_of(file):
    """The format's name and (id, title, question, context, answers, is_impossible) of every question."""
    name, top, _ = convert(file)
    check_top(file, top)
    records = [record for _, record in check_records(top, False, False, False, Counter())]
    return name, [
        (e.id, e.title, e.question, e.context, [tuple(g) for g in e.answers], e.is_impossible) for e in records
    ]


def expected(rows, titles=False, mark=True) -> list[tuple]:
    """What must be read of these rows. `titles`: whether the format has them; `mark`: whether "no answer" is marked."""
    return [
        (
            *(row["id"], row["title"] if titles else "", row["question"], row["context"]),
            list(zip(row["text"], row["starts"])),
            True if mark and not row["text"] else None,
        )
        for row in rows
    ]


def hf(row):
    """A row of the `datasets` library."""
    kept = {key: row[key] for key in ("id", "title", "context", "question")}
    return kept | {"answers": {"text": row["text"], "answer_start": row["starts"]}}


def spans(row):
    return [{"start": s, "end": s + len(t), "text": t} for t, s in zip(row["text"], row["starts"])]


def label_studio(row):
    results = [{"value": span | {"labels": ["Answer"]}, "type": "labels"} for span in spans(row)]
    annotations = [{"result": results, "was_cancelled": False}, {"result": [{}] * 2, "was_cancelled": True}]
    return {"id": row["id"], "data": {"text": row["context"], "question": row["question"]}, "annotations": annotations}


def label_studio_min(row):
    task = {"id": row["id"], "text": row["context"], "question": row["question"], "annotation_id": 7}
    return task | {"answer": [span | {"labels": ["Answer"]} for span in spans(row)]}


def doccano(row, key="label"):
    marks = [[span["start"], span["end"], "ANSWER"] for span in spans(row)]
    if key == "entities":
        marks = [{"id": 1, "label": "ANSWER", "start_offset": first, "end_offset": stop} for first, stop, _ in marks]
    return {"id": row["id"], "text": row["context"], "question": row["question"], key: marks}


def haystack(row):
    label = {"id": row["id"], "query": row["question"], "document": {"content": row["context"], "id": "x", "meta": {}}}
    answers = [
        {"answer": s["text"], "offsets_in_document": [{"start": s["start"], "end": s["end"]}]} for s in spans(row)
    ]
    return label | {"answer": (answers or [None])[0], "no_answer": not answers, "origin": "gold-label"}


def table(rows, delimiter=",", columns=("id", "question", "context", "answer", "answer_start"), ends="\r\n"):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=ends)
    writer.writerow(columns)
    for row in rows:
        values = [row["id"], row["question"], row["context"], *(row["text"] or [""]), *(row["starts"] or [""])]
        writer.writerow(values[: len(columns)])
    return out.getvalue()


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def columns(rows):
    return {key: [row[key] for row in rows] for key in rows[0]}


HF = [hf(row) for row in ROWS]
THREE, TITLED, FLAT = expected(ROWS[:3]), expected(ROWS, titles=True), expected(FIRST[:3])
SHEET_COLUMNS = ("ID", "Question", "Context ", "Answer Text")
SHEET = [dict(zip(SHEET_COLUMNS, (r["id"], r["question"], r["context"], r["text"][0]))) for r in ROWS[:3]]
LISTS = [hf(r) | {"answers": r["text"], "Answer start": r["starts"]} for r in ROWS]
ANSWER_LISTS = [{("answer" if key == "answers" else key): value for key, value in row.items()} for row in LISTS]
OBJECTS = [hf(r) | {"answers": [dict(text=t, answer_start=s) for t, s in zip(r["text"], r["starts"])]} for r in ROWS]
HALF_EMPTY = [
    dict(zip(("id", "question", "context", "answer"), (r["id"], r["question"], r["context"], r["text"][0])))
    for r in ROWS[:3]
]
EMPTY_LISTS = [row | {"answers": empty} for row, empty in zip(HALF_EMPTY, ([], None, {"text": [], "answer_start": []}))]
EMPTY_TEXTS = [row | {"answers": empty} for row, empty in zip(HALF_EMPTY, ([{"text": ""}], [None], {"text": [""]}))]
OTHER_COLUMNS = table(FIRST[:3], columns=("qid", "query", "Passage", "Answer text"))
PANDAS = {name: {str(i): value for i, value in enumerate(values)} for name, values in columns(HF).items()}
UNANSWERED = [row | {"text": [], "starts": []} for row in ROWS]
TEST_SET = [hf(row) for row in UNANSWERED], "flat rows", expected(UNANSWERED, titles=True, mark=False)
ROUND_TRIPS = {  # what is written -> how the format is called, and what must be read
    "rows": (HF, "flat rows", TITLED),
    "rows under data": ({"data": HF}, "flat rows", TITLED),
    "rows as JSON lines": (lines(HF), "JSON lines: flat rows", TITLED),
    "JSON lines with blank lines": (f"\n{lines(HF)}".replace("\n", "\r\n\n"), "JSON lines: flat rows", TITLED),
    "one row": (HF[0], "flat rows", TITLED[:1]),
    "rows of a spreadsheet's columns": (SHEET, "flat rows", FLAT),
    "rows with two lists": (LISTS, "flat rows", TITLED),
    "rows with two lists, in the singular": (ANSWER_LISTS, "flat rows", TITLED),
    "rows of an answer and an empty list": (EMPTY_LISTS, "flat rows", FLAT),
    "rows of an answer and a list of empty texts": (EMPTY_TEXTS, "flat rows", FLAT),
    "rows of answers and an empty answer": ([row | {"answer": None} for row in LISTS], "flat rows", TITLED),
    "rows with a list of objects": (OBJECTS, "flat rows", TITLED),
    "rows whose columns are called query and document": (
        [
            {
                "id": r["id"],
                "query": r["question"],
                "document": r["context"],
                "answer": r["text"][0],
                "no_answer": False,
            }
            for r in ROWS[:3]
        ],
        "flat rows",
        [(*row[:-1], False) for row in FLAT],
    ),
    "rows with a file's name as document": (
        [row | {"query": "", "document": "a.pdf", "text": "", "labels": []} for row in HF],
        "flat rows",
        TITLED,
    ),
    "a test set, whose empty lists say nothing": TEST_SET,
    "columns": (columns(HF), "columns", TITLED),
    "columns of pandas": (PANDAS, "columns", TITLED),
    "CSV": (table(FIRST[:3]), "CSV", FLAT),
    "CSV with the line ends of old spreadsheets": (table(FIRST[:3], ends="\r"), "CSV", FLAT),
    "CSV after blank lines": ("\r\n\n" + table(FIRST[:3]), "CSV", FLAT),
    "CSV with a byte order mark and semicolons": (b"\xef\xbb\xbf" + table(FIRST[:3], ";").encode(), "CSV", FLAT),
    "CSV without starts": (OTHER_COLUMNS, "CSV", FLAT),
    "TSV": (table(FIRST[:3], "\t", ends="\n"), "TSV", FLAT),
    "Label Studio": ([label_studio(r) for r in ROWS[:3]], "Label Studio", THREE),
    "Label Studio, JSON-MIN": ([label_studio_min(r) for r in ROWS[:3]], "Label Studio", THREE),
    "doccano": (lines([doccano(r) for r in ROWS[:3]]), "JSON lines: a doccano export", THREE),
    "doccano, entities": ([doccano(r, "entities") for r in ROWS[:3]], "doccano", THREE),
    "haystack labels": ([haystack(r) for r in FIRST], "haystack labels", expected(FIRST)),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_format_goes_there_and_back(tmp_path, name):
    content, called, rows = ROUND_TRIPS[name]
    file = write(tmp_path, content)
    found, examples = examples_of(file)
    assert examples == rows and called in found
    remedy = rf"is .*{called.partition(':')[0]}.*; convert it with `minibert check --data .* --fix .*json`"
    with pytest.raises(BadInput, match=remedy):
        read_squad(file)  # training on the file itself


@pytest.mark.parametrize("span", [[30, 300], [40, 20], [3.0, 7.0], [-4, 2], [5, 5]], ids=str)
def test_a_marked_span_that_does_not_fit_the_text_is_a_fault(tmp_path, span):
    """Cut to the text, or taken for no answer, it would train on what nobody marked."""
    top = convert(write(tmp_path, [doccano(FIRST[0]) | {"label": [[*span, "A"]]}]))[1]
    ((place, fault),) = check_records(top, False, True, False, Counter())
    assert "qas[0]" in place and f"'start': {span[0]}, 'end': {span[1]}" in fault


def test_arrays_that_pandas_wrote_as_text_are_named(tmp_path):
    cell = "{'text': array(['Basel'], dtype=object), 'answer_start': array([5], dtype=int32)}"
    file = write(tmp_path, f'id,question,context,answers\n1,Where?,"From Basel.","{cell}"\n')
    with pytest.raises(BadInput, match=r"looks like .*, but it holds numpy arrays as text; export with \.to_json\("):
        convert(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFO")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(BadInput, match="is not a regular file; save the data in one"):
        convert(tmp_path / "pipe.json")


def test_an_answer_that_a_user_marked_as_wrong_is_left_out_and_counted(tmp_path):
    labels = [haystack(FIRST[0]) | {"is_correct_answer": True}, haystack(FIRST[1]) | {"is_correct_answer": False}]
    name, examples = examples_of(write(tmp_path, labels))
    assert examples == expected(FIRST[:1]) and name.endswith("(1 with is_correct_answer false left out)")


MILL = "The mill was built in 1788 by Jakob Renz."
RENZ, YEAR, NOBODY = [("Jakob Renz", 30)], [("1788", 22)], []
WHO = {"question": "Who?", "context": MILL}
SPAN = {"start": 30, "end": 40, "labels": ["A"]}


def haystack_rows(*answers, document=MILL):
    return [{"id": str(i), "query": "Who?", "document": document, "answer": one} for i, one in enumerate(answers)]


def task(*values, data=WHO):
    return {"id": 1, "data": data, "annotations": [{"result": [{"value": value} for value in values]}]}


def iron(key, **more):
    """A row of JSON-MIN whose text is in the column `context`, with a mark at the second of two places."""
    spans = [{"start": 9, "end": 13, "text": "iron", "labels": ["A"]}]
    return {"id": 1, "context": "iron and iron", "question": "?", key: spans, "annotation_id": 7} | more


def doccano_text(label, key="label"):
    return [{"id": 1, "text": MILL, "question": "Who?", key: label}]


HAYSTACK_ANSWER = {"answer": "1788", "offsets_in_document": [{"start": 22, "end": 26}]}
NOT_LOST = {  # what is written -> the answers of each question
    "null first": (haystack_rows(None, "Jakob Renz"), [NOBODY, RENZ]),
    "a number first": (haystack_rows(1788, "Jakob Renz"), [YEAR, RENZ]),
    "a list first": (haystack_rows(["Jakob Renz"], "1788"), [RENZ, YEAR]),
    "SQuAD's object first": (haystack_rows({"text": "1788", "answer_start": 22}, "Jakob Renz"), [YEAR, RENZ]),
    "columns of Hugging Face in the singular": (haystack_rows({"text": ["1788"], "answer_start": [22]}), [YEAR]),
    "haystack, null first": (haystack_rows(None, HAYSTACK_ANSWER), [NOBODY, YEAR]),
    "haystack, other answers": (
        haystack_rows("Jakob Renz", ["1788"], {"text": "1788", "answer_start": 22}, 1788, document={"content": MILL}),
        [RENZ, YEAR, YEAR, YEAR],
    ),
    "one task of Label Studio": (task(SPAN), [RENZ]),
    "one task of an old Label Studio": ({"data": WHO, "completions": [{"result": [{"value": SPAN}]}]}, [RENZ]),
    "one task in a line": (lines([task(SPAN)]), [RENZ]),
    "one task of Label Studio without marks": (task(), [NOBODY]),
    "Label Studio, typed texts": ([task({"text": ["Jakob Renz", "1788"]})], [RENZ + YEAR]),
    "Label Studio, a typed text": ([task({"text": "Jakob Renz"}, {"choices": ["easy"]}, None)], [RENZ]),
    "Label Studio, a typed comment": ([task({"text": ["1788 is wrong"]}, SPAN)], [RENZ]),
    "Label Studio, JSON-MIN, typed texts": (
        [
            {"text": MILL, "question": "Who?", "annotation_id": 7, "answer": answer, "level": {"choices": ["a", "b"]}}
            for answer in ("Jakob Renz", ["Jakob Renz", "1788"], {"text": ["Jakob Renz", "1788"]}, [SPAN, "1788"], "")
        ],
        [RENZ, RENZ + YEAR, RENZ + YEAR, RENZ + YEAR, NOBODY],
    ),
    "Label Studio, JSON-MIN, a column of its own": ([iron("answer", label=None)], [[("iron", 9)]]),
    "Label Studio, JSON-MIN, labels": ([iron("label", label=[]), iron("label", id=2)], [NOBODY, [("iron", 9)]]),
    "rows of JSON-MIN without marks": ([iron("mark", mark=[], answer="and")], [[("and", 5)]]),
    "doccano 1.0": (
        lines(doccano_text([{"label": 2, "start_offset": 30, "end_offset": 40, "user": 1}], "annotations")),
        [RENZ],
    ),
    "doccano 1.0, a typed text": (doccano_text([{"text": "Jakob Renz", "user": 1}], "annotations"), [RENZ]),
    "doccano, a typed text": (doccano_text("Jakob Renz"), [RENZ]),
    "doccano, typed texts": (doccano_text(["Jakob Renz", "1788"]), [RENZ + YEAR]),
    "doccano, spans beside a category": ([doccano_text([[30, 40, "A"]])[0] | {"labels": ["1788"]}], [RENZ]),
}


@pytest.mark.parametrize("name", NOT_LOST)
def test_no_answer_is_lost_whatever_its_shape_and_whichever_row_is_first(tmp_path, name):
    content, answers = NOT_LOST[name]
    top = convert(write(tmp_path, content))[1]
    records = [record for _, record in check_records(top, False, True, False, Counter())]
    assert [[tuple(gold) for gold in example.answers] for example in records] == answers


@pytest.mark.parametrize(
    "content",
    [
        *(haystack_rows(HAYSTACK_ANSWER, bad) for bad in ({"said": "x"}, [["x"]], {"answer": ["x"]}, "Anna", 1872)),
        *([task(SPAN), task(bad)] for bad in ({"text": ["Anna"]}, "Anna", {"text": [7.5]}, 7.5)),
        *(doccano_text([[30, 40, "A"]]) + doccano_text(bad) for bad in ("Anna", ["Anna"], [7.5], 7.5, {"x": 1}, [[3]])),
        [{"text": MILL, "question": "Who?", "annotation_id": 7, "answer": bad} for bad in ([SPAN], [{"said": "x"}])],
    ],
)
def test_an_answer_that_is_not_understood_or_not_in_the_text_is_a_fault(tmp_path, content):
    top = convert(write(tmp_path, content))[1]
    (_, good), (place, fault) = check_records(top, False, True, False, Counter())
    assert good.answers and "qas[1]" in place and ("must be a string" in fault or "the text is nowhere" in fault)


def test_annotations_that_are_not_a_list_are_refused(tmp_path):
    with pytest.raises(BadInput, match="looks like a Label Studio export, but has another shape"):
        convert(write(tmp_path, [{"data": WHO, "annotations": {"result": [{"value": SPAN}]}}]))


def test_the_mark_of_haystack_is_kept_where_its_documents_are_texts(tmp_path):
    rows = [row | {"no_answer": True} for row in haystack_rows(None, "")]
    assert [example[-1] for example in examples_of(write(tmp_path, rows))[1]] == [True, True]


IN_A_CELL = {  # a cell of the column `answers` -> its answers; the text of the cell itself if it is no usable literal
    '[{"text": "y", "answer_start": 2, "note": null, "checked": true}]': [("y", 2)],
    "[{'text': 'y', 'answer_start': 2, 'note': None, 'checked': True}]": [("y", 2)],
    '{"text": ["y"], "answer_start": null}': [("y", 2)],
    '[{"text": "y", "answer_start": 2, "score": NaN}]': "text",
    '[{"text": "y", "answer_start": 2, "score": 1e999}]': "text",
    "[{'text': 'y', 'answer_start': 2, 'score': 1e999}]": "text",
    "[{'text': 'y', 'answer_start': 2, 'score': -Infinity}]": "text",
    '[{"text": "y", "text": "x"}]': "text",
    "[{'text': b'y', 'answer_start': 2}]": "text",
    "{'y'}": "text",
    "{['y']: 2}": "text",
    "[" * 9000: "text",
    "[y": "text",
}


@pytest.mark.parametrize("cell", IN_A_CELL, ids=lambda cell: cell[:60])
def test_a_list_in_a_cell_is_read_as_json_or_python_and_what_json_cannot_hold_stays_text(tmp_path, cell):
    row = dict(id="1", context="x y", question="a?", answers=cell)
    out = io.StringIO(newline="")
    csv.writer(out).writerows([row, row.values()])
    top = convert(write(tmp_path, out.getvalue()))[1]
    json.dumps(top, allow_nan=False)
    if IN_A_CELL[cell] == "text":
        assert top["data"][0]["paragraphs"][0]["qas"][0]["answers"] == [{"text": cell, "answer_start": None}]
        ((place, fault),) = check_records(top, False, False, False, Counter())
        assert place.startswith("data[0].paragraphs[0].qas[0] ") and repr(cell)[1:10] in fault
    else:
        ((_, example),) = check_records(top, False, False, False, Counter())
        assert [tuple(gold) for gold in example.answers] == IN_A_CELL[cell]


@pytest.mark.parametrize("starts", ["[4]", "[4.0]", "4"])
def test_offsets_in_a_cell_of_their_own_are_those_of_the_answers_in_another(tmp_path, starts):
    """Without them, the first of two places would be taken, or the question refused."""
    rows = f"context,question,answers,answer_start\nx y y,a?,['y'],{starts}\n"
    ((*_, answers, _),) = examples_of(write(tmp_path, rows))[1]
    assert answers == [("y", 4)]


IMPOSSIBLE = [row | {"is_impossible": True} for row in TEST_SET[0]]
STATED = {  # files without a single answer, in which the marks are the user's
    "rows": (IMPOSSIBLE, True),
    "rows without a column of answers": ([row | {"answers": None} for row in IMPOSSIBLE], True),
    "rows that are marked as answerable": ([row | {"is_impossible": False} for row in IMPOSSIBLE], False),
    "CSV": ("context,question,is_impossible\nx,a?,true\nx,b?,true\n", True),
    "haystack labels": ([haystack(row) for row in UNANSWERED], True),
}


@pytest.mark.parametrize("name", STATED)
def test_marks_that_the_file_states_survive_where_no_question_has_an_answer(tmp_path, name):
    content, mark = STATED[name]
    examples = examples_of(write(tmp_path, content))[1]
    assert len(examples) > 1 and {example[-1] for example in examples} == {mark}


def test_an_empty_list_in_a_table_marks_nothing_in_a_test_set_and_no_answer_beside_an_answer(tmp_path):
    rows = "context,question,answers\nx y,a?,[]\nx y,b?,{}\n"
    marks = [[e[-1] for e in examples_of(write(tmp_path, rows.format(answers)))[1]] for answers in ("[]", "['y']")]
    assert marks == [[None, None], [True, None]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (table(FIRST), "no answers"),  # an empty cell is a missing answer and no mark
        ([HF[0] | {"answers": ["1871", "in 1871"], "answer_start": [39]}], "2 texts and 1 value of answer_start"),
    ],
)
def test_what_is_missing_in_a_row_is_a_fault(tmp_path, content, says):
    top = convert(write(tmp_path, content))[1]
    (fault,) = (what for _, what in check_records(top, False, False, False, Counter()) if isinstance(what, str))
    assert says in fault


QAS = [{"id": "1", "question": "When?", "answers": [{"text": "1871", "answer_start": CONTEXTS[0].index("1871")}]}]
PARAGRAPHS = [{"context": CONTEXTS[0], "qas": QAS}]
ONE = PARAGRAPHS[0]
SQUAD_ALREADY = {
    "simpletransformers": [ONE | {"qas": [QAS[0] | {"is_impossible": False}]}],
    "cdQA": {"version": "", "data": [{"title": "t", "paragraphs": [ONE | {"qas": [QAS[0] | {"id": 12}]}]}]},
    "haystack's annotation tool": {"data": [{"paragraphs": [ONE | {"document_id": 3, "qas": [QAS[0] | {"id": 9}]}]}]},
    "KorQuAD 1": {"version": "KorQuAD_v1.0_dev", "data": [{"paragraphs": PARAGRAPHS, "title": "t"}]},
    "MLQA": {"version": 1.0, "data": [{"title": "t", "paragraphs": PARAGRAPHS}]},
    "XQuAD": {"data": [{"paragraphs": PARAGRAPHS}], "version": "1.1"},
}


@pytest.mark.parametrize("name", SQUAD_ALREADY)
def test_what_is_squad_already_is_read_as_it_is(tmp_path, name):
    file = write(tmp_path, SQUAD_ALREADY[name])
    (example,) = read_squad(file, training=True)
    assert example.answers[0].text == "1871" and convert(file) == ("", SQUAD_ALREADY[name], [])


NO_NAMES = "line 1: expected the names of the columns, such as id, .*; found '"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"PAR1\x15\x04", r"is Parquet, .*pandas.read_parquet\(.*lines=True.*input.json.*minibert check --data"),
        (b"ARROW1\0\0\xff", r"is Feather, .*pandas.read_feather\(.*lines=True.*input.json.*minibert check --data"),
        (
            b"\xff\xff\xff\xff\x10\0\0\0",
            r"is Arrow, .*import datasets, sys; datasets.Dataset.from_file\(sys.argv\[1\]\).to_json\(sys.argv\[2\], .*"
            r"lines=True\)\" \S*input.json \S*input.json.jsonl` and then `minibert check --data \S*.jsonl --fix",
        ),
        (b"PK\x03\x04\x14\0 xl/workbook.xml", r"an Excel sheet \(XLSX\), .*pandas.read_excel"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", r"an Excel sheet \(XLS\), .*pandas.read_excel"),
        (b"PK\x03\x04\x14\0 train.json", "zip archive; unzip"),
        (b'{"context": "x", "question": "y"}\n{"a": 1,}\n', "JSON lines|Extra data|Expecting"),
        (b"a,When?,Made in 1871.,1871\nx,y,z,z\n", f"{NO_NAMES}a,When"),
        (b"id|question|context|answer\nx|y|z|z\n", rf"{NO_NAMES}id\|question\|"),
        (b"question,answer\nx,y\n", f"{NO_NAMES}question,answer'"),
        (b"\n", f"{NO_NAMES}'"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 1\n", r"input.csv: is a git-LFS pointer, .*`git lfs pull`"),
        (b"\n<!DOCTYPE html>\n<html>, context, question\n", r"input.csv: looks like HTML .*download the raw file"),
    ],
)
def test_what_cannot_be_converted_is_named(tmp_path, raw, says):
    is_table = says.startswith((NO_NAMES, "input.csv"))
    file = write(tmp_path, raw, "input.csv" if is_table else "input.json")
    for read in (read_squad, convert):
        with pytest.raises(BadInput, match=says):
            read(file)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (
            b"question,context\nWho?,a\nWho?,Anna, in 1871\n",
            "after line 2 .* 3 fields, .* first row has 2; .*in quotes",
        ),
        (b'question\tcontext\nWho?\t"Heroes" is a song\n', "the row after line 1 .*quotes are doubled"),
        (b'question,context\nWho?,"Anna\nWho?,Bea\n', "the row after line 1 .*quotes are doubled"),
        (b"question,context,answer,answer\nWho?,Anna,Anna,A\n", "two of its columns are called 'answer'"),
        (b'{"question": ["a", "b"], "context": ["c", "d"], "tags": []}', "columns differ in length: .*'tags': 0"),
    ],
)
def test_what_would_lose_a_part_is_not_converted(tmp_path, raw, says):
    with pytest.raises(BadInput, match=says):
        convert(write(tmp_path, raw))


NAMED = {"qid": "x", "start": "1 May", "Question": "Who?", "context": "Anna, in 1871", "document": "a.pdf", "id": "a"}


@pytest.mark.parametrize("content", [[NAMED], table([], columns=list(NAMED)) + table([], columns=NAMED.values())])
def test_a_column_with_another_name_gives_way_to_one_with_its_own(tmp_path, content):
    _, ((id_, _, question, context, *_),) = examples_of(write(tmp_path, content))
    assert (id_, question, context) == ("a", "Who?", "Anna, in 1871")


@pytest.mark.parametrize(
    ("fields", "says"), [('"x": 1e999', "1e999 is not a JSON value"), ('"id": "b", "id": "c"', "'id' appears twice")]
)
def test_each_of_several_json_lines_is_read_as_strictly_as_a_file(tmp_path, fields, says):
    file = write(tmp_path, '{"context": "x", "question": "y"}\n{"context": "x", "question": "z", ' + fields + "}\n")
    with pytest.raises(BadInput, match=rf"line 2: is not JSON: .*{says}"):
        convert(file)


@pytest.mark.parametrize("raw", ["context,question\nx,y\n", b"PAR1"], ids=["CSV", "Parquet"])
@pytest.mark.parametrize("stem", ["rows", "rows {1}{", 'it\'s "my" $HOME & `rows`'])
def test_the_command_that_converts_can_be_pasted_whatever_the_name(tmp_path, raw, stem):
    file = write(tmp_path, raw, f"{stem}.csv")
    with pytest.raises(BadInput) as caught:
        read_squad(file)
    command = caught.value.what.partition("convert it with `")[2].removesuffix("`")
    source = file
    if raw == b"PAR1":
        first, command = command.split("` and then `")
        python, option, program, *files = shlex.split(first)
        source = f"{file}.jsonl"
        assert (python, option, files) == ("python", "-c", [str(file), source])
        assert compile(program, "", "exec") and not set('"$`\\!') & set(program)  # as it is in double quotes
    expected = ["minibert", "check", "--data", str(source), "--fix", f"{tmp_path / stem}.squad.json"]
    assert shlex.split(command) == expected


def test_nan_is_refused_with_its_line_and_read_as_null_by_the_converter(tmp_path):
    file = write(tmp_path, '{"data": [\n"NaN is text",\n{"x": NaN,\n"y": [-Infinity, 1]}]}')
    with pytest.raises(BadInput, match="NaN is not a JSON value") as caught:
        read_squad(file)
    assert caught.value.where == "line 3"
    assert convert(file) == ("", {"data": ["NaN is text", {"x": None, "y": [None, 1]}]}, ["line 3", "line 4"])
    table = write(tmp_path, lines(HF[:2]).replace('"title": "Basel"', '"title": NaN', 1))
    assert convert(table)[2] == ["line 1"]


@pytest.mark.parametrize(
    "content",
    [
        '{"data": [NaN, {]}',
        '{"x": NaN, "y": ' + "[" * 9000,
        '{"x": 1e999}',
        '{"x": NaN, "a": 1, "a": 2}',
        "{,\r}",
        "a\rb",
    ],
)
def test_what_is_neither_json_nor_a_table_is_refused(tmp_path, content):
    with pytest.raises(BadInput):
        convert(write(tmp_path, content))


@pytest.mark.parametrize("name", ["split.json", "split.csv"])
@pytest.mark.parametrize("before", ["", "\ufeff", " \r\n"], ids=ascii)
def test_json_on_one_line_is_not_a_table_even_if_it_lists_columns(tmp_path, name, before):
    """pandas' to_json(orient="split")."""
    split = {"columns": ["id", "context", "question", "answer"], "index": [0], "data": [["a", "x y", "When?", "x"]]}
    file = write(tmp_path, before + json.dumps(split, separators=(",", ":")), name)
    assert convert(file) == ("", split, [])
    with pytest.raises(BadInput, match=r"expected a list, but it is missing; found .*docs/guide\.md") as caught:
        read_squad(file)
    assert caught.value.where == "data[0].paragraphs"


def test_a_bad_line_of_json_lines_is_named(tmp_path):
    with pytest.raises(BadInput, match="is not JSON") as caught:
        convert(write(tmp_path, lines(HF) + '{"id": \n'))
    assert caught.value.where == "line 5"


NAMES = ["id", "data", "context", "text", "question", "query", "document", "answers", "answer", "label", "annotations"]
NAMES += ["result", "value", "start", "answer_start", "content", "offsets_in_document", "entities", "annotation_id"]
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from(["", "a b", "{'text': ['a']}", "{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@example([{"text": "a", "question": "b", "label": 3}])
@example([{"data": {}, "annotations": [{"result": [None]}]}])
@example([HF[0], None, 3])
@given(TREES | st.lists(st.dictionaries(st.sampled_from(NAMES), TREES, min_size=4), min_size=1, max_size=3))
def test_any_json_is_converted_or_refused(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("any")
    for content in (tree, lines(tree) if isinstance(tree, list) else tree):
        file = write(folder, content)
        try:
            _, top, _ = convert(file)
            check_top(file, top)
        except BadInput as error:
            assert error.what
            continue
        check_records(top, True, False, False, Counter())
