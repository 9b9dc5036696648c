"""SQuAD JSON, v1.1 and v2.0 -> a list of `Example`s, with every fault named by its place.

    {"data": [{"title": .., "paragraphs": [{"context": .., "qas": [
        {"id": .., "question": .., "answers": [{"text": .., "answer_start": 17}], "is_impossible": false}]}]}]}

Text is never edited: `answer_start` counts Python characters of the untouched context. Next: `metrics.py`.
"""

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from minibert.errors import BadInput

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
    files: str | Path | Iterable[str | Path], training: bool = False, skip_bad_records: bool = False
) -> list[Example]:
    """Read one file or several, in order. Training needs an answer to every question that has one.

    A file without a single answer (a test set) is read for prediction. Raises BadInput naming the first bad record and
    the number of others, or, with `skip_bad_records`, drops and counts them; ids must be unique over all the files.
    """
    files = [files] if isinstance(files, (str, Path)) else list(files)
    examples, seen = [], {}
    for file in files:
        faults, first = [], len(examples)
        for place, example, fault in read_records(file):
            if fault is None and example.id in seen:
                fault = f"the id was used before, at {seen[example.id]}"
            if fault:
                faults.append((place, fault))
            else:
                seen[example.id] = f"{file}: {place}"
                examples.append((place, example))
        if training or any(example.answers for _, example in examples[first:]):
            is_answered = [bool(example.answers or example.is_impossible) for _, example in examples[first:]]
            rows = list(zip(examples[first:], is_answered))
            faults += [(row[0], "no answers, and not marked is_impossible") for row, is_good in rows if not is_good]
            examples[first:] = [row for row, is_good in rows if is_good]
        if faults and not skip_bad_records:
            others = ", ".join(place for place, _ in faults[1:5])
            more = f" ({len(faults) - 1} more bad: {others}{', ..' * (len(faults) > 5)})" if others else ""
            raise BadInput(file, faults[0][0], faults[0][1] + more)
        if faults:
            print(f"{file}: dropped {len(faults)} bad records, the first at {': '.join(faults[0])}", file=sys.stderr)
        if len(examples) == first:
            raise BadInput(file, "data", "0 questions")
    return [example for _, example in examples]


def is_version_2(examples: Iterable[Example]) -> bool:
    """A file is v2.0 if any question says whether it is impossible; the v2.0 rules then hold for all."""
    return any(example.is_impossible is not None for example in examples)


def read_records(file: str | Path) -> Iterator[tuple[str, Example | None, str | None]]:
    """Yield (place, example, fault) for each question; exactly one of example and fault is None.

    Raises BadInput for a fault of the file itself rather than of one question.
    """
    top = read_json(file)
    if isinstance(top, dict) and "data" not in top and all(isinstance(v, str) for v in top.values()):
        raise BadInput(file, "", "looks like a predictions file, not like SQuAD data {'data': [..]}")
    for a, article in enumerate(member(file, "", top, "data", list)):
        article_place = f"data[{a}]"
        if isinstance(article, dict) and "context" in article and "paragraphs" not in article:
            raise BadInput(file, article_place, "flat rows, not SQuAD: expected {'paragraphs': [..]}")
        paragraphs = member(file, article_place, article, "paragraphs", list)
        title = article.get("title", "")
        for p, paragraph in enumerate(paragraphs):
            place = f"{article_place}.paragraphs[{p}]"
            context = member(file, place, paragraph, "context", str)
            for q, record in enumerate(member(file, place, paragraph, "qas", list)):
                try:
                    example = to_example(record, str(title), context)
                    yield f"{place}.qas[{q}] (id={example.id})", example, None
                except ValueError as fault:
                    name = record.get("id") if isinstance(record, dict) else None
                    yield f"{place}.qas[{q}] (id={name!r})", None, str(fault)


def member(file, place: str, parent, key: str, kind: type):
    """parent[key], which must be of the given kind; BadInput names the place where it is not."""
    value = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(value, kind):
        found = "missing" if value is None else f"a {type(value).__name__}"
        wanted = {list: "a list", str: "a string"}[kind]
        raise BadInput(file, f"{place}.{key}".lstrip("."), f"expected {wanted}, but it is {found}")
    return value


