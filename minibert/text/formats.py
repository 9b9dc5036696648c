"""Which other tool's question answering data a file holds, told by its shape, and the command that converts it.

Hugging Face rows, columns, CSV and TSV tables, JSON lines, and the exports of haystack, Label Studio and doccano. What
simpletransformers and cdQA write, KorQuAD 1, MLQA and XQuAD are SQuAD already. In: a file, or its parsed JSON. Out: the
format's name, "" for SQuAD. `convert.py` converts.
"""

import csv
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minibert.support.errors import BadInput
from minibert.support.files import decode, read_bytes
from minibert.text.offsets import short

ARROW = "datasets.Dataset.from_file"
# Formats that only other libraries read: first bytes, bytes that stand further on, name, and the function that reads.
BINARY = (
    (b"PAR1", b"", "Parquet", "pandas.read_parquet"),
    (b"ARROW1\0\0", b"", "Feather", "pandas.read_feather"),
    (b"\xff\xff\xff\xff", b"", "Arrow, as Hugging Face datasets saves it", ARROW),
    (b"PK\x03\x04", b"xl/", "an Excel sheet (XLSX)", "pandas.read_excel"),  # without the folder `xl`, any zip archive
    (b"\xd0\xcf\x11\xe0", b"", "an Excel sheet (XLS)", "pandas.read_excel"),
)
LINES, TABLE, ROWS, COLUMNS = "JSON lines", "a CSV or TSV table", "flat rows, as of Hugging Face datasets", "columns"
LABEL_STUDIO, DOCCANO, HAYSTACK = "a Label Studio export", "a doccano export", "haystack labels"
# What tables call a column -> its name here.
OTHER_NAMES = {"passage": "context", "paragraph": "context", "document": "context", "query": "question"}
OTHER_NAMES |= {"question_id": "id", "qid": "id", "answer_text": "answer", "start": "answer_start"}
OTHER_NAMES |= {"no_answer": "is_impossible"}  # haystack's mark, in rows whose document and answer are texts
MOST_IN_A_HEADER = 10_000  # characters of the line that names a table's columns


def format_of_file(file: str | os.PathLike) -> str:
    """The name of a format that is not one JSON value, told by the file's first bytes; "" for all others."""
    raw = read_bytes(file)
    for start, further_on, name, _ in BINARY:
        if raw.startswith(start) and further_on in raw:
            return name
    try:
        text = decode(file, raw).lstrip()
    except BadInput:
        return ""
    if re.match(r"{[^\n]*}[ \t\r]*\n\s*{", text):  # one JSON value would have a comma or more between the two
        return LINES
    if text.startswith(("{", "[")):  # JSON, though its line may hold the names of columns and commas like a table's
        return ""
    if {"context", "question"} <= set(header(text)[0]):
        return TABLE
    if Path(file).suffix.lower() in (".csv", ".tsv") and not text.startswith("<"):  # which `read_json` names
        what = "expected the names of the columns, such as id, question, context, answer, with , ; or tab between them"
        raise BadInput(file, "line 1", f"{what}; found {short(text[:MOST_IN_A_HEADER].partition(chr(10))[0])}")
    return ""


def format_of_json(top: Any) -> str:
    """The name of the format of parsed JSON; "" for SQuAD and for everything else."""
    rows = rows_of(top)
    if isinstance(rows, dict):
        is_table = isinstance(rows.get("context"), (list, dict)) and "question" in rows
        return COLUMNS if is_table else rows_format([rows])
    return rows_format([row for row in rows if isinstance(row, dict)]) if isinstance(rows, list) else ""


def rows_of(top: Any) -> Any:
    """The rows, or the columns, of parsed JSON: under "data" or at the top.

    One task of Label Studio is itself a row: its `data` are the columns, and its annotations stand beside them.
    """
    if not isinstance(top, dict):
        return top
    is_task = isinstance(top.get("data"), dict) and ("annotations" in top or "completions" in top)
    return top if is_task else top.get("data", top)


def rows_format(rows: list[dict[str, Any]]) -> str:
    """What a list of such rows is. All of them count: the first may be one without an answer."""
    keys = dict.fromkeys(key for row in rows for key in row)
    if "paragraphs" in keys or "qas" in keys:
        return ""
    answers = [row.get("answer") for row in rows]
    if "document" in keys and "query" in keys and "answers" not in keys:
        objects = [(row.get("document"), "content") for row in rows] + [(answer, "answer") for answer in answers]
        if any(isinstance(value, dict) and key in value for value, key in objects):
            return HAYSTACK
    if ("annotations" in keys or "completions" in keys) and any(isinstance(row.get("data"), dict) for row in rows):
        return LABEL_STUDIO
    is_flat = "answers" in keys or any(answer not in (None, [], {}) for answer in answers)
    if "text" in keys and not is_flat and {"label", "labels", "entities", "annotations"} & keys.keys():
        return DOCCANO
    names = set(column_names(keys))
    has_text = "text" in keys or ("context" in names and has_spans(rows))
    if "annotation_id" in keys and "question" in names and has_text:
        return LABEL_STUDIO  # its short form, JSON-MIN
    return ROWS if {"context", "question"} <= names else ""


def has_spans(rows: list[dict[str, Any]]) -> bool:
    """Whether a row has a column with a list of marked spans."""
    lists = [value for row in rows for value in row.values() if isinstance(value, list)]
    return any(isinstance(span, dict) and "start" in span for spans in lists for span in spans)


def column_names(names: Iterable[str]) -> list[str]:
    """Columns as they are called here: spreadsheets write "Answer start". Where two would get one name, the first does.

    A column with SQuAD's own name counts as the first: beside `context`, `document` may be the name of a file.
    """
    written = [name.strip().lower().replace(" ", "_") for name in names]
    called = list[str]()
    for name in written:
        ours = OTHER_NAMES.get(name, name)
        called.append(ours if ours == name or ours not in (*written, *called) else name)
    return called


def refuse_format(file: str | os.PathLike, name: str) -> None:
    """BadInput, with the command that converts the file, if the name is that of another format."""
    if not name:
        return
    first, source = "", shlex.quote(str(file))
    if function := {name: function for _, _, name, function in BINARY}.get(name):
        lines, library = shlex.quote(f"{file}.jsonl"), function.partition(".")[0]
        if function == ARROW and (Path(file).parent / "state.json").is_file():  # one of several parts
            function, source = "datasets.load_from_disk", shlex.quote(str(Path(file).parent))
        code = f"import {library}, sys; {function}(sys.argv[1]).to_json(sys.argv[2], orient='records', lines=True)"
        first, source = f'`python -c "{code}" {source} {lines}` and then ', lines
    copy = shlex.quote(f"{Path(file).with_suffix('')}.squad.json")
    command = f"{first}`minibert check --data {source} --fix {copy}`"
    raise BadInput(file, "", f"is {name}, not SQuAD; convert it with {command}")


def header(text: str) -> tuple[list[str], str]:
    """The columns that a table's first line names, as they are called here, and the character between them."""
    line = re.split("[\r\n]", text.lstrip("\r\n")[:MOST_IN_A_HEADER], maxsplit=1)[0].replace("\0", "")
    delimiter = max(",\t;", key=line.count)
    return column_names(next(csv.reader([line], delimiter=delimiter), [])), delimiter
