"""One question's record of a SQuAD file -> an `Example`, or what is wrong with the record.

Every record is checked here, so that no later file has to. What other programs write differently (numbers as ids, an
empty answer for "none") is read where its meaning is certain. In: parsed JSON and the context. Out: an `Example`, or a
ValueError.
"""

import contextlib
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from minibert.support.streams import counted
from minibert.text.offsets import Search, short

MOST_CHARACTERS = 10_000_000  # of one text; a book has a million
MARKS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}

# Non-standard input that is accepted and counted.
STRIPPED = "answers stand at answer_start only without their outer whitespace"
STARTS = ("answer_start", "start")  # where an answer starts; the second, as annotation tools call it
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


def to_example(
    record: Any, title: str, context: str, place: str | None, search: Search, taken: Counter[str]
) -> Example:
    """Check one question's record and build its Example; ValueError says what is wrong with it.

    place: stands for a missing id; None if an id is needed. taken: counts non-standard input that was accepted.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found a {type(record).__name__}")
    name, question = to_id(record.get("id"), place), record.get("question")
    for key, text in (("id", name), ("question", question)):
        if fault := text_fault(text):
            raise ValueError(f"{key} {fault}")
    is_impossible = to_mark(record.get("is_impossible"))
    found = [to_gold(answer, context, search, taken) for answer in answer_list(record, is_impossible)]
    golds = tuple(gold for gold in found if gold)
    if is_impossible and golds:
        raise ValueError("is_impossible is true, but there are answers; remove one of them")
    return Example(name, title, question, context, golds, is_impossible)  # type: ignore[arg-type]  # checked above


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


def to_id(value: Any, place: str | None) -> Any:
    """An id as a string: a number as Python writes it, and the place for one that is missing."""
    if value is None:
        return place
    return str(value) if type(value) in (int, float) else value


def to_mark(value: Any) -> bool | None:
    """`is_impossible` as true, false or None; ValueError for a spelling that is none of them."""
    mark = None if value is None else MARKS.get(str(value).strip().lower())
    if mark is None and value is not None:
        raise ValueError(f"is_impossible must be true or false, found {short(value)}")
    return mark


def answer_list(record: dict[str, Any], is_impossible: bool | None) -> list[Any]:
    """The answers of a record as a list, from the key that `answers_key` names.

    Where the record is marked as impossible, null and {} can only mean "no answer": they become answers of empty text.
    """
    key = answers_key(record)
    answers = record.get(key)
    if key == "answer" and type(answers) in (int, float):
        answers = str(answers)
    if isinstance(answers, str) and (key == "answer" or (is_impossible and is_empty(answers))):
        answers = {"text": answers} | {name: record[name] for name in STARTS if name in record}
    if isinstance(answers, dict):
        answers = answers_from_columns(answers)
    if not isinstance(answers, (list, type(None))):
        raise ValueError(f"{key} must be a list, found {short(answers)}")
    return [{"text": ""} if is_impossible and answer in (None, {}, []) else answer for answer in answers or []]


def answers_key(record: dict[str, Any]) -> str:
    """Which of the two keys holds the answers: `answer` if there are no `answers`, or if only `answer` is filled."""
    if "answers" not in record:
        return "answer"
    return "answer" if is_empty(record["answers"]) and not is_empty(record.get("answer")) else "answers"


def is_empty(answers: Any) -> bool:
    """Whether one answer, a list of answers or columns of them hold no text. A value of another kind counts as text."""
    for answer in answers if isinstance(answers, list) else [answers]:
        texts = answer["text"] if isinstance(answer, dict) and "text" in answer else answer
        for text in texts if isinstance(texts, list) else [texts]:
            if text not in (None, {}) and not (isinstance(text, str) and not text.strip()):
                return False
    return True


def answers_from_columns(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of {"text": [..], "answer_start": [..]}, as Hugging Face has them; one answer as a list of one."""
    texts = columns.get("text")
    if not isinstance(texts, list):
        return [columns]
    answers: list[dict[str, Any]] = [{"text": text, "answer_start": None} for text in texts]
    for name in STARTS:
        if (starts := columns.get(name)) is None:
            continue
        starts = starts if isinstance(starts, list) else [starts]
        if len(starts) != len(texts):
            found = counted(len(starts), "value")
            raise ValueError(f"answers has {counted(len(texts), 'text')} and {found} of {name}")
        for answer, start in zip(answers, starts):
            answer[name] = start
    return answers


def to_gold(answer: Any, context: str, search: Search, taken: Counter[str]) -> Gold | None:
    """The answer, if the context has its text at its offset; None for an empty text, ValueError for anything else.

    A wrong offset is an error and never corrected. Only outer whitespace may be elsewhere, and where the offset is
    missing (absent, null or -1, and no `start` either), the text must stand in one place only.
    """
    if isinstance(answer, str):
        answer = {"text": answer}
    text = answer.get("text", ...) if isinstance(answer, dict) else ...
    if text is None or (isinstance(text, str) and not text.strip()):
        taken[EMPTY] += 1
        return None
    if type(text) is int:
        text = str(text)
    if not isinstance(text, str):
        raise ValueError(f"an answer's text must be a string, found {short(answer if text is ... else text)}")
    start = start_of(answer)
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


def start_of(answer: dict[str, Any]) -> int | None:
    """The offset of an answer: `answer_start`, or `start`, as annotation tools call it, where that is missing."""
    start = to_start(answer.get("answer_start"))
    if start is None:
        with contextlib.suppress(ValueError):  # a `start` of another meaning, such as a page
            return to_start(answer.get("start"))
    return start


def to_start(value: Any) -> int | None:
    """An `answer_start` as an integer, from a number or digits; None if it is missing (absent, null, empty or -1)."""
    number = value
    if isinstance(value, str):
        is_number = re.fullmatch(r"-?[0-9]{1,15}(\.0*)?", value.strip())
        number = float(value) if is_number else value.strip() or None
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if number is None or number == -1:
        return None
    if type(number) is not int or number < 0:
        raise ValueError(f"answer_start must be a character offset, found {short(value)}")
    return number
