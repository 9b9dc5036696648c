"""SQuAD JSON -> `Example`s: a question, its context, and the answers as slices of the context.

The file is nested: articles with paragraphs, a paragraph with its context and its questions (`qas`):

    {"data": [{"title": .., "paragraphs": [{"context": "Made in 1871.", "qas": [
        {"id": "q1", "question": "When?", "answers": [{"text": "1871", "answer_start": 8}]}]}]}]}

SQuAD v2.0 adds `is_impossible`: true for a question that its context does not answer. Every record is checked here, so
that no later file has to. What other programs write differently (numbers as ids, an empty answer for "none") is read
where its meaning is certain. In: file names. Out: a list of `Example`s, or BadInput that names file, place and fault.
Next: `repair.py`.
"""

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from minibert.support.errors import BadInput
from minibert.support.files import read_json
from minibert.text.formats import find_format, refuse_format
from minibert.text.offsets import Search, short

NO_ANSWERS = "no answers, and not marked is_impossible; --version_2_with_negative takes it as unanswerable"
MOST_CHARACTERS = 10_000_000  # of one text; a book has a million
MOST_FAULTS = 20  # shown; a file has the rest
MARKS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}

# What is read although it is not as SQuAD has it, and counted.
STRIPPED = "answers stand at answer_start only without their outer whitespace"
EMPTY = "answers of empty text are no answers"
LOCATED = "answers without an answer_start were found, each at the only place of its text"


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


class Fault(NamedTuple):
    """What makes one place of a file unusable."""

    file: str | Path
    place: str
    what: str


def read_squad(
    files: str | Path | Iterable[str | Path],
    training: bool = False,
    skip_bad_records: bool = False,
    version_2_with_negative: bool = False,
    needs_ids: bool = False,
) -> list[Example]:
    """Read the questions of one file or several, in order.

    In training, and in a file that has any answer, a question must have an answer or be marked `is_impossible`; a file
    without a single answer (a test set) can be read for prediction. With `version_2_with_negative` a question without
    answers is unanswerable and needs no mark. Ids must be unique within a file, except in training. A missing id is the
    question's place, unless `needs_ids`. Raises BadInput with the first fault after all have been listed on stderr, or,
    with `skip_bad_records`, drops and counts the bad records.
    """
    examples: list[Example] = []
    faults: list[Fault] = []
    for file in [files] if isinstance(files, (str, Path)) else files:
        taken: Counter[str] = Counter()
        good, bad = [], []
        top = read_top(file)
        for place, record in check_records(top, training, version_2_with_negative, needs_ids, taken):
            if isinstance(record, str):
                bad.append(Fault(file, place, record))
            else:
                good.append(record)
        if taken and os.environ.get("RANK", "0") == "0":
            counts = "; ".join(f"{what}: {count}" for what, count in taken.items())
            print(f"warning: {file}: {counts}", file=sys.stderr)
        if bad and skip_bad_records:
            first = f"{bad[0].place}, {bad[0].what}"
            print(f"{file}: dropped {len(bad)} bad records, the first at {first}", file=sys.stderr)
        else:
            faults += bad
        if not good and not faults:
            raise BadInput(file, "data", "0 questions")
        examples += good
    if faults:
        raise list_faults(faults)
    return examples


def is_version_2(examples: Iterable[Example]) -> bool:
    """Whether the v2.0 rules hold: some question is marked as unanswerable. A key that is false everywhere is v1.1."""
    return any(example.is_impossible for example in examples)


def list_faults(faults: list[Fault]) -> BadInput:
    """Print the faults on stderr, if there are several, and return the error that ends the command."""
    (file, place, what), *others = faults
    if others:
        print(
            *(f"warning: {line}" for line in shown([": ".join(map(str, fault)) for fault in faults])),
            file=sys.stderr,
            sep="\n",
        )
        fix = f"`minibert check --data {file} --fix OUT.json` repairs what is certain"
        what += f" (the first of {len(faults)} faults, listed above; {fix})"
    return BadInput(file, place, what)


def shown(lines: list[str]) -> list[str]:
    """The first lines for the terminal, control characters escaped; all of them go to a file if they are more."""
    lines = [line if line.isprintable() else escape(line) for line in lines]
    if len(lines) <= MOST_FAULTS:
        return lines
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".faults.txt", delete=False) as opened:
        opened.writelines(line + "\n" for line in lines)
    return [*lines[:MOST_FAULTS], f".. all {len(lines)} are in {opened.name}"]


