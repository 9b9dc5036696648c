"""SQuAD JSON -> `Example`s: a question, its context, and the answers as slices of the context.

The file is nested: articles with paragraphs, a paragraph with its context and its questions (`qas`):

    {"data": [{"title": .., "paragraphs": [{"context": "Made in 1871.", "qas": [
        {"id": "q1", "question": "When?", "answers": [{"text": "1871", "answer_start": 8}]}]}]}]}

SQuAD v2.0 adds `is_impossible`: true for a question that its context does not answer. Every record is checked here, so
that no later file has to. In: file names. Out: a list of `Example`s, or BadInput that names file, place and fault.
Next: `tokenizer.py`.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from minibert.support.errors import BadInput
from minibert.support.files import read_json

NO_ANSWERS = "no answers, and not marked is_impossible; --version_2_with_negative takes it as unanswerable"
MOST_CHARACTERS = 10_000_000  # of one text; a book has a million


class Gold(NamedTuple):
    """One accepted answer: context[start : start + len(text)] == text."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Example:
    """One question about one context. `is_impossible` is None where the file (v1.1) has no such key."""

    id: str
    title: str
    question: str
    context: str
    answers: tuple[Gold, ...] = ()
    is_impossible: bool | None = None


def read_squad(
    files: str | Path | Iterable[str | Path],
    training: bool = False,
    skip_bad_records: bool = False,
    version_2_with_negative: bool = False,
) -> list[Example]:
    """Read the questions of one file or several, in order.

    In training, and in a file that has any answer, a question must have an answer or be marked `is_impossible`; a file
    without a single answer (a test set) can be read for prediction. With `version_2_with_negative` a question without
    answers is unanswerable and needs no mark. Ids must be unique over all files. Raises BadInput
    with the first bad record and the number of others, or, with `skip_bad_records`, drops and counts them.
    """
    examples: list[Example] = []
    first_use: dict[str, str] = {}  # id -> file and place
    for file in [files] if isinstance(files, (str, Path)) else files:
        records: list[tuple[str, Example]] = []
        faults: list[tuple[str, str]] = []
        for place, record in read_records(file):
            if isinstance(record, Example) and record.id in first_use:
                record = f"the id was used before, at {first_use[record.id]}"
            if isinstance(record, str):
                faults.append((place, record))
            else:
                first_use[record.id] = f"{file}: {place}"
                records.append((place, record))
        if not version_2_with_negative and (training or any(example.answers for _, example in records)):
            open_places = [place for place, example in records if not (example.answers or example.is_impossible)]
            faults += [(place, NO_ANSWERS) for place in open_places]
            records = [record for record in records if record[1].answers or record[1].is_impossible]
        if faults and skip_bad_records:
            print(f"{file}: dropped {len(faults)} bad records, the first at {': '.join(faults[0])}", file=sys.stderr)
        elif faults:
            (place, fault), *others = faults
            if others:
                places = ", ".join(place for place, _ in others[:4]) + ", .." * (len(others) > 4)
                fault += f" ({len(others)} more bad: {places})"
            raise BadInput(file, place, fault)
        if not records:
            raise BadInput(file, "data", "0 questions")
        examples += [example for _, example in records]
    return examples


def is_version_2(examples: Iterable[Example]) -> bool:
    """Whether the v2.0 rules hold: some question is marked as unanswerable. A key that is false everywhere is v1.1."""
    return any(example.is_impossible for example in examples)


def read_records(file: str | Path) -> Iterator[tuple[str, Example | str]]:
    """Yield the place of each question in the file, and its Example or, as text, what is wrong with it.

    Raises BadInput for a fault of the file itself rather than of one question.
    """
    top = read_json(file)
    if isinstance(top, dict) and "data" not in top and all(isinstance(value, str) for value in top.values()):
        raise BadInput(file, "", "looks like a predictions file; expected SQuAD data {'data': [..]}")
    for a, article in enumerate(member(file, "", top, "data", list)):
        article_place = f"data[{a}]"
        if isinstance(article, dict) and "context" in article and "paragraphs" not in article:
            raise BadInput(file, article_place, "flat rows, not SQuAD; expected {'paragraphs': [..]}")
        paragraphs = member(file, article_place, article, "paragraphs", list)
        title = str(article.get("title", ""))
        for p, paragraph in enumerate(paragraphs):
            place = f"{article_place}.paragraphs[{p}]"
            context = member(file, place, paragraph, "context", str)
            context_fault = text_fault(context, may_be_blank=True)
            for q, record in enumerate(member(file, place, paragraph, "qas", list)):
                try:
                    if context_fault:
                        raise ValueError(f"context {context_fault}")
                    example = to_example(record, title, context)
                    yield f"{place}.qas[{q}] (id={example.id})", example
                except ValueError as fault:
                    name = record.get("id") if isinstance(record, dict) else None
                    yield f"{place}.qas[{q}] (id={name!r})", str(fault)


