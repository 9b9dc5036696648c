"""Question answering data of other tools -> SQuAD's nesting, one plain function for each format.

Nothing is checked here beyond the shape: the result goes through `squad.py` like any file. In: a file of a format that
`formats.py` names. Out: {"data": [..]}, or BadInput.
"""

import ast
import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable
from typing import Any

from minibert.support.errors import BadInput
from minibert.support.files import lines_of, parse_json, read_json, read_text
from minibert.text.formats import (
    COLUMNS,
    DOCCANO,
    HAYSTACK,
    LABEL_STUDIO,
    LINES,
    TABLE,
    column_names,
    format_of_file,
    format_of_json,
    header,
    refuse_format,
    rows_of,
)
from minibert.text.records import STARTS, answers_from_columns, answers_key, is_empty

ANSWERS = ("answer", "answers")
MOST_IN_A_FIELD = 20_000_000  # characters of a CSV field


def convert(file: str | os.PathLike) -> tuple[str, Any, list[str]]:
    """The name of a file's format, its content as SQuAD has it, and the lines of NaN, which is read as null.

    For SQuAD itself the name is "" and the content as it is.
    """
    if os.path.exists(file) and not os.path.isfile(file):  # a pipe can be read once, a file is read several times
        raise BadInput(file, "", "is not a regular file; save the data in one")
    name = format_of_file(file)
    if name == TABLE:
        try:
            return name, nest(table_rows(read_text(file))), []
        except (csv.Error, ValueError) as error:
            raise BadInput(file, "", f"looks like {name}, but {error}") from error
    if name == LINES:
        top, nan_lines = json_lines(file)
    else:
        refuse_format(file, name)
        words = list[str]()
        top = read_json(file, constant=words.append)  # which returns None: NaN is null
        nan_lines = list(lines_of(read_text(file), *set(words))) if words else []
    inner = format_of_json(top)
    if not inner:
        return name, top, nan_lines
    make = {LABEL_STUDIO: label_studio_row, DOCCANO: doccano_row, HAYSTACK: haystack_row}.get(inner)
    try:
        rows = column_rows(rows_of(top)) if inner == COLUMNS else rows_of(top)
        rows = [rows] if isinstance(rows, dict) else rows
        made = [record for row in rows if (record := make(row))] if make else plain_rows(rows)
    except (TypeError, AttributeError, LookupError, ValueError) as error:
        raise BadInput(file, "", f"looks like {inner}, but has another shape: {error}") from error
    called = f"{name}: {inner}" if name else inner
    if left_out := len(rows) - len(made):
        called += f" ({left_out} with is_correct_answer false left out)"
    return called, nest(made), nan_lines