def to_example(record, title: str, context: str) -> Example:
    """Check one question's record and build its Example; ValueError says what is wrong with it."""
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, but it is a {type(record).__name__}")
    for key in ("id", "question"):
        if fault := text_fault(record.get(key)):
            raise ValueError(f"{key} {fault}")
    if fault := text_fault(context, may_be_blank=True):
        raise ValueError(f"context {fault}")
    is_impossible = record.get("is_impossible")
    if "is_impossible" in record and not isinstance(is_impossible, bool):
        raise ValueError(f"is_impossible must be true or false, not {is_impossible!r}")
    answers = record.get("answers")
    if isinstance(answers, dict):
        raise ValueError("answers is one object of lists; SQuAD has a list of {'text', 'answer_start'}")
    if not isinstance(answers, (list, type(None))):
        raise ValueError(f"answers must be a list, not {answers!r}")
    golds = tuple(to_gold(answer, context) for answer in answers or ())
    if is_impossible and golds:
        raise ValueError("is_impossible is true, yet there are answers")
    return Example(record["id"], title, record["question"], context, golds, is_impossible)


def text_fault(text, may_be_blank: bool = False) -> str | None:
    """What makes a value no usable text, or None: no string, too long, half a surrogate pair, or nothing that shows."""
    if not isinstance(text, str):
        return f"must be a string, not {text!r}"
    if len(text) > MOST_CHARACTERS:
        return f"has {len(text)} characters, more than {MOST_CHARACTERS}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is not a character"
    if not may_be_blank and not any(character.isprintable() and not character.isspace() for character in text):
        return f"must be a string that is not blank, not {text!r}"
    return None


def to_gold(answer, context: str) -> Gold:
    """Check that an answer stands where it says; it is never moved."""
    text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"an answer's text must be a string that is not blank, not {text!r}")
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise ValueError(f"answer_start must be a place in the context, not {start!r}")
    if context[start : start + len(text)] != text:
        raise ValueError(explain_offset(text, start, context))
    return Gold(text, start)


def explain_offset(text: str, start: int, context: str) -> str:
    """Why an answer may not stand at its offset: counted in other units, shifted, or simply not there."""
    found = context[start : start + len(text)]
    past = f", and the context has only {len(context)} characters" if start >= len(context) else ""
    message = f"the answer {text!r} is not at answer_start {start}, where {found!r} stands{past}"
    places = list(islice((match.start() for match in re.finditer(re.escape(text), context)), 10))
    for i in places:
        before = context[:i]
        if len(before.encode("utf-8")) == start:
            return f"{message}; offsets look like bytes, but they count characters (here {i})"
        if len(before.encode("utf-16-le")) // 2 == start:
            return f"{message}; offsets look like UTF-16 units, but they count characters (here {i})"
        if before.count("\n") and abs(i - start) == before.count("\n"):
            return f"{message}; offsets look as if line ends had another length (here {i})"
    if not places:
        return f"{message}; it is nowhere in the context"
    return f"{message}; the nearest one is at {min(places, key=lambda i: abs(i - start))}"


def read_json(file: str | Path):
    """Parse a UTF-8 JSON file (a byte order mark is allowed); BadInput says what else it seems to be.

    Stricter than `json`: a key twice in one object, NaN and Infinity are errors.
    """
    path = Path(file)
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise BadInput(file, "", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    for start, what in (
        (b"version https://git-lfs", "is a git-LFS pointer, not the file; run `git lfs pull`"),
        (b"<", "looks like HTML or XML, not JSON; download the raw file"),
        (b"\x1f\x8b", "is compressed; gunzip it first"),
        (b"PK\x03\x04", "is a zip archive; unzip it first"),
    ):
        if raw.lstrip()[: len(start)] == start:
            raise BadInput(file, "", what)
    if not raw.strip():
        raise BadInput(file, "", "the file is empty")
    try:
        text = raw.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=refuse, parse_float=finite)
    except UnicodeDecodeError as error:
        raise BadInput(file, f"byte {error.start}", "is not UTF-8; convert the file") from error
    except json.JSONDecodeError as error:
        hint = "; JSON lines? expected one JSON object" if error.msg == "Extra data" else ""
        raise BadInput(file, f"line {error.lineno} column {error.colno}", error.msg + hint) from error
    except RecursionError as error:
        raise BadInput(file, "", "nested too deeply") from error
    except ValueError as error:
        raise BadInput(file, "", str(error)) from error


def unique_keys(pairs: list[tuple]) -> dict:
    """The object of these pairs; `json` alone would silently keep the last of two equal keys."""
    result = dict(pairs)
    if len(result) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {key!r} stands twice in one object")
    return result


def refuse(constant: str):
    """NaN and Infinity are no JSON."""
    raise ValueError(f"{constant} is not a JSON value")


def finite(number: str) -> float:
    """The number, unless it is so large that it would become infinite."""
    return float(number) if math.isfinite(float(number)) else refuse(number)