def member(file: str | Path, place: str, parent: Any, key: str, kind: type) -> Any:
    """parent[key], which must be of this kind; BadInput names the place otherwise."""
    value = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(value, kind):
        found = "but it is missing" if value is None else f"found a {type(value).__name__}"
        expected = "a list" if kind is list else "a string"
        raise BadInput(file, f"{place}.{key}".lstrip("."), f"expected {expected}, {found}")
    return value


def to_example(record: Any, title: str, context: str) -> Example:
    """Check one question's record and build its Example; ValueError says what is wrong with it."""
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found a {type(record).__name__}")
    for key in ("id", "question"):
        if fault := text_fault(record.get(key)):
            raise ValueError(f"{key} {fault}")
    is_impossible = record.get("is_impossible")
    if "is_impossible" in record and not isinstance(is_impossible, bool):
        raise ValueError(f"is_impossible must be true or false, found {is_impossible!r}")
    answers = record.get("answers")
    if isinstance(answers, dict):
        raise ValueError("answers is one object of lists; expected a list of {'text', 'answer_start'}")
    if not isinstance(answers, (list, type(None))):
        raise ValueError(f"answers must be a list, found {answers!r}")
    golds = tuple(to_gold(answer, context) for answer in answers or ())
    if is_impossible and golds:
        raise ValueError("is_impossible is true, but there are answers; remove one of them")
    return Example(record["id"], title, record["question"], context, golds, is_impossible)


def text_fault(text: Any, may_be_blank: bool = False) -> str | None:
    """What makes a value unusable as text: type, length, a lone surrogate, nothing visible. None if it is usable."""
    if not isinstance(text, str):
        return f"must be a string, found {text!r}"
    if len(text) > MOST_CHARACTERS:
        return f"has {len(text)} characters; at most {MOST_CHARACTERS} are allowed"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half of a surrogate pair, which is not a character; check the file's encoding"
    if not may_be_blank and not any(character.isprintable() and not character.isspace() for character in text):
        return f"must be a string with a visible character, found {text!r}"
    return None


def to_gold(answer: Any, context: str) -> Gold:
    """Check that the context has the answer's text at its offset. A wrong offset is an error and never corrected."""
    text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"an answer's text must be a string that is not blank, found {text!r}")
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise ValueError(f"answer_start must be a character offset, found {start!r}")
    if context[start : start + len(text)] != text:
        raise ValueError(explain_offset(text, start, context))
    return Gold(text, start)


def explain_offset(text: str, start: int, context: str) -> str:
    """Say why an answer may not be at its offset: counted in another unit, shifted, or nowhere in the context."""
    message = f"the answer {text!r} is not at answer_start {start}"
    if start < len(context):
        message += f", where the context has {context[start : start + len(text)]!r}"
    else:
        message += f": the context has only {len(context)} characters"
    matches = [match.start() for match in islice(re.finditer(re.escape(text), context), 10)]
    if not matches:
        return f"{message}; the text is nowhere in the context"
    for i in matches:
        before = context[:i]
        line_ends = before.count("\n")
        for unit, counts in (
            ("bytes", [len(before.encode())]),
            ("UTF-16 units", [len(before.encode("utf-16-le")) // 2]),
            ("characters of a text with other line ends", [i - line_ends, i + line_ends]),
        ):
            if start in counts:
                return f"{message}; offsets look like {unit}, expected characters (here {i})"
    return f"{message}; the nearest one is at {min(matches, key=lambda i: abs(i - start))}"