def escape(text: str) -> str:
    """The text with control characters escaped: a file must not steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def read_top(file: str | Path) -> Any:
    """The JSON content of a SQuAD file; BadInput names another format and the command that converts it."""
    try:
        top = read_json(file)
    except BadInput as error:
        refuse_format(file, find_format(file))
        raise error
    refuse_format(file, find_format(file, top))
    check_top(file, top)
    return top


def check_top(file: str | Path, top: Any) -> None:
    """BadInput unless the content has a list of articles, or what `articles` takes for one."""
    if isinstance(top, dict) and top and "data" not in top and all(isinstance(value, str) for value in top.values()):
        raise BadInput(file, "", "looks like a predictions file; expected SQuAD data {'data': [..]}")
    if not isinstance(listed := articles(top)[1], list):
        raise BadInput(file, "data", f"expected a list, {found_instead(listed)}{keys_of(top)}")


def articles(top: Any) -> tuple[str, Any]:
    """The place and the list of articles: under "data", or what stands in its place if a tool left out a level."""
    if isinstance(top, list):
        return "", top
    if isinstance(top, dict) and "data" not in top and ("paragraphs" in top or "qas" in top):
        return "", [top]
    return "data", top.get("data") if isinstance(top, dict) else None


def walk(top: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (place, title, context, record) of every question; with a context of None, record says what is wrong."""
    above, listed = articles(top)
    for a, article in enumerate(listed):
        place = f"{above}[{a}]"
        is_paragraph = isinstance(article, dict) and "qas" in article and "paragraphs" not in article
        paragraphs = [article] if is_paragraph else article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            yield f"{place}.paragraphs", "", None, f"expected a list, {found_instead(paragraphs)}{keys_of(article)}"
            continue
        title = str(article.get("title", ""))
        for p, paragraph in enumerate(paragraphs):
            where = place if is_paragraph else f"{place}.paragraphs[{p}]"
            context, qas = (paragraph.get(key) if isinstance(paragraph, dict) else None for key in ("context", "qas"))
            if not isinstance(context, str):
                yield f"{where}.context", "", None, f"expected a string, {found_instead(context)}"
            elif not isinstance(qas, list):
                yield f"{where}.qas", "", None, f"expected a list, {found_instead(qas)}"
            else:
                for q, record in enumerate(qas):
                    yield f"{where}.qas[{q}]", title, context, record


def found_instead(value: Any) -> str:
    return "but it is missing" if value is None else f"found a {type(value).__name__}"


def keys_of(value: Any) -> str:
    """What stands where the right key does not, and where the formats are described."""
    found = f"the keys there are {short(list(value))}" if isinstance(value, dict) and value else f"found {short(value)}"
    return f"; {found}; docs/guide.md shows the formats that are read or converted"


def check_records(
    top: Any, training: bool, version_2_with_negative: bool, needs_ids: bool, taken: Counter[str]
) -> list[tuple[str, Example | str]]:
    """The place of each question, and its Example or, as text, what is wrong with it. In the order of the file.

    taken: counts what was read although it is not as SQuAD has it.
    """
    search, first_use = Search(), dict[str, str]()  # id -> place
    records: list[tuple[str, Example | str]] = []
    context_fault, last_context = None, None
    for place, title, context, record in walk(top):
        if context is None:
            records.append((place, record))
            continue
        if context is not last_context:
            context_fault, last_context = text_fault(context, may_be_blank=True), context
        try:
            if context_fault:
                raise ValueError(f"context {context_fault}")
            example = to_example(record, title, context, None if needs_ids else place, search, taken)
            if not training and first_use.setdefault(example.id, place) != place:
                where = first_use[example.id]
                raise ValueError(f"the id was used before, at {where}; to be scored, a file needs unique ids")
            records.append((place, example))
        except ValueError as fault:
            name = f" (id={short(record.get('id'))})" if isinstance(record, dict) else ""
            records.append((f"{place}{name}", str(fault)))
    if not version_2_with_negative and (training or any(getattr(record, "answers", ()) for _, record in records)):
        for i, (place, record) in enumerate(records):
            if isinstance(record, Example) and not record.answers and not record.is_impossible:
                records[i] = f"{place} (id={short(record.id)})", NO_ANSWERS
    return records