def nest(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """SQuAD's nesting of rows {id, title, context, question, answers, ..}; rows of one context become a paragraph."""
    articles: dict[str, dict[Any, list]] = {}
    for row in rows:
        title, context = str(row.pop("title", None) or ""), row.pop("context", None)
        key = context if isinstance(context, str) else json.dumps([context])
        articles.setdefault(title, {}).setdefault(key, [context, []])[1].append(row)
    data = []
    for title, paragraphs in articles.items():
        data.append({"title": title, "paragraphs": [{"context": c, "qas": qas} for c, qas in paragraphs.values()]})
    return {"version": "1.1", "data": data}


def plain_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose columns have the names of SQuAD's keys, or common ones. An empty list of answers marks "no answer".

    In a test set it marks nothing: no row has an answer there. A mark that the file itself states is always kept.
    """
    made = [plain_row(row) for row in rows]
    is_test_set = not any(row["answers"] for row in made)
    for row in made:
        if row["answers"] == [] and row.get("is_impossible") is None and not is_test_set:
            row["is_impossible"] = True
        row["answers"] = row["answers"] or []
    return made


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    """One such row, with its answers as a list, or None if it has none and no list."""
    row = dict(zip(column_names(row), row.values()))
    for name in ("answers", "answer_start"):
        value = row.get(name)
        if isinstance(value, str) and value.startswith(("{", "[")):
            row[name] = literal(value)  # a list that a CSV file holds as text
            if row[name] is value and re.search(r"['\"]text['\"]: array\(", value):
                raise ValueError(
                    "it holds numpy arrays as text; export with .to_json(file, orient='records', lines=True)"
                )
    if "answers" in row and "answer" in row:
        row.pop("answer" if answers_key(row) == "answers" else "answers")
    if isinstance(row.get("answer"), (list, dict)):
        row["answers"] = row.pop("answer")
    answers = row.get("answers")
    if not isinstance(answers, (list, dict)):
        answer = {"text": row.pop("answer", answers), "answer_start": None} | pop_starts(row)
        return row | {"answers": None if answer["text"] in (None, "") else [answer]}
    if isinstance(answers, list) and all(isinstance(text, str) for text in answers):
        answers = {"text": answers} | pop_starts(row)
    if isinstance(answers, dict):
        with contextlib.suppress(ValueError):  # squad.py will say so
            answers = answers_from_columns(answers)
    return row | {"answers": answers}


def pop_starts(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that say where answers start, taken out of a row."""
    return {name: row.pop(name) for name in STARTS if name in row}


def literal(text: str) -> Any:
    """The value of a JSON or Python literal; the text itself if it is neither, or if JSON cannot hold the value.

    Python takes 1e999 for infinity, and bytes and sets are literals, too: none of them may reach the copy.
    """
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(text)
            json.dumps(value, allow_nan=False)
            return value
    except (ValueError, RecursionError):  # from a hook: JSON, but not as strict as a file has to be
        pass
    return text


def column_rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of {column: [values]} or, as pandas writes it, {column: {row: value}}."""
    lists = {name: list(v.values()) if isinstance(v, dict) else v for name, v in columns.items()}
    lists = {name: values for name, values in lists.items() if isinstance(values, list)}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns differ in length: {lengths}")
    return [dict(zip(lists, values)) for values in zip(*lists.values())]


def json_lines(file: str | os.PathLike) -> tuple[Any, list[str]]:
    """The objects of a file with one on each line, and the lines of NaN; BadInput for a bad line."""
    rows, nan_lines = [], []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        words = list[str]()
        if not line.strip():
            continue
        try:
            rows.append(parse_json(line, words.append))
        except (ValueError, RecursionError) as error:
            raise BadInput(file, f"line {number}", f"is not JSON: {error}") from error
        nan_lines += [f"line {number}"] * len(words)
    return rows, nan_lines


def table_rows(text: str) -> list[dict[str, Any]]:
    """The rows of a CSV or TSV table: id, question, context, answer, and perhaps the answer's start.

    Raises csv.Error for a quote that is not the table's own, and for a row with more fields than the first: a text that
    holds the delimiter and is not quoted would lose its end.
    """
    csv.field_size_limit(MOST_IN_A_FIELD)
    names, delimiter = header(text)
    if again := next((name for name in names if name and names.count(name) > 1), None):
        raise csv.Error(f"two of its columns are called {again!r}; rename one")
    reader = csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter, strict=True)
    rows, line = list[dict[str, str]](), 0
    try:
        for fields in filter(None, reader):
            if any(fields[len(names) :]):
                raise csv.Error(f"{len(fields)} fields, and the first row has {len(names)}")
            rows.append(dict(zip(names, fields)))
            line = reader.line_num
    except csv.Error as error:
        rule = f"texts with {delimiter!r} or quotes stand in quotes, and their own quotes are doubled"
        raise csv.Error(f"the row after line {line} has a fault: {error}; {rule}") from error
    rows = rows[1:]
    keys = ("context", "question")
    rows = [{name: row[name] for name in row if row[name] or name in keys} for row in rows]
    return plain_rows(dict.fromkeys(keys) | row for row in rows)


def label_studio_row(row: dict[str, Any]) -> dict[str, Any]:
    """A task of Label Studio: its text and question, and what annotators marked or typed. Both of its JSON exports."""
    task = row["data"] if isinstance(row.get("data"), dict) else row
    names = ("context", "text", "passage", "document")
    context = next((task[name] for name in names if isinstance(task.get(name), str)), None)
    if task is row:  # JSON-MIN: spans stand under the name of their labels
        marks = [one for name in ANSWERS for one in listed(row.get(name))]
        marks += spans_of([one for name in row if name not in ANSWERS for one in listed(row[name])])
    else:
        annotations = row.get("annotations") or row.get("completions") or []
        kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
        results = [result for annotation in kept for result in annotation.get("result") or []]
        marks = [one for result in results for one in listed(result.get("value")) if is_mark(one)]
        marks = spans_of(marks) or marks
    answers = [answer for one in marks for answer in to_answers(one, context)]
    return {"id": row.get("id"), "context": context, "question": task.get("question"), "answers": answers}


def doccano_row(row: dict[str, Any]) -> dict[str, Any]:
    """A text of doccano with its labelled spans or typed texts; the question is a column or a metadata field."""
    labels = [one for name in ("label", "labels", "entities", "annotations") for one in listed(row.get(name))]
    marks = [{"start": x[0], "end": x[1]} if isinstance(x, list) and len(x) > 1 else x for x in labels]
    marks = [{k.removesuffix("_offset"): v for k, v in x.items()} if isinstance(x, dict) else x for x in marks]
    meta = row.get("meta")
    question = row.get("question") or (meta.get("question") if isinstance(meta, dict) else None)
    answers = [answer for one in spans_of(marks) or marks for answer in to_answers(one, row["text"])]
    return {"id": row.get("id"), "context": row["text"], "question": question, "answers": answers}


def listed(value: Any) -> list[Any]:
    """A list as it is, one value as a list of one, and null or an empty value as none."""
    if isinstance(value, list):
        return value
    return [] if value in (None, "", {}) else [value]


def spans_of(marks: list[Any]) -> list[Any]:
    """The marked spans alone: beside a span, a typed text is a comment, and a word is the name of a category."""
    return [one for one in marks if isinstance(one, dict) and "start" in one]


def is_mark(value: Any) -> bool:
    """Whether a result of Label Studio may be an answer. A choice or a rating has neither a start nor a text."""
    return not isinstance(value, dict) or "start" in value or "text" in value


def to_answers(mark: Any, context: Any) -> list[Any]:
    """The answers of a marked span or of typed texts. Anything else stays, so that it is listed as a fault."""
    if isinstance(mark, dict) and mark.get("start") is None and "text" in mark:
        return answers_from_columns(mark)
    if isinstance(mark, dict):
        return [to_answer(mark, context)]
    return [{"text": mark} if isinstance(mark, str) else mark]


def to_answer(span: dict[str, Any], context: Any) -> dict[str, Any]:
    """An answer from a marked span; its text is the span's own, or else the characters that it covers."""
    start, end, text = span.get("start"), span.get("end"), span.get("text")
    if not isinstance(text, str) and isinstance(context, str):
        is_inside = type(start) is type(end) is int and 0 <= start < end <= len(context)
        text = context[start:end] if is_inside else {"start": start, "end": end}  # which no reader takes for a text
    return {"text": text, "answer_start": start}


def haystack_row(row: dict[str, Any]) -> dict[str, Any] | None:
    """A label of haystack 1: query, document, and an answer with its offset in the document.

    Its labels may be a user's feedback: None for an answer that is marked as wrong.
    """
    if row.get("is_correct_answer") is False:
        return None
    document, answer = row["document"], row.get("answer")
    context = document.get("content") if isinstance(document, dict) else document
    record = {"id": row.get("id"), "context": context, "question": row["query"], "answers": []}
    if isinstance(answer, dict) and "answer" in answer:
        offsets = answer.get("offsets_in_document") or [{}]
        start = offsets[0].get("start") if isinstance(offsets[0], dict) else None
        answer = {"text": answer["answer"], "answer_start": start}
    if not is_empty(answer):
        record["answers"] = listed(answer if isinstance(answer, (dict, list)) else {"text": answer})
    elif row.get("no_answer") or (isinstance(answer, dict) and answer.get("text") == ""):
        record["is_impossible"] = True
    return record