def to_example(
    record: Any, title: str, context: str, place: str | None, search: Search, taken: Counter[str]
) -> Example:
    """Check one question's record and build its Example; ValueError says what is wrong with it.

    place: stands for a missing id; None if an id is needed.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found a {type(record).__name__}")
    name = to_id(record.get("id"), place)
    question = record.get("question")
    for key, text in (("id", name), ("question", question)):
        if fault := text_fault(text):
            raise ValueError(f"{key} {fault}")
    is_impossible = to_mark(record.get("is_impossible"))
    golds = []
    for answer in answer_list(record):
        if (gold := to_gold(answer, context, search, taken)) is not None:
            golds.append(gold)
    if is_impossible and golds:
        raise ValueError("is_impossible is true, but there are answers; remove one of them")
    return Example(name, title, question, context, tuple(golds), is_impossible)  # type: ignore[arg-type]  # checked above


def to_id(value: Any, place: str | None) -> Any:
    """An id as a string: a number as Python writes it, and the place for one that is missing."""
    if value is None:
        return place
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def to_mark(value: Any) -> bool | None:
    """`is_impossible` as true, false or None; ValueError for a spelling that is none of them."""
    if value is None or isinstance(value, bool):
        return value
    mark = MARKS.get(str(value).strip().lower())
    if mark is None:
        raise ValueError(f"is_impossible must be true or false, found {short(value)}")
    return mark


def answer_list(record: dict[str, Any]) -> list[Any]:
    """The answers of a record as a list. One answer without a list and one object of lists are taken as such.

    So is the key `answer`, with `answer_start` beside it, where there are no `answers`.
    """
    answers = record.get("answers")
    if answers is None and "answers" not in record:
        answers = record.get("answer")
        if isinstance(answers, str):
            answers = {"text": answers, "answer_start": record.get("answer_start")}
    if isinstance(answers, dict):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not isinstance(texts, list):
            return [answers]
        starts = starts if isinstance(starts, list) else [None] * len(texts)
        if len(starts) != len(texts):
            raise ValueError(f"answers has {len(texts)} texts and {len(starts)} values of answer_start")
        return [{"text": text, "answer_start": start} for text, start in zip(texts, starts)]
    if not isinstance(answers, (list, type(None))):
        raise ValueError(f"answers must be a list, found {short(answers)}")
    return answers or []


def text_fault(text: Any, may_be_blank: bool = False) -> str | None:
    """What makes a value unusable as text: type, length, a lone surrogate, nothing visible. None if it is usable."""
    if not isinstance(text, str):
        return f"must be a string, found {short(text)}"
    if len(text) > MOST_CHARACTERS:
        return f"has {len(text)} characters; at most {MOST_CHARACTERS} are allowed"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half of a surrogate pair, which is not a character; check the file's encoding"
    if not may_be_blank and not any(character.isprintable() and not character.isspace() for character in text):
        return f"must be a string with a visible character, found {short(text)}"
    return None


def to_gold(answer: Any, context: str, search: Search, taken: Counter[str]) -> Gold | None:
    """The answer, if the context has its text at its offset; None for an empty text, ValueError for anything else.

    A wrong offset is an error and never corrected. Only outer whitespace may be elsewhere, and where the offset is
    missing (absent, null or -1), the text must stand in one place only.
    """
    text, start = answer if isinstance(answer, str) else ..., None
    if isinstance(answer, dict):
        text, start = answer.get("text", ...), answer.get("answer_start")
    if type(start) is int and start >= 0 and type(text) is str and context.startswith(text, start) and text.strip():
        return Gold(text, start)
    if text is None or (isinstance(text, str) and not text.strip()):
        taken[EMPTY] += 1
        return None
    text = str(text) if isinstance(text, int) and not isinstance(text, bool) else text
    if not isinstance(text, str):
        raise ValueError(f"an answer's text must be a string, found {short(answer if text is ... else text)}")
    start = to_start(start)
    if start is None:
        diagnosis = search.diagnose(text.strip(), None, context)
        if diagnosis.start is None:
            raise ValueError(diagnosis.what)
        taken[LOCATED] += 1
        return Gold(text.strip(), diagnosis.start)
    if context.startswith(text, start):
        return Gold(text, start)
    found = context[start : start + len(text)]
    stripped, stripped_start = text.strip(), start + len(found) - len(found.lstrip())
    if not context.startswith(stripped, stripped_start):
        raise ValueError(search.diagnose(text, start, context).what)
    taken[STRIPPED] += 1
    return Gold(stripped, stripped_start)


def to_start(value: Any) -> int | None:
    """An `answer_start` as an integer, from a number or digits; None if it is missing (absent, null, empty or -1)."""
    number = value
    if isinstance(value, str):
        is_number = re.fullmatch(r"-?[0-9]{1,15}(\.0*)?", value.strip())
        number = float(value) if is_number else None if not value.strip() else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if number is None or number == -1:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"answer_start must be a character offset, found {short(value)}")
    return number
